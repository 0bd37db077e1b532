"""The training and the held-out split of a data set: by the names of its files and folders, or drawn by class."""

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from inception_v3.data.labelled_images import LabelledImages
from inception_v3.errors import InputError
from inception_v3.images.addresses import is_url
from inception_v3.support.download import fetch
from inception_v3.support.text import count_of

TRAIN_NAMES = ("train", "training")
HELD_OUT_NAMES = ("val", "valid", "validation", "dev", "test", "testing")  # the first in the data set is held out
CLASS_FOLDERS_REMEDY = "put the images into {0}/CLASS/, or give --labels-from-name or --labels"
SPLIT_NAMES = frozenset({*TRAIN_NAMES, *HELD_OUT_NAMES})
# Words that may stand beside the name of a split in the name of a folder, such as train_images.
NEUTRAL_WORDS = frozenset({"image", "images", "img", "imgs", "data", "dataset", "set", "split"})
HELD_OUT_FRACTION = 0.2  # of each class, if the data set has no split of its own
SPLIT_SEED = 0  # not the seed of the training: a later evaluation must hold out the same images

ReadSplit = Callable[[], LabelledImages]
ReadFiles = Callable[[list[Path], str], LabelledImages]  # (files, address for messages) -> their images
ReadParts = Callable[[list[Path], str], dict[str, LabelledImages]]  # -> the images by split; those of no split under ""


@dataclass(frozen=True)
class SplitReaders:
    """Functions that read the splits of a data set. Nothing is read before they are called."""

    train: ReadSplit
    held_out: ReadSplit | None = None  # None: the data set has no held-out split of its own


def split_name(folder: str) -> str:
    """The split that the name of a folder means, such as "train" of "Train" or "train_images"; else "".

    Any other word makes it the name of a class: train_station, test tube, train2017.
    """
    return _only_split(re.split(r"[-_. ]+", folder.lower()))


def file_split_name(file: str) -> str:
    """The first word of a file's name that names a split, such as "train" of "flowers_train-000.tar"; else ""."""
    return next((word for word in re.split(r"[-_.]", file.lower()) if word in SPLIT_NAMES), "")


def _only_split(words: Sequence[str]) -> str:
    """The word that names a split, if the others are NEUTRAL_WORDS; else ""."""
    remaining = [word for word in words if word and word not in NEUTRAL_WORDS]
    return remaining[0] if len(remaining) == 1 and remaining[0] in SPLIT_NAMES else ""


def check_no_splits(address: str, class_names: Sequence[str]) -> None:
    """Raise InputError if two class folders, or the only one, have names of splits, such as train and test1.

    Training on them would teach the network to distinguish training images from test images.
    """
    splits = [name for name in class_names if _only_split(re.findall("[^\\W\\d_]+", name.lower()))]
    if len(splits) > 1 or len(splits) == len(class_names):
        raise InputError(
            f"{address}: {' and '.join(f'{name}/' for name in splits[:2])} would be classes, but their names are those "
            f"of splits; {CLASS_FOLDERS_REMEDY.format('train')}; rename folders such as test1 to test",
            exit_status=2,
        )


def choose_splits(readers: Mapping[str, ReadSplit], everything: ReadSplit) -> SplitReaders:
    """Choose the training and the held-out split by name, in the order of TRAIN_NAMES and HELD_OUT_NAMES.

    Upper and lower case are equal. If only one of them exists, it is the whole data set; if neither does, `everything`
    is.
    """
    readers = {name.lower(): reader for name, reader in readers.items()}
    train, held_out = (
        next((readers[name] for name in names if name in readers), None) for names in (TRAIN_NAMES, HELD_OUT_NAMES)
    )
    return SplitReaders(train or held_out or everything, held_out if train else None)


def find_file_splits(
    files: Sequence[str], address: str, read: ReadFiles, read_parts: ReadParts | None = None
) -> SplitReaders:
    """Split files and URLs by their names, such as train-000.tar and val-000.tar, or else by those of their folders.

    Reading a split downloads its URLs. If the names contain no held-out split, the files are read at once with
    `read_parts`, because the splits may be folders or arrays inside them. Files whose names contain no split are for
    training. If other files are named for training, they are left out instead, with a warning if there is also a
    held-out split.
    """
    by_split: dict[str, list[str]] = defaultdict(list)
    for file in files:
        path = Path(urlsplit(file).path if is_url(file) else file)
        by_split[file_split_name(path.name) or split_name(path.parent.name)].append(file)
    unnamed = by_split.pop("", [])
    if unnamed and by_split.keys().isdisjoint(TRAIN_NAMES):
        by_split[TRAIN_NAMES[0]] = unnamed
    elif unnamed and not by_split.keys().isdisjoint(HELD_OUT_NAMES):
        warn_left_out(address, [Path(file).name for file in unnamed], by_split)

    def read_split(chosen: Sequence[str]) -> LabelledImages:
        return read(local_files(chosen), address)

    splits = choose_splits(
        {name: partial(read_split, part) for name, part in by_split.items()}, partial(read_split, files)
    )
    if read_parts is None or splits.held_out is not None:
        return splits
    chosen = next((by_split[name] for name in (*TRAIN_NAMES, *HELD_OUT_NAMES) if name in by_split), files)
    parts = read_parts(local_files(chosen), address)
    readers = {name: partial(parts.__getitem__, name) for name in parts if name}
    if "" in parts and readers:
        warn_left_out(address, parts[""].class_names, readers, len(parts[""]))
    return choose_splits(readers, partial(parts.__getitem__, ""))


def local_files(files: Sequence[str]) -> list[Path]:
    return [fetch(file) if is_url(file) else Path(file) for file in files]


def warn_left_out(address: str, names: Sequence[str], splits: Collection[str], images: int = 0) -> None:
    """Warn that these files or folders are in neither of the `splits`, so their `images` (the number) are not read.

    Raises InputError: one of them is named for training, and none of the splits is. It has no class folders.
    """
    without_classes = [name for name in names if split_name(name) in TRAIN_NAMES]
    if without_classes and set(TRAIN_NAMES).isdisjoint(splits):
        folder, other = without_classes[0], next(iter(splits))
        remedy = CLASS_FOLDERS_REMEDY.format(folder)
        raise InputError(f"{address}: {folder}/ has no class folders, unlike {other}/; {remedy}", exit_status=2)
    count = f" ({count_of(images, 'image')})" if images else ""
    warnings.warn(
        f"{address}: left out {first_names(names, 3)}: in neither the training nor the held-out split{count}",
        stacklevel=2,
    )


def first_names(names: Sequence[str], limit: int) -> str:
    """A list for messages, such as "a, b and 7 more"."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def hold_out(images: LabelledImages, address: str) -> tuple[LabelledImages, LabelledImages]:
    """Hold out HELD_OUT_FRACTION of each class, the same images at every call. Returns (training, held-out) images.

    Raises InputError: a class has only one image.
    """
    counts = Counter(images.labels)
    smallest = min(counts, key=lambda label: (counts[label], label))
    if counts[smallest] < 2:
        raise InputError(
            f"{address}: class {images.class_names[smallest]} has 1 image, and one of each class must be held out; add "
            "more, or give train/ and val/ folders"
        )
    mask = stratified_mask(images.labels, max(len(counts), round(HELD_OUT_FRACTION * len(images))), SPLIT_SEED)
    held_out = replace(images.subset(np.flatnonzero(mask).tolist()), is_drawn=True)
    return images.subset(np.flatnonzero(~mask).tolist(), images.bad), held_out


def stratified_mask(labels: Sequence[int], count: int, seed: int) -> np.ndarray:
    """Select `count` of N images at random, each class in proportion. Returns a bool mask (N,).

    Selects the same images as sklearn.model_selection.train_test_split with `stratify` (a test compares them), which
    is not used because importing it takes longer than a whole fine-tuning on cached features.
    """
    rng = np.random.RandomState(seed)
    _, classes, class_counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    # scikit-learn permutes each class: its training images come first, and then the selected ones
    train_counts = _proportional_counts(class_counts, len(classes) - count, rng)
    selected_counts = _proportional_counts(class_counts - train_counts, count, rng)
    mask = np.zeros(len(classes), bool)
    indices_by_class = np.split(np.argsort(classes, kind="stable"), np.cumsum(class_counts)[:-1])
    for indices, skipped, selected in zip(indices_by_class, train_counts, selected_counts, strict=True):
        mask[rng.permutation(indices)[skipped : skipped + selected]] = True
    return mask


def _proportional_counts(class_counts: np.ndarray, total: int, rng: np.random.RandomState) -> np.ndarray:
    """Distribute `total` in proportion to `class_counts`: rounded down, then 1 more for the largest remainders."""
    exact = class_counts / class_counts.sum() * total
    counts: np.ndarray = np.floor(exact).astype(int)
    remainders = exact - counts
    missing = total - counts.sum()
    for remainder in np.unique(remainders)[::-1]:
        if missing == 0:
            break
        (equal,) = np.nonzero(remainders == remainder)
        chosen = rng.choice(equal, size=min(len(equal), missing), replace=False)
        counts[chosen] += 1
        missing -= len(chosen)
    return counts
