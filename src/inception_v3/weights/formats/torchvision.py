"""torchvision's inception_v3: the state dict of torchvision/models/inception.py, with and without AuxLogits.

timm/models/inception_v3.py and the inception.py of pytorch-fid and torch-fidelity took over its names, so their formats
use the functions of this file. The names follow from the architecture table by a rule over a branch's kernels.

The network has gammas, counts the padding in its average pools, and averages the last map whatever its size.
torchvision normalises images by ImageNet's mean and std, and the network's `transform_input` turns that exactly back
into [-1, 1]. So the weights are for (pixel / 255 - 0.5) / 0.5, after the shorter side is resized to 342 pixels,
bilinear and antialiased (the preset ImageClassification(crop_size=299, resize_size=342)).
"""

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network import architecture
from inception_v3.network.architecture import Branch, Conv
from inception_v3.network.settings import GRAPH_2015, Settings
from inception_v3.support.files import atomic_write
from inception_v3.support.text import printable
from inception_v3.weights.formats.base import WritableFormat
from inception_v3.weights.formats.state_dict_file import COUNTER, is_safetensors, load_state_dict, peek_shapes
from inception_v3.weights.formats.weights import (
    BATCH_NORM,
    Weights,
    all_finite,
    convolutions,
    default_class_names,
    differences_from,
    state_name,
)
from inception_v3.weights.programs.program import Program

PREPROCESSING = Preprocessing.named("torchvision")
THEIR_BATCH_NORM = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")


# ------------------------------------------------------------------------------------------------------- names


def state_names(aux: bool) -> dict[str, str]:
    """Map each of torchvision's names to the name in `InceptionV3.state_dict()`, with or without AuxLogits."""
    return {theirs: ours for theirs, (ours, _) in _tensors(aux, num_classes=1000).items()}


def _tensors(aux: bool, num_classes: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Map each of torchvision's names to the name in `InceptionV3.state_dict()` and to torchvision's shape."""
    scopes = {
        f"{node.name}/{name}/{conv.name}": f"{node.name}.{theirs}"
        for node in architecture.MODULES
        for name, branch in node.named_branches
        for conv, theirs in _names_in_branch(branch)
    }
    aux_convolutions = iter(("AuxLogits.conv0", "AuxLogits.conv1"))
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for layer in convolutions(create_aux_logits=aux):
        in_aux = layer.end_point == "AuxLogits"
        ours = state_name(layer)
        if not layer.normalized:  # logits: a linear layer there, a 1x1 convolution here
            theirs = "AuxLogits.fc" if in_aux else "fc"
            tensors[f"{theirs}.weight"] = f"{ours}.weights", (num_classes, layer.in_channels)
            tensors[f"{theirs}.bias"] = f"{ours}.biases", (num_classes,)
        else:
            theirs = next(aux_convolutions) if in_aux else scopes.get(layer.name, layer.name)  # the stem's are the same
            kernel = (layer.out_channels, layer.in_channels, *layer.kernel)
            tensors[f"{theirs}.conv.weight"] = f"{ours}.weights", kernel
            for their_part, part in zip(THEIR_BATCH_NORM, BATCH_NORM, strict=True):
                tensors[f"{theirs}.{their_part}"] = f"{ours}.{part}", (layer.out_channels,)
    return tensors


def _names_in_branch(branch: Branch) -> list[tuple[Conv, str]]:
    """The convolutions of a branch with their names, such as `branch7x7dbl_3`.

    A branch is named after the square windows that it covers one after another, and its convolutions are numbered
    from 1. A 1x7 and a 7x1 in a row cover one 7x7 window, and a 1x3 beside a 3x1 cover one 3x3 window: counting
    kernels by their height counts each pair once. A 1x1 is no window; it names a branch that has nothing else.
    """
    steps = [step if isinstance(step, tuple) else (step,) for step in branch]
    rows = [[conv for conv in step if isinstance(conv, Conv)] for step in steps]
    rows = [row for row in rows if row]  # a pool has no variables
    heights = [max(conv.kernel[0] for conv in row) for row in rows]
    windows = [height for height in heights if height > 1] or [1]
    name = f"branch{windows[0]}x{windows[0]}"
    if len(rows) < len(steps):
        name = "branch_pool"
    elif len(windows) == 2:
        name += "dbl" if windows[0] == windows[1] else f"x{windows[1]}"
    return [
        (conv, name + (f"_{number}" if len(rows) > 1 else "") + (letter if len(row) > 1 else ""))
        for number, row in enumerate(rows, 1)
        for conv, letter in zip(row, "ab", strict=False)
    ]


# ----------------------------------------------------------------------------------------------------- reading


def recognises_names(path: Path, *, of_2015: bool) -> bool:
    """Whether the file is a state dict with most names of the network of 2015, or else of another Inception V3.

    Never raises.

    A few names may be missing or unknown: reading the file reports them. Only the network of 2015 has 1,008 classes and
    no auxiliary head.
    """
    shapes = peek_shapes(path) or {}
    names = state_names(aux=True)
    if "fc.weight" not in shapes or len(shapes.keys() & names.keys()) <= len(names) // 2:
        return False
    return of_2015 == (shapes["fc.weight"][:1] == (1008,) and not has_aux(shapes))


def has_aux(tensors: Iterable[str]) -> bool:
    """Whether any of the names, theirs or ours, belongs to an auxiliary head."""
    return any(name.startswith("AuxLogits.") for name in tensors)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], bool, int]:
    """Read a file's tensors under our names and in our shapes.

    Returns the tensors, float64 if all are in the file and float32 otherwise; whether there is an auxiliary head;
    and the number of classes.

    Raises InputError: the file is damaged, contains code or holds another network; or, with its name, a variable is
    missing, unknown, of another shape or not finite.
    """
    theirs = load_state_dict(path)
    aux = has_aux(theirs)
    _check_names(path, theirs, state_names(aux))
    num_classes = max(theirs["fc.bias"].numel(), 1)
    dtype = torch.float64 if all(tensor.dtype == torch.float64 for tensor in theirs.values()) else torch.float32
    tensors: dict[str, Tensor] = {}
    for name, (our_name, shape) in _tensors(aux, num_classes).items():
        if tuple(theirs[name].shape) != shape:
            raise InputError(
                f"{path}: {name} has shape {tuple(theirs[name].shape)}, but in Inception V3 it has {shape}; "
                "give weights of the published network"
            )
        tensor = theirs[name].to(dtype)
        if not all_finite(tensor):
            raise InputError(f"{path}: {name} holds NaN or infinity; the file is damaged, download or save it again")
        tensors[our_name] = tensor[:, :, None, None] if name.endswith("fc.weight") else tensor
    return tensors, aux, num_classes


def _check_names(path: Path, tensors: dict[str, Tensor], names: dict[str, str]) -> None:
    """Raise InputError if names are missing or unknown."""
    missing = [name for name in names if name not in tensors]
    unknown = [name for name in tensors if name not in names]
    if len(missing) > len(names) // 2:
        has = f"has {printable(unknown[0])[:100]} and " if unknown else ""
        raise InputError(f"{path}: not an Inception V3 (it {has}lacks {missing[0]}); give the weights of one")
    for fault, faulty in (("lacks", missing), ("has the unknown", unknown)):
        if faulty:
            more = f" and {len(faulty) - 1} more" if len(faulty) > 1 else ""
            name = printable(faulty[0])[:100]
            raise InputError(f"{path}: {fault} {name}{more}; save the whole model.state_dict() again")


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
    for name, (our_name, shape) in _tensors(aux, weights.settings.num_classes).items():
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
    """Whether the file is a pickled state dict other than that of the 2015 graph. (timm's are recognised first.)"""
    return recognises_names(path, of_2015=False) and not is_safetensors(path)


def read(path: Path, preprocessing: Preprocessing = PREPROCESSING) -> Weights:
    """Read the state dict. Raises InputError, naming the file and the variable: damaged, with code, another network."""
    tensors, aux, num_classes = read_tensors(path)
    settings = Settings(
        num_classes=num_classes, create_aux_logits=aux, batch_norm_scale=True, count_padding=True, global_pool=True
    )
    return Weights(tensors, settings, preprocessing, default_class_names(num_classes))


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
    write=write,
    differences=differences,
    suffixes=(".pth", ".pt"),
    forbidden_suffixes=(".safetensors",),
    program=Program("torchvision"),
)
