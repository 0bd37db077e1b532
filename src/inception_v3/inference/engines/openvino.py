"""OpenVINO: the fastest on Intel's and AMD's processors in every precision; Intel's GPUs too."""

import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from inception_v3.errors import InputError
from inception_v3.inference.engines.base import PIXELS, Answers, Engine, Pixels, Precision

if TYPE_CHECKING:
    import openvino

# What the compiler may use; the integers of an int8 network are in its file.
_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}


class OpenvinoEngine(Engine):
    """`network` is an .xml with its .bin, an .onnx, or the bytes of one. `device` is one of OpenVINO's, such as GPU.

    `callers`: see Engine.
    """

    name: ClassVar[str] = "openvino"

    def __init__(
        self,
        network: "Path | bytes | openvino.Model",
        precision: Precision,
        device: str = "CPU",
        *,
        callers: int = 1,
    ) -> None:
        core = load_core()
        if device.split(".")[0] not in {name.split(".")[0] for name in core.available_devices}:
            raise InputError(
                f"OpenVINO has no {device} here; it has {', '.join(core.available_devices)}", exit_status=2
            )
        self.precision, self.device = precision, device
        model = core.read_model(network) if isinstance(network, Path | bytes) else network
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
        if callers > 1:
            options["NUM_STREAMS"] = callers
        self._compiled = core.compile_model(model, device, options)
        self._check_precision(precision)
        self._of_thread = threading.local()
        self._names = [output.any_name for output in self._compiled.outputs]
        given = self._compiled.input()
        height, width = list(given.partial_shape)[1:3] if given.any_name == PIXELS else list(given.partial_shape)[2:]
        self.image_size = None if height.is_dynamic else (height.get_length(), width.get_length())
        shapes = [output.partial_shape for output in self._compiled.outputs]
        self.widths = {name: shape[1].get_length() for name, shape in zip(self._names, shapes, strict=True)}

    def _check_precision(self, asked: Precision) -> None:
        """What a processor has no arithmetic for, OpenVINO computes in float32 without a word."""
        found = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if asked != "int8" and found != _HINTS[asked]:
            raise InputError(
                f"OpenVINO computes in {found} on this {self.device}, not in {asked}; take fp32 here", exit_status=2
            )

    def run(self, pixels: Pixels) -> Answers:
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        results = self._of_thread.request.infer([np.ascontiguousarray(pixels)], share_inputs=True)
        return {name: np.array(results[place]) for place, name in enumerate(self._names)}


@cache
def load_core() -> Any:
    """OpenVINO's Core, one for the process and as long as it.

    Each sets a stack for signals, and puts the one before it back when it goes. With several that go in any order, the
    next signal, such as Ctrl-C, finds a stack that is gone, and the process dies.
    """
    return load_openvino().Core()


def load_openvino() -> Any:
    """The package. Raises InputError, naming the extra, where it is missing."""
    try:
        import openvino
    except ImportError as error:
        raise InputError(
            "the engine openvino is not installed; pip install 'inception-v3[openvino]'", exit_status=2
        ) from error
    return openvino
