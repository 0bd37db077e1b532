"""bfloat16 weights for scores, rounded so that the errors of a filter cancel. Rounding to nearest lets them add up."""

from dataclasses import replace

import torch

from inception_v3.inference.engines.graph import Convolution, Graph

ROUNDS = 4
REVISION = 2  # version of this rounding, stored with bf16 features; revision 1 rounded to nearest


def round_weights(graph: Graph) -> Graph:
    """Replace each kernel by float32 values that bfloat16 can represent, and nearly keep the sum of each filter.

    The input of a filter has passed ReLU, so its mean is not negative and multiplies the sum of the rounding errors.
    That would shift the features of all images alike, and FID with them. Before rounding, all weights of a filter are
    shifted by far less than a rounding step to compensate. The result depends on the weights only, not on images.
    """
    return replace(
        graph,
        operations=tuple(
            replace(operation, kernel=_round_keeping_sums(torch.from_numpy(operation.kernel)).numpy())
            if isinstance(operation, Convolution)
            else operation
            for operation in graph.operations
        ),
    )


def _round_keeping_sums(kernel: torch.Tensor) -> torch.Tensor:
    """Round a float32 kernel (O, I, h, w) to values that bfloat16 can represent."""
    best = kernel.bfloat16().float()
    best_error = error = (best - kernel).sum((1, 2, 3), keepdim=True)
    shifted = kernel
    for _ in range(ROUNDS):
        shifted = shifted - error / kernel[0].numel()
        rounded = shifted.bfloat16().float()
        error = (rounded - kernel).sum((1, 2, 3), keepdim=True)
        better = error.abs() < best_error.abs()
        best, best_error = torch.where(better, rounded, best), torch.where(better, error, best_error)
    return best
