"""This project's own format: a safetensors file with everything needed to use the model again.

The tensors have the names of `state_dict()`. The metadata names the format and its version, and holds as JSON:
`settings` (the options of InceptionV3), `preprocessing`, `class_names` and `training`. safetensors holds no code, is
checked against the file's size before memory is allocated, and can be mapped into memory instead of read.
"""

import json
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.settings import Settings
from inception_v3.support.files import atomic_write
from inception_v3.weights.formats.base import WritableFormat
from inception_v3.weights.formats.weights import Weights

METADATA_FORMAT = "inception_v3"  # the value of `format` in the metadata
VERSION = "1"


def recognises(path: Path) -> bool:
    try:
        with safe_open(path, "pt") as opened:
            return (opened.metadata() or {}).get("format") == METADATA_FORMAT
    except (SafetensorError, OSError):
        return False


def read_class_names(path: Path) -> list[str] | None:
    """The class names in a file's metadata, without reading its weights; None if it has none, or another format."""
    with suppress(SafetensorError, OSError, KeyError, ValueError), safe_open(path, "pt") as opened:
        metadata = opened.metadata() or {}
        if metadata.get("format") == METADATA_FORMAT and isinstance(names := json.loads(metadata["class_names"]), list):
            return names
    return None


def read(path: Path) -> Weights:
    """Read a file of this format. Raises InputError, naming the file: damaged, or written by a newer version."""
    try:
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read ({error}); the file is damaged") from error
    if metadata.get("version") != VERSION:
        raise InputError(f"{path}: written by a newer inception-v3; update this one")
    try:
        stored = json.loads(metadata["preprocessing"])
        known = {field.name for field in fields(Preprocessing)}
        if not stored.keys() <= known:
            raise ValueError(f"unknown preprocessing {sorted(stored.keys() - known)}")
        return Weights(
            tensors,
            Settings(**json.loads(metadata["settings"])),
            Preprocessing(**stored),
            json.loads(metadata["class_names"]),
            dict(json.loads(metadata.get("training", "{}"))),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its settings cannot be read ({error}); the file is damaged") from error


def write(weights: Weights, path: Path) -> None:
    metadata = {
        "format": METADATA_FORMAT,
        "version": VERSION,
        "settings": json.dumps(dict(weights.settings)),
        "preprocessing": json.dumps(asdict(weights.preprocessing)),
        "class_names": json.dumps(weights.class_names),
        "training": json.dumps(weights.training),
    }
    tensors = {name: tensor.cpu().contiguous() for name, tensor in weights.tensors.items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata)


FORMAT = WritableFormat(
    name="native",
    recognises=recognises,
    read=read,
    write=write,
    differences=lambda weights: [],
    suffixes=(".safetensors",),
)
