"""The signals that stop a command: Ctrl-C, SIGTERM, and SIGHUP, which a terminal sends when it is closed."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
RAISE_AGAIN_SECONDS = 0.05


class Interrupted(KeyboardInterrupt):
    """Raised when a signal stops a command. `exit_status` is 128 + the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.exit_status = number, 128 + number


@contextmanager
def stop_signals_call(handler: Callable[[int, Any], object], numbers: Sequence[int] = STOP_SIGNALS) -> Iterator[None]:
    """Call `handler` at each of these signals inside this block.

    A signal that is ignored stays ignored: `nohup` and a shell that starts a command in the background rely on it. In
    another thread than the main thread nothing changes, because Python allows signal handlers only there.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in numbers if in_main_thread}
    previous = {number: own for number, own in handlers.items() if own not in (signal.SIG_IGN, None)}
    for number in previous:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, own in previous.items():
            signal.signal(number, own)


@contextmanager
def delayed_interrupt() -> Iterator[None]:
    """Delay a Ctrl-C, SIGTERM or SIGHUP that arrives inside this block until the block ends.

    An exception of a signal handler would be lost there: in a library's callback while a process forks, where it could
    also crash the process, or in typer while it parses the command line.
    """
    received: list[int] = []
    try:
        with stop_signals_call(lambda number, _: received.append(number)):
            yield
    finally:
        for number in received:
            signal.raise_signal(number)


def end_at_next_signal() -> None:
    """Let the next signal of STOP_SIGNALS end the process at once, also inside a library's long computation."""
    for number in STOP_SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def stop_signals_raise() -> Iterator[None]:
    """Raise Interrupted at the first signal inside this block, so that temporary files are deleted.

    Python drops an exception that is raised in a callback, such as a finalizer. Interrupted is then raised again.
    """
    previous_hook = sys.unraisablehook

    def raise_interrupted(number: int, _: object) -> None:
        end_at_next_signal()
        raise Interrupted(number)

    def raise_again(dropped: Any) -> None:
        if not isinstance(dropped.exc_value, Interrupted):
            previous_hook(dropped)
            return
        number = dropped.exc_value.number
        signal.signal(number, raise_interrupted)
        # Later, because the callback has not returned yet.
        main = threading.main_thread().ident
        threading.Timer(RAISE_AGAIN_SECONDS, signal.pthread_kill, [main, number]).start()

    sys.unraisablehook = raise_again
    try:
        with stop_signals_call(raise_interrupted):
            yield
    finally:
        sys.unraisablehook = previous_hook
