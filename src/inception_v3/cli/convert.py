"""`inception-v3 convert`"""

import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inception_v3.cli.common import (
    NO_FACTS,
    Json,
    ModelArgument,
    ModelFacts,
    WeightsFile,
    choice,
    detail,
    messages,
    note,
    output_option,
    print_json,
    print_line,
)
from inception_v3.support.text import printable
from inception_v3.weights.formats.registry import FORMATS

if TYPE_CHECKING:
    from inception_v3.weights.convert import Conversion


def convert(
    source: ModelArgument,
    destination: Annotated[Path, typer.Argument(help="The file to write.")],
    to: Annotated[
        str | None,
        choice("--to", FORMATS, "The format", heading="Output", show_default="by the file's suffix"),
    ] = None,
    check: Annotated[
        bool, output_option("--check", help="Also load and run the file with the program it is written for.")
    ] = False,
    python: Annotated[
        str,
        output_option(
            metavar="PATH",
            show_default="this one",
            help="For --check: the Python interpreter in which that program is installed.",
        ),
    ] = sys.executable,
    allow_difference: Annotated[
        bool,
        output_option("--allow-difference", help="Write the file even if that program will compute different outputs."),
    ] = False,
    weights_file: WeightsFile = None,
    facts: ModelFacts = NO_FACTS,
    no_fold: Annotated[
        bool, output_option("--no-fold", help="Stop instead of folding BatchNorm's gamma into kernel and mean.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Convert weights between frameworks and verify that the outputs match."""
    from rich.text import Text

    from inception_v3.inference.choose import check_has_weights
    from inception_v3.support.files import is_stdout
    from inception_v3.weights.convert import convert

    check_has_weights(source, facts)
    status = messages.status("")

    def announce(message: str) -> None:  # starts the status only now: a download shows its own progress
        detail(message)
        status.update(Text(printable(message)))
        status.start()

    try:
        conversion = convert(
            source,
            destination,
            to,
            allow_difference=allow_difference,
            fold=not no_fold,
            check=check,
            python=python,
            weights_file=weights_file,
            **facts,
            announce=announce,
            report=note,
        )
    finally:
        status.stop()
    # The file may have been written to the standard output: nothing may follow it there.
    with redirect_stdout(sys.stderr) if is_stdout(destination) else nullcontext():
        if as_json:
            print_json(asdict(conversion))
        else:
            _report(conversion)


def _report(conversion: "Conversion") -> None:
    size = "x".join(map(str, conversion.image_size))
    print_line(
        f"{conversion.destination}: {conversion.source_format} to {conversion.format}; the logits differ by "
        f"{conversion.difference:.1e} at {size}"
    )
    check = conversion.check
    if check and check.instead_of:
        print_line(f"  checked by reading it back here, since {check.instead_of}")
    elif check:
        print_line(f"  checked by {check.program}, which differs by {check.difference:.1e}")
    for reason in conversion.reasons:
        note(f"  {reason}")
    if conversion.folded:
        note(f"  gamma of {conversion.folded} layers folded into kernel and mean: exact, but further training differs")
