"""Open PyTorch's files of weights without trusting them: torch.save's, TorchScript's, safetensors, and their shards."""

import mmap
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.support.files import path_for_library
from inception_v3.support.json_values import read_json
from inception_v3.support.system_errors import is_file, why_missing
from inception_v3.support.text import one_line
from inception_v3.weights.formats.kinds import is_safetensors_start
from inception_v3.weights.formats.pickled import PickleError
from inception_v3.weights.formats.torch_file import (
    Storage,
    StoredTensor,
    TorchFile,
    is_torch_file,
    map_file,
    open_torch_file,
    read_tensor,
)
from inception_v3.weights.formats.weights import FLOATS

INDEX = ".index.json"  # the end of the name of a file that lists the shards of a state dict
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # of safetensors


@dataclass
class StateDictFile:
    """The objects of a file, and a function that reads a tensor among them."""

    path: Path
    root: Any
    read_stored: Callable[[StoredTensor], Tensor]
    is_script: bool = False

    def read(self, name: str, tensor: StoredTensor) -> Tensor:
        """Read a tensor of floats, mapped into memory where possible. Raises InputError, naming it."""
        if tensor.dtype not in [str(dtype).removeprefix("torch.") for dtype in FLOATS]:
            raise InputError(
                f"{self.path}: {one_line(name)} is torch.{one_line(tensor.dtype)}, not floats; save it as torch.float32"
            )
        try:
            return self.read_stored(tensor)
        except (PickleError, SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise unreadable(self.path, error) from error


def unreadable(path: Path, error: Exception) -> InputError:
    """The error for a file that cannot be read."""
    kind = type(error).__name__
    fault = f"{kind}: {error}" if isinstance(error, SafetensorError | PickleError | zipfile.BadZipFile) else kind
    return InputError(f"{path}: cannot be read ({one_line(fault)}): damaged, or not a state dict; save it again")


def is_safetensors(path: Path) -> bool:
    """Whether the file starts with the length of a JSON header, or is an index of such files. Never raises."""
    if is_index(path):
        return path.name.endswith(f".safetensors{INDEX}")
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError:
        return False
    return is_safetensors_start(start)


def is_pickled(path: Path) -> bool:
    """Whether the file is of torch.save, TorchScript or torch.export, or an index of such files. Never raises."""
    return path.name.endswith(f".bin{INDEX}") or is_torch_file(path)


def is_index(path: Path) -> bool:
    """Whether the file is the index of a state dict in several shards, by its name."""
    return path.name.endswith(INDEX) and path.is_file()


def open_file(path: Path, verify: bool = True) -> StateDictFile:
    """Open a file in one of the forms, judging by the content. `verify` tests the checksums of a zip.

    Raises InputError: no such file, damaged, or a form whose tensors have no names.
    """
    if not is_file(path):
        raise InputError(f"{path}: {why_missing(path, 'there is no such file; check the path')}")
    try:
        if is_index(path):
            return _open_shards(path, verify)
        if is_safetensors(path):
            return _open_safetensors(path)
        file = open_torch_file(path)
        if verify and zipfile.is_zipfile(path):
            _verify(path)
        return StateDictFile(path, file.root, _Values(file).read, file.is_script)
    except (
        PickleError, SafetensorError, zipfile.BadZipFile, OSError, ValueError, RecursionError, NotImplementedError
    ) as error:  # fmt: skip
        raise unreadable(path, error) from error


class _Values:
    """The values of a torch file, mapped into memory when the first tensor is read."""

    def __init__(self, file: TorchFile) -> None:
        self.file = file

    @cached_property
    def content(self) -> mmap.mmap:
        return map_file(self.file.path)

    def read(self, tensor: StoredTensor) -> Tensor:
        return read_tensor(self.file, self.content, tensor)


def _verify(path: Path) -> None:
    """Raise BadZipFile for a wrong checksum, which torch does not test. Some files have zeros for all checksums."""
    with zipfile.ZipFile(path) as archive:
        stored = [record for record in archive.infolist() if record.compress_type == zipfile.ZIP_STORED]
        for record in stored if any(record.CRC for record in stored) else ():
            with archive.open(record) as content:
                while content.read(1 << 20):
                    pass


def _open_safetensors(path: Path) -> StateDictFile:
    with path_for_library(path) as file:
        opened: Any = safe_open(file, "pt")
    root = {}
    for name in opened.keys():  # noqa: SIM118
        part = opened.get_slice(name)
        dtype = DTYPES.get(part.get_dtype(), str(part.get_dtype()))
        storage = Storage(f"{path}:{name}", dtype, 0, 0)
        root[name] = StoredTensor(storage, dtype, tuple(part.get_shape()), (), 0)
    names = {id(tensor): name for name, tensor in root.items()}
    return StateDictFile(path, root, lambda tensor: opened.get_tensor(names[id(tensor)]))


def _open_shards(path: Path, verify: bool) -> StateDictFile:
    """Open the files that `weight_map` of an index names. They are in its folder."""
    shards = read_json(path, dict).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(file, str) for file in shards.values()):
        raise InputError(f"{path}: has no weight_map, which names the file of each tensor; save the model again")
    root: dict[str, Any] = {}
    files: dict[int, StateDictFile] = {}
    for file in dict.fromkeys(shards.values()):
        if Path(file).name != file or is_index(Path(file)):
            raise InputError(f"{path}: names {one_line(file)}, which is not a file beside it; save the model again")
        shard = open_file(path.parent / file, verify)
        root |= shard.root if isinstance(shard.root, dict) else {}
        files |= {id(tensor): shard for tensor in root.values() if id(tensor) not in files}
    if missing := [name for name in shards if name not in root]:
        raise InputError(f"{path}: {one_line(missing[0])} is not in {one_line(shards[missing[0]])}; copy both again")
    return StateDictFile(path, root, lambda tensor: files[id(tensor)].read_stored(tensor))
