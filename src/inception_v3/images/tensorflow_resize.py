"""TensorFlow 1's image resize, with the same values: `tf.image.resize_images` with align_corners=False.

None of its four methods samples at pixel centres, and bilinear and bicubic do not antialias. TF-Slim's networks were
trained and evaluated on images that were resized this way.

Source: tensorflow/core/kernels/image/resize_{bilinear,nearest_neighbor,bicubic,area}_op.cc. Each is a weighted sum
along one axis, then along the other.
"""

import math
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Method = Literal["bilinear", "nearest", "bicubic", "area"]
METHODS: tuple[Method, ...] = get_args(Method)
BICUBIC_STEPS = 1024  # TensorFlow tabulates the kernel at this many positions between two pixels
BICUBIC_A = -0.75
Floats = NDArray[np.float32]


def tensorflow_resize(images: NDArray[Any], size: tuple[int, int], method: Method = "bilinear") -> Floats:
    """Resize images (..., H, W) of any dtype to `size`, (height, width), as float32.

    Values keep the range of `images`; only bicubic may exceed it.
    """
    if images.shape[-2:] == size:
        return np.asarray(images, np.float32)
    if method == "bilinear":
        return _bilinear(images, size)
    net = images
    # Shrink before enlarging: a line of a million pixels must not become wide before it becomes short.
    for axis, length in sorted(((-1, size[1]), (-2, size[0])), key=lambda target: target[1] / net.shape[target[0]]):
        if net.shape[axis] != length:
            indices, weights = _taps(net.shape[axis], length, method)
            weights = weights[..., None] if axis == -2 else weights
            total = net.take(indices[0], axis) * weights[0]
            for index, weight in zip(indices[1:], weights[1:], strict=True):
                total += net.take(index, axis) * weight
            net = total
    return np.asarray(net, np.float32)


def _bilinear(images: NDArray[Any], size: tuple[int, int]) -> Floats:
    """TensorFlow's bilinear kernel, bit for bit: interpolate along the rows that are used, and then between them."""
    top, bottom, y = _neighbours(images.shape[-2], size[0])
    rows = np.unique([top, bottom])
    net = _interpolate(images.take(rows, -2), *_neighbours(images.shape[-1], size[1]), -1)
    return _interpolate(net, np.searchsorted(rows, top), np.searchsorted(rows, bottom), y[:, None], -2)


def _neighbours(old: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """The input pixels before and after each of `new` output pixels, and its position between them, from 0 to 1."""
    positions = np.arange(new, dtype=np.float32) * (np.float32(old) / np.float32(new))
    before = positions.astype(np.int64)
    return before, np.minimum(before + 1, old - 1), positions - np.floor(positions)


def _interpolate(
    images: NDArray[Any], before: NDArray[np.int64], after: NDArray[np.int64], fraction: Floats, axis: int
) -> Floats:
    first = images.take(before, axis).astype(np.float32, copy=False)
    return np.asarray(first + (images.take(after, axis) - first) * fraction)


@lru_cache(maxsize=64)
def _taps(old: int, new: int, method: Method) -> tuple[NDArray[np.int64], Floats]:
    """Return the input indices and their weights for each of `new` output pixels, both of shape (taps, new)."""
    scale = np.float32(old) / np.float32(new)
    start = np.arange(new, dtype=np.float32) * scale  # float32 as in TensorFlow: rounding decides which pixel is used
    floor = np.floor(start)
    fraction = start - floor
    if method == "nearest":
        offsets, weights = np.zeros((1, 1), np.float32), np.ones((1, new), np.float32)
    elif method == "bicubic":
        offsets = np.arange(-1, 3, dtype=np.float32)[:, None]
        tabulated = np.round(fraction * BICUBIC_STEPS) / BICUBIC_STEPS
        distance = np.abs(offsets - tabulated)  # 0 to 2 pixels
        near = ((BICUBIC_A + 2) * distance - (BICUBIC_A + 3)) * distance**2 + 1
        far = ((BICUBIC_A * distance - 5 * BICUBIC_A) * distance + 8 * BICUBIC_A) * distance - 4 * BICUBIC_A
        weights = np.where(distance <= 1, near, far)
    else:  # area: the part of each input pixel that the output pixel covers
        end = (np.arange(new, dtype=np.float32) + 1) * scale
        offsets = np.arange(math.ceil(scale) + 1, dtype=np.float32)[:, None]
        covered = np.minimum(floor + offsets + 1, end) - np.maximum(floor + offsets, start)
        weights = covered.clip(min=0) / scale
    return (floor + offsets).astype(np.int64).clip(0, old - 1), weights
