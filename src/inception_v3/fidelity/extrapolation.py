"""FID extrapolated to infinitely many images (FID-infinity, arXiv 1911.07023), and confidence intervals.

FID of N images is too large by about c / N. A line in 1/N is fitted to FID of N, N/2 and N/4 images; its value at 0 is
FID-infinity. If both sets have features, both are divided into equally many parts; saved statistics are always used
whole.

The 95 % intervals come from a bootstrap without replacement: the variance of a statistic over random halves of the
images estimates its variance for all images. (Samples with replacement contain duplicates, which have the effect of a
smaller set.)
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import NoScoreError
from inception_v3.fidelity.feature_rows import FeatureRows
from inception_v3.fidelity.frechet import Gaussian, frechet_distance
from inception_v3.fidelity.statistics import gaussian
from inception_v3.support.progress import Advance, ignore

FeaturesOrGaussian = NDArray[np.float32] | FeatureRows | Gaussian
RowIndices = NDArray[np.intp]  # empty for a distribution
PARTS = (1, 2, 4)
HALVES = 20
HALVES_OF_MANY = 8  # if a half has more images than dimensions, because each distance then takes a second
STUDENT_T = {20: 2.093, 8: 2.365}  # by number n of halves: two-sided 95 % quantiles with n - 1 degrees of freedom
MIN_IMAGES = 8 * 2  # so that a quarter of a half has two images


@dataclass(frozen=True)
class Extrapolation:
    """The interval of FID, FID-infinity, and the interval of FID-infinity. Intervals are 95 %, (low, high)."""

    fid_interval: tuple[float, float]
    infinity: float
    infinity_interval: tuple[float, float]


def extrapolate(
    generated: FeaturesOrGaussian,
    reference: FeaturesOrGaussian,
    *,
    fid: float,
    seed: int = 2020,
    progress: Advance = ignore,
) -> Extrapolation:
    """Extrapolate FID from features (N, D) and (M, D). One of the two may be a distribution (Gaussian) instead.

    `fid` is the FID of all images, and `seed` that of the random parts. `progress` is called with 1 after each of the
    `half_count` + 1 extrapolations.

    Raises NoScoreError: fewer than MIN_IMAGES images, or two distributions.
    """
    sets = (generated, reference)
    counts = [len(features) for features in sets if not isinstance(features, Gaussian)]
    if not counts:
        raise NoScoreError("both sets are saved statistics, which cannot be split into halves; give the images")
    if min(counts) < MIN_IMAGES:
        raise NoScoreError(f"{min(counts)} images are too few for an interval; give {MIN_IMAGES} or more")
    rng = np.random.RandomState(seed)
    whole = [np.arange(0 if isinstance(some, Gaussian) else len(some)) for some in sets]
    infinity = _intercept(sets, whole, rng, fid)
    progress(1)
    halves = half_count(generated, reference)
    samples = []
    for _ in range(halves):
        rows = [rng.permutation(chosen)[: len(chosen) // 2] for chosen in whole]
        half_fid = _mean_distance(sets, rows, rng, 1)
        samples.append((half_fid, _intercept(sets, rows, rng, half_fid)))
        progress(1)
    margin, infinity_margin = (np.std(samples, axis=0, ddof=1) * STUDENT_T[halves]).tolist()
    return Extrapolation(
        (max(fid - margin, 0.0), fid + margin),
        infinity,
        (infinity - infinity_margin, infinity + infinity_margin),
    )


def half_count(generated: FeaturesOrGaussian, reference: FeaturesOrGaussian) -> int:
    """The number of random halves that `extrapolate` draws."""
    many = any(
        not isinstance(features, Gaussian) and len(features) > 2 * features.shape[1]
        for features in (generated, reference)
    )
    return HALVES_OF_MANY if many else HALVES


def _intercept(
    sets: tuple[FeaturesOrGaussian, FeaturesOrGaussian],
    rows: list[RowIndices],
    rng: np.random.RandomState,
    fid: float,
) -> float:
    """Fit a line in 1/N to `fid` (of these rows) and to FID of their halves and quarters. Returns its value at 0."""
    distances = [fid, *(_mean_distance(sets, rows, rng, parts) for parts in PARTS[1:])]
    return float(np.polyfit(PARTS, distances, 1)[1])


def _mean_distance(
    sets: tuple[FeaturesOrGaussian, FeaturesOrGaussian],
    rows: list[RowIndices],
    rng: np.random.RandomState,
    parts: int,
) -> float:
    split = [_split(features, chosen, parts, rng) for features, chosen in zip(sets, rows, strict=True)]
    return float(np.mean([frechet_distance(*pair) for pair in zip(*split, strict=True)]))


def _split(features: FeaturesOrGaussian, rows: RowIndices, parts: int, rng: np.random.RandomState) -> list[Gaussian]:
    if isinstance(features, Gaussian):
        return [features] * parts
    shuffled = rng.permutation(rows) if parts > 1 else rows
    return [gaussian(features, part) for part in np.array_split(shuffled, parts)]
