"""Run an engine over any number of images: threads decode and prepare the next batches while the engine computes.

Outputs come in the order of the sources. Memory is bounded: BATCHES reused arrays, and PIXELS_AT_ONCE pixels being
decoded. PyTorch is used only if it resizes.
"""

import atexit
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat
from queue import SimpleQueue
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import InputError
from inception_v3.images.find import ImageSource
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.engines.base import Engine
from inception_v3.support.cpu import core_count

Decode = Literal["exact", "scaled"]
Resizer = Literal["torchvision", "pillow"]
Prepare = Callable[[ImageSource, NDArray[np.uint8]], None]

BATCHES = 3  # one in the engine, one ready, one being filled
FIRST_BATCH = 1  # images in the first batch, so that the first output does not wait for a full one
MAX_THREADS = 16
PIXELS_AT_ONCE = 2**26  # decoded by all threads together; a larger image is decoded while no other is
SCALED_MARGIN = 2  # decode="scaled" keeps at least this multiple of the size to which an image is resized


@dataclass(frozen=True)
class ImageOutput:
    """The network's outputs for one image, or the reason why there are none.

    `logits` has shape (num_classes,), `features` has shape (2048,).
    """

    source: ImageSource
    logits: NDArray[np.float32] | None = None
    features: NDArray[np.float32] | None = None
    error: str | None = None


def default_resizer() -> Resizer:
    """torchvision if PyTorch is loaded already, else Pillow, because loading PyTorch takes seconds."""
    return "torchvision" if "torch" in sys.modules else "pillow"


def run_pipeline(
    engine: Engine,
    preprocessing: Preprocessing,
    sources: Iterable[ImageSource],
    *,
    batch_size: int = 16,
    decode: Decode = "exact",
    resize: Resizer | None = None,
) -> Iterator[ImageOutput]:
    """Yield an ImageOutput for each source, in order. An image that cannot be read does not stop the others.

    A thread of the pipeline iterates over `sources`, a few batches ahead. An exception from that iteration or from the
    engine is raised here, after the outputs of the batches before it.

    Args:
        decode: "scaled" decodes large JPEGs at a half, a quarter or an eighth of their size, but at no less than
            SCALED_MARGIN times the size that the preprocessing resizes to. It is faster, and pixels differ by about
            one level of 255 on average.
        resize: the library that resizes; `default_resizer()` by default.

    Raises InputError with exit status 2, before any work, for options that `check_decode` refuses.
    """
    check_decode(decode, preprocessing)
    prepare = image_preparer(preprocessing, decode, resize or default_resizer())
    return _Pipeline(prepare, preprocessing.image_size, sources, batch_size).outputs(engine)


def check_decode(decode: Decode, preprocessing: Preprocessing) -> None:
    """Raises InputError for `decode="scaled"` with TensorFlow's interpolation.

    TensorFlow's bilinear resize does not antialias, so a JPEG decoded at another size would give unrelated pixels.
    """
    if decode == "scaled" and preprocessing.interpolation == "tensorflow":
        raise InputError(
            "--decode scaled: this network's preprocessing (TensorFlow's bilinear) does not antialias, so results "
            "would change; leave out --decode scaled",
            exit_status=2,
        )


def image_preparer(preprocessing: Preprocessing, decode: Decode, resize: Resizer) -> Prepare:
    """Return a function that decodes a source, resizes it and writes the pixels to an array of shape (H, W, 3)."""
    budget = _PixelBudget(PIXELS_AT_ONCE)

    def prepare(source: ImageSource, row: NDArray[np.uint8]) -> None:
        with ExitStack() as reserved:

            def decoded_size(width: int, height: int) -> tuple[int, int] | None:
                reserved.enter_context(budget.reserve(width * height))
                return _scaled_size(preprocessing, width, height) if decode == "scaled" else None

            image = source.open(decoded_size)
            row[...] = (
                preprocessing.array(image)
                if resize == "pillow"
                else preprocessing.pixels(image).permute(1, 2, 0).numpy()
            )

    return prepare


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


@dataclass
class _Batch:
    """A batch of `size` images, of which the threads prepare the pixels."""

    pixels: NDArray[np.uint8]  # (at least size, H, W, 3)
    size: int
    sources: list[ImageSource] = field(default_factory=list)
    errors: dict[int, str] = field(default_factory=dict)  # of each row that could not be read
    failure: BaseException | None = None  # not an InputError, so a bug: raised in the caller's thread
    prepared: threading.Semaphore = field(default_factory=partial(threading.Semaphore, 0))  # released for each row


class _Pipeline:
    """The state that the preparing threads share.

    It holds no reference to the engine. A thread that still waits for a source when the interpreter exits would
    otherwise free the engine's memory inside a library, which crashes the process.
    """

    def __init__(
        self, prepare: Prepare, image_size: tuple[int, int], sources: Iterable[ImageSource], batch_size: int
    ) -> None:
        self._prepare, self._sources = prepare, iter(sources)
        self._free: SimpleQueue[NDArray[np.uint8] | None] = SimpleQueue()  # reused arrays; None: stop
        self._started: SimpleQueue[_Batch | None] = SimpleQueue()  # in the order of the sources; None: the end
        for _ in range(BATCHES):
            self._free.put(np.empty((batch_size, *image_size, 3), np.uint8))
        self._source_lock = threading.Lock()  # guards the iteration and the next three attributes
        self._filling: _Batch | None = None
        self._sizes = chain([min(FIRST_BATCH, batch_size)], repeat(batch_size))
        self._source_error: BaseException | None = None
        self._changed = threading.Condition()  # guards the next two attributes
        self._in_flight = 0  # images that a thread is preparing
        self._stopping = threading.Event()

    def outputs(self, engine: Engine) -> Iterator[ImageOutput]:
        """Start the threads, and yield the outputs of each batch as soon as it is computed."""
        # For a program that exits while a traceback still holds this unfinished generator.
        atexit.register(self._stop)
        try:
            for _ in range(_thread_count()):
                # A daemon thread, because it may wait for standard input when the program ends.
                threading.Thread(target=self._work, name="prepare", daemon=True).start()
            while (batch := self._started.get()) is not None:
                for _ in range(batch.size):
                    batch.prepared.acquire()
                outputs = _batch_outputs(engine, batch)
                self._free.put(batch.pixels)
                yield from outputs
            if self._source_error is not None:
                raise self._source_error
        finally:
            self._stop()
            atexit.unregister(self._stop)

    def _stop(self) -> None:
        """Take no more sources, and wait for the images in flight.

        If the interpreter exits while a thread is inside a library, the process crashes.
        """
        with self._changed:
            self._stopping.set()
            self._free.put(None)
            self._changed.wait_for(lambda: not self._in_flight)

    def _work(self) -> None:
        """The body of a thread: prepare one image after another."""
        while (taken := self._take()) is not None:
            batch, row, source = taken
            try:
                self._prepare(source, batch.pixels[row])
            except InputError as error:
                batch.errors[row] = str(error)
            except BaseException as error:
                batch.failure = error
            batch.prepared.release()
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def _take(self) -> tuple[_Batch, int, ImageSource] | None:
        """The next source, and the batch and row for its pixels. None after the last source, or when stopping."""
        with self._source_lock:
            if self._stopping.is_set():
                return None
            pixels = self._filling.pixels if self._filling else self._free.get()
            if pixels is None:
                return None
            try:
                source = next(self._sources)
            except BaseException as error:
                self._source_error = None if isinstance(error, StopIteration) else error
                self._stopping.set()
                if (last := self._filling) is not None:
                    last.prepared.release(last.size - len(last.sources))  # this batch gets no more images
                self._started.put(None)
                return None
            with self._changed:
                if self._stopping.is_set():
                    return None
                self._in_flight += 1
            batch = self._filling or _Batch(pixels, next(self._sizes))
            if not batch.sources:
                self._started.put(batch)
            batch.sources.append(source)
            self._filling = batch if len(batch.sources) < batch.size else None
            return batch, len(batch.sources) - 1, source


def _batch_outputs(engine: Engine, batch: _Batch) -> list[ImageOutput]:
    """Run the engine on the images of a batch that could be read."""
    if batch.failure is not None:
        raise batch.failure
    outputs = [ImageOutput(source, error=batch.errors.get(row)) for row, source in enumerate(batch.sources)]
    if rows := [row for row in range(len(outputs)) if row not in batch.errors]:
        pixels = batch.pixels[rows] if batch.errors else batch.pixels[: len(rows)]
        try:
            logits, features = engine.predict(pixels)
        except InputError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(
                f"{engine.name} ({engine.precision}) failed on {batch.sources[rows[0]].name} and the {len(rows) - 1} "
                f"images after it: {reason}; try a smaller batch or another engine"
            ) from error
        for index, row in enumerate(rows):
            outputs[row] = ImageOutput(batch.sources[row], logits[index], features[index])
    return outputs


def _thread_count() -> int:
    return min(core_count(), MAX_THREADS)
