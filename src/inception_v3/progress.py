"""Progress bars: on a terminal a live line, in a file or a pipe nothing."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
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


class Pace:
    """How fast something goes, and how much of the time it waits for its input."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self._started, self._waited, self.images = time.perf_counter(), 0.0, 0

    def waiting_for(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, and the time that each takes to come."""
        iterator = iter(items)
        while True:
            before = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._waited += time.perf_counter() - before
            yield item

    @property
    def images_per_second(self) -> float:
        return self.images / max(time.perf_counter() - self._started, 1e-9)

    @property
    def wait(self) -> float:
        """The share of the time that was spent waiting, 0 to 1."""
        return self._waited / max(time.perf_counter() - self._started, 1e-9)
