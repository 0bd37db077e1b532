"""`inception-v3 describe`"""

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from inception_v3.cli.common import DEPTH_HELP, Json, model_option, output, output_option, print_json
from inception_v3.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from inception_v3.explain.receptive_fields import ReceptiveField


def describe(
    height: Annotated[int, model_option(metavar="N", help="Height of the images in pixels.")] = 299,
    width: Annotated[int, model_option(metavar="N", help="Width of the images in pixels.")] = 299,
    depth_multiplier: Annotated[float, model_option(metavar="FACTOR", help=DEPTH_HELP)] = 1.0,
    num_classes: Annotated[int, model_option(metavar="N", help="Number of classes.")] = 1000,
    receptive_fields: Annotated[
        bool, output_option("--receptive-fields", help="Show the receptive field of every branch and layer instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the network's layers: end points, branches, shapes, parameters, MACs, receptive fields."""
    from inception_v3 import explain
    from inception_v3.network.describe import describe_network

    try:
        description = describe_network(
            height=height, width=width, depth_multiplier=depth_multiplier, num_classes=num_classes
        )
    except ValueError as error:
        raise InputError(str(error), exit_status=2) from error
    fields = explain.all_receptive_fields((height, width)).values() if receptive_fields else ()
    if as_json:
        print_json(description | ({"receptive_fields": [_field(field) for field in fields]} if fields else {}))
    elif fields:
        output.print(_table_of_fields(fields, f"{height}x{width}"))
    else:
        output.print(_table(description))


def _table(description: dict[str, Any]) -> "Table":
    from rich.table import Table

    from inception_v3.network.architecture import BASE_END_POINTS

    options = description["options"]
    table = Table(
        title="Inception V3 at {height}x{width}, depth_multiplier={depth_multiplier:g}".format(**options),
        caption="One line for each branch. V: VALID padding, else SAME. →: followed by. ‖: side by side on one input.\n"
        "Branches and layers are end points too, such as Mixed_5b/Branch_0, the first branch; --json lists all names.\n"
        "Parameters include BatchNorm's statistics, as in TF-Slim. Widths are those before the depth multiplier.",
    )
    for name in ("end point", "layers"):
        table.add_column(name, no_wrap=name == "end point")
    for name in ("output HxWxC", "parameters", "MMAC", "receptive field"):
        table.add_column(name, justify="right", no_wrap=name != "receptive field")
    for row in description["end_points"]:
        table.add_row(
            row["name"],
            "\n".join(row["built_as"]),
            f"{row['height']}x{row['width']}x{row['channels']}",
            f"{row['parameters']:,}" if row["parameters"] else "",
            f"{row['macs'] / 1e6:,.1f}" if row["macs"] else "",
            str(row["receptive_field"]),
            end_section=row["name"] in (BASE_END_POINTS[6], BASE_END_POINTS[-1]),
        )
    table.add_section()
    for name, total in {"base": description["base"], **description["heads"], "total": description["total"]}.items():
        table.add_row(name, "", "", f"{total['parameters']:,}", f"{total['macs'] / 1e6:,.1f}", "", style="bold")
    return table


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
        cells = (str(height) if height == width else f"{height}x{width}" for height, width in pairs)
        table.add_row(field.name, *cells, style="" if "/" in field.name else "bold")
    return table
