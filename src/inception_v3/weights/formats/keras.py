"""Keras Applications' InceptionV3: the legacy weights `.h5`, Keras 3's `.weights.h5`, and `.keras` (read alone).

Keras numbers its layers as they are created, which is the table's order, but counts on from model to model
in one process: `conv2d_94` may be the first. Its files hold the layers in another order, sorted by their
distance from the output. Keras itself goes by that order and never by the names, and so does this: the network's
graph is built from the table and sorted as Keras sorts it (keras/src/ops/function.py, map_graph).

HDF5 can point to other files and declare tensors of any size. Neither is believed: links, external and virtual
data are refused, and every shape is checked before it is read. No object is built from a stored configuration.
"""

import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from io import BytesIO
from itertools import count, takewhile
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.architecture import BASE, LOGITS, Branch, Conv, Layer, Mixed, Pool
from inception_v3.network.settings import Settings
from inception_v3.support.files import atomic_write
from inception_v3.weights.formats.weights import (
    Weights,
    class_names,
    convolutions,
    differences_of,
    fold_gamma,
    state_name,
)

if TYPE_CHECKING:
    from inception_v3.weights.model import InceptionV3

NAME = "keras"
PREPROCESSING = Preprocessing.named("keras")  # as its users load files: whole, without their proportions
HDF5 = b"\x89HDF\r\n\x1a\n"
WEIGHTS_IN_ZIP = "model.weights.h5"
LAST = BASE[-1].name  # where a file without top ends
ANY = -1  # in a shape: the number of classes
MIB = 1 << 20

# The variables of each class of Keras layer in the order of its files, and how `state_dict()` calls them.
VARIABLES = {
    "conv2d": {"kernel": "weights"},
    "batch_normalization": {
        "beta": "BatchNorm.beta",
        "moving_mean": "BatchNorm.moving_mean",
        "moving_variance": "BatchNorm.moving_variance",
    },
    "dense": {"kernel": "weights", "bias": "biases"},
}
# What h5py and zipfile raise over damaged files: libhdf5's errors come as almost any class.
DAMAGE = (OSError, KeyError, ValueError, RuntimeError, TypeError, MemoryError, EOFError, zipfile.BadZipFile, zlib.error)


class _ContentError(Exception):
    """What is wrong with a file's content; `read` adds the file."""


# ------------------------------------------------------------------------------------------- Keras's layers


@dataclass(frozen=True)
class _Slot:
    """A Keras layer that holds variables: its class, its rank among those in order of creation, the table's layer."""

    kind: str
    rank: int
    layer: Layer

    def __str__(self) -> str:
        return f"{self.kind} number {self.rank + 1} ({self.layer.name})"

    @property
    def name(self) -> str:
        """As Keras calls it in the first model of a process."""
        return "predictions" if self.kind == "dense" else _numbered(self.kind, self.rank)

    def variables(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """By Keras's name: the name in `state_dict()`, and the shape in Keras."""
        dense = self.kind == "dense"
        out = ANY if dense else self.layer.out_channels
        kernel = (*(() if dense else self.layer.kernel), self.layer.in_channels, out)
        return {
            name: (f"{state_name(self.layer)}.{ours}", kernel if name == "kernel" else (out,))
            for name, ours in VARIABLES[self.kind].items()
        }


@dataclass(eq=False)
class _Node:
    """A layer in Keras's graph, with or without variables."""

    inputs: list["_Node"]
    slot: _Slot | None = None


@cache
def _slots() -> list[_Slot]:
    """The layers that hold variables in the order of Keras's `model.layers`, the head last."""
    visited: dict[_Node, int] = {}
    finished: list[_Node] = []

    def visit(node: _Node) -> None:
        if node not in visited:
            visited[node] = len(visited)
            for one in node.inputs:
                visit(one)
            finished.append(node)

    visit(_graph())
    depth = dict.fromkeys(finished, 0)  # the longest way to the output
    for node in reversed(finished):
        for one in node.inputs:
            depth[one] = max(depth[one], depth[node] + 1)
    ordered = sorted(finished, key=lambda node: (-depth[node], visited[node]))
    return [node.slot for node in ordered if node.slot]


def _graph() -> _Node:
    """The network as Keras builds it, given by its output: each convolution with BatchNorm and ReLU behind it."""
    layers = {layer.name: layer for layer in convolutions(create_aux_logits=False)}
    ranks = count()

    def after(table: Conv | Pool, scope: str, net: _Node) -> _Node:
        if isinstance(table, Pool):
            return _Node([net])
        rank, layer = next(ranks), layers[scope + table.name]
        net = _Node([net], _Slot("conv2d", rank, layer))
        return _Node([_Node([net], _Slot("batch_normalization", rank, layer))])

    def run(steps: Branch, scope: str, net: _Node) -> _Node:
        for step in steps:
            nets = [after(table, scope, net) for table in (step if isinstance(step, tuple) else (step,))]
            net = nets[0] if len(nets) == 1 else _Node(nets)
        return net

    net = _Node([])
    for node in BASE:
        if isinstance(node, Mixed):
            net = _Node([run(steps, f"{node.name}/{name}/", net) for name, steps in node.named_branches])
        else:
            net = run((node,), "", net)
    return _Node([_Node([net])], _Slot("dense", 0, layers[f"Logits/{LOGITS[-1].name}"]))


def _groups() -> dict[str, _Slot]:
    """Keras 3's names for them below `layers/`: each class counted from 0 in the order of `model.layers`."""
    seen: Counter[str] = Counter()
    groups = {}
    for slot in _slots():
        groups[_numbered(slot.kind, seen[slot.kind])] = slot
        seen[slot.kind] += 1
    return groups


def _numbered(name: str, number: int) -> str:
    return f"{name}_{number}" if number else name


# ------------------------------------------------------------------------------------------------- reading


def recognise(path: Path) -> bool:
    """A zip with Keras's members, or HDF5 with Keras's groups. HDF5 too damaged to tell is taken for it."""
    try:
        if not _is_hdf5(path):
            with zipfile.ZipFile(path) as archive:
                return {WEIGHTS_IN_ZIP, "config.json"} <= set(archive.namelist())
    except DAMAGE:
        return False
    try:
        with import_module("h5py").File(path, "r") as file:
            return "layers" in file or _legacy_group(file) is not None
    except (ImportError, _ContentError, *DAMAGE):
        return True  # nothing else here is HDF5; `read` says what is the matter


def read(path: Path) -> Weights:
    """Raises InputError, naming the file and the variable: damaged, or no Inception V3 of Keras; no h5py."""
    h5py = _h5py(path)
    found: dict[str, Tensor] = {}
    try:
        with h5py.File(path if _is_hdf5(path) else _unzipped(path), "r") as file:
            legacy = _legacy_group(file)
            for layer in _by_order(legacy) if legacy is not None else _by_class(file):
                found |= _read_layer(*layer)
    except _ContentError as error:
        raise InputError(f"{path}: {_one_line(error)}") from error
    except DAMAGE as error:
        advice = "check the path, and download or save it again if it is damaged"
        raise InputError(f"{path}: cannot be read ({_one_line(error)}); {advice}") from error
    widest = max((tensor.dtype for tensor in found.values()), key=lambda dtype: dtype.itemsize)
    tensors = {name: tensor.to(widest) for name, tensor in found.items()}
    settings = Settings(create_aux_logits=False, global_pool=True)
    bias = tensors.get(f"{state_name(_slots()[-1].layer)}.biases")
    if bias is None:
        return Weights(tensors, replace(settings, final_endpoint=LAST), PREPROCESSING)
    return Weights(tensors, replace(settings, num_classes=len(bias)), PREPROCESSING, class_names(len(bias)))


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(HDF5)) == HDF5


def _h5py(path: Path) -> Any:
    try:
        return import_module("h5py")
    except ImportError as error:
        message = f"{path}: Keras's files need h5py; run: pip install 'inception-v3[keras]'"
        raise InputError(message, exit_status=2) from error


def _one_line(error: Exception) -> str:
    """Names in a file may hold anything."""
    return " ".join("".join(one if one.isprintable() else " " for one in str(error)).split())


def _unzipped(path: Path) -> BytesIO:
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(WEIGHTS_IN_ZIP)
        if member.file_size > 4 * path.stat().st_size:  # Keras does not compress, and floats hardly can be
            raise _ContentError(f"{WEIGHTS_IN_ZIP} in it declares {member.file_size} bytes; the file is damaged")
        return BytesIO(archive.read(member))  # whole, so that its checksum is compared


def _legacy_group(file: Any) -> Any:
    """Where a legacy file holds its layers: at the root, or below where the model was saved with them; else None."""
    if "model_weights" in file:
        file = _child(file, "model_weights")
    return file if "layer_names" in file.attrs or "layer_names0" in file.attrs else None


def _by_order(group: Any) -> Iterator[tuple[_Slot, str, list[Any]]]:
    """Each layer of a legacy file, its name, and what it holds."""
    held = {name: _strings(_child(group, name), "weight_names") for name in _strings(group, "layer_names")}
    held = {name: variables for name, variables in held.items() if variables}
    for slot, (name, variables) in zip(_slots(), held.items(), strict=False):
        yield slot, name, [_child(_child(group, name), variable) for variable in variables]
    missing = _slots()[len(held) :]
    if missing and missing[0].kind != "dense":
        raise _foreign(f"it has {len(held)} layers with variables and lacks {missing[0]}")
    if len(held) > len(_slots()):
        raise _foreign(f"it has {list(held)[len(_slots())]} behind the last layer")


def _by_class(file: Any) -> Iterator[tuple[_Slot, str, list[Any]]]:
    """Each layer of a Keras 3 file, its name, and what it holds."""
    layers, groups = _child(file, "layers"), _groups()
    for group, slot in groups.items():
        if group in layers or slot.kind != "dense":  # else a file without top
            variables = _child(layers, f"{group}/vars")
            yield slot, f"layers/{group}", [_child(variables, key) for key in variables]
    for name in layers:
        if name not in groups and "vars" in _child(layers, name) and len(_child(layers, f"{name}/vars")):
            raise _foreign(f"it has layers/{name}")


def _child(group: Any, name: str) -> Any:
    """What stands under a name in the file itself. Raises _ContentError: nothing, or something that points away."""
    for part in name.split("/"):
        link = group.get(part, getlink=True) if part and hasattr(group, "keys") else None
        if link is None:
            raise _foreign(f"it lacks {name} (no {part or 'name'} in {group.name})")
        if type(link).__name__ != "HardLink":
            raise _ContentError(f"{part} in {group.name} is a link, which is not followed; save the file without")
        group = group[part]
    return group


def _strings(group: Any, name: str) -> list[str]:
    """A list in the attributes, which Keras cuts into `name0`, `name1`, ... where it is long."""
    numbered = (f"{name}{number}" for number in count())
    found: list[str] = []
    for one in [name] if name in group.attrs else takewhile(lambda one: one in group.attrs, numbered):
        declared = group.attrs.get_id(one)
        if prod(declared.shape or ()) * declared.dtype.itemsize > MIB:
            raise _ContentError(f"the attribute {one} of {group.name} is too large; the file is damaged")
        found += [text.decode() if isinstance(text, bytes) else str(text) for text in group.attrs[one]]
    return found


def _read_layer(slot: _Slot, name: str, datasets: list[Any]) -> dict[str, Tensor]:
    variables = slot.variables()
    if len(datasets) != len(variables):
        raise _foreign(f"{name} holds {len(datasets)} variables where {slot} holds {', '.join(variables)}")
    tensors: dict[str, Tensor] = {}
    for (ours, shape), dataset in zip(variables.values(), datasets, strict=True):
        have = getattr(dataset, "shape", None) or (0,)
        # the kernel, which comes first, has the number of classes; the bias must agree
        classes = len(next(iter(tensors.values()))) if tensors else have[-1]
        shape = tuple(classes if length == ANY else length for length in shape)
        if have != shape or 0 in shape:
            raise _foreign(f"{dataset.name} has shape {have} where {slot} has {shape}")
        tensor = _read_values(dataset)
        if tensor.dim() == 4:
            tensor = tensor.permute(3, 2, 0, 1)
        elif tensor.dim() == 2:
            tensor = tensor.T[:, :, None, None]
        tensors[ours] = tensor.contiguous()
    return tensors


def _read_values(dataset: Any) -> Tensor:
    """A dataset of the right shape, as float32 or float64. Raises _ContentError before memory is taken."""
    name, dtype = dataset.name, dataset.dtype
    if dataset.is_virtual or dataset.external:
        raise _ContentError(f"{name} keeps its values in another file, which is not read; save the file without")
    # only the number of classes is free to be huge; floats hardly can be compressed
    chunk = prod(dataset.chunks or ()) * dtype.itemsize
    if dataset.nbytes > MIB + 4 * dataset.id.get_storage_size() or chunk > MIB + dataset.nbytes:
        raise _ContentError(f"{name} declares {dataset.nbytes} bytes that the file does not hold; it is damaged")
    if dtype == np.dtype("V2") and dataset.attrs.get("dtype") == "bfloat16":
        tensor = torch.from_numpy(dataset[()].view("<i2").astype(np.int16)).view(torch.bfloat16).float()
    elif dtype.kind == "f" and dtype.itemsize in (2, 4, 8):
        tensor = torch.from_numpy(np.asarray(dataset[()], np.float64 if dtype.itemsize == 8 else np.float32))
    else:
        raise _ContentError(f"{name} holds {dtype} where floats belong; save the model unquantised")
    if not bool(torch.isfinite(tensor).all()):
        raise _ContentError(f"{name} holds values that are no finite numbers; take an earlier or undamaged file")
    return tensor


def _foreign(problem: str) -> _ContentError:
    return _ContentError(f"no Inception V3 of Keras, or damaged: {problem}; give one of keras.applications.InceptionV3")


# ------------------------------------------------------------------------------------------------- writing


def differences(model: "InceptionV3") -> list[str]:
    reasons = differences_of(model, count_padding=False)
    last = model.settings.final_endpoint
    return reasons if last in (None, LAST) else [*reasons, f"it goes on to {LAST}, this model ends at {last}"]


def write(model: "InceptionV3", path: Path) -> None:
    """Keras 3's form where the name ends in `.weights.h5`, by which Keras goes; else the legacy one.

    A gamma is folded into the kernels, as Keras's network has none; the auxiliary head is left out.
    Raises InputError: other widths or fewer layers than Keras has, a place that cannot be written, no h5py.
    """
    h5py = _h5py(path)
    state, _ = fold_gamma(model.state_dict())
    slots = _slots()[:-1] if model.settings.final_endpoint else _slots()
    layers = {slot: _to_keras(path, slot, state) for slot in slots}
    buffer = BytesIO()  # on a full disk libhdf5 would fail once more on closing the file
    with h5py.File(buffer, "w") as file:
        (_write_by_class if path.name.endswith(".weights.h5") else _write_by_order)(file, layers)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _to_keras(path: Path, slot: _Slot, state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    arrays = {}
    for name, (ours, shape) in slot.variables().items():
        if ours not in state:
            raise InputError(f"{path}: Keras needs {ours}, which this model lacks; save it as native")
        tensor = state[ours].detach().cpu()
        tensor = tensor if tensor.dtype == torch.float64 else tensor.float()
        if tensor.dim() == 4:
            tensor = tensor[:, :, 0, 0].T if slot.kind == "dense" else tensor.permute(2, 3, 1, 0)
        if any(want not in (ANY, have) for want, have in zip(shape, tensor.shape, strict=True)):
            raise InputError(f"{path}: Keras has other widths than this model, such as in {ours}; save it as native")
        arrays[name] = tensor.contiguous().numpy()
    return arrays


def _write_by_order(file: Any, layers: dict[_Slot, dict[str, np.ndarray]]) -> None:
    """As Keras 2 wrote it, which Keras 2 and 3 read."""
    file.attrs["layer_names"] = np.array([slot.name.encode() for slot in layers])
    file.attrs["backend"] = b"tensorflow"  # of Theano's files Keras 2 turns the kernels round
    file.attrs["keras_version"] = b"2.15.0"  # without one Keras 2 takes the file for Keras 1's, with other axes
    for slot, arrays in layers.items():
        names = [f"{slot.name}/{name}:0" for name in arrays]
        group = file.create_group(slot.name)
        group.attrs["weight_names"] = np.array([name.encode() for name in names])
        for name, array in zip(names, arrays.values(), strict=True):
            group[name] = array


def _write_by_class(file: Any, layers: dict[_Slot, dict[str, np.ndarray]]) -> None:
    for name, slot in _groups().items():
        if slot in layers:
            group = file.create_group(f"layers/{name}/vars")
            group.attrs["name"] = slot.name
            for number, array in enumerate(layers[slot].values()):
                group[str(number)] = array
