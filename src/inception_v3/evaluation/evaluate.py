"""Evaluate a model, or an ensemble: top-1 with its interval, top-5, recall and precision of every class, calibration.

One row is kept for each image, and every metric is computed from the rows in the order of the data set. Therefore the
metrics do not depend on batch size or number of processes, and an image that was evaluated twice is counted once.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from inception_v3.data import Batch
from inception_v3.errors import InputError
from inception_v3.evaluation.calibration import CalibrationBin, expected_calibration_error, reliability_bins
from inception_v3.network.probabilities import class_logits
from inception_v3.network.settings import Settings
from inception_v3.support.arguments import checked
from inception_v3.support.devices import explain_out_of_memory, precision_context
from inception_v3.support.distributed import ProcessGroup
from inception_v3.support.text import percent
from inception_v3.weights.model import InceptionV3

EvaluationPrecision = Literal["fp32", "bf16"]

NORMAL_QUANTILE = 1.959963984540054  # of 0.975, for intervals of 95 %
MATRIX_CLASSES = 2_000  # with more classes no confusion matrix is drawn or written: 20,000 classes take 3 GB
NO_PREDICTION = -1  # the class and rank of an image whose outputs are not finite
PREDICTION_DTYPE = np.dtype(
    [
        ("index", "i8"),  # of the image in the data set
        ("label", "i8"),
        ("predicted", "i8"),  # the class with the highest probability; the first of several with the same
        ("rank", "i8"),  # of the label among the classes: 0 is correct, up to 4 is in the top 5
        ("confidence", "f8"),  # the probability of `predicted`
        ("log_likelihood", "f8"),  # the natural logarithm of the label's probability
    ]
)


@dataclass
class Metrics:
    """The predictions for a data set, and the metrics computed from them.

    Rates are fractions from 0 to 1 of all images that could be read. An image whose outputs are not finite counts as
    a mistake, and it is left out of loss, calibration and confusion.
    """

    class_names: list[str]
    predictions: np.ndarray  # of PREDICTION_DTYPE, one row for each image that could be read, sorted by index
    bad: list[tuple[str, str]] = field(default_factory=list)  # (name, reason) of images that could not be read

    @property
    def count(self) -> int:
        return len(self.predictions)

    @cached_property
    def finite_predictions(self) -> np.ndarray:
        """The rows of images whose outputs are finite."""
        return np.compress(self.predictions["predicted"] != NO_PREDICTION, self.predictions)

    @property
    def unanswered(self) -> int:
        """The number of images whose outputs are not finite."""
        return self.count - len(self.finite_predictions)

    @cached_property
    def confused_pairs(self) -> np.ndarray:
        """The nonzero entries of the confusion matrix, int64 of shape (pairs, 3): label, predicted, image count."""
        pairs = np.stack([self.finite_predictions["label"], self.finite_predictions["predicted"]], 1)
        pairs, counts = np.unique(pairs, axis=0, return_counts=True)
        return np.column_stack([pairs, counts])

    @property
    def confusion(self) -> np.ndarray:
        """The confusion matrix: `confusion[i, j]` images of class i were predicted as class j.

        It has shape (classes, classes), which takes gigabytes for many classes.
        """
        matrix = np.zeros((len(self.class_names), len(self.class_names)), np.int64)
        matrix[self.confused_pairs[:, 0], self.confused_pairs[:, 1]] = self.confused_pairs[:, 2]
        return matrix

    @property
    def correct_count(self) -> int:
        return int((self.finite_predictions["rank"] == 0).sum())

    @property
    def top1(self) -> float:
        return self.correct_count / max(self.count, 1)

    @property
    def top1_interval(self) -> tuple[float, float]:
        """The 95 % interval of the top-1 accuracy: how much it says about other images from the same source."""
        return wilson_interval(self.top1, self.count)

    @property
    def mean_recall(self) -> float:
        """The mean of the recalls of all classes that have images (balanced accuracy), 0 to 1; nan without images."""
        recalls = [row["recall"] for row in self.per_class() if row["count"]]
        return sum(recalls) / len(recalls) if recalls else float("nan")

    @property
    def top5(self) -> float:
        """With fewer than five classes, every finite prediction counts as correct."""
        return int((self.finite_predictions["rank"] < 5).sum()) / max(self.count, 1)

    @property
    def loss(self) -> float:
        """The mean negative log-likelihood in nats (cross-entropy, no label smoothing); nan without predictions."""
        log_likelihood = self.finite_predictions["log_likelihood"]
        return 0.0 - float(log_likelihood.mean()) if len(log_likelihood) else float("nan")

    @cached_property
    def calibration(self) -> list[CalibrationBin]:
        return reliability_bins(self.finite_predictions["confidence"], self.finite_predictions["rank"] == 0)

    @property
    def ece(self) -> float:
        """The expected calibration error, 0 to 1; nan without predictions."""
        return expected_calibration_error(self.calibration)

    def per_class(self) -> list[dict[str, Any]]:
        """The name, number of images, recall and precision of each class; None for a rate without images."""
        finite, classes = self.finite_predictions, len(self.class_names)
        correct = np.bincount(finite["label"][finite["rank"] == 0], minlength=classes)
        predicted = np.bincount(finite["predicted"], minlength=classes)
        labelled = np.bincount(self.predictions["label"], minlength=classes)
        return [
            {
                "class": name,
                "count": int(labelled[i]),
                "recall": float(correct[i] / labelled[i]) if labelled[i] else None,
                "precision": float(correct[i] / predicted[i]) if predicted[i] else None,
            }
            for i, name in enumerate(self.class_names)
        ]

    def describe(self, images: str = "images") -> str:
        """One line: the top-1 accuracy, its interval, the number of `images`, and the mean of the classes' recalls."""
        low, high = self.top1_interval
        top1, mean, lowest, highest = (percent(rate, self.count) for rate in (self.top1, self.mean_recall, low, high))
        interval = f"95 % interval {lowest.removesuffix(' %')} to {highest}"
        return f"top-1 {top1} ({interval}) of {self.count:,} {images}, mean of classes {mean}"

    def summary(self) -> dict[str, Any]:
        """The metrics of all classes together, in values that JSON can hold."""
        return {
            "top1": self.top1,
            "top1_interval": self.top1_interval,
            "mean_recall": self.mean_recall if self.count else None,
            "top5": self.top5,
            "loss": self.loss if len(self.finite_predictions) else None,
            "ece": self.ece if len(self.finite_predictions) else None,
        }

    def held_out_figures(self) -> dict[str, float]:
        """The metrics that the metrics.jsonl of a run folder holds."""
        low, high = self.top1_interval
        figures = {"loss": self.loss, "top1": self.top1, "top1_low": low, "top1_high": high}
        figures |= {"mean_recall": self.mean_recall, "count": self.count}
        return {f"held_out_{name}": value for name, value in figures.items()}

    def as_dict(self) -> dict[str, Any]:
        """The metrics in values that JSON can hold. JSON has no nan, so an undefined metric is None."""
        return {
            "count": self.count,
            "unanswered": self.unanswered,
            **self.summary(),
            "classes": self.per_class(),
            "confusion": self.confusion.tolist() if len(self.class_names) <= MATRIX_CLASSES else None,
            "calibration": [asdict(row) for row in self.calibration],
            "bad": [{"image": image, "reason": reason} for image, reason in self.bad],
        }


def wilson_interval(rate: float, count: int) -> tuple[float, float]:
    """The Wilson score interval of 95 % for a rate that was observed on `count` images; (0, 1) without images.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    if not count:
        return 0.0, 1.0
    squared = NORMAL_QUANTILE**2
    centre = rate + squared / (2 * count)
    half_width = NORMAL_QUANTILE * math.sqrt(rate * (1 - rate) / count + squared / (4 * count**2))
    scale = 1 + squared / count
    low, high = (centre - half_width) / scale, (centre + half_width) / scale
    return low if rate > 0 else 0.0, high if rate < 1 else 1.0  # exactly, without rounding


def merge(parts: Sequence[Metrics]) -> Metrics:
    """The metrics of a data set from those of its parts, in any order. An image in several parts is counted once."""
    rows = np.concatenate([part.predictions for part in parts])
    _, first = np.unique(rows["index"], return_index=True)  # sorted by index
    bad = {name: reason for part in parts for name, reason in part.bad}
    return Metrics(parts[0].class_names, rows[first], sorted(bad.items()))


def gather_metrics(group: ProcessGroup, indices: range, part: Metrics) -> Metrics:
    """Combine the metrics of all processes. `part` is this process's, for the images at `indices` of the data set."""
    part.predictions["index"] = indices.start + indices.step * part.predictions["index"]
    return merge(group.gather([part]))


@checked
@torch.inference_mode()
def evaluate(
    model: InceptionV3,
    loader: Iterable[Batch],
    class_names: list[str],
    on_batch: Callable[[int], None] = lambda done: None,
    *,
    precision: EvaluationPrecision = "fp32",
) -> Metrics:
    """Evaluate a network as PyTorch runs it, on every batch of a loader. Its previous mode is restored afterwards.

    This is the evaluation during training; `models.evaluate_models` is faster.

    Args:
        model: the model, on any device. It is put in evaluation mode.
        loader: yields `data.Batch`, with images of shape (N, 3, H, W).
        class_names: the classes of the labels.
        on_batch: called after each batch with the number of its images, including those that could not be read.
        precision: "bf16" uses autocast if the device supports it.

    Raises InputError if the model has another number of classes than `class_names`.
    """
    check_classes(model, class_names)
    was_training = model.training
    device = next(model.parameters()).device
    rows, bad = [np.empty(0, PREDICTION_DTYPE)], []
    try:
        model.eval()
        for batch in loader:
            bad += batch.bad
            if len(batch.labels):
                with explain_out_of_memory(device), precision_context(device, precision):
                    scaled = model.preprocessing.scale(batch.images.to(device))
                    output = model(scaled.contiguous(memory_format=torch.channels_last), end_points=())[0].float()
                logits = class_logits(output.cpu().numpy(), model.settings.output_activation)
                rows.append(predictions(log_probabilities(torch.from_numpy(logits)), batch.labels, batch.indices))
            on_batch(len(batch.labels) + len(batch.bad))
    finally:
        model.train(was_training)
    return merge([Metrics(class_names, np.concatenate(rows), bad)])


def check_classes(model: InceptionV3, class_names: Sequence[str]) -> None:
    """Raise InputError if a model has another number of classes than there are names."""
    name = str(model.origin.file) if model.origin is not None else "the model"
    check_settings(name, model.settings, len(class_names))


def check_settings(name: str, settings: Settings, expected: int) -> None:
    """Raise InputError if a network has another number of classes than `expected`, or no single class for an image."""
    if settings.class_count != expected:
        raise InputError(
            f"{name}: num_classes is {settings.class_count}, but the data has {expected} classes; give data with the "
            "classes of the model"
        )
    if settings.output_activation == "sigmoid" and settings.num_classes > 1:
        raise InputError(
            f"{name}: a multi-label network, with a probability of its own for each class; its images have no single "
            "class to evaluate, but `inception-v3 predict` prints the probabilities"
        )


def log_probabilities(logits: Tensor) -> Tensor:
    """The log-softmax over the last dimension, in float64; nan for all classes if a logit is not finite."""
    finite = logits.isfinite().all(-1, keepdim=True)
    return logits.double().masked_fill(~finite, torch.nan).log_softmax(-1)


def predictions(log_probabilities: Tensor, labels: Tensor, indices: Tensor) -> np.ndarray:
    """Rows of PREDICTION_DTYPE from float64 log-probabilities of shape (N, classes)."""
    label_log_probability = log_probabilities.gather(1, labels[:, None])
    earlier = torch.arange(log_probabilities.shape[1]) < labels[:, None]
    higher = (log_probabilities > label_log_probability) | ((log_probabilities == label_log_probability) & earlier)
    best, predicted = log_probabilities.max(1).values, log_probabilities.argmax(1)
    not_finite = best.isnan()
    rows = np.empty(len(labels), PREDICTION_DTYPE)
    rows["index"], rows["label"] = indices, labels
    rows["predicted"] = predicted.masked_fill(not_finite, NO_PREDICTION)
    rows["rank"] = higher.sum(1).masked_fill(not_finite, NO_PREDICTION)
    rows["confidence"], rows["log_likelihood"] = best.exp(), label_log_probability[:, 0]
    return rows
