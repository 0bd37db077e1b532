"""Tar shards as WebDataset writes them: KEY.jpg (or .png, ...) beside KEY.cls, or a KEY.json with a label.

A shard is indexed once and then read at any place, so that pictures can be shuffled over all of them.
"""

import json
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from inception_v3.data.pictures import Pictures
from inception_v3.data.records import Index, labelled, read_files, told_apart
from inception_v3.errors import InputError
from inception_v3.images.decode import MAX_STREAM_BYTES
from inception_v3.images.find import IMAGE_SUFFIXES
from inception_v3.support.text import printable

MAX_LABEL_BYTES = 2**20  # of a .cls or .json file
BLOCK = tarfile.BLOCKSIZE
COMPRESSED = {b"\x1f\x8b": "gunzip", b"BZ": "bunzip2", b"\xfd7": "unxz", b"(\xb5": "unzstd"}  # undone by


def read(files: list[Path], place: str) -> Pictures:
    """The pictures of all shards, called SHARD/MEMBER. Class names are numbers, or those of a labels.txt beside.

    Raises InputError: no tar file, a label that is no number, no labelled pictures.
    """
    pictures, known = read_files(files, place, index, read_member)
    count = max(len(pictures.class_names), max(known, default=-1) + 1)
    pictures.class_names = told_apart([known.get(label, str(label)) for label in range(count)])
    return pictures


def index(path: Path) -> Index:
    """Where the pictures of a shard are, and their labels. What comes after damage is left out, and told of."""
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    contradictory: set[str] = set()
    found = Index()
    with path.open("rb") as file:
        try:
            for member in _members(path, file, found):
                head, _, tail = member.name.rpartition("/")
                key, _, suffix = tail.partition(".")
                key, suffix = f"{head}/{key}", suffix.lower().rpartition(".")[2]  # KEY.1.jpg too
                if suffix in ("cls", "json"):
                    label = _label(path, file, member, suffix)
                    if label is not None and labels.setdefault(key, label) != label:
                        contradictory.add(key)
                elif f".{suffix}" in IMAGE_SUFFIXES:
                    if key in images:
                        found.bad.append((printable(member.name), "a second picture of one key; rename it"))
                    images.setdefault(key, (member.name, member.offset_data, member.size))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the disk") from error
    for key, (name, offset, size) in images.items():
        name = printable(name)
        if key in contradictory:
            found.bad.append((name, "its .cls and its .json give two labels; remove one"))
        elif key in labels:
            found.add(name, offset, size, labels[key])
        else:
            found.bad.append((name, f"no label: there is no {PurePosixPath(name).name.partition('.')[0]}.cls or .json"))
    return found


def _members(path: Path, file: BinaryIO, found: Index) -> Any:
    """The files in a shard; what is wrong with the tar itself goes into `found.bad`."""
    length = path.stat().st_size
    if program := COMPRESSED.get(file.read(2)):
        found.bad.append(("", f"compressed, and so cannot be read at any place; {program} it"))
        return
    file.seek(0)
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.size < 0 or member.offset_data + member.size > length:
                    raise tarfile.ReadError(f"cut short, or damaged: {member.size} bytes at {member.offset_data}")
                end = member.offset_data + (member.size + BLOCK - 1) // BLOCK * BLOCK
                if member.isreg() and not member.issparse():
                    here = file.tell()
                    yield member
                    file.seek(here)
    except OSError:
        raise
    except Exception as error:  # a damaged header makes tarfile raise whatever its parsing runs into
        what = "damaged" if end else "no tar file"
        detail = printable(" ".join(str(error).split()))
        found.bad.append(("", f"{what} at byte {end} of {length} ({detail}); fetch the shard again"))
        return
    file.seek(end)
    rest = file.read(BLOCK)
    if rest.strip(b"\0"):  # tarfile takes a damaged header for the end
        found.bad.append(("", f"damaged at byte {end}: what comes after is left out; fetch the shard again"))
    elif len(rest) < BLOCK:
        found.bad.append(("", f"no end mark at byte {end}: it may be cut short; fetch the shard again"))


def _label(path: Path, file: BinaryIO, member: tarfile.TarInfo, suffix: str) -> int | None:
    """The number in a .cls file, or under `label` in a .json file; None where a .json file has no such key."""
    name = f"{path}: {printable(member.name)}"
    if member.size > MAX_LABEL_BYTES:
        raise InputError(f"{name}: {member.size} bytes are no label; write its number alone")
    file.seek(member.offset_data)
    text = file.read(member.size)
    if suffix == "cls":
        return labelled(text.decode("utf-8", "replace"), name)
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{name}: no JSON ({error}); write {{"label": NUMBER}}') from error
    return labelled(table["label"], name) if isinstance(table, dict) and "label" in table else None


def read_member(path: Path, offset: int, size: int) -> bytes:
    """Raises InputError with the reason alone: its caller knows the name."""
    if size > MAX_STREAM_BYTES:
        raise InputError(f"{size} bytes are more than a picture may have")
    try:
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read(size)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from error
    if len(content) < size:
        raise InputError(f"{path} ends inside it: the shard has changed; start again")
    return content
