"""Heat maps over images, with a printed scale. They need matplotlib for its colours (the extra `explain`)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

MAX_SIDE = 2048  # pixels; larger images are drawn smaller
SCALE_HEIGHT = 44  # pixels of the strip below the image
OPACITY = 0.6
GREY = (128, 128, 128)  # of values that are NaN
SEQUENTIAL, SIGNED = "viridis", "PuOr"  # both distinguishable with any kind of colour blindness

Box = tuple[float, float, float, float]  # (left, top, right, bottom)


def limits(values: NDArray[np.floating], *, signed: bool = False) -> tuple[float, float]:
    """The values at the two ends of the scale: the finite extremes, or with `signed`, plus and minus the largest."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 0.0
    low, high = float(finite.min()), float(finite.max())
    largest = max(abs(low), abs(high))
    return (-largest, largest) if signed else (low, high)


def coloured(values: NDArray[np.floating], low: float, high: float, *, signed: bool = False) -> NDArray[np.uint8]:
    """Colours of values, (H, W) to uint8 (H, W, 3), from `low` to `high`. Values beyond have the end's colour."""
    from matplotlib import colormaps

    scaled = (values - low) / (high - low) if high > low else np.full_like(values, 0.5, dtype=np.float64)
    colours: Any = colormaps[SIGNED if signed else SEQUENTIAL](
        np.clip(np.where(np.isfinite(values), scaled, 0), 0, 1), bytes=True
    )
    colours = colours[..., :3].copy()
    colours[~np.isfinite(values)] = GREY
    return np.asarray(colours, np.uint8)


def overlay(
    image: Image.Image, values: NDArray[np.floating], box: Box, *, label: str = "", signed: bool = False
) -> Image.Image:
    """Draw a heat map over the part of an image that it belongs to, with the scale in a strip below.

    The rest of the image is darkened. The result is as wide as the image, up to MAX_SIDE.

    Args:
        image: of mode RGB.
        values: the map, of shape (h, w), of any size.
        box: the part of the image that the map covers, in its pixels; it may exceed the image.
        label: what the values are; stands beside the scale.
        signed: whether zero is the middle of the scale.
    """
    ratio = min(1.0, MAX_SIDE / max(image.size))
    if ratio < 1:
        image = image.resize((max(1, round(image.width * ratio)), max(1, round(image.height * ratio))))
    left, top, right, bottom = (round(edge * ratio) for edge in box)
    low, high = limits(values, signed=signed)
    size = max(1, right - left), max(1, bottom - top)
    smooth = np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    colours = Image.fromarray(coloured(smooth, low, high, signed=signed))
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (left, top, left + size[0], top + size[1]))
    drawn = Image.composite(image, Image.blend(image, Image.new("RGB", image.size), 0.5), mask)
    over = drawn.copy()
    over.paste(colours, (left, top))
    drawn = Image.blend(drawn, over, OPACITY)
    return with_scale(drawn, low, high, label=label, signed=signed)


def with_scale(image: Image.Image, low: float, high: float, *, label: str = "", signed: bool = False) -> Image.Image:
    """Return the image with a strip below it that shows the scale, its two ends and what the values are."""
    width = max(image.width, 160)
    page = Image.new("RGB", (width, image.height + SCALE_HEIGHT), "white")
    page.paste(image, (0, 0))
    ramp = np.linspace(low, high, width - 16, dtype=np.float64)[None].repeat(12, 0)
    page.paste(Image.fromarray(coloured(ramp, low, high, signed=signed)), (8, image.height + 6))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    y = image.height + 22
    draw.text((8, y), f"{low:.3g}", "black", font)
    draw.text((width - 8, y), f"{high:.3g}", "black", font, anchor="ra")
    if draw.textlength(label, font) < width - 140:
        draw.text((width / 2, y), label, "black", font, anchor="ma")
    return page
