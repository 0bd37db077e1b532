"""Mixup and CutMix: a batch of pictures mixed with itself, and its labels with them."""

import torch.nn.functional as F
from torch import Tensor

from inception_v3.training.recipe import Recipe


def mix(images: Tensor, labels: Tensor, recipe: Recipe, num_classes: int) -> tuple[Tensor, Tensor]:
    """Pictures (N, 3, H, W) and the share of each class in them (N, num_classes), as floats.

    Each picture is mixed with its neighbour by one share for the batch, drawn from torch's global generator.
    """
    from torchvision.transforms import v2

    ways = [
        way(alpha=alpha, num_classes=num_classes)
        for way, alpha in ((v2.MixUp, recipe.mixup), (v2.CutMix, recipe.cutmix))
        if alpha
    ]
    if not ways:
        return images, F.one_hot(labels, num_classes).float()
    mixed, shares = v2.RandomChoice(ways)(images, labels)
    return mixed, shares
