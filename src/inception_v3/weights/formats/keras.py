"""Keras's files: `.keras` and whole-model `.h5` with any head (read only), `.weights.h5` and legacy weights `.h5`.

A whole model is read by its configuration (keras_network.py). Files of weights have none. Keras numbers layers in the
order of their creation, which is the architecture table's order. It does not restart at 0 for a second model in the
same process, so `conv2d_94` may be the first. Its files hold the layers in another order, sorted by their distance from
the output. Keras matches variables by that order and never by name, and so does this module: it sorts the layers of the
table as Keras sorts them (keras/src/ops/function.py, map_graph).

HDF5 files can point to other files and declare tensors of any size. This module refuses links, external and virtual
data, and checks every shape before it reads values. It never builds an object from a stored configuration.
"""

import json
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from io import BytesIO
from itertools import count, takewhile
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.architecture import BASE, Conv, Layer, Mixed, OutputActivation
from inception_v3.network.settings import Settings
from inception_v3.support.files import atomic_write
from inception_v3.support.packages import require_packages
from inception_v3.support.text import one_line
from inception_v3.weights.formats.base import WritableFormat
from inception_v3.weights.formats.keras_config import (
    MAX_BYTES,
    MAX_LAYERS,
    ConfigurationError,
    KerasLayer,
    Shapes,
    find_by_name,
    pair_variables,
    parse,
    read_graph,
)
from inception_v3.weights.formats.keras_network import (
    KERAS,
    NO_ACTIVATION,
    NO_SIZE,
    assumed_preprocessing,
    read_network,
    report_notes,
)
from inception_v3.weights.formats.keras_topology import Topology, build
from inception_v3.weights.formats.kinds import HDF5_SIGNATURE
from inception_v3.weights.formats.tensorflow_checkpoint import BFLOAT16, to_native
from inception_v3.weights.formats.weights import (
    Weights,
    convolutions,
    default_class_names,
    differences_from,
    fold_gamma,
    numbered,
    state_name,
    to_torch,
)
from inception_v3.weights.programs.program import Program

WEIGHTS_IN_ZIP, CONFIG_IN_ZIP = "model.weights.h5", "config.json"
KERAS_2_CONTAINER = "_layer_checkpoint_dependencies"  # the name of `layers` in the files of Keras 2.12
LAST = BASE[-1].name  # the end of a network saved with include_top=False
MAX_VARIABLES = 4  # of a layer; a model inside another has more
IMAGENET_CLASSES = 1000
ANY = -1  # in a shape: the number of classes
MIB = 1 << 20

# The variables of each class of Keras layer in the order of Keras's files, with their names in `state_dict()`.
VARIABLES = {
    "conv2d": {"kernel": "weights"},
    "batch_normalization": {
        "beta": "BatchNorm.beta",
        "moving_mean": "BatchNorm.moving_mean",
        "moving_variance": "BatchNorm.moving_variance",
    },
    "dense": {"kernel": "weights", "bias": "biases"},
}
# The exceptions that h5py and zipfile raise for damaged files: libhdf5's errors arrive as almost any class.
DAMAGE = (
    OSError,
    ValueError,
    RuntimeError,
    TypeError,
    MemoryError,
    EOFError,
    ArithmeticError,
    AttributeError,
    LookupError,
    zipfile.BadZipFile,
    zlib.error,
)


class _ContentError(Exception):
    """A fault in a file's content; `read` adds the name of the file."""


# ------------------------------------------------------------------------------------------- Keras's layers


@dataclass(frozen=True)
class _KerasLayer:
    """A Keras layer with variables: its class, its index in the order of creation, and the table's layer."""

    kind: str
    index: int
    layer: Layer

    def __str__(self) -> str:
        return f"{self.kind} number {self.index + 1} ({self.layer.name})"

    @property
    def name(self) -> str:
        """Keras's name for it in the first model of a process."""
        return "predictions" if self.kind == "dense" else numbered(self.kind, self.index)

    def variables(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Map Keras's name of each variable to the name in `state_dict()` and the shape in Keras."""
        dense = self.kind == "dense"
        out = ANY if dense else self.layer.out_channels
        kernel = (*(() if dense else self.layer.kernel), self.layer.in_channels, out)
        return {
            name: (f"{state_name(self.layer)}.{ours}", kernel if name == "kernel" else (out,))
            for name, ours in VARIABLES[self.kind].items()
        }


@cache
def ordered_layers() -> list[_KerasLayer]:
    """The layers with variables in the order of Keras's `model.layers`; the head is the last.

    Keras sorts layers by their longest path to the output, and layers with equal paths by branch.
    """
    layers = convolutions(create_aux_logits=False)
    indices = {layer.name: index for index, layer in enumerate(layers)}
    ordered: list[_KerasLayer] = []
    for node in BASE:
        branches = node.named_branches if isinstance(node, Mixed) else [("", (node,))]
        distances: dict[_KerasLayer, int] = {}  # to the end of the module
        for name, steps in branches:
            scope = f"{node.name}/{name}/" if name else ""
            distance = 0
            for step in reversed(steps):
                tables = step if isinstance(step, tuple) else (step,)
                distance += len(tables) > 1  # the layer that joins them
                for table in tables:
                    if isinstance(table, Conv):  # followed by BatchNorm and ReLU
                        index = indices[scope + table.name]
                        distances[_KerasLayer("batch_normalization", index, layers[index])] = distance + 1
                        distances[_KerasLayer("conv2d", index, layers[index])] = distance + 2
                distance += 3 if isinstance(tables[0], Conv) else 1
        ordered += sorted(distances, key=distances.__getitem__, reverse=True)
    return [*ordered, _KerasLayer("dense", 0, layers[-1])]


def _groups() -> dict[str, _KerasLayer]:
    """Map Keras 3's names below `layers/` to layers. Each class is numbered from 0, in the order of `model.layers`."""
    numbers: defaultdict[str, count[int]] = defaultdict(count)
    return {numbered(layer.kind, next(numbers[layer.kind])): layer for layer in ordered_layers()}


# ------------------------------------------------------------------------------------------------- reading


def recognises(path: Path) -> bool:
    """Whether the file is a zip with Keras's members, HDF5 with Keras's groups, or HDF5 that cannot be opened."""
    try:
        if not _is_hdf5(path):
            with zipfile.ZipFile(path) as archive:
                return {WEIGHTS_IN_ZIP, CONFIG_IN_ZIP} <= set(archive.namelist())
    except DAMAGE:
        return False
    try:
        with import_module("h5py").File(path, "r") as file:
            return "layers" in file or KERAS_2_CONTAINER in file or _legacy_group(file) is not None
    except (ImportError, _ContentError, *DAMAGE):
        return True  # no other format here is HDF5; `read` reports the fault


def read(path: Path) -> Weights:
    """Read one of Keras's files. Warns of everything that the file does not state and that is assumed.

    Raises InputError, naming the file and the variable or layer: damaged, not Inception V3, a layer that cannot be
    computed here, or h5py is missing.
    """
    h5py = _import_h5py(path)
    try:
        text = None if _is_hdf5(path) else _member(path, CONFIG_IN_ZIP, MAX_BYTES)
        source = path if text is None else BytesIO(_member(path, WEIGHTS_IN_ZIP, 4 * path.stat().st_size))
        with h5py.File(source, "r") as file:
            config = file.attrs.get("model_config") if text is None else text
            weights, notes = _read_weights(file) if config is None else _read_model(file, parse(config))
    except (_ContentError, ConfigurationError) as error:
        raise InputError(f"{path}: {one_line(error, 1000)}") from error
    except DAMAGE as error:
        raise InputError(
            f"{path}: cannot be read ({one_line(error)}); check the path, and download or save the file again if "
            "it is damaged"
        ) from error
    return replace(weights, assumed=report_notes(path, notes))


def _read_model(file: Any, config: dict[str, Any]) -> tuple[Weights, list[str]]:
    """A model with its configuration."""
    compiled = config.get("compile_config") or parse(file.attrs.get("training_config", "{}"))
    legacy = _legacy_group(file)
    loss = compiled.get("loss") if isinstance(compiled, dict) else None

    def variables(layer: KerasLayer, shapes: Shapes) -> list[np.ndarray]:
        found = _find_by_class(file, layer) if legacy is None else _find_by_name(legacy, layer)
        return list(_read_variables(layer, found, shapes))

    return read_network(read_graph(config), variables, loss)


def _find_by_class(file: Any, layer: KerasLayer) -> dict[str, Any]:
    """The datasets of a layer in a file of Keras 3, or in one that Keras 2 wrote in that form, by their numbers."""
    group = file
    for name in layer.group.split("/"):
        if name == "layers" and KERAS_2_CONTAINER in group:
            group = _child(group, KERAS_2_CONTAINER)
        elif group.name.endswith(KERAS_2_CONTAINER):  # it counts layers with variables twice
            kind, index = re.fullmatch(r"(.*?)(?:_(\d+))?", name).groups("0")  # type: ignore[union-attr]
            names = _ranked(kind, _members(group))
            group = _child(group, names[int(index)] if int(index) < len(names) else name)
        else:
            group = _child(group, name)
    group = _child(group, "vars")
    return {key: _child(group, key) for key in sorted(_members(group), key=lambda key: (len(key), key))}


def _find_by_name(legacy: Any, layer: KerasLayer) -> dict[str, Any]:
    """The datasets of a layer in a legacy file, which has a group for each layer of the outermost model."""
    group = _child(legacy, layer.names[0])
    names = _strings(group, "weight_names")
    is_inside = len(layer.names) > 1
    found = (
        find_by_name(layer, names) if is_inside else {name.split("/")[-1].removesuffix(":0"): name for name in names}
    )
    return {variable: _child(group, name) for variable, name in found.items()}


def _read_variables(layer: KerasLayer, found: dict[str, Any], shapes: Shapes) -> Iterator[np.ndarray]:
    """The values of a layer's datasets, once their shapes are checked."""
    for dataset, expected in pair_variables(layer, found, shapes):
        if (shape := getattr(dataset, "shape", None)) != expected:
            raise _ContentError(f"{dataset.name} has shape {shape}, but {layer} has {expected}; the file is damaged")
        yield _read_array(dataset)


def _read_weights(file: Any) -> tuple[Weights, list[str]]:
    """Weights without a configuration: Keras's own network, or its base inside another model with one Dense layer."""
    legacy = _legacy_group(file)
    layers = list(_layers_by_order(legacy) if legacy is not None else _layers_by_class(file))
    arrays = {name: array for layer in layers for name, array in _read_layer(*layer).items()}
    return weights_without_configuration(arrays, is_nested=len({name.rpartition("/")[0] for _, name, _ in layers}) > 1)


def weights_without_configuration(arrays: dict[str, np.ndarray], is_nested: bool) -> tuple[Weights, list[str]]:
    """The network that has these variables, in Keras's layout, and a line for everything that is assumed.

    `is_nested` is whether the variables are those of several models, one inside another.
    """
    notes: list[str] = []
    preprocessing = assumed_preprocessing(arrays, notes)
    notes.append(f"{NO_SIZE}; 299x299 is assumed; --image-size replaces it")
    settings = Settings(create_aux_logits=False, global_pool=True)
    bias = arrays.get(f"{state_name(ordered_layers()[-1].layer)}.biases")
    if bias is None:
        settings = replace(settings, final_endpoint=LAST)
    else:
        activation: OutputActivation = "softmax" if len(bias) > 1 else "sigmoid"
        settings = replace(settings, num_classes=len(bias), output_activation=activation)
        assumed = f"{activation} is assumed (--output replaces this)"
        notes.append(f"{NO_ACTIVATION}activation is not in a file of weights: {assumed}")
        if is_nested:
            notes.append("it holds weights only; average pooling is assumed")
    if not is_nested and preprocessing == KERAS and (bias is None or len(bias) == IMAGENET_CLASSES):
        notes = []  # Keras's own network
    names = default_class_names(settings.num_classes) if bias is not None else None
    tensors = {name: to_torch(array) for name, array in arrays.items()}
    return Weights(tensors, settings, preprocessing, names), notes


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE


def _import_h5py(path: Path) -> Any:
    require_packages(("h5py",), f"{path}: a file of Keras", "keras")
    return import_module("h5py")


def _member(path: Path, name: str, limit: int) -> bytes:
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(name)
        if member.file_size > limit:  # Keras does not compress, and floats hardly shrink
            raise _ContentError(f"{name} in it declares {member.file_size} bytes; the file is damaged")
        return archive.read(member)  # reading all of it verifies the checksum


def _legacy_group(file: Any) -> Any:
    """The group with the layers of a legacy file; `model_weights` in a whole model, and None in a Keras 3 file."""
    if "model_weights" in file:
        file = _child(file, "model_weights")
    return file if "layer_names" in file.attrs or "layer_names0" in file.attrs else None


LayerInFile = tuple[_KerasLayer, str, list[Any]]  # with its name in the file, and its datasets


def _layers_by_order(group: Any) -> Iterator[LayerInFile]:
    """The layers of a legacy file."""
    names = {name: _strings(_child(group, name), "weight_names") for name in _strings(group, "layer_names")}
    names = {name: variables for name, variables in names.items() if variables}
    nested = [name for name, variables in names.items() if len(variables) > MAX_VARIABLES]
    if nested:
        yield from _layers_of_model(_child(group, nested[0]), nested[0], names.pop(nested[0]))
        layers = ordered_layers()[-1:]
    else:
        layers = ordered_layers()
    for layer, (name, variables) in zip(layers, names.items(), strict=False):
        yield layer, name, [_child(_child(group, name), variable) for variable in variables]
    missing = layers[len(names) :]
    if missing and missing[0].kind != "dense":
        raise _not_inception(f"it has {len(names)} layers with variables and lacks {missing[0]}")
    if len(names) > len(layers):
        raise _undescribed(list(names)[len(layers)], "after the last layer")


def _layers_of_model(group: Any, model: str, variables: list[str]) -> Iterator[LayerInFile]:
    """The layers of a base inside another model. Their order depends on which are trainable, so their numbers count."""
    by_layer: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for variable in variables:
        *_, layer_name, name = ["", *variable.removesuffix(":0").split("/")]
        by_layer[layer_name][name] = variable
    ranked = {kind: _ranked(kind, by_layer) for kind in VARIABLES}
    for layer in ordered_layers()[:-1]:
        names = ranked[layer.kind]
        if len(names) != len(ordered_layers()) // 2:
            raise _not_inception(f"{model} has {len(names)} layers called {layer.kind}")
        found = by_layer[names[layer.index]]
        expected = list(VARIABLES[layer.kind])
        yield (
            layer,
            f"{model}/{names[layer.index]}",
            [_child(group, found[name]) for name in (expected if found.keys() == set(expected) else found)],
        )
    rest = set(by_layer) - {name for names in ranked.values() for name in names}
    if rest or ranked["dense"]:
        raise _undescribed(f"{model}/{[*rest, *ranked['dense']][0]}")


def _ranked(kind: str, names: Iterable[str]) -> list[str]:
    """The names of a class of layer or group, such as conv2d and conv2d_7, by their numbers.

    TensorFlow 1 calls a layer of a model that was loaded and saved conv2d_7_1.
    """
    matches = [re.fullmatch(rf"{re.escape(kind)}(?:_(\d{{1,9}})(?:_\d{{1,9}})?)?", name) for name in names]
    return [match[0] for match in sorted(filter(None, matches), key=lambda match: int(match[1] or 0))]


def _layers_by_class(file: Any) -> Iterator[LayerInFile]:
    """The layers of a Keras 3 file: of the one model in it with convolutions, and a dense layer anywhere."""
    groups = dict(_groups_with_variables(file, set()))
    bases = {
        path.rpartition("/")[0]: None for path in groups if re.fullmatch(r"conv2d(_\d+)?", path.rpartition("/")[2])
    }
    if len(bases) > 1:
        raise _not_inception(f"it has convolutions in {' and in '.join(list(bases)[:2])}")
    base = next(iter(bases), "layers")
    for name, layer in _groups().items():
        if layer.kind != "dense":
            if base.endswith(KERAS_2_CONTAINER):  # numbered in steps of 2
                name = numbered(layer.kind, 2 * int(name.rpartition("_")[2]) if name != layer.kind else 0)
            path = f"{base}/{name}"
            variables = groups.pop(path, None)
            if variables is None:
                variables = _child(file, f"{path}/vars")
            yield layer, path, [_child(variables, key) for key in _members(variables)]
    dense = next((path for path in groups if path.rpartition("/")[2] == "dense"), None)
    if dense:
        variables = groups.pop(dense)
        yield ordered_layers()[-1], dense, [_child(variables, key) for key in _members(variables)]
    for path in groups:
        raise _undescribed(path)


def _groups_with_variables(group: Any, seen: set[Any]) -> Iterator[tuple[str, Any]]:
    """The path below `group` of each layer, at any depth, that has variables, and the group of these.

    `seen` holds the groups that have been visited: a group can be inside itself, and in two groups.
    """
    if group in seen:
        return
    seen.add(group)
    if len(seen) > MAX_LAYERS:
        raise _too_many("groups")
    for container in ("layers", KERAS_2_CONTAINER):
        if container not in group:
            continue
        layers = _child(group, container)
        for name in _members(layers):
            layer = _child(layers, name)
            if hasattr(layer, "keys"):
                if "vars" in layer and len(_child(layer, "vars")):
                    yield f"{container}/{name}", _child(layer, "vars")
                yield from ((f"{container}/{name}/{path}", each) for path, each in _groups_with_variables(layer, seen))


def _members(group: Any) -> list[str]:
    """The names in a group; none in a dataset. Raises _ContentError: too many."""
    names = group.keys() if hasattr(group, "keys") else ()
    if len(names) > MAX_LAYERS:
        raise _too_many(f"objects in {group.name}")
    return list(names)


def _too_many(what: str) -> _ContentError:
    return _ContentError(f"it has more than {MAX_LAYERS:,} {what}; the file is damaged")


def _undescribed(name: str, where: str = "besides Inception V3 and one dense layer") -> _ContentError:
    return _ContentError(
        f"it has {name} {where}, and no configuration that describes it; give the whole model, as saved by "
        'model.save("model.keras")'
    )


def _child(group: Any, name: str) -> Any:
    """The object with that name in the file itself. Raises _ContentError if it is missing, or a link."""
    for part in name.split("/"):
        link = group.get(part, getlink=True) if part and hasattr(group, "keys") else None
        if link is None:
            raise _not_inception(f"it lacks {name} (no {part or 'name'} in {group.name})")
        if type(link).__name__ != "HardLink":
            raise _ContentError(f"{part} in {group.name} is a link, which is not followed; save the file without links")
        group = group[part]
    return group


def _strings(group: Any, name: str) -> list[str]:
    """A list in the attributes. Keras splits a long list into attributes `name0`, `name1`, ..."""
    parts = (f"{name}{number}" for number in count())
    strings: list[str] = []
    for attribute in [name] if name in group.attrs else takewhile(lambda key: key in group.attrs, parts):
        declared = group.attrs.get_id(attribute)
        if prod(declared.shape or ()) * declared.dtype.itemsize > MIB:
            raise _ContentError(f"the attribute {attribute} of {group.name} is too large; the file is damaged")
        strings += [text.decode() if isinstance(text, bytes) else str(text) for text in group.attrs[attribute]]
        if len(strings) > MAX_LAYERS:
            raise _too_many(f"names in {name} of {group.name}")
    return strings


def _read_layer(layer: _KerasLayer, name: str, datasets: list[Any]) -> dict[str, np.ndarray]:
    variables = layer.variables()
    if len(datasets) != len(variables):
        raise _not_inception(f"{name} holds {len(datasets)} variables, but {layer} holds {', '.join(variables)}")
    tensors: dict[str, np.ndarray] = {}
    for (state, expected), dataset in zip(variables.values(), datasets, strict=True):
        shape = getattr(dataset, "shape", None) or (0,)
        # the kernel, which comes first, determines the number of classes; the bias must agree
        classes = next(iter(tensors.values())).shape[-1] if tensors else shape[-1]
        expected = tuple(classes if length == ANY else length for length in expected)
        if shape != expected or 0 in shape:
            raise _not_inception(f"{dataset.name} has shape {shape}, but {layer} has {expected}")
        tensors[state] = _read_array(dataset)
    return tensors


def _read_array(dataset: Any) -> np.ndarray:
    """Read a dataset whose shape is checked, as float32 or float64 in Keras's layout.

    Raises _ContentError; for a false size, before memory is allocated.
    """
    name, dtype = dataset.name, dataset.dtype
    if dataset.is_virtual or dataset.external:
        raise _ContentError(f"{name} keeps its values in another file, which is not read; save all in one file")
    # Only the number of classes can be huge at this point, and floats can hardly be compressed.
    chunk = prod(dataset.chunks or ()) * dtype.itemsize
    if dataset.nbytes > MIB + 4 * dataset.id.get_storage_size() or chunk > MIB + dataset.nbytes:
        raise _ContentError(f"{name} declares {dataset.nbytes} bytes that the file does not hold; it is damaged")
    if dtype == np.dtype("V2") and dataset.attrs.get("dtype") == "bfloat16":
        array = to_native(dataset[()].view("<u2"), BFLOAT16)
    elif dtype.kind == "f" and dtype.itemsize in (2, 4, 8):
        array = np.asarray(dataset[()], np.float64 if dtype.itemsize == 8 else np.float32)
    else:
        raise _ContentError(f"{name} holds {dtype} instead of floats; save the model without quantising it")
    if not np.isfinite([array.min(), array.max()]).all():  # NaN and infinity show in either
        raise _ContentError(f"{name} holds NaN or infinity; use an earlier or undamaged file")
    return array


def _not_inception(fault: str) -> _ContentError:
    return _ContentError(f"not Keras's Inception V3, or damaged: {fault}; give one of keras.applications.InceptionV3")


# ------------------------------------------------------------------------------------------------- writing


def differences(weights: Weights) -> list[str]:
    """List the reasons why Keras would compute other outputs. Its average pools leave the padding out."""
    settings = replace(weights.settings, hidden_units=(), hidden_activation="relu")  # a whole model has them
    scaled = replace(weights.preprocessing, mean=Preprocessing().mean, std=Preprocessing().std)  # by its Rescaling
    return differences_from(
        replace(weights, settings=settings, preprocessing=scaled), count_padding=False, can_end_at=LAST
    )


def write(weights: Weights, path: Path) -> None:
    """Write weights: Keras 3's form if the name ends in `.weights.h5`, as Keras does, and otherwise the legacy form.

    A network with hidden layers, another output than a softmax, or images of another range or size than Keras's
    network is written as a whole model in the legacy form. It takes pixels 0 to 255 if the range is another. A gamma
    is folded into the kernels, as Keras's network has none. The auxiliary head is left out.
    Raises InputError: other widths or fewer layers than Keras has, a name for weights and a network that only a whole
    model can hold, a path that cannot be written, h5py is missing.
    """
    h5py = _import_h5py(path)
    settings = weights.settings
    tensors, _ = fold_gamma(weights.tensors)
    layers = ordered_layers()[:-1] if settings.final_endpoint or settings.hidden_units else ordered_layers()
    arrays = {layer: _to_keras(path, layer, tensors) for layer in layers}
    is_weights = path.name.endswith(".weights.h5")
    missing = _beyond_weights(weights)
    if is_weights and missing:
        raise InputError(
            f"{path}: a file of weights cannot hold {' or '.join(missing)}; let its name end in .h5 for a whole model",
            exit_status=2,
        )
    buffer = BytesIO()  # not a file: on a full disk, libhdf5 would fail again when closing it
    with h5py.File(buffer, "w") as file:
        if is_weights:
            _write_by_class(file, arrays)
        elif missing or settings.image_size != KERAS.image_size:
            _write_model(file, build(replace(weights, tensors=tensors)))
        else:
            _write_by_order(file, arrays)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _beyond_weights(weights: Weights) -> list[str]:
    """The parts of a network that Keras's own network lacks, so that a file of weights cannot hold them."""
    settings = weights.settings
    parts = {
        "hidden layers": not settings.final_endpoint and settings.hidden_units,
        "another output than a softmax": not settings.final_endpoint and settings.output_activation != "softmax",
        "images in another range than [-1, 1]": not weights.preprocessing.is_half,
    }
    return [name for name, applies in parts.items() if applies]


def _to_keras(path: Path, layer: _KerasLayer, tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """The arrays of a layer under Keras's names and in Keras's layout, float64 or float32."""
    arrays = {}
    for name, (state, shape) in layer.variables().items():
        if state not in tensors:
            raise InputError(f"{path}: Keras needs {state}, which this model lacks; save it as native")
        tensor = tensors[state].cpu()
        tensor = tensor if tensor.dtype == torch.float64 else tensor.float()
        if tensor.dim() == 4:
            tensor = tensor[:, :, 0, 0].T if layer.kind == "dense" else tensor.permute(2, 3, 1, 0)
        if any(length not in (ANY, ours) for length, ours in zip(shape, tensor.shape, strict=True)):
            raise InputError(f"{path}: Keras has other widths than this model, such as in {state}; save it as native")
        arrays[name] = tensor.contiguous().numpy()
    return arrays


def _write_by_order(file: Any, layers: dict[_KerasLayer, dict[str, np.ndarray]]) -> None:
    """Write the legacy form of Keras 2, which Keras 2 and 3 read."""
    _write_legacy(file, {layer.name: arrays for layer, arrays in layers.items()})


def _write_model(file: Any, topology: Topology) -> None:
    """Write a whole model in the legacy form."""
    file.attrs["model_config"] = json.dumps(topology.config() | {"class_name": "Functional"})
    _write_legacy(file, {})
    names = [layer.name for layer in ordered_layers()[:-1]]  # in Keras's order; the head follows
    names += [name for name in topology.variables if name not in names]
    _write_legacy(file.create_group("model_weights"), {name: topology.variables[name] for name in names})


def _write_legacy(group: Any, layers: dict[str, dict[str, np.ndarray]]) -> None:
    if layers:
        group.attrs["layer_names"] = np.array([name.encode() for name in layers])
    group.attrs["backend"] = b"tensorflow"  # Keras 2 flips the kernels of Theano's files
    group.attrs["keras_version"] = b"2.15.0"  # without a version Keras 2 assumes Keras 1, which has other axes
    for layer, arrays in layers.items():
        names = [f"{layer}/{name}:0" for name in arrays]
        inside = group.create_group(layer)
        inside.attrs["weight_names"] = np.array([name.encode() for name in names])
        for name, array in zip(names, arrays.values(), strict=True):
            inside[name] = array


def _write_by_class(file: Any, layers: dict[_KerasLayer, dict[str, np.ndarray]]) -> None:
    """Write the form of Keras 3."""
    for name, layer in _groups().items():
        if layer in layers:
            group = file.create_group(f"layers/{name}/vars")
            group.attrs["name"] = layer.name
            for number, array in enumerate(layers[layer].values()):
                group[str(number)] = array


FORMAT = WritableFormat(
    name="keras",
    recognises=recognises,
    read=read,
    write=write,
    differences=differences,
    suffixes=(".h5",),
    required_suffixes=(".h5", ".hdf5"),
    has_gamma=False,
    rescales=True,
    program=Program("keras"),
)
