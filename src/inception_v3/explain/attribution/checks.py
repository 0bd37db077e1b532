"""Checks of an attribution: does it depend on the network's weights, and does it find what the score depends on?

docs/explain.md says what failing a check means.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from inception_v3.explain.attribution.attribute import attribute, grey
from inception_v3.explain.attribution.result import Attribution, AttributionOptions
from inception_v3.explain.attribution.scores import network_scores
from inception_v3.network.layers import BatchNorm, Conv2d
from inception_v3.reports.shown import png, save_result
from inception_v3.support.progress import Advance, ignore
from inception_v3.weights.model import InceptionV3

CURVE_STEPS = 20  # points of the insertion and deletion curves after the first
BLUR = 10  # standard deviation, in pixels, of the image from which insertion starts


@dataclass(frozen=True)
class Randomisation:
    """How similar an attribution stays to the trained network's while layers become random, from the last one down.

    Attributes:
        layers: the last layer that was randomised in each step, from Logits to the first convolution.
        correlations: Spearman's rank correlation of the positions' absolute values with those of the trained network;
            NaN where a map is constant.
    """

    layers: tuple[str, ...]
    correlations: tuple[float, ...]

    def numpy(self) -> NDArray[np.float64]:
        """The `correlations`."""
        return np.array(self.correlations)

    def plot(self) -> Any:
        """A matplotlib figure: the correlation after each step."""
        from inception_v3.reports.plots import lines

        title = "similarity of the map while layers become random, from the last one down"
        return lines(self.layers, {"rank correlation": self.numpy()}, title, "rank correlation", (-1, 1))

    def _repr_png_(self) -> bytes | None:
        """The plot, for a notebook."""
        return png(self)

    def save(self, path: str | Path) -> None:
        """Write the layers and correlations as .json, or the plot as .png, .pdf or .svg.

        Raises:
            InputError: another suffix, or the file cannot be written.
        """
        save_result(self, path, "a randomisation", vars(self))


@dataclass(frozen=True)
class Curves:
    """How the probability of the class changes as positions are inserted or deleted, the most important ones first.

    Attributes:
        fractions: of the pixels that are changed, from 0 to 1.
        insertion: the probability as pixels are inserted into the blurred image.
        deletion: the probability as pixels become grey.
    """

    fractions: NDArray[np.float64]
    insertion: NDArray[np.float64]
    deletion: NDArray[np.float64]

    def numpy(self) -> NDArray[np.float64]:
        """The three arrays as rows, (3, points)."""
        return np.stack([self.fractions, self.insertion, self.deletion])

    def plot(self) -> Any:
        """A matplotlib figure: the two curves."""
        from inception_v3.reports.plots import lines

        both = {
            f"insertion, mean {self.insertion_area:.3f} (better if high)": self.insertion,
            f"deletion, mean {self.deletion_area:.3f} (better if low)": self.deletion,
        }
        names = [f"{fraction:.0%}" for fraction in self.fractions]
        return lines(names, both, "pixels changed, the most important ones first", "probability of the class", (0, 1))

    def _repr_png_(self) -> bytes | None:
        """The plot, for a notebook."""
        return png(self)

    def save(self, path: str | Path) -> None:
        """Write the three arrays as .json, or the plot as .png, .pdf or .svg.

        Raises:
            InputError: another suffix, or the file cannot be written.
        """
        save_result(self, path, "curves", {name: values.tolist() for name, values in vars(self).items()})

    @property
    def insertion_area(self) -> float:
        """The mean of the curve; higher is better."""
        return _mean(self.insertion)

    @property
    def deletion_area(self) -> float:
        """The mean of the curve; lower is better."""
        return _mean(self.deletion)


def _mean(curve: NDArray[np.float64]) -> float:
    """The area below a curve from 0 to 1 whose points have equal distances."""
    return float((curve[1:] + curve[:-1]).mean() / 2)


def randomisation(
    model: InceptionV3, trained: Attribution, options: AttributionOptions, advance: Advance = ignore
) -> Randomisation:
    """Cascading randomisation (Adebayo et al., arXiv 1810.03292, section 3.1), of the class of an attribution.

    The weights are drawn as for a new network, the statistics of BatchNorm become 0 and 1. The model is not changed.
    `advance` is called for each of the steps, `len(randomised_layers(...))` in all.
    """
    from scipy.stats import spearmanr  # type: ignore[import-untyped]  # takes 0.5 s to import

    random = copy.deepcopy(model)
    wanted = AttributionOptions(**vars(options) | {"class_name": trained.class_index})
    before, layers, correlations = np.abs(trained.map()).ravel(), [], []
    generator = torch.random.get_rng_state()
    try:
        torch.manual_seed(options.seed)
        for name in randomised_layers(model, trained.head):
            _randomise(random.get_submodule(name))
            after = np.abs(attribute(random, trained.view, wanted).map()).ravel()
            constant = np.ptp(before) == 0 or np.ptp(after) == 0
            layers.append(name)
            correlations.append(float("nan") if constant else float(spearmanr(before, after).statistic))
            advance(1)
    finally:
        torch.random.set_rng_state(generator)
    return Randomisation(tuple(layers), tuple(correlations))


def randomised_layers(model: InceptionV3, head: str = "Logits") -> list[str]:
    """The layers with weights on the way to a head, from its last one to the first convolution."""
    base = [name for name in model.base_end_points if any(True for _ in model.get_submodule(name).parameters())]
    if head == "AuxLogits":
        base = base[: base.index("Mixed_6e") + 1]
    layers = [name for name, module in model.get_submodule(head).named_children() if isinstance(module, Conv2d)]
    return [*(f"{head}.{name}" for name in reversed(layers)), *reversed(base)]


def _randomise(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, Conv2d):
            layer.reset_parameters()
        elif isinstance(layer, BatchNorm):
            for name, tensor in layer.state_dict().items():
                tensor.fill_(1.0 if name in ("gamma", "moving_variance") else 0.0)


@torch.no_grad()
def curves(model: InceptionV3, attribution: Attribution, batch_size: int = 8) -> Curves:
    """Insertion and deletion (Petsiuk et al., arXiv 1806.07421, section 4.2) of a class.

    For one output with a sigmoid, the probability is that of the class; for the softmax and the sigmoid, the network's.
    """
    pixels = model.preprocess(attribution.view.image).to(next(model.parameters()))
    values = torch.from_numpy(attribution.map())[None, None].to(pixels)
    values = F.interpolate(values, pixels.shape[2:], mode="bilinear", align_corners=False)
    order = values.flatten().argsort(descending=True, stable=True)
    fractions = np.linspace(0, 1, CURVE_STEPS + 1)
    rank = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
    rank = rank.view(1, 1, *pixels.shape[2:])
    ends = {"insertion": (_blurred(pixels), pixels), "deletion": (pixels, grey(model).expand_as(pixels))}

    def probabilities(start: Tensor, end: Tensor) -> Iterator[float]:
        limits = torch.from_numpy(fractions * len(order)).round().to(order)
        for first in range(0, len(limits), batch_size):
            changed = torch.where(rank < limits[first : first + batch_size].view(-1, 1, 1, 1), end, start)
            yield from _probabilities(model, changed, attribution)

    found = {name: np.array([*probabilities(*both)]) for name, both in ends.items()}
    return Curves(fractions, found["insertion"], found["deletion"])


def _probabilities(model: InceptionV3, images: Tensor, attribution: Attribution) -> list[float]:
    label = torch.tensor([attribution.class_index], device=images.device).expand(len(images))
    if model.settings.output_activation == "sigmoid":
        scores, _ = network_scores(model, images, label, attribution.head)  # type: ignore[arg-type]
        return list(scores.double().sigmoid().tolist())
    outputs = model(images, end_points=(attribution.head,))[1][attribution.head]
    return list(outputs.double().softmax(1)[:, attribution.class_index].tolist())


def _blurred(pixels: Tensor) -> Tensor:
    """The image (1, 3, H, W) after a Gaussian blur."""
    from torchvision.transforms.v2.functional import gaussian_blur

    blurred: Tensor = gaussian_blur(pixels, 6 * BLUR + 1, BLUR)
    return blurred
