"""Convolution, and its gradient, by hand.

A page to read: the layers of Inception V3 written out in NumPy, in float64, as loops over the pixels of a
kernel, and nothing of PyTorch in them. The network must agree with them to 1e-9, forward and backward, in one
module of each group. Arrays are (N, C, H, W), kernels (out, in, h, w), as everywhere in this project.

The idea of the gradient: a convolution multiplies each input pixel with a weight and adds it to an output
pixel. Backwards, each output pixel's gradient goes to the input pixels through the same weights, and to the
weights through the same input pixels. So the backward pass is the same double loop with the arrow turned.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from conftest import randomise, relative
from inception_v3.network import architecture
from inception_v3.network.architecture import Conv, Mixed, Pool
from inception_v3.weights.model import InceptionV3

Array = np.ndarray
Backward = Callable[[Array], Array]  # from the gradient of an output to the gradient of its input

# ----------------------------------------------------------------------------------------- the layers


def borders(length: int, kernel: int, stride: int, padding: str) -> tuple[int, int]:
    """TensorFlow's SAME pads so that ceil(length / stride) outputs fit; an odd pixel goes to the end."""
    if padding == "VALID":
        return 0, 0
    outputs = -(-length // stride)
    missing = max((outputs - 1) * stride + kernel - length, 0)
    return missing // 2, missing - missing // 2


class Window:
    """A kernel's walk over a padded image: for each of its pixels, the part of the image which that pixel meets."""

    def __init__(self, image: Array, kernel: tuple[int, int], stride: int, padding: str, fill: float = 0.0) -> None:
        self.shape, self.kernel, self.stride = image.shape, kernel, stride
        self.pad = [borders(n, k, stride, padding) for n, k in zip(image.shape[2:], kernel, strict=True)]
        self.padded = np.pad(image, [(0, 0), (0, 0), *self.pad], constant_values=fill)
        self.size = [(n - k) // stride + 1 for n, k in zip(self.padded.shape[2:], kernel, strict=True)]

    def __iter__(self) -> Iterator[tuple[int, int, tuple[slice, ...]]]:
        for y in range(self.kernel[0]):
            for x in range(self.kernel[1]):
                rows = slice(y, y + self.stride * (self.size[0] - 1) + 1, self.stride)
                columns = slice(x, x + self.stride * (self.size[1] - 1) + 1, self.stride)
                yield y, x, (slice(None), slice(None), rows, columns)

    def crop(self, padded: Array) -> Array:
        """Without the border."""
        (top, _), (left, _) = self.pad
        return padded[:, :, top : top + self.shape[2], left : left + self.shape[3]]


def convolution(image: Array, weights: Array, stride: int, padding: str) -> tuple[Array, Callable]:
    """out[n, o, i, j] = sum over c, y, x of weights[o, c, y, x] * image[n, c, i * stride + y, j * stride + x]"""
    window = Window(image, weights.shape[2:], stride, padding)
    out = np.zeros((image.shape[0], weights.shape[0], *window.size))
    for y, x, part in window:
        out += np.einsum("oc,nchw->nohw", weights[:, :, y, x], window.padded[part])

    def backward(gradient: Array) -> tuple[Array, Array]:
        image_gradient, weights_gradient = np.zeros_like(window.padded), np.zeros_like(weights)
        for y, x, part in window:
            weights_gradient[:, :, y, x] = np.einsum("nohw,nchw->oc", gradient, window.padded[part])
            image_gradient[part] += np.einsum("oc,nohw->nchw", weights[:, :, y, x], gradient)
        return window.crop(image_gradient), weights_gradient

    return out, backward


def batch_norm(image: Array, beta: Array, epsilon: float = 0.001) -> tuple[Array, Callable]:
    """Less the mean, over the deviation, of each channel over the whole batch; plus an offset."""
    over = (0, 2, 3)
    deviation = np.sqrt(image.var(over, keepdims=True) + epsilon)
    normal = (image - image.mean(over, keepdims=True)) / deviation

    def backward(gradient: Array) -> tuple[Array, Array]:
        # Mean and deviation depend on every pixel: two parts of the gradient that they take back.
        through_mean = gradient.mean(over, keepdims=True)
        through_deviation = normal * (gradient * normal).mean(over, keepdims=True)
        return (gradient - through_mean - through_deviation) / deviation, gradient.sum(over)

    return normal + beta[:, None, None], backward


def average_pool(image: Array, kernel: tuple[int, int], stride: int, padding: str) -> tuple[Array, Backward]:
    """The mean of the pixels under the window that are in the image: padding does not count."""
    window = Window(image, kernel, stride, padding)
    inside = Window(np.ones_like(image), kernel, stride, padding)
    total, count = (sum(w.padded[part] for _, _, part in w) for w in (window, inside))

    def backward(gradient: Array) -> Array:
        image_gradient = np.zeros_like(window.padded)
        for _, _, part in window:
            image_gradient[part] += gradient / count
        return window.crop(image_gradient)

    return total / count, backward


def max_pool(image: Array, kernel: tuple[int, int], stride: int, padding: str) -> tuple[Array, Backward]:
    """The largest pixel under the window, which alone gets the gradient."""
    window = Window(image, kernel, stride, padding, fill=-np.inf)
    out = np.max([window.padded[part] for _, _, part in window], axis=0)

    def backward(gradient: Array) -> Array:
        image_gradient, left = np.zeros_like(window.padded), np.ones_like(out, bool)
        for _, _, part in window:
            won = (window.padded[part] == out) & left
            image_gradient[part] += gradient * won
            left &= ~won
        return window.crop(image_gradient)

    return out, backward


# ------------------------------------------------------------------------------ from the table to a module


class ByHand:
    """Runs a node of the table with the network's weights, and then backwards.

    `gradients` collects what reaches each variable, under its name.
    """

    def __init__(self, variables: dict[str, Array]) -> None:
        self.variables, self.gradients = variables, {}

    def node(self, node: Conv | Pool | Mixed, image: Array) -> tuple[Array, Backward]:
        if not isinstance(node, Mixed):
            return self.layer(node, node.name, image)
        return self.joined([
            lambda image, name=name, steps=steps: self.branch(steps, f"{node.name}.{name}", image)
            for name, steps in node.named_branches
        ], image)  # fmt: skip

    def branch(self, steps: tuple, scope: str, image: Array) -> tuple[Array, Backward]:
        way_back = []
        for step in steps:
            tables = step if isinstance(step, tuple) else (step,)
            parts = [lambda image, t=table: self.layer(t, f"{scope}.{t.name}", image) for table in tables]
            image, backward = self.joined(parts, image)
            way_back.append(backward)

        def back(gradient: Array) -> Array:
            for backward in reversed(way_back):
                gradient = backward(gradient)
            return gradient

        return image, back

    def joined(self, parts: list[Callable], image: Array) -> tuple[Array, Backward]:
        """Several readers of one image, joined along the channels: backwards their gradients add up."""
        outputs, backwards = zip(*(part(image) for part in parts), strict=True)
        ends = np.cumsum([output.shape[1] for output in outputs])[:-1]

        def back(gradient: Array) -> Array:
            pieces = np.split(gradient, ends, axis=1)
            return sum(backward(piece) for backward, piece in zip(backwards, pieces, strict=True))

        return np.concatenate(outputs, axis=1), back

    def layer(self, table: Conv | Pool, name: str, image: Array) -> tuple[Array, Backward]:
        if isinstance(table, Pool):
            pool = average_pool if table.kind == "avg" else max_pool
            return pool(image, table.kernel, table.stride, table.padding)
        weights, beta = self.variables[f"{name}.weights"], self.variables[f"{name}.BatchNorm.beta"]
        net, through_convolution = convolution(image, weights, table.stride, table.padding)
        net, through_batch_norm = batch_norm(net, beta)
        positive = net > 0  # ReLU

        def back(gradient: Array) -> Array:
            gradient, self.gradients[f"{name}.BatchNorm.beta"] = through_batch_norm(gradient * positive)
            gradient, self.gradients[f"{name}.weights"] = through_convolution(gradient)
            return gradient

        return net * positive, back


# ------------------------------------------------------------------------------------------ the comparison

# One of each group, and each layer of the stem. Sizes as small as the strides allow, odd and even.
NODES = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_3a_3x3", "Conv2d_3b_1x1", "Mixed_5b", "Mixed_5c",
         "Mixed_6a", "Mixed_6b", "Mixed_7a", "Mixed_7b"]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> InceptionV3:
    built = InceptionV3(depth_multiplier=0.1, min_depth=5, create_aux_logits=False)
    randomise(built)
    return built.double().train()


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("size", [(9, 12), (8, 7)])
def test_the_network_agrees_with_the_convolution_written_by_hand(
    model: InceptionV3, name: str, size: tuple[int, int]
) -> None:
    at = architecture.BASE_END_POINTS.index(name)
    channels = 3
    if at:
        options = {key: model.settings[key] for key in ("depth_multiplier", "min_depth")}
        channels = architecture.end_points(**options)[at - 1].channels
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, channels, *size))
    by_hand = ByHand({key: value.detach().numpy() for key, value in model.state_dict().items()})
    expected, backward = by_hand.node(architecture.BASE[at], image)

    pixels = torch.from_numpy(image).requires_grad_()
    model.zero_grad()
    out = model.get_submodule(name)(pixels)
    assert relative(out, expected) < 1e-9

    gradient = rng.normal(size=expected.shape)
    out.backward(torch.from_numpy(gradient))
    assert pixels.grad is not None
    assert relative(pixels.grad, backward(gradient)) < 1e-9
    reached = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    assert reached.keys() == by_hand.gradients.keys()
    for key, value in by_hand.gradients.items():
        assert relative(reached[key], value) < 1e-9, key


@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), 2), ((5, 5), 3), ((1, 7), 1), ((2, 4), 2), ((3, 2), 3)])
@pytest.mark.parametrize("size", [(7, 10), (8, 9)])
def test_same_padding_at_odd_strides_kernels_and_sizes(
    kernel: tuple[int, int], stride: int, size: tuple[int, int]
) -> None:
    """The network itself has stride 1 wherever it pads; the layers hold for every other case too."""
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


def test_the_gradient_by_hand_is_the_slope() -> None:
    """The hand-written backward pass against finite differences, so that it rests on nothing but arithmetic."""
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
