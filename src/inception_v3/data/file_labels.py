"""Labels of image files that are not in class folders: from the names of the files, or from a CSV table."""

import csv
import os
import re
import signal
import threading
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np

from inception_v3.data.folders import sort_class_names
from inception_v3.data.labelled_images import LabelledImages
from inception_v3.data.splits import (
    SplitReaders,
    choose_splits,
    file_split_name,
    first_names,
    split_name,
    warn_left_out,
)
from inception_v3.errors import InputError
from inception_v3.images.find import SHARD_NAME
from inception_v3.support.system_errors import is_file, read_reason, why_missing
from inception_v3.support.text import byte_order_encoding, from_utf8, nfc, printable, text_line

FILE_COLUMNS = ("filename", "file", "image", "path", "id", "file_name", "file_path", "filepath", "image_id", "img")
LABEL_COLUMNS = ("label", "class", "category", "class_name", "label_name")
DELIMITERS = ",;\t"
MAX_HEADER = 2**20  # characters of the first line of a table
MAX_SECONDS = 10.0  # that a regular expression may take for one name


@dataclass(frozen=True)
class LabelsFrom:
    """The source of the labels: a regular expression for the names of the files, or a CSV table; the other is "".

    A name that matches `name` anywhere has the class of the group called label, or of the first group. The name is
    that of the file, or if the expression contains a /, its path below the data. `table` is FILE, or with the names of
    the columns FILE:FILE_COLUMN,LABEL_COLUMN.
    Raises InputError with exit status 2: an invalid regular expression, or one without a group.
    """

    name: str = ""
    table: str = ""

    def __post_init__(self) -> None:
        try:
            groups = re.compile(self.name).groups
        except (re.error, RecursionError, OverflowError) as error:
            fault = f"not a regular expression ({error}); write it as Python does, such as '^([a-z]+)'"
            raise InputError(f"--labels-from-name {self.name}: {fault}", exit_status=2) from error
        if self.name and not groups:
            raise InputError(
                f"--labels-from-name {self.name}: has no group for the class; put it in parentheses, such "
                r"as '^([a-z]+)\.' for cat.123.jpg",
                exit_status=2,
            )

    def __str__(self) -> str:
        # The model card shows it, and a full path would reveal the user's folders.
        return f"the table {Path(self.table).name}" if self.table else f"file names that match {self.name}"


class _Labeller(Protocol):
    """Gives each image its class by its path. `report` yields a line about each kind of fault; call it at the end."""

    def labels(self, paths: Iterable[str], start: int) -> Iterator[str | None]:
        """The class of each image, or None; path[start:] is its path below the data. Raises InputError."""

    def report(self, unlabelled: int, first: str) -> Iterator[str]:
        """`unlabelled` images have no label; `first` is the path of one of them below the data."""


def find_labelled_splits(
    images: LabelledImages, paths: Sequence[str], labels_from: LabelsFrom, address: str
) -> SplitReaders:
    """The images that have a label, by the folders or archives train, val ... that hold them.

    `paths` are the full paths of the images, including those of their archives; parents that all of them share count
    neither for the splits nor for REGEX. Labels that `images` has are replaced.
    Warns, in one line each: images without a label, and faults in the table.
    Raises InputError: no image has a label, or a fault in the table.
    """
    labeller: _Labeller = _TableLabels(labels_from.table) if labels_from.table else _NameLabels(labels_from.name)
    start = _common_start(paths)
    classes: dict[str, int] = {}
    splits: dict[tuple[str, str], int] = {}  # by (split, folder): the folder is named in a warning if it has no split
    kept, labels, parts = array("q"), array("i"), array("i")
    first = ""
    for index, (path, name) in enumerate(zip(paths, labeller.labels(paths, start), strict=True)):
        if name is None:
            first = first or path[start:]
            continue
        kept.append(index)
        labels.append(classes.setdefault(name, len(classes)))
        parts.append(splits.setdefault(_split_and_folder(path[start:].rpartition("/")[0]), len(splits)))
    lines = [*labeller.report(len(images) - len(kept), printable(first))]
    if not kept:
        raise InputError(f"{address}: none of its {len(images)} images has a label: {'; '.join(lines)}", exit_status=2)
    for line in lines:
        warnings.warn(f"{address}: {line}", stacklevel=2)
    class_names = sort_class_names(classes)
    order = {name: index for index, name in enumerate(class_names)}
    images = images.subset(kept, images.bad)
    images.class_names = class_names
    images.labels = array("i", np.array([order[name] for name in classes], np.int32)[np.asarray(labels)].tolist())
    return _split(images, np.asarray(parts), [*splits], address)


def _split(images: LabelledImages, parts: np.ndarray, keys: list[tuple[str, str]], address: str) -> SplitReaders:
    """Split images whose part is one of `keys`, (split, folder), by the split."""
    names = dict.fromkeys(split for split, _ in keys)
    named = [name for name in names if name]
    if "" in names and named:
        warn_left_out(address, sorted({folder or "images in no folder" for split, folder in keys if not split}), named)
    indices = {
        name: np.flatnonzero(np.isin(parts, [part for part, (split, _) in enumerate(keys) if split == name])).tolist()
        for name in names
    }
    return choose_splits(
        {name: partial(images.subset, indices[name], images.bad) for name in named},
        partial(images.subset, range(len(images)), images.bad),
    )


def _common_start(paths: Sequence[str]) -> int:
    """The length of the folders that all paths begin with."""
    lowest, highest = min(paths), max(paths)
    return os.path.commonprefix([lowest, highest]).rfind("/") + 1  # noqa: RUF071 (commonpath would drop a leading ./)


@lru_cache(maxsize=1024)
def _split_and_folder(parent: str) -> tuple[str, str]:
    """The split that the first folder of a path names, or that an archive or the first folder in it names; else ""."""
    folders = parent.split("/") if parent else []
    archive = max((index for index, folder in enumerate(folders) if SHARD_NAME.search(folder)), default=-1)
    for folder in folders[: archive + 2]:
        if name := (file_split_name if SHARD_NAME.search(folder) else split_name)(folder):
            return name, folder
    return "", next(iter(folders), "")


class _NameLabels:
    """Labels from the names of the files; see LabelsFrom."""

    def __init__(self, expression: str) -> None:
        self.expression = re.compile(expression)
        self.group = "label" if "label" in self.expression.groupindex else 1
        self.whole_path = "/" in expression

    def labels(self, paths: Iterable[str], start: int) -> Iterator[str | None]:
        with _time_limit(f"--labels-from-name {self.expression.pattern}") as restart:
            for path in paths:
                name = nfc(path[start:] if self.whole_path else path.rpartition("/")[2])
                restart()
                match = self.expression.search(name)
                yield match[self.group] or None if match else None

    def report(self, unlabelled: int, first: str) -> Iterator[str]:
        if unlabelled:
            images = "1 image has a name that does" if unlabelled == 1 else f"{unlabelled} images have names that do"
            yield f"{images} not match {printable(self.expression.pattern)} (first: {first}); left out"


@contextmanager
def _time_limit(option: str) -> Iterator[Callable[[], None]]:
    """Raise InputError if more than MAX_SECONDS pass without a call of the function that this context returns.

    A bad expression can take years for one name. In other threads than the main thread there is no limit.
    """

    def stop(*_: object) -> None:
        raise InputError(
            f"{option}: takes more than {MAX_SECONDS:.0f} s for one name; write it without nested repetition, such as "
            "(a+)+",
            exit_status=2,
        )

    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield lambda: None
        return
    previous = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
    try:
        yield lambda: signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS) and None
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, previous)


@lru_cache(maxsize=1024)
def _class_name(label: str) -> str:
    return nfc(text_line(label.strip()))


class _TableLabels:
    """Labels from a CSV table with a header; see LabelsFrom.

    If a row names a file with folders, all rows are paths: below the data, or any part of the full path that ends so.
    Otherwise the rows are names of files, in any folder. Both may lack the suffix of the file.
    """

    def __init__(self, address: str) -> None:
        self.name, file_column, label_column, rows = _read_table(address)
        self.columns = f"{file_column}, {label_column}"
        self.classes: dict[str, int] = {}
        self.rows: dict[str, int] = {}  # by name or path: index into the arrays
        self.row_labels, self.lines = array("i"), array("q")
        self.incomplete = self.repeated = 0
        self.are_paths = False
        for line, file, label in rows:
            path = nfc(file.strip().replace("\\", "/"))
            self.are_paths = self.are_paths or "/" in path
            if not path or not label.strip():
                self.incomplete += 1
                continue
            number = self.classes.setdefault(_class_name(label), len(self.classes))
            row = self.rows.setdefault(path.removeprefix("./"), len(self.row_labels))
            if row == len(self.row_labels):
                self.row_labels.append(number)
                self.lines.append(line)
            else:
                self.repeated += 1
                self._check_equal(row, number, line, file)
        self.class_names = [*self.classes]
        self.used = bytearray(len(self.row_labels))

    def _check_equal(self, row: int, label: int, line: int, file: str) -> None:
        if self.row_labels[row] != label:
            names = [*self.classes]
            first, second = sorted(((self.lines[row], names[self.row_labels[row]]), (line, names[label])))
            raise InputError(
                f"{self.name}: {file} is {first[1]} in line {first[0]} and {second[1]} in line {second[0]}; "
                "remove the wrong one"
            )

    def labels(self, paths: Iterable[str], start: int) -> Iterator[str | None]:
        return (self._label(path, start) for path in paths)

    def _label(self, path: str, start: int) -> str | None:
        row = None
        head, tail = nfc(path[:start]), nfc(path[start:])
        for name in self._names(head + tail, len(head)):
            other = self.rows.get(name)
            if other is None:
                continue
            if row is None:
                row = other
                self._use(row, path[start:])
            elif other != row:
                self.repeated += not self.used[other]
                self.used[other] = True
                self._check_equal(row, self.row_labels[other], self.lines[other], path[start:])
        return None if row is None else self.class_names[self.row_labels[row]]

    def _use(self, row: int, path: str) -> None:
        if self.used[row]:
            raise InputError(
                f"{self.name}: line {self.lines[row]} names several images, such as {path}; write the path "
                "of each below the data, with its suffix, or give one of the folders as the data"
            )
        self.used[row] = True

    def _names(self, path: str, start: int) -> Iterator[str]:
        """The texts by which a row may name the image: parts of its path that end with it, with and without suffix."""
        name = path.rpartition("/")[2]
        starts = [len(path) - len(name)]
        if self.are_paths:
            archive = [match.end() for match in re.finditer(r"\.(?:tar|tgz|gz|bz2|xz|zip)/", path, re.IGNORECASE)]
            shortest = max([start, *archive])
            starts = [0, *(index + 1 for index in range(shortest) if path[index] == "/")]
        for begin in starts:
            yield path[begin:]
            if "." in name.lstrip("."):
                yield path[begin:].rpartition(".")[0]

    def report(self, unlabelled: int, first: str) -> Iterator[str]:
        unused = np.flatnonzero(np.frombuffer(self.used, np.uint8) == 0)
        about = f"{self.name} ({self.columns})"
        if unlabelled:
            images = "1 image has" if unlabelled == 1 else f"{unlabelled} images have"
            yield f"{images} no row in {about} and no label (first: {first}); left out"
        if len(unused):
            name = printable(next(name for name, row in self.rows.items() if row == unused[0]))
            rows = "1 row names" if len(unused) == 1 else f"{len(unused)} rows name"
            yield f"{rows} no image (first: {name}, line {self.lines[unused[0]]} of {about})"
        if self.repeated:
            yield f"{self.repeated} rows of {about} repeat another row"
        if self.incomplete:
            yield f"{self.incomplete} rows of {about} have no file or no label; ignored"


def check_table(address: str) -> None:
    """Raise InputError if a table of labels is missing, is not CSV, or lacks a column. Only its first line is read."""
    _read_table(address)


def _read_table(address: str) -> tuple[str, str, str, Iterator[tuple[int, str, str]]]:
    """The name of a table, those of its columns of files and labels, and (line, file, label) of each row.

    Raises InputError, also while iterating: no such file, no such column, or not CSV.
    """
    name, columns = address, ""
    if not is_file(address) and ":" in address:
        name, _, columns = address.rpartition(":")
    path = Path(name)
    name = printable(name)
    try:
        with path.open("rb") as binary:
            encoding = byte_order_encoding(binary.read(4)) or "utf-8"
        with path.open(encoding=encoding, newline="") as file:
            start = file.readline(MAX_HEADER)
    except FileNotFoundError as error:
        fault = why_missing(path, "no such file; save it as CSV in UTF-8")
        raise InputError(f"--labels {name}: {fault}", exit_status=2) from error
    except OSError as error:
        raise InputError(f"--labels {name}: {read_reason(path, error)}", exit_status=2) from error
    except UnicodeError as error:
        fault = f"cannot be read ({error}); save it as CSV in UTF-8"
        raise InputError(f"--labels {name}: {fault}", exit_status=2) from error
    delimiter = max(DELIMITERS, key=lambda character: len(next(csv.reader([start], delimiter=character), [])))
    header = [printable(column).strip() for column in next(csv.reader([start], delimiter=delimiter), [])]
    given = columns.split(",") if columns else ["", ""]
    if len(given) != 2:
        raise InputError(f"--labels {address}: give two columns, {name}:FILE,LABEL", exit_status=2)
    file_column = _find_column(name, header, given[0], FILE_COLUMNS, "file names")
    label_column = _find_column(name, header, given[1], LABEL_COLUMNS, "labels", file_column)
    rows = _read_rows(path, encoding, delimiter, (file_column, label_column))
    return name, header[file_column], header[label_column], rows


def _find_column(
    name: str, header: list[str], given: str, known: Sequence[str], content: str, files: int | None = None
) -> int:
    """The index of the column that is called `given`, or else like the first of the `known` names, in any case.

    If `files` is the index of the column of files, the column of labels is sought: only one may be known. If there are
    only two columns, it is the other one.
    """
    lower = [column.lower() for column in header]
    wanted = [given.strip().lower()] if given else known
    matches = [lower.index(column) for column in wanted if column in lower]
    if not matches and not given and files is not None and len(header) == 2:
        matches = [1 - files]
    if not matches or (files is not None and len(matches) > 1):
        fault = f"{'several columns' if matches else 'no column'} of {content}"
        fault = f"no column {given}" if given else fault
        raise InputError(
            f"--labels {name}: {fault} among {first_names(header, 10)}; name the columns: {name}:FILE,LABEL",
            exit_status=2,
        )
    return matches[0]


def _read_rows(path: Path, encoding: str, delimiter: str, columns: tuple[int, int]) -> Iterator[tuple[int, str, str]]:
    try:
        with path.open(encoding=encoding, newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            next(reader)
            for row in reader:
                if row:
                    file_name, label = (row[column] if column < len(row) else "" for column in columns)
                    yield reader.line_num, from_utf8(file_name), label
    except OSError as error:
        raise InputError(f"--labels {path}: {read_reason(path, error)}") from error
    except (UnicodeError, csv.Error) as error:
        raise InputError(f"--labels {path}: cannot be read ({error}); save it as CSV in UTF-8") from error
