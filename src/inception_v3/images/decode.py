"""Decode image files to RGB images with 8 bits per channel, upright, on a white background. find.py lists the files.

Only Pillow decodes files, and only in the formats below. None of these formats starts another program. The files are
untrusted: any fault in a file becomes an InputError of one line that names the file.
"""

import io
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from inception_v3.errors import InputError
from inception_v3.support.arguments import checked
from inception_v3.support.packages import install_command, missing_packages
from inception_v3.support.streams import discard_stderr
from inception_v3.support.system_errors import read_reason
from inception_v3.support.text import one_line

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF")
HEIF_PACKAGE = "pi_heif"  # reads HEIF; the other formats need only Pillow
MAX_PIXELS = 178_956_970  # half a GiB as RGB; Pillow's own limit is the same by default
# The decoders of these formats hold several copies of the image, up to 24 bytes for each pixel.
COPYING_FORMATS = ("WEBP", "AVIF", "JPEG2000", "HEIF")
MAX_COPIED_PIXELS = 50_000_000
BAND_PIXELS = 2**22  # of a part of an image that is converted at once
MAX_PNG_TEXT = 64 * 2**20  # bytes of one text or profile in a PNG; Pillow's limit for all texts together
MAX_STREAM_BYTES = 512 * 2**20  # of an image from a pipe, which must be held in memory as a whole


MinimumSize = Callable[[int, int], tuple[int, int] | None]  # width and height of the image -> those needed, or None

# Pillow always loads the plugins for these formats. Loading all plugins takes as long as decoding tens of images.
_FORMATS_BY_SIGNATURE = {b"\xff\xd8": ("JPEG",), b"\x89P": ("PNG",), b"GI": ("GIF",)}
SIGNATURE_BYTES = 64  # at the start of a file, which show its format
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"heif")
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (UnidentifiedImageError, f"not a supported image ({', '.join(FORMATS)}), or cut short; save it as PNG"),
    (Image.DecompressionBombError, f"more than the limit of {MAX_PIXELS:,} pixels; make it smaller"),
    (MemoryError, "too large for this machine's memory; make it smaller"),
)
_UPRIGHT = {  # EXIF orientation -> the operation that undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = tuple(_UPRIGHT[orientation] for orientation in (5, 6, 7, 8))
_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC = 274, 258, 262  # TIFF tags
_stderr = threading.Lock()
logging.getLogger("PIL").addHandler(logging.NullHandler())  # without a handler, Python prints its warnings to stderr


@checked
def open_image(
    source: "str | Path | bytes | BinaryIO | Image.Image",
    *,
    name: str | None = None,
    minimum_size: MinimumSize | None = None,
) -> Image.Image:
    """Decode an image to mode RGB, values 0 to 255.

    The image is turned upright by its EXIF orientation, and transparent pixels become white. 16-bit gray values v
    become round(v / 257). Of several frames or pages the first is used.

    Args:
        source: a path, the bytes of a file, an open binary file, or a Pillow image.
        name: the name of the image in error messages; by default its path.
        minimum_size: decode a JPEG at 1/2, 1/4 or 1/8 of its size if the result still has the width and height that
            this function returns. It is called with the upright width and height before memory is allocated; None
            means full size. Scaled decoding is faster, but its pixels differ from those of a full decode resized.

    Raises:
        TypeError: a source of another type, such as an array.
        InputError: missing, no permission, a folder, empty, not an image, cut short, 32-bit pixels, or more than
            MAX_PIXELS (checked in the header, before memory is allocated).
    """
    name = str(name or (source if isinstance(source, str | Path) else getattr(source, "name", "image")))
    _check_source(source)
    with decode_errors(name):
        if isinstance(source, Image.Image):
            return _to_rgb(source, name, minimum_size, keep=True)
        stream = io.BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else source
        with Path(stream).open("rb") if isinstance(stream, str | Path) else nullcontext(stream) as opened:
            file = opened if opened.seekable() else io.BytesIO(read_all(opened, name))
            return _to_rgb(read_header(file, name), name, minimum_size)


def _check_source(source: object) -> None:
    """Raise TypeError for anything but a path, bytes, a binary file or a Pillow image."""
    is_file = hasattr(source, "read") and not isinstance(source, io.TextIOBase)
    if not is_file and not isinstance(source, str | Path | bytes | bytearray | memoryview | Image.Image):
        remedy = "; use Image.fromarray(array) of Pillow" if hasattr(source, "ndim") else ""
        kind = type(source).__name__
        raise TypeError(f"source must be a path, bytes, a binary file or a Pillow image, not {kind}{remedy}")


@contextmanager
def decode_errors(name: str) -> Iterator[None]:
    """Turn every error in this context into an InputError of one line that starts with `name`.

    Pillow's warnings are not shown.
    """
    try:
        with _quiet_pillow:
            yield
    except InputError:
        raise
    except Exception as error:  # damaged files make Pillow's parsers raise errors of any class
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{name}: {read_reason(error.filename or name, error)}") from error
        reason = next(
            (text for kind, text in _REASONS if isinstance(error, kind)),
            f"cannot be read ({one_line(error)}); download or save it again",
        )
        raise InputError(f"{name}: {reason}") from error


def read_header(file: BinaryIO, name: str) -> Image.Image:
    """Open the image in a file without decoding its pixels. Use it inside `decode_errors`.

    Raises InputError: the file is empty.
    """
    if not (signature := file.read(SIGNATURE_BYTES)):
        raise InputError(f"{name}: the file is empty; download or save it again")
    formats = _FORMATS_BY_SIGNATURE.get(signature[:2]) or _available_formats()
    if signature[4:8] == b"ftyp" and b"avif" not in signature and signature[8:12] in _HEIF_BRANDS:
        if missing_packages((HEIF_PACKAGE,)):
            raise InputError(f"{name}: a HEIC image needs {HEIF_PACKAGE}; {install_command('heif')}")
        import_module(HEIF_PACKAGE).register_heif_opener()
        formats = ("HEIF",)
    return Image.open(file, formats=formats)


def check_pixel_count(image: Image.Image, name: str) -> None:
    """Raise an error for no pixels, or more than the limits above. Call it inside `decode_errors`, before decoding."""
    if not all(image.size):
        raise ValueError(f"an image of {image.width}x{image.height} pixels")
    if image.format in COPYING_FORMATS and image.width * image.height > MAX_COPIED_PIXELS:
        limit = f"more than the limit of {MAX_COPIED_PIXELS:,} pixels in this format"
        raise InputError(f"{name}: {limit}; make it smaller or save it as PNG")
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError


@cache
def _available_formats() -> tuple[str, ...]:
    """Return the FORMATS that this Pillow was built with. Given another format, Pillow would fail on every file."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def silence_libtiff(image: Image.Image) -> AbstractContextManager[None]:
    """Return a context for decoding the image in which libtiff prints nothing."""
    return _discard_stderr() if image.format == "TIFF" else nullcontext()


@contextmanager
def _discard_stderr() -> Iterator[None]:
    """Discard what C code prints to file descriptor 2. libtiff prints there; its real errors are also raised.

    Other threads' output to that descriptor is lost meanwhile. The command line's is not: it uses a copy of it.
    """
    with _stderr, discard_stderr():
        yield


class _QuietPillow:
    """A context in which Pillow's warnings are ignored, for several threads at once. Other warnings are shown.

    A text or a colour profile in a PNG may have MAX_PNG_TEXT bytes in it, and outside it only the 1 MiB of Pillow.
    `warnings.catch_warnings` is not thread-safe: if two threads overlap, one restores the other's filters.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._limit = PngImagePlugin.MAX_TEXT_CHUNK
                PngImagePlugin.MAX_TEXT_CHUNK = max(self._limit, MAX_PNG_TEXT)
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._filters.__exit__(None, None, None)
                PngImagePlugin.MAX_TEXT_CHUNK = self._limit


_quiet_pillow = _QuietPillow()


def _to_rgb(image: Image.Image, name: str, minimum_size: MinimumSize | None, *, keep: bool = False) -> Image.Image:
    """Decode and convert an image, in 5 to 8 bytes of memory for each pixel. `keep`: `image` must not change."""
    check_pixel_count(image, name)
    transpose = _upright_transpose(image) if image.format in ("JPEG", "MPO") else None
    if minimum_size is not None:
        swapped = transpose in _SWAPS_SIDES
        needed = minimum_size(*(image.size[::-1] if swapped else image.size))
        if needed is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, needed[::-1] if swapped else needed)
    with silence_libtiff(image):
        image.load()
    transpose = transpose or _upright_transpose(image)  # in a PNG, EXIF may come after the pixels
    low, high = cast(tuple[float, float], image.getextrema()) if image.mode == "I" else (0, 0)
    if image.mode == "F" or low < 0 or high > 65535:
        raise InputError(f"{name}: 32-bit pixels have no defined range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = _to_8_bits(image)
    if image.has_transparency_data or image.mode == "CMYK":
        planes = _planes_on_white(image)
        del image  # before the result takes as much memory
        image = planes[0] if len(planes) == 1 else Image.merge("RGB", planes)
    if transpose is not None:
        image = image.transpose(transpose)
    rgb = image.convert("RGB") if keep or image.mode != "RGB" else image._new(image.im)
    rgb.info = {}  # drop the EXIF orientation; otherwise open_image(rgb) would rotate the image again
    return rgb


def _on_white(image: Image.Image) -> Image.Image:
    """Convert an image to mode RGB, on white where it is transparent."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")  # La converts only to LA
    white = Image.new("RGB", layer.size, "white")
    white.paste(layer, mask=layer)
    return white


def _planes_on_white(image: Image.Image) -> list[Image.Image]:
    """Convert an image to RGB, or if it is gray to L, on white where it is transparent; a large image part by part.

    Returns the three channels if the image itself takes 4 bytes for each pixel, as RGB does: so it can be deleted
    before they are merged. Otherwise returns one image.
    """
    if image.width * image.height <= BAND_PIXELS:
        return [_on_white(image)]
    mode = {"P": "RGB"}.get(image.mode, "L")
    planes = [Image.new(mode, image.size) for _ in range(1 if image.mode in ("P", "L", "LA", "La", "1") else 3)]
    _convert_bands(image, planes, lambda band: [_on_white(band)] if mode == "RGB" else _on_white(band).split())
    return planes


def _convert_bands(
    image: Image.Image, planes: Sequence[Image.Image], convert: Callable[[Image.Image], Sequence[Image.Image]]
) -> None:
    """Write the converted channels of an image to `planes`, a part of the image at a time.

    Some modes take 4 bytes for each pixel, so the conversion of a whole image takes more memory than the result.
    """
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        channels = convert(image.crop((0, top, image.width, min(top + rows, image.height))))
        for plane, channel in zip(planes, channels, strict=False):
            plane.paste(channel, (0, top))


def _upright_transpose(image: Image.Image) -> Image.Transpose | None:
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF does not make the image unreadable
        return None


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Convert 16-bit gray to 8 bits. Pillow leaves 12-bit TIFFs dark, and TIFFs in which 0 is white inverted."""
    tags = getattr(image, "tag_v2", {})
    white = 4095 if tags.get(_BITS_PER_SAMPLE) == (12,) else 65535
    table = [min(round(value * 255 / white), 255) for value in range(65536)]
    if tags.get(_PHOTOMETRIC) == 0:
        table.reverse()
    if isinstance(transparent := image.info.get("transparency"), int):
        table[transparent] = 255
    gray = Image.new("L", image.size)
    _convert_bands(image, [gray], lambda band: [band.convert("I").point(table, "L")])
    gray.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return gray


def read_all(stream: BinaryIO, name: str, start: bytes = b"") -> bytes:
    """Read a pipe to its end; `start` is the part that was already read.

    Raises InputError: more than MAX_STREAM_BYTES.
    """
    content = io.BytesIO()
    for chunk in chain((start,), iter(lambda: stream.read(2**20), b"")):
        if content.tell() + len(chunk) > MAX_STREAM_BYTES:
            raise InputError(f"{name}: more than {MAX_STREAM_BYTES >> 20} MiB in a pipe; save it and give the file")
        content.write(chunk)
    return content.getvalue()
