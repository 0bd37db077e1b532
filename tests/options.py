"""The options of every command, in docs/commands.md; tests/cli/test_options.py holds the command line to that page.

python tests/options.py            # print the page
python tests/options.py --write    # after a deliberate change: write it
"""

import sys
from pathlib import Path
from typing import Any

import typer

from inception_v3 import cli

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"
SHARED = (
    *("--engine", "--precision", "--device", "--workers", "--seed", "--cache", "--no-cache", "--out", "--overwrite"),
    *("--resume", "--log-every", "--log-steps", "--report", "--csv", "--json", "--quiet", "--verbose"),
)
ELSEWHERE = {  # why a command has another form of a shared option
    ("export", "--out"): "OUT",
    ("convert", "--out"): "DESTINATION",
    ("predict", "--csv"): "--out x.csv",
}
INTRODUCTION = """\
# Options of the commands

An option means the same in every command that has it. `inception-v3 COMMAND --help` explains it.

- `--report`, `--csv` and `--json` can be given together. `--csv -` prints the table instead of the usual output.
- A choice may be written in upper or lower case, and with `_` for `-`. A list is separated by commas: `fp32,bf16`.
- `export`, `convert` and the files of `--report`, `--csv` and `--plot` replace an existing file. `train`, `finetune`,
  `predict --out` and `features` refuse it unless `--overwrite` or `--resume` is given.
- `--quiet` leaves warnings and errors. `--verbose` adds the choices that were made, times, and the traceback of a bug.
- Exit statuses: 0, success; 1, a fault in the input or the machine; 2, wrong arguments; 3, finished, but some images
  could not be read or have no result
  ({with_status_3}); 130, interrupted by Ctrl-C. Other commands leave
  unreadable images out, report them, and exit with 0.
- Spellings of 0.1.0 that work with a warning until the next release: `fidelity --html FILE` (now `--report FILE`),
  `fidelity --csv` without a file (now `--csv -`), `bench --engines` and `--precisions` (now `--engine`, `--precision`).

## Output, progress and messages

The result, and nothing else, goes to stdout, so that `> file`, `| jq` and `--json` work. Progress, notes, warnings and
errors go to stderr.

- On a terminal, a long command shows a live bar or count.
- Without one (`2> log`, a batch job), it prints a line of progress every 30 s, so that a short run prints none.
  `--log-every SECONDS` sets the interval, and `--log-every 0` turns the lines off:

      1,200 of 50,000 images, 3 unreadable, 36.4 images/s, 22 min left
      1,200 of 50,000 images, 3 unreadable, no progress for 60 s

  The rate is that of the last few minutes. If the number of images is not known in advance, because they are in
  archives or their paths come from standard input, the line has no total and no time left. The second line is printed
  if nothing has been finished since the line before.
- Commands that read images end with a summary on stderr: images, unreadable images, seconds, images/s, engine and
  precision. Features from the feature store are counted apart. `export` and `bench` print their time.

      50,000 images, 3 unreadable, 1,373.6 s, 36.4 images/s, openvino bf16
      2,000 images, 0 unreadable, 55.0 s, 36.4 images/s, openvino fp32, 48,000 more from the store

- `--quiet` leaves out all of it but warnings and errors.

## Shared options

Every command has {everywhere}. These options are shared by several commands:

"""


def parameters() -> dict[str, list[Any]]:
    """The options of each command, without --help."""
    group = typer.main.get_command(cli.app)
    context = typer.Context(group)
    commands = {name: group.get_command(context, name) for name in cli.COMMANDS}
    return {
        name: [parameter for parameter in command.params if parameter.param_type_name == "option"]
        for name, command in commands.items()
    }


def commands_with_status_3() -> list[str]:
    """The commands whose help names this status."""
    group = typer.main.get_command(cli.app)
    context = typer.Context(group)
    return sorted(name for name in cli.COMMANDS if "3, finished" in (group.get_command(context, name).help or ""))


def page() -> str:
    """The text of docs/commands.md."""
    options = parameters()
    names = {command: {option.opts[0] for option in given} for command, given in options.items()}
    everywhere = [name for name in SHARED if all(name in given for given in names.values())]
    shown = [name for name in SHARED if name not in everywhere]
    lines = [_row("", *names), _row(*["---"] * (len(names) + 1))]
    for option in shown:
        marks = [_mark(command, option, option in given) for command, given in names.items()]
        lines.append(_row(f"`{option}`", *marks))
    listed = {"everywhere": everywhere, "with_status_3": commands_with_status_3()}
    text = INTRODUCTION.format_map({key: ", ".join(f"`{name}`" for name in names) for key, names in listed.items()})
    text += "\n".join(lines) + "\n"
    for command, given in options.items():
        rows = [_row("option", "default", "meaning"), _row(*["---"] * 3), *map(_option_row, given)]
        text += f"\n## {command}\n\n" + "\n".join(rows) + "\n"
    return text


def _mark(command: str, option: str, has: bool) -> str:
    return "•" if has else f"`{ELSEWHERE[command, option]}`" if (command, option) in ELSEWHERE else ""


def _option_row(option: Any) -> str:
    flag = option.is_flag
    default = option.show_default if isinstance(option.show_default, str) else option.default
    value = "" if flag else f" {option.metavar}"
    limits = (
        ""
        if flag
        else "".join(
            f" {sign} {limit}"
            for sign, limit in (("≥", getattr(option.type, "min", None)), ("≤", getattr(option.type, "max", None)))
            if limit is not None
        )
    )
    shown = "required" if option.required else "" if flag or default is None else str(default)
    if default == sys.executable:
        shown = "this one"
    return _row(f"`{option.opts[0]}{value}`{limits}", shown, option.help)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page(), "utf-8")
    else:
        print(page(), end="")
