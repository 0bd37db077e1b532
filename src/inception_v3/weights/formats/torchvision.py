"""torchvision's inception_v3: the state dict of torchvision/models/inception.py, with and without AuxLogits.

timm/models/inception_v3.py and the inception.py of pytorch-fid and torch-fidelity took over its names, so their formats
use the functions of this file, and of torch_network.py.

The network has gammas, counts the padding in its average pools, and averages the last map whatever its size.
torchvision normalises images by ImageNet's mean and std, and the network's `transform_input` turns that exactly back
into [-1, 1]. So the weights are for (pixel / 255 - 0.5) / 0.5, after the shorter side is resized to 342 pixels,
bilinear and antialiased (the preset ImageClassification(crop_size=299, resize_size=342)).
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.settings import GRAPH_2015
from inception_v3.support.files import atomic_write
from inception_v3.support.text import printable
from inception_v3.weights.facts import IMAGENET_MEAN_STD
from inception_v3.weights.formats.base import WritableFormat
from inception_v3.weights.formats.state_dict_file import is_pickled
from inception_v3.weights.formats.torch_heads import COUNTER
from inception_v3.weights.formats.torch_network import TorchNetwork, has_aux, read_network
from inception_v3.weights.formats.torch_stated import Stated, read_stated
from inception_v3.weights.formats.torchvision_names import named_tensors, state_names
from inception_v3.weights.formats.weights import Weights, default_class_names, differences_from
from inception_v3.weights.programs.program import Program

__all__ = ["FORMAT", "state_names"]

PREPROCESSING = Preprocessing.named("torchvision")


# ----------------------------------------------------------------------------------------------------- writing


def can_hold_aux(weights: Weights) -> bool:
    """Whether there is an auxiliary head with their 5x5 kernel: one built for images of 299 pixels or more."""
    return "AuxLogits.Conv2d_2a_5x5.weights" in weights.tensors


def _save_pickle(state_dict: Any, path: Path) -> None:
    buffer = io.BytesIO()  # on a full disk, torch.save would not report the reason
    torch.save(state_dict, buffer)
    path.write_bytes(buffer.getbuffer())


def save(path: Path, weights: Weights, aux: bool, save_file: Callable[[Any, Path], None] = _save_pickle) -> None:
    """Write the state dict under their names: a missing gamma is 1, counters are 0, all else is bit for bit the same.

    Raises InputError, with `path` and the variable, if the network is cut or has other widths; or if the file cannot be
    written.
    """
    state_dict: dict[str, Tensor] = {}
    for name, (our_name, shape) in named_tensors(aux, weights.settings.num_classes).items():
        tensor = weights.tensors.get(our_name)
        if tensor is None and our_name.endswith("gamma"):
            tensor = torch.ones(shape, dtype=next(iter(weights.tensors.values())).dtype)
        if tensor is not None and name.endswith("fc.weight"):
            tensor = tensor.flatten(1)
        if tensor is None or tuple(tensor.shape) != shape:
            has = f"has shape {tuple(tensor.shape)}" if tensor is not None else "does not exist"
            raise InputError(
                f"{path}: {our_name} must have shape {shape} in this format, but in this network it {has}; "
                "write it as native"
            )
        # a copy: torch.save would write the whole storage that a view belongs to
        state_dict[name] = tensor.cpu().clone(memory_format=torch.contiguous_format)
        if name.endswith("running_var"):
            state_dict[name.replace("running_var", COUNTER)] = torch.tensor(0)
    with atomic_write(path) as temporary:
        save_file(state_dict, temporary)


# ------------------------------------------------------------------------------------------------- torchvision


def recognises(path: Path) -> bool:
    """Whether the file is a pickle of PyTorch. Those of timm and of the network of 2015 are recognised first."""
    return is_pickled(path)


def read(
    path: Path, state: str | None = None, preprocessing: Preprocessing = PREPROCESSING, stated: Stated | None = None
) -> Weights:
    """Read the network of a file; `state` is the key of one of several. Warns of all that is not in the file.

    `stated` replaces what the file and the files beside it state about images and classes. Raises InputError, naming
    the file and the fault: damaged, another network, several networks, a head that this network cannot have.
    """
    network = read_network(path, state)
    stated = read_stated(path) if stated is None else stated
    settings, sources = network.settings, dict(stated.sources)
    preprocessing, assumed = _preprocessing(network, stated, preprocessing, sources)
    settings = replace(settings, image_size=preprocessing.image_size)
    undetermined = network.undetermined
    if stated.output_activation == "sigmoid" and settings.output_activation == "softmax":
        settings, undetermined = replace(settings, output_activation="sigmoid"), ()
    names = None
    if settings.final_endpoint is None:
        names = stated.names_of(settings.class_count)
        if stated.num_classes not in (None, settings.num_classes):
            stated.lines.append(f"{stated.num_classes} classes are stated, but the weights have {settings.num_classes}")
        if names is None and (names := default_class_names(settings.num_classes)):
            assumed["class_names"] = "the class names of ImageNet are assumed (--class-names replaces them)"
    for line in stated.lines:
        warnings.warn(f"{path}: {printable(line)}", stacklevel=2)
    return Weights(
        network.tensors, settings, preprocessing, names, undetermined=undetermined, assumed=assumed, sources=sources
    )


def _preprocessing(
    network: TorchNetwork, stated: Stated, usual: Preprocessing, sources: dict[str, str]
) -> tuple[Preprocessing, dict[str, str]]:
    """How images become inputs, and a line for each fact that is assumed. Adds to the sources of the facts."""
    assumed = {"mean": "pixels in [-1, 1] are assumed (--mean and --std replace this)"}
    preprocessing = usual.at(stated.options.get("image_size", usual.image_size))
    preprocessing = replace(preprocessing, **stated.options)
    transforms = network.transform_input if network.transform_input is not None else stated.transforms
    scaling = network.scaling or stated.scaling
    if scaling is not None:
        mean, std, assumed["mean"] = scaling.behind(transforms)
        preprocessing = replace(preprocessing, mean=mean, std=std)
    elif transforms is False:  # the network then reads images as torchvision scales them
        mean, std = IMAGENET_MEAN_STD
        preprocessing = replace(preprocessing, mean=mean, std=std)
        assumed["mean"] = (
            "its transform_input is off, so images with ImageNet's mean and std are assumed (--mean and --std replace "
            "them)"
        )
    if network.scaling is not None:
        sources |= dict.fromkeys(("mean", "std"), network.scaling.source)
        if stated.scaling is not None:
            stated.lines.append(
                f"its {stated.scaling.source} are not used, because {network.scaling.source} scale the images"
            )
    if "image_size" not in stated.options:
        assumed["image_size"] = "299x299 pixels are assumed (--image-size replaces this)"
    return preprocessing, {name: line for name, line in assumed.items() if line}


def write(weights: Weights, path: Path) -> None:
    """Write with torch.save. An auxiliary head that does not fit is left out, as with torchvision's aux_logits=False.

    Raises InputError: other widths, a cut network, a full disk.
    """
    save(path, weights, can_hold_aux(weights))


def differences(weights: Weights) -> list[str]:
    """List the reasons why torchvision and timm would compute other outputs from images in [-1, 1].

    Resizing is left to their users.
    """
    settings = weights.settings
    reasons = differences_from(weights, count_padding=True)
    aux = can_hold_aux(weights)
    if has_aux(weights.tensors) and not aux:
        reasons.append(f"it cannot hold an auxiliary head for images of {settings.image_size}, which is left out")
    if settings.num_classes == GRAPH_2015.num_classes and not aux:
        reasons.append("a file with 1008 classes and no auxiliary head would be read as the network of 2015")
    return reasons


FORMAT = WritableFormat(
    name="torchvision",
    recognises=recognises,
    read=read,
    read_state=read,
    write=write,
    differences=differences,
    suffixes=(".pth", ".pt"),
    forbidden_suffixes=(".safetensors",),
    program=Program("torchvision"),
)
