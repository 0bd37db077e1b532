"""TensorFlow.js layers models: `model.json` with the layers, and files beside it, the shards, with the weights.

The layers are a configuration of Keras 2 (keras_network.py reads it). `weightsManifest` lists the weights: the shards
of a group, joined, hold its tensors one after the other, as float32, or quantised to float16, uint8 or uint16. Nothing
is read from outside the folder, and sizes are checked before memory is allocated.
"""

import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.settings import Settings
from inception_v3.support.files import atomic_write
from inception_v3.support.text import one_line
from inception_v3.weights.facts import names_in
from inception_v3.weights.formats.base import WritableFormat
from inception_v3.weights.formats.keras_config import (
    MAX_BYTES,
    ConfigurationError,
    KerasLayer,
    Shapes,
    check_type,
    find_by_name,
    pair_variables,
    parse,
    read_graph,
)
from inception_v3.weights.formats.keras_network import SETTINGS, read_network, report_notes
from inception_v3.weights.formats.keras_topology import build
from inception_v3.weights.formats.weights import Weights, differences_from
from inception_v3.weights.programs.node import NodeProgram

FILE = "model.json"
METADATA = "inception_v3"  # in userDefinedMetadata, which TensorFlow.js keeps for its users
SHARD_BYTES = 4 << 20  # as TensorFlow.js's converter
DTYPES = {name: np.dtype(name).newbyteorder("<") for name in ("float32", "float16", "int32", "uint8", "uint16", "bool")}
MODEL_KEYS = (
    "format", "generatedBy", "convertedBy", "modelTopology", "weightsManifest", "trainingConfig",
    "userDefinedMetadata", "signature", "modelInitializer", "initializerSignature",
)  # fmt: skip
KEYS = (b'"modelTopology"', b'"weightsManifest"')
GRAPH_MODEL = (
    "a TensorFlow.js graph model, which holds TensorFlow's operations and no layers; convert the original Keras model "
    "again with `tensorflowjs_converter --output_format=tfjs_layers_model`, or give the Keras model itself"
)


@dataclass(frozen=True)
class _Tensor:
    """A tensor of the manifest: its shards, where it starts in them, and how it is stored."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    quantisation: dict[str, Any] | None
    shards: tuple[Path, ...]
    offset: int

    @property
    def bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def recognises(path: Path) -> bool:
    """Whether the path is a model.json of TensorFlow.js, or a folder with one."""
    try:
        with _model_file(path).open("rb") as file:
            start = file.read(64)
            content = start + file.read(MAX_BYTES) if start.lstrip().startswith(b"{") else b""
        return any(key in content for key in KEYS)
    except OSError:
        return False


def read(path: Path) -> Weights:
    """Read a model.json, or the folder that holds it. Warns of everything that is assumed.

    Raises InputError, naming the file: damaged, a shard missing, a graph model, not Inception V3, or a layer that
    cannot be computed here.
    """
    file = _model_file(path)
    try:
        with file.open("rb") as opened:
            model = parse(opened.read(MAX_BYTES + 1))
        topology = check_type(model.get("modelTopology"), dict, "its modelTopology")
        if model.get("format") == "graph-model" or "node" in topology:
            raise ConfigurationError(GRAPH_MODEL)
        config = check_type(topology.get("model_config", topology), dict, "its model_config")
        tensors = _tensors(file.parent, model)
        compiled = topology.get("training_config")
        loss = compiled.get("loss") if isinstance(compiled, dict) else None
        settings, preprocessing, class_names, unknown = _stated(model)
        weights, notes = read_network(
            read_graph(config),
            lambda layer, shapes: list(_read_variables(tensors, layer, shapes)),
            loss,
            settings,
            preprocessing,
        )
    except ConfigurationError as error:
        raise InputError(f"{file}: {one_line(error, 1000)}") from error
    except OSError as error:
        raise InputError(
            f"{one_line(error.filename or file, 300)}: cannot be read ({error.strerror or error}); check the path"
        ) from error
    if unknown:
        notes.append(f"it states {', '.join(map(one_line, unknown[:8]))}, which is not understood and not used")
    weights = replace(weights, assumed=report_notes(file, notes))
    if class_names is None:
        return weights
    if len(class_names) != (count := weights.settings.class_count):
        warnings.warn(f"{file}: its {len(class_names)} class names are not used: it has {count} classes", stacklevel=2)
        return weights
    return replace(weights, class_names=class_names)


def _model_file(path: Path) -> Path:
    return path / FILE if path.is_dir() else path


def _tensors(folder: Path, model: dict[str, Any]) -> dict[str, _Tensor]:
    """The tensors of the manifest by name. Raises ConfigurationError: a shard is missing, or has another size."""
    tensors: dict[str, _Tensor] = {}
    for group in check_type(model.get("weightsManifest"), list, "its weightsManifest"):
        check_type(group, dict, "a group of its weightsManifest")
        shards = tuple(_shards(folder, check_type(group.get("paths"), list, "the paths of its weights")))
        offset = 0
        for entry in check_type(group.get("weights"), list, "a list of its weights"):
            tensor = _tensor(check_type(entry, dict, "a weight of its manifest"), shards, offset)
            if tensor.name in tensors:
                raise ConfigurationError(
                    f"two of its weights are called {one_line(tensor.name)!r}; the file is damaged"
                )
            tensors[tensor.name] = tensor
            offset += tensor.bytes
        size = sum(shard.stat().st_size for shard in shards)
        if size != offset:
            names = f"{shards[0].name} to {shards[-1].name}" if len(shards) > 1 else ", ".join(s.name for s in shards)
            raise ConfigurationError(
                f"its weights have {offset} bytes, but {one_line(names) or 'no shard'} {size}; download the files again"
            )
    return tensors


def _shards(folder: Path, paths: list[Any]) -> Iterator[Path]:
    for name in paths:
        path = PurePosixPath(check_type(name, str, "the path of a shard"))
        if path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive or "\\" in name or "\0" in name:
            raise ConfigurationError(f"its shard {one_line(name)!r} is outside of its folder, and is not read")
        if not (folder / path).is_file():
            raise ConfigurationError(f"its shard {one_line(name)!r} is missing; put it beside {FILE}")
        yield folder / path


def _tensor(entry: dict[str, Any], shards: tuple[Path, ...], offset: int) -> _Tensor:
    name = check_type(entry.get("name"), str, "the name of a weight")
    shape = check_type(entry.get("shape"), list, f"the shape of {one_line(name)}")
    if any(type(length) is not int or not 0 <= length < 2**40 for length in shape):
        raise ConfigurationError(f"{one_line(name)} has the shape {one_line(shape)}; the file is damaged")
    quantisation = entry.get("quantization")
    if quantisation is not None:
        check_type(quantisation, dict, f"the quantization of {one_line(name)}")
    stored = (quantisation or entry).get("dtype")
    if not isinstance(stored, str) or stored not in DTYPES:
        raise ConfigurationError(f"{one_line(name)} has the type {one_line(stored)}, not {', '.join(DTYPES)}")
    return _Tensor(name, tuple(shape), DTYPES[stored], quantisation, shards, offset)


def _read_variables(tensors: dict[str, _Tensor], layer: KerasLayer, shapes: Shapes) -> Iterator[np.ndarray]:
    """The values of a layer's variables, once their shapes are checked."""
    found = {variable: tensors[name] for variable, name in find_by_name(layer, tensors).items()}
    for tensor, expected in pair_variables(layer, found, shapes):
        name = one_line(tensor.name)
        if tensor.shape != expected:
            raise ConfigurationError(
                f"{name} has shape {one_line(tensor.shape)}, but {layer} has {expected}; the file is damaged"
            )
        values = _read_values(tensor)
        if not np.isfinite(values).all():
            raise ConfigurationError(f"{name} holds NaN or infinity; use an undamaged file")
        yield values


def _read_values(tensor: _Tensor) -> np.ndarray:
    """Values as float32. Quantised integers stand for stored * scale + min, which TensorFlow.js computes in float64."""
    values = np.frombuffer(_read_bytes(tensor), tensor.dtype).reshape(tensor.shape)
    if tensor.dtype.kind in "iub":
        quantisation = tensor.quantisation or {}
        scale, minimum = quantisation.get("scale"), quantisation.get("min")
        if not isinstance(scale, int | float) or not isinstance(minimum, int | float):
            raise ConfigurationError(f"{one_line(tensor.name)} holds {tensor.dtype} without a scale and a min")
        values = values.astype(np.float64) * scale + minimum
    return values.astype(np.float32)


def _read_bytes(tensor: _Tensor) -> bytes:
    """The bytes of a tensor, which may begin in one shard and end in another."""
    content, start, end = bytearray(), tensor.offset, tensor.offset + tensor.bytes
    edges = [0]
    for shard in tensor.shards:
        edges.append(edges[-1] + shard.stat().st_size)
    for shard, (first, last) in zip(tensor.shards, pairwise(edges), strict=True):
        if first < end and last > start:
            with shard.open("rb") as file:
                file.seek(max(start - first, 0), os.SEEK_SET)
                content += file.read(min(end, last) - max(start, first))
    if len(content) != tensor.bytes:
        raise ConfigurationError(f"the shards end before {one_line(tensor.name)}; download the files again")
    return bytes(content)


def _stated(model: dict[str, Any]) -> tuple[Settings, Preprocessing | None, list[str] | None, list[str]]:
    """What this package stores beside the layers. In files of other programs: Keras's settings and class names.

    The last is the names of what is not understood.
    """
    metadata = model.get("userDefinedMetadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    stated = metadata.get(METADATA)
    unknown = [name for name in model if name not in MODEL_KEYS]
    if stated is None:
        names = {name: names_in(value) for name, value in metadata.items()}
        known = next((each for each in names.values() if each), None)
        return SETTINGS, None, known, [*unknown, *(name for name, each in names.items() if not each)]
    try:
        names = stated["class_names"]
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError("class names that are no list of texts")
        return Settings(**stated["settings"]), Preprocessing(**stated["preprocessing"]), names, unknown
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"its userDefinedMetadata cannot be used ({one_line(error)}); remove it") from error


# ------------------------------------------------------------------------------------------------- writing


def differences(weights: Weights) -> list[str]:
    """List the reasons why TensorFlow.js would compute other outputs. Its average pools leave the padding out."""
    settings = replace(weights.settings, hidden_units=(), hidden_activation="relu", batch_norm_epsilon=0.001)
    plain = replace(weights, settings=settings, preprocessing=Preprocessing())
    return differences_from(plain, count_padding=False, fixed_widths=False, can_end_at=weights.settings.final_endpoint)


def write(weights: Weights, path: Path) -> None:
    """Write a layers model: the file, and shards of 4 MB beside it, as float32.

    The model takes images in [-1, 1], or pixels from 0 to 255 if the network has another mean and std: a Rescaling
    applies them. The auxiliary head is left out.
    Raises InputError: the files cannot be written.
    """
    topology = build(weights)
    entries, content = [], bytearray()
    for layer, variables in topology.variables.items():
        for name, array in variables.items():
            entries.append({"name": f"{layer}/{name}", "shape": list(array.shape), "dtype": "float32"})
            content += array.astype("<f4").tobytes()
    count = -(-len(content) // SHARD_BYTES)
    names = [f"{path.stem}-shard{number}of{count}.bin" for number in range(1, count + 1)]
    model = {
        "format": "layers-model",
        "generatedBy": "inception-v3",
        "convertedBy": None,
        "modelTopology": {"keras_version": "2.15.0", "backend": "tensorflow", "model_config": topology.config()},
        "weightsManifest": [{"paths": names, "weights": entries}],
        "userDefinedMetadata": {
            METADATA: {
                "settings": dict(weights.settings),
                "preprocessing": asdict(weights.preprocessing),
                "class_names": weights.class_names,
            }
        },
    }
    for number, name in enumerate(names):
        with atomic_write(path.with_name(name)) as temporary:
            temporary.write_bytes(content[number * SHARD_BYTES : (number + 1) * SHARD_BYTES])
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(model))


FORMAT = WritableFormat(
    name="tensorflowjs",
    recognises=recognises,
    read=read,
    write=write,
    differences=differences,
    suffixes=(".json",),
    required_suffixes=(".json",),
    rescales=True,
    program=NodeProgram("@tensorflow/tfjs", "tensorflowjs.mjs"),
)
