"""`load` and `save`: models on disk, in every published form of Inception V3."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from inception_v3.errors import InputError
from inception_v3.support.arguments import checked
from inception_v3.support.devices import as_device
from inception_v3.weights.facts import Facts
from inception_v3.weights.formats.registry import find_writer
from inception_v3.weights.model import InceptionV3, check_options
from inception_v3.weights.read import read_weights

FACTS = [field.name for field in fields(Facts)]


@checked
def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    *,
    format: str | None = None,
    partial: bool = False,
    weights_file: str | Path | None = None,
    state: str | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    class_names: list[str] | None = None,
    transform_input: bool | None = None,
    **options: Any,
) -> InceptionV3:
    """Load a model, in evaluation mode, from a run folder, a file of any format, or a published name.

    Args:
        path: a path, or a name such as `torchvision:IMAGENET1K_V1` or `hf:owner/name` (weights/published.py). A name
            is downloaded once.
        device: where to put the model.
        format: the format of the file. By default it is recognised from the content.
        partial: keep the initial values of variables that are missing from the file and ignore unknown ones. A
            warning lists both.
        weights_file: a file to use instead of downloading a published name. The name still determines how the file is
            read and used.
        state: the key of one of several networks in a file of PyTorch, such as `model_ema`. By default it is the only
            one, or the only moving average, with a warning.
        mean, std: of the images that the network reads, for pixels scaled to [0, 1]. By default they are those of the
            file, or assumed with a warning.
        class_names: the names of the classes in the order of the outputs.
        transform_input: True if the network gets images with that mean and std, by default ImageNet's, and transforms
            them as torchvision's transform_input does; False if they are its inputs.
        options: options of InceptionV3 that replace the stored ones, such as `global_pool=True`. A different
            `num_classes` keeps everything except the two final layers, which are initialised with a warning.

    Raises:
        TypeError, ValueError: an argument of the wrong type, no such device, or an option that no model has. For an
            option, the exception is also an InputError.
        InputError: naming the file and the remedy: a missing or damaged file, another program's file, variables that
            do not fit the options, an unknown name, or a failed download.
    """
    check_options(path, options)
    device = as_device(device)
    facts = Facts(mean, std, class_names, transform_input)
    weights, origin = read_weights(path, format, weights_file, state)
    return InceptionV3.from_weights(weights, origin, partial=partial, facts=facts, **options).to(device)


def load_unstated(
    path: str | Path, device: str | torch.device, facts: Mapping[str, Any]
) -> tuple[InceptionV3, list[str]]:
    """Load a model with those of the `facts`, options of `load`, that its file does not state; and their names.

    `state` is used if the file has a network of that key. Raises InputError like `load`.
    """
    facts, state = dict(facts), facts.get("state")
    facts.pop("state", None)
    if state is not None:
        try:
            weights, origin = read_weights(path, state=state)
        except InputError as error:
            if error.exit_status != 2:
                raise
            state = None
    if state is None:
        weights, origin = read_weights(path)
    lacking = {*weights.assumed, *weights.undetermined} | ({"class_names"} if weights.class_names is None else set())
    lacking |= {"std", "transform_input"} if "mean" in lacking else set()
    used = {name: value for name, value in facts.items() if name in lacking}
    stated = {name: used.pop(name) for name in FACTS if name in used}
    check_options(path, used)
    model = InceptionV3.from_weights(weights, origin, facts=Facts(**stated), **used).to(as_device(device))
    return model, [*(["state"] if state is not None else []), *(name for name in facts if name in lacking)]


@checked
def save(
    model: InceptionV3,
    path: str | Path,
    format: str = "native",
    *,
    allow_difference: bool = False,
    training: dict[str, Any] | None = None,
) -> None:
    """Write the model to `path`. An existing file is replaced atomically.

    The native format holds all settings, class names, the preprocessing, and `training`. The other formats hold the
    weights under the names of their program. If that program would compute other outputs from them, `save` refuses and
    lists the reasons, unless `allow_difference` is set.

    Raises:
        TypeError: an argument of the wrong type.
        InputError: other outputs (see above), an unknown format, a full disk, a path that cannot be written.
    """
    path = Path(path)
    writer = find_writer(format)
    weights = model.to_weights(training)
    reasons = writer.differences(weights)
    if reasons and not allow_difference:
        raise InputError(f"{path}: {format} would compute other values: {'; '.join(reasons)}")
    writer.write(weights, path)
