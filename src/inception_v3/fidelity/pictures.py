"""A picture as the programs that compute FID read it: Pillow's `convert("RGB")`, not turned, alpha dropped."""

import io
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inception_v3.errors import InputError
from inception_v3.images import _COMMON, _EMPTY, MAX_PIXELS, _formats, _quiet_libtiff, _quiet_pillow, _reason

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
    try:
        with _quiet_pillow:
            if isinstance(content, bytes):
                if not content:
                    raise InputError(f"{name}: {_EMPTY}")
                image: Image.Image = Image.open(io.BytesIO(content), formats=_COMMON.get(content[:2]) or _formats())
            else:
                image = Image.fromarray(content[:, :, 0] if content.shape[2] == 1 else content)
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"{name}: more than the {MAX_PIXELS:,} pixels that are read; make it smaller")
            kind = image.format or "array"
            with _quiet_libtiff() if kind == "TIFF" else nullcontext():
                pixels = np.asarray(image.convert("RGB"))
    except InputError:
        raise
    except Exception as error:  # damaged files make Pillow raise whatever its parsers run into
        raise InputError(f"{name}: {_reason(error)}") from error
    # most pictures show their colour in a few pixels
    gray = all(bool((part == part[:, :, :1]).all()) for part in (pixels[::16, ::16], pixels))
    facts = Facts(image.width, image.height, kind, gray, key_of(pixels))
    return np.array(pixels.transpose(2, 0, 1), order="C"), facts
