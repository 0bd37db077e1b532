"""A lock on a file, across threads, processes and, where the file system has locks, machines."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_held: set[IO[bytes]] = set()
if hasattr(os, "register_at_fork"):  # a forked worker that outlives this process must not keep its locks
    os.register_at_fork(after_in_child=lambda: [file.close() for file in _held])


@contextmanager
def exclusive_lock(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold an exclusive lock on the lock file `path`, which is created, and deleted at the end.

    The lock is flock(2): it ends with its process, also after kill -9, so a lock file that was left behind blocks
    nothing. It works on local file systems, tmpfs, overlay and NFS. If the file system has no locks (NFS with `nolock`
    and some FUSE systems), a lock file in the folder for temporary files is used instead. That one excludes the other
    processes of the same user on this machine.

    Args:
        path: the lock file. Its folder must exist.
        on_wait: called once if the lock is held, before waiting for it without a limit. None: do not wait.

    Yields whether the lock is held, which is always true with `on_wait`. Raises OSError: `path` cannot be created.
    """
    file = _acquire(path, wait=False)
    if file is None and on_wait is not None:
        on_wait()
        file = _acquire(path, wait=True)
    try:
        yield file is not None
    finally:
        if file is not None and not file.closed:
            _held.discard(file)
            with file:
                if os.fstat(file.fileno()).st_nlink:  # else the name may belong to the lock file of another process
                    Path(file.name).unlink()


def _acquire(path: Path, *, wait: bool) -> IO[bytes] | None:
    """The open and locked file, or None if another process or thread holds the lock and `wait` is false."""
    user_and_path = f"{getattr(os, 'getuid', int)()} {path.absolute()}"
    digest = hashlib.sha256(os.fsencode(user_and_path)).hexdigest()
    substitute = Path(tempfile.gettempdir(), f".inception-v3.{digest}.lock")
    while True:
        file = path.open("ab", buffering=0)
        try:
            with suppress(ImportError):  # Windows
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink:
                _held.add(file)
                return file
            file.close()  # the last holder has deleted it; lock the new file of this name
        except BlockingIOError:
            file.close()
            return None
        except OSError:  # this file system has no locks
            file.close()
            path.unlink(missing_ok=True)
            if path == substitute:
                raise
            path = substitute
