"""Images beside the part of them that the network sees."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL.Image import Image

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.predict import ImageInput, find_sources

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class View:
    """An image, and what the network sees of it.

    Attributes:
        name: the name of the image, such as its path.
        image: the whole image, upright, of mode RGB.
        pixels: the network's input, floats of shape (1, 3, H, W).
        box: the part of the image that `pixels` shows: (left, top, right, bottom) in the image's pixels, with edges
            that may lie between pixels. It exceeds the image where `pixels` has a border.
    """

    name: str
    image: Image
    pixels: "Tensor"
    box: tuple[float, float, float, float]

    @classmethod
    def of(cls, name: str, image: Image, preprocessing: Preprocessing) -> "View":
        """The view of an RGB image. Raises ValueError: an image that is not RGB or has no pixels."""
        return cls(name, image, preprocessing(image), preprocessing.plan(*image.size).seen)


def views(
    images: ImageInput | Iterable[ImageInput], preprocessing: Preprocessing
) -> Iterator[View | tuple[str, InputError]]:
    """Yield the View of each image, or for one that cannot be read, its name and the error. In order, one at a time.

    `images` are those that `Predictor` takes, and so are the exceptions.
    """
    for source in find_sources(images):
        try:
            image = source.open()
        except InputError as error:
            yield source.name, error
            continue
        yield View.of(source.name, image, preprocessing)
