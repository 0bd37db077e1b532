"""What every format reads into: tensors under this project's names, and how they want to be run."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import Tensor

from inception_v3 import architecture
from inception_v3.architecture import Conv, Layer
from inception_v3.preprocessing import Preprocessing

# What a convolution holds: the table's name, a dot, and one of these.
BATCH_NORM = ("BatchNorm.gamma", "BatchNorm.beta", "BatchNorm.moving_mean", "BatchNorm.moving_variance")


@dataclass
class Weights:
    """Tensors in the layout of `InceptionV3.state_dict()`: kernels OIHW, the logits' (classes, C, 1, 1).

    `settings` are arguments of InceptionV3; those left out have its defaults.
    """

    tensors: dict[str, Tensor]
    settings: dict[str, Any]
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    class_names: list[str] | None = None


def convolutions(**options: Any) -> list[Layer]:
    """Every convolution of the network in the table's order: base, AuxLogits, Logits. Options of `end_points`."""
    points = architecture.end_points(**options)
    return [layer for point in points for layer in point.layers if isinstance(layer.table, Conv)]


def state_name(layer: Layer) -> str:
    """`Mixed_5b/Branch_1/Conv2d_0a_1x1` as it starts the names of its tensors in `state_dict()`."""
    return layer.name.replace("/", ".")


@cache
def imagenet_classes() -> list[str]:
    """The 1,000 classes of ILSVRC 2012 in the order that torchvision, timm and Keras share."""
    from torchvision.models import Inception_V3_Weights

    return list(Inception_V3_Weights.IMAGENET1K_V1.meta["categories"])


def class_names(num_classes: int) -> list[str] | None:
    """Names for 1,000 outputs, and for TF-Slim's 1,001, where 0 is the background; else none are known."""
    if num_classes == 1000:
        return list(imagenet_classes())
    return ["background", *imagenet_classes()] if num_classes == 1001 else None
