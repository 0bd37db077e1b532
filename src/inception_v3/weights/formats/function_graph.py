"""A function of a SavedModel (FunctionDef in tensorflow/core/framework/function.proto) as a graph of Keras layers.

A SavedModel without a configuration of Keras states its network only as operations of TensorFlow. Each operation that
depends on the image becomes the layer of Keras that computes the same, so that keras_network.py reads the network as it
reads a configuration: by connections and options, and with a refusal of every operation that it does not know.
Operations that do not depend on the image are computed here, from constants and variables. Nothing of a file is run.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from graphlib import TopologicalSorter
from typing import Any

import numpy as np

from inception_v3.support.protocol_buffers import (
    Bytes,
    Fields,
    integer,
    integers,
    messages,
    octets,
    parse,
    read_messages,
    text,
)
from inception_v3.support.text import one_line
from inception_v3.weights.formats.keras_config import Call, ConfigurationError, KerasLayer, Shapes, pair_variables
from inception_v3.weights.formats.tensor_proto import FLOATS, MAX_VALUES, read_tensor

MAX_PARTS = 100_000  # of a message; Keras's own Inception V3 has 2,000 nodes in a function, and 5,000 objects
MAX_OPERATIONS = 30_000  # once every call of a function is replaced by its operations
MAX_DEPTH = 20  # of functions that call functions

CALLS = ("PartitionedCall", "StatefulPartitionedCall")
PASS_ON = (
    "Identity", "ReadVariableOp", "StopGradient", "PreventGradient", "Snapshot", "EnsureShape", "CheckNumerics",
)  # fmt: skip
NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
ARITHMETIC = {
    "Add": "Add", "AddV2": "Add", "BiasAdd": "Add", "Sub": "Subtract", "Mul": "Multiply", "RealDiv": "TrueDivide",
    "Div": "TrueDivide", "Neg": "Negative",
}  # fmt: skip
ACTIVATIONS = {
    "Relu": "relu", "Relu6": "relu6", "Elu": "elu", "Selu": "selu", "Softplus": "softplus", "Tanh": "tanh",
    "Sigmoid": "sigmoid",
}  # fmt: skip
POOLS = {"MaxPool": "MaxPooling2D", "AvgPool": "AveragePooling2D"}
# How operations that do not depend on the image are computed.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Add": np.add, "AddV2": np.add, "BiasAdd": np.add, "Sub": np.subtract, "Mul": np.multiply, "RealDiv": np.divide,
    "Div": np.divide, "Neg": np.negative, "Maximum": np.maximum, "Minimum": np.minimum, "Sqrt": np.sqrt,
    "Rsqrt": lambda value: 1 / np.sqrt(value), "Square": np.square, "Reciprocal": np.reciprocal,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Operation:
    """An operation whose first output is used.

    Attributes:
        kind: TensorFlow's name of it, or "Variable" or "Image".
        name: its name in the function, for messages.
        inputs: the operations whose outputs it takes.
        attributes: its attributes by name, encoded.
        value: of a variable, its key; of the image, its shape.
        of_image: whether it depends on the image.
    """

    kind: str
    name: str
    inputs: tuple["Operation", ...] = ()
    attributes: dict[str, Bytes] = field(default_factory=dict)
    value: Any = None

    def __post_init__(self) -> None:
        depends = self.kind == "Image" or any(each.of_image for each in self.inputs)
        object.__setattr__(self, "of_image", depends)

    of_image: bool = field(init=False)

    def attribute(self, name: str) -> Fields:
        return parse(self.attributes.get(name, b""))

    def number(self, name: str, default: float) -> float:
        """The float of an attribute."""
        stored = octets(self.attribute(name), 4)
        return float(f"{np.frombuffer(stored, '<f4')[0]:.7g}") if len(stored) == 4 else default

    def flag(self, name: str, default: bool = False) -> bool:
        return bool(integer(self.attribute(name), 5, int(default)))

    def word(self, name: str, default: str = "") -> str:
        return text(self.attribute(name), 2) or default

    def numbers(self, name: str) -> list[int]:
        """The list of integers of an attribute."""
        return integers(parse(octets(self.attribute(name), 1)), 3)


class Functions:
    """The functions of a SavedModel by name. Each message is looked at when it is needed."""

    def __init__(self, library: memoryview) -> None:
        self.messages: dict[str, memoryview] = {}
        for message in messages(parse(library, MAX_PARTS), 1):
            signature = next(read_messages(message, 1), memoryview(b""))
            self.messages[bytes(next(read_messages(signature, 1), b"")).decode()] = message
        self.count = 0

    def expand(self, name: str, inputs: list[Operation], depth: int = 0) -> list[Operation]:
        """The operations that compute the outputs of a function, with those of the functions that it calls.

        Raises ValueError: damaged, or too large.
        """
        if depth > MAX_DEPTH:
            raise ValueError(f"functions call each other more than {MAX_DEPTH} deep")
        if name not in self.messages:
            raise ValueError(f"its function {one_line(name)!r} is missing")
        function = parse(self.messages[name], MAX_PARTS)
        signature = parse(octets(function, 1))
        names = [text(parse(each), 1) for each in messages(signature, 2)]
        if len(names) != len(inputs):
            raise ValueError(f"its function {one_line(name)!r} takes {len(names)} inputs, not {len(inputs)}")
        nodes = {text(node, 1): node for node in map(parse, messages(function, 3))}
        returned = {text(pair, 1): text(pair, 2) for pair in map(parse, messages(function, 4))}
        outputs = [returned[text(parse(each), 1)] for each in messages(signature, 3)]
        results: dict[str, list[Operation]] = {each: [given] for each, given in zip(names, inputs, strict=True)}
        for each in _order(nodes, outputs):
            if each not in results:
                results[each] = self._operations(nodes, each, results, depth)
        return [_output(reference, results) for reference in outputs]

    def _operations(
        self, nodes: dict[str, Fields], name: str, results: dict[str, list[Operation]], depth: int
    ) -> list[Operation]:
        """The outputs of a node whose inputs are known."""
        self.count += 1
        if self.count > MAX_OPERATIONS:
            raise ValueError(f"it has more than {MAX_OPERATIONS:,} operations")
        if name not in nodes:
            raise ValueError(f"its node {one_line(name)!r} is missing")
        node = nodes[name]
        kind = text(node, 2)
        inputs = [_output(reference, results) for reference in _inputs(node)]
        attributes = {text(pair, 1): octets(pair, 2) for pair in map(parse, messages(node, 5))}
        if kind in CALLS:
            called = parse(octets(parse(attributes.get("f", b"")), 10))
            return self.expand(text(called, 1), inputs, depth + 1)
        if kind == "IdentityN":
            return inputs
        if kind in PASS_ON and inputs:
            return inputs[:1]
        return [Operation(kind, name, tuple(inputs), attributes)]


def _inputs(node: Fields) -> list[str]:
    """The inputs of a node, without the nodes that only have to run before it."""
    references = [bytes(each).decode() for each in messages(node, 3)]
    return [each for each in references if not each.startswith("^")]


def _order(nodes: dict[str, Fields], outputs: list[str]) -> Iterable[str]:
    """The names of the nodes that the outputs need, each after its inputs."""
    needed: dict[str, list[str]] = {}
    waiting = [output.partition(":")[0] for output in outputs]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed[name] = [each.partition(":")[0] for each in _inputs(nodes[name])] if name in nodes else []
            waiting += needed[name]
    return TopologicalSorter(needed).static_order()


def _output(reference: str, results: dict[str, list[Operation]]) -> Operation:
    """The output that a reference such as `node:output:0` names; functions and IdentityN have several.

    Any other second output becomes an operation of its own, which no layer computes.
    """
    name, _, rest = reference.partition(":")
    index = int(rest.rpartition(":")[2] or 0)
    found = results[name]
    if index < len(found) and (len(found) > 1 or found[0].kind not in NORMS or rest in ("", "y:0")):
        return found[index]
    return Operation(f"{found[0].kind} ({rest})", name, (found[0],))


# ------------------------------------------------------------------------------------------------- constants


class Evaluator:
    """Computes operations that do not depend on the image."""

    def __init__(self, read_variable: Callable[[Any], np.ndarray]) -> None:
        self.read_variable = read_variable
        self.values: dict[Operation, np.ndarray] = {}

    def __call__(self, operation: Operation) -> np.ndarray:
        """The value of an operation. Raises ConfigurationError if it is not computed here."""
        if operation not in self.values:
            value = self._compute(operation)
            if value.size > MAX_VALUES:
                raise ValueError(f"its constant {operation.name!r} has {value.size} values")
            self.values[operation] = value
        return self.values[operation]

    def _compute(self, operation: Operation) -> np.ndarray:
        kind = operation.kind
        if operation.of_image:
            raise _unknown(operation)
        if kind == "Variable":
            return self.read_variable(operation.value)
        if kind == "Const":
            return read_tensor(octets(operation.attribute("value"), 8))
        values = [self(each) for each in operation.inputs]
        if kind in FUNCTIONS and math.prod(np.broadcast_shapes(*(value.shape for value in values))) <= MAX_VALUES:
            with np.errstate(all="ignore"):
                return np.asarray(FUNCTIONS[kind](*values))
        if kind == "Cast" and integer(operation.attribute("DstT"), 6) in FLOATS:
            return values[0] if values[0].dtype.kind == "f" else values[0].astype(np.float32)
        if kind == "Reshape":
            return values[0].reshape([int(length) for length in values[1].reshape(-1)])
        if kind == "ExpandDims":
            return np.expand_dims(values[0], int(values[1]))
        if kind == "Squeeze":
            return values[0].squeeze()
        if kind == "Pack":
            return np.stack(values)
        raise _unknown(operation)


def _unknown(operation: Operation) -> ConfigurationError:
    return ConfigurationError(
        f"its function has the operation {one_line(operation.kind)} {one_line(operation.name)!r}, which cannot be "
        "computed here; docs/weights.md lists the layers that can"
    )


# ------------------------------------------------------------------------------------------------- layers


class Layers:
    """The layers of Keras that compute the operations of a function, and the operations that give their variables."""

    def __init__(self, evaluate: Evaluator) -> None:
        self.evaluate = evaluate
        self.calls: dict[Operation, Call] = {}
        self.variables: dict[KerasLayer, dict[str, Operation]] = {}

    def read(self, layer: KerasLayer, shapes: Shapes) -> list[np.ndarray]:
        """The variables of a layer, as keras_network.py asks for them. Raises ConfigurationError: another shape."""
        arrays = []
        for operation, shape in pair_variables(layer, self.variables[layer], shapes):
            value = self.evaluate(operation)
            value = value.reshape(-1) if len(shape) == 1 else value  # [1, 1, 1, C] beside a map
            if value.shape != shape:
                raise ConfigurationError(
                    f"{layer} has {one_line(operation.name)!r} of shape {value.shape}, not {shape}"
                )
            if not np.isfinite(value).all():
                raise ConfigurationError(f"{layer} holds NaN or infinity; use an earlier or undamaged file")
            arrays.append(value)
        return arrays

    def call(self, output: Operation) -> Call:
        """The call that computes an operation, with all calls before it."""
        waiting = [output]
        while waiting:  # not recursive: networks are deep
            operation = waiting[-1]
            missing = [each for each in operation.inputs if each.of_image and each not in self.calls]
            if not missing:
                self.calls[waiting.pop()] = self._translate(operation)
            waiting += missing
        return self.calls[output]

    def _translate(self, operation: Operation) -> Call:
        kind = operation.kind
        _check_inference(operation, self.evaluate)
        if kind == "Image":
            return self._layer(operation, "InputLayer", {"batch_input_shape": operation.value})
        if kind == "Conv2D":
            return self._convolution(operation)
        if kind in POOLS:
            options = _window_options(operation)
            return self._layer(operation, POOLS[kind], options | {"pool_size": operation.numbers("ksize")[1:3]})
        if kind in NORMS and len(operation.inputs) == 5:
            return self._norm(operation, operation.inputs[0], operation.number("epsilon", 1e-4), *operation.inputs[1:])
        if kind == "MatMul" and not operation.flag("transpose_a") and not operation.flag("transpose_b"):
            kernel = operation.inputs[1]
            units = int(self.evaluate(kernel).shape[-1])
            return self._layer(operation, "Dense", {"units": units, "use_bias": False}, kernel=kernel)
        if kind in ACTIVATIONS:
            return self._layer(operation, "Activation", {"activation": ACTIVATIONS[kind]})
        if kind == "Softmax":
            return self._layer(operation, "Softmax", {})
        return self._compound(operation) or self._reshaping(operation) or self._arithmetic(operation)

    def _layer(
        self, operation: Operation, kind: str, options: dict[str, Any], inputs: Any = None, **variables: Operation
    ) -> Call:
        layer = KerasLayer(kind, options, (operation.name,), "")
        self.variables[layer] = variables
        given = operation.inputs if inputs is None else inputs
        return Call(layer, tuple(self.calls[each] for each in given if each.of_image))

    def _convolution(self, operation: Operation) -> Call:
        kernel = operation.inputs[1]
        shape = self.evaluate(kernel).shape
        options = _window_options(operation) | {
            "filters": shape[-1],
            "kernel_size": list(shape[:2]),
            "dilation_rate": (operation.numbers("dilations") or [1, 1, 1, 1])[1:3],
            "use_bias": False,
        }
        return self._layer(operation, "Conv2D", options, kernel=kernel)

    def _norm(
        self,
        operation: Operation,
        images: Operation,
        epsilon: float,
        gamma: Operation | None,
        beta: Operation | None,
        mean: Operation,
        variance: Operation,
    ) -> Call:
        options = {"epsilon": epsilon, "scale": gamma is not None, "center": beta is not None, "axis": -1}
        if operation.word("data_format", "NHWC") != "NHWC":
            options["axis"] = 1
        if gamma is not None and gamma.kind == "Const" and bool((self.evaluate(gamma) == 1).all()):
            options, gamma = options | {"scale": False}, None
        given = {"gamma": gamma, "beta": beta, "moving_mean": mean, "moving_variance": variance}
        present = {name: each for name, each in given.items() if each is not None}
        return self._layer(operation, "BatchNormalization", options, [images], **present)

    def _compound(self, operation: Operation) -> Call | None:
        """One layer for several operations: BatchNormalization, a bias, gelu and silu; None if it is no end of one."""
        if operation.kind in ("Add", "AddV2", "BiasAdd"):
            return self._batch_normalization(operation) or self._bias(operation)
        if operation.kind == "Mul":
            return self._activation(operation)
        return None

    def _batch_normalization(self, operation: Operation) -> Call | None:
        """tf.nn.batch_normalization: images * scale + (beta - mean * scale), scale = rsqrt(variance + eps) * gamma."""
        product, offset = operation.inputs
        if product.kind != "Mul" or not product.of_image or offset.of_image:
            return None
        images, scale = product.inputs
        beta, shift = offset.inputs if offset.kind == "Sub" else (None, offset)
        root, gamma = scale.inputs if scale.kind == "Mul" else (scale, None)
        if not images.of_image or scale.of_image or shift.kind != "Mul" or shift.inputs[1] is not scale:
            return None
        mean = shift.inputs[0]
        if beta is None:
            if mean.kind != "Neg":
                return None
            mean = mean.inputs[0]
        if root.kind != "Rsqrt" or root.inputs[0].kind not in ("Add", "AddV2"):
            return None
        variance, epsilon = root.inputs[0].inputs
        if epsilon.kind != "Const":
            return None
        number = float(f"{float(self.evaluate(epsilon)):.7g}")
        return self._norm(operation, images, number, gamma, beta, mean, variance)

    def _bias(self, operation: Operation) -> Call | None:
        """A Dense or a convolution with the bias that is added to it."""
        before, bias = operation.inputs
        call = self.calls.get(before)
        if (
            call is None
            or call.layer.kind not in ("Dense", "Conv2D")
            or call.layer.options["use_bias"]
            or bias.of_image
        ):
            return None
        if operation.word("data_format", "NHWC") != "NHWC" or self.evaluate(bias).ndim != 1:
            return None
        layer = KerasLayer(call.layer.kind, call.layer.options | {"use_bias": True}, call.layer.names, "")
        self.variables[layer] = self.variables[call.layer] | {"bias": bias}
        return Call(layer, call.arguments)

    def _activation(self, operation: Operation) -> Call | None:
        """silu, x * sigmoid(x), and gelu, 0.5 * x * (1 + erf(x / sqrt(2))); None for any other product."""
        first, second = operation.inputs
        if second.kind == "Sigmoid" and self._without_factor(second.inputs[0], 1.0) is first:
            return self._layer(operation, "Activation", {"activation": "silu"}, [first])
        half = self._without_factor(first, 0.5)
        one = self._without_term(second, 1.0)
        if half is None or one is None or one.kind != "Erf":
            return None
        inside = self._without_factor(one.inputs[0], 2**-0.5)
        return self._layer(operation, "Activation", {"activation": "gelu"}, [half]) if inside is half else None

    def _without_factor(self, operation: Operation, factor: float) -> Operation | None:
        """What is multiplied by that number, or divided by its inverse; the operation itself if the number is 1."""
        if operation.kind in ("Mul", "RealDiv", "Div") and len(operation.inputs) == 2:
            wanted = factor if operation.kind == "Mul" else 1 / factor
            return self._other(operation, wanted, commutes=operation.kind == "Mul") or (
                operation if factor == 1 else None
            )
        return operation if factor == 1 else None

    def _without_term(self, operation: Operation, term: float) -> Operation | None:
        return self._other(operation, term, commutes=True) if operation.kind in ("Add", "AddV2") else None

    def _other(self, operation: Operation, number: float, commutes: bool) -> Operation | None:
        """The input beside a constant with about that value."""
        first, second = operation.inputs
        pairs = [(first, second), (second, first)] if commutes else [(first, second)]
        for image, constant in pairs:
            if image.of_image and not constant.of_image:
                value = self.evaluate(constant)
                return image if value.size == 1 and math.isclose(value.item(), number, rel_tol=1e-6) else None
        return None

    def _reshaping(self, operation: Operation) -> Call | None:
        """A layer that joins, averages or reshapes maps; None for any other operation."""
        kind = operation.kind
        layer = partial(self._layer, operation)
        if kind == "ConcatV2":
            *joined, axis = operation.inputs
            if all(each.of_image for each in joined):
                return layer("Concatenate", {"axis": int(self.evaluate(axis))})
        if kind in ("Mean", "Max") and not operation.inputs[1].of_image:
            axes = sorted(int(axis) % 4 for axis in self.evaluate(operation.inputs[1]).reshape(-1))
            if axes == [1, 2]:
                return layer("GlobalAveragePooling2D" if kind == "Mean" else "GlobalMaxPooling2D", {})
        if kind == "Reshape" and not operation.inputs[1].of_image:
            shape = [int(length) for length in self.evaluate(operation.inputs[1]).reshape(-1)]
            return layer("Reshape", {"target_shape": shape[1:]}) if shape[:1] == [-1] else None
        if kind == "Squeeze" and operation.numbers("squeeze_dims") == [1, 2]:
            return layer("Flatten", {})
        if kind in ("ResizeBilinear", "ResizeBicubic", "ResizeNearestNeighbor", "ResizeArea"):
            height, width = (int(length) for length in self.evaluate(operation.inputs[1]))
            return layer("Resizing", {"height": height, "width": width})
        if kind == "Cast" and integer(operation.attribute("DstT"), 6) in FLOATS:
            return layer("Cast", {})
        return None

    def _arithmetic(self, operation: Operation) -> Call:
        """A layer that adds or multiplies constants; for any other operation, one that is refused by its name."""
        constants = [each for each in operation.inputs if not each.of_image]
        if operation.kind not in ARITHMETIC or len(constants) != len(operation.inputs) - 1:
            layer = KerasLayer(f"TensorFlow's {operation.kind}", {}, (operation.name,), "")
            return Call(layer, tuple(self.calls[each] for each in operation.inputs if each.of_image))
        layer = KerasLayer(ARITHMETIC[operation.kind], {}, (operation.name,), "")
        return Call(
            layer,
            tuple(self.calls[each] if each.of_image else self.evaluate(each).tolist() for each in operation.inputs),
        )


def _check_inference(operation: Operation, evaluate: Evaluator) -> None:
    """Raise ConfigurationError for what only training computes: statistics of a batch, and random numbers."""
    is_of_batch = operation.kind in NORMS and operation.flag("is_training", True)
    if operation.kind == "Mean" and not operation.inputs[1].of_image:
        is_of_batch = 0 in evaluate(operation.inputs[1])
    if is_of_batch or "Random" in operation.kind:
        raise ConfigurationError(
            f"its function computes as in training ({one_line(operation.kind)} {one_line(operation.name)!r}): its "
            "outputs depend on the batch or on chance; export the model without augmentation, called with "
            "training=False, or give it as model.keras"
        )


def _window_options(operation: Operation) -> dict[str, Any]:
    is_last = operation.word("data_format", "NHWC") == "NHWC"
    return {
        "strides": operation.numbers("strides")[1:3],
        "padding": operation.word("padding").lower(),
        "data_format": "channels_last" if is_last else "channels_first",
    }
