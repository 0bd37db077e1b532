"""Signals and the worker processes of a DataLoader: only the main process decides when they stop."""

import os
import signal
import sys
import threading

from inception_v3.support.signals import STOP_SIGNALS


def ignore_signals_from_outside(_: int) -> None:
    """`worker_init_fn` of a DataLoader: only a SIGTERM from the main process ends this worker.

    Ctrl-C, SIGTERM and SIGHUP often reach all processes at once, and the main process still needs its workers to stop
    in order. PyTorch's lines about SIGBUS and SIGSEGV are left out, because the main process reports them.
    """
    for number in (signal.SIGSEGV, getattr(signal, "SIGBUS", signal.SIGFPE), signal.SIGFPE):
        signal.signal(number, signal.SIG_DFL)
    for number in set(STOP_SIGNALS) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    # multiprocessing prints tracebacks of its thread that sends batches. The main process reports the missing batch.
    sys.excepthook = lambda *_: None
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
