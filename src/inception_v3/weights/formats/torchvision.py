"""torchvision's inception_v3: the state dict of torchvision/models/inception.py, with and without AuxLogits.

The network has gammas, counts the padding in its average pools, and averages the last map whatever its size.
torchvision normalises images by ImageNet's mean and std, and the network's `transform_input` turns that exactly back
into [-1, 1]. So the weights are for (pixel / 255 - 0.5) / 0.5, after the shorter side is resized to 342 pixels,
bilinear and antialiased (the preset ImageClassification(crop_size=299, resize_size=342)).
"""

from pathlib import Path

from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.settings import GRAPH_2015, Settings
from inception_v3.weights.formats import torchvision_names
from inception_v3.weights.formats.base import WritableFormat
from inception_v3.weights.formats.state_dict_file import is_safetensors
from inception_v3.weights.formats.weights import Weights, default_class_names, differences_from
from inception_v3.weights.programs.program import Program

PREPROCESSING = Preprocessing.named("torchvision")


def recognises(path: Path) -> bool:
    """Whether the file is a pickled state dict other than that of the 2015 graph. (timm's are recognised first.)"""
    return torchvision_names.recognises(path, of_2015=False) and not is_safetensors(path)


def read(path: Path, preprocessing: Preprocessing = PREPROCESSING) -> Weights:
    """Read the state dict. Raises InputError, naming the file and the variable: damaged, with code, another network."""
    tensors, aux, num_classes = torchvision_names.read_tensors(path)
    settings = Settings(
        num_classes=num_classes, create_aux_logits=aux, batch_norm_scale=True, count_padding=True, global_pool=True
    )
    return Weights(tensors, settings, preprocessing, default_class_names(num_classes))


def write(weights: Weights, path: Path) -> None:
    """Write with torch.save. An auxiliary head that does not fit is left out, as with torchvision's aux_logits=False.

    Raises InputError: other widths, a cut network, a full disk.
    """
    torchvision_names.save(path, weights, torchvision_names.can_hold_aux(weights))


def differences(weights: Weights) -> list[str]:
    """List the reasons why torchvision and timm would compute other outputs from images in [-1, 1].

    Resizing is left to their users.
    """
    settings = weights.settings
    reasons = differences_from(weights, count_padding=True)
    aux = torchvision_names.can_hold_aux(weights)
    if torchvision_names.has_aux(weights.tensors) and not aux:
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
    program=Program("torchvision", "run_torchvision"),
)
