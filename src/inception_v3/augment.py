"""Changes that training makes to a picture, so that it learns the class and not the photograph."""

from collections.abc import Callable
from typing import Any

from PIL.Image import Image
from torch import Tensor

from inception_v3.preprocessing import Preprocessing
from inception_v3.recipe import AugmentName

Augment = Callable[[Image], Tensor]  # an RGB picture to uint8 (3, H, W)


def photos(preprocessing: Preprocessing) -> Augment:
    """A random part of 8 to 100 % of the area, as the paper's code cuts them, mirrored every second time."""
    from torchvision.transforms import v2

    return _compose(
        v2.PILToTensor(),
        v2.RandomResizedCrop(list(preprocessing.image_size), scale=(0.08, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
    )


def handwriting(preprocessing: Preprocessing) -> Augment:
    """Turned, moved and scaled a little, never mirrored: a mirrored digit is another sign."""
    from torchvision.transforms import v2
    from torchvision.transforms.v2 import InterpolationMode

    move = v2.RandomAffine(10, (0.08, 0.08), (0.9, 1.1), shear=5, interpolation=InterpolationMode.BILINEAR)
    return _compose(preprocessing.pixels, move)


def _compose(*steps: Any) -> Augment:
    def apply(image: Image) -> Tensor:
        net: Any = image
        for step in steps:
            net = step(net)
        return net  # type: ignore[no-any-return]

    return apply


AUGMENTS: dict[AugmentName, Callable[[Preprocessing], Augment] | None] = {
    "none": None,
    "photos": photos,
    "handwriting": handwriting,
}
