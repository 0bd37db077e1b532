"""Folders of class/image files, with or without train/ and val/ above them."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from inception_v3.data.address import beside, split_named, train_and_held_out
from inception_v3.data.pictures import Pictures, Splits, is_number
from inception_v3.data.sequences import Made, Texts
from inception_v3.errors import InputError
from inception_v3.images.find import list_images
from inception_v3.support.text import printable


def find(root: Path) -> Splits:
    """A split's folder holds class folders: one that is called train and holds pictures is a class.

    Warns of folders with pictures that are beside a split's.
    """
    folders = _folders(root)
    splits: dict[str, Path] = {}
    others = []
    for folder in sorted(folders, key=lambda folder: len(folder.name)):  # train before train_masks
        name = split_named(folder.name)
        if not name or name in splits:
            others.append(folder)
        elif _folders(folder):
            splits[name] = folder
    train, held_out = train_and_held_out(splits)
    left = sorted(folder.name for folder in others if splits and any(True for _ in list_images(folder)))
    if left:
        beside(str(root), left)
    if train and held_out:
        return Splits(partial(read, train), partial(read, held_out))
    return Splits(partial(read, train or held_out or root))


@dataclass(frozen=True)
class _Files:
    root: Path
    below: Texts

    def path(self, number: int) -> Path:
        return self.root / self.below[number]

    def name(self, number: int) -> str:
        name = self.below[number]
        return name if name.isprintable() else printable(name)


def read(root: Path) -> Pictures:
    """Every folder is a class, and all pictures in it and below are its own. Named by the path below `root`.

    Raises InputError, naming the folder: no class folders, or one without pictures.
    """
    folders = _folders(root)
    if not folders:
        raise InputError(f"{root}: no class folders in it; put the pictures into {root}/CLASS/", exit_status=2)
    labels = array("i")

    def below() -> Iterator[str]:
        for label, folder in enumerate(folders):
            before = len(labels)
            for file in list_images(folder):
                labels.append(label)
                yield file.relative_to(root).as_posix()
            if len(labels) == before:
                raise InputError(f"{folder}: no pictures in it; add some or remove the folder")

    files = _Files(root, Texts(below()))
    numbers = range(len(labels))
    class_names = [printable(folder.name) for folder in folders]
    return Pictures(class_names, Made(files.path, numbers), labels, Made(files.name, numbers))


def _folders(root: Path) -> list[Path]:
    """In the order of their names; those that are numbers as numbers, 2 before 10."""
    try:
        found = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        return sorted(found, key=lambda path: int(path.name)) if all(is_number(path.name) for path in found) else found
    except OSError as error:
        raise InputError(f"{printable(root)}: cannot be listed ({error.strerror}); check the folder") from error
