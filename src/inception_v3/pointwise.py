"""How training computes the 1x1 convolutions with which the branches of an Inception module begin.

The numbers are those of layers.py up to rounding, in less time (docs/training-speed.md):

- The branches read one input, so that their convolutions are one product of matrices, one BatchNorm, one ReLU.
- The average pool in front of the last one moves behind it, where there are fewer channels. The two commute whatever
  the borders, for the pool takes the same weights in every channel and the convolution in every place.
- The pool's gradient is again such a pool: each place gets from its neighbours what it gave them, and the forward
  kernel is several times as fast as PyTorch's backward one.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inception_v3.layers import BatchNorm, Conv2d, Pool2d, pad_same


def applies(net: Tensor, module: nn.Module) -> bool:
    """Whether to compute so: in training, on channels_last, where no hook waits for a layer that is not called.

    Compilers and torch.func get the plain layers: the first fuse them, the second cannot move the statistics.
    """
    return (
        module.training
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and net.stride(1) == 1
        and net.numel() > net.shape[1]
        and all(part.training and not _has_hooks(part) for part in module.modules() if part is not module)
    )


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def conv_together(net: Tensor, layers: list[Conv2d]) -> list[Tensor]:
    """What each of these layers, all 1x1 with BatchNorm, makes of (N, C, H, W)."""
    norms = [_norm(layer) for layer in layers]
    kernels: list[Tensor] = [layer.weights for layer in layers]
    offsets: list[Tensor] = [norm.beta for norm in norms]
    net, beta = _product(net, torch.cat(kernels)), torch.cat(offsets)
    gamma: list[Tensor] = [norm.gamma for norm in norms if norm.gamma is not None]
    # A momentum of 1 hands over the statistics of the batch.
    mean, variance = torch.zeros_like(beta), torch.zeros_like(beta)
    net = F.batch_norm(net, mean, variance, torch.cat(gamma) if gamma else None, beta, True, 1.0, norms[0].epsilon)
    widths = [len(norm.beta) for norm in norms]
    statistics = zip(mean.split_with_sizes(widths), variance.split_with_sizes(widths), strict=True)
    for norm, (batch_mean, batch_variance) in zip(norms, statistics, strict=True):
        norm.move(batch_mean, batch_variance)
    return [F.relu(part) for part in net.split_with_sizes(widths, 1)]


def conv_then_average(net: Tensor, pool: Pool2d, layer: Conv2d) -> Tensor:
    """What a 1x1 layer with BatchNorm makes of the average of (N, C, H, W), by a pool of stride 1 with SAME padding."""
    averaged: Tensor = _Average.apply(_product(net, layer.weights), pool)
    return F.relu_(_norm(layer).forward(averaged))


def _norm(layer: Conv2d) -> BatchNorm:
    assert layer.BatchNorm is not None
    return layer.BatchNorm


def _product(net: Tensor, kernels: Tensor) -> Tensor:
    return F.linear(net.permute(0, 2, 3, 1), kernels.flatten(1)).permute(0, 3, 1, 2)


class _Average(torch.autograd.Function):
    """An average pool of stride 1 with SAME padding and an odd kernel."""

    generate_vmap_rule = True

    @staticmethod
    def forward(net: Tensor, pool: Pool2d) -> Tensor:
        return pool.forward(net)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Pool2d], output: Tensor) -> None:
        ctx.pool = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        pool = ctx.pool
        _, border = pad_same(grad, pool.kernel, 1)
        if not pool.count_padding:  # what was divided by the places inside the map, not by all of the kernel
            inside = F.avg_pool2d(torch.ones_like(grad[:1, :1], dtype=torch.float32), pool.kernel, 1, border)
            grad = grad * inside.reciprocal().to(grad.dtype)
        return F.avg_pool2d(grad, pool.kernel, 1, border), None
