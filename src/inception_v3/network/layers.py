"""The layers of the network, with TensorFlow's padding and TF-Slim's variable names.

All tensors are NCHW, kernels OIHW. TensorFlow pads SAME by the amount that the output size needs and puts an odd
pixel at the bottom and at the right, whereas PyTorch's layers only pad symmetrically.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inception_v3.network import architecture
from inception_v3.network.architecture import Padding, Size, same_padding


def pad(images: Tensor, kernel: Size, stride: int, padding: Padding, value: float = 0.0) -> tuple[Tensor, Size]:
    """Apply SAME padding where a PyTorch layer cannot do it itself.

    Returns the images, padded if the padding is asymmetric, and the symmetric padding (height, width) that is left
    for the layer to apply. With VALID padding the images are unchanged and that padding is zero.
    """
    if padding == "VALID":
        return images, (0, 0)
    top, bottom = same_padding(images.shape[2], kernel[0], stride)
    left, right = same_padding(images.shape[3], kernel[1], stride)
    if top == bottom and left == right:
        return images, (top, left)
    return F.pad(images, (left, right, top, bottom), value=value), (0, 0)


class Conv2d(nn.Module):
    """slim.conv2d: a convolution, BatchNorm and ReLU; without `batch_norm` a convolution and a bias.

    The initial weights are normal with the standard deviation `stddev`, truncated at two deviations. The default is
    TF-Slim's variance scaling, sqrt(1.3 * 2 / fan_in). Biases and offsets start at zero.
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
        """Draw new weights and set the biases to zero."""
        nn.init.trunc_normal_(self.weights, std=self.stddev, a=-2 * self.stddev, b=2 * self.stddev)
        if self.biases is not None:
            nn.init.zeros_(self.biases)

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H', W')."""
        net = self.convolve(images)
        return net if self.BatchNorm is None else F.relu_(self.BatchNorm(net))

    def convolve(self, images: Tensor) -> Tensor:
        """Apply only the convolution and the bias, with the same shapes as `forward`."""
        images, padding = pad(images, self.kernel, self.stride, self.padding)
        return F.conv2d(images, self.weights, self.biases, self.stride, padding)

    def extra_repr(self) -> str:
        out_channels, in_channels = self.weights.shape[:2]
        size = "x".join(map(str, self.kernel))
        return f"{in_channels} -> {out_channels}, {size}/{self.stride} {self.padding}"


class BatchNorm(nn.Module):
    """slim.batch_norm: normalisation with an offset `beta`, and with a scale `gamma` if `scale` is set.

    Training normalises by the variance with n in the denominator and updates the moving averages by
    `moving = decay * moving + (1 - decay) * batch`, where the variance has n - 1 in the denominator, as in
    TensorFlow's fused operation.
    """

    def __init__(self, channels: int, decay: float = 0.9997, epsilon: float = 0.001, scale: bool = False) -> None:
        super().__init__()
        self.decay, self.epsilon = decay, epsilon
        self.beta = nn.Parameter(torch.zeros(channels))
        self.gamma = nn.Parameter(torch.ones(channels)) if scale else None
        self.moving_mean = nn.Buffer(torch.zeros(channels))
        self.moving_variance = nn.Buffer(torch.ones(channels))

    def forward(self, net: Tensor) -> Tensor:
        """Normalise (N, C, H, W): in training over N, H and W, else by the moving averages."""
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

    def update_averages(self, mean: Tensor, variance: Tensor) -> None:
        """Move the averages towards the mean and the variance (n - 1) of a batch, each of shape (C,)."""
        self.moving_mean.lerp_(mean, 1 - self.decay)
        self.moving_variance.lerp_(variance, 1 - self.decay)

    def _train_on_one_value(self, net: Tensor) -> Tensor:
        """Normalise one image of one pixel, which PyTorch refuses.

        TensorFlow's variance is 0 then, and its n - 1 is at least 1.
        """
        with torch.no_grad():
            self.moving_mean.lerp_(net.flatten().to(self.moving_mean.dtype), 1 - self.decay)
            self.moving_variance.mul_(self.decay)
        return (net - net) + self.beta.to(net.dtype).view(1, -1, 1, 1)

    def extra_repr(self) -> str:
        scale = "" if self.gamma is None else ", scale"
        return f"{len(self.beta)}, decay={self.decay}, epsilon={self.epsilon}{scale}"


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    name: getattr(F, name) for name in architecture.ACTIVATIONS if name != "linear"
} | {"linear": lambda net: net}


class HiddenLayer(Conv2d):
    """A hidden layer of the head: a 1x1 convolution with a bias, an activation, and optional BatchNorm.

    `batch_norm_first` is whether BatchNorm comes before the activation. The weights start as those of Conv2d.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        activation: str,
        *,
        batch_norm: "BatchNorm | None" = None,
        batch_norm_first: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, (1, 1), padding="VALID")
        self.activation, self.batch_norm_first = activation, batch_norm_first
        self.BatchNorm = batch_norm

    def forward(self, net: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H, W)."""
        activate, net = ACTIVATIONS[self.activation], self.convolve(net)
        if self.BatchNorm is None:
            return activate(net)
        return activate(self.BatchNorm(net)) if self.batch_norm_first else self.BatchNorm(activate(net))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.activation}"


class Pool2d(nn.Module):
    """slim.max_pool2d and slim.avg_pool2d; an average leaves SAME padding out of its mean unless `count_padding`.

    With `shrinks`, a kernel that is larger than the map becomes as large as the map
    (TF-Slim's _reduced_kernel_size_for_small_input).
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
        value = float("-inf") if self.kind == "max" else 0.0
        padded, padding = pad(net, kernel, self.stride, self.padding, value)
        if self.kind == "max":
            return F.max_pool2d(padded, kernel, self.stride, padding)
        averages = F.avg_pool2d(padded, kernel, self.stride, padding, count_include_pad=self.count_padding)
        if padded is net or self.count_padding:
            return averages
        inside, _ = pad(torch.ones_like(net[:1, :1]), kernel, self.stride, self.padding)
        return averages / F.avg_pool2d(inside, kernel, self.stride)

    def extra_repr(self) -> str:
        size = "x".join(map(str, self.kernel))
        return f"{self.kind} {size}/{self.stride} {self.padding}" + (", shrinks" if self.shrinks else "")
