"""The layers of the network, with TensorFlow's borders and TF-Slim's variable names.

All tensors are NCHW, kernels OIHW. TensorFlow pads SAME by what the size needs, and puts the odd pixel
below and to the right, where PyTorch's layers know symmetric padding alone.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inception_v3.architecture import Padding, Size


def same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels before and after, for ceil(length / stride) outputs (tensorflow/core/framework/common_shape_fns.cc)."""
    total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return total // 2, total - total // 2


def pad_same(images: Tensor, kernel: Size, stride: int, value: float = 0.0) -> tuple[Tensor, Size]:
    """Pad for SAME what a PyTorch layer cannot pad itself; the second result is the padding left to the layer."""
    top, bottom = same_padding(images.shape[2], kernel[0], stride)
    left, right = same_padding(images.shape[3], kernel[1], stride)
    if top == bottom and left == right:
        return images, (top, left)
    return F.pad(images, (left, right, top, bottom), value=value), (0, 0)


class Conv2d(nn.Module):
    """slim.conv2d: convolution, BatchNorm, ReLU; without `batch_norm`, convolution and bias alone.

    `stddev` is that of the initial weights, a normal distribution cut at two deviations; None is TF-Slim's
    variance scaling, sqrt(1.3 * 2 / fan_in). Biases and offsets start at zero.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Size,
        stride: int = 1,
        padding: Padding = "SAME",
        *,
        stddev: float | None = None,
        batch_norm: "BatchNorm | None" = None,
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.stddev = stddev or (1.3 * 2 / (in_channels * kernel[0] * kernel[1])) ** 0.5
        self.weights = nn.Parameter(torch.empty(out_channels, in_channels, *kernel))
        self.BatchNorm = batch_norm
        self.biases = None if batch_norm else nn.Parameter(torch.empty(out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.weights, std=self.stddev, a=-2 * self.stddev, b=2 * self.stddev)
        if self.biases is not None:
            nn.init.zeros_(self.biases)

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H', W')."""
        net = self.convolve(images)
        return net if self.BatchNorm is None else F.relu_(self.BatchNorm(net))

    def convolve(self, images: Tensor) -> Tensor:
        """The convolution and the bias alone."""
        border = (0, 0)
        if self.padding == "SAME":
            images, border = pad_same(images, self.kernel, self.stride)
        if self.training and border == (0, 0) and images.shape[2:] == self.kernel:
            # One place: a product of matrices, many times as fast as PyTorch's convolution on a processor.
            rows, weights = images.permute(0, 2, 3, 1).flatten(1), self.weights.permute(0, 2, 3, 1).flatten(1)
            return F.linear(rows, weights, self.biases)[:, :, None, None]
        if self.training and images.shape[2] * images.shape[3] <= SMALL_MAP * self.stride**2 and _in_bf16(images):
            net: Tensor = _ConvolutionOfSmallMap.apply(images.bfloat16(), self.weights.bfloat16(), self.stride, border)
            return net if self.biases is None else net + self.biases.view(1, -1, 1, 1)
        return F.conv2d(images, self.weights, self.biases, self.stride, border)

    def extra_repr(self) -> str:
        out_channels, in_channels = self.weights.shape[:2]
        size = "x".join(map(str, self.kernel))
        return f"{in_channels} -> {out_channels}, {size}/{self.stride} {self.padding}"


SMALL_MAP = 81  # places; 9x9


def _in_bf16(images: Tensor) -> bool:
    """Whether a processor convolves in bfloat16, step by step: neither a compiler nor torch.func asks."""
    if images.device.type != "cpu" or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    autocast = torch.is_autocast_enabled("cpu")
    return (torch.get_autocast_dtype("cpu") if autocast else images.dtype) == torch.bfloat16


class _ConvolutionOfSmallMap(torch.autograd.Function):
    """The gradient of the kernel is a product with the windows that the kernel saw.

    PyTorch's own (oneDNN) shares the pictures of so small a map out among the threads, which then wait for each other
    without sleeping: where other programs run, that takes several times as long as the work.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, weights: Tensor, stride: int, border: Size) -> Tensor:
        ctx.save_for_backward(images, weights)
        ctx.settings = stride, border
        return F.conv2d(images, weights, None, stride, border)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (images, weights), (stride, border), (grad,) = ctx.saved_tensors, ctx.settings, grads
        images_grad = weights_grad = None
        if ctx.needs_input_grad[0]:
            geometry = [stride] * 2, border, [1, 1], False, [0, 0], 1, [True, False, False]
            images_grad = torch.ops.aten.convolution_backward(grad, images, weights, None, *geometry)[0]
        if ctx.needs_input_grad[1]:
            (height, width), channels = weights.shape[2:], weights.shape[1]
            padded = F.pad(images, (border[1], border[1], border[0], border[0])).permute(0, 2, 3, 1)
            windows = padded.unfold(1, height, stride).unfold(2, width, stride).permute(0, 1, 2, 4, 5, 3)
            rows = grad.permute(0, 2, 3, 1).flatten(0, 2)
            product = rows.T @ windows.reshape(len(rows), height * width * channels)
            weights_grad = product.view(-1, height, width, channels).permute(0, 3, 1, 2)
        return images_grad, weights_grad, None, None


class BatchNorm(nn.Module):
    """slim.batch_norm: an offset `beta`, and a scale `gamma` only where asked for.

    Training moves the statistics by `moving = decay * moving + (1 - decay) * batch`, the variance of the
    batch taken with n - 1 as in TensorFlow's fused operation, and normalises by the variance with n.
    """

    moving_mean: Tensor
    moving_variance: Tensor

    def __init__(self, channels: int, decay: float = 0.9997, epsilon: float = 0.001, scale: bool = False) -> None:
        super().__init__()
        self.decay, self.epsilon = decay, epsilon
        self.beta = nn.Parameter(torch.zeros(channels))
        self.gamma = nn.Parameter(torch.ones(channels)) if scale else None
        self.register_buffer("moving_mean", torch.zeros(channels))
        self.register_buffer("moving_variance", torch.ones(channels))

    def forward(self, net: Tensor) -> Tensor:
        """(N, C, H, W), normalised over N, H and W in training."""
        if self.training and net.numel() == net.shape[1]:
            return self._train_on_one_value(net)
        return F.batch_norm(
            net,
            self.moving_mean,
            self.moving_variance,
            self.gamma,
            self.beta,
            self.training,
            1 - self.decay,
            self.epsilon,
        )

    def move(self, mean: Tensor, variance: Tensor) -> None:
        """Move the statistics towards those of a batch, the variance with n - 1."""
        self.moving_mean.lerp_(mean, 1 - self.decay)
        self.moving_variance.lerp_(variance, 1 - self.decay)

    def _train_on_one_value(self, net: Tensor) -> Tensor:
        """One picture and one pixel, which PyTorch refuses: TensorFlow's variance is zero, its n - 1 at least 1."""
        with torch.no_grad():
            self.moving_mean.lerp_(net.flatten().to(self.moving_mean.dtype), 1 - self.decay)
            self.moving_variance.mul_(self.decay)
        return (net - net) + self.beta.to(net.dtype).view(1, -1, 1, 1)

    def extra_repr(self) -> str:
        scale = "" if self.gamma is None else ", scale"
        return f"{len(self.beta)}, decay={self.decay}, epsilon={self.epsilon}{scale}"


class Pool2d(nn.Module):
    """slim.max_pool2d and avg_pool2d; an average leaves SAME padding out of its mean.

    With `shrinks`, a kernel larger than the map becomes the map's size (TF-Slim's
    _reduced_kernel_size_for_small_input).
    """

    def __init__(
        self,
        kind: Literal["max", "avg"],
        kernel: Size,
        stride: int,
        padding: Padding,
        shrinks: bool = False,
        count_padding: bool = False,
    ) -> None:
        super().__init__()
        self.kind, self.kernel, self.stride, self.padding = kind, kernel, stride, padding
        self.shrinks, self.count_padding = shrinks, count_padding

    def forward(self, net: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H', W')."""
        kernel = self.kernel
        if self.shrinks:
            kernel = min(kernel[0], net.shape[2]), min(kernel[1], net.shape[3])
        if self.padding == "VALID":
            pool = F.max_pool2d if self.kind == "max" else F.avg_pool2d
            return pool(net, kernel, self.stride)
        if self.kind == "max":
            padded, border = pad_same(net, kernel, self.stride, value=float("-inf"))
            return F.max_pool2d(padded, kernel, self.stride, border)
        padded, border = pad_same(net, kernel, self.stride)
        if padded is net:
            return F.avg_pool2d(net, kernel, self.stride, border, count_include_pad=self.count_padding)
        if self.count_padding:
            return F.avg_pool2d(padded, kernel, self.stride)
        inside, _ = pad_same(torch.ones_like(net[:1, :1]), kernel, self.stride)
        return F.avg_pool2d(padded, kernel, self.stride) / F.avg_pool2d(inside, kernel, self.stride)

    def extra_repr(self) -> str:
        size = "x".join(map(str, self.kernel))
        return f"{self.kind} {size}/{self.stride} {self.padding}" + (", shrinks" if self.shrinks else "")
