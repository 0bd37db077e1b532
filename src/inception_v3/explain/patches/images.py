"""The images of a search, which is read twice: through the network, and to cut the patches."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from PIL import Image

from inception_v3.data.labelled_images import LabelledImages
from inception_v3.data.load import load_every_split
from inception_v3.errors import InputError
from inception_v3.images.addresses import check_addresses, count_images, expand
from inception_v3.images.decode import MinimumSize
from inception_v3.inference.pipeline import Openable


@dataclass(frozen=True)
class LabelledSource:
    """An image that is not opened yet, with the name of its class, or None if the data has no classes."""

    name: str
    class_name: str | None
    source: Openable = field(repr=False)

    def open(self, minimum_size: MinimumSize | None = None) -> Image.Image:
        """Decode the image to mode RGB. See `open_image` for `minimum_size` and the errors."""
        return self.source.open(minimum_size)


@dataclass(frozen=True)
class ImageSet:
    """Images that can be read more than once, in the same order.

    Attributes:
        address: where they are.
        read: yields each image, not opened yet.
        count: the number of images; None if it is unknown.
        bad: the (name, reason) of files and records that `read` leaves out because they cannot be used.
        has_classes: whether they have classes.
    """

    address: str
    read: Callable[[], Iterator[LabelledSource]] = field(repr=False)
    count: int | None
    bad: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    has_classes: bool = True


def find_images(address: str) -> ImageSet:
    """The images of any address: of a data set with classes (docs/data.md), else of files, folders and archives.

    Both splits of a data set that has two are read, and its names begin with "training/" and "held-out/".
    Warns if data that may have been meant to have classes has none. Raises InputError: nothing can be read there.
    """
    if address == "-":
        raise InputError("-: images are read twice, and standard input only once; save them in a folder", exit_status=2)
    try:
        splits = load_every_split(address)
    except InputError as error:
        try:
            check_addresses([address])
        except InputError:
            raise error from None
        if "no class folders" not in str(error) and "not a data set" not in str(error):
            warnings.warn(f"{error}; reading the images without classes", stacklevel=2)
        return ImageSet(address, partial(_read_files, address), count_images([address]), has_classes=False)
    bad = tuple(pair for images in splits.values() for pair in images.bad)
    return ImageSet(address, partial(_read_splits, splits), sum(map(len, splits.values())), bad)


def _read_files(address: str) -> Iterator[LabelledSource]:
    return (LabelledSource(source.name, None, source) for source in expand([address]))


def _read_splits(splits: dict[str, LabelledImages]) -> Iterator[LabelledSource]:
    for split, images in splits.items():
        for source in images.unopened():
            name = f"{split}/{source.name}" if split else source.name
            yield LabelledSource(name, images.class_names[images.labels[source.index]], source)
