"""Evaluate the same models in several precisions, each with its engine, and compare them."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inception_v3.data import LabelledImages
from inception_v3.errors import InputError
from inception_v3.evaluation.evaluate import Metrics
from inception_v3.evaluation.models import evaluate_engines
from inception_v3.inference.choose import OpenedModel, describe_opened, find_exported, open_exported, open_model
from inception_v3.inference.engines.base import Precision, parse_precision
from inception_v3.inference.engines.graph import build_graph, swap_pools
from inception_v3.inference.engines.openvino import OpenvinoEngine
from inception_v3.inference.exported.registry import exports_in, read_description, recognise
from inception_v3.inference.pipeline import prepared_pixels
from inception_v3.inference.quantise import GOOD_IMAGES, int8_engine
from inception_v3.support.system_errors import file_status
from inception_v3.weights import MODEL_FILE
from inception_v3.weights.model import InceptionV3


@dataclass(frozen=True)
class Evaluated:
    """A model to evaluate: a network in memory, or exported networks (`network` is None).

    `file` is the file of its weights, or the exported file or folder. `run` is the run folder of these weights, which
    may hold exports of them.
    """

    name: str
    file: Path
    network: InceptionV3 | None
    class_names: list[str] | None
    num_classes: int
    run: Path | None = None


@dataclass(frozen=True)
class PrecisionResult:
    """The metrics in one precision, and how they were computed.

    `agreement` is the fraction of images with the same predicted class as in the first precision. `speed` is in images
    per second, with decoding.
    """

    precision: Precision
    engine: str
    device: str
    reason: str
    speed: float
    agreement: float
    metrics: Metrics

    def as_dict(self) -> dict[str, Any]:
        """The row of this precision in the JSON."""
        names = ("precision", "engine", "device", "reason", "agreement")
        described = {name: getattr(self, name) for name in names}
        return described | self.metrics.summary() | {"images_per_second": self.speed}


def exported_model(name: str) -> Evaluated | None:
    """The exported network of this name, or the best of a folder of exported networks; None for anything else."""
    path = Path(name)
    if file_status(path / MODEL_FILE) is not None or find_exported(path) is None:
        return None
    description = read_description(path if recognise(path) else exports_in(path)[0])
    return Evaluated(name, path, None, description.class_names, description.settings.class_count)


def open_in(model: Evaluated, name: str | None, engine: str, device: str | None, images: LabelledImages) -> OpenedModel:
    """Open a model in the precision of this name; None is fp32, or the precision of an exported network.

    For int8, a model uses the export in its run folder. Without one it is calibrated on `images`.
    Raises InputError, as `open_model` and `open_exported` do.
    """
    precision = None if name is None else parse_precision(name)
    if model.network is None:
        return open_exported(model.file, engine, precision, device, callers=None)
    if precision != "int8":
        return open_model(model.network, engine, precision, device, callers=None)
    if model.run is not None and (exported := find_exported(model.run)) is not None:
        try:
            return open_exported(exported, engine, precision, device, callers=None)
        except InputError as error:
            warnings.warn(f"{error}; calibrating int8 on images of the evaluation instead", stacklevel=2)
    return _calibrated(model.network, images)


def _calibrated(network: InceptionV3, images: LabelledImages) -> OpenedModel:
    """An int8 engine that is calibrated on up to GOOD_IMAGES images, spread over all."""
    chosen = images.subset(np.linspace(0, len(images) - 1, min(GOOD_IMAGES, len(images))).astype(int).tolist())
    pixels, _, _ = prepared_pixels(chosen.unopened(), network.preprocessing)
    graph = swap_pools(build_graph(network))
    engine = int8_engine(graph, pixels, OpenvinoEngine.best_callers("cpu"))
    reason = f"calibrated on {len(pixels)} of the evaluated images"
    return describe_opened(network, graph, engine, "int8", reason)


def evaluate_precision(
    models: Sequence[OpenedModel], images: LabelledImages, first: Metrics | None = None, **options: Any
) -> PrecisionResult:
    """Evaluate opened models, and compare the predictions with those of the `first` precision.

    `options` are those of `evaluate_engines`, and so are the exceptions.
    """
    return measured(models, lambda: evaluate_engines(models, images, **options), first)


def measured(
    models: Sequence[OpenedModel], compute: Callable[[], Metrics], first: Metrics | None = None
) -> PrecisionResult:
    """The metrics that `compute` returns, its speed, and the comparison with the `first` precision."""
    started = time.perf_counter()
    metrics = compute()
    speed = (metrics.count + len(metrics.bad)) / (time.perf_counter() - started)
    engine = models[0].engine
    return PrecisionResult(
        engine.precision,
        engine.name,
        engine.device,
        models[0].reason,
        speed,
        _agreement(metrics, first or metrics),
        metrics,
    )


def _agreement(metrics: Metrics, other: Metrics) -> float:
    return float((metrics.predictions["predicted"] == other.predictions["predicted"]).mean()) if metrics.count else 0.0
