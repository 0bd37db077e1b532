"""Inception Score: exp of the mean KL divergence of each image's classes from their average (arXiv 1606.03498)."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import NoScoreError
from inception_v3.fidelity.conventions.base import InceptionScoreSplits
from inception_v3.fidelity.feature_rows import FeatureMatrix, row_blocks
from inception_v3.support.text import count_of

LOGITS_ROWS = 4096  # images whose logits are in memory at once


def inception_score(
    features: FeatureMatrix, weights: NDArray[np.floating], splits: InceptionScoreSplits
) -> tuple[float, float]:
    """The Inception Score from features (N, D): its mean and population standard deviation over the parts.

    `weights` are those of the logits layer, (classes, D). Its bias is left out, as in all other implementations.
    Raises NoScoreError: fewer images than parts.
    """
    count = len(features)
    order = np.arange(count) if splits.seed is None else np.random.RandomState(splits.seed).permutation(count)
    if splits.images is None:
        if count < splits.splits:
            raise NoScoreError(
                f"{count_of(count, 'image')} cannot be split into {splits.splits} parts; give more images, or a "
                "smaller --is-splits"
            )
        edges = [index * count // splits.splits for index in range(splits.splits + 1)]
    else:
        edges = [*range(0, count, splits.images), count]
    scores = [_score(features, weights, order[start:stop]) for start, stop in pairwise(edges)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(features: FeatureMatrix, weights: NDArray[np.floating], rows: NDArray[np.intp]) -> float:
    """The score of one part: exp(mean of sum p log p - sum q log q), with q the mean of p, in one pass."""
    from scipy.special import entr, log_softmax  # type: ignore[import-untyped]  # takes 0.2 s to import

    class_sums = np.zeros(len(weights))
    p_log_p = 0.0
    for block in row_blocks(len(rows), LOGITS_ROWS):
        logits = np.asarray(features[rows[block]] @ weights.T, np.float64)
        log_probabilities = log_softmax(logits, 1)
        probabilities = np.exp(log_probabilities)
        class_sums += probabilities.sum(0)
        p_log_p += float((probabilities * log_probabilities).sum())
    return float(np.exp(p_log_p / len(rows) + entr(class_sums / len(rows)).sum()))
