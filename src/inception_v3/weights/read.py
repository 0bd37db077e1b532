"""From a path or a published name to its weights: find the file, recognise its format, read it."""

import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from inception_v3.errors import InputError
from inception_v3.weights import published
from inception_v3.weights.formats.registry import find_format, recognise
from inception_v3.weights.formats.weights import Weights
from inception_v3.weights.published import WeightsSource

MODEL_FILE = "model.safetensors"  # of a run folder


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
        """Where the weights came from before this project saved them, or else where they were loaded from now."""
        is_published = re.match("[a-z]{2,}:", self.name)
        name = self.name if is_published else self.file.name  # a path says something about the user's own disk
        return str(self.training.get("origin") or f"{name} ({self.format})")


def read_weights(
    path: str | Path, format: str | None = None, weights_file: str | Path | None = None
) -> tuple[Weights, Origin]:
    """Read the weights of a run folder, a file of any format, or a published name, and say where they came from.

    `weights_file` is a file to use instead of downloading a published name. `format` names the format of the file
    instead of recognising it.

    Raises InputError, naming the file and the remedy: no such file, damaged, of another program; no such name, or it
    cannot be downloaded.
    """
    named = published.find(str(path))
    opened: AbstractContextManager[WeightsSource]
    if named is not None:
        opened = named.opened(str(path), None if weights_file is None else find_file(weights_file))
    elif weights_file is None:
        opened = nullcontext(WeightsSource(find_file(path)))
    else:
        raise InputError(
            f"{path}: not a published name, so --weights-file cannot replace its download; give the file itself",
            exit_status=2,
        )
    with opened as source:
        return read_source(str(path), source, format)


def read_source(name: str, source: WeightsSource, format: str | None = None) -> tuple[Weights, Origin]:
    """`read_weights` for a file that has already been found. Raises InputError as it does."""
    file, format = source.file, format or source.format
    known = find_format(format) if format else recognise(file)
    weights = known.read(file)
    if source.scaling is not None:
        mean, std = source.scaling
        weights = replace(weights, preprocessing=replace(weights.preprocessing, mean=mean, std=std))
    return weights, Origin(name, file, known.name, weights.training)


def find_file(path: str | Path) -> Path:
    """The file that `load` reads: for a run folder or a folder laid out as the Hugging Face hub does, its model.

    Raises InputError: a folder without one.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    for name in published.WEIGHTS:
        if (path / name).exists():
            return path / name
    raise InputError(f"{path / MODEL_FILE}: there is no such file; no training has finished an epoch there yet")
