"""`inception-v3 describe`"""

import json
from typing import Annotated

import typer

from inception_v3.cli.common import Json, checked, output


def describe(
    height: Annotated[int, typer.Option(help="Of the images.")] = 299,
    width: Annotated[int, typer.Option(help="Of the images.")] = 299,
    depth_multiplier: Annotated[float, typer.Option(help="Factor on every layer's width.")] = 1.0,
    num_classes: Annotated[int, typer.Option(help="Outputs of both heads.")] = 1000,
    as_json: Json = False,
) -> None:
    """Show the network's table: end points, branches, shapes, parameters, MACs, receptive fields."""
    from inception_v3.describe import description, table

    described = checked(
        description, height=height, width=width, depth_multiplier=depth_multiplier, num_classes=num_classes
    )
    if as_json:
        print(json.dumps(described))
    else:
        output.print(table(described))
