"""Pictures that were computed, with the frames of their computation, and their files. Nothing here needs PyTorch."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inception_v3.support.files import atomic_write, check_suffix

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.float32]  # (H, W, 3), red, green and blue from 0 to 1
Frames = tuple[NDArray[np.uint8], ...]  # each of shape (h, w, 3)
SUFFIXES = (".png", ".gif", ".webp", ".jpg", ".jpeg", ".npy")
MAX_FRAMES, FRAME_SIDE = 40, 480  # frames, and pixels of their longer side
FRAME_MS, LAST_FRAME_MS = 80, 2000


def to_pixels(images: "Tensor") -> Pixels:
    """One image (1, 3, H, W) with values from 0 to 1, as pixels."""
    return np.ascontiguousarray(images[0].detach().permute(1, 2, 0).float().cpu().numpy())


def to_image(pixels: Pixels) -> Image.Image:
    """The Pillow image of pixels."""
    return Image.fromarray((pixels * 255).round().clip(0, 255).astype(np.uint8))


def has_frame(step: int, steps: int) -> bool:
    """Whether the picture after this one of the `steps`, from 1 on, is a frame. The last one always is."""
    return step * MAX_FRAMES // steps != (step - 1) * MAX_FRAMES // steps


def to_frame(pixels: Pixels, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A frame of a picture of this final (height, width)."""
    ratio = min(1.0, FRAME_SIDE / max(size))
    return np.asarray(to_image(pixels).resize((max(1, round(size[1] * ratio)), max(1, round(size[0] * ratio)))))


def save_picture(path: str | Path, pixels: Pixels, frames: Frames = ()) -> None:
    """Write the pixels as .npy, the frames and the picture as an animated .gif, or the picture as .png, .webp or .jpg.

    Raises InputError: another suffix; the file cannot be written.
    """
    path = Path(path)
    check_suffix(path, SUFFIXES, "a picture")
    suffix = path.suffix.lower()
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        if suffix == ".npy":
            np.save(file, pixels)
        elif suffix == ".gif" and frames:
            first, *others = map(Image.fromarray, frames)
            duration = [*[FRAME_MS] * len(others), LAST_FRAME_MS]
            first.save(file, "GIF", save_all=True, append_images=others, duration=duration, loop=0)
        elif suffix == ".webp":
            to_image(pixels).save(file, "WEBP", lossless=True)
        else:
            to_image(pixels).save(file, {".jpg": "JPEG", ".jpeg": "JPEG"}.get(suffix, suffix[1:].upper()), quality=95)


class Picture:
    """What results with a computed picture share: its `pixels`, and the `frames` of its computation."""

    pixels: Pixels
    frames: Frames

    def numpy(self) -> Pixels:
        """The `pixels`."""
        return self.pixels

    def image(self) -> Image.Image:
        """The Pillow image."""
        return to_image(self.pixels)

    def _repr_png_(self) -> bytes | None:
        """The image, for a notebook."""
        return self.image()._repr_png_()

    def save(self, path: str | Path) -> None:
        """Write the image as .png, .webp or .jpg, its steps as .gif, or the pixels as .npy.

        Raises:
            InputError: another suffix, or the file cannot be written.
        """
        save_picture(path, self.pixels, self.frames)
