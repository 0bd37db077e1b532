"""Multi-crop evaluation: the crops of the GoogLeNet and Inception papers, over which the softmax is averaged.

"Going Deeper with Convolutions" (arXiv 1409.4842, section 7) uses 4 x 3 x 6 x 2 = 144 crops:

- The image is resized to four scales: its shorter side is 256, 288, 320 and 352 pixels for a network of 224.
- At each scale the left, centre and right squares are taken; in portrait images the top, centre and bottom squares.
- Each square gives six crops: its corners and its centre at the network's size, and the whole square resized to it.
- Each of these crops is also mirrored.

"Rethinking the Inception Architecture" (arXiv 1512.00567, table 4) reports 144 and 12 crops for a network of 299, and
defines neither. Here the scales are proportional to the network's size: 342, 384, 427 and 470 pixels for 299.
The 12 crops are the 6 x 2 of the centre square at the first scale. That is also the scale of the single crop, because
224 / 256 is its crop_fraction of 0.875.

For a network whose images are not square, "square" means a rectangle of the network's shape.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.architecture import Size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

SCALES = (256, 288, 320, 352)  # length of the shorter side for a network of PAPER_IMAGE_SIZE
PAPER_IMAGE_SIZE = 224


@dataclass(frozen=True)
class Crop:
    """A rectangle in pixels, measured from the top left of an image that was resized to `resized`, (height, width)."""

    resized: Size
    top: int
    left: int
    height: int
    width: int
    mirrored: bool


def crop_rectangles(image: Size, network: Size, count: int) -> list[Crop]:
    """The 12 or 144 crops of an image for a network, both (height, width). Each crop is followed by its mirror image.

    A crop larger than `network` is a whole square, which must still be resized to `network`.
    Raises ValueError for another count.
    """
    if count not in (12, 144):
        raise ValueError(f"the number of crops must be 12 or 144, not {count}")
    return [
        Crop(resized, top + y, left + x, height, width, mirrored)
        for scale in (SCALES if count == 144 else SCALES[:1])
        for resized, square, origins in [_squares(image, network, scale)]
        for top, left in (origins if count == 144 else origins[1:2])
        for y, x, height, width in _crops_in_square(square, network)
        for mirrored in (False, True)
    ]


def _squares(image: Size, network: Size, scale: int) -> tuple[Size, Size, list[tuple[int, int]]]:
    """The size of the resized image, the size of its squares, and the (top, left) of the first, centre and last one."""
    height, width = (round(side * scale / PAPER_IMAGE_SIZE) for side in network)
    ratio = max(height / image[0], width / image[1])
    resized = (max(height, round(image[0] * ratio)), max(width, round(image[1] * ratio)))
    last = (resized[0] - height, resized[1] - width)  # one of the two is 0
    return resized, (height, width), [(0, 0), _middle(*last), last]


def _crops_in_square(square: Size, network: Size) -> list[tuple[int, int, int, int]]:
    """The (top, left, height, width) of the four corners, the centre and the whole square."""
    bottom, right = square[0] - network[0], square[1] - network[1]
    origins = [(0, 0), (0, right), (bottom, 0), (bottom, right), _middle(bottom, right)]
    return [*((*origin, *network) for origin in origins), (0, 0, *square)]


def _middle(spare_height: int, spare_width: int) -> tuple[int, int]:
    return round(spare_height / 2), round(spare_width / 2)  # rounds like center_crop of torchvision, for equal pixels


@dataclass(frozen=True)
class MultiCrop:
    """Cuts 12 or 144 crops from an image instead of one, and resizes them by the method of a Preprocessing."""

    preprocessing: Preprocessing
    count: int

    def pixels(self, image: "Image") -> "Tensor":
        """The crops of an RGB image, uint8 of shape (count, 3, H, W).

        The three squares of a square image are equal. They are counted three times nevertheless, as in the paper.
        """
        import torch
        from torchvision.transforms.v2.functional import to_pil_image

        network = self.preprocessing.image_size
        image = cut_unused_parts(image, network)
        crops: list[Tensor] = []
        resized: dict[Size, Tensor] = {}  # one scale at a time, to save memory
        for crop in crop_rectangles((image.height, image.width), network, self.count):
            if crop.mirrored:
                crops.append(crops[-1].flip(-1))
                continue
            if crop.resized not in resized:
                resized = {crop.resized: self._resize(image, crop.resized)}
            pixels = resized[crop.resized][:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
            if (crop.height, crop.width) != network:
                pixels = self._resize(to_pil_image(pixels), network)
            crops.append(pixels)
        return torch.stack(crops)

    def array(self, image: "Image") -> "NDArray[np.uint8]":
        """The crops as a uint8 array of shape (count, H, W, 3)."""
        return self.pixels(image).permute(0, 2, 3, 1).numpy()

    def _resize(self, image: "Image", size: Size) -> "Tensor":
        return replace(self.preprocessing, image_size=size, crop_fraction=1.0, resize=None).pixels(image)


def cut_unused_parts(image: "Image", network: Size) -> "Image":
    """Remove the parts of a very long image that are in no square.

    Resizing a line of a million pixels as a whole could fill the memory. Shorter images are returned unchanged.
    """
    from PIL import Image

    for side, other in ((0, 1), (1, 0)):
        strip = 2 * -(-image.size[other] * network[1 - side] // network[1 - other])  # the length of two squares
        length = image.size[side]
        if length > 3 * strip:
            kept = Image.new("RGB", (3 * strip, image.height) if side == 0 else (image.width, 3 * strip))
            for index, start in enumerate((0, (length - strip) // 2, length - strip)):
                box = (start, 0, start + strip, image.height) if side == 0 else (0, start, image.width, start + strip)
                kept.paste(image.crop(box), (index * strip, 0) if side == 0 else (0, index * strip))
            return kept
    return image
