"""bfloat16 weights for scores (fidelity/rounding.py)."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from conftest import randomise
from inception_v3 import InceptionV3
from inception_v3.fidelity.network import EngineFeatures
from inception_v3.fidelity.options import NetworkPrecision
from inception_v3.fidelity.rounding import round_weights
from inception_v3.inference.engines.graph import Convolution, Graph, build_graph


@pytest.fixture(scope="module")
def graph() -> Graph:
    model = InceptionV3(num_classes=8, depth_multiplier=0.25, create_aux_logits=False)
    randomise(model)
    return build_graph(model.eval(), any_size=False, from_pixels=False)


def kernels(graph: Graph) -> list[NDArray[np.float64]]:
    return [op.kernel.astype(np.float64) for op in graph.operations if isinstance(op, Convolution)]


def nearest(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    return torch.from_numpy(kernel).bfloat16().double().numpy()


def test_bfloat16_can_represent_all_rounded_weights(graph: Graph) -> None:
    assert all((nearest(kernel) == kernel).all() for kernel in kernels(round_weights(graph)))


def test_no_weight_moves_much_further_than_to_its_nearest_bfloat16_value(graph: Graph) -> None:
    for exact, rounded in zip(kernels(graph), kernels(round_weights(graph)), strict=True):
        assert np.abs(rounded - exact).max() <= 2.1 * np.abs(nearest(exact) - exact).max()


def test_sums_of_filters_change_less_than_half_as_much_as_with_rounding_to_nearest(graph: Graph) -> None:
    for exact, rounded in zip(kernels(graph), kernels(round_weights(graph)), strict=True):
        error = np.abs((rounded - exact).sum((1, 2, 3))).mean()
        assert error < 0.5 * np.abs((nearest(exact) - exact).sum((1, 2, 3))).mean()


def test_everything_but_the_kernels_is_unchanged(graph: Graph) -> None:
    for before, after in zip(graph.operations, round_weights(graph).operations, strict=True):
        if isinstance(before, Convolution) and isinstance(after, Convolution):
            assert after.kernel.dtype == np.float32
            assert after.bias is before.bias
        else:
            assert after is before


@pytest.mark.parametrize(("dtype", "same"), [("bf16", True), ("fp32", False)])
def test_scores_use_rounded_weights_only_in_bf16(graph: Graph, dtype: NetworkPrecision, same: bool) -> None:
    images = torch.rand(2, 3, 299, 299, generator=torch.Generator().manual_seed(0)).numpy() * 2 - 1
    plain, rounded = (
        EngineFeatures(each, dtype, torch.device("cpu")).engine.run(images) for each in (graph, round_weights(graph))
    )
    assert np.array_equal(plain["Logits"], rounded["Logits"]) is same
