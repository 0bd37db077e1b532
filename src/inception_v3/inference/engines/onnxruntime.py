"""ONNX Runtime: the engine that starts fastest. Its execution providers run on CPUs and NVIDIA GPUs (with TensorRT)."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from inception_v3.errors import InputError
from inception_v3.inference.engines.base import (
    PIXELS_INPUT,
    DevicePrecisions,
    Engine,
    Inputs,
    Outputs,
    Precision,
    Speeds,
    missing_map,
)
from inception_v3.inference.engines.graph import Graph
from inception_v3.inference.engines.onnx_file import outline
from inception_v3.support.packages import require_packages
from inception_v3.support.text import is_utf8

if TYPE_CHECKING:
    from onnx import ModelProto

# The providers and their options, in order of preference. A later provider runs the operations that an earlier provider
# lacks. TensorFloat-32 would keep 10 of float32's 23 bits of mantissa.
_PROVIDERS: dict[str, dict[str, dict[str, int]]] = {
    "cpu": {"CPUExecutionProvider": {}},
    "cuda": {"TensorrtExecutionProvider": {}, "CUDAExecutionProvider": {"use_tf32": 0}},
}
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


class OnnxRuntimeEngine(Engine):
    """ONNX Runtime on the CPU or on CUDA, for an .onnx file, a graph, or a model in memory. For `callers`, see Engine.

    With `spinning`, threads that wait in a run keep their cores busy. That is faster if nothing else needs the cores.
    """

    name = "onnxruntime"
    packages = ("onnxruntime",)
    graph_packages = ("onnx",)
    extra = "onnx"
    precisions: ClassVar[DevicePrecisions] = {"cpu": ("fp32", "int8"), "cuda": ("fp32",)}
    formats = ("onnx",)
    speed: ClassVar[Speeds] = {"fp32": (18.0, 18.6), "int8": (31.3, 33.1)}

    finds_peaks = True

    def __init__(
        self,
        network: "Path | Graph | ModelProto",
        precision: Precision,
        device: str = "cpu",
        *,
        callers: int = 1,
        spinning: bool = True,
    ) -> None:
        import onnxruntime as runtime

        kind, _, index = device.partition(":")
        device_options = {"device_id": int(index or 0)} if kind == "cuda" else {}
        known, available = _PROVIDERS.get(kind, {}), runtime.get_available_providers()
        providers = [(name, device_options | options) for name, options in known.items() if name in available]
        if not providers:
            raise InputError(f"this ONNX Runtime has no provider for {device}; install onnxruntime-gpu", exit_status=2)
        super().__init__(network, precision, device, callers=callers)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.cores
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        options.add_session_config_entry("session.force_spinning_stop", "1")  # after a run, when others need the cores
        options.log_severity_level = 3  # errors: its warnings are about things that users cannot change
        if isinstance(network, Path) and not is_utf8(os.path.realpath(network)):  # no name for the folder
            content = network.read_bytes()
        elif isinstance(network, Path):
            options.add_session_config_entry(_WEIGHTS_FOLDER, str(network.resolve().parent))
            content = outline(network.resolve())
        else:
            from inception_v3.inference.engines.onnx_graph import to_onnx

            content = (to_onnx(network) if isinstance(network, Graph) else network).SerializeToString()
        # With its own fallback, ONNX Runtime would replace a failed provider by the CPU, with a message on stdout.
        self._session = runtime.InferenceSession(content, options, providers=providers, enable_fallback=0)
        if self._session.get_providers()[0] not in dict(providers):
            raise InputError(f"ONNX Runtime cannot start on {device}; check its drivers, or leave out --device")
        (network_input,) = self._session.get_inputs()
        self._input = network_input.name
        height, width = network_input.shape[1:3] if self._input == PIXELS_INPUT else network_input.shape[2:]
        self.image_size = (height, width) if isinstance(height, int) else None  # dynamic sizes are strings
        self.widths = {output.name: output.shape[1] for output in self._session.get_outputs()}

    @classmethod
    def with_outputs(
        cls, file: Path, names: Collection[str] = (), peaks: Sequence[str] = ()
    ) -> "tuple[ModelProto, list[str]]":
        require_packages(cls.graph_packages, f"{file}: adding outputs to it", cls.extra)
        import onnx

        from inception_v3.inference.engines.onnx_graph import add_maps, add_peaks

        model = onnx.load_model_from_string(file.read_bytes())
        added = add_maps(model, names)
        with missing_map(file):
            add_peaks(model, peaks)
        return model, added

    def run(self, inputs: Inputs) -> Outputs:
        outputs = self._session.run([*self.widths], {self._input: np.ascontiguousarray(inputs)})
        return dict(zip(self.widths, outputs, strict=True))
