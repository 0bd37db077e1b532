"""Rescales the channels of a network so that int8 loses less, without a change of its outputs.

int8 has one step for all channels of a map: the largest channel sets it, and small channels are rounded away.
`equalise` divides each channel by a factor, in the convolution that writes it, and multiplies the weights that read it
by the same factor. ReLU and pools commute with positive factors, so the outputs stay the same up to float32's rounding.

The method is that of Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019),
with the factors of Xiao et al., "SmoothQuant" (2023).
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from inception_v3.inference.engines.graph import Activation, Convolution, Graph, Operation, Pooling

SMALLEST = 0.2  # of a channel's largest value, relative to that of the map: another image may have larger values

Channels = NDArray[np.floating]  # one value for each channel, (C,)


def equalise(graph: Graph, maxima: Mapping[str, Channels]) -> Graph:
    """The graph with rescaled channels. Its outputs, and the maps that a global pool reads, keep their scale.

    So do the maps that an activation other than ReLU reads, because only ReLU commutes with factors.

    `maxima` has the largest values of the outputs of convolutions and activations, by name.
    """
    writers = _writers(graph)
    factors = _factors(graph, writers, maxima)

    def of_tensor(name: str) -> NDArray[np.float64]:
        return np.concatenate([factors[writer] for writer in writers[name]])

    def rescaled(operation: Operation) -> Operation:
        if not isinstance(operation, Convolution | Activation):
            return operation
        written = of_tensor(operation.output)
        bias = None if operation.bias is None else (operation.bias / written).astype(operation.bias.dtype)
        if isinstance(operation, Activation):
            return replace(operation, bias=bias)
        kernel = operation.kernel * of_tensor(operation.input)[:, None, None] / written[:, None, None, None]
        return replace(operation, kernel=kernel.astype(operation.kernel.dtype), bias=bias)

    return replace(graph, operations=tuple(map(rescaled, graph.operations)))


def _writers(graph: Graph) -> dict[str, tuple[str, ...]]:
    """The convolutions that write the channels of each tensor, in order; the input is its own writer."""
    writers: dict[str, tuple[str, ...]] = {graph.input: (graph.input,)}
    for operation in graph.operations:
        if isinstance(operation, Convolution):
            writers[operation.output] = (operation.output,)
        else:
            writers[operation.output] = tuple(writer for name in operation.inputs for writer in writers[name])
    return writers


def _factors(
    graph: Graph, writers: Mapping[str, tuple[str, ...]], maxima: Mapping[str, Channels]
) -> dict[str, NDArray[np.float64]]:
    """The factors of the channels that each convolution writes, and ones for the input."""
    channels, importance = graph.channels(), _importance(graph, writers)
    pooled = [each.input for each in graph.operations if isinstance(each, Pooling) and each.kernel is None]
    curved = [each.input for each in graph.operations if isinstance(each, Activation) and each.kind != "relu"]
    fixed = {graph.input, *(writer for name in (*graph.outputs, *pooled, *curved) for writer in writers[name])}
    last = {writers[each.output][0]: each.output for each in graph.operations if isinstance(each, Activation)}
    factors = {}
    for writer in (graph.input, *(each.output for each in graph.operations if isinstance(each, Convolution))):
        factors[writer] = np.ones(channels[writer])
        if writer not in fixed and writer in importance:
            factor = np.sqrt(_at_least(maxima[last.get(writer, writer)]) / _at_least(importance[writer]))
            factors[writer] = factor / np.exp(np.log(factor).mean())
    return factors


def _importance(graph: Graph, writers: Mapping[str, tuple[str, ...]]) -> dict[str, NDArray[np.float64]]:
    """For the channels of each writer: the largest weight that reads them, relative to the largest of its filter."""
    importance: dict[str, NDArray[np.float64]] = {}
    channels = graph.channels()
    for operation in graph.operations:
        if isinstance(operation, Convolution):
            largest = np.abs(operation.kernel).max((2, 3)).astype(np.float64)
            relative = (largest / np.maximum(largest.max(1, keepdims=True), np.finfo(np.float32).tiny)).max(0)
            parts = np.split(relative, np.cumsum([channels[writer] for writer in writers[operation.input]])[:-1])
            for writer, part in zip(writers[operation.input], parts, strict=True):
                importance[writer] = np.maximum(importance.get(writer, 0.0), part)
    return importance


def _at_least(values: Channels) -> NDArray[np.float64]:
    """The values, none smaller than SMALLEST of the largest; ones if all are 0."""
    largest = float(values.max())
    return np.maximum(values.astype(np.float64), SMALLEST * largest) if largest > 0 else np.ones(len(values))
