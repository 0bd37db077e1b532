"""The program `inception-v3`, also run by `python -m inception_v3`."""

import atexit
import os
import signal
import sys
import threading
from contextlib import suppress

from inception_v3.errors import InputError
from inception_v3.support.streams import protect_streams


def main() -> None:
    """Run the command line and exit with its status."""
    protect_streams()
    # During imports there is nothing to save, so Ctrl-C ends the program at once, without a traceback.
    default_handler = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if default_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from inception_v3 import cli
    from inception_v3.support.privacy import redirect_files

    redirect_files()
    if default_handler:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        cli.main()
    except SystemExit as error:
        if "torch" in sys.modules and isinstance(error.code, int | None):
            _exit(error.code or 0)
        raise


def _exit(status: int) -> None:
    """Exit without PyTorch's own teardown, which takes most of a second, but after all other cleanup."""
    threading._shutdown()  # type: ignore[attr-defined]  # joins threads, as the interpreter does
    atexit._run_exitfuncs()
    with suppress(OSError, InputError):  # of an output that an error has left unwritten; the error was reported
        for stream in (sys.stdout, sys.stderr):
            if stream and not stream.closed:  # logging libraries close their streams at exit
                stream.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
