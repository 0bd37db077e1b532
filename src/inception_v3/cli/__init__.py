"""The command line: `inception-v3 train | finetune | evaluate | predict | ...`, with one file for each command.

The file of a command is imported only when that command runs, and PyTorch only inside the commands that need it. Help
and messages about wrong options therefore appear at once, and `predict` starts quickly with an exported network.
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
from inception_v3.cli.common import print_message, warn
from inception_v3.errors import InputError
from inception_v3.support.packages import TORCH_PACKAGES, install_command

OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
COMMANDS = ("train", "finetune", "evaluate", "predict", "fidelity", "export", "bench", "convert", "describe")
CONTEXT = {"help_option_names": ["-h", "--help"]}


class LazyCommands(TyperGroup):
    """Imports a command when it is used: the function `inception_v3.cli.NAME.NAME`."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        single = typer.Typer(pretty_exceptions_enable=False, add_completion=False, context_settings=CONTEXT)
        single.command(cmd_name)(getattr(import_module(f"inception_v3.cli.{cmd_name}"), cmd_name))
        return typer.main.get_command(single)


app = typer.Typer(cls=LazyCommands, no_args_is_help=True, pretty_exceptions_enable=False, context_settings=CONTEXT)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"inception-v3 {__version__}")
        raise typer.Exit


@app.callback()
def inception_v3(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Inception V3: train, evaluate, predict, export and inspect the network."""


def main() -> None:
    """Run a command. Errors that the user can fix are reported in one line, with an exit status and no traceback."""
    _duplicate_stderr()
    threading.excepthook = _ignore_output_errors
    is_first_process = os.environ.get("LOCAL_RANK", "0") == "0"  # only the first of several processes prints warnings
    # Python's default format would add a line of this package's source code.
    warnings.showwarning = lambda message, *_, **__: warn(f"warning: {message}") if is_first_process else None
    try:
        _run()
    except ModuleNotFoundError as error:
        if error.name not in TORCH_PACKAGES:
            raise
        print_message(
            f"error: `inception-v3 {sys.argv[1]}` needs {error.name}; {install_command('torch')}", style="bold red"
        )
        sys.exit(2)
    except InputError as error:
        print_message(f"error: {error}", style="bold red")
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print_message("interrupted")
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe, such as head, has read enough
        _discard_stdout()
        sys.exit(0)
    except OSError as error:
        if error.filename is not None or error.errno not in OUTPUT_ERRORS:  # not an error of stdout
            raise
        _discard_stdout()
        print_message(
            f"error: the output cannot be written ({error.strerror or error}); redirect it to another file or disk",
            style="bold red",
        )
        sys.exit(1)


def _run() -> None:
    """Run typer. Raise BrokenPipeError and KeyboardInterrupt again, which typer turns into an exit status."""
    try:
        app(standalone_mode=True)
    except SystemExit as exited:
        if isinstance(exited.__context__, BrokenPipeError):
            raise exited.__context__ from None
        if exited.__context__ is not None and type(exited.__context__.__cause__) is KeyboardInterrupt:
            raise KeyboardInterrupt from None
        if sys.stdout is not None:  # it is None after >&-
            sys.stdout.flush()  # now, while an error can still be reported
        raise


def _duplicate_stderr() -> None:
    """Let sys.stderr write to a duplicate of descriptor 2.

    Descriptor 2 is redirected while a thread decodes a TIFF (images/decode.py).
    """
    with suppress(AttributeError, OSError):  # stderr is closed, or not a file
        if sys.stderr.fileno() == 2:
            sys.stderr = os.fdopen(os.dup(2), "w", 1, sys.stderr.encoding, sys.stderr.errors)


def _ignore_output_errors(failed: threading.ExceptHookArgs) -> None:
    """Ignore OSErrors in threads. TensorBoard writes in a thread; if the disk is full, the training reports it."""
    if not issubclass(failed.exc_type, OSError):
        threading.__excepthook__(failed)


def _discard_stdout() -> None:
    """Discard the buffered output, which the interpreter would try to write again when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
