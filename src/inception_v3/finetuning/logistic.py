"""Multinomial logistic regression on features: the last layer of the network, trained to its optimum."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# L2 strengths to choose from, strong to weak. For standardised features, good values depend little on the network.
STRENGTHS = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001, 0.00001)
# L-BFGS stops when a step lowers the loss by less than this, relative to the larger of the loss and 1. The rough
# tolerance is enough to compare strengths.
ROUGH_TOLERANCE, FINAL_TOLERANCE = 1e-7, 1e-10


@dataclass
class FittedHead:
    """A linear layer: logits are features @ weights.T + biases. float32 on the CPU."""

    weights: Tensor  # (classes, D)
    biases: Tensor  # (classes,)
    l2: float
    losses: dict[float, float]  # on the images held out to choose, for each strength that was tried


def fit_head(features: Tensor, labels: Tensor, classes: int, l2: float | None = None) -> FittedHead:
    """Minimise mean cross-entropy + l2/2 * sum(w ** 2), where w are the weights for standardised features.

    The standardisation is folded into the result, which takes the original features.

    Args:
        features: (N, D) float32, on the device to compute on.
        labels: (N,) int64 from 0 to classes - 1, on the same device.
        l2: None holds out one in five images of each class, tries the strengths from strong to weak until their loss
            rises, and fits all images with the best.
    """
    mean = features.mean(0)
    deviation = features.std(0, correction=0)
    # A feature that is constant up to rounding errors gets the weight 0.
    factor = torch.where(deviation > 1e-5 * mean.abs(), 1 / deviation, 0.0)
    axes, coordinates, variances = principal_axes((features - mean) * factor)
    start = torch.zeros(classes, len(variances) + 1, dtype=torch.float64)
    losses: dict[float, float] = {}
    with _one_thread_if_small(features, classes):
        if l2 is None:
            start, losses = _try_strengths(coordinates.float(), variances, labels, start)
            l2 = min(losses, key=losses.__getitem__, default=0.1)  # the default if no image can be held out
        # First minimise in float32, which takes half the time, and then refine in float64.
        rough = _minimise(coordinates.float(), variances, labels, l2, start, ROUGH_TOLERANCE)
        solution = _minimise(coordinates, variances, labels, l2, rough, FINAL_TOLERANCE)
    weights = solution[:, :-1].to(axes) @ axes.T * factor.double()
    biases = solution[:, -1].to(axes) - weights @ mean.double()
    return FittedHead(weights.float().cpu(), biases.float().cpu(), l2, losses)


def principal_axes(standardised: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Principal axes of features (N, D): axes (D, R), coordinates (N, R), variances (R,); float64.

    R <= min(N, D). The optimal weights lie in the space of the axes and have the same norm there. L-BFGS needs a
    tenth of the steps along the axes, where the curvature is known; the features themselves are correlated.
    """
    exact = standardised.double()
    rows, columns = exact.shape
    if rows < columns:
        variances, vectors = torch.linalg.eigh(exact @ exact.T / rows)
        axes = exact.T @ vectors / (rows * variances).clamp(min=1e-300).sqrt()
    else:
        variances, axes = torch.linalg.eigh(exact.T @ exact / rows)
    nonzero = variances > 1e-10 * variances.max()
    axes, variances = axes[:, nonzero], variances[nonzero]
    return axes, exact @ axes, variances.cpu()


def _try_strengths(
    coordinates: Tensor, variances: Tensor, labels: Tensor, start: Tensor
) -> tuple[Tensor, dict[float, float]]:
    """The best solution and the held-out loss of each strength; no losses if no image can be held out."""
    held_out = _held_out_mask(labels)
    best, losses = start, dict[float, float]()
    for strength in STRENGTHS if held_out.any() else ():
        solution = _minimise(coordinates[~held_out], variances, labels[~held_out], strength, best, ROUGH_TOLERANCE)
        logits = _logits(coordinates[held_out], solution.to(coordinates)).T
        previous = min(losses.values(), default=math.inf)
        losses[strength] = F.cross_entropy(logits, labels[held_out]).item()
        if losses[strength] >= previous:
            break
        best = solution
    return best, losses


def _held_out_mask(labels: Tensor) -> Tensor:
    """A mask (N,) of one in five images of each class, the same in every call: at least one, but never all of them."""
    mask = torch.zeros(len(labels), dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for label in range(int(labels.max()) + 1):
        indices = torch.nonzero(labels.cpu() == label).flatten()
        indices = indices[torch.randperm(len(indices), generator=generator)]
        mask[indices[: max(len(indices) // 5, len(indices) > 1)]] = True
    return mask.to(labels.device)


def _logits(coordinates: Tensor, solution: Tensor) -> Tensor:
    """Compute the logits, (classes, N). A product of shape (N, classes) would take twice as long."""
    return torch.addmm(solution[:, -1:], solution[:, :-1], coordinates.T)


def _minimise(
    coordinates: Tensor, variances: Tensor, labels: Tensor, l2: float, start: Tensor, tolerance: float
) -> Tensor:
    """Solve by L-BFGS: (classes, R + 1) float64, with the biases in the last column.

    Each axis is scaled by the curvature along it: that of L2 plus that of the cross-entropy at the start. The gradient
    is an explicit formula, which is faster than autograd.
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]  # takes 0.4 s to import

    rows = torch.arange(len(labels), device=labels.device)
    probabilities = _logits(coordinates, start.to(coordinates)).softmax(0)
    curvature = max((probabilities * (1 - probabilities)).mean().item(), 1e-6)
    scale = torch.cat((curvature * variances + l2, torch.tensor([curvature], dtype=torch.float64))).rsqrt()

    def objective(scaled: np.ndarray) -> tuple[float, np.ndarray]:
        exact = torch.from_numpy(scaled).view_as(start) * scale
        solution = exact.to(coordinates)
        log_probabilities = _logits(coordinates, solution).log_softmax(0)
        loss = (
            l2 / 2 * exact[:, :-1].square().sum().item()
            - log_probabilities[labels, rows].mean(dtype=torch.float64).item()
        )
        error = log_probabilities.exp_()
        error[labels, rows] -= 1
        error /= len(labels)
        gradient = torch.cat((torch.addmm(l2 * solution[:, :-1], error, coordinates), error.sum(1, keepdim=True)), 1)
        return loss, (gradient.cpu().double() * scale).flatten().numpy()

    options = {"ftol": tolerance, "gtol": 0.0, "maxiter": 1000}
    result = minimize(objective, (start / scale).flatten().numpy(), method="L-BFGS-B", jac=True, options=options)
    return torch.from_numpy(result.x).view_as(start) * scale


@contextmanager
def _one_thread_if_small(features: Tensor, classes: int) -> Iterator[None]:
    """Use one thread for small matrices, where threads would wait for each other longer than they compute."""
    threads = torch.get_num_threads()
    if features.numel() * classes < 3e7:  # multiplications for all logits
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
