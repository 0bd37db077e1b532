"""Ctrl-C and SIGTERM, handled where it is safe to stop."""

import signal
import threading
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Raised when a signal stops a training, after everything is saved. `exit_status` is 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_status = 128 + number


class StopSignals:
    """A context in which the first SIGINT or SIGTERM is only stored in `number`. A second ends the program as usual."""

    def __init__(self) -> None:
        self.number = 0
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # Python allows signal handlers only there
            self._handlers = {number: signal.signal(number, self._store) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def check(self) -> None:
        """Raise Interrupted if a signal has arrived."""
        if self.number:
            raise Interrupted(self.number)

    def _store(self, number: int, _: object) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
