"""ONNX Runtime: starts fastest; its providers reach processors and GPUs, TensorRT among them."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from inception_v3.errors import InputError
from inception_v3.inference.engines.base import PIXELS, Answers, Engine, Pixels, Precision
from inception_v3.inference.engines.onnx_file import outline
from inception_v3.support.cpu import core_count

# In this order of preference; what one of them cannot run, the next one does.
_PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
}
_FOLDER = "session.model_external_initializers_file_folder_path"


class OnnxRuntimeEngine(Engine):
    """`network` is an .onnx file or its bytes; `device` is cpu or cuda. `callers`: see Engine.

    With `spinning` its threads keep the cores busy while they wait, which is quicker where nothing else needs them.
    """

    name: ClassVar[str] = "onnxruntime"

    def __init__(
        self,
        network: Path | bytes,
        precision: Precision,
        device: str = "cpu",
        *,
        callers: int = 1,
        spinning: bool = True,
    ) -> None:
        runtime = load_onnxruntime()
        kind, _, number = device.partition(":")
        there = runtime.get_available_providers()
        providers = [(name, _options(name, number)) for name in _PROVIDERS.get(kind, ()) if name in there]
        if not providers:
            raise InputError(f"this ONNX Runtime has no provider for {device}; install onnxruntime-gpu", exit_status=2)
        self.precision, self.device = precision, device
        options = runtime.SessionOptions()
        options.intra_op_num_threads = max(1, core_count() // callers)
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        options.log_severity_level = 3  # errors alone: what it warns of, no user can change
        if isinstance(network, Path):
            network = network.resolve()
            options.add_session_config_entry(_FOLDER, str(network.parent))
            network = outline(network)
        # Its own way to go on where a provider fails is to do so on the processor, and print.
        self._session = runtime.InferenceSession(network, options, providers=providers, enable_fallback=0)
        if self._session.get_providers()[0] not in dict(providers):
            raise InputError(f"ONNX Runtime cannot start on {device}; check its drivers, or leave --device out")
        self._names = [output.name for output in self._session.get_outputs()]
        (given,) = self._session.get_inputs()
        self._input = given.name
        height, width = given.shape[1:3] if given.name == PIXELS else given.shape[2:]  # free ones are names
        self.image_size = (height, width) if isinstance(height, int) else None
        self.widths = {output.name: output.shape[1] for output in self._session.get_outputs()}

    def run(self, pixels: Pixels) -> Answers:
        results = self._session.run(self._names, {self._input: np.ascontiguousarray(pixels)})
        return dict(zip(self._names, results, strict=True))


def _options(provider: str, number: str) -> dict[str, Any]:
    if provider == "CPUExecutionProvider":
        return {}
    device = {"device_id": int(number or 0)}
    # float32 is float32: TensorFloat-32 has 10 bits of the 23.
    return device | ({"use_tf32": 0} if provider == "CUDAExecutionProvider" else {})


def load_onnxruntime() -> Any:
    """The package. Raises InputError, naming the extra, where it is missing."""
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            "the engine onnxruntime is not installed; pip install 'inception-v3[onnx]'", exit_status=2
        ) from error
    return onnxruntime
