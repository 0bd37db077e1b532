"""The whole network on one page: the stem, the modules in rows, and the heads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from inception_v3.network.architecture import BASE_END_POINTS, STEM, EndPoint
from inception_v3.network.drawing.legend import HEIGHT as LEGEND_HEIGHT
from inception_v3.network.drawing.legend import legend
from inception_v3.network.drawing.parts import (
    JOIN_HEIGHT,
    Measures,
    Scale,
    bars,
    branch_group,
    column_count,
    join_bar,
    layer_group,
    layer_kind,
    layer_text,
    macs_text,
    output_shape,
    tooltip,
)
from inception_v3.network.drawing.shapes import Box, Drawing, Group, Label, Line, Point, Shape
from inception_v3.network.drawing.words import translate
from inception_v3.network.settings import Settings

WIDTH, RATIO = 1760.0, 2**0.5  # of A3 in landscape
MARGIN, BAND_PADDING, PADDING = 22.0, 22.0, 12.0  # around the page, inside a band, inside a card
TITLE, BAND_TITLE, ROW_GAP = 64.0, 27.0, 22.0
HEADER, BUS, FOOTER = 32.0, 37.0, 57.0  # of a card: the name, the height of the input, the figures
GAP, WIDEST_GAP = 35.0, 56.0  # between cards
ROW, LIST_WIDTH, CHAIN_WIDTH, IMAGE = 31.0, 528.0, 160.0, 88.0
SHARES_HEIGHT = 122.0
MEASURES = Measures(width=58, height=30, column_gap=8, step_gap=12)

Shares = dict[str, tuple[int, int]]  # the parameters and the multiply-accumulates of each part of the network


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
        (f"{{group}} {group[0].height}x{group[0].width}", [_module_card(point, scale) for point in group])
        for group in (list(each) for _, each in groupby(modules, key=lambda point: point.name[:7]))
    ]
    first = [_image_card(height, width), _list_card("{stem}", stem, scale, {})]
    if rows:
        (title, cards), *others = rows
        rows = [(f"{{stem}}  ·  {title}", [*first, *cards]), *others]
    else:
        rows = [("{stem}", first)]
    side = next((_auxiliary_card(point, scale) for point in points if point.name == "AuxLogits"), None)
    heads = [point for point in points if point.name not in (*BASE_END_POINTS, "AuxLogits")]
    if heads:
        rows[-1][1].append(_head_card(heads, settings.output_activation, _shares(points, stem, modules), scale))
    shapes: list[Shape] = []
    y, arrow = TITLE, None
    for number, (title, cards) in enumerate(rows):
        drawn, y, next_arrow = _row(title, cards, y, side if number == 1 else None)
        shapes += [*drawn, *([arrow] if arrow else [])]
        arrow = next_arrow
    page_height = max(y + LEGEND_HEIGHT + MARGIN, WIDTH / RATIO if heads else 0)
    shapes += legend(MARGIN, page_height - LEGEND_HEIGHT - MARGIN, WIDTH - 2 * MARGIN, scale)
    paper = Box(0, 0, WIDTH, page_height, "paper")
    return Drawing(WIDTH, page_height, "{architecture}", "{description}", (paper, *_title(settings, points), *shapes))


def _title(settings: Settings, points: Sequence[EndPoint]) -> list[Shape]:
    height, width = settings.image_size
    facts = [f"{{image}} {height}x{width}x3"]
    facts.append(
        f"{{end}} {settings.final_endpoint}" if settings.final_endpoint else f"{settings.num_classes:,} {{classes}}"
    )
    facts.append(f"{{parameters}} {sum(point.parameters for point in points):,}")
    facts.append(f"{{macs}} {macs_text(sum(point.macs for point in points))}")
    if settings.depth_multiplier != 1:
        facts.append(f"depth_multiplier {settings.depth_multiplier:g}")
    return [
        Label(MARGIN, 36, "Inception V3", "title", "start"),
        Label(MARGIN + 240, 39, "  ·  ".join(facts), "subtitle", "start"),
    ]


def _row(title: str, cards: Sequence[Card], y: float, side: Card | None) -> tuple[list[Shape], float, Line]:
    """A row of cards with arrows between them, in a band; the y of the next row, and the arrow to its first card.

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
    x = left
    ends: list[Point] = []
    for number, card in enumerate(drawn):
        shapes += card.draw(x, top, height)
        if number:
            kind = "auxiliary" if card is side else "flow"
            shapes.append(_connector(ends[-1], (x, top + card.enter), kind))
        ends.append((x + card.width, top + card.leave(height)))
        x += card.width + gap
    bottom = y + band.height
    start, middle = ends[len(cards) - 1], bottom + ROW_GAP / 2
    out, back = min(start[0] + GAP / 2, WIDTH - MARGIN - BAND_PADDING + 11), left - 11
    enter = bottom + ROW_GAP + BAND_TITLE + BUS
    turns = ((out, start[1]), (out, middle), (back, middle), (back, enter))
    return shapes, bottom + ROW_GAP, Line((start, *turns, (left, enter)), "flow")


def _connector(start: tuple[float, float], end: tuple[float, float], kind: str) -> Line:
    """An arrow from the right side of a card to the left side of the next card."""
    middle = start[0] + GAP / 2
    bend = ((middle, start[1]), (middle, end[1])) if abs(start[1] - end[1]) > 0.5 else ()
    return Line((start, *bend, end), kind)


def _module_card(point: EndPoint, scale: Scale) -> Card:
    """An Inception module: its branches side by side, the bar that joins them, and its figures."""
    width = MEASURES.columns_width(sum(map(column_count, point.branches))) + 2 * PADDING
    steps = max(map(len, point.branches))
    height = BUS + 14 + MEASURES.steps_height(steps) + 20 + JOIN_HEIGHT + FOOTER

    def draw(x: float, y: float, height: float) -> list[Shape]:
        return [_module(point, x, y, width, height, scale)]

    return Card(width, height, draw, BUS, lambda height: height - FOOTER - JOIN_HEIGHT / 2)


def _module(point: EndPoint, x: float, y: float, width: float, height: float, scale: Scale) -> Group:
    bar = y + height - FOOTER - JOIN_HEIGHT
    joined, ends = join_bar(point.inner_branches, x + PADDING, bar, width - 2 * PADDING)
    left, groups, last = x + PADDING, [], x
    for branch, end in zip(point.inner_branches, ends, strict=True):
        groups.append(branch_group(branch, left, y + BUS, y + BUS + 14, end, bar, MEASURES))
        full = MEASURES.columns_width(column_count(branch.branches[0]))
        last = left + full / 2
        left += full + MEASURES.column_gap
    frame: list[Shape] = [
        Box(x, y, width, height, "card", 8),
        Label(x + PADDING, y + 18, point.name, "name", "start"),
        Line(((x, y + BUS), (last, y + BUS)), "wire", has_head=False),
        Line(((x + width - PADDING, bar + JOIN_HEIGHT / 2), (x + width, bar + JOIN_HEIGHT / 2)), "flow", False),
    ]
    figures = _figures(point, x, bar + JOIN_HEIGHT, width, scale)
    text = tooltip(point.name, point.layers, point.output)
    return Group(point.name, "module", text, (*frame, *groups, *joined, *figures))


def _figures(point: EndPoint, x: float, y: float, width: float, scale: Scale) -> list[Shape]:
    """The output of an end point, its feature map and its bars, in the foot of a card."""
    return [
        *output_shape(point.output, x + PADDING, y + 17, "shape", scale),
        *bars(point.layers, x + PADDING, y + 41, x + width - PADDING, scale),
    ]


def _list_card(title: str, points: Sequence[EndPoint], scale: Scale, texts: Mapping[str, str]) -> Card:
    """End points without branches, one below the other: the stem or the main head.

    `texts` are those in the boxes of end points without layers.
    """
    height = HEADER + ROW * len(points) + 8

    def draw(x: float, y: float, height: float) -> list[Shape]:
        shapes: list[Shape] = [
            Box(x, y, LIST_WIDTH, height, "card", 8),
            Label(x + PADDING, y + 18, title, "name", "start"),
            Label(x + 214, y + 18, "{output}", "small", "start"),
            Label(x + LIST_WIDTH - PADDING, y + 18, "{parameters}{comma}{macs}", "small", "end"),
        ]
        for number, point in enumerate(points):
            shapes.append(_list_row(point, texts.get(point.name, ""), x, y + HEADER + ROW * (number + 0.5), scale))
            if number:
                box = x + 112 + 46
                start = y + HEADER + ROW * number - (ROW - 22) / 2
                shapes.append(Line(((box, start), (box, start + ROW - 22)), "wire"))
        return shapes

    return Card(LIST_WIDTH, height, draw, HEADER + ROW / 2, lambda _: HEADER + ROW * (len(points) - 0.5))


def _head_card(heads: Sequence[EndPoint], activation: str, shares: Shares, scale: Scale) -> Card:
    """The main head, and below it a card with the shares of the parts of the network."""
    head = _list_card("{main_head}", heads, scale, {"PreLogits": "{dropout}", "Predictions": f"{{{activation}}}"})
    gap = 14.0

    def draw(x: float, y: float, height: float) -> list[Shape]:
        top = y + height - SHARES_HEIGHT
        return [*head.draw(x, y, height - SHARES_HEIGHT - gap), *_shares_card(shares, x, top)]

    return Card(head.width, head.height + gap + SHARES_HEIGHT, draw, head.enter, head.leave)


def _shares(points: Sequence[EndPoint], stem: Sequence[EndPoint], modules: Sequence[EndPoint]) -> Shares:
    """The parameters and the multiply-accumulates of the parts of the network, by their names."""
    groups: dict[str, list[EndPoint]] = {"{stem}": list(stem)}
    for point in modules:
        groups.setdefault(f"{point.height}x{point.width}", []).append(point)
    for point in points:
        if point.name not in BASE_END_POINTS:
            groups.setdefault("{aux_head}" if point.name == "AuxLogits" else "{main_head}", []).append(point)
    return {
        name: (sum(point.parameters for point in group), sum(point.macs for point in group))
        for name, group in groups.items()
    }


def _shares_card(shares: Shares, x: float, y: float) -> list[Shape]:
    """Two bars, of all parameters and of all multiply-accumulates, divided among the parts of the network."""
    shapes: list[Shape] = [
        Box(x, y, LIST_WIDTH, SHARES_HEIGHT, "card", 8),
        Label(x + PADDING, y + 18, "{shares}", "name", "start"),
    ]
    full = LIST_WIDTH - 2 * PADDING
    for row, kind in enumerate(("parameters", "macs")):
        total = sum(share[row] for share in shares.values())
        top, left = y + 50 + 46 * row, x + PADDING
        shapes.append(Box(left, top - 12, 10, 10, kind, 1))
        shapes.append(Label(left + 16, top - 7, f"{{{kind}}}", "small", "start"))
        for name, share in shares.items():
            length = full * share[row] / total
            shapes.append(Box(left, top, length, 20, "join"))
            texts = (f"{name} {share[row] / total:.0%}", f"{share[row] / total:.0%}")
            if fitting := [text for text in texts if 6.8 * len(translate(text, "en")) < length]:
                shapes.append(Label(left + length / 2, top + 10, fitting[0], "small"))
            left += length
    return shapes


def _list_row(point: EndPoint, text: str, x: float, y: float, scale: Scale) -> Group:
    layer = next(iter(point.layers), None)
    text = layer_text(layer) if layer else text
    shapes: tuple[Shape, ...] = (
        Label(x + PADDING, y, point.name, "row-name", "start"),
        Box(x + 112, y - 11, 92, 22, layer_kind(layer) if layer else "head", 4),
        Label(x + 158, y, text, "kernel"),
        *output_shape(point.output, x + 214, y, "row-shape", scale),
        *bars(point.layers, x + 368, y, x + LIST_WIDTH - PADDING, scale),
    )
    if layer and layer.name != point.name:
        text = tooltip(layer.name, [layer], layer.output)
        shapes = (shapes[0], Group(layer.name, "layer", text, shapes[1:]))
    return Group(point.name, "module", tooltip(point.name, point.layers, point.output), shapes)


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
            shapes.append(layer_group(layer, x + PADDING, top, MEASURES))
            place = x + PADDING + MEASURES.width + 9, top + MEASURES.height / 2
            shapes.append(output_shape(layer.output, *place, "row-shape", scale)[0])
        note = y + BUS + 14 + MEASURES.steps_height(len(point.layers)) + 16
        shapes.append(Label(x + PADDING, note, "{auxiliary}", "small", "start"))
        figures = _figures(point, x, y + height - FOOTER, CHAIN_WIDTH, scale)
        text = tooltip(point.name, point.layers, point.output)
        return [Group(point.name, "module", text, (*shapes, *figures))]

    return Card(CHAIN_WIDTH, height, draw, BUS, lambda height: height)


def _image_card(height: int, width: int) -> Card:
    """The image: one square for each of its three channels."""
    longest = max(height, width)
    drawn_height, drawn_width = 74 * height / longest, 74 * width / longest
    free = IMAGE - 14 - drawn_width

    def draw(x: float, y: float, _: float) -> list[Shape]:
        left, right = x + free / 2, x + IMAGE
        top = y + HEADER + ROW / 2 - drawn_height / 2 - 7
        shapes: list[Shape] = [
            Box(left + 7 * number, top + 7 * number, drawn_width, drawn_height, colour, 2)
            for number, colour in enumerate(("blue", "green", "red"))
        ]
        middle, below = x + IMAGE / 2, top + drawn_height + 28
        leave = y + HEADER + ROW / 2
        if free:
            shapes.append(Line(((right - free / 2, leave), (right, leave)), "flow", has_head=False))
        return [
            *shapes,
            Label(middle, below, "{image}", "note"),
            Label(middle, below + 17, f"{height}x{width}x3", "shape"),
        ]

    return Card(IMAGE, 0, draw, 0, lambda _: HEADER + ROW / 2)
