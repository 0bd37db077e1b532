"""Where images are, without their content: what a process needs that opens them on another machine."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

from inception_v3.errors import InputError
from inception_v3.images.addresses import check_addresses, expand_braces, find_sources, images_in, is_url
from inception_v3.images.find import ImageSource, LeftOut, is_image_name


@dataclass(frozen=True, slots=True)
class LocatedImage:
    """An image that is not read yet.

    Attributes:
        name: as `addresses.expand` names it.
        file: the absolute path or the URL of the file that holds it.
        index: its index among the images of that file, if the file is an archive.
        error: the reason why it cannot be read, if that is known already.
    """

    name: str
    file: str
    index: int | None = None
    error: str | None = None


def locate(arguments: Iterable[str]) -> Iterator[LocatedImage]:
    """Yield where the images of `addresses.expand` are, in the same order and with the same names.

    Archives are listed, but their images are not read. A URL of an image is not downloaded; one of an archive is.
    Raises InputError as `expand` does, and for standard input, which no other machine can read.
    """
    arguments = list(arguments)
    if "-" in arguments:
        raise InputError(
            "-: standard input cannot be read on other machines; give files, or leave out --ray", exit_status=2
        )
    check_addresses(arguments)
    return _locate_all(arguments)


def _locate_all(arguments: list[str]) -> Iterator[LocatedImage]:
    left_out = LeftOut()
    for argument in arguments:
        for address in expand_braces(argument):
            if is_url(address) and is_image_name(urlsplit(address).path):
                yield LocatedImage(address, address)
                continue
            for file in find_sources(address, left_out):
                try:
                    yield from locate_in(file, left_out)
                except InputError as error:
                    yield LocatedImage(file.name, _location(file), error=str(error))
    left_out.warn()


def locate_in(file: ImageSource, left_out: LeftOut) -> Iterator[LocatedImage]:
    """Yield where the images of an archive are, or the image itself.

    Raises InputError, after the images before the damage: a damaged archive.
    """
    location = _location(file)
    if isinstance(file.content, InputError):
        yield LocatedImage(file.name, location, error=str(file.content))
    elif is_image_name(file.name):
        yield LocatedImage(file.name, location)
    else:
        names: list[str] = []

        def record(name: str) -> bool:
            names.append(name)
            return False

        fault = None
        try:
            deque(images_in(file, left_out, record), 0)
        except InputError as error:
            fault = error
        yield from (LocatedImage(name, location, index) for index, name in enumerate(names))
        if fault is not None:
            raise fault


def _location(file: ImageSource) -> str:
    return file.name if is_url(file.name) else os.path.abspath(file.name)  # noqa: PTH100 (a million Paths would be slow)


def open_located(images: Iterable[LocatedImage]) -> Iterator[ImageSource]:
    """Yield a source for each image, in order. An image that cannot be found has the error as its content."""
    for group in _runs(images):
        first = group[0]
        if first.error is not None:
            yield ImageSource(first.name, InputError(first.error))
        elif first.index is None:
            yield from find_sources(first.file) if is_url(first.file) else [ImageSource(first.name, Path(first.file))]
        else:
            yield from _open_members(group)


def _runs(images: Iterable[LocatedImage]) -> Iterator[list[LocatedImage]]:
    """Groups of images that are read together: those of one archive in the order of the archive, and single ones."""
    group: list[LocatedImage] = []
    for image in images:
        last = group[-1] if group else None
        if last and not _follows(last, image):
            yield group
            group = []
        group.append(image)
    if group:
        yield group


def _follows(last: LocatedImage, image: LocatedImage) -> bool:
    """Whether an image comes after another one in the same archive."""
    if image.file != last.file or image.index is None or last.index is None:
        return False
    return image.index > last.index


def _open_members(group: list[LocatedImage]) -> Iterator[ImageSource]:
    archive = group[0].file
    source = next(find_sources(archive)) if is_url(archive) else ImageSource(archive, Path(archive))
    done, fault = 0, InputError(f"{archive}: has changed since it was listed; run the command again")
    try:
        if isinstance(source.content, InputError):  # it cannot be downloaded
            raise source.content
        members = images_in(source, LeftOut(is_listed=False), _is_one_of({image.index for image in group}))
        for image, member in zip(group, members, strict=False):  # the archive is not read beyond the last image
            yield ImageSource(image.name, member.content)
            done += 1
    except InputError as error:
        fault = error
    yield from (ImageSource(image.name, fault) for image in group[done:])


def _is_one_of(indices: set[int | None]) -> Callable[[str], bool]:
    """A test of names that accepts those at these indices in the order of its calls."""
    number = count()
    return lambda _: next(number) in indices
