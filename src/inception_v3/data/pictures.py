"""Labelled pictures: what every kind of data set is read into, and what can be said of it."""

import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from inception_v3.data.sequences import subset
from inception_v3.data.stratified import held_out
from inception_v3.errors import InputError
from inception_v3.images.decode import open_image

HELD_OUT = 0.2  # share of each class that training never sees, where the data set has no split of its own
SPLIT_SEED = 0  # not the training's seed: evaluating later must hold out the same pictures
BACKGROUND = "background"  # TF-Slim's class 0 of ImageNet


class Encoded(io.BytesIO):
    """An encoded picture inside a larger file, read when it is first asked for; `open_image` takes it as a file.

    `read_content` raises InputError where it cannot be read. `size` is its length in bytes.
    """

    def __init__(self, name: str, size: int, read_content: Callable[[], bytes]) -> None:
        super().__init__()
        self.name, self.size = name, size
        self._read_content: Callable[[], bytes] | None = read_content

    def read(self, size: int | None = -1, /) -> bytes:
        if self._read_content is not None:
            self.write(self._read_content())
            self.seek(0)
            self._read_content = None
        return super().read(size)


PictureSource = Path | Image.Image | BinaryIO


@dataclass
class Pictures:
    """Pictures with labels 0 to len(class_names) - 1. A source is a file or a picture in memory.

    The columns may be lists, or be made as they are asked for (sequences.py). `bad` names what is in the data set
    and cannot be used, with the reason; it is in none of the columns.
    """

    class_names: list[str]
    sources: Sequence[PictureSource] = field(repr=False)
    labels: Sequence[int] = field(repr=False)
    names: Sequence[str] = field(repr=False)  # for reports and to tell pictures apart; docs/data.md has the rule
    bad: list[tuple[str, str]] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        return len(self.sources)

    def open(self, index: int) -> Image.Image:
        """The picture in mode RGB. Raises InputError, naming it, as `images.open_image` does."""
        source = self.sources[index]
        return source if isinstance(source, Image.Image) else open_image(source)

    def content(self, index: int) -> bytes:
        """The encoded file, or the pixels of a picture in memory: what tells it from others. Raises InputError."""
        source = self.sources[index]
        try:
            if isinstance(source, Image.Image):
                return source.tobytes()
            return source.read_bytes() if isinstance(source, Path) else source.read()
        except OSError as error:
            raise InputError(f"{self.names[index]}: cannot be read ({error.strerror or error})") from error

    def subset(self, indices: Sequence[int]) -> "Pictures":
        sources, labels, names = (subset(column, indices) for column in (self.sources, self.labels, self.names))
        return Pictures(self.class_names, sources, labels, names)

    def counts(self) -> np.ndarray:
        """How many pictures each class has, in the order of `class_names`."""
        return np.bincount(np.asarray(self.labels, dtype=np.int64), minlength=len(self.class_names))

    def check_classes_readable(self, labels: Sequence[int]) -> None:
        """Raises InputError for a class with pictures of which none is among those that could be read."""
        read = np.bincount(np.asarray(labels, dtype=np.int64), minlength=len(self.class_names))
        for label in np.flatnonzero((self.counts() > 0) & (read == 0)):
            raise InputError(f"class {self.class_names[label]}: none of its training pictures can be read")


@dataclass(frozen=True)
class Splits:
    """A data set that has been found and is yet to be read: its training pictures, and its own held-out ones."""

    train: Callable[[], Pictures]
    held_out: Callable[[], Pictures] | None = None  # None: it has no split of its own


def split_evenly(pictures: Pictures, name: str) -> tuple[Pictures, Pictures]:
    """A fifth of each class held out, the same at every call. Raises InputError: a class of one picture."""
    counts = Counter(pictures.labels)
    few = min(counts, key=lambda label: (counts[label], label))
    if counts[few] < 2:
        raise InputError(
            f"{name}: class {pictures.class_names[few]} has 1 picture, and one of each must be held out; add more, or "
            "give train/ and val/ folders"
        )
    mask = held_out(pictures.labels, max(len(counts), round(HELD_OUT * len(pictures))), SPLIT_SEED)
    first = pictures.subset(np.flatnonzero(~mask).tolist())
    first.bad = pictures.bad
    return first, pictures.subset(np.flatnonzero(mask).tolist())


def renumber(pictures: Pictures, class_names: list[str], complaint: Callable[[str], str]) -> Pictures:
    """The same pictures, labelled by the numbers of another list of classes.

    Classes meet by name. Where the data set has numbers for names, those are places in the list, TF-Slim's background
    aside.
    Raises InputError with the complaint about the first class that has pictures and is not in the list.
    """
    own = pictures.class_names
    if own == class_names:
        return pictures
    places = {name: place for place, name in enumerate(class_names)}
    if _numbered(own) and not _numbered(class_names):
        shift = (class_names[0] == BACKGROUND) - (own[0] == BACKGROUND)
        new = [places.get(name) if name == BACKGROUND else int(name) + shift for name in own]
        new = [place if place is not None and 0 <= place < len(class_names) else None for place in new]
    else:
        new = [places.get(name) for name in own]
    unknown = [own[label] for label in np.flatnonzero(pictures.counts()) if new[label] is None]
    if unknown:
        raise InputError(complaint(unknown[0]))
    labels = [new[label] or 0 for label in pictures.labels]
    return Pictures(class_names, pictures.sources, labels, pictures.names, pictures.bad)


def is_number(name: str) -> bool:
    return re.fullmatch("[0-9]{1,20}", name) is not None


def _numbered(class_names: list[str]) -> bool:
    numbers = [int(name) for name in class_names if is_number(name)]
    others = class_names[:1] == [BACKGROUND]
    return len(set(numbers)) == len(class_names) - others  # 1 and 01 are two classes, and so names
