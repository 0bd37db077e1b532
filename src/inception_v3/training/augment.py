"""Random changes to training images, so that the network learns the class and not the single photograph.

An augmentation turns an RGB image into uint8 pixels (3, H, W). It draws from PyTorch's global generator only, so the
same seed gives the same pixels. It can be pickled and sent to worker processes.
"""

from collections.abc import Callable
from functools import partial

from inception_v3.data.loader import ImageTransform
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.training.distortion import Distortion
from inception_v3.training.recipe import AugmentName


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


def slim(preprocessing: Preprocessing, fast: bool = False) -> ImageTransform:
    """The distortions of TF-Slim's preprocess_for_train: all, or those of fast_mode, which its training script used."""
    return Distortion(preprocessing.image_size, fast)


AUGMENTS: dict[AugmentName, Callable[[Preprocessing], ImageTransform] | None] = {
    "none": None,
    "photos": photos,
    "photos-randaugment": photos_randaugment,
    "crops": crops,
    "handwriting": handwriting,
    "slim": slim,
    "slim-fast": partial(slim, fast=True),
}
