"""PyTorch itself, on any of its devices: always there."""

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inception_v3.errors import InputError
from inception_v3.inference.engines.base import FEATURES, LOGITS, PIXELS, Answers, Engine, Pixels, Precision
from inception_v3.inference.engines.graph import Activation, Concat, Convolution, Graph, Pool

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_CAPTURED = 4  # shapes of batches that a GPU replays; each holds its memory


class Network(nn.Module):
    """A graph as a module: pixels (N, H, W, 3), or images (N, 3, H, W), to a tuple of its outputs in float32."""

    def __init__(self, graph: Graph, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.graph = graph
        self.dtype = dtype
        for place, one in enumerate(graph.operations):
            if isinstance(one, Convolution):
                kernel = torch.from_numpy(one.kernel).to(dtype).contiguous(memory_format=torch.channels_last)
                self.register_buffer(f"kernel_{place}", kernel)
            if isinstance(one, Convolution | Activation) and one.bias is not None:
                self.register_buffer(f"bias_{place}", torch.from_numpy(one.bias).to(dtype))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        net = {self.graph.input: pixels.to(self.dtype, memory_format=torch.channels_last)}
        if self.graph.input == PIXELS:  # NHWC in memory, NCHW by name: that is channels_last as it stands
            net = {PIXELS: pixels.to(self.dtype).permute(0, 3, 1, 2)}
        for place, one in enumerate(self.graph.operations):
            match one:
                case Convolution():
                    kernel, bias = self.get_buffer(f"kernel_{place}"), self._bias(place)
                    result = F.conv2d(net[one.input], kernel, bias, one.stride, one.border)
                    net[one.output] = F.relu_(result) if one.relu else result
                case Pool(kernel=None):
                    net[one.output] = net[one.input].mean((2, 3), keepdim=True)
                case Pool(kind="max", kernel=kernel) if kernel:
                    net[one.output] = F.max_pool2d(net[one.input], kernel, one.stride, one.border)
                case Pool(kernel=kernel) if kernel:
                    net[one.output] = F.avg_pool2d(
                        net[one.input], kernel, one.stride, one.border, count_include_pad=one.count_padding
                    )
                case Activation():
                    bias = self._bias(place)
                    net[one.output] = F.relu(net[one.input] if bias is None else net[one.input] + bias.view(-1, 1, 1))
                case Concat():
                    net[one.output] = torch.cat([net[name] for name in one.inputs], 1)
        flat = (LOGITS, FEATURES)
        answers = (net[name].flatten(1) if name in flat else net[name] for name in self.graph.outputs)
        return tuple(answer if self.dtype == torch.float64 else answer.float() for answer in answers)

    def _bias(self, place: int) -> Tensor | None:
        return getattr(self, f"bias_{place}", None)


class PyTorchEngine(Engine):
    """`compiled` goes through torch.compile: tens of seconds once for each shape of batch, less time for each batch.

    On a GPU a batch of a shape that came before is replayed as a CUDA graph, and one that does not fit its memory is
    halved, with a warning.
    """

    name: ClassVar[str] = "pytorch"

    def __init__(
        self, graph: Graph, precision: Precision = "fp32", device: str = "cpu", *, compiled: bool = False
    ) -> None:
        if precision not in DTYPES:
            raise InputError(f"PyTorch does not run {precision} here; export to OpenVINO for it", exit_status=2)
        if precision == "fp16" and device == "cpu":
            raise InputError("fp16 is for GPUs; take bf16 on a processor", exit_status=2)
        self.precision, self.device = precision, device
        network = Network(graph, DTYPES[precision]).eval().to(device)
        self.outputs = graph.outputs
        self.image_size, channels = graph.image_size, graph.channels()
        self.widths = {name: channels[name] for name in graph.outputs}
        self._run: Callable[[Tensor], tuple[Tensor, ...]] = torch.compile(network) if compiled else network
        if device.startswith("cuda") and not compiled:
            self._run = Captured(network, capture)
        self._largest: int | None = None

    @torch.inference_mode()
    def run(self, pixels: Pixels) -> Answers:
        parts = [self._answers(part) for part in np.array_split(pixels, self._parts(len(pixels)))]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.outputs}

    def _parts(self, count: int) -> int:
        return 1 if self._largest is None else -(-count // self._largest)

    def _answers(self, pixels: Pixels) -> Answers:
        try:
            with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=self.precision != "fp32"):
                tensors = self._run(torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device))
            return {name: tensor.cpu().numpy() for name, tensor in zip(self.outputs, tensors, strict=True)}
        except torch.OutOfMemoryError as error:
            if len(pixels) == 1:
                raise InputError(f"{self.device}: not enough memory for one picture; free some of it") from error
        if isinstance(self._run, Captured):
            self._run.forget()
        torch.cuda.empty_cache()
        half = len(pixels) // 2
        warnings.warn(
            f"{self.device}: no memory for {len(pixels)} pictures at once; going on with {half}", stacklevel=2
        )
        self._largest = min(half, self._largest or half)
        halves = [self._answers(pixels[:half]), self._answers(pixels[half:])]
        return {name: np.concatenate([half[name] for half in halves]) for name in self.outputs}


Replay = tuple[Tensor, tuple[Tensor, ...], Callable[[], Any]]  # where pixels go, where answers come, what runs it


class Captured:
    """Runs a network by replaying what was recorded for pixels of that shape: one launch in place of hundreds."""

    def __init__(self, network: Network, record: Callable[[Network, Tensor], Replay]) -> None:
        self.network, self.record = network, record
        self.replays: dict[tuple[int, ...], Replay] = {}

    def __call__(self, pixels: Tensor) -> tuple[Tensor, ...]:
        shape = tuple(pixels.shape)
        if shape not in self.replays:
            if len(self.replays) == MAX_CAPTURED:
                return self.network(pixels)  # type: ignore[no-any-return]
            self.replays[shape] = self.record(self.network, pixels)
        given, answers, replay = self.replays[shape]
        given.copy_(pixels)
        replay()
        return tuple(answer.clone() for answer in answers)

    def forget(self) -> None:
        """Give the memory of all recordings back."""
        self.replays.clear()


def capture(network: Network, pixels: Tensor) -> Replay:
    """Record a CUDA graph, after the warm-up in which cuDNN picks its kernels."""
    given = pixels.clone()
    stream = torch.cuda.Stream(given.device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(given.device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            network(given)
    torch.cuda.current_stream(given.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answers = network(given)
    return given, answers, graph.replay
