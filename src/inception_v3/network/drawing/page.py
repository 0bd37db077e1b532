"""The whole network on one page: the stem, the modules in rows, and the heads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from inception_v3.network.architecture import BASE_END_POINTS, STEM, EndPoint
from inception_v3.network.drawing import parts
from inception_v3.network.drawing.legend import HEIGHT as LEGEND_HEIGHT
from inception_v3.network.drawing.legend import legend
from inception_v3.network.drawing.parts import JOIN_HEIGHT, Measures, Scale, shape
from inception_v3.network.drawing.shapes import Box, Drawing, Group, Label, Line, Shape
from inception_v3.network.settings import Settings

WIDTH, RATIO = 1760.0, 2**0.5  # of A3 in landscape
MARGIN, BAND_PADDING, PADDING = 22.0, 22.0, 12.0  # around the page, inside a band, inside a card
TITLE, BAND_TITLE, ROW_GAP = 78.0, 30.0, 26.0
HEADER, BUS, FOOTER = 32.0, 38.0, 62.0  # of a card: the name, the height of the input, the figures
GAP, WIDEST_GAP = 35.0, 56.0  # between cards
ROW, LIST_WIDTH, CHAIN_WIDTH, IMAGE = 31.0, 528.0, 160.0, 96.0
MEASURES = Measures(width=58, height=30, column_gap=8, step_gap=12)


@dataclass(frozen=True)
class Card:
    """A part of a row: its size, and a function that draws it at (x, y) with a height.

    `enter` and `leave` are the heights below its top of its input and its output, for the height of the row.
    """

    width: float
    height: float
    draw: Callable[[float, float, float], list[Shape]]
    enter: float
    leave: Callable[[float], float]


def network(settings: Settings) -> Drawing:
    """The drawing of the network with these settings, for its image size."""
    points = settings.end_points()
    height, width = settings.image_size
    scale = Scale.of(points)
    stem_names = {node.name for node in STEM}
    stem = [point for point in points if point.name in stem_names]
    modules = [point for point in points if point.name in BASE_END_POINTS and point.name not in stem_names]
    rows = [
        (f"{{group}} {group[0].height}x{group[0].width}", [module_card(point, scale) for point in group])
        for group in (list(each) for _, each in groupby(modules, key=lambda point: point.name[:7]))
    ]
    first = [_image_card(height, width), _list_card("{stem}", stem, scale)]
    title = "{stem}, {group} " + rows[0][0].split()[-1] if rows else "{stem}"
    rows = [(title, [*first, *(rows[0][1] if rows else [])]), *rows[1:]]
    side = next((_auxiliary_card(point, scale) for point in points if point.name == "AuxLogits"), None)
    heads = [point for point in points if point.name not in (*BASE_END_POINTS, "AuxLogits")]
    if heads:
        rows[-1][1].append(_list_card("{main_head}", heads, scale))
    shapes: list[Shape] = []
    y = TITLE
    for number, (title, cards) in enumerate(rows):
        is_last = number == len(rows) - 1
        drawn, y = _row(title, cards, y, side if number == 1 else None, is_last)
        shapes += drawn
    page_height = max(WIDTH / RATIO, y + LEGEND_HEIGHT + MARGIN)
    shapes += legend(MARGIN, page_height - LEGEND_HEIGHT - MARGIN, WIDTH - 2 * MARGIN, scale)
    paper = Box(0, 0, WIDTH, page_height, "paper")
    return Drawing(WIDTH, page_height, "{architecture}", "{description}", (paper, *_title(settings, points), *shapes))


def _title(settings: Settings, points: Sequence[EndPoint]) -> list[Shape]:
    height, width = settings.image_size
    facts = [f"{{image}} {height}x{width}x3"]
    facts.append(
        f"{{end}}: {settings.final_endpoint}" if settings.final_endpoint else f"{settings.num_classes:,} {{classes}}"
    )
    facts.append(f"{{parameters}} {sum(point.parameters for point in points):,}")
    facts.append(f"{{macs}} {parts.millions(sum(point.macs for point in points))}")
    if settings.depth_multiplier != 1:
        facts.append(f"depth_multiplier {settings.depth_multiplier:g}")
    return [
        Label(MARGIN, 34, "Inception V3", "title", "start"),
        Label(MARGIN + 226, 37, "  ·  ".join(facts), "subtitle", "start"),
    ]


def _row(
    title: str, cards: Sequence[Card], y: float, side: Card | None, is_last: bool
) -> tuple[list[Shape], float]:
    """A row of cards with arrows between them, in a band; and the y of the next row.

    `side` is the card of the auxiliary head, which reads the output of the last of the `cards`.
    """
    height = max(card.height for card in cards)
    drawn = [*cards, *([side] if side else [])]
    left, room = MARGIN + BAND_PADDING, WIDTH - 2 * (MARGIN + BAND_PADDING)
    free = (room - sum(card.width for card in drawn)) / max(len(drawn) - 1, 1)
    gap = min(max(free, GAP), WIDEST_GAP)
    band = Box(MARGIN, y, WIDTH - 2 * MARGIN, BAND_TITLE + height + PADDING, "band", 10)
    top = y + BAND_TITLE
    shapes: list[Shape] = [band, Label(left, y + BAND_TITLE / 2, title, "band-title", "start")]
    x, ends = left, []
    for number, card in enumerate(drawn):
        shapes += card.draw(x, top, height)
        if number:
            kind = "auxiliary" if card is side else "flow"
            shapes.append(_connector(ends[-1], (x, top + card.enter), kind))
        ends.append((x + card.width, top + card.leave(height)))
        x += card.width + gap
    bottom = y + band.height
    if not is_last:
        start, middle = ends[len(cards) - 1], bottom + ROW_GAP / 2
        out, back = start[0] + GAP / 2, left - 13
        enter = bottom + ROW_GAP + BAND_TITLE + BUS
        turns = ((out, start[1]), (out, middle), (back, middle), (back, enter))
        shapes.append(Line((start, *turns, (left, enter)), "flow"))
    return shapes, bottom + ROW_GAP


def _connector(start: tuple[float, float], end: tuple[float, float], kind: str) -> Line:
    """An arrow from the right side of a card to the left side of the next card."""
    middle = start[0] + GAP / 2
    bend = ((middle, start[1]), (middle, end[1])) if abs(start[1] - end[1]) > 0.5 else ()
    return Line((start, *bend, end), kind)


def module_card(point: EndPoint, scale: Scale) -> Card:
    """An Inception module: its branches side by side, the bar that joins them, and its figures."""
    inner = sum(parts.columns(steps) for steps in point.branches)
    width = MEASURES.columns_width(inner) + 2 * PADDING
    steps = max(map(len, point.branches))
    height = BUS + 14 + MEASURES.steps_height(steps) + 30 + JOIN_HEIGHT + FOOTER

    def draw(x: float, y: float, height: float) -> list[Shape]:
        return [_module(point, x, y, width, height, scale)]

    return Card(width, height, draw, BUS, lambda height: height - FOOTER - JOIN_HEIGHT / 2)


def _module(point: EndPoint, x: float, y: float, width: float, height: float, scale: Scale) -> Group:
    bar = y + height - FOOTER - JOIN_HEIGHT
    joined, ends = parts.join_bar(parts.branches_of(point), x + PADDING, bar, width - 2 * PADDING)
    left, groups, last = x + PADDING, [], x
    for branch, (part, steps) in enumerate(zip(parts.branches_of(point), point.branches, strict=True)):
        groups.append(
            parts.branch_group(part.name, steps, part.output, left, y + BUS, y + BUS + 14, ends[branch], bar, MEASURES)
        )
        full = MEASURES.columns_width(parts.columns(steps))
        last = left + full / 2
        left += full + MEASURES.column_gap
    frame: list[Shape] = [
        Box(x, y, width, height, "card", 8),
        Label(x + PADDING, y + 18, point.name, "name", "start"),
        Line(((x, y + BUS), (last, y + BUS)), "wire", has_head=False),
        Line(((x + width - PADDING, bar + JOIN_HEIGHT / 2), (x + width, bar + JOIN_HEIGHT / 2)), "flow", False),
    ]
    figures = _figures(point, x, bar + JOIN_HEIGHT, width, scale)
    text = parts.tooltip(point.name, point.layers, point.output)
    return Group(point.name, "module", text, (*frame, *groups, *joined, *figures))


def _figures(point: EndPoint, x: float, y: float, width: float, scale: Scale) -> list[Shape]:
    """The output of an end point, its feature map and its bars, in the foot of a card."""
    return [
        parts.feature_map(point.output, x + PADDING, y + 18, scale),
        Label(x + PADDING + 70, y + 18, shape(point.output), "shape", "start"),
        *parts.bars(point.layers, x + PADDING, y + 44, x + width - PADDING, scale),
    ]


def _list_card(title: str, points: Sequence[EndPoint], scale: Scale) -> Card:
    """End points without branches, one below the other: the stem or the main head."""
    height = HEADER + ROW * len(points) + 8

    def draw(x: float, y: float, height: float) -> list[Shape]:
        shapes: list[Shape] = [
            Box(x, y, LIST_WIDTH, height, "card", 8),
            Label(x + PADDING, y + 18, title, "name", "start"),
            Label(x + 248, y + 18, "{output}", "small", "start"),
            Label(x + LIST_WIDTH - PADDING, y + 18, "{parameters}, {macs}", "small", "end"),
        ]
        for number, point in enumerate(points):
            shapes.append(_list_row(point, x, y + HEADER + ROW * (number + 0.5), scale))
            if number:
                box = x + 124 + 48
                start = y + HEADER + ROW * number - (ROW - 22) / 2
                shapes.append(Line(((box, start), (box, start + ROW - 22)), "wire"))
        return shapes

    return Card(LIST_WIDTH, height, draw, HEADER + ROW / 2, lambda _: HEADER + ROW * (len(points) - 0.5))


def _list_row(point: EndPoint, x: float, y: float, scale: Scale) -> Group:
    layer = next(iter(point.layers), None)
    text = parts.in_one_line(layer) if layer else {"PreLogits": "{dropout}", "Predictions": "{softmax}"}[point.name]
    shapes: tuple[Shape, ...] = (
        Label(x + PADDING, y, point.name, "row-name", "start"),
        Box(x + 124, y - 11, 96, 22, parts.kind(layer) if layer else "head", 4),
        Label(x + 172, y, text, "kernel"),
        parts.feature_map(point.output, x + 232, y, scale),
        Label(x + 300, y, shape(point.output), "row-shape", "start"),
        *parts.bars(point.layers, x + 385, y, x + LIST_WIDTH - PADDING, scale),
    )
    if layer and layer.name != point.name:
        text = parts.tooltip(layer.name, [layer], layer.output)
        shapes = (shapes[0], Group(layer.name, "layer", text, shapes[1:]))
    return Group(point.name, "module", parts.tooltip(point.name, point.layers, point.output), shapes)


def _auxiliary_card(point: EndPoint, scale: Scale) -> Card:
    """The auxiliary head: its layers one below the other, with their outputs."""
    height = HEADER + 14 + MEASURES.steps_height(len(point.layers)) + 12 + FOOTER

    def draw(x: float, y: float, height: float) -> list[Shape]:
        shapes: list[Shape] = [
            Box(x, y, CHAIN_WIDTH, height, "card", 8),
            Label(x + PADDING, y + 18, point.name, "name", "start"),
        ]
        middle = x + PADDING + MEASURES.width / 2
        enter = y + BUS
        shapes.append(Line(((x, enter), (middle, enter), (middle, enter + 14)), "auxiliary"))
        for number, layer in enumerate(point.layers):
            top = y + BUS + 14 + number * (MEASURES.height + MEASURES.step_gap)
            if number:
                shapes.append(Line(((middle, top - MEASURES.step_gap), (middle, top)), "wire"))
            shapes.append(parts.layer_group(layer, x + PADDING, top, MEASURES))
            place = x + PADDING + MEASURES.width + 9, top + MEASURES.height / 2
            shapes.append(Label(*place, shape(layer.output), "row-shape", "start"))
        note = y + BUS + 14 + MEASURES.steps_height(len(point.layers)) + 16
        shapes.append(Label(x + PADDING, note, "{auxiliary}", "small", "start"))
        bars = parts.bars(point.layers, x + PADDING, y + height - FOOTER + 44, x + CHAIN_WIDTH - PADDING, scale)
        figures = _figures(point, x, y + height - FOOTER, CHAIN_WIDTH, scale)[:2]
        text = parts.tooltip(point.name, point.layers, point.output)
        return [Group(point.name, "module", text, (*shapes, *figures, *bars))]

    return Card(CHAIN_WIDTH, height, draw, BUS, lambda height: height)


def _image_card(height: int, width: int) -> Card:
    """The image: one square for each of its three channels."""
    longest = max(height, width)
    drawn_height, drawn_width = 74 * height / longest, 74 * width / longest

    def draw(x: float, y: float, _: float) -> list[Shape]:
        top = y + HEADER + ROW / 2 - drawn_height / 2 - 7
        shapes: list[Shape] = [
            Box(x + 7 * number, top + 7 * number, drawn_width, drawn_height, colour, 2)
            for number, colour in enumerate(("blue", "green", "red"))
        ]
        middle = x + 7 + drawn_width / 2
        below = top + drawn_height + 28
        return [*shapes, Label(middle, below, "{image}", "note"), Label(middle, below + 17, f"{height}x{width}x3", "shape")]

    return Card(14 + drawn_width, 0, draw, 0, lambda _: HEADER + ROW / 2)
