"""The configuration of Keras 2 for a network of this package, which TensorFlow.js and every Keras read."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.architecture import BASE, Mixed, Pool, Step
from inception_v3.weights.formats.weights import HALVES, Weights, numbered

LINEAR: dict[str, str] = {"none": "linear"}
KERAS_NAMES = {"silu": "swish"}


@dataclass
class Topology:
    """Layers in the order of their creation, each with its variables in Keras's order and layout, float32."""

    weights: Weights
    layers: list[dict[str, Any]] = field(default_factory=list)
    variables: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def config(self) -> dict[str, Any]:
        """The configuration of the whole network, as Keras 2 stores it."""
        ends = [[[self.layers[index]["name"], 0, 0]] for index in (0, -1)]
        config = {"name": "inception_v3", "layers": self.layers, "input_layers": ends[0], "output_layers": ends[1]}
        return {"class_name": "Model", "config": config}

    def add(self, kind: str, name: str, inputs: list[str], **options: Any) -> str:
        """Add a layer and return its name, with a number if there are several of that name."""
        number = self.counts.get(name, 0)
        self.counts[name] = number + 1
        name = numbered(name, number)
        calls = [[[each, 0, 0, {}] for each in inputs]] if inputs else []
        options = {"name": name, "trainable": True} | options
        self.layers.append({"name": name, "class_name": kind, "config": options, "inbound_nodes": calls})
        return name

    def tensor(self, name: str) -> np.ndarray:
        """A tensor of the model in Keras's layout: kernels HWIO, a 1x1 kernel of the head as a matrix."""
        tensor: Tensor = self.weights.tensors[name].detach().cpu()
        array = (tensor.float() if tensor.dtype in HALVES else tensor).numpy().astype(np.float32)
        if array.ndim == 4:
            array = array[:, :, 0, 0].T if name.startswith("Logits.") else array.transpose(2, 3, 1, 0)
        return np.ascontiguousarray(array)


def build(weights: Weights) -> Topology:
    """Build the layers of a model without its auxiliary head, and collect their variables.

    A network whose images are not in [-1, 1] takes pixels 0 to 255, which its first layer scales.
    """
    settings, topology = weights.settings, Topology(weights)
    height, width = settings.image_size
    net = topology.add("InputLayer", "input", [], batch_input_shape=[None, height, width, 3], dtype="float32")
    del topology.layers[0]["config"]["trainable"]
    preprocessing = weights.preprocessing
    if not preprocessing.is_half:  # the network reads [-1, 1] otherwise, as Keras's own
        net = topology.add("Rescaling", "rescaling", [net], **_rescaling(preprocessing))
    for node in BASE:
        if isinstance(node, Mixed):
            branches = []
            for name, steps in node.named_branches:
                branch = net
                for step in steps:
                    branch = _add_step(topology, step, branch, f"{node.name}.{name}.")
                branches.append(branch)
            net = topology.add("Concatenate", node.name.lower(), branches, axis=3)
        else:
            net = _add_step(topology, node, net, "")
        if node.name == settings.final_endpoint:
            return topology
    _add_head(topology, topology.add("GlobalAveragePooling2D", "avg_pool", [net], data_format="channels_last"))
    return topology


def _rescaling(preprocessing: Preprocessing) -> dict[str, Any]:
    """The options of Rescaling that scales pixels from 0 to 255: a number, or one for each channel."""
    pairs = list(zip(preprocessing.mean, preprocessing.std, strict=True))
    scales, offsets = [1 / (255 * std) for _, std in pairs], [-mean / std for mean, std in pairs]
    are_equal = len({*pairs}) == 1
    return {"scale": scales[0], "offset": offsets[0]} if are_equal else {"scale": scales, "offset": offsets}


def _add_step(topology: Topology, step: Step, net: str, scope: str) -> str:
    if isinstance(step, tuple):
        return topology.add(
            "Concatenate", "concatenate", [_add_step(topology, each, net, scope) for each in step], axis=3
        )
    options = {"strides": [step.stride] * 2, "padding": step.padding.lower(), "data_format": "channels_last"}
    if isinstance(step, Pool):
        kind, name = {"max": ("MaxPooling2D", "max_pooling2d"), "avg": ("AveragePooling2D", "average_pooling2d")}[
            step.kind
        ]
        return topology.add(kind, name, [net], pool_size=list(step.kernel), **options)
    prefix = scope + step.name
    kernel = topology.tensor(f"{prefix}.weights")
    net = topology.add(
        "Conv2D",
        "conv2d",
        [net],
        filters=kernel.shape[3],
        kernel_size=list(step.kernel),
        dilation_rate=[1, 1],
        activation="linear",
        use_bias=False,
        **options,
    )
    topology.variables[net] = {"kernel": kernel}
    net = _add_batch_norm(topology, net, prefix, 3, topology.weights.settings.batch_norm_epsilon)
    return topology.add("Activation", "activation", [net], activation="relu")


def _add_batch_norm(topology: Topology, net: str, prefix: str, axis: int, epsilon: float) -> str:
    scale = f"{prefix}.BatchNorm.gamma" in topology.weights.tensors
    net = topology.add(
        "BatchNormalization", "batch_normalization", [net], axis=axis, epsilon=epsilon, center=True, scale=scale
    )
    names = (["gamma"] if scale else []) + ["beta", "moving_mean", "moving_variance"]
    topology.variables[net] = {name: topology.tensor(f"{prefix}.BatchNorm.{name}") for name in names}
    return net


def _add_head(topology: Topology, net: str) -> None:
    settings = topology.weights.settings
    net = topology.add("Dropout", "dropout", [net], rate=1 - settings.dropout_keep_prob)
    for layer in settings.hidden_layers:
        prefix, activation = f"Logits.{layer.name}", KERAS_NAMES.get(layer.activation, layer.activation)
        net = _add_dense(topology, "dense", net, prefix, "linear")
        for part in ("norm", "activation") if layer.batch_norm == "before" else ("activation", "norm"):
            if part == "activation":
                net = topology.add("Activation", "activation", [net], activation=activation)
            elif layer.batch_norm:
                net = _add_batch_norm(topology, net, prefix, 1, settings.hidden_batch_norm_epsilon)
        net = topology.add("Dropout", "dropout", [net], rate=1 - settings.hidden_dropout_keep_prob)
    output = settings.output_activation
    _add_dense(topology, "predictions", net, "Logits.Conv2d_1c_1x1", LINEAR.get(output, output))


def _add_dense(topology: Topology, name: str, net: str, prefix: str, activation: str) -> str:
    kernel = topology.tensor(f"{prefix}.weights")
    net = topology.add("Dense", name, [net], units=kernel.shape[1], activation=activation, use_bias=True)
    topology.variables[net] = {"kernel": kernel, "bias": topology.tensor(f"{prefix}.biases")}
    return net
