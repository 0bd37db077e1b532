"""Sets of images: folders, zip and tar files, WebDataset shards, .npz and .npy arrays.

A set is read as a stream, one image at a time and always in the same order. Sizes that an archive declares are checked
before memory is allocated.
"""

import glob
import itertools
import math
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from inception_v3.errors import InputError
from inception_v3.fidelity.npy import ARCHIVE_ERRORS, read_npy_header, read_npz_headers
from inception_v3.fidelity.stored_image import StoredImage
from inception_v3.images.decode import MAX_STREAM_BYTES
from inception_v3.images.find import IMAGE_SUFFIXES, list_images
from inception_v3.support.text import printable

SUPPORTED = "a folder, .zip, .tar, .npz, .npy, WebDataset shards such as 'train-{000..009}.tar', or saved statistics"
_SHARD = re.compile(r"\.(tar|tgz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_SHARDS = 1_000_000
_MAX_HELD = 32  # images of one WebDataset sample that are held in memory


@dataclass(frozen=True)
class ImageSet:
    """A set of images that can be read any number of times.

    `count` is None if it is only known after reading the whole set, and 0 if there are statistics and no images.
    `statistics` is the path of the .npz file that holds a mean and a covariance, with or without images.
    """

    name: str
    images: Callable[[], Iterator[StoredImage]]
    count: int | None = None
    statistics: Path | None = None


def open_image_set(argument: str | Path) -> ImageSet:
    """Open a path or a pattern of shards. Raises InputError: missing, empty, damaged, or not supported."""
    text = str(argument)
    name, path = printable(text), Path(text)
    try:
        if path.is_dir():
            return _open_folder(name, path)
        if path.is_file():
            return _open_file(name, path)
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error}); check the path") from error
    shards = [Path(shard) for shard in _expand_shards(text)]
    if not shards:
        raise InputError(f"{name}: no such file or folder; give {SUPPORTED}", exit_status=2)
    for shard in shards:
        if not shard.is_file():
            raise InputError(f"{printable(shard)}: no such shard; check {name}", exit_status=2)
        if not tarfile.is_tarfile(shard):
            raise InputError(f"{printable(shard)}: not a tar file, which shards must be; check {name}")
    return _shard_set(name, shards)


def _open_folder(name: str, folder: Path) -> ImageSet:
    # Sorted as text, as the other programs sort, because KID and the Inception Score sample by index.
    files = sorted(str(path) for path in list_images(folder))
    if files:
        return ImageSet(name, lambda: (StoredImage(printable(file), Path(file)) for file in files), len(files))
    if shards := sorted(path for path in folder.iterdir() if _SHARD.search(path.name)):
        return _shard_set(name, shards)
    raise InputError(f"{name}: no images in this folder; check the path", exit_status=2)


def _open_file(name: str, path: Path) -> ImageSet:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _open_npy(name, path)
    if zipfile.is_zipfile(path):
        with _report_damage(name), zipfile.ZipFile(path) as archive:
            entries = archive.namelist()
        if suffix == ".npz" or all(entry.endswith(".npy") for entry in entries):
            return _open_npz(name, path)
        images = sorted(entry for entry in entries if _is_image(entry))
        if not images:
            raise InputError(f"{name}: no images in this archive; check the file")
        return ImageSet(name, lambda: _read_zip(name, path, images), len(images))
    if suffix == ".npz":
        raise InputError(f"{name}: damaged or truncated .npz file; download or save it again")
    if tarfile.is_tarfile(path):
        return _shard_set(name, [path])
    raise InputError(f"{name}: not a set of images (damaged, or not supported); give {SUPPORTED}")


# --- archives ---


def _shard_set(name: str, shards: list[Path]) -> ImageSet:
    return ImageSet(name, lambda: itertools.chain.from_iterable(map(_read_tar, shards)))


def _expand_shards(text: str) -> Iterator[str]:
    """Expand a pattern to paths: {000..009} counts without looking at the disk; *, ? and [] match files."""
    if not (braces := _RANGE.search(text)):
        yield from sorted(glob.glob(text)) if glob.has_magic(text) else ()  # noqa: PTH207
        return
    first, last = int(braces[1]), int(braces[2])
    if not 0 <= last - first < _MAX_SHARDS:
        raise InputError(
            f"{printable(text)}: {braces[0]} is not a range of 1 to {_MAX_SHARDS:,} shards; correct it", exit_status=2
        )
    for number in range(first, last + 1):
        shard = f"{text[: braces.start()]}{number:0{len(braces[1])}}{text[braces.end() :]}"
        yield from _expand_shards(shard) if _RANGE.search(shard) else (shard,)


def _is_image(entry: str) -> bool:
    """Whether an entry has an image's extension, and is neither hidden nor added by macOS."""
    parts = entry.split("/")
    hidden = any(part.startswith(".") and part not in (".", "..") for part in parts)
    return Path(parts[-1]).suffix.lower() in IMAGE_SUFFIXES and not hidden and "__MACOSX" not in parts


def _read_zip(name: str, path: Path, entries: list[str]) -> Iterator[StoredImage]:
    with _report_damage(name), zipfile.ZipFile(path) as archive:
        for entry in entries:
            label = printable(f"{path}/{entry}")
            try:
                yield StoredImage(label, _too_large(archive.getinfo(entry).file_size, label) or archive.read(entry))
            except ARCHIVE_ERRORS as error:
                yield StoredImage(
                    label,
                    InputError(f"{label}: cannot be read ({printable(error)}); pack it again, without a password"),
                )


def _too_large(size: int, label: str) -> InputError | None:
    if size <= MAX_STREAM_BYTES:
        return None
    return InputError(f"{label}: more than {MAX_STREAM_BYTES >> 20} MiB; give it as a file in a folder")


def _read_tar(path: Path) -> Iterator[StoredImage]:
    """Read the images of a tar file, or of a WebDataset shard, in one pass.

    Files of one WebDataset sample follow each other and share the name up to the first dot. Of 7.jpg, 7.mask.png and
    7.cls only the first is used, because its extension is a plain image extension; 7.mask.png is used if there is no
    such file. 7.1.jpg and 7.2.jpg are two samples, because masks are not named by numbers.

    Each image is read when its entry is reached: seeking back in a compressed file means reading it from its beginning.
    """
    name = printable(path)
    any_image = has_plain = False
    sample, held = "", list[StoredImage]()  # images with compound extensions, held until the sample ends
    with _report_damage(name), tarfile.open(path) as archive:
        for entry in archive:
            archive.members = []  # type: ignore[attr-defined]  # tarfile would keep the header of every file
            if entry.isdir() or not _is_image(entry.name):
                continue
            any_image = True
            if not entry.isfile():
                label = printable(f"{path}/{entry.name}")
                yield StoredImage(
                    label,
                    InputError(f"{label}: a link to another file; pack it with tar --dereference --hard-dereference"),
                )
                continue
            key, extension = _split_sample(entry.name)
            if key != sample:
                yield from () if has_plain else held
                sample, has_plain, held = key, False, []
            if extension in IMAGE_SUFFIXES:
                has_plain = True
                yield _read_member(archive, entry, path)
            elif not has_plain:
                held.append(_read_member(archive, entry, path))
                if len(held) == _MAX_HELD:  # too many for a sample: their names merely contain dots
                    yield from held
                    held = []
        yield from () if has_plain else held
    if not any_image:
        raise InputError(f"{name}: no images in this archive; check the file")


def _read_member(archive: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> StoredImage:
    label = printable(f"{path}/{entry.name}")
    file = archive.extractfile(entry)
    assert file is not None  # extractfile returns None only for folders and devices
    content = _too_large(entry.size, label) or file.read()
    if isinstance(content, bytes) and len(content) != entry.size:
        raise tarfile.ReadError("unexpected end of data")
    return StoredImage(label, content)


def _split_sample(entry: str) -> tuple[str, str]:
    """Split an entry's path into the key of its sample and its extension, which may be compound (".mask.png")."""
    folder, _, base = entry.rpartition("/")
    key, dot, extension = base.partition(".")
    middle, _, last = extension.rpartition(".")
    if middle.replace(".", "").isdecimal():
        key, extension = f"{key}.{middle}", last
    return f"{folder}/{key}", (dot + extension).lower()


@contextmanager
def _report_damage(name: str) -> Iterator[None]:
    """Turn the exceptions of a damaged archive into an InputError that names the archive."""
    try:
        yield
    except (*ARCHIVE_ERRORS, tarfile.TarError, OSError) as error:
        detail = printable(getattr(error, "strerror", None) or error)
        raise InputError(f"{name}: damaged or truncated ({detail}); download or save it again") from error


# --- arrays ---


def _open_npy(name: str, path: Path) -> ImageSet:
    with path.open("rb") as file:
        shape, dtype = read_npy_header(file, name)
        size = file.tell() + math.prod(shape)
    _check_images(name, shape, dtype)
    if path.stat().st_size < size:
        raise InputError(f"{name}: truncated; download or save it again")
    return ImageSet(name, lambda: _read_array(name, path.open("rb")), shape[0])


def _open_npz(name: str, path: Path) -> ImageSet:
    with _report_damage(name):
        headers = read_npz_headers(path, name)
    statistics = path if {"mu", "sigma"} <= headers.keys() else None
    candidates = [key for key, (shape, dtype) in headers.items() if dtype == np.uint8 and len(shape) in (3, 4)]
    array = "arr_0" if "arr_0" in headers else next(iter(candidates), None)
    if array is None:
        if statistics:
            return ImageSet(name, lambda: iter(()), 0, statistics)
        raise InputError(f"{name}: no images (uint8 arrays) and no statistics (mu and sigma) in it; check the file")
    if len(candidates) > 1 and array != "arr_0":
        raise InputError(f"{name}: holds {len(candidates)} arrays of images; save the one to use as arr_0")
    shape, dtype = headers[array]
    _check_images(name, shape, dtype)

    def images() -> Iterator[StoredImage]:
        with _report_damage(name), zipfile.ZipFile(path) as archive:
            yield from _read_array(name, archive.open(f"{array}.npy"))

    return ImageSet(name, images, shape[0], statistics)


def _check_images(name: str, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> None:
    """Check that an array is a set of uint8 images. Raises InputError."""
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


def _read_array(name: str, opened: IO[bytes]) -> Iterator[StoredImage]:
    with opened as file:
        (count, *shape), _ = read_npy_header(file, name)
        if len(shape) == 2:
            shape = [*shape, 1]
        for index in range(count):
            content = file.read(math.prod(shape))
            if len(content) < math.prod(shape):
                raise InputError(f"{name}: truncated after {index} of {count} images; download or save it again")
            pixels = np.frombuffer(content, np.uint8).reshape(shape)
            yield StoredImage(f"{name}[{index}]", pixels if shape[2] in (1, 3, 4) else pixels.transpose(1, 2, 0))
