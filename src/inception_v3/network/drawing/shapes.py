"""The geometry of a drawing: boxes, labels and lines at fixed positions, before any renderer.

Positions and lengths are in units of the drawing: x to the right, y downwards. A drawing of the whole network has the
proportions of an A3 page in landscape.

A text holds names and numbers, and between braces the keys of words.WORDS: "{output} 35x35x256".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Point = tuple[float, float]  # (x, y)
Anchor = Literal["start", "middle", "end"]
Kind = Literal["module", "branch", "layer"]


@dataclass(frozen=True)
class Box:
    """A rectangle. `kind` is one of styles.BOXES; `radius` is that of its corners."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    radius: float = 0


@dataclass(frozen=True)
class Label:
    """One line of text. `y` is the middle of its height; `kind` is one of styles.LABELS."""

    x: float
    y: float
    text: str
    kind: str
    anchor: Anchor = "middle"


@dataclass(frozen=True)
class Line:
    """A line through `points`, with rounded corners, and at its end an arrow head. `kind` is one of styles.LINES."""

    points: tuple[Point, ...]
    kind: str
    has_head: bool = True


@dataclass(frozen=True)
class Group:
    """The shapes of an end point, a branch or a layer.

    Attributes:
        end_point: its name, such as "Mixed_5b/Branch_1/Conv2d_0b_5x5".
        kind: "module" for an end point, "branch" or "layer".
        tooltip: what is known about it, in one line.
        shapes: drawn in this order.
    """

    end_point: str
    kind: Kind
    tooltip: str
    shapes: "tuple[Shape, ...]"


Shape = Box | Label | Line | Group


@dataclass(frozen=True)
class Drawing:
    """All shapes of a page, its size, and for screen readers its title and description."""

    width: float
    height: float
    title: str
    description: str
    shapes: tuple[Shape, ...]

    def walk(self) -> Iterator[Shape]:
        """All shapes, each group before the shapes in it."""
        return _walk(self.shapes)


def _walk(shapes: tuple[Shape, ...]) -> Iterator[Shape]:
    for shape in shapes:
        yield shape
        if isinstance(shape, Group):
            yield from _walk(shape.shapes)


CORNER = 7.0  # the radius of the corners of lines
HEAD = 7.0  # the length of an arrow head


def path(line: Line) -> list[tuple[str, tuple[Point, ...]]]:
    """The commands of SVG's paths for a line: M and L with a point, Q with a control point and a point.

    A line with an arrow head ends in the middle of the head.
    """
    points = list(line.points)
    if line.has_head:
        points[-1] = _towards(points[-1], points[-2], HEAD / 2)
    commands: list[tuple[str, tuple[Point, ...]]] = [("M", (points[0],))]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        radius = min(CORNER, _distance(before, corner) / 2, _distance(corner, after) / 2)
        commands.append(("L", (_towards(corner, before, radius),)))
        commands.append(("Q", (corner, _towards(corner, after, radius))))
    return [*commands, ("L", (points[-1],))]


def head(line: Line) -> tuple[Point, Point, Point]:
    """The triangle of the arrow head at the end of a line."""
    tip, back = line.points[-1], _towards(line.points[-1], line.points[-2], HEAD)
    across = ((tip[1] - back[1]) * 0.45, (back[0] - tip[0]) * 0.45)
    return tip, (back[0] + across[0], back[1] + across[1]), (back[0] - across[0], back[1] - across[1])


def _distance(a: Point, b: Point) -> float:
    return float(((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) ** 0.5)


def _towards(a: Point, b: Point, length: float) -> Point:
    """The point at this distance from `a` on the way to `b`."""
    share = length / (_distance(a, b) or 1)
    return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share
