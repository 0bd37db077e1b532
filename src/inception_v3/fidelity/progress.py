"""The types of progress callbacks."""

from collections.abc import Callable

# Called with each amount of work that is done.
Advance = Callable[[int], None]
# Called when a step begins, with its name and total amount of work (None: unknown); returns the step's `Advance`.
StartStep = Callable[[str, int | None], Advance]


def ignore(amount: int) -> None:
    """An `Advance` that shows nothing."""


def no_progress(step: str, total: int | None) -> Advance:
    """A `StartStep` that shows nothing."""
    return ignore
