"""TF-Slim checkpoints: the variables `InceptionV3/...`, and the options that their names and shapes tell."""

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network import architecture
from inception_v3.network.architecture import Conv, Layer
from inception_v3.network.settings import Settings
from inception_v3.weights.formats import tensorflow_checkpoint
from inception_v3.weights.formats.weights import Weights, class_names, convolutions, differences_of, fold_gamma

if TYPE_CHECKING:
    from inception_v3.weights.model import InceptionV3

NAME = "tf-slim"
SCOPE = "InceptionV3/"
AVERAGE = "/ExponentialMovingAverage"
# Everything else below a layer's scope is an optimizer's slot.
BATCH_NORM = ("BatchNorm/beta", "BatchNorm/gamma", "BatchNorm/moving_mean", "BatchNorm/moving_variance")
VARIABLES = ("weights", "biases", *BATCH_NORM)


def recognise(path: Path) -> bool:
    return tensorflow_checkpoint.recognise(path)


def read(path: Path) -> Weights:
    """A checkpoint in format V1 or V2, with the options of InceptionV3 that it implies.

    Where the checkpoint holds running averages of the weights, those are taken, as slim evaluates with them.
    Raises InputError: damaged, or not TF-Slim's Inception V3.
    """
    found = tensorflow_checkpoint.read(path, wanted=_is_variable)
    averaged = {name.removesuffix(AVERAGE): value for name, value in found.items() if name.endswith(AVERAGE)}
    variables = {name: value for name, value in found.items() if not name.endswith(AVERAGE)} | averaged
    options = recover_options(path, {name.removeprefix(SCOPE): value.shape for name, value in variables.items()})
    tensors = {state_name(name): to_torch(value) for name, value in variables.items()}
    settings = Settings(**options)
    return Weights(
        tensors, settings, Preprocessing.named("slim", settings.image_size), class_names(settings.num_classes)
    )


def differences(model: "InceptionV3") -> list[str]:
    """TF-Slim builds any width; its average pools leave the padding out."""
    if model.settings.final_endpoint:
        return [f"it cannot hold a network cut at {model.settings['final_endpoint']}"]
    return differences_of(model, count_padding=False, global_pool=False, fixed_widths=False)


def write(model: "InceptionV3", path: Path) -> None:
    """A checkpoint in format V2 under the prefix `path`, float32, without gammas: slim's network has none.

    A file called like the prefix, such as a checkpoint in format V1, goes: it would be read in place of the new one.
    Raises InputError: a cut network, a full disk, a place that cannot be written.
    """
    if model.settings.final_endpoint:
        raise InputError(f"{path}: TF-Slim's network has all layers, and this one not its heads; write it as native")
    tensors, _ = fold_gamma(model.state_dict())
    variables = {variable_name(name): to_tensorflow(tensor) for name, tensor in tensors.items()}
    tensorflow_checkpoint.write(path, variables)
    if path.is_file():
        path.unlink()


def _is_variable(name: str) -> bool:
    return name.startswith(SCOPE) and name.removesuffix(AVERAGE).endswith(VARIABLES)


def state_name(variable: str) -> str:
    """`InceptionV3/Conv2d_1a_3x3/weights` to `Conv2d_1a_3x3.weights`."""
    return variable.removeprefix(SCOPE).replace("/", ".")


def variable_name(state: str) -> str:
    """`Conv2d_1a_3x3.weights` to `InceptionV3/Conv2d_1a_3x3/weights`."""
    return SCOPE + state.replace(".", "/")


def to_tensorflow(tensor: Tensor) -> np.ndarray:
    """OIHW kernels to HWIO; vectors as they are."""
    value: np.ndarray = tensor.detach().cpu().float().numpy()
    return np.ascontiguousarray(value.transpose(2, 3, 1, 0)) if value.ndim == 4 else value


def to_torch(value: np.ndarray) -> Tensor:
    """HWIO kernels to OIHW; vectors as they are."""
    if value.ndim == 4:
        value = value.transpose(3, 2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(value))


def recover_options(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """num_classes, the widths, the heads and their image size, which a checkpoint does not write down.

    Shapes leave several multipliers and image sizes possible; any of them builds the same variables. The
    simplest multiplier is taken, and the smallest image that fills the auxiliary kernel (299 for 5x5).
    """
    *_, last_of_base, last = convolutions(create_aux_logits=False)
    logits = shapes.get(f"{last.name}/weights")
    if f"{last_of_base.name}/weights" not in shapes or logits is None or len(logits) != 4:
        raise InputError(f"{path}: no Inception V3 of TF-Slim (its variables are called InceptionV3/...)")
    aux = [name for name in shapes if name.startswith("AuxLogits/Conv2d_2a_") and name.endswith("/weights")]
    options: dict[str, Any] = {
        "num_classes": logits[3],
        "create_aux_logits": bool(aux),
        "batch_norm_scale": any(name.endswith("gamma") for name in shapes),
    }
    height = width = 299
    if aux:
        height, width = (_image_length(length) for length in shapes[aux[0]][:2])
        options["image_size"] = (height, width)
    points = architecture.end_points(height=height, width=width)
    layers = [layer for point in points for layer in point.layers if layer.normalized]
    return options | _widths(path, layers, shapes)


def _image_length(kernel: int) -> int:
    """The smallest image whose map fills an auxiliary kernel of this length, with slim's unshrunk 5x5 pool."""
    if kernel >= 5:
        return 299
    for length in range(architecture.minimum_size(), 299):
        size = architecture.end_points(height=length, final_endpoint=architecture.AUX_INPUT)[-1].height
        if size >= 5 and (size - 5) // 3 + 1 == kernel:
            return length
    raise AssertionError("an image of 299 pixels fills the whole kernel, and smaller ones each shorter")


def _widths(path: Path, layers: list[Layer], shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """depth_multiplier and min_depth: every width must be max(int(width * depth_multiplier), min_depth)."""
    found: dict[int, int] = {}  # a width in the table: the width in the file
    for layer in layers:
        shape = shapes.get(f"{layer.name}/weights")
        if shape is not None and len(shape) == 4 and isinstance(layer.table, Conv) and layer.table.width:
            found[layer.table.width] = shape[3]
    for min_depth in (16, min(found.values())):
        cut = [table for table, width in found.items() if width == min_depth]
        low = max((Fraction(width, table) for table, width in found.items() if table not in cut), default=Fraction())
        high = min(Fraction(width + 1, table) for table, width in found.items())
        for digits in range(12):
            scale = 10**digits
            first = -(-low.numerator * scale // low.denominator)
            for multiplier in (Fraction(first, scale), Fraction(first + 1, scale)):
                if 0 < multiplier < high and all(
                    architecture.depth(table, float(multiplier), min_depth) == width for table, width in found.items()
                ):
                    return {"depth_multiplier": float(multiplier), "min_depth": min_depth}
    raise InputError(f"{path}: its layers have widths that no depth_multiplier gives; is it another network?")
