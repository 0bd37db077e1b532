"""Two networks made comparable: the layers of each, what each layer reads, and its values for images."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.choose import open_with_outputs
from inception_v3.inference.engines.base import Precision
from inception_v3.inference.exported.registry import read_description, recognise
from inception_v3.network.architecture import AUX_INPUT, BASE, BASE_END_POINTS, Mixed, feature_maps
from inception_v3.network.settings import Settings
from inception_v3.support.devices import pick_device
from inception_v3.weights.load import load
from inception_v3.weights.model import InceptionV3

Values = dict[str, Tensor]  # by the name of the layer
Pixels = NDArray[np.uint8]  # (N, H, W, 3)

CLASSIFIER, AUX_CLASSIFIER = CLASSIFIERS = "Logits/Conv2d_1c_1x1", "AuxLogits/Conv2d_2b_1x1"
LAST_POOL = "Logits/AvgPool_1a_8x8"
PRECISIONS: Mapping[torch.dtype, Precision] = {torch.bfloat16: "bf16", torch.float16: "fp16"}  # float64 counts as fp32


@dataclass(frozen=True)
class Outline:
    """The layers of a network for images of one size.

    Attributes:
        inputs: for each layer in the order of computation, the layers whose outputs it reads, joined along the
            channels; () for the images.
        parts: for each layer, branch and end point, the layers whose outputs, joined, are its values.
    """

    inputs: Mapping[str, tuple[str, ...]]
    parts: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, settings: Settings, size: tuple[int, int]) -> "Outline":
        """Raises ValueError: images too small for the network."""
        inputs: dict[str, tuple[str, ...]] = {}
        parts: dict[str, tuple[str, ...]] = {}
        net: tuple[str, ...] = ()
        points = settings.end_points(*size)
        base = {node.name: node for node in BASE}
        read: dict[str, tuple[str, ...]] = {}  # what a layer reads that reads this end point
        for point in points:
            node = base.get(point.name)
            if isinstance(node, Mixed):
                branches: list[str] = []
                for branch, steps in node.named_branches:
                    end = net
                    for step in steps:
                        tables = step if isinstance(step, tuple) else (step,)
                        names = tuple(f"{node.name}/{branch}/{table.name}" for table in tables)
                        inputs |= dict.fromkeys(names, end)
                        parts |= {name: (name,) for name in names}
                        end = names
                    parts[f"{node.name}/{branch}"] = end
                    branches += end
                net = tuple(branches)
            else:
                end = read[AUX_INPUT] if point.name == "AuxLogits" else net
                for layer in point.layers:
                    inputs[layer.name] = end
                    end = parts[layer.name] = (layer.name,)
                if point.name == "AuxLogits":
                    parts[point.name] = end
                    continue
                net = end
            if point.layers:
                parts[point.name] = read[point.name] = net
        return cls(inputs, parts)


@dataclass(frozen=True)
class ComparedNetwork:
    """A network in PyTorch or an exported file.

    Attributes:
        name: for messages.
        layers: the names of the layers whose values `run` returns.
        run: the values of layers for pixels (N, H, W, 3).
        model: the network in PyTorch; None for an exported file.
    """

    name: str
    settings: Settings
    preprocessing: Preprocessing
    class_names: list[str] | None
    precision: Precision
    layers: frozenset[str]
    run: Callable[[Pixels], Values] = field(repr=False)
    model: InceptionV3 | None = field(repr=False, default=None)

    @property
    def labels(self) -> list[str] | None:
        """The names of the logits; None without names, or for one logit of two classes."""
        return self.class_names if len(self.class_names or ()) == self.settings.num_classes else None


def open_network(
    network: InceptionV3 | str | Path, size: tuple[int, int] | None, device: str | None, name: str
) -> ComparedNetwork:
    """A network to compare on images of this size, by default its own.

    Raises InputError: it cannot be loaded, or does not take images of this size. Raises ValueError: in training mode.
    """
    if not isinstance(network, InceptionV3):
        name = str(network)
        if recognise(Path(network)):
            return _exported(Path(network), size)
        network = load(network, pick_device(device))
    if network.training:
        raise ValueError(f"{name}: the network is in training mode; call eval() on it first")
    return _in_pytorch(network, size or network.preprocessing.image_size, name)


def _in_pytorch(model: InceptionV3, size: tuple[int, int], name: str) -> ComparedNetwork:
    layers = [*_outline(model.settings, size, name).inputs]
    if size != model.image_size:  # its auxiliary head is built for another size
        layers = [layer for layer in layers if not layer.startswith("AuxLogits/")]
    weights = next(model.parameters())

    def run(pixels: Pixels) -> Values:
        images = network_input(model, pixels)
        try:
            return dict(model(images, end_points=layers)[1])
        except ValueError as error:
            raise InputError(f"{name}: {error}") from error

    precision = PRECISIONS.get(weights.dtype, "fp32")
    return ComparedNetwork(
        name, model.settings, model.preprocessing, model.class_names, precision, frozenset(layers), run, model
    )


def _exported(path: Path, size: tuple[int, int] | None) -> ComparedNetwork:
    """An exported file with the values of its layers among its outputs; the file stays as it is."""
    description = read_description(path)
    own = description.preprocessing.image_size
    if size is not None and size != own and not description.any_size:
        given = f"{own[0]}x{own[1]}, not of the first network's {size[0]}x{size[1]}"
        raise InputError(f"{path}: takes images of {given}; export it with --any-size, or give it first")
    outline = _outline(description.settings, size or own, str(path))
    # A head's layers have the names of end points in the file.
    heads = {parts[0]: name for name, parts in outline.parts.items() if name.split("/")[0] not in BASE_END_POINTS}
    names = {layer: heads.get(layer, layer) for layer in outline.inputs}
    run_file, outputs = open_with_outputs(path, [*outline.inputs, *heads.values()])
    names = {layer: layer if layer in outputs else name for layer, name in names.items() if {layer, name} & outputs}

    def run(pixels: Pixels) -> Values:
        values = run_file(pixels)
        maps = {layer: torch.from_numpy(values[name]) for layer, name in names.items()}
        return {layer: net if net.ndim == 4 else net[..., None, None] for layer, net in maps.items()}

    return ComparedNetwork(
        str(path),
        description.settings,
        description.preprocessing,
        description.class_names,
        description.precision,
        frozenset(names),
        run,
    )


def _outline(settings: Settings, size: tuple[int, int], name: str) -> Outline:
    try:
        return Outline.of(settings, size)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error


def network_input(model: InceptionV3, pixels: Pixels) -> Tensor:
    """The network's input (N, 3, H, W) for pixels (N, H, W, 3), by its own mean and standard deviation."""
    weights = next(model.parameters())
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    exact = images.double() if weights.dtype == torch.float64 else images
    return model.preprocessing.scale(exact).to(weights)


def run_one_layer(model: InceptionV3, name: str, net: Tensor) -> Tensor:
    """What one layer computes from its input (N, C, H, W)."""
    if model.settings.global_pool:
        if name == LAST_POOL:
            return net.mean((2, 3), keepdim=True)
        if name == AUX_CLASSIFIER:
            net = net.mean((2, 3), keepdim=True)
    layer: Tensor = model.get_submodule(name.replace("/", "."))(net)
    return layer


def joined(values: Mapping[str, Tensor], parts: Collection[str]) -> Tensor:
    """The values of several layers, joined along the channels."""
    tensors = [values[name] for name in parts]
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, 1)


def bytes_of_image(settings: Settings, size: tuple[int, int]) -> int:
    """The memory that the values of all layers for one image take, with those of their branches and modules."""
    maps = feature_maps(settings.end_points(*size)).values()
    return 4 * sum(each.channels * each.size[0] * each.size[1] for each in maps)
