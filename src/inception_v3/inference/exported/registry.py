"""The list of export formats, and functions for an exported file of any format. Importing it imports no format."""

from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from inception_v3.errors import InputError
from inception_v3.support.system_errors import check_readable, is_file, list_folder, read_error

if TYPE_CHECKING:
    from inception_v3.inference.exported.base import ExportFormat
    from inception_v3.inference.exported.description import Description

# By name: the suffix, the file and the class.
FORMATS = {
    "onnx": (".onnx", "onnx.OnnxFormat"),
    "openvino": (".xml", "openvino.OpenvinoFormat"),
    "torch-export": (".pt2", "torch_export.TorchExportFormat"),
    "coreml": (".mlpackage", "coreml.CoremlFormat"),
    "html": (".html", "offline.format.PageFormat"),
}
SUFFIXES = tuple(suffix for suffix, _ in FORMATS.values())


@cache
def load_format(name: str) -> "ExportFormat":
    """The format of this name."""
    suffix, location = FORMATS[name]
    format: ExportFormat = resolve_name(f"inception_v3.inference.exported.{location}")(name, suffix)
    return format


def recognise(path: Path) -> "ExportFormat | None":
    """The format of an exported network, from its content; None for anything else.

    Raises InputError: the file cannot be read.
    """
    head = b""
    if is_file(path):
        check_readable(path)
        with path.open("rb") as file:
            head = file.read(512)
    return next((format for format in map(load_format, FORMATS) if format.recognises(path, head)), None)


def exports_in(folder: Path) -> list[Path]:
    """The exported networks in a folder, sorted by name, and files that may be such and cannot be read."""
    return [path for path in list_folder(folder) if path.suffix in SUFFIXES and _may_be_export(path)]


def _may_be_export(path: Path) -> bool:
    try:
        return recognise(path) is not None
    except InputError:  # read_description reports the reason
        return True


def read_description(path: Path) -> "Description":
    """Read the description of an exported network.

    Raises InputError: not exported by this package, damaged, or written by another version.
    """
    from inception_v3.inference.exported.description import parse_description

    format = recognise(path)
    try:
        text = format.read_description(path) if format else None
    except InputError:
        raise
    except OSError as error:
        raise read_error(path, error) from error
    except Exception as error:  # every parser has its own errors for damaged files
        raise InputError(f"{path}: the file is damaged ({error}); export it again") from error
    if text is None:
        raise InputError(f"{path}: not exported by inception-v3; make one with `inception-v3 export RUN OUT`")
    return parse_description(text, path)


def check_weights(path: Path, description: "Description") -> None:
    """Check an exported network's weights. Raises InputError: missing, damaged, or not those that were checked."""
    format = recognise(path)
    if format is None or not description.numbers:
        return
    try:
        checksum = format.weights_checksum(path)
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise InputError(f"{path}: {missing}, which holds its weights, is missing; copy both files") from error
    except OSError as error:
        raise read_error(error.filename or path, error) from error
    except ValueError as error:
        raise InputError(f"{path}: the file is damaged ({error}); export it again") from error
    if checksum != description.numbers:
        raise InputError(f"{path}: its weights are not those that were checked; export it again")
