"""The options of an attribution and its result, with its picture. Nothing here needs PyTorch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inception_v3.explain.views import View
from inception_v3.reports.heat_maps import overlay
from inception_v3.reports.shown import png
from inception_v3.support.arguments import BatchSize, Count, Fraction, Seed, check_fields
from inception_v3.support.files import atomic_write, check_suffix
from inception_v3.support.text import printable

Head = Literal["Logits", "AuxLogits"]
MethodName = Literal[
    "grad-cam",
    "grad-cam++",
    "layer-cam",
    "integrated-gradients",
    "smooth-grad",
    "occlusion",
    "guided-backprop",
    "deep-lift",
    "gradient",
]
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
GREY = 0.5  # of pixels from 0 to 1: the baseline, and what covers an occluded position
FINER_MAP = "Mixed_6e"  # has at least 3x3 positions for every image; Mixed_7c may have one
SHOWN_QUANTILE = 0.995  # of pixel values, from which on the colour is that of the end of the scale


@dataclass(frozen=True)
class Kind:
    """What kind of values a method returns.

    Attributes:
        of_end_point: whether they belong to the map of an end point.
        is_signed: whether negative values speak against the class.
        is_complete: whether they should sum to the difference of the scores of the image and the baseline.
    """

    of_end_point: bool = False
    is_signed: bool = False
    is_complete: bool = False


KINDS: Mapping[str, Kind] = {
    "grad-cam": Kind(of_end_point=True),
    "grad-cam++": Kind(of_end_point=True),
    "layer-cam": Kind(of_end_point=True),
    "integrated-gradients": Kind(is_signed=True, is_complete=True),
    "smooth-grad": Kind(),
    "occlusion": Kind(is_signed=True),
    "guided-backprop": Kind(),
    "deep-lift": Kind(is_signed=True, is_complete=True),
    "gradient": Kind(),
}


@dataclass(frozen=True)
class AttributionOptions:
    """What is explained, and how.

    Attributes:
        method: the name of a method.
        class_name: the name or the index of the class; None for the class with the highest logit.
        end_point: for class activation maps, the end point whose map is used; None for the last one before the head.
        head: "Logits" or "AuxLogits".
        steps: points of integrated gradients.
        samples: images with noise of SmoothGrad.
        noise: the standard deviation of that noise, as a fraction of the range of the image's values.
        window: height and width of an occluded square in pixels of the network's input; None for a sixth of the shorter
            side.
        stride: pixels from one position to the next; None for half a window.
        seed: of the noise.
        batch_size: images at once.

    Raises:
        TypeError, ValueError: an option with a wrong value.
    """

    method: MethodName = "grad-cam"
    class_name: str | int | None = None
    end_point: str | None = None
    head: Head = "Logits"
    steps: Count = 50
    samples: Count = 50
    noise: Fraction = 0.15
    window: Count | None = None
    stride: Count | None = None
    seed: Seed = 0
    batch_size: BatchSize = 8

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Attribution:
    """How much the positions of an image contribute to the score of a class.

    Attributes:
        view: the image, and the part of it that the network sees.
        method: the name of the method.
        class_index, class_name: the class. Without class names, the name is the index.
        head: the head whose logit is explained.
        end_point: of whose map a class activation map is made, or None.
        score: the logit.
        values: float64 (h, w) of a class activation map or occlusion; (3, H, W) of a gradient, one for every value of
            the network's input.
        gap: for a method whose values should sum to the difference of the scores of the image and the baseline, how
            much their sum is above it.
    """

    view: View = field(repr=False)
    method: str
    class_index: int
    class_name: str
    head: str
    end_point: str | None
    score: float
    values: NDArray[np.float64] = field(repr=False)
    gap: float | None = None

    def numpy(self) -> NDArray[np.float64]:
        """The `values`."""
        return self.values

    @property
    def is_signed(self) -> bool:
        """Whether negative values speak against the class."""
        return KINDS[self.method].is_signed

    def map(self) -> NDArray[np.float64]:
        """One value for every position, (h, w): over the channels the sum, or without a sign the sum of the sizes."""
        if self.values.ndim == 2:
            return self.values
        return np.asarray(self.values.sum(0) if self.is_signed else np.abs(self.values).sum(0))

    @property
    def remark(self) -> str:
        """Why the values say little about positions: one line, or "" if there is nothing to remark."""
        values = self.map()
        if values.size == 1:
            fault = f"{self.end_point} is one position for images of this size, so its map says nothing"
            return f"{fault}; use {FINER_MAP}, or occlusion"
        if np.ptp(values) == 0:
            if self.end_point and not values.any():
                return (
                    f"no position of {self.end_point} raises the score of {self.class_name}: the map is zero everywhere"
                )
            return "the values are the same everywhere, so they say nothing about places"
        if len(self.view.image.getcolors(1) or ()) == 1:
            return "the image is of one colour: the positions differ only by the padding at the borders"
        return ""

    def plot(self) -> Image.Image:
        """The map in colours over the image, with its scale. Needs matplotlib (the extra `explain`)."""
        values = self.map()
        if self.values.ndim == 3:  # single pixels would take the whole scale
            limit = np.quantile(np.abs(values), SHOWN_QUANTILE)
            values = np.clip(values, -limit, limit)
        label = f"{self.method}, {printable(self.class_name)}"
        return overlay(self.view.image, values, self.view.box, label=label, signed=self.is_signed)

    def _repr_png_(self) -> bytes | None:
        """The picture, for a notebook."""
        return png(self)

    def save(self, path: str | Path) -> None:
        """Write the values as .npy, or the picture as .png, .jpg or .webp.

        Raises:
            InputError: another suffix.
        """
        path = Path(path)
        check_suffix(path, (".npy", *PICTURE_SUFFIXES), "an attribution")
        picture = None if path.suffix == ".npy" else self.plot()
        with atomic_write(path) as temporary:
            if picture is None:
                np.save(temporary, self.values)
            else:
                picture.save(temporary)

    def as_dict(self) -> dict[str, Any]:
        """What a program reads of it, without the values."""
        return {
            "image": self.view.name,
            "method": self.method,
            "class": self.class_name,
            "class_index": self.class_index,
            "head": self.head,
            "end_point": self.end_point,
            "score": self.score,
            "shape": list(self.values.shape),
            "box": list(self.view.box),
            "gap": self.gap,
            "remark": self.remark or None,
        }
