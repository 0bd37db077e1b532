"""timm's inception_v3 (timm/models/inception_v3.py): torchvision's network and names, with its own preprocessing.

Its four sets of weights (tv, tf, tf_adv, gluon) all run with gammas and with the padding counted, even those that
come from TF-Slim. Images are resized bicubic, the shorter side to floor(299 / 0.875) = 341 pixels
(timm/data/transforms_factory.py, transforms_imagenet_eval), and scaled by mean and std 0.5; gluon's by ImageNet's.
The state dict does not record which, but the hub's config.json beside it does (timm/models/_hub.py).
"""

import math
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from safetensors.torch import save_file

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.support.json_values import read_json
from inception_v3.support.system_errors import file_status
from inception_v3.weights.formats import native, torchvision
from inception_v3.weights.formats.base import WritableFormat
from inception_v3.weights.formats.pickled import Instance, PickleError
from inception_v3.weights.formats.state_dict_file import is_pickled, is_safetensors
from inception_v3.weights.formats.torch_file import is_torch_file, open_torch_file
from inception_v3.weights.formats.weights import Weights
from inception_v3.weights.programs.program import Program

CONFIG = "config.json"
PICKLED = (".bin", ".pth", ".pt")
PREPROCESSING = Preprocessing.named("timm")


def recognises(path: Path) -> bool:
    """Whether the file is safetensors by another program, or a pickle by timm or beside its config.json."""
    return (is_safetensors(path) and not native.recognises(path)) or (is_pickled(path) and _config(path) is not None)


def read(path: Path, state: str | None = None) -> Weights:
    """Read the network of a file; see torchvision.read."""
    return torchvision.read(path, state, _preprocessing(path))


def _config(path: Path) -> dict[str, Any] | None:
    """How timm prepares images for a file, by config.json beside it or by the file; None if it is not timm's.

    Raises InputError: config.json cannot be read, or is no JSON object.
    """
    if file_status(path.parent / CONFIG) is not None:
        config = read_json(path.parent / CONFIG, dict)
        if config.get("architecture") == "inception_v3" and isinstance(config.get("pretrained_cfg"), dict):
            return dict(config["pretrained_cfg"])
    return _config_inside(path) if is_torch_file(path) else None


def _config_inside(path: Path) -> dict[str, Any] | None:
    """The options of timm's training script, or the configuration of a whole model of timm; None in other files."""
    try:
        root = open_torch_file(path).root
    except (InputError, PickleError, OSError, BadZipFile):
        return None
    if isinstance(root, dict) and isinstance(root.get("arch"), str) and "version" in root:  # of CheckpointSaver
        found = root.get("args")
    elif isinstance(root, Instance) and root.class_name.startswith("timm."):
        found = root.attributes.get("pretrained_cfg")
    else:
        return None
    options = found.attributes if isinstance(found, Instance) else found
    return {name: value for name, value in options.items() if value} if isinstance(options, dict) else {}


def _preprocessing(path: Path) -> Preprocessing:
    config = _config(path)
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
        file = path.parent / CONFIG if (path.parent / CONFIG).exists() else path
        raise InputError(
            f"{file}: mean, std or crop_pct of pretrained_cfg cannot be used ({error}); correct or remove the file"
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
