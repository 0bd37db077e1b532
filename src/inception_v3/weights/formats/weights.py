"""`Weights`, the form into which every format is read, and functions that several formats share."""

from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network import architecture
from inception_v3.network.architecture import Conv, depth
from inception_v3.network.settings import Settings
from inception_v3.weights.formats.layer_names import BATCH_NORM, convolutions, state_name

__all__ = ["BATCH_NORM", "convolutions", "state_name"]

HALVES = (torch.float16, torch.bfloat16)
FLOATS = (*HALVES, torch.float32, torch.float64)


@dataclass
class Weights:
    """The weights of a model, and how to run it.

    Attributes:
        tensors: under the names and in the layout of `InceptionV3.state_dict()`: convolution kernels OIHW, the
            kernels of the logits (num_classes, C, 1, 1).
        settings: the options of InceptionV3.
        preprocessing: how an image becomes the network's input.
        class_names: in the order of the logits, or None.
        training: what the file records about the training.
        undetermined: options of InceptionV3 that the file does not determine and for which there is no usual value.
        assumed: what the file does not state: a line for the user by the name of each fact, such as mean.
        sources: where facts come from that are not stated where the format usually states them, by their names.
    """

    tensors: dict[str, Tensor]
    settings: Settings
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    class_names: list[str] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    undetermined: tuple[str, ...] = ()
    assumed: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)


def numbered(name: str, number: int) -> str:
    """The name that TensorFlow and Keras give to the layer with this number, of several called `name`: conv, conv_1."""
    return f"{name}_{number}" if number else name


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor that is not empty has no NaN and no infinity.

    Both show in the minimum or the maximum. NumPy computes these in one thread without a copy: 0.03 s for a whole
    network, where `isfinite().all()` takes 0.3 s on idle cores and seconds on busy ones.
    """
    array = (tensor.float() if tensor.dtype in HALVES else tensor).detach().numpy()
    return bool(np.isfinite(array.min()) and np.isfinite(array.max()))


def to_torch(value: np.ndarray) -> Tensor:
    """Copy an array into PyTorch's layout: kernels HWIO to OIHW, a matrix (C, num_classes) as a 1x1 kernel."""
    kernel = value[None, None] if value.ndim == 2 else value
    return torch.from_numpy(np.array(kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel, order="C"))


def fold_gamma(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of the same network without gamma, and the layers whose gamma was not 1.

    gamma * (conv(x) - mean) / deviation equals (gamma * conv(x) - gamma * mean) / deviation: kernel and mean are
    multiplied, the variance stays. This is exact in inference, but changes further training. Hidden layers keep theirs.
    """
    suffix = ".BatchNorm.gamma"
    gammas = {
        name.removesuffix(suffix): gamma
        for name, gamma in tensors.items()
        if name.endswith(suffix) and not name.startswith("Logits.")
    }
    folded = {name: tensor for name, tensor in tensors.items() if name.removesuffix(suffix) not in gammas}
    changed = [layer for layer, gamma in gammas.items() if not bool((gamma == 1).all())]
    for layer in changed:
        folded[f"{layer}.weights"] = tensors[f"{layer}.weights"] * gammas[layer].view(-1, 1, 1, 1)
        folded[f"{layer}.BatchNorm.moving_mean"] = tensors[f"{layer}.BatchNorm.moving_mean"] * gammas[layer]
    return folded, changed


def differences_from(
    weights: Weights,
    *,
    count_padding: bool,
    mixed_7c_pool: str = "avg",
    global_pool: bool = True,
    fixed_widths: bool = True,
    can_end_at: str | None = None,
) -> list[str]:
    """List the reasons why a program with these options, and with images in [-1, 1], computes other outputs.

    `fixed_widths` means that the program builds only the published layer widths. `can_end_at` is the layer at which
    its network may end, without heads.
    """
    settings, preprocessing, standard = weights.settings, weights.preprocessing, Preprocessing()
    widths = [layer.table.width for layer in convolutions() if isinstance(layer.table, Conv) and layer.table.width]
    areas = ("windows of the last map", "the whole last map")
    reasons = {
        f"it cannot hold a network cut at {settings.final_endpoint}": (
            settings.final_endpoint not in (None, can_end_at)
        ),
        "it has no hidden layers between PreLogits and Logits": bool(settings.hidden_units),
        f"its average pools {'count the padding' if count_padding else 'leave the padding out'}, this model's do not": (
            settings.count_padding != count_padding
        ),
        f"its last module pools by {mixed_7c_pool}, this model's by {settings.mixed_7c_pool}": (
            settings.mixed_7c_pool != mixed_7c_pool
        ),
        f"it averages {areas[global_pool]}, this model {areas[not global_pool]}": (
            settings.global_pool != global_pool and architecture.needs_global_pool(settings.image_size)
        ),
        f"its BatchNorm epsilon is 0.001, this model's {settings.batch_norm_epsilon:g}": (
            settings.batch_norm_epsilon != 0.001
        ),
        "it takes images in [-1, 1], this model has another mean and std": (
            (preprocessing.mean, preprocessing.std) != (standard.mean, standard.std)
        ),
        "it has only the published layer widths (depth_multiplier=1.0)": (
            fixed_widths and any(depth(n, settings.depth_multiplier, settings.min_depth) != n for n in widths)
        ),
    }
    return [reason for reason, applies in reasons.items() if applies]


@cache
def imagenet_classes() -> list[str]:
    """The 1,000 classes of ILSVRC 2012 in the order that torchvision, timm and Keras share.

    They are read from torchvision's list without importing torchvision, which takes seconds. If torchvision has
    moved the list, it is imported.
    """
    spec = find_spec("torchvision")
    folder = Path((spec and spec.origin) or "").parent
    with suppress(OSError, KeyError):
        return list(run_path(str(folder / "models" / "_meta.py"))["_IMAGENET_CATEGORIES"])
    from torchvision.models import Inception_V3_Weights

    return list(Inception_V3_Weights.IMAGENET1K_V1.meta["categories"])


def default_class_names(num_classes: int) -> list[str] | None:
    """ImageNet's names for 1,000 outputs, and for TF-Slim's 1,001, where 0 is the background; otherwise None."""
    if num_classes == 1000:
        return list(imagenet_classes())
    return ["background", *imagenet_classes()] if num_classes == 1001 else None
