"""Evaluate models on a cluster: each actor opens the data by its address and evaluates ranges of its images."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from inception_v3.cluster.run import Note, check_same_model, pack, part_size, run_parts
from inception_v3.cluster.session import Cluster
from inception_v3.data import LabelsFrom, load_held_out
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
        if self.sha256 is not None:
            check_same_model(self.file, checksum(self.file), self.sha256)
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
    crops: Literal[1, 12, 144]
    batch_size: int
    device: str | None = None
    weights_file: Path | None = None
    labels_from: LabelsFrom | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def images_per_batch(self) -> int:
        """An engine computes all crops of these images in one batch."""
        return max(1, self.batch_size // self.crops)

    def open(self) -> Callable[[range], Metrics]:
        opened = [
            model.open(self.device, self.facts, self.weights_file, number == 0)
            for number, model in enumerate(self.models)
        ]
        trained_on = [training_images(model.file) for model in self.models]
        images = load_held_out(self.data, None, *trained_on, labels_from=self.labels_from)
        images = with_classes(images, self.class_names, self.data)
        if len(images) != self.count:
            fault = f"{len(images)} images on this node, {self.count} on the machine of the command"
            raise InputError(f"{self.data}: {fault}; copy the data to all nodes")

        def compute(indices: range) -> Metrics:
            metrics = evaluate_engines(
                opened,
                images.subset(indices),
                crops=self.crops,
                batch_size=self.batch_size,
                first_batch=FIRST_BATCH if indices.start == 0 else self.images_per_batch,
            )
            metrics.predictions["index"] += indices.start
            return metrics

        return compute


def evaluate_on(cluster: Cluster, job: EvaluateJob, on_batch: Callable[[int], None], note: Note) -> Metrics:
    """The metrics of all images. Raises InputError as `run_parts` and `evaluate_engines` do.

    The parts are whole batches, and the first is the first batch, as those of `predictions.split`.
    """
    stops = [0, min(FIRST_BATCH, job.count)]
    while (stop := stops[-1]) < job.count:
        size = part_size(job.count - stop, cluster.actors[1], job.images_per_batch)
        stops.append(min(stop + size, job.count))
    ranges = [pack(range(start, stop)) for start, stop in pairwise(stops)]
    parts = [Metrics(job.class_names, np.empty(0, PREDICTION_DTYPE))]
    for part in run_parts(cluster, job, ranges, note):
        parts.append(part)
        report(on_batch, part.count + len(part.bad), len(part.bad))
    return merge(parts)
