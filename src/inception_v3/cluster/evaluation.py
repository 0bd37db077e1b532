"""Evaluate models on a cluster: each actor opens the data by its address and evaluates ranges of its images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from inception_v3.cluster.run import Note, pack, part_size, run_parts
from inception_v3.cluster.session import Cluster
from inception_v3.data import LabelledImages, LabelsFrom, load_held_out
from inception_v3.data.load import with_classes
from inception_v3.errors import InputError
from inception_v3.evaluation.evaluate import PREDICTION_DTYPE, Metrics, merge
from inception_v3.evaluation.models import evaluate_engines
from inception_v3.evaluation.precisions import Evaluated
from inception_v3.inference.choose import OpenedModel, open_exported, open_model
from inception_v3.inference.engines.base import parse_precision
from inception_v3.inference.schedule import FIRST_BATCH
from inception_v3.support.files import checksum
from inception_v3.support.progress import report
from inception_v3.training.run_folder import training_images
from inception_v3.weights.load import load, load_unstated


@dataclass(frozen=True)
class ModelFile:
    """A model to load in an actor: its name, its file with the checksum, and the engine that evaluates it."""

    name: str
    file: Path
    sha256: str | None
    is_exported: bool
    engine: str
    precision: str

    @classmethod
    def of(cls, model: Evaluated, opened: OpenedModel) -> "ModelFile":
        sha256 = None if model.file.is_dir() else checksum(model.file)
        exported = model.network is None
        return cls(model.name, model.file, sha256, exported, opened.engine.name, opened.engine.precision)

    def open(self, device: str | None, facts: dict[str, Any], weights_file: Path | None, is_first: bool) -> OpenedModel:
        """Open the model as `evaluate` does in one process.

        Raises InputError: another file on this node, or an engine that is not installed here.
        """
        if self.sha256 is not None and checksum(self.file) != self.sha256:
            fault = "is another file on this node; copy the model to all nodes, or give a path on shared storage"
            raise InputError(f"{self.file}: {fault}")
        precision = parse_precision(self.precision)
        if self.is_exported:
            return open_exported(self.file, self.engine, precision, device, callers=None)
        if is_first:
            network = load(self.name, weights_file=weights_file, **facts)
        else:
            network, _ = load_unstated(self.name, "cpu", facts)
        return open_model(network, self.engine, precision, device, callers=None)


@dataclass(frozen=True)
class EvaluateJob:
    """The models, the address of the data, and the arguments of `evaluate_engines`."""

    models: list[ModelFile]
    data: str
    class_names: list[str]
    count: int  # of the images, to notice other data on a node
    crops: int
    batch_size: int
    device: str | None = None
    weights_file: Path | None = None
    labels_from: LabelsFrom | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def open(self) -> Callable[[range], Metrics]:
        opened = [
            model.open(self.device, self.facts, self.weights_file, number == 0)
            for number, model in enumerate(self.models)
        ]
        trained_on = [training_images(model.file) for model in self.models]
        images = load_held_out(self.data, None, *trained_on, labels_from=self.labels_from)
        images = with_classes(images, self.class_names, self.data)
        if len(images) != self.count:
            raise InputError(f"{self.data}: {len(images)} images on this node, {self.count} on the other; copy them")

        def compute(indices: range) -> Metrics:
            options: dict[str, Any] = {"crops": self.crops, "batch_size": self.batch_size}
            first = FIRST_BATCH if indices.start == 0 else max(1, self.batch_size // self.crops)
            metrics = evaluate_engines(opened, images.subset(indices), **options, first_batch=first)
            metrics.predictions["index"] += indices.start
            return metrics

        return compute


def evaluate_on(
    cluster: Cluster, job: EvaluateJob, images: LabelledImages, on_batch: Callable[[int], None], note: Note
) -> Metrics:
    """The metrics of all images. Raises InputError as `run_parts` and `evaluate_engines` do."""
    batch = max(1, job.batch_size // job.crops)
    size = part_size(job.count, cluster.actors[1], batch)
    starts = [0, *range(FIRST_BATCH + batch, job.count, size)]
    ranges = [range(start, stop) for start, stop in zip(starts, [*starts[1:], job.count], strict=True)]
    parts = [Metrics(images.class_names, np.empty(0, PREDICTION_DTYPE))]
    for result in run_parts(cluster, job, _packed(ranges), note):
        parts.append(result.value)
        report(on_batch, result.value.count + len(result.value.bad), len(result.value.bad))
    return merge(parts)


def _packed(ranges: Sequence[range]) -> list[bytes]:
    return [pack(each) for each in ranges]
