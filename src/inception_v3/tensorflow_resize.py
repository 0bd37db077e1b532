"""How TensorFlow 1 resized pictures, for the same numbers: `tf.image.resize_images` with corners not aligned.

None of its four methods samples at pixel centres, and bilinear and bicubic smooth nothing before they shrink.
TF-Slim's networks were trained and judged on such pictures. After tensorflow/core/kernels/image/
resize_{bilinear,nearest_neighbor,bicubic,area}_op.cc; each is a weighted sum along one axis, then the other.
"""

import math
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

Method = Literal["bilinear", "nearest", "bicubic", "area"]
METHODS: tuple[Method, ...] = get_args(Method)
BICUBIC_STEPS = 1024  # the kernel is a table, with so many places between two pixels
BICUBIC_A = -0.75


def tensorflow_resize(images: Tensor, size: tuple[int, int], method: Method = "bilinear") -> Tensor:
    """Numbers of shape (..., H, W) to float32 of shape (..., *size), in the range of `images`; bicubic may leave it."""
    net = images
    # what shrinks most goes first: a line of a million pixels is not made wide before it is made short
    for axis, length in sorted(((-1, size[1]), (-2, size[0])), key=lambda one: one[1] / net.shape[one[0]]):
        if net.shape[axis] != length:
            places, weights = _taps(net.shape[axis], length, method)
            columns = weights[..., None] if axis == -2 else weights
            total = net.index_select(axis, places[0]) * columns[0]
            for place, column in zip(places[1:], columns[1:], strict=True):
                total += net.index_select(axis, place) * column
            net = total
    return net.float()


@lru_cache(maxsize=64)
def _taps(old: int, new: int, method: Method) -> tuple[Tensor, Tensor]:
    """What each of `new` places is the sum of: places in the old axis and their weights, both (terms, new)."""
    scale = torch.tensor(old, dtype=torch.float32) / new
    start = torch.arange(new, dtype=torch.float32) * scale  # in float32, as there: it decides which pixel is meant
    floor = start.floor()
    fraction = start - floor
    if method == "nearest":
        steps, weights = torch.zeros(1, 1), torch.ones(1, new)
    elif method == "bilinear":
        steps, weights = torch.arange(2.0)[:, None], torch.stack([1 - fraction, fraction])
    elif method == "bicubic":
        steps = torch.arange(-1.0, 3.0)[:, None]
        nearest_step = (fraction * BICUBIC_STEPS).round() / BICUBIC_STEPS
        weights = _cubic((steps - nearest_step).abs())
    else:  # how much of each old pixel the new one covers
        end = (torch.arange(new, dtype=torch.float32) + 1) * scale
        steps = torch.arange(math.ceil(float(scale)) + 1.0)[:, None]
        covered = torch.minimum(floor + steps + 1, end) - torch.maximum(floor + steps, start)
        weights = covered.clamp(min=0) / scale
    places = (floor + steps).long().clamp(0, old - 1)
    return places, weights


def _cubic(distance: Tensor) -> Tensor:
    """The weight of a pixel that is 0 to 2 pixels away."""
    near = ((BICUBIC_A + 2) * distance - (BICUBIC_A + 3)) * distance**2 + 1
    far = ((BICUBIC_A * distance - 5 * BICUBIC_A) * distance + 8 * BICUBIC_A) * distance - 4 * BICUBIC_A
    return torch.where(distance <= 1, near, far)
