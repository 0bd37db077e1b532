"""The folder of a search: a page with the patches of every channel, sprites that it loads lazily, and a CSV table.

page.html is the template of the page.
"""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inception_v3.errors import InputError
from inception_v3.explain.patches.cut import SIDE, cut
from inception_v3.explain.patches.found import COUNT, FoundPatches, Group
from inception_v3.explain.patches.top import NO_IMAGE
from inception_v3.images.addresses import short_name
from inception_v3.inference.schedule import thread_count
from inception_v3.reports.pages import write_page
from inception_v3.reports.tables import write_csv
from inception_v3.support.files import staging_folder, write_errors
from inception_v3.support.progress import StartStep, no_progress
from inception_v3.support.text import printable

PAGE, TABLE, SPRITES = "index.html", "patches.csv", "sprites"
SPRITE_ROWS = 32  # channels in a sprite
COLUMNS = ("module", "channel", "rank", "image", "class", "row", "column", "left", "top", "right", "bottom", "value")
MAX_FAILED = 1000  # shown on the page


def write_folder(patches: FoundPatches, folder: Path, start_step: StartStep = no_progress) -> list[tuple[str, str]]:
    """Write the page, the sprites and the table. They appear together at the end; an earlier page is replaced.

    Returns the (name, reason) of images that could not be read again. Raises InputError: cannot be written.
    """
    real = Path(os.path.realpath(folder))
    shape = (len(patches.values), COUNT, SIDE, SIDE, 3)
    with write_errors(folder), staging_folder(real) as staging:
        needed, free = int(np.prod(shape)), shutil.disk_usage(staging).free
        if needed > free:
            fault = f"the patches need {needed / 1e6:,.0f} MB while they are written, and {free / 1e6:,.0f} MB are free"
            raise InputError(f"{folder}: {fault}; free some space, or choose fewer --modules")
        pixels = np.memmap(staging / "pixels", np.uint8, "w+", shape=shape)
        listed = len(set(patches.numbers.ravel().tolist()) - {NO_IMAGE})
        boxes, failed = cut(patches, range(shape[0]), pixels, start_step("cutting patches", listed))
        (staging / SPRITES).mkdir()
        _write_sprites(patches, pixels, staging / SPRITES, start_step)
        write_csv(staging / TABLE, COLUMNS, table(patches, boxes))
        write_page(staging / PAGE, "explain/patches/page.html", _page_values(patches))
        if (real / SPRITES).exists():
            shutil.rmtree(real / SPRITES)
        for name in (SPRITES, TABLE, PAGE):
            (staging / name).replace(real / name)
    return failed


def table(patches: FoundPatches, boxes: NDArray[np.float32]) -> Iterator[tuple[object, ...]]:
    """The rows of the table; `boxes` are those of `cut`."""
    for group in patches.groups:
        for row in range(group.rows.start, group.rows.stop):
            for rank, number in enumerate(patches.numbers[row].tolist()):
                if number == NO_IMAGE:
                    continue
                name, class_name = patches.sources[number]
                place = (None, None) if group.is_class else divmod(int(patches.places[row, rank]), group.width)
                box = [None if np.isnan(edge) else round(float(edge), 2) for edge in boxes[row, rank]]
                channel = row - group.rows.start
                yield (group.name, channel, rank + 1, name, class_name, *place, *box, str(patches.values[row, rank]))


def sprite_name(module: str, channel: int) -> str:
    """The file in SPRITES with the patches of a channel."""
    return f"{module}-{channel // SPRITE_ROWS * SPRITE_ROWS:04}.webp"


def _write_sprites(patches: FoundPatches, pixels: NDArray[np.uint8], folder: Path, start_step: StartStep) -> None:
    """Write an image for every SPRITE_ROWS channels: a row of COUNT patches for each."""

    def write(group: Group, first: int) -> None:
        start = group.rows.start + first
        rows = pixels[start : min(start + SPRITE_ROWS, group.rows.stop)]
        joined = rows.transpose(0, 2, 1, 3, 4).reshape(len(rows) * SIDE, COUNT * SIDE, 3)
        Image.fromarray(joined).save(folder / sprite_name(group.name, first), "WEBP", quality=80, method=2)

    with ThreadPoolExecutor(thread_count(), "sprites") as pool:
        sprites = [(group, first) for group in patches.groups for first in range(0, group.channels, SPRITE_ROWS)]
        advance = start_step("writing sprites", len(sprites))
        for _ in pool.map(lambda sprite: write(*sprite), sprites):
            advance(1)


def _page_values(patches: FoundPatches) -> dict[str, Any]:
    listed = {number: index for index, number in enumerate(sorted(patches.sources))}
    sources = [patches.sources[number] for number in listed]
    classes = sorted({name for _, name in sources if name is not None})
    return {
        "title": f"Patches of {short_name(patches.images.address)}",
        "patches": patches,
        "side": SIDE,
        "groups": [_group_values(patches, group) for group in patches.groups],
        "classes": [printable(name) for name in classes],
        "failed": patches.failed[:MAX_FAILED],
        "data": {
            "images": [(printable(name), printable(class_name or "")) for name, class_name in sources],
            "rows": {group.name: list(_row_values(patches, group, listed)) for group in patches.groups},
        },
    }


def _group_values(patches: FoundPatches, group: Group) -> dict[str, Any]:
    channels = []
    for channel in range(group.channels):
        row = group.rows.start + channel
        count, top_class = int((patches.numbers[row] != NO_IMAGE).sum()), patches.top_class(row)
        channels.append(
            {
                "channel": channel,
                "name": printable(patches.class_names[channel]) if group.is_class else "",
                "count": count,
                "class": printable(top_class[0]) if top_class else "",
                "share": top_class[1] if top_class else 0,
                "sprite": f"{SPRITES}/{sprite_name(group.name, channel)}",
                "top": channel % SPRITE_ROWS * SIDE,
            }
        )
    return {"name": group.name, "field": group.field, "active": patches.active(group), "channels": channels}


def _row_values(patches: FoundPatches, group: Group, listed: dict[int, int]) -> Iterator[list[Any]]:
    """For each channel the (image, value, row, column) of its patches."""
    for row in range(group.rows.start, group.rows.stop):
        yield [
            (listed[number], float(f"{patches.values[row, rank]:.6g}"), *divmod(place, group.width))
            for rank, (number, place) in enumerate(
                zip(patches.numbers[row].tolist(), patches.places[row].tolist(), strict=True)
            )
            if number != NO_IMAGE
        ]
