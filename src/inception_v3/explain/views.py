"""Images beside the part of them that the network sees."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from PIL.Image import Image

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.predict import ImageInput, find_sources


@dataclass(frozen=True)
class View:
    """An image, and what the network sees of it.

    Attributes:
        name: the name of the image, such as its path.
        image: the whole image, upright, of mode RGB.
        box: the part of the image that the network's input shows: (left, top, right, bottom) in the image's pixels.
            Its edges may lie between pixels. It exceeds the image where the input has a border.
    """

    name: str
    image: Image
    box: tuple[float, float, float, float]

    @classmethod
    def of(cls, name: str, image: Image, preprocessing: Preprocessing) -> "View":
        """The view of an RGB image."""
        return cls(name, image, preprocessing.plan(*image.size).seen)


def view_of(image: ImageInput, preprocessing: Preprocessing) -> View:
    """The View of one image. Raises InputError: it cannot be read, or the path is that of several images."""
    source, *others = find_sources([image])
    if others:
        raise InputError(f"{image}: holds several images; give one", exit_status=2)
    return View.of(source.name, source.open(), preprocessing)


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
