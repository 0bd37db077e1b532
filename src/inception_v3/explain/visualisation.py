"""The input that excites a part of the network: feature visualisation by optimisation.

Source: Olah, Mordvintsev and Schubert, "Feature Visualization" (Distill, 2017), and their program Lucid. The image is
optimised in a Fourier basis whose frequencies and colours are decorrelated as in natural images. In each step it is
moved, scaled and turned at random, so that it holds no pattern that excites the network at one exact position only.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from inception_v3.errors import NotFiniteError
from inception_v3.explain.attribution.rules import redirected
from inception_v3.explain.attribution.scores import check_mode, first_not_finite
from inception_v3.explain.pictures import Frames, Picture, Pixels, has_frame, to_frame, to_pixels
from inception_v3.explain.targets import Target, end_point_map, find_target
from inception_v3.inference.pipeline import not_finite
from inception_v3.network.architecture import Size, square
from inception_v3.support.arguments import Count, Range, Seed, check_fields, checked
from inception_v3.support.packages import require_packages
from inception_v3.weights.model import InceptionV3

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Side = Annotated[int, Range(1, 1024)]
# Called after each step with its number from 1, the activation and the picture.
OnStep = Callable[[int, float, Pixels], None]

# The square root of the covariance of the colours of ImageNet's pixels, as in Lucid: (red, green, blue) by component.
COLOURS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
START = 0.01  # the standard deviation of the first spectrum
CONTRAST = 0.25  # of the picture before the sigmoid
SHIFT, SCALE, ANGLE = 12.0, 0.1, 10.0  # the largest random changes: pixels, fraction, degrees
GREY = 0.5  # around the moved image
MAX_SILENT = 64  # steps without a gradient, after which the target counts as dead


@dataclass(frozen=True)
class VisualisationOptions:
    """How an image is optimised.

    Attributes:
        steps: of Adam.
        size: height and width of the image; None for the size of the network's input.
        seed: of the first image and the random transformations.
        learning_rate: of Adam.
        transforms: whether the image is moved by up to 12 pixels, scaled by up to 10 % and turned by up to 10 degrees
            in each step.

    Raises:
        TypeError, ValueError: an option with a wrong value.
    """

    steps: Count = 256
    size: Side | tuple[Side, Side] | None = None
    seed: Seed = 0
    learning_rate: Annotated[float, Range(above=0, maximum=100)] = 0.05
    transforms: bool = True

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, eq=False)
class Visualisation(Picture):
    """An image that excites a part of the network.

    Attributes:
        target: the name of the part, such as "Mixed_6b:12".
        pixels: the image, float32 (H, W, 3) from 0 to 1.
        start: the activation of the random image with which the optimisation starts.
        activation: that of `pixels`. Both are measured without transformations.
        activations: float64 (steps,), of the transformed image in each step.
        frames: images of the optimisation, at most 40, uint8 (h, w, 3).
    """

    target: str
    pixels: Pixels = field(repr=False)
    start: float
    activation: float
    activations: NDArray[np.float64] = field(repr=False)
    frames: Frames = field(repr=False)

    def plot(self) -> "Figure":
        """A matplotlib figure of the image, and of the activation in each step.

        Raises:
            InputError: no matplotlib.
        """
        require_packages(("matplotlib",), "plot()", "explain")
        from inception_v3.reports.plots import image_row

        return image_row((self.pixels,), (f"{self.target}: {self.activation:.3g}",), curve=self.activations)

    def as_dict(self) -> dict[str, Any]:
        """What a program reads of it, without the pixels."""
        return {
            "target": self.target,
            "size": list(self.pixels.shape[:2]),
            "steps": len(self.activations),
            "start": self.start,
            "activation": self.activation,
        }


@checked
def visualise(
    model: InceptionV3,
    target: str | Target | None = None,
    options: VisualisationOptions | None = None,
    *,
    class_name: str | int | None = None,
    direction: Any = None,
    on_step: OnStep | None = None,
) -> Visualisation:
    """Compute an image that excites an end point, channel, unit, direction or class of the network.

    The activation is the mean over the map of a channel, or of the product with a direction; of a class, its logit; of
    a whole end point, the mean square. On a CPU, equal arguments give equal bits with the same version of PyTorch and
    the same number of threads.

    Args:
        model: in evaluation mode.
        target: a name as `find_target` takes, such as "Mixed_6b:12", or its result.
        options: by default VisualisationOptions().
        class_name: the name or the number of a class, instead of a target.
        direction: numbers of shape (channels,), for the end point `target`.
        on_step: called after each step with its number, the activation and the picture.

    Raises:
        InputError: no such class; a file of a direction that cannot be read.
        ValueError: no such target; a model in training mode; a size that the network cannot take; outputs that are
            infinite or not a number; a target whose gradient is zero, as that of a dead channel.
    """
    check_mode(model)
    options = options or VisualisationOptions()
    if not isinstance(target, Target):
        target = find_target(model, target, class_name=class_name, direction=direction)
    size = square(options.size or model.image_size)
    generator = torch.Generator().manual_seed(options.seed)
    spectrum = first_spectrum(size, generator).to(next(model.parameters()).dtype).requires_grad_()
    optimizer = torch.optim.Adam([spectrum], lr=options.learning_rate)
    start = _measure(model, to_rgb(spectrum, size), target)
    activations, frames, silent = [], [], 0
    for step in range(1, options.steps + 1):
        theta = random_affine(size, generator) if options.transforms else None
        activation, gradient = _ascend(model, spectrum, size, theta, target)
        is_silent = not gradient.any()
        silent = silent + 1 if is_silent else 0
        if silent == min(MAX_SILENT, options.steps):
            fault = f"its gradient is zero for {silent} images in sequence, so no image can be found"
            raise ValueError(f"{target.name}: {fault}; it may be dead, so choose another channel or seed")
        if is_silent:
            with redirected():
                _, gradient = _ascend(model, spectrum, size, theta, target)
        spectrum.grad = -gradient
        optimizer.step()
        activations.append(activation)
        pixels = to_pixels(to_rgb(spectrum.detach(), size))
        if has_frame(step, options.steps):
            frames.append(to_frame(pixels, size))
        if on_step is not None:
            on_step(step, activation, pixels)
    final = _measure(model, to_rgb(spectrum, size), target)
    return Visualisation(target.name, pixels, start, final, np.array(activations), tuple(frames))


def activation_of(model: InceptionV3, rgb: Tensor, target: Target) -> Tensor:
    """The activation (N,) of a target for images (N, 3, H, W) from 0 to 1. Raises NotFiniteError."""
    images = model.preprocessing.scale(rgb * 255).to(next(model.parameters()))
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        activation = target.activation(end_point_map(model, images, target.end_point))
    if not torch.isfinite(activation).all():
        raise NotFiniteError(not_finite(target.name, first_not_finite(model, images.detach())))
    return activation


def _measure(model: InceptionV3, rgb: Tensor, target: Target) -> float:
    with torch.no_grad():
        return float(activation_of(model, rgb, target))


def _ascend(
    model: InceptionV3, spectrum: Tensor, size: Size, theta: Tensor | None, target: Target
) -> tuple[float, Tensor]:
    """The activation of the transformed image, and its gradient with respect to the spectrum."""
    with torch.enable_grad():
        rgb = to_rgb(spectrum, size)
        activation = activation_of(model, rgb if theta is None else moved(rgb, theta), target)
        return float(activation.detach()), torch.autograd.grad(activation.sum(), spectrum)[0]


def first_spectrum(size: Size, generator: torch.Generator) -> Tensor:
    """A random spectrum (1, 3, H, W // 2 + 1, 2): component by frequency, the real and the imaginary part."""
    return START * torch.randn(1, 3, size[0], size[1] // 2 + 1, 2, generator=generator)


def to_rgb(spectrum: Tensor, size: Size) -> Tensor:
    """The image (1, 3, H, W) with values from 0 to 1 of a spectrum.

    Each frequency is divided by its distance from zero, as the amplitudes of natural images fall. The components are
    mixed to red, green and blue by COLOURS.
    """
    height, width = size
    rows = torch.fft.fftfreq(height, dtype=spectrum.dtype)[:, None]
    columns = torch.fft.rfftfreq(width, dtype=spectrum.dtype)
    frequencies = (rows**2 + columns**2).sqrt().clamp(min=1 / max(size))
    components = torch.fft.irfft2(torch.view_as_complex(spectrum) / frequencies, s=size, norm="ortho")
    colours = spectrum.new_tensor(COLOURS)
    colours = colours / colours.norm(dim=0).max()
    return torch.einsum("rc,nchw->nrhw", colours, CONTRAST * components).sigmoid()


def random_affine(size: Size, generator: torch.Generator) -> Tensor:
    """A random matrix (1, 2, 3) for `moved`: the image moved, scaled and turned."""
    right, down, scale, angle = (2 * torch.rand(4, generator=generator, dtype=torch.float64) - 1).tolist()
    factor, turn, ratio = 1 / (1 + SCALE * scale), math.radians(ANGLE * angle), size[0] / size[1]
    cosine, sine = factor * math.cos(turn), factor * math.sin(turn)
    x, y = 2 * SHIFT * right / size[1], 2 * SHIFT * down / size[0]
    return torch.tensor([[[cosine, -sine * ratio, x], [sine / ratio, cosine, y]]])


def moved(rgb: Tensor, theta: Tensor) -> Tensor:
    """The images (N, 3, H, W) transformed by matrices (N, 2, 3), on a grey ground, in the same size."""
    grid = F.affine_grid(theta.to(rgb), list(rgb.shape), align_corners=False)
    return F.grid_sample(rgb - GREY, grid, padding_mode="zeros", align_corners=False) + GREY
