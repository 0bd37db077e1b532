"""Weights in bfloat16 for scores (fidelity/rounding.py)."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from conftest import randomise
from inception_v3 import InceptionV3
from inception_v3.fidelity.network import Dtype, EngineFeatures
from inception_v3.fidelity.rounding import rounded
from inception_v3.inference.engines.graph import Convolution, Graph, build_graph


@pytest.fixture(scope="module")
def graph() -> Graph:
    model = InceptionV3(num_classes=8, depth_multiplier=0.25, create_aux_logits=False)
    randomise(model)
    return build_graph(model.eval(), any_size=False, from_pixels=False)


def kernels(graph: Graph) -> list[NDArray[np.float64]]:
    return [one.kernel.astype(np.float64) for one in graph.operations if isinstance(one, Convolution)]


def nearest(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    return torch.from_numpy(kernel).bfloat16().double().numpy()


def test_every_weight_is_one_that_bfloat16_has(graph: Graph) -> None:
    assert all((nearest(kernel) == kernel).all() for kernel in kernels(rounded(graph)))


def test_no_weight_moves_much_further_than_to_its_nearest(graph: Graph) -> None:
    for exact, found in zip(kernels(graph), kernels(rounded(graph)), strict=True):
        assert np.abs(found - exact).max() <= 2.1 * np.abs(nearest(exact) - exact).max()


def test_the_sums_of_filters_are_kept_several_times_better(graph: Graph) -> None:
    for exact, found in zip(kernels(graph), kernels(rounded(graph)), strict=True):
        off = np.abs((found - exact).sum((1, 2, 3))).mean()
        assert off < 0.5 * np.abs((nearest(exact) - exact).sum((1, 2, 3))).mean()


def test_all_else_of_the_network_stays(graph: Graph) -> None:
    for before, after in zip(graph.operations, rounded(graph).operations, strict=True):
        if isinstance(before, Convolution) and isinstance(after, Convolution):
            assert after.kernel.dtype == np.float32
            assert after.bias is before.bias
        else:
            assert after is before


@pytest.mark.parametrize(("dtype", "same"), [("bf16", True), ("fp32", False)])
def test_scores_run_the_rounded_weights_in_bf16_and_in_nothing_else(graph: Graph, dtype: Dtype, same: bool) -> None:
    images = torch.rand(2, 3, 299, 299, generator=torch.Generator().manual_seed(0)).numpy() * 2 - 1
    one, other = (
        EngineFeatures(each, dtype, torch.device("cpu")).engine.run(images) for each in (graph, rounded(graph))
    )
    assert np.array_equal(one["Logits"], other["Logits"]) is same
