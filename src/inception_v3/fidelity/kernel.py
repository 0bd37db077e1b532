"""Kernel Inception Distance: the unbiased squared MMD with the kernel (x·y / D + 1)³ (arXiv 1801.01401)."""

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import NoScoreError
from inception_v3.fidelity.conventions import KidSampling
from inception_v3.fidelity.rows import Rows

Features = NDArray[np.floating] | Rows
ROWS = 2048  # rows of the kernel that are held at once


def kernel_distance(generated: Features, reference: Features, sampling: KidSampling) -> tuple[float, float]:
    """KID of features (N, D) and (M, D): mean over the subsets, and their standard deviation (population's).

    All in float64. Raises NoScoreError: fewer features than a subset has.
    """
    smaller = min(len(generated), len(reference))
    size = min(sampling.size, smaller) if sampling.shrinks else sampling.size
    if not 2 <= size <= smaller:
        raise NoScoreError(f"subsets of {size} from {smaller} images: give more images, or --kid-subset-size")
    rng = np.random.RandomState(sampling.seed)
    sets = (reference, generated) if sampling.reference_first else (generated, reference)
    chosen = [
        np.stack(drawn)
        for drawn in zip(
            *([rng.choice(len(features), size, replace=False) for features in sets] for _ in range(sampling.subsets)),
            strict=True,
        )
    ]
    # Of all images once, or of each subset: what takes fewer products.
    first, second = (len(features) for features in sets)
    whole = first * first + second * second + first * second <= 3 * size * size * sampling.subsets
    sums = _sums_of_whole if whole else _sums_of_subsets
    within_first = sums(sets[0], sets[0], chosen[0], chosen[0])
    within_second = sums(sets[1], sets[1], chosen[1], chosen[1])
    between = sums(sets[0], sets[1], chosen[0], chosen[1])
    values = (within_first + within_second) / (size * (size - 1)) - 2 * between / size**2
    return float(values.mean()), float(values.std())


def _kernel(first: Features, second: Features) -> NDArray[np.float64]:
    rows, columns = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return np.asarray((rows @ columns.T / first.shape[1] + 1) ** 3)


def _sums_of_subsets(
    first: Features, second: Features, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> NDArray[np.float64]:
    """The kernel summed over each subset's pairs; within one set without those of an image with itself."""
    sums = np.empty(len(rows))
    for place, (row, column) in enumerate(zip(rows, columns, strict=True)):
        kernel = _kernel(first[row], second[column])
        sums[place] = kernel.sum() - (np.trace(kernel) if first is second else 0)
    return sums


def _sums_of_whole(
    first: Features, second: Features, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> NDArray[np.float64]:
    in_rows, in_columns = _membership(rows, len(first)), _membership(columns, len(second))
    sums = np.zeros(len(rows))
    for top in range(0, len(first), ROWS):
        for left in range(0, len(second), ROWS):
            kernel = _kernel(first[top : top + ROWS], second[left : left + ROWS])
            if first is second and top == left:
                np.fill_diagonal(kernel, 0)
            sums += np.einsum(
                "sj,sj->s", in_rows[:, top : top + ROWS] @ kernel, in_columns[:, left : left + ROWS], optimize=True
            )
    return sums


def _membership(chosen: NDArray[np.intp], count: int) -> NDArray[np.float64]:
    """(subsets, images): 1 where the image is in the subset."""
    member = np.zeros((len(chosen), count))
    np.put_along_axis(member, chosen, 1, axis=1)
    return member
