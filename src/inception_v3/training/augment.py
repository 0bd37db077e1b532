"""Changes that training makes to a picture, so that it learns the class and not the photograph.

All chance comes from PyTorch's global generator: seeded alike, it gives the same picture again. Each can be sent
to worker processes.
"""

from collections.abc import Callable

from PIL.Image import Image
from torch import Tensor

from inception_v3.images.preprocessing import Preprocessing
from inception_v3.training.recipe import AugmentName

Augment = Callable[[Image], Tensor]  # an RGB picture to uint8 (3, H, W)


def photos(preprocessing: Preprocessing) -> Augment:
    """A random part of 8 to 100 % of the area, mirrored every second time: torchvision's training."""
    from torchvision.transforms import v2

    return v2.Compose(  # type: ignore[no-any-return]
        [
            v2.PILToTensor(),
            v2.RandomResizedCrop(list(preprocessing.image_size), scale=(0.08, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
        ]
    )


def photos_randaugment(preprocessing: Preprocessing) -> Augment:
    """`photos`, then two of RandAugment's fourteen changes at magnitude 9 (arXiv 1909.13719)."""
    from torchvision.transforms import v2

    return v2.Compose([photos(preprocessing), v2.RandAugment(2, 9)])  # type: ignore[no-any-return]


def crops(preprocessing: Preprocessing) -> Augment:
    """Moved by up to an eighth over a black border and mirrored every second time, as is usual for CIFAR."""
    from torchvision.transforms import v2

    height, width = preprocessing.image_size
    return v2.Compose(  # type: ignore[no-any-return]
        [
            preprocessing.pixels,
            v2.RandomCrop([height, width], padding=[width // 8, height // 8]),
            v2.RandomHorizontalFlip(),
        ]
    )


def handwriting(preprocessing: Preprocessing) -> Augment:
    """Turned, moved and scaled a little, never mirrored: a mirrored digit is another sign."""
    from torchvision.transforms import v2
    from torchvision.transforms.v2 import InterpolationMode

    move = v2.RandomAffine(10, (0.08, 0.08), (0.9, 1.1), shear=5, interpolation=InterpolationMode.BILINEAR)
    return v2.Compose([preprocessing.pixels, move])  # type: ignore[no-any-return]


def slim(preprocessing: Preprocessing) -> Augment:
    """All distortions of TF-Slim's preprocess_for_train."""
    from inception_v3.training.distortion import Distortion

    return Distortion(preprocessing.image_size)


def slim_fast(preprocessing: Preprocessing) -> Augment:
    """Those of its fast_mode, which slim's own training script used."""
    from inception_v3.training.distortion import Distortion

    return Distortion(preprocessing.image_size, fast=True)


AUGMENTS: dict[AugmentName, Callable[[Preprocessing], Augment] | None] = {
    "none": None,
    "photos": photos,
    "photos-randaugment": photos_randaugment,
    "crops": crops,
    "handwriting": handwriting,
    "slim": slim,
    "slim-fast": slim_fast,
}
