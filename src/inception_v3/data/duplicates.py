"""Find equal images: in both splits, where they make the score too good, or in two classes."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from inception_v3.data.labelled_images import LabelledImages
from inception_v3.errors import InputError

Group = list[tuple[int, int]]  # of images, each as (index of the set, index in the set)
HEAD_BYTES = 4096  # number of bytes at the start of each file that are compared before whole files


def duplicates(*sets: LabelledImages) -> list[Group]:
    """Find groups of images with the same content. Each image is (index of the set, index in the set); all is sorted.

    A file is read only if another file has the same size, and read whole only if another has the same first HEAD_BYTES.
    Images that cannot be read are in no group.
    """
    groups = [[(number, index) for number, images in enumerate(sets) for index in range(len(images))]]
    for key in (_size, _head, _digest):
        groups = [part for group in groups for part in _partition(sets, group, key)]
    return sorted(groups)


def _partition(
    sets: tuple[LabelledImages, ...], group: Group, key: Callable[[LabelledImages, int], object]
) -> Iterator[Group]:
    """Split a group into parts with equal keys, and leave out images with a unique key."""
    parts: dict[object, Group] = defaultdict(list)
    for number, index in group:
        try:
            parts[key(sets[number], index)].append((number, index))
        except (InputError, OSError):
            continue
    return (part for part in parts.values() if len(part) > 1)


def _size(images: LabelledImages, index: int) -> object:
    source = images.sources[index]
    if isinstance(source, Image.Image):
        return source.mode, source.size
    return source.stat().st_size if isinstance(source, Path) else getattr(source, "size", None)


def _head(images: LabelledImages, index: int) -> object:
    source = images.sources[index]
    if not isinstance(source, Path):
        return None  # other sources are always read whole
    with source.open("rb") as file:
        return hashlib.sha256(file.read(HEAD_BYTES)).digest()


def _digest(images: LabelledImages, index: int) -> object:
    content = images.content(index)
    if not content:
        raise InputError("an empty file is not an image")
    return hashlib.sha256(content).digest()


def duplicate_warnings(train: LabelledImages, held_out: LabelledImages) -> Iterator[str]:
    """Yield a warning if images are in both splits, and one if images are in two classes, each with an example."""
    sets = (train, held_out)
    in_both_splits, in_two_classes = [], []
    for group in duplicates(*sets):
        first, last = group[0], group[-1]
        if first[0] != last[0]:
            in_both_splits.append([first, last])
        labels = [sets[number].labels[index] for number, index in group]
        if other := next((image for image, label in zip(group, labels, strict=True) if label != labels[0]), None):
            in_two_classes.append([first, other])
    for pairs, fault in (
        (
            in_both_splits,
            "in both the training and the held-out split, which makes the score too good; keep each in one split only",
        ),
        (in_two_classes, "in two classes; remove the wrong one"),
    ):
        if pairs:
            names = [sets[number].names[index] for number, index in pairs[0]]
            if len(set(names)) < len(names):
                names = [f"{name} of the {'held-out' if number else 'training'} split"
                         for name, (number, _) in zip(names, pairs[0], strict=True)]  # fmt: skip
            example = " and ".join(names)
            yield f"{len(pairs)} image{'s are' if len(pairs) > 1 else ' is'} {fault} ({example})"
