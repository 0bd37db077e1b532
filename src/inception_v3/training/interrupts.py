"""Ctrl-C and SIGTERM, asked about where it is safe to stop."""

import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

Handler = Callable[[int, Any], Any] | int | None


class Interrupted(KeyboardInterrupt):
    """A training that was asked to stop, and has saved everything. `exit_status` is 128 and the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_status = 128 + number


class StopSignals:
    """While it is entered, the first signal is only noted in `number`; a second one ends the program as ever."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # others are not told, and may not ask
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._restore()

    def check(self) -> None:
        """Raises Interrupted, where a signal has come."""
        if self.number:
            raise Interrupted(self.number)

    def _note(self, number: int, _: object) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
