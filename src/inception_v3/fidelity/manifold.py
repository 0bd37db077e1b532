"""Scores by nearest neighbours: precision and recall (arXiv 1904.06991), density and coverage (arXiv 2002.09797),
realism of single images, and how near each generated image is to a real one.

Distances are Euclidean, of float64 products, in blocks: no matrix of all pairs is held.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import NoScoreError
from inception_v3.fidelity.rows import Rows

Features = NDArray[np.floating] | Rows
Array = NDArray[np.float64]
ROWS = 2048  # of a block of distances
PRECISION_K, DENSITY_K = 3, 5  # the neighbour that a ball reaches to


@dataclass(frozen=True)
class Manifold:
    """`nearest` and `realism` are of each generated image; realism above 1 lies among the real.

    `spacing` is the distance of each real image to its nearest real neighbour: what `nearest` is measured by.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    nearest: Array
    spacing: Array
    realism: Array


def compare(
    generated: Features,
    reference: Features,
    *,
    k: int = PRECISION_K,
    density_k: int = DENSITY_K,
    progress: Callable[[int], None] = lambda done: None,
) -> Manifold:
    """The scores of features (N, D) and (M, D).

    A ball around an image reaches to its k-th neighbour in its own set. Precision and recall count its edge as
    inside, as NVIDIA's, ADM's and torch-fidelity's; density and coverage do not, as PRDC's.
    Raises NoScoreError: a set with no more images than `density_k`.
    """
    check_neighbours(generated, reference, max(k, density_k))
    of_real = neighbour_distances(reference, (1, k, density_k), progress)
    of_generated = neighbour_distances(generated, (k,), progress)[:, 0]
    spacing, real_radius, density_radius = of_real.T
    small = real_radius <= np.median(real_radius)  # realism leaves large balls out

    inside = np.zeros(len(generated), bool)
    reached = np.zeros(len(reference), bool)
    balls = np.zeros(len(generated))
    nearest = np.full(len(generated), np.inf)
    nearest_to_real = np.full(len(reference), np.inf)
    realism = np.zeros(len(generated))
    for rows, columns in _blocks(len(generated), len(reference)):
        squares = squared_distances(generated[rows], reference[columns])
        inside[rows] |= (squares <= real_radius[columns]).any(1)
        reached[columns] |= (squares <= of_generated[rows, None]).any(0)
        balls[rows] += (squares < density_radius[columns]).sum(1)
        nearest[rows] = np.minimum(squares.min(1), nearest[rows])
        nearest_to_real[columns] = np.minimum(squares.min(0), nearest_to_real[columns])
        if small[columns].any():
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.nan_to_num(real_radius[columns] / squares, nan=1, posinf=np.inf)[:, small[columns]]
            realism[rows] = np.maximum(realism[rows], ratio.max(1))
        progress(len(squares) * squares.shape[1])
    return Manifold(
        precision=float(inside.mean()),
        recall=float(reached.mean()),
        density=float(balls.mean() / density_k),
        coverage=float((nearest_to_real < density_radius).mean()),
        nearest=np.sqrt(nearest),
        spacing=np.sqrt(spacing),
        realism=np.sqrt(realism),
    )


def check_neighbours(generated: Features, reference: Features, k: int) -> None:
    """Raises NoScoreError: a set whose images have no `k` neighbours in it."""
    fewest = min(len(generated), len(reference))
    if fewest <= k:
        raise NoScoreError(f"{fewest} images have no {k} neighbours; give more")


def pairs(generated: int, reference: int) -> int:
    """The distances that `compare` works out, and tells `progress` of."""
    return generated * generated + reference * reference + generated * reference


def neighbour_distances(
    features: Features, places: tuple[int, ...], progress: Callable[[int], None] = lambda done: None
) -> Array:
    """The squared distance of each image to its neighbours of those numbers, 1 the nearest: (N, len(places))."""
    last = max(places)
    found = np.empty((len(features), len(places)))
    for top in range(0, len(features), ROWS):
        rows = slice(top, min(top + ROWS, len(features)))
        best = np.empty((rows.stop - top, 0))
        for _, columns in _blocks(1, len(features)):
            squares = squared_distances(features[rows], features[columns])
            best = np.concatenate([best, squares], 1)
            if best.shape[1] > last + 1:
                best = np.partition(best, last, 1)[:, : last + 1]
            progress(len(squares) * squares.shape[1])
        found[rows] = np.sort(best, 1)[:, places]  # 0 is the image itself
    return found


def nearest_places(some: Features, reference: Features, count: int) -> tuple[NDArray[np.intp], Array]:
    """Of a few images the `count` nearest in `reference`, nearest first: places and distances, (n, count)."""
    squares = np.concatenate(
        [squared_distances(some, reference[columns]) for _, columns in _blocks(1, len(reference))], 1
    )
    places = np.argsort(squares, 1, kind="stable")[:, :count]
    return places, np.sqrt(np.take_along_axis(squares, places, 1))


def squared_distances(first: Features, second: Features) -> Array:
    """(n, D) and (m, D) to (n, m); what rounding alone makes of equal features is 0."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    sizes = np.square(first).sum(1)[:, None] + np.square(second).sum(1)
    squares = sizes - 2 * (first @ second.T)
    return np.where(squares < 1e-13 * sizes, 0, squares)


def _blocks(rows: int, columns: int) -> list[tuple[slice, slice]]:
    return [
        (slice(top, min(top + ROWS, rows)), slice(left, min(left + ROWS, columns)))
        for top in range(0, rows, ROWS)
        for left in range(0, columns, ROWS)
    ]
