"""torchvision's inception_v3: the state dict of torchvision/models/inception.py, with and without AuxLogits.

The network learned gammas, counts the padding in its average pools and pools the last map whatever its size.
torchvision normalises pictures by ImageNet's mean and deviation, and the network's `transform_input` turns that
exactly back into [-1, 1]: so what these weights read is (pixel / 255 - 0.5) / 0.5, after resizing the shorter side
to 342 pixels, bilinear and antialiased (the preset ImageClassification(crop_size=299, resize_size=342)).
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.settings import GRAPH_2015, Settings
from inception_v3.support.files import atomic_write
from inception_v3.weights.formats import torch_names
from inception_v3.weights.formats.weights import Weights, class_names, differences_of

if TYPE_CHECKING:
    from inception_v3.weights.model import InceptionV3

NAME = "torchvision"
PREPROCESSING = Preprocessing.named("torchvision")


def recognise(path: Path) -> bool:
    """A pickled state dict, unless it is of the graph of 2015. (Those of timm are asked for before.)"""
    shapes = torch_names.peek(path)
    return shapes is not None and not torch_names.is_safetensors(path) and not torch_names.is_graph_of_2015(shapes)


def read(path: Path) -> Weights:
    """Raises InputError, naming the file and the variable: damaged, code, or not this network."""
    return read_as(path, PREPROCESSING)


def read_as(path: Path, preprocessing: Preprocessing) -> Weights:
    """Weights of torchvision's network, which is timm's too, for pictures prepared so."""
    tensors, aux, num_classes = torch_names.to_weights(path, torch_names.load_state_dict(path))
    settings = Settings(
        num_classes=num_classes, create_aux_logits=aux, batch_norm_scale=True, count_padding=True, global_pool=True
    )
    return Weights(tensors, settings, preprocessing, class_names(num_classes))


def write(model: "InceptionV3", path: Path) -> None:
    """With torch.save; without AuxLogits (torchvision's aux_logits=False) where there is none that fits.

    Raises InputError: other widths, a cut network, a full disk.
    """
    tensors = held(model, path)
    with atomic_write(path) as temporary:
        torch.save(tensors, temporary)


def held(model: "InceptionV3", path: Path) -> dict[str, torch.Tensor]:
    """What is written to `path`. Raises InputError, naming it, where the names cannot hold the network."""
    try:
        return torch_names.from_model(model, torch_names.has_aux(model))
    except InputError as error:
        raise InputError(f"{path}: {error}; write it as native") from error


def differences(model: "InceptionV3") -> list[str]:
    """Why torchvision would compute other numbers. How a picture is resized is its caller's choice, and left out."""
    return reasons(model, NAME)


def reasons(model: "InceptionV3", program: str) -> list[str]:
    """`differences`, for a program with torchvision's network and images in [-1, 1]."""
    settings = model.settings
    if settings.final_endpoint:
        return [f"{program} cannot hold a network cut at {settings['final_endpoint']}"]
    found = differences_of(model, count_padding=True)
    if settings.create_aux_logits and not torch_names.has_aux(model):
        found.append(f"{program} cannot hold an auxiliary head for images of {settings['image_size']}: it is left out")
    if settings.num_classes == GRAPH_2015.num_classes and not torch_names.has_aux(model):
        found.append("a file of 1008 classes without an auxiliary head is taken for the graph of 2015 when it is read")
    return found
