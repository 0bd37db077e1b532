"""The graph as an ONNX model, written operation by operation."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import InputError
from inception_v3.inference.engines.base import FEATURES, LOGITS, PIXELS
from inception_v3.inference.engines.graph import Activation, Concat, Convolution, Graph, Pool

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

OPSET = 17  # 2022: every ONNX Runtime since 1.12 and every OpenVINO since 2022.2 reads it


def to_onnx(graph: Graph) -> "ModelProto":
    """uint8 `pixels` (N, H, W, 3) to the graph's outputs in float32; N is free, H and W where the graph's are.

    Raises InputError where the package onnx is missing.
    """
    onnx = load_onnx()
    TensorProto, helper, numpy_helper = onnx.TensorProto, onnx.helper, onnx.numpy_helper
    nodes: list[NodeProto] = []
    constants = []

    def constant(name: str, values: NDArray[np.generic]) -> str:
        constants.append(numpy_helper.from_array(values, name))
        return name

    def node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes))

    def window(one: Convolution | Pool) -> dict[str, Any]:
        return {"strides": [one.stride] * 2, "pads": [*one.border, *one.border]}

    renamed = {}
    if graph.input == PIXELS:
        node("Cast", [PIXELS], ["pixels/float"], to=TensorProto.FLOAT)
        node("Transpose", ["pixels/float"], ["pixels/nchw"], perm=[0, 3, 1, 2])
        renamed = {PIXELS: "pixels/nchw"}
    ends = {name: f"{name}/map" for name in graph.outputs if name in (LOGITS, FEATURES)}

    def named(name: str) -> str:
        return renamed.get(name) or ends.get(name, name)

    for one in graph.operations:
        match one:
            case Convolution():
                output = named(one.output)
                inputs = [named(one.input), constant(f"{one.output}/weights", one.kernel)]
                if one.bias is not None:
                    inputs.append(constant(f"{one.output}/biases", one.bias))
                before = f"{one.output}/convolution" if one.relu else output
                node("Conv", inputs, [before], kernel_shape=one.kernel.shape[2:], **window(one))
                if one.relu:
                    node("Relu", [before], [output])
            case Pool(kernel=None):
                node("GlobalAveragePool", [named(one.input)], [named(one.output)])
            case Pool():
                more = {"count_include_pad": int(one.count_padding)} if one.kind == "avg" else {}
                kind = "MaxPool" if one.kind == "max" else "AveragePool"
                node(kind, [named(one.input)], [named(one.output)], kernel_shape=one.kernel, **window(one), **more)
            case Activation():
                before = named(one.input)
                if one.bias is not None:
                    bias = constant(f"{one.output}/biases", one.bias.reshape(1, -1, 1, 1))
                    node("Add", [before, bias], [f"{one.output}/sum"])
                    before = f"{one.output}/sum"
                node("Relu", [before], [named(one.output)])
            case Concat():
                node("Concat", [named(name) for name in one.inputs], [named(one.output)], axis=1)
    for name, map_name in ends.items():
        node("Flatten", [map_name], [name], axis=1)

    channels = graph.channels()
    height, width = graph.image_size or ("height", "width")
    if graph.input == PIXELS:
        given = helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["batch", height, width, 3])
    else:
        shape = ["batch", graph.input_channels, height, width]
        given = helper.make_tensor_value_info(graph.input, TensorProto.FLOAT, shape)
    outputs = [
        helper.make_tensor_value_info(
            name, TensorProto.FLOAT, ["batch", channels[name], *([] if name in ends else [f"{name}_h", f"{name}_w"])]
        )
        for name in graph.outputs
    ]
    proto = helper.make_graph(nodes, "InceptionV3", [given], outputs, constants)
    opset = helper.make_opsetid("", OPSET)
    model: ModelProto = helper.make_model(proto, opset_imports=[opset], producer_name="inception-v3")
    model.ir_version = 8  # of opset 17
    return model


def load_onnx() -> Any:
    """The package. Raises InputError, naming the extra, where it is missing."""
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        reason = "writing ONNX needs the package onnx; pip install 'inception-v3[onnx]'"
        raise InputError(reason, exit_status=2) from error
    return onnx
