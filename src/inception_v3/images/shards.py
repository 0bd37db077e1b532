"""Find the images of one shard of any number of images."""

import io
import shutil
import tempfile
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain
from os.path import commonprefix
from typing import cast

from inception_v3.errors import InputError
from inception_v3.images.addresses import check_addresses, find_sources, images_in, open_standard_input
from inception_v3.images.find import ImageSource, LeftOut
from inception_v3.images.partition import AddressRange, Shard, shard_range
from inception_v3.support.system_errors import temporary_file_errors


@dataclass(frozen=True)
class ShardImages:
    """The images of a shard.

    Attributes:
        count: the number of images of all shards.
        size: the number of images of this shard.
        checksum: the SHA-256 of the sorted addresses without their common beginning, which may differ on another
            machine.
        sources: the images of this shard, as `addresses.expand` yields them. They are found again while iterating.
    """

    count: int
    size: int
    checksum: str
    sources: Iterator[ImageSource] = field(repr=False)


def expand_shard(arguments: Iterable[str], shard: Shard) -> ShardImages:
    """Find the images of one shard of what the arguments of a command line refer to; see `addresses.expand`.

    The arguments are searched twice: first for all addresses, without opening images or reading members of archives,
    and then for the images of the shard. All addresses are held in memory, but only until this function returns.
    Standard input is copied to a temporary file.

    Raises InputError as `expand` does, and if a URL cannot be downloaded, because then the whole is unknown.
    """
    arguments = list(arguments)
    check_addresses(arguments)
    stdin = None
    if "-" in arguments:
        with temporary_file_errors():
            stdin = cast(io.BufferedReader, tempfile.TemporaryFile())  # noqa: SIM115 (read while iterating)
            shutil.copyfileobj(open_standard_input(), stdin)
            stdin.flush()
    addresses, damaged = _list_addresses(arguments, stdin)
    addresses.sort()
    start = len(commonprefix([addresses[0], addresses[-1]]))  # noqa: RUF071 (of characters)
    digest = sha256()
    for address in addresses:
        digest.update(f"{address[start:]}\n".encode("utf-8", "surrogatepass"))
    chosen = shard_range(addresses, shard)
    end = len(addresses) if chosen.end is None else bisect_left(addresses, chosen.end)
    size = end - bisect_left(addresses, chosen.first)
    return ShardImages(len(addresses), size, digest.hexdigest(), _images_in_range(arguments, stdin, chosen, damaged))


def _find(
    arguments: list[str], stdin: io.BufferedReader | None, left_out: LeftOut | None = None
) -> Iterator[ImageSource]:
    if stdin is not None:
        stdin.seek(0)
    return chain.from_iterable(find_sources(argument, left_out, stdin) for argument in arguments)


def _list_addresses(arguments: list[str], stdin: io.BufferedReader | None) -> tuple[list[str], set[str]]:
    """The addresses of all images, and those of damaged archives, which are among them."""
    addresses: list[str] = []
    damaged = set()

    def record(address: str) -> bool:
        addresses.append(address)
        return False

    for file in _find(arguments, stdin):
        if isinstance(file.content, InputError):
            raise file.content
        try:
            deque(images_in(file, LeftOut(is_listed=False), record), 0)
        except InputError:
            addresses.append(file.name)
            damaged.add(file.name)
    return addresses, damaged


def _images_in_range(
    arguments: list[str], stdin: io.BufferedReader | None, chosen: AddressRange, damaged: set[str]
) -> Iterator[ImageSource]:
    left_out = LeftOut()
    with stdin or nullcontext():
        for file in _find(arguments, stdin, left_out):
            if not chosen.overlaps(file.name):
                continue
            try:
                yield from images_in(file, left_out, chosen.__contains__)
            except InputError as error:
                if file.name in chosen or file.name not in damaged:  # the second: it failed only now
                    yield ImageSource(file.name, error)
    left_out.warn()
