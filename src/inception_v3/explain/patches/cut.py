"""Cuts patches out of images: the part of the original image around the position, as the network's crop aligns it."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inception_v3.errors import InputError
from inception_v3.explain.patches.found import COUNT, FoundPatches, Group
from inception_v3.explain.patches.images import LabelledSource
from inception_v3.explain.patches.top import NO_IMAGE
from inception_v3.explain.views import View
from inception_v3.inference.schedule import thread_count
from inception_v3.network.architecture import Size
from inception_v3.support.progress import Advance, ignore

SIDE = 48  # pixels of a patch
OUTSIDE = 128  # gray where a patch exceeds what the network sees of the image

Box = tuple[float, float, float, float]  # (left, top, right, bottom)


def cut(
    patches: FoundPatches, rows: Sequence[int], pixels: NDArray[np.uint8], advance: Advance = ignore
) -> tuple[NDArray[np.float32], list[tuple[str, str]]]:
    """Cut the patches of some rows, reading the images once more.

    Args:
        pixels: uint8 (rows, 9, SIDE, SIDE, 3), into which they are written; black where there is none.
        advance: called with the number of images that are done.

    Returns:
        The part of the image that each patch shows, float32 (rows, 9, 4), as (left, top, right, bottom) in its pixels;
        nan where there is none. And the (name, reason) of images that could not be read again.

    Raises InputError: the images are not those of the search.
    """
    boxes = np.full((len(rows), COUNT, 4), np.nan, np.float32)
    size = patches.preprocessing.image_size
    inputs = {row: input_boxes(patches, group)[row - group.rows.start] for group, row in _with_groups(patches, rows)}
    smallest = min((group.field for group in patches.groups if not group.is_class), default=size[1])
    wanted: dict[int, list[tuple[int, int]]] = {}
    for index, row in enumerate(rows):
        for rank, number in enumerate(patches.numbers[row].tolist()):
            if number != NO_IMAGE:
                wanted.setdefault(number, []).append((index, rank))
    failed: list[tuple[str, str]] = []

    def cut_image(number: int, source: LabelledSource) -> None:
        try:
            view = View.of(source.name, source.open(), patches.preprocessing)
        except InputError as error:
            failed.append((source.name, str(error)))
            return
        factor = max(1, int((view.box[2] - view.box[0]) / size[1] * smallest / (2 * SIDE)))
        reduced = view.image.reduce(factor)
        for index, rank in wanted[number]:
            box = inputs[rows[index]][rank]
            boxes[index, rank] = cut_patch(view, size, box, pixels[index, rank], factor, reduced)

    running: deque[Future[None]] = deque()
    with ThreadPoolExecutor(thread_count(), "cut") as pool:
        for number, source in zip(range(max(wanted, default=-1) + 1), patches.images.read(), strict=False):
            if number in wanted:
                if source.name != patches.sources[number][0]:
                    raise InputError(f"{patches.images.address}: its images have changed meanwhile; start again")
                running.append(pool.submit(cut_image, number, source))
                if len(running) > 2 * thread_count():
                    running.popleft().result()
                    advance(1)
        for future in running:
            future.result()
            advance(1)
    return boxes, failed


def _with_groups(patches: FoundPatches, rows: Sequence[int]) -> list[tuple[Group, int]]:
    groups = chain.from_iterable([group] * group.channels for group in patches.groups)
    by_row = dict(enumerate(groups))
    return [(by_row[row], row) for row in rows]


def input_boxes(patches: FoundPatches, group: Group) -> NDArray[np.int64]:
    """The network's input around each position of a group: int64 (channels, 9, 4), (left, top, right, bottom).

    It may exceed the input. For classes it is the whole input.
    """
    height, width = patches.preprocessing.image_size
    places = patches.places[group.rows]
    if group.is_class:
        return np.broadcast_to(np.array([0, 0, width, height]), (*places.shape, 4))
    field = patches.receptive_fields[group.name]
    rows, columns = np.divmod(places, group.width)
    top = field.centre[0] + rows * field.stride[0] - group.field // 2
    left = field.centre[1] + columns * field.stride[1] - group.field // 2
    return np.stack([left, top, left + group.field, top + group.field], -1)


def cut_patch(
    view: View,
    size: Size,
    box: Sequence[int] | NDArray[np.int64],
    pixels: NDArray[np.uint8],
    factor: int = 1,
    reduced: Image.Image | None = None,
) -> Box:
    """Write a part of the network's input, as the original image shows it, to `pixels` (SIDE, SIDE, 3).

    Args:
        size: (height, width) of the network's input.
        box: the part, (left, top, right, bottom) in pixels of the input.
        factor, reduced: the image reduced by a whole factor, which is quicker to cut; by default the image itself.

    Returns:
        The same part in pixels of the image, without what lies outside the image or the network's crop, which is gray.
        All nan if that is all.
    """
    left, top, right, bottom = view.box
    scales, starts = ((right - left) / size[1], (bottom - top) / size[0]), (left, top)
    whole = [starts[axis % 2] + float(edge) * scales[axis % 2] for axis, edge in enumerate(box)]
    first = [max(whole[axis], view.box[axis], 0.0) for axis in (0, 1)]
    last = [min(whole[axis + 2], view.box[axis + 2], view.image.size[axis]) for axis in (0, 1)]
    pixels[:] = OUTSIDE
    if last[0] - first[0] <= 0 or last[1] - first[1] <= 0:
        return (np.nan,) * 4
    offsets, lengths = [], []
    for axis in (0, 1):
        ratio = SIDE / (whole[axis + 2] - whole[axis])
        offsets.append(min(round((first[axis] - whole[axis]) * ratio), SIDE - 1))
        end = round((last[axis] - whole[axis]) * ratio)
        lengths.append(min(max(end - offsets[axis], 1), SIDE - offsets[axis]))
    shown = (first[0], first[1], last[0], last[1])
    left, top, right, bottom = (edge / factor for edge in shown)
    part = (reduced or view.image).resize(
        (lengths[0], lengths[1]), Image.Resampling.BILINEAR, box=(left, top, right, bottom)
    )
    pixels[offsets[1] : offsets[1] + lengths[1], offsets[0] : offsets[0] + lengths[0]] = np.asarray(part)
    return shown
