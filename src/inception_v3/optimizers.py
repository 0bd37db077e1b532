"""TensorFlow's RMSProp, which the paper trained with, and its running average of the weights."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class RMSProp(torch.optim.Optimizer):
    """tf.compat.v1.train.RMSPropOptimizer, which is not torch.optim.RMSprop.

    ms = decay * ms + (1 - decay) * g ** 2, from ms = 1; mom = momentum * mom + lr * g / sqrt(ms + epsilon);
    w = w - mom. PyTorch starts ms at 0, adds epsilon after the root, and multiplies mom by lr, so that a
    change of the rate acts on past gradients too (tensorflow/core/kernels/training_ops.cc).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 0.045,
        decay: float = 0.9,
        momentum: float = 0.9,
        epsilon: float = 1.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "momentum": momentum, "epsilon": epsilon})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight] = {"ms": torch.ones_like(weight), "mom": torch.zeros_like(weight)}
            for part in _portions(weights):
                gradients = [weight.grad for weight in part if weight.grad is not None]
                squares = [self.state[weight]["ms"] for weight in part]
                moments = [self.state[weight]["mom"] for weight in part]
                torch._foreach_mul_(squares, group["decay"])
                torch._foreach_addcmul_(squares, gradients, gradients, 1 - group["decay"])
                roots = torch._foreach_add(squares, group["epsilon"])
                torch._foreach_sqrt_(roots)
                torch._foreach_mul_(moments, group["momentum"])
                torch._foreach_addcdiv_(moments, gradients, roots, group["lr"])
                torch._foreach_sub_(part, moments)
        return loss


def _portions(weights: list[Tensor], numbers: int = 2**20) -> Iterator[list[Tensor]]:
    """The weights a few at a time: what one pass has read is in the processor's cache for the next."""
    part: list[Tensor] = []
    for weight in weights:
        part.append(weight)
        if sum(map(Tensor.numel, part)) >= numbers:
            yield part
            part = []
    if part:
        yield part


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """A running average of the weights; the BatchNorm statistics are copied.

    The first steps use (1 + step) / (10 + step) where that is less (tf.train.ExponentialMovingAverage with
    `num_updates`), so that a short training is not dominated by its start.
    """

    def average(averaged: Any, current: Any, step: Any) -> None:
        now = min(decay, (1 + int(step)) / (10 + int(step)))
        torch._foreach_lerp_(averaged, current, 1 - now)

    averaged = AveragedModel(model, multi_avg_fn=average)
    averaged.n_averaged += 1  # TensorFlow's starts at the untrained weights; PyTorch's would forget them
    return averaged
