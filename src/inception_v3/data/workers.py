"""The worker processes of a DataLoader: how batches reach the main process, and what happens at a failure or a signal.

Only the main process decides when its workers stop.
"""

import errno
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import reduction
from multiprocessing.queues import Queue
from multiprocessing.util import Finalize, get_temp_dir
from pathlib import Path
from typing import Any

from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.support.signals import STOP_SIGNALS, delayed_interrupt
from inception_v3.support.system_errors import OPEN_FILES
from inception_v3.support.text import printable

SHARED_MEMORY = Path("/dev/shm")
_warned: list[bool] = []


class WorkerError(InputError):
    """A worker process could not start, has failed or has ended."""


def can_start_workers(workers: int) -> bool:
    """Whether worker processes can start, if any are requested. If not, a warning gives the reason.

    They need semaphores, which are files in the shared memory, and sockets in the folder for temporary files.
    """
    if workers:
        try:
            # At once, as a DataLoader holds them: in its queue of batches, its event, and the queue of each worker.
            _ = [multiprocessing.Semaphore() for _ in range(8 + 3 * workers)]
            get_temp_dir()  # created before the workers start, so that all use it and this process deletes it
        except OSError as error:
            warnings.warn(
                f"worker processes cannot start ({error.strerror or error}): images are decoded in this process; free "
                f"some space in {SHARED_MEMORY} and in the folder for temporary files",
                stacklevel=2,
            )
            return False
    return workers > 0


def start_worker(_: int) -> None:
    """`worker_init_fn` of a DataLoader: a signal from outside does not end the worker, but a batch that it cannot send.

    Otherwise multiprocessing would print a traceback in its threads that send batches, and the main process would wait
    for the batch for ever.
    """
    ignore_signals_from_outside()
    sys.excepthook = lambda *_: os._exit(1)
    Queue._on_queue_feeder_error = staticmethod(sys.excepthook)  # type: ignore[attr-defined]


class MemoryFile:
    """A value on its way to another process, in a file in memory that needs no space in /dev/shm."""

    def __init__(self, value: Any) -> None:
        with os.fdopen(os.memfd_create("batch"), "wb") as file:
            pickle.dump(value, file)
            file.flush()
            self._descriptor = reduction.DupFd(file.fileno())

    def __reduce__(self) -> Any:
        return _read_memory_file, (self._descriptor,)  # the receiver gets the value


def _read_memory_file(descriptor: Any) -> Any:
    with os.fdopen(descriptor.detach(), "rb") as file:
        file.seek(0)
        return pickle.load(file)


def choose_sender(size: int) -> Callable[[Any], Any]:
    """The function by which a worker prepares a dataclass of tensors to be sent, given the `size` in bytes of all that
    is on its way: in shared memory if it fits, else with a warning in memory files.
    """
    with suppress(OSError):  # not on Linux
        space = os.statvfs(SHARED_MEMORY)
        if (free := space.f_bavail * space.f_frsize) < size:
            _warn_of_small_memory(free, size)
            return MemoryFile
    return share_tensors


def _warn_of_small_memory(free: int, size: int) -> None:
    """Warn once, although a training has several loaders."""
    if not _warned:
        _warned.append(True)
        warnings.warn(
            f"{SHARED_MEMORY} has {free / 1e6:,.1f} MB free, but the batches of the workers may take "
            f"{size / 1e6:,.1f} MB: the workers send them in memory files instead, a little slower; to enlarge it in a "
            f"container: docker run --shm-size={-(-size // 10**6) + 64}m",
            stacklevel=2,
        )


def share_tensors(value: Any) -> Any:
    """Move the tensors of a dataclass to shared memory; if it is full, return the value in a memory file.

    PyTorch would move them while it sends them, in a thread where an error leaves the receiver waiting for ever.
    """
    try:
        for tensor in vars(value).values():
            if isinstance(tensor, Tensor):
                tensor.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError:
        return MemoryFile(value)
    return value


@contextmanager
def starting_workers() -> Iterator[None]:
    """A block that starts worker processes, which are killed when this process exits.

    PyTorch's handler of SIGCHLD is removed: it would raise an error of a worker anywhere, for example in the middle of
    a training step. The receiver of batches notices within seconds that a worker has ended.
    """
    others = set(multiprocessing.active_children())
    is_main = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    previous = signal.getsignal(signal.SIGCHLD) if is_main else None
    try:
        with delayed_interrupt():
            yield
    finally:
        if is_main:
            signal.signal(signal.SIGCHLD, previous)
        for worker in set(multiprocessing.active_children()) - others:
            Finalize(None, worker.kill, exitpriority=0)  # multiprocessing would wait for a worker that hangs


@contextmanager
def explain_worker_failure() -> Iterator[None]:
    """Turn every error of or about a worker process into a WorkerError of one line."""
    try:
        yield
    except Exception as error:
        *_, reason = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = printable(reason.strip())
        if os.strerror(errno.EMFILE) in reason:  # PyTorch adds advice for programmers
            raise WorkerError(f"a worker process failed: {OPEN_FILES}") from error
        lack = f"space in {SHARED_MEMORY}" if os.strerror(errno.ENOSPC) in reason else "memory"
        raise WorkerError(f"a worker process failed ({reason}); free some {lack}, or give fewer --workers") from error


def explain_each(items: Iterator[Any]) -> Iterator[Any]:
    """Yield the items of an iterator over batches from workers, with `explain_worker_failure`."""
    end = object()
    while True:
        with explain_worker_failure():
            item = next(items, end)
        if item is end:
            return
        yield item


# ------------------------------------------------------------------------------------------------------- signals


def ignore_signals_from_outside() -> None:
    """In a worker process, let no signal end it except a SIGTERM from the main process.

    Ctrl-C, SIGTERM and SIGHUP often reach all processes at once, and the main process still needs its workers to stop
    in order. PyTorch's lines about SIGBUS and SIGSEGV are left out, because the main process reports them.
    """
    for number in (signal.SIGSEGV, getattr(signal, "SIGBUS", signal.SIGFPE), signal.SIGFPE):
        signal.signal(number, signal.SIG_DFL)
    for number in set(STOP_SIGNALS) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return  # macOS does not report the sender: there any SIGTERM ends a worker
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_exit_on_sigterm_from_parent, daemon=True).start()


def _exit_on_sigterm_from_parent() -> None:
    """Exit at a SIGTERM from the parent process. multiprocessing sends it to the processes left when the parent exits.

    A thread waits for the signal, because a signal handler in Python cannot find out who sent it.
    """
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
