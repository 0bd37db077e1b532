"""Cross-validation: the images are divided into folds, and each fold is held out once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inception_v3.data import LabelledImages, duplicates
from inception_v3.errors import InputError
from inception_v3.evaluation.evaluate import Metrics

FOLDS_SEED = 0  # the folds of the same images are the same in every run


@dataclass(frozen=True)
class CrossValidation:
    """The evaluation of every image by a last layer that was trained without the images of its fold."""

    metrics: Metrics  # of all images
    each: list[Metrics]  # of each fold
    l2: list[float]  # the L2 penalty of each fold

    def summary(self) -> dict[str, Any]:
        """The figures of all images, in values that JSON can hold."""
        return {"folds": len(self.each), "count": self.metrics.count} | self.metrics.summary()

    def as_dict(self) -> dict[str, Any]:
        """The figures of all images, of each class and of each fold, in values that JSON can hold."""
        each = [{"count": fold.count, "l2": l2} | fold.summary() for fold, l2 in zip(self.each, self.l2, strict=True)]
        return self.summary() | {"classes": self.metrics.per_class(), "each": each}


def content_groups(*sets: LabelledImages) -> NDArray[np.int64]:
    """A number for each image of all sets, (N,): images with the same content have the same number."""
    starts = np.cumsum([0, *map(len, sets)])
    groups: NDArray[np.int64] = np.arange(starts[-1])
    for group in duplicates(*sets):
        images = [starts[number] + index for number, index in group]
        groups[images] = images[0]
    return groups


def smallest_class(*sets: LabelledImages) -> int:
    """The number of different images of the smallest class that has images, in all sets together."""
    return min(_different(np.concatenate([each.labels for each in sets]), content_groups(*sets)).values())


def _different(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> dict[int, int]:
    return {int(label): len(np.unique(groups[labels == label])) for label in np.unique(labels)}


def check_folds(labels: NDArray[np.int64], groups: NDArray[np.int64], folds: int, class_names: list[str]) -> None:
    """Raise InputError if a class has fewer groups of equal images than there are folds."""
    different = _different(labels, groups)
    smallest = min(different, key=lambda label: (different[label], label))
    if (count := different[smallest]) < folds:
        remedy = f"give --folds {count} or fewer" if count > 1 else "add more images of it, or leave out --folds"
        images = "different image" + "s" * (count != 1)
        raise InputError(
            f"--folds {folds}: class {class_names[smallest]} has {count} {images}, and each fold needs one; {remedy}",
            exit_status=2,
        )


def assign_folds(labels: NDArray[np.int64], groups: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """The fold of each image, (N,), from 0 to folds - 1. Each fold has an equal part of each class.

    Images of the same group are in the same fold.
    """
    _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(inverse, kind="stable"), np.cumsum(sizes)[:-1])
    random = np.random.default_rng(FOLDS_SEED).permutation(len(members))
    # Large groups first, and then class after class, so that the last images even out the sizes.
    order = np.lexsort((random, [labels[group[0]] for group in members], -sizes))
    numbers, totals = np.empty(len(labels), np.int64), np.zeros(folds, np.int64)
    counts = np.zeros((folds, labels.max() + 1), np.int64)
    for group in (members[index] for index in order):
        # The fold with the fewest images of the group's class, and of those the smallest.
        fold = np.lexsort((totals, counts[:, labels[group]].sum(1)))[0]
        numbers[group] = fold
        totals[fold] += len(group)
        np.add.at(counts[fold], labels[group], 1)
    return numbers
