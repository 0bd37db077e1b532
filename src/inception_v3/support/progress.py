"""Progress of long commands: live bars on a terminal or in a notebook, else lines at an interval; none with --quiet.

Also the types of progress callbacks, and the line that ends a command.
"""

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from html import escape
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

from inception_v3.support.text import printable
from inception_v3.support.verbosity import verbosity

BAR_WIDTH, OTHER_WIDTH = 20, 18  # characters: the bar; "/", "ETA", the time and the spaces between the columns
REFRESH_SECONDS = 0.2  # between two updates of a bar, which take longer than all other work on an image
# The rate is measured over the last RATE_SAMPLES measurements, which are at least SAMPLE_SECONDS apart.
SAMPLE_SECONDS, RATE_SAMPLES = 5.0, 12
BYTES = "bytes"  # the unit of downloads, shown in MB
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


def report(advance: Advance, done: int, unreadable: int) -> None:
    """Call `advance` with the number of images that are done. A `Step` also counts those that could not be read."""
    if isinstance(advance, Step):
        advance.unreadable += unreadable
    advance(done)


class Step:
    """How far one step of a command is. It is an `Advance`: call it with each amount of work that is done.

    Attributes:
        name: shown before the figures, or empty.
        total: the amount of work, or None if it is unknown. It may be set later.
        unit: of the work, in the plural: images, files, BYTES; empty for work that only has a percentage.
        done: the amount of work that is done, with `unreadable` images.
        figures: shown instead of the rate, if not empty.
        started, changed: time.monotonic() at the start, and at the last change.
    """

    def __init__(
        self, name: str, total: int | None, unit: str = "images", show: "Callable[[Step], None] | None" = None
    ) -> None:
        self.name, self.total, self.unit, self.figures = name, total, unit, ""
        self.done = self.unreadable = 0
        self.started = self.changed = self._shown_at = time.monotonic()
        self._shown: tuple[object, ...] = ()  # the text that is on the screen
        self._samples = deque([(self.started, 0)], RATE_SAMPLES)  # (time, work done)
        self._show = show
        if show is not None:
            show(self)

    def __call__(self, amount: int) -> None:
        self.update(self.done + amount)

    def update(self, done: int, figures: str = "") -> None:
        """Set the amount of work that is done."""
        self.done, self.figures, self.changed = done, figures, time.monotonic()
        text = self.name, self.figures, self.total, done == self.total
        if self._show is not None and (text != self._shown or self.changed > self._shown_at + REFRESH_SECONDS):
            self._shown, self._shown_at = text, self.changed
            self._show(self)

    def skip_to(self, done: int) -> None:
        """Begin with work that is done already. It does not count in the rate."""
        self._samples = deque([(time.monotonic(), done)], RATE_SAMPLES)
        self.update(done)

    @property
    def seconds(self) -> float:
        """Time from the start to the last change."""
        return self.changed - self.started

    def rate(self) -> float:
        """The amount of work in a second: over the last measurements, so that a time left follows the present speed."""
        now = time.monotonic()
        (then, before), (last, _) = self._samples[0], self._samples[-1]
        if now > last + SAMPLE_SECONDS:
            self._samples.append((now, self.done))
        return (self.done - before) / max(now - then, 1e-9)

    def line(self, idle_after: float = math.inf) -> str:
        """One line: the work done, unreadable images, the rate and the time left.

        After `idle_after` seconds without a change, the time since that change replaces the rate and the time left.
        """
        idle = time.monotonic() - self.changed
        name = f"{self.name}: " if self.name else ""
        if not self.unit and self.total is None:
            return f"{name}{duration(time.monotonic() - self.started)} so far"
        parts = [self._count()]
        if self.unreadable:
            parts.append(f"{self.unreadable:,} unreadable")
        if self.figures:
            parts.append(self.figures)
        rate = self.rate()
        if idle >= idle_after:
            is_done = self.total is not None and self.done >= self.total
            parts.append(f"{'the next step has run' if is_done else 'no progress'} for {duration(idle)}")
        else:
            if self.unit and not self.figures:
                parts.append(_rate(rate, self.unit))
            if self.total is not None and rate and self.done < self.total:
                parts.append(f"{duration((self.total - self.done) / rate)} left")
        return name + ", ".join(parts)

    def _count(self) -> str:
        if not self.unit:
            return f"{self.done / (self.total or 1):.0%}"
        amount = _megabytes if self.unit == BYTES else "{:,}".format
        of = f" of {amount(self.total)}" if self.total is not None and self.total >= self.done else ""
        return f"{amount(self.done)}{of} {_unit(self.unit, self.total if of else self.done)}"


class StartShownStep(Protocol):
    """A `StartStep` of `show_progress`."""

    def __call__(self, name: str, total: int | None, unit: str = "images") -> Step: ...


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}"


def _unit(unit: str, count: int | None) -> str:
    return "MB" if unit == BYTES else unit.removesuffix("s") if count == 1 else unit


def _rate(rate: float, unit: str) -> str:
    rate /= 1e6 if unit == BYTES else 1
    return f"{rate:,.1f} {_unit(unit, None)}/s" if rate >= 1 or not rate else f"{rate:.2g} {_unit(unit, None)}/s"


def duration(seconds: float) -> str:
    """A time in two units at most: 45 s, 22 min, 3 h 20 min, 4 days 3 h."""
    minutes = round(seconds / 60)
    hours = round(seconds / 3600)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"


def summary(images: int, unreadable: int, seconds: float, *more: str, stored: int = 0) -> str:
    """The line that ends a command: `images` includes the unreadable ones, `more` names engine and precision.

    `stored` is the number of further images whose features were computed before.
    """
    counts = f"{images:,} {_unit('images', images)}, {unreadable:,} unreadable, {seconds:,.1f} s"
    more += (f"{stored:,} more from the store",) if stored else ()
    return ", ".join([counts, _rate(images / max(seconds, 1e-9), "images"), *more])


def progress_bar(console: "Console", *, count_bytes: bool = False) -> "Progress":
    """Return a bar that counts items, or the bytes of a download, and estimates the time that remains.

    Its tasks have a `figures` field for changing text: `bar.add_task(text, total=n, figures="")`.
    """
    from rich import progress as columns

    counts = columns.MofNCompleteColumn(), columns.TextColumn("{task.fields[figures]}", markup=False)
    return columns.Progress(
        columns.TextColumn("{task.description}", markup=False),
        columns.BarColumn(BAR_WIDTH),
        *((columns.DownloadColumn(), columns.TransferSpeedColumn()) if count_bytes else counts),
        *("ETA", columns.TimeRemainingColumn()),
        console=console,
        transient=True,
        disable=verbosity.quiet or not console.is_terminal,
    )


@contextmanager
def show_progress(console: "Console | None", *, count_bytes: bool = False) -> Iterator[StartShownStep]:
    """Show the steps that are started inside: as bars if `console` is a terminal, else as lines on stderr.

    A line about the step that changed last is printed every `verbosity.log_every` seconds, first after that time, and
    by a thread, so that also a step without news has one. Without a console, no bars are drawn on a terminal. In the
    cells of a notebook, each step is a bar.
    """
    if in_notebook() and not (verbosity.quiet or (console and console.quiet)):
        yield lambda name, total, unit="images": Step(name, total, unit, _shown_in_notebook())
        return
    steps: list[Step] = []
    if console is not None and console.is_interactive and not (verbosity.quiet or console.quiet):
        with progress_bar(console, count_bytes=count_bytes) as bar:
            yield lambda name, total, unit="images": Step(name, total, unit, _shown_on(bar))
        return

    def start_step(name: str, total: int | None, unit: str = "images") -> Step:
        steps.append(Step(name, total, unit))
        return steps[-1]

    is_shown = verbosity.log_every and not verbosity.quiet and not (console and console.quiet)
    with _lines(steps, verbosity.log_every) if is_shown else nullcontext():
        yield start_step


def in_notebook() -> bool:
    """Whether this code runs in the cells of a notebook, which shows HTML."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


def _shown_in_notebook() -> "Callable[[Step], None]":
    """Returns a function that shows a step as a bar in the output of the cell, which changes in place."""
    from IPython.display import HTML, display  # type: ignore[import-not-found]  # every notebook has it

    shown: list[Any] = []

    def show(step: Step) -> None:
        extent = "" if step.total is None else f' max="{step.total}" value="{step.done}"'
        page = HTML(f"<progress{extent}></progress> {escape(printable(step.line()))}")
        if shown:
            shown[0].update(page)
        else:
            shown.append(display(page, display_id=True))

    return show


@contextmanager
def show_line(console: "Console | None", unit: str = "images") -> Iterator[Step]:
    """Show one step whose total is not known at first, or never: on a terminal as one live line."""
    if console is None:
        with show_progress(None) as start_step:
            yield start_step("", None, unit)
        return
    from rich.text import Text

    with console.status("", spinner="line") as status:
        yield Step("", None, unit, lambda step: status.update(Text(printable(step.line() if unit else step.name))))


def _shown_on(bar: "Progress") -> Callable[[Step], None]:
    """Returns a function that shows a step as a new task of the bar, in place of finished tasks.

    A series of many sets of images has more steps than a terminal has lines.
    """
    for finished in [task.id for task in bar.tasks if task.finished]:
        bar.update(finished, visible=False)
    task = bar.add_task("", total=None, figures="")

    def show(step: Step) -> None:
        name, figures = printable(step.name), printable(step.figures)
        # On a narrow terminal the figures are cut. rich would cut the name, the bar and the time as well.
        room = bar.console.width - len(name) - BAR_WIDTH - 2 * len(f"{step.total}") - OTHER_WIDTH
        figures = figures if len(figures) <= room else f"{figures[: max(room - 1, 0)]}…"
        bar.update(task, completed=step.done, total=step.total, description=name, figures=figures)

    return show


@contextmanager
def _lines(steps: list[Step], seconds: float) -> Iterator[None]:
    """Print a line to stderr every `seconds` seconds, about the step that changed last."""
    ended = threading.Event()

    def print_lines() -> None:
        while not ended.wait(min(seconds, threading.TIMEOUT_MAX)):
            if steps and sys.stderr is not None:
                last = max(steps, key=lambda step: step.changed)
                print(printable(last.line(idle_after=seconds)), file=sys.stderr, flush=True)

    thread = threading.Thread(target=print_lines, name="progress lines", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


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
