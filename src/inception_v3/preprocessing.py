"""From a decoded picture to what the network reads; the same numbers in training, evaluation and prediction."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes a tensor: resized, cut from the centre, scaled.

    The picture is resized (antialiased) so that `image_size`, (height, width), covers the central
    `crop_fraction` of it, or its shorter side to `resize` pixels where that is given; then the centre of
    `image_size` is kept. Pixels 0 to 255 become (pixel / 255 - mean) / std: by default [-1, 1], as TF-Slim's
    preprocessing/inception_preprocessing.py.
    """

    image_size: tuple[int, int] = (299, 299)
    crop_fraction: float = 0.875
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    resize: int | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def pixels(self, image: "Image") -> "Tensor":
        """An RGB picture, resized and cut: uint8 of shape (3, H, W)."""
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as transform

        height, width = self.image_size
        if self.resize is None:
            ratio = max(height / image.height, width / image.width) / self.crop_fraction
            size = [max(height, round(image.height * ratio)), max(width, round(image.width * ratio))]
        else:
            size = [self.resize]  # torchvision's rule: the shorter side
        method = InterpolationMode(self.interpolation)
        resized = transform.resize(transform.pil_to_tensor(image), size, method, antialias=True)
        centre: Tensor = transform.center_crop(resized, [height, width])
        return centre

    def scale(self, pixels: "Tensor") -> "Tensor":
        """uint8 (N, 3, H, W) to the floats that the network reads, on the same device."""
        from torch import tensor

        mean = tensor(self.mean, device=pixels.device).view(3, 1, 1) * 255
        std = tensor(self.std, device=pixels.device).view(3, 1, 1) * 255
        return (pixels - mean) / std

    def __call__(self, image: "Image") -> "Tensor":
        """An RGB picture to floats of shape (1, 3, H, W)."""
        return self.scale(self.pixels(image)[None])
