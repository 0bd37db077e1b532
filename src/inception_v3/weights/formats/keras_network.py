"""The Inception V3 in a graph of Keras layers: which layer is which, how images are scaled, and the head.

Layers are recognised by their connections and options, never by their names. Any layer that this package cannot
compute is refused by its name, because a network without it would give other outputs.
"""

import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.architecture import ACTIVATIONS, BASE, BatchNormOrder, Conv, Mixed, Pool, Size, Step, depth
from inception_v3.network.settings import Settings
from inception_v3.support.text import one_line
from inception_v3.weights.formats.keras_config import Call, ConfigurationError, KerasLayer, Shapes, understood
from inception_v3.weights.formats.weights import (
    Weights,
    convolutions,
    default_class_names,
    state_name,
    to_torch,
)

KERAS = Preprocessing.named("keras")  # as Keras's users load images: whole, with a new aspect ratio
Array = np.ndarray
# Reads a layer's variables of these shapes. Raises an error if one is missing, or has another shape.
ReadVariables = Callable[[KerasLayer, Shapes], list[Array]]

# Layers that compute nothing outside of training: images pass as they are.
IDENTITIES = (
    "InputLayer", "Dropout", "SpatialDropout2D", "SpatialDropout1D", "AlphaDropout", "GaussianDropout",
    "GaussianNoise", "Identity", "Cast", "ActivityRegularization", "AugMix", "CutMix", "MixUp", "RandAugment",
    "RandomBrightness", "RandomColorDegeneration", "RandomColorJitter", "RandomContrast", "RandomElasticTransform",
    "RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale", "RandomHeight", "RandomHue",
    "RandomInvert", "RandomPerspective", "RandomPosterization", "RandomRotation", "RandomSaturation",
    "RandomSharpness", "RandomShear", "RandomTranslation", "RandomWidth", "RandomZoom",
)  # fmt: skip
DROPOUTS = ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "AlphaDropout", "GaussianDropout")
# Keras 3's operations and TensorFlow's functions in Keras 2, by what they compute.
ARITHMETIC = {
    "Add": "add", "math.add": "add", "__operators__.add": "add", "nn.bias_add": "add",
    "Subtract": "subtract", "math.subtract": "subtract", "__operators__.sub": "subtract",
    "Multiply": "multiply", "math.multiply": "multiply", "__operators__.mul": "multiply",
    "TrueDivide": "divide", "Divide": "divide", "math.truediv": "divide", "math.divide": "divide",
    "__operators__.truediv": "divide", "Negative": "negative", "math.negative": "negative",
    "cast": "cast", "Cast": "cast",
}  # fmt: skip
OPERATIONS = {
    **{name: name.lower() for name in ("Relu", "Relu6", "Elu", "Gelu", "Sigmoid", "Silu", "Tanh")},
    **{f"nn.{name}": name for name in ("relu", "relu6", "elu", "gelu", "silu", "softmax")},
    **{f"math.{name}": name for name in ("sigmoid", "tanh")},
}
KERAS_ACTIVATIONS = {"swish": "silu"} | {name: name for name in ACTIVATIONS}
# The options of each class of layer that are read, or that change nothing outside of training.
_IN_TRAINING = """
    activity_regularizer all_ops alpha augmentations_per_image bbox_format brightness_factor chain_depth contrast_factor
    data_format factor fill_mode fill_value function height_factor hue_factor interpolation l1 l2 lower magnitude
    mode noise_shape num_chains num_ops rate saturation_factor scale seed
    sigma stddev upper value_range width_factor x_factor y_factor kernel_size
"""
_POOL = "pool_size strides padding data_format keepdims"
KNOWN_OPTIONS = {
    kind: set(f"name trainable dtype dynamic autocast batch_input_shape build_input_shape {options}".split())
    for kind, options in {
        "Conv2D": "filters kernel_size strides padding data_format dilation_rate groups activation use_bias lora_rank "
        "lora_alpha rank",
        "BatchNormalization": "axis momentum epsilon center scale renorm renorm_clipping renorm_momentum fused "
        "virtual_batch_size adjustment synchronized",
        "Dense": "units activation use_bias input_dim lora_rank lora_alpha quantization_config",
        "MaxPooling2D": _POOL,
        "AveragePooling2D": _POOL,
        "GlobalAveragePooling2D": _POOL,
        "Concatenate": "axis",
        "Activation": "activation",
        "ReLU": "max_value negative_slope threshold",
        "Softmax": "axis",
        "Flatten": "data_format",
        "Reshape": "target_shape",
        "Rescaling": "scale offset",
        "Normalization": "axis mean variance invert data_format",
        "ELU": "alpha",
        "Resizing": "height width interpolation crop_to_aspect_ratio pad_to_aspect_ratio antialias fill_mode "
        "fill_value data_format",
        "CenterCrop": "height width data_format",
        "RandomCrop": "height width seed data_format",
        "InputLayer": "batch_shape sparse ragged optional",
        **dict.fromkeys(IDENTITIES[1:], _IN_TRAINING),
    }.items()
}
ONLY_IN_TRAINING = ("_initializer", "_regularizer", "_constraint")  # the ends of names of options
SETTINGS = Settings(create_aux_logits=False, global_pool=True)  # of every Keras network
INTERPOLATIONS = {name: name for name in ("bilinear", "nearest", "bicubic")} | {"lanczos3": "lanczos"}  # of Resizing
STATED = "file"  # the source of what its layers state
UNSTATED = "it does not state how images are scaled"
NO_SIZE = "it does not state the size of its images"
NO_ACTIVATION = "its output "
# Losses whose outputs are no logits of probabilities, by Keras's names without underscores.
REGRESSION = {
    "mse", "meansquarederror", "mae", "meanabsoluteerror", "mape", "meanabsolutepercentageerror", "msle",
    "meansquaredlogarithmicerror", "huber", "huberloss", "logcosh", "poisson", "cosinesimilarity", "hinge",
    "squaredhinge", "categoricalhinge",
}  # fmt: skip
MEAN_STD = {"[-1, 1]": (0.5, 0.5), "[0, 1]": (0.0, 1.0), "[0, 255]": (0.0, 1 / 255)}  # by the range of the images


@dataclass
class _BatchNorm:
    """The variables of a BatchNormalization, gamma and beta filled in where Keras has none."""

    gamma: Array
    beta: Array
    mean: Array
    variance: Array
    epsilon: float

    @property
    def scale_and_offset(self) -> tuple[Array, Array]:
        scale = self.gamma.astype(np.float64) / np.sqrt(self.variance.astype(np.float64) + self.epsilon)
        return scale, self.beta - self.mean * scale


@dataclass
class _Dense:
    """A Dense layer with what follows it: BatchNormalization and activation in their order."""

    layer: KerasLayer
    kernel: Array  # (in, out)
    bias: Array
    steps: list[_BatchNorm | str] = field(default_factory=list)

    def fold_before(self, norm: _BatchNorm) -> None:
        """Let the layer compute what it would with this BatchNormalization before it."""
        scale, offset = norm.scale_and_offset
        self.bias = (self.bias + offset @ self.kernel.astype(np.float64)).astype(self.bias.dtype)
        self.kernel = (self.kernel * scale[:, None]).astype(self.kernel.dtype)

    def fold_after(self, norm: _BatchNorm) -> None:
        """Let the layer compute what it would with this BatchNormalization after it, before its activation."""
        scale, offset = norm.scale_and_offset
        self.bias = (self.bias * scale + offset).astype(self.bias.dtype)
        self.kernel = (self.kernel * scale).astype(self.kernel.dtype)

    @property
    def activation(self) -> str:
        return next((step for step in self.steps if isinstance(step, str)), "linear")


@dataclass
class _Head:
    """The head while its layers are read in their order."""

    size: Size  # of the map; (1, 1) after pooling
    channels: int
    layers: list[_Dense] = field(default_factory=list)
    pooled: bool = False
    norms: list[_BatchNorm] = field(default_factory=list)  # in front of the first Dense
    dropout: list[float] = field(default_factory=list)  # rates in front of the first Dense, and after it
    hidden_dropout: list[float] = field(default_factory=list)


def read_network(
    output: Call,
    read: ReadVariables,
    loss: object = None,
    settings: Settings = SETTINGS,
    preprocessing: Preprocessing | None = None,
) -> tuple[Weights, list[str]]:
    """Return the weights of the network whose output that call is, and a line for everything that was assumed.

    `loss` is the stored name or configuration of the loss, which may tell what a linear output means. `settings`
    and `preprocessing` are those that the file states beside its layers; what the layers show replaces the settings.
    Raises ConfigurationError, naming the layer that is not Inception V3's or cannot be computed here.
    """
    with understood():
        return _read_network(output, read, loss, settings, preprocessing)


def _read_network(
    output: Call, read: ReadVariables, loss: object, settings: Settings, preprocessing: Preprocessing | None
) -> tuple[Weights, list[str]]:
    notes: list[str] = []
    head_calls, end = _split_head(output)
    last, units, start = _find_base(end, settings)
    inputs = list(_chain(start))
    image_size = _image_size(inputs) or settings.image_size
    sources = {"image_size": STATED}
    if _image_size(inputs) is None:
        sources = {}
        notes.append(f"{NO_SIZE}; {image_size[0]}x{image_size[1]} is assumed; --image-size replaces it")
    settings |= {"image_size": image_size, "create_aux_logits": False, "global_pool": True, "final_endpoint": None}
    tensors, base_settings = _read_base(units, settings, read)
    settings |= base_settings
    preprocessing = (preprocessing or _preprocessing(inputs, read, tensors, notes)).at(image_size)
    if not any(note.startswith(UNSTATED) for note in notes):
        sources |= {"mean": STATED, "std": STATED}
    usual = KERAS.at(image_size)
    resizing = ("interpolation", "squash", "resize", "fit")
    sources |= {name: STATED for name in resizing if getattr(preprocessing, name) != getattr(usual, name)}
    point = settings.end_points()[last]
    head = _Head((point.height, point.width), point.channels)
    for call in head_calls:
        _read_head_layer(head, call, read)
    if head.layers:
        if last < len(BASE) - 1:
            raise ConfigurationError(
                f"it has a head after {BASE[last].name} ({_skip(end).layer}), and only heads after {BASE[-1].name} can "
                "be computed here"
            )
        more, head_settings = _finish_head(head, loss, notes, settings)
        tensors |= more
        settings |= head_settings
    else:
        if head.norms:
            raise ConfigurationError(
                "it ends in a BatchNormalization after its last map, which cannot be computed here"
            )
        settings |= {"final_endpoint": BASE[last].name}
    _report_unknown(output, notes)
    names = default_class_names(settings.num_classes) if head.layers else None
    if names and not settings.hidden_units and preprocessing == KERAS.at(image_size):
        notes = [note for note in notes if not note.startswith(UNSTATED)]  # Keras's own network
    tensors_here = {name: to_torch(value) for name, value in tensors.items()}
    return Weights(tensors_here, settings, preprocessing, names, sources=sources), notes


def _report_unknown(output: Call, notes: list[str]) -> None:
    """Add a line for the options of each class of layer that are not understood."""
    stack, seen, unknown = [output], set(), dict[tuple[str, str], KerasLayer]()
    while stack:
        call = stack.pop()
        if call in seen:
            continue
        seen.add(call)
        stack += call.inputs
        layer = call.layer
        for name in layer.options.keys() - KNOWN_OPTIONS.get(layer.kind, layer.options.keys()):
            if layer.options[name] not in (None, False) and not name.endswith(ONLY_IN_TRAINING):
                unknown[layer.kind, name] = layer
    for (_, name), layer in sorted(unknown.items(), key=lambda item: item[0]):
        notes.append(f"its {layer} has the setting {one_line(name)}, which is not understood and not used")


def _chain(call: Call) -> Iterator[Call]:
    """The calls from this one back to the model's input. Raises ConfigurationError if one has several inputs."""
    while True:
        _check_inference(call)
        yield call
        if not call.inputs:
            return
        if len(call.inputs) > 1:
            raise _cannot_compute(call.layer, "with several inputs in front of Inception V3's first convolution")
        call = call.inputs[0]


def _skip(call: Call) -> Call:
    """The last call at or before this one that computes something."""
    while _is_identity(call.layer) and call.inputs:
        _check_inference(call)
        call = call.inputs[0]
    return call


def _is_identity(layer: KerasLayer) -> bool:
    linear = layer.kind == "Activation" and _activation(layer.options.get("activation")) == "linear"
    return (layer.kind in IDENTITIES and not _rounds(layer)) or linear


def _rounds(layer: KerasLayer) -> bool:
    """Whether a layer casts to integers."""
    return layer.kind in ("Cast", "TFOpLambda") and str(layer.options.get("dtype")).startswith(("int", "uint", "bool"))


def _check_inference(call: Call) -> None:
    """Keras 2 stores `training=True` with a call; such a layer is random, or normalises by the batch."""
    kind = call.layer.kind
    if call.training and (kind == "BatchNormalization" or kind in IDENTITIES) and kind != "InputLayer":
        raise _cannot_compute(call.layer, "called with training=True")


def _cannot_compute(layer: KerasLayer, detail: str = "") -> ConfigurationError:
    return ConfigurationError(
        f"it has the layer {layer}{f' {detail}' if detail else ''}, which cannot be computed here; docs/weights.md "
        "lists the layers that can"
    )


# ------------------------------------------------------------------------------------------------- the base


@dataclass
class _Unit:
    """A convolution of the base with its BatchNormalization."""

    conv: KerasLayer
    norm: KerasLayer


@dataclass
class _Base:
    """The convolutions that have been matched, by their names in the table, of a network with these widths."""

    settings: Settings
    units: dict[str, _Unit] = field(default_factory=dict)

    def width(self, table: Conv) -> int:
        return depth(table.width or 0, self.settings.depth_multiplier, self.settings.min_depth)


def _split_head(output: Call) -> tuple[list[Call], Call]:
    """The calls after the last one with several inputs, in their order, and that call."""
    head, call = [], output
    while len(call.inputs) == 1:
        head.append(call)
        call = call.inputs[0]
    if not call.inputs:
        raise ConfigurationError("it is not Inception V3: no layer in it joins branches")
    return head[::-1], call


def _find_base(end: Call, settings: Settings) -> tuple[int, dict[str, _Unit], Call]:
    """The index of the base's last module, its convolutions by their names in the table, and the call before them.

    Raises ConfigurationError, with the first difference of the module that fits best.
    """
    best: tuple[int, str] = (-1, "")
    for last in range(len(BASE) - 1, -1, -1):
        base = _Base(settings)
        call = end
        try:
            for node in reversed(BASE[: last + 1]):
                call = _match_node(call, node, base)
            return last, base.units, call
        except ConfigurationError as error:
            best = max(best, (len(base.units), str(error)), key=lambda pair: pair[0])
    raise ConfigurationError(best[1])


def _match_node(call: Call, node: Conv | Pool | Mixed, base: _Base) -> Call:
    """Match the layers that end at this call with a row of the architecture table; return the call before them."""
    if not isinstance(node, Mixed):
        return _match_step(call, node, "", base)
    branches = list(node.named_branches)
    starts = []
    for (name, steps), branch in zip(branches, _joined(call, len(branches), node.name), strict=True):
        for step in reversed(steps):
            branch = _match_step(branch, step, f"{node.name}/{name}/", base)
        starts.append(_skip(branch))
    return _same(starts, node.name)


def _match_step(call: Call, step: Step, scope: str, base: _Base) -> Call:
    if isinstance(step, tuple):
        joined = _joined(call, len(step), scope)
        return _same([_match_step(each, table, scope, base) for each, table in zip(joined, step, strict=True)], scope)
    if isinstance(step, Pool):
        return _match_pool(_skip(call), step, scope)
    name = scope + step.name
    call = _skip(call)
    if _layer_activation(call.layer) != "relu":
        raise _differs(call, f"the ReLU after {name}")
    norm = _skip(call.inputs[0])
    if norm.layer.kind not in ("BatchNormalization", "BatchNormalizationV1", "BatchNormalizationV2"):
        raise _differs(norm, f"the BatchNormalization after {name}")
    _check_inference(norm)
    conv = _skip(norm.inputs[0])
    _match_convolution(conv, step, base.width(step), name)
    base.units[name] = _Unit(conv.layer, norm.layer)
    return conv.inputs[0]


def _match_convolution(call: Call, table: Conv, width: int, name: str) -> None:
    options = call.layer.options
    expected = {
        "filters": width,
        "kernel_size": table.kernel,
        "strides": (table.stride, table.stride),
        "padding": table.padding.lower(),
        "dilation_rate": (1, 1),
        "groups": 1,
        "data_format": "channels_last",
        "activation": "linear",
    }
    defaults = {"groups": 1, "dilation_rate": 1, "strides": 1, "data_format": "channels_last", "activation": "linear"}
    if call.layer.kind != "Conv2D":
        raise _differs(call, f"the convolution {name}")
    _check_options(call.layer, options, expected, defaults, name)


def _match_pool(call: Call, table: Pool, scope: str) -> Call:
    kind = {"max": "MaxPooling2D", "avg": "AveragePooling2D"}[table.kind]
    if call.layer.kind != kind:
        raise _differs(call, f"the {kind} {scope}{table.name}")
    expected = {
        "pool_size": table.kernel,
        "strides": (table.stride, table.stride),
        "padding": table.padding.lower(),
        "data_format": "channels_last",
    }
    defaults = {"strides": table.kernel, "data_format": "channels_last", "padding": "valid"}
    _check_options(call.layer, call.layer.options, expected, defaults, scope + table.name)
    return call.inputs[0]


def _check_options(
    layer: KerasLayer, options: dict[str, Any], expected: dict[str, Any], defaults: dict[str, Any], name: str
) -> None:
    """Raise ConfigurationError for the first option with another value. Numbers stand for two equal ones."""
    for option, wanted in expected.items():
        value = options.get(option)
        value = defaults.get(option) if value is None else value
        if option == "activation":
            value = _activation(value)
        if isinstance(wanted, tuple):
            value = _pair(value)
        if value != wanted:
            raise ConfigurationError(
                f"it is not Inception V3: {layer} has {option}={one_line(value)}, but {name} has {one_line(wanted)}"
            )


def _pair(value: Any) -> Any:
    """A kernel or stride as a tuple; one number stands for two."""
    if isinstance(value, int):
        return value, value
    return tuple(value) if isinstance(value, list) else value


def _joined(call: Call, count: int, scope: str) -> list[Call]:
    call = _skip(call)
    if call.layer.kind not in ("Concatenate", "Merge") or len(call.inputs) != count:
        raise _differs(call, f"the Concatenate of {count} branches of {scope.rstrip('/')}")
    if call.layer.options.get("axis", -1) not in (-1, 3):
        raise _cannot_compute(call.layer, f"along axis {one_line(call.layer.options.get('axis'))}")
    return call.inputs


def _same(calls: list[Call], scope: str) -> Call:
    calls = [_skip(call) for call in calls]
    if any(call is not calls[0] for call in calls):
        raise ConfigurationError(
            f"it is not Inception V3: the branches of {scope.rstrip('/')} read different layers, {calls[0].layer} and "
            f"{next(call.layer for call in calls if call is not calls[0])}"
        )
    return calls[0]


def _differs(call: Call, expected: str) -> ConfigurationError:
    return ConfigurationError(f"it is not Inception V3: it has the layer {call.layer} instead of {expected}")


def _read_base(
    units: dict[str, _Unit], settings: Settings, read: ReadVariables
) -> tuple[dict[str, Array], dict[str, Any]]:
    """The tensors of the base, still in Keras's layout, and the settings that follow from its BatchNormalization."""
    tensors: dict[str, Array] = {}
    norms = {name: unit.norm for name, unit in units.items()}
    epsilons = {_epsilon(norm) for norm in norms.values()}
    if len(epsilons) > 1:
        raise ConfigurationError(f"its BatchNormalizations have different epsilons, such as {list(epsilons)[:2]}")
    scale = any(norm.options.get("scale", True) for norm in norms.values())
    widths = {"depth_multiplier": settings.depth_multiplier, "min_depth": settings.min_depth}
    for layer in convolutions(create_aux_logits=False, **widths):
        if layer.name not in units:
            continue
        conv, prefix = units[layer.name].conv, state_name(layer)
        out = layer.out_channels
        shapes: Shapes = {"kernel": (*layer.kernel, layer.in_channels, out)}
        bias = conv.options.get("use_bias", True)
        tensors[f"{prefix}.weights"], *biases = read(conv, shapes | ({"bias": (out,)} if bias else {}))
        norm = _read_norm(norms[layer.name], out, read)
        # BatchNorm subtracts its mean from the bias too
        tensors[f"{prefix}.BatchNorm.moving_mean"] = norm.mean - biases[0] if biases else norm.mean
        tensors[f"{prefix}.BatchNorm.moving_variance"] = norm.variance
        tensors[f"{prefix}.BatchNorm.beta"] = norm.beta
        if scale:
            tensors[f"{prefix}.BatchNorm.gamma"] = norm.gamma
    return tensors, {"batch_norm_epsilon": epsilons.pop(), "batch_norm_scale": scale}


def _epsilon(layer: KerasLayer) -> float:
    epsilon = layer.options.get("epsilon", 0.001)
    if type(epsilon) not in (int, float) or not 0 <= epsilon < 1:
        raise ConfigurationError(f"{layer} has the epsilon {one_line(epsilon)}; the file is damaged")
    return float(round(epsilon, 10))  # TensorFlow.js rounds it to float32


def _read_norm(layer: KerasLayer, channels: int, read: ReadVariables) -> _BatchNorm:
    axis = layer.options.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if axis not in (-1, 1, 3) or layer.options.get("renorm"):
        raise _cannot_compute(
            layer, f"along axis {one_line(axis)}" if not layer.options.get("renorm") else "with renorm"
        )
    names = [name for name, option in (("gamma", "scale"), ("beta", "center")) if layer.options.get(option, True)]
    names += ["moving_mean", "moving_variance"]
    values = dict(zip(names, read(layer, dict.fromkeys(names, (channels,))), strict=True))
    mean = values["moving_mean"]
    return _BatchNorm(
        values.get("gamma", np.ones_like(mean)),
        values.get("beta", np.zeros_like(mean)),
        mean,
        values["moving_variance"],
        _epsilon(layer),
    )


# ------------------------------------------------------------------------------------------------- the head


def _activation(value: Any) -> str:
    """The name of an activation, in Keras 3 inside a description of a function."""
    if isinstance(value, dict):
        inner = value.get("config")
        value = inner if isinstance(inner, str) else value.get("class_name")
    return "linear" if value is None else one_line(value)


def _layer_activation(layer: KerasLayer) -> str | None:
    """The activation that a layer computes and nothing else, in this package's words; None for any other layer."""
    options, kind = layer.options, layer.kind
    if kind == "Activation":
        name = _activation(options.get("activation"))
        return KERAS_ACTIVATIONS.get(name, name)
    name = OPERATIONS.get(str(options.get("function")) if kind == "TFOpLambda" else kind, kind)
    if name == "gelu" and options.get("approximate", kind == "Gelu"):
        return "gelu with approximate=True"
    if kind == "ReLU":
        if options.get("negative_slope") or options.get("threshold"):
            return "leaky_relu"
        top = options.get("max_value")
        return {None: "relu", 6: "relu6"}.get(top, f"relu up to {one_line(top)}")
    if kind in ("ELU", "Elu"):
        return "elu" if options.get("alpha", 1) == 1 else f"elu with alpha={one_line(options['alpha'])}"
    if name in ("Softmax", "softmax"):
        return "softmax" if options.get("axis", -1) in (-1, 1) else None
    return name if name in ACTIVATIONS else None


def _read_head_layer(head: _Head, call: Call, read: ReadVariables) -> None:
    """Read the next layer of the head. Raises ConfigurationError if it cannot be computed here."""
    layer, options = call.layer, call.layer.options
    _check_inference(call)
    activation = _layer_activation(layer)
    if layer.kind in DROPOUTS:
        rate = options.get("rate", 0)
        if type(rate) not in (int, float) or not 0 <= rate < 1:
            raise ConfigurationError(f"{layer} has the rate {one_line(rate)}; the file is damaged")
        (head.hidden_dropout if head.layers else head.dropout).append(float(rate))
    elif _is_identity(layer):
        pass
    elif layer.kind in ("GlobalAveragePooling2D", "AveragePooling2D", "Flatten", "Reshape"):
        _pool(head, layer)
    elif layer.kind == "BatchNormalization":
        norm = _read_norm(layer, head.channels, read)
        (head.layers[-1].steps if head.layers else head.norms).append(norm)
    elif layer.kind == "Dense":
        _read_dense(head, layer, read)
    elif activation is not None:
        _add_activation(head, layer, activation)
    else:
        raise _cannot_compute(layer, "with Python code" if layer.kind == "Lambda" else "")


def _pool(head: _Head, layer: KerasLayer) -> None:
    """Check that a layer averages or flattens the whole map."""
    options, size = layer.options, head.size
    if options.get("data_format", "channels_last") not in ("channels_last", None):
        raise _cannot_compute(layer, "with channels first")
    if layer.kind == "AveragePooling2D":
        pool = options.get("pool_size", 2)
        pool = _pair(pool)
        strides = _pair(options.get("strides") or pool)
        whole = options.get("padding", "valid") == "valid" or strides == pool
        if pool != size or not whole:
            raise _cannot_compute(layer, f"over windows of {one_line(list(pool))} of a map of {list(size)}")
    elif layer.kind == "Flatten" and size != (1, 1):
        raise _cannot_compute(layer, f"of a map of {size[0]}x{size[1]}; average it")
    elif layer.kind == "Reshape":
        shape = options.get("target_shape") or []
        if size != (1, 1) or shape[-1:] not in ([head.channels], [-1]) or prod(shape[:-1]) != 1:
            raise _cannot_compute(layer, f"to {one_line(shape)}")
    head.size, head.pooled = (1, 1), True


def _read_dense(head: _Head, layer: KerasLayer, read: ReadVariables) -> None:
    if head.size != (1, 1):
        raise _cannot_compute(layer, f"of a map of {head.size[0]}x{head.size[1]}; average it")
    if "Quantized" in str(layer.options.get("dtype")):
        raise _cannot_compute(layer, "quantised; save the model before it is quantised")
    units = layer.options.get("units")
    if type(units) is not int or units < 1:
        raise ConfigurationError(f"{layer} has {one_line(units)} units; the file is damaged")
    bias = layer.options.get("use_bias", True)
    shapes: Shapes = {"kernel": (head.channels, units)} | ({"bias": (units,)} if bias else {})
    kernel, *biases = read(layer, shapes)
    head.layers.append(_Dense(layer, kernel, biases[0] if biases else np.zeros(units, kernel.dtype)))
    head.channels = units
    activation = layer.options.get("activation")
    name = _activation(activation)
    inner = activation.get("config") if isinstance(activation, dict) else None
    if isinstance(inner, dict) and isinstance(activation, dict):  # an activation layer
        name = _layer_activation(KerasLayer(str(activation.get("class_name")), inner, layer.names, "")) or name
    _add_activation(head, layer, KERAS_ACTIVATIONS.get(name, name))


def _add_activation(head: _Head, layer: KerasLayer, name: str) -> None:
    if name == "linear":
        return
    if name not in (*ACTIVATIONS, "softmax"):
        raise _cannot_compute(layer, f"with the activation {name}")
    if head.layers:
        if any(isinstance(step, str) for step in head.layers[-1].steps):
            raise _cannot_compute(layer, "after another activation")
        head.layers[-1].steps.append(name)
    elif name != "relu" or head.norms:  # the maps are not negative already
        raise _cannot_compute(layer, "in front of the first Dense")


def _finish_head(
    head: _Head, loss: object, notes: list[str], settings: Settings
) -> tuple[dict[str, Array], dict[str, Any]]:
    """The tensors of the head, and the settings that follow from it."""
    *hidden, last = head.layers
    for norm in reversed(head.norms):
        head.layers[0].fold_before(norm)
        notes.append(f"its BatchNormalization in front of {head.layers[0].layer} is folded into that layer")
    order = _batch_norm_order(head.layers, notes)
    tensors: dict[str, Array] = {}
    for number, dense in enumerate(hidden, 1):
        prefix = f"Logits.Hidden_{number}"
        tensors |= {f"{prefix}.weights": dense.kernel, f"{prefix}.biases": dense.bias}
        for norm in (step for step in dense.steps if isinstance(step, _BatchNorm)):
            tensors |= {
                f"{prefix}.BatchNorm.gamma": norm.gamma,
                f"{prefix}.BatchNorm.beta": norm.beta,
                f"{prefix}.BatchNorm.moving_mean": norm.mean,
                f"{prefix}.BatchNorm.moving_variance": norm.variance,
            }
    logits = state_name(convolutions(create_aux_logits=False)[-1])
    tensors |= {f"{logits}.weights": last.kernel, f"{logits}.biases": last.bias}
    found: dict[str, Any] = {
        "num_classes": len(last.bias),
        "output_activation": _output_activation(last, loss, notes, settings),
        "dropout_keep_prob": _keep_probability(head.dropout, notes),
        "hidden_units": tuple(len(dense.bias) for dense in hidden),
        "hidden_activation": tuple(dense.activation for dense in hidden),
        "hidden_batch_norm": order,
        "hidden_dropout_keep_prob": _keep_probability(head.hidden_dropout, notes),
    }
    if "softmax" in found["hidden_activation"]:
        raise _cannot_compute(hidden[found["hidden_activation"].index("softmax")].layer, "with the activation softmax")
    if len(set(found["hidden_activation"])) <= 1:
        found["hidden_activation"] = next(iter(found["hidden_activation"]), "relu")
    norms = [step for dense in hidden for step in dense.steps if isinstance(step, _BatchNorm)]
    return tensors, found | ({"hidden_batch_norm_epsilon": norms[0].epsilon} if norms else {})


def _batch_norm_order(layers: list[_Dense], notes: list[str]) -> BatchNormOrder:
    """The order of BatchNormalization and activation that all hidden layers have.

    Otherwise every BatchNormalization is folded into the Dense before or after it, which gives equal outputs.
    """
    *hidden, last = layers
    orders = {_order(dense) for dense in hidden}
    epsilons = {step.epsilon for dense in hidden for step in dense.steps if isinstance(step, _BatchNorm)}
    counts = {sum(isinstance(step, _BatchNorm) for step in dense.steps) for dense in hidden}
    if len(orders) == 1 and len(epsilons) <= 1 and counts <= {0, 1}:
        order = orders.pop()
        hidden = []  # nothing to fold
    else:
        order = None
    for dense in (*hidden, last):
        after = layers[layers.index(dense) + 1] if dense is not last else None
        _fold(dense, after, notes)
    return order


def _order(dense: _Dense) -> BatchNormOrder:
    norms = [number for number, step in enumerate(dense.steps) if isinstance(step, _BatchNorm)]
    if not norms:
        return None
    return "before" if norms[0] == 0 else "after"


def _fold(dense: _Dense, after: _Dense | None, notes: list[str]) -> None:
    """Fold the BatchNormalizations around the activation of a Dense into it, and into the Dense after it."""
    activations = [number for number, step in enumerate(dense.steps) if isinstance(step, str)]
    split = activations[0] if activations else len(dense.steps)
    before, behind = dense.steps[:split], dense.steps[split + 1 :]
    for norm in before:
        assert isinstance(norm, _BatchNorm)
        dense.fold_after(norm)
    for norm in reversed(behind):
        assert isinstance(norm, _BatchNorm)
        if after is None:
            raise ConfigurationError(
                f"it has a BatchNormalization after its output {dense.layer}, which cannot be computed"
            )
        after.fold_before(norm)
    if before or behind:
        notes.append(f"the BatchNormalization after {dense.layer} is folded into Dense layers, with equal outputs")
    dense.steps = dense.steps[split : split + 1]


def _keep_probability(rates: list[float], notes: list[str]) -> float:
    if len(set(rates)) > 1:
        listed = ", ".join(f"{rate:g}" for rate in rates)
        notes.append(f"its Dropout layers have different rates ({listed}); {rates[0]:g} is used in further training")
    return 1 - rates[0] if rates else 1.0


def _output_activation(dense: _Dense, loss: object, notes: list[str], settings: Settings) -> str:
    name, count = dense.activation, len(dense.bias)
    words = {*re.findall("[a-z]+", one_line(loss, 1000).lower().replace("_", ""))}
    if name == "linear" and (settings.output_activation == "none" or words & REGRESSION):
        return "none"
    if name == "linear":
        stated = any(word.endswith("crossentropy") for word in words)
        is_binary = any(word.startswith("binary") for word in words)
        name = "sigmoid" if count == 1 or (stated and is_binary) else "softmax"
        if not (stated and "'from_logits': true" in one_line(loss, 1000).lower()):
            notes.append(
                f"its output {dense.layer} has no activation; {name} is assumed, as after a loss with from_logits; "
                "--output replaces it"
            )
    if name not in ("softmax", "sigmoid"):
        raise _cannot_compute(dense.layer, f"with the activation {name} as its output")
    if name == "softmax" and count == 1:
        raise ConfigurationError(
            f"the softmax of the one output of {dense.layer} is 1 for every image; train it with a sigmoid"
        )
    return name


# ------------------------------------------------------------------------------------------------- the images


def _image_size(inputs: list[Call]) -> Size | None:
    """Height and width of the images that the network reads, from the outermost layer that states them."""
    for call in reversed(inputs):
        options = call.layer.options
        if call.layer.kind == "Resizing":
            shape: Any = [None, options.get("height"), options.get("width"), 3]
        else:
            names = ("batch_input_shape", "batch_shape", "build_input_shape")
            shape = next((options[name] for name in names if options.get(name)), None)
        if shape is None:
            continue
        if not isinstance(shape, list) or len(shape) != 4 or any(type(n) not in (int, type(None)) for n in shape):
            raise ConfigurationError(f"its input has the shape {one_line(shape)} instead of [null, height, width, 3]")
        if shape[3] not in (3, None):
            raise ConfigurationError(f"its images have the shape {one_line(shape[1:])}, not three channels last")
        if shape[1] and shape[2]:
            return shape[1], shape[2]
    return None


def _preprocessing(
    inputs: list[Call], read: ReadVariables, tensors: dict[str, Array], notes: list[str]
) -> Preprocessing:
    """The mean and std that give the same values as the layers in front of the base."""
    scale, offset, stated = np.ones(3), np.zeros(3), False
    resizing: dict[str, Any] = {}
    for call in reversed(inputs):
        if _is_identity(call.layer):
            continue
        if call.layer.kind in ("Resizing", "CenterCrop", "RandomCrop"):
            resizing |= _resizing(call.layer, inputs, notes)
            continue
        factor, term = _affine(call, read, notes)
        scale, offset, stated = scale * factor, offset * factor + term, True
    if not stated:
        return replace(assumed_preprocessing(tensors, notes), **resizing)
    if not np.isfinite([*scale, *offset]).all() or not scale.all():
        raise ConfigurationError("the layers in front of its base turn every image into the same values")
    deviation = 1 / (255 * scale)
    mean, std = ([float(f"{value:.7g}") + 0.0 for value in values] for values in (-offset * deviation, deviation))
    return replace(KERAS, **resizing, mean=(mean[0], mean[1], mean[2]), std=(std[0], std[1], std[2]))


def _resizing(layer: KerasLayer, inputs: list[Call], notes: list[str]) -> dict[str, Any]:
    """The options of `Preprocessing` for a layer that resizes images to the size of the base's input.

    For images of any size, this program resizes instead, and for those of the base's size it does nothing.
    """
    size, read = (layer.options.get("height"), layer.options.get("width")), _image_size(inputs) or ()
    if size != read:
        raise _cannot_compute(layer, f"to {size[0]}x{size[1]} from {'x'.join(map(str, read))}")
    first = inputs[-1].layer.options
    known = next((first[name] for name in ("batch_input_shape", "batch_shape") if first.get(name)), [None] * 4)
    if tuple(known[1:3]) != size:
        if layer.kind != "Resizing":
            raise _cannot_compute(layer, "of images of any size")
        notes.append(f"its {layer} is replaced by this program's own resizing of images to {size[0]}x{size[1]}")
        interpolation = layer.options.get("interpolation", "bilinear")
        if interpolation not in INTERPOLATIONS:
            raise _cannot_compute(layer, f"with the interpolation {one_line(interpolation)}")
        fits = {"crop_to_aspect_ratio": "cover", "pad_to_aspect_ratio": "contain"}
        fit = next((fit for option, fit in fits.items() if layer.options.get(option)), None)
        more = {"image_size": size, "squash": False, "resize": size, "fit": fit} if fit else {}
        return more | {"interpolation": INTERPOLATIONS[interpolation]}
    return {}


def _affine(call: Call, read: ReadVariables, notes: list[str]) -> tuple[Any, Any]:
    """The factor and the term by which a layer scales images, numbers or one for each channel."""
    layer, options = call.layer, call.layer.options
    function = options.get("function")
    if layer.kind == "Rescaling":
        return _numbers(layer, options.get("scale", 1)), _numbers(layer, options.get("offset", 0))
    if layer.kind == "Normalization":
        return _normalization(layer, read)
    if layer.kind == "Lambda" and _is_preprocess_input(options):
        notes.append(f"its {layer} is taken for keras.applications.inception_v3.preprocess_input: images in [-1, 1]")
        return 1 / 127.5, -1.0
    operation = ARITHMETIC.get(str(function) if layer.kind in ("TFOpLambda", "SlicingOpLambda") else layer.kind)
    if operation == "cast" and _rounds(layer):
        raise _cannot_compute(layer, f"to {one_line(options['dtype'])}")
    if operation in ("cast", "negative"):
        return (1.0, 0.0) if operation == "cast" else (-1.0, 0.0)
    if operation is None or len(call.arguments) != 2:
        detail = "with Python code" if layer.kind == "Lambda" else "in front of the base"
        raise _cannot_compute(layer, detail)
    first, second = call.arguments
    constant = _numbers(layer, second if isinstance(first, Call) else first)
    if operation == "add":
        return 1.0, constant
    if operation == "multiply":
        return constant, 0.0
    if operation == "subtract":
        return (1.0, -constant) if isinstance(first, Call) else (-1.0, constant)
    if not isinstance(first, Call) or not np.all(constant):
        raise _cannot_compute(layer, "in front of the base")
    return 1 / constant, 0.0


def _numbers(layer: KerasLayer, value: Any) -> Any:
    """A number, or one for each channel, as an array. Raises ConfigurationError for anything else."""
    try:
        array = np.asarray(value, np.float64).squeeze()
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.shape not in ((), (3,)):
        raise ConfigurationError(
            f"{layer} scales images by {one_line(value, 100)}, not by a number for each of 3 channels"
        )
    return array


def _normalization(layer: KerasLayer, read: ReadVariables) -> tuple[Any, Any]:
    """Normalization, whose mean and variance are options, or variables that `adapt` computed."""
    options = layer.options
    axis = options.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if axis not in (-1, 3, None, []) or options.get("invert"):
        raise _cannot_compute(layer, "of another axis, or inverted")
    mean, variance = options.get("mean"), options.get("variance")
    if mean is None or variance is None:
        shape = (3,) if axis in (-1, 3) else ()
        mean, variance = read(layer, {"mean": shape, "variance": shape, "count": None})
    deviation = np.maximum(np.sqrt(_numbers(layer, variance)), 1e-7)
    return 1 / deviation, -_numbers(layer, mean) / deviation


def _is_preprocess_input(options: dict[str, Any]) -> bool:
    """Whether a Lambda names Keras's own function for Inception V3. Its stored code is not run.

    Keras 2 stores the function's module and its compiled code, which contains its name.
    """
    function, module = options.get("function"), str(options.get("module"))
    if isinstance(function, dict):
        module, function = str(function.get("module")), function.get("config")
    if function == "preprocess_input":
        return "applications." not in module or module.endswith("inception_v3")
    if not isinstance(function, list) or not function or not isinstance(function[0], str):
        return False
    return module.endswith("applications.inception_v3") and "preprocess_input" in _decoded(function[0])


def _decoded(text: str) -> str:
    from base64 import b64decode

    try:
        return b64decode(text).decode("latin-1")
    except ValueError:
        return ""


def report_notes(path: Path, notes: list[str]) -> dict[str, str]:
    """Warn of the notes about a file, and return those that a user can replace, as in `Weights.assumed`."""
    facts = {"image_size": NO_SIZE, "mean": UNSTATED, "output_activation": NO_ACTIVATION}
    assumed = {fact: note for note in notes for fact, start in facts.items() if note.startswith(start)}
    for note in notes:
        if note not in assumed.values():
            warnings.warn(f"{path}: {note}", stacklevel=3)
    return assumed


def assumed_preprocessing(tensors: dict[str, Array], notes: list[str]) -> Preprocessing:
    """The preprocessing of a network whose file does not state it, with a line. `tensors` are in Keras's layout."""
    name, evidence = _image_range(tensors)
    mean, std = MEAN_STD[name]
    notes.append(
        f"{UNSTATED}; {name} is assumed, "
        f"{evidence or 'as by keras.applications.inception_v3.preprocess_input'}; --mean and --std replace it"
    )
    return replace(KERAS, mean=(mean,) * 3, std=(std,) * 3)


def _image_range(tensors: dict[str, Array]) -> tuple[str, str]:
    """The range of the images that the first convolution was trained on, and the evidence; empty if there is none.

    The moving mean of the first BatchNorm is the mean of its convolution, which is linear: about the sum of each
    channel's kernel times the channel's mean. Least squares over the filters give the means of the three channels.
    `tensors` are in Keras's layout.
    """
    prefix = state_name(convolutions(create_aux_logits=False)[0])
    kernel, mean = (tensors[f"{prefix}.{name}"].astype(np.float64) for name in ("weights", "BatchNorm.moving_mean"))
    sums = kernel.sum((0, 1)).T  # (filters, 3)
    channels = np.linalg.lstsq(sums, mean, rcond=None)[0]
    deviation = float(np.std(mean))
    if not deviation or np.std(sums @ channels - mean) > 0.15 * deviation:
        return "[-1, 1]", ""
    average = float(channels.mean())
    name = "[0, 255]" if average > 20 else "[0, 1]" if average > 0.3 else "[-1, 1]"
    listed = ", ".join(f"{value:.2f}" for value in channels)
    return name, f"because its first BatchNorm was trained on images with the means {listed}"
