"""Calibration of a classifier: the reliability diagram and the expected calibration error (ECE).

As in "On Calibration of Modern Neural Networks" (arXiv 1706.04599): images are put into 15 bins of equal width by their
confidence, which is the probability of the predicted class. Each bin is open below and closed above.
"""

from dataclasses import dataclass

import numpy as np

BINS = 15  # of the ECE
MIN_PLOTTED_BINS = 5
IMAGES_PER_BIN = 15  # on average in a plotted bin, unless there are too few images for MIN_PLOTTED_BINS


@dataclass(frozen=True)
class CalibrationBin:
    """Images with a confidence in (low, high]: how many, their mean confidence and their accuracy."""

    low: float
    high: float
    count: int
    confidence: float | None  # None in an empty bin
    accuracy: float | None


def reliability_bins(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> list[CalibrationBin]:
    """Put N images into bins of equal width by confidence.

    Args:
        confidence: float64 of shape (N,), in (0, 1].
        correct: bool of shape (N,).
        bins: the number of bins.
    """
    edges = np.linspace(0, 1, bins + 1)
    indices = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    counts = np.bincount(indices, minlength=bins)
    confidences, hits = np.bincount(indices, confidence, bins), np.bincount(indices, correct, bins)
    return [
        CalibrationBin(
            float(edges[i]),
            float(edges[i + 1]),
            int(count),
            float(confidences[i] / count) if count else None,
            float(hits[i] / count) if count else None,
        )
        for i, count in enumerate(counts)
    ]


def plotted_bins(count: int) -> int:
    """The number of bins of a reliability diagram of `count` images: one for 15 images, but 5 to 15."""
    return min(max(count // IMAGES_PER_BIN, MIN_PLOTTED_BINS), BINS)


def expected_calibration_error(bins: list[CalibrationBin]) -> float:
    """The mean over all images of their bin's |accuracy - mean confidence|, 0 to 1; nan without images."""
    total = sum(row.count for row in bins)
    gaps = (
        row.count * abs(row.accuracy - row.confidence)
        for row in bins
        if row.accuracy is not None and row.confidence is not None
    )
    return sum(gaps) / total if total else float("nan")
