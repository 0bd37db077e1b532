"""The layers with weights and the names of their tensors in `state_dict()`. Importing it needs no PyTorch."""

from typing import Any

from inception_v3.network import architecture
from inception_v3.network.architecture import Conv, Layer

# The names of a BatchNorm's tensors in `state_dict()`, below the name of its layer.
BATCH_NORM = ("BatchNorm.gamma", "BatchNorm.beta", "BatchNorm.moving_mean", "BatchNorm.moving_variance")


def convolutions(**options: Any) -> list[Layer]:
    """The convolutions in the table's order: base, AuxLogits, Logits. `options` are those of `end_points`."""
    return [
        layer for point in architecture.end_points(**options) for layer in point.layers if isinstance(layer.table, Conv)
    ]


def state_name(layer: Layer) -> str:
    """The prefix of a layer's tensors in `state_dict()`: `Mixed_5b.Branch_1.Conv2d_0a_1x1`."""
    return layer.name.replace("/", ".")
