"""Find the checkpoint of TensorFlow 1 that a folder or a file beside it stands for. Nothing here needs PyTorch."""

import re
from contextlib import suppress
from pathlib import Path

from inception_v3.errors import InputError
from inception_v3.support.system_errors import is_file, is_folder, list_folder
from inception_v3.weights import SAVED_MODEL_FILE
from inception_v3.weights.formats import tensorflow_checkpoint
from inception_v3.weights.formats.tf_slim_names import find_networks

LIST = "checkpoint"  # the file in which TensorFlow lists the checkpoints of a folder, the newest first
MAX_LIST = 1 << 20  # bytes
VARIABLES = Path("variables", "variables")  # the checkpoint below the folder of a SavedModel


def find_checkpoint(path: Path) -> Path | None:
    """The checkpoint that `path` stands for; None if it stands for no other file.

    `path` is a training folder, the list in it, the `.meta` file of a checkpoint, or the folder of a SavedModel of
    TF-Slim's network, such as a TF1 module of TensorFlow Hub.

    Raises InputError: the list names a checkpoint that is missing.
    """
    if path.name == SAVED_MODEL_FILE:
        path = path.parent
    if is_folder(path):
        if is_file(path / SAVED_MODEL_FILE):
            return path / VARIABLES if _holds_slim(path / VARIABLES) else None
        return _find_listed(path / LIST) or _find_newest(path)
    if path.name == LIST:
        return _find_listed(path)
    prefix = path.with_suffix("")
    return prefix if path.suffix == ".meta" and tensorflow_checkpoint.recognises(prefix) else None


def _holds_slim(prefix: Path) -> bool:
    with suppress(InputError):
        return bool(find_networks(tensorflow_checkpoint.list_variables(prefix)))
    return False


def _find_listed(path: Path) -> Path | None:
    """The newest checkpoint in a list. Its folder may have been moved, so only the last part of its path counts."""
    with suppress(OSError):
        text = path.read_bytes() if is_file(path) and path.stat().st_size <= MAX_LIST else b""
        listed = re.search(rb'^\s*model_checkpoint_path\s*:\s*"((?:[^"\\]|\\.)+)"', text, re.MULTILINE)
        if listed:
            name = listed[1].decode("unicode_escape").encode("latin-1", "ignore").decode("utf-8", "replace")
            newest = path.with_name(re.split(r"[/\\]", name)[-1] or LIST)
            if tensorflow_checkpoint.recognises(newest):
                return newest
            others = _prefixes(path.parent)
            remedy = f"; or give another checkpoint: {others[-1]}" if others else ""
            raise InputError(f"{path}: names {newest.name}, which is missing; put its files beside this one{remedy}")
    return None


def _find_newest(folder: Path) -> Path | None:
    """The checkpoint with the highest step in a folder, if its checkpoints are those of one training."""
    prefixes = _prefixes(folder)
    trainings = {re.sub(r"-\d+$", "", prefix.name) for prefix in prefixes}
    return prefixes[-1] if len(trainings) == 1 else None


def _prefixes(folder: Path) -> list[Path]:
    """The checkpoints in a folder, in order of their steps."""
    prefixes = [each.with_suffix("") for each in list_folder(folder) if each.suffix == ".index"]
    return sorted(prefixes, key=lambda prefix: (_step(prefix), prefix.name))


def _step(prefix: Path) -> int:
    return int((re.search(r"-(\d{1,18})$", prefix.name) or ["", "-1"])[1])
