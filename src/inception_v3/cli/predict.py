"""`inception-v3 predict`"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inception_v3.cli.common import MODEL_HELP, Device, Json, WeightsFile, warn
from inception_v3.errors import InputError
from inception_v3.inference.engines.registry import CHOICES

if TYPE_CHECKING:
    from inception_v3.images.find import ImageSource
    from inception_v3.inference.predict import Prediction
    from inception_v3.inference.results import Results


class Decode(StrEnum):
    """Typer takes choices as this."""

    exact = "exact"
    scaled = "scaled"


def predict(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    images: Annotated[
        list[str], typer.Argument(help="Files, folders, patterns such as '*.jpg', or - for standard input.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write results to a file .jsonl or .csv, or a folder .parquet.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an --out that was broken off.")] = False,
    top: Annotated[int, typer.Option(min=1, help="How many classes to name.")] = 5,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Pictures that the network takes at once; by default what suits it.")
    ] = None,
    decode: Annotated[
        Decode, typer.Option(help="scaled reads large JPEGs faster, with slightly different pixels.")
    ] = Decode.exact,
    engine: Annotated[str, typer.Option(help=f"{', '.join(CHOICES)}.")] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="fp32, bf16, fp16 or int8; by default the fastest that is proven.")
    ] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Least top-1 agreement with fp32, by the stored check, of a lower precision."),
    ] = None,
    device: Device = None,
    weights_file: WeightsFile = None,
    as_json: Json = False,
) -> None:
    """Name the likeliest classes of pictures; with --json a line for each, with --out in a file.

    A picture that cannot be read has its reason among the results, and the exit status is 1.
    """
    from inception_v3.images.find import expand

    if out is not None:
        from inception_v3.inference.results import check, open_results, rest
        from inception_v3.support.files import checksum

        check(out)
    elif resume:
        raise InputError("--resume goes on with a file; name it with --out", exit_status=2)
    sources = expand(images)
    from inception_v3.inference.choose import open_engine
    from inception_v3.inference.pipeline import check_decode, resizer
    from inception_v3.inference.predict import predict

    network = open_engine(
        model,
        engine,
        precision,
        device,
        min_agreement=min_agreement,
        weights_file=weights_file,
        batch_size=batch_size,
    )
    print(f"{network.engine}: {network.reason}", file=sys.stderr)
    check_decode(decode.value, network.description.preprocessing)
    class_names = network.description.names()
    top = min(top, len(class_names))
    size = batch_size or network.engine.batch_size
    about = {
        "model": model,
        "sha256": checksum(network.file) if out is not None else None,
        "engine": network.engine.name,
        "precision": network.engine.precision,
        "preprocessing": asdict(network.description.preprocessing),
        "resize": resizer(),
        "decode": decode.value,
        "top": top,
    }

    def predictions(asked: "Iterable[ImageSource]") -> "Iterator[Prediction]":
        return predict(
            network.engine,
            network.description.preprocessing,
            class_names,
            asked,
            top=top,
            batch_size=size,
            decode=decode.value,
        )

    if out is None:
        count, failed = _print(predictions(sources), as_json)
    else:
        with closing(open_results(out, about, top=top, resume=resume)) as results:
            left = rest(results.finished(), sources)
            if left.done:
                warn(f"{left.done:,} pictures are done already; going on")
            if left.changed:
                warn("the pictures are not the same as before: they are matched by name, and new results come last")
            try:
                count, failed = _write(results, predictions(left.sources))
            except KeyboardInterrupt:
                warn(f"{out} has what is done; the same command with --resume goes on")
                raise
        count, failed = count + left.done, failed + left.failed
        if left.gone:
            warn(f"{left.gone:,} results are of pictures that are not asked for now; they stay")
        if as_json:
            print(json.dumps({"out": str(out), "pictures": count, "failed": failed, "earlier": left.done} | about))
    if failed:
        raise InputError(f"{failed} of {count} images could not be read; the lines above say why")


def _print(predictions: "Iterable[Prediction]", as_json: bool) -> tuple[int, int]:
    """Each on a line, as it comes. Returns how many there were, and how many of them failed."""
    count = failed = 0
    with _counting(shown=not sys.stdout.isatty()) as counted:
        for count, prediction in enumerate(predictions, 1):
            failed += _failed(prediction)
            if as_json:
                print(json.dumps(prediction.as_dict(), ensure_ascii=False), flush=True)
            elif prediction.error is None:
                ranked = "  ".join(f"{name} {share:.1%}" for name, share in prediction.classes)
                print(f"{prediction.image}  {ranked}", flush=True)
            counted(count)
    return count, failed


def _write(results: "Results", predictions: "Iterable[Prediction]") -> tuple[int, int]:
    count = failed = 0
    with _counting() as counted:
        for count, prediction in enumerate(predictions, 1):
            failed += _failed(prediction)
            results.write(prediction)
            counted(count)
    return count, failed


def _failed(prediction: "Prediction") -> bool:
    if prediction.error is not None:
        warn(prediction.error)
    return prediction.error is not None


@contextmanager
def _counting(shown: bool = True) -> Iterator[Callable[[int], None]]:
    """A live line on a terminal: how many are done, how fast. How many there are is not known without listing them."""
    if not (shown and sys.stderr.isatty()):
        yield lambda _: None
        return
    from inception_v3.cli.common import messages
    from inception_v3.support.progress import image_counter

    with image_counter(messages) as count:
        yield count
