"""What an address means: files on disk, patterns of them, or URLs, and which split a file belongs to."""

import glob
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from math import prod
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from inception_v3.data.extras import extra
from inception_v3.data.fetch import fetch, is_url
from inception_v3.data.pictures import Pictures, Splits
from inception_v3.errors import InputError

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("val", "valid", "validation", "test")  # the first that there is, is held out
MAX_FILES = 100_000
TFRECORD = re.compile(r"\.tfrecords?$|-\d{5,}-of-\d{5,}$")
Part = TypeVar("Part")
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")
_LABEL_LINE = re.compile(r"(?:([0-9]{1,20}):)?(.*\S)\s*")


class Reader(Protocol):
    def __call__(self, files: list[Path], place: str) -> Pictures: ...


def exists(address: str) -> bool:
    """Whether there is such a file or folder. (Path's own raises for patterns that are too long to be paths.)"""
    return os.path.exists(address)  # noqa: PTH110


def is_folder(address: str) -> bool:
    return os.path.isdir(address)  # noqa: PTH112


def expand(address: str) -> list[str]:
    """The files and URLs of an address with {000..009}, {a,b}, and, on disk, *, ? and [].

    A path that exists is no pattern. Raises InputError: nothing fits, or braces that mean too much.
    """
    if exists(address):
        return [address]
    found: list[str] = []
    for one in _alternatives(address) if "{" in address else [address]:
        if is_url(one) or exists(one):
            found.append(one)
        elif matches := sorted(glob.glob(one, recursive=True)):  # noqa: PTH207 (patterns may be absolute)
            found += matches
        else:
            raise InputError(
                f"{one}: no such folder or file, and no pattern that fits any; give a folder of class/image files, "
                "shards, or digits",
                exit_status=2,
            )
    return found


def _alternatives(address: str) -> list[str]:
    braceexpand = extra("braceexpand", address).braceexpand
    try:
        # each range becomes a list before the first file comes out
        meant = prod(abs(int(last) - int(first)) + 1 for first, last in _RANGE.findall(address))
        alternatives = list(islice(braceexpand(address), MAX_FILES + 1)) if meant <= MAX_FILES else []
    except ValueError as error:
        raise InputError(f"{address}: its braces cannot be read ({error})", exit_status=2) from error
    if not 0 < len(alternatives) <= MAX_FILES:
        raise InputError(f"{address}: more than {MAX_FILES:,} files; write fewer in braces", exit_status=2)
    return alternatives


def split_files(files: Sequence[str], place: str, read: Reader) -> Splits:
    """Those files whose names say so are training or held out, such as train-000.tar and val-000.tar.

    URLs are downloaded when their split is read.
    """
    splits: dict[str, list[str]] = {}
    for file in files:
        splits.setdefault(_split_of(file), []).append(file)
    others = splits.get("")
    train, held_out = train_and_held_out(splits)

    def read_them(chosen: Sequence[str]) -> Pictures:
        return read(fetch(chosen), place)

    if train and held_out and others:
        beside(place, [Path(file).name for file in others])
    train = train or others
    if train and held_out:
        return Splits(partial(read_them, train), partial(read_them, held_out))
    return Splits(partial(read_them, train or held_out or files))


def train_and_held_out(splits: Mapping[str, Part]) -> tuple[Part | None, Part | None]:
    """Those of the parts by the names of their splits; of several the first in the order of TRAIN_ and TEST_NAMES."""
    train, held_out = (
        next((splits[name] for name in names if name in splits), None) for names in (TRAIN_NAMES, TEST_NAMES)
    )
    return train, held_out


def beside(place: str, names: Sequence[str]) -> None:
    """Warn of what is left out, as its name is none of a split."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    warnings.warn(f"{place}: left out {', '.join(names[:3])}{more}, beside what is called train and val", stacklevel=2)


def split_named(name: str) -> str:
    """The first word of a file's or a folder's name that names a split; else empty."""
    words = re.split(r"[-_.]", name.lower())
    return next((word for word in words if word in TRAIN_NAMES or word in TEST_NAMES), "")


def _split_of(file: str) -> str:
    """What its name says, or else its folder's."""
    path = Path(urlsplit(file).path if is_url(file) else file)
    return split_named(path.name) or split_named(path.parent.name)


def labels_file(folder: Path) -> dict[int, str]:
    """The names of labels in a folder's labels.txt, as slim writes it: a line `0:daisy` for each, or the name alone.

    Beside a split's folder, such as train/, it counts too. Raises InputError: it cannot be read, or a line is neither.
    """
    file = folder / "labels.txt"
    if not file.is_file():
        return labels_file(folder.parent) if split_named(folder.name) else {}
    names: dict[int, str] = {}
    try:
        lines = file.read_text("utf-8-sig").rstrip().splitlines()  # Windows' editors begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error}); write a line NUMBER:NAME for each class") from error
    for number, line in enumerate(lines):
        if (match := _LABEL_LINE.fullmatch(line)) is None:
            raise InputError(f"{file}: line {number + 1} is empty; write NUMBER:NAME")
        names[int(match[1] or number)] = match[2]
    return names
