"""The network as a drawing and a table in HTML, derived from its table, for notebooks. No scripts, no other files."""

from collections.abc import Sequence
from html import escape

from inception_v3.errors import printable
from inception_v3.network.architecture import EndPoint
from inception_v3.network.describe import built_as
from inception_v3.network.drawing.page import network
from inception_v3.network.drawing.parts import shape_text
from inception_v3.network.drawing.vector import svg
from inception_v3.network.settings import Settings

SHOWN = 5  # class names


def network_html(settings: Settings, title: str, class_names: Sequence[str] = ()) -> str:
    """A heading, the drawing, and a table of the end points that opens with a click. All names are escaped."""
    points = settings.end_points()
    height, width = settings.image_size
    total = sum(point.parameters for point in points)
    facts = f"{height}x{width} pixels, {total:,} parameters"
    if settings.final_endpoint:
        facts += f", ends at {settings.final_endpoint}"
    else:
        more = " …" if len(class_names) > SHOWN else ""
        names = f" ({', '.join(class_names[:SHOWN])}{more})" if class_names else ""
        facts += f", {settings.class_count:,} classes{names}"
    drawing = svg(network(settings)).replace("<svg ", '<svg style="max-width:100%;height:auto" ', 1)
    return (
        f"<div><b>{_text(title)}</b>: {_text(facts)}{drawing}"
        f"<details><summary>End points</summary>{table(points)}</details></div>"
    )


def table(points: Sequence[EndPoint]) -> str:
    """The end points as an HTML table: the layers of each branch, the output, the parameters and the cost."""
    head = "".join(f"<th>{name}</th>" for name in ("end point", "layers", "output HxWxC", "parameters", "MMAC"))
    return f"<table><tr>{head}</tr>{''.join(map(_row, points))}</table>"


def _row(point: EndPoint) -> str:
    branches = "<br>".join(map(_text, built_as(point.name, point.layers)))
    figures = (
        shape_text(point.output),
        f"{point.parameters:,}" if point.parameters else "",
        f"{point.macs / 1e6:,.1f}" if point.macs else "",
    )
    cells = "".join(f'<td style="text-align:right">{figure}</td>' for figure in figures)
    left = f'<td style="text-align:left">{_text(point.name)}</td><td style="text-align:left">{branches}</td>'
    return f'<tr style="vertical-align:top">{left}{cells}</tr>'


def _text(text: str) -> str:
    return escape(printable(text))
