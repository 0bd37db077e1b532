"""Many views of one picture, whose softmax is averaged: the crops of the GoogLeNet and Inception papers.

"Going Deeper with Convolutions" (arXiv 1409.4842, section 7) resizes the picture to four scales, its shorter side 256,
288, 320 and 352 pixels where the network takes 224; takes the left, centre and right square (in portraits the top,
centre and bottom one); of each square the four corners and the centre at the network's size and the whole square
resized to it; and all of these mirrored: 4 x 3 x 6 x 2 = 144. "Rethinking the Inception Architecture" (arXiv
1512.00567, table 4) reports 144 and 12 crops for a network of 299 pixels, and says of neither how it was cut. Here the
scales keep their proportion to the network's size: 342, 384, 427 and 470 pixels at 299. 12 crops are the 6 x 2 of the
centre square at the first scale, which is the scale of the single crop too: 224 / 256 is its central 0.875.

For a network that takes images that are not square, "square" means a rectangle of the network's shape.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.architecture import Size

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

COUNTS = (1, 12, 144)
SCALES = (256, 288, 320, 352)  # of the shorter side, for a network of
PAPERS_SIZE = 224


@dataclass(frozen=True)
class Crop:
    """A rectangle of the picture when that is resized to `resized`, (height, width); pixels from its top left."""

    resized: Size
    top: int
    left: int
    height: int
    width: int
    mirrored: bool


def crops_of(picture: Size, network: Size, count: int) -> list[Crop]:
    """The 12 or 144 crops of a picture for a network, both (height, width); each is followed by its mirror image.

    A crop that is larger than the network's size is a whole square, to be resized to it.
    Raises ValueError for another count.
    """
    if count not in COUNTS[1:]:
        raise ValueError(f"there are 12 or 144 crops, not {count}")
    return [
        Crop(resized, top + y, left + x, height, width, mirrored)
        for scale in (SCALES if count == 144 else SCALES[:1])
        for resized, square, places in [_squares(picture, network, scale)]
        for top, left in (places if count == 144 else places[1:2])
        for y, x, height, width in _inside(square, network)
        for mirrored in (False, True)
    ]


def _squares(picture: Size, network: Size, scale: int) -> tuple[Size, Size, list[tuple[int, int]]]:
    """The picture's size at a scale, that of a square in it, and where the first, centre and last square begin."""
    height, width = (round(side * scale / PAPERS_SIZE) for side in network)
    ratio = max(height / picture[0], width / picture[1])
    resized = (max(height, round(picture[0] * ratio)), max(width, round(picture[1] * ratio)))
    spare = (resized[0] - height, resized[1] - width)  # one of them is 0
    return resized, (height, width), [(0, 0), _middle(*spare), spare]


def _inside(square: Size, network: Size) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of the corners, the centre, and the whole."""
    bottom, right = square[0] - network[0], square[1] - network[1]
    places = [(0, 0), (0, right), (bottom, 0), (bottom, right), _middle(bottom, right)]
    return [*((*place, *network) for place in places), (0, 0, *square)]


def _middle(spare_height: int, spare_width: int) -> tuple[int, int]:
    return round(spare_height / 2), round(spare_width / 2)  # as torchvision's center_crop, which cuts the single crop


@dataclass(frozen=True)
class MultiCrop:
    """In the place of a Preprocessing, for batches of pictures whose every crop is cut and resized as that one does."""

    preprocessing: Preprocessing
    count: int

    @property
    def image_size(self) -> Size:
        return self.preprocessing.image_size

    def pixels(self, image: "Image") -> "Tensor":
        """An RGB picture to uint8 (count, 3, H, W).

        A square picture's three squares are one and the same; they are still counted thrice, as the paper does.
        """
        import torch
        from torchvision.transforms.v2.functional import to_pil_image

        network = self.image_size
        image = without_the_unseen(image, network)
        views: list[Tensor] = []
        resized: dict[Size, Tensor] = {}
        for crop in crops_of((image.height, image.width), network, self.count):
            if crop.mirrored:
                views.append(views[-1].flip(-1))
                continue
            if crop.resized not in resized:
                resized = {crop.resized: self._resize(image, crop.resized)}  # one scale at a time is held
            view = resized[crop.resized][:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
            if (crop.height, crop.width) != network:
                view = self._resize(to_pil_image(view), network)
            views.append(view)
        return torch.stack(views)

    def _resize(self, image: "Image", size: Size) -> "Tensor":
        return replace(self.preprocessing, image_size=size, crop_fraction=1.0, resize=None).pixels(image)


def without_the_unseen(image: "Image", network: Size) -> "Image":
    """A picture many times longer than wide, less what no square shows: resized whole it might fill the memory."""
    from PIL import Image

    for side, other in ((0, 1), (1, 0)):
        strip = 2 * -(-image.size[other] * network[1 - side] // network[1 - other])  # two squares long
        length = image.size[side]
        if length > 3 * strip:
            kept = Image.new("RGB", (3 * strip, image.height) if side == 0 else (image.width, 3 * strip))
            for number, start in enumerate((0, (length - strip) // 2, length - strip)):
                box = (start, 0, start + strip, image.height) if side == 0 else (0, start, image.width, start + strip)
                kept.paste(image.crop(box), (number * strip, 0) if side == 0 else (0, number * strip))
            return kept
    return image
