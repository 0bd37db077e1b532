"""Optimizers (TensorFlow's RMSProp, with which the paper trained, SGD and AdamW) and the running average of weights."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from inception_v3.training.losses import convolution_kernels
from inception_v3.training.recipe import Recipe
from inception_v3.training.schedules import warmed_up_decay


class RMSProp(torch.optim.Optimizer):
    """tf.compat.v1.train.RMSPropOptimizer, which differs from torch.optim.RMSprop.

    ms = decay * ms + (1 - decay) * g ** 2, from ms = 1; mom = momentum * mom + lr * g / sqrt(ms + epsilon);
    w = w - mom. PyTorch starts ms at 0, adds epsilon after the square root and multiplies mom by lr, so that a
    change of the learning rate also affects past gradients. Source: tensorflow/core/kernels/training_ops.cc.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 0.045,
        decay: float = 0.9,
        momentum: float = 0.9,
        epsilon: float = 1.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "momentum": momentum, "epsilon": epsilon})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            gradients: list[Tensor] = [weight.grad for weight in weights]
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight] = {"ms": torch.ones_like(weight), "mom": torch.zeros_like(weight)}
            squares = [self.state[weight]["ms"] for weight in weights]
            moments = [self.state[weight]["mom"] for weight in weights]
            torch._foreach_mul_(squares, group["decay"])
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - group["decay"])
            roots = torch._foreach_add(squares, group["epsilon"])
            torch._foreach_sqrt_(roots)
            torch._foreach_mul_(moments, group["momentum"])
            torch._foreach_addcdiv_(moments, gradients, roots, group["lr"])
            torch._foreach_sub_(weights, moments)


def build_optimizer(
    recipe: Recipe, model: nn.Module, rate_factors: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """The optimizer of the recipe for the parameters of the model. Frozen parameters lose `requires_grad`.

    Args:
        rate_factors: factors on the learning rate by the start of a parameter's name, such as "Mixed_7" or "Logits".
            The longest matching key applies. A factor of 0 freezes parameters; without a matching key it is 1.

    Raises:
        ValueError: no parameter's name starts with a key.
    """
    factors = {"": 1.0} | dict(rate_factors or {})
    names = [name for name, _ in model.named_parameters()]
    for prefix in factors:
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(f"no parameter's name starts with {prefix!r}; there are {', '.join(names[:3])} ...")
    decayed = {id(kernel) for kernel in convolution_kernels(model)} if recipe.optimizer == "adamw" else set()
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        factor = factors[max((prefix for prefix in factors if name.startswith(prefix)), key=len)]
        parameter.requires_grad_(factor > 0)
        if factor > 0:
            groups.setdefault((factor, id(parameter) in decayed), []).append(parameter)
    options: list[dict[str, Any]] = [
        {"params": parameters, "rate_factor": factor} | ({"weight_decay": recipe.weight_decay} if decays else {})
        for (factor, decays), parameters in groups.items()
    ]
    if recipe.optimizer == "rmsprop":
        return RMSProp(options, recipe.learning_rate, recipe.rmsprop_decay, recipe.momentum, recipe.rmsprop_epsilon)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(options, recipe.learning_rate, recipe.momentum)
    betas = (recipe.adamw_beta1, recipe.adamw_beta2)
    return torch.optim.AdamW(options, recipe.learning_rate, betas, recipe.adamw_epsilon, weight_decay=0.0)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of each parameter group to `rate` times the factor of the group."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """A running average of the weights and of BatchNorm's statistics. Integers, such as counters, are copied.

    The decay warms up as TensorFlow's does (schedules.py). Source: research/inception/inception_train.py in
    tensorflow/models averages trainable_variables and moving_average_variables.
    """

    def average(averaged: Any, current: Any, step: Any) -> None:
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - warmed_up_decay(decay, int(step)))
        else:
            torch._foreach_copy_(averaged, current)

    averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    averaged.n_averaged += 1  # TensorFlow averages the initial weights too; with 0, PyTorch would replace them
    return averaged
