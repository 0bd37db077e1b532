"""Multinomial logistic regression on features: the last layer of the network, trained by itself to its optimum."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

# That of scikit-learn, whose own import takes longer than a fit; so does that of torch.optim
from scipy.optimize import minimize  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

# Strengths of L2 to choose from, strong to weak. On standardised features: what is good depends little on the network.
STRENGTHS = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001, 0.00001)
FEW = 0.1  # the strength where no picture can be held out to choose one
HELD_OUT = 5  # one of so many pictures of each class chooses it
ROUGHLY = {"maxiter": 500, "ftol": 1e-6, "gtol": 1e-5}  # what is held out judges solutions, not their last digits
EXACTLY = {"maxiter": 1000, "ftol": 1e-9, "gtol": 1e-6}


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
    standard = (features - mean) * factor
    start = np.zeros(classes * (features.shape[1] + 1))
    losses: dict[float, float] = {}
    with threadpool_limits(1, "blas"):  # SciPy's threads wait for each other longer than they add up vectors
        if l2 is None:
            start, losses = _try_strengths(standard, labels, start)
            l2 = min(losses, key=losses.__getitem__, default=FEW)
        solution = _as_matrix(_minimise(standard, labels, l2, start, EXACTLY), standard).double()
    weights = solution[:, :-1] * factor.double()
    biases = solution[:, -1] - weights @ mean.double()
    return Head(weights.float().cpu(), biases.float().cpu(), l2, losses)


def _try_strengths(standard: Tensor, labels: Tensor, start: np.ndarray) -> tuple[np.ndarray, dict[float, float]]:
    """The best solution, and the loss on the pictures held out for each strength; none where none can be."""
    held_out = _every_fifth(labels)
    best, losses = start, dict[float, float]()
    if held_out.any():
        fitted = standard[~held_out]
        for strength in STRENGTHS:
            found = _minimise(fitted, labels[~held_out], strength, best, ROUGHLY)
            logits = _logits(standard[held_out], _as_matrix(found, standard))
            loss = F.cross_entropy(logits, labels[held_out]).item()
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


def _as_matrix(flat: np.ndarray, standard: Tensor) -> Tensor:
    """(classes, D + 1), the last column the biases."""
    return torch.from_numpy(flat).to(standard).view(-1, standard.shape[1] + 1)


def _logits(standard: Tensor, solution: Tensor) -> Tensor:
    return torch.addmm(solution[:, -1], standard, solution[:, :-1].T)


def _minimise(standard: Tensor, labels: Tensor, l2: float, start: np.ndarray, options: dict[str, float]) -> np.ndarray:
    """The solution by L-BFGS, flat, with the gradient worked out: no graph of the computation is kept."""
    rows = torch.arange(len(labels), device=labels.device)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        solution = _as_matrix(flat, standard)
        weights = solution[:, :-1]
        log_probabilities = _logits(standard, solution).log_softmax(1)
        loss = l2 / 2 * weights.double().square().sum() - log_probabilities[rows, labels].double().mean()
        error = log_probabilities.exp_()
        error[rows, labels] -= 1
        error /= len(labels)
        gradient = torch.cat((torch.addmm(l2 * weights, error.T, standard), error.sum(0)[:, None]), 1)
        return loss.item(), gradient.double().cpu().numpy().ravel()

    return np.asarray(minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x)
