"""`inception-v3 convert`"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from inception_v3.cli.common import MODEL_HELP, Json, WeightsFile, messages, warn


def convert(
    source: Annotated[str, typer.Argument(help=MODEL_HELP)],
    destination: Annotated[Path, typer.Argument(help="The file to write.")],
    to: Annotated[str | None, typer.Option(help="The format; without it the destination's name tells.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Load and run the file with the format's own program too.")
    ] = False,
    python: Annotated[
        str, typer.Option(show_default="this one", help="For --check: the Python that has that program.")
    ] = sys.executable,
    allow_difference: Annotated[
        bool, typer.Option("--allow-difference", help="Write it even if its program will compute other numbers.")
    ] = False,
    weights_file: WeightsFile = None,
    no_fold: Annotated[bool, typer.Option("--no-fold", help="Refuse to fold a gamma into kernel and mean.")] = False,
    as_json: Json = False,
) -> None:
    """Write weights for another program, and show that they still say the same."""
    from inception_v3.weights.convert import convert

    status = messages.status("")

    def announce(what: str) -> None:  # not before: a download has a bar of its own
        status.update(what)
        status.start()

    try:
        done = convert(
            source,
            destination,
            to,
            allow_difference=allow_difference,
            fold=not no_fold,
            check=check,
            python=python,
            weights_file=weights_file,
            announce=announce,
        )
    finally:
        status.stop()
    if as_json:
        print(json.dumps(done.as_dict()))
        return
    size = "x".join(map(str, done.image_size))
    print(f"{destination}: {done.source_format} to {done.format}; the logits differ by {done.difference:.1e} at {size}")
    if done.check and done.check.instead_of:
        print(f"  checked by reading it back here, since {done.check.instead_of}")
    elif done.check:
        print(f"  checked by {done.check.program}, which differs by {done.check.difference:.1e}")
    for reason in done.reasons:
        warn(f"  {reason}")
    if done.folded:
        warn(f"  gamma of {done.folded} layers folded into kernel and mean: exact, but training further differs")
    if done.dropped:
        warn(f"  {done.format} has no place for {' and '.join(done.dropped)}")
