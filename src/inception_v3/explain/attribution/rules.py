"""Other rules for the gradient of the activations: guided backpropagation's, Lucid's and DeepLIFT's.

The network calls its activations as functions. A mode of PyTorch replaces these calls, so that no layer is changed and
no hook is left behind: libraries that look for `nn.ReLU` modules find none and return the plain gradient.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from inception_v3.network.layers import ACTIVATIONS

Activate = Callable[[Tensor], Tensor]
SMALLEST_CHANGE = 1e-10  # of an activation's input, below which DeepLIFT's quotient is replaced by the gradient


def _callables(name: str) -> set[Any]:
    """Every function of PyTorch with this name, in place or not."""
    spellings = (getattr(module, each, None) for module in (F, torch, Tensor) for each in (name, f"{name}_"))
    return {function for function in spellings if function is not None}


RELUS = _callables("relu")
# The same functions under names that the mode does not replace, and not in place: the rules need the input.
NONLINEAR: dict[Any, Activate] = {
    function: getattr(torch.ops.aten, name) for name in ACTIVATIONS if name != "linear" for function in _callables(name)
}


class ActivationRule(TorchFunctionMode):
    """Inside this context, activations are computed as usual, and their gradient by a rule.

    `rule` maps the input of an activation, the function and the gradient of its output to the gradient of its input.
    """

    def __init__(self, rule: "Callable[[Tensor, Activate, Tensor], Tensor]", functions: Iterable[Any]) -> None:
        super().__init__()
        self._rule, self._functions = rule, frozenset(functions)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func not in self._functions:
            return func(*args, **(kwargs or {}))
        return _WithRule.apply(args[0], NONLINEAR[func], self._rule)


class _WithRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, net: Tensor, activate: Activate, rule: Any) -> Tensor:
        ctx.save_for_backward(net)
        ctx.activate, ctx.rule = activate, rule
        return activate(net)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (net,) = ctx.saved_tensors
        return ctx.rule(net, ctx.activate, gradients[0]), None, None


def guided() -> ActivationRule:
    """Guided backpropagation (Springenberg et al., arXiv 1412.6806): negative gradients stop at every ReLU."""
    return ActivationRule(lambda net, _, gradient: gradient.clamp(min=0) * (net > 0), RELUS)


def redirected() -> ActivationRule:
    """Lucid's redirected ReLUs: where no gradient of an image would pass, positive ones do, to switch ReLUs on."""
    return ActivationRule(_redirect, RELUS)


def _redirect(net: Tensor, _: Activate, gradient: Tensor) -> Tensor:
    usual = torch.where(net > 0, gradient, 0)
    is_stopped = ~usual.flatten(1).any(1).view(-1, *[1] * (net.dim() - 1))
    return torch.where(is_stopped & (gradient > 0), gradient, usual)


def rescaled() -> ActivationRule:
    """DeepLIFT's rescale rule (Shrikumar et al., arXiv 1704.02685, section 3.5.1) for a batch of images and baselines.

    The second half of the batch are the baselines of the first. In place of an activation's slope, the quotient of the
    changes of its output and its input is used.
    """
    return ActivationRule(_rescale, NONLINEAR)


def _rescale(net: Tensor, activate: Activate, gradient: Tensor) -> Tensor:
    images, baselines = net.chunk(2)
    change = images - baselines
    slope = (activate(images) - activate(baselines)) / change
    slope = torch.cat([slope, slope])
    is_small = (change.abs() < SMALLEST_CHANGE).repeat(2, *[1] * (net.dim() - 1))
    return torch.where(is_small, _slope(net, activate), slope) * gradient


def _slope(net: Tensor, activate: Activate) -> Tensor:
    """The derivative of an activation at each value."""
    with torch.enable_grad():
        net = net.detach().requires_grad_()
        return torch.autograd.grad(activate(net).sum(), net)[0]
