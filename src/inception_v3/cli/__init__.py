"""The command line: `inception-v3 train | finetune | evaluate | predict | ...`, a file for each command.

A command's file is imported when it is asked for, and PyTorch inside the commands that need it, so that help and
mistakes answer at once, and `predict` with an exported network soon.
"""

import os
import sys
import warnings
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from inception_v3.cli.common import warn
from inception_v3.errors import InputError

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


@app.callback()
def inception_v3() -> None:
    """Inception V3: train it, judge it, use it, look inside."""


def main() -> None:
    """Run a command; one line and an exit status in place of a traceback for anything the user can mend."""
    first = os.environ.get("LOCAL_RANK", "0") == "0"  # of several processes on one machine one alone speaks
    # without a line of our source
    warnings.showwarning = lambda message, *_, **__: warn(f"warning: {message}") if first else None
    try:
        app(standalone_mode=True)
    except InputError as error:
        from inception_v3.cli.common import messages

        messages.print(f"error: {error}", style="bold red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        from inception_v3.cli.common import messages

        messages.print("interrupted")
        sys.exit(130)
    except BrokenPipeError:  # the reader, such as head, has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
