"""The strongest channels of a map, and maps as small pictures. No PyTorch."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inception_v3.explain.look.result import Channels
from inception_v3.reports.pages import image_uri

CAM_SIDE, FIELD_SIDE = 75, 100  # pixels of a heat map on the page
MAX_MAP_SIDE = 160  # pixels of a map on the page; the largest of a 299x299 image has 149
Map = NDArray[np.floating]  # (height, width)


def strongest_channels(values: NDArray[np.floating], count: int) -> Channels:
    """The `count` channels of a map (channels, height, width) with the largest means. NaN and infinity count as 0.

    The largest values would show what happens in the corners of the map, where the padding is.
    """
    channels, height, width = values.shape
    flat = values.reshape(channels, -1)
    finite = np.isfinite(flat)
    not_finite = int(flat.size - np.count_nonzero(finite))
    if not_finite:
        flat = np.where(finite, flat, 0)
    maxima, minima = flat.max(1), flat.min(1)
    numbers = np.argsort(-flat.mean(1, dtype=np.float64), kind="stable")[:count]
    strongest = flat[numbers].astype(np.float64)
    peaks = [divmod(int(index), width) for index in strongest.argmax(1)]
    high, low = strongest.max(1), np.minimum(strongest.min(1), 0)
    sprite, size = "", (height, width)
    if height * width > 1:
        grays = [reduced(to_gray(*each)) for each in zip(strongest.reshape(-1, height, width), low, high, strict=True)]
        sprite, size = png_uri(np.concatenate(grays)), (grays[0].shape[0], grays[0].shape[1])
    return Channels(
        shape=(height, width, channels),
        numbers=numbers.tolist(),
        low=rounded(low),
        high=rounded(high),
        peaks=peaks,
        sprite=sprite,
        map_size=size,
        silent=int(np.count_nonzero((maxima == 0) & (minima == 0))),
        not_finite=not_finite,
        low_of_all=rounded([minima.min()])[0],
        high_of_all=rounded([maxima.max()])[0],
    )


def to_gray(values: Map, low: float, high: float) -> NDArray[np.uint8]:
    """Gray levels of values: 0 for `low`, 255 for `high`."""
    span = high - low
    return np.round((values - low) * (255 / span) if span > 0 else np.zeros(values.shape)).astype(np.uint8)


def reduced(gray: NDArray[np.uint8], side: int = MAX_MAP_SIDE) -> NDArray[np.uint8]:
    """A picture reduced by a whole factor to at most `side` pixels in height and width."""
    factor = -(-max(gray.shape) // side)
    return gray if factor == 1 else np.asarray(Image.fromarray(gray).reduce(factor))


def png_uri(gray: NDArray[np.uint8]) -> str:
    """A gray picture (height, width) as a PNG file in a data URI."""
    return image_uri(Image.fromarray(gray), "PNG", compress_level=6)


def map_uri(values: Map, high: float, side: int) -> str:
    """A map of values from 0 to `high`, in at most `side` pixels, as a data URI."""
    return png_uri(reduced(to_gray(np.clip(values, 0, high), 0, high), side))


def rounded(values: Iterable[float]) -> list[float]:
    """The values with six digits, which keeps the page small."""
    return [float(f"{value:.6g}") for value in values]
