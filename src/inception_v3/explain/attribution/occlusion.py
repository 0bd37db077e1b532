"""Occlusion: how much the score falls when a part of the image is covered."""

from collections.abc import Callable, Iterator
from itertools import islice, product

import numpy as np
from numpy.typing import NDArray

from inception_v3.support.progress import Advance, ignore

Array = NDArray[np.generic]
Scores = Callable[[Array], NDArray[np.floating]]  # inputs of shape (n, ...) to scores (n,)


def occlusion(
    scores: Scores,
    image: Array,
    fill: float,
    *,
    window: int,
    stride: int,
    axes: tuple[int, int],
    batch_size: int,
    advance: Advance = ignore,
) -> NDArray[np.float64]:
    """Occlusion (Zeiler and Fergus, arXiv 1311.2901): for each pixel, the mean fall of the score over its windows.

    Args:
        scores: of batches of images; through any engine.
        image: one input, such as uint8 (H, W, 3) or floats (3, H, W).
        fill: the value that covers a window in every channel.
        window: height and width of a window in pixels.
        stride: pixels from one window to the next; the last ones are cut off by the border.
        axes: the axes of height and width in `image`.
        batch_size: windows at once.
        advance: called with the number of windows of each batch.

    Returns:
        An array (H, W). Zero where there is no window.
    """
    height, width = (image.shape[axis] for axis in axes)
    unchanged = float(scores(image[None])[0])
    total, count = np.zeros((height, width)), np.zeros((height, width))
    windows = places(height, width, window, stride)
    while batch := list(islice(windows, batch_size)):
        covered = np.repeat(image[None], len(batch), 0)
        for each, (rows, columns) in zip(np.moveaxis(covered, (axes[0] + 1, axes[1] + 1), (1, 2)), batch, strict=True):
            each[rows, columns] = fill
        for (rows, columns), score in zip(batch, scores(covered), strict=True):
            total[rows, columns] += unchanged - float(score)
            count[rows, columns] += 1
        advance(len(batch))
    return total / np.maximum(count, 1)


def places(height: int, width: int, window: int, stride: int) -> Iterator[tuple[slice, slice]]:
    """The windows (rows, columns) of an image, row by row. Together they cover it if `stride` is at most `window`."""
    starts = (range(0, max(length - window + stride, 1), stride) for length in (height, width))
    return ((slice(top, top + window), slice(left, left + window)) for top, left in product(*starts))
