"""Dynamic batching: one thread runs an engine on batches of the images that requests have submitted.

It never waits for a fuller batch. While the engine computes, the images of other requests gather, and the next batch
takes up to `max_batch` of them. Nothing here knows HTTP.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Arrays = dict[str, NDArray[Any]]
CLOSE_SECONDS = 30.0  # after which the engine hangs
OnBatch = Callable[[int, float, list[float]], None]  # images, seconds in the engine, seconds that each job waited


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
    """The images of one request, (N, H, W, 3), and what becomes of them: the `names` of the outputs, each (N, ...).

    `future.cancel()` gives up its place in the queue. If it is in the engine already, its result is dropped.
    `deadline` is a time of time.monotonic().
    """

    pixels: Pixels
    names: Collection[str]
    deadline: float
    future: "Future[Arrays]" = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    taken: int = 0  # images that are in a batch, or computed
    parts: list[Arrays] = field(default_factory=list)

    def take(self, limit: int) -> Pixels:
        """At most `limit` of the images that were not taken yet."""
        images = self.pixels[self.taken : self.taken + limit]
        self.taken += len(images)
        return images

    def add(self, outputs: Arrays) -> None:
        """Add the outputs of the images that were taken. The last part completes the future."""
        self.parts.append(outputs)
        if sum(len(next(iter(part.values()))) for part in self.parts) == len(self.pixels):
            whole = self.parts[0]
            if len(self.parts) > 1:
                whole = {name: np.concatenate([part[name] for part in self.parts]) for name in self.names}
            with suppress(InvalidStateError):  # it was cancelled
                self.future.set_result(whole)

    def fail(self, error: BaseException) -> None:
        with suppress(InvalidStateError):
            self.future.set_exception(error)


class Batcher:
    """The queue of one engine and the thread that runs it.

    Args:
        run: computes a batch (N, H, W, 3): the arrays (N, ...) of each output.
        max_batch: images in a batch. A job with more images is computed in several batches.
        turns: shared by the batchers of models that share the cores.
        on_batch: called in the thread after each batch.
    """

    def __init__(
        self, run: Callable[[Pixels], Mapping[str, NDArray[Any]]], max_batch: int, turns: Turns, on_batch: OnBatch
    ) -> None:
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
            return sum(len(job.pixels) - job.taken for job in self._jobs)

    def submit(self, pixels: Pixels, names: Collection[str], deadline: float) -> "Future[Arrays]":
        """Queue images. The future raises ExpiredError after the deadline, or the error of the engine.

        Raises ClosedError.
        """
        job = Job(pixels, names, deadline)
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

    def _take(self) -> list[tuple[Job, Pixels]]:
        """The images of the next batch, all of one size, and their jobs. Jobs whose deadline has passed leave."""
        now, free = time.monotonic(), self._max_batch
        batch: list[tuple[Job, Pixels]] = []
        expired: list[Job] = []
        with self._changed:
            for job in [*self._jobs]:
                if job.deadline <= now:
                    expired.append(job)
                elif not free or (batch and job.pixels.shape[1:] != batch[0][1].shape[1:]):
                    break
                else:
                    batch.append((job, images := job.take(free)))
                    free -= len(images)
                    if job.taken == len(job.pixels):
                        self._jobs.remove(job)
        for job in expired:
            job.fail(ExpiredError())  # which removes it from the queue
        return batch

    def _compute(self, batch: list[tuple[Job, Pixels]]) -> None:
        """Run the engine, and give each job its part. An error is the result of every job of the batch."""
        images = batch[0][1] if len(batch) == 1 else np.concatenate([images for _, images in batch])
        started, row = time.monotonic(), 0
        try:
            outputs = self._run(images)
            self._on_batch(len(images), time.monotonic() - started, [started - job.submitted for job, _ in batch])
            for job, part in batch:
                job.add({name: outputs[name][row : row + len(part)] for name in job.names})
                row += len(part)
        except BaseException as error:  # the thread must live: others are waiting for it
            for job, _ in batch:
                job.fail(error)
