"""Converts a graph to an ONNX model."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inception_v3.inference.engines.base import FEATURES, LOGITS, PIXELS_INPUT
from inception_v3.inference.engines.graph import Activation, Concat, Convolution, Graph, Operation, Pooling

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

OPSET = 17  # 2022: ONNX Runtime since 1.12 and OpenVINO since 2022.2 read it
IR_VERSION = 8  # the version of the file format that belongs to opset 17


def to_onnx(graph: Graph) -> "ModelProto":
    """The graph as an ONNX model with float32 outputs.

    The input is uint8 `pixels` (N, H, W, 3), or float32 (N, C, h, w) for a graph without pixels. N is dynamic. H and W
    are dynamic if the graph takes any size.
    """
    import onnx

    builder = _Builder(graph, onnx)
    for operation in graph.operations:
        builder.add(operation)
    for name, map_name in builder.flattened.items():
        builder.node("Flatten", [map_name], name, axis=1)
    inputs, outputs = builder.inputs_and_outputs()
    proto = onnx.helper.make_graph(builder.nodes, "InceptionV3", inputs, outputs, builder.constants)
    opset = onnx.helper.make_opsetid("", OPSET)
    model: ModelProto = onnx.helper.make_model(proto, opset_imports=[opset], producer_name="inception-v3")
    model.ir_version = IR_VERSION
    return model


class _Builder:
    """Collects the nodes and constants of an ONNX graph.

    `flattened` maps each vector output to the name of its map (N, C, 1, 1), which a last node flattens.
    """

    def __init__(self, graph: Graph, onnx: Any) -> None:
        self.graph, self.onnx = graph, onnx
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.flattened = {name: f"{name}/map" for name in graph.outputs if name in (LOGITS, FEATURES)}
        self.names = dict(self.flattened)  # of tensors whose name in ONNX is another than in the graph
        if graph.input == PIXELS_INPUT:
            self.node("Cast", [PIXELS_INPUT], "pixels/float", to=onnx.TensorProto.FLOAT)
            self.node("Transpose", ["pixels/float"], "pixels/nchw", perm=[0, 3, 1, 2])
            self.names[PIXELS_INPUT] = "pixels/nchw"

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], name=output, **attributes))

    def constant(self, name: str, values: NDArray[np.generic]) -> str:
        self.constants.append(self.onnx.numpy_helper.from_array(values, name))
        return name

    def name(self, name: str) -> str:
        return self.names.get(name, name)

    def add(self, operation: Operation) -> None:
        output = self.name(operation.output)
        match operation:
            case Convolution(input=source, kernel=kernel, bias=bias):
                inputs = [self.name(source), self.constant(f"{operation.output}/weights", kernel)]
                if bias is not None:
                    inputs.append(self.constant(f"{operation.output}/biases", bias))
                before_relu = f"{operation.output}/convolution" if operation.relu else output
                self.node("Conv", inputs, before_relu, kernel_shape=kernel.shape[2:], **_window(operation))
                if operation.relu:
                    self.node("Relu", [before_relu], output)
            case Pooling(input=source, kernel=None):
                self.node("GlobalAveragePool", [self.name(source)], output)
            case Pooling(input=source, kernel=window, kind="max"):
                self.node("MaxPool", [self.name(source)], output, kernel_shape=window, **_window(operation))
            case Pooling(input=source, kernel=window):
                attributes = _window(operation) | {"count_include_pad": int(operation.count_padding)}
                self.node("AveragePool", [self.name(source)], output, kernel_shape=window, **attributes)
            case Activation(input=source, bias=None):
                self.node("Relu", [self.name(source)], output)
            case Activation(input=source, bias=bias) if bias is not None:
                bias_name = self.constant(f"{operation.output}/biases", bias.reshape(1, -1, 1, 1))
                self.node("Add", [self.name(source), bias_name], f"{operation.output}/sum")
                self.node("Relu", [f"{operation.output}/sum"], output)
            case Concat(inputs=sources):
                self.node("Concat", [self.name(source) for source in sources], output, axis=1)

    def inputs_and_outputs(self) -> "tuple[list[ValueInfoProto], list[ValueInfoProto]]":
        graph, types = self.graph, self.onnx.TensorProto
        value_info = self.onnx.helper.make_tensor_value_info
        height, width = graph.image_size or ("height", "width")
        if graph.input == PIXELS_INPUT:
            network_input = value_info(PIXELS_INPUT, types.UINT8, ["batch", height, width, 3])
        else:
            network_input = value_info(graph.input, types.FLOAT, ["batch", graph.input_channels, height, width])
        channels = graph.channels()
        outputs = []
        for name in graph.outputs:
            map_size = [] if name in self.flattened else [f"{name}_h", f"{name}_w"]
            outputs.append(value_info(name, types.FLOAT, ["batch", channels[name], *map_size]))
        return [network_input], outputs


def _window(operation: Convolution | Pooling) -> dict[str, Any]:
    return {"strides": [operation.stride] * 2, "pads": [*operation.padding, *operation.padding]}
