"""The parts of which the drawings are composed: the box of a layer, a branch, the figures of an end point."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from inception_v3.network.architecture import Dense, EndPoint, FeatureMap, Layer, Pool
from inception_v3.network.describe import kernel_text
from inception_v3.network.drawing.shapes import Box, Group, Label, Line, Shape

Steps = Sequence[tuple[Layer, ...]]


def layer_kind(layer: Layer) -> str:
    """The kind of a layer's box, which gives its colour."""
    if isinstance(layer.table, Pool):
        return layer.table.kind
    if not layer.normalized:
        return "head"
    return "one" if layer.kernel == (1, 1) else "square" if layer.kernel[0] == layer.kernel[1] else "line"


def width_text(layer: Layer) -> str:
    """The number of channels of a convolution, or the kind of a pool."""
    return f"{{{layer.table.kind}}}" if isinstance(layer.table, Pool) else str(layer.out_channels)


def layer_text(layer: Layer) -> str:
    """A layer on one line: "3x3/2 V  32", "max 3x3/2 V", "relu 1024"."""
    if isinstance(layer.table, Dense):
        return f"{layer.table.activation}  {layer.out_channels}"
    texts = [kernel_text(layer.table, layer.kernel), width_text(layer)]
    return "  ".join(reversed(texts) if isinstance(layer.table, Pool) else texts)


def shape_text(output: FeatureMap) -> str:
    """Height, width and channels: "35x35x256"."""
    return f"{output.size[0]}x{output.size[1]}x{output.channels}"


def macs_text(count: int) -> str:
    """A number of multiply-accumulates: "312.3 M" for millions, "57.2 G" above ten thousand of them."""
    if count < 100_000:
        return f"{count:,}"
    return f"{count / 1e6:,.1f} M" if count < 1e10 else f"{count / 1e9:,.1f} G"


def parameters_text(count: int) -> str:
    """A number of parameters with all digits, or in billions as "102.4 G"."""
    return f"{count:,}" if count < 1e9 else f"{count / 1e9:,.1f} G"


def tooltip(name: str, layers: Sequence[Layer], output: FeatureMap) -> str:
    """What is known about an end point, a branch or a layer, in one line."""
    start = f"{name}, {layer_text(layers[0])}, " if len(layers) == 1 else f"{name}: "
    parts = [f"{start}{shape_text(output)}"]
    if parameters := sum(layer.parameters for layer in layers):
        parts.append(f"{{parameters}} {parameters:,}")
        parts.append(f"{{macs}} {macs_text(sum(layer.macs for layer in layers))}")
    field = output.receptive_field
    return ", ".join([*parts, f"{{field}} {field[0]}x{field[1]}"])


@dataclass(frozen=True)
class Scale:
    """The values at which the bars and the feature maps of a drawing have their full length."""

    parameters: int
    macs: int
    channels: int
    size: int

    @classmethod
    def of(cls, points: Iterable[EndPoint]) -> "Scale":
        points = list(points)
        return cls(
            max(1, *(point.parameters for point in points)),
            max(1, *(point.macs for point in points)),
            max(point.channels for point in points),
            max(max(point.output.size) for point in points),
        )


BAR, BAR_HEIGHT, BAR_STEP = 88.0, 7.0, 13.0
MAP_LENGTH, MAP_HEIGHT, MAP_OFFSET = 60.0, 24.0, 86.0
LONGEST_SHAPE = 10  # characters of a shape in the usual size of letters


def bars(layers: Sequence[Layer], x: float, y: float, right: float, scale: Scale) -> list[Shape]:
    """The bars of the parameters and of the multiply-accumulates around the height `y`, their values up to `right`."""
    shapes: list[Shape] = []
    parameters, macs = sum(layer.parameters for layer in layers), sum(layer.macs for layer in layers)
    if parameters:
        rows = (
            ("parameters", parameters / scale.parameters, parameters_text(parameters)),
            ("macs", macs / scale.macs, macs_text(macs)),
        )
        for row, (name, share, value) in enumerate(rows):
            middle = y + (row - 0.5) * BAR_STEP
            shapes.append(Box(x, middle - BAR_HEIGHT / 2, max(BAR * share, 0.5), BAR_HEIGHT, name, 1))
            shapes.append(Label(right, middle, value, "small", "end"))
    return shapes


def output_shape(output: FeatureMap, x: float, y: float, kind: str, scale: Scale) -> list[Shape]:
    """The shape of an output around the height `y`, and the feature map beside it if there is room.

    The length of the feature map is the number of channels, its height the square root of the map's height.
    """
    text = shape_text(output)
    if len(text) > LONGEST_SHAPE:
        return [Label(x, y, text, "small", "start")]
    kind = "row-shape" if len(text) == LONGEST_SHAPE else kind
    return [Label(x, y, text, kind, "start"), _feature_map(output, x + MAP_OFFSET, y, scale)]


def _feature_map(output: FeatureMap, x: float, y: float, scale: Scale) -> Box:
    height = max(MAP_HEIGHT * (max(output.size) / scale.size) ** 0.5, 2)
    return Box(x, y - height / 2, max(MAP_LENGTH * output.channels / scale.channels, 1), height, "map")


@dataclass(frozen=True)
class Measures:
    """The sizes of the boxes of layers, and the distances between them."""

    width: float
    height: float
    column_gap: float
    step_gap: float
    scale: Scale | None = None  # of the figures of a layer, which its box then shows with its name

    def columns_width(self, columns: int) -> float:
        return columns * (self.width + self.column_gap) - self.column_gap

    def steps_height(self, steps: int) -> float:
        return steps * (self.height + self.step_gap) - self.step_gap


def column_count(steps: Steps) -> int:
    """The number of layers side by side in a branch."""
    return max(map(len, steps))


def layer_group(layer: Layer, x: float, y: float, measures: Measures) -> Group:
    """The box of a layer."""
    box = Box(x, y, measures.width, measures.height, layer_kind(layer), 4)
    middle, third = x + measures.width / 2, measures.height / 2 - 7
    labels: list[Shape] = [
        Label(middle, y + measures.height / 2 - third + 0.5, kernel_text(layer.table, layer.kernel), "kernel"),
        Label(middle, y + measures.height / 2 + third - 0.5, width_text(layer), "width"),
    ]
    if measures.scale:
        labels = _details(layer, x, y, measures, measures.scale)
    return Group(layer.name, "layer", tooltip(layer.name, [layer], layer.output), (box, *labels))


def _details(layer: Layer, x: float, y: float, measures: Measures, scale: Scale) -> list[Shape]:
    """The name of a layer, its kernel and width, its output, its parameters and multiply-accumulates."""
    left, right, field = x + 10, x + measures.width - 10, layer.output.receptive_field
    return [
        Label(left, y + 15, layer.name.rpartition("/")[2], "row-name", "start"),
        Label(right, y + 15, f"{{field_short}} {field[0]}x{field[1]}", "small", "end"),
        Label(left, y + 36, layer_text(layer), "shape", "start"),
        Label(right, y + 36, shape_text(layer.output), "shape", "end"),
        *bars([layer], left, y + 63, right, scale),
    ]


def branch_group(
    branch: EndPoint, left: float, bus: float, top: float, joins: Sequence[float], bar: float, measures: Measures
) -> Group:
    """A branch: its boxes from `top`, and the lines from the input at the height `bus` to the bar of the join.

    `joins` are the x of the ends of the lines at the height `bar`, one for each layer of the last step.
    """
    (steps,) = branch.branches
    full = measures.columns_width(column_count(steps))
    shapes: list[Shape] = []
    sources: list[tuple[float, float]] = [(left + full / 2, bus)]
    for number, step in enumerate(steps):
        y = top + number * (measures.height + measures.step_gap)
        start = left + (full - measures.columns_width(len(step))) / 2
        lefts = [start + index * (measures.width + measures.column_gap) for index in range(len(step))]
        for x in (each + measures.width / 2 for each in lefts):
            shapes += [_wire(source, (x, y)) for source in sources]
        shapes += [layer_group(layer, x, y, measures) for layer, x in zip(step, lefts, strict=True)]
        sources = [(each + measures.width / 2, y + measures.height) for each in lefts]
    for (x, y), end in zip(sources, joins, strict=True):
        turn = max(bar - measures.step_gap - 8, y)
        shapes.append(Line(((x, y), (x, turn), (end, bar)), "wire", has_head=False))
    return Group(branch.name, "branch", tooltip(branch.name, branch.layers, branch.output), tuple(shapes))


def _wire(start: tuple[float, float], end: tuple[float, float]) -> Line:
    """An arrow downwards, with a bend in the middle if the ends are not above each other."""
    middle = (start[1] + end[1]) / 2 - 2
    bend = () if abs(start[0] - end[0]) < 0.5 else ((start[0], middle), (end[0], middle))
    return Line((start, *bend, end), "wire")


JOIN_HEIGHT = 17.0


def join_bar(parts: Sequence[EndPoint], left: float, y: float, full: float) -> tuple[list[Shape], list[list[float]]]:
    """The bar in which the outputs of branches are joined, to scale; for each branch the x where its lines end."""
    total = sum(part.channels for part in parts)
    shapes: list[Shape] = []
    ends = []
    x = left
    for part in parts:
        last = part.branches[0][-1]
        length = full * part.channels / total
        shapes.append(Box(x, y, length, JOIN_HEIGHT, "join"))
        if length > 7 * len(str(part.channels)):
            shapes.append(Label(x + length / 2, y + JOIN_HEIGHT / 2, str(part.channels), "small"))
        ends.append([x + length * (2 * index + 1) / (2 * len(last)) for index in range(len(last))])
        x += length
    return shapes, ends


def parts_of(point: EndPoint) -> list[EndPoint]:
    """What is joined at the end of an end point: branches, or the last layers of a branch that stand side by side."""
    last = len(point.branches[-1][-1])
    return point.inner_branches or (list(point.inner[-last:]) if last > 1 else [])
