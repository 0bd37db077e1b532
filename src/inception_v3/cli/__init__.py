"""The command line: `inception-v3 train | finetune | evaluate | predict | ...`, a file for each command.

PyTorch is imported inside the commands that need it, so that help and mistakes answer at once.
"""

import os
import sys
import warnings

import typer

from inception_v3.cli.common import messages, warn
from inception_v3.cli.convert import convert
from inception_v3.cli.describe import describe
from inception_v3.cli.evaluate import evaluate
from inception_v3.cli.fidelity import fidelity
from inception_v3.cli.finetune import finetune
from inception_v3.cli.predict import predict
from inception_v3.cli.train import train
from inception_v3.errors import InputError

app = typer.Typer(
    help="Inception V3: train it, judge it, use it, look inside.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (train, finetune, evaluate, predict, fidelity, convert, describe):
    app.command()(command)


def main() -> None:
    """Run a command; one line and an exit status in place of a traceback for anything the user can mend."""
    warnings.showwarning = lambda message, *_, **__: warn(f"warning: {message}")  # without a line of our source
    try:
        app(standalone_mode=True)
    except InputError as error:
        messages.print(f"error: {error}", style="bold red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        messages.print("interrupted")
        sys.exit(130)
    except BrokenPipeError:  # the reader, such as head, has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
