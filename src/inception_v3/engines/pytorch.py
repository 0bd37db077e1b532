"""PyTorch itself, on any of its devices."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from inception_v3.engines.base import FEATURES, LOGITS, PIXELS
from inception_v3.engines.graph import Activation, Concat, Convolution, Graph, Pool, Split


class Network(nn.Module):
    """A graph as a module: uint8 pixels (N, H, W, 3) to its outputs."""

    def __init__(self, graph: Graph, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.graph = graph
        self.dtype = dtype
        for place, operation in enumerate(graph.operations):
            if isinstance(operation, Convolution):
                kernel = torch.from_numpy(operation.kernel).to(dtype).contiguous(memory_format=torch.channels_last)
                self.register_buffer(f"kernel_{place}", kernel)
            if isinstance(operation, Convolution | Activation) and operation.bias is not None:
                self.register_buffer(f"bias_{place}", torch.from_numpy(operation.bias).to(dtype))

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        # NHWC in memory, NCHW by name: channels_last as it stands.
        net = {PIXELS: pixels.to(self.dtype).permute(0, 3, 1, 2)}
        for place, one in enumerate(self.graph.operations):
            match one:
                case Convolution():
                    kernel, bias = self.get_buffer(f"kernel_{place}"), self._bias(place)
                    result = F.conv2d(net[one.input], kernel, bias, one.stride, one.border)
                    net[one.output] = F.relu_(result) if one.relu else result
                case Pool(kernel=None):
                    net[one.output] = net[one.input].mean((2, 3), keepdim=True)
                case Pool(kind="max"):
                    net[one.output] = F.max_pool2d(net[one.input], one.kernel, one.stride, one.border)
                case Pool():
                    net[one.output] = F.avg_pool2d(
                        net[one.input], one.kernel, one.stride, one.border, count_include_pad=one.count_padding
                    )
                case Activation():
                    bias = self._bias(place)
                    net[one.output] = F.relu(net[one.input] if bias is None else net[one.input] + bias.view(-1, 1, 1))
                case Split():
                    net |= zip(one.outputs, net[one.input].split_with_sizes(one.widths, 1), strict=True)
                case Concat():
                    net[one.output] = torch.cat([net[name] for name in one.inputs], 1)
        return tuple(net[n].flatten(1) if n in (LOGITS, FEATURES) else net[n] for n in self.graph.outputs)

    def _bias(self, place: int) -> Tensor | None:
        return getattr(self, f"bias_{place}", None)
