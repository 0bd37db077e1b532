"""One pass over the pictures of a source: decoded and resized by threads, through the network, into rows on disk."""

import os
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.fidelity.cache import FeatureCache
from inception_v3.fidelity.conventions import Convention
from inception_v3.fidelity.network import Network
from inception_v3.fidelity.pictures import KEY_BYTES, Facts, Picture, decode, key_of
from inception_v3.fidelity.rows import Row, Rows, RowWriter
from inception_v3.fidelity.sources import Source

LISTED = 1000  # reasons that are kept of pictures that cannot be read


@dataclass
class FeatureSet:
    """What one pass leaves: features of the pictures that could be read, in order, and the facts of all.

    `rows` is (N, width + spatial_width). `places` are the positions in the source; `keys` (N, 16) are the same for
    the same pixels.
    """

    rows: Rows
    width: int
    places: NDArray[np.int64]
    keys: NDArray[np.uint8]
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    gray: int = 0
    bad: list[str] = field(default_factory=list)
    bad_count: int = 0
    from_cache: int = 0

    @property
    def pooled(self) -> Rows:
        """(N, width): of FID and the rest."""
        return self.rows.columns(0, self.width)

    @property
    def spatial(self) -> Rows:
        """(N, spatial_width): of sFID."""
        return self.rows.columns(self.width, self.rows.shape[1])

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class _Prepared:
    """A picture that a thread has made ready: its row from the cache, or the image for the network; or neither."""

    key: bytes = b""
    facts: Facts | None = None
    row: Row | None = None
    image: Tensor | None = None
    error: str | None = None


def extract(
    source: Source,
    network: Network,
    convention: Convention,
    *,
    cache: FeatureCache | None = None,
    limit: int | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    strict: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> FeatureSet:
    """Features of all pictures of a source, or of the first `limit`; what the cache has is not worked out again.

    A picture that cannot be read is left out and told in `bad`. Raises InputError: such a picture where `strict`,
    a damaged archive, no picture at all, no room for the rows.
    """
    batch_size = batch_size or (16 if network.device.type == "cpu" else 128)
    workers = workers or min(os.cpu_count() or 1, 16)
    file = RowWriter(network.width + network.spatial_width)
    found = FeatureSet(file.rows(0), network.width, np.empty(0, np.int64), np.empty(0, np.uint8))
    places, keys = array("q"), bytearray()
    waiting: list[tuple[int, _Prepared]] = []  # rows that the network has yet to fill

    def run() -> None:
        images = torch.stack([prepared.image for _, prepared in waiting if prepared.image is not None])
        pooled, spatial = network.features(images)
        values = torch.cat([pooled, spatial], 1).numpy()
        for (row, _), features in zip(waiting, values, strict=True):
            file.write(row, features)
        if cache is not None:
            rows = zip(waiting, values, strict=True)
            cache.put((one.key, one.facts, features) for (_, one), features in rows if one.facts is not None)
        progress(len(waiting))
        waiting.clear()

    pictures = islice(source.pictures(), limit)
    prepare = partial(_prepare, convention=convention, cache=cache)
    ready = _by_turns if network.device.type == "cpu" else _ahead
    for place, prepared in enumerate(ready(prepare, pictures, batch_size, workers)):
        if prepared.facts is None:
            if strict:
                raise InputError(f"{prepared.error}")
            found.bad_count += 1
            if len(found.bad) < LISTED:
                found.bad.append(f"{prepared.error}")
            progress(1)
            continue
        row = len(places)
        places.append(place)
        keys += prepared.facts.pixels
        found.sizes[prepared.facts.width, prepared.facts.height] += 1
        found.formats[prepared.facts.format] += 1
        found.gray += prepared.facts.gray
        if prepared.row is not None:
            found.from_cache += 1
            file.write(row, prepared.row)
            progress(1)
            continue
        waiting.append((row, prepared))
        if len(waiting) == batch_size:
            run()
    if waiting:
        run()
    if not places:
        first = f" ({found.bad[0]})" if found.bad else ""
        raise InputError(f"{source.name}: no picture in it can be read{first}; check the files")
    found.rows = file.rows(len(places))
    found.places = np.frombuffer(places, np.int64)
    found.keys = np.frombuffer(bytes(keys), np.uint8).reshape(-1, KEY_BYTES)
    return found


def _prepare(picture: Picture, convention: Convention, cache: FeatureCache | None) -> _Prepared:
    try:
        content = picture.read()
        key = key_of(content)
        if cache is not None and (known := cache.get(key)):
            return _Prepared(key, known[1], row=known[0])
        pixels, facts = decode(content, picture.name)
        return _Prepared(key, facts, image=convention.resize(torch.from_numpy(pixels)[None])[0])
    except InputError as error:
        return _Prepared(error=str(error))


def _by_turns(
    prepare: Callable[[Picture], _Prepared], pictures: Iterator[Picture], batch_size: int, workers: int
) -> Iterator[_Prepared]:
    """Pictures in order, a batch made ready by all processors before the network has them all for itself.

    Side by side they would take each other's: a layer waits for the slowest part of it.
    """
    with _threads(workers) as pool:
        while batch := list(islice(pictures, batch_size)):
            yield from pool.map(prepare, batch)


def _ahead(
    prepare: Callable[[Picture], _Prepared], pictures: Iterator[Picture], batch_size: int, workers: int
) -> Iterator[_Prepared]:
    """Pictures in order, two batches made ready while the network runs elsewhere."""
    with _threads(workers) as pool:
        queue: deque[Future[_Prepared]] = deque()
        for picture in pictures:
            queue.append(pool.submit(prepare, picture))
            if len(queue) > 2 * batch_size + workers:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()


@contextmanager
def _threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Each of them runs PyTorch on one thread; else each would start as many as there are processors."""
    of_this = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "picture", torch.set_num_threads, (1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(of_this)  # for threads that start later: PyTorch takes the last that any one said
