"""Mixup and CutMix: each image of a batch is mixed with its neighbour, and so are their labels."""

import torch.nn.functional as F
from torch import Tensor

from inception_v3.training.recipe import Recipe


def mix(images: Tensor, labels: Tensor, recipe: Recipe, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mix images (N, 3, H, W) and labels (N,); returns the images and the probability of each class (N, num_classes).

    The proportion is drawn once for the batch, from PyTorch's global generator.
    """
    from torchvision.transforms import v2

    alphas = {v2.MixUp: recipe.mixup, v2.CutMix: recipe.cutmix}
    methods = [method(alpha=alpha, num_classes=num_classes) for method, alpha in alphas.items() if alpha]
    if not methods:
        return images, F.one_hot(labels, num_classes).float()
    mixed_images, probabilities = v2.RandomChoice(methods)(images, labels)
    return mixed_images, probabilities
