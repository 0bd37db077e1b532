"""`load_data` and `load_held_out` read a data set of any kind by its address. docs/data.md lists the forms.

Each kind of data set has a module with `find_..._splits`, which finds its splits, and `read_...`, which reads the names
and labels of one split; images are decoded later. Shards, TFRecords and parquet files are split by their names
(`find_file_splits`).
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from inception_v3.data.arrays import read_array_splits, read_arrays
from inception_v3.data.digits import find_digits_splits
from inception_v3.data.duplicates import duplicate_warnings
from inception_v3.data.file_labels import LabelsFrom, find_labelled_splits
from inception_v3.data.folders import find_folder_splits, read_folder_images
from inception_v3.data.hugging_face import find_saved_splits, is_saved_dataset, read_parquet
from inception_v3.data.labelled_images import BACKGROUND, LabelledImages
from inception_v3.data.sequences import LazySequence
from inception_v3.data.shards import read_archive_images, read_archive_splits, read_shards
from inception_v3.data.splits import (
    ReadFiles,
    ReadParts,
    SplitReaders,
    find_file_splits,
    first_names,
    hold_out,
    local_files,
    split_name,
)
from inception_v3.data.tfrecords import TFRECORD_NAME, read_tfrecords
from inception_v3.data.torchvision_sets import TORCHVISION_SETS, find_torchvision_splits
from inception_v3.errors import InputError
from inception_v3.images.addresses import exists, expand_paths, is_url
from inception_v3.images.find import SHARD_NAME, is_system_name, list_images
from inception_v3.support.arguments import checked
from inception_v3.support.system_errors import check_readable, is_file, is_folder, list_folder
from inception_v3.support.text import nfc, text_line
from inception_v3.weights.wordnet import names_for_model

MAX_COMPARED = 100_000  # duplicates in larger data sets are not looked for: that would take minutes
_KIND_AND_LOCATION = re.compile(r"([a-z][a-z0-9-]+)(?:\+([a-z]+))?:(?!//)(.+)")


@checked
def load_data(address: str | Path, labels_from: LabelsFrom | None = None) -> tuple[LabelledImages, LabelledImages]:
    """The training and the held-out images of a data set, with the same classes.

    If the data set has no split of its own, a fifth of each class is held out, the same images at every call.
    `labels_from` replaces the labels of images in folders and archives.
    Warns, in one line each: images that are left out, classes without images in a split, duplicates in both splits or
    in two classes.

    Raises:
        InputError: a file is missing or damaged, there are no images or only one class, a class has one image, a
            held-out class is not in training, or a label is not a whole number.
    """
    address = str(address)
    splits = _find_splits(address, labels_from)
    train = splits.train()
    if np.count_nonzero(train.counts()) < 2:
        raise InputError(
            f"{address}: one class only ({train.class_names[train.labels[0]]}); a classifier needs at least two"
        )
    if splits.held_out is None:
        train, held_out = hold_out(train, address)
    else:
        held_out = splits.held_out().relabel(
            train.class_names,
            lambda name: (
                f"{address}: {name} is a held-out class, and training has no class of that name; add it or remove it"
            ),
        )
    for line in _warnings(train, held_out):
        warnings.warn(f"{address}: {line}", stacklevel=2)
    return train, held_out


@checked
def load_held_out(
    address: str | Path,
    class_names: list[str] | None,
    *trained_on: AbstractSet[str],
    labels_from: LabelsFrom | None = None,
) -> LabelledImages:
    """The images to evaluate a model on.

    These are the held-out images of the data set; if it has no split of its own, all images except those that models
    were trained on.

    Args:
        class_names: classes of the model; the images get the model's labels. None keeps the labels of the data set.
        trained_on: the names of the training images, a set for each model.
        labels_from: replaces the labels of images in folders and archives.

    Warns if the data set contains only some of a model's training images.

    Raises:
        InputError: as `load_data` does, for a class that the model does not have, and if no image is left.
    """
    address = str(address)
    splits = _find_splits(address, labels_from)
    images = splits.held_out() if splits.held_out else _without(splits.train(), trained_on, address)
    for line in _bad_warnings(images):
        warnings.warn(f"{address}: {line}", stacklevel=2)
    return images if class_names is None else with_classes(images, class_names, address)


def load_every_split(address: str | Path) -> dict[str, LabelledImages]:
    """All images of a data set: by split, "training" and "held-out"; under "" if it has no split of its own.

    The splits keep their own classes. Raises InputError as `load_data` does for a data set that cannot be read.
    """
    splits = _find_splits(str(address), None)
    if splits.held_out is None:
        return {"": splits.train()}
    return {"training": splits.train(), "held-out": splits.held_out()}


def with_classes(images: LabelledImages, class_names: list[str], address: str) -> LabelledImages:
    """The images with the labels of a model's classes. Raises InputError for a class that the model does not have."""
    names = names_for_model(images.class_names, class_names)
    renamed = LabelledImages(names, images.sources, images.labels, images.names, images.bad)
    return renamed.relabel(
        class_names,
        lambda name: f"{address}: the model has no class {name}; it has {first_names(class_names, 10)}",
    )


def _without(images: LabelledImages, trained_on: Sequence[AbstractSet[str]], address: str) -> LabelledImages:
    """All images except those in `trained_on`. A set that has no name in common with the images is ignored."""
    names = {nfc(text_line(name)) for name in images.names}
    of_models = [set(map(nfc, model_names)) for model_names in trained_on]
    known = set[str]().union(*(model_names for model_names in of_models if not model_names.isdisjoint(names)))
    kept = [index for index, name in enumerate(images.names) if nfc(text_line(name)) not in known]
    if not kept:
        raise InputError(
            f"{address}: every one of the {len(images)} images has the name of a training image; give other images"
        )
    if missing := len(known - names):
        warnings.warn(
            f"{address}: {len(known) - missing} of the {len(known)} training images are in it, by their names, and "
            f"left out; if others were renamed, they are among the {len(kept)} that are evaluated",
            stacklevel=3,
        )
    if moved := _moved(names - known, set[str]().union(*of_models) - known):
        warnings.warn(
            f"{address}: {moved} of the {len(kept)} images have the names of training images in another folder or "
            "archive, and are evaluated too; if they are the same images, give the data as you gave it to the training",
            stacklevel=3,
        )
    return images.subset(kept, images.bad)


def _moved(names: AbstractSet[str], trained_on: AbstractSet[str]) -> int:
    """How many names end with the name of a training image, or are the end of one: train.zip/cat/1.jpg, cat/1.jpg."""

    def ends(name: str) -> Iterator[str]:
        parts = name.split("/")
        return ("/".join(parts[start:]) for start in range(len(parts)))

    ends_of_trained = {end for name in trained_on for end in ends(name)}
    return sum(name in ends_of_trained or not trained_on.isdisjoint(ends(name)) for name in names)


def _find_splits(address: str, labels_from: LabelsFrom | None) -> SplitReaders:
    if labels_from is not None:
        return find_labelled_splits(*_find_images(address), labels_from, address)
    if is_folder(address):
        return _find_in_folder(Path(address), address)
    if address == "-":
        raise InputError(
            "-: images on standard input have no labels; give a folder of class/image files or an archive of them",
            exit_status=2,
        )
    if address == "digits":
        return find_digits_splits()
    if (match := _KIND_AND_LOCATION.fullmatch(address)) and not exists(address):
        return _find_by_kind(address, *match.groups())
    return _find_in_files(expand_paths(address), address)


def _find_images(address: str) -> tuple[LabelledImages, Sequence[str]]:
    """All images in a folder or in archives, in one class, and their full paths, those of archives included.

    Raises InputError: no images, or they have no file names.
    """
    root = Path(address)
    if is_folder(address) and next(list_images(root), None) is not None:
        images = read_folder_images(root)
        parent = f"{root.resolve().as_posix()}/"
        return images, LazySequence(lambda index: parent + images.names[index], range(len(images)))
    has_files = address not in ("-", "digits") and (exists(address) or not _KIND_AND_LOCATION.fullmatch(address))
    listed = [] if not has_files else _list_files(root) if is_folder(address) else expand_paths(address)
    if not listed or any(_reader(file) != (read_shards, read_archive_splits) for file in listed):
        raise InputError(
            f"{address}: --labels and --labels-from-name need images in a folder or in archives; give the folder, or "
            "leave them out",
            exit_status=2,
        )
    files = local_files(listed)
    images = read_archive_images(files, address)
    are_unique = len({file.name for file in files}) == len(files)  # otherwise the names are already paths
    parents = {file.name: f"{file.parent.as_posix()}/" for file in files if are_unique}
    return images, LazySequence(lambda index: _full_path(images.names[index], parents), range(len(images)))


def _full_path(name: str, parents: dict[str, str]) -> str:
    """The path of an image in an archive, whose name begins with the name of the archive."""
    return parents.get(name.partition("/")[0], "") + name


def _find_by_kind(address: str, kind: str, option: str | None, location: str) -> SplitReaders:
    """The splits of KIND:LOCATION or KIND+OPTION:LOCATION, such as cifar10+download:datasets."""
    if kind in TORCHVISION_SETS and option in (None, "download"):
        return find_torchvision_splits(kind, Path(location), download=option is not None)
    if kind == "tfrecords" and option in (None, "background"):
        files = (
            [file for file in _list_files(Path(location)) if TFRECORD_NAME.search(file)]
            if is_folder(location)
            else expand_paths(location)
        )
        return find_file_splits(files, location, partial(read_tfrecords, keep_background=option is not None))
    raise InputError(
        f"{address}: unknown kind of data set {kind}{'+' + option if option else ''}; give "
        f"{', '.join([*TORCHVISION_SETS, 'tfrecords'])}",
        exit_status=2,
    )


def _find_in_folder(root: Path, address: str) -> SplitReaders:
    check_readable(root)
    if is_saved_dataset(root):
        return find_saved_splits(root)
    # a folder of images may also hold the archive that they were extracted from
    if next(list_images(root), None) is None and (files := _list_files(root)):
        return _find_in_files(files, address)
    return find_folder_splits(root)


def _list_files(root: Path) -> list[str]:
    """The shards, TFRecords and parquet files in a folder, in its data/, and in the folders of its splits."""
    folders = (path for path in list_folder(root) if (path.name == "data" or split_name(path.name)) and is_folder(path))
    files = [path for folder in [root, *folders] for path in list_folder(folder) if is_file(path)]
    return [str(file) for file in files if not is_system_name(file.name) and _reader(str(file))]


def _find_in_files(files: Sequence[str], address: str) -> SplitReaders:
    readers = {_reader(file): file for file in files}
    if len(readers) > 1:
        raise InputError(
            f"{address}: holds files of several kinds ({', '.join(readers.values())}); give a pattern for one of them",
            exit_status=2,
        )
    (reader,) = readers
    if reader is None:
        raise InputError(
            f"{files[0]}: not a data set that can be read; give .tar, .zip, .npz, .parquet or TFRecord files, or "
            "a folder of class/image files",
            exit_status=2,
        )
    return find_file_splits(files, address, *reader)


def _reader(file: str) -> tuple[ReadFiles, ReadParts | None] | None:
    """The functions that read a file or URL, by its name; None for other files."""
    name = urlsplit(file).path if is_url(file) else file
    if SHARD_NAME.search(name):
        return read_shards, read_archive_splits
    if name.endswith(".npz"):
        return read_arrays, read_array_splits
    if name.endswith(".parquet"):
        return read_parquet, None
    return (read_tfrecords, None) if TFRECORD_NAME.search(name) else None


def _warnings(train: LabelledImages, held_out: LabelledImages) -> Iterator[str]:
    yield from _bad_warnings(train)
    yield from _bad_warnings(held_out)
    trained, evaluated = train.counts() > 0, held_out.counts() > 0
    expected = np.array([name != BACKGROUND for name in train.class_names])
    for lacking, line in (
        (expected & ~trained, "no training image of {}"),
        (trained & ~evaluated, "no held-out image of {}; add some, or the accuracy there stays unknown"),
    ):
        if names := [train.class_names[label] for label in np.flatnonzero(lacking)]:
            yield line.format(first_names(names, 10))
    in_memory = isinstance(train.sources[0], Image.Image)  # a published data set, which the user cannot correct
    if not in_memory and len(train) + len(held_out) <= MAX_COMPARED:
        yield from duplicate_warnings(train, held_out)


def _bad_warnings(images: LabelledImages) -> Iterator[str]:
    if images.bad:
        name, reason = images.bad[0]
        yield f"left out {name}: {reason}" + (f"; and {len(images.bad) - 1} more" if len(images.bad) > 1 else "")
