"""Pictures inside larger files: where each starts, found once for each file and kept in the cache."""

import hashlib
import json
import re
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from inception_v3.data.address import labels_file
from inception_v3.data.pictures import Encoded, Pictures
from inception_v3.data.sequences import Made, Texts
from inception_v3.errors import InputError
from inception_v3.support.files import cache_folder, atomic_write
from inception_v3.support.progress import progress_bar
from inception_v3.support.text import printable

MAX_LABEL = 99_999  # what is above is no label: a list of so many classes would fill the memory
VERSION = 2  # of what an index holds
WORTH_KEEPING = 1.0  # seconds that an index must have taken to be kept


@dataclass
class Index:
    """The pictures of one file, and what in it cannot be used, as (name, reason)."""

    names: list[str] = field(default_factory=list)  # within the file
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    class_names: dict[int, str] = field(default_factory=dict)  # of those labels that the file names
    bad: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, offset: int, size: int, label: int) -> None:
        self.names.append(name)
        self.offsets.append(offset)
        self.sizes.append(size)
        self.labels.append(label)


@dataclass(frozen=True)
class _Records:
    files: list[Path]
    called: list[str]  # how the files are called in names
    file: np.ndarray  # of each record, its number in `files`
    offset: np.ndarray
    size: np.ndarray
    within: Texts
    read: Callable[[Path, int, int], bytes]

    def name(self, number: int) -> str:
        return f"{self.called[self.file[number]]}/{self.within[number]}"

    def source(self, number: int) -> Encoded:
        return Encoded(self.name(number), int(self.size[number]), partial(self.content, number))

    def content(self, number: int) -> bytes:
        try:
            return self.read(self.files[self.file[number]], int(self.offset[number]), int(self.size[number]))
        except InputError as error:
            raise InputError(f"{self.name(number)}: {error}") from error


def labelled(label: object, name: str) -> int:
    """A label as a number. Raises InputError, naming the record, for what is none."""
    number = label
    if isinstance(label, str) and re.fullmatch(r"\s*[0-9]{1,20}\s*", label):  # Python refuses thousands of digits
        number = int(label)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= MAX_LABEL:
        wrong = printable(label)[:40]
        raise InputError(
            f"{name}: its label is {wrong!r}, and must be a whole number from 0 to {MAX_LABEL:,}; number the classes, "
            "and call them by name in a labels.txt"
        )
    return number


def told_apart(class_names: list[str], first: int = 0) -> list[str]:
    """The names with their labels behind those that several classes have, as two of ImageNet are called crane."""
    many = {name for name, count in Counter(class_names).items() if count > 1}
    return [f"{name} ({label})" if name in many else name for label, name in enumerate(class_names, first)]


def read_files(
    files: Sequence[Path], place: str, index: Callable[[Path], Index], read: Callable[[Path, int, int], bytes]
) -> tuple[Pictures, dict[int, str]]:
    """All records of these files as pictures, and the names of their labels.

    `index` finds those of a file, `read` gives the content of one, by file, offset and size. A picture is called
    FILE/RECORD, with the folder too where two files have one name. Names of labels are those in a labels.txt beside
    the files, or else in the records; the pictures' class names are the numbers.
    Raises InputError: a file that cannot be read at all, a label that is none, or no pictures.
    """
    plain = len({file.name for file in files}) == len(files)
    called = [printable(file.name if plain else file.as_posix()) for file in files]
    names: list[str] = []
    file_numbers, offsets, sizes, labels = array("i"), array("q"), array("q"), array("i")
    bad: list[tuple[str, str]] = []
    class_names: dict[int, str] = {}
    with progress_bar(Console(stderr=True)) as progress:
        bar = progress.add_task("indexing", total=len(files), figures="")
        for number, file in enumerate(files):
            found = _kept(file, index)
            names += found.names
            file_numbers.extend([number] * len(found.names))
            offsets.extend(found.offsets)
            sizes.extend(found.sizes)
            labels.extend(found.labels)
            bad += [(f"{called[number]}/{name}".rstrip("/"), reason) for name, reason in found.bad]
            for label, name in found.class_names.items():
                class_names.setdefault(label, name)
            progress.advance(bar)
    if not labels:
        reason = ": ".join(bad[0]) if bad else "check what it holds"
        raise InputError(f"{place}: no labelled pictures in it; {reason}")
    file_column, offset_column, size_column = (np.asarray(column) for column in (file_numbers, offsets, sizes))
    records = _Records(list(files), called, file_column, offset_column, size_column, Texts(names), read)
    numbers = range(len(labels))
    known = labels_file(files[0].parent) or class_names
    if too_large := [label for label in known if label > MAX_LABEL]:
        raise InputError(f"{place}: labels.txt names a label {too_large[0]}; labels go up to {MAX_LABEL:,}")
    numbered = [str(label) for label in range(max(labels) + 1)]
    return Pictures(numbered, Made(records.source, numbers), labels, Made(records.name, numbers), bad), known


def _kept(file: Path, index: Callable[[Path], Index]) -> Index:
    """The index of a file, from the cache where it was made before for a file of this size and time."""
    try:
        status = file.stat()
        with file.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check the path") from error
    key = repr((VERSION, index.__module__, file.resolve().as_posix(), status.st_size, status.st_mtime_ns))
    kept = cache_folder("index") / f"{hashlib.sha256(key.encode('utf-8', 'replace')).hexdigest()[:24]}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):
        stored = json.loads(kept.read_bytes())
        stored["class_names"] = {int(label): name for label, name in stored["class_names"].items()}
        stored["bad"] = [(name, reason) for name, reason in stored["bad"]]
        return Index(**stored)
    started = time.perf_counter()
    found = index(file)
    if time.perf_counter() - started > WORTH_KEEPING:
        with suppress(InputError), atomic_write(kept) as temporary:
            temporary.write_text(json.dumps(asdict(found)), "utf-8")
    return found
