"""`inception-v3 compare`"""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inception_v3.cli.common import (
    MODEL_HELP,
    Device,
    ImageArguments,
    Json,
    messages,
    model_option,
    note,
    output_option,
    print_json,
    print_line,
    warn_unreadable,
)
from inception_v3.errors import InputError
from inception_v3.support.progress import show_progress
from inception_v3.support.text import count_of

if TYPE_CHECKING:
    from inception_v3.explain.comparison import Comparison

COLUMNS = ("difference", "correlation", "CKA", "own difference")


def compare(
    first: Annotated[str, typer.Argument(help=f"{MODEL_HELP} Or an exported network.")],
    second: Annotated[str, typer.Argument(help="The network to compare with it, in the same forms.")],
    images: ImageArguments,
    tolerance: Annotated[
        float | None,
        model_option(
            metavar="FRACTION",
            min=0,
            max=1,
            help="Relative difference up to which the computation of a layer counts as the same.",
            show_default="0.0001 for fp32, more for the lower precision of an exported network",
        ),
    ] = None,
    plot: Annotated[
        Path | None, output_option(metavar="FILE", help="Write a plot of the differences, as PNG, PDF or SVG.")
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Compare two networks layer by layer on the same images, and show at which layer they part.

    That is the first layer that computes something else from the same input. Exported networks show their layers too.

    Exit status: 0, success; 1, failed; 2, wrong arguments;
    3, finished, but some images could not be read or have no result.
    """
    from inception_v3.images.addresses import count_images
    from inception_v3.support.files import check_outputs
    from inception_v3.support.packages import require_packages

    total = count_images(images)
    check_outputs((plot,), (first, second, *images))
    if tolerance == 0:
        raise InputError("--tolerance 0: rounding differs from machine to machine; give more than 0", exit_status=2)
    if plot is not None:
        require_packages(("matplotlib",), "--plot", "explain")
    require_packages(("torch",), "comparing networks", "torch")
    from inception_v3.explain.comparison import compare

    with show_progress(messages) as start_step:
        result = compare(
            first, second, images, tolerance=tolerance, device=device, advance=start_step("comparing", total)
        )
    if plot is not None:
        result.save(plot)
    _print(result, as_json)
    if result.unreadable:
        warn_unreadable([*result.unreadable], result.images + len(result.unreadable))
        sys.exit(3)


def _print(result: "Comparison", as_json: bool) -> None:
    if as_json:
        print_json(result.as_dict(), allow_nan=False)
        return
    for text in result.notes:
        note(text)
    for owner, classes in ((result.first, result.only_in_first), (result.second, result.only_in_second)):
        if classes:
            more = f" and {len(classes) - 5} more" if len(classes) > 5 else ""
            note(f"only {owner} has the classes {', '.join(classes[:5])}{more}")
    width = max(len(row.name) for row in result.layers)
    print_line(f"{'':{width}}  {'  '.join(COLUMNS)}")
    for row in result.layers:
        numbers = (row.difference, row.correlation, row.cka, row.own_difference)
        cells = (
            f"{'-' if math.isnan(value) else format(value, form):>{len(column)}}"
            for value, form, column in zip(numbers, (".2e", ".6f", ".4f", ".2e"), COLUMNS, strict=True)
        )
        mark = "  <- part here" if row.name == result.parts_at else ""
        print_line(f"{row.name:{width}}  {'  '.join(cells)}{mark}")
    print_line(f"{result.first}, {result.second}: {result.verdict}; {count_of(result.images, 'image')}")
