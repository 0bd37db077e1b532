"""`inception-v3 fidelity`"""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from inception_v3.cli.common import Device, Json, messages, output, warn, warn_unreadable
from inception_v3.errors import InputError
from inception_v3.fidelity.conventions import MODES, PROGRAMS
from inception_v3.fidelity.options import DEFAULT_WEIGHTS, FidelityOptions, NetworkPrecision

if TYPE_CHECKING:
    from inception_v3.fidelity.result import FidelityResult


def fidelity(
    generated: Annotated[
        str,
        typer.Argument(help="A folder, .zip, .tar, .npz, .npy, shards such as 'x-{000..009}.tar', or statistics."),
    ],
    reference: Annotated[
        str | None,
        typer.Argument(
            help="The reference images, in the same forms. Without them only the Inception Score is computed."
        ),
    ] = None,
    like: Annotated[
        str | None, typer.Option(help=f"Compute the same values as a program: {', '.join(PROGRAMS)}.")
    ] = None,
    mode: Annotated[str | None, typer.Option(help=f"The mode of clean-fid: {', '.join(MODES)}.")] = None,
    weights_file: Annotated[
        Path | None,
        typer.Option(help="A file with the network of 2015, in any format, to use instead of the download."),
    ] = None,
    any_weights: Annotated[
        bool,
        typer.Option(
            "--any-weights",
            help="Accept other weights; the scores are then not comparable with published ones.",
        ),
    ] = False,
    scores: Annotated[
        str | None,
        typer.Option(
            help="Scores, separated by commas: fid, fid-infinity, kid, is, precision, density, sfid, memorisation. "
            "By default all."
        ),
    ] = None,
    precision: Annotated[
        NetworkPrecision,
        typer.Option(
            help="Precision of the network. bf16 and int8 are faster; their effect on FID is measured and shown.",
        ),
    ] = "fp32",
    device: Device = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per batch.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode images and, on a CPU, run the network.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of the feature cache. By default in the user's cache folder.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor write the feature cache.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at an image that cannot be read.")] = False,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**32 - 1, help="Seed of the subsets of KID and the parts of the Inception Score."),
    ] = None,
    kid_subsets: Annotated[int | None, typer.Option(min=1, help="Number of subsets of KID.")] = None,
    kid_subset_size: Annotated[int | None, typer.Option(min=2, help="Images in each subset of KID.")] = None,
    is_splits: Annotated[int | None, typer.Option(min=1, help="Number of parts of the Inception Score.")] = None,
    save_statistics: Annotated[
        Path | None,
        typer.Option(
            help="Save the statistics of the reference (without a reference, of the generated images) as .npz."
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a page with the best and worst generated images and their nearest neighbours."),
    ] = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets.")] = False,
) -> None:
    """Score generated images: FID, KID, IS, precision, recall, density, coverage, sFID, in one pass."""
    if as_json and as_csv:
        raise InputError("--json and --csv: give only one of them", exit_status=2)
    if html and reference is None:
        raise InputError("--html needs REFERENCE images", exit_status=2)
    from inception_v3.fidelity import report
    from inception_v3.fidelity.run import statistics_of
    from inception_v3.support.devices import has_bf16, pick_device
    from inception_v3.support.files import check_writable

    for path in (save_statistics, html):
        if path is not None:
            check_writable(path)
    picked = pick_device(device)
    if precision == "bf16" and not has_bf16(picked):
        warn("this CPU has no bf16 instructions: --precision bf16 will be slower than fp32")
    options = FidelityOptions(
        like=like,
        mode=mode,
        weights=weights_file or DEFAULT_WEIGHTS,
        any_weights=any_weights,
        scores=[name.strip() for name in scores.split(",")] if scores else None,
        dtype=precision,
        device=picked,
        cache=cache,
        use_cache=not no_cache,
        batch_size=batch_size,
        workers=workers,
        strict=strict,
        seed=seed,
        kid_subsets=kid_subsets,
        kid_subset_size=kid_subset_size,
        is_splits=is_splits,
    )
    result = _score_with_progress(generated, reference, options)
    if not save_statistics and all(value is None for value in result.scores.values()):
        reason = result.notes[0] if result.notes else f"no {scores}: needs a REFERENCE, a second set"
        raise InputError(f"{generated}: {reason}")
    if as_json:
        print(json.dumps(result.as_dict(), ensure_ascii=False))
    elif as_csv:
        _print_csv(result)
    else:
        _print_table(result, output)
    _print_messages(result)
    if save_statistics:
        statistics_of([*result.sets.values()][-1], result).save(save_statistics)
    if html:
        report.write(result, html)


def _score_with_progress(generated: str, reference: str | None, options: FidelityOptions) -> "FidelityResult":
    from inception_v3.fidelity.run import score_sets
    from inception_v3.support.progress import progress_bar

    with progress_bar(messages) as bars:

        def start_step(step: str, total: int | None) -> Callable[[int], None]:
            bar = bars.add_task(escape(step), total=total, figures="")
            return lambda amount: bars.advance(bar, amount)

        return score_sets(generated, reference, options, start_step)


def _print_csv(result: "FidelityResult") -> None:
    values = {key: value for key, value in result.as_dict().items() if not isinstance(value, list)}
    rows = csv.DictWriter(sys.stdout, values, lineterminator="\n")
    rows.writeheader()
    rows.writerow(values)


def _print_table(result: "FidelityResult", console: Console) -> None:
    from rich.table import Table

    from inception_v3.fidelity.result import format_scores

    table = Table("score", title=escape(f"{result.generated.name} by {result.convention.name}"))
    table.add_column("", justify="right")
    table.add_column("")
    for row in format_scores(result.scores):
        table.add_row(*row)
    console.print(table)
    for line in result.describe():
        console.print(line, highlight=False, markup=False)


def _print_messages(result: "FidelityResult") -> None:
    """Print warnings, notes and the unreadable images to stderr."""
    for line in (*(f"warning: {warning}" for warning in result.warnings), *result.notes):
        warn(line)
    for side in result.sets.values():
        if side.features is not None:
            unreadable = side.features.unreadable_count
            warn_unreadable(side.features.unreadable, unreadable + side.features.count, bad=unreadable)
