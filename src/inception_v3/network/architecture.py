"""Inception V3 as data, written once.

The tables below are the network of "Rethinking the Inception Architecture" (arXiv 1512.00567) as TF-Slim
published it (tf_slim/nets/inception_v3.py), line for line and under its variable names. The PyTorch module,
shapes, parameter and MAC counts, checkpoint names and the printed description are all derived from them
by `end_points`, which walks the tables for one choice of options and image size. Nothing here needs PyTorch.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

Size = tuple[int, int]  # (height, width)
Padding = Literal["SAME", "VALID"]


@dataclass(frozen=True)
class Conv:
    """A convolution without bias, then BatchNorm, then ReLU; `width=None` is a logits layer: a bias alone."""

    name: str
    width: int | None
    kernel: Size
    stride: int = 1
    padding: Padding = "SAME"
    shrinks: bool = False  # the kernel shrinks to the map, and `name` is completed by its size
    stddev: float | None = None  # of the initial weights; None: variance scaling


@dataclass(frozen=True)
class Pool:
    """A maximum or an average; an average with SAME padding leaves the padding out of its mean."""

    name: str
    kind: Literal["max", "avg"]
    kernel: Size
    stride: int
    padding: Padding
    shrinks: bool = False


Step = Conv | Pool | tuple[Conv, ...]  # a tuple: several convolutions of one input, joined along the channels
Branch = tuple[Step, ...]


@dataclass(frozen=True)
class Mixed:
    """An Inception module: branches that read one input and are joined along the channels, in this order."""

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
    """35x35 (figure 5 of the paper, with one 5x5 left whole)."""
    return Mixed(name, (
        (conv("Conv2d_0a_1x1", 64, "1x1"),),
        (conv(branch_1[0], 48, "1x1"), conv(branch_1[1], 64, "5x5")),
        (conv("Conv2d_0a_1x1", 64, "1x1"), conv("Conv2d_0b_3x3", 96, "3x3"), conv("Conv2d_0c_3x3", 96, "3x3")),
        (avg_pool("AvgPool_0a_3x3", "3x3"), conv("Conv2d_0b_1x1", pooled, "1x1")),
    ))  # fmt: skip


def mixed_6(name: str, n: int) -> Mixed:
    """17x17 with 7x7 factorised into 1x7 and 7x1 (figure 6)."""
    return Mixed(name, (
        (conv("Conv2d_0a_1x1", 192, "1x1"),),
        (conv("Conv2d_0a_1x1", n, "1x1"), conv("Conv2d_0b_1x7", n, "1x7"), conv("Conv2d_0c_7x1", 192, "7x1")),
        (conv("Conv2d_0a_1x1", n, "1x1"), conv("Conv2d_0b_7x1", n, "7x1"), conv("Conv2d_0c_1x7", n, "1x7"),
         conv("Conv2d_0d_7x1", n, "7x1"), conv("Conv2d_0e_1x7", 192, "1x7")),
        (avg_pool("AvgPool_0a_3x3", "3x3"), conv("Conv2d_0b_1x1", 192, "1x1")),
    ))  # fmt: skip


def mixed_7(name: str, branch_1_3x1: str) -> Mixed:
    """8x8 with the filter bank expanded: 1x3 beside 3x1 (figure 7)."""
    return Mixed(name, (
        (conv("Conv2d_0a_1x1", 320, "1x1"),),
        (conv("Conv2d_0a_1x1", 384, "1x1"),
         (conv("Conv2d_0b_1x3", 384, "1x3"), conv(branch_1_3x1, 384, "3x1"))),
        (conv("Conv2d_0a_1x1", 448, "1x1"), conv("Conv2d_0b_3x3", 384, "3x3"),
         (conv("Conv2d_0c_1x3", 384, "1x3"), conv("Conv2d_0d_3x1", 384, "3x1"))),
        (avg_pool("AvgPool_0a_3x3", "3x3"), conv("Conv2d_0b_1x1", 192, "1x1")),
    ))  # fmt: skip


# Conv_1_0c_5x5, the 3x3 convolutions called Conv2d_1a_1x1 and Mixed_7b's Conv2d_0b_3x1 look like slips;
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

# Dropout stands between the two. The stride of 2 shows on maps larger than 8x8 alone: it is the default
# of TF-Slim's avg_pool2d, which its network leaves as it is.
LOGITS: tuple[Conv | Pool, ...] = (
    avg_pool("AvgPool_1a_8x8", "8x8", 2, "VALID", shrinks=True),
    conv("Conv2d_1c_1x1", None, "1x1"),
)

# The graph of 2015, which FID uses, takes a maximum where every other Inception V3 takes this average.
MAX_POOL_OF_2015 = "Mixed_7c/Branch_3/AvgPool_0a_3x3"

BASE_END_POINTS = tuple(node.name for node in BASE)
HEAD_END_POINTS = ("AuxLogits", "AvgPool_1a", "PreLogits", "Logits", "Predictions")

# ------------------------------------------------------------------------- what follows from the tables


@dataclass(frozen=True)
class Layer:
    """One layer with every size known.

    `name` is TF-Slim's scope below `InceptionV3/`, such as `Mixed_5b/Branch_1/Conv2d_0a_1x1`.
    Sizes are (height, width) in pixels; `jump` is the distance in input pixels between two neighbours
    of its output, `receptive_field` what one of them sees.
    """

    name: str
    table: Conv | Pool
    kernel: Size
    in_channels: int
    out_channels: int
    output_size: Size
    receptive_field: Size
    jump: Size

    @property
    def end_point(self) -> str:
        return self.name.split("/")[0]

    @property
    def normalized(self) -> bool:
        """Whether BatchNorm and ReLU follow (all convolutions but the two that give logits)."""
        return isinstance(self.table, Conv) and self.table.width is not None

    @property
    def trainable_parameters(self) -> int:
        """Kernel and offset (beta, or the logits' bias); a gamma would add `out_channels`."""
        if isinstance(self.table, Pool):
            return 0
        return self.kernel[0] * self.kernel[1] * self.in_channels * self.out_channels + self.out_channels

    @property
    def parameters(self) -> int:
        """As TF-Slim counts: the trainable ones and BatchNorm's moving mean and variance."""
        return self.trainable_parameters + (2 * self.out_channels if self.normalized else 0)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image, in the convolution alone."""
        if isinstance(self.table, Pool):
            return 0
        height, width = self.output_size
        return height * width * self.kernel[0] * self.kernel[1] * self.in_channels * self.out_channels


@dataclass(frozen=True)
class EndPoint:
    """A named tensor of the network: (height, width, channels), and what its layers add up to."""

    name: str
    height: int
    width: int
    channels: int
    receptive_field: Size
    layers: tuple[Layer, ...] = field(repr=False)

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def trainable_parameters(self) -> int:
        return sum(layer.trainable_parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)


@dataclass(frozen=True)
class _Tensor:
    """What the walk carries from layer to layer."""

    channels: int
    size: Size
    receptive_field: Size = (1, 1)
    jump: Size = (1, 1)


def depth(width: int, depth_multiplier: float, min_depth: int) -> int:
    """The width of a layer in a thinner or wider network, as TF-Slim rounds it."""
    return max(int(width * depth_multiplier), min_depth)


def output_length(length: int, kernel: int, stride: int, padding: Padding) -> int:
    """TensorFlow's size of an output: ceil(length / stride) for SAME."""
    return -(-length // stride) if padding == "SAME" else (length - kernel) // stride + 1


def check_options(num_classes: int, depth_multiplier: float, min_depth: int, final_endpoint: str | None) -> None:
    """Raise ValueError, naming the option, for one that no network can have."""
    if depth_multiplier <= 0:
        raise ValueError(f"depth_multiplier must be greater than zero, not {depth_multiplier}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, not {num_classes}")
    if min_depth < 1:
        raise ValueError(f"min_depth must be at least 1, not {min_depth}")
    if final_endpoint is not None and final_endpoint not in BASE_END_POINTS:
        raise ValueError(f"final_endpoint must be one of {', '.join(BASE_END_POINTS)}, not {final_endpoint!r}")


def end_points(
    *,
    height: int = 299,
    width: int = 299,
    num_classes: int = 1000,
    depth_multiplier: float = 1.0,
    min_depth: int = 16,
    create_aux_logits: bool = True,
    global_pool: bool = False,
    final_endpoint: str | None = None,
) -> list[EndPoint]:
    """Walk the tables: every end point of the network in order, with its layers and their sizes.

    AuxLogits comes after the base and before Logits; a network cut at `final_endpoint` has no heads.
    Raises ValueError for an impossible option or an image too small for the layers.
    """
    check_options(num_classes, depth_multiplier, min_depth, final_endpoint)
    minimum = minimum_size(final_endpoint)
    if min(height, width) < minimum:
        raise ValueError(f"images are {height}x{width}: the network needs at least {minimum}x{minimum}")

    def layer(table: Conv | Pool, scope: str, seen: _Tensor, shrink_to: Size | None = None) -> Layer:
        kernel = table.kernel
        if table.shrinks:
            kernel = shrink_to or (min(kernel[0], seen.size[0]), min(kernel[1], seen.size[1]))
        if isinstance(table, Pool):
            channels = seen.channels
        elif table.width is None:
            channels = num_classes
        else:
            channels = depth(table.width, depth_multiplier, min_depth)
        return Layer(
            name=scope + table.name.format(*kernel),
            table=table,
            kernel=kernel,
            in_channels=seen.channels,
            out_channels=channels,
            output_size=_pair(
                output_length(n, k, table.stride, table.padding) for n, k in zip(seen.size, kernel, strict=True)
            ),
            receptive_field=_pair(
                r + (k - 1) * j for r, k, j in zip(seen.receptive_field, kernel, seen.jump, strict=True)
            ),
            jump=_pair(j * table.stride for j in seen.jump),
        )

    def run(steps: Iterable[Step], scope: str, seen: _Tensor) -> tuple[list[Layer], _Tensor]:
        done: list[Layer] = []
        for step in steps:
            together = [layer(table, scope, seen) for table in (step if isinstance(step, tuple) else (step,))]
            done += together
            seen = _join(_after(one) for one in together)
        return done, seen

    found: list[EndPoint] = []

    def reached(name: str, done: Iterable[Layer], seen: _Tensor) -> None:
        found.append(EndPoint(name, *seen.size, seen.channels, seen.receptive_field, tuple(done)))

    seen = _Tensor(3, (height, width))
    at: dict[str, _Tensor] = {}
    for node in BASE:
        if isinstance(node, Mixed):
            branches = [run(steps, f"{node.name}/{name}/", seen) for name, steps in node.named_branches]
            done = [one for branch, _ in branches for one in branch]
            seen = _join(tensor for _, tensor in branches)
        else:
            done, seen = run((node,), "", seen)
        at[node.name] = seen
        reached(node.name, done, seen)
        if node.name == final_endpoint:
            return found
    if create_aux_logits:
        done, after = run(AUX_LOGITS, "AuxLogits/", at[AUX_INPUT])
        reached("AuxLogits", done, after)
    pool_table, logits_table = LOGITS
    pool = layer(pool_table, "Logits/", seen, shrink_to=seen.size if global_pool else None)
    logits = layer(logits_table, "Logits/", _after(pool))
    reached("AvgPool_1a", (pool,), _after(pool))
    reached("PreLogits", (), _after(pool))
    reached("Logits", (logits,), _after(logits))
    reached("Predictions", (), _after(logits))
    return found


def minimum_size(final_endpoint: str | None = None) -> int:
    """The smallest height and width that leave every map up to `final_endpoint` at least one pixel: 75."""
    last = BASE_END_POINTS.index(final_endpoint) if final_endpoint else len(BASE) - 1

    def enough(size: int) -> bool:
        for node in BASE[: last + 1]:
            for steps in node.branches if isinstance(node, Mixed) else ((node,),):
                after = size
                for step in steps:
                    table = step[0] if isinstance(step, tuple) else step
                    after = output_length(after, table.kernel[0], table.stride, table.padding)
                    if after < 1:
                        return False
            size = after
        return True

    return next(size for size in range(1, 1000) if enough(size))


def needs_global_pool(image_size: Size) -> bool:
    """Whether the last map is larger than the last pool, which then leaves a part of it out, or several answers."""
    height, width = image_size
    last, pool = end_points(height=height, width=width, final_endpoint=BASE_END_POINTS[-1])[-1], LOGITS[0].kernel
    return last.height > pool[0] or last.width > pool[1]


def _after(layer: Layer) -> _Tensor:
    return _Tensor(layer.out_channels, layer.output_size, layer.receptive_field, layer.jump)


def _join(tensors: Iterable[_Tensor]) -> _Tensor:
    """Along the channels; the receptive field of the whole is that of its widest part."""
    parts = list(tensors)
    assert len({part.size for part in parts}) == 1, "branches of one module end in maps of one size"
    field_of_all = max(p.receptive_field[0] for p in parts), max(p.receptive_field[1] for p in parts)
    return _Tensor(sum(p.channels for p in parts), parts[0].size, field_of_all, parts[0].jump)


def _pair(numbers: Iterable[int]) -> Size:
    height, width = numbers
    return height, width
