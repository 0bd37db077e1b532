"""Predictions in files, line by line as they come, such that a killed run leaves what it had and goes on from there.

A results file NAME has a NAME.about.json beside it, which says what made it; a run that goes on must be made alike.
"""

import csv
import glob
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from importlib import import_module
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from inception_v3.errors import InputError
from inception_v3.images.find import ImageSource
from inception_v3.inference.predict import Prediction
from inception_v3.support.files import write_error, atomic_write
from inception_v3.support.text import printable

SUFFIXES = (".jsonl", ".csv", ".parquet")
ROWS_PER_PART = 50_000  # of Parquet: about a megabyte


class Results(Protocol):
    """Where predictions go."""

    def finished(self) -> Iterator[tuple[str, bool]]:
        """What an earlier run has done, in order: each image's name, and whether it failed."""
        ...

    def write(self, prediction: Prediction) -> None: ...

    def close(self) -> None: ...


def check(path: Path) -> None:
    """Raises InputError for a path that no results can be written to, by its name."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--out {path}: the name must end in {', '.join(SUFFIXES)}", exit_status=2)
    if path.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise InputError(f"--out {path}: Parquet needs pyarrow: pip install 'inception-v3[data]'", exit_status=2)


def open_results(path: Path, about: dict[str, Any], *, top: int, resume: bool) -> Results:
    """Results to write to: new ones, or with `resume` those that are there, less a half-written end.

    `about` is what the results depend on. Raises InputError: results that are there already, without `resume`; made
    by other means, with it; a place that cannot be written.
    """
    check(path)
    described = path.with_name(f"{path.name}.about.json")
    try:
        there = path.exists() and (path.is_dir() or path.stat().st_size > 0)
        if there and not resume:
            message = f"{path}: is there already; --resume goes on with it, or choose another name"
            raise InputError(message, exit_status=2)
        if there:
            _check_alike(path, described, about)
        else:
            with atomic_write(described) as file:
                file.write_text(json.dumps(about, ensure_ascii=False, indent=2) + "\n", "utf-8")
        if path.suffix.lower() == ".parquet":
            return Parquet(path, top, about)
        return Csv(path, top) if path.suffix.lower() == ".csv" else JsonLines(path)
    except OSError as error:
        raise write_error(path, error) from error


def _check_alike(path: Path, described: Path, about: dict[str, Any]) -> None:
    try:
        before = json.loads(described.read_text("utf-8"))
    except (OSError, ValueError) as error:
        message = f"{described}: missing or damaged, and it says what made {path.name}; choose another name"
        raise InputError(message, exit_status=2) from error
    now = json.loads(json.dumps(about))
    if differing := [key for key in now | before if now.get(key) != before.get(key)]:
        key = differing[0]
        wrong = f"was made with {key} {before.get(key)!r}, not {now.get(key)!r}"
        raise InputError(f"{path}: {wrong}; run it as before, or choose another name", exit_status=2)


def _columns(top: int) -> list[str]:
    """Of a table: best first."""
    ranked = (f"{column}_{place}" for place in range(1, top + 1) for column in ("class", "probability"))
    return ["image", "error", *ranked]


def _row(prediction: Prediction, top: int) -> list[str | float | None]:
    ranked: list[str | float | None] = [one for pair in prediction.classes for one in pair]
    return [prediction.image, prediction.error, *(ranked or [None] * (2 * top))]


class _Lines:
    """A file of lines, each written at once. Of the last one a killed run may have written the beginning alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)
        try:
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{path}: another run is writing there; wait for it, or give another --out") from error
        except (ImportError, OSError):  # a system or a network disk that has no such locks
            pass

    def whole_lines(self) -> Iterator[tuple[int, bytes]]:
        """The lines that are there, numbered; a half-written end is cut off."""
        length = 0
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.endswith(b"\n"):
                    length += len(line)
                    yield number, line
        self._file.truncate(length)

    def append(self, line: str) -> None:
        left = memoryview(line.encode())
        try:
            while left:  # a disk that fills up takes a part
                left = left[self._file.write(left) :]
        except OSError as error:
            raise write_error(self.path, error) from error

    def close(self) -> None:
        self._file.close()


class JsonLines(_Lines):
    """A JSON object a line, as `predict --json` prints."""

    def predictions(self) -> Iterator[Prediction]:
        for number, line in self.whole_lines():
            try:
                found = json.loads(line)
                classes = [(one["class"], one["probability"]) for one in found.get("predictions", ())]
                prediction = Prediction(found["image"], classes, found.get("error"))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise _damaged(self.path, number) from error
            yield prediction

    def finished(self) -> Iterator[tuple[str, bool]]:
        return ((one.image, one.error is not None) for one in self.predictions())

    def write(self, prediction: Prediction) -> None:
        self.append(json.dumps(prediction.as_dict(), ensure_ascii=False) + "\n")


class Csv(_Lines):
    """A table with a header: image, error, and each class with its probability, best first."""

    def __init__(self, path: Path, top: int) -> None:
        super().__init__(path)
        self._top = top
        self._line = io.StringIO()
        self._writer = csv.writer(self._line, lineterminator="\n")
        if not path.stat().st_size:
            self._append(_columns(top))

    def finished(self) -> Iterator[tuple[str, bool]]:
        for number, line in self.whole_lines():
            try:
                image, error, *ranked = next(csv.reader([line.decode()]))
            except ValueError as wrong:
                raise _damaged(self.path, number) from wrong
            if len(ranked) != 2 * self._top:
                raise _damaged(self.path, number)
            if number > 1:
                yield image, bool(error)
        if not self.path.stat().st_size:  # killed before the header was whole
            self._append(_columns(self._top))

    def write(self, prediction: Prediction) -> None:
        self._append(_row(prediction, self._top))

    def _append(self, cells: Sequence[object]) -> None:
        self._line.seek(0)
        self._line.truncate()
        self._writer.writerow([printable(cell) if isinstance(cell, str) else cell for cell in cells])
        self.append(self._line.getvalue())


class Parquet:
    """The same table as a folder of Parquet files, each there as a whole or not at all.

    Predictions go to a file of JSON lines beside the folder until they are enough for a file in it. What is in these
    lines after a kill is done as well.
    """

    def __init__(self, path: Path, top: int, about: dict[str, Any]) -> None:
        pa = self._arrow = import_module("pyarrow")
        self._parquet = import_module("pyarrow.parquet")
        self._folder, self._top = path, top
        types = {"class": pa.string(), "probability": pa.float32()}
        fields = [(name, types.get(name.partition("_")[0], pa.string())) for name in _columns(top)]
        self._schema = pa.schema(fields, metadata={"inception_v3": json.dumps(about)})
        path.mkdir(parents=True, exist_ok=True)
        self._first = sum(self._parquet.read_metadata(part).num_rows for part in self._parts())
        for stale in path.parent.glob(f"{glob.escape(path.name)}.*.unfinished.jsonl"):
            if stale != self._unfinished:  # the file in the folder was written, and then the run was killed
                stale.unlink()
        self._lines, self._count = JsonLines(self._unfinished), 0

    def finished(self) -> Iterator[tuple[str, bool]]:
        for part in self._parts():
            for batch in self._parquet.ParquetFile(part).iter_batches(columns=["image", "error"]):
                for image, error in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    yield image, error is not None
        for image, failed in self._lines.finished():
            self._count += 1
            yield image, failed

    def write(self, prediction: Prediction) -> None:
        self._lines.write(prediction)
        self._count += 1
        if self._count >= ROWS_PER_PART:
            self._finish_part()
            self._lines = JsonLines(self._unfinished)

    def close(self) -> None:
        self._finish_part()

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob("part-*.parquet"))

    @property
    def _unfinished(self) -> Path:
        return self._folder.with_name(f"{self._folder.name}.{self._first:012}.unfinished.jsonl")

    def _finish_part(self) -> None:
        done, rows = self._unfinished, 0
        predictions = self._lines.predictions()
        if (first := next(predictions, None)) is not None:
            predictions = chain([first], predictions)
            with (
                atomic_write(self._folder / f"part-{self._first:012}.parquet") as file,
                self._parquet.ParquetWriter(file, self._schema, compression="zstd") as writer,
            ):
                while some := [_row(one, self._top) for one in islice(predictions, 5000)]:
                    cells = [dict(zip(self._schema.names, one, strict=True)) for one in some]
                    writer.write_table(self._arrow.Table.from_pylist(cells, schema=self._schema))
                    rows += len(some)
        self._first, self._count = self._first + rows, 0
        self._lines.close()
        done.unlink()


def _damaged(path: Path, number: int) -> InputError:
    return InputError(f"{path}: line {number} is no result of this program; choose another name")


@dataclass
class Rest:
    """What an earlier run has left to do."""

    sources: Iterator[ImageSource]
    done: int = 0
    failed: int = 0
    gone: int = 0  # are done, and not asked for any more; some may still come
    changed: bool = False  # the pictures or their order


def rest(finished: Iterator[tuple[str, bool]], sources: Iterable[ImageSource]) -> Rest:
    """The sources that are not finished. Each finished one stands for one source of its name.

    Both are walked in step, in constant memory. From where they differ, because pictures came, went or were renamed,
    they are matched by name: 12 bytes are held for each that is finished.
    """
    left = Rest(iter(sources))
    for name, failed in finished:
        source = next(left.sources, None)
        if source is None or source.name != name:
            _match_by_name(left, chain([(name, failed)], finished), [] if source is None else [source])
            break
        left.done += 1
        left.failed += failed
    return left


def _match_by_name(left: Rest, finished: Iterable[tuple[str, bool]], taken: list[ImageSource]) -> None:
    def keys() -> Iterator[int]:
        for name, failed in finished:
            left.done += 1
            left.failed += failed
            yield _key(name)

    known, counts = np.unique(np.fromiter(keys(), np.uint64), return_counts=True)
    counts = counts.astype(np.uint32)
    left.changed, left.gone = True, int(counts.sum())

    def unfinished(sources: Iterable[ImageSource]) -> Iterator[ImageSource]:
        for source in sources:
            key = _key(source.name)
            place = min(int(np.searchsorted(known, np.uint64(key))), len(known) - 1)
            if known[place] == key and counts[place]:
                counts[place] -= 1
                left.gone -= 1
            else:
                yield source

    left.sources = unfinished(chain(taken, left.sources))


def _key(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest())
