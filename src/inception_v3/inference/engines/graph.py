"""The network as the engines run it: a list of operations with their weights as NumPy arrays.

`build_graph` converts a trained network. BatchNorm is folded into the convolutions and the scaling of pixels into the
first convolution. Dropout is dropped, and so is the auxiliary head unless it is an output. `swap_pools` then moves
pools to reduce the arithmetic (docs/performance.md). Both are exact in real arithmetic. Export measures their rounding
errors (exported/check.py).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.engines.base import FEATURES, IMAGES_INPUT, LOGITS, PEAK, PIXELS_INPUT, PLACE
from inception_v3.network import architecture
from inception_v3.network.architecture import Size

if TYPE_CHECKING:
    from torch import Tensor

    from inception_v3.network.layers import BatchNorm, Conv2d, HiddenLayer
    from inception_v3.weights.model import InceptionV3


AUX = "AuxLogits"
FloatArray = NDArray[np.floating]  # float32; float64 if the network is float64


@dataclass(frozen=True)
class Layer:
    """An operation on one tensor."""

    output: str
    input: str

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.input,)


@dataclass(frozen=True)
class Convolution(Layer):
    """A convolution with symmetric zero padding (height, width), followed by an optional bias and an optional ReLU."""

    kernel: FloatArray = field(repr=False)  # OIHW
    bias: FloatArray | None = field(repr=False)
    stride: int = 1
    padding: Size = (0, 0)
    relu: bool = True


@dataclass(frozen=True)
class Pooling(Layer):
    """Maximum or average over windows of `kernel` (height, width). `kernel=None` is the whole map."""

    kind: Literal["max", "avg"]
    kernel: Size | None
    stride: int = 1
    padding: Size = (0, 0)
    count_padding: bool = False


@dataclass(frozen=True)
class Activation(Layer):
    """An optional bias per channel, followed by `kind`, one of architecture.ACTIVATIONS or softmax."""

    bias: FloatArray | None = field(repr=False)
    kind: str = "relu"


@dataclass(frozen=True)
class Place(Layer):
    """The index, in row-major order, of the first maximum of each channel of a map: float32 (N, C, 1)."""


@dataclass(frozen=True)
class Concat:
    """Concatenation along the channels. With one input, it is the same tensor under another name."""

    output: str
    inputs: tuple[str, ...]


Operation = Convolution | Pooling | Activation | Place | Concat


@dataclass(frozen=True)
class Graph:
    """The operations of a network, in an order in which they can run.

    An operation refers to its inputs by the names of earlier outputs.

    Attributes:
        image_size: (height, width) of the images, or None for any size.
        outputs: end points under TF-Slim's names. Maps are (N, C, h, w); those of the heads are vectors (N, C), such
            as Logits (N, num_classes).
        input: PIXELS_INPUT, IMAGES_INPUT, or a map (N, input_channels, h, w) that another graph computes.
    """

    operations: tuple[Operation, ...]
    image_size: Size | None
    outputs: tuple[str, ...] = (LOGITS, FEATURES)
    input: str = PIXELS_INPUT
    input_channels: int = 3

    def channels(self) -> dict[str, int]:
        """The number of channels of each tensor, by name."""
        known = {self.input: self.input_channels}
        for operation in self.operations:
            match operation:
                case Convolution():
                    known[operation.output] = operation.kernel.shape[0]
                case Pooling() | Activation() | Place():
                    known[operation.output] = known[operation.input]
                case Concat():
                    known[operation.output] = sum(known[name] for name in operation.inputs)
        return known


def build_graph(
    model: "InceptionV3",
    *,
    any_size: bool = False,
    outputs: Collection[str] = (LOGITS, FEATURES),
    from_pixels: bool = True,
) -> Graph:
    """Convert a trained network into a graph that computes the end points `outputs`.

    The input is uint8 pixels (N, H, W, 3), 0 to 255. With `from_pixels=False` it is scaled floats (N, 3, H, W).

    Raises ValueError: an unknown end point; `any_size` for a network without global_pool or for the auxiliary head; an
    image size for which a head returns a map of logits, or that the auxiliary head was not built for.
    """
    known = architecture.with_inner(model.settings.end_points())
    for name in outputs:
        if name not in known:
            raise architecture.unknown_end_point(name, known)
    operations: list[Operation] = []
    net = start = PIXELS_INPUT if from_pixels else IMAGES_INPUT
    for name in model.base_end_points:
        operations += _module(model.get_submodule(name), name, net)
        net = name
    heads = {name.split("/")[0] for name in outputs} - {*model.base_end_points}
    if AUX in heads:
        operations += _aux_head(model, any_size)
    if heads - {AUX}:
        operations += _head(model, net, any_size)
    graph = Graph(tuple(operations), None if any_size else model.preprocessing.image_size, tuple(outputs), start)
    return prune(_fold_scaling(graph, model.preprocessing) if from_pixels else graph)


def _module(module: Any, name: str, net: str) -> Iterator[Operation]:
    """The operations of a layer or an Inception module that reads the tensor `net` and writes the tensor `name`."""
    from inception_v3.network.layers import Conv2d, Pool2d

    if isinstance(module, Conv2d):
        yield _convolution(module, name, net, module.BatchNorm, relu=module.BatchNorm is not None)
    elif isinstance(module, Pool2d):
        padding = _padding(module.kernel, module.padding)
        yield Pooling(name, net, module.kind, module.kernel, module.stride, padding, module.count_padding)
    else:
        branch_outputs = []
        for branch_name, branch in module.named_children():
            end = net
            for step in branch.steps:
                outputs = [f"{name}/{branch_name}/{layer}" for layer in step]
                for layer, output in zip(step, outputs, strict=True):
                    yield from _module(branch.get_submodule(layer), output, end)
                end = outputs[0]
                if len(outputs) > 1:
                    end = f"{name}/{branch_name}/concat"
                    yield Concat(end, tuple(outputs))
            yield Concat(f"{name}/{branch_name}", (end,))
            branch_outputs.append(end)
        yield Concat(name, tuple(branch_outputs))


def _convolution(layer: "Conv2d", name: str, net: str, norm: "BatchNorm | None", relu: bool) -> Convolution:
    """Convert a convolution, with the BatchNorm that follows it folded in. The folding is computed in float64."""
    kernel = layer.weights.detach().cpu().double()
    bias = kernel.new_zeros(len(kernel)) if layer.biases is None else layer.biases.detach().cpu().double()
    if norm is not None:
        factor, offset = factor_and_offset(norm)
        kernel, bias = kernel * factor.view(-1, 1, 1, 1), bias * factor + offset
    if layer.weights.dtype.itemsize < 8:
        kernel, bias = kernel.float(), bias.float()
    padding = _padding(layer.kernel, layer.padding)
    return Convolution(name, net, kernel.numpy(), bias.numpy(), layer.stride, padding, relu)


def factor_and_offset(norm: "BatchNorm") -> tuple["Tensor", "Tensor"]:
    """The factor and the offset (C,), in float64, by which BatchNorm changes its input at inference."""
    tensors = {name: tensor.detach().cpu().double() for name, tensor in norm.state_dict().items()}
    factor = (tensors["moving_variance"] + norm.epsilon).rsqrt() * tensors.get("gamma", 1.0)
    return factor, tensors["beta"] - tensors["moving_mean"] * factor


def _padding(kernel: Size, padding: str) -> Size:
    """The padding (height, width) on each side of the input.

    Every SAME layer here has stride 1 and an odd kernel, so the padding is symmetric and the same at every size.
    """
    return (0, 0) if padding == "VALID" else (kernel[0] // 2, kernel[1] // 2)


def _head(model: "InceptionV3", net: str, any_size: bool) -> Iterator[Operation]:
    """The average pool, the hidden layers and the logits. Raises ValueError if the logits would be a map."""
    from inception_v3.network.layers import HiddenLayer

    assert model.Logits is not None
    (pool_name, _), *hidden, (classifier_name, classifier) = model.Logits.named_children()
    window = None if model.settings.global_pool else _head_window(model, net, any_size)
    yield Pooling(FEATURES, net, "avg", window, 1 if window is None else architecture.LOGITS[0].stride)
    yield Concat(f"Logits/{pool_name}", (FEATURES,))
    yield Concat("PreLogits", (FEATURES,))
    net = FEATURES
    for name, layer in hidden:
        assert isinstance(layer, HiddenLayer)
        yield from _hidden_layer(layer, name, net)
        yield Concat(f"Logits/{name}", (name,))
        net = name
    yield from _module(classifier, LOGITS, net)
    yield Concat(f"Logits/{classifier_name}", (LOGITS,))
    kind = model.settings.output_activation
    yield Concat("Predictions", (LOGITS,)) if kind == "none" else Activation("Predictions", LOGITS, None, kind)


def _aux_head(model: "InceptionV3", any_size: bool) -> Iterator[Operation]:
    """The auxiliary head for images of the model's size. Raises ValueError: it does not fit their size."""
    assert model.AuxLogits is not None
    if any_size:
        raise ValueError(f"{AUX} is for one image size; leave out --any-size, or {AUX}")
    size = model.preprocessing.image_size
    (table,) = (each for each in architecture.end_points(height=size[0], width=size[1]) if each.name == AUX)
    pooling, _, convolution, _ = table.layers
    names = [f"{AUX}/{name}" for name, _ in model.AuxLogits.named_children()]
    _, reduce, convolve, classify = model.AuxLogits
    if convolution.kernel != convolve.kernel:
        raise ValueError(
            f"images of {size[0]}x{size[1]} do not fit {AUX}, which was built for another size; leave it out"
        )
    yield Pooling(names[0], architecture.AUX_INPUT, "avg", pooling.kernel, pooling.table.stride)
    yield from _module(reduce, names[1], names[0])
    yield from _module(convolve, names[2], names[1])
    net = names[2]
    if model.settings.global_pool:
        net = f"{AUX}/mean"
        yield Pooling(net, names[2], "avg", None)
    elif convolution.output.size != (1, 1):
        raise ValueError(f"images of {size[0]}x{size[1]} give a map of {AUX}; build the network with global_pool=True")
    yield from _module(classify, AUX, net)
    yield Concat(names[3], (AUX,))


def _hidden_layer(layer: "HiddenLayer", name: str, net: str) -> Iterator[Operation]:
    """A hidden layer. BatchNorm before the activation is folded in; after it, it is a convolution of its own."""
    before, after = (layer.BatchNorm, None) if layer.batch_norm_first else (None, layer.BatchNorm)
    steps: list[Operation] = [_convolution(layer, f"{name}/linear", net, before, relu=layer.activation == "relu")]
    if layer.activation not in ("relu", "linear"):
        steps.append(Activation(f"{name}/activation", steps[-1].output, None, layer.activation))
    if after is not None:
        factor, offset = (values.to(layer.weights.dtype).numpy() for values in factor_and_offset(after))
        steps.append(
            Convolution(f"{name}/BatchNorm", steps[-1].output, np.diag(factor)[..., None, None], offset, relu=False)
        )
    yield from (*steps[:-1], replace(steps[-1], output=name))


def _head_window(model: "InceptionV3", net: str, any_size: bool) -> Size | None:
    """The window of the average pool at the model's image size, or None if it covers the whole map.

    Raises ValueError if the map has several windows.
    """
    if any_size:
        raise ValueError("a network for any size needs global_pool=True: this head averages windows of 8x8")
    height, width = model.preprocessing.image_size
    points = {
        point.name: point for point in architecture.end_points(height=height, width=width, create_aux_logits=False)
    }
    last, pooled = points[net], points[FEATURES]
    if (pooled.height, pooled.width) != (1, 1):
        raise ValueError(f"images of {height}x{width} give a map of logits; build the network with global_pool=True")
    (pool,) = pooled.layers
    return None if pool.kernel == (last.height, last.width) else pool.kernel


def _fold_scaling(graph: Graph, preprocessing: Preprocessing) -> Graph:
    """Fold (pixel / 255 - mean) / std into the first convolution.

    That convolution has no padding, which would have to be scaled too.
    """
    first, *rest = graph.operations
    assert isinstance(first, Convolution)
    assert first.bias is not None
    std = 255 * np.array(preprocessing.std, np.float64).reshape(1, 3, 1, 1)
    mean = np.array(preprocessing.mean, np.float64).reshape(1, 3, 1, 1) * 255
    kernel = first.kernel.astype(np.float64) / std
    bias = first.bias.astype(np.float64) - (kernel * mean).sum((1, 2, 3))
    dtype = first.kernel.dtype
    folded = replace(first, kernel=kernel.astype(dtype), bias=bias.astype(dtype))
    return replace(graph, operations=(folded, *rest))


def prune(graph: Graph) -> Graph:
    """Remove the operations that no output depends on."""
    needed, kept = set(graph.outputs), []
    for operation in reversed(graph.operations):
        if operation.output in needed:
            kept.append(operation)
            needed |= set(operation.inputs)
    return replace(graph, operations=tuple(reversed(kept)))


def add_peaks(graph: Graph, names: Iterable[str]) -> Graph:
    """Replace these outputs, which are maps (N, C, h, w), by two vectors (N, C) for each.

    "NAME/peak" is the maximum of each channel, "NAME/place" its index in row-major order: row * w + column. Of equal
    maxima it is the first one. So the maps themselves need not leave the engine.
    """
    added = {name: peak_operations(name) for name in names}
    outputs = [
        new for name in graph.outputs for new in ([each.output for each in added[name]] if name in added else [name])
    ]
    operations = (*graph.operations, *(operation for pair in added.values() for operation in pair))
    return replace(graph, operations=operations, outputs=tuple(outputs))


def peak_operations(name: str) -> "tuple[Pooling, Place]":
    """The operations of `add_peaks` for one map."""
    return Pooling(f"{name}{PEAK}", name, "max", None), Place(f"{name}{PLACE}", name)


def split_stem(graph: Graph) -> tuple[Graph, Graph]:
    """Split into the stem and the rest.

    The stem is the leading chain of convolutions and max pools. The rest reads only the last map of the stem. The stem
    ends before the first operation that is an output of the graph.
    """
    readers = Counter(name for operation in graph.operations for name in operation.inputs)
    stem: list[Operation] = []
    net = graph.input
    for operation in graph.operations:
        max_pool = isinstance(operation, Pooling) and operation.kind == "max"
        fits = max_pool or isinstance(operation, Convolution)
        if not fits or operation.output in graph.outputs or readers[net] > 1:
            break
        stem.append(operation)
        net = operation.output
    channels = graph.channels()[net]
    rest = replace(graph, operations=graph.operations[len(stem) :], image_size=None, input=net, input_channels=channels)
    return replace(graph, operations=tuple(stem), outputs=(net,)), rest


def swap_pools(graph: Graph) -> Graph:
    """Move average pools behind the 1x1 convolution that follows them, where there are fewer channels to average.

    The two commute for every padding: a pool has the same weights in every channel, and a 1x1 convolution the same
    weights at every position. If the pool ignores its padding, the bias commutes too and stays in the convolution. If
    it counts the padding, the bias is added after the pool.
    """
    readers = Counter(name for operation in graph.operations for name in operation.inputs)
    pools = {
        operation.output: operation
        for operation in graph.operations
        if isinstance(operation, Pooling) and operation.kind == "avg" and operation.stride == 1 and operation.kernel
    }
    swapped: dict[str, tuple[Operation, ...]] = {}
    for conv in graph.operations:
        if not isinstance(conv, Convolution) or conv.kernel.shape[2:] != (1, 1) or conv.stride != 1 or not conv.relu:
            continue
        pool = pools.get(conv.input)
        if pool is None or readers[pool.output] > 1 or pool.output in graph.outputs:
            continue
        product, average = f"{conv.output}/product", f"{conv.output}/average"
        inner_bias, outer_bias = (None, conv.bias) if pool.count_padding else (conv.bias, None)
        swapped[pool.output] = ()
        swapped[conv.output] = (
            replace(conv, output=product, input=pool.input, bias=inner_bias, relu=False),
            replace(pool, output=average, input=product),
            Activation(conv.output, average, outer_bias),
        )
    operations = [new for old in graph.operations for new in swapped.get(old.output, (old,))]
    return replace(graph, operations=tuple(operations))
