"""Entry points for torch.hub.

>>> model = torch.hub.load("OWNER/inception-v3", "inception_v3", weights="torchvision:IMAGENET1K_V1")

The package is imported from this clone, whether it is installed or not. The `dependencies` must be installed.
"""

import sys as _sys
from pathlib import Path as _Path

dependencies = ["torch", "torchvision", "numpy", "PIL", "safetensors", "huggingface_hub", "rich", "google_crc32c"]

# It stays on the path, because the worker processes of a DataLoader need it too.
_source = str(_Path(__file__).parent / "src")
if _source not in _sys.path:
    _sys.path.insert(0, _source)

import inception_v3 as _package  # noqa: E402


def inception_v3(weights: str | None = None, **options: object) -> "_package.InceptionV3":
    """Inception V3 with random weights for training, or with the weights of a published name or a file.

    Args:
        weights: a published name (torchvision:IMAGENET1K_V1, timm:inception_v3.tf_adv_in1k, slim:2016_08_28,
            keras:imagenet, fid:2015-12-05, hf:owner/name and others), a run folder, or a file of any format.
        options: options of InceptionV3, such as num_classes. With weights also those of inception_v3.load, such as
            device.

    Returns:
        The model. `logits, end_points = model(images)` takes floats (N, 3, H, W), which `model.preprocess` computes
        from images.
    """
    if weights is None:
        return _package.InceptionV3(**options)
    return _package.load(weights, **options)


def fid_2015(**options: object) -> "_package.InceptionV3":
    """The Inception network of 2015 that defines FID, with its weights. Options are those of inception_v3.load."""
    return _package.load("fid:2015-12-05", **options)
