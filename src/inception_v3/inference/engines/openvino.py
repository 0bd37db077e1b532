"""OpenVINO: the fastest engine on Intel and AMD CPUs in every lower precision. It runs on Intel GPUs too."""

import threading
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from inception_v3.errors import InputError
from inception_v3.inference.engines.base import (
    PEAK,
    PIXELS_INPUT,
    PLACE,
    DevicePrecisions,
    Engine,
    Inputs,
    Outputs,
    Precision,
    Speeds,
    missing_map,
)
from inception_v3.inference.engines.graph import Graph

if TYPE_CHECKING:
    import openvino

# The precision that the compiler may use. The integer operations of an int8 network are in its file; the others run in
# bf16 on a CPU that has it, otherwise in float32.
_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "bf16"}


class OpenvinoEngine(Engine):
    """OpenVINO, for an .xml file with its .bin, an .onnx file, a graph, or a model in memory.

    `device` is OpenVINO's name of a device, such as CPU or GPU. For `callers`, see Engine.
    """

    name = "openvino"
    packages = ("openvino",)
    graph_packages = ("onnx",)
    extra = "openvino"
    precisions: ClassVar[DevicePrecisions] = {"cpu": ("fp32", "bf16", "int8"), "gpu": ("fp32", "fp16", "int8")}
    formats = ("openvino", "onnx")
    # fp16 was not measured: few CPUs have it, and the others refuse it.
    speed: ClassVar[Speeds] = {"fp32": (19.0, 18.6), "bf16": (36.7, 38.1), "fp16": (36.7, 38.1), "int8": (62.2, 72.4)}

    finds_peaks = True

    def __init__(
        self, network: "Path | Graph | openvino.Model", precision: Precision, device: str = "CPU", *, callers: int = 1
    ) -> None:
        available = load_core().available_devices
        if device.split(".")[0] not in {name.split(".")[0] for name in available}:
            raise InputError(f"OpenVINO has no {device} here; it has {', '.join(available)}", exit_status=2)
        super().__init__(network, precision, device, callers=callers)
        if isinstance(network, Graph):
            network = read_graph(network)
        elif isinstance(network, Path):
            network = load_core().read_model(network)
        hint = "f32" if precision == "int8" and not device.startswith("CPU") else _HINTS[precision]
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        if callers > 1:
            options["NUM_STREAMS"] = callers
        self._compiled = load_core().compile_model(network, device, options)
        self._check_precision(precision)
        self._thread_local = threading.local()
        network_input = self._compiled.input()
        shape, is_pixels = list(network_input.partial_shape), network_input.any_name == PIXELS_INPUT
        height, width = shape[1:3] if is_pixels else shape[2:]
        self.image_size = None if height.is_dynamic else (height.get_length(), width.get_length())
        # After compilation, an output may also have the names of other tensors that are equal to it.
        self.widths = {output.any_name: output.partial_shape[1].get_length() for output in network.outputs}

    def _check_precision(self, requested: Precision) -> None:
        """Raise InputError if the device lacks the precision. OpenVINO would silently compute in float32."""
        actual = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if requested != "int8" and actual != _HINTS[requested]:
            raise InputError(
                f"OpenVINO computes in {actual} on this {self.device}, not in {requested}; use --precision fp32",
                exit_status=2,
            )

    @classmethod
    def resolve_device(cls, device: str | None) -> str:
        return (device or "cpu").upper()

    @classmethod
    def with_outputs(
        cls, file: Path, names: Collection[str] = (), peaks: Sequence[str] = ()
    ) -> "tuple[openvino.Model, list[str]]":
        model = load_core().read_model(file)
        computed = {name for operation in model.get_ops() for each in operation.outputs() for name in each.get_names()}
        returned = {name for output in model.outputs for name in output.get_names()}
        added = [name for name in dict.fromkeys(names) if name in computed - returned]
        model.add_outputs(added)
        with missing_map(file):
            _add_peaks(model, peaks)
        return model, added

    def run(self, inputs: Inputs) -> Outputs:
        if not hasattr(self._thread_local, "request"):
            self._thread_local.request = self._compiled.create_infer_request()
        results = self._thread_local.request.infer([np.ascontiguousarray(inputs)], share_inputs=True)
        return {name: np.array(results[index]) for index, name in enumerate(self.widths)}


def read_graph(graph: Graph) -> "openvino.Model":
    """The graph as a model of OpenVINO. Raises InputError if openvino or onnx is missing."""
    from inception_v3.inference.engines.onnx_graph import to_onnx

    model = load_core().read_model(to_onnx(graph).SerializeToString())
    _make_biases_constant(model)
    return model


def _add_peaks(model: "openvino.Model", names: Sequence[str]) -> None:
    """Add the outputs that `add_peaks` of graph.py describes. Raises KeyError: the model lacks one of the maps."""
    from openvino import opset13

    maps = {operation.get_friendly_name(): operation for operation in model.get_ordered_ops()}
    for name in names:
        net = maps[name].output(0)
        flat = opset13.reshape(net, np.array([0, 0, -1]), special_zero=True)
        peak = opset13.reduce_max(flat, np.array([2]), keep_dims=False)
        place = opset13.topk(flat, np.int64(1), 2, "max", "value", stable=True).output(1)
        outputs = {PEAK: peak, PLACE: opset13.convert(opset13.squeeze(place, np.array([2])), np.float32)}
        for suffix, node in outputs.items():
            node.output(0).get_tensor().set_names({name + suffix})
            model.add_outputs(node.output(0))


def _make_biases_constant(model: "openvino.Model") -> None:
    """Replace each bias that OpenVINO reshapes at run time by a constant (1, C, 1, 1).

    Only such a bias is corrected by NNCF for the mean error of int8.
    """
    from openvino import opset13

    for operation in model.get_ops():
        if operation.get_type_name() == "Reshape":
            source = operation.input_value(0).get_node()
            if source.get_type_name() == "Constant":
                values = source.get_data().reshape(1, -1, 1, 1)
                bias = opset13.constant(values, name=source.get_friendly_name())
                operation.output(0).replace(bias.output(0))


@cache
def load_core() -> Any:
    """OpenVINO's Core, shared by the whole process and never destroyed.

    Each Core installs a signal stack and restores the previous stack when it is destroyed. If several Cores are
    destroyed in another order, the next signal (such as Ctrl-C) runs on a freed stack and kills the process.
    """
    import openvino

    return openvino.Core()
