"""How images are scaled by what stands in front of a network in a file of PyTorch: a mean and a std.

A module around the network may hold both as buffers, and a whole model may have a `Normalize` in front of it. They
become preprocessing. A module in front of the network whose effect is not known is refused.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from inception_v3.network.architecture import BASE_END_POINTS
from inception_v3.weights.facts import IMAGENET_MEAN_STD, Channels, after_transform_input
from inception_v3.weights.formats.pickled import Instance
from inception_v3.weights.formats.state_dict_search import (
    WRAPPERS,
    Candidate,
    named_modules,
    own_tensors,
    submodules,
)
from inception_v3.weights.formats.torch_file import StoredTensor
from inception_v3.weights.formats.torch_heads import NO_EFFECT, SEQUENCES, HeadError, join_names, simple_name

NAME = re.compile(r"(?:.*[._])?(?<!running_)(?<!moving_)(mean|std)", re.IGNORECASE)
HALF: tuple[Channels, Channels] = ((0.5,) * 3, (0.5,) * 3)
PASSING = (*NO_EFFECT, "QuantStub", "ToDtype", "ConvertImageDtype")  # modules that leave images as they are


@dataclass(frozen=True)
class Scaling:
    """The mean and the std of images, for pixels in [0, 1], and where they come from."""

    mean: Channels
    std: Channels
    source: str

    def behind(self, transforms: bool | None) -> tuple[Channels, Channels, str]:
        """The mean and std of the network's own input, and what is assumed about them, or "".

        `transforms` is torchvision's `transform_input`, None if it is not known. The networks that torchvision loads
        with weights have it, and these read images with ImageNet's mean and std.
        """
        are_imagenets = _are_close((self.mean, self.std), IMAGENET_MEAN_STD)
        if transforms or (transforms is None and are_imagenets):
            mean, std = IMAGENET_MEAN_STD if are_imagenets else (self.mean, self.std)
            mean, std = after_transform_input(mean, std)
            line = f"its {self.source} are ImageNet's, and torchvision's transform_input is assumed behind them "
            return mean, std, "" if transforms else f"{line}(--no-transform replaces this)"
        line = f"its {self.source} scale the images, and no transform_input is assumed behind them "
        is_known = transforms is False or _are_close((self.mean, self.std), HALF)
        return self.mean, self.std, "" if is_known else f"{line}(--mean, --std and --transform-input replace this)"


@dataclass
class Front:
    """What stands in front of a network. `names` are the tensors and modules that belong to it."""

    scaling: Scaling | None = None
    names: set[str] = field(default_factory=set)
    unclear: list[str] = field(default_factory=list)  # a mean and a std whose use is not certain


def _are_close(ours: tuple[Channels, Channels], theirs: tuple[Channels, Channels]) -> bool:
    pairs = zip((*ours[0], *ours[1]), (*theirs[0], *theirs[1]), strict=True)
    return all(abs(left - right) <= 5e-4 for left, right in pairs)


def scaling_of(mean: Any, std: Any, source: str) -> Scaling | None:
    """The scaling by a mean and a std, each a number or one for each channel, for pixels to 1 or to 255.

    None: no such numbers, or it is not certain for which pixels they are.
    """
    means, stds = _channels(mean), _channels(std)
    if means is None or stds is None or min(stds) <= 0:
        return None
    if min(means) >= 0 and max(means) <= 1 and max(stds) <= 1:
        return Scaling(means, stds, source)
    if min(means) > 1 and max(means) <= 255 and min(stds) > 1 and max(stds) <= 255:
        red, green, blue = (value / 255 for value in means)
        return Scaling((red, green, blue), (stds[0] / 255, stds[1] / 255, stds[2] / 255), source)
    return None


def _channels(value: Any) -> Channels | None:
    values = value.double().flatten().tolist() if isinstance(value, Tensor) else value
    values = list(values) if isinstance(values, list | tuple) else [values]
    if len(values) not in (1, 3) or not all(type(each) in (int, float) for each in values):
        return None
    red, green, blue = (round(float(each), 7) for each in values * (3 // len(values)))
    return red, green, blue


def find_front(candidate: Candidate, read: Callable[[StoredTensor], Tensor]) -> Front:
    """What stands in front of a network in its file. Raises HeadError: a module whose effect is not known."""
    front = Front()
    root, scope = candidate.state.modules.get(""), candidate.prefix.removesuffix(".")
    if root is None:
        others = [prefix for prefix in candidate.prefixes if prefix != candidate.prefix]
        values = {name: each for name, each in candidate.state.tensors.items() if not name.startswith(tuple(others))}
    else:
        _note_modules_before(root, scope, front)
        values = dict(_constants(root, scope, front))
    pairs: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if match := NAME.fullmatch(name):
            pairs.setdefault(name[: match.start(1)], {})[match[1].lower()] = value
            front.names.add(name)
    found: list[Scaling] = []
    for stem, pair in pairs.items():
        source = " and ".join(f"{stem}{part}" for part in pair)
        numbers = {part: _read(value, read) for part, value in pair.items()}
        scaling = scaling_of(numbers.get("mean"), numbers.get("std"), source)
        if scaling is None:
            front.unclear.append(source)
        else:
            found.append(scaling)
    if len(found) == 1:
        front.scaling = found[0]
    else:
        front.unclear += [each.source for each in found]
    return front


def _read(value: Any, read: Callable[[StoredTensor], Tensor]) -> Any:
    """The values of a small tensor of floats; any other value as it is."""
    is_small = isinstance(value, StoredTensor) and value.storage.dtype.startswith(("float", "bfloat"))
    is_small = is_small and sum(length > 1 for length in value.shape) <= 1 and max((*value.shape, 1)) <= 3
    return read(value) if is_small else value


def _constants(root: Instance, scope: str, front: Front) -> Iterator[tuple[str, Any]]:
    """The buffers and attributes called mean or std of a model outside its network's layers, by their full names."""
    inside = tuple(join_names(scope, f"{name}.") for name in (*BASE_END_POINTS, "AuxLogits"))
    for name, module in named_modules(root):
        if not f"{name}.".startswith(inside):
            for own, value in (module.attributes | own_tensors(module)).items():
                if NAME.fullmatch(own):
                    front.names.add(name)
                    yield join_names(name, own), value


def _note_modules_before(module: Instance, scope: str, front: Front, name: str = "") -> None:
    """Note the modules of a Sequential that stand in front of a network. Raises HeadError: not known what they do."""
    if name == scope:
        return
    for own, child in submodules(module).items():
        child_name = name if own in WRAPPERS else join_names(name, own)
        if f"{scope}.".startswith(f"{child_name}.") or own in WRAPPERS:
            _note_modules_before(child, scope, front, child_name)
            return
        if simple_name(module) in SEQUENCES:
            front.names.add(child_name)
            if simple_name(child) not in PASSING and not _has_scaling(child):
                raise HeadError(
                    f"has {child_name} of the class {simple_name(child)} in front of the network, which cannot be "
                    "computed here"
                )


def _has_scaling(module: Instance) -> bool:
    names = {*module.attributes, *own_tensors(module)}
    return {"mean", "std"} <= {match[1].lower() for name in names if (match := NAME.fullmatch(name))}
