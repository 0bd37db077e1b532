"""The images of a request to /predict and its siblings: the body itself, the files of a form, or base64 in JSON."""

from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image

from inception_v3.errors import InputError
from inception_v3.images.decode import MinimumSize, open_image
from inception_v3.serve.errors import RequestError
from inception_v3.serve.protocol import decode_base64, parse_object
from inception_v3.support.text import printable

MAX_NAME = 255  # characters of the name of an image


@dataclass(frozen=True)
class Upload:
    """An image file from a request, as a source of the pipeline. A name is only shown, never opened."""

    name: str
    data: bytes = field(repr=False)
    max_pixels: int

    def open(self, minimum_size: MinimumSize | None = None) -> Image:
        """Decode the image. Raises InputError: not readable, or more than `max_pixels`, found before it is decoded."""

        def checked_size(width: int, height: int) -> tuple[int, int] | None:
            if width * height > self.max_pixels:
                fault = f"{width}x{height} pixels, more than the limit of {self.max_pixels:,}; make it smaller"
                raise InputError(f"{self.name}: {fault}")
            return minimum_size(width, height) if minimum_size else None

        return open_image(self.data, name=self.name, minimum_size=checked_size)


def name_of(name: str | None, index: int) -> str:
    """The name of an image in a response: that of its file, on one line, or its index."""
    return printable(name or "")[:MAX_NAME] or f"images[{index}]"


def parse_json_images(body: bytes, max_images: int, max_pixels: int) -> list[Upload]:
    """The images of {"images": [...]}, each the base64 of a file, or {"data": base64, "name": "cat.jpg"}."""
    images = parse_object(body).get("images")
    if not isinstance(images, list):
        raise RequestError('the body must be {"images": [...]}, with the base64 of each image file')
    check_count(len(images), max_images)
    uploads = []
    for index, image in enumerate(images):
        entry: dict[str, Any] = image if isinstance(image, dict) else {"data": image}
        if (name := entry.get("name")) is not None and not isinstance(name, str):
            raise RequestError(f"images[{index}]: name must be a string")
        data = decode_base64(f"images[{index}]", entry.get("data"))
        uploads.append(Upload(name_of(name, index), data, max_pixels))
    return uploads


def check_count(count: int, max_images: int) -> None:
    """Raise RequestError for no image, or more than the limit."""
    if not 1 <= count <= max_images:
        raise RequestError(f"{count} images; send at least 1 and at most {max_images:,} in a request")
