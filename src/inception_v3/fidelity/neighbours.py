"""Scores from the nearest neighbours of features.

They are precision and recall (arXiv 1904.06991), density and coverage (arXiv 2002.09797), the realism of single images,
and the distance of each generated image to the nearest real image.

Distances are Euclidean, computed in blocks from float64 products. The matrix of all pairs is never in memory.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import NoScoreError
from inception_v3.fidelity.feature_rows import FeatureMatrix, Float64Array, row_blocks
from inception_v3.support.progress import Advance, ignore

PRECISION_K, DENSITY_K = 3, 5  # the neighbour whose distance is the radius of a ball


@dataclass(frozen=True)
class NeighbourScores:
    """The four scores, and three arrays of distances.

    `nearest` (N,): from each generated image to the nearest real one. `spacing` (M,): from each real image to the
    nearest other real one, for comparison with `nearest`. `realism` (N,): a generated image with a value above 1 lies
    among the real images.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    nearest: Float64Array
    spacing: Float64Array
    realism: Float64Array

    @property
    def memorisation(self) -> tuple[float, float, float]:
        """Mean and minimum distance from generated images to the nearest real one, and the mean among real images."""
        return float(self.nearest.mean()), float(self.nearest.min()), float(self.spacing.mean())


def compare_neighbours(
    generated: FeatureMatrix,
    reference: FeatureMatrix,
    *,
    k: int = PRECISION_K,
    density_k: int = DENSITY_K,
    progress: Advance = ignore,
) -> NeighbourScores:
    """Compare features (N, D) and (M, D) by balls around each image that reach to its k-th neighbour in its own set.

    Precision and recall count the edge of a ball as inside, as NVIDIA's, ADM's and torch-fidelity's implementations do.
    Density and coverage do not, as in PRDC. `progress` is called with numbers of distances, `distance_count` in all.

    Raises NoScoreError: a set has no more images than `k` or `density_k`.
    """
    check_neighbour_count(generated, reference, max(k, density_k))
    spacing, real_radius, density_radius = neighbour_distances(reference, (1, k, density_k), progress).T
    generated_radius = neighbour_distances(generated, (k,), progress)[:, 0]
    small = real_radius <= np.median(real_radius)  # realism ignores balls larger than the median

    inside = np.zeros(len(generated), bool)
    covered = np.zeros(len(reference), bool)
    ball_count = np.zeros(len(generated))
    nearest = np.full(len(generated), np.inf)
    nearest_to_real = np.full(len(reference), np.inf)
    realism = np.zeros(len(generated))
    for rows, columns in product(row_blocks(len(generated)), row_blocks(len(reference))):
        squares = squared_distances(generated[rows], reference[columns])
        inside[rows] |= (squares <= real_radius[columns]).any(1)
        covered[columns] |= (squares <= generated_radius[rows, None]).any(0)
        ball_count[rows] += (squares < density_radius[columns]).sum(1)
        nearest[rows] = np.minimum(squares.min(1), nearest[rows])
        nearest_to_real[columns] = np.minimum(squares.min(0), nearest_to_real[columns])
        if small[columns].any():
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.nan_to_num(real_radius[columns] / squares, nan=1, posinf=np.inf)[:, small[columns]]
            realism[rows] = np.maximum(realism[rows], ratio.max(1))
        progress(squares.size)
    return NeighbourScores(
        precision=float(inside.mean()),
        recall=float(covered.mean()),
        density=float(ball_count.mean() / density_k),
        coverage=float((nearest_to_real < density_radius).mean()),
        nearest=np.sqrt(nearest),
        spacing=np.sqrt(spacing),
        realism=np.sqrt(realism),
    )


def check_neighbour_count(generated: FeatureMatrix, reference: FeatureMatrix, k: int) -> None:
    """Raises NoScoreError: a set has no more than `k` images."""
    fewest = min(len(generated), len(reference))
    if fewest <= k:
        raise NoScoreError(f"{fewest} images are too few for {k} neighbours; give at least {k + 1} of each set")


def distance_count(generated: int, reference: int) -> int:
    """The number of distances that `compare_neighbours` computes for sets of these sizes."""
    return generated * generated + reference * reference + generated * reference


def neighbour_distances(features: FeatureMatrix, ranks: tuple[int, ...], progress: Advance = ignore) -> Float64Array:
    """Squared distances from each image to its neighbours of these ranks, (N, len(ranks)). Rank 1 is the nearest."""
    last = max(ranks)
    distances = np.empty((len(features), len(ranks)))
    for rows in row_blocks(len(features)):
        best = np.empty((rows.stop - rows.start, 0))
        for columns in row_blocks(len(features)):
            squares = squared_distances(features[rows], features[columns])
            best = np.concatenate([best, squares], 1)
            if best.shape[1] > last + 1:
                best = np.partition(best, last, 1)[:, : last + 1]
            progress(squares.size)
        distances[rows] = np.sort(best, 1)[:, ranks]  # rank 0 is the image itself
    return distances


def nearest_neighbours(
    features: FeatureMatrix, reference: FeatureMatrix, count: int
) -> tuple[NDArray[np.intp], Float64Array]:
    """Indices and distances of the `count` nearest rows of `reference`, nearest first: both (n, count).

    Meant for a small number n of `features` (n, D), because n * len(reference) distances are in memory.
    """
    squares = np.concatenate([squared_distances(features, reference[rows]) for rows in row_blocks(len(reference))], 1)
    indices = np.argsort(squares, 1, kind="stable")[:, :count]
    return indices, np.sqrt(np.take_along_axis(squares, indices, 1))


def squared_distances(first: FeatureMatrix, second: FeatureMatrix) -> Float64Array:
    """Squared distances between the rows of (n, D) and those of (m, D): (n, m).

    Values within rounding error of 0 are set to 0, so that equal features have distance 0.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    norms = np.square(first).sum(1)[:, None] + np.square(second).sum(1)
    squares = norms - 2 * (first @ second.T)
    return np.where(squares < 1e-13 * norms, 0, squares)
