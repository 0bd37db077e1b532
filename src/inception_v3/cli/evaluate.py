"""`inception-v3 evaluate`"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from inception_v3.cli.common import (
    DATA_HELP,
    NO_FACTS,
    CsvFile,
    Device,
    Json,
    LabelsFromName,
    LabelsTable,
    ModelArgument,
    ModelFacts,
    Names,
    OptionalBatchSize,
    ReportFile,
    WeightsFile,
    Workers,
    check_bf16,
    check_report_files,
    choice,
    detail,
    engine_option,
    fact_option,
    joined,
    label_facts,
    labels_from,
    messages,
    model_option,
    note,
    output,
    precision_option,
    print_json,
    print_line,
    unreadable_lines,
    warn,
    warn_unreadable,
)
from inception_v3.cluster.options import ClusterOptions
from inception_v3.errors import InputError
from inception_v3.inference.engines.base import Precision
from inception_v3.inference.engines.registry import CHOICES
from inception_v3.support.files import path_for_library
from inception_v3.support.system_errors import read_error
from inception_v3.support.text import percent, printable

if TYPE_CHECKING:
    import torch

    from inception_v3.cluster.session import Cluster
    from inception_v3.data import LabelledImages
    from inception_v3.evaluation.evaluate import Metrics
    from inception_v3.evaluation.precisions import Evaluated, PrecisionResult
    from inception_v3.inference.choose import OpenedModel
    from inception_v3.support.progress import Step
    from inception_v3.weights.model import InceptionV3


WEIGHTS_HELP = "The running average of a run's weights, or the weights of its newest training state"
ALL_PRECISIONS = ("fp32", "bf16", "int8")  # of --precision all


@dataclass(frozen=True)
class EvaluateOptions:
    """The models, the data and the settings, as the reports show them.

    `models` holds the first model and those of --with, `weights` is "ema" or "raw", and `crops` is 1, 12 or 144.
    `labels` describes the source of the labels, if it is not the data.
    """

    models: list[str]
    weights: str
    data: str
    crops: int
    labels: str | None = None


def evaluate(
    model: ModelArgument,
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
    weights: Annotated[str, choice("--weights", ("ema", "raw"), WEIGHTS_HELP, heading="Model")] = "ema",
    engine: Annotated[str, engine_option(CHOICES)] = "auto",
    precision: Annotated[
        Names | None,
        precision_option(
            (*get_args(Precision), "all"),
            several=True,
            show_default="fp32, or that of an exported network",
        ),
    ] = None,
    report: ReportFile = None,
    table: CsvFile = None,
    batch_size: OptionalBatchSize = None,
    device: Device = None,
    weights_file: WeightsFile = None,
    facts: ModelFacts = NO_FACTS,
    workers: Workers = None,
    labels: LabelsTable = None,
    labels_from_name: LabelsFromName = None,
    cluster: ClusterOptions | None = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model on held-out images: top-1, top-5, recall and precision of every class, and calibration.

    --precision all compares fp32, bf16 and int8 side by side.
    """
    label_source = labels_from(labels, labels_from_name)
    described = label_facts(label_source).get("labels")
    options = EvaluateOptions([model, *(others or ())], weights, data, crops, described)
    report = check_report_files(report, table, as_json, [*options.models, data])
    if cluster is not None:
        _check_on_cluster(weights, precision)
    import torch

    from inception_v3.data import load_held_out
    from inception_v3.data.load import with_classes
    from inception_v3.evaluation.precisions import evaluate_precision, open_in
    from inception_v3.support.devices import pick_device
    from inception_v3.support.distributed import local_device, process_group
    from inception_v3.support.progress import show_progress, summary
    from inception_v3.support.streams import new_console
    from inception_v3.training.run_folder import training_images

    by_torch = engine in ("auto", "pytorch")  # other engines have their own names of devices
    torch_device = local_device(pick_device(device)) if by_torch else torch.device("cpu")
    if by_torch and (device is not None or torch_device.type != "cpu"):
        device = str(torch_device)
    results: list[PrecisionResult] = []
    group = process_group(torch_device, remedy="start all processes again")
    with group as processes, joined(cluster) as joined_cluster:
        files, class_names = _peek(options, weights_file, facts.get("class_names"))
        images = load_held_out(data, class_names, *map(training_images, files), labels_from=label_source)
        models = _load(options, weights_file, facts, torch_device)
        if class_names is None and models[0].class_names is not None:
            images = with_classes(images, models[0].class_names, data)
        names = precision or (None,)
        for name in ALL_PRECISIONS if "all" in names else names:
            with show_progress(messages if processes.rank == 0 else new_console(quiet=True)) as start_step:
                step = start_step("evaluating" + f" in {name}" * (name is not None), len(images))
                step.update(0, "preparing the network")
                try:
                    if by_torch:
                        check_bf16(name, torch_device)
                    opened = [open_in(each, name, engine, device, images) for each in models]
                except InputError as error:
                    if not results or "all" not in names:
                        raise
                    warn(f"{name} is left out: {error}")
                    continue
                before = results[0].metrics if results else None
                if joined_cluster is not None:
                    settings = {"data": data, "crops": crops, "batch_size": batch_size, "device": device}
                    settings |= {"weights_file": weights_file, "labels_from": label_source, "facts": facts}
                    result = _evaluate_on(joined_cluster, models, opened, images, before, settings, step)
                else:
                    result = evaluate_precision(
                        opened,
                        images,
                        before,
                        crops=crops,
                        batch_size=batch_size,
                        threads=workers or None,
                        group=processes,
                        on_batch=step,
                    )
            detail(f"{result.precision}: {opened[0].engine}, {result.reason}")
            results.append(result)
    if processes.rank == 0:  # only the first process reports
        for result in results:
            result.metrics.bad = [*images.bad, *result.metrics.bad]
            unreadable = len(result.metrics.bad)
            count = result.metrics.count + unreadable
            seconds = (count - len(images.bad)) / result.speed
            note(summary(count, unreadable, seconds, f"{result.engine} {result.precision}"))
        _report(options, models, images, results, report, table, as_json)


def _check_on_cluster(weights: str, precision: Names | None) -> None:
    """Raises InputError for options whose networks are only in the memory of one process."""
    if weights == "raw":
        raise InputError("--weights raw: not with --ray; leave one of them out", exit_status=2)
    if {"all", "int8"} & {*(precision or ())}:
        remedy = "export the network in int8, and evaluate the exported file"
        raise InputError(f"--precision int8: not with --ray, because it is calibrated here; {remedy}", exit_status=2)


def _evaluate_on(
    cluster: "Cluster",
    models: "list[Evaluated]",
    opened: "list[OpenedModel]",
    images: "LabelledImages",
    first: "Metrics | None",
    settings: dict[str, Any],
    step: "Step",
) -> "PrecisionResult":
    """Evaluate opened models on a cluster; `settings` has the other fields of EvaluateJob."""
    from inception_v3.cluster.evaluation import EvaluateJob, ModelFile, evaluate_on
    from inception_v3.evaluation.precisions import measured

    settings = settings | {"batch_size": settings["batch_size"] or opened[0].engine.batch_size}
    files = [ModelFile.of(*pair) for pair in zip(models, opened, strict=True)]
    job = EvaluateJob(files, class_names=images.class_names, count=len(images), **settings)
    return measured(opened, lambda: evaluate_on(cluster, job, step, note), first)


def _peek(
    options: EvaluateOptions, weights_file: Path | None, given: list[str] | None
) -> tuple[list[Path], list[str] | None]:
    """The files of the models, and the classes of the first, as far as both are known before the models are loaded.

    `given` are the class names that replace those of the first.
    Raises InputError: a missing file, or models of different classes.
    """
    from inception_v3.evaluation.precisions import exported_model
    from inception_v3.weights.read import peek

    files: list[Path] = []
    class_names: list[list[str] | None] = []
    for name in options.models:
        replacement = None if class_names else weights_file
        exported = exported_model(name) if replacement is None else None
        file, classes = (exported.file, exported.class_names) if exported else peek(name, replacement)
        files += [file] if file else []
        classes = classes if class_names or given is None else given
        class_names.append(classes)
        if None not in (classes, class_names[0]) and classes != class_names[0]:
            raise _different_classes(name, options)
    return files, class_names[0]


def _different_classes(name: str, options: EvaluateOptions) -> InputError:
    return InputError(f"{name}: its classes differ from those of {options.models[0]}; leave one of the two out")


def _load(
    options: EvaluateOptions, weights_file: Path | None, facts: ModelFacts, device: "torch.device"
) -> "list[Evaluated]":
    """Load the models, which must have the same classes.

    `weights_file` replaces the download of the first model. `facts` are about the first, and about each other one
    whose file does not state them.
    """
    from inception_v3.evaluation.precisions import Evaluated, exported_model
    from inception_v3.inference.choose import stated_in_export
    from inception_v3.weights.load import load, load_unstated

    models: list[Evaluated] = []
    for name in options.models:
        model = exported_model(name) if weights_file is None or models else None
        if model is not None and facts and not models:
            raise stated_in_export(model.file, facts)
        if model is None:
            if models:
                network, used = load_unstated(name, device, facts)
                if used:
                    note(f"{name}: {_as_options(used)} used for it too, since its file does not state it")
            else:
                network = load(name, device, weights_file=weights_file, **facts)
            assert network.origin is not None  # `load` sets it
            raw = options.weights == "raw"
            file = _load_raw_weights(network, network.origin.file) if raw else network.origin.file
            run = Path(name) if Path(name).is_dir() and not raw else None
            model = Evaluated(name, file, network, network.class_names, network.settings.class_count, run)
        models.append(model)
        detail(f"{name}: {model.file}")
        if (model.class_names, model.num_classes) != (models[0].class_names, models[0].num_classes):
            raise _different_classes(name, options)
    return models


def _as_options(facts: list[str]) -> str:
    """The options for these facts as the start of a sentence, such as `--mean and --std are`."""
    options = [fact_option(name) for name in facts]
    return f"{' and '.join(options)} {'are' if len(options) > 1 else 'is'}"


def _load_raw_weights(network: "InceptionV3", model: Path) -> Path:
    """Load the raw weights from a run's newest training state into its network. Returns the file of that state.

    The file `model` of the run holds averaged weights. Training resumes with the raw weights.
    """
    from safetensors import SafetensorError, safe_open

    from inception_v3.training.run_folder import state_files

    states = state_files(model.parent)
    if not states:
        raise InputError(f"{model.parent}: holds no training state, so no raw weights; leave out --weights")
    try:
        with path_for_library(states[-1]) as file, safe_open(file, "pt") as state:
            network.load_state_dict({name: state.get_tensor(f"model.{name}") for name in network.state_dict()})
    except OSError as error:
        raise read_error(states[-1], error) from error
    except (SafetensorError, RuntimeError) as error:
        reason = f"does not hold the raw weights of {model.name} ({str(error).splitlines()[0]})"
        raise InputError(f"{states[-1]}: {reason}; leave out --weights") from error
    return states[-1]


def _report(
    options: EvaluateOptions,
    models: "list[Evaluated]",
    images: "LabelledImages",
    results: "list[PrecisionResult]",
    report: Path | None,
    table: Path | None,
    as_json: bool,
) -> None:
    """Print the metrics of the first precision and compare the others; write the page and the table."""
    first = results[0]
    metrics = first.metrics
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
    from inception_v3.reports.tables import STDOUT
    from inception_v3.support.files import checksum

    settings = asdict(options) | {
        "models": [
            {"name": each.name, "file": str(each.file), "sha256": None if each.file.is_dir() else checksum(each.file)}
            for each in models
        ],
        "precision": first.precision,
        "engine": first.engine,
        "device": first.device,
        "images_per_second": first.speed,
        "precisions": [result.as_dict() for result in results],
    }
    if as_json:
        print_json(settings | metrics.as_dict(), allow_nan=False)
    elif table != STDOUT:
        _show(results)
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
        note(f"{report}: the page")


def _show(results: "list[PrecisionResult]") -> None:
    from rich.table import Table

    metrics = results[0].metrics
    table = Table("class", title=f"{metrics.count} images")
    for name in ("images", "recall", "precision"):
        table.add_column(name, justify="right")
    for row in metrics.per_class():
        rates = [percent(row[key], row["count"]) for key in ("recall", "precision")]
        table.add_row(printable(row["class"]), str(row["count"]), *rates)
    output.print(table)
    if len(results) > 1:
        figures = Table("precision", "engine", box=None, pad_edge=False)
        for name in ("top-1", "top-5", "loss", "ECE", "agreement", "images/s"):
            figures.add_column(name, justify="right")
        for result in results:
            each = result.metrics
            top1, top5, agreement = (percent(rate, each.count) for rate in (each.top1, each.top5, result.agreement))
            errors = [f"{value:.4f}" for value in (each.loss, each.ece)]
            figures.add_row(result.precision, result.engine, top1, top5, *errors, agreement, f"{result.speed:.1f}")
        output.print(figures)
        line = f"first row: {metrics.describe()}"
    else:
        line = (
            f"{metrics.describe()}, top-5 {percent(metrics.top5, metrics.count)}, loss {metrics.loss:.4f}, "
            f"ECE {metrics.ece:.4f} ({results[0].precision}, {results[0].engine}, {results[0].speed:.1f} images/s)"
        )
    print_line(line)
