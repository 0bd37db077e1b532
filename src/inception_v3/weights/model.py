"""The public InceptionV3: the network with its preprocessing, class names and origin, and methods to share it."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor

from inception_v3.errors import InputError, OptionTypeError, OptionValueError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.architecture import Activation, BatchNormOrder, OutputActivation, Size
from inception_v3.network.drawing import network_html
from inception_v3.network.network import InceptionV3Network
from inception_v3.network.settings import Settings
from inception_v3.support.arguments import check
from inception_v3.weights.facts import Facts, warn_of_assumed
from inception_v3.weights.formats.weights import FLOATS, Weights, all_finite, convolutions, state_name
from inception_v3.weights.hub import HubMixin
from inception_v3.weights.read import Origin, hint, public_name

if TYPE_CHECKING:
    from PIL.Image import Image

# The layers whose shape depends on num_classes.
CLASSIFIERS = tuple(f"{state_name(layer)}." for layer in convolutions() if not layer.normalized)
AUX_KERNEL = "AuxLogits.Conv2d_2a_"  # the start of the name of the layer whose kernel depends on the image size


class InceptionV3(InceptionV3Network, HubMixin):
    """Inception V3 (arXiv 1512.00567) as tf_slim/nets/inception_v3.py defines it, ready to use on images.

    `logits, end_points = model(images)` takes floats of shape (N, 3, H, W) in [-1, 1], 75x75 or larger.
    The options are described in `inception_v3.network.settings.Settings`.

    Attributes:
        settings: the options, as a read-only mapping with attributes.
        preprocessing: how an image becomes the tensor that the network reads.
        class_names: the names of the classes in the order of the logits, or None. One logit with a sigmoid has two.
        origin: where the weights were loaded from, or None.

    Raises:
        TypeError: an option of the wrong type.
        ValueError: an option that no network can have.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        depth_multiplier: float = 1.0,
        min_depth: int = 16,
        dropout_keep_prob: float = 0.8,
        create_aux_logits: bool = True,
        spatial_squeeze: bool = True,
        global_pool: bool = False,
        batch_norm_decay: float = 0.9997,
        batch_norm_epsilon: float = 0.001,
        batch_norm_scale: bool = False,
        count_padding: bool = False,
        mixed_7c_pool: Literal["avg", "max"] = "avg",
        image_size: int | Size = 299,
        final_endpoint: str | None = None,
        hidden_units: tuple[int, ...] = (),
        hidden_activation: Activation | tuple[Activation, ...] = "relu",
        hidden_batch_norm: BatchNormOrder = None,
        hidden_batch_norm_epsilon: float = 0.001,
        hidden_dropout_keep_prob: float = 1.0,
        output_activation: OutputActivation = "softmax",
    ) -> None:
        super().__init__(
            Settings(
                num_classes=num_classes,
                depth_multiplier=depth_multiplier,
                min_depth=min_depth,
                dropout_keep_prob=dropout_keep_prob,
                create_aux_logits=create_aux_logits,
                spatial_squeeze=spatial_squeeze,
                global_pool=global_pool,
                batch_norm_decay=batch_norm_decay,
                batch_norm_epsilon=batch_norm_epsilon,
                batch_norm_scale=batch_norm_scale,
                count_padding=count_padding,
                mixed_7c_pool=mixed_7c_pool,
                image_size=image_size,  # type: ignore[arg-type]  # Settings takes one number too
                final_endpoint=final_endpoint,
                hidden_units=hidden_units,
                hidden_activation=hidden_activation,
                hidden_batch_norm=hidden_batch_norm,
                hidden_batch_norm_epsilon=hidden_batch_norm_epsilon,
                hidden_dropout_keep_prob=hidden_dropout_keep_prob,
                output_activation=output_activation,
            )
        )
        self.preprocessing = Preprocessing(image_size=self.image_size)
        self.class_names: list[str] | None = None
        self.origin: Origin | None = None

    def _repr_html_(self) -> str:
        """The network as a drawing and a table, for a notebook."""
        title = f"InceptionV3 {public_name(self.origin.name)}" if self.origin else "InceptionV3"
        return network_html(self.settings, title, self.class_names or ())

    def preprocess(self, images: "Image | Sequence[Image]") -> Tensor:
        """Convert one or several RGB images to the network's input, (N, 3, H, W), on the network's device.

        Raises:
            ValueError: no images; anything but Pillow images of mode RGB.
        """
        given: Any = images
        images = given if isinstance(given, Sequence) and not isinstance(given, str | bytes) else [given]
        if not images:
            raise ValueError("images must be one or more images, not an empty list")
        batch = torch.cat([self.preprocessing(image) for image in images])
        return batch.to(next(self.parameters()).device)

    @classmethod
    def from_weights(
        cls, weights: Weights, origin: Origin, *, partial: bool = False, facts: Facts | None = None, **options: Any
    ) -> Self:
        """Build a model in evaluation mode with these weights, on the CPU. See `load` for `partial` and `options`.

        `facts` replace what the file states. Random weights are only drawn if tensors are missing.

        Raises:
            InputError: tensors that do not fit the options, or options that `check_options` refuses.
        """
        file = origin.file
        check_options(file, options)
        _check_output(file, weights, options)
        settings = replace(weights.settings, **options)
        try:
            if "image_size" in options or origin.format == "timm":  # whose config.json may have another size
                weights, settings = _without_unfit_aux(file, weights, settings)
            with torch.device("meta"):
                model = cls(**settings)
        except ValueError as error:
            raise InputError(f"{file}: no network with such options ({error})") from error
        expected = model.state_dict()
        # For another number of classes, these layers keep their initial values.
        new_layers = CLASSIFIERS if settings.num_classes != weights.settings.num_classes else ()
        tensors = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith(new_layers)}
        missing = [name for name in expected if name not in tensors and not name.startswith(new_layers)]
        extra = [name for name in tensors if name not in expected]
        if (missing or extra) and not partial:
            fault = f"it lacks {missing[0]}" if missing else f"it has {extra[0]}, which this network does not have"
            more = len(missing) + len(extra) - 1
            and_more = f" and {more} more differ" if more else ""
            raise InputError(f"{file}: {fault}{and_more}; load it with its own options, or with partial=True")
        tensors = {name: tensor for name, tensor in tensors.items() if name in expected}
        _check_tensors(file, tensors, expected)
        # All layers need the same dtype. This one represents every value and is at least float32.
        dtype = reduce(torch.promote_types, {tensor.dtype for tensor in tensors.values()}, torch.float32)
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        if missing or new_layers:
            model = cls(**settings).to(dtype)
        model.load_state_dict(tensors, strict=False, assign=True)
        if new_layers:
            warnings.warn(f"{file}: the final layers are new, for {settings.num_classes} classes", stacklevel=3)
        for fault, names in (("missing from the file, so initialised", missing), ("in the file, but not used", extra)):
            if names:
                warnings.warn(f"{file}: {fault}: {', '.join(names)}", stacklevel=3)
        facts = facts or Facts()
        model.preprocessing = facts.preprocessing(weights.preprocessing)
        if "image_size" in options:
            model.preprocessing = model.preprocessing.at(settings.image_size)
        model.class_names = facts.names(file, weights.class_names, settings.class_count)
        given = facts.given(options) | ({"class_names"} if new_layers else set())
        warn_of_assumed(file, weights.assumed, given)
        model.origin = origin
        return model.eval()

    def to_weights(self, training: dict[str, Any] | None = None) -> Weights:
        """The model as a file stores it; the tensors share memory with the model.

        `training` describes how the weights were made. Without it, the origin's description is kept.

        Raises:
            TypeError, ValueError: `class_names` is no list of strings, one for each class, or None.
        """
        names: list[str] | None = check("class_names", self.class_names, list[str] | None)
        if names is not None and len(names) != self.settings.class_count:
            raise ValueError(f"class_names must be {self.settings.class_count} names, not {len(names)}")
        if training is None and self.origin is not None:
            training = {"origin": self.origin.first} | self.origin.training
        return Weights(self.state_dict(), self.settings, self.preprocessing, names, training or {})


def check_options(name: str | Path, options: dict[str, Any]) -> None:
    """Raise OptionTypeError or OptionValueError, with the model's name, for options that no model has."""
    try:
        Settings(**options)
    except TypeError as error:
        raise OptionTypeError(f"{name}: {error}") from error
    except ValueError as error:
        raise OptionValueError(f"{name}: {error}") from error


def _check_output(file: Path, weights: Weights, options: dict[str, Any]) -> None:
    """Raise InputError if neither the file nor the options determine how one output becomes a probability."""
    if "output_activation" not in weights.undetermined or options.get("output_activation", "softmax") != "softmax":
        return
    fault = "does not determine whether a sigmoid follows it"
    if "output_activation" in options:
        fault = "a softmax would be 1 for every image"
    raise InputError(
        f"{file}: has one output, and {fault}; give --output sigmoid, in Python output_activation='sigmoid'"
    )


def _without_unfit_aux(file: Path, weights: Weights, settings: Settings) -> tuple[Weights, Settings]:
    """Leave out an auxiliary head that is for images of another size, which determines its kernel, with a line.

    Raises ValueError: no network has these settings.
    """
    height, width = settings.image_size
    if not settings.create_aux_logits:
        return weights, settings
    layers = map(state_name, convolutions(height=height, width=width))
    kernel = next((layer for layer in layers if layer.startswith(AUX_KERNEL)), None)
    stored = [name for name in weights.tensors if name.startswith(AUX_KERNEL)]
    if kernel is None or not stored or stored[0].startswith(f"{kernel}."):
        return weights, settings
    warnings.warn(f"{file}: its auxiliary head is not for images of {height}x{width}, so it is left out", stacklevel=4)
    tensors = {name: tensor for name, tensor in weights.tensors.items() if not name.startswith("AuxLogits.")}
    return replace(weights, tensors=tensors), replace(settings, create_aux_logits=False)


def _check_tensors(file: Path, tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"{file}: {name} has shape {tuple(tensor.shape)} but these options need "
                f"{tuple(expected[name].shape)}; load it with its own options"
            )
        if tensor.dtype not in FLOATS:
            raise InputError(f"{file}: {name} holds {tensor.dtype}, not floats of 16 to 64 bits; save it as float32")
        if not all_finite(tensor):
            raise InputError(f"{file}: {name} holds NaN or infinity; the file is damaged{hint(file)}")
