"""Faster kernels for training on a CPU: the same values up to rounding, in less time.

`accelerate(model)` gives layers of the network a forward method that uses them. The network works without this file;
docs/training.md lists what each of the kernels gains.

- The branches of an Inception module start with 1x1 convolutions of the same input. They become one matrix product,
  followed by one BatchNorm.
- The average pool in front of the last of these convolutions moves behind the product, where there are fewer channels.
  The two commute whatever the padding, because the pool has the same weights in every channel and the convolution the
  same weights at every pixel.
- The gradient of that pool is the same average pool of the output's gradient, because the windows are symmetric.
  PyTorch's forward kernel is several times as fast as its backward kernel.
- A ReLU in front of a max pool moves behind it, where there are fewer pixels.
- A convolution whose output is one pixel is a matrix product.
- On a small map, the gradient of a convolution's weights is a matrix product with the windows that its kernel covered.

Where these do not apply, the layer computes as it would without this file: in evaluation, on a GPU, outside
channels_last, under a compiler or torch.func, with a hook on a layer that would be skipped, or for a module whose
branches or layers are requested as end points.
"""

from collections.abc import Collection, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inception_v3.network.architecture import Size
from inception_v3.network.layers import BatchNorm, Conv2d, Pool2d, pad
from inception_v3.network.network import Branch, EndPoints, InceptionModule, InceptionV3Network, run_layer

Model = TypeVar("Model", bound=InceptionV3Network)
# The 1x1 convolution with BatchNorm at the start of a branch, and the average pool in front of it, if there is one.
BranchStart = tuple[Pool2d | None, Conv2d]

SMALL_MAP = 81  # pixels; 9x9


def accelerate(model: Model) -> Model:
    """Let the model train with the kernels of this file, and return it.

    The model is changed in place. It keeps its class, names and values, and it can still be copied, pickled, hooked and
    compiled. A second call changes nothing.
    """
    for module in model.modules():
        if type(module) is Conv2d:
            module.__class__ = AcceleratedConv2d
        elif type(module) is InceptionModule:
            module.__class__ = AcceleratedInceptionModule
    model.run_layers = run_layers_with_fused_max
    return model


class AcceleratedConv2d(Conv2d):
    """A convolution that trains by matrix products where the map is small."""

    def convolve(self, images: Tensor) -> Tensor:
        """Apply only the convolution and the bias: (N, in_channels, H, W) to (N, out_channels, H', W')."""
        if not self.training:
            return super().convolve(images)
        images, padding = pad(images, self.kernel, self.stride, self.padding)
        if padding == (0, 0) and images.shape[2:] == self.kernel:
            rows, weights = images.permute(0, 2, 3, 1).flatten(1), self.weights.permute(0, 2, 3, 1).flatten(1)
            return F.linear(rows, weights, self.biases)[:, :, None, None]
        if images.shape[2] * images.shape[3] <= SMALL_MAP * self.stride**2 and _computes_in_bf16(images):
            net: Tensor = _SmallMapConvolution.apply(images.bfloat16(), self.weights.bfloat16(), self.stride, padding)
            return net if self.biases is None else net + self.biases.view(1, -1, 1, 1)
        return F.conv2d(images, self.weights, self.biases, self.stride, padding)


class AcceleratedInceptionModule(InceptionModule):
    """An Inception module that trains with one matrix product for all 1x1 convolutions at the start of its branches."""

    def forward(self, net: Tensor, inner: EndPoints | None = None) -> Tensor:
        """(N, C, H, W) to (N, C', H', W')."""
        branches = [cast(Branch, branch) for branch in self.children()]
        if inner is not None or not (self.training and applies(net, *branches)):
            return super().forward(net, inner)
        starts = {branch: start for branch in branches if (start := _start_of(branch))}
        started = dict(zip(starts, run_starts(net, list(starts.values())), strict=True))
        steps_run = {branch: 1 if pool is None else 2 for branch, (pool, _) in starts.items()}
        outputs = [
            branch.run_from(steps_run[branch], started[branch]) if branch in started else branch(net)
            for branch in branches
        ]
        return torch.cat(outputs, 1)


def _start_of(branch: Branch) -> BranchStart | None:
    first, last = (branch.get_submodule(names[0]) for names in (branch.steps[0], branch.steps[-1]))
    if isinstance(first, Pool2d) and first.kind == "avg":
        return (first, last) if isinstance(last, Conv2d) else None
    return (None, first) if isinstance(first, Conv2d) and first.kernel == (1, 1) else None


def run_layers_with_fused_max(
    network: InceptionV3Network, names: Sequence[str], net: Tensor, kept: Collection[str]
) -> tuple[Tensor, EndPoints]:
    """Like network.run_layers, but fuse a convolution with the max pool after it unless `kept` has the convolution."""
    end_points: EndPoints = {}
    remaining = list(names)
    while remaining:
        name = remaining.pop(0)
        layer = network.get_submodule(name)
        pool = network.get_submodule(remaining[0]) if remaining and name not in kept else None
        if isinstance(layer, Conv2d) and isinstance(pool, Pool2d) and _can_fuse(layer, pool, net):
            name = remaining.pop(0)
            net = conv_then_max(net, layer, pool)
            if name in kept:
                end_points[name] = net
        else:
            net = run_layer(network, name, net, kept, end_points)
    return net, end_points


def applies(net: Tensor, *modules: nn.Module) -> bool:
    """Whether the fused kernels may replace calls of these modules.

    Compilers and torch.func get the plain layers: a compiler fuses them itself, and torch.func cannot update the
    moving averages.
    """
    return (
        _runs_eagerly_on_cpu(net)
        and net.stride(1) == 1
        and net.numel() > net.shape[1]
        and all(_is_plain(part) for module in modules for part in module.modules())
    )


def _runs_eagerly_on_cpu(net: Tensor) -> bool:
    return (
        net.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def _is_plain(part: nn.Module) -> bool:
    """Whether a module trains, has no hooks, and is no SyncBatchNorm, which normalises over other images as well."""
    hooks = part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
    return part.training and not hooks and (type(part) is BatchNorm or not isinstance(part, BatchNorm))


def _can_fuse(layer: Conv2d, pool: Pool2d, net: Tensor) -> bool:
    return (
        layer.training
        and layer.BatchNorm is not None
        and (pool.kind, pool.padding) == ("max", "VALID")
        and applies(net, layer, pool)
    )


# ------------------------------------------------------------------------ the 1x1 convolutions of a module


def run_starts(net: Tensor, starts: Sequence[BranchStart]) -> list[Tensor]:
    """Run the starts of several branches on (N, C, H, W), each to (N, C', H, W). Only the last may have a pool."""
    layers, pool = [layer for _, layer in starts], starts[-1][0]
    norms = [_norm(layer) for layer in layers]
    widths = [len(norm.beta) for norm in norms]
    dtype = _compute_dtype(net)
    kernels = torch.cat([layer.weights.to(dtype).flatten(1) for layer in layers])
    gamma: list[Tensor] = [norm.gamma for norm in norms if norm.gamma is not None]
    *outputs, mean, variance = cast(
        list[Tensor],
        _BranchStarts.apply(
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
        norm.update_averages(batch_mean, batch_variance)
    return outputs


class _BranchStarts(torch.autograd.Function):
    """Matrix product, average pool of the last part, BatchNorm and ReLU.

    Returns the output of each branch, and the mean and variance (n - 1) of the batch.
    """

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
        # With a momentum of 1, the moving averages become the statistics of the batch.
        mean, variance = torch.zeros_like(beta), torch.zeros_like(beta)
        normalised, *saved = torch.native_batch_norm(product, gamma, beta, mean, variance, True, 1.0, epsilon)
        outputs = [F.relu(part) for part in normalised.split_with_sizes(widths, 1)]
        ctx.save_for_backward(net, kernels, gamma, beta, product, *saved, *outputs)
        ctx.options = epsilon, widths, pool
        ctx.mark_non_differentiable(mean, variance)
        return *outputs, mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        net, kernels, gamma, beta, product, mean, deviation, *outputs = ctx.saved_tensors
        epsilon, widths, pool = ctx.options
        if torch.is_grad_enabled():  # create_graph=True: the gradient itself will be differentiated
            again = _differentiable(net, kernels, gamma, beta, epsilon, widths, pool)
            return *_gradients(again, (net, kernels, gamma, beta), grads[:-2]), None, None, None
        grad = torch.empty_like(product)
        for output, output_grad, part in zip(outputs, grads, grad.split_with_sizes(widths, 1), strict=False):
            torch.ops.aten.threshold_backward.grad_input(output_grad, output, 0, grad_input=part)
        grad, gamma_grad, beta_grad = _batch_norm_backward(grad, product, gamma, mean, deviation, epsilon)
        if pool:
            last = grad[:, -widths[-1] :]
            last.copy_(_average_backward(last, pool))
        rows = grad.permute(0, 2, 3, 1).flatten(0, 2)
        net_grad = kernels_grad = None
        if ctx.needs_input_grad[0]:
            net_grad = (rows @ kernels).unflatten(0, (len(net), *net.shape[2:])).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            kernels_grad = rows.T @ net.permute(0, 2, 3, 1).flatten(0, 2)
        return net_grad, kernels_grad, gamma_grad, beta_grad, None, None, None


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
    """The outputs of _BranchStarts from operations that PyTorch can differentiate twice."""
    parts = list(_product(net, kernels).split_with_sizes(widths, 1))
    if pool:
        parts[-1] = pool.forward(parts[-1])
    normalised = F.batch_norm(torch.cat(parts, 1), None, None, gamma, beta, True, 0.0, epsilon)
    return [F.relu(part) for part in normalised.split_with_sizes(widths, 1)]


def _average_backward(grad: Tensor, pool: Pool2d) -> Tensor:
    """The gradient of an average pool of stride 1 with SAME padding and an odd kernel."""
    _, padding = pad(grad, pool.kernel, 1, "SAME")
    if not pool.count_padding:  # the pool divided by the number of pixels inside the map, not by that of the kernel
        inside = F.avg_pool2d(torch.ones_like(grad[:1, :1], dtype=torch.float32), pool.kernel, 1, padding)
        grad = grad * inside.reciprocal().to(grad.dtype)
    return F.avg_pool2d(grad, pool.kernel, 1, padding)


# ------------------------------------------------------------------------------- a convolution and a max pool


def conv_then_max(net: Tensor, layer: Conv2d, pool: Pool2d) -> Tensor:
    """Run a convolution with BatchNorm, then a max pool with VALID padding: (N, C, H, W) to (N, C', H', W')."""
    norm = _norm(layer)
    output = _NormMaxRelu.apply(
        layer.convolve(net),
        norm.gamma,
        norm.beta,
        norm.moving_mean,
        norm.moving_variance,
        1 - norm.decay,
        norm.epsilon,
        pool,
    )
    return cast(Tensor, output)


def _norm(layer: Conv2d) -> BatchNorm:
    assert layer.BatchNorm is not None
    return layer.BatchNorm


class _NormMaxRelu(torch.autograd.Function):
    """BatchNorm, max pool and ReLU. The normalised map is not saved: the gradient of a maximum needs only indices."""

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
        normalised, *saved = torch.native_batch_norm(
            net, gamma, beta, moving_mean, moving_variance, True, momentum, epsilon
        )
        output, indices = F.max_pool2d(normalised, pool.kernel, pool.stride, return_indices=True)
        F.relu_(output)
        ctx.save_for_backward(net, gamma, beta, *saved, output, indices)
        ctx.options = epsilon, pool
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        net, gamma, beta, mean, deviation, output, indices = ctx.saved_tensors
        epsilon, pool = ctx.options
        if torch.is_grad_enabled():  # create_graph=True: the gradient itself will be differentiated
            again = F.relu(pool.forward(F.batch_norm(net, None, None, gamma, beta, True, 0.0, epsilon)))
            return *_gradients([again], (net, gamma, beta), grads), None, None, None, None, None
        grad = torch.ops.aten.threshold_backward(grads[0], output, 0)
        grad = torch.ops.aten.max_pool2d_with_indices_backward(
            grad, net, pool.kernel, [pool.stride] * 2, [0, 0], [1, 1], False, indices
        )
        return *_batch_norm_backward(grad, net, gamma, mean, deviation, epsilon), None, None, None, None, None


def _batch_norm_backward(
    grad: Tensor, net: Tensor, gamma: Tensor | None, mean: Tensor, deviation: Tensor, epsilon: float
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gradients of the input, the scale and the offset of a BatchNorm in training."""
    needs = [True, gamma is not None, True]
    net_grad, gamma_grad, beta_grad = torch.ops.aten.native_batch_norm_backward(
        grad, net, gamma, None, None, mean, deviation, True, epsilon, needs
    )
    return net_grad, gamma_grad if gamma is not None else None, beta_grad


def _gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor | None], grads: Sequence[Tensor]
) -> list[Tensor | None]:
    """Gradients that can be differentiated again; None for an input that needs none."""
    needing = [tensor for tensor in inputs if tensor is not None and tensor.requires_grad]
    computed = iter(torch.autograd.grad(outputs, needing, grads, create_graph=True))
    return [next(computed) if tensor is not None and tensor.requires_grad else None for tensor in inputs]


# ------------------------------------------------------------------------------ convolutions of a small map


def _computes_in_bf16(images: Tensor) -> bool:
    """Whether a CPU convolves these images in bfloat16, eagerly: neither under a compiler nor under torch.func."""
    return _runs_eagerly_on_cpu(images) and _compute_dtype(images) == torch.bfloat16


def _compute_dtype(net: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else net.dtype


class _SmallMapConvolution(torch.autograd.Function):
    """A convolution whose weight gradient is a matrix product with the windows that the kernel covered.

    For such a small map oneDNN divides the images among the threads, which then wait for each other in a busy loop.
    While other programs run too, the waiting takes several times as long as the work itself.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, weights: Tensor, stride: int, padding: Size) -> Tensor:
        ctx.save_for_backward(images, weights)
        ctx.options = stride, padding
        return F.conv2d(images, weights, None, stride, padding)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (images, weights), (stride, padding), (grad,) = ctx.saved_tensors, ctx.options, grads
        images_grad = weights_grad = None
        if ctx.needs_input_grad[0]:
            geometry = [stride] * 2, padding, [1, 1], False, [0, 0], 1, [True, False, False]
            images_grad = torch.ops.aten.convolution_backward(grad, images, weights, None, *geometry)[0]
        if ctx.needs_input_grad[1]:
            (height, width), channels = weights.shape[2:], weights.shape[1]
            padded = F.pad(images, (padding[1], padding[1], padding[0], padding[0])).permute(0, 2, 3, 1)
            windows = padded.unfold(1, height, stride).unfold(2, width, stride).permute(0, 1, 2, 4, 5, 3)
            rows = grad.permute(0, 2, 3, 1).flatten(0, 2)
            product = rows.T @ windows.reshape(len(rows), height * width * channels)
            weights_grad = product.view(-1, height, width, channels).permute(0, 3, 1, 2)
        return images_grad, weights_grad, None, None
