"""The network as a drawing and a table in HTML, derived from its table, for notebooks. No scripts, no other files."""

from collections.abc import Sequence
from html import escape

from inception_v3.errors import printable
from inception_v3.network.architecture import BASE_END_POINTS, Dense, EndPoint, Layer, Pool
from inception_v3.network.describe import built_as
from inception_v3.network.settings import Settings

# Okabe and Ito's colours, which people with any kind of colour blindness can distinguish.
CONVOLUTION, POOL, HEAD = "#56B4E9", "#E69F00", "#009E73"
WIDTH, HEIGHT, GAP = 14, 20, 3  # of the box of a layer, and between boxes, in pixels
MODULE_GAP, TOP, LABELS = 8, 4, 44  # pixels between two modules, above the boxes, and of the labels below
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
    return (
        f"<div><b>{_text(title)}</b>: {_text(facts)}{drawing(points)}"
        f"<details><summary>End points</summary>{table(points)}</details></div>"
    )


def drawing(points: Sequence[EndPoint]) -> str:
    """The network as SVG: one box for each layer, modules from left to right, in a module its branches side by side.

    A branch is read from top to bottom. Blue is a convolution, orange a pool, green a layer of a head. Each box has the
    layer's name, kernel and output as its tooltip.
    """
    drawn = [point for point in points if point.layers]
    rows = max(len(steps) for point in drawn for steps in point.branches)
    parts, x, bottom = [], 2, TOP + rows * (HEIGHT + GAP)
    for point in drawn:
        for column, steps in enumerate(point.branches):
            left = x + column * (WIDTH + GAP)
            parts += [_step(layers, left, TOP + row * (HEIGHT + GAP)) for row, layers in enumerate(steps)]
        width = len(point.branches) * (WIDTH + GAP) - GAP
        parts.append(_label(point, x + width / 2, bottom + 4))
        x += width + MODULE_GAP
    width, height = x + LABELS, bottom + LABELS
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    style = 'style="max-width:100%;background:white" font-family="sans-serif" font-size="9"'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size} {style}>'
    return f"{start}<title>Inception V3</title>{''.join(parts)}</svg>"


def _step(layers: Sequence[Layer], left: int, top: int) -> str:
    """The boxes of layers that read the same input, side by side in the place of one."""
    width = WIDTH / len(layers)
    boxes = []
    for number, layer in enumerate(layers):
        kernel = "" if isinstance(layer.table, Dense) else f", {layer.kernel[0]}x{layer.kernel[1]}"
        shape = f"{layer.output.size[0]}x{layer.output.size[1]}x{layer.out_channels}"
        of_base = CONVOLUTION if layer.end_point in BASE_END_POINTS else HEAD
        colour = POOL if isinstance(layer.table, Pool) else of_base
        place = f'x="{left + number * width:g}" y="{top}" width="{width - (len(layers) > 1):g}" height="{HEIGHT}"'
        title = _text(f"{layer.name}{kernel}, {shape}")
        boxes.append(f'<rect {place} fill="{colour}"><title>{title}</title></rect>')
    return "".join(boxes)


def _label(point: EndPoint, x: float, y: float) -> str:
    """The name of an end point below its boxes: 5b for Mixed_5b."""
    name = point.name.split("_")[1] if point.name in BASE_END_POINTS else point.name
    title = _text(f"{point.name}, {point.height}x{point.width}x{point.channels}")
    return f'<text transform="translate({x:g} {y}) rotate(45)">{_text(name)}<title>{title}</title></text>'


def table(points: Sequence[EndPoint]) -> str:
    """The end points as an HTML table: the layers of each branch, the output, the parameters and the cost."""
    head = "".join(f"<th>{name}</th>" for name in ("end point", "layers", "output HxWxC", "parameters", "MMAC"))
    return f"<table><tr>{head}</tr>{''.join(map(_row, points))}</table>"


def _row(point: EndPoint) -> str:
    branches = "<br>".join(map(_text, built_as(point.name, point.layers)))
    figures = (
        f"{point.height}x{point.width}x{point.channels}",
        f"{point.parameters:,}" if point.parameters else "",
        f"{point.macs / 1e6:,.1f}" if point.macs else "",
    )
    cells = "".join(f'<td style="text-align:right">{figure}</td>' for figure in figures)
    left = f'<td style="text-align:left">{_text(point.name)}</td><td style="text-align:left">{branches}</td>'
    return f'<tr style="vertical-align:top">{left}{cells}</tr>'


def _text(text: str) -> str:
    return escape(printable(text))
