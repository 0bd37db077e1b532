"""`inception-v3 fidelity`"""

import csv
import json
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from inception_v3.cli.common import Device, Json, messages, output, warn_unreadable, warn
from inception_v3.errors import InputError

if TYPE_CHECKING:
    from inception_v3.fidelity.scores import Fidelity


class Precision(StrEnum):
    fp32 = "fp32"
    bf16 = "bf16"
    int8 = "int8"


def fidelity(
    generated: Annotated[
        str,
        typer.Argument(help="A folder, .zip, .tar, .npz, .npy, shards such as 'x-{000..009}.tar', or statistics."),
    ],
    reference: Annotated[
        str | None, typer.Argument(help="The same of real pictures. Without it, the Inception Score alone.")
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(help="pytorch-fid, clean-fid, torch-fidelity, tensorflow or adm: that program's numbers."),
    ] = None,
    mode: Annotated[str | None, typer.Option(help="clean-fid's: clean, legacy-pytorch or legacy-tensorflow.")] = None,
    weights_file: Annotated[
        Path | None, typer.Option(help="The network of 2015 in any format, in place of the download.")
    ] = None,
    any_weights: Annotated[
        bool, typer.Option("--any-weights", help="Accept other weights; the scores then compare with no others.")
    ] = False,
    scores: Annotated[
        str | None,
        typer.Option(help="Some of fid,fid-infinity,kid,is,precision,density,sfid,memorisation. By default all."),
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(help="Of the network. bf16 and int8 are faster; what they do to FID is measured and told."),
    ] = Precision.fp32,
    device: Device = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pictures that the network takes at once.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads: they decode, and on a processor run the network.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of features worked out before. By default the user's cache.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no features, and use none.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at a picture that cannot be read.")] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, help="Of the subsets of KID and the parts of IS.")
    ] = None,
    kid_subsets: Annotated[int | None, typer.Option(min=1, help="How many subsets KID draws.")] = None,
    kid_subset_size: Annotated[int | None, typer.Option(min=2, help="Pictures in each.")] = None,
    is_splits: Annotated[int | None, typer.Option(min=1, help="Parts of the Inception Score.")] = None,
    save_statistics: Annotated[
        Path | None, typer.Option(help="Keep the reference's statistics (without one, the generated's) as .npz.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="A page with the best and worst pictures and their nearest neighbours.")
    ] = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets.")] = False,
) -> None:
    """Score generated pictures: FID, KID, IS, precision, recall, density, coverage, sFID, in one pass."""
    if as_json and as_csv:
        raise InputError("--json and --csv: give one of them", exit_status=2)
    if html and reference is None:
        raise InputError("--html: needs a REFERENCE to find neighbours in", exit_status=2)
    from inception_v3.fidelity import report
    from inception_v3.fidelity.network import WEIGHTS
    from inception_v3.fidelity.run import fidelity, statistics_of
    from inception_v3.fidelity.scores import SCORES
    from inception_v3.support.devices import has_bf16, pick_device
    from inception_v3.support.files import check_writable
    from inception_v3.support.progress import progress_bar

    for out in (save_statistics, html):
        if out is not None:
            check_writable(out)
    place = pick_device(device)
    if precision is Precision.bf16 and not has_bf16(place):
        warn("this processor has no bf16 of its own: --precision bf16 will be slower than fp32")
    with progress_bar(messages) as bars:

        def progress(step: str, total: int | None) -> Callable[[int], None]:
            bar = bars.add_task(escape(step), total=total, figures="")
            return lambda done: bars.advance(bar, done)

        result = fidelity(
            generated,
            reference,
            like=like,
            mode=mode,
            weights=weights_file or WEIGHTS,
            any_weights=any_weights,
            scores=[name.strip() for name in scores.split(",")] if scores else tuple(SCORES),
            dtype=precision.value,
            device=place,
            cache=cache,
            use_cache=not no_cache,
            batch_size=batch_size,
            workers=workers,
            strict=strict,
            seed=seed,
            kid_subsets=kid_subsets,
            kid_subset_size=kid_subset_size,
            is_splits=is_splits,
            progress=progress,
        )
    if not save_statistics and all(value is None for value in result.scores.values()):
        needs = f"no {scores}: needs a REFERENCE, a second set"
        raise InputError(f"{generated}: {result.notes[0] if result.notes else needs}")
    if as_json:
        print(json.dumps(result.as_dict(), ensure_ascii=False))
    elif as_csv:
        told = {key: value for key, value in result.as_dict().items() if not isinstance(value, list)}
        rows = csv.DictWriter(sys.stdout, told, lineterminator="\n")
        rows.writeheader()
        rows.writerow(told)
    else:
        _show(result, output)
    for line in result.warnings:
        warn(f"warning: {line}")
    for line in result.notes:
        warn(line)
    for side in result.sides:
        if side.features is not None:
            bad = side.features.bad_count
            warn_unreadable(side.features.bad, bad + len(side.features), bad=bad)
    if save_statistics:
        statistics_of(result.sides[-1], result).save(save_statistics)
    if html:
        report.write(result, html)


def _show(result: "Fidelity", console: Console) -> None:
    from rich.table import Table

    from inception_v3.fidelity.scores import told_scores

    table = Table("score", title=escape(f"{result.generated.name} by {result.convention.name}"))
    table.add_column("", justify="right")
    table.add_column("")
    for row in told_scores(result.scores):
        table.add_row(*row)
    console.print(table)
    for line in result.facts():
        console.print(line, highlight=False, markup=False)
