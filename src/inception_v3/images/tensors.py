"""Images that come as tensors of floats."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def to_uint8(images: "Tensor") -> "Tensor":
    """Convert floats in [0, 1], of any shape and on any device, to uint8, 0 to 255: the bits of (images * 255).byte().

    Values that rounding has put outside [0, 1], by less than 1/255, become 0 and 255.

    Raises ValueError, with the range: integers, NaN, or values further outside, which would wrap around: 256/255 to 0.
    """
    if not images.is_floating_point():
        raise ValueError(f"images must be floats in [0, 1], not {images.dtype}; uint8 images need no normalize=True")
    scaled = images * 255
    if scaled.numel():
        low, high = scaled.aminmax()  # both are NaN if any value is
        if not bool((low > -1) & (high < 256)):
            found = "NaN" if bool(low.isnan()) else f"values from {low.item() / 255:.4g} to {high.item() / 255:.4g}"
            raise ValueError(
                f"images must be floats in [0, 1], but have {found}; convert images in [-1, 1] by (images + 1) / 2"
            )
    return scaled.byte()  # rounds towards zero
