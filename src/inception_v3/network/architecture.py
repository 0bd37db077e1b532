"""Inception V3 as data. Its layers are listed only in this file.

The tables below are the network of "Rethinking the Inception Architecture" (arXiv 1512.00567) as TF-Slim
published it (tf_slim/nets/inception_v3.py), line for line and under its variable names. `end_points` walks the
tables for a choice of options and an image size. The PyTorch module, shapes, numbers of parameters and MACs,
checkpoint names and the printed description are all derived from what it returns. Nothing here needs PyTorch.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Annotated, Literal, get_args

from inception_v3.support.arguments import Range, checked
from inception_v3.support.text import suggest

Length = Annotated[int, Range(1, 100_000)]  # of an image's side in pixels
Size = tuple[Length, Length]  # (height, width)
Padding = Literal["SAME", "VALID"]
OutputActivation = Literal["softmax", "sigmoid", "none"]  # what makes Predictions of Logits
BatchNormOrder = Literal["before", "after"] | None  # BatchNorm before or after the activation, or none


@dataclass(frozen=True)
class Conv:
    """A convolution without bias, then BatchNorm and ReLU; with `width=None` a convolution with a bias, for logits."""

    name: str
    width: int | None
    kernel: Size
    stride: int = 1
    padding: Padding = "SAME"
    shrinks: bool = False  # a kernel larger than the map shrinks to it, and the kernel's size is filled into `name`
    stddev: float | None = None  # of the initial weights; None means variance scaling


@dataclass(frozen=True)
class Pool:
    """A max or average pool. An average pool with SAME padding leaves the padding out of its mean."""

    name: str
    kind: Literal["max", "avg"]
    kernel: Size
    stride: int
    padding: Padding
    shrinks: bool = False


@dataclass(frozen=True)
class Dense:
    """A hidden layer between PreLogits and Logits: a 1x1 convolution with a bias, an activation, optional BatchNorm.

    It is not in TF-Slim; networks with a replaced head have it. `batch_norm` is the order of BatchNorm and activation.
    """

    name: str
    width: int
    activation: str
    batch_norm: "BatchNormOrder" = None
    kernel: Size = (1, 1)
    stride: int = 1
    padding: Padding = "VALID"
    shrinks: bool = False


Step = Conv | Pool | tuple[Conv, ...]  # a tuple is several convolutions of one input, joined along the channels
Branch = tuple[Step, ...]


@dataclass(frozen=True)
class Mixed:
    """An Inception module: branches that read the same input and are joined along the channels, in this order."""

    name: str
    branches: tuple[Branch, ...]

    @property
    def named_branches(self) -> Iterator[tuple[str, Branch]]:
        return ((f"Branch_{number}", branch) for number, branch in enumerate(self.branches))


def conv(name: str, width: int | None, kernel: str, stride: int = 1, padding: Padding = "SAME", **more) -> Conv:  # type: ignore[no-untyped-def]
    return Conv(name, width, _size(kernel), stride, padding, **more)


def max_pool(name: str, kernel: str, stride: int) -> Pool:
    return Pool(name, "max", _size(kernel), stride, "VALID")


def avg_pool(name: str, kernel: str, stride: int = 1, padding: Padding = "SAME", shrinks: bool = False) -> Pool:
    return Pool(name, "avg", _size(kernel), stride, padding, shrinks)


def _size(text: str) -> Size:
    height, width = text.split("x")
    return int(height), int(width)


# ------------------------------------------------------------------------------------------------ the tables

STEM: tuple[Conv | Pool, ...] = (
    conv("Conv2d_1a_3x3", 32, "3x3", 2, "VALID"),
    conv("Conv2d_2a_3x3", 32, "3x3", 1, "VALID"),
    conv("Conv2d_2b_3x3", 64, "3x3"),
    max_pool("MaxPool_3a_3x3", "3x3", 2),
    conv("Conv2d_3b_1x1", 80, "1x1", 1, "VALID"),
    conv("Conv2d_4a_3x3", 192, "3x3", 1, "VALID"),
    max_pool("MaxPool_5a_3x3", "3x3", 2),
)


def mixed_5(name: str, pooled: int, branch_1: tuple[str, str] = ("Conv2d_0a_1x1", "Conv2d_0b_5x5")) -> Mixed:
    """A module on 35x35 maps (figure 5 of the paper, with one 5x5 convolution not factorised)."""
    return Mixed(name, (
        (conv("Conv2d_0a_1x1", 64, "1x1"),),
        (conv(branch_1[0], 48, "1x1"), conv(branch_1[1], 64, "5x5")),
        (conv("Conv2d_0a_1x1", 64, "1x1"), conv("Conv2d_0b_3x3", 96, "3x3"), conv("Conv2d_0c_3x3", 96, "3x3")),
        (avg_pool("AvgPool_0a_3x3", "3x3"), conv("Conv2d_0b_1x1", pooled, "1x1")),
    ))  # fmt: skip


def mixed_6(name: str, n: int) -> Mixed:
    """A module on 17x17 maps, with 7x7 factorised into 1x7 and 7x1 (figure 6)."""
    return Mixed(name, (
        (conv("Conv2d_0a_1x1", 192, "1x1"),),
        (conv("Conv2d_0a_1x1", n, "1x1"), conv("Conv2d_0b_1x7", n, "1x7"), conv("Conv2d_0c_7x1", 192, "7x1")),
        (conv("Conv2d_0a_1x1", n, "1x1"), conv("Conv2d_0b_7x1", n, "7x1"), conv("Conv2d_0c_1x7", n, "1x7"),
         conv("Conv2d_0d_7x1", n, "7x1"), conv("Conv2d_0e_1x7", 192, "1x7")),
        (avg_pool("AvgPool_0a_3x3", "3x3"), conv("Conv2d_0b_1x1", 192, "1x1")),
    ))  # fmt: skip


def mixed_7(name: str, branch_1_3x1: str) -> Mixed:
    """A module on 8x8 maps, with an expanded filter bank: 1x3 beside 3x1 (figure 7)."""
    return Mixed(name, (
        (conv("Conv2d_0a_1x1", 320, "1x1"),),
        (conv("Conv2d_0a_1x1", 384, "1x1"),
         (conv("Conv2d_0b_1x3", 384, "1x3"), conv(branch_1_3x1, 384, "3x1"))),
        (conv("Conv2d_0a_1x1", 448, "1x1"), conv("Conv2d_0b_3x3", 384, "3x3"),
         (conv("Conv2d_0c_1x3", 384, "1x3"), conv("Conv2d_0d_3x1", 384, "3x1"))),
        (avg_pool("AvgPool_0a_3x3", "3x3"), conv("Conv2d_0b_1x1", 192, "1x1")),
    ))  # fmt: skip


# Conv_1_0c_5x5, the 3x3 convolutions called Conv2d_1a_1x1 and Mixed_7b's Conv2d_0b_3x1 look like typing errors, but
# they are the published variable names.
MODULES: tuple[Mixed, ...] = (
    mixed_5("Mixed_5b", pooled=32),
    mixed_5("Mixed_5c", pooled=64, branch_1=("Conv2d_0b_1x1", "Conv_1_0c_5x5")),
    mixed_5("Mixed_5d", pooled=64),
    Mixed("Mixed_6a", (
        (conv("Conv2d_1a_1x1", 384, "3x3", 2, "VALID"),),
        (conv("Conv2d_0a_1x1", 64, "1x1"), conv("Conv2d_0b_3x3", 96, "3x3"),
         conv("Conv2d_1a_1x1", 96, "3x3", 2, "VALID")),
        (max_pool("MaxPool_1a_3x3", "3x3", 2),),
    )),
    mixed_6("Mixed_6b", n=128),
    mixed_6("Mixed_6c", n=160),
    mixed_6("Mixed_6d", n=160),
    mixed_6("Mixed_6e", n=192),
    Mixed("Mixed_7a", (
        (conv("Conv2d_0a_1x1", 192, "1x1"), conv("Conv2d_1a_3x3", 320, "3x3", 2, "VALID")),
        (conv("Conv2d_0a_1x1", 192, "1x1"), conv("Conv2d_0b_1x7", 192, "1x7"),
         conv("Conv2d_0c_7x1", 192, "7x1"), conv("Conv2d_1a_3x3", 192, "3x3", 2, "VALID")),
        (max_pool("MaxPool_1a_3x3", "3x3", 2),),
    )),
    mixed_7("Mixed_7b", branch_1_3x1="Conv2d_0b_3x1"),
    mixed_7("Mixed_7c", branch_1_3x1="Conv2d_0c_3x1"),
)  # fmt: skip

BASE: tuple[Conv | Pool | Mixed, ...] = STEM + MODULES

AUX_INPUT = "Mixed_6e"
AUX_LOGITS: tuple[Conv | Pool, ...] = (
    avg_pool("AvgPool_1a_5x5", "5x5", 3, "VALID", shrinks=True),
    conv("Conv2d_1b_1x1", 128, "1x1"),
    conv("Conv2d_2a_{}x{}", 768, "5x5", 1, "VALID", shrinks=True, stddev=0.01),
    conv("Conv2d_2b_1x1", None, "1x1", stddev=0.001),
)

# Dropout comes between the two. The stride of 2 is the default of TF-Slim's avg_pool2d; it has an effect only on maps
# larger than 8x8.
LOGITS: tuple[Conv | Pool, ...] = (
    avg_pool("AvgPool_1a_8x8", "8x8", 2, "VALID", shrinks=True),
    conv("Conv2d_1c_1x1", None, "1x1"),
)

BASE_END_POINTS = tuple(node.name for node in BASE)
HEAD_END_POINTS = ("AuxLogits", "AvgPool_1a", "PreLogits", "Logits", "Predictions")

# The activations of hidden layers: those of torch.nn.functional without arguments. `linear` is none.
Activation = Literal["relu", "relu6", "elu", "selu", "gelu", "silu", "softplus", "tanh", "sigmoid", "linear"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)

# ------------------------------------------------------------------------------- derived from the tables


@dataclass(frozen=True)
class FeatureMap:
    """The output of a layer, a branch or a module for one image. Sizes are (height, width) in pixels.

    `receptive_field` is the size of the image region on which one pixel of the map depends, `jump` the distance in the
    image between the regions of two neighbouring pixels. The region of the first pixel starts `padding` pixels above
    and to the left of the image.
    """

    channels: int
    size: Size
    receptive_field: Size = (1, 1)
    jump: Size = (1, 1)
    padding: Size = (0, 0)


@dataclass(frozen=True)
class Layer:
    """One layer of the network for a choice of options and image size.

    `name` is TF-Slim's scope below `InceptionV3/`, such as `Mixed_5b/Branch_1/Conv2d_0a_1x1`.
    """

    name: str
    table: Conv | Dense | Pool
    kernel: Size
    input: FeatureMap
    output: FeatureMap

    @property
    def in_channels(self) -> int:
        return self.input.channels

    @property
    def out_channels(self) -> int:
        return self.output.channels

    @property
    def end_point(self) -> str:
        return self.name.split("/")[0]

    @property
    def normalized(self) -> bool:
        """Whether BatchNorm and ReLU follow, as they do after all convolutions but the two that give logits."""
        return isinstance(self.table, Conv) and self.table.width is not None

    @property
    def has_batch_norm(self) -> bool:
        """Whether the layer has BatchNorm, before or after its activation."""
        return self.normalized or (isinstance(self.table, Dense) and self.table.batch_norm is not None)

    @property
    def trainable_parameters(self) -> int:
        """The number of values in the kernel and in beta, or the bias. A gamma would add `out_channels`.

        The BatchNorm of a hidden layer has a bias before it, and always a gamma.
        """
        if isinstance(self.table, Pool):
            return 0
        weights = self.kernel[0] * self.kernel[1] * self.in_channels * self.out_channels + self.out_channels
        return weights + (2 * self.out_channels if isinstance(self.table, Dense) and self.has_batch_norm else 0)

    @property
    def parameters(self) -> int:
        """The number that TF-Slim counts: trainable parameters, and BatchNorm's moving mean and variance."""
        return self.trainable_parameters + (2 * self.out_channels if self.has_batch_norm else 0)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the convolution for one image."""
        if isinstance(self.table, Pool):
            return 0
        height, width = self.output.size
        return height * width * self.kernel[0] * self.kernel[1] * self.in_channels * self.out_channels


@dataclass(frozen=True)
class EndPoint:
    """A named output of the network: its shape, and the layers between it and the end point before it.

    `inner` holds the end points inside it: each of its layers, and each of its branches after the layers of the branch.
    Their names are TF-Slim's scopes, such as `Mixed_5b/Branch_1` and `Mixed_5b/Branch_1/Conv2d_0a_1x1`.
    """

    name: str
    output: FeatureMap
    layers: tuple[Layer, ...] = field(repr=False)
    inner: tuple["EndPoint", ...] = field(default=(), repr=False)

    @property
    def height(self) -> int:
        return self.output.size[0]

    @property
    def width(self) -> int:
        return self.output.size[1]

    @property
    def channels(self) -> int:
        return self.output.channels

    @property
    def receptive_field(self) -> Size:
        return self.output.receptive_field

    @property
    def inner_branches(self) -> list["EndPoint"]:
        """The branches of a module; empty for any other end point."""
        return [each for each in self.inner if each.inner]

    @property
    def branches(self) -> list[list[tuple[Layer, ...]]]:
        """The steps of each branch, in order. A step is one layer, or several that read the same input.

        A module has several branches. Any other end point has one, which is empty where there are no layers.
        """
        parts = [each.layers for each in self.inner_branches] or [self.layers]
        return [[tuple(step) for _, step in groupby(part, key=lambda layer: id(layer.input))] for part in parts]

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def trainable_parameters(self) -> int:
        return sum(layer.trainable_parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)


Classes = Annotated[int, Range(1, 1_000_000)]
DepthMultiplier = Annotated[float, Range(above=0, maximum=100)]
MinDepth = Annotated[int, Range(1, 10_000)]
HiddenWidth = Annotated[int, Range(1, 100_000)]
Channels = Callable[[Conv | Dense], int]  # the number of output channels of a convolution


def depth(width: int, depth_multiplier: float, min_depth: int) -> int:
    """Multiply the width of a layer, rounded down as in TF-Slim, to at least `min_depth` channels."""
    return max(int(width * depth_multiplier), min_depth)


def output_length(length: int, kernel: int, stride: int, padding: Padding) -> int:
    """Compute the height or width of a layer's output as TensorFlow does."""
    return -(-length // stride) if padding == "SAME" else (length - kernel) // stride + 1


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels to add before and after, so that the output has ceil(length / stride) pixels.

    Source: tensorflow/core/framework/common_shape_fns.cc.
    """
    total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


def check_end_point(final_endpoint: str | None) -> None:
    """Raise ValueError, with the most similar name, for a name of no layer or module of the base."""
    if final_endpoint is not None and final_endpoint not in BASE_END_POINTS:
        module = final_endpoint.split("/")[0]
        remedy = f"a module is built with all its branches, so give {module}"
        if module not in BASE_END_POINTS:
            remedy = suggest(final_endpoint, BASE_END_POINTS)
        raise ValueError(f"final_endpoint must be a layer or module of the base, not {final_endpoint!r}; {remedy}")


def unknown_end_point(name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that is not among the `known` end points. It names the most similar one."""
    return ValueError(f"no end point {name!r} in this network; {suggest(name, outer_first(known))}")


def outer_first(names: Iterable[str]) -> list[str]:
    """The names of end points, those of branches and layers after the others."""
    return sorted(names, key=lambda name: "/" in name)


def with_inner(points: Iterable[EndPoint]) -> dict[str, EndPoint]:
    """These end points and those inside them, by name, in the order in which they are computed."""
    return {each.name: each for point in points for each in (*point.inner, point)}


@checked
def end_points(
    *,
    height: Length = 299,
    width: Length = 299,
    num_classes: Classes = 1000,
    depth_multiplier: DepthMultiplier = 1.0,
    min_depth: MinDepth = 16,
    create_aux_logits: bool = True,
    global_pool: bool = False,
    final_endpoint: str | None = None,
    hidden_units: tuple[HiddenWidth, ...] = (),
    hidden_activation: Activation | tuple[Activation, ...] = "relu",
    hidden_batch_norm: BatchNormOrder = None,
    mixed_7c_pool: Literal["avg", "max"] = "avg",
) -> list[EndPoint]:
    """Walk the tables and return every end point of the network in order, with its layers and their sizes.

    AuxLogits comes after the base and before Logits. With `final_endpoint`, the network ends there and has no heads.

    Raises:
        TypeError: an option of the wrong type.
        ValueError: an impossible option, or an image too small for the layers.
    """
    check_end_point(final_endpoint)
    minimum = minimum_size(final_endpoint)
    if min(height, width) < minimum:
        raise ValueError(f"images are {height}x{width}: the network needs at least {minimum}x{minimum}")

    def channels(table: Conv | Dense) -> int:
        if isinstance(table, Dense):
            return table.width
        return num_classes if table.width is None else depth(table.width, depth_multiplier, min_depth)

    points, maps = [], {}
    net = FeatureMap(3, (height, width))
    for node in (*BASE[:-1], _with_pool(MODULES[-1], mixed_7c_pool)):
        if isinstance(node, Mixed):
            branches = [_branch(f"{node.name}/{name}", steps, net, channels) for name, steps in node.named_branches]
            net = _join(output for _, output in branches)
            layers = [layer for branch, _ in branches for layer in branch.layers]
            inner = [each for branch, _ in branches for each in (*branch.inner, branch)]
        else:
            (layers, net), inner = _chain((node,), "", net, channels), []
        maps[node.name] = net
        points.append(_end_point(node.name, net, layers, inner))
        if node.name == final_endpoint:
            return points
    if create_aux_logits:
        layers, aux_logits = _chain(AUX_LOGITS, "AuxLogits/", maps[AUX_INPUT], channels)
        points.append(_end_point("AuxLogits", aux_logits, layers))
    pool = _layer(LOGITS[0], "Logits/", net, channels, shrink_to=net.size if global_pool else None)
    points += [_end_point("AvgPool_1a", pool.output, [pool]), _end_point("PreLogits", pool.output, [])]
    net = pool.output
    for table in hidden_layers(hidden_units, hidden_activation, hidden_batch_norm):
        hidden = _layer(table, "Logits/", net, channels)
        net = hidden.output
        points.append(_end_point(table.name, net, [hidden]))
    logits = _layer(LOGITS[1], "Logits/", net, channels)
    return [
        *points,
        _end_point("Logits", logits.output, [logits]),
        _end_point("Predictions", logits.output, []),
    ]


def _with_pool(module: Mixed, kind: Literal["avg", "max"]) -> Mixed:
    """A module with this kind of pool, under the same name, at the start of its last branch.

    Mixed_7c of the 2015 graph, which FID uses, has a max pool. Every other Inception V3 has an average pool.
    """
    *others, (pool, *rest) = module.branches
    return replace(module, branches=(*others, (replace(pool, kind=kind), *rest)))  # type: ignore[type-var]


def hidden_layers(
    units: tuple[int, ...],
    activation: Activation | tuple[Activation, ...] = "relu",
    batch_norm: BatchNormOrder = None,
) -> tuple[Dense, ...]:
    """The hidden layers between PreLogits and Logits: Hidden_1, Hidden_2, ... `activation` is one for all or for each.

    Raises ValueError: not one activation for each layer.
    """
    activations = [activation] * len(units) if isinstance(activation, str) else list(activation)
    if len(activations) != len(units):
        raise ValueError(f"hidden_activation has {len(activations)} names for {len(units)} hidden layers")
    layers = zip(units, activations, strict=True)
    return tuple(Dense(f"Hidden_{number}", *layer, batch_norm) for number, layer in enumerate(layers, 1))


def minimum_size(final_endpoint: str | None = None) -> int:
    """Return the smallest height and width for which every map up to `final_endpoint` has a pixel: 75 for all maps."""
    last = BASE_END_POINTS.index(final_endpoint) if final_endpoint else len(BASE) - 1
    length = 1
    for node in reversed(BASE[: last + 1]):
        branches = node.branches if isinstance(node, Mixed) else ((node,),)
        length = max(_input_length(steps, length) for steps in branches)
    return length


def _input_length(steps: Branch, length: int) -> int:
    """Return the smallest input of a branch for an output of at least `length`."""
    for step in reversed(steps):
        table = step[0] if isinstance(step, tuple) else step
        length = (length - 1) * table.stride + (table.kernel[0] if table.padding == "VALID" else 1)
    return length


def square(size: int | Size) -> Size:
    """A size as (height, width); one number is both."""
    return (size, size) if isinstance(size, int) else size


def needs_global_pool(image_size: Size) -> bool:
    """Whether the last map is larger than the last pool's kernel.

    The pool then leaves a part of the map out, or the network has more than one prediction for an image.
    """
    height, width = image_size
    last, pool = end_points(height=height, width=width, final_endpoint=BASE_END_POINTS[-1])[-1], LOGITS[0].kernel
    return last.height > pool[0] or last.width > pool[1]


def _layer(
    table: Conv | Dense | Pool, scope: str, net: FeatureMap, channels: Channels, shrink_to: Size | None = None
) -> Layer:
    """Return a layer that reads `net`. A kernel that shrinks becomes `shrink_to`, by default at most the map's size."""
    kernel = table.kernel
    if table.shrinks:
        kernel = shrink_to or (min(kernel[0], net.size[0]), min(kernel[1], net.size[1]))
    output = FeatureMap(
        channels=net.channels if isinstance(table, Pool) else channels(table),
        size=_pair(output_length(n, k, table.stride, table.padding) for n, k in zip(net.size, kernel, strict=True)),
        receptive_field=_pair(
            field + (k - 1) * jump for field, k, jump in zip(net.receptive_field, kernel, net.jump, strict=True)
        ),
        jump=_pair(jump * table.stride for jump in net.jump),
        padding=_pair(
            padding + jump * (same_padding(n, k, table.stride)[0] if table.padding == "SAME" else 0)
            for padding, jump, n, k in zip(net.padding, net.jump, net.size, kernel, strict=True)
        ),
    )
    return Layer(scope + table.name.format(*kernel), table, kernel, net, output)


def _chain(steps: Iterable[Step], scope: str, net: FeatureMap, channels: Channels) -> tuple[list[Layer], FeatureMap]:
    """Return the layers of a branch that reads `net`, and its output."""
    layers: list[Layer] = []
    for step in steps:
        parallel = [_layer(table, scope, net, channels) for table in (step if isinstance(step, tuple) else (step,))]
        layers += parallel
        net = _join(layer.output for layer in parallel)
    return layers, net


def _branch(name: str, steps: Iterable[Step], net: FeatureMap, channels: Channels) -> tuple[EndPoint, FeatureMap]:
    """Return a branch that reads `net` as an end point, and its output."""
    layers, net = _chain(steps, f"{name}/", net, channels)
    return _end_point(name, net, layers), net


def _join(maps: Iterable[FeatureMap]) -> FeatureMap:
    """Join maps of one size along the channels. The receptive field is the smallest rectangle around theirs."""
    parts = list(maps)
    padding = _pair(max(part.padding[axis] for part in parts) for axis in (0, 1))
    end = (max(part.receptive_field[axis] - part.padding[axis] for part in parts) for axis in (0, 1))
    receptive_field = _pair(before + after for before, after in zip(padding, end, strict=True))
    return FeatureMap(sum(part.channels for part in parts), parts[0].size, receptive_field, parts[0].jump, padding)


def _end_point(
    name: str, net: FeatureMap, layers: Iterable[Layer], inner: Iterable[EndPoint] | None = None
) -> EndPoint:
    """Return an end point with the output `net`. The end points inside it are by default its layers."""
    layers = tuple(layers)
    if inner is None:
        inner = (_end_point(layer.name, layer.output, [layer], ()) for layer in layers)
    return EndPoint(name, net, layers, tuple(inner))


def feature_maps(points: Iterable[EndPoint]) -> dict[str, FeatureMap]:
    """The outputs of these end points by name, each followed by those of its branches and layers."""
    maps: dict[str, FeatureMap] = {}
    for point in points:
        maps[point.name] = point.output
        maps |= feature_maps([each for each in point.inner if each.inner] or point.inner)
    return maps


def _pair(numbers: Iterable[int]) -> Size:
    height, width = numbers
    return height, width
