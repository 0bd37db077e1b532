"""Cuts patches out of images: the part of the original image around the position, as the network's crop aligns it."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

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


def cut(
    patches: FoundPatches, rows: Sequence[int], pixels: NDArray[np.uint8], advance: Advance = ignore
) -> tuple[NDArray[np.float32], list[tuple[str, str]]]:
    """Cut the patches of some rows, reading each image once more.

    Args:
        pixels: uint8 (rows, 9, SIDE, SIDE, 3), into which they are written; black where there is none.
        advance: called with the number of images that are done.

    Returns:
        The part of the image that each patch shows, float32 (rows, 9, 4), as (left, top, right, bottom) in its pixels;
        nan where there is none. And the (name, reason) of images that could not be read again.

    Raises InputError: the images are not those of the search.
    """
    boxes = np.full((len(rows), COUNT, 4), np.nan, np.float32)
    flat_boxes, flat_pixels = boxes.reshape(-1, 4), pixels.reshape(-1, *pixels.shape[2:])
    inputs = np.concatenate([input_boxes(patches, group) for group in patches.groups])[rows].reshape(-1, 4)
    groups = np.repeat([*range(len(patches.groups))], [group.channels for group in patches.groups])[rows].repeat(COUNT)
    wanted = _indices_by_value(patches.numbers[rows].ravel())
    wanted.pop(NO_IMAGE, None)
    failed: list[tuple[str, str]] = []

    def cut_image(number: int, source: LabelledSource) -> None:
        try:
            view = View.of(source.name, source.open(), patches.preprocessing)
        except InputError as error:
            failed.append((source.name, str(error)))
            return
        for indices in _indices_by_value(groups[wanted[number]]).values():
            chosen = wanted[number][indices]
            size = patches.preprocessing.image_size
            flat_pixels[chosen], flat_boxes[chosen] = cut_equal_boxes(view, size, inputs[chosen])

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


def _indices_by_value(values: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """For each value of an array (n,), the indices at which it stands."""
    order = np.argsort(values, kind="stable")
    different, starts = np.unique(values[order], return_index=True)
    return dict(zip(different.tolist(), np.split(order, starts[1:]), strict=True))


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


def cut_equal_boxes(view: View, size: Size, boxes: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Cut parts of the network's input, all of the same height and width, as the original image shows them.

    The image is resized once, so that such a part has SIDE pixels; a patch starts at the nearest whole pixel.

    Args:
        size: (height, width) of the network's input.
        boxes: the parts, (n, 4): left, top, right, bottom in pixels of the input.

    Returns:
        The patches, uint8 (n, SIDE, SIDE, 3), gray outside the image or the network's crop. And the parts in pixels of
        the image without what is gray, (n, 4), all nan where everything is.
    """
    start, end = np.array(view.box[:2]), np.array(view.box[2:])
    scale = (end - start) / size[::-1]  # pixels of the image in one of the input; all pairs are x, y
    first, last = np.maximum(start, 0), np.minimum(end, view.image.size)
    ratio = SIDE / (boxes[0, 2:] - boxes[0, :2])  # pixels of a patch in one of the input
    corner, edge = (np.rint((position - start) / scale * ratio).astype(int) for position in (first, last))
    length = np.maximum(edge - corner, 1)
    resized = view.image.resize(
        (int(length[0]), int(length[1])), Image.Resampling.BILINEAR, (*first, *last), reducing_gap=2.0
    )
    canvas = np.full((*(length + 2 * SIDE)[::-1], 3), OUTSIDE, np.uint8)
    canvas[SIDE:-SIDE, SIDE:-SIDE] = np.asarray(resized)
    offsets = np.clip(np.rint(boxes[:, :2] * ratio).astype(int) - corner + SIDE, 0, length + SIDE)
    pixels = np.stack([canvas[top : top + SIDE, left : left + SIDE] for left, top in offsets.tolist()])
    shown = np.concatenate(
        [np.maximum(boxes[:, :2] * scale + start, first), np.minimum(boxes[:, 2:] * scale + start, last)], 1
    )
    shown[(shown[:, 2:] <= shown[:, :2]).any(1)] = np.nan
    return pixels, shown.astype(np.float32)
