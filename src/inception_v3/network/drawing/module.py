"""One end point, large: each layer with its name, output, receptive field, parameters and multiply-accumulates."""

from collections.abc import Sequence
from dataclasses import replace

from inception_v3.network.architecture import EndPoint
from inception_v3.network.drawing.legend import full_bar
from inception_v3.network.drawing.parts import (
    JOIN_HEIGHT,
    Measures,
    Scale,
    branch_group,
    column_count,
    join_bar,
    macs_text,
    parts_of,
    shape_text,
    tooltip,
)
from inception_v3.network.drawing.shapes import Box, Drawing, Group, Kind, Label, Line, Shape

MARGIN, PADDING, NARROWEST = 26.0, 20.0, 860.0  # around the page, inside the card, and the width of the page
TITLE, INPUT, FIRST, LEAVING = 76.0, 42.0, 40.0, 46.0  # the heights of the title, the input, the first and last wires
FOOT, LEGEND = 56.0, 64.0
MEASURES = Measures(width=232, height=82, column_gap=16, step_gap=26)


def module(point: EndPoint) -> Drawing:
    """The drawing of an end point with layers: a module, a head, a branch or a layer."""
    branches = point.inner_branches
    chains = point.branches
    scale = Scale.of(layer for branch in branches or [point] for layer in branch.inner or [point])
    measures = replace(MEASURES, scale=scale)
    inner = measures.columns_width(sum(map(column_count, chains)))
    width = max(inner + 2 * (PADDING + MARGIN), NARROWEST)
    bus = TITLE + INPUT
    bar = bus + FIRST + measures.steps_height(max(map(len, chains))) + LEAVING
    bottom = bar + JOIN_HEIGHT + FOOT
    left = (width - inner) / 2
    parts = parts_of(point)
    joined, ends = join_bar(parts, left, bar, inner) if parts else ([], [[width / 2]])
    ends = ends if branches else [[x for end in ends for x in end]]
    groups: list[Shape] = []
    middles = []
    for branch, end, steps in zip(branches or [point], ends, chains, strict=True):
        group = branch_group(branch, left, bus, bus + FIRST, end, bar, measures)
        full = measures.columns_width(column_count(steps))
        middles.append(left + full / 2)
        if branches:
            name = Label(middles[-1] + 10, bus + FIRST / 2 - 3, branch.name.rpartition("/")[2], "row-name", "start")
            groups.append(replace(group, shapes=(*group.shapes, name)))
        else:
            groups += group.shapes
        left += full + measures.column_gap
    frame: list[Shape] = [
        Box(MARGIN, TITLE, width - 2 * MARGIN, bottom - TITLE, "card", 8),
        Label(width / 2 + 12, TITLE + 18, f"{{input}} {shape_text(point.layers[0].input)}", "shape", "start"),
        Line(((width / 2, TITLE + 8), (width / 2, bus)), "flow"),
        Line(((min([*middles, width / 2]), bus), (max([*middles, width / 2]), bus)), "wire", has_head=False),
    ]
    shapes = (*frame, *groups, *joined, *_foot(point, parts, width / 2, bar))
    text = tooltip(point.name, point.layers, point.output)
    height = bottom + LEGEND
    kind: Kind = "module" if "/" not in point.name else "branch" if point.inner else "layer"
    page = (Box(0, 0, width, height, "paper"), *_title(point), Group(point.name, kind, text, shapes))
    legend = _legend(bottom + 22, scale)
    return Drawing(width, height, f"{{part}}{{colon}}{point.name}", text, (*page, *legend))


def _title(point: EndPoint) -> list[Shape]:
    field = point.output.receptive_field
    facts = [
        f"{{output}} {shape_text(point.output)}",
        f"{{parameters}} {point.parameters:,}",
        f"{{macs}} {macs_text(point.macs)}",
        f"{{field}} {field[0]}x{field[1]}",
    ]
    return [
        Label(MARGIN, 28, point.name, "title", "start"),
        Label(MARGIN, 58, "  ·  ".join(facts), "subtitle", "start"),
    ]


def _foot(point: EndPoint, parts: Sequence[EndPoint], middle: float, bar: float) -> list[Shape]:
    """The arrow to the output, and the sum of the channels."""
    start = bar + JOIN_HEIGHT if parts else bar
    terms = " + ".join(str(part.channels) for part in parts)
    text = f"{{output}} {shape_text(point.output)}"
    labels = [Label(middle + 12, bar + JOIN_HEIGHT + 30, text, "shape", "start")]
    if parts:
        text = f"{{joined}}{{colon}}{terms} = {point.channels}"
        labels.append(Label(middle - 12, bar + JOIN_HEIGHT + 30, text, "note", "end"))
    return [Line(((middle, start), (middle, bar + JOIN_HEIGHT + 48)), "flow"), *labels]


def _legend(y: float, scale: Scale) -> list[Shape]:
    return [
        *full_bar("parameters", MARGIN, y, scale),
        *full_bar("macs", MARGIN + 440, y, scale),
        Label(MARGIN, y + 22, "{legend_notation_line}", "note", "start"),
    ]
