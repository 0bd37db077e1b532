"""Parts of a Look that a network in PyTorch and an exported one have in common. No PyTorch."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inception_v3.explain.classes import find_class
from inception_v3.explain.look.channels import rounded, strongest_channels
from inception_v3.explain.look.page import ModelFacts
from inception_v3.explain.look.result import MAX_CAM_CLASSES, Channels, Look, LookOptions, Prediction
from inception_v3.explain.views import View
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.architecture import OutputActivation
from inception_v3.network.probabilities import probabilities
from inception_v3.reports.pages import thumbnail
from inception_v3.support.text import printable

PICTURE_SIDE = 800  # pixels


def look_of(view: View, preprocessing: Preprocessing, model: ModelFacts, parts: dict[str, Channels]) -> Look:
    """A Look with an image and the values of the network's parts, as yet without results."""
    return Look(
        model=model,
        name=printable(view.name),
        size=(view.image.height, view.image.width),
        picture=thumbnail(view.image, PICTURE_SIDE, "WEBP", quality=82, method=2),
        input=thumbnail(Image.fromarray(preprocessing.array(view.image)), PICTURE_SIDE, "WEBP", quality=90, method=2),
        box=view.box,
        parts=parts,
    )


def strongest_of_parts(values: Mapping[str, NDArray[np.floating]], options: LookOptions) -> dict[str, Channels]:
    """The strongest channels of each part, from its values (channels, height, width)."""
    counts = {name: options.inner_channels if "/" in name else options.channels for name in values}
    return {name: strongest_channels(each, counts[name]) for name, each in values.items()}


def cam_classes(listed: Sequence[int], options: LookOptions, labels: Sequence[str]) -> list[int]:
    """The classes for which Grad-CAM is computed: the requested one, then the first of those that are listed."""
    requested = [] if options.class_name is None else [find_class(options.class_name, labels)]
    return list(dict.fromkeys([*requested, *listed]))[:MAX_CAM_CLASSES]


def top_classes(
    logits: NDArray[np.floating], labels: Sequence[str], activation: OutputActivation, count: int
) -> list[Prediction]:
    """The classes with the highest probability, or output, from logits (outputs,)."""
    values = probabilities(logits[None], activation)[0]
    best = np.argsort(-values, kind="stable")[:count]
    return [prediction(int(index), labels, values) for index in best]


def prediction(index: int, labels: Sequence[str], values: NDArray[np.floating]) -> Prediction:
    """A class with its value."""
    return Prediction(index, printable(labels[index]), rounded([values[index]])[0])


def first_not_finite(parts: dict[str, Channels]) -> str | None:
    """The first part with infinite values or NaN: a layer rather than the branch and the end point around it."""
    faulty = [name for name, channels in parts.items() if channels.not_finite]
    return next((name for name in faulty if not any(each.startswith(f"{name}/") for each in faulty)), None)
