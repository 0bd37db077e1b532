"""`inception-v3 evaluate`"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inception_v3.cli.common import (
    MODEL_HELP,
    BatchSize,
    Device,
    Json,
    WeightsFile,
    Workers,
    messages,
    output,
    choose_worker_count,
    warn_unreadable,
    unreadable_lines,
    warn,
)
from inception_v3.errors import InputError

if TYPE_CHECKING:
    import torch

    from inception_v3.evaluation.evaluate import Metrics
    from inception_v3.weights.model import InceptionV3


def evaluate(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    data: Annotated[str, typer.Argument(help="digits, or a folder of class/image files.")],
    others: Annotated[
        list[str] | None, typer.Option("--with", help="Another model; the softmax is averaged. Repeat for more.")
    ] = None,
    crops: Annotated[int, typer.Option(help="Views of each picture: 1, 12 or 144, the paper's.")] = 1,
    weights: Annotated[str, typer.Option(help="ema, the running average of a run folder, or raw.")] = "ema",
    precision: Annotated[str, typer.Option(help="fp32, or bf16, which is faster.")] = "fp32",
    report: Annotated[Path | None, typer.Option(help="Write a page to read: FILE.html, or a folder for it.")] = None,
    table: Annotated[Path | None, typer.Option("--csv", help="Write a row for each picture.")] = None,
    batch_size: BatchSize = 32,
    device: Device = None,
    weights_file: WeightsFile = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Judge a model on held-out pictures: top-1, top-5, every class by itself, and calibration."""
    _one_of("--crops", crops, (1, 12, 144))
    _one_of("--weights", weights, ("ema", "raw"))
    _one_of("--precision", precision, ("fp32", "bf16"))
    if report is not None and report.suffix.lower() not in (".html", ".htm"):
        report /= "report.html"
    from inception_v3.support.files import check_writable

    for file in filter(None, (report, table)):
        check_writable(file)  # before hours of work

    from inception_v3.data import load_held_out
    from inception_v3.evaluation.evaluate import judge
    from inception_v3.support.devices import has_bf16, pick_device
    from inception_v3.support.distributed import local_device, process_group
    from inception_v3.support.progress import progress_bar
    from inception_v3.training.run_folder import training_images

    names = [model, *(others or ())]
    place = local_device(pick_device(device))
    if precision == "bf16" and not has_bf16(place):
        raise InputError(f"--precision bf16: not on this {place.type}, which does not compute in it", exit_status=2)
    with process_group(place, remedy="start all processes again") as processes:
        networks = _load(names, weights_file, weights, place)
        origins = [network.origin.file for network in networks if network.origin is not None]
        files = [_newest_state(file) if weights == "raw" else file for file in origins]
        pictures = load_held_out(data, networks[0].class_names, *map(training_images, origins))
        outputs, classes = networks[0].settings.num_classes, len(pictures.class_names)
        if outputs != classes:
            raise InputError(f"{model}: tells {outputs} classes apart, and {data} has {classes}; give its own data")
        if workers is None:  # each holds the crops of several pictures, and the network is no faster than two
            workers = min(choose_worker_count(None, len(pictures), data), 8 if crops == 1 else 2)
        with progress_bar(messages) as progress:
            bar = progress.add_task("evaluating", total=len(pictures), figures="", visible=processes.rank == 0)
            metrics = judge(
                networks,
                pictures,
                crops=crops,
                precision="bf16" if precision == "bf16" else "fp32",
                batch_size=batch_size,
                workers=workers,
                group=processes,
                on_batch=lambda done: progress.advance(bar, done),
            )
    if processes.rank:
        return  # one process tells
    metrics.bad = [*pictures.bad, *metrics.bad]
    everything = len(pictures) + len(pictures.bad)
    if not metrics.count:
        warn_unreadable(unreadable_lines(metrics.bad), everything)
        raise InputError(f"{data}: none of its {everything} pictures can be read")
    if not len(metrics.answered):
        raise InputError(f"{model}: its outputs are no finite numbers for any picture; the weights are damaged")
    from inception_v3.evaluation.report import write_csv, write_html
    from inception_v3.support.files import checksum

    settings = {
        "models": [
            {"name": name, "file": str(file), "sha256": checksum(file)} for name, file in zip(names, files, strict=True)
        ],
        "weights": weights,
        "data": data,
        "crops": crops,
        "precision": precision,
    }
    if as_json:
        print(json.dumps(settings | metrics.as_dict(), allow_nan=False))
    else:
        _show(metrics)
    if metrics.unanswered:
        warn(
            f"{metrics.unanswered} of {metrics.count} pictures got outputs that are no finite numbers; they count as "
            "mistakes, and are in neither loss nor ECE"
        )
    warn_unreadable(unreadable_lines(metrics.bad), everything)
    # last, as a disk may be full, and what was found is unreadable_lines by now
    if table is not None:
        write_csv(table, metrics, pictures)
    if report is not None:
        write_html(report, metrics, pictures, settings)


def _one_of(option: str, given: Any, known: tuple[Any, ...]) -> None:
    if given not in known:
        raise InputError(f"{option} must be {' or '.join(map(str, known))}, not {given}", exit_status=2)


def _newest_state(model: Path) -> Path:
    """The newest state of the run that a model lies in: it holds the weights themselves beside their average."""
    states = sorted((model.parent / "checkpoints").glob("step-*.safetensors"))
    if not states:
        raise InputError(
            f"{model.parent}: no training state in it, so no raw weights; leave out --weights for the average"
        )
    return states[-1]


def _put_raw(network: "InceptionV3") -> None:
    """Replace the averaged weights of a run by those in its newest state, which training goes on with."""
    from safetensors import SafetensorError, safe_open

    assert network.origin is not None  # of what was loaded
    file = _newest_state(network.origin.file)
    try:
        with safe_open(file, "pt") as state:
            network.load_state_dict({name: state.get_tensor(f"model.{name}") for name in network.state_dict()})
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{file}: does not hold the raw weights of the model beside it ({reason})") from error


def _load(names: list[str], weights_file: Path | None, weights: str, place: "torch.device") -> list["InceptionV3"]:
    """The models, which must tell the same classes apart; the file stands in for the first one's download."""
    from inception_v3.weights.load import load

    given = [weights_file, *[None] * (len(names) - 1)]
    networks = [load(name, place, weights_file=file) for name, file in zip(names, given, strict=True)]
    for network in networks if weights == "raw" else ():
        _put_raw(network)
    classes = [(network.class_names, network.settings.num_classes) for network in networks]
    for name, its in zip(names, classes, strict=True):
        if its != classes[0]:
            raise InputError(f"{name}: its classes are not those of {names[0]}; leave one of the two out")
    return networks


def _show(metrics: "Metrics") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("class", title=f"{metrics.count} pictures")
    for name in ("pictures", "recall", "precision"):
        table.add_column(name, justify="right")
    for row in metrics.per_class():
        shares = ["–" if row[key] is None else f"{row[key]:.1%}" for key in ("recall", "precision")]
        table.add_row(Text(row["class"]), str(row["count"]), *shares)
    output.print(table)
    output.print(
        f"top-1 {metrics.top1:.2%}  top-5 {metrics.top5:.2%}  loss {metrics.loss:.4f}  ECE {metrics.ece:.4f}",
        highlight=False,
    )
