"""What stands in where there is no trained network and there are no photographs: to measure needs neither."""

import io
from typing import Any

import numpy as np
import torch
from PIL import Image

from inception_v3.images.find import ImageSource
from inception_v3.inference.engines.base import Pixels
from inception_v3.weights.model import InceptionV3

# Those of torchvision's network, so that most other programs can hold the same one.
SETTINGS: dict[str, Any] = {"count_padding": True, "batch_norm_scale": True, "global_pool": True}


def generated(count: int, size: tuple[int, int], seed: int = 0) -> Pixels:
    """Soft patches of colour, coarse and fine, pale and bright: pixels (count, H, W, 3)."""
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        cells, contrast, base = rng.integers(2, 48), rng.uniform(0.2, 1), rng.uniform(0, 255, 3)
        coarse = base + contrast * (rng.uniform(0, 255, (cells, cells, 3)) - base)
        image = Image.fromarray(coarse.astype(np.uint8))
        pictures.append(np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC)))
    return np.stack(pictures)


def random_network(pictures: Pixels) -> InceptionV3:
    """Of full width. Its statistics are those of the pictures, and its classes are spread over them, as if trained."""
    generator = torch.random.fork_rng()
    with generator:
        torch.manual_seed(0)
        model = InceptionV3(**SETTINGS, batch_norm_decay=0.0, dropout_keep_prob=1.0, image_size=pictures.shape[1:3])
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if name.endswith("gamma"):
                    tensor.uniform_(0.5, 1.5)
                elif name.endswith("beta"):
                    tensor.normal_(0, 0.1)
            images = model.preprocessing.scale(torch.from_numpy(pictures).permute(0, 3, 1, 2))
            model.to(memory_format=torch.channels_last).train()
            _, found = model(images.contiguous(memory_format=torch.channels_last), ("AvgPool_1a",))
            features = found["AvgPool_1a"].flatten(1)
            classify = model.get_submodule("Logits.Conv2d_1c_1x1")
            weights, biases = classify.get_parameter("weights"), classify.get_parameter("biases")
            weights.normal_()
            spread = (features - features.mean(0)) @ weights.flatten(1).T
            weights.mul_(3 / spread.std())
            biases.copy_(-(weights.flatten(1) @ features.mean(0)))
    return model.to(memory_format=torch.contiguous_format).eval()


def as_files(pictures: Pixels) -> list[ImageSource]:
    """As PNG, in memory."""
    sources = []
    for number, pixels in enumerate(pictures):
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "PNG", compress_level=1)
        sources.append(ImageSource(f"generated picture {number}", content.getvalue()))
    return sources
