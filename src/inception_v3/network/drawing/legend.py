"""The legends: colours, notation and scales."""

from typing import Literal

from inception_v3.network.drawing.parts import Scale, macs_text
from inception_v3.network.drawing.shapes import Box, Label, Shape
from inception_v3.network.drawing.styles import LAYERS

HEIGHT = 72.0
COLUMNS = (0.0, 200.0, 380.0, 1120.0)  # x of two columns of colours, of the notes, and of the scales


def legend(x: float, y: float, width: float, scale: Scale) -> list[Shape]:
    """The legend in a band of this width, from the point (x, y)."""
    shapes: list[Shape] = [Box(x, y, width, HEIGHT, "band", 10)]
    lines = [y + 15 + 21 * row for row in range(3)]
    for number, kind in enumerate(LAYERS):
        left, middle = x + 22 + COLUMNS[number // 3], lines[number % 3]
        shapes.append(Box(left, middle - 7, 22, 14, kind, 3))
        shapes.append(Label(left + 30, middle, f"{{legend_{kind}}}", "note", "start"))
    for middle, key in zip(lines, ("notation", "join", "norm"), strict=True):
        shapes.append(Label(x + 22 + COLUMNS[2], middle, f"{{legend_{key}}}", "note", "start"))
    left = x + 22 + COLUMNS[3]
    shapes += full_bar("parameters", left, lines[0], scale)
    shapes += full_bar("macs", left, lines[1], scale)
    shapes.append(Box(left, lines[2] - 5, 22, 10, "map"))
    shapes.append(Label(left + 30, lines[2], "{legend_map}", "note", "start"))
    return shapes


def full_bar(kind: Literal["parameters", "macs"], x: float, y: float, scale: Scale) -> list[Shape]:
    """A bar around the height `y`, and beside it the value for which a bar has its full length."""
    most = f"{scale.parameters:,}" if kind == "parameters" else macs_text(scale.macs)
    return [
        Box(x, y - 4, 22, 8, kind, 1),
        Label(x + 30, y, f"{{{kind}}}{{comma}}{{legend_bars}} {most}", "note", "start"),
    ]
