"""DeepDream: an image changed so that an end point of the network is excited more by what it finds in it.

Source: Mordvintsev, Olah and Tyka, "Inceptionism: Going Deeper into Neural Networks" (Google Research, 2015). The image
is changed at several scales, from the smallest (an octave each), and moved at random before each step. Large images are
computed in tiles, so that the memory for gradients is that of one tile.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from inception_v3.errors import InputError
from inception_v3.explain.attribution.scores import check_mode
from inception_v3.explain.pictures import Frames, Picture, Pixels, has_frame, to_frame, to_pixels
from inception_v3.explain.targets import Target, find_target
from inception_v3.explain.views import View, view_of
from inception_v3.explain.visualisation import OnStep, activation_of
from inception_v3.inference.predict import ImageInput
from inception_v3.network.architecture import Size, minimum_size
from inception_v3.support.arguments import Count, Range, Seed, check_fields, checked
from inception_v3.support.packages import require_packages
from inception_v3.weights.model import InceptionV3

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_PIXELS = 20_000_000  # of an image: 1.5 GB for the copies of it
TILE = 400  # pixels: the longest side of a tile, 0.4 GB for its gradient
JITTER = 32  # pixels by which an image of one tile is moved; one of several tiles is moved by up to a tile
DEFAULT_TARGET = "Mixed_6c"


@dataclass(frozen=True)
class DreamOptions:
    """How an image is changed.

    Attributes:
        octaves: the number of scales. Those too small for the network are left out.
        octave_scale: the ratio of the sides of two octaves.
        steps: in each octave.
        step_size: how much a step changes a pixel, as a mean over the image, in levels of 0 to 255.
        seed: of the random moves.

    Raises:
        TypeError, ValueError: an option with a wrong value.
    """

    octaves: Annotated[int, Range(1, 20)] = 4
    octave_scale: Annotated[float, Range(above=1, maximum=10)] = 1.4
    steps: Count = 10
    step_size: Annotated[float, Range(above=0, maximum=255)] = 1.5
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, eq=False)
class Dream(Picture):
    """An image changed by DeepDream.

    Attributes:
        image_name: the name of the image, such as its path.
        target: what was excited, such as "Mixed_6c".
        original, pixels: the image before and after, float32 (H, W, 3) from 0 to 1.
        start, activation: the activation of the target before and after: the mean square of an end point, or the mean
            of a channel.
        frames: images in between, at most 40, uint8 (h, w, 3).
    """

    image_name: str
    target: str
    original: Pixels = field(repr=False)
    pixels: Pixels = field(repr=False)
    start: float
    activation: float
    frames: Frames = field(repr=False)

    def plot(self) -> "Figure":
        """A matplotlib figure of the image before and after.

        Raises:
            InputError: no matplotlib.
        """
        require_packages(("matplotlib",), "plot()", "explain")
        from inception_v3.reports.plots import image_row

        name = f"{self.target}: "
        return image_row((self.original, self.pixels), (f"{name}{self.start:.3g}", f"{name}{self.activation:.3g}"))

    def as_dict(self) -> dict[str, Any]:
        """What a program reads of it, without the pixels."""
        return {
            "image": self.image_name,
            "target": self.target,
            "size": list(self.pixels.shape[:2]),
            "start": self.start,
            "activation": self.activation,
        }


@checked
def dream(
    model: InceptionV3,
    image: ImageInput | View,
    target: str | Target = DEFAULT_TARGET,
    options: DreamOptions | None = None,
    *,
    on_step: OnStep | None = None,
) -> Dream:
    """Change an image so that it excites an end point, channel or direction of the network more. The size stays.

    On a CPU, equal arguments give equal bits with the same version of PyTorch and the same number of threads.

    Args:
        model: in evaluation mode.
        image: a path, a Pillow image, an array, or a View.
        target: a name as `find_target` takes, such as "Mixed_6c" or "Mixed_6c:12", or its result.
        options: by default DreamOptions().
        on_step: called after each step with its number, the activation and the picture.

    Raises:
        InputError: the image cannot be read, is too small for the end point, or has more than MAX_PIXELS.
        ValueError: no such target, or one behind the base; a model in training mode; outputs that are infinite or not
            a number; a target whose gradient is zero.
    """
    check_mode(model)
    options = options or DreamOptions()
    target = check_target(model, target if isinstance(target, Target) else find_target(model, target))
    view = image if isinstance(image, View) else view_of(image, model.preprocessing)
    original = (pil_to_tensor(view.image)[None].to(next(model.parameters()).dtype) / 255).cpu()
    sizes = octave_sizes(view, minimum_size(target.end_point.split("/")[0]), options)
    generator = torch.Generator().manual_seed(options.seed)
    rgb, smaller, frames, moves = original, None, [], False
    steps = len(sizes) * options.steps
    for octave, size in enumerate(sizes):
        base = _resized(original, size)
        rgb = base if smaller is None else (base + _resized(rgb - smaller, size)).clamp(0, 1)
        smaller = base
        for step in range(octave * options.steps + 1, (octave + 1) * options.steps + 1):
            activation, gradient = _moved_gradient(model, rgb, target, generator)
            moves |= bool(gradient.any())
            rgb = (rgb + options.step_size / 255 * gradient / (gradient.abs().mean() + 1e-12)).clamp(0, 1)
            if has_frame(step, steps):
                frames.append(to_frame(to_pixels(rgb), sizes[-1]))
            if on_step is not None:
                on_step(step, activation, to_pixels(rgb))
    if not moves:
        fault = "its gradient is zero everywhere in this image"
        raise ValueError(f"{target.name}: {fault}; it may be dead, so choose another channel or image")
    start, final = (_measure(model, each, target) for each in (original, rgb))
    return Dream(view.name, target.name, to_pixels(original), to_pixels(rgb), start, final, tuple(frames))


def check_target(model: InceptionV3, target: Target) -> Target:
    """Return the target. Raises ValueError: it is one unit, or not in the base, so that it has no map of any size."""
    if target.end_point.split("/")[0] not in model.base_end_points or target.place is not None:
        fault = "a dream excites a whole map of the base"
        raise ValueError(f"{target.name}: {fault}; give an end point such as {model.base_end_points[-1]}, or a channel")
    return target


def octave_sizes(view: View, minimum: int, options: DreamOptions) -> list[Size]:
    """The (height, width) of each octave, the image's own last. Raises InputError: the image is too small or large."""
    width, height = view.image.size
    if width * height > MAX_PIXELS:
        fault = f"{width}x{height} pixels are more than the limit of {MAX_PIXELS:,}"
        raise InputError(f"{view.name}: {fault}; make the image smaller")
    if min(width, height) < minimum:
        fault = f"an image of {width}x{height} pixels; this end point needs {minimum}x{minimum}"
        raise InputError(f"{view.name}: {fault}; give a larger image, or an end point nearer to the input")
    ratios = [options.octave_scale**-octave for octave in reversed(range(options.octaves))]
    sizes = [(round(height * ratio), round(width * ratio)) for ratio in ratios]
    return [size for size in sizes if min(size) >= minimum]


def tiles(size: Size) -> Iterator[tuple[slice, slice]]:
    """The rows and columns of each tile of an image: all of about the same size, at most TILE."""

    def parts(length: int) -> list[slice]:
        count = -(-length // TILE)
        edges = [length * number // count for number in range(count + 1)]
        return [slice(first, last) for first, last in pairwise(edges)]

    return ((rows, columns) for rows in parts(size[0]) for columns in parts(size[1]))


def _moved_gradient(
    model: InceptionV3, rgb: Tensor, target: Target, generator: torch.Generator
) -> tuple[float, Tensor]:
    """The activation of an image (1, 3, H, W), and its gradient. The image is moved at random, and back."""
    height, width = rgb.shape[2:]
    limits = (JITTER, JITTER) if max(height, width) <= TILE else (height, width)
    moves = [int(torch.randint(limit, (1,), generator=generator)) for limit in limits]
    rolled = rgb.roll(moves, (2, 3))
    gradient = torch.empty_like(rolled)

    def of_tile(rows: slice, columns: slice) -> float:
        with torch.enable_grad():
            tile = rolled[:, :, rows, columns].contiguous().requires_grad_()
            activation = activation_of(model, tile, target)
            # The activation is a mean over positions, so the gradient of a small tile would be larger.
            gradient[:, :, rows, columns] = torch.autograd.grad(activation.sum() * _share(rgb, tile), tile)[0]
        return float(activation.detach()) * _share(rgb, tile)

    total = sum(of_tile(*each) for each in tiles((height, width)))
    return total, gradient.roll([-move for move in moves], (2, 3))


def _share(whole: Tensor, part: Tensor) -> float:
    return part[0, 0].numel() / whole[0, 0].numel()


def _measure(model: InceptionV3, rgb: Tensor, target: Target) -> float:
    with torch.no_grad():
        parts = [rgb[:, :, rows, columns] for rows, columns in tiles((rgb.shape[2], rgb.shape[3]))]
        return sum(float(activation_of(model, part, target)) * _share(rgb, part) for part in parts)


def _resized(rgb: Tensor, size: Size) -> Tensor:
    if rgb.shape[2:] == size:
        return rgb
    return F.interpolate(rgb, size, mode="bilinear", antialias=True, align_corners=False)
