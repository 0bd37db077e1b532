"""Tar shards as WebDataset writes them: KEY.jpg (or .png, ...) beside KEY.cls, or beside a KEY.json with a label.

A shard is indexed first, so that images can be read in any order, shuffled over all shards.
"""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from inception_v3.data.labelled_images import LabelledImages
from inception_v3.data.labels import parse_label, unique_names
from inception_v3.data.records import FileIndex, read_records
from inception_v3.errors import InputError
from inception_v3.images.decode import MAX_STREAM_BYTES
from inception_v3.images.find import IMAGE_SUFFIXES
from inception_v3.support.text import printable

MAX_LABEL_BYTES = 2**20  # of a .cls or .json file
DECOMPRESSORS = {b"\x1f\x8b": "gunzip", b"BZ": "bunzip2", b"\xfd7": "unxz", b"(\xb5": "unzstd"}  # by first bytes


def read_shards(files: list[Path], address: str) -> LabelledImages:
    """The images of all shards, named SHARD/MEMBER. Class names are those of a labels.txt beside them, or numbers.

    Raises InputError: not a tar file, a label that is not a whole number, or no labelled images.
    """
    images, label_names = read_records(files, address, index_shard, read_member)
    count = max(len(images.class_names), max(label_names, default=-1) + 1)
    images.class_names = unique_names([label_names.get(label, str(label)) for label in range(count)])
    return images


def index_shard(path: Path) -> FileIndex:
    """The images of a shard and their labels. Everything after a damaged member is left out, and listed as bad."""
    members: dict[str, tuple[str, int, int]] = {}  # of each key: name, offset and size of its image
    labels: dict[str, int | None] = {}  # None: the files of a key have different labels
    index = FileIndex()
    try:
        with path.open("rb") as file:
            for member in _read_members(path, file, index):
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                key, suffix = f"{folder}/{stem}", suffix.lower().rpartition(".")[2]  # KEY.1.jpg has the key KEY too
                if suffix in ("cls", "json"):
                    label = _read_label(path, file, member, suffix)
                    if label is not None:
                        labels[key] = label if labels.setdefault(key, label) == label else None
                elif f".{suffix}" in IMAGE_SUFFIXES:
                    if key in members:
                        index.bad.append((printable(member.name), "a second image with the same key; rename it"))
                    members.setdefault(key, (member.name, member.offset_data, member.size))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the disk") from error
    for key, (name, offset, size) in members.items():
        name = printable(name)
        if key not in labels:
            stem = PurePosixPath(name).name.partition(".")[0]
            index.bad.append((name, f"no label: add {stem}.cls or {stem}.json to the shard"))
        elif (label := labels[key]) is None:
            index.bad.append((name, "its .cls and its .json have different labels; remove one"))
        else:
            index.add(name, offset, size, label)
    return index


def _read_members(path: Path, file: BinaryIO, index: FileIndex) -> Iterator[tarfile.TarInfo]:
    """The regular files in a shard. Adds the faults of the tar file itself to `index.bad`.

    Between two members, the caller may change the position of `file`.
    """
    length = path.stat().st_size
    if program := DECOMPRESSORS.get(file.read(2)):
        index.bad.append(("", f"compressed, so its members cannot be read in any order; {program} it"))
        return
    file.seek(0)
    end = 0  # offset after the last member that was read
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.size < 0 or member.offset_data + member.size > length:
                    raise tarfile.ReadError(f"cut short, or damaged: {member.size} bytes at {member.offset_data}")
                # members are padded to whole blocks
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if member.isreg() and not member.issparse():
                    position = file.tell()
                    yield member
                    file.seek(position)
    except OSError:
        raise
    except Exception as error:  # tarfile raises many classes over damaged headers
        fault = "damaged" if end else "not a tar file"
        detail = printable(" ".join(str(error).split()))
        index.bad.append(("", f"{fault} at byte {end} of {length} ({detail}); download the shard again"))
        return
    # tarfile mistakes a damaged header for the end of the archive, which is marked by blocks of zeros
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0"):
        index.bad.append(("", f"damaged at byte {end}: the rest is left out; download the shard again"))
    elif len(block) < tarfile.BLOCKSIZE:
        index.bad.append(("", f"no end mark at byte {end}: it may be cut short; download the shard again"))


def _read_label(path: Path, file: BinaryIO, member: tarfile.TarInfo, suffix: str) -> int | None:
    """The number in a .cls file, or under "label" in a .json file. None for a .json file without that key."""
    name = f"{path}: {printable(member.name)}"
    if member.size > MAX_LABEL_BYTES:
        raise InputError(f"{name}: {member.size} bytes are too many for a label; write only its number")
    file.seek(member.offset_data)
    content = file.read(member.size)
    if suffix == "cls":
        return parse_label(content.decode("utf-8", "replace"), name)
    try:
        table = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{name}: not valid JSON ({error}); write {{"label": NUMBER}}') from error
    return parse_label(table["label"], name) if isinstance(table, dict) and "label" in table else None


def read_member(name: str, path: Path, offset: int, size: int) -> bytes:
    """The bytes of a member. Raises InputError, with the `name` of the image: it cannot be read."""
    if size > MAX_STREAM_BYTES:
        raise InputError(f"{name}: {size} bytes are more than the {MAX_STREAM_BYTES:,} of an image; make it smaller")
    try:
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read(size)
    except OSError as error:
        raise InputError(f"{name}: {path} cannot be read ({error.strerror or error}); run the command again") from error
    if len(content) < size:
        raise InputError(f"{name}: {path} ends inside it, so the shard has changed; run the command again")
    return content
