"""One pass over the pictures of a source: decoded and resized by threads, through the network, into rows on disk."""

from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.fidelity.cache import FeatureCache
from inception_v3.fidelity.conventions import SIZE, Convention
from inception_v3.fidelity.network import Network
from inception_v3.fidelity.pictures import KEY_BYTES, Facts, Picture, decode, key_of
from inception_v3.fidelity.rows import Row, Rows, RowWriter
from inception_v3.fidelity.sources import Source
from inception_v3.support.cpu import core_count

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
    """A picture that a thread has made ready: its row from the cache, or the image for the network and then its row
    too; or neither."""

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
    on_cpu = network.device.type == "cpu"
    batch_size = batch_size or (8 if on_cpu else 128)
    file = RowWriter(network.width + network.spatial_width)
    found = FeatureSet(file.rows(0), network.width, np.empty(0, np.int64), np.empty(0, np.uint8))
    places, keys = array("q"), bytearray()
    prepare = partial(_prepare, convention=convention, cache=cache)
    pictures = islice(source.pictures(), limit)
    if on_cpu:
        batches = _in_every_thread(prepare, network, pictures, batch_size)
    else:
        batches = _beside_the_network(prepare, network, pictures, batch_size, workers or min(core_count(), 16))
    place = -1
    for batch in batches:
        new = []
        for prepared in batch:
            place += 1
            if prepared.facts is None or prepared.row is None:
                if strict:
                    raise InputError(f"{prepared.error}")
                found.bad_count += 1
                if len(found.bad) < LISTED:
                    found.bad.append(f"{prepared.error}")
                continue
            file.write(len(places), prepared.row)
            places.append(place)
            keys += prepared.facts.pixels
            found.sizes[prepared.facts.width, prepared.facts.height] += 1
            found.formats[prepared.facts.format] += 1
            found.gray += prepared.facts.gray
            if prepared.image is not None:
                new.append((prepared.key, prepared.facts, prepared.row))
        found.from_cache += sum(prepared.row is not None and prepared.image is None for prepared in batch)
        if cache is not None:
            cache.put(new)
        progress(len(batch))
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


def sample(source: Source, convention: Convention, count: int) -> Tensor:
    """The first pictures of a source that can be read, as the network reads them: (N, 3, 299, 299)."""
    prepared = (_prepare(picture, convention, None).image for picture in source.pictures())
    images = list(islice((image for image in prepared if image is not None), count))
    return torch.stack(images) if images else torch.empty(0, 3, SIZE, SIZE)


def _through(network: Network, batch: list[_Prepared]) -> list[_Prepared]:
    """With the features of those that the cache had not."""
    images = [prepared.image for prepared in batch if prepared.image is not None]
    if not images:
        return batch
    pooled, spatial = network.features(torch.stack(images))
    rows = iter(torch.cat([pooled, spatial], 1).numpy())
    return [prepared if prepared.image is None else replace(prepared, row=next(rows)) for prepared in batch]


def _in_every_thread(
    prepare: Callable[[Picture], _Prepared], network: Network, pictures: Iterator[Picture], batch_size: int
) -> Iterator[list[_Prepared]]:
    """Batches in order. On a processor a thread makes one ready and runs it, with a share of the cores to itself.

    With the cores together on one batch, each layer would wait for the core that decodes the next.
    """

    def work(batch: list[Picture]) -> list[_Prepared]:
        return _through(network, list(map(prepare, batch)))

    with _threads(network.callers, max(1, core_count() // network.callers)) as pool:
        queue: deque[Future[list[_Prepared]]] = deque()
        while batch := list(islice(pictures, batch_size)):
            queue.append(pool.submit(work, batch))
            if len(queue) > network.callers:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()


def _beside_the_network(
    prepare: Callable[[Picture], _Prepared],
    network: Network,
    pictures: Iterator[Picture],
    batch_size: int,
    workers: int,
) -> Iterator[list[_Prepared]]:
    """Batches in order, two of them made ready while the network runs elsewhere."""
    with _threads(workers, 1) as pool:
        queue: deque[list[Future[_Prepared]]] = deque()
        while batch := list(islice(pictures, batch_size)):
            queue.append([pool.submit(prepare, picture) for picture in batch])
            if len(queue) > 2:
                yield _through(network, [one.result() for one in queue.popleft()])
        while queue:
            yield _through(network, [one.result() for one in queue.popleft()])


@contextmanager
def _threads(workers: int, cores: int) -> Iterator[ThreadPoolExecutor]:
    """Each of them runs PyTorch on so many cores; else each would take all."""
    of_this = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "picture", torch.set_num_threads, (cores,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(of_this)  # for threads that start later: PyTorch takes the last that any one said
