"""Folders of class/image files, with or without the folders train/ and val/ above them."""

from array import array
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from itertools import repeat
from pathlib import Path

from inception_v3.data.labelled_images import LabelledImages, is_number
from inception_v3.data.sequences import PackedStrings
from inception_v3.data.splits import (
    CLASS_FOLDERS_REMEDY,
    SplitReaders,
    check_no_splits,
    choose_splits,
    split_name,
    warn_left_out,
)
from inception_v3.errors import InputError
from inception_v3.images.find import NO_CLASS_REASON, LeftOut, is_image_name, is_system_name, list_images, list_unsorted
from inception_v3.support.system_errors import is_folder, list_folder
from inception_v3.support.text import nfc, text_line


def find_folder_splits(root: Path) -> SplitReaders:
    """The splits of root/train/CLASS/ and root/val/CLASS/, or all of root/CLASS/.

    A folder called train without class folders in it is a class itself, unless there are also other splits. Warns of
    folders with images that are left out because they are in neither split.
    Raises InputError: only a held-out split has class folders, and root/train/ has images without them.
    """
    splits: dict[str, Path] = {}
    others = []
    for folder in sorted(_subfolders(root), key=lambda folder: len(folder.name)):  # train before train_images
        name = split_name(folder.name)
        if name and name not in splits and _subfolders(folder):
            splits[name] = folder
        else:
            others.append(folder)
    if splits:
        loose = LeftOut()
        count_loose_images(root, loose)
        loose.warn()
        counts = {folder.name: sum(1 for _ in list_images(folder, may_be_closed=True)) for folder in others}
        if left_out := sorted(name for name, count in counts.items() if count):
            warn_left_out(str(root), left_out, splits, sum(counts.values()))
    return choose_splits(
        {name: partial(read_folder, path) for name, path in splits.items()}, partial(read_folder, root)
    )


def read_folder_images(root: Path) -> LabelledImages:
    """The images in `root` and its subfolders in one class, named by their path below `root`."""
    left_out = LeftOut()
    paths = PackedStrings(file.relative_to(root).as_posix() for file in list_images(root, left_out))
    left_out.warn()
    return LabelledImages.lazy(["all"], repeat(0, len(paths)), partial(_source, root, paths), partial(_name, paths))


def read_folder(root: Path) -> LabelledImages:
    """The images of root/CLASS/ and its subfolders, named by their path below `root`.

    Folders whose names are the same text in different Unicode forms are one class, named in NFC.
    Raises InputError, with the folder: no class folders in it, a class without images, or class folders
    with names of splits.
    """
    folders_by_class = defaultdict(list)
    for folder in _subfolders(root):
        folders_by_class[nfc(text_line(folder.name))].append(folder)
    if not folders_by_class:
        raise InputError(f"{root}: no class folders in it; {CLASS_FOLDERS_REMEDY.format(root)}", exit_status=2)
    class_names = sort_class_names(folders_by_class)
    check_no_splits(str(root), class_names)
    labels, relative_paths = array("i"), PackedStrings()
    left_out = LeftOut()
    count_loose_images(root, left_out)
    for label, name in enumerate(class_names):
        for folder in folders_by_class[name]:
            files = list_images(folder, left_out, may_be_closed=True)
            relative_paths.extend(file.relative_to(root).as_posix() for file in files)
        if len(relative_paths) == len(labels):
            folder, unread = folders_by_class[name][0], left_out.unread_images()
            raise InputError(f"{folder}: no images in it; add some or remove the folder{unread and f'; {unread}'}")
        labels.extend(repeat(label, len(relative_paths) - len(labels)))
    left_out.warn()
    return LabelledImages.lazy(
        class_names, labels, partial(_source, root, relative_paths), partial(_name, relative_paths)
    )


def count_loose_images(root: Path, left_out: LeftOut) -> None:
    """Add the images in `root` itself to `left_out`: they are in no class folder."""
    for name in list_unsorted(root, lambda name, is_file: is_file and is_image_name(name)):
        left_out.add(root / name, NO_CLASS_REASON)


def _source(root: Path, relative_paths: PackedStrings, index: int) -> Path:
    return root / relative_paths[index]


def _name(relative_paths: PackedStrings, index: int) -> str:
    return relative_paths[index]


def sort_class_names(names: Iterable[str]) -> list[str]:
    """The names in order; if all are numbers, in the order of the numbers (2 before 10)."""
    names = sorted(names)
    return sorted(names, key=int) if all(map(is_number, names)) else names


def _subfolders(root: Path) -> list[Path]:
    """The class folders in `root`, without hidden ones and find.SYSTEM_NAMES, sorted by name. Raises InputError."""
    return [path for path in list_folder(root) if not is_system_name(path.name) and is_folder(path)]
