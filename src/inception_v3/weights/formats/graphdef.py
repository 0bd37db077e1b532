"""TensorFlow graphs (the message GraphDef of tensorflow/core/framework/graph.proto), read and run without TensorFlow.

Only the operations of a convolutional network in inference are known. A graph is run to prove that it computes what
the network computes that was read from it. Activations are NHWC, as in TensorFlow.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from inception_v3.support import protocol_buffers
from inception_v3.support.protocol_buffers import integer, integers, octets, parse
from inception_v3.support.text import one_line
from inception_v3.weights.formats.tensor_proto import MAX_VALUES, read_tensor

MAX_NODES = 200_000
UINT8 = 4  # DataType in tensorflow/core/framework/types.proto
PASSED_ON = ("Identity", "ReadVariableOp", "Enter", "StopGradient", "CheckNumerics", "PreventGradient", "Snapshot")
VARIABLES = ("VariableV2", "Variable", "VarHandleOp")
FUSED = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
SUMS = ("BiasAdd", "Add", "AddV2")

read_fields = partial(protocol_buffers.read_fields, damage="it ends too early")
read_messages = partial(protocol_buffers.read_messages, damage="it ends too early")


class GraphError(ValueError):
    """What a graph has that cannot be read or computed."""


# ------------------------------------------------------------------------------------------------------- the message


def first_message(message: memoryview, number: int) -> memoryview:
    """The message in the first field with that number; empty if there is none."""
    return next(read_messages(message, number), memoryview(b""))


def read_text(message: memoryview, number: int) -> str:
    text = first_message(message, number)
    if len(text) > 1000:
        raise ValueError("a name is too long")
    return bytes(text).decode()


def read_nodes(graph: memoryview) -> Iterator[tuple[str, memoryview]]:
    """The name and the message of each node."""
    for node in read_messages(graph, 1):
        yield read_text(node, 1), node


# --------------------------------------------------------------------------------------------------------- the graph


@dataclass(frozen=True, eq=False)
class Node:
    """A node: its name, its operation, and the names of the nodes whose outputs it reads, without control inputs."""

    name: str
    op: str
    inputs: tuple[str, ...]
    message: memoryview

    def __str__(self) -> str:
        return f"{one_line(self.op, 60)} ({one_line(self.name, 200)})"

    def attribute(self, name: str) -> memoryview:
        """The AttrValue (attr_value.proto) with that name; empty if there is none."""
        found = (first_message(each, 2) for each in read_messages(self.message, 5) if read_text(each, 1) == name)
        return next(found, memoryview(b""))

    def number(self, name: str, default: float = 0) -> float:
        """An attribute that is an integer, a truth value, a type or a float."""
        fields = parse(self.attribute(name))
        if stored := octets(fields, 4):
            return float(np.frombuffer(stored, "<f4")[0])
        return next((integer(fields, number) for number in (3, 5, 6) if number in fields), default)

    def text(self, name: str) -> str:
        return read_text(self.attribute(name), 2)

    def numbers(self, name: str) -> list[int]:
        return integers(parse(first_message(self.attribute(name), 1)), 3)


@dataclass
class Graph:
    """The nodes of a graph by name. `variables` are the values of those that are not in the graph, by name."""

    nodes: dict[str, Node]
    variables: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.consumers: defaultdict[str, list[Node]] = defaultdict(list)
        for node in self.nodes.values():
            for name in node.inputs:
                self.consumers[name].append(node)

    def node(self, name: str) -> Node:
        if name not in self.nodes:
            raise GraphError(f"its node {one_line(name, 200)!r} is missing")
        return self.nodes[name]

    def source(self, name: str) -> Node:
        """The node whose value a node passes on unchanged: a constant, a variable or an operation."""
        for _ in range(20):  # a damaged file may have Identities in a circle
            node = self.node(name)
            if node.op not in PASSED_ON or not node.inputs:
                return node
            name = node.inputs[0]
        raise GraphError("its nodes form a cycle")

    def constant(self, name: str) -> Tensor | None:
        """The value of a node that depends on constants and variables only, else None."""
        try:
            return self.run(name, {})
        except UnknownValueError:
            return None

    def run(self, name: str, values: dict[str, Tensor]) -> Tensor:
        """The output of a node. `values` are outputs that are known, to which those of other nodes are added.

        Raises GraphError: an operation that is not known, or its inputs do not fit.
        """
        waiting = [(name, False)]
        open_nodes: set[str] = set()
        while waiting:
            current, is_ready = waiting.pop()
            if current in values:
                continue
            node = self.node(current)
            if is_ready:
                values[current] = self._compute(node, [values[each] for each in node.inputs])
                open_nodes.discard(current)
            elif current in open_nodes:
                raise GraphError("its nodes form a cycle")
            else:
                open_nodes.add(current)
                waiting.append((current, True))
                waiting += [(each, False) for each in node.inputs if each not in values]
        return values[name]

    def _compute(self, node: Node, inputs: list[Tensor]) -> Tensor:
        if node.op == "Const":
            return torch.from_numpy(np.array(read_tensor(first_message(node.attribute("value"), 8))))
        if node.op in VARIABLES:
            if node.name not in self.variables:
                raise GraphError(f"its variable {one_line(node.name, 200)!r} has no value; freeze the graph")
            return torch.from_numpy(np.array(self.variables[node.name]))
        if node.op in ("Placeholder", "PlaceholderWithDefault"):
            raise UnknownValueError(node.name)
        operation = OPERATIONS.get(node.op)
        if operation is None:
            raise GraphError(f"has the operation {node}, which cannot be computed here")
        if node.text("data_format") not in ("", "NHWC"):
            raise GraphError(f"{node} is in NCHW, which cannot be computed here")
        try:
            result: Tensor = operation(node, *inputs)
        except GraphError:
            raise
        except (RuntimeError, TypeError, IndexError, ValueError) as error:
            raise GraphError(f"{node} cannot be computed ({one_line(error, 100)})") from error
        return result


class UnknownValueError(Exception):
    """A value depends on the graph's input."""


def read_graph(message: memoryview) -> Graph:
    """Read a GraphDef. Raises ValueError: damaged, two nodes of one name, or too many nodes."""
    nodes: dict[str, Node] = {}
    for name, node in read_nodes(message):
        if name in nodes:
            raise ValueError(f"two nodes are called {name!r}")
        if len(nodes) == MAX_NODES:
            raise ValueError(f"it has more than {MAX_NODES:,} nodes")
        inputs = [bytes(each[:1000]).decode() for each in read_messages(node, 3)]
        data = tuple(each.removesuffix(":0") for each in inputs if not each.startswith("^"))
        nodes[name] = Node(name, read_text(node, 2), data, node)
    return Graph(nodes)


# ---------------------------------------------------------------------------------------------------- the operations


def _convolve(node: Node, net: Tensor, kernel: Tensor) -> Tensor:
    _, *strides, _ = node.numbers("strides")
    if any(each != 1 for each in node.numbers("dilations")):
        raise GraphError(f"{node} is dilated, which this network's convolutions are not")
    net = _pad(node, net, (kernel.shape[0], kernel.shape[1]), strides, 0)
    weights = kernel.to(net.dtype).permute(3, 2, 0, 1)
    return functional.conv2d(net.permute(0, 3, 1, 2), weights, stride=strides).permute(0, 2, 3, 1)


def _pad(node: Node, net: Tensor, kernel: tuple[int, int], strides: list[int], value: float) -> Tensor:
    """Pad as TensorFlow does for this kernel, if the node asks for it: the extra zero is at the end."""
    padding = node.text("padding")
    if padding == "VALID":
        return net
    if padding != "SAME":
        raise GraphError(f"{node} has the padding {padding}, which cannot be computed here")
    pads = []
    for length, size, stride in zip(net.shape[1:3], kernel, strides, strict=True):
        total = max((-(-length // stride) - 1) * stride + size - length, 0)
        pads.append((total // 2, total - total // 2))
    return functional.pad(net, (0, 0, *pads[1], *pads[0]), value=value)


def _pool(node: Node, net: Tensor, maximum: bool) -> Tensor:
    _, *strides, _ = node.numbers("strides")
    _, *kernel, _ = node.numbers("ksize")

    def run(net: Tensor) -> Tensor:
        padded = _pad(node, net, (kernel[0], kernel[1]), strides, -math.inf if maximum else 0).permute(0, 3, 1, 2)
        pool: Callable[..., Tensor] = functional.max_pool2d if maximum else functional.avg_pool2d
        return pool(padded, tuple(kernel), tuple(strides)).permute(0, 2, 3, 1)

    # TensorFlow's average leaves the padding out.
    return run(net) if maximum else run(net) / run(torch.ones_like(net[:1, :, :, :1]))


def _normalize(node: Node, net: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    if node.number("is_training", 1):
        raise GraphError(f"{node} is in training mode; freeze the graph of inference")
    return (net - mean) * torch.rsqrt(variance + node.number("epsilon", 1e-4)) * gamma + beta


def _concatenate(node: Node, *inputs: Tensor) -> Tensor:
    *parts, axis = inputs if node.op == "ConcatV2" else (*inputs[1:], inputs[0])
    return torch.cat(parts, int(axis))


def _average(node: Node, net: Tensor, axes: Tensor) -> Tensor:
    return net.mean(dim=axes.flatten().tolist(), keepdim=bool(node.number("keep_dims")))


def _squeeze(node: Node, net: Tensor) -> Tensor:
    axes = node.numbers("squeeze_dims")
    return net.squeeze(dim=tuple(axes)) if axes else net.squeeze()


def _elementwise(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def compute(node: Node, left: Tensor, right: Tensor) -> Tensor:
        if math.prod(np.broadcast_shapes(left.shape, right.shape)) > MAX_VALUES:
            raise GraphError(f"{node} is too large")
        return function(left, right)

    return compute


def _pass_on(node: Node, net: Tensor) -> Tensor:
    return net


OPERATIONS: dict[str, Callable[..., Any]] = {
    "Conv2D": _convolve,
    "MaxPool": partial(_pool, maximum=True),
    "AvgPool": partial(_pool, maximum=False),
    **dict.fromkeys(FUSED, _normalize),
    **dict.fromkeys(SUMS, _elementwise(torch.add)),
    "Sub": _elementwise(torch.sub),
    "Mul": _elementwise(torch.mul),
    "RealDiv": _elementwise(torch.div),
    "Relu": lambda node, net: functional.relu(net),
    "Relu6": lambda node, net: functional.relu6(net),
    "Rsqrt": lambda node, net: torch.rsqrt(net),
    "ConcatV2": _concatenate,
    "Concat": _concatenate,
    "Mean": _average,
    "Squeeze": _squeeze,
    "Cast": lambda node, net: net.float(),
    **dict.fromkeys(PASSED_ON, _pass_on),
}
