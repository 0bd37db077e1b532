"""The images that excite a channel most, from a folder that `inception-v3 patches` wrote. No PyTorch."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from inception_v3.errors import InputError
from inception_v3.explain.look.result import Look
from inception_v3.explain.patches.cut import SIDE
from inception_v3.explain.patches.folder import PAGE, SPRITE_ROWS, SPRITES, sprite_name
from inception_v3.reports.pages import image_uri
from inception_v3.support.system_errors import file_status

SHOWN = 5  # patches of a channel


def check_patches(folder: Path) -> None:
    """Raise InputError if a folder holds no result of `patches`."""
    if file_status(folder / SPRITES) is None or file_status(folder / PAGE) is None:
        fault = "holds no patches; write them with `inception-v3 patches MODEL DATA --out FOLDER`"
        raise InputError(f"{folder}: {fault}", exit_status=2)


def read_patches(folder: Path, looks: Iterable[Look]) -> dict[str, str]:
    """The patches of the channels that a page shows, as pictures in data URIs by names such as "Mixed_5b:12".

    Modules and channels that the folder lacks are left out. Raises InputError: a sprite cannot be read.
    """
    channels = {(name, number) for look in looks for name, each in look.parts.items() for number in each.numbers}
    pictures = {}
    for file, wanted in _by_sprite(folder, channels).items():
        try:
            sprite = np.asarray(Image.open(file).convert("RGB"))
        except (OSError, ValueError) as error:
            raise InputError(f"{file}: cannot be read ({error}); write the patches again") from error
        for name, number in wanted:
            top = number % SPRITE_ROWS * SIDE
            row = sprite[top : top + SIDE, : SHOWN * SIDE]
            if row.any():  # black: no image excites the channel
                pictures[f"{name}:{number}"] = image_uri(Image.fromarray(row), "WEBP", quality=75, method=2)
    return pictures


def _by_sprite(folder: Path, channels: Iterable[tuple[str, int]]) -> dict[Path, list[tuple[str, int]]]:
    files: dict[Path, list[tuple[str, int]]] = {}
    for name, number in sorted(channels):
        file = folder / SPRITES / sprite_name(name, number)
        if "/" not in name and file_status(file) is not None:
            files.setdefault(file, []).append((name, number))
    return files
