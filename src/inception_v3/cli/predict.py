"""`inception-v3 predict`"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from inception_v3.cli.common import (
    MIN_AGREEMENT_HELP,
    MODEL_HELP,
    Device,
    Json,
    OptionalBatchSize,
    Overwrite,
    Resume,
    WeightsFile,
    check_only_one,
    choice,
    detail,
    engine_option,
    model_option,
    note,
    output_option,
    precision_option,
    warn,
)
from inception_v3.errors import InputError
from inception_v3.inference.engines.registry import CHOICES, PRECISIONS
from inception_v3.support.verbosity import verbosity

if TYPE_CHECKING:
    from inception_v3.images.find import ImageSource
    from inception_v3.inference.pipeline import Decode
    from inception_v3.inference.predict import Prediction


def predict(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    images: Annotated[
        list[str],
        typer.Argument(help="Files, folders, archives, URLs, patterns such as '*.jpg', or - for standard input."),
    ],
    out: Annotated[
        Path | None,
        output_option(metavar="FILE", help="Write the results to NAME.jsonl, NAME.csv or the folder NAME.parquet."),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    top: Annotated[int, output_option(min=1, metavar="N", help="Number of classes to report for each image.")] = 5,
    batch_size: OptionalBatchSize = None,
    decode: Annotated[
        str,
        choice(
            "--decode",
            ("exact", "scaled"),
            "How large JPEGs are decoded; at a reduced size it is faster and changes the pixels slightly",
            heading="Data",
        ),
    ] = "exact",
    engine: Annotated[str, engine_option(CHOICES)] = "auto",
    precision: Annotated[
        str | None, precision_option(PRECISIONS, show_default="the fastest that passed its check")
    ] = None,
    min_agreement: Annotated[
        float | None, model_option(metavar="FRACTION", min=0, max=1, help=MIN_AGREEMENT_HELP)
    ] = None,
    device: Device = None,
    weights_file: WeightsFile = None,
    as_json: Json = False,
) -> None:
    """Print the top classes of images; with --json one JSON line per image, with --out to a file.

    If an image cannot be read, the results hold the reason, and the exit status is 1.
    """
    from inception_v3.images.addresses import expand

    if out is not None:
        from inception_v3.inference.results import check_results_path
        from inception_v3.support.files import check_not_input

        check_results_path(out)
        if overwrite:
            check_not_input(out, filter(None, (model, weights_file, *images)))
    elif resume or overwrite:
        raise InputError("--resume and --overwrite are for a results file; name the file with --out", exit_status=2)
    check_only_one(resume=resume, overwrite=overwrite)
    sources = expand(images)
    from inception_v3.inference.choose import check_classifier, open_engine
    from inception_v3.inference.pipeline import check_decode, default_resizer
    from inception_v3.inference.predict import predict

    opened = open_engine(
        model,
        engine,
        precision,
        device,
        min_agreement=min_agreement,
        weights_file=weights_file,
        batch_size=batch_size,
    )
    check_classifier(model, opened.description.settings, opened.description.outputs)
    note(f"{opened.engine}: {opened.reason}")
    detail(f"loaded {opened.file}; batches of {batch_size or opened.engine.batch_size}")
    preprocessing, class_names = opened.description.preprocessing, opened.description.names()
    check_decode(cast("Decode", decode), preprocessing)
    top = min(top, len(class_names))
    predict_sources = partial(
        predict,
        opened.engine,
        preprocessing,
        class_names,
        top=top,
        batch_size=batch_size or opened.engine.batch_size,
        decode=cast("Decode", decode),
    )
    if out is None:
        count, failed = _print(predict_sources(sources), as_json)
    else:
        from inception_v3.support.files import checksum

        about = {
            "model": model,
            "sha256": checksum(opened.file),
            "engine": opened.engine.name,
            "precision": opened.engine.precision,
            "preprocessing": asdict(preprocessing),
            "resize": default_resizer(),
            "decode": decode,
            "top": top,
        }
        count, failed = _write(out, resume, overwrite, about, sources, predict_sources, as_json)
    if failed:
        raise InputError(f"{failed} of {count} images could not be read; see the reasons above")


def _print(predictions: "Iterable[Prediction]", as_json: bool) -> tuple[int, int]:
    """Print each prediction as soon as it is computed. Returns the number of images, and how many of them failed."""

    def show(prediction: "Prediction") -> None:
        if as_json:
            print(json.dumps(prediction.as_dict(), ensure_ascii=False), flush=True)
        elif prediction.error is None:
            ranked = "  ".join(f"{name} {probability:.1%}" for name, probability in prediction.classes)
            print(f"{prediction.image}  {ranked}", flush=True)

    return _handle_each(predictions, show, show_count=not sys.stdout.isatty())


def _write(
    out: Path,
    resume: bool,
    overwrite: bool,
    about: dict[str, Any],
    sources: "Iterable[ImageSource]",
    predict_sources: "Callable[[Iterable[ImageSource]], Iterator[Prediction]]",
    as_json: bool,
) -> tuple[int, int]:
    """Write the predictions that `out` does not have yet. Returns the number of images in it, and how many failed."""
    from inception_v3.inference.results import open_results, remaining_images

    with closing(open_results(out, about, top=about["top"], resume=resume, overwrite=overwrite)) as results:
        remaining = remaining_images(results.finished(), sources)
        if remaining.done:
            note(f"{out}: {remaining.done:,} images are done already; continuing")
        if remaining.changed:
            warn(
                "the images differ from those of the earlier run: results are matched by name, new results are appended"
            )
        try:
            count, failed = _handle_each(predict_sources(remaining.sources), results.write)
        except KeyboardInterrupt:
            note(f"{out} holds the results so far; run the same command with --resume to continue")
            raise
    count, failed = count + remaining.done, failed + remaining.failed
    if remaining.unmatched:
        warn(f"{out}: {remaining.unmatched:,} results are of images that were not given this time; they are kept")
    if as_json:
        print(json.dumps({"out": str(out), "pictures": count, "failed": failed, "earlier": remaining.done, **about}))
    return count, failed


def _handle_each(
    predictions: "Iterable[Prediction]", handle: "Callable[[Prediction], None]", show_count: bool = True
) -> tuple[int, int]:
    """Call `handle` with each prediction, and warn about errors. Returns the numbers of predictions and of errors.

    With `show_count`, a terminal shows how many images are done, and how fast.
    """
    count = failed = 0
    live_count: AbstractContextManager[Callable[[int], None]] = nullcontext(lambda _: None)
    if show_count and not verbosity.quiet and sys.stderr.isatty():
        from inception_v3.cli.common import messages
        from inception_v3.support.progress import image_counter

        live_count = image_counter(messages)  # not a bar: the total is unknown without listing all images first
    with live_count as update:
        for count, prediction in enumerate(predictions, 1):
            if prediction.error is not None:
                failed += 1
                warn(prediction.error)
            handle(prediction)
            update(count)
    return count, failed
