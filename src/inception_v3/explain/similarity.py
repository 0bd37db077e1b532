"""How similar two arrays of activations are: relative difference, correlation and debiased CKA, batch by batch."""

import math

import torch
from torch import Tensor

MIN_IMAGES = 4  # of debiased CKA: the estimator divides by n - 3


class Similarity:
    """The similarity of two networks' values of the same images, summed over batches in float64."""

    def __init__(self) -> None:
        self._sums = torch.zeros(6, dtype=torch.float64)  # values, and sums of a, b, a * a, b * b, a * b
        self._squared_difference = 0.0
        self._hsic = torch.zeros(3, dtype=torch.float64)  # of both, of the first, of the second
        self._same_shape = True

    def add(self, first: Tensor, second: Tensor) -> None:
        """Add the values of a batch: (N, ...) of both. Only CKA is defined for two shapes that differ behind N."""
        a, b = exact(first).flatten(1), exact(second).flatten(1)
        self._same_shape &= first.shape == second.shape
        if self._same_shape:
            products = (torch.dot(x.flatten(), y.flatten()) for x, y in ((a, a), (b, b), (a, b)))
            self._sums += torch.stack([torch.tensor(a.numel()), a.sum(), b.sum(), *products]).double().cpu()
            self._squared_difference += float((a - b).square().sum())
        if len(a) >= MIN_IMAGES:
            both = _gram(a), _gram(b)
            self._hsic += torch.stack([hsic(both[i], both[j]) for i, j in ((0, 1), (0, 0), (1, 1))]).cpu()

    @property
    def squares(self) -> tuple[float, float]:
        """The sum of squares of the difference, and of the first network's values; infinite for two shapes."""
        return (self._squared_difference, float(self._sums[3])) if self._same_shape else (math.inf, 1.0)

    @property
    def difference(self) -> float:
        """The norm of the difference, relative to the norm of the first network's values; infinite for two shapes."""
        return relative(*self.squares)

    @property
    def correlation(self) -> float:
        """Pearson's correlation of all values; NaN for two shapes, or if the values of one are constant."""
        count, a, b, aa, bb, ab = self._sums.tolist()
        if not self._same_shape or not count:
            return math.nan
        spread = (aa - a * a / count) * (bb - b * b / count)
        return min(1.0, max(-1.0, (ab - a * b / count) / math.sqrt(spread))) if spread > 0 else math.nan

    @property
    def cka(self) -> float:
        """Debiased CKA with a linear kernel; NaN below MIN_IMAGES, or if the images cannot be told apart.

        Kornblith et al., arXiv 1905.00414, with the estimator of `hsic`. Over several batches it is that of Nguyen et
        al., arXiv 2010.15327: the estimates of the batches are averaged.
        """
        both, first, second = self._hsic.tolist()
        return both / math.sqrt(first * second) if first > 0 and second > 0 else math.nan


def exact(values: Tensor) -> Tensor:
    """The values in float64, which MPS lacks."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def relative(squared_difference: float, squared_norm: float) -> float:
    """A relative difference from two sums of squares. Two zeros do not differ."""
    if squared_norm > 0:
        return math.sqrt(squared_difference / squared_norm)
    return math.inf if squared_difference else 0.0


def hsic(first: Tensor, second: Tensor) -> Tensor:
    """The unbiased estimator of HSIC (Song et al., JMLR 13, 2012, equation 5) from two Gram matrices (N, N), N >= 4."""
    count = len(first)
    k, l = (gram - torch.diag(gram.diagonal()) for gram in (first, second))  # noqa: E741 - K and L in the paper
    means = k.sum() * l.sum() / ((count - 1) * (count - 2))
    return ((k * l).sum() + means - 2 / (count - 2) * torch.dot(k.sum(0), l.sum(0))) / (count * (count - 3))


def _gram(values: Tensor) -> Tensor:
    """The Gram matrix of rows (N, D). Their mean is removed: HSIC does not depend on it, but its rounding would."""
    centred = values - values.mean(0)
    return centred @ centred.T
