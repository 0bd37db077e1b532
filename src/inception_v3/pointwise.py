"""How training on a processor computes what acts on every place alike: the same numbers up to rounding, in less time.

- The branches of an Inception module begin with 1x1 convolutions of one input: they are one product of matrices, with
  one BatchNorm behind it.
- The average pool in front of the last of them moves behind the product, where there are fewer channels. The two
  commute whatever the borders, for the pool takes the same weights in every channel and the convolution in every place.
- The pool's gradient is again such a pool: each place gets from its neighbours what it gave them, and the forward
  kernel is several times as fast as PyTorch's backward one.
- A ReLU in front of a maximum moves behind it, where there are fewer places.

docs/training.md has what each of them gains.
"""

from collections.abc import Sequence
from typing import Any, TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inception_v3.layers import BatchNorm, Conv2d, Pool2d, pad_same

Beginning = tuple[
    Pool2d | None, Conv2d
]  # of a branch: a 1x1 convolution with BatchNorm, and the average pool before it


def applies(net: Tensor, *modules: nn.Module) -> bool:
    """Whether to compute so: in training, on channels_last, where no hook waits for one of the modules to be called.

    Compilers and torch.func get the plain layers: the first fuse them, the second cannot move the statistics.
    """
    return (
        net.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and net.stride(1) == 1
        and net.numel() > net.shape[1]
        and all(_is_plain(part) for module in modules for part in module.modules())
    )


def _is_plain(part: nn.Module) -> bool:
    hooks = part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
    # distributed.py puts another BatchNorm in, whose statistics are not those of the batch at hand.
    return part.training and not hooks and (type(part) is BatchNorm or not isinstance(part, BatchNorm))


def begin(net: Tensor, branches: Sequence[Beginning]) -> list[Tensor]:
    """What the beginnings of these branches make of (N, C, H, W). The last alone may have a pool."""
    layers, pool = [layer for _, layer in branches], branches[-1][0]
    norms = [_norm(layer) for layer in layers]
    widths = [len(norm.beta) for norm in norms]
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else net.dtype
    kernels = torch.cat([layer.weights.to(dtype).flatten(1) for layer in layers])
    gamma: list[Tensor] = [norm.gamma for norm in norms if norm.gamma is not None]
    *parts, mean, variance = cast(
        list[Tensor],
        _Beginnings.apply(
            net.to(dtype),
            kernels,
            torch.cat(gamma) if gamma else None,
            torch.cat([norm.beta for norm in norms]),
            norms[0].epsilon,
            widths,
            pool,
        ),
    )
    statistics = zip(mean.split_with_sizes(widths), variance.split_with_sizes(widths), strict=True)
    for norm, (batch_mean, batch_variance) in zip(norms, statistics, strict=True):
        norm.move(batch_mean, batch_variance)
    return parts


class _Beginnings(torch.autograd.Function):
    """Products, the average of the last one, BatchNorm and ReLU. Also the mean and the variance of the batch."""

    @staticmethod
    def forward(
        ctx: Any,
        net: Tensor,
        kernels: Tensor,
        gamma: Tensor | None,
        beta: Tensor,
        epsilon: float,
        widths: list[int],
        pool: Pool2d | None,
    ) -> tuple[Tensor, ...]:
        product = _product(net, kernels)
        if pool:
            last = product[:, -widths[-1] :]
            last.copy_(pool.forward(last))
        # A momentum of 1 hands over the statistics of the batch.
        mean, variance = torch.zeros_like(beta), torch.zeros_like(beta)
        normalised, *saved = torch.native_batch_norm(product, gamma, beta, mean, variance, True, 1.0, epsilon)
        parts = [F.relu(part) for part in normalised.split_with_sizes(widths, 1)]
        ctx.save_for_backward(net, kernels, gamma, beta, product, *saved, *parts)
        ctx.settings = epsilon, widths, pool
        ctx.mark_non_differentiable(mean, variance)
        return *parts, mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        net, kernels, gamma, beta, product, mean, deviation, *parts = ctx.saved_tensors
        epsilon, widths, pool = ctx.settings
        if torch.is_grad_enabled():  # the gradient's gradient is asked for
            outputs = _differentiable(net, kernels, gamma, beta, epsilon, widths, pool)
            return *_gradients(outputs, (net, kernels, gamma, beta), grads[:-2]), None, None, None
        grad = torch.empty_like(product)
        for part, part_grad, place in zip(parts, grads, grad.split_with_sizes(widths, 1), strict=False):
            torch.ops.aten.threshold_backward.grad_input(part_grad, part, 0, grad_input=place)
        needs = [True, gamma is not None, True]
        grad, gamma_grad, beta_grad = torch.ops.aten.native_batch_norm_backward(
            grad, product, gamma, None, None, mean, deviation, True, epsilon, needs
        )
        if pool:
            last = grad[:, -widths[-1] :]
            last.copy_(_average_backward(last, pool))
        rows = grad.permute(0, 2, 3, 1).flatten(0, 2)
        net_grad = kernels_grad = None
        if ctx.needs_input_grad[0]:
            net_grad = (rows @ kernels).unflatten(0, (len(net), *net.shape[2:])).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            kernels_grad = rows.T @ net.permute(0, 2, 3, 1).flatten(0, 2)
        return net_grad, kernels_grad, gamma_grad if gamma is not None else None, beta_grad, None, None, None


def _product(net: Tensor, kernels: Tensor) -> Tensor:
    return F.linear(net.permute(0, 2, 3, 1), kernels).permute(0, 3, 1, 2)


def _differentiable(
    net: Tensor,
    kernels: Tensor,
    gamma: Tensor | None,
    beta: Tensor,
    epsilon: float,
    widths: list[int],
    pool: Pool2d | None,
) -> list[Tensor]:
    parts = list(_product(net, kernels).split_with_sizes(widths, 1))
    if pool:
        parts[-1] = pool.forward(parts[-1])
    normalised = F.batch_norm(torch.cat(parts, 1), None, None, gamma, beta, True, 0.0, epsilon)
    return [F.relu(part) for part in normalised.split_with_sizes(widths, 1)]


def joins(layer: nn.Module, following: nn.Module, net: Tensor) -> TypeGuard[Conv2d]:
    """Whether to compute a layer and the one that follows it by `conv_then_max`."""
    return (
        layer.training
        and isinstance(layer, Conv2d)
        and isinstance(following, Pool2d)
        and (following.kind, following.padding) == ("max", "VALID")
        and applies(net, layer, following)
    )


def conv_then_max(net: Tensor, layer: Conv2d, pool: Pool2d) -> Tensor:
    """What a layer with BatchNorm and a maximum with VALID padding make of (N, C, H, W)."""
    norm = _norm(layer)
    statistics = norm.moving_mean, norm.moving_variance
    settings = 1 - norm.decay, norm.epsilon, pool
    output: Tensor = _NormMaxRelu.apply(layer.convolve(net), norm.gamma, norm.beta, *statistics, *settings)
    return output


def _norm(layer: Conv2d) -> BatchNorm:
    assert layer.BatchNorm is not None
    return layer.BatchNorm


class _NormMaxRelu(torch.autograd.Function):
    """The ReLU comes last. What is normalised is not kept: the gradient of a maximum needs the places alone."""

    @staticmethod
    def forward(
        ctx: Any,
        net: Tensor,
        gamma: Tensor | None,
        beta: Tensor,
        moving_mean: Tensor,
        moving_variance: Tensor,
        momentum: float,
        epsilon: float,
        pool: Pool2d,
    ) -> Tensor:
        statistics = moving_mean, moving_variance
        normalised, *saved = torch.native_batch_norm(net, gamma, beta, *statistics, True, momentum, epsilon)
        found, places = F.max_pool2d(normalised, pool.kernel, pool.stride, return_indices=True)
        F.relu_(found)
        ctx.save_for_backward(net, gamma, beta, *saved, found, places)
        ctx.settings = epsilon, pool
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        net, gamma, beta, mean, deviation, found, places = ctx.saved_tensors
        epsilon, pool = ctx.settings
        if torch.is_grad_enabled():  # the gradient's gradient is asked for
            output = F.relu(pool.forward(F.batch_norm(net, None, None, gamma, beta, True, 0.0, epsilon)))
            return *_gradients([output], (net, gamma, beta), grads), None, None, None, None, None
        grad = torch.ops.aten.threshold_backward(grads[0], found, 0)
        geometry = pool.kernel, [pool.stride] * 2, [0, 0], [1, 1], False
        grad = torch.ops.aten.max_pool2d_with_indices_backward(grad, net, *geometry, places)
        needs = [True, gamma is not None, True]
        grad, gamma_grad, beta_grad = torch.ops.aten.native_batch_norm_backward(
            grad, net, gamma, None, None, mean, deviation, True, epsilon, needs
        )
        return grad, gamma_grad if gamma is not None else None, beta_grad, None, None, None, None, None


def _gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor | None], grads: Sequence[Tensor]
) -> list[Tensor | None]:
    """Gradients that can be differentiated again."""
    asked = [one for one in inputs if one is not None and one.requires_grad]
    found = iter(torch.autograd.grad(outputs, asked, grads, create_graph=True))
    return [next(found) if one is not None and one.requires_grad else None for one in inputs]


def _average_backward(grad: Tensor, pool: Pool2d) -> Tensor:
    """The gradient of an average pool of stride 1 with SAME padding and an odd kernel."""
    _, border = pad_same(grad, pool.kernel, 1)
    if not pool.count_padding:  # what was divided by the places inside the map, not by all of the kernel
        inside = F.avg_pool2d(torch.ones_like(grad[:1, :1], dtype=torch.float32), pool.kernel, 1, border)
        grad = grad * inside.reciprocal().to(grad.dtype)
    return F.avg_pool2d(grad, pool.kernel, 1, border)
