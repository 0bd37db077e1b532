"""What every format reads into: tensors under this project's names, and how they want to be run."""

from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network import architecture
from inception_v3.network.architecture import Conv, Layer, depth
from inception_v3.network.settings import Settings

if TYPE_CHECKING:
    from inception_v3.weights.model import InceptionV3

HALVES = (torch.float16, torch.bfloat16)
FLOATS = (*HALVES, torch.float32, torch.float64)

# What a convolution holds: the table's name, a dot, and one of these.
BATCH_NORM = ("BatchNorm.gamma", "BatchNorm.beta", "BatchNorm.moving_mean", "BatchNorm.moving_variance")


@dataclass
class Weights:
    """Tensors in the layout of `InceptionV3.state_dict()`: kernels OIHW, the logits' (classes, C, 1, 1).

    `training` holds what the file records about its training.
    """

    tensors: dict[str, Tensor]
    settings: Settings
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    class_names: list[str] | None = None
    training: dict[str, Any] = field(default_factory=dict)


def convolutions(**options: Any) -> list[Layer]:
    """Every convolution of the network in the table's order: base, AuxLogits, Logits. Options of `end_points`."""
    points = architecture.end_points(**options)
    return [layer for point in points for layer in point.layers if isinstance(layer.table, Conv)]


def state_name(layer: Layer) -> str:
    """`Mixed_5b/Branch_1/Conv2d_0a_1x1` as it starts the names of its tensors in `state_dict()`."""
    return layer.name.replace("/", ".")


def all_finite(tensor: Tensor) -> bool:
    """No NaN and no infinity, told by the extremes.

    NumPy's one thread takes no memory for it and, unlike PyTorch's many, no time waiting for busy cores: of a whole
    network 0.03 s, where `isfinite().all()` takes 0.3 s on idle cores and seconds on busy ones.
    """
    values = tensor.detach()
    array = (values.float() if values.dtype in HALVES else values).numpy()
    return bool(np.isfinite(array.min()) and np.isfinite(array.max()))


def fold_gamma(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The same network without gamma, and the layers in which it was not 1.

    gamma * (conv(x) - mean) / deviation is (gamma * conv(x) - gamma * mean) / deviation: kernel and mean take
    it, the variance stays. Exact in inference; training further from here goes another way.
    """
    folded, changed = dict(tensors), []
    for name in tensors:
        if name.endswith(".BatchNorm.gamma"):
            layer = name.removesuffix(".BatchNorm.gamma")
            gamma = folded.pop(name)
            if not bool((gamma == 1).all()):
                folded[f"{layer}.weights"] = tensors[f"{layer}.weights"] * gamma.view(-1, 1, 1, 1)
                folded[f"{layer}.BatchNorm.moving_mean"] = tensors[f"{layer}.BatchNorm.moving_mean"] * gamma
                changed.append(layer)
    return folded, changed


def differences_of(
    model: "InceptionV3",
    *,
    count_padding: bool,
    mixed_7c_pool: str = "avg",
    global_pool: bool = True,
    fixed_widths: bool = True,
) -> list[str]:
    """Why a program with these semantics, and images in [-1, 1], computes other numbers from the model's weights."""
    settings, standard = model.settings, Preprocessing()
    reasons = []
    if settings.count_padding != count_padding:
        counts = "count the padding" if count_padding else "leave the padding out"
        reasons.append(f"its average pools {counts}, this model's do not")
    if settings.mixed_7c_pool != mixed_7c_pool:
        reasons.append(f"its last module pools by {mixed_7c_pool}, this model's by {settings['mixed_7c_pool']}")
    if settings.global_pool != global_pool and architecture.needs_global_pool(settings.image_size):
        ways = ("windows of the last map", "the whole last map")
        reasons.append(f"it averages {ways[global_pool]}, this model {ways[not global_pool]}")
    if settings.batch_norm_epsilon != 0.001:
        reasons.append(f"its BatchNorm epsilon is 0.001, this model's {settings['batch_norm_epsilon']:g}")
    if (model.preprocessing.mean, model.preprocessing.std) != (standard.mean, standard.std):
        reasons.append("it takes images in [-1, 1], this model others")
    widths = [layer.table.width for layer in convolutions() if isinstance(layer.table, Conv) and layer.table.width]
    if fixed_widths and any(depth(n, settings.depth_multiplier, settings.min_depth) != n for n in widths):
        reasons.append("it has the published widths alone")
    return reasons


@cache
def imagenet_classes() -> list[str]:
    """The 1,000 classes of ILSVRC 2012 in the order that torchvision, timm and Keras share.

    Read from torchvision's list without importing torchvision, which takes seconds; where it has moved, with.
    """
    found = find_spec("torchvision")
    folder = Path((found and found.origin) or "").parent
    with suppress(OSError, KeyError):
        return list(run_path(str(folder / "models" / "_meta.py"))["_IMAGENET_CATEGORIES"])
    from torchvision.models import Inception_V3_Weights

    return list(Inception_V3_Weights.IMAGENET1K_V1.meta["categories"])


def class_names(num_classes: int) -> list[str] | None:
    """Names for 1,000 outputs, and for TF-Slim's 1,001, where 0 is the background; else none are known."""
    if num_classes == 1000:
        return list(imagenet_classes())
    return ["background", *imagenet_classes()] if num_classes == 1001 else None
