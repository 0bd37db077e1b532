"""FID at growing N, extrapolated to infinitely many images (FID-infinity, arXiv 1911.07023), and intervals.

FID of N images is too large by about c / N. Of N, N/2 and N/4 images a line in 1/N is fitted; its value at 0 is
FID-infinity. Both sets shrink together where both have features; saved statistics stay whole.

Intervals are 95 %, from a bootstrap without replacement: what a statistic does over random halves of the images
has the variance of the statistic of all. (Drawn with replacement, twice the same images would look like fewer.)
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import NoScoreError
from inception_v3.fidelity.frechet import Gaussian, frechet_distance
from inception_v3.fidelity.rows import Rows
from inception_v3.fidelity.statistics import gaussian

Side = NDArray[np.float32] | Rows | Gaussian
Chosen = NDArray[np.intp] | None
PARTS = (1, 2, 4)
HALVES = 20
HALVES_OF_MANY = 8  # where each distance takes a second: more images than dimensions
STUDENT = {20: 2.093, 8: 2.365}  # two-sided 95 % with one less degrees of freedom
LEAST = 8 * 2  # a quarter of a half has two images


@dataclass(frozen=True)
class Extrapolation:
    """The ends of the interval of FID, and FID-infinity with those of its own."""

    fid_interval: tuple[float, float]
    infinity: float
    infinity_interval: tuple[float, float]


def extrapolate(
    generated: Side,
    reference: Side,
    *,
    fid: float,
    seed: int = 2020,
    progress: Callable[[int], None] = lambda done: None,
) -> Extrapolation:
    """Of features (N, D), at least one of the two; the other may be a distribution. `fid` is that of all.

    Raises NoScoreError: fewer than LEAST images.
    """
    sides = (generated, reference)
    counts = [len(side) for side in sides if not isinstance(side, Gaussian)]
    if not counts:
        raise NoScoreError("both sets are statistics, of which no parts can be drawn; give the pictures")
    if min(counts) < LEAST:
        raise NoScoreError(f"{min(counts)} images are too few for an interval: give {LEAST} or more")
    rng = np.random.RandomState(seed)
    infinity = _line(sides, (None, None), rng, fid)[1]
    progress(1)
    halves = repetitions(generated, reference)
    found = []
    for _ in range(halves):
        rows = [None if isinstance(side, Gaussian) else rng.permutation(len(side))[: len(side) // 2] for side in sides]
        found.append(_line(sides, (rows[0], rows[1]), rng))
        progress(1)
    margin, margin_of_infinity = (np.std(found, axis=0, ddof=1) * STUDENT[halves]).tolist()
    return Extrapolation(
        (max(fid - margin, 0.0), fid + margin),
        infinity,
        (infinity - margin_of_infinity, infinity + margin_of_infinity),
    )


def repetitions(generated: Side, reference: Side) -> int:
    """How many halves are drawn."""
    sides = (generated, reference)
    many = any(not isinstance(side, Gaussian) and len(side) > 2 * side.shape[1] for side in sides)
    return HALVES_OF_MANY if many else HALVES


def _line(
    sides: tuple[Side, Side], rows: tuple[Chosen, Chosen], rng: np.random.RandomState, fid: float | None = None
) -> tuple[float, float]:
    """FID of these rows, and where the line through FID of their parts meets 1/N = 0."""
    distances = []
    for parts in PARTS:
        if parts == 1 and fid is not None:
            distances.append(fid)
            continue
        split = [_split(side, of, parts, rng) for side, of in zip(sides, rows, strict=True)]
        distances.append(float(np.mean([frechet_distance(*both) for both in zip(*split, strict=True)])))
    return distances[0], float(np.polyfit(PARTS, distances, 1)[1])


def _split(side: Side, rows: Chosen, parts: int, rng: np.random.RandomState) -> list[Gaussian]:
    if isinstance(side, Gaussian):
        return [side] * parts
    chosen = np.arange(len(side)) if rows is None else rows
    if parts > 1:
        chosen = chosen[rng.permutation(len(chosen))]
    return [gaussian(side, part) for part in np.array_split(chosen, parts)]
