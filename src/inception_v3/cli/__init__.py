"""The command line: `inception-v3 train | finetune | evaluate | predict | ...`, with one file for each command.

The file of a command is imported only when that command runs, and PyTorch only inside the commands that need it. Help
and messages about wrong options therefore appear at once, and `predict` starts quickly with an exported network.
"""

import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial, wraps
from importlib import import_module
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from inception_v3 import __version__
from inception_v3.cli.common import (
    CLUSTER_OPTIONS,
    HEADINGS,
    MODEL_FACTS,
    Bound,
    LogEvery,
    Quiet,
    Verbose,
    check_numbers,
    cluster_options,
    detail,
    print_message,
    set_verbosity,
    warn,
)
from inception_v3.errors import InputError
from inception_v3.support.packages import TORCH_PACKAGES, install_command
from inception_v3.support.signals import Interrupted, delayed_interrupt, end_at_next_signal, stop_signals_raise
from inception_v3.support.system_errors import describe_failure
from inception_v3.support.text import suggest
from inception_v3.support.verbosity import verbosity

COMMANDS = ("train", "finetune", "evaluate", "predict", "features", "explain", "look", "ablate", "compare", "patches",
            "visualise", "dream", "fidelity", "export", "serve", "load-test", "bench", "convert", "inspect", "describe",
            "draw", "cache")  # fmt: skip
CONTEXT = {"help_option_names": ["-h", "--help"]}
COMMON_OPTIONS = {"quiet": (Quiet, False), "verbose": (Verbose, False)}  # of every command, with their defaults
LONG_OPTIONS = {"log_every": (LogEvery, 30.0)}  # of every command that may take long
WITHOUT_PROGRESS = ("serve", "load_test", "inspect", "describe", "draw", "cache")
# Options of 0.1.0 with another name now. They work for one release.
RENAMED = {"fidelity": {"--html": "--report"}, "bench": {"--engines": "--engine", "--precisions": "--precision"}}
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]  # also the class of other errors in a command line


class LazyCommands(TyperGroup):
    """Imports a command when it is used: the function `inception_v3.cli.NAME.NAME`, with _ for -."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        single = typer.Typer(pretty_exceptions_enable=False, add_completion=False, context_settings=CONTEXT)
        name = cmd_name.replace("-", "_")
        single.command(cmd_name)(_deferred(getattr(import_module(f"inception_v3.cli.{name}"), name)))
        return typer.main.get_command(single)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise InputError(f"no such command {args[0]}; {suggest(args[0], COMMANDS)}", exit_status=2)
        return super().resolve_command(ctx, [args[0], *_replace_renamed(*args)])


app = typer.Typer(cls=LazyCommands, pretty_exceptions_enable=False, context_settings=CONTEXT)


def _deferred(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """Add the shared options to a command's function, and let it return its call: it runs after typer has returned.

    A command with the parameter `facts` gets the options about a model, as a dictionary of those that are given. One
    with the parameter `cluster` gets those of --ray as ClusterOptions.
    """
    parameters = signature(command).parameters
    about_model = {name: (annotation, None) for name, annotation in MODEL_FACTS.items() if "facts" in parameters}
    about_cluster = CLUSTER_OPTIONS if "cluster" in parameters else {}

    @wraps(command)
    def parsed(quiet: bool, verbose: bool, log_every: float = 0, **options: Any) -> Callable[[], None]:
        check_numbers(options)
        # Of several processes, only the first prints lines of progress.
        set_verbosity(quiet, verbose, log_every if is_first_process() else 0)
        facts = {name: options.pop(name) for name in about_model}
        if about_cluster:
            options["cluster"] = cluster_options(**{name: options.pop(name) for name in about_cluster})
        if about_model:
            options["facts"] = {name: value for name, value in facts.items() if value is not None}
        return partial(command, **options)

    shared = about_model | about_cluster | COMMON_OPTIONS
    shared |= {} if command.__name__ in WITHOUT_PROGRESS else LONG_OPTIONS
    common = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in shared.items()
    ]
    own = [
        parameter.replace(kind=Parameter.KEYWORD_ONLY)
        for name, parameter in parameters.items()
        if name not in ("facts", "cluster")
    ]
    parsed.__annotations__ = command.__annotations__ | {each.name: each.annotation for each in common}
    parsed.__signature__ = Signature(sorted([*own, *common], key=_heading_index))  # type: ignore[attr-defined]
    return parsed


def _heading_index(parameter: Parameter) -> int:
    """The index of a parameter's heading in --help, where typer keeps the order of the parameters; arguments first."""
    heading = parameter.annotation.__metadata__[0].rich_help_panel
    return HEADINGS.index(heading) if heading in HEADINGS else -1


def _replace_renamed(command: str, *arguments: str) -> list[str]:
    """Replace the spelling of options in 0.1.0 by that of now, with a warning for each.

    --allow-unreadable without a value, which typer does not support, gets the value 100%.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    replaced: list[str] = []
    for argument, following in zip(arguments[:end], [*arguments[1:], ""][:end], strict=True):
        name, separator, value = argument.partition("=")
        new = RENAMED.get(command, {}).get(name, name)
        if (command, argument) == ("fidelity", "--csv") and following != "-" and not following.lower().endswith(".csv"):
            new = "--csv=-"  # it took no file, and printed the table
        if argument == "--allow-unreadable" and not Bound.is_valid(following):
            separator, value = "=", "100%"
        if new != name:
            warn(f"{name}: write {new} instead; the old spelling will be removed in the next release")
        replaced.append(new + separator + value)
    return [*replaced, *arguments[end:]]


def _print_version(requested: bool) -> None:
    if requested:
        print(f"inception-v3 {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def inception_v3(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Inception V3: train, evaluate, predict, export and inspect the network.

    Exit status: 0, success; 1, failed; 2, wrong arguments;
    3, ablate, compare, dream, explain, features, look, patches or predict finished, but some images could not be read.
    """
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
        raise typer.Exit(2)


def main() -> None:
    """Run a command. Errors that the user can fix are reported in one line, with an exit status and no traceback."""
    threading.excepthook = _ignore_output_errors
    # Only the first process prints warnings. Python's default format would add a line of this package's source code.
    warnings.showwarning = lambda message, *_, **__: warn(f"warning: {message}") if is_first_process() else None
    set_verbosity(quiet=False, verbose=False)
    try:
        with stop_signals_raise():
            status = _run()
            sys.stdout.flush()  # now, while an error can still be reported
            sys.exit(status)
    except InputError as error:
        _fail(str(error), error.exit_status)
    except KeyboardInterrupt as error:
        end_at_next_signal()
        print_message("interrupted")
        sys.exit(error.exit_status if isinstance(error, Interrupted) else 130)
    except BrokenPipeError:  # the reader of a pipe, such as head, has read enough
        sys.exit(0)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in TORCH_PACKAGES:
            _fail(f"`inception-v3 {sys.argv[1]}` needs {error.name}; {install_command('torch')}", 2)
        if line := describe_failure(error):
            _fail(line)
        if verbosity.verbose:
            raise
        _fail(_describe_bug(error))


def is_first_process() -> bool:
    """Whether this is the first of the processes that torchrun has started on this machine, or the only one."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _run() -> int:
    """Parse the command line, run the command, and return the exit status."""
    try:
        with delayed_interrupt():
            run = app(standalone_mode=False)
    except USAGE_ERROR as error:
        raise InputError(_describe_usage_error(error), exit_status=2) from error
    if isinstance(run, int):  # --help, --version and completion are done
        return run
    detail(f"inception-v3 {__version__}, Python {sys.version.split()[0]}")
    run()
    detail("done")
    return 0


def _describe_usage_error(error: Any) -> str:
    """One line about a command line that cannot be parsed. Names the most similar option for an unknown one."""
    fault = " ".join(error.format_message().split()).rstrip(".")
    if option := getattr(error, "option_name", None) if type(error).__name__ == "NoSuchOption" else None:
        options = [name for parameter in error.ctx.command.params for name in parameter.opts]
        similar = suggest(option, [*options, "--help"])
        fault = f"no such option {option}{f'; {similar}' if similar.startswith('did') else ''}"
    return f"{fault}; see {error.ctx.command_path} --help" if error.ctx else fault


def _describe_bug(error: Exception) -> str:
    """One line about an error that nothing expected: its class and line of code."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    fault = f"{type(error).__name__}: {' '.join(str(error).split())} ({Path(frame.filename).name}, line {frame.lineno})"
    return f"unexpected {fault}; run it again with --verbose for the traceback, and report it"


def _fail(message: str, status: int = 1) -> None:
    with suppress(InputError, OSError):  # of the output so far, which could not be written either
        sys.stdout.flush()
    print_message(f"error: {message}", style="bold red")
    sys.exit(status)


def _ignore_output_errors(failed: threading.ExceptHookArgs) -> None:
    """Ignore OSErrors in threads. TensorBoard writes in a thread; if the disk is full, the training reports it."""
    if not issubclass(failed.exc_type, OSError):
        threading.__excepthook__(failed)
