"""The one room where image files become pictures: RGB, 8 bits, upright, on white. image_files.py finds them.

Pillow alone decodes, and of its formats only those below, none of which starts another program. Files come
from anywhere: whatever is wrong with one, the answer is an InputError of one line that names it.
"""

import io
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

from PIL import Image, UnidentifiedImageError

from inception_v3.errors import InputError
from inception_v3.support.text import printable

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")
MAX_PIXELS = 178_956_970  # half a GiB as RGB; by default Pillow too opens nothing larger
MAX_STREAM_BYTES = 512 * 2**20  # of a picture that comes through a pipe and must be held whole

Least = Callable[[int, int], tuple[int, int] | None]

# To load what reads all formats takes as long as tens of pictures; what reads these Pillow always loads.
_COMMON = {b"\xff\xd8": ("JPEG",), b"\x89P": ("PNG",), b"GI": ("GIF",)}
_EMPTY = "the file is empty; download or save it again"
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (FileNotFoundError, "no such file; check the path"),
    (IsADirectoryError, "a folder, not a picture; give a file in it"),
    (PermissionError, "no permission to read it; allow it with chmod u+r"),
    (UnidentifiedImageError, f"not a supported image ({', '.join(FORMATS)}), or cut short; save it as PNG"),
    (Image.DecompressionBombError, f"more than the {MAX_PIXELS:,} pixels that are read; make it smaller"),
    (MemoryError, "more than this machine's memory holds; make it smaller"),
)
_UPRIGHT = {  # what undoes each EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = (Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90)
_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC = 274, 258, 262  # TIFF tags
_stderr = threading.Lock()
logging.getLogger("PIL").addHandler(logging.NullHandler())  # its remarks reach only who asks for them, not stderr


def open_image(
    source: str | Path | bytes | BinaryIO | Image.Image, *, name: str | None = None, least: Least | None = None
) -> Image.Image:
    """The picture in a file, in bytes, in an open binary file, or already in memory, as mode RGB, 0 to 255.

    It stands upright by its EXIF orientation, and transparency shows white. 16-bit gray becomes round(v / 257).
    Of several frames or pages it is the first. `name` is what errors call it; by default its path.

    `least` is called with the width and height, upright, before memory is taken. Where it returns a width and height,
    a JPEG is decoded at a half, a quarter or an eighth of its size as long as it is no smaller than that: fewer
    numbers to compute, and other pixels than those of the whole picture made smaller.

    Raises InputError, one line with the name and the remedy: missing, not allowed, a folder, empty, not a
    picture, cut short, more than MAX_PIXELS (read off the header, before memory is taken), 32-bit numbers.
    """
    name = printable(name or (source if isinstance(source, str | Path) else getattr(source, "name", "picture")))
    with readable(name):
        if isinstance(source, Image.Image):
            return _rgb(source, name, least)
        stream = io.BytesIO(source) if isinstance(source, bytes) else source
        with Path(stream).open("rb") if isinstance(stream, str | Path) else nullcontext(stream) as given:
            file = given if given.seekable() else io.BytesIO(read_all(given, name))
            return _rgb(read_header(file, name), name, least)


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Whatever is wrong with the picture that is read inside is an InputError of one line; Pillow's warnings are not
    shown."""
    try:
        with _quiet_pillow:
            yield
    except InputError:
        raise
    except Exception as error:  # damaged files make Pillow raise whatever its parsers run into
        raise InputError(f"{name}: {_reason(error)}") from error


def read_header(file: BinaryIO, name: str) -> Image.Image:
    """The picture in an open file, its pixels not read yet. Inside `readable`. Raises InputError: nothing in it."""
    if not (head := file.read(2)):
        raise InputError(f"{name}: {_EMPTY}")
    return Image.open(file, formats=_COMMON.get(head) or _formats())


def check_size(image: Image.Image) -> None:
    """Before memory is taken, and inside `readable`. Raises DecompressionBombError: more than MAX_PIXELS."""
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError


def _reason(error: Exception) -> str:
    """Why a picture could not be read, and the remedy, in one line."""
    detail = printable(getattr(error, "strerror", None) or error) or type(error).__name__
    unknown = f"cannot be read ({detail}); download or save it again"
    return next((text for kind, text in _REASONS if isinstance(error, kind)), unknown)


@cache
def _formats() -> tuple[str, ...]:
    """Those that this Pillow has: one that it does not know would fail every file."""
    Image.init()
    return tuple(one for one in FORMATS if one in Image.OPEN)


def quiet(image: Image.Image) -> AbstractContextManager[None]:
    """To read its pixels in: without what libraries print by themselves."""
    return _discard_stderr() if image.format == "TIFF" else nullcontext()


@contextmanager
def _discard_stderr() -> Iterator[None]:
    """libtiff prints to the process's stderr, past everything of Python's; what matters of it is raised as well.

    So does any other thread meanwhile, unless by a descriptor of its own, as the command line has.
    """
    with _stderr, Path(os.devnull).open("wb") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


class _QuietPillow:
    """Pillow's warnings are not shown while any thread is inside; those of all others are.

    `warnings.catch_warnings` alone is for one thread: two that overlap leave each other's filters behind.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._kept = warnings.catch_warnings()
                self._kept.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._kept.__exit__(None, None, None)


_quiet_pillow = _QuietPillow()


def _rgb(image: Image.Image, name: str, least: Least | None) -> Image.Image:
    check_size(image)
    turn = _turn(image) if image.format in ("JPEG", "MPO") else None
    if least is not None:
        lying = turn in _LYING
        wanted = least(*(image.size[::-1] if lying else image.size))
        if wanted is not None and image.format in ("JPEG", "MPO"):
            image.draft(None, wanted[::-1] if lying else wanted)
    with quiet(image):
        image.load()
    turn = turn or _turn(image)  # PNG's notes may come after its pixels
    low, high = cast(tuple[float, float], image.getextrema()) if image.mode == "I" else (0, 0)
    if image.mode == "F" or low < 0 or high > 65535:
        raise InputError(f"{name}: 32-bit numbers do not say which is white; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.mode == "La":
        image = image.convert("LA")  # Pillow's only way out of this mode
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGB", layer.size, "white")
        image.paste(layer, mask=layer)
    rgb = (image if turn is None else image.transpose(turn)).convert("RGB")
    rgb.info = {}  # its EXIF no longer holds: opened again, the picture must not be turned again
    return rgb


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged notes about a picture do not make the picture unreadable
        return None


def _eight_bits(image: Image.Image) -> Image.Image:
    tags = getattr(image, "tag_v2", {})  # Pillow leaves 12-bit TIFFs dark and 16-bit ones with white at 0 negative
    white = 4095 if tags.get(_BITS_PER_SAMPLE) == (12,) else 65535
    table = [min(round(value * 255 / white), 255) for value in range(65536)]
    if tags.get(_PHOTOMETRIC) == 0:
        table.reverse()
    if isinstance(transparent := image.info.get("transparency"), int):
        table[transparent] = 255
    gray = image.convert("I").point(table, "L")
    gray.info.pop("transparency", None)
    return gray


def read_all(stream: BinaryIO, name: str, head: bytes = b"") -> bytes:
    """What a pipe holds, given up as soon as it is more than MAX_STREAM_BYTES."""
    content = io.BytesIO()
    for chunk in chain((head,), iter(lambda: stream.read(2**20), b"")):
        if content.tell() + len(chunk) > MAX_STREAM_BYTES:
            raise InputError(f"{name}: more than {MAX_STREAM_BYTES >> 20} MiB in a pipe; save it and give the file")
        content.write(chunk)
    return content.getvalue()
