"""`inception-v3 bench`"""

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inception_v3.cli.common import (
    DEVICE_HELP,
    MODEL_HELP,
    NO_FACTS,
    CsvFile,
    Json,
    ModelFacts,
    Names,
    ReportFile,
    WeightsFile,
    check_report_files,
    data_option,
    detail,
    engine_option,
    messages,
    note,
    output_option,
    precision_option,
    print_json,
    running_option,
    warn,
)
from inception_v3.errors import InputError
from inception_v3.inference.engines.registry import ENGINES, PRECISIONS
from inception_v3.support.arguments import MAX_BATCH_SIZE

if TYPE_CHECKING:
    from rich.table import Table

    from inception_v3.benchmarking.bench import BenchResult

WIDTH = 132  # columns of the table in a file or a pipe


def bench(
    model: Annotated[
        str | None, typer.Argument(help=f"{MODEL_HELP} By default the full-width network with random weights.")
    ] = None,
    peers: Annotated[
        bool, running_option("--peers", help="Also measure other libraries, if installed: torchvision, timm, Keras.")
    ] = False,
    compiled: Annotated[bool, running_option("--compile", help="Also measure torch.compile; takes minutes.")] = False,
    engine: Annotated[
        Names | None, engine_option(tuple(ENGINES), several=True, show_default="all except compile")
    ] = None,
    precision: Annotated[Names | None, precision_option(PRECISIONS, several=True, show_default="all")] = None,
    batch_size: Annotated[
        list[int] | None,
        data_option(
            min=1,
            max=MAX_BATCH_SIZE,
            metavar="N",
            help="Images per batch; repeat for more sizes.",
            show_default="1 and 16",
        ),
    ] = None,
    rounds: Annotated[int, running_option(min=1, metavar="N", help="How many times each engine is measured.")] = 10,
    images: Annotated[
        list[str] | None,
        data_option(metavar="PATH", help="Images to compare outputs on, and to calibrate int8 on."),
    ] = None,
    plot: Annotated[Path | None, output_option(metavar="FILE.png", help="Plot the speeds.")] = None,
    device: Annotated[str, running_option(metavar="DEVICE", help=DEVICE_HELP)] = "cpu",
    weights_file: WeightsFile = None,
    facts: ModelFacts = NO_FACTS,
    report: ReportFile = None,
    table: CsvFile = None,
    as_json: Json = False,
) -> None:
    """Measure every engine on this machine: speed, latency, memory, fraction of peak FLOP/s, agreement.

    The engines take turns, so that other load on the machine does not decide their order.
    """
    if plot is not None:
        _check_plot(plot)
    inputs = [*(images or ()), *(path for path in (model, weights_file) if path and Path(path).is_file())]
    report = check_report_files(report, table, as_json, inputs, other=plot)
    from inception_v3.images.addresses import collect

    sources = collect(images) if images else None
    from inception_v3.benchmarking.bench import bench, low_agreement
    from inception_v3.benchmarking.report import write_csv, write_html
    from inception_v3.inference.choose import check_has_weights
    from inception_v3.reports.tables import STDOUT
    from inception_v3.support.devices import pick_device
    from inception_v3.support.progress import duration, show_progress
    from inception_v3.support.streams import new_console
    from inception_v3.weights.load import load

    if device.startswith("cuda"):
        pick_device(device)  # raises InputError if there is no such GPU
    if model is not None:
        check_has_weights(model, facts)
    network = load(model, weights_file=weights_file, **facts) if model is not None else None
    started = time.monotonic()
    with show_progress(messages) as start_step:
        measuring = start_step("measuring", None, "steps")

        def show_step(step: str, done: int, total: int) -> None:
            detail(f"{done} of {total}: {step}")
            measuring.total = total
            measuring.update(done, step)

        result = bench(
            network,
            images=sources,
            engines=engine or tuple(ENGINES),
            precisions=precision or PRECISIONS,
            batch_sizes=batch_size or (1, 16),
            peers=peers,
            compiled=compiled or "compile" in (engine or ()),
            rounds=rounds,
            device=device,
            progress=show_step,
        )
    if plot is not None:
        from inception_v3.reports.plots import speeds
        from inception_v3.support.files import atomic_write

        rows = [(row.engine, row.precision, row.batch_size, row.images_per_second) for row in result.rows]
        relative_peaks = {precision: peak / result.operations for precision, peak in result.peak.items()}
        with atomic_write(plot) as temporary:
            speeds(rows, relative_peaks, temporary)
    if as_json:
        print_json(asdict(result))
    elif table != STDOUT:
        new_console(width=None if sys.stdout.isatty() else WIDTH).print(_table(result))
    note(f"{len(result.rows)} measurements, {len(result.skipped)} left out, {duration(time.monotonic() - started)}")
    for name, reason in result.skipped.items():
        note(f"{name}: not measured: {reason}")
    for name, agreement in low_agreement(result.rows).items():
        warn(f"{name}: top-1 agreement with the network is {agreement:.1%} on {result.pictures}, too low for auto")
    if table is not None:
        write_csv(table, result)
    if report is not None:
        write_html(report, result)


def _check_plot(path: Path) -> None:
    from inception_v3.support.packages import require_packages

    if path.suffix != ".png":
        raise InputError(f"{path}: the name must end in .png", exit_status=2)
    require_packages(("matplotlib",), "--plot", "train")


def _table(result: "BenchResult") -> "Table":
    from rich import box
    from rich.table import Table

    from inception_v3.benchmarking.report import COLUMNS, describe_figures, describe_machine, format_row

    table = Table(title=describe_machine(result), caption=describe_figures(result), box=box.SIMPLE_HEAD, padding=(0, 1))
    for index, column in enumerate(COLUMNS):
        table.add_column(column, no_wrap=index == 0, justify="left" if index < 2 else "right")
    previous: list[str] = []
    for cells in map(format_row, result.rows):
        table.add_row(*(cells[:2] if cells[:2] != previous else ("", "")), *cells[2:])
        previous = cells[:2]
    return table
