"""Labelled images: the form into which every kind of data set is read."""

import io
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from inception_v3.data.sequences import LazySequence, subset
from inception_v3.errors import InputError
from inception_v3.images.decode import MinimumSize, open_image
from inception_v3.support.system_errors import read_reason
from inception_v3.support.text import nfc

BACKGROUND = "background"  # TF-Slim's class 0 of ImageNet


class LazyImageFile(io.BytesIO):
    """A file object for an encoded image inside a larger file; `open_image` reads it like any file.

    `load` returns the encoded bytes and is called at the first `read`, which passes on its InputError. `size` is the
    number of encoded bytes, known before they are loaded (0: unknown).
    """

    def __init__(self, name: str, size: int, load: Callable[[], bytes]) -> None:
        super().__init__()
        self.name, self.size = name, size
        self._load: Callable[[], bytes] | None = load

    def read(self, size: int | None = -1, /) -> bytes:
        if self._load is not None:
            self.write(self._load())
            self.seek(0)
            self._load = None
        return super().read(size)


ImageLike = Path | Image.Image | BinaryIO


@dataclass
class LabelledImages:
    """Images with labels from 0 to len(class_names) - 1. A source is a file or an image in memory.

    `sources`, `labels` and `names` have one item for each image. They may be lists, or sequences that compute their
    items on access (sequences.py). `bad` lists the (name, reason) of files and records of the data set that cannot be
    used; these are in none of the other fields.
    """

    class_names: list[str]
    sources: Sequence[ImageLike] = field(repr=False)
    labels: Sequence[int] = field(repr=False)
    names: Sequence[str] = field(repr=False)  # unique within a split; docs/data.md has the form for each data set
    bad: list[tuple[str, str]] = field(default_factory=list, repr=False)
    is_drawn: bool = False  # held out by `splits.hold_out`, because the data set has no split of its own

    @classmethod
    def lazy(
        cls,
        class_names: list[str],
        labels: Iterable[int],
        source: Callable[[int], ImageLike],
        name: Callable[[int], str],
        bad: Sequence[tuple[str, str]] = (),
    ) -> "LabelledImages":
        """Create a data set in which image i has `source(i)` and `name(i)`, computed at each access.

        Both functions must be picklable, because worker processes receive them.
        """
        labels = array("i", labels)
        indices = range(len(labels))
        return cls(class_names, LazySequence(source, indices), labels, LazySequence(name, indices), list(bad))

    def __len__(self) -> int:
        return len(self.sources)

    def open(self, index: int, minimum_size: MinimumSize | None = None) -> Image.Image:
        """Decode an image to mode RGB. See `open_image` for `minimum_size` and the errors."""
        source = self.sources[index]
        return source if isinstance(source, Image.Image) else open_image(source, minimum_size=minimum_size)

    def unopened(self) -> "Iterator[UnopenedImage]":
        """Yield every image, to be opened later."""
        return (UnopenedImage(self, index) for index in range(len(self)))

    def content(self, index: int) -> bytes:
        """The encoded bytes of an image, or the pixels of an image in memory.

        Raises:
            InputError: the image cannot be read.
        """
        source = self.sources[index]
        try:
            if isinstance(source, Image.Image):
                return source.tobytes()
            return source.read_bytes() if isinstance(source, Path) else source.read()
        except OSError as error:
            path = source if isinstance(source, Path) else self.names[index]
            raise InputError(f"{self.names[index]}: {read_reason(path, error)}") from error

    def subset(self, indices: Sequence[int], bad: Sequence[tuple[str, str]] = ()) -> "LabelledImages":
        """The images at `indices`, in that order, with the same classes and the given `bad`."""
        sources, labels, names = (subset(column, indices) for column in (self.sources, self.labels, self.names))
        return LabelledImages(self.class_names, sources, labels, names, list(bad))

    def relabel(self, class_names: list[str], error_message: Callable[[str], str]) -> "LabelledImages":
        """The same images with the labels of another list of classes.

        Classes are matched by name, whatever Unicode form it has. If the names of these classes are numbers and
        `class_names` are not, each number is an index into `class_names`, not counting TF-Slim's background class.

        Raises:
            InputError: a class that has images and no match, with `error_message(name)`.
        """
        if self.class_names == class_names:
            return self
        indices = {nfc(name): index for index, name in enumerate(class_names)}
        matches = [indices.get(nfc(name)) for name in self.class_names]
        if _are_numbers(self.class_names) and not _are_numbers(class_names):
            shift = (class_names[0] == BACKGROUND) - (self.class_names[0] == BACKGROUND)
            by_number = {index - shift: index for index in range(len(class_names))}
            matches = [
                indices.get(name) if name == BACKGROUND else by_number.get(int(name)) for name in self.class_names
            ]
        for label in np.flatnonzero(self.counts()):
            if matches[label] is None:
                raise InputError(error_message(self.class_names[label]))
        labels = [matches[label] or 0 for label in self.labels]
        return LabelledImages(class_names, self.sources, labels, self.names, self.bad)

    def counts(self) -> np.ndarray:
        """The number of images of each class, int64 (len(class_names),)."""
        return np.bincount(np.asarray(self.labels, dtype=np.int64), minlength=len(self.class_names))

    def check_classes_readable(self, labels: Sequence[int]) -> None:
        """Raise InputError if a class has images, but none in `labels`, the labels of all readable images."""
        missing = np.setdiff1d(self.labels, labels)
        if len(missing):
            fault = f"class {self.class_names[missing[0]]}: none of its training images can be read"
            try:
                self.open(list(self.labels).index(missing[0]))
            except InputError as error:
                raise InputError(f"{fault}; the first is {error}") from error
            raise InputError(fault)


@dataclass(frozen=True)
class UnopenedImage:
    """An image of a data set that is decoded later."""

    images: LabelledImages
    index: int

    @property
    def name(self) -> str:
        return self.images.names[self.index]

    def open(self, minimum_size: MinimumSize | None = None) -> Image.Image:
        return self.images.open(self.index, minimum_size)


def is_number(name: str) -> bool:
    return re.fullmatch("[0-9]{1,20}", name) is not None


def _are_numbers(class_names: list[str]) -> bool:
    """Whether all names, except a background class at 0, are different numbers. "1" and "01" are the same number."""
    has_background = class_names[:1] == [BACKGROUND]
    return len({int(name) for name in class_names if is_number(name)}) == len(class_names) - has_background
