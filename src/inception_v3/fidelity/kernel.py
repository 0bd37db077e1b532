"""Kernel Inception Distance: the unbiased squared MMD with the kernel (x·y / D + 1)³ (arXiv 1801.01401)."""

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import NoScoreError
from inception_v3.fidelity.conventions.base import KidSampling
from inception_v3.fidelity.feature_rows import FeatureMatrix, Float64Array, row_blocks


def kernel_distance(generated: FeatureMatrix, reference: FeatureMatrix, sampling: KidSampling) -> tuple[float, float]:
    """KID of features (N, D) and (M, D): mean and population standard deviation over the subsets, in float64.

    Raises NoScoreError: a subset needs more images than there are.
    """
    smaller = min(len(generated), len(reference))
    size = sampling.subset_size(smaller)
    if not 2 <= size <= smaller:
        raise NoScoreError(
            f"{smaller} images are too few for subsets of {size}; give more images, or a smaller --kid-subset-size"
        )
    sets = (reference, generated) if sampling.reference_first else (generated, reference)
    first, second = (len(features) for features in sets)
    rng = np.random.RandomState(sampling.seed)
    draws = [[rng.choice(count, size, replace=False) for count in (first, second)] for _ in range(sampling.subsets)]
    chosen = np.stack(draws, axis=1)  # (2, subsets, size)
    # Compute the kernel of all images once, or of each subset: whichever takes fewer products.
    whole = first * first + second * second + first * second <= 3 * size * size * sampling.subsets
    kernel_sums = _sums_from_whole if whole else _sums_by_subset
    within_first = kernel_sums(sets[0], sets[0], chosen[0], chosen[0])
    within_second = kernel_sums(sets[1], sets[1], chosen[1], chosen[1])
    between = kernel_sums(sets[0], sets[1], chosen[0], chosen[1])
    values = (within_first + within_second) / (size * (size - 1)) - 2 * between / size**2
    return float(values.mean()), float(values.std())


def _kernel(first: FeatureMatrix, second: FeatureMatrix) -> Float64Array:
    rows, columns = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return np.asarray((rows @ columns.T / first.shape[1] + 1) ** 3)


def _sums_by_subset(
    first: FeatureMatrix, second: FeatureMatrix, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> Float64Array:
    """Sum the kernel over the pairs of each subset. Within one set, an image is not paired with itself.

    `rows` and `columns` are the indices of the subsets, (subsets, size); returns (subsets,).
    """
    sums = np.empty(len(rows))
    for index, (row, column) in enumerate(zip(rows, columns, strict=True)):
        kernel = _kernel(first[row], second[column])
        sums[index] = kernel.sum() - (np.trace(kernel) if first is second else 0)
    return sums


def _sums_from_whole(
    first: FeatureMatrix, second: FeatureMatrix, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> Float64Array:
    """The same as `_sums_by_subset`, from blocks of the kernel of all images."""
    in_rows, in_columns = _membership(rows, len(first)), _membership(columns, len(second))
    sums = np.zeros(len(rows))
    for top in row_blocks(len(first)):
        for left in row_blocks(len(second)):
            kernel = _kernel(first[top], second[left])
            if first is second and top == left:
                np.fill_diagonal(kernel, 0)
            sums += np.einsum("sj,sj->s", in_rows[:, top] @ kernel, in_columns[:, left], optimize=True)
    return sums


def _membership(chosen: NDArray[np.intp], count: int) -> Float64Array:
    """(subsets, images): 1 where the image is in the subset, otherwise 0."""
    member = np.zeros((len(chosen), count))
    np.put_along_axis(member, chosen, 1, axis=1)
    return member
