"""The network as a description: the layers, shape, cost and receptive field of each end point, and the arithmetic."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from inception_v3.network import architecture
from inception_v3.network.architecture import (
    BASE_END_POINTS,
    Conv,
    Dense,
    EndPoint,
    FeatureMap,
    Layer,
    Mixed,
    Pool,
    Size,
)

Shape = tuple[int, int, int]  # (height, width, channels)


@dataclass(frozen=True)
class Calculation:
    """A step of an end point: its shapes, and how each of its figures is computed, such as "(299 − 3) / 2 + 1 = 149".

    An empty text means that there is nothing to compute.

    Attributes:
        name: the layer, or the branch or end point whose layers are joined.
        built_as: the layer in the notation of TF-Slim's table, with its width in this network; "join" where branches,
            or layers side by side, are joined along the channels.
        input: height, width and channels. The channels of a join's input are those of all its parts.
        output: the same.
        size: the height and the width of the output.
        channels: those of the output.
        parameters: the kernel, then 3 values for each channel (BatchNorm's beta, moving mean and variance), or a bias.
        macs: the multiply-accumulates for one image. In a join, parameters and multiply-accumulates are those of its
            parts.
        receptive_field: the height and the width of the receptive field, from that of the input and its stride.
    """

    name: str
    built_as: str
    input: Shape
    output: Shape
    size: tuple[str, str] = ("", "")
    channels: str = ""
    parameters: str = ""
    macs: str = ""
    receptive_field: tuple[str, str] = ("", "")


def steps(point: EndPoint) -> list[Calculation]:
    """The layers of an end point, a branch or a layer, in order, each with its arithmetic; joins follow their parts."""
    if not point.layers:
        built = built_as(point.name)[0]
        return [Calculation(point.name, built, _shape(point.output), _shape(point.output), channels="as its input")]
    branches = point.inner_branches
    if not branches:
        return list(_branch_steps(point))
    return [*(step for branch in branches for step in _branch_steps(branch)), _join(point, branches)]


def _branch_steps(branch: EndPoint) -> Iterator[Calculation]:
    (chain,) = branch.branches
    for step in chain:
        yield from map(_calculate, step)
        if len(step) > 1:
            yield _join(branch, step)


def _join(whole: EndPoint, parts: Sequence[EndPoint | Layer]) -> Calculation:
    """The outputs of branches, or of layers side by side at the end of a branch, joined along the channels."""
    shape = (*parts[0].output.size, sum(part.output.channels for part in parts))
    rows, columns = (
        f"max({', '.join(str(part.output.receptive_field[axis]) for part in parts)}) = {whole.receptive_field[axis]}"
        for axis in (0, 1)
    )
    return Calculation(
        name=whole.name,
        built_as="join",
        input=shape,
        output=shape,
        channels=_sum([part.output.channels for part in parts], "d"),
        parameters=_sum([part.parameters for part in parts]),
        macs=_sum([part.macs for part in parts]),
        receptive_field=(rows, columns),
    )


def _sum(terms: Sequence[int], form: str = ",d") -> str:
    return f"{' + '.join(format(term, form) for term in terms)} = {sum(terms):{form}}"


def _calculate(layer: Layer) -> Calculation:
    """The arithmetic of a layer."""
    is_pool = isinstance(layer.table, Pool)
    sizes = zip(layer.input.size, layer.kernel, layer.output.size, strict=True)
    before, after = layer.input.receptive_field, layer.output.receptive_field
    height, width = (_length(layer, *each) for each in sizes)
    rows, columns = (
        f"{start} + ({kernel} − 1)·{jump} = {end}"
        for start, kernel, jump, end in zip(before, layer.kernel, layer.input.jump, after, strict=True)
    )
    product = f"{layer.kernel[0]}·{layer.kernel[1]}·{layer.in_channels}·{layer.out_channels}"
    return Calculation(
        name=layer.name,
        built_as=notation(layer),
        input=_shape(layer.input),
        output=_shape(layer.output),
        size=(height, width),
        channels="as its input" if is_pool else f"{layer.out_channels} filters",
        parameters="" if is_pool else f"{product} + {_more_parameters(layer)} = {layer.parameters:,}",
        macs="" if is_pool else f"{layer.output.size[0]}·{layer.output.size[1]} · {product} = {layer.macs:,}",
        receptive_field=(rows, columns),
    )


def _length(layer: Layer, length: int, kernel: int, output: int) -> str:
    """The height or the width of a layer's output. Brackets mark what is rounded."""
    stride = layer.table.stride
    if layer.table.padding == "SAME":
        return f"⌈{length} / {stride}⌉ = {output}"
    quotient = f"({length} − {kernel}) / {stride}"
    return f"{quotient if (length - kernel) % stride == 0 else f'⌊{quotient}⌋'} + 1 = {output}"


def _more_parameters(layer: Layer) -> str:
    """The parameters beside the kernel: those of BatchNorm without a gamma, a bias, or a bias and a whole BatchNorm."""
    if layer.normalized:
        return f"3·{layer.out_channels}"
    return f"5·{layer.out_channels}" if layer.has_batch_norm else f"{layer.out_channels}"


def _shape(output: FeatureMap) -> Shape:
    return (*output.size, output.channels)


def notation(layer: Layer) -> str:
    """Write a layer as in `built_as`, with its kernel and width in this network."""
    if isinstance(layer.table, Dense):
        return _hidden_layer(layer.table)
    if isinstance(layer.table, Conv):
        return _layer(replace(layer.table, kernel=layer.kernel, width=layer.out_channels))
    return _layer(replace(layer.table, kernel=layer.kernel))


def branch_lines(point: EndPoint) -> list[str]:
    """The branches of an end point as in `built_as`, with the kernels and widths of this network."""
    if not point.layers:
        return built_as(point.name)
    return [
        " → ".join(f"({' ‖ '.join(map(notation, step))})" if len(step) > 1 else notation(step[0]) for step in chain)
        for chain in point.branches
    ]


def describe_end_point(point: EndPoint) -> dict[str, Any]:
    """Describe an end point, a branch or a layer in values that JSON can hold. Pairs are (height, width) in pixels."""
    output = point.output
    return {
        "name": point.name,
        "built_as": branch_lines(point),
        "height": point.height,
        "width": point.width,
        "channels": point.channels,
        "receptive_field": {"size": output.receptive_field, "stride": output.jump, "padding": output.padding},
        **_total([point]),
        "steps": [asdict(step) for step in steps(point)],
    }


def describe_network(**options: Any) -> dict[str, Any]:
    """Describe every end point, and the totals, in values that JSON can hold.

    The options are those of `architecture.end_points`. Parameters include BatchNorm's statistics, as in TF-Slim; MACs
    are for one image; sizes are in pixels. `inner` holds the branches and layers, which are end points too, and `steps`
    the arithmetic of each layer; see `Calculation`.

    Raises:
        ValueError: an impossible option, or an image too small.
    """
    points = architecture.end_points(**options)
    base = [point for point in points if point.name in BASE_END_POINTS]
    heads = [point for point in points if point.name not in BASE_END_POINTS]
    return {
        "options": options,
        "end_points": [
            {
                "name": point.name,
                "built_as": built_as(point.name, point.layers),
                "height": point.height,
                "width": point.width,
                "channels": point.channels,
                "receptive_field": point.receptive_field[0],
                **_total([point]),
                "inner": [
                    {"name": each.name, "height": each.height, "width": each.width, "channels": each.channels}
                    for each in point.inner
                ],
                "steps": [asdict(step) for step in steps(point)],
            }
            for point in points
        ],
        "base": _total(base),
        "heads": {point.name: _total([point]) for point in heads if point.layers},
        "total": _total(points),
    }


def _total(points: Iterable[EndPoint]) -> dict[str, int]:
    return {
        "parameters": sum(point.parameters for point in points),
        "trainable_parameters": sum(point.trainable_parameters for point in points),
        "macs": sum(point.macs for point in points),
    }


def built_as(name: str, layers: Sequence[Layer] = ()) -> list[str]:
    """Write the branches of an end point in the notation of TF-Slim's table: `1x1 48 → 5x5 64`, `1x3 384 ‖ 3x1 384`.

    `layers` are those of a hidden layer, which is not in the table.
    """
    if layers and isinstance(layers[0].table, Dense):
        return [_hidden_layer(layers[0].table)]
    heads = {
        "AuxLogits": _chain(architecture.AUX_LOGITS),
        "AvgPool_1a": _layer(architecture.LOGITS[0]),
        "PreLogits": "dropout",
        "Logits": _layer(architecture.LOGITS[1]),
        "Predictions": "softmax",
    }
    if name in heads:
        return [heads[name]]
    node = architecture.BASE[BASE_END_POINTS.index(name)]
    return [_chain(branch) for branch in node.branches] if isinstance(node, Mixed) else [_layer(node)]


def _hidden_layer(table: Dense) -> str:
    steps = [f"1x1 {table.width}", table.activation]
    if table.batch_norm is not None:
        steps.insert(1 if table.batch_norm == "before" else 2, "BatchNorm")
    return " → ".join(steps)


def _chain(steps: tuple[architecture.Step, ...]) -> str:
    return " → ".join(
        f"({' ‖ '.join(map(_layer, step))})" if isinstance(step, tuple) else _layer(step) for step in steps
    )


def _layer(layer: Conv | Pool) -> str:
    """Write one layer."""
    kind = f"{layer.kind} " if isinstance(layer, Pool) else ""
    width = f" {layer.width or 'classes'}" if isinstance(layer, Conv) else ""
    return f"{kind}{kernel_text(layer, layer.kernel)}{width}"


def kernel_text(table: Conv | Dense | Pool, kernel: Size) -> str:
    """The kernel, the stride and the padding of a layer: "3x3/2 V". A stride of 1 and SAME padding are left out."""
    stride = f"/{table.stride}" if table.stride > 1 else ""
    valid = " V" if table.padding == "VALID" and kernel != (1, 1) else ""
    return f"{kernel[0]}x{kernel[1]}{stride}{valid}"
