"""Whether a model is as often right as it is sure: the reliability diagram and the expected calibration error (ECE).

As in "On Calibration of Modern Neural Networks" (arXiv 1706.04599): pictures are put into 15 bins of equal width by
the probability of the class that was predicted, each bin open below and closed above. ECE is the mean, over the
pictures, of their bin's |accuracy - mean probability|.
"""

from dataclasses import dataclass

import numpy as np

BINS = 15


@dataclass(frozen=True)
class Bin:
    """Pictures with a confidence in (low, high]; their mean confidence and their share of right answers."""

    low: float
    high: float
    count: int
    confidence: float | None  # None where there are no pictures
    accuracy: float | None


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> list[Bin]:
    """The bins of confidences in (0, 1], float64 of shape (N,), and of whether each answer was right, bool (N,)."""
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    sure = np.bincount(place, confidence, bins)
    hits = np.bincount(place, right, bins)
    return [
        Bin(
            float(edges[i]),
            float(edges[i + 1]),
            int(count[i]),
            float(sure[i] / count[i]) if count[i] else None,
            float(hits[i] / count[i]) if count[i] else None,
        )
        for i in range(bins)
    ]


def expected_calibration_error(bins: list[Bin]) -> float:
    """0 to 1; nan without pictures."""
    total = sum(one.count for one in bins)
    if not total:
        return float("nan")
    gaps = (
        one.count * abs(one.accuracy - one.confidence)
        for one in bins
        if one.accuracy is not None and one.confidence is not None
    )
    return sum(gaps) / total
