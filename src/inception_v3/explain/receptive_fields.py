"""The receptive field of every end point, branch and layer, derived from the tables of network/architecture.py.

Sizes, strides and paddings are those of Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural
Networks" (Distill, 2019), and of their program google-research/receptive_field. Nothing here needs PyTorch.
"""

from dataclasses import dataclass
from html import escape

from inception_v3.network.architecture import Length, Size, feature_maps, square
from inception_v3.network.settings import Settings
from inception_v3.support.arguments import check
from inception_v3.support.text import suggest

Region = tuple[int, int, int, int]  # (top, left, bottom, right) in pixels of the image; bottom and right are exclusive


@dataclass(frozen=True)
class ReceptiveField:
    """The region of the image on which a unit of a feature map depends. All pairs are (height, width) in pixels.

    Unit (row, column) depends on no pixel outside the rectangle `region(row, column)`, and on its first and last row
    and column. After branches of unequal shape, such as 1x3 beside 3x1, the corners of the rectangle may have no
    influence. A part of the rectangle outside the image is padding.

    Attributes:
        name: the end point, branch or layer.
        size: of the rectangle. If branches are joined, it is the smallest rectangle around theirs.
        stride: the distance between the rectangles of neighbouring units (the effective stride).
        padding: the distance by which the rectangle of unit (0, 0) starts above and to the left of the image (the
            effective padding).
    """

    name: str
    size: Size
    stride: Size
    padding: Size

    def _repr_html_(self) -> str:
        """The values as a table, for a notebook."""
        pairs = {"field": self.size, "stride": self.stride, "padding": self.padding, "centre": self.centre}
        head = "".join(f"<th>{name}</th>" for name in ("end point", *pairs))
        cells = "".join(f"<td>{height}x{width}</td>" for height, width in pairs.values())
        return f"<table><tr>{head}</tr><tr><td>{escape(self.name)}</td>{cells}</tr></table>"

    @property
    def centre(self) -> Size:
        """The pixel (row, column) in the middle of the rectangle of unit (0, 0).

        The middle of unit (row, column) is `centre + (row, column) * stride`. Every size is odd, so it is a pixel.
        """
        return (self.size[0] - 1) // 2 - self.padding[0], (self.size[1] - 1) // 2 - self.padding[1]

    def region(self, row: int, column: int) -> Region:
        """The rectangle of a unit. It may start at negative rows and columns and end beyond the image."""
        top, left = row * self.stride[0] - self.padding[0], column * self.stride[1] - self.padding[1]
        return top, left, top + self.size[0], left + self.size[1]

    def padding_share(self, row: int, column: int, image_size: Size) -> float:
        """The fraction of a unit's rectangle that lies outside an image of this (height, width)."""
        top, left, bottom, right = self.region(row, column)
        inside = (min(bottom, image_size[0]) - max(top, 0)) * (min(right, image_size[1]) - max(left, 0))
        return 1 - inside / (self.size[0] * self.size[1])


def all_receptive_fields(
    image_size: int | Size = (299, 299), settings: Settings | None = None
) -> dict[str, ReceptiveField]:
    """The receptive fields of all end points by name, each followed by those of its branches and layers.

    Args:
        image_size: height and width, or one number for both. Only the heads depend on it: their pools and the
            convolution of the auxiliary head shrink to a smaller map.
        settings: the options of the network, such as `model.settings`; None means TF-Slim's network.

    Raises:
        TypeError: an image size of another type.
        ValueError: an image too small for the network.
    """
    height, width = square(check("image_size", image_size, Length | Size))
    points = (settings or Settings()).end_points(height, width)
    maps = feature_maps(points).items()
    return {name: ReceptiveField(name, map.receptive_field, map.jump, map.padding) for name, map in maps}


def receptive_field(name: str, image_size: int | Size = (299, 299), settings: Settings | None = None) -> ReceptiveField:
    """The receptive field of one end point, branch or layer, such as "Mixed_5b/Branch_1". See `all_receptive_fields`.

    Raises:
        TypeError: a name or an image size of another type.
        ValueError: a name that the network does not have, with the most similar one; an image too small.
    """
    name = check("name", name, str)
    fields = all_receptive_fields(image_size, settings)
    if name not in fields:
        known = sorted(fields, key=lambda known: known.count("/"))  # modules first, then branches, then layers
        raise ValueError(f"no end point {name!r} in this network; {suggest(name, known)}")
    return fields[name]
