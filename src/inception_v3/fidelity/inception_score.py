"""Inception Score: exp of the mean KL divergence of each image's classes from those of all (arXiv 1606.03498)."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import NoScoreError
from inception_v3.fidelity.conventions import InceptionScoreSplits
from inception_v3.fidelity.rows import Rows

Features = NDArray[np.floating] | Rows
ROWS = 4096  # images whose classes are held at once


def inception_score(
    features: Features, weights: NDArray[np.floating], options: InceptionScoreSplits
) -> tuple[float, float]:
    """Mean and standard deviation (population's) over the parts, of features (N, D).

    `weights` are those of the logits, (classes, D): their bias is left out, as the first score did and all since.
    Raises NoScoreError: fewer images than parts.
    """
    count = len(features)
    order = np.arange(count) if options.seed is None else np.random.RandomState(options.seed).permutation(count)
    if options.images is None:
        if count < options.splits:
            raise NoScoreError(f"{options.splits} parts of {count} images: give more images, or fewer --is-splits")
        edges = [place * count // options.splits for place in range(options.splits + 1)]
    else:
        edges = [*range(0, count, options.images), count]
    scores = [_score(features, weights, order[start:stop]) for start, stop in pairwise(edges)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(features: Features, weights: NDArray[np.floating], rows: NDArray[np.intp]) -> float:
    """exp(mean of sum p log p - sum q log q), q the mean of p: one reading of the features is enough."""
    classes = np.zeros(len(weights))
    certainty = 0.0
    for start in range(0, len(rows), ROWS):
        logits = np.asarray(features[rows[start : start + ROWS]] @ weights.T, np.float64)
        logits -= logits.max(1, keepdims=True)
        log_shares = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        shares = np.exp(log_shares)
        classes += shares.sum(0)
        certainty += float((shares * log_shares).sum())
    mean = classes / len(rows)
    # A class whose share underflows in all images adds nothing, as its limit does.
    entropy = float((mean * np.log(np.maximum(mean, np.finfo(np.float64).tiny))).sum())
    return float(np.exp(certainty / len(rows) - entropy))
