"""Files of features: the values of end points for many images, as .npz or .parquet.

While a run computes them, they are appended to the folder NAME.unfinished, so that a killed run can be resumed and the
memory is bounded. At the end they are copied into one file, and the folder is deleted. NAME.about.json records the
model and the options of the run.
"""

import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from io import FileIO
from itertools import islice
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import InputError
from inception_v3.inference.engines.base import is_vector
from inception_v3.inference.pipeline import Openable
from inception_v3.inference.predict import Prediction
from inception_v3.inference.results import JsonLinesResults, ResultsPath, about_path_of, check_about
from inception_v3.inference.schedule import Result
from inception_v3.support.files import atomic_write, check_writable, is_stream, write_all, write_errors, write_text
from inception_v3.support.packages import require_packages
from inception_v3.support.text import to_json, to_utf8

SUFFIXES = (".npz", ".parquet")
VALUE_BYTES = 4  # float32
ROW_GROUP_BYTES = 2**25  # of a Parquet file, and in memory while it is written

Shapes = dict[str, tuple[int, ...]]  # of each end point for one image: (C,) or (C, H, W)


def check_feature_file(path: Path, end_points: tuple[str, ...], *, resume: bool, overwrite: bool) -> None:
    """Check before long work that the file can be written.

    Raises InputError: a suffix not in SUFFIXES; maps in a .parquet file; a package that is not installed; not a file
    that can be written; it exists, or an unfinished run does, and neither `resume` nor `overwrite` is given.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--out {path}: the name must end in {' or '.join(SUFFIXES)}", exit_status=2)
    if path.suffix.lower() == ".parquet":
        require_packages(("pyarrow",), f"--out {path}: Parquet", "parquet")
        if maps := [name for name in end_points if not is_vector(name)]:
            fault = f"a Parquet table holds vectors, and {maps[0]} is a map; write NAME.npz"
            raise InputError(f"--out {path}: {fault}", exit_status=2)
    if is_stream(path):
        raise InputError(f"{path}: not a file, so features cannot be kept in it; name a file", exit_status=2)
    check_writable(path)
    unfinished = _unfinished(path).exists()
    if path.exists() and not overwrite and not (unfinished and resume):
        remedy = "a finished file is not extended; choose another name, or give --overwrite"
        raise InputError(f"{path}: exists already; {remedy}", exit_status=2)
    if unfinished and not (resume or overwrite):
        fault = "an earlier run has not finished it; continue it with --resume, or give --overwrite"
        raise InputError(f"{path}: {fault}", exit_status=2)


def _unfinished(path: Path) -> Path:
    return path.with_name(f"{path.name}.unfinished")


class FeatureFile:
    """Writes the features of one image after another, and at the end the file.

    Exhaust `finished()` before the first `write`. `close()` unlocks it; without a `finish()` before, it can be resumed.

    Raises InputError: an unfinished run of another model or with other options, another process is writing to it, or it
    cannot be written.
    """

    def __init__(self, path: Path, about: dict[str, Any], shapes: Shapes, *, resume: bool, overwrite: bool) -> None:
        self.path, self._folder, self._shapes = path, _unfinished(path), shapes
        with write_errors(path), ExitStack() as stack:
            stack.enter_context(ResultsPath(path, None).locked())
            check_feature_file(path, tuple(shapes), resume=resume, overwrite=overwrite)  # another run may have started
            if overwrite and self._folder.exists():
                shutil.rmtree(self._folder)
            self._about, about_path = about, self._folder / "about.json"
            if self._folder.exists():
                check_about(path, about_path, about, "give --overwrite")
            else:
                write_text(about_path, to_json(about, indent=2) + "\n")
            images = self._folder / "images.jsonl"
            self._images = JsonLinesResults(images, ResultsPath(images, None))
            stack.callback(self._images.close)
            self._values: dict[str, FileIO] = {}
            for index, name in enumerate(shapes):
                file = stack.enter_context((self._folder / f"{index}.float32").open("ab+", buffering=0))
                self._values[name] = file
            self._files = stack.pop_all()

    def finished(self) -> Iterator[tuple[str, bool]]:
        """Yield the name of each image that an earlier run has finished, and whether it could not be read."""
        count = 0
        for name, failed in self._images.finished():
            count += not failed
            yield name, failed
        for name, file in self._values.items():
            length = count * self._row_bytes(name)
            if file.seek(0, 2) < length:
                raise InputError(f"{self._folder}: is damaged, {file.name} is too short; give --overwrite")
            file.truncate(length)

    def check_disk_space(self, images: int | None, done: int) -> None:
        """Raise InputError if the features of `images` images, of which some are done, do not fit on the disk.

        Until the end, features are on it twice: in the folder of the unfinished run, and in the file.
        """
        image_bytes = sum(map(self._row_bytes, self._shapes))
        needed = (2 * max(images or 0, done) - done) * image_bytes
        free = shutil.disk_usage(self._folder).free
        if images is not None and needed > free:
            raise InputError(
                f"{self.path}: the features of {images:,} images need {needed / 1e9:,.1f} GB while they are written, "
                f"and {free / 1e9:,.1f} GB are free; choose fewer end points or images, or another disk"
            )

    def write(self, result: Result[Openable, None]) -> None:
        """Append the values of an image, or the reason why there are none."""
        if result.outputs is not None:
            with write_errors(self.path):
                for name, file in self._values.items():
                    write_all(file, np.ascontiguousarray(result.outputs[name], np.float32).data)
        self._images.write(Prediction(result.source.name, [], result.error))

    def close(self) -> None:
        """Close the files. The folder of a run that has not finished is kept, if it holds features."""
        started = (self._folder / "images.jsonl").stat().st_size if self._folder.exists() else 0
        if not started:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._files.close()

    def finish(self) -> None:
        """Write the file, and delete the folder of the unfinished run."""
        write_text(about_path_of(self.path), to_json(self._about, indent=2) + "\n")
        with atomic_write(self.path) as temporary:
            if self.path.suffix.lower() == ".npz":
                self._write_npz(temporary)
            else:
                self._write_parquet(temporary)
        with write_errors(self.path):
            shutil.rmtree(self._folder)

    def _row_bytes(self, name: str) -> int:
        return prod(self._shapes[name]) * VALUE_BYTES

    def _texts(self, field: str, failed: bool) -> Iterator[str]:
        """The field `image` or `error` of each image that could be read, or with `failed` of each that could not."""
        return (getattr(each, field) for each in self._images.predictions() if (each.error is not None) == failed)

    def _write_npz(self, temporary: Path) -> None:
        columns = {"images": ("image", False), "unreadable": ("image", True), "errors": ("error", True)}
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, column in columns.items():
                lengths = [len(text) for text in self._texts(*column)]
                width = max(lengths, default=1)
                with _open_array(archive, name, np.dtype(("<U", width)), (len(lengths),)) as member:
                    for text in self._texts(*column):
                        member.write(text.encode("utf-32-le", "surrogatepass").ljust(4 * width, b"\0"))
                if name == "images":
                    count = len(lengths)
            for name, file in self._values.items():
                with _open_array(archive, name, np.dtype("<f4"), (count, *self._shapes[name])) as member:
                    file.seek(0)
                    shutil.copyfileobj(file, member, 2**20)

    def _write_parquet(self, temporary: Path) -> None:
        pa, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
        vectors = {name: pa.list_(pa.float32(), width) for name, (width,) in self._shapes.items()}
        fields = [("image", pa.string()), ("error", pa.string()), *vectors.items()]
        schema = pa.schema(fields, metadata={"inception_v3": json.dumps(self._about)})
        rows = max(1, ROW_GROUP_BYTES // sum(map(self._row_bytes, self._shapes)))
        images = self._images.predictions()
        for file in self._values.values():
            file.seek(0)
        with parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
            while group := list(islice(images, rows)):
                columns = [
                    [to_utf8(each.image) for each in group],
                    [each.error and to_utf8(each.error) for each in group],
                ]
                failed = np.array([each.error is not None for each in group])
                for name, file in self._values.items():
                    columns.append(_vectors(pa, file, failed, vectors[name]))
                writer.write_table(pa.table(columns, schema=schema))


def _open_array(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> IO[bytes]:
    """Open an array of an .npz file, to which its values in C order are then written."""
    member = archive.open(f"{name}.npy", "w", force_zip64=True)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)
    return member


def _vectors(pa: Any, file: FileIO, failed: NDArray[np.bool_], kind: Any) -> Any:
    """The next vectors of a file as a column; that of a failed image, which is not in the file, is null."""
    width = kind.list_size
    values = np.zeros((len(failed), width), np.float32)
    values[~failed] = np.frombuffer(file.read(int((~failed).sum()) * width * VALUE_BYTES), "<f4").reshape(-1, width)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=kind, mask=pa.array(failed))
