"""Progress displays: a live line on a terminal; nothing in a file or a pipe, or with --quiet.

Also the types of progress callbacks.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

from inception_v3.support.verbosity import verbosity

REFRESH_SECONDS = 0.2  # between two updates of the image counter
Item = TypeVar("Item")
# Called with each amount of work that is done.
Advance = Callable[[int], None]
# Called when a step begins, with its name and total amount of work (None: unknown); returns the step's `Advance`.
StartStep = Callable[[str, int | None], Advance]


def ignore(amount: int) -> None:
    """An `Advance` that shows nothing."""


def no_progress(step: str, total: int | None) -> Advance:
    """A `StartStep` that shows nothing."""
    return ignore


def progress_bar(console: "Console", *, count_bytes: bool = False, known_total: bool = True) -> "Progress":
    """Return a bar that counts items, or the bytes of a download, and estimates the time that remains.

    A bar of items has a `figures` field for changing text in its tasks: `bar.add_task(text, total=n, figures="")`. If
    the total is not known, the elapsed time is shown.
    """
    from rich import progress as columns

    counts = columns.MofNCompleteColumn(), "{task.fields[figures]}"
    known = (
        "{task.description}",
        columns.BarColumn(),
        *((columns.DownloadColumn(), columns.TransferSpeedColumn()) if count_bytes else counts),
        *("ETA", columns.TimeRemainingColumn()),
    )
    unknown = columns.SpinnerColumn(), "{task.completed:,} {task.description}", counts[1], columns.TimeElapsedColumn()
    return columns.Progress(
        *(known if known_total else unknown),
        console=console,
        transient=True,
        disable=verbosity.quiet or not console.is_terminal,
    )


@contextmanager
def image_counter(console: "Console") -> Iterator[Callable[[int], None]]:
    """Show a live count of images whose total is not known. Yields a function to call with the count so far."""
    with progress_bar(console, known_total=False) as bar:
        task = bar.add_task("images", total=None, figures="")
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
