"""Ablation: what happens to the classes of an image when a part of the network is silenced."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inception_v3.explain.attribution.scores import check_finite, check_model, class_labels
from inception_v3.explain.views import View, view_of
from inception_v3.inference.predict import ImageInput
from inception_v3.network.architecture import unknown_end_point
from inception_v3.network.network import InceptionModule, InceptionV3Network
from inception_v3.network.probabilities import probabilities
from inception_v3.reports.shown import png, save_result
from inception_v3.support.arguments import checked
from inception_v3.weights.model import InceptionV3

Replacement = Literal["zero", "mean"]
BATCH_SIZE = 16  # silenced networks computed at once


@dataclass(frozen=True)
class Ablation:
    """The outputs of the network for one image, whole and with each of several parts silenced.

    Attributes:
        image: the name of the image.
        class_names: of the columns.
        silenced: the names of the parts, one for each row.
        replacement: what each part's output was replaced by: "zero", or its "mean" over the positions of the image.
        logits: of the whole network, float64 (outputs,).
        silenced_logits: float64 (parts, outputs).
        probability: of each class, float64 (classes,).
        silenced_probability: float64 (parts, classes).
    """

    image: str
    class_names: tuple[str, ...] = field(repr=False)
    silenced: tuple[str, ...]
    replacement: Replacement
    logits: NDArray[np.float64] = field(repr=False)
    silenced_logits: NDArray[np.float64] = field(repr=False)
    probability: NDArray[np.float64] = field(repr=False)
    silenced_probability: NDArray[np.float64] = field(repr=False)

    def numpy(self) -> NDArray[np.float64]:
        """The change of each class's probability by each part, (parts, classes)."""
        return np.asarray(self.silenced_probability - self.probability)

    def as_dict(self, top: int = 5) -> dict[str, Any]:
        """The classes with the highest probability, and theirs with each part silenced."""
        best = np.argsort(-self.probability, kind="stable")[:top]
        rows = {
            name: {"probability": row[best].tolist(), "top": self.class_names[int(row.argmax())]}
            for name, row in zip(self.silenced, self.silenced_probability, strict=True)
        }
        return {
            "image": self.image,
            "replacement": self.replacement,
            "classes": [self.class_names[index] for index in best],
            "probability": self.probability[best].tolist(),
            "silenced": rows,
        }

    def plot(self) -> Any:
        """A matplotlib figure: the probability of the top class with each part silenced."""
        from inception_v3.reports.plots import bars

        top = int(self.probability.argmax())
        return bars(
            self.silenced,
            self.silenced_probability[:, top],
            float(self.probability[top]),
            f"probability of {self.class_names[top]}, with a part at {self.replacement}",
        )

    def _repr_png_(self) -> bytes | None:
        """The plot, for a notebook."""
        return png(self)

    def save(self, path: str | Path) -> None:
        """Write `as_dict` as .json, or the plot as .png, .pdf or .svg.

        Raises:
            InputError: another suffix.
        """
        save_result(self, path, "an ablation", self.as_dict(len(self.class_names)))


@checked
@torch.no_grad()
def ablate(
    model: InceptionV3,
    image: ImageInput | View,
    silenced: Sequence[str] | None = None,
    replacement: Replacement = "zero",
    *,
    batch_size: int = BATCH_SIZE,
) -> Ablation:
    """Silence parts of the network, one at a time, and return what happens to the classes of an image.

    The layers before a part are computed once for all parts, and so are those behind it for parts of the same map.

    Args:
        model: in evaluation mode.
        image: a path, a Pillow image, an array, or a View.
        silenced: names of layers and modules of the base such as "Mixed_5b", of their branches such as
            "Mixed_5b/Branch_1", and of single channels such as "Mixed_5b:12"; None for all branches.
        replacement: "zero", or "mean": of each channel over the positions of this image.
        batch_size: silenced networks computed at once.

    Raises:
        InputError: the image cannot be read.
        NotFiniteError: outputs that are not finite, with the layer in which that starts.
        ValueError: no such part; a model in training mode or without classes.
    """
    check_model(model)
    view = image if isinstance(image, View) else view_of(image, model.preprocessing)
    names = branch_names(model) if silenced is None else tuple(dict.fromkeys(silenced))
    channels = part_channels(model, names)
    pixels = model.preprocess(view.image).to(next(model.parameters()))
    logits = silenced_logits(model, pixels, channels, replacement, batch_size)
    check_finite(model, pixels, logits, view.name)
    rows = logits.double().cpu().numpy()
    settings = model.settings
    shares = np.asarray(probabilities(rows, settings.output_activation), np.float64)
    return Ablation(view.name, tuple(class_labels(model)), names, replacement, rows[0], rows[1:], shares[0], shares[1:])


def branch_names(model: InceptionV3Network) -> tuple[str, ...]:
    """The names of all branches, 42 in the whole network."""
    return tuple(
        f"{name}/{branch}"
        for name in model.base_end_points
        if isinstance(module := model.get_submodule(name), InceptionModule)
        for branch, _ in module.named_children()
    )


def part_channels(model: InceptionV3Network, names: Iterable[str]) -> dict[str, tuple[str, slice]]:
    """For each name of a part, the layer or module of the base, and which of its channels the part is.

    Raises ValueError: no such part.
    """
    widths = {point.name: point for point in model.settings.end_points()}
    parts: dict[str, slice] = {}
    for name in model.base_end_points:
        parts[name] = slice(0, widths[name].channels)
        first = 0
        for branch in (each for each in widths[name].inner if each.name.count("/") == 1):
            parts[branch.name] = slice(first, first := first + branch.channels)
    found = {}
    for name in names:
        part, _, channel = name.partition(":")
        if part.count("/") > 1 and (outer := part.rpartition("/")[0]) in parts:
            raise ValueError(f"{part}: a layer inside a branch cannot be silenced alone; silence {outer}")
        if part not in parts:
            raise unknown_end_point(part, parts)
        kept = parts[part]
        if ":" in name:
            if not channel.isdecimal() or int(channel) >= kept.stop - kept.start:
                raise ValueError(f"{name}: {part} has the channels 0 to {kept.stop - kept.start - 1}")
            kept = slice(kept.start + int(channel), kept.start + int(channel) + 1)
        found[name] = (part.split("/")[0], kept)
    return found


def silenced_logits(
    model: InceptionV3Network,
    pixels: Tensor,
    parts: Mapping[str, tuple[str, slice]],
    replacement: Replacement,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """The logits (1 + parts, outputs) of one image, (1, 3, H, W): of the whole network, then with each part silenced.

    From layer to layer, a batch of the whole network and of the parts silenced so far grows.
    """
    numbers: list[int] = [0]  # of the rows of the batch: 0 is the whole network, 1 + index a part
    net = pixels.contiguous(memory_format=torch.channels_last)  # faster on a CPU
    for layer in model.base_end_points:
        net = _in_batches(model.get_submodule(layer), net, batch_size)
        wanted = [(number, kept) for number, (name, (at, kept)) in enumerate(parts.items(), 1) if at == layer]
        if wanted:
            added = net[:1].repeat(len(wanted), 1, 1, 1)
            for row, (_, kept) in zip(added, wanted, strict=True):
                row[kept] = row[kept].mean((1, 2), keepdim=True) if replacement == "mean" else 0
            net = torch.cat([net, added])
            numbers += [number for number, _ in wanted]
    logits = model.run_head(net, pixels.shape[2:])["Logits"]
    return logits[torch.tensor(numbers).argsort()]


def _in_batches(layer: nn.Module, net: Tensor, batch_size: int) -> Tensor:
    if len(net) <= batch_size:
        return cast(Tensor, layer(net))
    return torch.cat([layer(net[first : first + batch_size]) for first in range(0, len(net), batch_size)])
