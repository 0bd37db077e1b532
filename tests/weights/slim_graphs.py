"""Write graphs of TF-Slim's Inception V3 without TensorFlow, with the operations that slim's own graphs have."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from inception_v3.network.architecture import BASE, Conv, Mixed, Pool
from inception_v3.support.protocol_buffers import encode
from inception_v3.weights.formats.tf_slim import to_tensorflow
from inception_v3.weights.model import InceptionV3

FLOAT, UINT8, INT32 = 1, 4, 3  # DataType


class GraphWriter:
    """The nodes of a GraphDef. Each method returns the name of the node that it adds."""

    def __init__(self) -> None:
        self.nodes: list[bytes] = []
        self.numbers = 0

    def node(self, name: str, op: str, inputs: Sequence[str] = (), **attributes: object) -> str:
        message = encode(1, name.encode()) + encode(2, op.encode())
        message += b"".join(encode(3, each.encode()) for each in inputs)
        for key, value in attributes.items():
            message += encode(5, encode(1, key.encode()) + encode(2, _attribute(value)))
        self.nodes.append(encode(1, message))
        return name

    def constant(self, value: object, name: str | None = None) -> str:
        self.numbers += 1
        array = np.asarray(value)
        array = array.astype("<i4" if array.dtype.kind == "i" else "<f4")
        shape = b"".join(encode(2, encode(1, length)) for length in array.shape)
        dtype = INT32 if array.dtype.kind == "i" else FLOAT
        tensor = encode(1, dtype) + encode(2, shape) + encode(4, array.tobytes())
        return self.node(name or f"const_{self.numbers}", "Const", value=encode(8, tensor))

    def save(self, path: Path) -> Path:
        path.write_bytes(b"".join(self.nodes))
        return path


def _attribute(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return bytes([5 << 3, value])  # written even if False, unlike the default value of a field
    if isinstance(value, int):
        return encode(6, value)
    if isinstance(value, float):
        return bytes([4 << 3 | 5]) + struct.pack("<f", value)
    if isinstance(value, str):
        return encode(2, value.encode())
    assert isinstance(value, list)
    return encode(1, b"".join(bytes([3 << 3]) + encode(3, n)[1:] for n in value))


class SlimWriter(GraphWriter):
    """The network of a model, as slim builds it below `scope`. `folded` leaves an offset of each BatchNorm."""

    def __init__(
        self, model: InceptionV3, scope: str = "InceptionV3/", folded: bool = False, frozen: bool = True
    ) -> None:
        super().__init__()
        self.model, self.scope, self.folded, self.frozen = model, scope, folded, frozen
        self.tensors = {name: torch.from_numpy(to_tensorflow(each)) for name, each in model.state_dict().items()}

    def input(self, size: tuple[int, int] | None = None, dtype: int = FLOAT) -> str:
        lengths = [-1, *(size or self.model.image_size), 3]
        shape = b"".join(encode(2, encode(1, length & (1 << 64) - 1)) for length in lengths)
        return self.node("input", "Placeholder", dtype=dtype, shape=encode(7, shape))

    def variable(self, name: str) -> str:
        value = self.tensors[name]
        variable = self.scope + name.replace(".", "/")
        if not self.frozen:
            return self.node(variable, "VariableV2")
        return self.constant(value.numpy(), variable)

    def convolution(self, net: str, layer: Conv, path: str) -> str:
        name, stride = path.replace("/", "."), layer.stride
        kernel, epsilon = self.tensors[f"{name}.weights"], self.model.settings.batch_norm_epsilon
        parts = {
            part: self.tensors.get(f"{name}.BatchNorm.{part}") for part in ("beta", "moving_mean", "moving_variance")
        }
        beta, mean, variance = parts.values()
        scale = None if variance is None else (variance + epsilon).rsqrt()
        op = f"{self.scope}{self.scope}{path}"
        if self.folded and scale is not None:  # as optimize_for_inference names them
            weights = self.constant((kernel * scale).numpy(), f"{op}/Conv2D_weights")
        else:
            weights = self.variable(f"{name}.weights")
        net = self.node(f"{op}/Conv2D", "Conv2D", [net, self.node(f"{op}/weights/read", "Identity", [weights])],
                        strides=[1, stride, stride, 1], padding=layer.padding, data_format="NHWC")  # fmt: skip
        if scale is None or beta is None or mean is None:
            return self.node(f"{op}/BiasAdd", "BiasAdd", [net, self.variable(f"{name}.biases")])
        if self.folded:
            offset = self.constant((beta - mean * scale).numpy())
            net = self.node(f"{op}/bias", "BiasAdd", [net, offset])
        else:
            gamma = self.constant(np.ones(len(beta)))
            variables = [self.variable(f"{name}.BatchNorm.{part}") for part in parts]
            net = self.node(f"{op}/BatchNorm/FusedBatchNormV3", "FusedBatchNormV3", [net, gamma, *variables],
                            epsilon=epsilon, is_training=False, data_format="NHWC")  # fmt: skip
        return self.node(f"{op}/Relu", "Relu", [net])

    def pool(self, net: str, layer: Pool, path: str, kernel: tuple[int, int] | None = None) -> str:
        op = "MaxPool" if layer.kind == "max" else "AvgPool"
        return self.node(f"{self.scope}{self.scope}{path}/{op}", op, [net], ksize=[1, *(kernel or layer.kernel), 1],
                         strides=[1, layer.stride, layer.stride, 1], padding=layer.padding)  # fmt: skip

    def base(self, net: str) -> str:
        axis = self.constant(np.array(3))
        for layer in BASE:
            if isinstance(layer, Conv):
                net = self.convolution(net, layer, layer.name)
            elif isinstance(layer, Pool):
                net = self.pool(net, layer, layer.name)
            else:
                net = self.module(net, layer, axis)
        return net

    def module(self, net: str, module: Mixed, axis: str) -> str:
        branches = []
        for branch, steps in module.named_branches:
            path, current = f"{module.name}/{branch}", net
            for step in steps:
                if isinstance(step, Pool):
                    current = self.pool(current, step, f"{path}/{step.name}")
                elif isinstance(step, Conv):
                    current = self.convolution(current, step, f"{path}/{step.name}")
                else:
                    both = [self.convolution(current, each, f"{path}/{each.name}") for each in step]
                    current = self.node(f"{self.scope}{self.scope}{path}/concat", "ConcatV2", [*both, axis])
            branches.append(current)
        return self.node(f"{self.scope}{self.scope}{module.name}/concat", "ConcatV2", [*branches, axis])

    def logits(self, net: str, activation: str | None = "Softmax") -> str:
        point = next(each for each in self.model.settings.end_points() if each.name == "Mixed_7c")
        size = (min(point.height, 8), min(point.width, 8))
        net = self.pool(net, Pool("AvgPool_1a", "avg", (8, 8), 2, "VALID"), "Logits/AvgPool_1a", size)
        net = self.convolution(net, Conv("Conv2d_1c_1x1", None, (1, 1)), "Logits/Conv2d_1c_1x1")
        net = self.node("SpatialSqueeze", "Squeeze", [net], squeeze_dims=[1, 2])
        return self.node("Predictions", activation, [net]) if activation else net

    def saved_model(self, folder: Path, tags: bytes = b"serve") -> Path:
        """Write the graph as a SavedModel without signatures."""
        folder.mkdir(exist_ok=True)
        meta = encode(1, encode(4, tags)) + encode(2, b"".join(self.nodes))
        (folder / "saved_model.pb").write_bytes(encode(1, 1) + encode(2, meta))
        return folder
