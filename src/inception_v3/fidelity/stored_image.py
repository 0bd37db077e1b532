"""Images as FID programs read them: Pillow's `convert("RGB")`, without EXIF rotation and with alpha dropped."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inception_v3.images.decode import check_pixel_count, decode_errors, read_header, silence_libtiff
from inception_v3.images.find import to_image
from inception_v3.inference.feature_store import content_key


@dataclass(frozen=True)
class ImageFacts:
    """Properties of one image that warnings are computed from.

    `gray`: all channels are equal. `pixel_key`: a hash of the decoded pixels, independent of the file format.
    """

    width: int
    height: int
    format: str
    gray: bool
    pixel_key: bytes


def decode_image(content: bytes | NDArray[np.uint8], name: str) -> tuple[NDArray[np.uint8], ImageFacts]:
    """Decode to RGB pixels (3, H, W) and facts. Raises InputError: empty, damaged, too large, or not an image."""
    with decode_errors(name):
        image = read_header(io.BytesIO(content), name) if isinstance(content, bytes) else to_image(content)
        check_pixel_count(image, name)
        with silence_libtiff(image):
            pixels = np.asarray(image.convert("RGB"))
    # Most colour images are recognised by a few of their pixels, so the test on all of them seldom runs.
    gray = all(bool((part == part[:, :, :1]).all()) for part in (pixels[::16, ::16], pixels))
    facts = ImageFacts(image.width, image.height, image.format or "array", gray, content_key(pixels))
    return np.array(pixels.transpose(2, 0, 1), order="C"), facts
