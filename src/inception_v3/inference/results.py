"""Result files of `predict`: every prediction is written at once, so that a killed run can be resumed.

A results file NAME is accompanied by NAME.about.json, which records the model and the options of the run. Only a run
with the same model and options can resume it.
"""

import csv
import glob
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from inception_v3.errors import InputError
from inception_v3.images.find import ImageSource
from inception_v3.inference.predict import Prediction
from inception_v3.support.files import atomic_write, check_writable, file_lock, is_stream, write_error, write_text
from inception_v3.support.packages import require_packages
from inception_v3.support.text import printable

SUFFIXES = (".jsonl", ".csv", ".parquet")
ROWS_PER_PART = 50_000  # in one Parquet file: about a megabyte
ROWS_IN_MEMORY = 5_000  # while a Parquet file is written


def check_results_path(path: Path) -> None:
    """Check the name of a results file. Raises InputError: a suffix not in SUFFIXES, or a package is not installed."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--out {path}: the name must end in {', '.join(SUFFIXES)}", exit_status=2)
    if path.suffix.lower() == ".parquet":
        require_packages(("pyarrow",), f"--out {path}: Parquet", "parquet")


def open_results(
    path: Path, about: dict[str, Any], *, top: int, resume: bool, overwrite: bool = False
) -> "ResultsFile":
    """Create a results file, or with `resume` open an existing one.

    Its method `finished()` yields the results of earlier runs in order, as (image name, whether it failed), and cuts
    off a half-written end. Exhaust it before the first `write(prediction)`. Call `close()` at the end.

    Args:
        path: the file, or the folder for Parquet; the suffix determines the format.
        about: the model and options that determine the results, for NAME.about.json.
        top: the number of classes for each image.
        resume: continue an existing file; create it if it does not exist.
        overwrite: delete an existing file first.

    Raises InputError if the file exists and neither `resume` nor `overwrite` is given, if it was written with another
    `about`, if another process is writing to it, or if it cannot be written.
    """
    check_results_path(path)
    about_path = path.with_name(f"{path.name}.about.json")
    try:
        if path.suffix.lower() != ".parquet":
            check_writable(path)
        elif path.exists() and not path.is_dir():
            raise InputError(f"{path}: is a file, but Parquet results are a folder; choose another name", exit_status=2)
        if is_stream(path):
            raise InputError(f"{path}: not a file, so results cannot be kept in it; use --json > {path}", exit_status=2)
        exists = path.exists() and (path.is_dir() or path.stat().st_size > 0)
        if exists and not (resume or overwrite):
            raise InputError(f"{path}: exists already; continue it with --resume, or give --overwrite", exit_status=2)
        if overwrite:
            _delete(path)
        if exists and resume:
            _check_about(path, about_path, about)
        else:
            write_text(about_path, json.dumps(about, ensure_ascii=False, indent=2) + "\n")
        if path.suffix.lower() == ".parquet":
            return ParquetResults(path, top, about)
        return CsvResults(path, top) if path.suffix.lower() == ".csv" else JsonLinesResults(path)
    except OSError as error:
        raise write_error(path, error) from error


def _delete(path: Path) -> None:
    """Delete a results file, or the parts of a Parquet folder; other files in the folder are kept."""
    parts = path.glob("part-*.parquet") if path.is_dir() else [path]
    for file in (*parts, *path.parent.glob(f"{glob.escape(path.name)}.*.unfinished.jsonl")):
        file.unlink(missing_ok=True)


def _check_about(path: Path, about_path: Path, about: dict[str, Any]) -> None:
    """Raises InputError if the results were written with another model or other options."""
    try:
        before = json.loads(about_path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{about_path}: missing or damaged, so {path.name} cannot be resumed; choose another name", exit_status=2
        ) from error
    now = json.loads(json.dumps(about))
    if key := next((key for key in now | before if now.get(key) != before.get(key)), None):
        raise InputError(
            f"{path}: was written with {key} {before.get(key)!r}, not {now.get(key)!r}; use the same options as "
            "before, or another name",
            exit_status=2,
        )


def _columns(top: int) -> list[str]:
    ranked = (f"{column}_{rank}" for rank in range(1, top + 1) for column in ("class", "probability"))
    return ["image", "error", *ranked]


def _row(prediction: Prediction, columns: list[str]) -> list[str | float | None]:
    """The values of `columns`; a failed image has no classes."""
    classes: list[str | float | None] = [value for pair in prediction.classes for value in pair]
    return [prediction.image, prediction.error, *(classes or [None] * (len(columns) - 2))]


class _LineFile:
    """A text file that is appended to line by line, each line written at once.

    A killed run may leave an incomplete last line. `locked_path` (by default `path`) is locked until `close()`. Raises
    InputError if another process is writing to it.
    """

    def __init__(self, path: Path, locked_path: Path | None = None) -> None:
        self.path = path
        with ExitStack() as stack:
            if not stack.enter_context(file_lock(out := locked_path or path, on_wait=None)):
                raise InputError(f"{out}: another run is writing to it; wait for that run, or choose another --out")
            self._file = stack.enter_context(path.open("ab", buffering=0))
            self.close = stack.pop_all().close

    def complete_lines(self) -> Iterator[tuple[int, bytes]]:
        """The lines with their numbers, from 1. An incomplete last line is cut off."""
        length = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.endswith(b"\n"):
                    length += len(line)
                    yield number, line
        self._file.truncate(length)

    def append(self, line: str) -> None:
        unwritten = memoryview(line.encode())
        try:
            while unwritten:  # on a disk that is nearly full, write() takes only a part
                unwritten = unwritten[self._file.write(unwritten) :]
        except OSError as error:
            raise write_error(self.path, error) from error


class JsonLinesResults(_LineFile):
    """One JSON object per line, as `predict --json` prints them."""

    def predictions(self) -> Iterator[Prediction]:
        for number, line in self.complete_lines():
            try:
                result = json.loads(line)
                classes = [(ranked["class"], ranked["probability"]) for ranked in result.get("predictions", ())]
                prediction = Prediction(result["image"], classes, result.get("error"))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise _damaged(self.path, number) from error
            yield prediction

    def finished(self) -> Iterator[tuple[str, bool]]:
        return ((prediction.image, prediction.error is not None) for prediction in self.predictions())

    def write(self, prediction: Prediction) -> None:
        self.append(json.dumps(prediction.as_dict(), ensure_ascii=False) + "\n")


class CsvResults(_LineFile):
    """A table with a header: image, error, and each class with its probability, best first."""

    def __init__(self, path: Path, top: int) -> None:
        super().__init__(path)
        self._columns = _columns(top)
        self._write_header_if_empty()

    def finished(self) -> Iterator[tuple[str, bool]]:
        for number, line in self.complete_lines():
            try:
                cells = dict(zip(self._columns, next(csv.reader([line.decode()])), strict=True))
            except ValueError as error:
                raise _damaged(self.path, number) from error
            if number > 1:
                yield cells["image"], bool(cells["error"])
        self._write_header_if_empty()  # the earlier run may have been killed while it wrote the header

    def write(self, prediction: Prediction) -> None:
        self._append(_row(prediction, self._columns))

    def _write_header_if_empty(self) -> None:
        if not self.path.stat().st_size:
            self._append(self._columns)

    def _append(self, cells: Sequence[object]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(
            [printable(cell) if isinstance(cell, str) else cell for cell in cells]
        )
        self.append(line.getvalue())


class ParquetResults:
    """A folder of Parquet files with the columns of the CSV table; each file is complete, or it does not exist.

    Predictions are first appended to a file of JSON lines beside the folder, NAME.ROW.unfinished.jsonl. After
    ROWS_PER_PART of them, and at the end, they are moved into a Parquet file. After a kill, the JSON lines are kept.
    """

    def __init__(self, path: Path, top: int, about: dict[str, Any]) -> None:
        pa = self._arrow = import_module("pyarrow")
        self._parquet = import_module("pyarrow.parquet")
        self._folder, self._columns = path, _columns(top)
        fields = [(name, pa.float32() if "probability" in name else pa.string()) for name in self._columns]
        self._schema = pa.schema(fields, metadata={"inception_v3": json.dumps(about)})
        path.mkdir(parents=True, exist_ok=True)
        self._first_row = sum(self._parquet.read_metadata(part).num_rows for part in self._parts())
        for pending in path.parent.glob(f"{glob.escape(path.name)}.*.unfinished.jsonl"):
            if pending != self._pending_path:  # moved already: the run was killed before it deleted the lines
                pending.unlink()
        self._pending, self._pending_count = JsonLinesResults(self._pending_path, path), 0

    def finished(self) -> Iterator[tuple[str, bool]]:
        for part in self._parts():
            for batch in self._parquet.ParquetFile(part).iter_batches(columns=["image", "error"]):
                for image, error in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    yield image, error is not None
        for image, failed in self._pending.finished():
            self._pending_count += 1
            yield image, failed

    def write(self, prediction: Prediction) -> None:
        self._pending.write(prediction)
        self._pending_count += 1
        if self._pending_count >= ROWS_PER_PART:
            self.close()
            self._pending = JsonLinesResults(self._pending_path, self._folder)

    def close(self) -> None:
        """Move the pending predictions into a Parquet file, and delete their JSON lines."""
        pending_path, rows = self._pending_path, 0
        predictions = self._pending.predictions()
        if (first := next(predictions, None)) is not None:
            predictions = chain([first], predictions)
            with (
                atomic_write(self._folder / f"part-{self._first_row:012}.parquet") as file,
                self._parquet.ParquetWriter(file, self._schema, compression="zstd") as writer,
            ):
                while values := [_row(prediction, self._columns) for prediction in islice(predictions, ROWS_IN_MEMORY)]:
                    writer.write_table(self._arrow.table(list(zip(*values, strict=True)), schema=self._schema))
                    rows += len(values)
        self._first_row, self._pending_count = self._first_row + rows, 0
        self._pending.close()
        pending_path.unlink()

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob("part-*.parquet"))

    @property
    def _pending_path(self) -> Path:
        return self._folder.with_name(f"{self._folder.name}.{self._first_row:012}.unfinished.jsonl")


ResultsFile = JsonLinesResults | CsvResults | ParquetResults


def _damaged(path: Path, number: int) -> InputError:
    return InputError(f"{path}: line {number} is not a result of `predict`; choose another name")


@dataclass
class RemainingImages:
    """The sources that a resumed run still has to predict, and counts of the results that exist already."""

    sources: Iterator[ImageSource]
    done: int = 0
    failed: int = 0
    unmatched: int = 0  # results without a source so far; falls while `sources` is iterated over
    changed: bool = False  # whether the images or their order differ from those of the earlier run


def remaining_images(finished: Iterator[tuple[str, bool]], sources: Iterable[ImageSource]) -> RemainingImages:
    """Find the sources that have no result yet. Each result stands for one source of its name.

    Both sequences are walked in step, in constant memory. If they differ, because images were added, removed or
    renamed, the rest is matched by name, with 12 bytes of memory for each remaining result.
    """
    remaining = RemainingImages(iter(sources))

    def count_results() -> Iterator[str]:
        for name, failed in finished:
            remaining.done += 1
            remaining.failed += failed
            yield name

    names = count_results()
    for name in names:
        source = next(remaining.sources, None)
        if source is None or source.name != name:
            _match_by_name(remaining, chain([name], names), [] if source is None else [source])
            break
    return remaining


def _match_by_name(remaining: RemainingImages, names: Iterable[str], taken: list[ImageSource]) -> None:
    """Match the remaining `names` of results with the sources `taken` and those that remain."""
    known, counts = np.unique(np.fromiter(map(_key, names), np.uint64), return_counts=True)
    counts = counts.astype(np.uint32)
    remaining.changed, remaining.unmatched = True, int(counts.sum())

    def without_result(sources: Iterable[ImageSource]) -> Iterator[ImageSource]:
        for source in sources:
            key = _key(source.name)
            index = min(int(np.searchsorted(known, np.uint64(key))), len(known) - 1)
            if known[index] == key and counts[index]:
                counts[index] -= 1
                remaining.unmatched -= 1
            else:
                yield source

    remaining.sources = without_result(chain(taken, remaining.sources))


def _key(name: str) -> int:
    """A 64-bit hash of an image's name."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest())
