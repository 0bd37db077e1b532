"""`load_data` and `load_held_out`: a data set by its address, whatever kind it is. docs/data.md lists the forms."""

import re
import warnings
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from inception_v3.data import digits, folders, hugging_face, shards, tfrecords, torchvision_sets
from inception_v3.data.address import TFRECORD, Reader, exists, expand, is_folder, split_files, split_named
from inception_v3.data.duplicates import warnings_of
from inception_v3.data.fetch import is_url
from inception_v3.data.pictures import BACKGROUND, Pictures, Splits, renumber, split_evenly
from inception_v3.errors import InputError
from inception_v3.images.find import list_images

COMPARED = 100_000  # of more pictures, those under two names are not looked for: it would take minutes
_KIND = re.compile(r"([a-z][a-z0-9-]+)(?:\+([a-z]+))?:(?!//)(.+)")


def load_data(address: str) -> tuple[Pictures, Pictures]:
    """The training and the held-out pictures of a data set.

    Where it has no split of its own, a fifth of each class is held out, the same at every call.
    Warns, a line each: pictures that are left out, classes that a side lacks, pictures on both sides or in two
    classes. Raises InputError, naming the file and the remedy: missing, empty, damaged, one class only, too few
    pictures, unknown classes, labels that are no numbers.
    """
    found = _find(address)
    train = found.train()
    if len(train.class_names) < 2 or np.count_nonzero(train.counts()) < 2:
        only = train.class_names[train.labels[0]]
        raise InputError(f"{address}: one class only ({only}); a classifier needs at least two")
    if found.held_out is None:
        train, held_out = split_evenly(train, address)
    else:
        held_out = renumber(
            found.held_out(),
            train.class_names,
            lambda name: f"{address}: {name} is held out, and training has no class of that name; add it or remove it",
        )
    for line in _remarks(train, held_out):
        warnings.warn(f"{address}: {line}", stacklevel=2)
    return train, held_out


def load_held_out(address: str, class_names: list[str] | None, *trained_on: AbstractSet[str]) -> Pictures:
    """What a model with these classes is to be judged on, labelled by its own numbers.

    The data set's own held-out pictures; or else all of it less those whose names are in `trained_on`, a set for each
    model. Warns where the data set has some of the pictures of such a set and lacks others.
    Raises InputError as `load_data` does, for classes that the model does not have, and where no picture is left.
    """
    found = _find(address)
    pictures = (found.held_out or found.train)()
    if found.held_out is None:
        pictures = _without(pictures, trained_on, address)
    for line in _left_out(pictures):
        warnings.warn(f"{address}: {line}", stacklevel=2)
    if class_names is None:
        return pictures
    return renumber(
        pictures,
        class_names,
        lambda name: f"{address}: the model has no class {name}; it has {_some(class_names)}",
    )


def _without(pictures: Pictures, trained_on: Sequence[AbstractSet[str]], address: str) -> Pictures:
    """All but the pictures that are in one of the sets; a set that shares none with them is of other data."""
    names = set(pictures.names)
    known = set[str]().union(*(one for one in trained_on if not one.isdisjoint(names)))
    if not known:
        return pictures
    judged = [place for place, name in enumerate(pictures.names) if name not in known]
    if not judged:
        raise InputError(f"{address}: all {len(pictures)} pictures are called as training pictures are; give others")
    if gone := len(known - names):
        warnings.warn(
            f"{address}: {len(known) - gone} of the {len(known)} training pictures are in it, by their names, and left "
            f"out; any that were renamed are among the {len(judged)} that are judged",
            stacklevel=3,
        )
    left = pictures.subset(judged)
    left.bad = pictures.bad
    return left


def _find(address: str) -> Splits:
    if is_folder(address):
        return _in_folder(Path(address), address)
    if address == "digits":
        train, held_out = split_evenly(digits.read(), address)
        return Splits(lambda: train, lambda: held_out)
    if (match := _KIND.fullmatch(address)) and not exists(address):
        return _named(address, *match.groups())
    return _in_files(expand(address), address)


def _named(address: str, kind: str, option: str | None, place: str) -> Splits:
    """`cifar10:ROOT` and the like."""
    if kind in torchvision_sets.CLASSES and option in (None, "download"):
        return torchvision_sets.find(kind, Path(place), download=option is not None)
    if kind == "tfrecords" and option in (None, "background"):
        inside = is_folder(place)
        files = [file for file in _files_in(Path(place)) if TFRECORD.search(file)] if inside else expand(place)
        return split_files(files, place, tfrecords.with_background if option else tfrecords.read)
    known = ", ".join([*torchvision_sets.CLASSES, "tfrecords"])
    raise InputError(
        f"{address}: nothing is called {kind}{'+' + option if option else ''}; there are {known}", exit_status=2
    )


def _in_folder(root: Path, address: str) -> Splits:
    if hugging_face.is_saved(root):
        return hugging_face.find(root)
    # an archive that lies beside the pictures that came from it is not meant
    if next(list_images(root), None) is None and (files := _files_in(root)):
        return _in_files(files, address)
    return folders.find(root)


def _files_in(root: Path) -> list[str]:
    """The shards, TFRecords or tables in a folder, or in its train/, val/ and data/."""
    inside = [place for place in sorted(root.iterdir()) if place.name == "data" or split_named(place.name)]
    places = [root, *(place for place in inside if place.is_dir())]
    files = [file for place in places for file in sorted(place.iterdir()) if file.is_file()]
    return [str(file) for file in files if not file.name.startswith(".") and _reader(str(file))]


def _in_files(files: Sequence[str], address: str) -> Splits:
    readers = {_reader(file): file for file in files}
    if len(readers) > 1:
        raise InputError(
            f"{address}: holds files of several kinds ({', '.join(readers.values())}); give a pattern for one of them",
            exit_status=2,
        )
    reader = next(iter(readers))
    if reader is None:
        raise InputError(
            f"{files[0]}: no data set that is read here: .tar, .parquet, TFRecords, or a folder of class/image files",
            exit_status=2,
        )
    return split_files(files, address, reader)


def _reader(file: str) -> Reader | None:
    """What reads a file or URL, by its name."""
    name = urlsplit(file).path if is_url(file) else file
    if name.endswith(".tar"):
        return shards.read
    if name.endswith(".parquet"):
        return hugging_face.read_parquet
    return tfrecords.read if TFRECORD.search(name) else None


def _remarks(train: Pictures, held_out: Pictures) -> Iterator[str]:
    yield from _left_out(train)
    yield from _left_out(held_out)
    counts, held_counts = train.counts(), held_out.counts()
    expected = np.array([name != BACKGROUND for name in train.class_names])
    if lacking := _names(train, expected & (counts == 0)):
        yield f"no picture to train on of {lacking}"
    if lacking := _names(train, (held_counts == 0) & (counts > 0)):
        yield f"no held-out picture of {lacking}: how well it is told from others stays unknown"
    in_memory = isinstance(train.sources[0], Image.Image)  # a published set, with nothing to put right
    if not in_memory and len(train) + len(held_out) <= COMPARED:
        yield from warnings_of(train, held_out)


def _left_out(pictures: Pictures) -> Iterator[str]:
    if pictures.bad:
        name, reason = pictures.bad[0]
        yield f"left out {name}: {reason}" + (f"; and {len(pictures.bad) - 1} more" if len(pictures.bad) > 1 else "")


def _names(pictures: Pictures, chosen: np.ndarray) -> str:
    return _some([pictures.class_names[label] for label in np.flatnonzero(chosen)])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
