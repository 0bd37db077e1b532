"""Dynamic batching: one thread decodes and computes batches of the images that requests have submitted.

It never waits for a fuller batch. While a batch is computed, the images of other requests gather, and the next batch
takes up to `max_batch` of them. Nothing here knows HTTP.

Images are decoded just before their batch is computed, not while another one is: the threads of an engine wait for each
other after every layer, so a core that decodes for 1 ms would stop all of them for 1 ms.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
Size = tuple[int, ...]  # of the pixels of an image
CLOSE_SECONDS = 30.0  # after which the engine hangs


@dataclass(frozen=True)
class Computed:
    """What became of a list of images.

    Attributes:
        outputs: the arrays (M, ...) of each output, for the M images that could be read; {} if none could.
        faults: why the others could not, by index.
        prepare_seconds, engine_seconds: the time for decoding, and that in the engine.
    """

    outputs: Arrays
    faults: Mapping[int, str] = field(default_factory=dict)
    prepare_seconds: float = 0.0
    engine_seconds: float = 0.0


OnBatch = Callable[[int, Computed, list[float]], None]  # the images in the engine, and the seconds that each job waited


class ExpiredError(Exception):
    """The deadline of a job has passed before it was computed."""


class BusyError(Exception):
    """The bound of a Budget is reached. `amount` is what is held."""

    def __init__(self, amount: int) -> None:
        super().__init__()
        self.amount = amount


class ClosedError(Exception):
    """The Batcher of a job is closed."""


class Budget:
    """A bound on what all requests together hold: images, or bytes."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self._lock = threading.Lock()

    def take(self, amount: int) -> None:
        """Raises BusyError if the limit would be exceeded, unless nothing else is held."""
        with self._lock:
            if self.held and self.held + amount > self.limit:
                raise BusyError(self.held)
            self.held += amount

    def give_back(self, amount: int) -> None:
        with self._lock:
            self.held -= amount

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        self.take(amount)
        try:
            yield
        finally:
            self.give_back(amount)


class Turns:
    """A lock that goes to its waiters in order, so that models that share the cores take turns."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._next_ticket = self._now_serving = 0

    def __enter__(self) -> None:
        with self._changed:
            ticket, self._next_ticket = self._next_ticket, self._next_ticket + 1
            self._changed.wait_for(lambda: ticket == self._now_serving)

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._now_serving += 1
            self._changed.notify_all()


@dataclass(eq=False)
class Job:
    """The images of one request, and what becomes of them: the `names` of the outputs.

    `size` is that of the pixels of each image. `future.cancel()` gives up the place in the queue; if the job is being
    computed already, its result is dropped. `deadline` is a time of time.monotonic().
    """

    images: Sequence[Any]
    size: Size
    names: Collection[str]
    deadline: float
    future: "Future[Computed]" = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    taken: int = 0  # images that are in a batch, or computed
    computed: int = 0
    parts: list[Arrays] = field(default_factory=list)
    faults: dict[int, str] = field(default_factory=dict)

    def take(self, limit: int) -> Sequence[Any]:
        """At most `limit` of the images that were not taken yet."""
        images = self.images[self.taken : self.taken + limit]
        self.taken += len(images)
        return images

    def add(self, count: int, outputs: Arrays, faults: Mapping[int, str]) -> None:
        """Add what became of the next `count` images. The last ones complete the future."""
        self.faults |= {self.computed + index: fault for index, fault in faults.items()}
        self.computed += count
        if len(faults) < count:
            self.parts.append({name: outputs[name] for name in self.names})
        if self.computed < len(self.images):
            return
        whole = self.parts[0] if self.parts else {}
        if len(self.parts) > 1:
            whole = {name: np.concatenate([part[name] for part in self.parts]) for name in self.names}
        with suppress(InvalidStateError):  # it was cancelled
            self.future.set_result(Computed(whole, self.faults))

    def fail(self, error: BaseException) -> None:
        with suppress(InvalidStateError):
            self.future.set_exception(error)


class Batcher:
    """The queue of one engine and the thread that runs it.

    Args:
        run: decodes and computes images, whose pixels have one size.
        max_batch: images in a batch. A job with more images is computed in several batches.
        turns: shared by the batchers of models that share the cores.
        on_batch: called in the thread after each batch that the engine has computed.
    """

    def __init__(self, run: Callable[[list[Any]], Computed], max_batch: int, turns: Turns, on_batch: OnBatch) -> None:
        self._run, self._max_batch, self._turns, self._on_batch = run, max_batch, turns, on_batch
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of images in the queue."""
        with self._changed:
            return sum(len(job.images) - job.taken for job in self._jobs)

    def submit(self, images: Sequence[Any], size: Size, names: Collection[str], deadline: float) -> "Future[Computed]":
        """Queue images. The future raises ExpiredError after the deadline, or the error of the engine.

        Raises ClosedError.
        """
        job = Job(images, size, names, deadline)
        with self._changed:
            if self._closed:
                raise ClosedError
            self._jobs.append(job)
            self._changed.notify()
        job.future.add_done_callback(lambda _: self._forget(job))
        return job.future

    def close(self) -> None:
        """Accept no more jobs, refuse those that are queued (ClosedError), and wait for the batch in the engine."""
        with self._changed:
            self._closed, queued = True, [*self._jobs]
            self._changed.notify()
        for job in queued:
            job.fail(ClosedError())
        self._thread.join(CLOSE_SECONDS)

    def _forget(self, job: Job) -> None:
        with self._changed, suppress(ValueError):
            self._jobs.remove(job)

    def _work(self) -> None:
        while self._wait():
            with self._turns:  # more jobs may arrive until it is this model's turn
                if batch := self._take():
                    self._compute(batch)

    def _wait(self) -> bool:
        """Wait for a job. Returns False once the batcher is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            return not self._closed

    def _take(self) -> list[tuple[Job, Sequence[Any]]]:
        """The images of the next batch, all of one size, and their jobs. Jobs whose deadline has passed leave."""
        now, free = time.monotonic(), self._max_batch
        batch: list[tuple[Job, Sequence[Any]]] = []
        expired: list[Job] = []
        with self._changed:
            for job in [*self._jobs]:
                if job.deadline <= now:
                    expired.append(job)
                elif not free or (batch and job.size != batch[0][0].size):
                    break
                else:
                    batch.append((job, images := job.take(free)))
                    free -= len(images)
                    if job.taken == len(job.images):
                        self._jobs.remove(job)
        for job in expired:
            job.fail(ExpiredError())  # which removes it from the queue
        return batch

    def _compute(self, batch: list[tuple[Job, Sequence[Any]]]) -> None:
        """Compute the images, and give each job its part. An error is the result of every job of the batch."""
        images = [image for _, part in batch for image in part]
        started, first, row = time.monotonic(), 0, 0
        try:
            computed = self._run(images)
            if readable := len(images) - len(computed.faults):
                self._on_batch(readable, computed, [started - job.submitted for job, _ in batch])
            for job, part in batch:
                count = len(part)
                faults = {n: computed.faults[first + n] for n in range(count) if first + n in computed.faults}
                rows = slice(row, row + count - len(faults))
                job.add(count, {name: values[rows] for name, values in computed.outputs.items()}, faults)
                first, row = first + count, rows.stop
        except BaseException as error:  # the thread must live: others are waiting for it
            for job, _ in batch:
                job.fail(error)
