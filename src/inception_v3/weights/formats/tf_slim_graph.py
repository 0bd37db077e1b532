"""The graph of TF-Slim's Inception V3 that is frozen in a file or stored in a SavedModel: what it does with images.

The graph's scaling of images, epsilon, pools and output activation become settings. Then the graph is run once, and
its logits are compared with those of the network that was read, so that no other network passes for this one.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.architecture import BASE_END_POINTS
from inception_v3.network.network import InceptionV3Network
from inception_v3.network.settings import Settings
from inception_v3.support.text import one_line
from inception_v3.weights.formats.graphdef import (
    FUSED,
    PASSED_ON,
    SUMS,
    UINT8,
    VARIABLES,
    Graph,
    GraphError,
    Node,
    UnknownValueError,
    first_message,
    read_fields,
    read_messages,
)
from inception_v3.weights.formats.tf_slim_names import FIRST, LAST, LOGITS, NO_LOGITS, split_name, unfolded_name
from inception_v3.weights.formats.weights import Weights, convolutions, state_name, to_torch

LIMIT = 1e-4  # a larger difference, relative to the largest output, is that of another network
RESHAPES = (*PASSED_ON, "Squeeze", "Reshape", "ExpandDims")
DECODERS = ("DecodeJpeg", "DecodePng", "DecodeImage", "DecodeBmp", "DecodeGif")
IMAGE_SOURCES = ("Placeholder", "PlaceholderWithDefault", "IteratorGetNext", *DECODERS)
ACTIVATIONS = {"Softmax": "softmax", "Sigmoid": "sigmoid"}
# Operations behind the logits that do not change them.
READERS = ("ArgMax", "TopKV2", "LogSoftmax", "Shape", "NoOp", "InTopKV2", "SparseSoftmaxCrossEntropyWithLogits")


@dataclass
class SlimGraph:
    """The network's layers in a graph: the convolution of each layer, by its name below `scope`."""

    graph: Graph
    scope: str
    layers: dict[str, Node]
    epsilon: float = 0.001
    assumed: dict[str, str] = field(default_factory=dict)

    @property
    def has_logits(self) -> bool:
        return LOGITS in self.layers

    @property
    def last(self) -> str:
        """The last end point of a network without logits."""
        return BASE_END_POINTS[-1]

    @property
    def undetermined(self) -> tuple[str, ...]:
        """The options that neither the graph nor a convention determines: the activation of one output."""
        one = self.has_logits and self._constant(self.layers[LOGITS].inputs[1]).shape[-1] == 1
        return ("output_activation",) if one and self.activation() is None else ()

    def left_out(self) -> list[str]:
        """A line about each part of the graph that is not read."""
        has_aux = any(name.startswith("AuxLogits/") for name in self.layers)
        return (["its auxiliary head is left out"] if has_aux else []) + ([] if self.has_logits else [NO_LOGITS])

    def read_tensors(self) -> dict[str, Tensor]:
        """The weights of a frozen graph, under the names of `state_dict()`. Raises GraphError."""
        layers = convolutions(create_aux_logits=False)
        expected = [layer for layer in layers if layer.normalized or self.has_logits]
        missing = [layer.name for layer in expected if layer.name not in self.layers]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise GraphError(f"lacks the convolution {self.scope}{missing[0]}{more}")
        affine = {layer.name: self._read_layer(layer.name, layer.normalized) for layer in expected}
        tensors = {f"{state_name(layer)}.{name}": value for layer in expected for name, value in affine[layer.name]}
        gammas = [name for name in tensors if name.endswith("gamma")]
        if all(bool((tensors[name] == 1).all()) for name in gammas):
            tensors = {name: value for name, value in tensors.items() if name not in gammas}
        else:
            betas = {name: value for name, value in tensors.items() if name.endswith("beta")}
            ones = {name.replace("beta", "gamma"): torch.ones_like(value) for name, value in betas.items()}
            tensors = ones | tensors
        return {name: to_torch(value.float().numpy()) for name, value in tensors.items()}

    def _read_layer(self, name: str, normalized: bool) -> list[tuple[str, Tensor]]:
        """The variables of a layer. A BatchNorm that was folded into the kernel has the mean 0 and the variance 1."""
        conv = self.layers[name]
        weights = ("weights", self._constant(conv.inputs[1]))
        after = self._next(conv.name)
        if after.op in FUSED:
            gamma, beta, mean, variance = map(self._constant, after.inputs[1:])
            parts = {"gamma": gamma, "beta": beta, "moving_mean": mean, "moving_variance": variance}
        elif after.op in SUMS:
            bias = self._constant(next(each for each in after.inputs if each != conv.name))
            if not normalized:
                return [weights, ("biases", bias)]
            variance = torch.full_like(bias, 1 - self.epsilon)
            parts = {"beta": bias, "moving_mean": torch.zeros_like(bias), "moving_variance": variance}
        else:
            parts = {}
            for part in ("beta", "gamma", "moving_mean", "moving_variance"):
                variable = f"{self.scope}{name}/BatchNorm/{part}"
                if variable in self.graph.nodes:
                    parts[part] = self._constant(variable)
            if not {"beta", "moving_mean", "moving_variance"} <= parts.keys():
                raise GraphError(f"{conv} is followed by {after}, which is no BatchNorm")
        return [weights, *((f"BatchNorm.{part}", value) for part, value in parts.items())]

    def _constant(self, name: str) -> Tensor:
        value = self.graph.constant(name)
        if value is None or not value.is_floating_point():
            raise GraphError(f"{one_line(name, 200)!r} is not a constant of floats; freeze the graph")
        if not bool(torch.isfinite(value).all()):
            raise GraphError(f"{one_line(name, 200)!r} holds NaN or infinity; the file is damaged")
        return value

    def _next(self, name: str) -> Node:
        """The only operation that reads a node."""
        readers = [each for each in self.graph.consumers[name] if each.op != "Shape"]
        if len(readers) != 1:
            raise GraphError(f"{one_line(name, 200)!r} is read by {len(readers)} operations, not by one")
        return self._next(readers[0].name) if readers[0].op in PASSED_ON else readers[0]

    def find_epsilon(self) -> float:
        """The epsilon of every BatchNorm. Raises GraphError: several."""
        found = set()
        for node in self.graph.nodes.values():
            if node.op in FUSED:
                found.add(float(np.float32(node.number("epsilon", 1e-4))))
            elif node.op in SUMS and any(_is_variance(self.graph, each) for each in node.inputs):
                values = map(self.graph.constant, node.inputs)
                found |= {float(value) for value in values if value is not None and value.ndim == 0}
        rounded = {float(f"{value:.7g}") for value in found}
        if len(rounded) > 1:
            raise GraphError(f"its BatchNorms have several epsilons ({sorted(rounded)}), which cannot be computed here")
        return rounded.pop() if rounded else 0.001

    # ------------------------------------------------------------------------------------------------- outputs

    def output(self) -> str:
        """The node with the logits as a map, or with the last map of a network without logits."""
        if self.has_logits:
            return self._next(self.layers[LOGITS].name).name
        if LAST not in self.layers:
            raise GraphError(f"lacks the convolution {self.scope}{LAST}")
        node = self.layers[LAST]
        while node.op not in ("Concat", "ConcatV2"):
            node = self._next(node.name)
        return node.name

    def activation(self) -> str | None:
        """The activation behind the logits; None if the graph ends with them. Raises GraphError: another operation."""
        waiting, found = [self.output()], set()
        for name in waiting:
            for node in self.graph.consumers[name]:
                if node.op in ACTIVATIONS:
                    found.add(ACTIVATIONS[node.op])
                elif node.op in RESHAPES or (node.op == "Mean" and node.name.endswith("global_pool")):
                    waiting += [node.name] if len(waiting) < 100 else []
                elif node.op not in READERS:
                    raise GraphError(f"its logits go into {node}, which cannot be computed here")
        if len(found) > 1:
            raise GraphError("has a softmax and a sigmoid behind its logits; it is not known which of them counts")
        return found.pop() if found else None

    # -------------------------------------------------------------------------------------------------- inputs

    def stem(self) -> Node:
        return self.layers[FIRST]

    def preprocessing(self) -> tuple[Preprocessing, tuple[int, int] | None]:
        """How images become what the first convolution reads, and the size that the graph states."""
        factor, offset = np.ones(3), np.zeros(3)  # of what the network reads, in terms of the node
        name, resize, is_bytes = self.stem().inputs[0], None, False
        for _ in range(100):
            node = self.graph.source(name)
            name = node.inputs[0] if node.inputs else ""
            if node.op in IMAGE_SOURCES or not node.inputs:
                break
            if node.op == "Cast":
                is_bytes = is_bytes or node.number("SrcT") == UINT8
            elif node.op == "ResizeBilinear":
                if node.number("align_corners") or node.number("half_pixel_centers"):
                    raise GraphError(f"{node} has options that cannot be computed here; give the checkpoint")
                resize = self._size(node.inputs[1])
            elif node.op in ("Mul", "RealDiv", "Sub", *SUMS):
                name, factor, offset = self._scale(node, factor, offset)
            elif node.op not in RESHAPES:
                raise GraphError(f"its images go through {node}, which cannot be computed here; give the checkpoint")
        if node.op not in IMAGE_SOURCES:
            raise GraphError(f"its images come from {node}, which is not known")
        is_bytes = is_bytes or node.op in DECODERS or node.number("dtype") == UINT8
        size = resize or self._placeholder_size(node)
        scaled = self._scaled(factor, offset, is_bytes)
        if resize:
            return replace(scaled, image_size=resize, resize=resize, fit="stretch", squash=False), resize
        return (scaled.at(size) if size else scaled), size

    def _scale(self, node: Node, factor: np.ndarray, offset: np.ndarray) -> tuple[str, np.ndarray, np.ndarray]:
        """The operand with the images, and the factor and offset in terms of it."""
        operands = [self.graph.constant(each) for each in node.inputs]
        if len(operands) != 2 or (operands[0] is None) == (operands[1] is None):
            raise GraphError(f"its images go through {node}, which cannot be computed here; give the checkpoint")
        is_first = operands[0] is None  # whether the images are the first operand
        constant = operands[1] if is_first else operands[0]
        assert constant is not None
        values = constant.double().numpy().reshape(-1)
        if values.size not in (1, 3) or not np.isfinite(values).all() or (node.op == "RealDiv" and not is_first):
            raise GraphError(f"its images go through {node}, which cannot be computed here; give the checkpoint")
        if node.op == "Mul":
            factor = factor * values
        elif node.op == "RealDiv":
            factor = factor / values
        elif node.op == "Sub":
            offset = offset - factor * values if is_first else offset + factor * values
            factor = factor if is_first else -factor
        else:
            offset = offset + factor * values
        return node.inputs[0 if is_first else 1], factor, offset

    def _scaled(self, factor: np.ndarray, offset: np.ndarray, is_bytes: bool) -> Preprocessing:
        """TF-Slim's preprocessing with the graph's scaling. Adds to `assumed`."""
        usual = Preprocessing.named("slim")
        if not np.isfinite(factor).all() or (factor == 0).any():
            raise GraphError("its images are multiplied by 0 or infinity")
        if (factor == 1).all() and (offset == 0).all() and not is_bytes:
            self.assumed["mean"] = (
                "its graph does not scale images, so pixels in [-1, 1] are assumed (--mean and --std replace this)"
            )
            return usual
        reads_bytes = is_bytes or (abs(factor) <= 0.1).all()
        std = 1 / (factor * (255 if reads_bytes else 1))
        mean = -offset * std
        preprocessing = replace(usual, mean=_triple(mean), std=_triple(std))
        if (preprocessing.mean, preprocessing.std) != (usual.mean, usual.std):
            limit = 255 if reads_bytes else 1
            self.assumed["mean"] = (
                f"its graph reads images in [0, {limit}] and has mean {preprocessing.mean[0]:g} and std "
                f"{preprocessing.std[0]:g} (--mean and --std replace them)"
            )
        return preprocessing

    def _size(self, name: str) -> tuple[int, int]:
        value = self.graph.constant(name)
        if value is None or value.numel() != 2:
            raise GraphError("resizes images to a size that is not a constant")
        height, width = value.flatten().tolist()
        return int(height), int(width)

    def _placeholder_size(self, node: Node) -> tuple[int, int] | None:
        lengths = [_length(each) for each in read_messages(first_message(node.attribute("shape"), 7), 2)]
        return (lengths[1], lengths[2]) if len(lengths) == 4 and min(lengths[1:3]) > 0 else None


def find_graphs(graph: Graph) -> list[SlimGraph]:
    """The networks in a graph, by their convolutions. Raises GraphError: a kernel is used by two convolutions."""
    scopes: dict[str, dict[str, Node]] = {}
    for node in graph.nodes.values():
        if node.op != "Conv2D" or len(node.inputs) != 2:
            continue
        kernel = graph.source(node.inputs[1])
        parts = split_name(unfolded_name(kernel.name))
        if kernel.op in ("Const", *VARIABLES) and parts and parts[1].endswith("/weights") and not parts[2]:
            layers, layer = scopes.setdefault(parts[0], {}), parts[1].removesuffix("/weights")
            if layer in layers:
                raise GraphError(f"applies the kernel {kernel.name!r} twice; save a graph with one copy of the network")
            layers[layer] = node
    return [SlimGraph(graph, scope, layers) for scope, layers in scopes.items() if FIRST in layers and len(layers) > 40]


def describe(found: SlimGraph, settings: Settings) -> tuple[Settings, Preprocessing]:
    """The settings with what the graph states, and its preprocessing. Raises GraphError. Adds to `found.assumed`."""
    preprocessing, size = found.preprocessing()
    changes: dict[str, Any] = {"batch_norm_epsilon": found.epsilon}
    if size and not settings.create_aux_logits:
        changes["image_size"] = size
    if found.has_logits:
        activation = found.activation()
        changes["output_activation"] = activation or "softmax"
        changes["global_pool"] = found.graph.source(found.layers[LOGITS].inputs[0]).op == "Mean"
        if activation is None and settings.num_classes > 1:
            found.assumed["output_activation"] = (
                "its graph ends with logits, so a softmax is assumed (--output replaces it)"
            )
    return replace(settings, **changes), preprocessing


@torch.inference_mode()
def check(found: SlimGraph, weights: Weights) -> None:
    """Run the graph, and compare its outputs with those of the network. Raises GraphError: they differ."""
    settings = replace(weights.settings, create_aux_logits=False, spatial_squeeze=False)
    tensors = {name: each.float() for name, each in weights.tensors.items() if not name.startswith("AuxLogits")}
    with torch.device("meta"):
        network = InceptionV3Network(settings)
    missing = network.load_state_dict(tensors, strict=False, assign=True).missing_keys
    if missing:
        raise GraphError(f"lacks {missing[0]}")
    network.eval()
    height, width = settings.image_size
    images = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    values = {found.stem().inputs[0]: images.permute(0, 2, 3, 1)}
    try:
        theirs = found.graph.run(found.output(), values)
    except UnknownValueError as error:
        raise GraphError(
            f"reads the input {one_line(error, 200)!r} beside its images; freeze it as a constant"
        ) from error
    names = [point.name for point in settings.end_points(height, width)]
    end_point = "Logits" if found.has_logits else names[-1]
    _, end_points = network(images, [name for name in names if name not in ("AvgPool_1a", "PreLogits", "Predictions")])
    if not _is_equal(end_points[end_point], theirs):
        raise GraphError(_first_difference(end_points, values))


def _is_equal(ours: Tensor, theirs: Tensor) -> bool:
    ours = ours.permute(0, 2, 3, 1)
    if ours.shape != theirs.shape:
        return False
    return bool((ours - theirs).abs().max() <= LIMIT * ours.abs().max())


def _first_difference(end_points: dict[str, Tensor], values: dict[str, Tensor]) -> str:
    """The first end point whose value is not among those of the graph."""
    for name, ours in end_points.items():
        theirs = [value for node, value in values.items() if f"/{name}/" in f"/{node}" and value.ndim == 4]
        if theirs and not any(_is_equal(ours, each) for each in theirs):
            return f"its graph computes other values than TF-Slim's Inception V3, from {name} on"
    return "its graph computes other values than TF-Slim's Inception V3"


def _is_variance(graph: Graph, name: str) -> bool:
    with_suffix = graph.nodes.get(name)
    return with_suffix is not None and graph.source(name).name.endswith("BatchNorm/moving_variance")


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = (round(float(value), 7) for value in values)
    return red, green, blue


def _length(dimension: memoryview) -> int:
    value = next((each.value for each in read_fields(dimension) if each.number == 1), 0)
    return value if isinstance(value, int) and value < 1 << 20 else 0
