"""The threads of the engines' libraries do not exist in a forked process, where a computation would wait for ever."""

import os

from inception_v3.errors import InputError

_parents: list[int] = []  # the process in which the first engine was opened


def check_not_forked(*, opening: bool = False) -> None:
    """Raise InputError in a process that was forked after an engine was opened, and note an engine that is `opening`.

    In such a process a new engine waits for ever too, because its library uses the same threads for all engines.
    """
    if opening and not _parents:
        _parents.append(os.getpid())
    if _parents and _parents[0] != os.getpid():
        raise InputError(
            "this process was forked after an engine was opened, and would wait for ever for threads that exist only in "
            'its parent; start it with multiprocessing.get_context("spawn"), or open the first engine after the fork'
        )
