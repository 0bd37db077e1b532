"""The program `inception-v3`, which is `python -m inception_v3` too."""

import atexit
import os
import signal
import sys
import threading
from contextlib import suppress


def main() -> None:
    """Run a command, and end the process with its status."""
    # While libraries are imported Ctrl-C has nothing to save: it ends the program, without a traceback through them.
    plain = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if plain:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from inception_v3 import cli

    if plain:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        cli.main()
    except SystemExit as ended:
        if "torch" in sys.modules and isinstance(ended.code, int | None):
            _end(ended.code or 0)
        raise


def _end(status: int) -> None:
    """End at once what PyTorch takes most of a second to take down, after all that others left to be done."""
    threading._shutdown()  # type: ignore[attr-defined]  # joins threads, as the interpreter does
    atexit._run_exitfuncs()
    with suppress(OSError):  # a full disk or a closed pipe is the interpreter's to tell
        for stream in (sys.stdout, sys.stderr):
            if stream and not stream.closed:  # exit functions of logging libraries close what they wrote to
                stream.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
