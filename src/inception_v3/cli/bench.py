"""`inception-v3 bench`"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inception_v3.cli.common import MODEL_HELP, Json, WeightsFile, messages, warn
from inception_v3.errors import InputError
from inception_v3.inference.engines.registry import ENGINES

if TYPE_CHECKING:
    from rich.table import Table

    from inception_v3.benchmarking.bench import BenchResult

WIDTH = 132  # columns of the table in a file or a pipe


def bench(
    model: Annotated[
        str | None, typer.Argument(help=f"{MODEL_HELP} By default the full-width network with random weights.")
    ] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Also measure other libraries, if installed: torchvision, timm, Keras.")
    ] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Also measure torch.compile; takes minutes.")] = False,
    engines: Annotated[
        str | None,
        typer.Option(
            help=f"Engines to measure, separated by commas: {', '.join(ENGINES)}. By default all except compile."
        ),
    ] = None,
    precisions: Annotated[
        str | None,
        typer.Option(help="Precisions to measure, separated by commas: fp32, bf16, fp16, int8. By default all."),
    ] = None,
    batch_size: Annotated[
        list[int] | None, typer.Option(min=1, help="Images per batch; repeat for more sizes. By default 1 and 16.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How many times each engine is measured.")] = 10,
    images: Annotated[
        list[str] | None, typer.Option(help="Images to compare outputs on, and to calibrate int8 on.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Plot the speeds to this .png file.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ..., or OpenVINO's gpu.")] = "cpu",
    weights_file: WeightsFile = None,
    as_json: Json = False,
) -> None:
    """Measure every engine on this machine: speed, latency, memory, fraction of peak FLOP/s, agreement.

    The engines take turns, so that other load on the machine does not decide their order.
    """
    from inception_v3.inference.exported.check import MIN_AGREEMENT

    chosen_engines = _split_list("--engines", engines, tuple(ENGINES))
    chosen_precisions = _split_list("--precisions", precisions, tuple(MIN_AGREEMENT))
    if plot is not None:
        _check_plot(plot, images or [])
    from inception_v3.images.find import expand

    sources = list(expand(images)) if images else None
    from rich.console import Console

    from inception_v3.benchmarking.bench import bench, low_agreement
    from inception_v3.support.devices import pick_device
    from inception_v3.support.progress import progress_bar
    from inception_v3.weights.load import load

    if device.startswith("cuda"):
        pick_device(device)  # raises InputError if there is no such GPU
    network = load(model, weights_file=weights_file) if model is not None else None
    with progress_bar(messages) as progress:
        bar = progress.add_task("measuring", total=None, figures="")
        result = bench(
            network,
            images=sources,
            engines=chosen_engines,
            precisions=chosen_precisions,
            batch_sizes=batch_size or (1, 16),
            peers=peers,
            compiled=compiled or (engines is not None and "compile" in chosen_engines),
            rounds=rounds,
            device=device,
            progress=lambda step, done, total: progress.update(bar, completed=done, total=total, figures=step),
        )
    if plot is not None:
        from inception_v3.reports.plots import speeds
        from inception_v3.support.files import atomic_write

        rows = [(row.engine, row.precision, row.batch_size, row.images_per_second) for row in result.rows]
        relative_peaks = {precision: peak / result.operations for precision, peak in result.peak.items()}
        with atomic_write(plot) as temporary:
            speeds(rows, relative_peaks, temporary)
    if as_json:
        print(json.dumps(asdict(result)))
    else:
        Console(width=None if sys.stdout.isatty() else WIDTH).print(_table(result))
    for name, reason in result.skipped.items():
        warn(f"{name}: not measured: {reason}")
    for name, agreement in low_agreement(result.rows).items():
        warn(f"{name}: top-1 agreement with the network is {agreement:.1%} on {result.pictures}, too low for auto")


def _split_list(option: str, value: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """Split a comma-separated list; without a value, return all `known` names. Raises InputError: an unknown name."""
    names = known if value is None else tuple(value.split(","))
    for name in names:
        if name not in known:
            raise InputError(f"{option}: unknown name {name!r}; choose from {', '.join(known)}", exit_status=2)
    return names


def _check_plot(path: Path, images: list[str]) -> None:
    from inception_v3.support.files import check_writable
    from inception_v3.support.packages import require_packages

    if path.suffix != ".png":
        raise InputError(f"{path}: the name must end in .png", exit_status=2)
    require_packages(("matplotlib",), "--plot", "train")
    check_writable(path, images)


def _table(result: "BenchResult") -> "Table":
    from rich import box
    from rich.table import Table

    machine = result.machine
    peaks = ", ".join(f"{name} {value / 1e9:,.0f}" for name, value in result.peak.items())
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    table = Table(
        title=f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, {result.rounds} rounds",
        caption=f"×: speed relative to {result.baseline}. MB: peak memory of the process. of peak: arithmetic "
        f"throughput over that of a matrix product ({peaks} GFLOP/s; an image takes "
        f"{result.operations / 1e9:.2f} GFLOP). same class, off by: top-1 agreement and largest difference of a "
        f"probability, compared with the network itself in fp32 on {result.pictures}. {versions}",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    table.add_column("engine", no_wrap=True)
    table.add_column("precision")
    for column in ("batch", "images/s", "×", "p50 ms", "p99 ms", "MB", "of peak", "same class", "off by"):
        table.add_column(column, justify="right")
    previous: tuple[str, str] | None = None
    for row in result.rows:
        system = row.engine, str(row.precision)
        table.add_row(
            *(system if system != previous else ("", "")),
            str(row.batch_size),
            f"{row.images_per_second:,.1f}",
            f"{row.ratio:.2f}",
            f"{row.latency_p50_ms:,.1f}",
            f"{row.latency_p99_ms:,.1f}",
            _format(row.peak_memory_mb, "{:,.0f}"),
            _format(row.peak_share, "{:.0%}"),
            _format(row.top1_agreement, "{:.1%}"),
            _format(row.max_difference, "{:.0e}"),
        )
        previous = system
    return table


def _format(value: Any, form: str) -> str:
    return "–" if value is None else form.format(value)
