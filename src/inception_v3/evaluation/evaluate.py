"""How good a model is, or several together: top-1, top-5, every class by itself, and calibration.

What is kept is one row for each picture; every figure follows from the rows in the data set's order. So the figures do
not depend on how the pictures were spread over batches and processes, and one that came twice is counted once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from inception_v3.data import Batch, LabelledImages, batches
from inception_v3.errors import InputError
from inception_v3.evaluation.calibration import Bin, expected_calibration_error, reliability
from inception_v3.evaluation.crops import MultiCrop
from inception_v3.support.devices import explain_out_of_memory, precision_context
from inception_v3.support.distributed import ProcessGroup
from inception_v3.weights.model import InceptionV3

Precision = Literal["fp32", "bf16"]

MATRIX_CLASSES = 2_000  # of more the confusion is neither drawn nor written: 20,000 would take 3 GB
NO_ANSWER = -1  # in place of a class and a rank, where the network's outputs are no finite numbers
ANSWER = np.dtype(
    [
        ("index", "i8"),  # the picture's place in the data set
        ("label", "i8"),
        ("predicted", "i8"),  # the likeliest class; of equals the first
        ("rank", "i8"),  # classes likelier than the label, and equals before it: 0 is right, up to 4 is in the top 5
        ("confidence", "f8"),  # the probability of `predicted`
        ("log_likelihood", "f8"),  # the natural logarithm of the label's probability
    ]
)


@dataclass
class Metrics:
    """`answers` has a row of ANSWER for each picture, sorted by index. Rates are 0 to 1, of all pictures that could be
    read; a picture without an answer counts as a mistake and is in neither loss, calibration nor confusion."""

    class_names: list[str]
    answers: np.ndarray
    bad: list[tuple[str, str]] = field(default_factory=list)  # (name, reason) of what could not be read

    @property
    def count(self) -> int:
        return len(self.answers)

    @cached_property
    def answered(self) -> np.ndarray:
        """The rows that have an answer."""
        rows: np.ndarray = self.answers[self.answers["predicted"] != NO_ANSWER]
        return rows

    @property
    def unanswered(self) -> int:
        return self.count - len(self.answered)

    @cached_property
    def confused(self) -> np.ndarray:
        """A row (i, j, how many) for each class i of which pictures were taken for class j, right ones too."""
        pairs, counts = np.unique(
            np.stack([self.answered["label"], self.answered["predicted"]], 1), axis=0, return_counts=True
        )
        return np.column_stack([pairs, counts])

    @property
    def confusion(self) -> np.ndarray:
        """`confusion[i, j]`: pictures of class i that were taken for class j; of many classes it takes gigabytes."""
        matrix = np.zeros((len(self.class_names), len(self.class_names)), np.int64)
        matrix[self.confused[:, 0], self.confused[:, 1]] = self.confused[:, 2]
        return matrix

    @property
    def top1(self) -> float:
        return int((self.answered["rank"] == 0).sum()) / max(self.count, 1)

    @property
    def top5(self) -> float:
        """With fewer than five classes every answer is a hit."""
        return int((self.answered["rank"] < 5).sum()) / max(self.count, 1)

    @property
    def loss(self) -> float:
        """The mean negative log-likelihood (NLL, cross-entropy without smoothing) in nats; nan without an answer."""
        return 0.0 - float(self.answered["log_likelihood"].mean()) if len(self.answered) else float("nan")

    @cached_property
    def calibration(self) -> list[Bin]:
        return reliability(self.answered["confidence"], self.answered["rank"] == 0)

    @property
    def ece(self) -> float:
        return expected_calibration_error(self.calibration)

    def per_class(self) -> list[dict[str, Any]]:
        """For each class: its name, pictures, recall (of its own pictures, the share found) and precision."""
        hits = self.answered["label"][self.answered["rank"] == 0]
        right, claimed, real = (
            np.bincount(labels, minlength=len(self.class_names))
            for labels in (hits, self.answered["predicted"], self.answers["label"])
        )
        return [
            {
                "class": name,
                "count": int(real[i]),
                "recall": float(right[i] / real[i]) if real[i] else None,
                "precision": float(right[i] / claimed[i]) if claimed[i] else None,
            }
            for i, name in enumerate(self.class_names)
        ]

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no nan: what cannot be told is None."""
        return {
            "count": self.count,
            "unanswered": self.unanswered,
            "top1": self.top1,
            "top5": self.top5,
            "loss": self.loss if len(self.answered) else None,
            "ece": self.ece if len(self.answered) else None,
            "classes": self.per_class(),
            "confusion": self.confusion.tolist() if len(self.class_names) <= MATRIX_CLASSES else None,
            "calibration": [asdict(one) for one in self.calibration],
            "bad": [{"image": image, "reason": reason} for image, reason in self.bad],
        }


def merge(parts: Sequence[Metrics]) -> Metrics:
    """One judgement of the parts of a data set, whatever the parts. A picture that is in several is counted once."""
    rows = np.concatenate([part.answers for part in parts])
    _, first = np.unique(rows["index"], return_index=True)  # sorted by index
    bad = {name: reason for part in parts for name, reason in part.bad}
    return Metrics(parts[0].class_names, rows[first], sorted(bad.items()))


def evaluate_models(
    models: Sequence[InceptionV3],
    pictures: LabelledImages,
    *,
    crops: int = 1,
    precision: Precision = "fp32",
    batch_size: int = 32,
    workers: int = 0,
    group: ProcessGroup | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Metrics:
    """Judge one model, or the mean softmax of several, on pictures and over 1, 12 or 144 crops of each.

    Every model gets the pixels of its own preprocessing. Each process of a `group` takes its share of the pictures,
    and all get the whole judgement; `on_batch` tells how many all of them have done since. At most `batch_size` crops,
    or those of one picture, are held for each worker.
    Raises InputError as `evaluate` does.
    """
    group = group or ProcessGroup()
    places = group.indices(len(pictures))
    at_once = max(1, batch_size // crops)
    together = len(pictures) // group.world_size // at_once  # batches that every process has, and tells the others of

    def told(done: int) -> None:
        """So a process notices that another has gone at the next batch, and not after its own last one."""
        nonlocal together
        if together:
            (done,) = map(int, group.sum(done))
        together -= bool(together)
        on_batch(done)

    loaders = {
        preparation: batches(
            pictures.subset(places),
            preparation,
            at_once,
            transform=MultiCrop(preparation, crops).pixels if crops > 1 else None,
            workers=workers,
        )
        for preparation in {model.preprocessing: None for model in models}
    }
    (first, loader), *ensemble = [(model, loaders[model.preprocessing]) for model in models]
    share = evaluate(
        first,
        loader,
        pictures.class_names,
        told,
        ensemble=ensemble,
        precision=precision,
        batch_size=batch_size,
    )
    return whole(group, places, share)


def whole(group: ProcessGroup, places: range, share: Metrics) -> Metrics:
    """One judgement of the shares that the processes have, each of the pictures at its `places`."""
    share.answers["index"] = places.start + places.step * share.answers["index"]
    return merge(group.gather([share]))


@torch.inference_mode()
def evaluate(
    model: InceptionV3,
    loader: DataLoader[Any],
    class_names: list[str],
    on_batch: Callable[[int], None] = lambda done: None,
    *,
    ensemble: Sequence[tuple[InceptionV3, DataLoader[Any]]] = (),
    precision: Precision = "fp32",
    batch_size: int | None = None,
) -> Metrics:
    """Run the model over every batch of data.batches, in inference mode; `on_batch` gets each batch's size.

    A batch's images are (N, 3, H, W), or (N, crops, 3, H, W): then the softmax is averaged over the crops. A network
    takes `batch_size` of them at once, by default the whole batch. The softmax is averaged over an `ensemble` too,
    each model of which has a loader of the same pictures in the same order; models with equal preprocessing may
    share one. All that follows from the logits is computed in float64.

    Raises InputError where a model has another number of classes than there are names.
    """
    members = [(model, loader), *ensemble]
    for member, _ in members:
        check_classes(member, class_names)
    loaders = list({id(one): one for _, one in members}.values())
    was_training = [member.training for member, _ in members]
    rows, bad = [np.empty(0, ANSWER)], []
    try:
        for member, _ in members:
            member.eval()
        for prepared in zip(*loaders, strict=True):
            assert all(isinstance(one, Batch) and torch.equal(one.indices, prepared[0].indices) for one in prepared)
            batch = prepared[0]
            bad += batch.bad
            if len(batch.labels):
                images = {id(one): same.images for one, same in zip(loaders, prepared, strict=True)}
                views = [_log_probabilities(member, images[id(one)], precision, batch_size) for member, one in members]
                rows.append(_answers(_averaged(torch.cat(views, 1)), batch.labels, batch.indices))
            on_batch(len(batch.labels) + len(batch.bad))
    finally:
        for (member, _), training in zip(members, was_training, strict=True):
            member.train(training)
    return merge([Metrics(class_names, np.concatenate(rows), bad)])


def check_classes(model: InceptionV3, class_names: Sequence[str]) -> None:
    """Raises InputError where a model has another number of classes than there are names."""
    outputs = model.settings.num_classes
    if outputs != len(class_names):
        raise InputError(f"the model tells {outputs} classes apart, the data has {len(class_names)}")


def _log_probabilities(model: InceptionV3, images: Tensor, precision: Precision, batch_size: int | None) -> Tensor:
    """uint8 (N, 3, H, W) or (N, crops, 3, H, W) to float64 (N, views, classes); nan where outputs are not finite."""
    device = next(model.parameters()).device
    crops = images.flatten(0, -4)
    logits = []
    with explain_out_of_memory(device), precision_context(device, precision):
        for chunk in torch.split(crops, batch_size or len(crops)):
            scaled = model.preprocessing.scale(chunk.to(device)).contiguous(memory_format=torch.channels_last)
            logits.append(model(scaled, end_points=())[0].float().cpu())
    every = torch.cat(logits).double()
    every[~every.isfinite().all(1)] = torch.nan
    return every.log_softmax(1).view(len(images), -1, every.shape[1])


def _averaged(views: Tensor) -> Tensor:
    """The logarithm of the mean probability over the views: (N, views, classes) to (N, classes)."""
    return (views.logsumexp(1) - math.log(views.shape[1])).clamp(max=0)


def _answers(log_probabilities: Tensor, labels: Tensor, indices: Tensor) -> np.ndarray:
    """Rows of ANSWER from (N, classes) float64."""
    truth = log_probabilities.gather(1, labels[:, None])
    earlier = torch.arange(log_probabilities.shape[1]) < labels[:, None]
    rank = ((log_probabilities > truth) | ((log_probabilities == truth) & earlier)).sum(1)
    best, predicted = log_probabilities.max(1).values, log_probabilities.argmax(1)
    missing = best.isnan()
    rows = np.empty(len(labels), ANSWER)
    rows["index"], rows["label"] = indices, labels
    rows["predicted"] = predicted.masked_fill(missing, NO_ANSWER)
    rows["rank"] = rank.masked_fill(missing, NO_ANSWER)
    rows["confidence"], rows["log_likelihood"] = best.exp(), truth[:, 0]
    return rows
