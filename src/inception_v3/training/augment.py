"""Random changes to training images, so that the network learns the class and not the single photograph.

An augmentation turns an RGB image into uint8 pixels (3, H, W). It can be pickled and sent to worker processes. `mix`
changes a batch. All of them draw from PyTorch's global generator only, so the same seed gives the same pixels.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from inception_v3.data.loader import ImageTransform
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.training.distortion import Distortion
from inception_v3.training.recipe import AugmentName, Recipe


def photos(preprocessing: Preprocessing) -> ImageTransform:
    """A random crop of 8 to 100 % of the area, flipped half of the time: torchvision's training augmentation."""
    from torchvision.transforms import v2

    return v2.Compose(  # type: ignore[no-any-return]
        [
            v2.PILToTensor(),
            v2.RandomResizedCrop(list(preprocessing.image_size), scale=(0.08, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
        ]
    )


def photos_randaugment(preprocessing: Preprocessing) -> ImageTransform:
    """`photos`, then two of RandAugment's fourteen operations at magnitude 9 (arXiv 1909.13719)."""
    from torchvision.transforms import v2

    return v2.Compose([photos(preprocessing), v2.RandAugment(2, 9)])  # type: ignore[no-any-return]


def crops(preprocessing: Preprocessing) -> ImageTransform:
    """Shift by up to an eighth over a black border, and flip half of the time, as is usual for CIFAR."""
    from torchvision.transforms import v2

    height, width = preprocessing.image_size
    return v2.Compose(  # type: ignore[no-any-return]
        [
            preprocessing.pixels,
            v2.RandomCrop([height, width], padding=[width // 8, height // 8]),
            v2.RandomHorizontalFlip(),
        ]
    )


def handwriting(preprocessing: Preprocessing) -> ImageTransform:
    """Rotate, shift, shear and scale a little. Images are never flipped: a mirrored digit is a different sign."""
    from torchvision.transforms import v2

    bilinear = v2.InterpolationMode.BILINEAR
    affine = v2.RandomAffine(10, (0.08, 0.08), (0.9, 1.1), shear=5, interpolation=bilinear)
    return v2.Compose([preprocessing.pixels, affine])  # type: ignore[no-any-return]


AUGMENTS: dict[AugmentName, Callable[[Preprocessing], ImageTransform] | None] = {
    "none": None,
    "photos": photos,
    "photos-randaugment": photos_randaugment,
    "crops": crops,
    "handwriting": handwriting,
    # TF-Slim's preprocess_for_train, and its fast_mode, which its training script used.
    "slim": lambda preprocessing: Distortion(preprocessing.image_size),
    "slim-fast": lambda preprocessing: Distortion(preprocessing.image_size, fast=True),
}


def mix(images: Tensor, labels: Tensor, recipe: Recipe, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mixup and CutMix: mix each image of (N, 3, H, W) with its neighbour, and their labels (N,) likewise.

    Returns the images, and the probability of each class (N, num_classes). The proportion is drawn once for the batch,
    from PyTorch's global generator.
    """
    from torchvision.transforms import v2

    alphas = {v2.MixUp: recipe.mixup, v2.CutMix: recipe.cutmix}
    methods = [method(alpha=alpha, num_classes=num_classes) for method, alpha in alphas.items() if alpha]
    if not methods:
        return images, F.one_hot(labels, num_classes).float()
    return v2.RandomChoice(methods)(images, labels)  # type: ignore[no-any-return]
