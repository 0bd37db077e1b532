"""A picture as the programs that compute FID read it: Pillow's `convert("RGB")`, not turned, alpha dropped."""

import io
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inception_v3.errors import InputError
from inception_v3.images.decode import read_header, check_pixel_count, silence_libtiff, decode_errors

KEY_BYTES = 16


@dataclass(frozen=True)
class Picture:
    """One picture of a source, not yet decoded: a file, a file's bytes, or pixels (H, W, channels) as uint8.

    Or what is wrong with it, where its archive does not give it out.
    """

    name: str
    content: Path | bytes | NDArray[np.uint8] | InputError

    def read(self) -> bytes | NDArray[np.uint8]:
        """Raises InputError: the file cannot be read."""
        if isinstance(self.content, InputError):
            raise self.content
        if not isinstance(self.content, Path):
            return self.content
        try:
            return self.content.read_bytes()
        except OSError as error:
            raise InputError(f"{self.name}: cannot be read ({error.strerror or error}); check the file") from error


@dataclass(frozen=True)
class Facts:
    """What warnings are made of: width and height, how it was stored, whether all channels are equal.

    `pixels` is the same for the same pixels, however they were stored.
    """

    width: int
    height: int
    format: str
    gray: bool
    pixels: bytes


def key_of(content: bytes | NDArray[np.uint8]) -> bytes:
    """The same for the same bytes, or the same pixels in an array."""
    if isinstance(content, bytes):
        return blake2b(content, digest_size=KEY_BYTES).digest()
    shape = repr(content.shape).encode()
    return blake2b(np.ascontiguousarray(content).data, digest_size=KEY_BYTES, key=shape).digest()


def decode(content: bytes | NDArray[np.uint8], name: str) -> tuple[NDArray[np.uint8], Facts]:
    """Pixels (3, H, W) and the facts. Raises InputError, one line: empty, damaged, too large, no picture."""
    with decode_errors(name):
        if isinstance(content, bytes):
            image = read_header(io.BytesIO(content), name)
        else:
            image = Image.fromarray(content[:, :, 0] if content.shape[2] == 1 else content)
        check_pixel_count(image)
        kind = image.format or "array"
        with silence_libtiff(image):
            pixels = np.asarray(image.convert("RGB"))
    # most pictures show their colour in a few pixels
    gray = all(bool((part == part[:, :, :1]).all()) for part in (pixels[::16, ::16], pixels))
    facts = Facts(image.width, image.height, kind, gray, key_of(pixels))
    return np.array(pixels.transpose(2, 0, 1), order="C"), facts
