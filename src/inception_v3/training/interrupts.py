"""Ctrl-C, SIGTERM and SIGHUP, handled where it is safe to stop a training."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import TypeVar

from inception_v3.support.signals import Interrupted, end_at_next_signal, stop_signals_call

Item = TypeVar("Item")


class StopSignals(ExitStack):
    """A context in which the first SIGINT, SIGTERM or SIGHUP is stored in `number`. A second ends the process at once.

    While the context waits for an item of `interruptible`, the first signal raises Interrupted there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        self._waiting = False

    def __enter__(self) -> "StopSignals":
        self.enter_context(stop_signals_call(self._store))
        return self

    def check(self) -> None:
        """Raise Interrupted if a signal has arrived."""
        if self.number:
            raise Interrupted(self.number)

    def interruptible(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items. Raises Interrupted if a signal arrives while the next item is awaited."""
        self._waiting = True
        try:
            self.check()
            for item in items:
                self._waiting = False
                yield item
                self._waiting = True
                self.check()
        finally:
            self._waiting = False

    def _store(self, number: int, _: object) -> None:
        self.number = number
        end_at_next_signal()
        if self._waiting:
            raise Interrupted(number)
