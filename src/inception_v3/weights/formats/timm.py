"""timm's inception_v3 (timm/models/inception_v3.py): torchvision's network and names, its own pictures.

Its four sets of weights (tv, tf, tf_adv, gluon) all run with gammas and with the padding counted, even those that
come from TF-Slim. Pictures are resized bicubic, the shorter side to floor(299 / 0.875) = 341 pixels
(timm/data/transforms_factory.py, transforms_imagenet_eval), and scaled by mean and std 0.5; gluon's by ImageNet's.
The state dict does not tell which, but the hub's config.json beside the file does (timm/models/_hub.py).
"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.support.files import atomic_write
from inception_v3.weights.formats import native, torch_names, torchvision
from inception_v3.weights.formats.weights import Weights

if TYPE_CHECKING:
    from inception_v3.weights.model import InceptionV3

NAME = "timm"
ARCHITECTURE = "inception_v3"
CONFIG = "config.json"
PICKLED = (".bin", ".pth", ".pt")
PREPROCESSING = Preprocessing.named("timm")


def recognise(path: Path) -> bool:
    """safetensors that are not this project's own, or a pickle beside a config.json of timm's inception_v3."""
    shapes = torch_names.peek(path)
    if shapes is None or torch_names.is_graph_of_2015(shapes):
        return False
    if not torch_names.is_safetensors(path):
        return _config(path) is not None
    try:
        with safe_open(path, "pt") as opened:
            return (opened.metadata() or {}).get("format") != native.FORMAT
    except (SafetensorError, OSError):
        return False


def read(path: Path) -> Weights:
    """Raises InputError, naming the file and the variable: damaged, code, or not this network."""
    return torchvision.read_as(path, _preprocessing(path))


def _config(path: Path) -> dict[str, Any] | None:
    """The hub's config.json beside the file, where it is timm's and of this network."""
    try:
        config = json.loads((path.parent / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(config, dict) or config.get("architecture") != ARCHITECTURE:
        return None
    return config if isinstance(config.get("pretrained_cfg"), dict) else None


def _preprocessing(path: Path) -> Preprocessing:
    config = _config(path)
    if config is None:
        return PREPROCESSING
    told = config["pretrained_cfg"]
    try:
        crop = float(told.get("crop_pct", PREPROCESSING.crop_fraction))
        return Preprocessing(
            mean=_three(told.get("mean", PREPROCESSING.mean)),
            std=_three(told.get("std", PREPROCESSING.std)),
            resize=math.floor(PREPROCESSING.image_size[0] / crop),
            interpolation="bilinear" if told.get("interpolation") == "bilinear" else "bicubic",
        )
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise InputError(
            f"{path.parent / CONFIG}: mean, std or crop_pct of pretrained_cfg cannot be used ({error}); correct it, "
            "or take it away"
        ) from error


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def write(model: "InceptionV3", path: Path) -> None:
    """safetensors, as timm and the hub prefer; with torch.save where the path's end makes timm expect that.

    Raises InputError: other widths, a cut network, a full disk.
    """
    tensors = torchvision.held(model, path)
    with atomic_write(path) as temporary:
        if path.suffix in PICKLED:
            torch.save(tensors, temporary)
        else:
            save_file(tensors, temporary, {"format": "pt"})


def differences(model: "InceptionV3") -> list[str]:
    """Why timm would compute other numbers, with its default scaling: the file cannot ask for another."""
    return torchvision.reasons(model, NAME)
