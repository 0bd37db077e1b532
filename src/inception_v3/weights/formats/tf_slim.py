"""TF-Slim checkpoints, and the options of InceptionV3 that their names and shapes imply.

The variable `InceptionV3/Conv2d_1a_3x3/weights` is the tensor `Conv2d_1a_3x3.weights` of `state_dict()`.
"""

import warnings
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network import architecture
from inception_v3.network.architecture import AUX_INPUT, AUX_LOGITS, Conv, Layer
from inception_v3.network.settings import Settings
from inception_v3.weights.formats import tensorflow_checkpoint
from inception_v3.weights.formats.base import WritableFormat
from inception_v3.weights.formats.weights import (
    BATCH_NORM,
    Weights,
    convolutions,
    default_class_names,
    differences_from,
    fold_gamma,
    to_torch,
)
from inception_v3.weights.programs.program import Program

SCOPE = "InceptionV3/"
AVERAGE = "/ExponentialMovingAverage"
# The network's variables, below the scope of a layer. All others there are an optimizer's slots.
VARIABLES = ("weights", "biases", *(name.replace(".", "/") for name in BATCH_NORM))


def read(path: Path) -> Weights:
    """Read a checkpoint in format V1 or V2, with the options of InceptionV3 that it implies.

    If the checkpoint holds moving averages of the weights, these are used, as slim evaluates with them.
    Raises InputError: damaged, or not TF-Slim's Inception V3.
    """
    stored = tensorflow_checkpoint.read(path, wanted=_is_variable)
    arrays = {name.removeprefix(SCOPE): value for name, value in stored.items()}
    averages = {name.removesuffix(AVERAGE): value for name, value in arrays.items() if name.endswith(AVERAGE)}
    variables = {name: value for name, value in arrays.items() if not name.endswith(AVERAGE)} | averages
    settings = Settings(**recover_options(path, {name: value.shape for name, value in variables.items()}))
    tensors = {name.replace("/", "."): to_torch(value) for name, value in variables.items()}
    return Weights(
        tensors,
        settings,
        Preprocessing.named("slim", settings.image_size),
        default_class_names(settings.num_classes),
    )


def write(weights: Weights, path: Path) -> None:
    """Write a checkpoint in format V2 under the prefix `path`, float32, without gammas: slim's network has none.

    A file with the name of the prefix, such as a checkpoint in format V1, is deleted: it would be read instead of the
    new checkpoint.

    Warns if TF-Slim cannot build the auxiliary head. Raises InputError: a cut network, a full disk, a path that cannot
    be written.
    """
    if weights.settings.final_endpoint:
        raise InputError(f"{path}: TF-Slim's network has all layers, and this one lacks its heads; write it as native")
    _warn_of_aux_head(weights.settings)
    tensors, _ = fold_gamma(weights.tensors)
    variables = {SCOPE + name.replace(".", "/"): to_tensorflow(tensor) for name, tensor in tensors.items()}
    tensorflow_checkpoint.write(path, variables)
    if path.is_file():
        path.unlink()


def _warn_of_aux_head(settings: Settings) -> None:
    """Warn if the auxiliary head's first pool does not fit on its map. Only this project's pool shrinks then."""
    height, width = settings.image_size
    point, pool = architecture.end_points(height=height, width=width, final_endpoint=AUX_INPUT)[-1], AUX_LOGITS[0]
    if settings.create_aux_logits and (point.height < pool.kernel[0] or point.width < pool.kernel[1]):
        warnings.warn(
            f"AuxLogits: TF-Slim cannot build this head for images of {height}x{width}, because its "
            f"{pool.kernel[0]}x{pool.kernel[1]} average pool does not fit on a map of {point.height}x{point.width}; "
            "give inception_v3 create_aux_logits=False there, and restore the other variables",
            stacklevel=2,
        )


def _is_variable(name: str) -> bool:
    return name.startswith(SCOPE) and name.removesuffix(AVERAGE).endswith(VARIABLES)


def to_tensorflow(tensor: Tensor) -> np.ndarray:
    """Convert a tensor to float32 in TensorFlow's layout: kernels OIHW to HWIO; vectors stay as they are."""
    value: np.ndarray = tensor.cpu().float().numpy()
    return np.ascontiguousarray(value.transpose(2, 3, 1, 0)) if value.ndim == 4 else value


def recover_options(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """The options that a checkpoint does not store: num_classes, the widths, the heads and their image size.

    The shapes allow several multipliers and image sizes, all of which build the same variables. This returns the
    simplest multiplier, and the smallest image that fills the auxiliary kernel (299 for 5x5).
    """
    *_, last_of_base, last = convolutions(create_aux_logits=False)
    logits = shapes.get(f"{last.name}/weights")
    if f"{last_of_base.name}/weights" not in shapes or logits is None or len(logits) != 4:
        raise InputError(f"{path}: not TF-Slim's Inception V3 (whose variables are called InceptionV3/...)")
    aux = [name for name in shapes if name.startswith("AuxLogits/Conv2d_2a_") and name.endswith("/weights")]
    options: dict[str, Any] = {
        "num_classes": logits[3],
        "create_aux_logits": bool(aux),
        "batch_norm_scale": any(name.endswith("gamma") for name in shapes),
    }
    if aux:
        options["image_size"] = tuple(map(_image_length, shapes[aux[0]][:2]))
    height, width = options.get("image_size", (299, 299))
    return options | _width_options(path, convolutions(height=height, width=width), shapes)


def _image_length(kernel: int) -> int:
    """The smallest image whose map fills an auxiliary kernel of this length, after slim's 5x5 pool."""
    if kernel >= 5:
        return 299
    sizes = (
        (length, architecture.end_points(height=length, final_endpoint=architecture.AUX_INPUT)[-1].height)
        for length in range(architecture.minimum_size(), 299)
    )
    return next((length for length, size in sizes if size >= 5 and (size - 5) // 3 + 1 == kernel), 299)


def _width_options(path: Path, layers: list[Layer], shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """depth_multiplier and min_depth: each width must equal max(int(published width * depth_multiplier), min_depth)."""
    widths: dict[int, int] = {}  # the width in the file by the published width
    for layer in layers:
        shape = shapes.get(f"{layer.name}/weights")
        if shape is not None and len(shape) == 4 and isinstance(layer.table, Conv) and layer.table.width:
            widths[layer.table.width] = shape[3]
    for min_depth in (16, min(widths.values())):
        low = max(
            (Fraction(width, published) for published, width in widths.items() if width != min_depth),
            default=Fraction(),
        )
        high = min(Fraction(width + 1, published) for published, width in widths.items())
        for multiplier in _decimals_from(low):
            if 0 < multiplier < high and all(
                architecture.depth(published, float(multiplier), min_depth) == width
                for published, width in widths.items()
            ):
                return {"depth_multiplier": float(multiplier), "min_depth": min_depth}
    raise InputError(f"{path}: no depth_multiplier gives the widths of its layers; check that it is an Inception V3")


def _decimals_from(low: Fraction) -> Iterator[Fraction]:
    """Yield the two smallest numbers, `low` or larger, with 0 decimal places, then those with 1, and so on up to 11."""
    for scale in (10**places for places in range(12)):
        first = -(-low.numerator * scale // low.denominator)
        yield from (Fraction(first, scale), Fraction(first + 1, scale))


FORMAT = WritableFormat(
    name="tf-slim",
    recognises=tensorflow_checkpoint.recognises,
    read=read,
    write=write,
    # TF-Slim builds any width; its average pools leave the padding out.
    differences=partial(differences_from, count_padding=False, global_pool=False, fixed_widths=False),
    suffixes=(".ckpt",),
    forbidden_suffixes=(".index",),  # a checkpoint is named by its prefix
    has_gamma=False,
    program=Program("tf-slim"),
)
