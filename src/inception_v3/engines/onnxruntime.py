"""ONNX Runtime: starts fastest; its providers reach processors and GPUs, TensorRT among them."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from inception_v3.engines.base import PIXELS, Answers, Engine, Pixels, Precision, core_count
from inception_v3.errors import InputError

# Of those that are installed the first is taken.
_PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
}


class OnnxRuntimeEngine(Engine):
    """`network` is an .onnx file or its bytes; `device` is cpu or cuda. `callers`: see Engine."""

    name: ClassVar[str] = "onnxruntime"

    def __init__(self, network: Path | bytes, precision: Precision, device: str = "cpu", *, callers: int = 1) -> None:
        runtime = load_onnxruntime()
        wanted = _PROVIDERS.get(device.split(":")[0], ())
        provider = next((name for name in wanted if name in runtime.get_available_providers()), None)
        if provider is None:
            raise InputError(f"this ONNX Runtime has no provider for {device}; install onnxruntime-gpu", exit_status=2)
        self.precision, self.device = precision, device
        options = runtime.SessionOptions()
        options.intra_op_num_threads = max(1, core_count() // callers)
        options.log_severity_level = 3  # errors alone: what it warns of, no user can change
        source = network if isinstance(network, bytes) else str(network)
        self._session = runtime.InferenceSession(source, options, providers=[provider])
        self._names = [output.name for output in self._session.get_outputs()]
        (given,) = self._session.get_inputs()
        self._input = given.name
        height, width = given.shape[1:3] if given.name == PIXELS else given.shape[2:]  # free ones are names
        self.image_size = (height, width) if isinstance(height, int) else None
        self.widths = {output.name: output.shape[1] for output in self._session.get_outputs()}

    def run(self, pixels: Pixels) -> Answers:
        results = self._session.run(self._names, {self._input: np.ascontiguousarray(pixels)})
        return dict(zip(self._names, results, strict=True))


def load_onnxruntime() -> Any:
    """The package. Raises InputError, naming the extra, where it is missing."""
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            "the engine onnxruntime is not installed; pip install 'inception-v3[onnx]'", exit_status=2
        ) from error
    return onnxruntime
