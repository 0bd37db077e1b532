"""Sets of images for the scores: any address of images (images/addresses.py), or saved statistics.

A set is read as a stream, one image at a time and always in the same order.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from inception_v3.errors import InputError
from inception_v3.images.addresses import STANDARD_INPUT, find_sources, images_in, is_url
from inception_v3.images.containers import open_container
from inception_v3.images.find import ImageSource, LeftOut, find_files, is_image_name
from inception_v3.support.system_errors import is_folder


@dataclass(frozen=True)
class ImageSet:
    """A set of images that can be read any number of times.

    `count` is None if it is only known after reading the whole set, and 0 if there are statistics and no images.
    `files` yields the files and archives that hold the images.
    `statistics` is the path of the .npz file that holds a mean and a covariance, with or without images.
    """

    name: str
    files: Callable[[], Iterator[ImageSource]]
    count: int | None = None
    statistics: Path | None = None

    def images(self) -> Iterator[ImageSource]:
        """The images, in order. Warns at the end of those that were left out. Raises InputError: a damaged archive."""
        left_out = LeftOut()
        for file in self.files():
            yield from images_in(file, left_out)
        left_out.warn()


def open_image_set(argument: str | Path) -> ImageSet:
    """Open an address. Raises InputError: missing, empty, damaged, or not supported."""
    address = str(argument)
    name = STANDARD_INPUT if address == "-" else address
    if address != "-" and not is_url(address) and is_folder(address):
        # Sorted as text, as the other programs sort, because KID and the Inception Score sample by index.
        left_out = LeftOut()
        files = sorted(map(str, find_files(address, left_out=left_out)))
        left_out.warn()
        if not files:
            raise InputError(f"{name}: no images in this folder; check the path", exit_status=2)
        count = len(files) if is_image_name(files[0]) else None
        return ImageSet(name, lambda: (ImageSource(file, Path(file)) for file in files), count)
    sources = list(find_sources(address))
    for source in sources:
        if isinstance(source.content, InputError):
            raise source.content
    only = sources[0]
    container = (
        open_container(only.content, only.name) if isinstance(only.content, Path) and len(sources) == 1 else None
    )
    if container is None:
        return ImageSet(name, lambda: iter(sources))
    statistics = only.content if {"mu", "sigma"} <= container.arrays.keys() else None
    if container.count == 0 and not statistics:
        raise InputError(f"{name}: no images (uint8 arrays) and no statistics (mu and sigma) in it; check the file")
    if len(container.image_arrays) > 1:
        arrays = ", ".join(container.image_arrays)
        raise InputError(f"{name}: holds several arrays of images ({arrays}); save the one to use as arr_0")
    return ImageSet(name, lambda: iter(sources), container.count, cast("Path | None", statistics))
