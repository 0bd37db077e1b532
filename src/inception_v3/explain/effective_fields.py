"""The effective receptive field: how strongly each pixel influences a unit, measured on images.

Source: Luo, Li, Urtasun and Zemel, "Understanding the Effective Receptive Field in Deep Convolutional Neural
Networks" (NeurIPS 2016).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inception_v3.errors import NotFiniteError
from inception_v3.explain.attribution.scores import first_not_finite
from inception_v3.explain.receptive_fields import ReceptiveField, Region, receptive_field
from inception_v3.explain.targets import end_point_map
from inception_v3.inference.pipeline import not_finite
from inception_v3.network.architecture import Size
from inception_v3.network.network import InceptionV3Network
from inception_v3.reports.shown import png
from inception_v3.support.files import atomic_write, check_suffix
from inception_v3.support.packages import require_packages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARE = 0.95  # of the gradient, which the effective field holds


@dataclass(frozen=True, eq=False)
class EffectiveField:
    """The gradient of the centre unit of an end point with respect to the pixels, as a mean over images.

    Attributes:
        field: the theoretical receptive field.
        unit: the (row, column) of the centre unit in the map of the end point.
        gradient: float64 of shape (H, W): the absolute gradient of the sum of the unit's channels, as a mean over the
            images and the colour channels.
        images: the number of images.
    """

    field: ReceptiveField
    unit: Size
    gradient: NDArray[np.float64]
    images: int

    @property
    def size(self) -> int:
        """The side, in pixels, of the effective field: the smallest square that holds 95 % of the gradient.

        The middle of the square is that of the unit's theoretical field. Its sides are odd, and it may reach beyond
        the image. 0 if every gradient is zero, as that of a unit that ReLU has switched off in all images.
        """
        if not self.gradient.any():
            return 0
        rows, columns = np.indices(self.gradient.shape)
        row, column = self._centre
        rings = np.maximum(abs(rows - row), abs(columns - column))  # each pixel's distance from the middle
        held = np.bincount(rings.ravel(), self.gradient.ravel()).cumsum()
        return 2 * int(np.searchsorted(held, SHARE * held[-1])) + 1

    @property
    def region(self) -> Region:
        """The effective field as a rectangle of the image; see `ReceptiveField.region`."""
        (row, column), before = self._centre, self.size // 2
        return row - before, column - before, row - before + self.size, column - before + self.size

    @property
    def padding_share(self) -> float:
        """The fraction of the unit's theoretical field that lies outside the image, where there is only padding."""
        height, width = self.gradient.shape
        return self.field.padding_share(*self.unit, (height, width))

    @property
    def _centre(self) -> Size:
        (row, column), (down, right), centre = self.unit, self.field.stride, self.field.centre
        return centre[0] + row * down, centre[1] + column * right

    def numpy(self) -> NDArray[np.float64]:
        """The gradient, of shape (H, W)."""
        return self.gradient

    def plot(self) -> "Figure":
        """The gradient as a heat map with its scale, and the effective field as a square. Needs matplotlib.

        Raises:
            InputError: matplotlib is not installed.
        """
        require_packages(("matplotlib",), "plot()", "train")
        from inception_v3.reports.plots import heat_map

        height, width = self.field.size
        title = (
            f"{self.field.name}: effective field {self.size}x{self.size} (white), theoretical {height}x{width}\n"
            f"{self.padding_share:.0%} of the theoretical field is padding"
        )
        return heat_map(self.gradient, title, "mean absolute gradient", self.region)

    def _repr_png_(self) -> bytes | None:
        """The plot, for a notebook."""
        return png(self)

    def save(self, path: str | Path) -> None:
        """Write the gradient as .npy, or the plot as .png.

        Raises:
            InputError: another suffix; the file cannot be written; matplotlib is not installed.
        """
        path = Path(path)
        check_suffix(path, (".npy", ".png"), "an effective field")
        figure = self.plot() if path.suffix == ".png" else None
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            if figure is None:
                np.save(file, self.gradient)
            else:
                figure.savefig(file, dpi=120, format="png")


def effective_field(model: InceptionV3Network, images: Tensor, end_point: str) -> EffectiveField:
    """Measure the effective receptive field of the centre unit of an end point: unit (h // 2, w // 2) of an (h, w) map.

    Args:
        model: the network, on any device. It runs in evaluation mode.
        images: floats of shape (N, 3, H, W) in [-1, 1], as `model.preprocess` returns them. They run one at a time.
        end_point: the name of an end point of the network, such as "Mixed_5b".

    Raises:
        TypeError: a model without gradients, such as an exported network; images that are no tensor.
        ValueError: no image; images of another shape, dtype or device, or too small; an unknown end point; outputs that
            are infinite or not a number; Predictions, whose sum is constant with a softmax.
    """
    if not isinstance(model, InceptionV3Network):
        raise TypeError(f"model must be an InceptionV3, whose gradients can be computed, not {type(model).__name__}")
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor, not {type(images).__name__}; use model.preprocess(image)")
    if not images.numel():
        raise ValueError("images must be one or more images, not an empty tensor")
    if end_point == "Predictions":
        raise ValueError("Predictions: the sum of the probabilities has no gradient; use Logits")
    receptive_field(end_point, model.image_size, model.settings)  # which checks the name
    gradients = []
    was_training = model.training
    try:
        model.eval()
        for image in [image[None] for image in images] if images.dim() == 4 else [images]:  # which is refused
            unit, gradient = _centre_gradient(model, image, end_point)
            gradients.append(gradient)
    finally:
        model.train(was_training)
    field = receptive_field(end_point, (images.shape[2], images.shape[3]), model.settings)
    return EffectiveField(field, unit, np.mean(gradients, 0), len(gradients))


def _centre_gradient(model: InceptionV3Network, image: Tensor, end_point: str) -> tuple[Size, NDArray[np.float64]]:
    """The (row, column) of the centre unit, and the absolute gradient of its sum: (H, W), a mean over the colours."""
    image = image.detach().clone().requires_grad_(image.is_floating_point())
    with torch.enable_grad():
        net = end_point_map(model, image, end_point)
        row, column = net.shape[2] // 2, net.shape[3] // 2
        unit = net[:, :, row, column].sum()
        (gradient,) = torch.autograd.grad(unit, image)
    if not torch.isfinite(unit + gradient.sum()):
        raise NotFiniteError(not_finite(end_point, first_not_finite(model, image.detach())))
    return (row, column), gradient.double().abs().mean((0, 1)).cpu().numpy()
