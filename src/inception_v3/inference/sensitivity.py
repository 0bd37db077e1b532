"""How much each convolution adds to the error of an int8 network, measured before the network is quantised."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from inception_v3.inference.engines.base import Inputs
from inception_v3.inference.engines.graph import Activation, Convolution, Graph
from inception_v3.inference.engines.graph_module import GraphModule

UNSIGNED_STEPS, SIGNED_STEPS = 255, 127  # of the largest value in int8


@dataclass(frozen=True)
class Sensitivity:
    """A convolution, and what its int8 costs.

    Attributes:
        name: its output in the graph.
        error: the squared relative error of the network's outputs if only this convolution is in int8.
        multiplications: for one image.
    """

    name: str
    error: float
    multiplications: int


@torch.inference_mode()
def channel_maxima(graph: Graph, inputs: Inputs, batch_size: int = 8) -> dict[str, NDArray[np.float32]]:
    """The largest value of each channel (C,) of the outputs of convolutions and activations, over all `inputs`."""
    module = GraphModule(graph)
    maxima: dict[str, Tensor] = {}
    for start in range(0, len(inputs), batch_size):
        for index, net in module.steps(_to_tensor(inputs[start : start + batch_size])):
            operation = graph.operations[index]
            if isinstance(operation, Convolution | Activation):
                largest = net[operation.output].amax((0, 2, 3))
                maxima[operation.output] = torch.maximum(maxima.get(operation.output, largest), largest)
    return {name: largest.numpy() for name, largest in maxima.items()}


@torch.inference_mode()
def sensitivities(graph: Graph, inputs: Inputs) -> list[Sensitivity]:
    """Quantise one convolution after the other, each by itself, its input and its weights.

    All maps of `inputs` are in memory at once, about 40 MB for an image of 299x299. Only the operations behind the
    quantised convolution are computed again.
    """
    module = GraphModule(graph)
    *_, (_, exact) = module.steps(_to_tensor(inputs))
    results = []
    for index, operation in enumerate(graph.operations):
        if isinstance(operation, Convolution):
            error = _output_error(module, exact, _with_int8(module, exact, index))
            positions = exact[operation.output].shape[2] * exact[operation.output].shape[3]
            results.append(Sensitivity(operation.output, error, operation.kernel.size * positions))
    return results


def _to_tensor(inputs: Inputs) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(inputs))


def _with_int8(module: GraphModule, exact: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """The tensors that change if the convolution with this index is in int8."""
    operation = module.graph.operations[index]
    assert isinstance(operation, Convolution)
    source = _rounded(exact[operation.input], None)
    kernel = _rounded(module.get_buffer(f"kernel_{index}"), (1, 2, 3))
    bias: Tensor | None = getattr(module, f"bias_{index}", None)
    result = F.conv2d(source, kernel, bias, operation.stride, operation.padding)
    changed = {operation.output: result.relu_() if operation.relu else result}
    for later, other in enumerate(module.graph.operations[index + 1 :], index + 1):
        if changed.keys() & set(other.inputs):
            changed[other.output] = module.run(later, other, exact | changed)
    return changed


def _rounded(values: Tensor, dims: tuple[int, ...] | None) -> Tensor:
    """Values rounded to int8 with one step for all, or one for each slice over `dims`."""
    largest = values.abs().amax() if dims is None else values.abs().amax(dims, keepdim=True)
    steps = SIGNED_STEPS if dims or bool((values < 0).any()) else UNSIGNED_STEPS
    step = (largest / steps).clamp_min(torch.finfo(values.dtype).tiny)
    return torch.round(values / step) * step


def _output_error(module: GraphModule, exact: dict[str, Tensor], changed: dict[str, Tensor]) -> float:
    """The squared error relative to how much an output varies between images, summed over the network's outputs."""
    total = 0.0
    for name in module.graph.outputs:
        if name in changed:
            variation = (exact[name] - exact[name].mean(0)).square().sum()
            total += float((changed[name] - exact[name]).square().sum() / variation.clamp_min(1e-30))
    return total
