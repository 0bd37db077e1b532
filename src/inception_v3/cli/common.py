"""What the commands share: options under one name, the two consoles, and how mistakes and bad pictures are unreadable_lines."""

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

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ... By default the GPU where there is one.")]
Workers = Annotated[int | None, typer.Option(min=0, max=256, help="Processes that decode pictures.")]
MAX_SEED = 2**63 - 1
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures that the network takes at once.")]

MODEL_HELP = "A run folder, a file of any format, or a name such as torchvision:IMAGENET1K_V1 or hf:owner/name."
WeightsFile = Annotated[
    Path | None, typer.Option(help="A file to take in place of the download, where the model is a published name.")
]


def __getattr__(name: str) -> Any:
    """The two consoles, when first asked for: to import rich takes as long as a picture."""
    if name not in ("output", "messages"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rich.console import Console

    globals().update(output=Console(), messages=Console(stderr=True))
    return globals()[name]


def warn(text: str) -> None:
    from inception_v3.cli.common import messages

    messages.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)


def warn_unreadable(reasons: list[str], count: int, listed: Path | None = None, bad: int | None = None) -> None:
    """What could not be read, at the end, where it is seen; `bad` is its number where not all reasons were kept."""
    if reasons:
        bad = bad or len(reasons)
        where = f"; {listed} lists them" if listed else ""
        warn(f"{bad} of {count} images could not be read{where}:")
        for reason in reasons[:10]:
            warn(f"  {reason}")
        if bad > 10:
            warn(f"  and {bad - 10} more")


def unreadable_lines(bad: Iterable[tuple[str, str]]) -> list[str]:
    """For each (name, reason) a line with both."""
    return [reason if name in reason else f"{name}: {reason}" for name, reason in bad]


def print_run(run: "RunFolder", data: str, metrics: "Metrics", as_json: bool, **more: Any) -> None:
    """What a training has come to, a line or JSON with `more`; what could not be read stands there once, for all."""
    from inception_v3.cli.common import output

    if as_json:
        bad = [{"image": image, "reason": reason} for image, reason in run.bad_images]
        held_out = {key: value for key, value in metrics.as_dict().items() if key != "bad"}
        unreadable_lines = {"run": str(run.path), "data": data, "held_out": held_out, "bad": bad}
        print(json.dumps(unreadable_lines | more, allow_nan=False))
        return
    line = f"{run.path}: top-1 {metrics.top1:.2%}, top-5 {metrics.top5:.2%} on {metrics.count} held-out pictures"
    output.print(line, highlight=False, markup=False, soft_wrap=True)


def choose_worker_count(asked: int | None, pictures: int, data: str) -> int:
    """Decoding photographs is worth processes of its own, a few or tiny pictures are not."""
    if asked is not None:
        return asked
    return 0 if data == "digits" or pictures < 200 else min(os.cpu_count() or 1, 8)


def default_run_folder(data: str) -> Path:
    """The run folder of data for which none was given: named like it, or like the folder of what a pattern finds."""
    from inception_v3.data.address import exists

    place = Path(data).resolve()
    pattern = set("*?[{") & {*place.name} and not exists(data)
    return Path("runs") / (place.parent if pattern else place).name


def check_outside_data(data: str, out: Path) -> None:
    """Raises InputError where the plots of a run folder would become pictures of a class."""
    from inception_v3.data.address import is_folder
    from inception_v3.data.splits import TRAIN_NAMES, split_name

    if is_folder(data) and out.resolve().is_relative_to(Path(data).resolve()):
        first, *_ = (*out.resolve().relative_to(Path(data).resolve()).parts, "")
        split = any(split_name(place.name) in TRAIN_NAMES for place in Path(data).iterdir() if place.is_dir())
        if split and not split_name(first):
            return  # what is beside train/ is no class
        raise InputError(
            f"{out}: inside {data}, where it would be taken for a class; give another --out", exit_status=2
        )


def checked(function: Any, **options: Any) -> Any:
    """Call a function that raises ValueError for a wrong option, and name the option in the error."""
    try:
        return function(**options)
    except ValueError as error:
        raise InputError(str(error), exit_status=2) from error
