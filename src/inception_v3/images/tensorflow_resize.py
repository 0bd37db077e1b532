"""How TensorFlow 1 resized pictures, for the same numbers: `tf.image.resize_images` with corners not aligned.

None of its four methods samples at pixel centres, and bilinear and bicubic smooth nothing before they shrink.
TF-Slim's networks were trained and judged on such pictures. After tensorflow/core/kernels/image/
resize_{bilinear,nearest_neighbor,bicubic,area}_op.cc; each is a weighted sum along one axis, then the other.
"""

import math
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Method = Literal["bilinear", "nearest", "bicubic", "area"]
METHODS: tuple[Method, ...] = get_args(Method)
BICUBIC_STEPS = 1024  # the kernel is a table, with so many places between two pixels
BICUBIC_A = -0.75
Floats = NDArray[np.float32]


def tensorflow_resize(images: NDArray[Any], size: tuple[int, int], method: Method = "bilinear") -> Floats:
    """Numbers of shape (..., H, W) to float32 of shape (..., *size), in the range of `images`; bicubic may leave it."""
    net = images
    # what shrinks most goes first: a line of a million pixels is not made wide before it is made short
    for axis, length in sorted(((-1, size[1]), (-2, size[0])), key=lambda one: one[1] / net.shape[one[0]]):
        if net.shape[axis] != length:
            places, weights = _taps(net.shape[axis], length, method)
            columns = weights[..., None] if axis == -2 else weights
            total = net.take(places[0], axis) * columns[0]
            for place, column in zip(places[1:], columns[1:], strict=True):
                total += net.take(place, axis) * column
            net = total
    return np.asarray(net, np.float32)


@lru_cache(maxsize=64)
def _taps(old: int, new: int, method: Method) -> tuple[NDArray[np.int64], Floats]:
    """What each of `new` places is the sum of: places in the old axis and their weights, both (terms, new)."""
    scale = np.float32(old) / np.float32(new)
    start = np.arange(new, dtype=np.float32) * scale  # in float32, as there: it decides which pixel is meant
    floor = np.floor(start)
    fraction = start - floor
    if method == "nearest":
        steps, weights = np.zeros((1, 1), np.float32), np.ones((1, new), np.float32)
    elif method == "bilinear":
        steps, weights = np.arange(2, dtype=np.float32)[:, None], np.stack([1 - fraction, fraction])
    elif method == "bicubic":
        steps = np.arange(-1, 3, dtype=np.float32)[:, None]
        nearest_step = np.round(fraction * BICUBIC_STEPS) / BICUBIC_STEPS
        weights = _cubic(np.abs(steps - nearest_step))
    else:  # how much of each old pixel the new one covers
        end = (np.arange(new, dtype=np.float32) + 1) * scale
        steps = np.arange(math.ceil(scale) + 1, dtype=np.float32)[:, None]
        covered = np.minimum(floor + steps + 1, end) - np.maximum(floor + steps, start)
        weights = covered.clip(min=0) / scale
    places = (floor + steps).astype(np.int64).clip(0, old - 1)
    return places, weights


def _cubic(distance: Floats) -> Floats:
    """The weight of a pixel that is 0 to 2 pixels away."""
    near = ((BICUBIC_A + 2) * distance - (BICUBIC_A + 3)) * distance**2 + 1
    far = ((BICUBIC_A * distance - 5 * BICUBIC_A) * distance + 8 * BICUBIC_A) * distance - 4 * BICUBIC_A
    return np.where(distance <= 1, near, far)
