"""The formats of weights, found by name, by the suffix of a file or by its content.

A format's module is imported when it is needed, so that listing the names does not import PyTorch.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from inception_v3.errors import InputError
from inception_v3.support.system_errors import check_readable, read_error
from inception_v3.support.text import choose

if TYPE_CHECKING:
    from inception_v3.weights.formats.base import Format, WritableFormat

# A file is tried against the formats in this order, the most particular first: timm's state dicts pass for
# torchvision's.
FORMATS = (
    "native",
    "saved-model",
    "object-checkpoint",
    "tf-slim",
    "keras",
    "tensorflowjs",
    "graphdef-2015",
    "graphdef-slim",
    "fid-2015",
    "timm",
    "torchvision",
)


def find_format(name: str) -> "Format":
    """Return the format of that name. Raises InputError, listing the names, if there is none."""
    module = choose("format", name, FORMATS).replace("-", "_")
    return cast("Format", import_module(f"inception_v3.weights.formats.{module}").FORMAT)


def find_writer(name: str) -> "WritableFormat":
    """Return the format of that name, to write. Raises InputError if there is none, or if it can only be read."""
    from inception_v3.weights.formats.base import WritableFormat

    format = find_format(name)
    if not isinstance(format, WritableFormat):
        raise InputError(f"{name} can only be read; write {format.write_instead} instead", exit_status=2)
    return format


def formats_by_suffix() -> "dict[str, list[WritableFormat]]":
    """The formats that a destination's suffix stands for, the most particular first."""
    from inception_v3.weights.formats.base import WritableFormat

    by_suffix: dict[str, list[WritableFormat]] = {}
    for format in map(find_format, FORMATS):
        if isinstance(format, WritableFormat):
            for suffix in format.suffixes:
                by_suffix.setdefault(suffix, []).append(format)
    return by_suffix


def recognise(file: Path) -> "Format":
    """Return the format of a file, by its content. Raises InputError: no such file, or of no known format."""
    for format in map(find_format, FORMATS):
        if format.recognises(file):
            return format
    check_readable(file)
    from inception_v3.weights.formats.kinds import identify

    try:
        reason = identify(file).refusal
    except OSError as error:
        raise read_error(file, error) from error
    raise InputError(
        f"{file}: {reason}"
        if reason
        else f"{file}: not a model that can be read (damaged, or of another program); give a run folder or a file in "
        f"one of the formats {', '.join(FORMATS)}"
    )
