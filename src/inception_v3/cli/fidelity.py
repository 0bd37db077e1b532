"""`inception-v3 fidelity`"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer
from rich.console import Console
from rich.markup import escape

from inception_v3.cli.common import (
    Cache,
    CsvFile,
    Device,
    Json,
    NoCache,
    OptionalBatchSize,
    OptionalSeed,
    ReportFile,
    Workers,
    check_report_files,
    check_seed,
    choice,
    data_option,
    detail,
    messages,
    model_option,
    note,
    output,
    output_option,
    precision_option,
    running_option,
    warn,
    warn_unreadable,
)
from inception_v3.errors import InputError
from inception_v3.fidelity.conventions import MODES, PROGRAMS, find_convention
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
        str | None,
        running_option(metavar="NAME", help=f"Compute the same values as a program: {', '.join(PROGRAMS)}."),
    ] = None,
    mode: Annotated[str | None, choice("--mode", MODES, "The mode of clean-fid")] = None,
    weights_file: Annotated[
        Path | None,
        model_option(
            metavar="FILE", help="A file with the network of 2015, in any format, to use instead of the download."
        ),
    ] = None,
    any_weights: Annotated[
        bool,
        model_option(
            "--any-weights",
            help="Accept other weights; the scores are then not comparable with published ones.",
        ),
    ] = False,
    scores: Annotated[
        str | None,
        running_option(
            metavar="NAME,...",
            help="Scores: fid, fid-infinity, kid, is, precision, density, sfid, memorisation; several, separated by "
            "commas.",
            show_default="all",
        ),
    ] = None,
    precision: Annotated[str, precision_option(get_args(NetworkPrecision))] = "fp32",
    device: Device = None,
    batch_size: OptionalBatchSize = None,
    workers: Workers = None,
    cache: Cache = None,
    no_cache: NoCache = False,
    strict: Annotated[bool, data_option("--strict", help="Stop at an image that cannot be read.")] = False,
    seed: OptionalSeed = None,
    kid_subsets: Annotated[int | None, running_option(min=1, metavar="N", help="Number of subsets of KID.")] = None,
    kid_subset_size: Annotated[
        int | None, running_option(min=2, metavar="N", help="Images in each subset of KID.")
    ] = None,
    is_splits: Annotated[
        int | None, running_option(min=1, metavar="N", help="Number of parts of the Inception Score.")
    ] = None,
    save_statistics: Annotated[
        Path | None,
        output_option(
            metavar="FILE.npz",
            help="Save the statistics of the reference (without a reference, of the generated images) as .npz.",
        ),
    ] = None,
    report: ReportFile = None,
    table: CsvFile = None,
    as_json: Json = False,
) -> None:
    """Score generated images: FID, KID, IS, precision, recall, density, coverage, sFID, in one pass."""
    if report and reference is None:
        raise InputError("--report: needs images to compare with; give REFERENCE too", exit_status=2)
    check_seed(seed, 2**32 - 1)
    convention = find_convention(like, mode)
    report = check_report_files(report, table, as_json, filter(None, (generated, reference, weights_file)))
    from inception_v3.fidelity.report import write
    from inception_v3.fidelity.run import statistics_of
    from inception_v3.reports.tables import STDOUT, write_csv
    from inception_v3.support.devices import has_bf16, pick_device
    from inception_v3.support.files import check_writable

    if save_statistics is not None:
        check_writable(save_statistics, filter(None, (generated, reference, weights_file)))
    picked = pick_device(device)
    if precision == "bf16" and not has_bf16(picked):
        note("this CPU has no bf16 instructions: --precision bf16 will be slower than fp32")
    options = FidelityOptions(
        like=like,
        mode=mode,
        weights=weights_file or DEFAULT_WEIGHTS,
        any_weights=any_weights,
        scores=[name.strip() for name in scores.split(",")] if scores else None,
        dtype=cast("NetworkPrecision", precision),
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
    detail(f"as {convention.name}, on {picked}, {options.callers()} network threads; cache {options.cache_folder()}")
    result = _score_with_progress(generated, reference, options)
    if not save_statistics and all(value is None for value in result.scores.values()):
        reason = result.notes[0] if result.notes else f"no {scores}: needs a REFERENCE, a second set"
        raise InputError(f"{generated}: {reason}")
    if as_json:
        print(json.dumps(result.as_dict(), ensure_ascii=False))
    elif table != STDOUT:
        _print_table(result, output)
    _print_messages(result)
    if save_statistics:
        statistics_of([*result.sets.values()][-1], result).save(save_statistics)
    if table is not None:
        values = {key: value for key, value in result.as_dict().items() if not isinstance(value, list)}
        write_csv(table, list(values), [list(values.values())])
    if report is not None:
        write(result, report)


def _score_with_progress(generated: str, reference: str | None, options: FidelityOptions) -> "FidelityResult":
    from inception_v3.fidelity.run import score_sets
    from inception_v3.fidelity.scores import SCORE_STEPS
    from inception_v3.support.progress import Step, show_progress, summary

    steps: list[Step] = []
    with show_progress(messages) as start_shown:

        def start_step(name: str, total: int | None) -> Step:
            steps.append(start_shown(name, total, "" if total is None or name in SCORE_STEPS else "images"))
            return steps[-1]

        result = score_sets(generated, reference, options, start_step)
    sets = [side for side in result.sets.values() if side.features is not None]
    cached = sum(side.features.from_cache for side in sets if side.features)
    unreadable = sum(side.features.unreadable_count for side in sets if side.features)
    count = sum(side.features.count for side in sets if side.features) + unreadable
    seconds = sum(step.seconds for step in steps if step.name in [side.name for side in sets])
    engine = f"{result.network.engine_name} {result.network.dtype}"
    note(summary(count - cached, unreadable, seconds, engine, stored=cached))
    return result


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
    for warning in result.warnings:
        warn(f"warning: {warning}")
    for line in result.notes:
        note(line)
    for side in result.sets.values():
        if side.features is not None:
            unreadable = side.features.unreadable_count
            warn_unreadable(side.features.unreadable, unreadable + side.features.count, bad=unreadable)
