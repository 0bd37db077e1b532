"""JSON from files, which may hold anything: it is read with a limit, and its types are checked."""

import json
import math
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from inception_v3.errors import InputError
from inception_v3.support.system_errors import read_error
from inception_v3.support.text import printable

MAX_BYTES = 64 * 2**20  # of a JSON file
_NAMES: dict[Any, str] = {
    dict: "an object",
    list: "a list",
    tuple: "a list",
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    NoneType: "null",
}


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
        raise ValueError(f"the key {_quote(next(name for name in names if names.count(name) > 1))} occurs twice")
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
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        return _check_union(value, arguments, name)
    if origin is Literal:
        if type(value) is str and value in arguments:
            return value
        raise ValueError(f"{name} is {_quote(value)}, but must be {' or '.join(map(str, arguments))}")
    if is_dataclass(kind):
        return _fill(kind, value, name)
    expected = {float: (float, int), tuple: (list,)}.get(origin, (origin,))
    if type(value) not in expected:
        raise ValueError(f"{name} is {_quote(value)}, but must be {_NAMES[origin]}")
    if origin is dict and arguments:
        return {_key(key, arguments[0], name): check_type(each, arguments[1], f"{key}") for key, each in value.items()}
    if origin in (list, tuple) and arguments:
        return origin(_check_items(value, origin, arguments, name))
    return value


def _check_union(value: Any, kinds: tuple[Any, ...], name: str) -> Any:
    """The value as one of the types. Raises ValueError about the last type, which is not None."""
    *others, last = sorted(kinds, key=lambda kind: kind is not NoneType)
    for kind in others:
        try:
            return check_type(value, kind, name)
        except ValueError:
            continue
    return check_type(value, last, name)


def _check_items(values: list[Any], origin: Any, arguments: tuple[Any, ...], name: str) -> list[Any]:
    if origin is tuple and arguments[-1] is not Ellipsis:
        if len(values) != len(arguments):
            raise ValueError(f"{name} has {len(values)} values, but must have {len(arguments)}")
        pairs = zip(values, arguments, strict=True)
        return [check_type(each, kind, f"{name}[{index}]") for index, (each, kind) in enumerate(pairs)]
    if arguments[0] in (int, str) and set(map(type, values)) <= {arguments[0]}:  # at once: a list may be long
        return values
    return [check_type(each, arguments[0], f"{name}[{index}]") for index, each in enumerate(values)]


def _key(key: str, kind: Any, name: str) -> Any:
    if kind is int and not key.isdecimal():
        raise ValueError(f"a key of {name} is {_quote(key)}, but must be a whole number")
    return int(key) if kind is int else key


def _fill(kind: Any, value: Any, name: str) -> Any:
    """A dataclass from an object. Raises ValueError: missing or unknown keys, or values of other types."""
    values = check_type(value, dict, name)
    known = {field.name: field for field in fields(kind)}
    if unknown := sorted(values.keys() - known.keys()):
        raise ValueError(f"{name} has an unknown key {_quote(unknown[0])}")
    required = {key for key, field in known.items() if field.default is field.default_factory is MISSING}
    if missing := sorted(required - values.keys()):
        raise ValueError(f"{name} has no {missing[0]}")
    hints = get_type_hints(kind)
    return cast(Any, kind)(**{key: check_type(each, hints[key], key) for key, each in values.items()})


def _quote(value: Any) -> str:
    """A value in a message: at most 40 characters of it on one line."""
    if isinstance(value, dict | list):
        return _NAMES[type(value)]
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
