"""`inception-v3 convert`"""

import json
from pathlib import Path
from typing import Annotated

import typer

from inception_v3.cli.common import MODEL, Json, WeightsFile, warn


def convert(
    source: Annotated[str, typer.Argument(help=MODEL)],
    destination: Annotated[Path, typer.Argument(help="The file to write.")],
    to: Annotated[str | None, typer.Option(help="The format; without it the destination's name tells.")] = None,
    allow_difference: Annotated[
        bool, typer.Option("--allow-difference", help="Write it though its program computes other numbers.")
    ] = False,
    weights_file: WeightsFile = None,
    no_fold: Annotated[bool, typer.Option("--no-fold", help="Refuse to fold a gamma into kernel and mean.")] = False,
    as_json: Json = False,
) -> None:
    """Write weights for another program, and show that they still say the same."""
    from inception_v3.convert import convert

    done = convert(
        source, destination, to, allow_difference=allow_difference, fold=not no_fold, weights_file=weights_file
    )
    if as_json:
        print(json.dumps(done.as_dict()))
        return
    print(f"{destination}: {done.source_format} to {done.format}; the logits differ by {done.difference:.1e}")
    for reason in done.reasons:
        warn(f"  {reason}")
    if done.folded:
        warn(f"  gamma of {done.folded} layers folded into kernel and mean: exact, but training further differs")
    if done.dropped:
        warn(f"  {done.format} has no place for {', '.join(done.dropped)}")
