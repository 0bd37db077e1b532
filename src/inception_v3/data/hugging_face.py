"""Hugging Face data sets: folders that `save_to_disk` wrote, and parquet files."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from inception_v3.data.labelled_images import LabelledImages, LazyImageFile
from inception_v3.data.labels import MAX_LABEL, is_label, read_label_names, unique_names
from inception_v3.data.splits import SplitReaders, choose_splits
from inception_v3.errors import InputError
from inception_v3.support.packages import import_package
from inception_v3.support.system_errors import check_readable, is_file
from inception_v3.support.text import one_line

IMAGE_COLUMNS = ("image", "img", "jpg", "png")
LABEL_COLUMNS = ("label", "labels", "fine_label", "cls")


def is_saved_dataset(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder, for a single data set or for a dictionary of splits."""
    return is_file(folder / "dataset_dict.json") or is_file(folder / "state.json")


def find_saved_splits(folder: Path) -> SplitReaders:
    """The splits of a folder that `save_to_disk` wrote; images are named SPLIT/ROW."""
    address = str(folder)
    with _as_input_error(address):
        saved = import_package("datasets", address, "data").load_from_disk(address)
    if not isinstance(saved, dict):
        return SplitReaders(partial(_read_table, saved, address, folder.name))
    readers = {name: partial(_read_table, table, f"{address}: {name}", name) for name, table in saved.items()}
    if not readers:
        raise InputError(f"{address}: it has no splits; save it again")
    return choose_splits(readers, next(iter(readers.values())))


def read_parquet(files: list[Path], address: str) -> LabelledImages:
    """The rows of all files, named FILE/ROW with the first file's name. `datasets` copies the files to its cache once.

    Class names come from the label column; a labels.txt beside the files replaces them.
    Raises InputError: damaged files, no column of images or labels, or a label that is not a whole number.
    """
    datasets = import_package("datasets", address, "data")
    for file in files:
        check_readable(file)
    with _quiet(datasets), _as_input_error(address):
        table = datasets.Dataset.from_parquet([str(file) for file in files])
    images = _read_table(table, address, files[0].name)
    if label_names := read_label_names(files[0].parent):
        images.class_names = unique_names(
            [label_names.get(label, name) for label, name in enumerate(images.class_names)]
        )
    return images


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Silence the log messages of `datasets`, and its progress bars outside a terminal. It still raises its errors."""
    if sys.stderr is None or not sys.stderr.isatty():
        datasets.disable_progress_bars()
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.enable_progress_bars()
        datasets.logging.set_verbosity(verbosity)


@contextmanager
def _as_input_error(name: str) -> Iterator[None]:
    """Raise any error of `datasets` and pyarrow as an InputError of one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # damaged files raise almost any class
        cause = error.__cause__ or error
        detail = one_line(cause, 200)
        raise InputError(f"{name}: cannot be read ({detail}); save or download it again") from error


def _read_table(table: Any, address: str, prefix: str) -> LabelledImages:
    """The rows of a datasets.Dataset, named PREFIX/ROW."""
    datasets = import_package("datasets", address, "data")
    features = table.features
    image_column = _find_column(features, datasets.Image, IMAGE_COLUMNS, f"{address}: no column of images")
    label_column = _find_column(features, datasets.ClassLabel, LABEL_COLUMNS, f"{address}: no column of labels")
    if isinstance(features[image_column], datasets.Image):
        table = table.cast_column(image_column, datasets.Image(decode=False))
    with _as_input_error(address):
        columns = table.select_columns([image_column, label_column]).with_format("arrow")[:]
        labels = columns[label_column].to_pylist()
        sizes = _encoded_sizes(columns[image_column], import_package("pyarrow.compute", address, "data"))
    if not labels:
        raise InputError(f"{address}: it has no rows; check the path")
    for row, label in enumerate(labels):
        if not is_label(label):
            raise InputError(
                f"{address}: row {row} has {label_column} {str(label)[:40]!r}, but must have a whole number from "
                f"0 to {MAX_LABEL:,}; cast names to ClassLabel, and leave out rows without a label"
            )
    class_names = list(getattr(features[label_column], "names", None) or [])
    class_names += [str(label) for label in range(len(class_names), max(labels) + 1)]
    return LabelledImages.lazy(
        class_names,
        labels,
        partial(_source, prefix, table.select_columns(image_column), image_column, sizes),
        partial(_name, prefix),
    )


def _name(prefix: str, index: int) -> str:
    return f"{prefix}/{index:06d}"


def _source(prefix: str, rows: Any, column: str, sizes: np.ndarray, index: int) -> LazyImageFile:
    """The image of a row. `rows` has only the image `column`, not decoded; `sizes` are those of `_encoded_sizes`."""
    name = _name(prefix, index)
    return LazyImageFile(name, int(sizes[index]), partial(_read_content, rows, column, name, index))


def _read_content(rows: Any, column: str, name: str, index: int) -> bytes:
    with _as_input_error(name):
        content = rows[index][column]
        if isinstance(content, dict):
            path, content = content.get("path"), content.get("bytes")
            if content is None and path:
                content = Path(path).read_bytes()
    if not isinstance(content, bytes):
        raise InputError(f"{name}: there is no image in this row")
    return content


def _find_column(features: Any, feature_type: type, names: tuple[str, ...], error: str) -> str:
    """Find the only column of a type. If there is none, or several, return the first of `names` that is a column."""
    columns = [name for name, feature in features.items() if isinstance(feature, feature_type)]
    if len(columns) != 1:
        columns = [name for name in names if name in features]
    if not columns:
        raise InputError(f"{error} ({', '.join(names)}); it has {', '.join(features)}")
    return str(columns[0])


def _encoded_sizes(column: Any, compute: Any) -> np.ndarray:
    """The number of bytes of each encoded image, (N,); 0 if unknown."""
    if str(column.type).startswith("struct"):
        column = compute.struct_field(column, "bytes")
    if str(column.type) == "null":  # every image is in a file of its own
        return np.zeros(len(column), np.int64)
    return np.asarray(compute.fill_null(compute.binary_length(column), 0).to_numpy())
