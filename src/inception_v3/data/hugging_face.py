"""Hugging Face data sets: folders that `save_to_disk` wrote, and parquet files."""

import logging
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from inception_v3.data.address import labels_file, train_and_held_out
from inception_v3.data.extras import extra
from inception_v3.data.pictures import Encoded, Pictures, PictureSource, Splits
from inception_v3.data.records import MAX_LABEL, told_apart
from inception_v3.data.sequences import Made
from inception_v3.errors import InputError
from inception_v3.support.text import printable

IMAGE_COLUMNS = ("image", "img", "jpg", "png")
LABEL_COLUMNS = ("label", "labels", "fine_label", "cls")


def is_saved(folder: Path) -> bool:
    """A folder of save_to_disk: one data set, or a dictionary of splits."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def find(folder: Path) -> Splits:
    """The splits of a folder that save_to_disk wrote."""
    place = str(folder)
    loaded = _tried(place, lambda: extra("datasets", place).load_from_disk(place))
    if not isinstance(loaded, dict):
        return Splits(partial(_pictures, loaded, place, folder.name))
    splits = {name: partial(_pictures, part, f"{place}: {name}", name) for name, part in loaded.items()}
    train, held_out = train_and_held_out(splits)
    if train and held_out:
        return Splits(train, held_out)
    if not splits:
        raise InputError(f"{place}: it has no splits; save it again")
    return Splits(train or held_out or next(iter(splits.values())))


def read_parquet(files: list[Path], place: str) -> Pictures:
    """Pictures called FILES/ROW, with the name of the first file. `datasets` copies them to its cache, once."""
    datasets = extra("datasets", place)
    shown = sys.stderr.isatty() and not datasets.are_progress_bars_disabled()
    if not shown:
        datasets.disable_progress_bars()
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(logging.CRITICAL)  # what goes wrong is raised too
    try:
        table = _tried(place, lambda: datasets.Dataset.from_parquet([str(file) for file in files]))
    finally:
        datasets.enable_progress_bars()
        datasets.logging.set_verbosity(verbosity)
    pictures = _pictures(table, place, files[0].name)
    if known := labels_file(files[0].parent):
        pictures.class_names = told_apart([known.get(label, name) for label, name in enumerate(pictures.class_names)])
    return pictures


def _tried(place: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except InputError:
        raise
    except Exception as error:  # pyarrow and datasets raise almost any class over damaged files
        cause = error.__cause__ or error
        detail = printable(" ".join(str(cause).split()))[:200] or type(cause).__name__
        raise InputError(f"{place}: cannot be read ({detail}); save or fetch it again") from error


@dataclass(frozen=True)
class _Table:
    rows: Any  # a datasets.Dataset of the pictures alone, undecoded
    column: str
    called: str
    sizes: np.ndarray

    def name(self, number: int) -> str:
        return f"{self.called}/{number:06d}"

    def source(self, number: int) -> PictureSource:
        return Encoded(self.name(number), int(self.sizes[number]), partial(self.content, number))

    def content(self, number: int) -> bytes:
        value: Any = _tried(self.name(number), lambda: self.rows[number][self.column])
        path = None
        if isinstance(value, dict):
            path, value = value.get("path"), value.get("bytes")
        if value is None and path:
            return _tried(self.name(number), Path(path).read_bytes)  # type: ignore[no-any-return]
        if not isinstance(value, bytes):
            raise InputError(f"{self.name(number)}: there is no picture in this row")
        return value


def _pictures(table: Any, place: str, called: str) -> Pictures:
    datasets = extra("datasets", place)
    features = table.features
    image = _column(features, datasets.Image, IMAGE_COLUMNS, place, "pictures")
    label = _column(features, datasets.ClassLabel, LABEL_COLUMNS, place, "labels")
    if isinstance(features[image], datasets.Image):
        table = table.cast_column(image, datasets.Image(decode=False))
    numbers = _tried(place, lambda: table.select_columns(label).with_format("arrow")[:][label].to_pylist())
    if not numbers:
        raise InputError(f"{place}: it has no rows; check the path")
    labels = array("i")
    for row, number in enumerate(numbers):
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= MAX_LABEL:
            wrong = printable(number)[:40]
            raise InputError(
                f"{place}: row {row} has {label} {wrong!r}, and must have a whole number from 0 to {MAX_LABEL:,}; cast "
                "names to ClassLabel, and leave out rows without a label"
            )
        labels.append(number)
    class_names = list(getattr(features[label], "names", None) or [])
    class_names += [str(number) for number in range(len(class_names), max(labels) + 1)]
    rows = _Table(table.select_columns(image), image, called, _sizes(table, image, place))
    return Pictures(class_names, Made(rows.source, range(len(labels))), labels, Made(rows.name, range(len(labels))))


def _column(features: Any, kind: type, names: tuple[str, ...], place: str, what: str) -> str:
    """The one column of this kind, or the first that is called so."""
    columns = [name for name, feature in features.items() if isinstance(feature, kind)]
    found = columns[:1] if len(columns) == 1 else [name for name in names if name in features]
    if not found:
        raise InputError(f"{place}: no column of {what} ({', '.join(names)}); it has {', '.join(features)}")
    return str(found[0])


def _sizes(table: Any, image: str, place: str) -> np.ndarray:
    """How many bytes each picture has; 0 where that is not known."""
    compute = extra("pyarrow.compute", place)

    def measure() -> np.ndarray:
        column = table.select_columns(image).with_format("arrow")[:][image]
        if str(column.type).startswith("struct"):
            column = compute.struct_field(column, "bytes")
        if str(column.type) == "null":  # every picture lies in a file of its own
            return np.zeros(len(column), np.int64)
        return np.asarray(compute.fill_null(compute.binary_length(column), 0).to_numpy())

    return _tried(place, measure)  # type: ignore[no-any-return]
