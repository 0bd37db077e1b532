"""Shared by the commands: common options, the two consoles, and how results and unreadable images are printed."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inception_v3.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from inception_v3.evaluation.evaluate import Metrics
    from inception_v3.training.run_folder import RunFolder

    output: Console
    messages: Console

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1 ... By default the GPU if there is one, else the CPU.")
]
Workers = Annotated[int | None, typer.Option(min=0, max=256, help="Number of processes that decode images.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per batch.")]
WeightsFile = Annotated[Path | None, typer.Option(help="A local file to use instead of downloading a published model.")]
MODEL_HELP = "A run folder, a file of any format, or a name such as torchvision:IMAGENET1K_V1 or hf:owner/name."
MAX_SEED = 2**63 - 1


def __getattr__(name: str) -> Any:
    """Create the consoles, `output` for stdout and `messages` for stderr, on first use: importing rich takes time."""
    if name not in ("output", "messages"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rich.console import Console

    globals().update(output=Console(), messages=Console(stderr=True))
    return globals()[name]


def print_message(text: str, style: str | None = None) -> None:
    """Print a line to stderr as it is: rich neither highlights nor wraps it."""
    from inception_v3.cli.common import messages

    messages.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    print_message(text, style="yellow")


def unreadable_lines(images: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line "NAME: REASON" for each (name, reason), or only the reason if it contains the name."""
    return [reason if name in reason else f"{name}: {reason}" for name, reason in images]


def warn_unreadable(lines: list[str], count: int, listed_in: Path | None = None, bad: int | None = None) -> None:
    """Report the images that could not be read, ten at most.

    `count` is the number of all images, `listed_in` a file with all lines, and `bad` the number of unreadable images if
    `lines` does not hold all of them.
    """
    if lines:
        bad = bad or len(lines)
        warn(f"{bad} of {count} images could not be read{f'; {listed_in} lists them' if listed_in else ''}:")
        for line in lines[:10]:
            warn(f"  {line}")
        if bad > 10:
            warn(f"  and {bad - 10} more")


def print_run(run: "RunFolder", data: str, metrics: "Metrics", as_json: bool, **more: Any) -> None:
    """Print the result of a training in one line, or as JSON with the values of `more`."""
    from inception_v3.cli.common import output

    if as_json:
        bad = [{"image": image, "reason": reason} for image, reason in run.bad_images]  # training and held-out images
        held_out = {key: value for key, value in metrics.as_dict().items() if key != "bad"}
        result = {"run": str(run.path), "data": data, "held_out": held_out, "bad": bad}
        print(json.dumps(result | more, allow_nan=False))
    else:
        line = f"{run.path}: top-1 {metrics.top1:.2%}, top-5 {metrics.top5:.2%} on {metrics.count} held-out images"
        output.print(line, highlight=False, markup=False, soft_wrap=True)


def choose_worker_count(requested: int | None, images: int, data: str) -> int:
    """Return the number of decoding processes: `requested`, or else 0 for few or tiny images and up to 8 for others."""
    if requested is not None:
        return requested
    return 0 if data == "digits" or images < 200 else min(os.cpu_count() or 1, 8)


def default_run_folder(data: str) -> Path:
    """Return the default of --out: runs/NAME, with the name of the data; for a pattern, with the name of its folder."""
    from inception_v3.data.address import exists

    path = Path(data).resolve()
    is_pattern = set("*?[{") & {*path.name} and not exists(data)
    return Path("runs") / (path.parent if is_pattern else path).name


def check_outside_data(data: str, out: Path) -> None:
    """Raise InputError if the run folder is inside a data folder, where its plots would become images of a class.

    A folder beside train/ is allowed, because it is not a class.
    """
    from inception_v3.data.address import is_folder
    from inception_v3.data.splits import TRAIN_NAMES, split_name

    folder = Path(data).resolve()
    if not (is_folder(data) and out.resolve().is_relative_to(folder)):
        return
    first, *_ = (*out.resolve().relative_to(folder).parts, "")
    has_splits = any(split_name(path.name) in TRAIN_NAMES for path in folder.iterdir() if path.is_dir())
    if not has_splits or split_name(first):
        raise InputError(
            f"{out}: inside {data}, where it would be taken for a class; give another --out", exit_status=2
        )
