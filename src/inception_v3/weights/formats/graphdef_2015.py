"""The TensorFlow graph of 2015 with its weights frozen in (classify_image_graph_def.pb), read without TensorFlow.

The file is one protobuf message, GraphDef (tensorflow/core/framework/graph.proto): a list of nodes. Those of
op Const hold a TensorProto (tensor.proto). The file is mapped, not read. Only the weights are copied out of it, once
their type, shape and size are known to be the network's.
"""

from collections import defaultdict
from collections.abc import Iterator
from functools import reduce
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.network.architecture import BASE, Conv, Layer, Mixed, Pool
from inception_v3.network.settings import GRAPH_2015
from inception_v3.support.system_errors import read_error
from inception_v3.weights.formats.base import Format
from inception_v3.weights.formats.graphdef import first_message, read_messages, read_nodes, read_text
from inception_v3.weights.formats.tensor_proto import read_tensor
from inception_v3.weights.formats.weights import BATCH_NORM, Weights, convolutions, numbered, state_name, to_torch

KERNEL = "conv2d_params"  # the name of every kernel in this graph, and in no other program's
REMEDY = "give the classify_image_graph_def.pb of inception-2015-12-05"

Nodes = dict[str, memoryview]


def recognises(path: Path) -> bool:
    try:
        # The first convolution is among the first nodes, unless a larger graph has imported the network.
        return any(name.endswith(f"conv/{KERNEL}") for name, _ in islice(_read_nodes(path), 10_000))
    except (OSError, ValueError):
        return False


def read(path: Path) -> Weights:
    """Read the weights of the graph, whatever scope it was imported under.

    Raises InputError, naming the file and the variable: damaged, another network, or variables that are not frozen.
    """
    try:
        nodes: Nodes = {}
        for name, node in _read_nodes(path):
            if name in nodes:
                raise ValueError(f"two nodes are called {name!r}")
            nodes[name] = node
    except OSError as error:
        raise read_error(path, error) from error
    except ValueError as error:
        raise InputError(f"{path}: truncated, damaged or not a TensorFlow graph ({error}); {REMEDY}") from error
    expected = variables()
    scope = _find_scope(path, nodes, list(expected))
    tensors = {}
    for name, (state, shape) in expected.items():
        try:
            tensors[state] = _read_tensor(_constant(nodes, scope + name), shape)
        except ValueError as error:
            raise InputError(f"{path}: {scope + name!r} cannot be used: {error}; {REMEDY}") from error
    # All layers need the same dtype. This one holds every value exactly and is at least float32.
    dtype = reduce(torch.promote_types, {tensor.dtype for tensor in tensors.values()}, torch.float32)
    return Weights({state: tensor.to(dtype) for state, tensor in tensors.items()}, GRAPH_2015)


# --- names ---


def scopes() -> Iterator[str]:
    """The scope of each convolution in the architecture table's order; the last is that of the logits.

    A branch with one step is in the scope of its module; each other branch has a `tower` of its own; parallel
    convolutions share a scope `mixed` inside it. TensorFlow numbers equal names: conv, conv_1, conv_2.
    """
    numbers: defaultdict[str, count[int]] = defaultdict(count)

    def unique(scope: str) -> str:
        return numbered(scope, next(numbers[scope]))

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
    """Map each variable of the graph to its name in `state_dict()` and its shape in TensorFlow."""
    layers = convolutions(num_classes=GRAPH_2015.num_classes, create_aux_logits=False, global_pool=True)
    return {
        f"{scope}/{name}": (f"{state_name(layer)}.{suffix}", shape)
        for layer, scope in zip(layers, scopes(), strict=True)
        for name, suffix, shape in _layer_variables(layer)
    }


def _layer_variables(layer: Layer) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    if not layer.normalized:
        yield "weights", "weights", (layer.in_channels, layer.out_channels)
        yield "biases", "biases", (layer.out_channels,)
    else:
        yield KERNEL, "weights", (*layer.kernel, layer.in_channels, layer.out_channels)
        for suffix in BATCH_NORM:
            yield suffix.replace("BatchNorm.", "batchnorm/"), suffix, (layer.out_channels,)


def _find_scope(path: Path, nodes: Nodes, expected: list[str]) -> str:
    """Return the scope that the network was imported under. Raises InputError if it is another network."""
    last = next(name for name in reversed(expected) if name.endswith(KERNEL))
    imports = [name.removesuffix(last) for name in nodes if name == last or name.endswith(f"/{last}")]
    if not imports:
        raise InputError(f"{path}: not the Inception V3 of 2015 (it lacks {last!r}); {REMEDY}")
    if len(imports) > 1:
        raise InputError(
            f"{path}: holds the network {len(imports)} times, under {imports[0]!r} and {imports[1]!r}; "
            "save a graph with one copy"
        )
    scope = imports[0]
    missing = [scope + name for name in expected if scope + name not in nodes]
    inside = [name.removeprefix(scope) for name in nodes if name.startswith(scope)]
    endings = (f"/{KERNEL}", *(suffix.replace("BatchNorm.", "/batchnorm/") for suffix in BATCH_NORM))
    unknown = [scope + name for name in inside if name.endswith(endings) and name not in expected]
    if missing or unknown:
        fault = f"lacks {missing[0]!r}" if missing else f"has {unknown[0]!r}, which the network of 2015 does not"
        more = len(missing) + len(unknown) - 1
        raise InputError(f"{path}: {fault}{f' and {more} more differ' if more else ''}; {REMEDY}")
    return scope


# --- the message ---


def _read_nodes(path: Path) -> Iterator[tuple[str, memoryview]]:
    """The name and the message of each node."""
    return read_nodes(np.memmap(path, np.uint8, "r").data)


def _constant(nodes: Nodes, name: str) -> memoryview:
    """The TensorProto of a Const node, or of the Const that an Identity node passes on."""
    for _ in range(10):  # a damaged file may have Identities in a circle
        if name not in nodes:
            raise ValueError(f"its node {name!r} is missing")
        op = read_text(nodes[name], 2)
        if op == "Const":
            values = (each for each in read_messages(nodes[name], 5) if read_text(each, 1) == "value")
            return first_message(first_message(next(values, memoryview(b"")), 2), 8)
        if op != "Identity":
            raise ValueError(f"it is a {op!r}, not a constant of a frozen graph")
        name = read_text(nodes[name], 3).removesuffix(":0")
    raise ValueError("its nodes form a cycle")


def _read_tensor(tensor: memoryview, expected: tuple[int, ...]) -> Tensor:
    """Copy the values into the layout of `state_dict()`, once type, shape and size are known to be right."""
    values = read_tensor(tensor, expected)
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinity")
    return to_torch(values)


FORMAT = Format(name="graphdef-2015", recognises=recognises, read=read, write_instead="fid-2015")
