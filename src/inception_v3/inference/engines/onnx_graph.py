"""Converts a graph to an ONNX model. It imports onnx, so it is imported only when a graph is converted."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from inception_v3.inference.engines.base import PIXELS_INPUT, is_vector
from inception_v3.inference.engines.graph import (
    Activation,
    Concat,
    Convolution,
    FloatArray,
    Graph,
    Operation,
    Place,
    Pooling,
    peak_operations,
)

OPSET = 17  # 2022: ONNX Runtime since 1.12 and OpenVINO since 2022.2 read it
IR_VERSION = 8  # the version of the file format that belongs to opset 17


def to_onnx(graph: Graph) -> ModelProto:
    """The graph as an ONNX model with float32 outputs.

    The input is uint8 `pixels` (N, H, W, 3), or float32 (N, C, h, w) for a graph without pixels. N is dynamic. H and W
    are dynamic if the graph takes any size.
    """
    maps = {name: f"{name}/map" for name in graph.outputs if is_vector(name)}  # (N, C, 1, 1)
    nodes, names = [], dict(maps)  # `names`: the ONNX names of tensors that have another name in the graph
    if graph.input == PIXELS_INPUT:
        nodes.append(_node("Cast", [PIXELS_INPUT], "pixels/float", to=TensorProto.FLOAT))
        nodes.append(_node("Transpose", ["pixels/float"], "pixels/nchw", perm=[0, 3, 1, 2]))
        names[PIXELS_INPUT] = "pixels/nchw"
    constants: dict[str, FloatArray] = {}
    for operation in graph.operations:
        nodes += _nodes(operation, names)
        constants |= _constants(operation)
    nodes += [_node("Flatten", [map_name], name, axis=1) for name, map_name in maps.items()]
    tensors = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    proto = helper.make_graph(nodes, "InceptionV3", [_network_input(graph)], _network_outputs(graph), tensors)
    return helper.make_model(
        proto, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="inception-v3", ir_version=IR_VERSION
    )


def add_maps(model: ModelProto, names: Iterable[str]) -> list[str]:
    """Add the maps (N, C, h, w) of the `names` that a model computes and does not return. Returns their names."""
    computed = {output for node in model.graph.node for output in node.output}
    returned = {output.name for output in model.graph.output}
    added = [name for name in dict.fromkeys(names) if name in computed - returned]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in added)
    return added


def add_peaks(model: ModelProto, names: Iterable[str]) -> None:
    """Add the outputs that `add_peaks` of graph.py describes to a model. Raises KeyError: it lacks one of the maps."""
    known = {output for node in model.graph.node for output in node.output}
    for name in names:
        if name not in known:
            raise KeyError(name)
        for operation in peak_operations(name):
            vector = operation.output
            model.graph.node.extend(_nodes(operation, {vector: f"{vector}/map"}))
            model.graph.node.append(_node("Flatten", [f"{vector}/map"], vector, axis=1))
            model.graph.output.append(helper.make_tensor_value_info(vector, TensorProto.FLOAT, ("batch", None)))


def _nodes(operation: Operation, names: Mapping[str, str]) -> Iterator[NodeProto]:
    output = names.get(operation.output, operation.output)
    inputs = [*(names.get(name, name) for name in operation.inputs), *_constants(operation)]
    match operation:
        case Convolution(kernel=kernel, relu=relu):
            before_relu = f"{operation.output}/convolution" if relu else output
            yield _node("Conv", inputs, before_relu, kernel_shape=kernel.shape[2:], **_window(operation))
            if relu:
                yield _node("Relu", [before_relu], output)
        case Pooling(kernel=None, kind=kind):
            yield _node("GlobalMaxPool" if kind == "max" else "GlobalAveragePool", inputs, output)
        case Place():
            steps = [f"{operation.output}/{step}" for step in ("shape", "channels", "index")]
            rows = numpy_helper.from_array(np.array([0, 0, -1]))  # a 0 keeps the length of its axis
            yield _node("Constant", [], steps[0], value=rows)
            yield _node("Reshape", [*inputs, steps[0]], steps[1])
            yield _node("ArgMax", [steps[1]], steps[2], axis=2)
            yield _node("Cast", [steps[2]], output, to=TensorProto.FLOAT)
        case Pooling(kernel=window, kind="max"):
            yield _node("MaxPool", inputs, output, kernel_shape=window, **_window(operation))
        case Pooling(kernel=window, count_padding=count_padding):
            attributes = _window(operation) | {"count_include_pad": int(count_padding)}
            yield _node("AveragePool", inputs, output, kernel_shape=window, **attributes)
        case Activation(bias=None, kind=kind):
            yield from _activation(kind, inputs[0], output)
        case Activation(kind=kind):
            yield _node("Add", inputs, f"{operation.output}/sum")
            yield from _activation(kind, f"{operation.output}/sum", output)
        case Concat():
            yield _node("Concat", inputs, output, axis=1)


def _activation(kind: str, net: str, output: str) -> Iterator[NodeProto]:
    """The nodes of an activation. OPSET has no node for GELU and SiLU."""

    def step(operator: str, *inputs: str) -> NodeProto:
        return _node(operator, list(inputs), f"{output}/{operator}")

    match kind:
        case "silu":
            yield step("Sigmoid", net)
            yield _node("Mul", [net, f"{output}/Sigmoid"], output)
        case "gelu":  # net * (1 + erf(net / sqrt(2))) / 2
            root, one, half = (f"{output}/{name}" for name in ("sqrt_2", "one", "half"))
            for name, value in ((root, 2**0.5), (one, 1.0), (half, 0.5)):
                yield _node("Constant", [], name, value_float=value)
            yield step("Div", net, root)
            yield step("Erf", f"{output}/Div")
            yield step("Add", f"{output}/Erf", one)
            yield step("Mul", net, f"{output}/Add")
            yield _node("Mul", [f"{output}/Mul", half], output)
        case "relu6":
            bounds = [f"{output}/{name}" for name in ("minimum", "maximum")]
            for name, value in zip(bounds, (0.0, 6.0), strict=True):
                yield _node("Constant", [], name, value_float=value)
            yield _node("Clip", [net, *bounds], output)
        case "softmax":
            yield _node("Softmax", [net], output, axis=1)
        case _:
            yield _node(kind.capitalize(), [net], output)


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(kind, inputs, [output], name=output, **attributes)


def _window(operation: Convolution | Pooling) -> dict[str, Any]:
    return {"strides": [operation.stride] * 2, "pads": [*operation.padding, *operation.padding]}


def _constants(operation: Operation) -> dict[str, FloatArray]:
    """The weights and biases of an operation, by name, in the order of its inputs."""
    constants = {}
    if isinstance(operation, Convolution):
        constants[f"{operation.output}/weights"] = operation.kernel
    if isinstance(operation, Convolution | Activation) and operation.bias is not None:
        shape = (1, -1, 1, 1) if isinstance(operation, Activation) else (-1,)
        constants[f"{operation.output}/biases"] = operation.bias.reshape(shape)
    return constants


def _network_input(graph: Graph) -> ValueInfoProto:
    height, width = graph.image_size or ("height", "width")
    if graph.input == PIXELS_INPUT:
        return helper.make_tensor_value_info(PIXELS_INPUT, TensorProto.UINT8, ("batch", height, width, 3))
    shape = ("batch", graph.input_channels, height, width)
    return helper.make_tensor_value_info(graph.input, TensorProto.FLOAT, shape)


def _network_outputs(graph: Graph) -> list[ValueInfoProto]:
    channels = graph.channels()
    map_sizes = {name: () if is_vector(name) else (f"{name}_h", f"{name}_w") for name in graph.outputs}
    return [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ("batch", channels[name], *map_size))
        for name, map_size in map_sizes.items()
    ]
