"""From sources to an engine's answers: threads decode and prepare the next pictures while the network has these.

Pictures go into batches, which are arrays used again and again, in the order of their sources. Memory is BATCHES of
them and what the threads have in hand, whatever the number of sources. No PyTorch here, unless it prepares.
"""

import atexit
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
BATCHES = 3  # one in the network, one ready, one being filled
FIRST_BATCH = 1  # the first answer does not wait for a full batch
MAX_THREADS = 16
PIXELS_AT_ONCE = 2**26  # in all threads together, as decoded; a larger picture is decoded alone
SCALED_MARGIN = 2  # decode="scaled" decodes to at least so many times the size that is needed


@dataclass(frozen=True)
class Answer:
    """One picture's logits and features; or why there are none."""

    source: ImageSource
    logits: NDArray[np.float32] | None = None
    features: NDArray[np.float32] | None = None
    error: str | None = None


def resizer() -> Resizer:
    """torchvision's kernels where PyTorch is loaded anyway, else Pillow's: loading PyTorch takes seconds."""
    return "torchvision" if "torch" in sys.modules else "pillow"


def run(
    engine: Engine,
    preprocessing: Preprocessing,
    sources: Iterable[ImageSource],
    *,
    batch_size: int = 16,
    decode: Decode = "exact",
    resize: Resizer | None = None,
) -> Iterator[Answer]:
    """An Answer for each source, in order; one that cannot be read does not stop the others.

    `decode="scaled"` decodes large JPEGs at a half, quarter or eighth of their size, never below SCALED_MARGIN times
    what the preprocessing resizes to: faster, and pixels that differ by a level on average. `resize` is `resizer()` by
    default.

    Sources are taken in a thread of the pipeline, a few batches ahead. What taking one raises, or the engine, is
    raised here after the answers before it. Raises InputError, with exit status 2, at once: `decode="scaled"` with
    TensorFlow's interpolation, which smooths nothing, so that other pixels would be seen.
    """
    check_decode(decode, preprocessing)
    prepare = _preparation(preprocessing, decode, resize or resizer())
    return _Pipeline(prepare, preprocessing.image_size, sources, batch_size).answers(engine)


def check_decode(decode: Decode, preprocessing: Preprocessing) -> None:
    """Raises InputError where `run` would: pictures that are not smoothed must be decoded exactly."""
    if decode == "scaled" and preprocessing.interpolation == "tensorflow":
        reason = "this network's preprocessing picks single pixels (TensorFlow's bilinear), and would get others"
        raise InputError(f"--decode scaled: {reason}; leave it out", exit_status=2)


def _preparation(
    preprocessing: Preprocessing, decode: Decode, resize: Resizer
) -> Callable[[ImageSource, NDArray[np.uint8]], None]:
    """A function that reads a source and puts its pixels into a row of a batch."""
    budget = _Budget(PIXELS_AT_ONCE)

    def prepare(source: ImageSource, row: NDArray[np.uint8]) -> None:
        with ExitStack() as held:

            def minimum_size(width: int, height: int) -> tuple[int, int] | None:
                held.enter_context(budget.take(width * height))
                if decode == "exact":
                    return None
                part, size, _ = preprocessing.plan(width, height)
                ratio = SCALED_MARGIN * max(size[1] / (part[2] - part[0]), size[0] / (part[3] - part[1]))
                return min(width, -int(-width * ratio // 1)), min(height, -int(-height * ratio // 1))

            image = source.open(minimum_size)
            if resize == "pillow":
                row[...] = preprocessing.array(image)
            else:
                row[...] = preprocessing.pixels(image).permute(1, 2, 0).numpy()

    return prepare


class _Budget:
    """So many pixels may be in hand; who wants more waits, and who wants more than there are has them all."""

    def __init__(self, pixels: int) -> None:
        self._all = self._left = pixels
        self._changed = threading.Condition()

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        pixels = min(pixels, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= pixels)
            self._left -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._left += pixels
                self._changed.notify_all()


class _Batch:
    """Room for the pixels of some sources, and how many of them are still being prepared."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels = pixels
        self._lock = threading.Lock()
        self.open(len(pixels))

    def open(self, size: int) -> None:
        """Forget what was in it, and expect so many pictures."""
        self.size, self._missing = size, size
        self.sources: list[ImageSource] = []
        self.errors: dict[int, str] = {}
        self.failure: BaseException | None = None
        self.ready = threading.Event()

    def done(self, rows: int = 1) -> None:
        with self._lock:
            self._missing -= rows
            if not self._missing:
                self.ready.set()

    def close(self) -> None:
        """No more will come than have come."""
        self.done(self.size - len(self.sources))


class _Pipeline:
    """What the threads share. The engine is not in it: a thread that was the last to know of it would free its memory
    when the interpreter ends, inside a library, which takes the process down."""

    def __init__(
        self,
        prepare: Callable[[ImageSource, NDArray[np.uint8]], None],
        image_size: tuple[int, int],
        sources: Iterable[ImageSource],
        batch_size: int,
    ) -> None:
        self._prepare, self._sources = prepare, iter(sources)
        self._free: SimpleQueue[_Batch | None] = SimpleQueue()  # None: the pipeline is given up
        self._begun: SimpleQueue[_Batch | None] = SimpleQueue()  # in order; None after the last
        for _ in range(BATCHES):
            self._free.put(_Batch(np.empty((batch_size, *image_size, 3), np.uint8)))
        self._turn = threading.Lock()  # to take the next source; what is below belongs to its holder
        self._filling: _Batch | None = None
        self._next_size = min(FIRST_BATCH, batch_size)
        self._batch_size = batch_size
        self._hands = threading.Condition()
        self._preparing = 0  # threads that have a picture in hand
        self._ended = False
        self._failure: BaseException | None = None

    def answers(self, engine: Engine) -> Iterator[Answer]:
        # Daemons: one may wait for standard input when all is over.
        threads = [threading.Thread(target=self._work, name="prepare", daemon=True) for _ in range(_thread_count())]
        # Also where the program ends with this half read and kept by a traceback.
        atexit.register(self._stop)
        try:
            for thread in threads:
                thread.start()
            while (batch := self._begun.get()) is not None:
                batch.ready.wait()
                yield from self._answered(engine, batch)
            if self._failure is not None:
                raise self._failure
        finally:
            self._stop()
            atexit.unregister(self._stop)

    def _stop(self) -> None:
        """Take no more pictures, and wait for those in hand: a thread inside a library, when the interpreter ends
        under it, takes the process down."""
        with self._hands:
            self._ended = True
            self._free.put(None)
            self._hands.wait_for(lambda: not self._preparing)

    def _answered(self, engine: Engine, batch: _Batch) -> list[Answer]:
        if batch.failure is not None:
            raise batch.failure
        sources, errors = batch.sources, batch.errors
        good = [row for row in range(len(sources)) if row not in errors]
        answers = {row: Answer(sources[row], error=error) for row, error in errors.items()}
        if good:
            pixels = batch.pixels[good] if errors else batch.pixels[: len(good)]
            try:
                logits, features = engine.predict(pixels)
            except InputError:
                raise
            except Exception as error:
                told = f"{engine.name} ({engine.precision}) failed at {sources[good[0]].name}"
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                raise InputError(f"{told} and the {len(good) - 1} after it: {reason}") from error
            for at, row in enumerate(good):
                answers[row] = Answer(sources[row], logits[at], features[at])
        self._free.put(batch)
        return [answers[row] for row in range(len(sources))]

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            batch, row, source = taken
            try:
                self._prepare(source, batch.pixels[row])
            except InputError as error:
                batch.errors[row] = str(error)
            except BaseException as error:  # raised where the caller sees it
                batch.failure = error
            batch.done()
            with self._hands:
                self._preparing -= 1
                self._hands.notify_all()

    def _in_hand(self) -> bool:
        """One more picture is; unless all is over."""
        with self._hands:
            self._preparing += not self._ended
            return not self._ended

    def _take(self) -> tuple[_Batch, int, ImageSource] | None:
        """The next source, and its place in a batch. None when there is no more."""
        with self._turn:
            if self._ended:
                return None
            batch = self._filling or self._free.get()
            if batch is None:
                self._ended = True
                return None
            try:
                source = next(self._sources)
            except BaseException as error:
                self._failure = None if isinstance(error, StopIteration) else error
                self._ended = True
                if self._filling:
                    batch.close()
                self._begun.put(None)
                return None
            if not self._in_hand():
                return None
            if self._filling is None:
                batch.open(self._next_size)
                self._next_size = self._batch_size
                self._begun.put(batch)
            batch.sources.append(source)
            self._filling = batch if len(batch.sources) < batch.size else None
            return batch, len(batch.sources) - 1, source


def _thread_count() -> int:
    return min(core_count(), MAX_THREADS)
