"""Read PyTorch's state dicts (.pth, .bin and .safetensors) without trusting the files."""

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from inception_v3.errors import InputError
from inception_v3.support.files import path_for_library
from inception_v3.support.system_errors import is_file, why_missing
from inception_v3.support.text import one_line, printable
from inception_v3.weights.formats.weights import FLOATS

COUNTER = "num_batches_tracked"  # of BatchNorm; PyTorch uses it only without a momentum, and all of these have one
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # in timm's order: averages first
PREFIXES = ("_orig_mod.", "module.", "_orig_mod.")  # torch.compile and DistributedDataParallel, in either order


def is_safetensors(path: Path) -> bool:
    """Whether the file starts with the length of a JSON header, as safetensors files do."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and not start.startswith(b"PK")


def peek_shapes(path: Path) -> dict[str, tuple[int, ...]] | None:
    """The shapes of a state dict by name, without reading its values; None for any other file. Never raises."""
    try:
        values = _read_values(path, verify=False)
    except Exception:  # torch's reader may raise anything
        return None
    return {name: tuple(getattr(value, "shape", ())) for name, value in values.items()}


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a state dict in either form, judging by the content; mapped into memory where possible.

    Wrappers such as {"state_dict": ...}, prefixes such as "module." and BatchNorm's counters are left out. No code
    in a pickle runs.

    Raises InputError: damaged, a pickle with code, or values that are not tensors of floats.
    """
    if not is_file(path):
        raise InputError(f"{path}: {why_missing(path, 'there is no such file; check the path')}")
    try:
        values = _read_values(path, verify=True)
    except InputError:
        raise
    except Exception as error:  # torch's reader may raise anything
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise InputError(
                f"{path}: cannot be read: it is truncated, or holds code ({code[1]}), which is not run; ask its author "
                "for the tensors only: torch.save(model.state_dict(), ...)"
            ) from error
        detail = f": {one_line(error, 100)}" if isinstance(error, SafetensorError) else ""
        raise InputError(
            f"{path}: cannot be read ({type(error).__name__}{detail}): damaged, or not a state dict; "
            "download or save it again"
        ) from error
    tensors = {name: value for name, value in values.items() if not name.endswith(COUNTER)}
    for key, value in tensors.items():
        name = printable(key)[:100]
        if not isinstance(value, Tensor) or value.device.type != "cpu" or value.layout != torch.strided:
            raise InputError(f"{path}: {name} is not a dense tensor; save model.state_dict() by itself")
        if value.dtype not in FLOATS:
            raise InputError(f"{path}: {name} is {value.dtype}, not floats; save it as torch.float32")
    return {name: value.detach() for name, value in tensors.items()}


def _read_values(path: Path, verify: bool) -> dict[str, Any]:
    """Everything in the file by name, without prefixes, mapped into memory where possible."""
    if is_safetensors(path):
        with path_for_library(path) as file:
            values = load_file(file)
    else:
        values = _unpickle(path, verify)
    for prefix in PREFIXES:
        if values and all(name.startswith(prefix) for name in values):
            values = {name.removeprefix(prefix): value for name, value in values.items()}
    return values


def _unpickle(path: Path, verify: bool) -> dict[str, Any]:
    """Read what torch.save wrote, without running code. `verify` tests the zip's checksums, which torch does not do."""
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            _check_zip(path, archive, verify)
    mapped = zipped and path.suffix != ".safetensors"  # torch trusts that suffix, but not with an open file
    with path.open("rb") as file, path_for_library(path) as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols: the file is either read or refused
        content: Any = torch.load(name if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise InputError(f"{path}: not a state dict; write one with torch.save(model.state_dict(), ...)")
    return content


def _check_zip(path: Path, archive: zipfile.ZipFile, verify: bool) -> None:
    """Raise InputError for TorchScript and compressed records, and BadZipFile for a wrong checksum."""
    records = archive.infolist()
    if any(record.filename.endswith("/constants.pkl") for record in records):
        raise InputError(f"{path}: a TorchScript program; write torch.save(model.state_dict(), ...) instead")
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):  # torch never does: maybe a zip bomb
        raise InputError(f"{path}: has compressed records, which torch does not write; download it again")
    # torch.serialization.set_crc32_options(False) writes zeros for all checksums
    if verify and any(record.CRC for record in records) and archive.testzip():
        raise zipfile.BadZipFile("a wrong checksum")
