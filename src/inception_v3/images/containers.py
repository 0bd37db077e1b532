"""Images inside other files: .tar (plain or compressed), .zip, and arrays in .npz and .npy.

`open_container` reads them as a stream in a fixed order, one image in memory at a time. Nothing is extracted to disk,
and the sizes that a file declares are checked before memory is allocated. data/shards.py reads the same members in any
order.
"""

import lzma
import math
import re
import stat
import tarfile
import tokenize
import warnings
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import numpy as np

from inception_v3.errors import InputError
from inception_v3.images.decode import MAX_STREAM_BYTES
from inception_v3.images.find import (
    SAMPLE_REASON,
    SHARD_NAME,
    ImageSource,
    LeftOut,
    NameTest,
    any_name,
    file_mode,
    is_image_name,
    is_system_name,
)
from inception_v3.support.system_errors import read_reason
from inception_v3.support.text import one_line, printable

SAMPLE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZ": "bz2", b"\xfd7": "lzma"}  # by first bytes: the module that decompresses
# Exceptions of damaged files. RuntimeError: a password, or a compression method that Python does not support.
ARCHIVE_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, tarfile.TarError, OSError)

# Shape and dtype of an array in C order.
ArrayHeader = tuple[tuple[int, ...], "np.dtype[Any]"]


class DamagedArchiveError(Exception):
    """The rest of an archive cannot be read. The message is the reason and the remedy, without the archive's name.

    `may_be_complete`: every member was read, and only the mark at the end of the archive is missing.
    """

    def __init__(self, message: str, *, may_be_complete: bool = False) -> None:
        super().__init__(message)
        self.may_be_complete = may_be_complete


@dataclass(frozen=True)
class Member:
    """A file in an archive. `read` returns its content, before the next member is taken; raises ARCHIVE_ERRORS.

    `offset`: of the content in a plain tar; in a zip the index of the entry. `fault`: why it cannot be read, or "".
    """

    name: str
    offset: int
    size: int
    read: Callable[[], bytes]
    fault: str = ""


@dataclass(frozen=True)
class Container:
    """A file that holds images. `count` is None if only reading it shows how many; `arrays` are those of an .npz file.

    `images(left_out, wanted)` yields the images whose names are wanted, by default all, any number of times. The others
    are not read. It raises InputError after the images before a damage.
    """

    images: Callable[..., Iterator[ImageSource]]
    count: int | None = None
    arrays: dict[str, ArrayHeader] = field(default_factory=dict)
    image_arrays: tuple[str, ...] = ()


def open_container(path: Path, name: str) -> Container | None:
    """Open a file by its content and its suffix; None if it is not a container. Images are named after `name`.

    Raises InputError: it cannot be read, or arrays that are not images.
    """
    if is_image_name(path.name) or not stat.S_ISREG(file_mode(path)):  # reading a pipe would empty it
        return None
    with archive_errors(name):
        if path.suffix.lower() == ".npy":
            return _open_npy(path, name)
        if path.suffix.lower() == ".npz":
            return _open_npz(path, name)
        if is_zip(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if all(entry.endswith(".npy") for entry in names):
                return _open_npz(path, name)
            count = sum(is_image_name(entry) and not _is_system_file(entry) for entry in names)
            return Container(partial(_archive_images, path, name), count or None)
        if SHARD_NAME.search(path.name) or tarfile.is_tarfile(path):
            return Container(partial(_archive_images, path, name))
    return None


@contextmanager
def archive_errors(name: str) -> Iterator[None]:
    """Turn the exceptions of a file that is damaged or cannot be read into an InputError that names it."""
    try:
        yield
    except DamagedArchiveError as error:
        if not error.may_be_complete:
            raise InputError(f"{name}: {error}") from error
        warnings.warn(f"{printable(name)}: {error}", stacklevel=3)
    except ARCHIVE_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{name}: {read_reason(error.filename or name, error)}") from error
        raise InputError(f"{name}: damaged or truncated ({error}); download or save it again") from error


# ------------------------------------------------------------------------------------------------ archives


def read_members(path: Path) -> Iterator[Member]:
    """The files in a tar, or in a zip in the order of their names, without hidden files and SYSTEM_NAMES.

    Raises DamagedArchiveError after the members before the damage, and OSError.
    """
    members = _read_zip(path) if is_zip(path) else _read_tar(path)
    return (member for member in members if not _is_system_file(member.name))


def _is_system_file(name: str) -> bool:
    return any(map(is_system_name, name.split("/")))


def is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip" or zipfile.is_zipfile(path)


def _read_zip(path: Path) -> Iterator[Member]:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise DamagedArchiveError(f"damaged or truncated ({printable(error)}); download or save it again") from error
    with archive:
        for index, entry in sorted(enumerate(archive.infolist()), key=lambda item: item[1].filename):
            if not entry.is_dir():
                yield Member(entry.filename, index, entry.file_size, partial(archive.read, entry))


def _read_tar(path: Path) -> Iterator[Member]:
    end = 0  # offset after the last member that was read
    fault = "not a tar file"
    with path.open("rb") as raw:
        length = raw.seek(0, 2)
        raw.seek(0)
        start = raw.read(2)
        if start == b"(\xb5":
            raise DamagedArchiveError("compressed by zstd; unzstd it")
        module = COMPRESSIONS.get(start)
        raw.seek(0)
        file: BinaryIO = import_module(module).open(raw) if module else raw
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                fault = "damaged"
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # tarfile would keep the header of every file
                    if member.size < 0 or (not module and member.offset_data + member.size > length):
                        raise tarfile.ReadError(f"cut short: {member.size} bytes at {member.offset_data}")
                    # members are padded to whole blocks
                    end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                    if not member.isdir():
                        is_content = member.isreg() and not member.issparse()
                        no_content = "" if is_content else "a link to another file; pack it with tar --dereference"
                        read = partial(_read_content, file, member.offset_data, member.size)
                        yield Member(member.name, member.offset_data, member.size, read, no_content)
        except Exception as error:  # tarfile raises many classes over damaged headers
            if getattr(error, "errno", None) is not None:
                raise
            detail = one_line(error)
            message = f"{fault} at byte {end} of {length} ({detail}); download or save it again"
            raise DamagedArchiveError(message) from error
        # tarfile mistakes a damaged header for the end of the archive, which is marked by blocks of zeros
        if not module:
            file.seek(end)
            _check_end(file.read(tarfile.BLOCKSIZE), end)


def _check_end(block: bytes, end: int) -> None:
    if block.strip(b"\0"):
        raise DamagedArchiveError(f"damaged at byte {end}: the rest is left out; download or save it again")
    if len(block) < tarfile.BLOCKSIZE:
        fault = f"no end mark at byte {end}: it may be cut short; download or save it again"
        raise DamagedArchiveError(fault, may_be_complete=True)


def _read_content(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    content = file.read(size)
    if len(content) < size:
        raise tarfile.ReadError("unexpected end of data")
    return content


def unused_members(names: Iterable[str]) -> dict[int, str]:
    """The images in a tar, by index in `names`, that are not used because another image of their sample is.

    Files of one WebDataset sample share the name up to the first dot, and after it numbers: 7.1.jpg and 7.2.jpg are two
    samples, because masks are not named by numbers. An image counts if its whole extension is one of SAMPLE_SUFFIXES,
    else one whose whole extension is that of another image, else the others (7.mask.png). A sample with other files,
    such as 7.cls, has one image, the first that counts most. Without any, names with dots or of several formats are
    images of their own: all that count equally are used.
    """
    images: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    labelled = set()
    for index, name in enumerate(names):
        key, extension = split_sample(name)
        if is_image_name(name):
            rank = 0 if extension in SAMPLE_SUFFIXES else 1 if extension.count(".") == 1 else 2
            images[key].append((rank, index, name))
        else:
            labelled.add(key)
    unused = {}
    for key, ranked in images.items():
        best = min(ranked)
        for rank, index, name in ranked:
            if index != best[1] if key in labelled else rank == 2 != best[0]:
                unused[index] = name
    return dict(sorted(unused.items()))


def split_sample(name: str) -> tuple[str, str]:
    """Split a member's name into the key of its sample and its extension in lower case, such as ".mask.png"."""
    folder, _, base = name.rpartition("/")
    match = cast("re.Match[str]", re.fullmatch(r"([^.]*(?:\.[0-9]+(?=\.))*)(.*)", base, re.DOTALL))
    return f"{folder}/{match[1]}", match[2].lower()


def _archive_images(path: Path, name: str, left_out: LeftOut, wanted: NameTest = any_name) -> Iterator[ImageSource]:
    """The images of an archive. Each is read when it is reached: seeking back in a compressed file is slow."""
    with archive_errors(name):
        is_tar = not is_zip(path)
        unused = unused_members(_names_before_damage(path)) if is_tar else {}
        for unused_name in unused.values():
            left_out.add(f"{name}/{unused_name}", SAMPLE_REASON)
        any_image = False
        for index, member in enumerate(read_members(path)):
            if is_image_name(member.name) and index not in unused:
                any_image = True
                if wanted(address := f"{name}/{member.name}"):
                    yield _image_of(member, address, is_tar)
            elif index not in unused:
                left_out.add_file(f"{name}/{member.name}")
        if not any_image:
            raise InputError(
                f"{name}: no images in this archive that can be read; {left_out.unread_images() or 'check it'}"
            )


def _names_before_damage(path: Path) -> Iterator[str]:
    with suppress(DamagedArchiveError):
        yield from (member.name for member in read_members(path))


def _image_of(member: Member, name: str, is_tar: bool) -> ImageSource:
    """Raises ARCHIVE_ERRORS: the tar is damaged. A damaged entry of a zip does not affect the others."""
    if member.fault or member.size > MAX_STREAM_BYTES:
        limit = f"more than {MAX_STREAM_BYTES >> 20} MiB; give it as a file in a folder"
        return ImageSource(name, InputError(f"{name}: {member.fault or limit}"))
    try:
        return ImageSource(name, member.read())
    except ARCHIVE_ERRORS as error:
        if is_tar:
            raise
        fault = f"cannot be read ({error}); pack it again, without a password"
        return ImageSource(name, InputError(f"{name}: {fault}"))


# -------------------------------------------------------------------------------------------------- arrays


def read_npz_headers(path: Path, name: str) -> dict[str, ArrayHeader]:
    """The header of each array of a .npz file, by the array's name. Raises InputError."""
    headers = {}
    with archive_errors(name), zipfile.ZipFile(path) as archive:
        for entry in archive.namelist():
            if entry.endswith(".npy"):
                with archive.open(entry) as file:
                    headers[entry.removesuffix(".npy")] = _read_header(file, name)
    return headers


def check_image_array(name: str, header: ArrayHeader) -> None:
    """Check that an array is a set of uint8 images. Raises InputError. Warns of channels first, (N, 3, H, W)."""
    shape, dtype = header
    if dtype != np.uint8:
        raise InputError(f"{name}: holds {dtype} values, but images must be uint8, 0 to 255; round and convert them")
    if not (len(shape) == 3 or (len(shape) == 4 and (shape[3] in (1, 3, 4) or shape[1] in (1, 3)))):
        raise InputError(f"{name}: shape {shape} is not that of images, (N, H, W, 3); reshape and save it again")
    if len(shape) == 3 and shape[2] in (3, 4):
        raise InputError(
            f"{name}: shape {shape} is that of one image; save several as (N, H, W, 3), or one as (1, H, W, 3)"
        )
    if not math.prod(shape):
        raise InputError(f"{name}: no images in this array; check the file")
    if math.prod(shape[1:]) > MAX_STREAM_BYTES:
        raise InputError(f"{name}: its images have more than {MAX_STREAM_BYTES >> 20} MiB each; make them smaller")
    if len(shape) == 4 and shape[3] not in (1, 3, 4):
        count, channels, height, width = shape
        fact = f"shape {shape} is read as {count:,} images of {height}x{width} pixels with {channels} channels"
        warnings.warn(f"{name}: {fact}; if this is wrong, transpose it to (N, H, W, {channels})", stacklevel=2)


def channels_last(pixels: np.ndarray) -> np.ndarray:
    """An image (H, W), (H, W, channels) or (channels, H, W) as (H, W, channels)."""
    if pixels.ndim == 2:
        return pixels[:, :, None]
    return pixels if pixels.shape[2] in (1, 3, 4) else pixels.transpose(1, 2, 0)


def _open_npz(path: Path, name: str) -> Container:
    headers = read_npz_headers(path, name)
    candidates = [key for key, (shape, dtype) in headers.items() if dtype == np.uint8 and len(shape) in (3, 4)]
    chosen = ["arr_0"] if "arr_0" in headers else candidates
    for key in chosen:
        check_image_array(name, headers[key])

    def images(_: LeftOut, wanted: NameTest = any_name) -> Iterator[ImageSource]:
        for key in chosen:
            with archive_errors(name), zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as file:
                yield from _array_images(f"{name}/{key}" if len(chosen) > 1 else name, file, wanted)
        if not chosen:
            raise InputError(f"{name}: no images (uint8 arrays) in it; check the file")

    return Container(images, sum(headers[key][0][0] for key in chosen), headers, tuple(chosen))


def _open_npy(path: Path, name: str) -> Container:
    with path.open("rb") as file:
        header = _read_header(file, name)
        size = file.tell() + math.prod(header[0])
    check_image_array(name, header)
    if path.stat().st_size < size:
        raise InputError(f"{name}: truncated; download or save it again")

    def images(_: LeftOut, wanted: NameTest = any_name) -> Iterator[ImageSource]:
        with path.open("rb") as file:
            yield from _array_images(name, file, wanted)

    return Container(images, header[0][0])


def _read_header(file: IO[bytes], name: str) -> ArrayHeader:
    """Read the header at the beginning of a .npy file. Raises InputError: damaged, or Fortran order."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(file)
        if any(length < 0 for length in shape):
            raise ValueError("a negative length")
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError) as error:  # NumPy parses it as Python source
        raise InputError(f"{name}: damaged or not a NumPy array; download or save it again") from error
    if fortran_order and len(shape) > 1 and dtype == np.uint8:
        raise InputError(f"{name}: stored in Fortran order; convert it with np.ascontiguousarray and save it again")
    return tuple(shape), dtype


def _array_images(name: str, file: IO[bytes], wanted: NameTest) -> Iterator[ImageSource]:
    (count, *shape), _ = _read_header(file, name)
    for index in range(count):
        if not wanted(f"{name}[{index}]"):
            file.seek(math.prod(shape), 1)
            continue
        content = file.read(math.prod(shape))
        if len(content) < math.prod(shape):
            raise InputError(f"{name}: truncated after {index} of {count} images; download or save it again")
        yield ImageSource(f"{name}[{index}]", channels_last(np.frombuffer(content, np.uint8).reshape(shape)))
