"""Occlusion: how much the score falls when a part of the image is covered."""

from collections.abc import Callable, Iterator
from itertools import islice, product

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import NotFiniteError, OptionValueError
from inception_v3.explain.attribution.result import GREY, Attribution, AttributionOptions
from inception_v3.explain.classes import explained_class
from inception_v3.explain.views import View
from inception_v3.inference.choose import OpenedModel
from inception_v3.inference.pipeline import not_finite
from inception_v3.support.progress import Advance, ignore

Array = NDArray[np.generic]
Scores = Callable[[Array], NDArray[np.floating]]  # inputs of shape (n, ...) to scores (n,)


def occlusion(
    scores: Scores,
    image: Array,
    fill: float | Array,
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
        fill: the value that covers a window, or an array that is broadcast to it, with the axes of `image`.
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
        for each, (rows, columns) in zip(covered, batch, strict=True):
            place = [slice(None)] * image.ndim
            place[axes[0]], place[axes[1]] = rows, columns
            each[tuple(place)] = fill
        for (rows, columns), score in zip(batch, scores(covered), strict=True):
            total[rows, columns] += unchanged - float(score)
            count[rows, columns] += 1
        advance(len(batch))
    return total / np.maximum(count, 1)


def places(height: int, width: int, window: int, stride: int) -> Iterator[tuple[slice, slice]]:
    """The windows (rows, columns) of an image, row by row. Together they cover it if `stride` is at most `window`."""
    starts = (range(0, max(length - window + stride, 1), stride) for length in (height, width))
    return ((slice(top, top + window), slice(left, left + window)) for top, left in product(*starts))


def window_and_stride(height: int, width: int, options: AttributionOptions) -> tuple[int, int]:
    """The size of a window and the pixels from one to the next, for images of this size.

    Raises OptionValueError: a stride above the window.
    """
    window = options.window or max(1, min(height, width) // 6)
    stride = options.stride or max(1, window // 2)
    if stride > window:
        fault = f"larger than the window, {window}, so positions between the windows would not be covered"
        raise OptionValueError(f"stride {stride}: {fault}; give at most {window}", exit_status=2)
    return window, stride


def occlude(
    opened: OpenedModel,
    view: View,
    options: AttributionOptions,
    advance: Advance = ignore,
    locate: Callable[[View], str] = lambda view: "",
) -> Attribution:
    """Explain an image by occlusion through any engine, in its precision, without PyTorch.

    The engine gets the pixels as 8 bits, as in `predict`, and returns the logits of the head Logits.
    `locate` finds the first layer whose values for a view are not finite, for the message.
    Raises InputError: no such class. Raises NotFiniteError: the outputs for the image, or with a covered square.
    """
    description, names = opened.description, opened.description.names()
    pixels = description.preprocessing.array(view.image)

    def logits(batch: Array) -> NDArray[np.floating]:
        return opened.engine.predict(batch.astype(np.uint8))[0].astype(np.float64)

    unchanged = logits(pixels[None])[0]
    if not np.isfinite(unchanged).all():
        raise NotFiniteError(not_finite(view.name, locate(view)))
    index, weights = explained_class(options.class_name, names, unchanged, description.settings.output_activation)
    window, stride = window_and_stride(pixels.shape[0], pixels.shape[1], options)
    values = occlusion(
        lambda batch: logits(batch) @ weights,
        pixels,
        round(255 * GREY),
        window=window,
        stride=stride,
        axes=(0, 1),
        batch_size=opened.engine.batch_size,
        advance=advance,
    )
    if not np.isfinite(values).all():
        raise NotFiniteError(f"{view.name}: occlusion gives infinite values or NaN; use --precision fp32, or a CAM")
    score = float(unchanged @ weights)
    return Attribution(view, "occlusion", index, names[index], "Logits", None, score, values)
