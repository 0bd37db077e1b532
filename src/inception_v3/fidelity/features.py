"""Extract the features of a set in one pass: threads decode and resize, the network runs, and rows go to disk."""

import struct
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.fidelity.conventions import Convention
from inception_v3.fidelity.conventions.resize import SIZE
from inception_v3.fidelity.feature_rows import FeatureRow, FeatureRows, FeatureRowWriter
from inception_v3.fidelity.image_sets import ImageSet
from inception_v3.fidelity.network import EngineFeatures, FeatureNetwork
from inception_v3.fidelity.options import FidelityOptions
from inception_v3.fidelity.rounding import REVISION
from inception_v3.fidelity.stored_image import ImageFacts, decode_image
from inception_v3.images.find import ImageSource
from inception_v3.inference.engines.registry import load_engine
from inception_v3.inference.feature_store import KEY_BYTES, FeatureSpace, FeatureStore, FileState, content_key
from inception_v3.inference.schedule import BatchOptions, Result, run_batches
from inception_v3.support.cpu import core_count
from inception_v3.support.progress import Advance, ignore, report

MAX_LISTED = 1000  # unreadable images whose reasons are kept
STORED_FACTS = struct.Struct(f"<II?10s{KEY_BYTES}s")  # ImageFacts in the feature store


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
        from_cache: the number of images whose features came from the feature store.
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
class ImageInfo:
    """What is known of an image before the network runs.

    `row` holds its features if the store has them. `file` is the state of its file, if the store does not know it yet.
    """

    key: bytes
    facts: ImageFacts
    file: FileState | None = None
    row: FeatureRow | None = None


FeatureResult = Result[Any, ImageInfo]  # of one image: its features are `outputs["row"]`, or `info.row`
# Yields the result of each image of a set, in order, given the set, the network and the batch size.
ComputeSet = Callable[[ImageSet, FeatureNetwork, int], Iterator[FeatureResult]]


def extract_features(
    image_set: ImageSet,
    network: FeatureNetwork,
    convention: Convention,
    options: FidelityOptions | None = None,
    *,
    store: FeatureStore | None = None,
    limit: int | None = None,
    progress: Advance = ignore,
    compute: ComputeSet | None = None,
) -> FeatureSet:
    """Extract the features of all images of a set, or of the first `limit`, except those that the store holds.

    `compute`, if it is given, computes all images of the set instead of this process, also those that the store holds,
    and `limit` does not apply. Uses `batch_size`, `workers` and `strict` of `options`.
    Raises InputError: an unreadable image if `strict` is set, a damaged archive, no readable image, a full disk.
    """
    options = options or FidelityOptions()
    batch_size = options.batch_size or (8 if network.device.type == "cpu" else 128)
    if compute is not None:
        results = compute(image_set, network, batch_size)
    else:
        images = islice(image_set.images(), limit)
        results = feature_results(images, network, convention, batch_size, options.workers, store)
    stored = _store_rows(results, batch_size, store, feature_space(network, convention), progress)
    return _collect(stored, image_set.name, network, options.strict)


def feature_results(
    images: Iterable[ImageSource],
    network: FeatureNetwork,
    convention: Convention,
    batch_size: int,
    threads: int | None,
    store: FeatureStore | None = None,
) -> Iterator[FeatureResult]:
    """Yield the features and facts of each image, in order; features that the store holds are not computed."""
    return run_batches(
        images,
        partial(_prepare, convention=convention, store=store, space=feature_space(network, convention)),
        partial(_compute, network),
        (3, SIZE, SIZE),
        np.float32,
        BatchOptions(
            batch_size,
            first=batch_size,
            threads=threads,
            callers=network.callers,
            # Threads that only decode have one core each.
            torch_cores=max(1, core_count() // network.callers) if network.callers > 1 else 1,
        ),
        needs_computation=lambda info: info.row is None,
    )


def _compute(
    network: FeatureNetwork, inputs: NDArray[np.float32], _: list[ImageSource]
) -> dict[str, NDArray[np.float32]]:
    return {"row": torch.cat(network.features(torch.from_numpy(inputs)), 1).numpy()}


def feature_space(network: FeatureNetwork, convention: Convention) -> FeatureSpace:
    """The space of the features. In float32 the versions of an engine differ by its rounding errors only."""
    engine = ""
    if isinstance(network.features, EngineFeatures):
        engine = network.features.engine.name
        if network.dtype != "fp32":
            engine = f"{load_engine(engine).version()} rounding {REVISION}"
    return FeatureSpace(
        weights=network.checksum,
        end_point="Mixed_7c mean, Mixed_6d",
        width=network.width + network.spatial_width,
        preprocessing=convention.pixels,
        precision=network.dtype,
        engine=engine,
        device=network.device.type,
    )


def _store_rows(
    results: Iterator[FeatureResult],
    batch_size: int,
    store: FeatureStore | None,
    space: FeatureSpace,
    progress: Advance,
) -> Iterator[FeatureResult]:
    """Yield the results, and store new rows after each batch."""
    while batch := list(islice(results, batch_size)):
        yield from batch
        if store is not None:
            infos = [(each.info, each.outputs) for each in batch if each.info]
            store.put(space, ((info.key, outputs["row"], _pack(info.facts)) for info, outputs in infos if outputs))
            store.put_files((info.file, info.key) for info, _ in infos if info.file)
        report(progress, len(batch), sum(each.info is None for each in batch))


def _collect(results: Iterator[FeatureResult], name: str, network: FeatureNetwork, strict: bool) -> FeatureSet:
    """Collect rows and facts. Raises InputError: an unreadable image if `strict` is set, or no readable image."""
    writer = FeatureRowWriter(network.width + network.spatial_width)
    indices, pixel_keys = array("q"), bytearray()
    sizes, formats = Counter[str](), Counter[str]()
    unreadable: list[str] = []
    unreadable_count = gray = from_cache = 0
    for index, result in enumerate(results):
        if (info := result.info) is None:
            if strict:
                raise InputError(f"{result.error}")
            if len(unreadable) < MAX_LISTED:
                unreadable.append(f"{result.error}")
            unreadable_count += 1
            continue
        row = result.outputs["row"] if result.outputs else info.row
        assert row is not None  # an image without a row in the store was computed
        writer.write(len(indices), row)
        indices.append(index)
        pixel_keys += info.facts.pixel_key
        sizes[f"{info.facts.width}x{info.facts.height}"] += 1
        formats[info.facts.format] += 1
        gray += info.facts.gray
        from_cache += result.outputs is None
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
    prepare = partial(_prepare, convention=convention)
    results = run_batches(
        image_set.images(), prepare, lambda inputs, _: {"input": inputs.copy()}, (3, SIZE, SIZE), np.float32
    )
    inputs = list(islice((result.outputs["input"] for result in results if result.outputs), count))
    return torch.from_numpy(np.stack(inputs)) if inputs else torch.empty(0, 3, SIZE, SIZE)


def _prepare(
    image: ImageSource,
    network_input: NDArray[np.float32],
    convention: Convention,
    store: FeatureStore | None = None,
    space: FeatureSpace | None = None,
) -> ImageInfo:
    """Take the features of an image from the store, or write the network's input, (3, 299, 299)."""
    file = _file_state(image) if store else None
    if store and space and file and (key := store.content_key(file)) and (stored := store.get(space, [key])):
        return ImageInfo(key, _unpack(stored[key][1]), row=stored[key][0])
    content = image.read()
    key = content_key(content)
    if store and space and (stored := store.get(space, [key])):
        return ImageInfo(key, _unpack(stored[key][1]), file, stored[key][0])
    pixels, facts = decode_image(content, image.name)
    network_input[...] = convention.resize(torch.from_numpy(pixels)[None])[0]
    return ImageInfo(key, facts, file)


def _file_state(image: ImageSource) -> FileState | None:
    """The state of the image's file; None if it has none of its own, or it cannot be read."""
    try:
        return FileState.of(image.content) if isinstance(image.content, Path) else None
    except OSError:
        return None


def _pack(facts: ImageFacts) -> bytes:
    return STORED_FACTS.pack(facts.width, facts.height, facts.gray, facts.format.encode()[:10], facts.pixel_key)


def _unpack(stored: bytes) -> ImageFacts:
    width, height, gray, file_format, pixel_key = STORED_FACTS.unpack(stored)
    return ImageFacts(width, height, file_format.rstrip(b"\0").decode(), gray, pixel_key)
