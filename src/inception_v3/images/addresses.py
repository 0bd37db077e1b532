"""Addresses of images, the same in all commands; see `expand`."""

import codecs
import glob
import io
import os
import re
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from inception_v3.errors import InputError
from inception_v3.images.decode import read_all
from inception_v3.images.find import (
    SYSTEM_NAMES,
    ImageSource,
    LeftOut,
    NameTest,
    any_name,
    file_mode,
    find_files,
    is_image_name,
    list_unsorted,
    walk,
)
from inception_v3.support.system_errors import check_readable, file_status, is_folder, why_missing
from inception_v3.support.text import byte_order_encoding, printable

MAX_FILES = 1_000_000  # that braces may stand for
MAX_HELD_BYTES = 2 * 2**30  # of images in archives that `collect` holds in memory
MAX_PATH_BYTES = 2**16  # no system has longer paths, so a longer line is not a path
STANDARD_INPUT = "standard input"

_RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.-?(\d{1,18}))?|([a-zA-Z])\.\.([a-zA-Z])")
_IMAGE_SIGNATURES = re.compile(  # strict, so that no list of paths is mistaken for an image: BMW/1.jpg, P6/1.jpg
    rb"\xff\xd8\xff|\x89PNG|GIF8[79]a|BM....\0\0|RIFF....WEBP|II[*+]\0|MM\0[*+]|P[1-6Ff]\s+(#|\d+\s+\d+\s)"
    rb"|....ftyp(avi|hei|hev|mif1|msf1)|\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
    re.DOTALL,
)


def is_url(address: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]*(::[^/]+)?://", address) is not None


def short_name(address: str) -> str:
    """The name of a data set for titles, without the folders around it and without a URL's host, user and query.

    Of a pattern of files it is the name of their folder, of KIND:FOLDER the kind, and of tfrecords:FOLDER the folder.
    """
    kind = re.fullmatch(r"([a-z][a-z0-9-]+)(?:\+[a-z]+)?:(?!//)(.+)", address, re.DOTALL)
    if kind is not None and not exists(address):
        return short_name(kind[2]) if kind[1] == "tfrecords" else kind[1]
    path = Path(urlsplit(address).path) if is_url(address) else Path(os.path.realpath(address))
    is_pattern = set("*?[{") & {*path.name} and not exists(address)
    return printable((path.parent if is_pattern else path).name or address)


exists = os.path.exists  # False for text that is too long to be a path, for which pathlib raises an error


def expand_paths(address: str) -> list[str]:
    """The files, folders and URLs that an address of one data set means: the forms of `expand` except `-`.

    Raises InputError, with exit status 2: no file matches, or the braces expand to more than MAX_FILES; with 1: no
    permission to find it out.
    """
    paths: list[str] = []
    for path in expand_braces(address):
        if is_url(path) or file_status(path) is not None:
            paths.append(path)
        elif glob.has_magic(path) and (matches := _glob(path)):
            paths += matches
        else:
            fault = (
                "no such folder or file, and no file matches it as a pattern; give a folder of class/image files, an "
                "archive, or digits"
            )
            raise InputError(f"{path}: {why_missing(path, fault)}", exit_status=2)
    return paths


def _glob(pattern: str) -> list[str]:
    """The paths that match, sorted. Raises InputError: a folder in which to look for them cannot be listed."""
    parts = Path(pattern).parts
    for index in (index for index, part in enumerate(parts) if glob.has_magic(part)):
        for folder in glob.glob(str(Path(*parts[:index])), recursive=True):  # noqa: PTH207 (a pattern with folders)
            if is_folder(folder):
                check_readable(folder)
    return sorted(filter(_is_no_system_file, glob.glob(pattern, recursive=True)))  # noqa: PTH207 (absolute)


def _is_no_system_file(path: str) -> bool:
    return SYSTEM_NAMES.isdisjoint(path.lower().split("/"))


def expand(arguments: Iterable[str]) -> Iterator[ImageSource]:
    """Yield the images that the arguments of a command line refer to. They are read and decoded later, one by one.

    An argument is one of these:

    - a file, or a folder (all images in it and its subfolders, or if there are none, those of the .tar and .zip in it);
    - an archive: .tar, .tar.gz (.tgz), .tar.bz2, .tar.xz, .zip, or uint8 arrays in .npz or .npy. Its images are named
      ARCHIVE/MEMBER, and those of arrays NAME[INDEX];
    - a URL of one of these files, which is downloaded once to the cache when it is needed;
    - a pattern of paths with *, ?, [] and, for any number of folders, **;
    - any of these with braces, {000..009} or {a,b}, up to MAX_FILES files;
    - `-` for standard input: the bytes of one image, or paths of files, folders and archives, one per line or separated
      by NUL as `find -print0` writes them.

    An existing path is never treated as a pattern. An archive that cannot be read becomes an image that cannot be read,
    so that the others are still read. Warns once of all images that are not those of their samples, see
    `containers.unused_members`.

    Raises InputError with exit status 2 at once: no such file, an empty folder, a pattern without a match, too many
    files. While iterating: standard input is neither an image nor a list of paths, an image in it exceeds
    MAX_STREAM_BYTES, or a folder cannot be listed.
    """
    arguments = list(arguments)
    check_addresses(arguments)
    return _read_all_images(arguments)


def check_addresses(arguments: list[str]) -> None:
    """Check at once what can be checked without listing whole folders. Raises InputError as `expand` does."""
    for address in chain.from_iterable(map(expand_braces, arguments)):
        if address != "-" and not is_url(address) and next(find_files(address, list_unsorted), None) is None:
            raise _no_images(address)


def collect(arguments: Iterable[str]) -> list[ImageSource]:
    """All images of `expand` at once, for commands that choose some of them at random.

    Raises InputError as `expand` does, and if the images in archives take more than MAX_HELD_BYTES of memory.
    """
    sources, held = [], 0
    for source in expand(arguments):
        held += source.nbytes
        if held > MAX_HELD_BYTES:
            limit = f"more than {MAX_HELD_BYTES >> 20} MiB of images in archives"
            raise InputError(f"{source.name}: {limit}; unpack them into a folder")
        sources.append(source)
    return sources


def count_images(arguments: Iterable[str]) -> int | None:
    """The number of images of `expand`, from listing folders; None if files must be read to count them.

    Raises InputError: a folder cannot be listed.
    """
    addresses = list(chain.from_iterable(map(expand_braces, arguments)))
    if any(address == "-" or is_url(address) for address in addresses):
        return None
    count = 0
    for path in chain.from_iterable(find_files(address, list_unsorted) for address in addresses):
        if not is_image_name(path.name):  # it may be an archive
            return None
        count += 1
    return count


def _read_all_images(arguments: list[str]) -> Iterator[ImageSource]:
    left_out = LeftOut()
    for file in chain.from_iterable(find_sources(argument, left_out) for argument in arguments):
        try:
            yield from images_in(file, left_out)
        except InputError as error:
            yield ImageSource(file.name, error)
    left_out.warn()


def find_sources(
    argument: str, left_out: LeftOut | None = None, stdin: io.BufferedReader | None = None
) -> Iterator[ImageSource]:
    """Yield the files that an argument of `expand` refers to: images, and archives that are not opened yet.

    Other files in folders are added to `left_out`. `stdin` is read instead of the standard input. A file that cannot be
    downloaded has the error as its content. Raises InputError as `expand` does, while iterating.
    """
    if argument == "-":
        yield from _standard_input(stdin or open_standard_input(), left_out)
        return
    for address in expand_braces(argument):
        if is_url(address):
            yield _download(address)
            continue
        path = None
        for path in find_files(address, left_out=left_out):
            yield ImageSource(str(path), path)
        if path is None:
            raise _no_images(address)


def images_in(source: ImageSource, left_out: LeftOut, wanted: NameTest = any_name) -> Iterator[ImageSource]:
    """The images of an archive, or the image itself, if their names are `wanted`. Raises InputError: a damaged archive.

    Images that are not wanted are not read.
    """
    container = None
    if isinstance(source.content, Path) and not is_image_name(source.content.name):
        from inception_v3.images.containers import open_container  # takes 13 ms to import

        container = open_container(source.content, source.name)
    if container is not None:
        return container.images(left_out, wanted)
    return iter([source] if wanted(source.name) else [])


def _download(url: str) -> ImageSource:
    from inception_v3.support.download import fetch  # imports rich, which takes time

    try:
        return ImageSource(url, fetch(url))
    except InputError as error:
        return ImageSource(url, error)


def _no_images(address: str) -> InputError:
    fault = why_missing(address, "no such file or folder, and no pattern that matches any; check the path")
    if address and stat.S_ISDIR(file_mode(Path(address))):
        left_out = LeftOut()
        deque(walk(Path(address), list_unsorted, left_out=left_out), maxlen=0)
        fault = f"no images in this folder; {left_out.unread_images() or 'check the path'}"
    return InputError(f"{address or '(empty)'}: {fault}", exit_status=2)


# ------------------------------------------------------------------------------------------------ braces


def expand_braces(text: str) -> Iterator[str]:
    """Expand {000..009}, {a..c}, {0..8..2} and {a,b} as the shell does, also nested; lazily. An existing path is kept.

    Raises InputError: more than MAX_FILES results, which is checked first.
    """
    if "{" not in text or os.path.lexists(text):
        return iter([text])
    try:
        count, results = _parse(text)
    except RecursionError as error:
        raise InputError(f"{text[:80]}: its braces are nested too deeply", exit_status=2) from error
    if count > MAX_FILES:
        raise InputError(f"{text}: more than {MAX_FILES:,} files; use a smaller range in the braces", exit_status=2)
    return results()


Results = tuple[int, Callable[[], Iterator[str]]]  # the number of results, and a function that yields them


def _parse(text: str) -> Results:
    starts = (index for index, character in enumerate(text) if character == "{")
    start, parts = next(((start, parts) for start in starts if (parts := _split(text, start))), (0, []))
    if not parts:
        return 1, lambda: iter([text])
    count, middles = _parse_group(parts)
    end = start + sum(len(part) + 1 for part in parts) + 1
    count_after, endings = _parse(text[end:])
    return count * count_after, lambda: (text[:start] + middle + ending for middle in middles() for ending in endings())


def _split(text: str, start: int) -> list[str]:
    """The parts between the commas of the group that starts at the brace at `start`; empty if it does not end."""
    depth, parts, begin = 0, [], start + 1
    for index in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0 or (depth == 1 and text[index] == ","):
            parts.append(text[begin:index])
            begin = index + 1
            if depth == 0:
                return parts
    return []


def _parse_group(parts: list[str]) -> Results:
    if len(parts) > 1:
        parsed = [_parse(part) for part in parts]
        return sum(count for count, _ in parsed), lambda: chain.from_iterable(results() for _, results in parsed)
    if (match := _RANGE.fullmatch(parts[0])) is None:  # the shell, too, keeps the braces around a single name
        count, results = _parse(parts[0])
        return count, lambda: (f"{{{result}}}" for result in results())
    first, last, step, first_letter, last_letter = match.groups()
    low, high = (ord(first_letter), ord(last_letter)) if first_letter else (int(first), int(last))
    size = max(int(step or 1), 1)
    numbers = range(low, high + 1, size) if low <= high else range(low, high - 1, -size)
    padded = any(re.match(r"-?0\d", end) for end in (first or "", last or ""))
    width = max(len(first), len(last)) if padded else 0
    return len(numbers), lambda: (chr(number) if first_letter else f"{number:0{width}}" for number in numbers)


# ---------------------------------------------------------------------------------------- standard input


def _standard_input(stream: io.BufferedReader, left_out: LeftOut | None) -> Iterator[ImageSource]:
    start = b""
    while len(start) < 64 and not _starts_with_path(start) and (chunk := stream.read1(MAX_PATH_BYTES)):
        start += chunk
    if not _as_utf8(start).strip():
        raise InputError(f"{STANDARD_INPUT}: it is empty; pipe an image or a list of paths in", exit_status=2)
    if _IMAGE_SIGNATURES.match(start):
        yield ImageSource(STANDARD_INPUT, read_all(stream, STANDARD_INPUT, start))
        return
    is_list = False
    for path in _path_list(_utf8_chunks(stream, start)):
        mode = file_mode(path)
        is_list = is_list or mode != 0
        if not is_list:  # the HTML page of a failed download, for example: one message, not one per line
            raise _not_supported(f"{str(path)[:80]} is not a path")
        files = find_files(os.fspath(path), left_out=left_out) if stat.S_ISDIR(mode) else iter(())
        first = next(files, path)  # a file, or a missing file or empty folder, which is reported when it is opened
        yield from (ImageSource(str(file), file) for file in chain((first,), files))


def open_standard_input() -> io.BufferedReader:
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
    first, end, _ = _as_utf8(start).replace(b"\0", b"\n").partition(b"\n")
    return bool(end) and file_mode(Path(os.fsdecode(first.removesuffix(b"\r")))) != 0


def _as_utf8(start: bytes) -> bytes:
    """The start of a text without its byte order mark, and in UTF-8 if that names UTF-16."""
    return b"".join(_utf8_chunks(io.BytesIO(), start))


def _utf8_chunks(stream: io.BufferedReader | io.BytesIO, start: bytes) -> Iterator[bytes]:
    """`start` and the rest of a stream, without a byte order mark, and in UTF-8 if that names UTF-16."""
    chunks = chain((start,), iter(lambda: stream.read1(MAX_PATH_BYTES), b""))
    if not (encoding := byte_order_encoding(start)):
        return chunks
    # PowerShell writes UTF-16, in which no byte is a file name in another encoding
    decoder = codecs.getincrementaldecoder(encoding)("replace" if encoding == "utf-16" else "surrogateescape")
    return (decoder.decode(chunk).encode("utf-8", "surrogateescape") for chunk in chunks)


def _path_list(chunks: Iterator[bytes]) -> Iterator[Path]:
    rest = next(chunks)
    separator, ending = (b"\0", b"") if b"\0" in rest else (b"\n", b"\r")
    more = True
    while more:
        *lines, rest = rest.split(separator)
        yield from (Path(os.fsdecode(path)) for line in lines if (path := line.removesuffix(ending)))
        if len(rest) > MAX_PATH_BYTES:
            raise _not_supported("not a list of paths")
        chunk = next(chunks, None)
        more = chunk is not None or bool(rest)
        rest += separator if chunk is None else chunk
