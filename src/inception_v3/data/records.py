"""Images inside larger files, read by their offset. Each file is indexed first; an index that took long is cached."""

import hashlib
import json
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from inception_v3.data.labelled_images import LabelledImages, LazyImageFile
from inception_v3.data.labels import MAX_LABEL, read_label_names
from inception_v3.data.sequences import PackedStrings
from inception_v3.errors import InputError
from inception_v3.images.find import LeftOut
from inception_v3.support.files import cache_folder, write_text
from inception_v3.support.json_values import read_json
from inception_v3.support.progress import show_progress
from inception_v3.support.streams import new_console
from inception_v3.support.system_errors import check_readable

INDEX_VERSION = 5  # increase it when FileIndex changes
MIN_SECONDS_TO_CACHE = 1.0  # an index that took less time is not cached


@dataclass
class FileIndex:
    """The labelled images of one file, and the (name, reason) of each part of the file that cannot be used."""

    names: list[str] = field(default_factory=list)  # within the file
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)  # in bytes
    labels: list[int] = field(default_factory=list)
    class_names: dict[int, str] = field(default_factory=dict)  # by label, if the file has names
    folders: list[str] = field(default_factory=list)  # by label, SPLIT/CLASS; if labels are those of this file only
    bad: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)  # (name, reason) of images that are not used

    def add(self, name: str, offset: int, size: int, label: int) -> None:
        self.names.append(name)
        self.offsets.append(offset)
        self.sizes.append(size)
        self.labels.append(label)


class IndexFile(Protocol):
    """A function that indexes a file. Its name is part of the key of the cached index."""

    __name__: str

    def __call__(self, path: Path, /) -> FileIndex: ...


ReadRecord = Callable[[str, Path, int, int], bytes]  # (name for errors, file, offset, size) -> the encoded image


def read_records(
    files: Sequence[Path], address: str, index_file: IndexFile, read_record: ReadRecord
) -> tuple[LabelledImages, dict[int, str]]:
    """The images of all files, and the names of their labels.

    Images are named FILE/RECORD, with the folder of the file if two files have the same name. The class names of the
    images are numbers, or the `folders` of all files. The second result maps numbers to names from a labels.txt beside
    the files, or else from the files; it may be empty.
    Raises InputError: a file cannot be read, a label is not a whole number, or there is no labelled image.
    """
    unique = len({file.name for file in files}) == len(files)
    prefixes = [file.name if unique else file.as_posix() for file in files]
    blocks: list[np.ndarray] = []
    labels = array("i")
    bad: list[tuple[str, str]] = []
    label_names: dict[int, str] = {}
    record_names = PackedStrings()
    folders: dict[str, int] = {}
    left_out = LeftOut()
    numbered = False
    with show_progress(new_console(stderr=True)) as start_step:
        step = start_step("indexing", len(files), "files")
        for file_index, file in enumerate(files):
            index = _cached_index(file, index_file)
            file_indices = [file_index] * len(index.labels)
            blocks.append(np.array([file_indices, index.offsets, index.sizes], np.int64).T)
            numbered = numbered or (bool(index.labels) and not index.folders)
            file_labels = [folders.setdefault(folder, len(folders)) for folder in index.folders]
            labels.extend([file_labels[label] for label in index.labels] if index.folders else index.labels)
            for left_out_name, reason in index.left_out:
                left_out.add(f"{prefixes[file_index]}/{left_out_name}", reason)
            record_names.extend(index.names)
            bad += [(f"{prefixes[file_index]}/{name}".rstrip("/"), reason) for name, reason in index.bad]
            label_names = index.class_names | label_names  # if files name a label differently, the first one counts
            step(1)
    if not labels:
        reason = ": ".join(bad[0]) if bad else "check its content"
        raise InputError(f"{address}: no labelled images in it; {reason}")
    if folders and numbered:
        raise InputError(f"{address}: holds archives with labels and others with class folders; give one kind of them")
    left_out.warn()
    label_names = read_label_names(files[0].parent) or label_names
    if max(label_names, default=0) > MAX_LABEL:
        raise InputError(f"{address}: labels.txt has the label {max(label_names)}; labels go up to {MAX_LABEL:,}")
    class_names = list(folders) or [str(label) for label in range(max(labels) + 1)]
    locations = np.concatenate(blocks)  # int64 (N, 3): index of the file, offset, size
    name = partial(_name, prefixes, locations, record_names)
    source = partial(_source, files, locations, name, read_record)
    return LabelledImages.lazy(class_names, labels, source, name, bad), label_names


def _name(prefixes: list[str], locations: np.ndarray, record_names: PackedStrings, index: int) -> str:
    return f"{prefixes[locations[index, 0]]}/{record_names[index]}"


def _source(
    files: Sequence[Path], locations: np.ndarray, name: Callable[[int], str], read_record: ReadRecord, index: int
) -> LazyImageFile:
    file_index, offset, size = locations[index].tolist()
    image_name = name(index)
    return LazyImageFile(image_name, size, partial(read_record, image_name, files[file_index], offset, size))


def _cached_index(file: Path, index_file: IndexFile) -> FileIndex:
    """The index of a file, from the cache if the file's size and time have not changed."""
    check_readable(file)
    status = file.stat()
    kind = f"{index_file.__module__}.{index_file.__name__}"
    key = repr((INDEX_VERSION, kind, file.resolve().as_posix(), status.st_size, status.st_mtime_ns))
    cached = cache_folder("index") / f"{hashlib.sha256(key.encode('utf-8', 'replace')).hexdigest()[:24]}.json"
    with suppress(InputError):  # none yet, or damaged
        return cast(FileIndex, read_json(cached, FileIndex))
    started = time.perf_counter()
    index = index_file(file)
    if time.perf_counter() - started > MIN_SECONDS_TO_CACHE:
        with suppress(InputError):
            write_text(cached, json.dumps(asdict(index)))
    return index
