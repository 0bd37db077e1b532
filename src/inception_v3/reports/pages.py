"""HTML pages for the reports of `evaluate`, `fidelity` and `patches`.

A page loads nothing from the network, and its Content-Security-Policy forbids it. Images are embedded, or in files
beside the page if there are many.
The template engine escapes all values, because names of files and classes are untrusted; so is every character that
`printable` escapes.
"""

import base64
import io
import re
from pathlib import Path
from typing import Any

from PIL.Image import Image

from inception_v3.support.files import atomic_write
from inception_v3.support.pages import render_page
from inception_v3.support.text import printable

_UNSAFE = re.compile(r"[^\n\t -~]+")  # text that may hold characters that `printable` escapes


def write_page(file: Path, template: str, values: dict[str, Any]) -> None:
    """Render a template, as `render_page` does, and write the page. Raises InputError if it cannot be written."""
    page = render_page(template, values)
    with atomic_write(file) as temporary:
        temporary.write_text(_UNSAFE.sub(lambda unsafe: printable(unsafe[0]), page), "utf-8")


def thumbnail(image: Image, side: int, file_format: str, **options: Any) -> str:
    """The image, reduced to at most `side` pixels, as a data URI. `options` are those of Pillow's `save`."""
    small = image.copy()  # Image.thumbnail changes the image itself
    small.thumbnail((side, side))
    return image_uri(small, file_format, **options)


def image_uri(image: Image, file_format: str, **options: Any) -> str:
    """The image as a data URI. `options` are those of Pillow's `save`."""
    encoded = io.BytesIO()
    image.save(encoded, file_format, **options)
    return data_uri(f"image/{file_format.lower()}", encoded.getvalue())


def data_uri(media_type: str, content: bytes) -> str:
    """A data URI, which embeds an image file's `content` in a page. `media_type` is its type, such as "image/png"."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
