"""Multinomial logistic regression on features: the last layer of the network, trained by itself to its optimum."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Strengths of L2 to choose from, strong to weak. On standardised features: what is good depends little on the network.
STRENGTHS = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001, 0.00001)
FEW = 0.1  # the strength where no picture can be held out to choose one
HELD_OUT = 5  # one of so many pictures of each class chooses it
# Of the loss, from step to step. What is held out judges solutions, not their last digits.
ROUGHLY, EXACTLY = 1e-7, 1e-10
MOST_STEPS = 1000
SMALL = 3e7  # multiplications for all logits

Step = tuple[Tensor, Tensor, Tensor]  # how far, what it changed in the gradient, and the product of the two


@dataclass
class Head:
    """Logits are features @ weights.T + biases: weights (classes, D), biases (classes,), float32 on the CPU."""

    weights: Tensor
    biases: Tensor
    l2: float
    losses: dict[float, float]  # of the strengths that were tried, on the pictures held out to choose


def fit_head(features: Tensor, labels: Tensor, classes: int, l2: float | None = None) -> Head:
    """Minimise mean cross-entropy + l2/2 * sum(w ** 2), where w are the weights of standardised features.

    `features` is (N, D) float32, `labels` (N,), both on the device that is to compute. Without `l2` every fifth
    picture of each class is held out, the strengths are tried from strong to weak until the loss on these gets worse,
    and the best is used for all pictures. The result takes features as they are: the standardisation is folded in.
    """
    mean = features.mean(0)
    deviation = features.std(0, correction=0)
    # a feature that is the same in every picture says nothing, and rounding is no difference
    factor = torch.where(deviation > 1e-5 * mean.abs(), 1 / deviation, 0.0)
    axes, values, extents = principal_axes((features - mean) * factor)
    start = torch.zeros(classes, len(extents) + 1, dtype=torch.float64)
    losses: dict[float, float] = {}
    with _threads_for(features, classes):
        if l2 is None:
            start, losses = _try_strengths(values.float(), extents, labels, start)
            l2 = min(losses, key=losses.__getitem__, default=FEW)
        # most of the way in float32, which is half the work
        roughly = _minimise(values.float(), extents, labels, l2, start, ROUGHLY)
        solution = _minimise(values, extents, labels, l2, roughly, EXACTLY)
    weights = solution[:, :-1].to(axes) @ axes.T * factor.double()
    biases = solution[:, -1].to(axes) - weights @ mean.double()
    return Head(weights.float().cpu(), biases.float().cpu(), l2, losses)


def principal_axes(standard: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Axes (D, R) float64, orthonormal, that all rows (N, D) lie in; the rows along them (N, R); their variances (R,).

    The best weights lie in them too, and are as long there. There are no more axes than rows, and along each alone
    it is known how far to go: features go together, and L-BFGS on them takes ten times as many steps.
    """
    exact = standard.double()
    rows, features = exact.shape
    if rows < features:
        variances, vectors = torch.linalg.eigh(exact @ exact.T / rows)
        axes = exact.T @ vectors / (rows * variances).clamp(min=1e-300).sqrt()
    else:
        variances, axes = torch.linalg.eigh(exact.T @ exact / rows)
    there = variances > 1e-10 * variances.max()
    axes, variances = axes[:, there], variances[there]
    return axes, exact @ axes, variances.cpu()


def _try_strengths(values: Tensor, extents: Tensor, labels: Tensor, start: Tensor) -> tuple[Tensor, dict[float, float]]:
    """The best solution, and the loss on the pictures held out for each strength; none where none can be."""
    held_out = _every_fifth(labels)
    best, losses = start, dict[float, float]()
    if held_out.any():
        fitted = values[~held_out]
        for strength in STRENGTHS:
            found = _minimise(fitted, extents, labels[~held_out], strength, best, ROUGHLY)
            loss = F.cross_entropy(_logits(values[held_out], found.to(values)).T, labels[held_out]).item()
            before = min(losses.values(), default=math.inf)
            losses[strength] = loss
            if loss >= before:
                break
            best = found
    return best, losses


def _every_fifth(labels: Tensor) -> Tensor:
    """A mask, (N,): of each class every fifth picture, drawn the same way each time; at least one, but not the only."""
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for label in range(int(labels.max()) + 1):
        places = torch.nonzero(labels.cpu() == label).flatten()
        places = places[torch.randperm(len(places), generator=generator)]
        chosen[places[: max(len(places) // HELD_OUT, len(places) > 1)]] = True
    return chosen.to(labels.device)


def _logits(values: Tensor, solution: Tensor) -> Tensor:
    """(classes, N): a product of few rows with all values takes half the time of one of all values with few columns."""
    return torch.addmm(solution[:, -1:], solution[:, :-1], values.T)


def _minimise(values: Tensor, extents: Tensor, labels: Tensor, l2: float, start: Tensor, tolerance: float) -> Tensor:
    """The solution by L-BFGS, (classes, R + 1) float64, the last column the biases.

    The gradient is worked out: no graph of the computation is kept. Each axis is scaled by the curvature along it, L2's
    and that of the cross-entropy at the start.
    """
    rows = torch.arange(len(labels), device=labels.device)
    sure = _logits(values, start.to(values)).softmax(0)
    curvature = max((sure * (1 - sure)).mean().item(), 1e-6)
    scale = torch.cat((curvature * extents + l2, torch.tensor([curvature], dtype=torch.float64))).rsqrt()

    def objective(scaled: Tensor) -> tuple[float, Tensor]:
        exact = scaled * scale
        solution = exact.to(values)
        log_probabilities = _logits(values, solution).log_softmax(0)
        loss = (
            l2 / 2 * exact[:, :-1].square().sum().item()
            - log_probabilities[labels, rows].mean(dtype=torch.float64).item()
        )
        error = log_probabilities.exp_()
        error[labels, rows] -= 1
        error /= len(labels)
        gradient = torch.cat((torch.addmm(l2 * solution[:, :-1], error, values), error.sum(1, keepdim=True)), 1)
        return loss, gradient.cpu().double() * scale

    return _lbfgs(objective, start / scale, tolerance) * scale


def _lbfgs(objective: Callable[[Tensor], tuple[float, Tensor]], start: Tensor, tolerance: float) -> Tensor:
    """The minimum of a convex function that gives its value and gradient; until steps gain less than `tolerance`.

    As in Nocedal and Wright, Numerical Optimization, algorithm 7.5. To import SciPy's, or torch.optim's, takes longer
    than all that it would do.
    """
    place, (value, gradient) = start, objective(start)
    steps: deque[Step] = deque(maxlen=10)
    for _ in range(MOST_STEPS):
        direction = -_newton(gradient, steps) if steps else -gradient / max(gradient.norm().item(), 1.0)
        slope, length = (gradient * direction).sum().item(), 1.0
        while True:
            found, slopes = objective(place + length * direction)
            if found <= value + 1e-4 * length * slope:
                break
            length /= 2
            if length < 1e-9:  # no more can be told apart by rounding
                return place
        step, change = length * direction, slopes - gradient
        if (along := (step * change).sum()) > 0:
            steps.append((step, change, along))
        gain, place, value, gradient = value - found, place + step, found, slopes
        if gain <= tolerance * max(abs(value), 1e-3):
            break
    return place


def _newton(gradient: Tensor, steps: "deque[Step]") -> Tensor:
    """The gradient times the inverse of the curvature that the last steps met."""
    net, shares = gradient, []
    for step, change, along in reversed(steps):
        share = (step * net).sum() / along
        net = net - share * change
        shares.append(share)
    _, change, along = steps[-1]
    net = net * (along / change.square().sum())
    for (step, change, along), share in zip(steps, reversed(shares), strict=True):
        net = net + (share - (change * net).sum() / along) * step
    return net


@contextmanager
def _threads_for(features: Tensor, classes: int) -> Iterator[None]:
    """Threads wait for each other longer than they multiply matrices that are small."""
    before = torch.get_num_threads()
    if features.numel() * classes < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
