"""TF-Slim's distortions of training images: a random crop of any shape, TensorFlow's resize methods, changed colours.

Source: preprocess_for_train in models/research/slim/preprocessing/inception_preprocessing.py, and the TensorFlow
kernels that it calls. All randomness comes from PyTorch's global generator.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL.Image import Image
from torch import Tensor

from inception_v3.images.tensorflow_resize import METHODS, tensorflow_resize
from inception_v3.network.architecture import Size

AREA = (0.05, 1.0)  # of a crop, as a fraction of the image
ASPECT = (0.75, 1.33)  # width / height of a crop
MIN_OBJECT_COVERED = 0.1  # fraction of the object inside the crop; without a box, the object is the whole image
MAX_ATTEMPTS = 100
ORDERINGS = (
    ("brightness", "saturation", "hue", "contrast"),
    ("saturation", "brightness", "contrast", "hue"),
    ("contrast", "hue", "brightness", "saturation"),
    ("hue", "saturation", "contrast", "brightness"),
)


@dataclass(frozen=True)
class Distortion:
    """Distort an RGB image at random: a PIL image to uint8 (3, *image_size).

    With `fast`, TF-Slim's fast_mode, the resize is bilinear and only brightness and saturation change. Otherwise one of
    TensorFlow's four resize methods is drawn, and all four colour changes are applied in one of four orders.
    """

    image_size: Size
    fast: bool = False

    def __call__(self, image: Image) -> Tensor:
        from torchvision.transforms.v2 import functional as transform

        top, left, height, width = distorted_box(image.height, image.width)
        crop = transform.pil_to_tensor(image.crop((left, top, left + width, top + height)))
        method = METHODS[0 if self.fast else _randint(len(METHODS))]
        pixels = torch.from_numpy(tensorflow_resize(crop.numpy(), self.image_size, method)) / 255
        if _randint(2):
            pixels = pixels.flip(-1)
        pixels = distort_colours(
            pixels, ("brightness", "saturation") if self.fast else ORDERINGS[_randint(len(ORDERINGS))]
        )
        return (pixels * 255).round().to(torch.uint8)


def distorted_box(height: int, width: int) -> tuple[int, int, int, int]:
    """Draw a crop of an image, (top, left, height, width), as TensorFlow's sample_distorted_bounding_box does.

    The aspect ratio is drawn uniformly, and then the height, not the area. After MAX_ATTEMPTS failures the crop is the
    whole image.
    """
    for _ in range(MAX_ATTEMPTS):
        size = _box_size(height, width, _uniform(*ASPECT))
        if size is not None and size[0] * size[1] >= MIN_OBJECT_COVERED * height * width:
            # As in TensorFlow, the last possible offset is never drawn.
            top, left = (_randint(max(whole - part, 1)) for whole, part in zip((height, width), size, strict=True))
            return top, left, *size
    return 0, 0, height, width


def _box_size(height: int, width: int, aspect: float) -> Size | None:
    """Draw the size of a crop with this aspect ratio (width / height); None if it does not fit.

    Source: GenerateRandomCrop in tensorflow/core/kernels/image/sample_distorted_bounding_box_op.cc.
    """
    min_area, max_area = (fraction * height * width for fraction in AREA)
    min_height, max_height = (round(math.sqrt(area / aspect)) for area in (min_area, max_area))
    if round(max_height * aspect) > width:
        max_height = int((width + 0.5 - 1e-7) / aspect)
        if round(max_height * aspect) > width:
            max_height -= 1
    max_height = min(max_height, height)
    crop_height = min(min_height, max_height)
    crop_height += _randint(max_height - crop_height + 1)
    if crop_height * round(crop_height * aspect) < min_area:  # a rounding error, which one row corrects
        crop_height += 1
    if crop_height * round(crop_height * aspect) > max_area:
        crop_height -= 1
    crop_width = round(crop_height * aspect)
    fits = min_area <= crop_height * crop_width <= max_area and crop_height <= height and 0 < crop_width <= width
    return (crop_height, crop_width) if fits else None


def distort_colours(image: Tensor, ordering: tuple[str, ...]) -> Tensor:
    """Apply the named changes to an image (3, H, W) in [0, 1], each by a random amount, and clamp the result."""
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "brightness": lambda image: image + _uniform(-32 / 255, 32 / 255),
        "saturation": lambda image: adjust_saturation(image, _uniform(0.5, 1.5)),
        "hue": lambda image: adjust_hue(image, _uniform(-0.2, 0.2)),
        "contrast": lambda image: adjust_contrast(image, _uniform(0.5, 1.5)),
    }
    for name in ordering:
        image = changes[name](image)
    return image.clamp(0, 1)


def adjust_contrast(image: Tensor, factor: float) -> Tensor:
    """Multiply the differences of each channel of (3, H, W) from its mean by `factor`."""
    mean = image.mean((-2, -1), keepdim=True)
    return (image - mean) * factor + mean


def adjust_saturation(image: Tensor, factor: float) -> Tensor:
    """Multiply the HSV saturation of (3, H, W) by `factor`, up to 1. As in TensorFlow, values may leave [0, 1]."""
    value = image.amax(0)
    saturation = torch.where(value > 0, (value - image.amin(0)) / value, 0)
    change = torch.where(saturation > 0, (saturation * factor).clamp(0, 1) / saturation, 0)
    return value - (value - image) * change


def adjust_hue(image: Tensor, delta: float) -> Tensor:
    """Rotate the hue of (3, H, W) by `delta` of the circle. The largest and smallest channel values are kept."""
    value, minimum = image.amax(0), image.amin(0)
    chroma = value - minimum
    red, green, blue = image
    hue = torch.where(
        value == red,
        (green - blue) / chroma,
        torch.where(value == green, (blue - red) / chroma + 2, (red - green) / chroma + 4),
    )  # in sixths of the circle
    hue = torch.where(chroma > 0, hue, 0) + delta * 6
    distances = (torch.tensor([5.0, 3.0, 1.0]).view(3, 1, 1) + hue) % 6
    return value - chroma * torch.minimum(distances, 4 - distances).clamp(0, 1)


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


def _randint(count: int) -> int:
    return int(torch.randint(count, ()))
