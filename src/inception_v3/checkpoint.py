"""Models on disk: `load` reads every published form of Inception V3, `save` writes them.

What a file is, its content says and not its name. formats/ has a file for each form.
"""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from inception_v3 import published
from inception_v3.errors import InputError
from inception_v3.formats.weights import FLOATS, Weights, all_finite, convolutions, state_name
from inception_v3.network import InceptionV3, Origin
from inception_v3.published import Source

MODEL_FILE = "model.safetensors"  # of a run folder
HEADS = tuple(f"{state_name(layer)}." for layer in convolutions() if not layer.normalized)  # sized by num_classes

# In this order files are asked for, the most particular first: the module in formats/ for each name.
MODULES = {
    "native": "native",
    "tf-slim": "tf_slim",
    "keras": "keras",
    "graphdef-2015": "graph_def",
    "fid-2015": "fid_2015",
    "timm": "timm",
    "torchvision": "torchvision",
}


class Format(Protocol):
    """What each module in formats/ has."""

    NAME: str
    recognise: Callable[[Path], bool]
    read: Callable[[Path], Weights]


class Writer(Format, Protocol):
    """What those have too that are written; `differences` are why their program would compute other numbers."""

    write: Callable[[InceptionV3, Path], None]
    differences: Callable[[InceptionV3], list[str]]


def find_format(name: str) -> Format:
    """The format of that name. Raises InputError, listing them."""
    if name not in MODULES:
        raise InputError(f"no format {name!r}; there are {', '.join(MODULES)}", exit_status=2)
    return cast(Format, import_module(f"inception_v3.formats.{MODULES[name]}"))


def find_writer(name: str) -> Writer:
    """The format of that name, to write. Raises InputError, listing them; or for one that is only read."""
    found = find_format(name)
    if not hasattr(found, "write"):
        raise InputError(f"{name} is only read here; write fid-2015, which holds the same network", exit_status=2)
    return cast(Writer, found)


def recognise(file: Path) -> Format:
    """The format of a file, by its content. Raises InputError: no such file, or nothing that is known."""
    for name in MODULES:
        known = find_format(name)
        if known.recognise(file):
            return known
    if not file.exists():
        raise InputError(f"{file}: there is no such file; check the path")
    raise InputError(
        f"{file}: not a model that can be read here (damaged, or of another program); give a run folder, a "
        "model.safetensors or a TF-Slim checkpoint"
    )


def save(
    model: InceptionV3,
    path: str | Path,
    format: str = "native",
    *,
    allow_difference: bool = False,
    training: dict[str, Any] | None = None,
) -> None:
    """Write the model to `path`; what is already there is replaced at once or not at all.

    The native format holds all settings, class names and preprocessing. The others hold the weights as their
    program names them; where that program would compute other numbers from them, this is refused with the
    reasons, unless `allow_difference`.
    Raises InputError: that, no such format, a full disk, a place that cannot be written.
    """
    path = Path(path)
    chosen = find_writer(format)
    reasons = chosen.differences(model)
    if reasons and not allow_difference:
        raise InputError(f"{path}: {format} would give other numbers: {'; '.join(reasons)}")
    if training is not None and format == "native":
        from inception_v3.formats import native

        native.write(model, path, training)
    else:
        chosen.write(model, path)


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    *,
    format: str | None = None,
    partial: bool = False,
    weights_file: str | Path | None = None,
    **options: Any,
) -> InceptionV3:
    """A model ready to use, in inference mode, from a run folder, a file of any format, or a name.

    Names are those of published.py, such as `torchvision:IMAGENET1K_V1` and `hf:owner/name`: they are downloaded
    once. `weights_file` is a file to take in place of the download; the name still says how to read and use it.
    `format` names the format instead of recognising it. `options` are those of InceptionV3 and replace the
    stored ones, such as `global_pool=True`. Another `num_classes` keeps everything but the two final layers, and
    warns that those are new. With `partial`, variables that are missing stay at their initial values and unknown
    ones are left out, and a warning lists both.

    Raises InputError, naming the file and the remedy: no such file, damaged, from another program, or
    with variables that do not fit the options; no such name, or what it stands for cannot be downloaded.
    """
    named = published.find(str(path))
    opened: AbstractContextManager[Source]
    if named is not None:
        opened = named.opened(str(path), None if weights_file is None else find_file(weights_file))
    elif weights_file is None:
        opened = nullcontext(Source(find_file(path)))
    else:
        raise InputError(
            f"{path}: is no published name, which a weights file could stand in for; give the file itself",
            exit_status=2,
        )
    with opened as source:
        return load_source(str(path), source, device, format=format, partial=partial, **options)


def load_source(
    name: str,
    source: Source,
    device: str | torch.device = "cpu",
    *,
    format: str | None = None,
    partial: bool = False,
    **options: Any,
) -> InceptionV3:
    """`load`, where it is known which file `name` stands for."""
    file, told = source.file, format or source.format
    known = find_format(told) if told else recognise(file)
    weights = known.read(file)
    model = build(file, weights, options, partial)
    model.preprocessing = weights.preprocessing
    if source.scaling is not None:
        mean, std = source.scaling
        model.preprocessing = replace(model.preprocessing, mean=mean, std=std)
    names = weights.class_names
    model.class_names = names if names and len(names) == model.settings["num_classes"] else None
    model.origin = Origin(name, file, known.NAME, weights.training)
    return model.to(device)


def find_file(path: str | Path) -> Path:
    """The file that `load` reads: of a run folder, or one laid out as the hub does, its model."""
    path = Path(path)
    if not path.is_dir():
        return path
    for name in published.WEIGHTS:
        if (path / name).exists():
            return path / name
    raise InputError(f"{path / MODEL_FILE}: there is no such file; no training has finished an epoch there yet")


def build(file: Path, weights: Weights, options: dict[str, Any], partial: bool = False) -> InceptionV3:
    """Put the weights into a network of their settings, without drawing random ones first where all are there."""
    settings = weights.settings | options
    try:
        with torch.device("meta"):
            model = InceptionV3(**settings)
    except (TypeError, ValueError) as error:
        raise InputError(f"{file}: no network with such options ({error})") from error
    expected = model.state_dict()
    tensors = dict(weights.tensors)
    new_head = settings.get("num_classes") != weights.settings.get("num_classes")
    if new_head:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(HEADS)}
    missing = [name for name in expected if name not in tensors and not (new_head and name.startswith(HEADS))]
    extra = [name for name in tensors if name not in expected]
    if (missing or extra) and not partial:
        wrong = f"lacks {missing[0]}" if missing else f"has {extra[0]}, which this network has not"
        more = len(missing) + len(extra) - 1
        and_more = f" and {more} more differ" if more else ""
        raise InputError(f"{file}: {wrong}{and_more}; load it with its own options, or with partial=True")
    tensors = {name: tensor for name, tensor in tensors.items() if name in expected}
    _check(file, tensors, expected)
    dtype = _one_type(tensors)
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    if missing or new_head:
        model = InceptionV3(**settings).to(dtype)
    model.load_state_dict(tensors, strict=False, assign=True)
    if new_head:
        warnings.warn(f"{file}: the final layers are new, for {settings['num_classes']} classes", stacklevel=4)
    for what, names in (("not in the file, and new", missing), ("in the file, and left out", extra)):
        if names:
            warnings.warn(f"{file}: {what}: {', '.join(names)}", stacklevel=4)
    return model.eval()


def _one_type(tensors: dict[str, Tensor]) -> torch.dtype:
    """A network cannot run in a mixture of types, nor on pictures in half precision: the one that holds every value."""
    return reduce(torch.promote_types, {tensor.dtype for tensor in tensors.values()}, torch.float32)


def _check(file: Path, tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"{file}: {name} has shape {tuple(tensor.shape)} where these options need "
                f"{tuple(expected[name].shape)}; load it with its own options"
            )
        if tensor.dtype not in FLOATS:
            raise InputError(f"{file}: {name} holds {tensor.dtype}, not floats of 16 to 64 bits; save it as float32")
        if not all_finite(tensor):
            raise InputError(f"{file}: {name} holds values that are no finite numbers; the file is damaged")
