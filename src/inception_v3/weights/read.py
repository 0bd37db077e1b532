"""Read weights from a path or a published name: find the file, recognise its format, read it."""

import glob
import os
import re
import shlex
import warnings
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from inception_v3.errors import InputError
from inception_v3.support.files import checksum
from inception_v3.support.system_errors import check_readable, file_status, is_folder
from inception_v3.support.text import printable
from inception_v3.weights import BEST_FILE, MODEL_FILE, SAVED_MODEL_FILE
from inception_v3.weights.facts import names_beside
from inception_v3.weights.formats import native
from inception_v3.weights.formats.registry import find_format, recognise
from inception_v3.weights.formats.weights import Weights
from inception_v3.weights.published import WEIGHTS, Hub, Web, WeightsSource, find_published
from inception_v3.weights.wordnet import names_of_ids

MLFLOW_FILE = "data/model.pth"  # in a folder of mlflow.pytorch.save_model

CHECKPOINT_SUFFIXES = ("", ".meta", ".pb")  # of the files beside a checkpoint that stand for it


@dataclass(frozen=True)
class Origin:
    """Where a model was loaded from: the path or name that was given, the file behind it, and its format.

    `training` holds what the file records about its training.
    """

    name: str
    file: Path
    format: str
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def first(self) -> str:
        """Where the weights came from before this project first saved them, or else this origin's name or file."""
        name = public_name(self.name if _is_published(self.name) else self.file)
        return str(self.training.get("origin") or f"{name} ({self.format})")


def public_name(model: str | Path) -> str:
    """The name of a model to show others: a published name, or the last part of a path, which hides the user's folders.

    The files of run folders have the same names, so theirs is shown with the folder: pets/best.safetensors.
    """
    if _is_published(str(model)):
        return str(model)
    path = Path(os.path.realpath(model))
    if path.name == path.parent.name == "variables":  # the checkpoint in a SavedModel
        path = path.parent.parent
    in_run_folder = path.name in (MODEL_FILE, BEST_FILE, SAVED_MODEL_FILE) and path.parent.name
    return printable(f"{path.parent.name}/{path.name}" if in_run_folder else path.name or path)


def _is_published(name: str) -> bool:
    """Whether a name starts with letters and a colon, such as hf:owner/name."""
    return re.match("[a-z][a-z0-9-]+:", name) is not None


def base_of(origin: Origin) -> dict[str, Any]:
    """The name and the SHA-256 of weights that a training starts from; None if their file has been deleted."""
    with suppress(FileNotFoundError):
        return {"name": origin.first, "sha256": checksum(origin.file)}
    return {"name": origin.first, "sha256": None}


def read_weights(
    path: str | Path,
    format: str | None = None,
    weights_file: str | Path | None = None,
    state: str | None = None,
) -> tuple[Weights, Origin]:
    """Read the weights of a run folder, a file of any format, or a published name, and their origin.

    `weights_file` is a file to use instead of downloading a published name. `format` names the format of the file
    instead of recognising it. `state` is the key of one of several networks in a file.

    Raises InputError, naming the file and the remedy: no such file, a damaged file, another program's file, an unknown
    name, or a failed download.
    """
    published = find_named(path, weights_file)
    if published is not None:
        local_file = None if weights_file is None else find_file(weights_file)
        with published.open(str(path), local_file) as source:
            weights, origin = read_source(str(path), source, format, state)
        return weights, replace(origin, file=local_file or origin.file)  # not a file extracted from an archive for now
    return read_source(str(path), WeightsSource(find_file(path)), format, state)


def find_named(path: str | Path, weights_file: str | Path | None) -> Web | Hub | None:
    """The published weights of a name, None for a path. Raises InputError: an unknown name, or a file for a path."""
    published = find_published(str(path))
    if published is None and weights_file is not None:
        raise InputError(
            f"{path}: not a published name, so --weights-file cannot replace its download; give the file itself",
            exit_status=2,
        )
    return published


def peek(path: str | Path, weights_file: str | Path | None = None) -> tuple[Path | None, list[str] | None]:
    """The file of a model, and its class names, as far as both are known without reading weights or downloading.

    The arguments are those of `read_weights`. Raises InputError: no such file.
    """
    is_published = find_published(str(path)) is not None
    file = weights_file if is_published else path
    if file is None:
        return None, None
    file = find_file(file)
    if next(file.parent.glob(f"{glob.escape(file.name)}.*"), None) is None:  # else it is a checkpoint's name
        check_readable(file)
    return file, None if is_published else native.read_class_names(file)


def read_source(
    name: str, source: WeightsSource, format: str | None = None, state: str | None = None
) -> tuple[Weights, Origin]:
    """Read the weights of a file that has already been found. Raises InputError like `read_weights`.

    A message about the content of the file ends with the command that shows it.
    """
    if file_status(source.file) is not None:
        check_readable(source.file)
    try:
        return read_found(name, source, format, state)
    except InputError as error:
        if error.exit_status != 1 or file_status(source.file) is None:
            raise
        raise InputError(f"{error}{hint(source.file)}", exit_status=error.exit_status) from error


def hint(file: Path) -> str:
    """The end of a message about a file that was refused."""
    return f"; `inception-v3 inspect {shlex.quote(str(file))}` shows what it holds"


def read_found(
    name: str, source: WeightsSource, format: str | None = None, state: str | None = None
) -> tuple[Weights, Origin]:
    """Read the weights of a file that exists. Raises InputError with the reason of its format only."""
    file, format = source.file, format or source.format
    known = find_format(format) if format else recognise(file)
    if state is not None and known.read_state is None:
        fault = f"{file} is a {known.name} file, which holds one network; leave it out"
        raise InputError(f"--state {printable(state)}: {fault}", exit_status=2)
    weights = known.read_state(file, state) if known.read_state and state is not None else known.read(file)
    if source.mean_std is not None:
        mean, std = source.mean_std
        weights = replace(weights, preprocessing=replace(weights.preprocessing, mean=mean, std=std))
    if source.format is not None:  # a published model, of which all is known
        weights = replace(weights, assumed={})
    elif known.name != native.FORMAT.name:
        weights = _with_names_beside(weights, file)
    return weights, Origin(name, file, known.name, weights.training)


def _with_names_beside(weights: Weights, file: Path) -> Weights:
    """Give weights without class names of their own those in a file beside them. Warns of a file that does not fit."""
    is_named = weights.class_names is not None and "class_names" not in weights.assumed
    if is_named or weights.settings.final_endpoint:
        return weights
    try:
        found = names_beside(file.parent)
    except InputError as error:
        warnings.warn(f"{file}: the class names beside it are not used: {error}", stacklevel=2)
        return weights
    if found is None:
        return weights
    names, name = found
    if len(names) != (count := weights.settings.class_count):
        warnings.warn(f"{file}: {name} beside it has {len(names)} names for {count} classes; not used", stacklevel=2)
        return weights
    assumed = {fact: line for fact, line in weights.assumed.items() if fact != "class_names"}
    sources = weights.sources | {"class_names": f"{name} beside it"}
    return replace(weights, class_names=names_of_ids(names), assumed=assumed, sources=sources)


def find_file(path: str | Path) -> Path:
    """Return the model's file in a folder of a run, huggingface_hub or MLflow; or `path` if it is not a folder.

    The file may be the index of a model in several shards, or the prefix of a TensorFlow checkpoint.

    Raises InputError: a folder without a model.
    """
    path = Path(path)
    if path.suffix == ".distcp" or path.name == ".metadata":
        raise _distributed_error(path, path.parent)
    if not is_folder(path):
        return _find_checkpoint(path) or path
    from inception_v3.weights.formats import tensorflowjs
    from inception_v3.weights.formats.kinds import identify

    for name in (*WEIGHTS, *(f"{name}.index.json" for name in WEIGHTS), tensorflowjs.FILE, MLFLOW_FILE):
        if file_status(path / name) is not None:
            return path / name
    if checkpoint := _find_checkpoint(path):
        return checkpoint
    if file_status(path / SAVED_MODEL_FILE) is not None:
        return path / SAVED_MODEL_FILE
    for metadata in (path / ".metadata", *path.glob("*/.metadata")):
        if metadata.exists():
            raise _distributed_error(path, metadata.parent)
    if reason := identify(path).refusal:
        raise InputError(f"{path}: {reason}")
    raise InputError(f"{path / MODEL_FILE}: there is no such file; no training has finished an epoch there yet")


def _find_checkpoint(path: Path) -> Path | None:
    """The checkpoint of TensorFlow that a path stands for, if any. Raises InputError: it is missing."""
    if not is_folder(path) and path.suffix not in CHECKPOINT_SUFFIXES:
        return None  # without an import that takes time
    from inception_v3.weights.formats.tensorflow_folder import find_checkpoint

    try:
        return find_checkpoint(path)
    except InputError as error:
        raise InputError(f"{error}{hint(path)}") from error


def _distributed_error(path: Path, folder: Path) -> InputError:
    """The error for a checkpoint of torch.distributed, a folder of .distcp files."""
    return InputError(
        f"{path}: a distributed checkpoint; turn it into one file: python -m "
        f"torch.distributed.checkpoint.format_utils dcp_to_torch {shlex.quote(str(folder))} model.pth"
    )
