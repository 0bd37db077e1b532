"""The network agrees with examples/convolution_by_hand.py, forward and backward."""

import numpy as np
import pytest
import torch

from conftest import randomise, relative
from convolution_by_hand import Array, average_pool, batch_norm, compare, convolution, max_pool, thin_network
from inception_v3.weights.model import InceptionV3

# One module of each group, and most layers of the stem, at small odd and even sizes.
NODES = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_3a_3x3", "Conv2d_3b_1x1", "Mixed_5b", "Mixed_5c",
         "Mixed_6a", "Mixed_6b", "Mixed_7a", "Mixed_7b"]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> InceptionV3:
    built = thin_network()
    randomise(built)
    return built


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("size", [(9, 12), (8, 7)])
def test_the_network_agrees_with_the_convolution_written_by_hand(
    model: InceptionV3, name: str, size: tuple[int, int]
) -> None:
    for title, (by_hand, by_network) in compare(model, name, size).items():
        assert relative(by_network, by_hand) < 1e-9, title


@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), 2), ((5, 5), 3), ((1, 7), 1), ((2, 4), 2), ((3, 2), 3)])
@pytest.mark.parametrize("size", [(7, 10), (8, 9)])
def test_same_padding_at_odd_strides_kernels_and_sizes(
    kernel: tuple[int, int], stride: int, size: tuple[int, int]
) -> None:
    """The network itself has stride 1 wherever it pads, but the layers are correct in every other case too."""
    from inception_v3.network.layers import Conv2d, Pool2d

    rng = np.random.default_rng(1)
    image = rng.normal(size=(2, 3, *size))
    layer = Conv2d(3, 4, kernel, stride, "SAME").double()
    cases = [
        (layer, convolution(image, layer.weights.detach().numpy(), stride, "SAME")[0]),
        (Pool2d("avg", kernel, stride, "SAME"), average_pool(image, kernel, stride, "SAME")[0]),
        (Pool2d("max", kernel, stride, "SAME"), max_pool(image, kernel, stride, "SAME")[0]),
    ]
    for ours, expected in cases:
        assert relative(ours(torch.from_numpy(image)), expected) < 1e-9, ours


def test_the_gradient_by_hand_equals_finite_differences() -> None:
    rng = np.random.default_rng(2)
    image, weights, beta = rng.normal(size=(2, 3, 5, 6)), rng.normal(size=(4, 3, 3, 3)), rng.normal(size=4)
    direction = rng.normal(size=weights.shape)

    def loss(weights: Array) -> float:
        net, _ = batch_norm(convolution(image, weights, 2, "SAME")[0], beta)
        return float((np.maximum(net, 0) ** 2).sum())

    net, through_convolution = convolution(image, weights, 2, "SAME")
    net, through_batch_norm = batch_norm(net, beta)
    _, weights_gradient = through_convolution(through_batch_norm(2 * np.maximum(net, 0))[0])
    step = 1e-6
    slope = (loss(weights + step * direction) - loss(weights - step * direction)) / (2 * step)
    assert np.sum(weights_gradient * direction) == pytest.approx(slope, rel=1e-6)
