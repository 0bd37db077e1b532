"""The program that wrote a file, and its version, as far as the file states them. Nothing here needs PyTorch."""

import json
import re
import zipfile
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from inception_v3.support.protocol_buffers import read_messages
from inception_v3.weights.formats.kinds import (
    GRAPH_MODEL,
    HDF5,
    KERAS_ZIP,
    LAYERS_MODEL,
    SAFETENSORS,
    SAVED_MODEL,
    TORCH_LEGACY,
    TORCH_ZIP,
)
from inception_v3.weights.formats.torch_file import open_torch_file

MAX_BYTES = 32 << 20  # of a text in a file


def find_writer(path: Path, kind: str) -> str | None:
    """The program that wrote a file of that kind (formats/kinds.py). None: not stated, or it cannot be read."""
    with suppress(Exception):  # a damaged file may raise any error; its format reports the fault
        if kind == KERAS_ZIP:
            return _keras(_json_in_zip(path, "metadata.json").get("keras_version"))
        if kind == HDF5:
            with import_module("h5py").File(path, "r") as file:
                return _keras(file.attrs.get("keras_version"), file.attrs.get("backend"))
        if kind == SAVED_MODEL:
            return _saved_model(path)
        if kind in (LAYERS_MODEL, GRAPH_MODEL):
            return _tensorflowjs(path)
        if kind in (TORCH_ZIP, TORCH_LEGACY):
            return _torch(open_torch_file(path).root)
        if kind == SAFETENSORS:
            return _safetensors(read_header(path).get("__metadata__", {}))
    return None


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file. Raises ValueError or OSError: damaged, or cannot be read."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > path.stat().st_size:
            raise ValueError("its header is longer than the file; it is truncated")
        header = json.loads(file.read(size))
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    return header


def _keras(version: Any, backend: Any = None) -> str | None:
    text = version.decode() if isinstance(version, bytes) else version
    name = backend.decode() if isinstance(backend, bytes) else backend
    return f"Keras {text}{f' on {name}' if name else ''}" if text else None


def _json_in_zip(path: Path, name: str) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        content = archive.read(name) if archive.getinfo(name).file_size < MAX_BYTES else b"{}"
    return dict(json.loads(content))


def _tensorflowjs(path: Path) -> str | None:
    model = json.loads(path.read_bytes()[:MAX_BYTES])
    topology = model.get("modelTopology") or {}
    parts = [model.get("generatedBy") or _keras(topology.get("keras_version"), topology.get("backend"))]
    parts += [f"converted by {model['convertedBy']}"] if model.get("convertedBy") else []
    return ", ".join(filter(None, parts)) or None


def _saved_model(path: Path) -> str | None:
    """The versions of Keras, if it stores its configuration beside the file, and of TensorFlow."""
    with path.open("rb") as file:
        graph = next(read_messages(memoryview(file.read(MAX_BYTES)), 2))
    version = next(read_messages(next(read_messages(graph, 1)), 5))  # MetaInfoDef.tensorflow_version
    metadata = path.with_name("keras_metadata.pb")
    content = metadata.read_bytes()[:MAX_BYTES] if metadata.exists() else b""
    keras = re.search(rb'"keras_version": ?"([^"]+)"', content)
    return ", ".join(filter(None, [_keras(keras and keras[1]), f"TensorFlow {bytes(version).decode()}"]))


def _torch(root: Any) -> str | None:
    if not isinstance(root, dict):
        return None
    if isinstance(version := root.get("pytorch-lightning_version"), str):
        return f"Lightning {version}"
    if isinstance(root.get("arch"), str) and "version" in root:
        return "timm's training script"
    return None


def _safetensors(metadata: dict[str, Any]) -> str | None:
    if metadata.get("format") == "inception_v3":
        return f"inception-v3, version {metadata.get('version')} of its format"
    programs = {"pt": "PyTorch", "tf": "TensorFlow", "flax": "Flax", "np": "NumPy"}
    return programs.get(str(metadata.get("format")))
