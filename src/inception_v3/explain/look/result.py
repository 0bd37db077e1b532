"""What a page about an image shows, as values that JSON can hold. Nothing here needs PyTorch.

Maps are PNG files in data URIs: gray levels 0 to 255 from the lowest to the highest value of a map.
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from inception_v3.explain.look.page import ModelFacts, PageOptions, write_look
from inception_v3.network.architecture import Size
from inception_v3.support.files import check_suffix

MAX_CAM_CLASSES = 3
PAGE_SUFFIXES = (".html", ".htm")


@dataclass(frozen=True)
class Channels:
    """The strongest channels of a part of the network: those with the largest mean over the positions of the image.

    Attributes:
        shape: the output's (height, width, channels) in this image.
        numbers: of the channels, strongest first.
        low, high: of each, the gray levels 0 and 255 of its map.
        peaks: of each, the (row, column) of its largest value.
        sprite: their maps below each other, each of size `map_size`; "" for maps of one position.
        map_size: (height, width) of a map in the sprite; those of a large image are reduced.
        silent: the number of channels that are zero everywhere.
        not_finite: the number of values that are infinite or NaN.
        low_of_all, high_of_all: the lowest and the highest value of all channels.
    """

    shape: tuple[int, int, int]
    numbers: list[int]
    low: list[float]
    high: list[float]
    peaks: list[Size]
    sprite: str
    map_size: Size
    silent: int
    not_finite: int
    low_of_all: float
    high_of_all: float


@dataclass(frozen=True)
class Field:
    """The effective receptive field of the centre unit, see explain/effective_fields.py.

    Attributes:
        unit: the (row, column) of the unit.
        size: the side of the square that holds 95 % of the gradient, in pixels of the network's input.
        map: the absolute gradient over the whole input, reduced, as a data URI.
    """

    unit: Size
    size: int
    map: str


@dataclass(frozen=True)
class Prediction:
    """A class and its probability, or its output if the outputs are no probabilities."""

    index: int
    name: str
    value: float


@dataclass(frozen=True)
class Cam:
    """Grad-CAM of one class: for each end point its map as a data URI, and the map's largest value."""

    index: int
    name: str
    maps: dict[str, str]
    high: dict[str, float]


@dataclass(frozen=True)
class Silenced:
    """The outputs of the network without one branch: those of the listed classes, and the new top class."""

    name: str
    values: list[float]
    top: Prediction


@dataclass(frozen=True)
class LookOptions:
    """What is computed.

    Attributes:
        top: the number of classes that are listed.
        class_name: the name or the number of a further class for which Grad-CAM is computed, the first to be shown;
            None for the top class.
        channels: the number of strongest channels of an end point.
        inner_channels: the number of those of a branch or a layer inside an end point.
    """

    top: int = 5
    class_name: str | int | None = None
    channels: int = 12
    inner_channels: int = 8


@dataclass(frozen=True)
class Look:
    """An image, and what the network computes from it.

    Attributes:
        model: what the page shows of the network.
        name: of the image.
        size: its (height, width).
        picture: the image, reduced, as a data URI.
        input: the network's input, as a data URI.
        box: the part of the image that the input shows: (left, top, right, bottom) in the image's pixels.
        parts: the values of each end point, branch and layer, by name.
        fields: the effective receptive fields of the end points, by name.
        heads: the top classes of each head, by the name of its end point.
        cams: Grad-CAM of the first classes.
        silenced: the outputs without each branch.
        not_finite_from: the first part with infinite values or NaN; "image" if they are in the image; None without any.
        missing: what could not be computed: a key of the page's texts for each of "parts", "fields", "heads", "aux",
            "cams", "silenced" that is incomplete.
    """

    model: ModelFacts = field(repr=False)
    name: str
    size: Size
    picture: str = field(repr=False)
    input: str = field(repr=False)
    box: tuple[float, float, float, float]
    parts: dict[str, Channels] = field(repr=False, default_factory=dict)
    fields: dict[str, Field] = field(repr=False, default_factory=dict)
    heads: dict[str, list[Prediction]] = field(default_factory=dict)
    cams: list[Cam] = field(repr=False, default_factory=list)
    silenced: list[Silenced] = field(repr=False, default_factory=list)
    not_finite_from: str | None = None
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def main(self) -> list[Prediction]:
        """The top classes of the main head; empty if they could not be computed."""
        return self.heads.get("Logits", [])

    def with_results(self, **results: Any) -> "Look":
        """A copy with other attributes."""
        return replace(self, **results)

    def as_dict(self) -> dict[str, Any]:
        """What the page's script reads of the image: all attributes but `model`, as values that JSON can hold."""
        values = asdict(self)
        del values["model"]
        return values

    def save(self, path: str | Path, options: PageOptions | None = None) -> None:
        """Write the page of this image, as .html.

        Raises:
            InputError: another suffix; it cannot be written.
        """
        check_suffix(Path(path), PAGE_SUFFIXES, "a page")
        write_look(Path(path), self.model, [self.as_dict()], options or PageOptions())
