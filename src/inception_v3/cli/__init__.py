"""The command line: `inception-v3 train | finetune | evaluate | predict | ...`, a file for each command.

A command's file is imported when it is asked for, and PyTorch inside the commands that need it, so that help and
mistakes answer at once, and `predict` with an exported network soon.
"""

import errno
import os
import sys
import threading
import warnings
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from inception_v3 import __version__
from inception_v3.cli.common import warn
from inception_v3.errors import InputError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
COMMANDS = ("train", "finetune", "evaluate", "predict", "fidelity", "export", "bench", "convert", "describe")
CONTEXT = {"help_option_names": ["-h", "--help"]}


class Commands(TyperGroup):
    """Each is the function of that name in the file of that name."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        alone = typer.Typer(pretty_exceptions_enable=False, add_completion=False, context_settings=CONTEXT)
        alone.command(cmd_name)(getattr(import_module(f"inception_v3.cli.{cmd_name}"), cmd_name))
        return typer.main.get_command(alone)


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, context_settings=CONTEXT)


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"inception-v3 {__version__}")
        raise typer.Exit


@app.callback()
def inception_v3(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version, and exit.")
    ] = False,
) -> None:
    """Inception V3: train it, judge it, use it, look inside."""


def main() -> None:
    """Run a command; one line and an exit status in place of a traceback for anything the user can mend."""
    _keep_stderr()
    threading.excepthook = _of_a_thread
    first = os.environ.get("LOCAL_RANK", "0") == "0"  # of several processes on one machine one alone speaks
    # without a line of our source
    warnings.showwarning = lambda message, *_, **__: warn(f"warning: {message}") if first else None
    try:
        try:
            app(standalone_mode=True)
        except SystemExit as ended:
            if isinstance(ended.__context__, BrokenPipeError):  # typer takes it for a failure
                raise ended.__context__ from None
            if ended.__context__ is not None and type(ended.__context__.__cause__) is KeyboardInterrupt:
                raise KeyboardInterrupt from None  # typer would end without a word
            if sys.stdout is not None:  # as after >&-
                sys.stdout.flush()  # while there is still somebody to say that it cannot be
            raise
    except InputError as error:
        _tell(f"error: {error}")
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        _tell("interrupted", style="")
        sys.exit(130)
    except BrokenPipeError:  # the reader, such as head, has what it wanted
        _forget_output()
        sys.exit(0)
    except OSError as error:
        if error.filename is not None or error.errno not in NO_ROOM:  # nothing to do with the output
            raise
        _forget_output()
        _tell(f"error: the output cannot be written ({error.strerror or error}); send it elsewhere")
        sys.exit(1)


def _keep_stderr() -> None:
    """Print to a descriptor of our own: while a thread decodes a TIFF, number 2 leads nowhere (images.py)."""
    with suppress(AttributeError, OSError):  # there is none, or it is no file
        if sys.stderr.fileno() == 2:
            sys.stderr = os.fdopen(os.dup(2), "w", 1, sys.stderr.encoding, sys.stderr.errors)


def _of_a_thread(failed: threading.ExceptHookArgs) -> None:
    """TensorBoard's writes in a thread of its own: where the disk is full, the training fails too, and says so."""
    if not issubclass(failed.exc_type, OSError):
        threading.__excepthook__(failed)


def _tell(message: str, style: str = "bold red") -> None:
    from inception_v3.cli.common import messages

    messages.print(message, style=style, highlight=False, markup=False, soft_wrap=True)


def _forget_output() -> None:
    """What is left in the buffer would fail again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
