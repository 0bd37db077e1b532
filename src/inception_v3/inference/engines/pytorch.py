"""PyTorch: the engine for every model that PyTorch loads, on all of PyTorch's devices."""

import warnings
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from inception_v3.errors import InputError
from inception_v3.inference.engines.base import DevicePrecisions, Engine, Inputs, Outputs, Precision, Speeds
from inception_v3.inference.engines.graph import Graph

if TYPE_CHECKING:
    from inception_v3.inference.engines.graph_module import GraphModule


class PyTorchEngine(Engine):
    """PyTorch without compilation.

    On CUDA, batches of the same shape replay a CUDA graph. A batch that does not fit in GPU memory is halved, with a
    warning.
    """

    name = "pytorch"
    packages = ("torch",)
    extra = "torch"
    precisions: ClassVar[DevicePrecisions] = {
        "cpu": ("fp32", "bf16"),
        "cuda": ("fp32", "bf16", "fp16"),
        "mps": ("fp32", "bf16", "fp16"),
        "xpu": ("fp32", "bf16", "fp16"),
    }
    speed: ClassVar[Speeds] = {"fp32": (11.2, 15.3), "bf16": (16.4, 28.1)}

    finds_peaks = True

    def __init__(self, network: Graph, precision: Precision = "fp32", device: str = "cpu", *, callers: int = 1) -> None:
        from inception_v3.inference.engines.graph_module import DTYPES, GraphModule

        if precision == "fp16" and device == "cpu":
            raise InputError("fp16 is for GPUs; use bf16 on a CPU", exit_status=2)
        super().__init__(network, precision, device, callers=callers)
        self.image_size, channels = network.image_size, network.channels()
        self.widths = {name: channels[name] for name in network.outputs}
        self._run = self._prepare(GraphModule(network, DTYPES[precision]).eval().to(device))
        self._max_batch: int | None = None

    def _prepare(self, module: "GraphModule") -> Any:
        """The function that runs the module: a tensor of pixels to a tuple of output tensors."""
        from inception_v3.inference.engines.graph_module import RecordedModule, record_cuda_graph

        return RecordedModule(module, record_cuda_graph) if self.device.startswith("cuda") else module

    @classmethod
    def resolve_device(cls, device: str | None) -> str:
        from inception_v3.support.devices import pick_device

        return str(pick_device(device))

    def run(self, inputs: Inputs) -> Outputs:
        count = 1 if self._max_batch is None else -(-len(inputs) // self._max_batch)
        parts = [outputs for part in np.array_split(inputs, count) for outputs in self._run_batch(part)]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.widths}

    def _run_batch(self, inputs: Inputs) -> list[Outputs]:
        """Run a batch at once, or in parts if it does not fit in memory. Returns the outputs of each part."""
        import torch

        flags = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=self.precision != "fp32")
        try:
            with torch.inference_mode(), flags:
                tensors = self._run(torch.from_numpy(np.ascontiguousarray(inputs)).to(self.device))
            return [{name: tensor.cpu().numpy() for name, tensor in zip(self.widths, tensors, strict=True)}]
        except torch.OutOfMemoryError as error:
            if len(inputs) == 1:
                raise InputError(f"{self.device}: not enough memory for one image; free some GPU memory") from error
        if hasattr(self._run, "recordings"):
            self._run.recordings.clear()  # frees their memory
        torch.cuda.empty_cache()
        half = len(inputs) // 2
        message = f"{self.device}: not enough memory for {len(inputs)} images at once; continuing with {half}"
        warnings.warn(message, stacklevel=2)
        self._max_batch = min(half, self._max_batch or half)
        return self._run_batch(inputs[:half]) + self._run_batch(inputs[half:])
