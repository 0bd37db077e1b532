"""Extract the features of a set in one pass: threads decode and resize, the network runs, and rows go to disk."""

from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.fidelity.cache import FeatureCache
from inception_v3.fidelity.conventions import Convention
from inception_v3.fidelity.conventions.resize import SIZE
from inception_v3.fidelity.feature_rows import FeatureRow, FeatureRows, FeatureRowWriter
from inception_v3.fidelity.image_sets import ImageSet
from inception_v3.fidelity.network import FeatureNetwork
from inception_v3.fidelity.options import FidelityOptions
from inception_v3.fidelity.stored_image import KEY_BYTES, ImageFacts, StoredImage, content_key, decode_image
from inception_v3.support.cpu import core_count
from inception_v3.support.progress import Advance, ignore

Submitted = TypeVar("Submitted")
MAX_LISTED = 1000  # unreadable images whose reasons are kept


@dataclass(frozen=True)
class FeatureSet:
    """The features of all readable images of a set, in order, and facts about the set.

    Attributes:
        rows: (N, width + spatial_width), float32.
        indices: (N,) positions of the images in the set.
        pixel_keys: (N, 16) uint8; equal keys mean equal pixels.
        sizes, formats: the number of images of each "WIDTHxHEIGHT" and of each file format, most common first.
        gray: the number of images without colour.
        unreadable: a message for each unreadable image, up to MAX_LISTED; `unreadable_count` counts all.
        from_cache: the number of images whose features came from the cache.
    """

    rows: FeatureRows
    width: int
    indices: NDArray[np.int64]
    pixel_keys: NDArray[np.uint8]
    sizes: dict[str, int]
    formats: dict[str, int]
    gray: int
    unreadable: list[str]
    unreadable_count: int
    from_cache: int

    @property
    def count(self) -> int:
        return len(self.rows)

    @property
    def pooled(self) -> FeatureRows:
        """(N, width), the features of all scores except sFID."""
        return self.rows.columns(0, self.width)

    @property
    def spatial(self) -> FeatureRows:
        """(N, spatial_width), the features of sFID."""
        return self.rows.columns(self.width, self.rows.shape[1])


@dataclass(frozen=True)
class _PreparedImage:
    """An image in one of three states.

    It has a `row` from the cache, a `tensor` for the network (and, once the network has run, a `row`), or an `error`.
    """

    key: bytes = b""
    facts: ImageFacts | None = None
    row: FeatureRow | None = None
    tensor: Tensor | None = None
    error: str | None = None


def extract_features(
    image_set: ImageSet,
    network: FeatureNetwork,
    convention: Convention,
    options: FidelityOptions | None = None,
    *,
    cache: FeatureCache | None = None,
    limit: int | None = None,
    progress: Advance = ignore,
) -> FeatureSet:
    """Extract the features of all images of a set, or of the first `limit`, except those that the cache holds.

    Uses `batch_size`, `workers` and `strict` of `options`. Raises InputError: an unreadable image if `strict` is set, a
    damaged archive, no readable image, a full disk.
    """
    options = options or FidelityOptions()
    on_cpu = network.device.type == "cpu"
    batch_size = options.batch_size or (8 if on_cpu else 128)
    prepare = partial(_prepare, convention=convention, cache=cache)
    images = islice(image_set.images(), limit)
    batches = (
        _batches_on_cpu(prepare, network, images, batch_size)
        if on_cpu
        else _batches_for_gpu(prepare, network, images, batch_size, options.workers or min(core_count(), 16))
    )
    prepared = _store_rows(batches, cache, progress)
    return _collect(prepared, image_set.name, network, options.strict)


def _store_rows(
    batches: Iterator[list[_PreparedImage]], cache: FeatureCache | None, progress: Advance
) -> Iterator[_PreparedImage]:
    """Yield the images of all batches, and store the rows of each batch once its images have been collected."""
    for batch in batches:
        yield from batch
        if cache is not None:
            cache.put(
                (prepared.key, prepared.facts, prepared.row)
                for prepared in batch
                if prepared.tensor is not None and prepared.facts and prepared.row is not None
            )
        progress(len(batch))


def _collect(images: Iterator[_PreparedImage], name: str, network: FeatureNetwork, strict: bool) -> FeatureSet:
    """Collect rows and facts. Raises InputError: an unreadable image if `strict` is set, or no readable image."""
    writer = FeatureRowWriter(network.width + network.spatial_width)
    indices, pixel_keys = array("q"), bytearray()
    sizes, formats = Counter[str](), Counter[str]()
    unreadable: list[str] = []
    unreadable_count = gray = from_cache = 0
    for index, prepared in enumerate(images):
        if prepared.facts is None or prepared.row is None:
            if strict:
                raise InputError(f"{prepared.error}")
            if len(unreadable) < MAX_LISTED:
                unreadable.append(f"{prepared.error}")
            unreadable_count += 1
            continue
        writer.write(len(indices), prepared.row)
        indices.append(index)
        pixel_keys += prepared.facts.pixel_key
        sizes[f"{prepared.facts.width}x{prepared.facts.height}"] += 1
        formats[prepared.facts.format] += 1
        gray += prepared.facts.gray
        from_cache += prepared.tensor is None
    if not indices:
        first = f" ({unreadable[0]})" if unreadable else ""
        raise InputError(f"{name}: no image in it can be read{first}; check the files")
    return FeatureSet(
        writer.rows(len(indices)),
        network.width,
        np.frombuffer(indices, np.int64),
        np.frombuffer(bytes(pixel_keys), np.uint8).reshape(-1, KEY_BYTES),
        dict(sizes.most_common()),
        dict(formats.most_common()),
        gray,
        unreadable,
        unreadable_count,
        from_cache,
    )


def read_inputs(image_set: ImageSet, convention: Convention, count: int) -> Tensor:
    """The network's inputs for the first `count` readable images of a set: (N, 3, 299, 299)."""
    prepared = (_prepare(image, convention, None).tensor for image in image_set.images())
    tensors = list(islice((tensor for tensor in prepared if tensor is not None), count))
    return torch.stack(tensors) if tensors else torch.empty(0, 3, SIZE, SIZE)


def _prepare(image: StoredImage, convention: Convention, cache: FeatureCache | None) -> _PreparedImage:
    try:
        content = image.read()
        key = content_key(content)
        if cache is not None and (cached := cache.get(key)):
            return _PreparedImage(key, cached[1], row=cached[0])
        pixels, facts = decode_image(content, image.name)
        return _PreparedImage(key, facts, tensor=convention.resize(torch.from_numpy(pixels)[None])[0])
    except InputError as error:
        return _PreparedImage(error=str(error))


def _run_network(network: FeatureNetwork, batch: list[_PreparedImage]) -> list[_PreparedImage]:
    """Fill in the rows of the images that have a tensor."""
    tensors = [prepared.tensor for prepared in batch if prepared.tensor is not None]
    if not tensors:
        return batch
    pooled, spatial = network.features(torch.stack(tensors))
    rows = iter(torch.cat([pooled, spatial], 1).numpy())
    return [prepared if prepared.tensor is None else replace(prepared, row=next(rows)) for prepared in batch]


def _batches_on_cpu(
    prepare: Callable[[StoredImage], _PreparedImage],
    network: FeatureNetwork,
    images: Iterator[StoredImage],
    batch_size: int,
) -> Iterator[list[_PreparedImage]]:
    """Yield batches in order. Each thread prepares a batch and runs the network on it, on its own part of the cores.

    If all cores worked on one batch, each layer would wait for the core that decodes the next batch.
    """

    def work(batch: list[StoredImage]) -> list[_PreparedImage]:
        return _run_network(network, list(map(prepare, batch)))

    with _thread_pool(network.callers, max(1, core_count() // network.callers)) as pool:
        for future in _submit_ahead(lambda batch: pool.submit(work, batch), images, batch_size, network.callers):
            yield future.result()


def _batches_for_gpu(
    prepare: Callable[[StoredImage], _PreparedImage],
    network: FeatureNetwork,
    images: Iterator[StoredImage],
    batch_size: int,
    workers: int,
) -> Iterator[list[_PreparedImage]]:
    """Yield batches in order. Threads prepare the next two batches while the network runs on the GPU."""
    with _thread_pool(workers, 1) as pool:

        def submit(batch: list[StoredImage]) -> list[Future[_PreparedImage]]:
            return [pool.submit(prepare, image) for image in batch]

        for futures in _submit_ahead(submit, images, batch_size, 2):
            yield _run_network(network, [future.result() for future in futures])


def _submit_ahead(
    submit: Callable[[list[StoredImage]], Submitted], images: Iterator[StoredImage], batch_size: int, ahead: int
) -> Iterator[Submitted]:
    """Yield the result of `submit` for each batch, in order. Up to `ahead` later batches are already submitted."""
    queue: deque[Submitted] = deque()
    while batch := list(islice(images, batch_size)):
        queue.append(submit(batch))
        if len(queue) > ahead:
            yield queue.popleft()
    while queue:
        yield queue.popleft()


@contextmanager
def _thread_pool(workers: int, cores: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of `workers` threads. PyTorch uses `cores` cores in each; by default each thread would use all cores."""
    threads_before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "image", torch.set_num_threads, (cores,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        # Threads that start later inherit the last number that was set in any thread.
        torch.set_num_threads(threads_before)
