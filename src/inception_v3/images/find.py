"""Find image files in folders of any size and by patterns. addresses.py has all other forms of addresses."""

import errno
import glob
import os
import re
import stat
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inception_v3.errors import InputError
from inception_v3.images.decode import HEIF_PACKAGE, MinimumSize, open_image
from inception_v3.support.packages import install_command, missing_packages
from inception_v3.support.system_errors import check_readable, file_status, is_folder, read_error, read_reason
from inception_v3.support.text import printable
from inception_v3.support.verbosity import verbosity

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"}
)
HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})  # read if pi-heif is installed
# Images that are not read; they are counted apart from other files.
OTHER_IMAGE_SUFFIXES = frozenset(
    {".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw"}
    | {".bpg", ".dcm", ".dds", ".emf", ".eps", ".exr", ".hdr", ".ico", ".jxl", ".jxr", ".psd", ".svg", ".svgz", ".tga"}
    | {".wdp", ".wmf", ".xcf"}
)
# Files and folders that systems add, besides hidden ones such as .DS_Store, ._x and .ipynb_checkpoints.
SYSTEM_NAMES = frozenset({"__macosx", "@eadir", "lost+found", "thumbs.db", "desktop.ini"})  # in any case
SHARD_NAME = re.compile(r"\.(tar|tgz|tar\.(gz|bz2|xz)|zip)$", re.IGNORECASE)
ARRAY_NAME = re.compile(r"\.np[yz]$", re.IGNORECASE)
NAMES_AT_ONCE = 100_000  # names of one folder that are held at once: about 10 MB

# Reasons of LeftOut that are more than the kind of a file.
SAMPLE_REASON = "a sample's image is the file whose whole extension is jpg, jpeg, png or webp"
NO_CLASS_REASON = "in no class folder"

NameFilter = Callable[[str, bool], bool]  # (name, is it a regular file) -> whether to list it
Skipped = Callable[[str], None]  # called with each name that a filter rejects
ListFolder = Callable[[Path, NameFilter, Skipped | None], Iterator[str]]
_NOT_A_FILE = "\0"  # appended to the name of anything but a regular file; no name contains it, and it keeps the order


@dataclass(frozen=True)
class ImageSource:
    """An image that is not decoded yet.

    Attributes:
        name: its true name, with bytes outside UTF-8 as `os.fsdecode` gives them; `printable` shows it in messages.
        content: the path or the bytes of the file, uint8 pixels (H, W, channels), or the error that occurred when the
            image was read from another file, such as an archive.
    """

    name: str
    content: Path | bytes | NDArray[np.uint8] | InputError = field(repr=False)

    def read(self) -> bytes | NDArray[np.uint8]:
        """The bytes of the file, or the pixels. Raises InputError: cannot be read."""
        if isinstance(self.content, InputError):
            raise self.content
        if not isinstance(self.content, Path):
            return self.content
        try:
            return self.content.read_bytes()
        except OSError as error:
            raise InputError(f"{self.name}: {read_reason(self.content, error)}") from error

    @property
    def nbytes(self) -> int:
        """The memory that the content takes, in bytes; 0 for a path."""
        if isinstance(self.content, bytes):
            return len(self.content)
        return self.content.nbytes if isinstance(self.content, np.ndarray) else 0

    def open(self, minimum_size: MinimumSize | None = None) -> Image.Image:
        """Decode the image to mode RGB. See `open_image` for `minimum_size` and the errors."""
        content = self.content if isinstance(self.content, Path) else self.read()
        return open_image(
            to_image(content) if isinstance(content, np.ndarray) else content, name=self.name, minimum_size=minimum_size
        )


@dataclass
class LeftOut:
    """Counts the files that are not used, by reason. With --verbose, each is listed on stderr if `is_listed`."""

    is_listed: bool = True
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)  # the first file, by reason

    def add(self, name: str | Path, reason: str) -> None:
        self.counts[reason] += 1
        if reason not in self.first or verbosity.verbose:
            self.first.setdefault(reason, printable(name))
            self._list(f"left out {printable(name)}: {reason}")

    def add_file(self, path: str | Path) -> None:
        """Count a file or folder that is not listed because of its name."""
        name = os.path.basename(path)  # noqa: PTH119 (a million Paths would be slow)
        self.add(
            path, "hidden, or written by a system" if is_system_name(name) else unread_suffix(name) or "not an image"
        )

    def unread_images(self) -> str:
        """A line about the images of kinds that are not read, with the remedy; "" if there are none."""
        kinds = sorted(kind for kind in self.counts if kind in HEIF_SUFFIXES | OTHER_IMAGE_SUFFIXES)
        if not kinds:
            return ""
        listed = ", ".join(f"{self.counts[kind]} {kind}" for kind in kinds)
        remedies = [f"to read HEIC, {install_command('heif')}"] if not HEIF_SUFFIXES.isdisjoint(kinds) else []
        remedies += ["save them as PNG or JPEG"] if not OTHER_IMAGE_SUFFIXES.isdisjoint(kinds) else []
        return f"images of kinds that are not read: {listed} (first: {self.first[kinds[0]]}); {'; '.join(remedies)}"

    def warn(self) -> None:
        """Warn in one line of images of samples, in one of images of kinds that are not read, and in one of the others.

        With --verbose, print also how many files are no images.
        """
        for reason, count in self.counts.items():
            if reason == SAMPLE_REASON:
                first = f"{count} images of samples were left out (first: {self.first[reason]})"
                warnings.warn(f"{first}: {reason}", stacklevel=2)
            elif reason == NO_CLASS_REASON:
                images = "1 image was" if count == 1 else f"{count} images were"
                warnings.warn(f"{images} left out (first: {self.first[reason]}): {reason}", stacklevel=2)
        if line := self.unread_images():
            warnings.warn(f"left out {line}", stacklevel=2)
        for reason, count in self.counts.items():
            self._list(f"left out {count:,} files: {reason}")

    def _list(self, line: str) -> None:
        if verbosity.verbose and self.is_listed and sys.stderr is not None:  # it is None after 2>&-
            print(line, file=sys.stderr)


NameTest = Callable[[str], bool]  # whether to read the image of this name


def any_name(_: str) -> bool:
    return True


def to_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """The image of uint8 pixels (H, W) or (H, W, channels), with 1, 3 or 4 channels."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels)


def check_pixels(name: str, pixels: NDArray[Any]) -> None:
    """Check that an array is one image that `to_image` takes.

    Raises ValueError, with the expected shape, dtype and range, and how to convert the array.
    """
    shape, is_uint8 = pixels.shape, pixels.dtype == np.uint8
    if is_uint8 and pixels.size and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4))):
        return
    remedy = "scale it to 0 to 255 and convert it by array.astype(numpy.uint8)"
    if is_uint8 and len(shape) == 4:
        remedy = "give several images as a list, such as list(array)"
    elif is_uint8 and len(shape) == 3 and shape[0] in (1, 3, 4):
        remedy = "move the channels to the end: array.transpose(1, 2, 0)"
    elif is_uint8:
        remedy = "check its shape"
    elif pixels.dtype.kind == "f":
        remedy = "floats in [0, 1] are converted by (array * 255).round().astype(numpy.uint8)"
    raise ValueError(
        f"{name}: {pixels.dtype} of shape {shape}, but an image is uint8 of shape (H, W, 3), (H, W) or (H, W, 4), "
        f"with values from 0 to 255; {remedy}"
    )


def is_image_name(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in suffixes_read()  # noqa: PTH122 (a million Paths would be slow)


def unread_suffix(name: str) -> str:
    """The suffix of an image of a kind that is not read; "" for other files."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
    return suffix if suffix in (HEIF_SUFFIXES | OTHER_IMAGE_SUFFIXES) - suffixes_read() else ""


@cache
def suffixes_read() -> frozenset[str]:
    """IMAGE_SUFFIXES, and HEIF_SUFFIXES if pi-heif is installed."""
    return IMAGE_SUFFIXES if missing_packages((HEIF_PACKAGE,)) else IMAGE_SUFFIXES | HEIF_SUFFIXES


def is_system_name(name: str) -> bool:
    """Whether a file or folder of this name is no image and contains none: it is hidden, or one of SYSTEM_NAMES."""
    return (name.startswith(".") and name not in (".", "..")) or name.lower() in SYSTEM_NAMES


def list_images(folder: str | Path, left_out: LeftOut | None = None, *, may_be_closed: bool = False) -> Iterator[Path]:
    """Yield every file with one of `suffixes_read` in a folder and its subfolders, in the order of sorted paths.

    Hidden files and SYSTEM_NAMES are skipped. All files that are not listed are added to `left_out`.
    Links are followed, but not in circles. A subfolder that cannot be listed is yielded like an image: opening it
    reports the reason. So is `folder` itself with `may_be_closed`.
    Folders are listed one at a time, and memory is bounded: a larger folder than NAMES_AT_ONCE files is read again for
    each further NAMES_AT_ONCE files. Raises InputError: `folder` cannot be listed.
    """
    return walk(Path(folder), list_sorted, left_out=left_out, may_be_closed=may_be_closed)


def walk(
    folder: Path,
    list_folder: ListFolder,
    wanted: Callable[[str], bool] = is_image_name,
    left_out: LeftOut | None = None,
    may_be_closed: bool = False,
) -> Iterator[Path]:
    """Yield every file in a folder and its subfolders whose name is `wanted`. See `list_images`."""

    def may_contain(name: str, is_file: bool) -> bool:  # anything but a file may be a folder
        return not is_system_name(name) and (not is_file or wanted(name))

    def names_in(path: Path) -> Iterator[str]:
        skipped = None if left_out is None else lambda name: left_out.add_file(f"{path}/{name}")
        return list_folder(path, may_contain, skipped)

    # A stack instead of recursion: folders may be nested deeper than Python's recursion limit.
    stack: list[tuple[Path, os.stat_result | None, Iterator[str]]] = [(folder, None, names_in(folder))]
    with suppress(OSError):  # listing it reports the error
        stack = [(folder, folder.stat(), names_in(folder))]
    while stack:
        here, _, names = stack[-1]
        try:
            listed = next(names, None)
        except OSError as error:
            stack.pop()
            if not stack and not may_be_closed:
                raise read_error(here, error) from error
            yield here
            continue
        if listed is None:
            stack.pop()
            continue
        path = here / listed.removesuffix(_NOT_A_FILE)
        try:
            status = None if listed == path.name else path.stat()
        except PermissionError:  # it may be a folder
            yield path
            continue
        except OSError:
            status = None
        if status is not None and stat.S_ISDIR(status.st_mode):
            if not any(parent and os.path.samestat(status, parent) for _, parent, _ in stack):
                stack.append((path, status, names_in(path)))
        # A broken link is kept: opening it reports the fault.
        elif wanted(path.name) and (status is None or stat.S_ISREG(status.st_mode)):
            yield path
        elif left_out is not None:
            left_out.add_file(path)


def list_sorted(folder: Path, wanted: NameFilter, skipped: Skipped | None = None) -> Iterator[str]:
    """Like `list_unsorted`, in order. Holds at most 2 * NAMES_AT_ONCE names in memory."""
    last, more = "", True
    while more:
        names: list[str] = []
        more = False
        later = (name for name in list_unsorted(folder, wanted, skipped) if name > last)
        while chunk := list(islice(later, NAMES_AT_ONCE)):
            names = sorted(names + chunk)
            more = more or len(names) > NAMES_AT_ONCE
            del names[NAMES_AT_ONCE:]
        skipped = None  # the folder is read again for the following names
        yield from names
        last = names[-1] if names else last


def list_unsorted(folder: Path, wanted: NameFilter, skipped: Skipped | None = None) -> Iterator[str]:
    """Yield the wanted names in a folder, and call `skipped` with the others.

    The name of anything but a regular file ends with _NOT_A_FILE.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            is_file = entry.is_file(follow_symlinks=False)
            if wanted(entry.name, is_file):
                yield entry.name if is_file else entry.name + _NOT_A_FILE
            elif skipped is not None:
                skipped(entry.name)


def file_mode(path: Path) -> int:
    """Return the file's mode, of which only the type matters here; 0 if there is no such file."""
    try:
        return path.stat().st_mode
    except PermissionError:
        return stat.S_IFREG  # the file may exist; opening it reports the problem
    except (OSError, ValueError):
        return 0


def find_files(address: str, list_folder: ListFolder = list_sorted, left_out: LeftOut | None = None) -> Iterator[Path]:
    """Yield the files at a path, or those that a pattern matches: *, ?, [], and ** for any number of folders.

    A folder stands for all images in it, or if there are none, for the .tar and .zip files in it. An existing path is
    never treated as a pattern. Other files in a folder with images are added to `left_out`. Subfolders that cannot be
    listed are yielded, too.
    Raises InputError: the path, or the folder in which a pattern begins, cannot be reached or listed.
    """
    path = Path(address)
    exists = bool(address) and file_status(path) is not None
    parts = path.parts
    first = next((index for index, part in enumerate(parts) if glob.has_magic(part)), None)
    if exists or first is None:
        yield from _files_at(path, list_folder, left_out) if exists else ()
        return
    top, pattern = Path(*parts[:first]), parts[first:]
    if not is_folder(top):
        return
    check_readable(top)
    if "**" not in pattern:
        for match in _glob(top, pattern, list_folder):
            yield from _files_at(match, list_folder, left_out, may_be_closed=True)
        return
    for file in walk(top, list_folder, _may_hold_images):
        names = file.relative_to(top).parts  # not by Python's glob, which follows links in circles
        is_match = pattern[-1] != "**" and _matches(names, pattern)  # a final ** matches only folders
        is_closed = not _may_hold_images(file.name)
        in_match = is_image_name(file.name) and any(_matches(names[:end], pattern) for end in range(len(names)))
        if is_match or is_closed or in_match:
            yield file


def _files_at(
    path: Path, list_folder: ListFolder, left_out: LeftOut | None, may_be_closed: bool = False
) -> Iterator[Path]:
    find = partial(walk, path, may_be_closed=may_be_closed)
    if not stat.S_ISDIR(file_mode(path)):
        yield path
        return
    if any(is_image_name(file.name) for file in find(list_unsorted)):
        yield from find(list_folder, left_out=left_out)
        return
    with suppress(OSError):  # `find` reports it
        for name in list_folder(path, _is_archive_name, None):
            yield path / name.removesuffix(_NOT_A_FILE)
    yield from find(list_folder)  # folders that cannot be listed


def _is_archive_name(name: str, _is_file: bool) -> bool:
    return not is_system_name(name) and SHARD_NAME.search(name) is not None


def _may_hold_images(name: str) -> bool:
    return is_image_name(name) or any(pattern.search(name) for pattern in (SHARD_NAME, ARRAY_NAME))


def _glob(folder: Path, pattern: tuple[str, ...], list_folder: ListFolder) -> Iterator[Path]:
    """Yield what Python's glob finds, in order, with the bounded memory of `list_folder`.

    A folder that cannot be listed or entered is yielded itself: opening it reports the reason.
    """
    part, rest = pattern[0], pattern[1:]
    try:
        for path in _glob_part(folder, part, list_folder):
            yield from _glob(path, rest, list_folder) if rest else (path,)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            yield folder


def _glob_part(folder: Path, part: str, list_folder: ListFolder) -> Iterator[Path]:
    """Yield the paths in a folder that match one part of a pattern. Raises OSError."""
    if not glob.has_magic(part):
        (folder / part).lstat()
        yield folder / part
    elif stat.S_ISDIR(folder.stat().st_mode):
        hidden = part.startswith(".")
        names = list_folder(folder, lambda name, _: fnmatch(name, part) and (hidden or not is_system_name(name)), None)
        yield from (folder / name.removesuffix(_NOT_A_FILE) for name in names)


def _matches(names: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern or not names:
        return not names and set(pattern) <= {"**"}
    if pattern[0] == "**":
        return _matches(names, pattern[1:]) or _matches(names[1:], pattern)
    return fnmatch(names[0], pattern[0]) and _matches(names[1:], pattern[1:])
