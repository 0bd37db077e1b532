"""`inception-v3 predict`"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, nullcontext, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar, cast

import typer

from inception_v3.cli.common import (
    NO_FACTS,
    Bound,
    Device,
    FastestPrecision,
    Json,
    MinAgreement,
    ModelArgument,
    ModelFacts,
    OptionalBatchSize,
    Overwrite,
    Resume,
    WeightsFile,
    check_only_one,
    choice,
    data_option,
    detail,
    engine_option,
    joined,
    note,
    output_option,
    print_json,
    print_line,
    terminal,
    warn,
)
from inception_v3.cluster.options import ClusterOptions
from inception_v3.errors import InputError
from inception_v3.images.partition import Shard
from inception_v3.inference.engines.registry import CHOICES
from inception_v3.support.progress import Step, show_line, summary

if TYPE_CHECKING:
    from inception_v3.cluster.session import Cluster
    from inception_v3.images.find import ImageSource
    from inception_v3.images.located import LocatedImage
    from inception_v3.inference.choose import OpenedModel
    from inception_v3.inference.pipeline import Decode
    from inception_v3.inference.predict import Prediction

    AnyImage = ImageSource | LocatedImage
    Predict = Callable[[Iterable[Any]], Iterator[Prediction]]

Images = Annotated[
    list[str],
    typer.Argument(help="Files, folders, archives, URLs, patterns such as '*.jpg', or - for standard input."),
]
AllowUnreadable = Annotated[
    Bound | None,
    output_option(
        parser=Bound.parse,
        metavar="[N|P%]",
        help="Exit with status 0 although images could not be read: up to N of them, up to P% of all images, or "
        "without a value any number.",
        show_default=False,
    ),
]
DecodeOption = Annotated[
    str,
    choice(
        "--decode",
        ("exact", "scaled"),
        "How large JPEGs are decoded; at a reduced size it is faster and changes the pixels slightly",
        heading="Data",
    ),
]


class Outcome(Protocol):
    """What was computed for one image, or in `error` the reason why it could not be."""

    @property
    def error(self) -> str | None: ...


AnyOutcome = TypeVar("AnyOutcome", bound=Outcome)
MANY_IMAGES = 32  # from which on a network in each thread pays for the time that it takes to open them


def predict(
    model: ModelArgument,
    images: Images,
    out: Annotated[
        Path | None,
        output_option(metavar="FILE", help="Write the results to NAME.jsonl, NAME.csv or the folder NAME.parquet."),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    top: Annotated[int, output_option(min=1, metavar="N", help="Number of classes to report for each image.")] = 5,
    allow_unreadable: AllowUnreadable = None,
    batch_size: OptionalBatchSize = None,
    shard: Annotated[
        Shard | None,
        data_option(
            parser=Shard.parse,
            metavar="I/N",
            help="Predict only part I of N, from 1/N to N/N, of the sorted addresses. Shards may share NAME.parquet.",
            show_default=False,
        ),
    ] = None,
    decode: DecodeOption = "exact",
    engine: Annotated[str, engine_option(CHOICES)] = "auto",
    precision: FastestPrecision = None,
    min_agreement: MinAgreement = None,
    device: Device = None,
    weights_file: WeightsFile = None,
    facts: ModelFacts = NO_FACTS,
    cluster: ClusterOptions | None = None,
    as_json: Json = False,
) -> None:
    """Print the top classes of images; with --json one JSON line per image, with --out to a file.

    Exit status: 0, success; 1, failed; 2, wrong arguments;
    3, finished, but some images could not be read (0 with --allow-unreadable).
    """
    from inception_v3.images.addresses import count_images

    check_only_one(resume=resume, overwrite=overwrite)
    check_only_one(shard=shard is not None, ray=cluster is not None)
    _check_out(out, resume, overwrite, shard, filter(None, (model, weights_file, *images)))
    sources = find_images(images, cluster)  # reports wrong addresses before the model is loaded
    with joined(cluster) as joined_cluster:
        from inception_v3.inference.choose import check_classifier, open_engine
        from inception_v3.inference.pipeline import check_decode

        options = {"min_agreement": min_agreement, "weights_file": weights_file, **facts, "batch_size": batch_size}
        callers = 1 if are_few(images) or cluster else None
        opened = open_engine(model, engine, precision, device, **options, callers=callers)
        check_classifier(model, opened.description.settings, opened.description.outputs)
        note(f"{opened.engine}: {opened.reason}")
        detail(f"loaded {opened.file}; batches of {batch_size or opened.engine.batch_size}")
        check_decode(cast("Decode", decode), opened.description.preprocessing)
        top = min(top, len(opened.description.names()))
        settings = {"top": top, "batch_size": batch_size or opened.engine.batch_size, "decode": decode}
        if joined_cluster is None:
            predict_sources = _predictor(opened, settings)
        else:
            predict_sources = _predictor_on(joined_cluster, model, opened, options | {"device": device}, settings)
        images_of_shard = None
        if shard is not None:
            from inception_v3.images.shards import expand_shard

            images_of_shard = expand_shard(images, shard)
            sources = images_of_shard.sources
            note(f"shard {shard}: {images_of_shard.size:,} of {images_of_shard.count:,} images")
        count_sources = partial(count_images, images) if images_of_shard is None else lambda: images_of_shard.size
        handle_each = partial(handle_images, count_sources, f"{opened.engine.name} {opened.engine.precision}")
        if out is None:
            count, failed = _print(predict_sources(sources), as_json, handle_each)
        else:
            from inception_v3.inference.results import describe_shard

            about = describe_run(model, opened, decode) | {"top": top}
            if shard is not None and images_of_shard is not None:
                about |= describe_shard(out, shard, images_of_shard)
            count, failed = _write(out, resume, overwrite, about, sources, predict_sources, as_json, shard, handle_each)
    if failed:
        report_unreadable(failed, count, allow_unreadable, out)


def find_images(images: list[str], cluster: ClusterOptions | None) -> "Iterator[AnyImage]":
    """The images of the arguments. With --ray it is only where they are, because other processes read them."""
    if cluster is None:
        from inception_v3.images.addresses import expand

        return expand(images)
    from inception_v3.images.located import locate

    return locate(images)


def _predictor(opened: "OpenedModel", settings: dict[str, Any]) -> "Predict":
    """The function that predicts images in this process."""
    from inception_v3.inference.predict import predict

    description = opened.description
    activation = description.settings.output_activation
    network = opened.engine, description.preprocessing, description.names()
    return partial(predict, *network, activation=activation, **settings)


def _predictor_on(
    cluster: "Cluster", model: str, opened: "OpenedModel", options: dict[str, Any], settings: dict[str, Any]
) -> "Predict":
    """The function that predicts images on a cluster."""
    from inception_v3.cluster.predictions import ModelReference, PredictJob, predict_on

    return partial(predict_on, cluster, PredictJob(ModelReference.of(model, opened, **options), **settings), note=note)


def _check_out(
    out: Path | None, resume: bool, overwrite: bool, shard: Shard | None, inputs: Iterable[str | Path]
) -> None:
    """Raises InputError: no results can be written to --out, it would replace an input, or it is missing."""
    if out is not None:
        from inception_v3.inference.results import check_results_path
        from inception_v3.support.files import check_not_input

        check_results_path(out, resume=resume, overwrite=overwrite, shard=shard)
        if overwrite:
            check_not_input(out, inputs)
    elif resume or overwrite:
        raise InputError("--resume and --overwrite are for a results file; name the file with --out", exit_status=2)


def describe_run(model: str, opened: "OpenedModel", decode: str) -> dict[str, Any]:
    """The model and the options that determine the results."""
    from inception_v3.inference.pipeline import default_resizer
    from inception_v3.support.files import checksum

    return {
        "model": model,
        "sha256": checksum(opened.file),
        "engine": opened.engine.name,
        "precision": opened.engine.precision,
        "preprocessing": asdict(opened.description.preprocessing),
        "resize": default_resizer(),
        "decode": decode,
    }


def are_few(images: list[str]) -> bool:
    """Whether the arguments are fewer than MANY_IMAGES files or a stream, whose first result should come soon."""
    from inception_v3.images.find import is_image_name

    return len(images) < MANY_IMAGES and all(
        argument == "-" or (is_image_name(argument) and Path(argument).is_file()) for argument in images
    )


def report_unreadable(failed: int, count: int, allowed: Bound | None, out: Path | None) -> None:
    """Warn of the images that could not be read. Raises InputError with exit status 3 if more than are allowed."""
    where = "see the reasons above"
    if out is not None:
        from inception_v3.inference.results import how_to_list_errors

        where = f"{out} holds the reasons; list them: {how_to_list_errors(out)}"
    fault = f"{failed} of {count} images could not be read"
    if allowed is None or not allowed.permits(failed, count):
        limit = "" if allowed is None else f", more than --allow-unreadable {allowed}"
        raise InputError(f"{fault}{limit}; {where}", exit_status=3)
    warn(f"{fault}, which --allow-unreadable permits; {where}")


def _print(
    predictions: "Iterable[Prediction]", as_json: bool, handle_each: Callable[..., tuple[int, int]]
) -> tuple[int, int]:
    """Print each prediction as soon as it is computed. Returns the number of images, and how many of them failed."""

    def show(prediction: "Prediction") -> None:
        if as_json:
            print_json(prediction.as_dict())
        elif prediction.error is None:
            ranked = "  ".join(f"{name} {probability:.1%}" for name, probability in prediction.classes)
            print_line(f"{prediction.image}  {ranked}")

    return handle_each(predictions, show, show_count=not sys.stdout.isatty())


def _write(
    out: Path,
    resume: bool,
    overwrite: bool,
    about: dict[str, Any],
    sources: "Iterable[AnyImage]",
    predict_sources: "Predict",
    as_json: bool,
    shard: Shard | None,
    handle_each: Callable[..., tuple[int, int]],
) -> tuple[int, int]:
    """Write the predictions that `out` does not have yet. Returns the number of images in it, and how many failed."""
    from inception_v3.inference.results import open_results, remaining_images

    with closing(
        open_results(out, about, top=about["top"], resume=resume, overwrite=overwrite, shard=shard)
    ) as results:
        remaining = remaining_images(results.finished(), sources)
        if remaining.done:
            note(f"{out}: {remaining.done:,} images are done already; continuing")
        if remaining.changed:
            warn(
                "the images differ from those of the earlier run: results are matched by name, new results are appended"
            )
        try:
            count, failed = handle_each(predict_sources(remaining.sources), results.write, remaining.done)
        except KeyboardInterrupt:
            note(f"{out} holds the results so far; run the same command with --resume to continue")
            raise
    count, failed = count + remaining.done, failed + remaining.failed
    if remaining.unmatched:
        warn(f"{out}: {remaining.unmatched:,} results are of images that were not given this time; they are kept")
    if as_json:
        print_json({"out": str(out), "pictures": count, "failed": failed, "earlier": remaining.done, **about})
    return count, failed


def handle_images(
    count_images: "Callable[[], int | None]",
    engine: str,
    outcomes: Iterable[AnyOutcome],
    handle: Callable[[AnyOutcome], None],
    earlier: int = 0,
    show_count: bool = True,
) -> tuple[int, int]:
    """Call `handle` with each outcome, and warn about errors. Returns the numbers of outcomes and of errors.

    Shows how many of all images are done, on a terminal only with `show_count`; at the end, a summary. `count_images`
    returns their number, None if it is unknown. `earlier` is the number of images that an earlier run has finished.
    """
    console = terminal()
    with show_line(console) if show_count or console is None else nullcontext(Step("", None)) as step:
        Thread(target=_count, args=(step, count_images, earlier), daemon=True).start()
        for outcome in outcomes:
            if outcome.error is not None:
                step.unreadable += 1
                warn(outcome.error)
            handle(outcome)
            step(1)
    before = [f"{earlier:,} done before"] if earlier else []
    note(summary(step.done, step.unreadable, step.seconds, engine, *before))
    return step.done, step.unreadable


def _count(step: Step, count_images: "Callable[[], int | None]", earlier: int) -> None:
    """Set the total of a step, if it can be known before the end. The images themselves are found one by one."""
    with suppress(InputError):  # the prediction reports it
        count = count_images()
        step.total = None if count is None else count - earlier
