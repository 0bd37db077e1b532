"""Which image files there are: in folders of any size, by patterns, from standard input. images.py opens them."""

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
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

from PIL import Image

from inception_v3.errors import InputError
from inception_v3.images.decode import Least, open_image, read_all
from inception_v3.support.text import printable

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".avif"}
)
MAX_PATH_BYTES = 2**16  # no system has longer paths; what is longer in a list of paths is no list
STANDARD_INPUT = "standard input"
NAMES_AT_ONCE = 100_000  # of one folder: about 10 MB

Wanted = Callable[[str, bool], bool]
Listing = Callable[[Path, Wanted], Iterator[tuple[str, bool]]]  # names, each with whether it is surely a plain file

_SIGNATURES = re.compile(  # strict enough that no list of paths is taken for a picture: BMW/1.jpg, P6/1.jpg
    rb"\xff\xd8\xff|\x89PNG|GIF8[79]a|BM....\0\0|RIFF....WEBP|II[*+]\0|MM\0[*+]|P[1-6Ff]\s+(#|\d+\s+\d+\s)|....ftypavi",
    re.DOTALL,
)


@dataclass(frozen=True)
class ImageSource:
    """A picture yet to be opened, and what to call it in print: one line of valid text, whatever the file's name."""

    name: str
    content: Path | bytes = field(repr=False)

    def open(self, least: Least | None = None) -> Image.Image:
        """The picture in mode RGB, as `open_image` gives it. Raises InputError as it does."""
        return open_image(self.content, name=self.name, least=least)


def list_images(folder: str | Path) -> Iterator[Path]:
    """Every file with one of IMAGE_SUFFIXES in a folder and the folders in it, in the order of sorted paths.

    One folder at a time is listed, links are followed but not in circles, and what is hidden is left out, with
    what macOS adds to archives. Memory is bounded: of a larger folder NAMES_AT_ONCE are held, and it is read again
    for the next ones. Raises InputError where a folder cannot be listed.
    """
    return _walk(Path(folder), _in_order)


def _walk(folder: Path, names_in: Listing) -> Iterator[Path]:
    above: list[tuple[int, int]] = []
    stack = [(folder, names_in(folder, _may_matter))]  # not recursion: folders may nest deeper than Python's calls
    while stack:
        here, names = stack[-1]
        try:
            if len(above) < len(stack):
                above.append(_identity(here))
            name, regular = next(names, ("", False))
        except OSError as error:
            raise InputError(f"{printable(here)}: cannot be listed ({error.strerror}); check the folder") from error
        if not name:
            stack.pop()
            above.pop()
            continue
        path = here / name
        mode = stat.S_IFREG if regular else _mode(path)
        if stat.S_ISDIR(mode):
            if _identity(path) not in above:
                stack.append((path, names_in(path, _may_matter)))
        # a link that leads nowhere is kept: opening it says so, leaving it out would not
        elif _is_image(name) and (stat.S_ISREG(mode) or not mode):
            yield path


def _identity(folder: Path) -> tuple[int, int]:
    """The same whatever path leads to it."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def _in_order(folder: Path, wanted: Wanted) -> Iterator[tuple[str, bool]]:
    """The names in a folder, sorted, each with whether it is known to be a plain file.

    What was held before is given up while the next ones are gathered: names alone, the smallest NAMES_AT_ONCE that
    come after the last.
    """
    last, more = "", True
    while more:
        names: list[str] = []
        bound, more = None, False
        for name, regular in _unsorted(folder, wanted):
            if name > last and (bound is None or name < bound):
                names.append(name if regular else name + "/")  # no name has this in it
                if len(names) >= 2 * NAMES_AT_ONCE:
                    bound, more = _keep_smallest(names), True
        if len(names) > NAMES_AT_ONCE:
            _keep_smallest(names)
            more = True
        names.sort(key=_bare)
        for name in names:
            yield _bare(name), name[-1] != "/"
        last = _bare(names[-1]) if names else last


def _keep_smallest(names: list[str]) -> str:
    """Leave the smallest NAMES_AT_ONCE, and return the largest of them."""
    names.sort(key=_bare)
    del names[NAMES_AT_ONCE:]
    return _bare(names[-1])


def _bare(name: str) -> str:
    return name[:-1] if name[-1] == "/" else name


def _unsorted(folder: Path, wanted: Wanted) -> Iterator[tuple[str, bool]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            regular = entry.is_file(follow_symlinks=False)
            if wanted(entry.name, regular):
                yield entry.name, regular


def _may_matter(name: str, regular: bool) -> bool:
    """Pictures by their names' ends, and whatever is no plain file: it may be a folder."""
    return not name.startswith(".") and name != "__MACOSX" and (not regular or _is_image(name))


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (a million Paths would be slow)


def _mode(path: Path) -> int:
    """The file's type; zero where there is no such file."""
    try:
        return path.stat().st_mode
    except PermissionError:
        return stat.S_IFREG  # it may be there; opening it tells the user what is wrong
    except (OSError, ValueError):
        return 0


def expand(arguments: Iterable[str]) -> Iterator[ImageSource]:
    """The pictures that arguments of a command line mean, opened later, one by one.

    An argument is a file, a folder with all that `list_images` finds, a pattern, or - for standard input: one
    picture's bytes, or paths to files and folders, one a line or, as `find -print0` writes them, ended by NUL.
    Patterns have *, ?, [] and, for any folders, **, which finds what `list_images` does; of a folder that one
    matches all pictures count. A path that exists is no pattern, whatever its name.

    Raises InputError with exit status 2, at once: missing, an empty folder, a pattern that nothing matches. While
    iterating: standard input that is neither, or a picture above MAX_STREAM_BYTES, or a folder not to be listed.
    """
    given = list(arguments)
    for argument in given:
        if argument != "-" and next(_paths(argument, _unsorted), None) is None:
            raise _nothing(argument)
    return chain.from_iterable(map(_sources, given))


def _sources(argument: str) -> Iterator[ImageSource]:
    if argument == "-":
        yield from _standard_input()
        return
    found = None
    for found in _paths(argument, _in_order):
        yield ImageSource(printable(found), found)
    if found is None:
        raise _nothing(argument)


def _nothing(argument: str) -> InputError:
    empty = argument and stat.S_ISDIR(_mode(Path(argument)))
    wrong = "no pictures in this folder" if empty else "no such file or folder, and no pattern that fits any"
    return InputError(f"{printable(argument) or '(empty)'}: {wrong}; check the path", exit_status=2)


def _paths(argument: str, names_in: Listing) -> Iterator[Path]:
    path = Path(argument)
    mode = _mode(path) if argument else 0
    if mode:
        yield from _walk(path, names_in) if stat.S_ISDIR(mode) else (path,)
    elif (wild := next((at for at, part in enumerate(path.parts) if glob.has_magic(part)), None)) is None:
        return
    elif "**" not in path.parts:
        for match in _glob(Path(*path.parts[:wild]), path.parts[wild:], names_in):
            yield from _walk(match, names_in) if stat.S_ISDIR(_mode(match)) else (match,)
    else:  # the walk of list_images, for glob's own runs in circles
        top = Path(*path.parts[:wild])
        for image in _walk(top, names_in) if stat.S_ISDIR(_mode(top)) else ():
            parts = image.relative_to(top).parts
            depths = range(len(parts) if path.name == "**" else len(parts) + 1)  # a last ** means folders only
            if any(_matches(parts[:depth], path.parts[wild:]) for depth in depths):
                yield image


def _glob(folder: Path, pattern: tuple[str, ...], names_in: Listing) -> Iterator[Path]:
    """What Python's glob finds, in order; of a folder of millions no more names are held than the listing holds."""
    part, rest = pattern[0], pattern[1:]
    if not glob.has_magic(part):
        found = iter([folder / part] if os.path.lexists(folder / part) else ())
    elif stat.S_ISDIR(_mode(folder)):
        hidden = part.startswith(".")
        names = names_in(folder, lambda name, _: fnmatch(name, part) and (hidden or not name.startswith(".")))
        found = (folder / name for name, _ in names)
    else:
        return
    try:
        for path in found:
            yield from _glob(path, rest, names_in) if rest else (path,)
    except OSError:  # may not be listed: nothing is found in it, as by the shell
        return


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern or not parts:
        return not parts and set(pattern) <= {"**"}
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or _matches(parts[1:], pattern)
    return fnmatch(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _standard_input() -> Iterator[ImageSource]:
    stream = getattr(sys.stdin, "buffer", None)  # None where the program was started without
    with suppress(OSError):  # no file, but something in memory
        # Read by an object of our own: Python stops hard when it ends while a thread waits in sys.stdin's.
        stream = open(sys.stdin.fileno(), "rb", closefd=False) if stream else None  # noqa: SIM115
    head = b""
    while stream and len(head) < 64 and not _begins_list(head) and (chunk := stream.read1(MAX_PATH_BYTES)):
        head += chunk
    if stream is None or not head.strip():
        raise InputError(f"{STANDARD_INPUT}: nothing in it; pipe a picture or a list of paths in", exit_status=2)
    if _SIGNATURES.match(head):
        yield ImageSource(STANDARD_INPUT, read_all(stream, STANDARD_INPUT, head))
        return
    known = False
    for path in _path_list(stream, head):
        mode = _mode(path)
        known = known or mode != 0
        if not known:  # such as a web page that tells of an error: one message, not one for each line
            wrong = f"not a supported image, and {printable(path)[:80]} is no path"
            raise InputError(f"{STANDARD_INPUT}: {wrong}; check what is piped in", exit_status=2)
        found = None
        for found in list_images(path) if stat.S_ISDIR(mode) else ():
            yield ImageSource(printable(found), found)
        if found is None:  # a file; or what opening it will call missing or a folder, without stopping the others
            yield ImageSource(printable(path), path)


def _begins_list(head: bytes) -> bool:
    """Whether there is a path already, to be answered before the next one comes."""
    first, end, _ = head.replace(b"\0", b"\n").partition(b"\n")
    return bool(end) and _mode(Path(os.fsdecode(first.removesuffix(b"\r")))) != 0


def _path_list(stream: BinaryIO, rest: bytes) -> Iterator[Path]:
    separator, ending = (b"\0", b"") if b"\0" in rest else (b"\n", b"\r")
    more = True
    while more:
        *lines, rest = rest.split(separator)
        yield from (Path(os.fsdecode(line)) for each in lines if (line := each.removesuffix(ending)))
        if len(rest) > MAX_PATH_BYTES:
            wrong = "not a supported image, and no list of paths"
            raise InputError(f"{STANDARD_INPUT}: {wrong}; check what is piped in", exit_status=2)
        chunk = cast(io.BufferedReader, stream).read1(MAX_PATH_BYTES)
        more = bool(chunk or rest)
        rest += chunk or separator
