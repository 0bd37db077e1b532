"""The options of the network, with checks. `InceptionV3` takes them as arguments, and a saved model stores them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from inception_v3.network import architecture
from inception_v3.network.architecture import (
    Activation,
    BatchNormOrder,
    Classes,
    Dense,
    DepthMultiplier,
    EndPoint,
    HiddenWidth,
    Length,
    MinDepth,
    OutputActivation,
    Size,
    check_end_point,
    hidden_layers,
    square,
)
from inception_v3.support.arguments import Decay, PositiveFraction, check, check_fields


@dataclass(frozen=True, eq=False)
class Settings(Mapping[str, Any]):
    """Every option of an Inception V3, under TF-Slim's names where TF-Slim has the option.

    Also a read-only mapping: `InceptionV3(**model.settings)` builds the same network again, and
    `model.settings | {"global_pool": True}` are settings with another value.

    Args:
        num_classes: number of outputs of each head.
        depth_multiplier: factor on the width of every layer, greater than zero.
        min_depth: minimum width of a layer after the multiplication.
        dropout_keep_prob: probability, in (0, 1], of keeping each of the 2048 features before the logits, in training.
        create_aux_logits: build the auxiliary head.
        spatial_squeeze: return logits of shape (N, num_classes) instead of the map (N, num_classes, h, w).
        global_pool: average the last map over its whole size, as later versions of TF-Slim, torchvision, timm and
            Keras do, and the auxiliary logits likewise. False is TF-Slim 1.1: 8x8 windows with stride 2.
        batch_norm_decay: decay of the moving averages, in [0, 1). 0.9997 needs tens of thousands of steps to settle.
        batch_norm_epsilon: added to the variance, greater than zero and at most 1.
        batch_norm_scale: learn a scale (gamma) as well as an offset (beta).
        count_padding: count the zeros of the border in average pools with SAME padding, as torchvision and timm do.
        mixed_7c_pool: the pool in the pooling branch of Mixed_7c. "max" is that of the 2015 graph, which FID uses.
        image_size: height and width, or one number for both, for which the auxiliary head is built. Its 5x5
            convolution is smaller for images below 299 pixels, which changes the shape of its variable.
        final_endpoint: build the base up to this layer and no heads.
        hidden_units: the widths of hidden layers between PreLogits and Logits, as people add them when they replace
            the head. TF-Slim has none.
        hidden_activation: the activation of the hidden layers, one of architecture.ACTIVATIONS, or one for each layer.
        hidden_batch_norm: BatchNorm in every hidden layer, "before" or "after" its activation, or None.
        hidden_batch_norm_epsilon: added to the variance there.
        hidden_dropout_keep_prob: probability, in (0, 1], of keeping each output of a hidden layer, in training.
        output_activation: what makes Predictions of Logits: "softmax", "sigmoid" or "none". "sigmoid" gives each class
            a probability of its own; with num_classes=1 it is that of the second of two classes.

    Raises:
        TypeError: an option of the wrong type. Scalars of NumPy and PyTorch are numbers, and a list may be a size.
        ValueError: an option that no network can have.
    """

    num_classes: Classes = 1000
    depth_multiplier: DepthMultiplier = 1.0
    min_depth: MinDepth = 16
    dropout_keep_prob: PositiveFraction = 0.8
    create_aux_logits: bool = True
    spatial_squeeze: bool = True
    global_pool: bool = False
    batch_norm_decay: Decay = 0.9997
    batch_norm_epsilon: PositiveFraction = 0.001
    batch_norm_scale: bool = False
    count_padding: bool = False
    mixed_7c_pool: Literal["avg", "max"] = "avg"
    image_size: Size = (299, 299)
    final_endpoint: str | None = None
    hidden_units: tuple[HiddenWidth, ...] = ()
    hidden_activation: Activation | tuple[Activation, ...] = "relu"
    hidden_batch_norm: BatchNormOrder = None
    hidden_batch_norm_epsilon: float = 0.001
    hidden_dropout_keep_prob: PositiveFraction = 1.0
    output_activation: OutputActivation = "softmax"

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", square(check("image_size", self.image_size, Length | Size)))
        check_fields(self)
        check_end_point(self.final_endpoint)
        hidden_layers(self.hidden_units, self.hidden_activation)  # one activation for each layer

    @property
    def class_count(self) -> int:
        """The number of classes: `num_classes`, but two for one output with a sigmoid."""
        return 2 if self.num_classes == 1 and self.output_activation == "sigmoid" else self.num_classes

    @property
    def hidden_layers(self) -> tuple[Dense, ...]:
        """The hidden layers between PreLogits and Logits."""
        return hidden_layers(self.hidden_units, self.hidden_activation, self.hidden_batch_norm)

    def end_points(self, height: int | None = None, width: int | None = None) -> list[EndPoint]:
        """The end points of the network for images of this size, by default `image_size`. Raises ValueError: too small.

        The auxiliary head is among them if the network has one; see architecture.end_points.
        """
        return architecture.end_points(
            height=height or self.image_size[0],
            width=width or self.image_size[1],
            num_classes=self.num_classes,
            depth_multiplier=self.depth_multiplier,
            min_depth=self.min_depth,
            create_aux_logits=self.create_aux_logits,
            global_pool=self.global_pool,
            final_endpoint=self.final_endpoint,
            hidden_units=self.hidden_units,
            hidden_activation=self.hidden_activation,
            hidden_batch_norm=self.hidden_batch_norm,
            mixed_7c_pool=self.mixed_7c_pool,
        )

    def __getitem__(self, name: str) -> Any:
        if name not in _NAMES:
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)

    def __or__(self, changes: Mapping[str, Any]) -> "Settings":
        return replace(self, **changes)


_NAMES = tuple(field.name for field in fields(Settings))

# The 2015 graph (inception-2015-12-05) with which FID is defined.
GRAPH_2015 = Settings(
    num_classes=1008,
    create_aux_logits=False,
    batch_norm_scale=True,
    mixed_7c_pool="max",
    global_pool=True,
)
