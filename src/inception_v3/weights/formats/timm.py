"""timm's inception_v3 (timm/models/inception_v3.py): torchvision's network and names, with its own preprocessing.

Its four sets of weights (tv, tf, tf_adv, gluon) all run with gammas and with the padding counted, even those that
come from TF-Slim. Images are resized bicubic, the shorter side to floor(299 / 0.875) = 341 pixels
(timm/data/transforms_factory.py, transforms_imagenet_eval), and scaled by mean and std 0.5; gluon's by ImageNet's.
The state dict does not record which, but the hub's config.json beside it does (timm/models/_hub.py).
"""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.weights.formats import native, torchvision
from inception_v3.weights.formats.base import WritableFormat
from inception_v3.weights.formats.torch_file import is_torch_file
from inception_v3.weights.formats.torch_network import has_networks
from inception_v3.weights.formats.weights import Weights
from inception_v3.weights.programs.program import Program

CONFIG = "config.json"
PICKLED = (".bin", ".pth", ".pt")
PREPROCESSING = Preprocessing.named("timm")


def recognises(path: Path) -> bool:
    """Whether the file is safetensors by another program, or a pickle beside timm's config.json of this network."""
    if not has_networks(path) or native.recognises(path):
        return False
    return not is_torch_file(path) or _pretrained_cfg(path) is not None


def read(path: Path, state: str | None = None) -> Weights:
    """Read the network of a file; see torchvision.read."""
    return torchvision.read(path, state, _preprocessing(path))


def _pretrained_cfg(path: Path) -> dict[str, Any] | None:
    """`pretrained_cfg` of the config.json beside the file, if there is one of timm's for this network."""
    try:
        config = json.loads((path.parent / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    of_timm = isinstance(config, dict) and config.get("architecture") == "inception_v3"
    return config["pretrained_cfg"] if of_timm and isinstance(config.get("pretrained_cfg"), dict) else None


def _preprocessing(path: Path) -> Preprocessing:
    config = _pretrained_cfg(path)
    if config is None:
        return PREPROCESSING
    try:
        crop = float(config.get("crop_pct", PREPROCESSING.crop_fraction))
        return Preprocessing(
            mean=_three_floats(config.get("mean", PREPROCESSING.mean)),
            std=_three_floats(config.get("std", PREPROCESSING.std)),
            resize=math.floor(PREPROCESSING.image_size[0] / crop),
            interpolation="bilinear" if config.get("interpolation") == "bilinear" else "bicubic",
        )
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise InputError(
            f"{path.parent / CONFIG}: mean, std or crop_pct of pretrained_cfg cannot be used ({error}); correct or "
            "remove the file"
        ) from error


def _three_floats(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def write(weights: Weights, path: Path) -> None:
    """Write safetensors, as timm and the hub prefer; or with torch.save if timm expects that from the suffix.

    Raises InputError: other widths, a cut network, a full disk.
    """
    if path.suffix in PICKLED:
        torchvision.write(weights, path)
        return
    aux = torchvision.can_hold_aux(weights)
    torchvision.save(path, weights, aux, partial(save_file, metadata={"format": "pt"}))


FORMAT = WritableFormat(
    name="timm",
    recognises=recognises,
    read=read,
    read_state=read,
    write=write,
    differences=torchvision.differences,
    suffixes=(".bin",),
    required_suffixes=(".safetensors", *PICKLED),
    program=Program("timm"),
)
