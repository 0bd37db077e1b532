"""Run an engine over any number of images: decode, resize, compute, in the order of the images.

Memory is bounded: a few reused arrays (schedule.py), and PIXELS_AT_ONCE pixels being decoded. PyTorch is used only if
it resizes.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from inception_v3.errors import InputError
from inception_v3.images.decode import MinimumSize
from inception_v3.images.find import ImageSource
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.engines.base import Engine
from inception_v3.inference.schedule import FIRST_BATCH, BatchOptions, Compute, Result, run_batches
from inception_v3.support.arguments import BatchSize, Count, checked
from inception_v3.support.text import one_line, printable

Decode = Literal["exact", "scaled"]
Resizer = Literal["torchvision", "pillow"]


class Openable(Protocol):
    """An image that is not opened yet: an ImageSource, or anything with its name and its `open`."""

    @property
    def name(self) -> str: ...

    def open(self, minimum_size: MinimumSize | None = None) -> Image: ...


Source = TypeVar("Source", bound=Openable)
Prepare = Callable[[Openable, NDArray[np.uint8]], None]

PIXELS_AT_ONCE = 2**26  # decoded by all threads together; a larger image is decoded while no other is
SCALED_MARGIN = 2  # decode="scaled" keeps at least this multiple of the size to which an image is resized


@dataclass(frozen=True)
class ImageOutput:
    """The network's outputs for one image, or the reason why there are none.

    `logits` has shape (num_classes,), `features` has shape (2048,).
    """

    source: Openable
    logits: NDArray[np.float32] | None = None
    features: NDArray[np.float32] | None = None
    error: str | None = None


def default_resizer() -> Resizer:
    """torchvision if PyTorch is loaded already, else Pillow, because loading PyTorch takes seconds."""
    return "torchvision" if "torch" in sys.modules else "pillow"


@checked
def run_pipeline(
    engine: Engine,
    preprocessing: Preprocessing,
    sources: "Iterable[Openable]",
    *,
    batch_size: BatchSize = 16,
    decode: Decode = "exact",
    resize: Resizer | None = None,
    first_batch: Count = FIRST_BATCH,
) -> Iterator[ImageOutput]:
    """Yield an ImageOutput for each source, in order. An image that cannot be read does not stop the others.

    A thread of the pipeline iterates over `sources`, a few batches ahead. An exception from that iteration or from the
    engine is raised here, after the outputs of the batches before it.

    Args:
        decode: "scaled" decodes large JPEGs at a half, a quarter or an eighth of their size, but at no less than
            SCALED_MARGIN times the size that the preprocessing resizes to. It is faster, and pixels differ by about
            one level of 255 on average.
        resize: the library that resizes; `default_resizer()` by default.
        first_batch: images in the first batch; by default one, so that the first output comes soon.

    Raises InputError with exit status 2, before any work, for options that `check_decode` refuses.
    """
    results = _run(engine_compute(engine), engine, preprocessing, sources, batch_size, decode, resize, first_batch)
    return (_image_output(result) for result in results)


@checked
def run_end_points(
    engine: Engine,
    preprocessing: Preprocessing,
    sources: "Iterable[Openable]",
    outputs: dict[str, str],
    *,
    batch_size: BatchSize = 16,
    decode: Decode = "exact",
    resize: Resizer | None = None,
    first_batch: Count = FIRST_BATCH,
) -> Iterator[Result[Openable, None]]:
    """Like `run_pipeline`, but yield the values of end points: maps (C, H, W) and vectors (C,), float32.

    `outputs` has the engine's output for each name of the result. Values that are not finite are an error of the image.
    """

    def compute(pixels: NDArray[Any], batch: list[Openable]) -> dict[str, NDArray[np.float32]]:
        with explain_engine_failure(engine, batch):
            computed = engine.run(pixels)
        return {name: computed[output] for name, output in outputs.items()}

    return map(_checked, _run(compute, engine, preprocessing, sources, batch_size, decode, resize, first_batch))


def _checked(result: Result[Openable, None]) -> Result[Openable, None]:
    if result.outputs is None or all(np.isfinite(values).all() for values in result.outputs.values()):
        return result
    return replace(result, outputs=None, error=not_finite(result.source.name))


def not_finite(image: str, first: str = "") -> str:
    """Why an image has no result if the network returns infinities or NaN, `first` in this layer if it is known."""
    where = f", from {first} on" if first else ""
    return f"{printable(image)}: the network's outputs are not finite{where}; check the model"


def end_point_shapes(engine: Engine, size: tuple[int, int], outputs: dict[str, str]) -> dict[str, tuple[int, ...]]:
    """The shapes of the values that `run_end_points` yields for images of this size (height, width)."""
    image = np.zeros((*size, 3), np.uint8)
    with explain_engine_failure(engine, [ImageSource("a black image", image)]):
        computed = engine.run(image[None])
    return {name: computed[output].shape[1:] for name, output in outputs.items()}


def _run(
    compute: Compute[Openable],
    engine: Engine,
    preprocessing: Preprocessing,
    sources: Iterable[Openable],
    batch_size: int,
    decode: Decode,
    resize: Resizer | None,
    first_batch: int,
) -> Iterator[Result[Openable, None]]:
    check_decode(decode, preprocessing)
    prepare = image_preparer(preprocessing, decode, resize)
    shape = (*preprocessing.image_size, 3)
    return run_batches(sources, prepare, compute, shape, options=engine_batches(engine, batch_size, first=first_batch))


def _image_output(result: Result[Openable, None]) -> ImageOutput:
    outputs = result.outputs or {}
    return ImageOutput(result.source, outputs.get("logits"), outputs.get("features"), result.error)


def engine_compute(engine: Engine) -> Callable[[NDArray[Any], list[Any]], dict[str, NDArray[np.float32]]]:
    """The computation of `run_batches` for pixels of images: "logits" and "features" of each.

    Raises InputError, with the engine and the first image, if the engine fails.
    """

    def compute(pixels: NDArray[Any], sources: list[Any]) -> dict[str, NDArray[np.float32]]:
        with explain_engine_failure(engine, sources):
            logits, features = engine.predict(pixels)
        return {"logits": logits, "features": features}

    return compute


def engine_batches(
    engine: Engine, batch_size: int, threads: int | None = None, first: int = FIRST_BATCH
) -> BatchOptions:
    """Batches for an engine, in the schedule that it was opened for."""
    callers = engine.callers
    return BatchOptions(batch_size, first, threads, callers, torch_cores=engine.cores if callers > 1 else None)


@contextmanager
def explain_engine_failure(engine: Engine, sources: Sequence[Openable]) -> Iterator[None]:
    """Turn an error of the engine's library into an InputError that names the engine and the images."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = one_line(error, 300)
        raise InputError(
            f"{engine.name} ({engine.precision}) failed on {sources[0].name} and the {len(sources) - 1} "
            f"images after it: {reason}; try a smaller batch or another engine"
        ) from error


def check_decode(decode: Decode, preprocessing: Preprocessing) -> None:
    """Raises InputError for `decode="scaled"` with an interpolation that does not antialias.

    TensorFlow's bilinear and nearest do not, so a JPEG decoded at another size would give unrelated pixels.
    """
    if decode == "scaled" and preprocessing.interpolation in ("tensorflow", "nearest"):
        raise InputError(
            f"--decode scaled: this network's interpolation ({preprocessing.interpolation}) does not antialias, so "
            "results would change; leave out --decode scaled",
            exit_status=2,
        )


def image_preparer(
    preprocessing: Preprocessing,
    decode: Decode = "exact",
    resize: Resizer | None = None,
    pixels: Callable[[Image], NDArray[np.uint8]] | None = None,
) -> Prepare:
    """Return a function that decodes a source and writes its prepared pixels to an array.

    `pixels` prepares an RGB image; by default it is resized and cropped by `preprocessing` to (H, W, 3).
    """
    budget = _PixelBudget(PIXELS_AT_ONCE)
    pixels = pixels or (
        preprocessing.array if (resize or default_resizer()) == "pillow" else _by_torchvision(preprocessing)
    )

    def prepare(source: Openable, row: NDArray[np.uint8]) -> None:
        with ExitStack() as reserved:

            def decoded_size(width: int, height: int) -> tuple[int, int] | None:
                reserved.enter_context(budget.reserve(width * height))
                return _scaled_size(preprocessing, width, height) if decode == "scaled" else None

            row[...] = pixels(source.open(decoded_size))

    return prepare


def prepared_pixels(
    sources: Iterable[Source], preprocessing: Preprocessing, resize: Resizer | None = None
) -> tuple[NDArray[np.uint8], list[Source], list[str]]:
    """The prepared pixels of all readable images (N, H, W, 3), their sources, and why the others cannot be read."""
    shape = (*preprocessing.image_size, 3)
    prepare = image_preparer(preprocessing, resize=resize)
    results = list(run_batches(sources, prepare, lambda pixels, _: {"pixels": pixels.copy()}, shape))
    readable = [(result.outputs["pixels"], result.source) for result in results if result.outputs]
    errors = [result.error for result in results if result.error is not None]
    pixels = np.stack([row for row, _ in readable]) if readable else np.empty((0, *shape), np.uint8)
    return pixels, [source for _, source in readable], errors


def _by_torchvision(preprocessing: Preprocessing) -> Callable[[Image], NDArray[np.uint8]]:
    return lambda image: preprocessing.pixels(image).permute(1, 2, 0).numpy()


def _scaled_size(preprocessing: Preprocessing, width: int, height: int) -> tuple[int, int]:
    """The smallest (width, height) to which decode="scaled" may decode an image of this size."""
    part, size, _ = preprocessing.plan(width, height)
    ratio = SCALED_MARGIN * max(size[1] / (part[2] - part[0]), size[0] / (part[3] - part[1]))
    return min(width, -int(-width * ratio // 1)), min(height, -int(-height * ratio // 1))


class _PixelBudget:
    """A semaphore counted in pixels. A request above the limit is clamped to it, and waits for all others to end."""

    def __init__(self, pixels: int) -> None:
        self._limit = self._available = pixels
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, pixels: int) -> Iterator[None]:
        pixels = min(pixels, self._limit)
        with self._changed:
            self._changed.wait_for(lambda: self._available >= pixels)
            self._available -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._available += pixels
                self._changed.notify_all()
