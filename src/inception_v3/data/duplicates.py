"""One picture under two names: in training and held out, where it flatters the score, or in two classes."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image

from inception_v3.data.pictures import Pictures
from inception_v3.errors import InputError

Group = list[tuple[int, int]]  # pictures, each as (set, index)
HEAD = 4096  # bytes of a file that are compared first


def duplicates(*sets: Pictures) -> list[Group]:
    """Groups of pictures whose files have the same content, each a (set, index), in order.

    Only files of the same size are read, and all of a file only where another has the same beginning. What cannot
    be read is in no group.
    """
    everything = [(number, index) for number, one in enumerate(sets) for index in range(len(one))]
    groups = [everything]
    for key in (_size, _head, _whole):
        groups = [part for group in groups for part in _apart(sets, group, key)]
    return sorted(groups)


def _apart(sets: tuple[Pictures, ...], group: Group, key: Callable[[Pictures, int], object]) -> Iterable[Group]:
    parts: dict[object, Group] = defaultdict(list)
    for number, index in group:
        try:
            parts[key(sets[number], index)].append((number, index))
        except (InputError, OSError):
            continue
    return [part for part in parts.values() if len(part) > 1]


def _size(pictures: Pictures, index: int) -> object:
    source = pictures.sources[index]
    if isinstance(source, Image.Image):
        return source.mode, source.size
    return source.stat().st_size if isinstance(source, Path) else getattr(source, "size", None)


def _head(pictures: Pictures, index: int) -> object:
    source = pictures.sources[index]
    if not isinstance(source, Path):
        return None  # nothing is saved by reading less
    with source.open("rb") as file:
        return hashlib.sha256(file.read(HEAD)).digest()


def _whole(pictures: Pictures, index: int) -> object:
    content = pictures.content(index)
    if not content:
        raise InputError("an empty file is no picture")
    return hashlib.sha256(content).digest()


def warnings_of(train: Pictures, held_out: Pictures) -> list[str]:
    """A line for pictures that are on both sides, and one for those in two classes; none where all is well."""
    sets = (train, held_out)
    across, classes = [], []
    for group in duplicates(*sets):
        if group[0][0] != group[-1][0]:
            across.append((group[0], group[-1]))
        label = {one: sets[one[0]].labels[one[1]] for one in group}
        if odd := next((one for one in group if label[one] != label[group[0]]), None):
            classes.append((group[0], odd))
    lines = []
    for found, what in (
        (across, "on both sides, to train on and held out, which flatters the score; keep one"),
        (classes, "in two classes; remove the wrong one"),
    ):
        if found:
            example = " and ".join(sets[number].names[index] for number, index in found[0])
            many = "1 picture is" if len(found) == 1 else f"{len(found)} pictures are"
            lines.append(f"{many} {what} ({example})")
    return lines
