"""Evaluate one model, or an ensemble, by inference engines in any precision."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from inception_v3.data import LabelledImages
from inception_v3.data.labelled_images import UnopenedImage
from inception_v3.errors import InputError
from inception_v3.evaluation.crops import MultiCrop
from inception_v3.evaluation.evaluate import (
    PREDICTION_DTYPE,
    Metrics,
    check_settings,
    gather_metrics,
    log_probabilities,
    merge,
    predictions,
)
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.choose import OpenedModel, open_model
from inception_v3.inference.engines.base import LOGITS, Precision
from inception_v3.inference.pipeline import engine_batches, explain_engine_failure, image_preparer
from inception_v3.inference.schedule import FIRST_BATCH, Result, run_batches
from inception_v3.network.probabilities import class_logits
from inception_v3.support.arguments import BatchSize, Count, Threads, check_options, checked
from inception_v3.support.distributed import ProcessGroup
from inception_v3.support.progress import report
from inception_v3.weights.model import InceptionV3


@checked
def evaluate_models(
    models: Sequence[InceptionV3], images: LabelledImages, *, precision: Precision = "fp32", **options: Any
) -> Metrics:
    """Evaluate a model on labelled images, or several models with their softmax averaged.

    Each model runs in the fastest engine that is installed, on its device. `options` are those of `evaluate_engines`,
    and so are the exceptions.
    """
    check_options(evaluate_engines, options)
    devices = [str(next(model.parameters()).device) for model in models]
    opened = [
        open_model(model, "auto", precision, device, callers=None)
        for model, device in zip(models, devices, strict=True)
    ]
    return evaluate_engines(opened, images, **options)


@checked
def evaluate_engines(
    models: Sequence[OpenedModel],
    images: LabelledImages,
    *,
    crops: Literal[1, 12, 144] = 1,
    batch_size: BatchSize | None = None,
    threads: Threads | None = None,
    group: ProcessGroup | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
    first_batch: Count = FIRST_BATCH,
) -> Metrics:
    """Evaluate opened models on labelled images; the softmax of several models is averaged.

    Everything after the logits is computed in float64.

    Args:
        models: each gets pixels prepared by its own preprocessing.
        images: the labelled images.
        crops: the number of crops of each image over which the softmax is averaged: 1, 12 or 144.
        batch_size: crops computed at once; by default what suits the first model's engine.
        threads: number of threads that decode images; by default one for each core.
        group: the processes that share the work. All of them return the metrics of all images.
        on_batch: called after each batch with the number of images that all processes finished since the last call.
        first_batch: images in the first batch.

    Raises TypeError and ValueError: an argument of the wrong type or value, such as no models.
    Raises InputError: a model has another number of classes than the data, or an engine fails.
    """
    if not models:
        raise ValueError("models must be one or more models, not an empty list")
    for model in models:
        check_settings(str(model.file), model.description.settings, len(images.class_names))
        if LOGITS not in model.engine.widths:
            raise InputError(f"{model.file}: has no Logits to evaluate; export it without --end-points")
    group = group or ProcessGroup()
    indices = group.indices(len(images))
    part = images.subset(indices)
    size = batch_size or models[0].engine.batch_size
    images_per_batch = max(1, size // crops)
    engines: dict[Preprocessing, list[OpenedModel]] = {}
    for model in models:
        engines.setdefault(model.description.preprocessing, []).append(model)
    results = zip(*(_logits(part, *same, crops, size, threads, first_batch) for same in engines.items()), strict=True)
    metrics = [Metrics(images.class_names, np.empty(0, PREDICTION_DTYPE))]
    common_batches = iter(range(len(images) // group.world_size // images_per_batch))  # batches that every process has
    while batch := list(islice(results, images_per_batch)):
        metrics.append(_batch_metrics(part, batch))
        done = len(batch)
        if next(common_batches, None) is not None:  # a dead process is noticed at once
            (done,) = map(int, group.sum(done))
        report(on_batch, done, sum(not result.outputs for result, *_ in batch))
    return gather_metrics(group, indices, merge(metrics))


def _logits(
    images: LabelledImages,
    preprocessing: Preprocessing,
    models: list[OpenedModel],
    crops: int,
    batch_size: int,
    threads: int | None,
    first_batch: int,
) -> Iterator[Result[UnopenedImage, None]]:
    """The logits of each image, (crops, classes), from each of the models. `batch_size` is that of an engine."""

    def compute(pixels: NDArray[Any], sources: list[UnopenedImage]) -> dict[str, NDArray[np.float32]]:
        views = pixels.reshape(-1, *pixels.shape[2:])
        starts = range(0, len(views), batch_size)
        outputs = {}
        for number, model in enumerate(models):
            engine, activation = model.engine, model.description.settings.output_activation
            with explain_engine_failure(engine, sources):
                logits = np.concatenate([engine.run(views[start : start + batch_size])[LOGITS] for start in starts])
            logits = class_logits(logits, activation)
            outputs[str(number)] = logits.reshape(len(pixels), crops, -1)
        return outputs

    views = MultiCrop(preprocessing, crops).array if crops > 1 else None
    prepare = image_preparer(preprocessing, pixels=views)
    shape = (crops, *preprocessing.image_size, 3)
    fewest_callers = min((model.engine for model in models), key=lambda engine: engine.callers)
    options = engine_batches(fewest_callers, max(1, batch_size // crops), threads, first_batch)
    return run_batches(images.unopened(), prepare, compute, shape, options=options)


def _batch_metrics(images: LabelledImages, batch: list[tuple[Result[UnopenedImage, None], ...]]) -> Metrics:
    """Metrics of a few images from the results of all networks, with the softmax averaged over networks and crops."""
    readable = [results for results in batch if all(result.outputs for result in results)]
    errors = {result.source.name: result.error for results in batch for result in results if result.error}
    rows = np.empty(0, PREDICTION_DTYPE)
    if readable:
        views = [
            np.concatenate([logits for result in results for logits in (result.outputs or {}).values()])
            for results in readable
        ]
        indices = [results[0].source.index for results in readable]
        labels = torch.tensor([images.labels[index] for index in indices])
        probabilities = _average(log_probabilities(torch.from_numpy(np.stack(views))))
        rows = predictions(probabilities, labels, torch.tensor(indices))
    return Metrics(images.class_names, rows, list(errors.items()))


def _average(views: torch.Tensor) -> torch.Tensor:
    """The logarithm of the mean probability over views: log-probabilities (N, views, classes) to (N, classes)."""
    return (views.logsumexp(1) - math.log(views.shape[1])).clamp(max=0)
