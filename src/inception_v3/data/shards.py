"""Archives of labelled images: shards as WebDataset writes them, and a .tar or .zip of class folders.

In a WebDataset, KEY.jpg (or .png, ...) lies beside KEY.cls, or beside a KEY.json with a label. An archive is indexed
first, so that images can be read in any order. A compressed tar is decompressed to the cache once.
"""

import json
import os
import shutil
import zipfile
from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from hashlib import sha256
from importlib import import_module
from pathlib import Path

import numpy as np

from inception_v3.data.folders import sort_class_names
from inception_v3.data.labelled_images import LabelledImages
from inception_v3.data.labels import parse_label, unique_names
from inception_v3.data.records import FileIndex, read_records
from inception_v3.data.splits import check_no_splits, split_name
from inception_v3.errors import InputError
from inception_v3.images.containers import (
    ARCHIVE_ERRORS,
    COMPRESSIONS,
    DamagedArchiveError,
    Member,
    is_zip,
    read_members,
    split_sample,
    unused_members,
)
from inception_v3.images.decode import MAX_STREAM_BYTES
from inception_v3.images.find import SAMPLE_REASON, is_image_name, unread_suffix
from inception_v3.support.files import atomic_write, cache_file, cache_folder, file_lock
from inception_v3.support.system_errors import read_error, read_reason
from inception_v3.support.text import nfc, printable, text_line

MAX_LABEL_BYTES = 2**20  # of a .cls or .json file
MAX_DISK_FRACTION = 0.5  # of the free space, for one decompressed tar


def read_shards(files: list[Path], address: str) -> LabelledImages:
    """The images of all archives, named ARCHIVE/MEMBER.

    Class names are those of the class folders; or if images have labels, those of a labels.txt beside the archives, or
    numbers. Raises InputError: not an archive, a label that is not a whole number, no labelled images, or class folders
    with names of splits.
    """
    images = _read(files, address)
    names = [name.rpartition("/")[2] for name in images.class_names]
    if not _has_folders(images):
        return images
    check_no_splits(address, names)
    return _with_classes(images, names)


def read_archive_images(files: list[Path], address: str) -> LabelledImages:
    """The images of all archives in one class, named ARCHIVE/MEMBER. Raises InputError: no archive, or no images."""
    return read_records(files, address, index_images, read_member)[0]


def read_archive_splits(files: list[Path], address: str) -> dict[str, LabelledImages]:
    """The images of the class folders in each folder train/, val/ ... by its split; all others under ""."""
    images = _read(files, address)
    if not _has_folders(images):
        return {"": images}
    parts = split_by_prefix(images)
    if len(parts) == 1:
        check_no_splits(address, next(iter(parts.values())).class_names)
    return parts


def split_by_prefix(images: LabelledImages) -> dict[str, LabelledImages]:
    """Split images whose classes are called SPLIT/CLASS, where SPLIT may be empty, by SPLIT."""
    pairs = [name.split("/", 1) for name in images.class_names]
    return {
        split: _with_classes(images, [name if each == split else None for each, name in pairs]) for split, _ in pairs
    }


def _read(files: list[Path], address: str) -> LabelledImages:
    """The images of all archives; if there are class folders, the classes are called SPLIT/CLASS."""
    images, label_names = read_records(files, address, index_archive, read_member)
    if not _has_folders(images):
        count = max(len(images.class_names), max(label_names, default=-1) + 1)
        images.class_names = unique_names([label_names.get(label, str(label)) for label in range(count)])
    return images


def _has_folders(images: LabelledImages) -> bool:
    return "/" in images.class_names[0]


def _with_classes(images: LabelledImages, class_names: Sequence[str | None]) -> LabelledImages:
    """The images of classes whose new name is not None. Classes of the same name become one."""
    names = sort_class_names({name for name in class_names if name is not None})
    indices = {name: index for index, name in enumerate(names)}
    labels = np.array([-1 if name is None else indices[name] for name in class_names])[np.asarray(images.labels)]
    kept = images.subset(np.flatnonzero(labels >= 0).tolist(), images.bad)
    kept.class_names, kept.labels = names, array("i", labels[labels >= 0].tolist())
    return kept


# ------------------------------------------------------------------------------------------------ indexing


def index_archive(path: Path) -> FileIndex:
    """The images of an archive and their labels. Everything after a damaged member is left out, and listed as bad."""
    labels: dict[str, int | None] = {}  # of each sample; None: its files have different labels
    index, images = _index_members(path, labels)
    if labels or not any("/" in member.name for member in images):
        _add_labelled(index, images, labels)
    else:
        _add_class_folders(index, images)
    return index


def index_images(path: Path) -> FileIndex:
    """Like `index_archive`, but every image is in the same class, and labels in the archive are not read."""
    index, images = _index_members(path)
    index.folders = ["all"]
    for member in images:
        if member.fault:
            index.bad.append((member.name, member.fault))
        else:
            index.add(member.name, member.offset, member.size, 0)
    return index


def _index_members(path: Path, labels: dict[str, int | None] | None = None) -> tuple[FileIndex, list[Member]]:
    """The images of an archive, and an index without them; adds the labels of samples to `labels`."""
    index = FileIndex()
    without_samples = is_zip(path)
    members: list[Member] = []
    try:
        for member in read_members(path if without_samples else _plain_tar(path)):
            members.append(member)
            if labels is not None and not without_samples and (label := _read_label(path, member)) is not None:
                key = split_sample(member.name)[0]
                labels[key] = label if labels.setdefault(key, label) == label else None
    except DamagedArchiveError as error:
        index.bad.append(("", str(error)))
    except OSError as error:
        raise read_error(path, error) from error
    unused = {} if without_samples else unused_members(member.name for member in members)
    index.left_out = [(name, SAMPLE_REASON) for name in unused.values()]
    index.left_out += [(member.name, suffix) for member in members if (suffix := unread_suffix(member.name))]
    return index, [
        member for number, member in enumerate(members) if is_image_name(member.name) and number not in unused
    ]


def _add_labelled(index: FileIndex, images: list[Member], labels: dict[str, int | None]) -> None:
    for member in images:
        key = split_sample(member.name)[0]
        folder, _, base = key.rpartition("/")
        sample = base.partition(".")[0]  # 7.1.jpg has the label of 7.cls, if there is no 7.1.cls
        label = labels.get(key, labels.get(f"{folder}/{sample}", -1))
        if member.fault:
            index.bad.append((member.name, member.fault))
        elif label is None:
            index.bad.append((member.name, "its .cls and its .json have different labels; remove one"))
        elif label < 0:
            index.bad.append((member.name, f"no label: add {base}.cls or {base}.json to the shard"))
        else:
            index.add(member.name, member.offset, member.size, label)


def _add_class_folders(index: FileIndex, images: list[Member]) -> None:
    """Label the images by their folders: CLASS/IMAGE or SPLIT/CLASS/IMAGE, below any folders that all images share."""
    paths = [[part for part in member.name.split("/") if part not in ("", ".")] for member in images]
    depth = 0
    while all(len(path) > depth + 2 for path in paths) and len({path[depth] for path in paths}) == 1:
        depth += 1
    splits: dict[str, str] = {}  # by folder; of several folders of a split the one with the shortest name
    for folder in sorted({path[depth] for path in paths if len(path) > depth + 2}, key=lambda name: (len(name), name)):
        if split_name(folder) not in ("", *splits.values()):
            splits[folder] = split_name(folder)
    classes: dict[str, int] = {}
    for member, path in zip(images, paths, strict=True):
        split = splits.get(path[depth], "")
        class_parts = path[depth + bool(split) : -1]
        if member.fault or not class_parts:
            index.bad.append((member.name, member.fault or "no label: it is in no class folder"))
        else:
            label = classes.setdefault(f"{split}/{nfc(text_line(class_parts[0]))}", len(classes))
            index.add(member.name, member.offset, member.size, label)
    index.folders = list(classes)


def _read_label(path: Path, member: Member) -> int | None:
    """The number in a .cls file, or under "label" in a .json file. None for a .json file without that key."""
    suffix = member.name.rpartition(".")[2].lower()
    if suffix not in ("cls", "json") or member.fault:
        return None
    name = f"{path}: {printable(member.name)}"
    if member.size > MAX_LABEL_BYTES:
        raise InputError(f"{name}: {member.size} bytes are too many for a label; write only its number")
    content = member.read()
    if suffix == "cls":
        return parse_label(content.decode("utf-8", "replace"), name)
    try:
        table = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{name}: not valid JSON ({error}); write {{"label": NUMBER}}') from error
    return parse_label(table["label"], name) if isinstance(table, dict) and "label" in table else None


# ------------------------------------------------------------------------------------------------- reading


def read_member(name: str, path: Path, offset: int, size: int) -> bytes:
    """The bytes of a member. Raises InputError, with the `name` of the image: it cannot be read."""
    if size > MAX_STREAM_BYTES:
        raise InputError(f"{name}: {size} bytes are more than the {MAX_STREAM_BYTES:,} of an image; make it smaller")
    try:
        if is_zip(path):
            archive = _open_zip(path, os.getpid())
            return archive.read(archive.infolist()[offset])
        with _plain_tar(path).open("rb") as file:
            file.seek(offset)
            content = file.read(size)
    except (IndexError, *ARCHIVE_ERRORS) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{name}: {path}: {read_reason(path, error)}") from error
        raise InputError(f"{name}: {path} cannot be read ({error}); run the command again") from error
    if len(content) < size:
        raise InputError(f"{name}: {path} ends inside it, so the shard has changed; run the command again")
    return content


@lru_cache(maxsize=8)
def _open_zip(path: Path, process: int) -> zipfile.ZipFile:
    """An open zip, because reading its table of entries takes long. Processes must not share one: it has one offset."""
    return zipfile.ZipFile(path)


def _plain_tar(path: Path) -> Path:
    """The tar itself, or if it is compressed, its copy in the cache, which is replaced when the tar changes.

    Raises DamagedArchiveError, OSError, or InputError: it would take more than MAX_DISK_FRACTION of the free disk.
    """
    with path.open("rb") as file:
        module = COMPRESSIONS.get(file.read(2))
    if module is None:
        return path
    status = path.stat()
    key = sha256(os.fsencode(path.absolute())).hexdigest()[:16]
    copy = cache_file(cache_folder("archives", key) / f"{status.st_size}-{status.st_mtime_ns}.tar")
    if not copy.exists():
        with file_lock(copy.parent):
            if not copy.exists():  # another process may have written it meanwhile
                shutil.rmtree(copy.parent, ignore_errors=True)
                _decompress(path, module, copy)
    return copy


def _decompress(path: Path, module: str, copy: Path) -> None:
    with atomic_write(copy) as temporary, temporary.open("wb") as file:
        limit = int(MAX_DISK_FRACTION * shutil.disk_usage(temporary.parent).free)
        for chunk in _decompressed(path, module):
            file.write(chunk)
            if file.tell() > limit:
                raise InputError(
                    f"{path}: more than {limit >> 20} MiB when decompressed, half of the free disk; free some space"
                )


def _decompressed(path: Path, module: str) -> Iterator[bytes]:
    try:
        with import_module(module).open(path) as source:
            yield from iter(partial(source.read, 1 << 20), b"")
    except ARCHIVE_ERRORS as error:
        raise DamagedArchiveError(f"damaged or truncated ({printable(error)}); download or save it again") from error
