"""What an image is optimised for: an end point, or one of its channels, units or directions, or a class."""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.explain.classes import find_class
from inception_v3.network.architecture import Size, unknown_end_point, with_inner
from inception_v3.network.network import InceptionV3Network
from inception_v3.support.system_errors import read_reason
from inception_v3.weights.model import InceptionV3

FORMS = "END_POINT:CHANNEL, such as Mixed_6b:12, Mixed_6b:12@centre, Mixed_6b:12@3,4 or Mixed_6b:direction.npy"
_TARGET = re.compile(
    r"(?P<end_point>[^:]*)(:(?P<channel>[0-9]{1,9}|.*\.npy))?(@(?P<place>centre|center|[0-9]{1,6},[0-9]{1,6}))?", re.S
)


@dataclass(frozen=True, eq=False)
class Target:
    """Units of a network whose activation is made large.

    Attributes:
        name: such as "Mixed_6b:12".
        end_point: the end point, branch or layer.
        direction: float64 (C,), the weights of the channels in the activation, of length 1; None for the mean square of
            all channels.
        place: the (row, column) of the only unit, "centre" for the one in the middle, or None for the mean over all.
    """

    name: str
    end_point: str
    direction: NDArray[np.float64] | None
    place: Size | Literal["centre"] | None = None

    def activation(self, maps: Tensor) -> Tensor:
        """The activations (N,) of the target in maps (N, C, h, w). Raises ValueError: the map has no such position."""
        if self.direction is None:
            values = maps.square().mean(1)
        else:
            values = torch.einsum("nchw,c->nhw", maps, torch.as_tensor(self.direction).to(maps))
        height, width = values.shape[1:]
        if self.place is None:
            return values.mean((1, 2))
        row, column = (height // 2, width // 2) if self.place == "centre" else self.place
        if row >= height or column >= width:
            fault = f"{self.end_point} has the rows 0 to {height - 1} and the columns 0 to {width - 1} at this size"
            raise ValueError(f"{self.name}: {fault}")
        return values[:, row, column]


def find_target(
    model: InceptionV3,
    name: str | None = None,
    *,
    class_name: str | int | None = None,
    direction: ArrayLike | None = None,
) -> Target:
    """The target of a name, of a class, or of a direction in the channels of the end point `name`.

    Args:
        model: whose end points and classes they are.
        name: an end point such as "Mixed_6b", with a channel: "Mixed_6b:12", or with a .npy file of a direction:
            "Mixed_6b:direction.npy". "@centre" or "@ROW,COLUMN" behind it is one unit of the map.
        class_name: the name or the number of a class, instead of `name`.
        direction: numbers of shape (channels,).

    Raises:
        InputError: no such class; a file that cannot be read or holds no direction.
        ValueError: no such end point or channel; a direction of another shape, of zeros, or that is not finite.
    """
    if class_name is not None:
        return _class_target(model, class_name)
    match = _TARGET.fullmatch(name or "")
    points = with_inner(model.settings.end_points())
    end_point = match["end_point"] if match else (name or "").split(":")[0]
    if end_point not in points:
        raise unknown_end_point(end_point, points)
    if not match or (match["channel"] and direction is not None):
        raise ValueError(f"{name}: is no target; give {FORMS}")
    assert name is not None
    channels, channel = points[end_point].channels, match["channel"]
    if channel and channel.endswith(".npy"):
        direction = _read_direction(channel)
    elif channel:
        if int(channel) >= channels:
            raise ValueError(f"{name}: {end_point} has the channels 0 to {channels - 1}")
        direction = np.eye(1, channels, int(channel))[0]
    unit = None if direction is None else _unit_vector(name, direction, channels)
    return Target(name, end_point, unit, _place(match["place"]))


def end_point_map(model: InceptionV3Network, images: Tensor, end_point: str) -> Tensor:
    """The map (N, C, h, w) of one end point for images (N, 3, H, W), 1x1 for logits. Raises as a call of the model."""
    names, module = (end_point,), end_point.split("/")[0]
    is_in_base = module in model.base_end_points
    net = (model.base(images, module, names) if is_in_base else model(images, end_points=names))[1][end_point]
    return net[:, :, None, None] if net.dim() == 2 else net


def _class_target(model: InceptionV3, class_name: str | int) -> Target:
    settings = model.settings
    if settings.final_endpoint:
        raise ValueError(f"this network ends at {settings.final_endpoint} and has no classes")
    names = model.class_names or [str(number) for number in range(settings.class_count)]
    index = find_class(class_name, names)
    if settings.class_count > settings.num_classes:  # one output with a sigmoid
        return Target(names[index], "Logits", np.array([2.0 * index - 1]))
    return Target(names[index], "Logits", np.eye(1, settings.num_classes, index)[0])


def _place(text: str | None) -> Size | Literal["centre"] | None:
    if text is None:
        return None
    if text.startswith("cent"):
        return "centre"
    row, column = map(int, text.split(","))
    return row, column


def _read_direction(file: str) -> NDArray[np.generic]:
    try:
        return np.asarray(np.load(file, allow_pickle=False))
    except OSError as error:
        if error.errno is not None:
            raise InputError(f"{file}: {read_reason(file, error)}", exit_status=2) from error
    except (ValueError, EOFError):
        pass
    raise InputError(f"{file}: is no NumPy array; write one with numpy.save", exit_status=2)


def _unit_vector(name: str, direction: ArrayLike, channels: int) -> NDArray[np.float64]:
    vector = np.asarray(direction)
    if vector.shape != (channels,) or vector.dtype.kind not in "fiu":
        fault = f"must be {channels} numbers, one for each channel, not {vector.dtype} of shape {vector.shape}"
        raise ValueError(f"{name}: the direction {fault}")
    vector = vector.astype(np.float64)
    length = float(np.linalg.norm(vector))
    if not 0 < length < np.inf:
        raise ValueError(f"{name}: the direction must have finite values, not all of them zero")
    return np.asarray(vector / length)
