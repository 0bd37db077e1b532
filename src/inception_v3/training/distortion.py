"""TF-Slim's distortions of training pictures: a part of any shape, TensorFlow's resizes, changed colours.

After models/research/slim/preprocessing/inception_preprocessing.py, preprocess_for_train, and the kernels that
it calls. All chance comes from PyTorch's global generator.
"""

import math
from dataclasses import dataclass

import torch
from PIL.Image import Image
from torch import Tensor

from inception_v3.images.tensorflow_resize import METHODS, tensorflow_resize
from inception_v3.network.architecture import Size

AREA = (0.05, 1.0)  # of the picture, that the part may have
ASPECT = (0.75, 1.33)  # its width over its height
LEAST_COVERED = 0.1  # of the object; with no box given the object is the whole picture
ATTEMPTS = 100
BRIGHTNESS = 32 / 255  # is added or taken away at most
SATURATION = (0.5, 1.5)
CONTRAST = (0.5, 1.5)
HUE = 0.2  # of the circle, at most, either way
ORDERINGS = (
    ("brightness", "saturation", "hue", "contrast"),
    ("saturation", "brightness", "contrast", "hue"),
    ("contrast", "hue", "brightness", "saturation"),
    ("hue", "saturation", "contrast", "brightness"),
)
FAST_ORDERING = ("brightness", "saturation")


@dataclass(frozen=True)
class Distortion:
    """An RGB picture to uint8 (3, *image_size), another one at every call.

    `fast` is slim's fast_mode, which train_image_classifier.py used: bilinear always, and brightness and
    saturation alone. Otherwise any of TensorFlow's four resizes, and all four changes in one of four orders.
    """

    image_size: Size
    fast: bool = False

    def __call__(self, image: Image) -> Tensor:
        from torchvision.transforms.v2 import functional as transform

        top, left, height, width = distorted_box(image.height, image.width)
        part = transform.pil_to_tensor(image.crop((left, top, left + width, top + height)))
        method = METHODS[0 if self.fast else _below(len(METHODS))]
        net = torch.from_numpy(tensorflow_resize(part.numpy(), self.image_size, method)) / 255
        if _below(2):
            net = net.flip(-1)
        net = distort_colours(net, FAST_ORDERING if self.fast else ORDERINGS[_below(len(ORDERINGS))])
        return (net * 255).round().to(torch.uint8)


def distorted_box(height: int, width: int) -> tuple[int, int, int, int]:
    """A random part of a picture, (top, left, height, width), as sample_distorted_bounding_box draws it.

    Its aspect is uniform, and then its height, not its area. After ATTEMPTS in vain it is the whole picture.
    """
    for _ in range(ATTEMPTS):
        size = _box_size(height, width, _between(*ASPECT))
        if size is not None and size[0] * size[1] >= LEAST_COVERED * height * width:
            # the last place of all is never drawn, there as here
            top, left = (_below(max(whole - part, 1)) for whole, part in zip((height, width), size, strict=True))
            return top, left, *size
    return 0, 0, height, width


def _box_size(height: int, width: int, aspect: float) -> Size | None:
    """GenerateRandomCrop of tensorflow/core/kernels/image/sample_distorted_bounding_box_op.cc."""
    least, most = (share * height * width for share in AREA)
    low, high = (round(math.sqrt(area / aspect)) for area in (least, most))
    if round(high * aspect) > width:
        high = int((width + 0.5 - 1e-7) / aspect)
        if round(high * aspect) > width:
            high -= 1
    high = min(high, height)
    part = min(low, high)
    part += _below(high - part + 1)
    if part * round(part * aspect) < least:  # rounding, which one more row makes up for, or one less
        part += 1
    if part * round(part * aspect) > most:
        part -= 1
    across = round(part * aspect)
    fits = least <= part * across <= most and part <= height and 0 < across <= width
    return (part, across) if fits else None


def distort_colours(picture: Tensor, ordering: tuple[str, ...]) -> Tensor:
    """A picture (3, H, W) in [0, 1], changed by these in turn, each by chance, and cut to [0, 1] at the end."""
    net = picture
    for name in ordering:
        if name == "brightness":
            net = net + _between(-BRIGHTNESS, BRIGHTNESS)
        elif name == "saturation":
            net = adjust_saturation(net, _between(*SATURATION))
        elif name == "hue":
            net = adjust_hue(net, _between(-HUE, HUE))
        else:
            net = adjust_contrast(net, _between(*CONTRAST))
    return net.clamp(0, 1)


def adjust_contrast(picture: Tensor, factor: float) -> Tensor:
    """Each channel of (3, H, W) drawn away from its mean, or towards it."""
    mean = picture.mean((-2, -1), keepdim=True)
    return (picture - mean) * factor + mean


def adjust_saturation(picture: Tensor, factor: float) -> Tensor:
    """Saturation of (3, H, W) times `factor`, at most 1, with hue and value kept; also outside [0, 1], as there."""
    value = picture.amax(0)
    saturation = torch.where(value > 0, (value - picture.amin(0)) / value, 0)
    change = torch.where(saturation > 0, (saturation * factor).clamp(0, 1) / saturation, 0)
    return value - (value - picture) * change


def adjust_hue(picture: Tensor, delta: float) -> Tensor:
    """Every hue of (3, H, W) turned by `delta` of the circle; the largest and the least channel keep their values."""
    value, least = picture.amax(0), picture.amin(0)
    extent = value - least
    red, green, blue = picture
    sixth = torch.where(
        value == red,
        (green - blue) / extent,
        torch.where(value == green, (blue - red) / extent + 2, (red - green) / extent + 4),
    )
    sixth = torch.where(extent > 0, sixth, 0) + delta * 6
    places = (torch.tensor([5.0, 3.0, 1.0]).view(3, 1, 1) + sixth) % 6
    return value - extent * torch.minimum(places, 4 - places).clamp(0, 1)


def _between(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


def _below(count: int) -> int:
    return int(torch.randint(count, ()))
