"""A graph as a PyTorch module, and its replay as CUDA graphs."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inception_v3.inference.engines.base import PIXELS_INPUT, Precision, is_vector
from inception_v3.inference.engines.graph import Activation, Concat, Convolution, Graph, Operation, Place, Pooling
from inception_v3.network.layers import ACTIVATIONS
from inception_v3.network.network import OUTPUT_ACTIVATIONS

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_ACTIVATIONS = ACTIVATIONS | {"softmax": OUTPUT_ACTIVATIONS["softmax"]}
MAX_RECORDED_SHAPES = 4  # each recording holds its own memory


class GraphModule(nn.Module):
    """A graph as a module. It maps pixels (N, H, W, 3), or images (N, 3, H, W), to a tuple of float32 outputs.

    The outputs are float64 if `dtype` is.
    """

    def __init__(self, graph: Graph, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.graph = graph
        self.dtype = dtype
        for index, operation in enumerate(graph.operations):
            if isinstance(operation, Convolution):
                kernel = torch.from_numpy(operation.kernel).to(dtype).contiguous(memory_format=torch.channels_last)
                self.register_buffer(f"kernel_{index}", kernel)
            if isinstance(operation, Convolution | Activation) and operation.bias is not None:
                self.register_buffer(f"bias_{index}", torch.from_numpy(operation.bias).to(dtype))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        net = {self.graph.input: self.to_map(pixels)}
        for index, operation in enumerate(self.graph.operations):
            net[operation.output] = self.run(index, operation, net)
        outputs = (net[name].flatten(1) if is_vector(name) else net[name] for name in self.graph.outputs)
        return tuple(output if self.dtype == torch.float64 else output.float() for output in outputs)

    def steps(self, pixels: Tensor) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Run the operations in turn. Yields the index of each, and all tensors so far, which may be changed.

        `forward` has a loop of its own, because torch.export cannot follow a generator.
        """
        net = {self.graph.input: self.to_map(pixels)}
        for index, operation in enumerate(self.graph.operations):
            net[operation.output] = self.run(index, operation, net)
            yield index, net

    def to_map(self, pixels: Tensor) -> Tensor:
        """The input as a map (N, C, H, W) in the module's dtype and in channels_last."""
        if self.graph.input == PIXELS_INPUT:  # NHWC pixels permuted to NCHW are channels_last without a copy
            return pixels.to(self.dtype).permute(0, 3, 1, 2)
        return pixels.to(self.dtype, memory_format=torch.channels_last)

    def run(self, index: int, operation: Operation, net: Mapping[str, Tensor]) -> Tensor:
        """Compute the operation with this index from the tensors `net`, by name."""
        if isinstance(operation, Concat):
            return torch.cat([net[name] for name in operation.inputs], 1)
        source = net[operation.input]
        bias: Tensor | None = getattr(self, f"bias_{index}", None)
        match operation:
            case Convolution(stride=stride, padding=padding, relu=relu):
                kernel = self.get_buffer(f"kernel_{index}")
                result = F.conv2d(source, kernel, bias, stride, padding)
                return F.relu_(result) if relu else result
            case Activation(kind=kind):
                return _ACTIVATIONS[kind](source if bias is None else source + bias.view(-1, 1, 1))
            case Pooling(kernel=None, kind=kind):
                return source.amax((2, 3), keepdim=True) if kind == "max" else source.mean((2, 3), keepdim=True)
            case Place():  # not in `dtype`: bf16 holds no index above 256
                return source.flatten(2).argmax(2, keepdim=True).float()
            case Pooling(kind="max", kernel=window, stride=stride, padding=padding) if window:
                return F.max_pool2d(source, window, stride, padding)
            case Pooling(kernel=window, stride=stride, padding=padding, count_padding=count_padding) if window:
                return F.avg_pool2d(source, window, stride, padding, count_include_pad=count_padding)
        raise TypeError(f"{operation} is not an operation")


Recording = tuple[Tensor, tuple[Tensor, ...], Callable[[], Any]]  # input buffer, output buffers, function that runs


class RecordedModule:
    """Runs a module by replaying a recording for the shape of the input: one kernel launch instead of hundreds.

    Inputs of more than MAX_RECORDED_SHAPES shapes are run without a recording.
    """

    def __init__(self, module: GraphModule, record: Callable[[GraphModule, Tensor], Recording]) -> None:
        self.module, self.record = module, record
        self.recordings: dict[tuple[int, ...], Recording] = {}

    def __call__(self, pixels: Tensor) -> tuple[Tensor, ...]:
        shape = tuple(pixels.shape)
        if shape not in self.recordings:
            if len(self.recordings) == MAX_RECORDED_SHAPES:
                return self.module(pixels)  # type: ignore[no-any-return]
            self.recordings[shape] = self.record(self.module, pixels)
        input_buffer, outputs, replay = self.recordings[shape]
        input_buffer.copy_(pixels)
        replay()
        return tuple(output.clone() for output in outputs)


def record_cuda_graph(module: GraphModule, pixels: Tensor) -> Recording:
    """Record a CUDA graph, after a warm-up in which cuDNN selects its kernels."""
    input_buffer = pixels.clone()
    stream = torch.cuda.Stream(input_buffer.device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(input_buffer.device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            module(input_buffer)
    torch.cuda.current_stream(input_buffer.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = module(input_buffer)
    return input_buffer, outputs, graph.replay
