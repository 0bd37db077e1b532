"""The network of 2015 as pytorch-fid and torch-fidelity publish it for FID: a state dict under torchvision's names.

Nothing in the file says that it is not torchvision's: the 1,008 classes without an auxiliary head do. Its
average pools leave the padding out, and the last module takes a maximum instead. Resizing and the scale of
pixels are up to each tool that computes FID.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from inception_v3.errors import InputError
from inception_v3.network.settings import GRAPH_2015
from inception_v3.support.files import atomic_write
from inception_v3.weights.formats import torch_names
from inception_v3.weights.formats.weights import Weights, differences_of

if TYPE_CHECKING:
    from inception_v3.weights.model import InceptionV3

NAME = "fid-2015"


def recognise(path: Path) -> bool:
    shapes = torch_names.peek(path)
    return shapes is not None and torch_names.is_graph_of_2015(shapes)


def read(path: Path) -> Weights:
    """Raises InputError, naming the file and the variable: damaged, code, another network."""
    tensors, aux, num_classes = torch_names.to_weights(path, torch_names.load_state_dict(path))
    if aux or num_classes != GRAPH_2015.num_classes:
        has = "an auxiliary head" if aux else f"{num_classes} classes"
        raise InputError(f"{path}: not the network of 2015 but one with {has}; read it as torchvision or timm")
    return Weights(tensors, GRAPH_2015)


def differences(model: "InceptionV3") -> list[str]:
    """Why pytorch-fid would compute other numbers from the file, or could not load it."""
    settings = model.settings
    if settings.final_endpoint:
        return [f"it cannot hold a network cut at {settings['final_endpoint']}"]
    reasons = differences_of(model, count_padding=GRAPH_2015.count_padding, mixed_7c_pool=GRAPH_2015.mixed_7c_pool)
    if settings.num_classes != GRAPH_2015.num_classes:
        reasons.append(f"it has {GRAPH_2015['num_classes']} classes, this model {settings['num_classes']}")
    return reasons


def write(model: "InceptionV3", path: Path) -> None:
    """An auxiliary head is left out.

    Raises InputError: other layers, widths or number of classes, a full disk, a place that cannot be written.
    """
    if model.settings.num_classes != GRAPH_2015.num_classes:
        raise InputError(f"{path}: pytorch-fid loads no other number of classes than 1008; write it as native")
    try:
        tensors = torch_names.from_model(model, aux=False)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    with atomic_write(path) as temporary:
        torch.save(tensors, temporary)
