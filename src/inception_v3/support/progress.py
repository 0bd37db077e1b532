"""Progress bars: on a terminal a live line, in a file or a pipe nothing."""

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

Item = TypeVar("Item")


def progress_bar(console: Console) -> Progress:
    """A bar with a `figures` field for what changes: `bar.add_task(text, total=n, figures="")`."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def download_bar(console: Console) -> Progress:
    """A bar that counts bytes."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextmanager
def counter(console: Console) -> Iterator[Callable[[int], None]]:
    """A line for work whose end is not known: call what it gives with the count so far."""
    columns = (SpinnerColumn(), TextColumn("{task.completed:,} pictures"), TextColumn("{task.fields[figures]}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("", total=None, figures="")
        started = shown = time.monotonic()

        def count(done: int) -> None:
            nonlocal shown
            now = time.monotonic()
            if now > shown + 0.2:  # to tell the bar takes longer than all else that is done for a picture
                shown = now
                bar.update(task, completed=done, figures=f"{done / (now - started):.1f}/s")

        yield count


class Throughput:
    """How fast something goes, up to its last item, and how much of the time it waits for its input."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self._started, self._waited, self.images = time.perf_counter(), 0.0, 0
        self._ended: float | None = None

    def measure_waits(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, and the time that each takes to come."""
        iterator = iter(items)
        while True:
            before = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                self._ended = time.perf_counter()
                return
            finally:
                self._waited += time.perf_counter() - before
            yield item

    @property
    def seconds(self) -> float:
        return max((self._ended or time.perf_counter()) - self._started, 1e-9)

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds

    @property
    def wait(self) -> float:
        """The share of the time that was spent waiting, 0 to 1."""
        return self._waited / self.seconds
