"""The network of 2015 as pytorch-fid and torch-fidelity publish it for FID: a state dict under torchvision's names.

Only the 1,008 classes without an auxiliary head distinguish the file from torchvision's. The network's average pools
leave the padding out, and its last module takes a maximum instead. Each tool resizes and scales images its own way.
"""

from pathlib import Path

from inception_v3.errors import InputError
from inception_v3.network.settings import GRAPH_2015
from inception_v3.weights.formats import torchvision
from inception_v3.weights.formats.base import WritableFormat
from inception_v3.weights.formats.torch_network import is_of_2015, peek_networks, read_network
from inception_v3.weights.formats.weights import Weights, differences_from
from inception_v3.weights.programs.program import Program


def recognises(path: Path) -> bool:
    return any(map(is_of_2015, peek_networks(path)))


def read(path: Path, state: str | None = None) -> Weights:
    """Read the state dict. Raises InputError, naming the file and the variable: damaged, another network."""
    settings = (network := read_network(path, state)).settings
    if settings.create_aux_logits or settings.hidden_units or settings.num_classes != GRAPH_2015.num_classes:
        has = "an auxiliary head" if settings.create_aux_logits else f"{settings.num_classes} classes"
        raise InputError(f"{path}: not the network of 2015: it has {has}; read it as torchvision or timm")
    return Weights(network.tensors, GRAPH_2015)


def differences(weights: Weights) -> list[str]:
    """List the reasons why pytorch-fid would compute other outputs from the file, or could not load it."""
    num_classes = weights.settings.num_classes
    reasons = differences_from(weights, count_padding=GRAPH_2015.count_padding, mixed_7c_pool=GRAPH_2015.mixed_7c_pool)
    if num_classes != GRAPH_2015.num_classes:
        reasons.append(f"it has {GRAPH_2015.num_classes} classes, this model {num_classes}")
    return reasons


def write(weights: Weights, path: Path) -> None:
    """Write with torch.save, without the auxiliary head.

    Raises InputError: other layers, widths or number of classes, a full disk, a path that cannot be written.
    """
    if weights.settings.num_classes != GRAPH_2015.num_classes:
        raise InputError(f"{path}: pytorch-fid loads only networks with 1008 classes; write it as native")
    torchvision.save(path, weights, aux=False)


FORMAT = WritableFormat(
    name="fid-2015",
    recognises=recognises,
    read=read,
    read_state=read,
    write=write,
    differences=differences,
    suffixes=(".pth", ".pt"),
    forbidden_suffixes=(".safetensors",),
    program=Program("pytorch-fid"),
)
