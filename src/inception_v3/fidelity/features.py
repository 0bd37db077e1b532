"""One pass over the pictures of a source: decoded and resized by threads while the network runs, into rows on disk."""

import os
import tempfile
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
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
from inception_v3.fidelity.sources import Source

LISTED = 1000  # reasons that are kept of pictures that cannot be read
Rows = NDArray[np.float32]


@dataclass
class FeatureSet:
    """What one pass leaves: features of the pictures that could be read, in order, and the facts of all.

    `rows` is (N, width + spatial_width) float32, mapped from a file that has no name and ends with it. `places`
    are the positions in the source; `keys` (N, 16) are the same for the same picture.
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
        return self.rows[:, : self.width]

    @property
    def spatial(self) -> Rows:
        """(N, spatial_width): of sFID."""
        return self.rows[:, self.width :]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class _Prepared:
    """A picture that a thread has made ready: its row from the cache, or the image for the network; or neither."""

    key: bytes = b""
    facts: Facts | None = None
    row: Rows | None = None
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
    width = network.width + network.spatial_width
    found = FeatureSet(np.empty((0, width), np.float32), network.width, np.empty(0, np.int64), np.empty(0, np.uint8))
    places, keys = array("q"), bytearray()
    waiting: list[tuple[int, _Prepared]] = []  # rows that the network has yet to fill

    with tempfile.TemporaryFile(prefix="inception-v3-") as file:

        def write(row: int, values: Rows) -> None:
            try:
                file.seek(row * width * 4)
                file.write(values.data)
            except OSError as error:
                raise _no_room(error) from error

        def run() -> None:
            images = torch.stack([prepared.image for _, prepared in waiting if prepared.image is not None])
            pooled, spatial = network.features(images)
            values = torch.cat([pooled, spatial], 1).numpy()
            for (row, _), features in zip(waiting, values, strict=True):
                write(row, features)
            if cache is not None:
                rows = zip(waiting, values, strict=True)
                cache.put((one.key, one.facts, features) for (_, one), features in rows if one.facts is not None)
            progress(len(waiting))
            waiting.clear()

        pictures = islice(source.pictures(), limit)
        for place, prepared in enumerate(_ahead(pictures, convention, cache, workers, 2 * batch_size + workers)):
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
            keys += prepared.key
            found.sizes[prepared.facts.width, prepared.facts.height] += 1
            found.formats[prepared.facts.format] += 1
            found.gray += prepared.facts.gray
            if prepared.row is not None:
                found.from_cache += 1
                write(row, prepared.row)
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
        try:
            file.flush()
        except OSError as error:
            raise _no_room(error) from error
        found.rows = np.memmap(file, np.float32, "r", shape=(len(places), width))
    found.places = np.frombuffer(places, np.int64)
    found.keys = np.frombuffer(bytes(keys), np.uint8).reshape(-1, KEY_BYTES)
    return found


def _no_room(error: OSError) -> InputError:
    folder = tempfile.gettempdir()
    return InputError(f"{folder}: no room for the features of all images ({error.strerror}); set TMPDIR to another")


def _ahead(
    pictures: Iterator[Picture], convention: Convention, cache: FeatureCache | None, workers: int, count: int
) -> Iterator[_Prepared]:
    """Pictures in order, made ready by threads, at most `count` of them ahead."""

    def prepare(picture: Picture) -> _Prepared:
        try:
            content = picture.read()
            key = key_of(content)
            if cache is not None and (known := cache.get(key)):
                return _Prepared(key, known[1], row=known[0])
            pixels, facts = decode(content, picture.name)
            return _Prepared(key, facts, image=convention.resize(torch.from_numpy(pixels)[None])[0])
        except InputError as error:
            return _Prepared(error=str(error))

    pool = ThreadPoolExecutor(workers, "picture")
    try:
        queue: deque[Future[_Prepared]] = deque()
        for picture in pictures:
            queue.append(pool.submit(prepare, picture))
            if len(queue) > count:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
