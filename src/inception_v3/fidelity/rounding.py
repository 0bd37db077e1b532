"""Weights in bfloat16 for scores: rounded so that the errors of a filter cancel, where each to its nearest adds up."""

from dataclasses import replace

import torch

from inception_v3.inference.engines.graph import Convolution, Graph

ROUNDS = 4
REVISION = 2  # features of bf16 that are kept are of this rounding; 1 was to the nearest


def rounded(graph: Graph) -> Graph:
    """The graph with kernels that bfloat16 holds, in float32; the sum of each filter is kept, nearly.

    What a filter reads has been through ReLU and is never negative, so that its mean passes on the sum of the errors:
    every picture's features move alike, and FID with them. A shift of all weights by far less than they are rounded by
    makes up for it. The answers depend on the weights alone, on no picture.
    """
    return replace(
        graph,
        operations=tuple(
            replace(one, kernel=_with_sums_kept(torch.from_numpy(one.kernel)).numpy())
            if isinstance(one, Convolution)
            else one
            for one in graph.operations
        ),
    )


def _with_sums_kept(kernel: torch.Tensor) -> torch.Tensor:
    """(O, I, h, w) float32, of values that bfloat16 has."""
    best = kernel.bfloat16().float()
    least = error = (best - kernel).sum((1, 2, 3), keepdim=True)
    shifted = kernel
    for _ in range(ROUNDS):
        shifted = shifted - error / kernel[0].numel()
        found = shifted.bfloat16().float()
        error = (found - kernel).sum((1, 2, 3), keepdim=True)
        better = error.abs() < least.abs()
        best, least = torch.where(better, found, best), torch.where(better, error, least)
    return best
