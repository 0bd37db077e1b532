"""Convolution and its gradient by hand.

    python examples/convolution_by_hand.py               # a small convolution; then Mixed_5b, compared with the network
    python examples/convolution_by_hand.py Mixed_7b      # another module, or a layer before the modules

This file is meant to be read. It implements the layers of Inception V3 in NumPy, in float64, as loops over the pixels
of a kernel, without PyTorch. Arrays are (N, C, H, W), kernels (out, in, h, w), as everywhere in this project. The tests
compare the network with these layers: outputs and gradients must agree to 1e-9, in one module of each group.

A convolution multiplies each input pixel by a weight and adds the product to an output pixel. In the backward pass,
the gradient of each output pixel goes to the input pixels through the same weights, and to the weights through the same
input pixels. So the backward pass is the same double loop in the opposite direction.
"""

import argparse
from collections.abc import Callable, Iterator

import numpy as np
import torch

from inception_v3 import InceptionV3
from inception_v3.network import architecture
from inception_v3.network.architecture import Conv, Mixed, Pool

Array = np.ndarray
Backward = Callable[[Array], Array]  # from the gradient of an output to the gradient of its input

# ----------------------------------------------------------------------------------------- the layers


def padding_of(length: int, kernel: int, stride: int, padding: str) -> tuple[int, int]:
    """Pixels to add before and after. SAME gives ceil(length / stride) outputs and adds an odd pixel at the end."""
    if padding == "VALID":
        return 0, 0
    outputs = -(-length // stride)
    missing = max((outputs - 1) * stride + kernel - length, 0)
    return missing // 2, missing - missing // 2


class Window:
    """A kernel on a padded image. Iterating gives the image pixels that each pixel of the kernel multiplies."""

    def __init__(self, image: Array, kernel: tuple[int, int], stride: int, padding: str, fill: float = 0.0) -> None:
        self.shape, self.kernel, self.stride = image.shape, kernel, stride
        self.pad = [padding_of(n, k, stride, padding) for n, k in zip(image.shape[2:], kernel, strict=True)]
        self.padded = np.pad(image, [(0, 0), (0, 0), *self.pad], constant_values=fill)
        self.size = [(n - k) // stride + 1 for n, k in zip(self.padded.shape[2:], kernel, strict=True)]

    def __iter__(self) -> Iterator[tuple[int, int, tuple[slice, ...]]]:
        for y in range(self.kernel[0]):
            for x in range(self.kernel[1]):
                rows = slice(y, y + self.stride * (self.size[0] - 1) + 1, self.stride)
                columns = slice(x, x + self.stride * (self.size[1] - 1) + 1, self.stride)
                yield y, x, (slice(None), slice(None), rows, columns)

    def crop(self, padded: Array) -> Array:
        """Remove the padding."""
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
    """Normalise each channel by its mean and deviation over the batch, and add an offset."""
    axes = (0, 2, 3)
    deviation = np.sqrt(image.var(axes, keepdims=True) + epsilon)
    normal = (image - image.mean(axes, keepdims=True)) / deviation

    def backward(gradient: Array) -> tuple[Array, Array]:
        # Mean and deviation depend on every pixel, which adds two terms to the gradient.
        through_mean = gradient.mean(axes, keepdims=True)
        through_deviation = normal * (gradient * normal).mean(axes, keepdims=True)
        return (gradient - through_mean - through_deviation) / deviation, gradient.sum(axes)

    return normal + beta[:, None, None], backward


def average_pool(image: Array, kernel: tuple[int, int], stride: int, padding: str) -> tuple[Array, Backward]:
    """The mean of the pixels under the window that are inside the image, without the padding."""
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
    """The largest pixel under the window. Only this pixel receives the gradient."""
    window = Window(image, kernel, stride, padding, fill=-np.inf)
    out = np.max([window.padded[part] for _, _, part in window], axis=0)

    def backward(gradient: Array) -> Array:
        image_gradient, undecided = np.zeros_like(window.padded), np.ones_like(out, bool)
        for _, _, part in window:
            largest = (window.padded[part] == out) & undecided
            image_gradient[part] += gradient * largest
            undecided &= ~largest
        return window.crop(image_gradient)

    return out, backward


# --------------------------------------------------------------------------------- a module from the table


class ByHand:
    """Runs a node of the table with the network's weights, forward and backward.

    `gradients` collects the gradient of each variable under its name.
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
        backwards = []
        for step in steps:
            tables = step if isinstance(step, tuple) else (step,)
            parts = [lambda image, t=table: self.layer(t, f"{scope}.{t.name}", image) for table in tables]
            image, backward = self.joined(parts, image)
            backwards.append(backward)

        def back(gradient: Array) -> Array:
            for backward in reversed(backwards):
                gradient = backward(gradient)
            return gradient

        return image, back

    def joined(self, parts: list[Callable], image: Array) -> tuple[Array, Backward]:
        """Run several parts on one image and join their outputs along the channels. Their gradients add up."""
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

THIN = {"depth_multiplier": 0.1, "min_depth": 5}  # a tenth of the channels, because loops in Python are slow


def thin_network() -> InceptionV3:
    """A thin network with random weights, in float64 and in training mode: BatchNorm normalises by the batch."""
    return InceptionV3(create_aux_logits=False, **THIN).double().train()


def compare(model: InceptionV3, name: str, size: tuple[int, int]) -> dict[str, tuple[Array, Array]]:
    """Run an end point of `thin_network`, such as Mixed_5b, on random pixels, forward and backward.

    `size` is the height and width of its input. Returns pairs of arrays, computed by hand and by the network: the
    output, the gradient of the input, and the gradient of each variable.
    """
    index = architecture.BASE_END_POINTS.index(name)
    channels = architecture.end_points(**THIN)[index - 1].channels if index else 3
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, channels, *size))
    by_hand = ByHand({key: value.detach().numpy() for key, value in model.state_dict().items()})
    expected, backward = by_hand.node(architecture.BASE[index], image)
    gradient = rng.normal(size=expected.shape)
    image_gradient = backward(gradient)

    pixels = torch.from_numpy(image).requires_grad_()
    model.zero_grad()
    out = model.get_submodule(name)(pixels)
    out.backward(torch.from_numpy(gradient))
    variables = {key: value.grad.numpy() for key, value in model.named_parameters() if value.grad is not None}
    assert variables.keys() == by_hand.gradients.keys()
    return {
        "output": (expected, out.detach().numpy()),
        "gradient of the input": (image_gradient, pixels.grad.numpy()),
    } | {f"gradient of {key}": (by_hand.gradients[key], value) for key, value in variables.items()}


# --------------------------------------------------------------------------------------------- the command


def small_example() -> None:
    """Print a convolution of 3x3 pixels with a 2x2 kernel, and its gradients if every output has the gradient 1."""
    image = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    weights = np.array([[1.0, 0.0], [0.0, -2.0]]).reshape(1, 1, 2, 2)
    out, backward = convolution(image, weights, stride=1, padding="VALID")
    image_gradient, weights_gradient = backward(np.ones_like(out))
    for title, array in [
        ("image", image),
        ("weights", weights),
        ("output", out),
        ("gradient of the weights", weights_gradient),
        ("gradient of the image", image_gradient),
    ]:
        print(f"{title}:\n{array[0, 0].astype(int)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="Mixed_5b", choices=architecture.BASE_END_POINTS, metavar="NAME")
    name = parser.parse_args().name
    small_example()
    print(f"\n{name}, by hand and by the network: the largest difference, relative to the largest value")
    for title, (by_hand, by_network) in compare(thin_network(), name, (9, 12)).items():
        print(f"{np.abs(by_hand - by_network).max() / np.abs(by_hand).max():.0e}  {title}")


if __name__ == "__main__":
    main()
