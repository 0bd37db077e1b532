"""Find image files: in folders of any size, by patterns, and from standard input. decode.py opens them."""

import glob
import io
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from itertools import chain, islice
from pathlib import Path
from typing import cast

from PIL import Image

from inception_v3.errors import InputError
from inception_v3.images.decode import MinimumSize, open_image, read_all
from inception_v3.support.text import printable

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".avif"}
)
MAX_PATH_BYTES = 2**16  # no system has longer paths, so a longer line is not a path
STANDARD_INPUT = "standard input"
NAMES_AT_ONCE = 100_000  # names of one folder that are held at once: about 10 MB

NameFilter = Callable[[str, bool], bool]  # (name, is it a regular file) -> whether to list it
ListFolder = Callable[[Path, NameFilter], Iterator[str]]
_NOT_A_FILE = "\0"  # appended to the name of anything but a regular file; no name contains it, and it keeps the order

_IMAGE_SIGNATURES = re.compile(  # strict, so that no list of paths is mistaken for an image: BMW/1.jpg, P6/1.jpg
    rb"\xff\xd8\xff|\x89PNG|GIF8[79]a|BM....\0\0|RIFF....WEBP|II[*+]\0|MM\0[*+]|P[1-6Ff]\s+(#|\d+\s+\d+\s)|....ftypavi",
    re.DOTALL,
)


@dataclass(frozen=True)
class ImageSource:
    """An image that is not opened yet.

    Attributes:
        name: its name in messages: one line of printable text, whatever characters the file's name has.
        content: the path, or the bytes of the file.
    """

    name: str
    content: Path | bytes = field(repr=False)

    def open(self, minimum_size: MinimumSize | None = None) -> Image.Image:
        """Decode the image to mode RGB. See `open_image` for `minimum_size` and the errors."""
        return open_image(self.content, name=self.name, minimum_size=minimum_size)


def list_images(folder: str | Path) -> Iterator[Path]:
    """Yield every file with one of IMAGE_SUFFIXES in a folder and its subfolders, in the order of sorted paths.

    Hidden files and the files that macOS adds to archives are skipped. Links are followed, but not in circles.
    Folders are listed one at a time, and memory is bounded: a larger folder than NAMES_AT_ONCE files is read again for
    each further NAMES_AT_ONCE files. Raises InputError: a folder cannot be listed.
    """
    return _walk(Path(folder), _list_sorted)


def _walk(folder: Path, list_folder: ListFolder) -> Iterator[Path]:
    here = folder
    try:
        # A stack instead of recursion: folders may be nested deeper than Python's recursion limit.
        stack = [(folder, folder.stat(), list_folder(folder, _may_contain_images))]
        while stack:
            here, _, names = stack[-1]
            listed = next(names, None)
            if listed is None:
                stack.pop()
                continue
            name = listed.removesuffix(_NOT_A_FILE)
            path = here / name
            mode = stat.S_IFREG if name == listed else _mode(path)
            if stat.S_ISDIR(mode):
                status = path.stat()
                if not any(os.path.samestat(status, parent) for _, parent, _ in stack):
                    stack.append((path, status, list_folder(path, _may_contain_images)))
            # A broken link is kept: opening it reports the fault.
            elif _is_image(name) and (stat.S_ISREG(mode) or not mode):
                yield path
    except OSError as error:
        raise InputError(f"{printable(here)}: cannot be listed ({error.strerror}); check the folder") from error


def _list_sorted(folder: Path, wanted: NameFilter) -> Iterator[str]:
    """Like `_list_unsorted`, in order. Holds at most 2 * NAMES_AT_ONCE names in memory."""
    last, more = "", True
    while more:
        names: list[str] = []
        more = False
        later = (name for name in _list_unsorted(folder, wanted) if name > last)
        while chunk := list(islice(later, NAMES_AT_ONCE)):
            names = sorted(names + chunk)
            more = more or len(names) > NAMES_AT_ONCE
            del names[NAMES_AT_ONCE:]
        yield from names
        last = names[-1] if names else last


def _list_unsorted(folder: Path, wanted: NameFilter) -> Iterator[str]:
    """Yield the wanted names in a folder; the name of anything but a regular file ends with _NOT_A_FILE."""
    with os.scandir(folder) as entries:
        for entry in entries:
            is_file = entry.is_file(follow_symlinks=False)
            if wanted(entry.name, is_file):
                yield entry.name if is_file else entry.name + _NOT_A_FILE


def _may_contain_images(name: str, is_file: bool) -> bool:
    """Accept files with the suffix of an image, and anything else that is not hidden: it may be a folder."""
    return not name.startswith(".") and name != "__MACOSX" and (not is_file or _is_image(name))


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (a million Paths would be slow)


def _mode(path: Path) -> int:
    """Return the file's mode, of which only the type matters here; 0 if there is no such file."""
    try:
        return path.stat().st_mode
    except PermissionError:
        return stat.S_IFREG  # the file may exist; opening it reports the problem
    except (OSError, ValueError):
        return 0


def expand(arguments: Iterable[str]) -> Iterator[ImageSource]:
    """Yield the images that the arguments of a command line refer to. They are opened later, one by one.

    An argument is a file, a folder (all images that `list_images` finds), a pattern, or `-` for standard input: the
    bytes of one image, or paths of files and folders, one per line or separated by NUL as `find -print0` writes them.
    Patterns contain *, ?, [] and, for any number of folders, **. A pattern that matches a folder stands for all images
    in it. An existing path is never treated as a pattern.

    Raises InputError with exit status 2 at once: no such file, an empty folder, a pattern without a match. While
    iterating: standard input is neither an image nor a list of paths, an image in it exceeds MAX_STREAM_BYTES, or a
    folder cannot be listed.
    """
    arguments = list(arguments)
    for argument in arguments:
        if argument != "-" and next(_paths(argument, _list_unsorted), None) is None:
            raise _no_images(argument)
    return chain.from_iterable(_standard_input() if argument == "-" else _sources(argument) for argument in arguments)


def _sources(argument: str) -> Iterator[ImageSource]:
    path = None
    for path in _paths(argument, _list_sorted):
        yield ImageSource(printable(path), path)
    if path is None:
        raise _no_images(argument)


def _no_images(argument: str) -> InputError:
    empty = argument and stat.S_ISDIR(_mode(Path(argument)))
    fault = "no images in this folder" if empty else "no such file or folder, and no pattern that matches any"
    return InputError(f"{printable(argument) or '(empty)'}: {fault}; check the path", exit_status=2)


def _paths(argument: str, list_folder: ListFolder) -> Iterator[Path]:
    """Yield the image files that a path or a pattern refers to."""
    path = Path(argument)
    mode = _mode(path) if argument else 0
    if mode:
        yield from _walk(path, list_folder) if stat.S_ISDIR(mode) else (path,)
        return
    parts = path.parts
    first = next((index for index, part in enumerate(parts) if glob.has_magic(part)), None)
    if first is None:
        return
    top, pattern = Path(*parts[:first]), parts[first:]
    if "**" not in pattern:
        for match in _glob(top, pattern, list_folder):
            yield from _walk(match, list_folder) if stat.S_ISDIR(_mode(match)) else (match,)
        return
    for image in _walk(top, list_folder) if stat.S_ISDIR(_mode(top)) else ():  # Python's glob follows links in circles
        names = image.relative_to(top).parts
        depths = range(len(names) if pattern[-1] == "**" else len(names) + 1)  # a final ** matches only folders
        if any(_matches(names[:depth], pattern) for depth in depths):
            yield image


def _glob(folder: Path, pattern: tuple[str, ...], list_folder: ListFolder) -> Iterator[Path]:
    """Yield what Python's glob finds, in order, with the bounded memory of `list_folder`."""
    part, rest = pattern[0], pattern[1:]
    if not glob.has_magic(part):
        matches = iter([folder / part] if os.path.lexists(folder / part) else ())
    elif stat.S_ISDIR(_mode(folder)):
        hidden = part.startswith(".")
        names = list_folder(folder, lambda name, _: fnmatch(name, part) and (hidden or not name.startswith(".")))
        matches = (folder / name.removesuffix(_NOT_A_FILE) for name in names)
    else:
        return
    with suppress(OSError):  # like the shell, find nothing in a folder that cannot be listed
        for path in matches:
            yield from _glob(path, rest, list_folder) if rest else (path,)


def _matches(names: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern or not names:
        return not names and set(pattern) <= {"**"}
    if pattern[0] == "**":
        return _matches(names, pattern[1:]) or _matches(names[1:], pattern)
    return fnmatch(names[0], pattern[0]) and _matches(names[1:], pattern[1:])


def _standard_input() -> Iterator[ImageSource]:
    stream = _open_standard_input()
    start = b""
    while len(start) < 64 and not _starts_with_path(start) and (chunk := stream.read1(MAX_PATH_BYTES)):
        start += chunk
    if not start.strip():
        raise InputError(f"{STANDARD_INPUT}: it is empty; pipe an image or a list of paths in", exit_status=2)
    if _IMAGE_SIGNATURES.match(start):
        yield ImageSource(STANDARD_INPUT, read_all(stream, STANDARD_INPUT, start))
        return
    is_list = False
    for path in _path_list(stream, start):
        mode = _mode(path)
        is_list = is_list or mode != 0
        if not is_list:  # the HTML page of a failed download, for example: one message, not one per line
            raise _not_supported(f"{printable(path)[:80]} is not a path")
        images = list_images(path) if stat.S_ISDIR(mode) else iter(())
        first = next(images, path)  # a file, or a missing file or empty folder, which is reported when it is opened
        yield from (ImageSource(printable(image), image) for image in chain((first,), images))


def _open_standard_input() -> io.BufferedReader:
    """Return a separate reader of standard input, empty if there is none.

    With sys.stdin's own reader, Python aborts if it exits while a thread is still reading.
    """
    with suppress(OSError, AttributeError):  # an object in memory, or None
        return open(sys.stdin.fileno(), "rb", closefd=False)
    return cast(io.BufferedReader, getattr(sys.stdin, "buffer", None) or io.BytesIO())


def _not_supported(fault: str) -> InputError:
    return InputError(f"{STANDARD_INPUT}: not a supported image, and {fault}; check what is piped in", exit_status=2)


def _starts_with_path(start: bytes) -> bool:
    """Return whether `start` contains a whole line that is an existing path, so that no more bytes are needed."""
    first, end, _ = start.replace(b"\0", b"\n").partition(b"\n")
    return bool(end) and _mode(Path(os.fsdecode(first.removesuffix(b"\r")))) != 0


def _path_list(stream: io.BufferedReader, rest: bytes) -> Iterator[Path]:
    separator, ending = (b"\0", b"") if b"\0" in rest else (b"\n", b"\r")
    more = True
    while more:
        *lines, rest = rest.split(separator)
        yield from (Path(os.fsdecode(path)) for line in lines if (path := line.removesuffix(ending)))
        if len(rest) > MAX_PATH_BYTES:
            raise _not_supported("not a list of paths")
        chunk = stream.read1(MAX_PATH_BYTES)
        more = bool(chunk or rest)
        rest += chunk or separator
