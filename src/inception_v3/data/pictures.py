"""Labelled pictures: the handwritten digits, or a folder of class/image files, split for an honest judgement."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from inception_v3.errors import InputError
from inception_v3.images import list_images

HELD_OUT = 0.2  # share of each class that training never sees, where the data set has no split of its own
SPLIT_SEED = 0  # not the training's seed: evaluating later must hold out the same pictures
TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("val", "valid", "validation", "test")


@dataclass
class Pictures:
    """Pictures with labels 0 to len(class_names) - 1. A source is a file or a picture in memory."""

    class_names: list[str]
    sources: Sequence[Path | Image.Image] = field(repr=False)
    labels: Sequence[int] = field(repr=False)
    names: Sequence[str] = field(repr=False)  # for reports and to tell pictures apart: class/file, or a number

    def __len__(self) -> int:
        return len(self.sources)

    def subset(self, indices: Sequence[int]) -> "Pictures":
        return Pictures(
            self.class_names,
            [self.sources[i] for i in indices],
            [self.labels[i] for i in indices],
            [self.names[i] for i in indices],
        )


def load_data(name: str) -> tuple[Pictures, Pictures]:
    """The training and the held-out pictures of `digits` or of a folder.

    A folder holds class/image files, or train/class/image and val/class/image. Without a val/, a fifth of
    each class is held out, the same at every call.
    Raises InputError, naming the folder: missing, empty, one class only, too few pictures, unknown classes.
    """
    if _is_digits(name):
        return _split(_digits(), name)
    root = _existing(name)
    train_root, test_root = _first(root, TRAIN_FOLDERS), _first(root, TEST_FOLDERS)
    train = _folder(train_root or root)
    if train_root is None or test_root is None:
        return _split(train, name)
    return train, _folder(test_root, train.class_names)


def load_held_out(name: str, class_names: list[str] | None, trained_on: AbstractSet[str] = frozenset()) -> Pictures:
    """What a model with these classes is to be judged on, labelled by its own numbers.

    The held-out digits; of a folder its val/, or else all of it less what the model was trained on.
    Raises InputError as `load_data` does, and for classes that the model does not have.
    """
    if _is_digits(name):
        pictures = load_data(name)[1]
    else:
        root = _existing(name)
        test_root = _first(root, TEST_FOLDERS)
        pictures = _folder(test_root or _first(root, TRAIN_FOLDERS) or root, least_classes=1)
        if test_root is None and trained_on and trained_on <= set(pictures.names):
            pictures = pictures.subset([i for i, one in enumerate(pictures.names) if one not in trained_on])
    if class_names is None or pictures.class_names == class_names:
        return pictures
    unknown = [one for one in pictures.class_names if one not in class_names]
    if unknown:
        raise InputError(f"{name}: the model has no class {unknown[0]}; it has {_some(class_names)}")
    labels = [class_names.index(pictures.class_names[label]) for label in pictures.labels]
    return Pictures(class_names, pictures.sources, labels, pictures.names)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _is_digits(name: str) -> bool:
    return name == "digits" and not Path(name).is_dir()


def _existing(name: str) -> Path:
    if not Path(name).is_dir():
        raise InputError(f"{name}: no such folder; give a folder of class/image files, or digits", exit_status=2)
    return Path(name)


def _first(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _digits() -> Pictures:
    """1,797 handwritten digits of 8x8 pixels, 0 to 16, from scikit-learn; nothing is downloaded."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pictures = [
        Image.fromarray(np.round(picture * (255 / 16)).astype(np.uint8)).convert("RGB") for picture in digits.images
    ]
    names = [f"digits/{number:04d}" for number in range(len(pictures))]
    return Pictures([str(digit) for digit in range(10)], pictures, digits.target.tolist(), names)


def _folder(root: Path, class_names: list[str] | None = None, least_classes: int = 2) -> Pictures:
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if class_names is None:
        class_names = [folder.name for folder in folders]
    elif unknown := [folder.name for folder in folders if folder.name not in class_names]:
        raise InputError(f"{root / unknown[0]}: training has no class of that name; add it there or remove it here")
    if not folders:
        raise InputError(f"{root}: no class folders in it; put the pictures into {root}/CLASS/", exit_status=2)
    sources: list[Path | Image.Image] = []
    labels, names = [], []
    for folder in folders:
        files = list(list_images(folder))
        if not files:
            raise InputError(f"{folder}: no pictures in it; add some or remove the folder")
        sources += files
        labels += [class_names.index(folder.name)] * len(files)
        names += [file.relative_to(root).as_posix() for file in files]
    if len(class_names) < least_classes:
        raise InputError(f"{root}: one class only ({class_names[0]}); a classifier needs at least two")
    return Pictures(class_names, sources, labels, names)


def _split(pictures: Pictures, name: str) -> tuple[Pictures, Pictures]:
    from sklearn.model_selection import train_test_split

    counts = np.bincount(pictures.labels, minlength=len(pictures.class_names))
    if counts.min() < 2:
        few = pictures.class_names[int(counts.argmin())]
        raise InputError(
            f"{name}: class {few} has {counts.min()} picture, and one of each must be held out; add more, or "
            "give train/ and val/ folders"
        )
    held_out = max(len(pictures.class_names), round(HELD_OUT * len(pictures)))
    train, test = train_test_split(
        np.arange(len(pictures)), test_size=held_out, stratify=pictures.labels, random_state=SPLIT_SEED
    )
    return pictures.subset(np.sort(train).tolist()), pictures.subset(np.sort(test).tolist())
