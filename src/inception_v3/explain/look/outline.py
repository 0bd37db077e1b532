"""The parts of a network as the page lists them: end points, branches and layers with their figures. No PyTorch."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from inception_v3.explain.receptive_fields import all_receptive_fields
from inception_v3.network.architecture import Conv, Dense, EndPoint, Layer, Pool, Size
from inception_v3.network.describe import branch_lines
from inception_v3.network.settings import Settings

Kind = Literal["end point", "branch", "layer"]


@dataclass(frozen=True)
class Part:
    """An end point, a branch or a layer.

    Attributes:
        name: such as "Mixed_5b/Branch_1".
        kind: what it is. A layer that is an end point by itself is an end point.
        parent: the name of the part that it is in; "" for an end point.
        shape: the output's (height, width, channels).
        parameters, macs: as in `describe`.
        built_as: its branches in the notation of `describe`, with the channels of this network; empty for a
            layer inside another part.
        operation: of a single layer "conv", "max", "avg" or "dense"; "" for others.
        kernel, stride, padding, in_channels: of a single layer.
        field, jump, offset: the receptive field of unit (0, 0) is a rectangle of the size `field` that starts `offset`
            pixels above and to the left of the input; the next unit's is `jump` pixels further. All (height, width).
    """

    name: str
    kind: Kind
    parent: str
    shape: tuple[int, int, int]
    parameters: int
    macs: int
    built_as: list[str]
    operation: str
    kernel: Size | None
    stride: int
    padding: str
    in_channels: int
    field: Size
    jump: Size
    offset: Size


def settings_for(settings: Settings, size: Size) -> Settings:
    """The settings for images of a size, (height, width). An auxiliary head that was built for another is left out."""
    if size == settings.image_size:
        return settings
    return settings | {"image_size": size, "create_aux_logits": False}


def outline(settings: Settings) -> list[Part]:
    """The parts of a network for images of its size: each end point, then those inside it."""
    height, width = settings.image_size
    fields = all_receptive_fields((height, width), settings)
    parts = []
    for point in settings.end_points(height, width):
        notation = _built_as(point, settings)
        points = [point, *sorted(point.inner, key=lambda each: _order(point, each.name))]
        for each in points:
            branch = each.name.count("/") == 1 and "/Branch_" in each.name
            kind: Kind = "end point" if each is point else "branch" if branch else "layer"
            built = notation if each is point else [notation[int(each.name[-1])]] if branch else []
            parts.append(_part(each, kind, built, fields))
    return parts


def _built_as(point: EndPoint, settings: Settings) -> list[str]:
    """The branches of an end point as in `branch_lines`; for Predictions, this network's activation."""
    if point.name == "Predictions":
        return [] if settings.output_activation == "none" else [settings.output_activation]
    return branch_lines(point)


def _order(point: EndPoint, name: str) -> tuple[int, int, int]:
    """Branches in their order, each before its layers."""
    names = [each.name for each in point.inner]
    branch = "/".join(name.split("/")[:2])
    return names.index(branch), name.count("/"), names.index(name)


def _part(point: EndPoint, kind: Kind, built: list[str], fields: dict[str, Any]) -> Part:
    layer: Layer | None = point.layers[0] if len(point.layers) == 1 and kind != "branch" else None
    field = fields[point.name]
    return Part(
        name=point.name,
        kind=kind,
        parent=point.name.rpartition("/")[0],
        shape=(point.height, point.width, point.channels),
        parameters=point.parameters,
        macs=point.macs,
        built_as=built,
        operation=_operation(layer),
        kernel=layer.kernel if layer else None,
        stride=layer.table.stride if layer else 1,
        padding=layer.table.padding if layer else "",
        in_channels=layer.in_channels if layer else 0,
        field=field.size,
        jump=field.stride,
        offset=field.padding,
    )


def _operation(layer: Layer | None) -> str:
    match layer.table if layer else None:
        case Conv():
            return "conv"
        case Pool(kind=kind):
            return kind
        case Dense():
            return "dense"
    return ""


def layers_of(settings: Settings) -> dict[str, tuple[str, ...]]:
    """For each part, the names of the layers whose outputs, joined along the channels, are its output."""
    layers: dict[str, tuple[str, ...]] = {}
    for point in settings.end_points():
        ends = [tuple(layer.name for layer in steps[-1]) for steps in point.branches if steps]
        branches = [each.name for each in point.inner_branches]
        layers |= {each.name: (each.name,) for each in point.inner if not each.inner}
        layers |= dict(zip(branches, ends, strict=True)) if branches else {}
        layers[point.name] = tuple(name for end in ends for name in end) if branches else (point.name,)
    return layers


def as_dicts(parts: list[Part]) -> list[dict[str, Any]]:
    """The parts as values that JSON can hold."""
    return [asdict(part) for part in parts]
