"""JSON from files, which may hold anything: it is read with a limit, and its types are checked."""

import json
import math
from pathlib import Path
from typing import Any

from inception_v3.errors import InputError
from inception_v3.support.arguments import FieldError, check
from inception_v3.support.system_errors import read_error
from inception_v3.support.text import printable

MAX_BYTES = 64 * 2**20  # of a JSON file


def read_json(path: Path, kind: Any) -> Any:
    """The value in a JSON file, see `parse_json`. Raises InputError, with the file: missing, or not such a value."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES >> 20} MiB")
        return parse_json(content, kind)
    except OSError as error:
        raise read_error(path, error) from error
    except ValueError as error:
        raise InputError(f"{printable(path)}: damaged: {error}; restore it, or delete it") from error


def parse_json(text: str | bytes, kind: Any) -> Any:
    """The value of a JSON text, checked by `check_type`.

    Raises ValueError, with one line about what is wrong: not JSON, a key that occurs twice, a number beyond float64,
    too many levels, or a value of another type.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error})") from error
    return check_type(value, kind)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {json.dumps(twice[:40])} occurs twice")
    return values


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def check_type(value: Any, kind: Any, name: str = "it") -> Any:
    """`value`, decoded from JSON, as a value of the type `kind`.

    `kind` is a type hint of JSON's types, Any, Literal, a union, or a dataclass: its fields are the keys of an object.
    Lists become tuples if the type is a tuple, and keys become whole numbers if the type is dict[int, ...].
    Raises ValueError, with the `name` of the value in it, what it must be and what it is.
    """
    try:
        return check(name, value, kind, from_json=True)
    except (TypeError, FieldError) as error:
        raise ValueError(str(error)) from error
