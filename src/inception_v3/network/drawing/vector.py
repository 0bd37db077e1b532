"""Drawings as SVG. Text stays text, and nothing is loaded from elsewhere."""

from html import escape

from inception_v3.network.drawing.shapes import Box, Drawing, Group, Label, Line, Shape, head, path
from inception_v3.network.drawing.styles import BASELINE, BOXES, COLOURS, LABELS, LINES
from inception_v3.network.drawing.words import Language, translate

FONTS = (
    'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", "PingFang SC", "Microsoft YaHei", '
    '"Noto Sans CJK SC", "Source Han Sans SC", "WenQuanYi Micro Hei", sans-serif'
)


def svg(drawing: Drawing, *, dark: bool | None = None, language: Language = "en") -> str:
    """A drawing as SVG, to write to a file or into a page.

    Groups of end points, branches and layers have the attribute `data-end-point` with the name, and the classes
    `module`, `branch` and `layer`. All colours are CSS variables such as `--d-ink`, which a page may set on the element
    `svg.inception-drawing`.

    Args:
        dark: dark or light colours; None means those that the viewer's system prefers.
    """

    def words(text: str) -> str:
        return escape(translate(text, language), quote=True)

    def render(shape: Shape) -> str:
        if isinstance(shape, Group):
            inner = "".join(map(render, shape.shapes))
            name = escape(shape.end_point, quote=True)
            title = f"<title>{words(shape.tooltip)}</title>"
            return f'<g class="{shape.kind}" data-end-point="{name}">{title}{inner}</g>\n'
        if isinstance(shape, Box):
            return _box(shape)
        if isinstance(shape, Line):
            return _line(shape)
        return _label(shape, words(shape.text))

    size = f'viewBox="0 0 {drawing.width:g} {drawing.height:g}" width="{drawing.width:g}" height="{drawing.height:g}"'
    tag = f'<svg xmlns="http://www.w3.org/2000/svg" class="inception-drawing" role="img" lang="{language}" {size}>'
    names = f"<title>{words(drawing.title)}</title>\n<desc>{words(drawing.description)}</desc>"
    shapes = "".join(map(render, drawing.shapes))
    return f"{tag}\n{names}\n<style>\n{_css(dark)}</style>\n{shapes}</svg>\n"


def _box(box: Box) -> str:
    corner = f' rx="{box.radius:g}"' if box.radius else ""
    place = f'x="{_number(box.x)}" y="{_number(box.y)}" width="{_number(box.width)}" height="{_number(box.height)}"'
    return f'<rect class="d-{box.kind}" {place}{corner}/>'


def _line(line: Line) -> str:
    commands = (name + " ".join(f"{_number(x)},{_number(y)}" for x, y in points) for name, points in path(line))
    drawn = f'<path class="d-{line.kind}-line" d="{"".join(commands)}"/>'
    if not line.has_head:
        return drawn
    corners = " ".join(f"{_number(x)},{_number(y)}" for x, y in head(line))
    return f'{drawn}<polygon class="d-{line.kind}-head" points="{corners}"/>'


def _label(label: Label, text: str) -> str:
    anchor = "" if label.anchor == "middle" else f' text-anchor="{label.anchor}"'
    baseline = label.y + LABELS[label.kind].size * BASELINE
    return f'<text class="d-{label.kind}-text" x="{_number(label.x)}" y="{_number(baseline)}"{anchor}>{text}</text>'


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _css(dark: bool | None) -> str:
    """The style sheet: colours as variables, then a rule for each kind of shape."""
    light_colours, dark_colours = (
        "".join(f"--d-{name}:{pair[index]};" for name, pair in COLOURS.items()) for index in (0, 1)
    )
    rules = [f".inception-drawing{{{dark_colours if dark else light_colours}font-family:{FONTS};text-anchor:middle}}"]
    if dark is None:
        rules.append(f"@media (prefers-color-scheme: dark){{.inception-drawing{{{dark_colours}}}}}")
    rules.append(".inception-drawing text{stroke:none;white-space:pre}.inception-drawing path{fill:none}")
    for kind, box in BOXES.items():
        stroke = f";stroke:var(--d-{box.edge});stroke-width:{box.edge_width:g}" if box.edge else ""
        rules.append(f".d-{kind}{{fill:var(--d-{box.fill}){stroke}}}")
    for kind, label in LABELS.items():
        weight = ";font-weight:600" if label.bold else ""
        rules.append(f".d-{kind}-text{{fill:var(--d-{label.colour});font-size:{label.size:g}px{weight}}}")
    for kind, line in LINES.items():
        dashes = ";stroke-dasharray:6 4" if line.dashed else ""
        colour = f"var(--d-{line.colour})"
        rules.append(f".d-{kind}-line{{stroke:{colour};stroke-width:{line.width:g}{dashes}}}")
        rules.append(f".d-{kind}-head{{fill:{colour}}}")
    return "\n".join(rules) + "\n"
