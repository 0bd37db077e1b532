"""`inception-v3 bench`"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inception_v3.cli.common import MODEL_HELP, Json, WeightsFile, warn
from inception_v3.errors import InputError
from inception_v3.inference.engines.registry import ENGINES

if TYPE_CHECKING:
    from rich.table import Table

    from inception_v3.benchmarking.bench import Bench

WIDTH = 132  # of the table where it goes into a file or a pipe


def bench(
    model: Annotated[
        str | None, typer.Argument(help=f"{MODEL_HELP} By default the network of full width with random weights.")
    ] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Other programs too, those that are installed: torchvision, timm, Keras.")
    ] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Include torch.compile; takes minutes.")] = False,
    engines: Annotated[str | None, typer.Option(help=f"Some of {','.join(ENGINES)}. By default all.")] = None,
    precisions: Annotated[str | None, typer.Option(help="Some of fp32,bf16,fp16,int8. By default all.")] = None,
    batch_size: Annotated[
        list[int] | None, typer.Option(min=1, help="Pictures at once; give it again for another. By default 1 and 16.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each takes its turn.")] = 10,
    images: Annotated[
        list[str] | None, typer.Option(help="Pictures to compare answers on, and to make int8 with.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the speeds into this .png.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ..., or OpenVINO's gpu.")] = "cpu",
    weights_file: WeightsFile = None,
    as_json: Json = False,
) -> None:
    """Measure every engine on this machine: speed, latency, memory, share of the arithmetic's limit, agreement.

    All run by turns, so that a noisy machine does not decide the order.
    """
    from inception_v3.inference.exported.check import MIN_AGREEMENT

    chosen = _some("--engines", engines, tuple(ENGINES))
    which = _some("--precisions", precisions, tuple(MIN_AGREEMENT))
    if "compile" in (engines or "").split(","):
        compiled = True
    if plot is not None:
        _check_plot(plot)
    from inception_v3.images.find import expand

    pictures = list(expand(images)) if images else None
    from rich.console import Console

    from inception_v3.benchmarking.bench import bench, doubtful
    from inception_v3.cli.common import messages
    from inception_v3.support.devices import pick_device
    from inception_v3.support.progress import progress_bar
    from inception_v3.weights.load import load

    if device.startswith("cuda"):
        pick_device(device)
    network = load(model, weights_file=weights_file) if model is not None else None
    with progress_bar(messages) as progress:
        bar = progress.add_task("measuring", total=None, figures="")
        found = bench(
            network,
            images=pictures,
            engines=chosen,
            precisions=which,
            batch_sizes=batch_size or (1, 16),
            peers=peers,
            compiled=compiled,
            rounds=rounds,
            device=device,
            progress=lambda what, done, total: progress.update(bar, completed=done, total=total, figures=what),
        )
    if plot is not None:
        from inception_v3.reports.plots import speeds

        rows = [(row.engine, row.precision, row.batch_size, row.images_per_second) for row in found.rows]
        speeds(rows, {precision: peak / found.operations for precision, peak in found.peak.items()}, plot)
    if as_json:
        print(json.dumps(found.as_dict()))
    else:
        Console(width=None if sys.stdout.isatty() else WIDTH).print(_table(found))
    for name, reason in found.skipped.items():
        warn(f"{name}: left out: {reason}")
    for name, agreement in doubtful(found.rows).items():
        warn(f"{name}: agrees with the network on {agreement:.1%} of {found.pictures}, too few to be chosen by itself")


def _some(option: str, given: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """What was given with commas, all by default."""
    chosen = known if given is None else tuple(given.split(","))
    for one in chosen:
        if one not in known:
            raise InputError(f"{option}: no {one!r}; there are {', '.join(known)}", exit_status=2)
    return chosen


def _check_plot(path: Path) -> None:
    from importlib.util import find_spec

    from inception_v3.support.files import check_writable

    if path.suffix != ".png":
        raise InputError(f"{path}: the name must end in .png", exit_status=2)
    if find_spec("matplotlib") is None:
        raise InputError("--plot needs matplotlib; pip install 'inception-v3[train]'", exit_status=2)
    check_writable(path)


def _table(found: "Bench") -> "Table":
    from rich import box
    from rich.table import Table

    machine = found.machine
    peaks = ", ".join(f"{name} {value / 1e9:,.0f}" for name, value in found.peak.items())
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    table = Table(
        title=f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, {found.rounds} rounds",
        caption=f"× is the speed over {found.baseline}; MB the process's memory at its peak; of peak: of the "
        f"arithmetic of a matrix product ({peaks} GFLOP/s; a picture is {found.operations / 1e9:.2f} GFLOP); same "
        f"class and probabilities off by: against the network itself in fp32, on {found.pictures}. {versions}",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
    )
    table.add_column("engine", no_wrap=True)
    table.add_column("precision")
    for name in ("batch", "images/s", "×", "p50 ms", "p99 ms", "MB", "of peak", "same class", "off by"):
        table.add_column(name, justify="right")
    before = None
    for row in found.rows:
        name = f"{row.engine} {row.precision}"
        table.add_row(
            row.engine if name != before else "",
            row.precision if name != before else "",
            str(row.batch_size),
            f"{row.images_per_second:,.1f}",
            f"{row.ratio:.2f}",
            f"{row.latency_p50_ms:,.1f}",
            f"{row.latency_p99_ms:,.1f}",
            _shown(row.peak_memory_mb, "{:,.0f}"),
            _shown(row.peak_share, "{:.0%}"),
            _shown(row.top1_agreement, "{:.1%}"),
            _shown(row.max_difference, "{:.0e}"),
        )
        before = name
    return table


def _shown(value: Any, form: str) -> str:
    return "–" if value is None else form.format(value)
