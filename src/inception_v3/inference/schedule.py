"""Prepare inputs in threads and compute them in batches, in order and in bounded memory.

There are two schedules. With one caller, all threads prepare inputs while the calling thread computes one batch on all
cores. With several, each thread prepares a batch and computes it on its part of the cores, so that no layer waits for
a core that decodes images.
"""

import atexit
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import InputError
from inception_v3.support.cpu import core_count
from inception_v3.support.forks import check_not_forked

Source = TypeVar("Source")
Info = TypeVar("Info")
Array = NDArray[Any]
Compute = Callable[[Array, list[Source]], dict[str, Array]]  # inputs (N, ...) and their sources to outputs (N, ...)

BATCHES_AHEAD = 2  # one ready, one being filled, beside those that are being computed
FIRST_BATCH = 1  # sources in the first batch, so that the first output does not wait for a full one
MAX_THREADS = 16
STOP_SECONDS = 30.0  # after which a thread hangs, in a file system for example


@dataclass(frozen=True)
class BatchOptions:
    """How inputs are batched.

    Attributes:
        size: inputs per batch; `first` is the size of the first batch.
        threads: number of threads; by default one for each core.
        callers: with more than one, `compute` is called by that many threads at once, and `threads` is ignored.
        torch_cores: the number of cores that PyTorch, if it is loaded, uses in each thread; by default all.
    """

    size: int = 16
    first: int = FIRST_BATCH
    threads: int | None = None
    callers: int = 1
    torch_cores: int | None = None


@dataclass(frozen=True)
class Result(Generic[Source, Info]):
    """The result for one source, in one of three states.

    Either `error` is the reason why it could not be prepared, or `info` is what `prepare` returned; `outputs` are the
    arrays that were computed, without the batch dimension, unless `info` needed no computation.
    """

    source: Source
    info: Info | None = None
    outputs: dict[str, Array] | None = None
    error: str | None = None


def run_batches(
    sources: Iterable[Source],
    prepare: Callable[[Source, Array], Info],
    compute: Compute[Source],
    shape: tuple[int, ...],
    dtype: type[np.generic] = np.uint8,
    options: BatchOptions | None = None,
    needs_computation: Callable[[Info], bool] = lambda _: True,
) -> Iterator[Result[Source, Info]]:
    """Yield a Result for each source, in order. A source that cannot be prepared does not stop the others.

    A thread iterates over `sources`, a few batches ahead. An exception from that iteration, or from `compute`, is
    raised here, after the results of the batches before it.

    Args:
        prepare: writes the input of a source to an array of `shape` and `dtype`, and may return something about it.
            Several threads call it at once. If it raises InputError, the message becomes the result's `error`.
        needs_computation: whether a prepared source is part of a batch, given what `prepare` returned.
    """
    check_not_forked()
    options = options or BatchOptions()
    batches = _Batches(sources, prepare, needs_computation, options)
    return batches.results(compute, lambda: np.empty((options.size, *shape), dtype))


@dataclass
class _Batch(Generic[Source, Info]):
    """A batch of `size` sources, of which the threads prepare the inputs."""

    inputs: Array  # (at least size, ...)
    size: int
    sources: list[Source] = field(default_factory=list)
    infos: dict[int, Info] = field(default_factory=dict)  # by row
    errors: dict[int, str] = field(default_factory=dict)  # of each row that could not be prepared
    failure: BaseException | None = None  # of more than one source, or a bug: raised in the caller's thread
    rows: list[int] = field(default_factory=list)  # the rows that were computed
    outputs: dict[str, Array] = field(default_factory=dict)
    done: threading.Semaphore = field(default_factory=partial(threading.Semaphore, 0))  # released for each row

    def compute(self, compute: Compute[Source], needs_computation: Callable[[Info], bool]) -> None:
        self.rows = [row for row, info in sorted(self.infos.items()) if needs_computation(info)]
        if self.rows and self.failure is None:
            all_rows = len(self.rows) == len(self.sources)
            inputs = self.inputs[: len(self.rows)] if all_rows else self.inputs[self.rows]
            self.outputs = compute(inputs, [self.sources[row] for row in self.rows])

    def results(self) -> Iterator[Result[Source, Info]]:
        indices = {row: index for index, row in enumerate(self.rows)}
        for row, source in enumerate(self.sources):
            outputs = None
            if row in indices:
                outputs = {name: array[indices[row]] for name, array in self.outputs.items()}
            yield Result(source, self.infos.get(row), outputs, self.errors.get(row))


class _Batches(Generic[Source, Info]):
    """The state that the threads share.

    While a thread waits for a source, it holds no reference to the engine. If the interpreter exits then, the thread
    would otherwise free the engine's memory inside a library, which crashes the process.
    """

    def __init__(
        self,
        sources: Iterable[Source],
        prepare: Callable[[Source, Array], Info],
        needs_computation: Callable[[Info], bool],
        options: BatchOptions,
    ) -> None:
        self._sources, self._prepare, self._options = iter(sources), prepare, options
        self._needs_computation = needs_computation
        self._computes = options.callers > 1  # whether the threads compute, not only prepare
        self._compute: Compute[Source] | None = None
        self._free: SimpleQueue[Array | None] = SimpleQueue()  # reused arrays; None: stop
        self._started: SimpleQueue[_Batch[Source, Info] | None] = SimpleQueue()  # in order; None: the end
        self._source_lock = threading.Lock()  # guards the iteration and the next four attributes
        self._filling: _Batch[Source, Info] | None = None
        self._sizes = chain([min(options.first, options.size)], repeat(options.size))
        self._ended = False
        self._source_error: BaseException | None = None
        self._changed = threading.Condition()  # guards the next two attributes
        self._busy = 0  # threads that prepare or compute
        self._stopping = threading.Event()

    def results(self, compute: Compute[Source], inputs: Callable[[], Array]) -> Iterator[Result[Source, Info]]:
        """Start the threads, and yield the results of each batch as soon as it is computed.

        `inputs` creates the array for the inputs of one batch.
        """
        self._compute = compute
        torch = sys.modules.get("torch") if self._options.torch_cores else None
        torch_threads = torch and torch.get_num_threads()
        # For a program that exits while a traceback still holds this unfinished generator.
        atexit.register(self._stop)
        try:
            for _ in range(BATCHES_AHEAD + self._options.callers):
                self._free.put(inputs())
            for _ in range(self._options.callers if self._computes else self._options.threads or thread_count()):
                # A daemon thread, because it may wait for standard input when the program ends.
                threading.Thread(target=self._work, name="prepare", daemon=True).start()
            while (batch := self._started.get()) is not None:
                for _ in range(batch.size):
                    batch.done.acquire()
                if not self._computes:
                    batch.compute(compute, self._needs_computation)
                if batch.failure is not None:
                    raise batch.failure
                self._free.put(batch.inputs)
                yield from batch.results()
            if self._source_error is not None:
                raise self._source_error
        finally:
            self._stop()
            atexit.unregister(self._stop)
            if torch is not None:  # threads that start later inherit the last number that was set in any thread
                torch.set_num_threads(torch_threads)

    def _stop(self) -> None:
        """Take no more sources, and wait for the threads that are busy, unless one hangs.

        If the interpreter exits while a thread is inside a library, the process may crash.
        """
        with self._changed:
            self._stopping.set()
            self._free.put(None)
            self._changed.wait_for(lambda: not self._busy, STOP_SECONDS)
            self._compute = None

    def _work(self) -> None:
        """The body of a thread: prepare one source, or a batch of sources if the threads compute, after another."""
        if self._options.torch_cores and (torch := sys.modules.get("torch")):
            torch.set_num_threads(self._options.torch_cores)
        while taken := self._take():
            batch, rows = taken
            for row in rows:
                self._prepare_row(batch, row)
            if self._computes:
                self._compute_batch(batch)
            batch.done.release(len(rows))
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def _prepare_row(self, batch: _Batch[Source, Info], row: int) -> None:
        try:
            batch.infos[row] = self._prepare(batch.sources[row], batch.inputs[row])
        except InputError as error:
            batch.errors[row] = str(error)
        except BaseException as error:
            batch.failure = error

    def _compute_batch(self, batch: _Batch[Source, Info]) -> None:
        try:
            if self._compute is not None:  # None if this thread has hung and the run is stopping
                batch.compute(self._compute, self._needs_computation)
        except BaseException as error:
            batch.failure = error

    def _take(self) -> tuple[_Batch[Source, Info], range] | None:
        """A batch and the rows to prepare. None after the last source, or when stopping."""
        with self._source_lock:
            batch = self._filling or self._new_batch()
            if batch is None:
                return None
            first = len(batch.sources)
            self._fill(batch, batch.size if self._computes else first + 1)
            rows = range(first, len(batch.sources))
            if rows and not first:
                self._started.put(batch)
            if self._ended:
                batch.done.release(batch.size - len(batch.sources))  # this batch gets no more sources
                self._started.put(None)
            self._filling = batch if len(batch.sources) < batch.size and not self._ended else None
            with self._changed:
                if self._stopping.is_set() or not rows:
                    return None
                self._busy += 1
            return batch, rows

    def _new_batch(self) -> _Batch[Source, Info] | None:
        if self._ended or self._stopping.is_set() or (inputs := self._free.get()) is None:
            return None
        return _Batch(inputs, next(self._sizes))

    def _fill(self, batch: _Batch[Source, Info], count: int) -> None:
        """Take sources until the batch has `count` of them."""
        try:
            while len(batch.sources) < count:
                batch.sources.append(next(self._sources))
        except StopIteration:
            self._ended = True
        except BaseException as error:
            self._ended, self._source_error = True, error


def thread_count() -> int:
    return min(core_count(), MAX_THREADS)
