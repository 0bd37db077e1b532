"""`inception-v3 describe`"""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inception_v3.cli.common import (
    DepthMultiplier,
    Height,
    Json,
    NumClasses,
    Width,
    network_options,
    output,
    output_option,
    print_json,
)
from inception_v3.errors import InputError
from inception_v3.support.text import choose

if TYPE_CHECKING:
    from rich.table import Table

    from inception_v3.explain.receptive_fields import ReceptiveField
    from inception_v3.network.architecture import EndPoint
    from inception_v3.network.describe import Calculation

NAME = 16  # characters for the name of an end point or a branch
FIGURES = ((14, "output HxWxC"), (12, "parameters"), (9, "MMAC"), (10, "field"))  # columns and their characters
LAYERS, LAYERS_IN_WIDE = 12, 52  # characters for layers: at least, and in lines with the figures of branches too
SIGNS = {
    "3x3/2 V 32": "a convolution with kernel 3x3 (height x width), stride 2, VALID padding and 32 channels. Without /2 "
    "the stride is 1, without V the padding is SAME. BatchNorm and ReLU follow, except where logits are the output.",
    "max, avg": "a max pool, and an average pool, which leaves SAME padding out of its mean",
    "a → b": "a, followed by b",
    "(a ‖ b)": "a and b side by side on one input, joined along the channels",
    "output": "height x width x channels. The branches of a module are joined along the channels.",
    "parameters": "with BatchNorm's moving mean and variance, as TF-Slim counts them",
    "MMAC": "millions of multiply-accumulates for one image",
    "field": "receptive field: the side, in pixels, of the region of the image on which one value depends",
}


def describe(
    end_point: Annotated[
        str | None,
        typer.Argument(
            help="Show each step of this end point, branch or layer, and its arithmetic: Mixed_5b, Mixed_5b/Branch_1, "
            "AuxLogits ...",
            show_default="the whole network",
        ),
    ] = None,
    height: Height = None,
    width: Width = None,
    depth_multiplier: DepthMultiplier = None,
    num_classes: NumClasses = None,
    receptive_fields: Annotated[
        bool, output_option("--receptive-fields", help="Show the receptive field of every branch and layer instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the network's layers: end points, branches, shapes, parameters, MACs, receptive fields."""
    from inception_v3 import explain
    from inception_v3.network import architecture
    from inception_v3.network.describe import describe_end_point, describe_network

    options = network_options(height=height, width=width, depth_multiplier=depth_multiplier, num_classes=num_classes)
    height, width = options["height"], options["width"]
    if end_point is not None and receptive_fields:
        raise InputError(f"--receptive-fields shows all end points; leave it or {end_point} out", exit_status=2)
    try:
        points = architecture.end_points(**options)
    except ValueError as error:
        raise InputError(str(error), exit_status=2) from error
    if end_point is not None:
        known = architecture.with_inner(points)
        point = known[choose("END_POINT", end_point, architecture.outer_first(known))]
        if as_json:
            print_json({"options": options} | describe_end_point(point))
        else:
            _print(_steps(point, f"{height}x{width}"))
        return
    description = describe_network(**options)
    fields = explain.all_receptive_fields((height, width)).values() if receptive_fields else ()
    if as_json:
        print_json(description | ({"receptive_fields": [_field(field) for field in fields]} if fields else {}))
    elif fields:
        output.print(_table_of_fields(fields, f"{height}x{width}"))
    else:
        _print(_network(points, description))


# ------------------------------------------------------------------------------------------- the whole network

Line = tuple[str, str]  # a style and a text


def _print(lines: Iterable[Line]) -> None:
    from rich.text import Text

    for style, line in lines:
        output.print(Text(line.rstrip(), style=style), soft_wrap=True)


def _network(points: "Sequence[EndPoint]", description: dict[str, Any]) -> Iterator[Line]:
    """The end points with their figures, a line for each branch, the totals, and the legend."""
    yield (
        "bold",
        "Inception V3 at {height}x{width}, depth_multiplier={depth_multiplier:g}".format(**description["options"]),
    )
    yield "", ""
    room = output.width - NAME - sum(width for width, _ in FIGURES)
    is_wide = room >= LAYERS_IN_WIDE
    layers_width = LAYERS_IN_WIDE if is_wide else max(room, LAYERS)
    yield "dim", _columns("end point", "layers", layers_width, [name for _, name in FIGURES])
    for point in points:
        if point.name in ("Mixed_5b", "AuxLogits", "AvgPool_1a"):
            yield "", ""
        yield from _end_point(point, layers_width, is_wide)
    yield "", ""
    for name in ("base", "total"):
        total = description[name]
        figures = ["", f"{total['parameters']:,}", f"{total['macs'] / 1e6:,.1f}"]
        yield "bold", _columns(name, "with heads" if name == "total" else "", layers_width, figures)
    yield "", ""
    yield from _legend()


def _end_point(point: "EndPoint", layers_width: int, is_wide: bool) -> Iterator[Line]:
    """The line of an end point, then those of its branches, or of its layers if the line has no place for them."""
    from inception_v3.network.describe import branch_lines

    branches = point.inner_branches
    lines = branch_lines(point)
    if not branches and len(lines[0]) <= layers_width:
        yield "", _columns(point.name, lines[0], layers_width, _figures(point))
        return
    yield "bold" if branches else "", _columns(point.name, "", layers_width, _figures(point))
    for number, line in enumerate(lines):
        name = f"  {branches[number].name.rpartition('/')[2]}" if branches else ""
        if is_wide:
            yield "", _columns(name, line, layers_width, _figures(branches[number]) if branches else [])
        else:
            yield from (("", text) for text in _hanging(name, line, NAME - 4))


def _columns(name: str, layers: str, layers_width: int, figures: Iterable[str]) -> str:
    cells = "".join(f"{figure:>{width}}" for (width, _), figure in zip(FIGURES, figures, strict=False))
    return f"{name:<{NAME}}{layers:<{layers_width}}{cells}"


def _figures(point: "EndPoint") -> list[str]:
    """The output, the parameters, the multiply-accumulates and the receptive field."""
    return [
        f"{point.height}x{point.width}x{point.channels}",
        f"{point.parameters:,}" if point.parameters else "",
        f"{point.macs / 1e6:,.1f}" if point.macs else "",
        _pair(point.receptive_field),
    ]


def _hanging(label: str, text: str, indent: int) -> list[str]:
    """A label and a text, wrapped to the terminal with the text in one column."""
    filled = textwrap.wrap(text, max(output.width - indent, 20), break_long_words=False, break_on_hyphens=False)
    return [f"{'' if number else label:<{indent}}{line}" for number, line in enumerate(filled or [""])]


def _legend() -> Iterator[Line]:
    for sign, meaning in SIGNS.items():
        yield from (("", line) for line in _hanging(sign, meaning, 13))
    text = "A branch or a layer is an end point too. `inception-v3 describe Mixed_5b` shows its steps with their "
    text += "arithmetic, --json all names, and `inception-v3 draw` the network as a drawing."
    yield "", ""
    yield from (("", line) for line in _hanging("", text, 0))


# ------------------------------------------------------------------------------------------------ one end point


def _steps(point: "EndPoint", image_size: str) -> Iterator[Line]:
    """An end point: its figures, then each of its steps with the arithmetic."""
    from inception_v3.network.describe import steps

    (field_height, field_width), jump, padding = point.receptive_field, point.output.jump, point.output.padding
    yield "bold", f"{point.name} of Inception V3 at {image_size}"
    yield "", ""
    facts = {
        "output": f"{point.height}x{point.width}x{point.channels} (height x width x channels)",
        "parameters": f"{point.parameters:,}",
        "MACs": f"{point.macs:,}",
        "field": f"{field_height}x{field_width} pixels, stride {_pair(jump)}; that of the first value starts "
        f"{_pair(padding)} pixels outside the image",
    }
    for label, text in facts.items():
        yield from (("", line) for line in _hanging(f"  {label}", text, 14))
    shown = ""
    for step in steps(point):
        branch = step.name if step.built_as == "join" else step.name.rpartition("/")[0]
        if branch != shown and (shown or branch != point.name):
            yield "", ""
            yield "bold", branch
        shown = branch
        yield from _step(step)
    yield "", ""
    yield from (("", line) for line in _hanging("", _LEGEND_OF_STEPS, 0))


_LEGEND_OF_STEPS = (
    "⌈ ⌉ rounds up (SAME padding), ⌊ ⌋ down (VALID padding). Parameters: kernel height · kernel width · input channels "
    "· output channels, + 3 for each channel (BatchNorm's beta, moving mean and moving variance), or + 1 (a bias) "
    "for logits. MACs: output height · output width · the kernel's values. Field: that of the input "
    "+ (kernel − 1) · the stride of the input's fields."
)


def _step(step: "Calculation") -> Iterator[Line]:
    """A step: its shapes in one line, then its arithmetic."""
    before, after = ("x".join(map(str, shape)) for shape in (step.input, step.output))
    yield "", ""
    if step.built_as == "join":
        yield "", f"  joined along the channels  → {after}"
    else:
        yield "", f"  {step.name.rpartition('/')[2]:<18}{step.built_as:<14}{before} → {after}"
    rows = {
        **_by_axis("size", step.size),
        "channels": step.channels,
        "parameters": step.parameters,
        "MACs": step.macs,
        **_by_axis("field", step.receptive_field),
    }
    for label, text in rows.items():
        if text:
            yield from (("", line) for line in _hanging(f"      {label}", text, 20))


def _by_axis(label: str, texts: tuple[str, str]) -> dict[str, str]:
    """One row, or two where height and width differ."""
    height, width = texts
    return {label: height} if height == width else {f"{label} height": height, f"{label} width": width}


def _pair(size: tuple[int, int]) -> str:
    """Height and width as one number if they are equal."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


# -------------------------------------------------------------------------------------------- receptive fields


def _field(field: "ReceptiveField") -> dict[str, Any]:
    """A receptive field for JSON, with pairs (height, width)."""
    return asdict(field) | {"centre": field.centre}


def _table_of_fields(fields: "Iterable[ReceptiveField]", image_size: str) -> "Table":
    from rich.table import Table

    table = Table(
        title=f"Receptive fields of Inception V3 at {image_size}, in pixels",
        caption="Height x width; one number stands for both. Padding: where the field of the first unit starts, above "
        "and left of the image. Centre: row and column of the middle of that field.",
    )
    table.add_column("end point", no_wrap=True)
    for name in ("field", "stride", "padding", "centre"):
        table.add_column(name, justify="right", no_wrap=True)
    for field in fields:
        pairs = (field.size, field.stride, field.padding, field.centre)
        cells = (_pair(pair) for pair in pairs)
        table.add_row(field.name, *cells, style="" if "/" in field.name else "bold")
    return table
