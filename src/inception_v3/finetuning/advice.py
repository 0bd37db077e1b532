"""Advice after fine-tuning: a few lines, and only what the number of images supports."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from inception_v3.data.splits import first_names
from inception_v3.evaluation.evaluate import Metrics, wilson_interval
from inception_v3.finetuning.finetune import FineTuned, Unfreezing
from inception_v3.support.text import percent

FEW_IMAGES = 20  # training images: with fewer, the choice of the L2 penalty holds out 3 of a class or fewer
NONE_RIGHT_OF = 5  # images: a class of which none is right has a recall below 44 %, by its 95 % interval
SAME_MISTAKES = 3  # the same mistake on fewer images is not reported
CHANCE = 0.05  # a pair of classes is reported if chance confuses any pair so often with a lower probability
ENOUGH_HELD_OUT = 200  # images: with fewer, the 95 % interval of the accuracy can be 14 points wide or wider
MAX_NAMES, MAX_PAIRS = 5, 3


def advice(
    train_counts: Sequence[int],
    held_out_counts: Sequence[int],
    result: FineTuned,
    smallest_class: Callable[[], int],
) -> list[str]:
    """At most five lines: few images, classes at 0 %, confused classes, unfreezing, cross-validation.

    The figures of classes are those of the cross-validation if there is one, else those of the held-out images.

    Args:
        train_counts: the number of training images of each class.
        held_out_counts: the number of held-out images of each class.
        smallest_class: computes the number of different images of the smallest class, which limits --folds.
    """
    folds = result.head.folds if result.head else None
    metrics = folds.metrics if folds else result.metrics
    lines = [*_few_images(train_counts, metrics.class_names), *_none_right(metrics), *_confused(metrics)]
    if result.unfreezing:
        lines += _unfreezing(result.unfreezing)
    if not folds:
        counts = sum(train_counts), sum(held_out_counts)
        lines += _recommend_folds(*counts, smallest_class, unfrozen=result.unfreezing is not None)
    return lines


def _few_images(train_counts: Sequence[int], class_names: list[str]) -> Iterator[str]:
    few = sorted((count, class_names[label]) for label, count in enumerate(train_counts) if 0 < count < FEW_IMAGES)
    if few:
        names = first_names([f"{name} ({count})" for count, name in few], MAX_NAMES)
        yield f"fewer than {FEW_IMAGES} training images: {names}; more images of these classes help most"


def _none_right(metrics: Metrics) -> Iterator[str]:
    rows = [row for row in metrics.per_class() if row["count"] >= NONE_RIGHT_OF and row["recall"] == 0]
    if rows:
        names = first_names([f"{row['class']} (0 of {row['count']})" for row in rows], MAX_NAMES)
        yield f"never recognised: {names}; look at the images and labels of these classes"


def _confused(metrics: Metrics) -> Iterator[str]:
    """The pairs of classes that are confused more often than if the mistakes were spread evenly over all pairs."""
    from scipy.special import pdtrc  # type: ignore[import-untyped]  # 1 - the Poisson distribution function

    wrong = metrics.confused_pairs[metrics.confused_pairs[:, 0] != metrics.confused_pairs[:, 1]]
    pairs, inverse = np.unique(np.sort(wrong[:, :2], axis=1), axis=0, return_inverse=True)
    counts = np.bincount(inverse.ravel(), wrong[:, 2], len(pairs))
    classes = sum(row["count"] > 0 for row in metrics.per_class())
    possible = max(classes * (classes - 1) / 2, 1)
    chance = pdtrc(counts - 1, counts.sum() / possible) * possible
    clear = np.flatnonzero((counts >= SAME_MISTAKES) & (chance < CHANCE))
    if len(clear):
        order = clear[np.argsort(-counts[clear], kind="stable")]
        names = [
            f"{metrics.class_names[first]} and {metrics.class_names[second]} ({count:.0f} images)"
            for (first, second), count in zip(pairs[order], counts[order], strict=True)
        ]
        yield f"confused most: {first_names(names, MAX_PAIRS)}; add images of these classes, or make a pair one class"


def _unfreezing(result: Unfreezing) -> Iterator[str]:
    """The trained layers against the last layer by itself: only a difference outside its 95 % interval is clear."""
    head, last = result.epochs[0], result.epochs[-1]
    if head["epoch"] != 0:  # the run began with an earlier version
        return
    kept = next(figures for figures in result.epochs if figures["epoch"] == result.epoch)
    unfrozen = kept if result.epoch else last
    count = int(head["held_out_count"])
    before, after = (percent(figures["held_out_top1"], count) for figures in (head, unfrozen))
    low, high = wilson_interval(head["held_out_top1"], count)
    if unfrozen["held_out_top1"] > high:
        verdict = "unfreezing helped"
    elif unfrozen["held_out_top1"] < low:
        verdict = "unfreezing made it worse: try a smaller --learning-rate, fewer --epochs or fewer layers"
    else:
        verdict = f"{count} held-out images show no clear effect of unfreezing"
    weights = f"those of epoch {result.epoch}" if result.epoch else "those before unfreezing"
    yield (
        f"{verdict}: top-1 {before} before, {after} after epoch {unfrozen['epoch']:.0f}; the weights kept are {weights}"
    )


def _recommend_folds(train: int, held_out: int, smallest_class: Callable[[], int], *, unfrozen: bool) -> Iterator[str]:
    if held_out < ENOUGH_HELD_OUT and (folds := min(5, smallest_class())) > 1:
        without = " and without --unfreeze" * unfrozen
        yield (
            f"only {held_out} images are held out: with --folds {folds}{without}, finetune evaluates the last layer on "
            f"all {train + held_out:,} images"
        )
