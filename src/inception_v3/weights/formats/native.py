"""This project's own file: safetensors with everything needed to use the model again.

The tensors bear the names of `state_dict()`. The metadata says which program wrote the file and holds, as
JSON: `settings` (the options of InceptionV3), `preprocessing`, `class_names`, and `training` (how it came to
be). safetensors keeps tensors apart from code, is checked against the file's size before memory is taken,
and can be mapped instead of read.
"""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.settings import Settings
from inception_v3.support.files import atomic_write
from inception_v3.weights.formats.weights import Weights

if TYPE_CHECKING:
    from inception_v3.weights.model import InceptionV3

NAME = "native"
FORMAT = "inception_v3"  # in the metadata
VERSION = "1"


def recognise(path: Path) -> bool:
    return _metadata(path).get("format") == FORMAT


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as opened:
            return opened.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def read(path: Path) -> Weights:
    """Raises InputError, naming the file: damaged, or written by a newer version."""
    try:
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read ({error}); the file is damaged") from error
    if metadata.get("version") != VERSION:
        raise InputError(f"{path}: written by a newer inception-v3; update this one")
    try:
        options = json.loads(metadata["settings"])
        stored = json.loads(metadata["preprocessing"])
        known = {field.name for field in fields(Preprocessing)}
        if not stored.keys() <= known:
            raise ValueError(f"unknown preprocessing {sorted(stored.keys() - known)}")
        preprocessing = Preprocessing(**{key: _tuple(value) for key, value in stored.items()})
        class_names = json.loads(metadata["class_names"])
        settings = Settings(**{key: _tuple(value) for key, value in options.items()})
        training = dict(json.loads(metadata.get("training", "{}")))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its settings cannot be read ({error}); the file is damaged") from error
    return Weights(tensors, settings, preprocessing, class_names, training)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def differences(model: "InceptionV3") -> list[str]:
    """It holds everything."""
    return []


def write(model: "InceptionV3", path: Path, training: dict[str, Any] | None = None) -> None:
    """Without `training`, what is known of it from where the model was loaded goes on."""
    if training is None and model.origin is not None:
        training = {"origin": model.origin.first} | model.origin.training
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "settings": json.dumps(dict(model.settings)),
        "preprocessing": json.dumps(asdict(model.preprocessing)),
        "class_names": json.dumps(model.class_names),
        "training": json.dumps(training or {}),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata)
