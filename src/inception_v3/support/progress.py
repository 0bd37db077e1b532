"""Progress bars: a live line on a terminal; nothing in a file or a pipe, or with --quiet."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from inception_v3.support.verbosity import verbosity

REFRESH_SECONDS = 0.2  # between two updates of the image counter
Item = TypeVar("Item")


def progress_bar(console: Console, *, count_bytes: bool = False) -> Progress:
    """Return a bar that counts items, or the bytes of a download.

    A bar of items has a `figures` field for changing text in its tasks: `bar.add_task(text, total=n, figures="")`.
    """
    items = MofNCompleteColumn(), TextColumn("{task.fields[figures]}")
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *((DownloadColumn(), TransferSpeedColumn()) if count_bytes else items),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=verbosity.quiet or not console.is_terminal,
    )


@contextmanager
def image_counter(console: Console) -> Iterator[Callable[[int], None]]:
    """Show a live count of images whose total is not known. Yields a function to call with the count so far."""
    columns = (SpinnerColumn(), TextColumn("{task.completed:,} images"), TextColumn("{task.fields[figures]}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("", total=None, figures="")
        started = updated = time.monotonic()

        def update(count: int) -> None:
            nonlocal updated
            now = time.monotonic()
            if now > updated + REFRESH_SECONDS:  # an update takes longer than all other work on an image
                updated = now
                bar.update(task, completed=count, figures=f"{count / (now - started):.1f}/s")

        yield update


class Throughput:
    """Measures a loop: images per second, and the fraction of time that it waits for its input.

    The caller adds to `images`. The clock stops when the input of `measure_waits` is exhausted.
    """

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Reset the measurement and start the clock."""
        self._started, self._waited, self.images = time.perf_counter(), 0.0, 0
        self._ended: float | None = None

    def measure_waits(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, and add up the time until each one arrives."""
        before = time.perf_counter()
        for item in items:
            self._waited += time.perf_counter() - before
            yield item
            before = time.perf_counter()
        self._ended = time.perf_counter()
        self._waited += self._ended - before

    @property
    def seconds(self) -> float:
        """Time since the start, up to the last item."""
        return max((self._ended or time.perf_counter()) - self._started, 1e-9)

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    @property
    def wait_fraction(self) -> float:
        """The fraction of the time spent waiting, 0 to 1."""
        return self._waited / self.seconds
