"""The network as engines run it: a short list of operations, rewritten exactly, with its numbers as NumPy arrays.

`build` takes a trained network apart once: BatchNorm goes into the convolutions, the scaling of pixels into the first
one, dropout and the auxiliary head go. `swap_pools` is a rewriting that leaves less arithmetic (docs/performance.md).
All are exact in real arithmetic; their rounding is measured when an engine is made (check.py).
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.engines.base import FEATURES, IMAGES, LOGITS, PIXELS
from inception_v3.network.architecture import Size

if TYPE_CHECKING:
    from inception_v3.network.layers import Conv2d, Pool2d
    from inception_v3.weights.model import InceptionV3


Numbers = NDArray[np.floating]  # float32, or float64 of a network in float64


@dataclass(frozen=True)
class Convolution:
    """A convolution with symmetric borders of zeros, (height, width), then a bias, then ReLU where asked for."""

    output: str
    input: str
    kernel: Numbers = field(repr=False)  # OIHW
    bias: Numbers | None = field(repr=False)
    stride: int = 1
    border: Size = (0, 0)
    relu: bool = True


@dataclass(frozen=True)
class Pool:
    """A maximum or an average of `kernel`; None is the whole map."""

    output: str
    input: str
    kind: Literal["max", "avg"]
    kernel: Size | None
    stride: int = 1
    border: Size = (0, 0)
    count_padding: bool = False


@dataclass(frozen=True)
class Activation:
    """A bias for every channel, then ReLU."""

    output: str
    input: str
    bias: Numbers | None = field(repr=False)


@dataclass(frozen=True)
class Concat:
    """Joined along the channels."""

    output: str
    inputs: tuple[str, ...]


Operation = Convolution | Pool | Activation | Concat


@dataclass(frozen=True)
class Graph:
    """Operations in an order in which they can run. `input` is PIXELS, IMAGES, or a map (N, input_channels, h, w) that
    another graph gives; other names are operations' outputs.

    `image_size` is (height, width), or None where pictures of any size go in. `outputs` are end points under
    TF-Slim's names: maps (N, C, h, w); Logits (N, num_classes) and AvgPool_1a (N, features) where there is one place.
    """

    operations: tuple[Operation, ...]
    image_size: Size | None
    outputs: tuple[str, ...] = (LOGITS, FEATURES)
    input: str = PIXELS
    input_channels: int = 3

    def channels(self) -> dict[str, int]:
        """How many channels each tensor has."""
        known = {self.input: self.input_channels}
        for operation in self.operations:
            match operation:
                case Convolution():
                    known[operation.output] = operation.kernel.shape[0]
                case Pool() | Activation():
                    known[operation.output] = known[operation.input]
                case Concat():
                    known[operation.output] = sum(known[name] for name in operation.inputs)
        return known


def build(
    model: "InceptionV3",
    *,
    any_size: bool = False,
    outputs: Collection[str] = (LOGITS, FEATURES),
    from_pixels: bool = True,
) -> Graph:
    """The network, folded, from pixels 0 to 255 to the named end points; with `from_pixels=False` from scaled floats.

    Raises ValueError: an end point that is not there or not part of inference; with `any_size` or an image size of its
    own, a head that gives a map of logits rather than one answer.
    """
    names = [*model.base_end_points]
    heads = [] if model.settings.final_endpoint else [FEATURES, LOGITS]
    operations: list[Operation] = []
    net = start = PIXELS if from_pixels else IMAGES
    for name in names:
        operations += _module(model.get_submodule(name), name, net)
        net = name
    if heads and {*heads} & {*outputs}:
        operations += _head(model, net, any_size)
    made = {operation.output for operation in operations}
    for name in outputs:
        if name not in made:
            raise ValueError(f"no end point {name!r} to compute; there are {', '.join((*names, *heads))}")
    graph = Graph(tuple(operations), None if any_size else model.preprocessing.image_size, tuple(outputs), start)
    return needed(_with_scaling(graph, model.preprocessing) if from_pixels else graph)


def _module(module: Any, name: str, net: str) -> Iterator[Operation]:
    from inception_v3.network.layers import Conv2d, Pool2d

    if isinstance(module, Conv2d):
        yield _convolution(module, name, net)
    elif isinstance(module, Pool2d):
        yield _pool(module, name, net)
    else:
        ends = []
        for branch_name, branch in module.named_children():
            end = net
            for step in branch.steps:
                outputs = [f"{name}/{branch_name}/{layer}" for layer in step]
                for layer, output in zip(step, outputs, strict=True):
                    yield from _module(branch.get_submodule(layer), output, end)
                if len(outputs) > 1:
                    yield Concat(f"{name}/{branch_name}/concat", tuple(outputs))
                end = outputs[0] if len(outputs) == 1 else f"{name}/{branch_name}/concat"
            ends.append(end)
        yield Concat(name, tuple(ends))


def _convolution(layer: "Conv2d", name: str, net: str) -> Convolution:
    """BatchNorm of known statistics is a factor and an offset; both are worked out in float64."""
    kernel = layer.weights.detach().cpu().double()
    norm = layer.BatchNorm
    if norm is None:
        assert layer.biases is not None
        bias = layer.biases.detach().cpu().double()
    else:
        factor = (norm.moving_variance.detach().cpu().double() + norm.epsilon).rsqrt()
        if norm.gamma is not None:
            factor = factor * norm.gamma.detach().cpu().double()
        bias = norm.beta.detach().cpu().double() - norm.moving_mean.detach().cpu().double() * factor
        kernel = kernel * factor.view(-1, 1, 1, 1)
    border = _border(layer.kernel, layer.stride, layer.padding)
    if layer.weights.dtype.itemsize < 8:
        kernel, bias = kernel.float(), bias.float()
    return Convolution(name, net, kernel.numpy(), bias.numpy(), layer.stride, border, relu=norm is not None)


def _pool(layer: "Pool2d", name: str, net: str) -> Pool:
    border = _border(layer.kernel, layer.stride, layer.padding)
    return Pool(name, net, layer.kind, layer.kernel, layer.stride, border, layer.count_padding)


def _border(kernel: Size, stride: int, padding: str) -> Size:
    """SAME is symmetric, and the same for every size, where nothing is strided and kernels are odd: in all of it."""
    if padding == "VALID":
        return 0, 0
    assert (stride, kernel[0] % 2, kernel[1] % 2) == (1, 1, 1)
    return kernel[0] // 2, kernel[1] // 2


def _head(model: "InceptionV3", net: str, any_size: bool) -> Iterator[Operation]:
    from inception_v3.network import architecture
    from inception_v3.network.layers import Conv2d, Pool2d

    assert model.Logits is not None
    pool, classify = model.Logits
    assert isinstance(pool, Pool2d)
    assert isinstance(classify, Conv2d)
    kernel: Size | None = None
    if not model.settings.global_pool:
        if any_size:
            raise ValueError("a network that takes any size needs global_pool=True: its head averages 8x8 places")
        height, width = model.preprocessing.image_size
        points = architecture.end_points(height=height, width=width, create_aux_logits=False)
        last = next(point for point in points if point.name == net)
        kernel = min(pool.kernel[0], last.height), min(pool.kernel[1], last.width)
        down = architecture.output_length(last.height, kernel[0], pool.stride, "VALID")
        across = architecture.output_length(last.width, kernel[1], pool.stride, "VALID")
        if (down, across) != (1, 1):
            raise ValueError(f"pictures of {height}x{width} give a map of logits; build it with global_pool=True")
        kernel = None if kernel == (last.height, last.width) else kernel
    yield Pool(FEATURES, net, "avg", kernel, 1 if kernel is None else pool.stride)
    yield _convolution(classify, LOGITS, FEATURES)


def _with_scaling(graph: Graph, preprocessing: Preprocessing) -> Graph:
    """(pixel / 255 - mean) / std goes into the first convolution, which has no border that would stay unscaled."""
    first, *rest = graph.operations
    assert isinstance(first, Convolution)
    assert first.bias is not None
    assert first.border == (0, 0)
    std = 255 * np.array(preprocessing.std, np.float64).reshape(1, 3, 1, 1)
    mean = np.array(preprocessing.mean, np.float64).reshape(1, 3, 1, 1) * 255
    kernel = first.kernel.astype(np.float64) / std
    bias = first.bias.astype(np.float64) - (kernel * mean).sum((1, 2, 3))
    dtype = first.kernel.dtype
    first = replace(first, kernel=kernel.astype(dtype), bias=bias.astype(dtype))
    return replace(graph, operations=(first, *rest))


def needed(graph: Graph) -> Graph:
    """Without the operations that no output follows from."""
    wanted, kept = set(graph.outputs), []
    for operation in reversed(graph.operations):
        if operation.output in wanted:
            kept.append(operation)
            wanted |= set(inputs_of(operation))
    return replace(graph, operations=tuple(reversed(kept)))


def inputs_of(operation: Operation) -> tuple[str, ...]:
    return operation.inputs if isinstance(operation, Concat) else (operation.input,)


def split(graph: Graph) -> tuple[Graph, Graph]:
    """The stem, whose convolutions and maxima follow one another, and the rest, which reads its last map alone."""
    readers = _readers(graph)
    stem: list[Operation] = []
    net = graph.input
    for operation in graph.operations:
        maximum = isinstance(operation, Pool) and operation.kind == "max"
        if not (maximum or isinstance(operation, Convolution)) or operation.output in graph.outputs:
            break
        if len(readers[net]) > 1:
            break
        stem.append(operation)
        net = operation.output
    channels = graph.channels()[net]
    rest = replace(graph, operations=graph.operations[len(stem) :], image_size=None, input=net, input_channels=channels)
    return replace(graph, operations=tuple(stem), outputs=(net,)), rest


def swap_pools(graph: Graph) -> Graph:
    """1x1 convolution of an average: the average of the convolution, which has fewer channels.

    A pool takes the same weights in every channel and the convolution in every place, so that the two commute whatever
    the borders. The bias stays inside where the pool leaves padding out of its mean, else it goes in after.
    """
    readers = _readers(graph)
    swapped: dict[str, tuple[Operation, ...]] = {}
    for pool in graph.operations:
        if not isinstance(pool, Pool) or pool.kind != "avg" or pool.stride != 1 or pool.kernel is None:
            continue
        following = readers.get(pool.output, [])
        if len(following) != 1 or pool.output in graph.outputs:
            continue
        conv = following[0]
        if not isinstance(conv, Convolution) or conv.kernel.shape[2:] != (1, 1) or conv.stride != 1 or not conv.relu:
            continue
        first, averaged = f"{conv.output}/product", f"{conv.output}/average"
        inside, after = (None, conv.bias) if pool.count_padding else (conv.bias, None)
        swapped[pool.output] = ()
        swapped[conv.output] = (
            replace(conv, output=first, input=pool.input, bias=inside, relu=False),
            replace(pool, output=averaged, input=first),
            Activation(conv.output, averaged, after),
        )
    operations = [new for old in graph.operations for new in swapped.get(old.output, (old,))]
    return replace(graph, operations=tuple(operations))


def _readers(graph: Graph) -> dict[str, list[Operation]]:
    readers: dict[str, list[Operation]] = {}
    for operation in graph.operations:
        for name in inputs_of(operation):
            readers.setdefault(name, []).append(operation)
    return readers
