"""A forked process lacks the threads of its parent's engines, so a computation there would wait for ever."""

import ctypes
import os
from weakref import WeakSet

from inception_v3.errors import InputError

_engines: WeakSet[object] = WeakSet()  # all that are open
_opened_in: list[int] = []  # the process in which the last engine was opened


def note_engine(engine: object) -> None:
    """Call this while an engine is opened. Raises InputError, as `check_not_forked`."""
    check_not_forked()
    _opened_in[:] = [os.getpid()]
    _engines.add(engine)


def check_not_forked() -> None:
    """Raise InputError in a process that was forked after an engine was opened.

    A new engine would wait for ever there too, because its library shares the threads among all engines.
    """
    if _opened_in not in ([], [os.getpid()]):
        raise InputError(
            "this process was forked after an engine was opened, and lacks the engine's threads, so a prediction would "
            'never end; start it with multiprocessing.get_context("spawn"), or open the first engine after the fork'
        )


def _keep_engines() -> None:
    """Never free the parent's engines: ONNX Runtime would wait for their threads when the forked process exits."""
    for engine in _engines:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(engine))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_engines)
