"""`inception-v3 evaluate`"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from inception_v3.cli.common import (
    DATA_HELP,
    MODEL_HELP,
    BatchSize,
    CsvFile,
    Device,
    Json,
    ReportFile,
    WeightsFile,
    Workers,
    check_bf16,
    check_report_files,
    choice,
    choose_worker_count,
    detail,
    is_stdout,
    messages,
    model_option,
    output,
    precision_option,
    unreadable_lines,
    warn,
    warn_unreadable,
)
from inception_v3.errors import InputError

if TYPE_CHECKING:
    import torch

    from inception_v3.data import LabelledImages
    from inception_v3.evaluation.evaluate import EvaluationPrecision, Metrics
    from inception_v3.weights.model import InceptionV3


@dataclass(frozen=True)
class EvaluateOptions:
    """The models, the data and the settings, as the reports show them.

    `models` holds the first model and those of --with, `weights` is "ema" or "raw", and `crops` is 1, 12 or 144.
    """

    models: list[str]
    weights: str
    data: str
    crops: int
    precision: "EvaluationPrecision"


def evaluate(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    others: Annotated[
        list[str] | None,
        model_option(
            "--with", metavar="MODEL", help="Another model for an ensemble: the softmax is averaged. Repeat for more."
        ),
    ] = None,
    crops: Annotated[
        int, choice("--crops", ("1", "12", "144"), "Crops per image", convert=int, heading="Data", metavar="N")
    ] = 1,
    weights: Annotated[
        str,
        choice(
            "--weights",
            ("ema", "raw"),
            "The running average of a run's weights, or the weights of its newest training state",
            heading="Model",
        ),
    ] = "ema",
    precision: Annotated[str, precision_option(("fp32", "bf16"))] = "fp32",
    report: ReportFile = None,
    table: CsvFile = None,
    batch_size: BatchSize = 32,
    device: Device = None,
    weights_file: WeightsFile = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model on held-out images: top-1, top-5, recall and precision of every class, and calibration."""
    options = EvaluateOptions([model, *(others or ())], weights, data, crops, cast("EvaluationPrecision", precision))
    report = check_report_files(report, table, as_json)
    from inception_v3.data import load_held_out
    from inception_v3.evaluation.evaluate import evaluate_models
    from inception_v3.support.devices import pick_device
    from inception_v3.support.distributed import local_device, process_group
    from inception_v3.support.progress import progress_bar
    from inception_v3.training.run_folder import training_images

    torch_device = local_device(pick_device(device))
    check_bf16(precision, torch_device)
    with process_group(torch_device, remedy="start all processes again") as processes:
        networks, files = _load(options, weights_file, torch_device)
        seen = [training_images(network.origin.file) for network in networks if network.origin is not None]
        images = load_held_out(data, networks[0].class_names, *seen)
        if workers is None:  # with many crops a worker needs much memory, and two keep the network busy
            workers = min(choose_worker_count(None, len(images), data), 8 if crops == 1 else 2)
        detail(f"{len(images)} images on {torch_device}, {workers} worker processes")
        with progress_bar(messages) as progress:
            bar = progress.add_task("evaluating", total=len(images), figures="", visible=processes.rank == 0)
            metrics = evaluate_models(
                networks,
                images,
                crops=crops,
                precision=options.precision,
                batch_size=batch_size,
                workers=workers,
                group=processes,
                on_batch=lambda done: progress.advance(bar, done),
            )
    if processes.rank == 0:  # only the first process reports
        metrics.bad = [*images.bad, *metrics.bad]
        _report(options, files, images, metrics, report, table, as_json)


def _load(
    options: EvaluateOptions, weights_file: Path | None, device: "torch.device"
) -> tuple[list["InceptionV3"], list[Path]]:
    """Load the models, which must have the same classes, and return them with the files of their weights.

    `weights_file` replaces the download of the first model.
    """
    from inception_v3.weights.load import load

    networks: list[InceptionV3] = []
    files = []
    for name in options.models:
        network = load(name, device, weights_file=None if networks else weights_file)
        assert network.origin is not None  # `load` sets it
        files.append(
            _load_raw_weights(network, network.origin.file) if options.weights == "raw" else network.origin.file
        )
        networks.append(network)
        detail(f"{name}: loaded {files[-1]}")
        if (
            network.class_names != networks[0].class_names
            or network.settings.num_classes != networks[0].settings.num_classes
        ):
            raise InputError(f"{name}: its classes differ from those of {options.models[0]}; leave one of the two out")
    return networks, files


def _load_raw_weights(network: "InceptionV3", model: Path) -> Path:
    """Load the raw weights from a run's newest training state into its network. Returns the file of that state.

    The file `model` of the run holds averaged weights. Training resumes with the raw weights.
    """
    from safetensors import SafetensorError, safe_open

    states = sorted((model.parent / "checkpoints").glob("step-*.safetensors"))
    if not states:
        raise InputError(f"{model.parent}: holds no training state, so no raw weights; leave out --weights")
    try:
        with safe_open(states[-1], "pt") as state:
            network.load_state_dict({name: state.get_tensor(f"model.{name}") for name in network.state_dict()})
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = f"does not hold the raw weights of {model.name} ({str(error).splitlines()[0]})"
        raise InputError(f"{states[-1]}: {reason}; leave out --weights") from error
    return states[-1]


def _report(
    options: EvaluateOptions,
    files: list[Path],
    images: "LabelledImages",
    metrics: "Metrics",
    report: Path | None,
    table: Path | None,
    as_json: bool,
) -> None:
    """Print the metrics, and write the page and the table."""
    total = metrics.count + len(metrics.bad)
    if not metrics.count:
        warn_unreadable(unreadable_lines(metrics.bad), total)
        raise InputError(f"{options.data}: none of its {total} images can be read; check the folder")
    if metrics.unanswered == metrics.count:
        raise InputError(
            f"{options.models[0]}: its outputs are NaN or infinite for every image, so the weights are damaged; "
            "download or train them again"
        )
    from inception_v3.evaluation.report import write_csv, write_html
    from inception_v3.support.files import checksum

    models = zip(options.models, files, strict=True)
    settings = asdict(options) | {
        "models": [{"name": name, "file": str(file), "sha256": checksum(file)} for name, file in models]
    }
    if as_json:
        print(json.dumps(settings | metrics.as_dict(), allow_nan=False))
    elif not is_stdout(table):
        _show(metrics)
    if metrics.unanswered:
        warn(
            f"{options.models[0]}: outputs are not finite for {metrics.unanswered} of {metrics.count} images, which "
            "count as mistakes and are left out of loss and ECE; check the model"
        )
    warn_unreadable(unreadable_lines(metrics.bad), total)
    # Files are written last, so that the metrics are printed even if the disk is full.
    if table is not None:
        write_csv(table, metrics, images)
    if report is not None:
        write_html(report, metrics, images, settings)


def _show(metrics: "Metrics") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("class", title=f"{metrics.count} images")
    for name in ("images", "recall", "precision"):
        table.add_column(name, justify="right")
    for row in metrics.per_class():
        rates = ["–" if row[key] is None else f"{row[key]:.1%}" for key in ("recall", "precision")]
        table.add_row(Text(row["class"]), str(row["count"]), *rates)
    output.print(table)
    output.print(
        f"top-1 {metrics.top1:.2%}  top-5 {metrics.top5:.2%}  loss {metrics.loss:.4f}  ECE {metrics.ece:.4f}",
        highlight=False,
    )
