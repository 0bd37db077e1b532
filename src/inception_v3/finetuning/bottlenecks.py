"""Bottlenecks: the network's features in front of its last layer, computed once for each image and kept on disk.

An image is identified by its content and a network by its weights. So features are found again when files are renamed,
moved or put into other classes.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import inception_v3
from inception_v3.data import LabelledImages
from inception_v3.data.labelled_images import UnopenedImage
from inception_v3.errors import InputError
from inception_v3.inference.choose import fastest_engine, open_graph
from inception_v3.inference.engines.base import FEATURES, Outputs, Precision
from inception_v3.inference.engines.graph import build_graph, swap_pools
from inception_v3.inference.feature_store import FeatureSpace, FeatureStore, FileState, content_key
from inception_v3.inference.pipeline import engine_batches, explain_engine_failure, image_preparer
from inception_v3.inference.schedule import Result, run_batches
from inception_v3.network.layers import Conv2d
from inception_v3.support.progress import report
from inception_v3.weights.model import InceptionV3

HEAD_PREFIXES = ("Logits.", "AuxLogits.")  # of the names of parameters
FEATURE_SETTINGS = ("depth_multiplier", "min_depth", "global_pool", "batch_norm_epsilon", "batch_norm_scale",
                    "count_padding", "mixed_7c_pool")  # fmt: skip  # settings that change the features
READ_SIZE = 4096  # features that are read from the store at once, 32 MiB


def feature_space(model: InceptionV3, precision: Precision) -> FeatureSpace:
    """The space of the features of a model, with the versions of the packages that compute them.

    The heads are left out: networks that differ only in their classes share their features.
    """
    settings = {name: model.settings[name] for name in FEATURE_SETTINGS}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        if not name.startswith(HEAD_PREFIXES):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy())
    device = next(model.parameters()).device
    engine, _ = fastest_engine(precision, str(device))
    programs = {name: version(name) for name in ("torchvision", "pillow")} | {"inception_v3": inception_v3.__version__}
    return FeatureSpace(
        weights=digest.hexdigest(),
        end_point="PreLogits",
        width=last_layer(model).weights.shape[1],
        preprocessing=json.dumps(asdict(model.preprocessing) | programs),
        precision=precision,
        engine=engine.version(),
        device=device.type,
    )


@dataclass
class Bottlenecks:
    """The features of a data set."""

    features: Tensor  # (N, D) float32
    indices: Tensor  # (N,): the index of each row's image in the data set, ascending
    bad: list[tuple[str, str]]  # (name, reason) of images that could not be read
    computed: int  # number of rows that were not in the store


def bottlenecks(
    model: InceptionV3,
    images: LabelledImages,
    store: FeatureStore,
    *,
    precision: Precision = "fp32",
    batch_size: int = 32,
    workers: int = 0,
    on_file: Callable[[], None] = lambda: None,
    on_features: Callable[[int], None] = lambda count: None,
) -> Bottlenecks:
    """The features of every readable image: read from the store, or computed and stored there.

    After an interrupt, the store holds the features computed until then.

    Args:
        model: in evaluation mode, with one feature vector per image.
        store: its `messages` report what could not be read or stored.
        batch_size: images in one forward pass.
        workers: number of threads that decode images; 0 for one on each core.
        on_file: called for each image whose content is looked up.
        on_features: called with the number of images that have been finished since the last call.
    """
    space = feature_space(model, precision)
    features = np.empty((len(images), space.width), np.float32)
    done = np.zeros(len(images), bool)
    keys = _image_keys(images, store, on_file)
    for first in range(0, len(images), READ_SIZE):
        indices = range(len(images))[first : first + READ_SIZE]
        stored = store.get(space, [keys[index][0] for index in indices if index in keys])
        for index in indices:
            if index in keys and keys[index][0] in stored:
                features[index], done[index] = stored[keys[index][0]][0], True
        on_features(int(done[list(indices)].sum()))

    missing = np.flatnonzero(~done).tolist()
    bad: list[tuple[str, str]] = []
    results = _compute(model, images.subset(missing), precision, batch_size, workers) if missing else iter(())
    while batch := list(islice(results, batch_size)):
        readable = []
        for result in batch:
            index = missing[result.source.index]
            if result.outputs:
                readable.append(index)
                features[index], done[index] = result.outputs["features"], True
            else:
                bad.append((result.source.name, f"{result.error}"))
        # A file may have changed between the computation of its key and its decoding.
        unchanged = [index for index in readable if index in keys and _is_unchanged(images, index, *keys[index])]
        store.put(space, [(keys[index][0], features[index], b"") for index in unchanged])
        report(on_features, len(batch), len(batch) - len(readable))
    return Bottlenecks(
        torch.from_numpy(features if done.all() else features[done]),
        torch.from_numpy(np.flatnonzero(done)),
        bad,
        len(missing) - len(bad),
    )


def _compute(
    model: InceptionV3, images: LabelledImages, precision: Precision, batch_size: int, threads: int
) -> Iterator[Result[UnopenedImage, None]]:
    """The features of images, (D,) each, by the fastest engine for the model's device."""
    graph = swap_pools(build_graph(model, outputs=(FEATURES,)))
    engine, _ = open_graph(graph, "auto", precision, str(next(model.parameters()).device), callers=None)

    def compute(pixels: NDArray[np.uint8], sources: list[UnopenedImage]) -> Outputs:
        with explain_engine_failure(engine, sources):
            return {"features": engine.run(pixels)[FEATURES]}

    shape, options = (*model.image_size, 3), engine_batches(engine, batch_size, threads)
    return run_batches(images.unopened(), image_preparer(model.preprocessing), compute, shape, options=options)


def _image_keys(
    images: LabelledImages, store: FeatureStore, on_file: Callable[[], None]
) -> dict[int, tuple[bytes, FileState | None]]:
    """The content key of each readable image, and the state of its file if it has one, by index."""
    keys: dict[int, tuple[bytes, FileState | None]] = {}
    new: list[tuple[FileState, bytes]] = []
    try:
        for index, source in enumerate(images.sources):
            on_file()
            with suppress(InputError, OSError):  # decoding the image will report it
                state = FileState.of(source) if isinstance(source, Path) else None
                key = store.content_key(state) if state else None
                if key is None:
                    key = _content_key(images, index)
                    new += [(state, key)] if state else []
                keys[index] = key, state
    finally:
        store.put_files(new)
    return keys


def _content_key(images: LabelledImages, index: int) -> bytes:
    """The content key of an image. Raises InputError: it cannot be read."""
    source = images.sources[index]
    return content_key(np.asarray(source) if isinstance(source, Image.Image) else images.content(index))


def _is_unchanged(images: LabelledImages, index: int, key: bytes, state: FileState | None) -> bool:
    """Whether an image still has the content for which its key was computed."""
    source = images.sources[index]
    try:
        return FileState.of(source) == state if isinstance(source, Path) else _content_key(images, index) == key
    except (InputError, OSError):
        return False


def last_layer(model: InceptionV3) -> Conv2d:
    """The layer that computes the logits from the features."""
    layer = model.get_submodule("Logits.Conv2d_1c_1x1")
    assert isinstance(layer, Conv2d)
    return layer
