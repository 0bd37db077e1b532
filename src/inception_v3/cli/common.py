"""What the commands share: options under one name, the two consoles, and how mistakes and bad pictures are told."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from inception_v3.errors import InputError

output, messages = Console(), Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ... By default the GPU where there is one.")]
Workers = Annotated[int | None, typer.Option(min=0, help="Processes that decode pictures.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures that the network takes at once.")]

MODEL = "A run folder, a file of any format, or a name such as torchvision:IMAGENET1K_V1 or hf:owner/name."
WeightsFile = Annotated[
    Path | None, typer.Option(help="A file to take in place of the download, where the model is a published name.")
]


def warn(text: str) -> None:
    messages.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)


def show_bad(reasons: list[str], count: int, listed: Path | None = None) -> None:
    """What could not be read, at the end, where it is seen."""
    if reasons:
        where = f"; {listed} lists them" if listed else ""
        warn(f"{len(reasons)} of {count} pictures could not be read{where}:")
        for reason in reasons[:10]:
            warn(f"  {reason}")
        if len(reasons) > 10:
            warn(f"  and {len(reasons) - 10} more")


def pick_workers(asked: int | None, pictures: int, data: str) -> int:
    """Decoding photographs is worth processes of its own, a few or tiny pictures are not."""
    if asked is not None:
        return asked
    return 0 if data == "digits" or pictures < 200 else min(os.cpu_count() or 1, 8)


def checked(function: Any, **options: Any) -> Any:
    """Call a function that raises ValueError for a wrong option, and name the option in the error."""
    try:
        return function(**options)
    except ValueError as error:
        raise InputError(str(error), exit_status=2) from error
