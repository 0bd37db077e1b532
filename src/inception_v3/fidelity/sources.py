"""Where pictures come from: folders, zip and tar files, WebDataset shards, .npz and .npy arrays.

A source is read as a stream, one picture at a time and always in the same order. What an archive says of its
sizes is checked before memory is taken.
"""

import glob
import itertools
import lzma
import math
import re
import tarfile
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from inception_v3.errors import InputError
from inception_v3.fidelity.pictures import Picture
from inception_v3.images.decode import MAX_STREAM_BYTES
from inception_v3.images.find import IMAGE_SUFFIXES, list_images
from inception_v3.support.text import printable

KINDS = "a folder, .zip, .tar, .npz, .npy, WebDataset shards such as 'train-{000..009}.tar', or saved statistics"
# RuntimeError: a password, or a way of packing that Python has not
DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)
_SHARD = re.compile(r"\.(tar|tgz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_SHARDS = 1_000_000
_MOST_OF_A_SAMPLE = 32  # files beside a picture that are held until it is known whether there is one
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """A set of pictures, to be read any number of times.

    `count` is None where only reading it all would tell, and 0 where there are statistics alone.
    `statistics` is the .npz that holds a mean and a covariance, alone or beside pictures.
    """

    name: str
    pictures: Callable[[], Iterator[Picture]]
    count: int | None = None
    statistics: Path | None = None


def open_source(argument: str | Path) -> Source:
    """The source that an argument means. Raises InputError: missing, empty, damaged, or of another kind."""
    text = str(argument)
    name, path = printable(text), Path(text)
    try:
        if path.is_dir():
            return _folder(name, path)
        if path.is_file():
            return _file(name, path)
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error}); check the path") from error
    shards = [Path(shard) for shard in _shards(text)]
    if not shards:
        raise InputError(f"{name}: no such file or folder; give {KINDS}", exit_status=2)
    for shard in shards:
        if not shard.is_file():
            raise InputError(f"{printable(shard)}: there is no such shard; check {name}", exit_status=2)
        if not tarfile.is_tarfile(shard):
            raise InputError(f"{printable(shard)}: no tar file, as shards are; check {name}")
    return Source(name, lambda: itertools.chain.from_iterable(map(_tar, shards)))


def _file(name: str, path: Path) -> Source:
    if path.suffix.lower() == ".npy":
        return _npy(name, path)
    if zipfile.is_zipfile(path):
        with _naming(name), zipfile.ZipFile(path) as archive:
            entries = archive.namelist()
        if path.suffix.lower() == ".npz" or all(entry.endswith(".npy") for entry in entries):
            return _npz(name, path, entries)
        wanted = sorted(entry for entry in entries if _is_picture(entry))
        if not wanted:
            raise InputError(f"{name}: no pictures in this archive; check the file")
        return Source(name, lambda: _zip(name, path, wanted), len(wanted))
    if path.suffix.lower() == ".npz":
        raise InputError(f"{name}: damaged or cut short, no .npz; download or save it again")
    if tarfile.is_tarfile(path):
        return Source(name, lambda: _tar(path))
    raise InputError(f"{name}: not a set of pictures (damaged, or of another kind); give {KINDS}")


# --- folders ---


def _folder(name: str, folder: Path) -> Source:
    # Text, not Paths, and in the order of the text: as the other programs list them, which their sampling depends on.
    files = sorted(str(path) for path in list_images(folder))
    if files:
        return Source(name, lambda: (Picture(printable(file), Path(file)) for file in files), len(files))
    if shards := sorted(path for path in folder.iterdir() if _SHARD.search(path.name)):
        return Source(name, lambda: itertools.chain.from_iterable(map(_tar, shards)))
    raise InputError(f"{name}: no pictures in this folder; check the path", exit_status=2)


# --- archives ---


def _is_picture(entry: str) -> bool:
    """By its name, and not hidden or added by macOS."""
    parts = entry.split("/")
    hidden = any(part.startswith(".") and part not in (".", "..") for part in parts)
    return Path(parts[-1]).suffix.lower() in IMAGE_SUFFIXES and not hidden and "__MACOSX" not in parts


def _zip(name: str, path: Path, entries: list[str]) -> Iterator[Picture]:
    with _naming(name), zipfile.ZipFile(path) as archive:
        for entry in entries:
            label = printable(f"{path}/{entry}")
            try:
                yield Picture(label, _limited(archive.getinfo(entry).file_size, label) or archive.read(entry))
            except DAMAGE as error:
                reason = f"{label}: cannot be read ({printable(error)}); pack it again, without a password"
                yield Picture(label, InputError(reason))


def _limited(size: int, label: str) -> InputError | None:
    if size <= MAX_STREAM_BYTES:
        return None
    return InputError(f"{label}: more than {MAX_STREAM_BYTES >> 20} MiB; give it as a file in a folder")


def _tar(path: Path) -> Iterator[Picture]:
    """Pictures of a tar file, or of a WebDataset shard: of the files of one sample those with a plain extension.

    A sample's files follow each other and agree up to the first dot: of 7.jpg, 7.mask.png and 7.cls the first is
    the picture. 7.1.jpg and 7.2.jpg are two, as no mask is called by a number. Each is read where it stands: to go
    back in a compressed file is to read it from its beginning.
    """
    name = printable(path)
    found = plain = False
    sample, waiting = "", list[Picture]()  # of this sample, those without a plain extension, until it ends
    with _naming(name), tarfile.open(path) as archive:
        for entry in archive:
            archive.members = []  # type: ignore[attr-defined]  # it would keep what it knows of every file
            if entry.isdir() or not _is_picture(entry.name):
                continue
            found = True
            if not entry.isfile():
                label = printable(f"{path}/{entry.name}")
                reason = f"{label}: a link to another file; pack it with tar --dereference --hard-dereference"
                yield Picture(label, InputError(reason))
                continue
            key, extension = _sample(entry.name)
            if key != sample:
                yield from () if plain else waiting
                sample, plain, waiting = key, False, []
            if extension in IMAGE_SUFFIXES:
                plain = True
                yield _read(archive, entry, path)
            elif not plain:
                waiting.append(_read(archive, entry, path))
                if len(waiting) == _MOST_OF_A_SAMPLE:  # names with dots, no sample
                    yield from waiting
                    waiting = []
        yield from () if plain else waiting
    if not found:
        raise InputError(f"{name}: no pictures in this archive; check the file")


def _read(archive: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> Picture:
    label = printable(f"{path}/{entry.name}")
    file = archive.extractfile(entry)
    assert file is not None  # it is a file
    content = _limited(entry.size, label) or file.read()
    if isinstance(content, bytes) and len(content) != entry.size:
        raise tarfile.ReadError("unexpected end of data")
    return Picture(label, content)


def _sample(entry: str) -> tuple[str, str]:
    folder, _, base = entry.rpartition("/")
    key, dot, extension = base.partition(".")
    middle, _, last = extension.rpartition(".")
    if middle.replace(".", "").isdecimal():
        key, extension = f"{key}.{middle}", last
    return f"{folder}/{key}", (dot + extension).lower()


def _shards(text: str) -> Iterator[str]:
    """Files of a pattern: {000..009} counts, whether they exist or not; *, ? and [] find what is there."""
    if not (found := _RANGE.search(text)):
        yield from sorted(glob.glob(text)) if glob.has_magic(text) else ()  # noqa: PTH207
        return
    first, last = int(found[1]), int(found[2])
    if not 0 <= last - first < _MAX_SHARDS:
        raise InputError(f"{printable(text)}: {found[0]} counts to no number of shards; check it", exit_status=2)
    for number in range(first, last + 1):
        shard = f"{text[: found.start()]}{number:0{len(found[1])}}{text[found.end() :]}"
        yield from _shards(shard) if _RANGE.search(shard) else (shard,)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except (*DAMAGE, tarfile.TarError, OSError) as error:
        detail = printable(getattr(error, "strerror", None) or error)
        raise InputError(f"{name}: damaged or cut short ({detail}); download or save it again") from error


# --- arrays ---


def _npy(name: str, path: Path) -> Source:
    with path.open("rb") as file:
        shape, dtype, start = header(file, name)
    _check_pictures(name, shape, dtype)
    if path.stat().st_size < start + math.prod(shape):
        raise InputError(f"{name}: cut short; download or save it again")
    return Source(name, lambda: _rows(name, path.open("rb")), shape[0])


def _npz(name: str, path: Path, entries: list[str]) -> Source:
    statistics = path if {"mu.npy", "sigma.npy"} <= set(entries) else None
    headers = {}
    with _naming(name), zipfile.ZipFile(path) as archive:
        for entry in entries:
            if entry.endswith(".npy"):
                with archive.open(entry) as file:
                    headers[entry] = header(file, name)[:2]
    pictures = [entry for entry, (shape, dtype) in headers.items() if dtype == np.uint8 and len(shape) in (3, 4)]
    wanted = "arr_0.npy" if "arr_0.npy" in headers else next(iter(pictures), None)
    if wanted is None:
        if statistics:
            return Source(name, lambda: iter(()), 0, statistics)
        raise InputError(f"{name}: no pictures (uint8 arrays) and no statistics (mu and sigma) in it; check the file")
    if len(pictures) > 1 and wanted != "arr_0.npy":
        raise InputError(f"{name}: holds {len(pictures)} arrays of pictures; save the one that counts as arr_0")
    _check_pictures(name, *headers[wanted])

    def rows() -> Iterator[Picture]:
        with _naming(name), zipfile.ZipFile(path) as archive:
            yield from _rows(name, archive.open(wanted))

    return Source(name, rows, headers[wanted][0][0], statistics)


def header(file: IO[bytes], name: str) -> tuple[Shape, "np.dtype[Any]", int]:
    """Shape, type and length of the header of an array in NumPy's format. Raises InputError."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if any(length < 0 for length in shape):
            raise ValueError("a negative length")
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError) as error:  # it is parsed as Python
        raise InputError(f"{name}: damaged or no array of NumPy's; download or save it again") from error
    if fortran and len(shape) > 1 and dtype == np.uint8:
        raise InputError(f"{name}: stored by columns; save it with np.ascontiguousarray")
    return tuple(shape), dtype, file.tell()


def _check_pictures(name: str, shape: Shape, dtype: "np.dtype[Any]") -> None:
    if dtype != np.uint8:
        raise InputError(f"{name}: holds {dtype} where pictures are uint8, 0 to 255; round and save them so")
    pictures = len(shape) == 3 or (len(shape) == 4 and (shape[3] in (1, 3, 4) or shape[1] in (1, 3)))
    if not pictures:
        raise InputError(f"{name}: its shape {shape} is not that of pictures, (N, H, W, 3); reshape and save it")
    if len(shape) == 3 and shape[2] in (3, 4):
        one = f"its shape {shape} is that of one picture"
        raise InputError(f"{name}: {one}; save several as (N, H, W, 3), or one as (1, H, W, 3)")
    if not math.prod(shape):
        raise InputError(f"{name}: no pictures in this array; check the file")
    if math.prod(shape[1:]) > MAX_STREAM_BYTES:
        raise InputError(f"{name}: its pictures have more than {MAX_STREAM_BYTES >> 20} MiB each; make them smaller")


def _rows(name: str, opened: IO[bytes]) -> Iterator[Picture]:
    with opened as file:
        (count, *rest), _, _ = header(file, name)
        if len(rest) == 2:
            rest = [*rest, 1]
        channels_last = rest[2] in (1, 3, 4)
        for place in range(count):
            content = file.read(math.prod(rest))
            if len(content) < math.prod(rest):
                raise InputError(f"{name}: cut short after {place} of {count} pictures; download or save it again")
            pixels = np.frombuffer(content, np.uint8).reshape(rest)
            yield Picture(f"{name}[{place}]", pixels if channels_last else pixels.transpose(1, 2, 0))
