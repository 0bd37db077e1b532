"""`inception-v3 describe`"""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inception_v3.cli.common import Json, checked, output

if TYPE_CHECKING:
    from rich.table import Table


def describe(
    height: Annotated[int, typer.Option(help="Of the images.")] = 299,
    width: Annotated[int, typer.Option(help="Of the images.")] = 299,
    depth_multiplier: Annotated[float, typer.Option(help="Factor on every layer's width.")] = 1.0,
    num_classes: Annotated[int, typer.Option(help="Outputs of both heads.")] = 1000,
    as_json: Json = False,
) -> None:
    """Show the network's table: end points, branches, shapes, parameters, MACs, receptive fields."""
    from inception_v3.network.describe import description

    described = checked(
        description, height=height, width=width, depth_multiplier=depth_multiplier, num_classes=num_classes
    )
    if as_json:
        print(json.dumps(described))
    else:
        output.print(_table(described))


def _table(described: dict[str, Any]) -> "Table":
    """The description for people."""
    from rich.table import Table

    from inception_v3.network.architecture import BASE_END_POINTS

    options = described["options"]
    shown = Table(
        title=f"Inception V3 at {options['height']}x{options['width']}, {options['depth_multiplier']:g} x wide",
        caption="V = VALID padding, else SAME; → one after the other; ‖ two of one input; one line a branch.\n"
        "Parameters count BatchNorm's statistics, as TF-Slim does. Widths before the depth multiplier.",
    )
    for name in ("end point", "built as"):
        shown.add_column(name, no_wrap=name == "end point")
    for name in ("output HxWxC", "parameters", "MMAC", "sees"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in described["end_points"]:
        shown.add_row(
            row["name"],
            "\n".join(row["built_as"]),
            f"{row['height']}x{row['width']}x{row['channels']}",
            f"{row['parameters']:,}" if row["parameters"] else "",
            f"{row['macs'] / 1e6:,.1f}" if row["macs"] else "",
            str(row["receptive_field"]),
            end_section=row["name"] in (BASE_END_POINTS[6], BASE_END_POINTS[-1]),
        )
    shown.add_section()
    for name, total in {"base": described["base"], **described["heads"], "total": described["total"]}.items():
        shown.add_row(name, "", "", f"{total['parameters']:,}", f"{total['macs'] / 1e6:,.1f}", "", style="bold")
    return shown
