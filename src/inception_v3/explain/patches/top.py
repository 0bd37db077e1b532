"""A running top list for many channels: the images with the largest values, in memory that does not grow."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

NO_IMAGE = -1


class TopList:
    """The images with the largest values of each channel, largest first. Of equal values, the earlier image is first.

    Attributes:
        values: float32 (channels, count); `above` where there are fewer images.
        images: the number of each image, int64 (channels, count); NO_IMAGE where there are fewer.
        places: where in the image, int64 (channels, count).
    """

    def __init__(self, channels: int, count: int, above: NDArray[np.float32] | float = -np.inf) -> None:
        """`above`: only larger values enter the list; one number, or one for each channel."""
        self.values = np.empty((channels, count), np.float32)
        self.values[:] = np.broadcast_to(above, channels)[:, None]
        self.images = np.full((channels, count), NO_IMAGE, np.int64)
        self.places = np.zeros((channels, count), np.int64)

    def add(self, image: int, values: NDArray[np.floating], places: NDArray[Any]) -> bool:
        """Merge the values and positions (channels,) of the next image. Returns whether it is in any list."""
        (rows,) = np.nonzero(values > self.values[:, -1])
        new_images = np.full(len(values), image)
        columns: tuple[tuple[NDArray[Any], NDArray[Any]], ...] = (
            (self.values, values),
            (self.images, new_images),
            (self.places, places),
        )
        merged = [np.concatenate([kept[rows], new[rows, None]], 1) for kept, new in columns]
        order = np.argsort(-merged[0], axis=1, kind="stable")[:, :-1]
        for (kept, _), column in zip(columns, merged, strict=True):
            kept[rows] = np.take_along_axis(column, order, 1)
        return bool(len(rows))
