"""Models on disk: one safetensors file that holds everything needed to use it again.

The tensors bear the names of `state_dict()`. The file's metadata says which program wrote it and holds, as
JSON: `settings` (the options of InceptionV3), `preprocessing`, `class_names`, and `training` (how it came to
be). safetensors keeps tensors apart from code, is checked against the file's size before memory is taken,
and can be mapped instead of read.
"""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.files import replacing
from inception_v3.formats import tensorflow_checkpoint, tf_slim
from inception_v3.network import InceptionV3
from inception_v3.preprocessing import Preprocessing

MODEL_FILE = "model.safetensors"  # of a run folder
FORMAT = "inception_v3"
VERSION = "1"


def save(model: InceptionV3, path: str | Path, training: dict[str, Any] | None = None) -> None:
    """Write the model with all its settings to `path`; a file already there is replaced at once or not at all.

    Raises InputError where the disk is full or the place cannot be written.
    """
    path = Path(path)
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "settings": json.dumps(model.settings),
        "preprocessing": json.dumps(asdict(model.preprocessing)),
        "class_names": json.dumps(model.class_names),
        "training": json.dumps(training or {}),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata)


def load(path: str | Path, device: str | torch.device = "cpu", **options: Any) -> InceptionV3:
    """A model ready to use, in inference mode, from a run folder, a file of `save`, or a TF-Slim checkpoint.

    What the file is, its content says and not its name. `options` are those of InceptionV3 and replace the
    stored ones, such as `global_pool=True`.

    Raises InputError, naming the file and the remedy: no such file, damaged, from another program, or with
    variables that do not fit the options.
    """
    path = Path(path)
    file = path / MODEL_FILE if path.is_dir() else path
    if tensorflow_checkpoint.recognise(file):
        return _build(file, *tf_slim.read(file), options).to(device)
    if not file.exists():
        hint = "no training has finished an epoch there yet" if path.is_dir() else "check the path"
        raise InputError(f"{file}: there is no such file; {hint}")
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InputError(
            f"{file}: not a model that can be read here ({reason}); give a run folder, a model.safetensors "
            "or a TF-Slim checkpoint"
        ) from error
    if metadata.get("format") != FORMAT:
        raise InputError(f"{file}: a safetensors file of another program; give one that inception-v3 wrote")
    if metadata.get("version") != VERSION:
        raise InputError(f"{file}: written by a newer inception-v3; update this one")
    settings, preprocessing, class_names = _parse(file, metadata)
    model = _build(file, tensors, settings, options)
    model.preprocessing = preprocessing
    model.class_names = class_names
    return model.to(device)


def _parse(file: Path, metadata: dict[str, str]) -> tuple[dict[str, Any], Preprocessing, list[str] | None]:
    try:
        settings = json.loads(metadata["settings"])
        stored = json.loads(metadata["preprocessing"])
        known = {field.name for field in fields(Preprocessing)}
        if not stored.keys() <= known:
            raise ValueError(f"unknown preprocessing {sorted(stored.keys() - known)}")
        preprocessing = Preprocessing(**{key: _tuple(value) for key, value in stored.items()})
        class_names = json.loads(metadata["class_names"])
        settings["image_size"] = _tuple(settings["image_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file}: its settings cannot be read ({error}); the file is damaged") from error
    return settings, preprocessing, class_names


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _build(file: Path, tensors: dict[str, Tensor], settings: dict[str, Any], options: dict[str, Any]) -> InceptionV3:
    """Put `tensors` into a network of these settings without allocating or drawing weights first."""
    try:
        with torch.device("meta"):
            model = InceptionV3(**settings | options)
    except (TypeError, ValueError) as error:
        raise InputError(f"{file}: no network with such options ({error})") from error
    expected = model.state_dict()
    missing = [name for name in expected if name not in tensors]
    extra = [name for name in tensors if name not in expected]
    if missing or extra:
        wrong = f"lacks {missing[0]}" if missing else f"has {extra[0]}, which this network has not"
        more = len(missing) + len(extra) - 1
        raise InputError(f"{file}: {wrong}{f' and {more} more differ' if more else ''}; load it with its own options")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"{file}: {name} has shape {tuple(tensor.shape)} where these options need "
                f"{tuple(expected[name].shape)}; load it with its own options"
            )
    model.load_state_dict(tensors, assign=True)
    return model.eval()
