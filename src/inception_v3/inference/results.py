"""Result files of `predict`: every prediction is written at once, so that a killed run can be resumed.

A results file NAME is accompanied by NAME.about.json, which records the model and the options of the run. Only a run
with the same model and options can resume it. Several processes may write to one Parquet folder at the same time, each
the results of its own shard.
"""

import csv
import glob
import json
import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from inception_v3.errors import InputError
from inception_v3.images.partition import Shard
from inception_v3.images.shards import ShardImages
from inception_v3.inference.predict import Prediction
from inception_v3.support.files import (
    atomic_write,
    check_folder,
    check_writable,
    file_lock,
    is_stream,
    path_for_library,
    write_all,
    write_errors,
    write_text,
)
from inception_v3.support.json_values import check_type, read_json
from inception_v3.support.packages import require_packages
from inception_v3.support.text import csv_record, from_utf8, to_json, to_utf8

SUFFIXES = (".jsonl", ".csv", ".parquet")
ROW_DIGITS = "[0-9]" * 12  # a pattern of the first row in the names of files
UNFINISHED = ".unfinished.jsonl"
ROWS_PER_PART = 50_000  # in one Parquet file: about a megabyte
ROWS_IN_MEMORY = 5_000  # while a Parquet file is written
MAX_RECORD_LINES = 4096  # of a CSV table: the longest path in bytes


def check_results_path(
    path: Path, *, resume: bool = False, overwrite: bool = False, shard: Shard | None = None
) -> None:
    """Check before long work that `open_results` can write to `path`; the arguments are those of `open_results`.

    Raises InputError: a suffix not in SUFFIXES, a package is not installed, not a file (for Parquet, a folder) that can
    be written, or it holds results and neither `resume` nor `overwrite` is given.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--out {path}: the name must end in {', '.join(SUFFIXES)}", exit_status=2)
    if _is_parquet(path):
        require_packages(("pyarrow",), f"--out {path}: Parquet", "parquet")
        check_folder(path)
    elif is_stream(path):
        raise InputError(f"{path}: not a file, so results cannot be kept in it; use --json > {path}", exit_status=2)
    else:
        check_writable(path)
        if shard is not None and path.is_file():
            _check_shard(path, about_path_of(path), str(shard))
    if ResultsPath(path, shard).has_results() and not (resume or overwrite):
        holds = "exists" if shard is None else f"holds shard {shard}"
        raise InputError(f"{path}: {holds} already; continue it with --resume, or give --overwrite", exit_status=2)


def about_path_of(path: Path) -> Path:
    """The path of NAME.about.json beside a results file."""
    return path.with_name(f"{path.name}.about.json")


def open_results(
    path: Path,
    about: dict[str, Any],
    *,
    top: int,
    resume: bool,
    overwrite: bool = False,
    shard: Shard | None = None,
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
        shard: the shard whose results these are, None for all images. `about` then holds `describe_shard`. A Parquet
            folder keeps the results of the other shards, which must have the same `about`.

    Raises InputError if the file exists and neither `resume` nor `overwrite` is given, if it was written with another
    `about`, if another process is writing to it, or if it cannot be written.
    """
    about_path = about_path_of(path)
    # With the lock, shards that start at the same time agree on one description.
    with write_errors(path), file_lock(about_path):
        return _open(ResultsPath(path, shard), about_path, about, top, resume, overwrite)


def describe_shard(path: Path, shard: Shard, images: ShardImages) -> dict[str, Any]:
    """What NAME.about.json records of a shard: in a Parquet folder, which shards share, the same for all of them."""
    shared = {"shards": shard.count, "images": images.count, "images_sha256": images.checksum}
    return shared | ({} if _is_parquet(path) else {"shard": str(shard)})


def how_to_list_errors(path: Path) -> str:
    """A command of the shell that prints the results of the images that could not be read, one per line."""
    name = shlex.quote(str(path))
    if _is_parquet(path):
        code = (
            "import sys, pyarrow.dataset as d; t = d.dataset(sys.argv[1]); "
            "print(*t.to_table(filter=d.field('error').is_valid())['error'], sep='\\n')"
        )
        return f'python -c "{code}" {name}'
    if path.suffix.lower() == ".npz":
        return f"""python -c "import sys, numpy; [*map(print, numpy.load(sys.argv[1])['errors'])]" {name}"""
    # A failed row of the table has no classes.
    return f"grep ',,$' {name}" if path.suffix.lower() == ".csv" else f"""grep '"error": ' {name}"""


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


@dataclass(frozen=True)
class ResultsPath:
    """The files that a run writes: of all images, or of one shard."""

    path: Path
    shard: Shard | None

    @property
    def label(self) -> str:
        """The part of the files' names that differs between shards, in their order."""
        if self.shard is None:
            return ""
        return f"{self.shard.number:0{len(str(self.shard.count))}}-of-{self.shard.count}-"

    def parts(self) -> list[Path]:
        return sorted(self.path.glob(f"part-{self.label}{ROW_DIGITS}.parquet"))

    def part(self, first_row: int) -> Path:
        return self.path / f"part-{self.label}{first_row:012}.parquet"

    def unfinished(self) -> list[Path]:
        return [*self.path.parent.glob(f"{glob.escape(self.path.name)}.{self.label}{ROW_DIGITS}{UNFINISHED}")]

    def unfinished_part(self, first_row: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{self.label}{first_row:012}{UNFINISHED}")

    def has_results(self) -> bool:
        if _is_parquet(self.path) and self.shard is not None:
            return bool(self.parts() or self.unfinished())
        if self.path.is_dir():
            return bool(self.unfinished()) or any(self.path.iterdir())
        return self.path.exists() and self.path.stat().st_size > 0

    def has_others(self) -> bool:
        """Whether the Parquet folder has results of other shards, or not of this division into shards."""
        parts = self.path.glob("part-*.parquet")
        files = chain(parts, self.path.parent.glob(f"{glob.escape(self.path.name)}.*{UNFINISHED}"))
        return _is_parquet(self.path) and not set(files) <= {*self.parts(), *self.unfinished()}

    def delete(self) -> None:
        """Delete the results; other files in a folder are kept. Raises InputError if a run is writing to them."""
        with self.locked():
            for file in (*self.parts(), *self.unfinished()) if _is_parquet(self.path) else (self.path,):
                Path(os.path.realpath(file)).unlink(missing_ok=True)  # a symbolic link stays

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the results. Raises InputError if another process is writing to them."""
        writing = "writing to it" if self.shard is None else f"writing shard {self.shard} to it"
        locked_path = self.path.with_name(f"{self.path.name}.{self.label}".rstrip(".-"))
        with file_lock(locked_path, on_wait=None) as is_free:
            if not is_free:
                raise InputError(f"{self.path}: another run is {writing}; wait for that run, or choose another --out")
            yield


def _open(
    output: ResultsPath, about_path: Path, about: dict[str, Any], top: int, resume: bool, overwrite: bool
) -> "ResultsFile":
    path, exists, has_others = output.path, output.has_results(), output.has_others()
    check_results_path(path, resume=resume, overwrite=overwrite, shard=output.shard)  # another run may have started
    if has_others or (exists and resume):
        check_about(path, about_path, about, "delete the folder" if overwrite else "choose another name")
    if overwrite:
        output.delete()
    if not (has_others or (exists and resume)):
        write_text(about_path, to_json(about, indent=2) + "\n")
    if _is_parquet(path):
        return ParquetResults(output, top, about)
    return CsvResults(output, top) if path.suffix.lower() == ".csv" else JsonLinesResults(path, output)


def _check_shard(path: Path, about_path: Path, shard: str) -> None:
    """Raises InputError if the file holds the results of another shard: only a Parquet folder holds several."""
    before = shard
    with suppress(InputError):
        before = read_json(about_path, dict).get("shard", shard)
    if before != shard:
        raise InputError(
            f"{path}: holds shard {before}, and only a folder NAME.parquet can be shared by shards; give --out "
            "NAME.parquet, or a file of its own to each shard",
            exit_status=2,
        )


def check_about(path: Path, about_path: Path, about: dict[str, Any], last_remedy: str) -> None:
    """Raises InputError if the results were written with another model, other options or other shards."""
    try:
        before = read_json(about_path, dict)
    except InputError as error:
        fault = str(error).rpartition(";")[0]
        raise InputError(f"{fault}; so {path.name} cannot be resumed; {last_remedy}", exit_status=2) from error
    now = json.loads(json.dumps(about))
    if key := next((key for key in now | before if now.get(key) != before.get(key)), None):
        fault = f"was written with {key} {before.get(key)!r}, not {now.get(key)!r}; use the same options as before"
        if key == "shards":
            fault = "was written " + (f"in {before[key]} shards" if key in before else "without --shard")
            fault += f"; give --shard I/{before[key]}" if key in before else "; leave it out"
        elif key.startswith("images"):
            counts = f"{before['images']:,} before, {now['images']:,} now"
            fault = f"its shards are of other images ({counts}), so an image could be missed; give the same images"
        raise InputError(f"{path}: {fault}, or {last_remedy}", exit_status=2)


def _columns(top: int) -> list[str]:
    ranked = (f"{column}_{rank}" for rank in range(1, top + 1) for column in ("class", "probability"))
    return ["image", "error", *ranked]


def _row(prediction: Prediction, columns: list[str]) -> list[str | float | None]:
    """The values of `columns`; a failed image has no classes."""
    classes: list[str | float | None] = [value for pair in prediction.classes for value in pair]
    return [prediction.image, prediction.error, *(classes or [None] * (len(columns) - 2))]


class _LineFile:
    """A text file that is appended to line by line, each line written at once.

    A killed run may leave an incomplete last line. `output` is locked until `close()`. Raises InputError if another
    process is writing to it.
    """

    def __init__(self, path: Path, output: ResultsPath) -> None:
        self.path = path
        with ExitStack() as stack:
            stack.enter_context(output.locked())
            self._file = stack.enter_context(path.open("ab", buffering=0))
            self.close = stack.pop_all().close

    def complete_lines(self) -> Iterator[tuple[int, bytes]]:
        """The records with the numbers of their last lines, from 1. An incomplete last record is cut off.

        A line end in a name, between quotes, is a part of the record. Raises InputError: a record has too many lines.
        """
        length, record = 0, b""
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                record += line
                if line.endswith(b"\n") and self.is_complete(record):
                    length += len(record)
                    yield number, record
                    record = b""
                elif record.count(b"\n") > MAX_RECORD_LINES:
                    raise _damaged(self.path, number)
        self._file.truncate(length)

    def is_complete(self, lines: bytes) -> bool:
        """Whether these lines are a record."""
        return True

    def append(self, line: str) -> None:
        with write_errors(self.path):
            write_all(self._file, line.encode())


class JsonLinesResults(_LineFile):
    """One JSON object per line, as `predict --json` prints them."""

    def predictions(self) -> Iterator[Prediction]:
        for number, line in self.complete_lines():
            try:
                result = json.loads(line)
                classes = [(ranked["class"], ranked["probability"]) for ranked in result.get("predictions", ())]
                image, error = check_type([result["image"], result.get("error")], tuple[str, str | None])
                prediction = Prediction(image, classes, error)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise _damaged(self.path, number) from error
            yield prediction

    def finished(self) -> Iterator[tuple[str, bool]]:
        return ((prediction.image, prediction.error is not None) for prediction in self.predictions())

    def write(self, prediction: Prediction) -> None:
        self.append(to_json(prediction.as_dict()) + "\n")


class CsvResults(_LineFile):
    """A table with a header: image, error, and each class with its probability, best first."""

    def __init__(self, output: ResultsPath, top: int) -> None:
        super().__init__(output.path, output)
        self._columns = _columns(top)
        self._write_header_if_empty()

    def finished(self) -> Iterator[tuple[str, bool]]:
        for number, line in self.complete_lines():
            try:
                cells = dict(zip(self._columns, next(csv.reader([line.decode()])), strict=True))
            except ValueError as error:
                raise _damaged(self.path, number) from error
            if number > 1:
                yield from_utf8(cells["image"]), bool(cells["error"])
        self._write_header_if_empty()  # the earlier run may have been killed while it wrote the header

    def is_complete(self, lines: bytes) -> bool:
        return lines.count(b'"') % 2 == 0

    def write(self, prediction: Prediction) -> None:
        self.append(csv_record(_row(prediction, self._columns)))

    def _write_header_if_empty(self) -> None:
        if not self.path.stat().st_size:
            self.append(csv_record(self._columns))


class ParquetResults:
    """A folder of Parquet files with the columns of the CSV table; each file is complete, or it does not exist.

    Predictions are first appended to a file of JSON lines beside the folder, NAME.ROW.unfinished.jsonl. After
    ROWS_PER_PART of them, and at the end, they are moved into a Parquet file. After a kill, the JSON lines are kept.
    The names of a shard's files hold its number.
    """

    def __init__(self, output: ResultsPath, top: int, about: dict[str, Any]) -> None:
        pa = self._arrow = import_module("pyarrow")
        self._parquet = import_module("pyarrow.parquet")
        self._output, self._columns = output, _columns(top)
        fields = [(name, pa.float32() if "probability" in name else pa.string()) for name in self._columns]
        self._schema = pa.schema(fields, metadata={"inception_v3": json.dumps(about)})
        Path(os.path.realpath(output.path)).mkdir(parents=True, exist_ok=True)
        self._first_row = 0
        for part in output.parts():
            with path_for_library(part) as file:
                self._first_row += self._parquet.read_metadata(file).num_rows
        self._pending, self._pending_count = self._open_pending(), 0
        for pending in output.unfinished():
            if pending != self._pending.path:  # moved already: the run was killed before it deleted the lines
                pending.unlink()

    def finished(self) -> Iterator[tuple[str, bool]]:
        for part in self._output.parts():
            with path_for_library(part) as file, self._parquet.ParquetFile(file) as table:
                for batch in table.iter_batches(columns=["image", "error"]):
                    for image, error in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                        yield from_utf8(image), error is not None
        for image, failed in self._pending.finished():
            self._pending_count += 1
            yield image, failed

    def write(self, prediction: Prediction) -> None:
        self._pending.write(prediction)
        self._pending_count += 1
        if self._pending_count >= ROWS_PER_PART:
            self.close()
            self._pending = self._open_pending()

    def close(self) -> None:
        """Move the pending predictions into a Parquet file, and delete their JSON lines."""
        rows = 0
        predictions = self._pending.predictions()
        if (first := next(predictions, None)) is not None:
            predictions = chain([first], predictions)
            with (
                atomic_write(self._output.part(self._first_row)) as file,
                self._parquet.ParquetWriter(file, self._schema, compression="zstd") as writer,
            ):
                while values := [_row(prediction, self._columns) for prediction in islice(predictions, ROWS_IN_MEMORY)]:
                    cells = ([to_utf8(cell) if isinstance(cell, str) else cell for cell in row] for row in values)
                    writer.write_table(self._arrow.table(list(zip(*cells, strict=True)), schema=self._schema))
                    rows += len(values)
        self._first_row, self._pending_count = self._first_row + rows, 0
        self._pending.close()
        self._pending.path.unlink()

    def _open_pending(self) -> JsonLinesResults:
        return JsonLinesResults(self._output.unfinished_part(self._first_row), self._output)


ResultsFile = JsonLinesResults | CsvResults | ParquetResults


def _damaged(path: Path, number: int) -> InputError:
    return InputError(f"{path}: line {number} is not a result of `predict`; choose another name")


class Named(Protocol):
    """An image with the name under which its result is stored."""

    @property
    def name(self) -> str: ...


AnyImage = TypeVar("AnyImage", bound=Named)


@dataclass
class RemainingImages(Generic[AnyImage]):
    """The sources that a resumed run still has to predict, and counts of the results that exist already."""

    sources: Iterator[AnyImage]
    done: int = 0
    failed: int = 0
    unmatched: int = 0  # results without a source so far; falls while `sources` is iterated over
    changed: bool = False  # whether the images or their order differ from those of the earlier run


def remaining_images(finished: Iterator[tuple[str, bool]], sources: Iterable[AnyImage]) -> RemainingImages[AnyImage]:
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


def _match_by_name(remaining: RemainingImages[AnyImage], names: Iterable[str], taken: list[AnyImage]) -> None:
    """Match the remaining `names` of results with the sources `taken` and those that remain."""
    known, counts = np.unique(np.fromiter(map(_key, names), np.uint64), return_counts=True)
    counts = counts.astype(np.uint32)
    remaining.changed, remaining.unmatched = True, int(counts.sum())

    def without_result(sources: Iterable[AnyImage]) -> Iterator[AnyImage]:
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
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest())
