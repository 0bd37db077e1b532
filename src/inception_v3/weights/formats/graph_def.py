"""The TensorFlow graph of 2015 with its weights frozen in (classify_image_graph_def.pb), read without TensorFlow.

The file is one protobuf message, GraphDef (tensorflow/core/framework/graph.proto): a list of nodes. Those of
op Const hold a TensorProto (tensor.proto). The file is mapped, not read; only the weights are copied out of it,
once their type, shape and size have been found to be those of the network.
"""

import math
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from inception_v3.errors import InputError
from inception_v3.network.architecture import BASE, Conv, Layer, Mixed, Pool
from inception_v3.network.settings import GRAPH_2015
from inception_v3.support.protocol_buffers import read_fields
from inception_v3.weights.formats.tensorflow_checkpoint import BFLOAT16, DTYPES, V1_FLOATS, native, shape_of
from inception_v3.weights.formats.weights import BATCH_NORM, Weights, convolutions, state_name

NAME = "graphdef-2015"
KERNEL = "conv2d_params"  # no other program calls it so
FLOAT16 = 19  # DataType in tensorflow/core/framework/types.proto
REMEDY = "give the classify_image_graph_def.pb of inception-2015-12-05"

Nodes = dict[str, memoryview]


def recognise(path: Path) -> bool:
    try:
        # The first convolution is among the first nodes, unless a larger graph has taken the network in.
        return any(name.endswith(f"conv/{KERNEL}") for name, _ in islice(_nodes(path), 10_000))
    except (OSError, ValueError):
        return False


def read(path: Path) -> Weights:
    """The weights of the graph, whatever scope it was imported under.

    Raises InputError, naming the file and the variable: damaged, another network, or variables not frozen.
    """
    try:
        nodes: Nodes = {}
        for name, node in _nodes(path):
            if name in nodes:
                raise ValueError(f"two nodes are called {name!r}")
            nodes[name] = node
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except ValueError as error:
        raise InputError(f"{path}: cut off, damaged or no TensorFlow graph ({error}); {REMEDY}") from error
    wanted = variables()
    prefix = _check_names(path, nodes, list(wanted))
    found = {}
    for name, (state, shape) in wanted.items():
        try:
            found[state] = _array(_constant(nodes, prefix + name), shape)
        except ValueError as error:
            raise InputError(f"{path}: {prefix + name!r} cannot be used: {error}; {REMEDY}") from error
    # One type for all, which holds every value exactly: a network cannot run in a mixture.
    dtype = np.result_type(np.float32, *{value.dtype for value in found.values()})
    tensors = {state: torch.from_numpy(value.astype(dtype, copy=False)) for state, value in found.items()}
    return Weights(tensors, GRAPH_2015)


# --- names ---


def scopes() -> Iterator[str]:
    """The scope of each convolution, in the architecture table's order, and last that of the logits.

    A branch of one step lies in its module itself, each other one in a tower of its own; parallel convolutions
    share a scope `mixed` inside. TensorFlow numbers what is called the same: conv, conv_1, conv_2.
    """
    used: Counter[str] = Counter()

    def unique(scope: str) -> str:
        used[scope] += 1
        return scope if used[scope] == 1 else f"{scope}_{used[scope] - 1}"

    for node in BASE:
        if isinstance(node, Conv):
            yield unique("conv")
        elif isinstance(node, Mixed):
            module = unique("mixed")
            for branch in node.branches:
                tower = module if len(branch) == 1 else unique(f"{module}/tower")
                for step in branch:
                    if isinstance(step, tuple):
                        inside = unique(f"{tower}/mixed")
                        yield from (unique(f"{inside}/conv") for _ in step)
                    elif not isinstance(step, Pool):
                        yield unique(f"{tower}/conv")
    yield "softmax"


def variables() -> dict[str, tuple[str, tuple[int, ...]]]:
    """Every variable of the graph: its name in `state_dict()`, and its shape in TensorFlow."""
    layers = convolutions(num_classes=GRAPH_2015.num_classes, create_aux_logits=False, global_pool=True)
    found = {}
    for layer, scope in zip(layers, scopes(), strict=True):
        for name, suffix, shape in _variables_of(layer):
            found[f"{scope}/{name}"] = f"{state_name(layer)}.{suffix}", shape
    return found


def _variables_of(layer: Layer) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    if not layer.normalized:
        yield "weights", "weights", (layer.in_channels, layer.out_channels)
        yield "biases", "biases", (layer.out_channels,)
        return
    yield KERNEL, "weights", (*layer.kernel, layer.in_channels, layer.out_channels)
    for suffix in BATCH_NORM:
        yield suffix.replace("BatchNorm.", "batchnorm/"), suffix, (layer.out_channels,)


def _check_names(path: Path, nodes: Nodes, wanted: list[str]) -> str:
    """The scope that the network was imported under. Raises InputError where it is another network."""
    last = next(name for name in reversed(wanted) if name.endswith(KERNEL))
    prefixes = [name.removesuffix(last) for name in nodes if name == last or name.endswith(f"/{last}")]
    if not prefixes:
        raise InputError(f"{path}: not the Inception V3 of 2015 (it lacks {last!r}); {REMEDY}")
    if len(prefixes) > 1:
        places = f"{len(prefixes)} times, under {prefixes[0]!r} and {prefixes[1]!r}"
        raise InputError(f"{path}: holds the network {places}; save a graph with one")
    prefix = prefixes[0]
    missing = [prefix + name for name in wanted if prefix + name not in nodes]
    own = [name.removeprefix(prefix) for name in nodes if name.startswith(prefix)]
    kinds = (f"/{KERNEL}", *(suffix.replace("BatchNorm.", "/batchnorm/") for suffix in BATCH_NORM))
    extra = [prefix + name for name in own if name.endswith(kinds) and name not in wanted]
    if missing or extra:
        wrong = f"lacks {missing[0]!r}" if missing else f"has {extra[0]!r}, which the network of 2015 has not"
        more = len(missing) + len(extra) - 1
        raise InputError(f"{path}: {wrong}{f' and {more} more differ' if more else ''}; {REMEDY}")
    return prefix


# --- the message ---


def _nodes(path: Path) -> Iterator[tuple[str, memoryview]]:
    """Each node under its name, which is the first that is written of it."""
    for number, node, *_ in _fields(np.memmap(path, np.uint8, "r").data):
        if number == 1 and isinstance(node, memoryview):
            yield _text(node, 1), node


def _constant(nodes: Nodes, name: str) -> memoryview:
    """The TensorProto of a node: of a Const, or of what an Identity passes on."""
    for _ in range(10):  # Identities in a circle are damage
        if name not in nodes:
            raise ValueError(f"its node {name!r} is missing")
        op = _text(nodes[name], 2)
        if op == "Const":
            attributes = (value for number, value, *_ in _fields(nodes[name]) if number == 5)
            values = (a for a in attributes if isinstance(a, memoryview) and _text(a, 1) == "value")
            return _message(_message(next(values, memoryview(b"")), 2), 8)
        if op != "Identity":
            raise ValueError(f"it is a {op!r}, not a constant of a frozen graph")
        name = _text(nodes[name], 3).removesuffix(":0")
    raise ValueError("its nodes form a circle")


def _array(tensor: memoryview, expected: tuple[int, ...]) -> np.ndarray:
    """The values in the layout of `state_dict()`. Memory is taken only where all agrees with `expected`."""
    dtype, shape = _first(tensor, 1), _message(tensor, 2)
    if not isinstance(dtype, int) or dtype not in (*V1_FLOATS, BFLOAT16, FLOAT16):
        raise ValueError(f"it is of TensorFlow's type {dtype}, no floats")
    declared = shape_of(shape) if len(shape) <= 1000 else ()
    if declared != expected:
        raise ValueError(f"its shape is {list(declared)}, not {list(expected)}")
    values = native(_values(tensor, dtype, math.prod(expected)), dtype).reshape(expected)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are no finite numbers")
    axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[values.ndim]
    copied = np.array(values.transpose(axes), order="C")  # out of the mapped file
    return copied[:, :, None, None] if values.ndim == 2 else copied


def _values(tensor: memoryview, dtype: int, count: int) -> np.ndarray:
    """As bytes, or as a list of which the last value stands for all that follow (none: all are 0)."""
    content: bytes | memoryview = b""
    listed = bytearray()
    for number, value, *_ in _fields(tensor):
        if number == 4 and isinstance(value, memoryview):
            content = value
        elif number == V1_FLOATS.get(dtype) and isinstance(value, memoryview):
            listed += value
        elif number > 3:
            raise ValueError("its values are stored in a way that cannot be read")
    values = np.frombuffer(content or bytes(listed), DTYPES[dtype])
    if not content and values.size < count:
        values = np.append(values, np.full(count - values.size, values[-1] if values.size else 0, values.dtype))
    if values.size != count:
        raise ValueError(f"it holds {values.size} values where {count} belong")
    return values


_fields = partial(read_fields, damage="it ends too early")


def _first(message: memoryview, number: int) -> int | memoryview | None:
    return next((value for found, value, *_ in _fields(message) if found == number), None)


def _message(message: memoryview, number: int) -> memoryview:
    """The field of that number; empty where there is none."""
    value = _first(message, number)
    return value if isinstance(value, memoryview) else memoryview(b"")


def _text(message: memoryview, number: int) -> str:
    text = _message(message, number)
    if len(text) > 1000:
        raise ValueError("a name is too long")
    return bytes(text).decode()
