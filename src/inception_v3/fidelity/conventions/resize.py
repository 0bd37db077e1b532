"""Functions that resize to 299x299: uint8 (N, 3, H, W) to float32 (N, 3, 299, 299), near [-1, 1].

Their names are part of the names of feature caches. PyTorch is imported inside them, so that the command line's help,
which lists the conventions, does not load it.
"""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from inception_v3.images.tensorflow_resize import tensorflow_resize

if TYPE_CHECKING:
    from torch import Tensor

SIZE = 299
# In words, by the name of the function: the resize and the scale of the pixels.
DESCRIPTIONS = {
    "pillow_bicubic": "resized to 299x299 by Pillow's antialiased bicubic filter on float32, scaled to (x - 128) / 128",
    "half_pixel_bilinear": "resized to 299x299 by PyTorch's bilinear interpolation (half-pixel centres, no "
    "antialiasing), scaled to 2x / 255 - 1",
    "tensorflow_bilinear": "resized to 299x299 by TensorFlow 1's bilinear interpolation (no half-pixel centres, no "
    "antialiasing), scaled to (x - 128) / 128",
}


def pillow_bicubic(images: "Tensor") -> "Tensor":
    """Resize as clean-fid's mode "clean" (resize.py): float32 channels, antialiased, clipped, and never rounded."""
    import torch

    resized = np.empty((*images.shape[:2], SIZE, SIZE), np.float32)
    for image, target in zip(images.cpu().numpy(), resized, strict=True):
        for channel, target_channel in zip(image, target, strict=True):
            floats = Image.fromarray(channel.astype(np.float32))
            target_channel[:] = floats.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return torch.from_numpy(resized.clip(0, 255) / 128 - 1).to(images.device)


def half_pixel_bilinear(images: "Tensor") -> "Tensor":
    """Resize as pytorch-fid (inception.py) and clean-fid's "legacy_pytorch": no antialiasing, pixels in [0, 1]."""
    from torch.nn.functional import interpolate

    return interpolate(images / 255, (SIZE, SIZE), mode="bilinear", align_corners=False).mul_(2).sub_(1)


def tensorflow_bilinear(images: "Tensor") -> "Tensor":
    """Resize as TensorFlow 1's ResizeBilinear in the graph of 2015: sample at i * length / 299, no antialiasing."""
    import torch

    resized = tensorflow_resize(images.cpu().numpy(), (SIZE, SIZE))
    return torch.from_numpy(resized).to(images.device).div_(128).sub_(1)
