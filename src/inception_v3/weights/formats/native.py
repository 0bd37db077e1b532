"""This project's own format: a safetensors file with everything needed to use the model again.

The tensors have the names of `state_dict()`. The metadata names the format and its version, and holds as JSON:
`settings` (the options of InceptionV3), `preprocessing`, `class_names` and `training`, and a checksum of the tensors.
safetensors holds no code, is checked against the file's size before memory is allocated, and can be mapped into memory
instead of read.
"""

import json
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.settings import Settings
from inception_v3.support.files import atomic_write, path_for_library
from inception_v3.support.json_values import check_type, parse_json
from inception_v3.support.system_errors import read_error
from inception_v3.weights.formats.base import WritableFormat
from inception_v3.weights.formats.weights import Weights

METADATA_FORMAT = "inception_v3"  # the value of `format` in the metadata
VERSION = "2"
READABLE_VERSIONS = ("1", VERSION)  # version 1 had no checksum
# The types of the facts about a training that this package reads again; others may have any type.
TRAINING: dict[str, Any] = {
    "origin": str,
    "epochs": float,
    "base": dict[str, str | None] | None,
    "data": dict[str, str | int | bool | None],
    "results": dict[str, Any] | None,
    "folds": dict[str, Any] | None,
}


def recognises(path: Path) -> bool:
    try:
        with path_for_library(path) as name, safe_open(name, "pt") as opened:
            return (opened.metadata() or {}).get("format") == METADATA_FORMAT
    except (SafetensorError, OSError):
        return False


def read_class_names(path: Path) -> list[str] | None:
    """The class names in a file's metadata, without reading its weights; None if it has none, or another format."""
    with suppress(SafetensorError, OSError, KeyError, ValueError), path_for_library(path) as name:
        with safe_open(name, "pt") as opened:
            metadata = opened.metadata() or {}
        names = json.loads(metadata["class_names"])
        if metadata.get("format") == METADATA_FORMAT and isinstance(names, list):
            return names
    return None


def read(path: Path) -> Weights:
    """Read a file of this format. Raises InputError, naming the file: damaged, or written by a newer version."""
    try:
        with path_for_library(path) as name, safe_open(name, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except OSError as error:
        raise read_error(path, error) from error
    except SafetensorError as error:
        raise InputError(f"{path}: cannot be read ({error}); the file is damaged") from error
    if metadata.get("version") not in READABLE_VERSIONS:
        raise InputError(f"{path}: written by a newer inception-v3; update this one")
    if metadata["version"] == VERSION and metadata.get("checksum") != tensor_checksum(tensors):
        raise InputError(f"{path}: its tensors are not those that were saved; the file is damaged, copy it again")
    try:
        training = parse_json(metadata.get("training", "{}"), dict)
        for name in TRAINING.keys() & training:
            check_type(training[name], TRAINING[name], name)
        return Weights(
            tensors,
            parse_json(metadata["settings"], Settings),
            parse_json(metadata["preprocessing"], Preprocessing),
            parse_json(metadata["class_names"], list[str] | None),
            training,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its settings cannot be read ({error}); the file is damaged") from error


def write(weights: Weights, path: Path) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.tensors.items()}
    metadata = {
        "format": METADATA_FORMAT,
        "version": VERSION,
        "settings": json.dumps(dict(weights.settings)),
        "preprocessing": json.dumps(asdict(weights.preprocessing)),
        "class_names": json.dumps(weights.class_names),
        "training": json.dumps(weights.training),
        "checksum": tensor_checksum(tensors),
    }
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata)


def tensor_checksum(tensors: Mapping[str, Tensor]) -> str:
    """The CRC-32 of the names, dtypes, shapes and values of contiguous tensors: 0.04 s for a whole network."""
    total = 0
    for name, tensor in sorted(tensors.items()):
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        total = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data, total)
    return f"crc32:{total:08x}"


FORMAT = WritableFormat(
    name="native",
    recognises=recognises,
    read=read,
    write=write,
    differences=lambda weights: [],
    suffixes=(".safetensors",),
)
