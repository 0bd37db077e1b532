"""Attributions from gradients: a value for every pixel and channel.

Each function takes images (N, 3, H, W) in [-1, 1] and classes (N,), int64, and returns a tensor like the images. The
baselines are inputs without information, broadcast to the images; None is zero, a mean grey. Images are computed
`batch_size` at once. Raises ValueError as `network_scores` does.
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from inception_v3.explain.attribution.result import Head
from inception_v3.explain.attribution.rules import guided, rescaled
from inception_v3.explain.attribution.scores import image_gradients
from inception_v3.inference.engines.graph import factor_and_offset
from inception_v3.network.layers import Conv2d
from inception_v3.network.network import InceptionV3Network

BATCH_SIZE = 8  # images at once: gradients keep every activation, 0.2 GB an image of 299x299


def plain_gradient(
    model: InceptionV3Network,
    images: Tensor,
    classes: Tensor,
    head: Head = "Logits",
    *,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """The gradient of the score (Simonyan et al., arXiv 1312.6034)."""
    parts = _split(len(images), batch_size)
    return torch.cat([image_gradients(model, images[part], classes[part], head)[1] for part in parts])


def integrated_gradients(
    model: InceptionV3Network,
    images: Tensor,
    classes: Tensor,
    head: Head = "Logits",
    *,
    baselines: Tensor | None = None,
    steps: int = 50,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Integrated gradients (Sundararajan et al., arXiv 1703.01365, equation 1), by Gauss-Legendre quadrature.

    Their sum is the score of the image minus that of the baseline, up to the error of `steps` points.
    """
    baselines = torch.zeros_like(images[:1]) if baselines is None else baselines
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    fractions, widths = images.new_tensor((nodes + 1) / 2), images.new_tensor(weights / 2)
    total, model = torch.zeros_like(images), folded(model)
    for numbers in _split(len(images) * steps, batch_size):
        rows, columns = numbers // steps, numbers % steps
        difference = (images - baselines)[rows]
        points = baselines.expand_as(images)[rows] + fractions[columns].view(-1, 1, 1, 1) * difference
        _, gradients = image_gradients(model, points, classes[rows], head)
        total.index_add_(0, rows, gradients * widths[columns].view(-1, 1, 1, 1))
    return total * (images - baselines)


def smooth_grad(
    model: InceptionV3Network,
    images: Tensor,
    classes: Tensor,
    head: Head = "Logits",
    *,
    noise: Tensor,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """SmoothGrad (Smilkov et al., arXiv 1706.03825): the mean gradient of images with noise added.

    `noise` has shape (samples, 3, H, W), see `smooth_grad_noise`. All images get the same noise.
    """
    total, model = torch.zeros_like(images), folded(model)
    for numbers in _split(len(images) * len(noise), batch_size):
        rows, columns = numbers // len(noise), numbers % len(noise)
        _, gradients = image_gradients(model, images[rows] + noise[columns], classes[rows], head)
        total.index_add_(0, rows, gradients)
    return total / len(noise)


def smooth_grad_noise(images: Tensor, samples: int = 50, level: float = 0.15, seed: int = 0) -> Tensor:
    """Normal noise (samples, 3, H, W) whose standard deviation is `level` times the range of the images' values."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((samples, *images.shape[1:]), generator=generator, dtype=torch.float32)
    return noise.to(images) * level * (images.max() - images.min())


def guided_backprop(
    model: InceptionV3Network,
    images: Tensor,
    classes: Tensor,
    head: Head = "Logits",
    *,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Guided backpropagation (Springenberg et al., arXiv 1412.6806): the gradient without its negative parts at ReLUs.

    It shows the edges of an image whatever the class; see `checks.randomisation`.
    """
    with guided():
        return plain_gradient(model, images, classes, head, batch_size=batch_size)


def deep_lift(
    model: InceptionV3Network,
    images: Tensor,
    classes: Tensor,
    head: Head = "Logits",
    *,
    baselines: Tensor | None = None,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """DeepLIFT with the rescale rule (Shrikumar et al., arXiv 1704.02685).

    The rule is that of activations. Through a max pool goes the gradient of the image, so the sum is not exactly the
    difference of the scores.
    """
    baselines = (torch.zeros_like(images[:1]) if baselines is None else baselines).expand_as(images)
    multipliers = []
    with rescaled():
        for part in _split(len(images), batch_size):
            pairs = torch.cat([images[part], baselines[part]])
            _, gradients = image_gradients(model, pairs, classes[part].repeat(2), head)
            multipliers.append(gradients[: len(part)])
    return torch.cat(multipliers) * (images - baselines)


@torch.no_grad()
def folded(model: InceptionV3Network) -> InceptionV3Network:
    """A copy of the network with BatchNorm folded into the convolutions, which many passes compute sooner."""
    model = copy.deepcopy(model)
    for layer in model.modules():
        if type(layer) is Conv2d and layer.BatchNorm is not None:
            factor, offset = (values.to(layer.weights) for values in factor_and_offset(layer.BatchNorm))
            layer.weights.mul_(factor.view(-1, 1, 1, 1))
            layer.biases = nn.Parameter(offset)
            layer.BatchNorm = nn.Identity()  # type: ignore[assignment]
    return model.to(memory_format=torch.channels_last).requires_grad_(False)


def _split(count: int, batch_size: int) -> Iterator[Tensor]:
    """The numbers 0 to `count`, `batch_size` at once."""
    return (torch.arange(start, min(start + batch_size, count)) for start in range(0, count, batch_size))
