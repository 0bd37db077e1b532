"""Check values by type hints: arguments of a function (`checked`), fields of a dataclass (`check_fields`), and JSON.

A value of the wrong type raises TypeError, a wrong value of the right type ValueError. Both name the argument, what is
right, and the value: "top must be at least 1 and at most 1,000,000, not 0". Numbers must be finite, and
`Annotated[int, Range(1, 10)]` limits them. Scalars of NumPy and PyTorch count as Python's numbers, and become them.
True is no number, 1 is no bool, and a string is no sequence of strings. Hints in quotes are not checked.

Values from JSON keep their numbers as they are. There, an object fills a dataclass, and the keys of an object may be
whole numbers.
"""

import math
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache, partial, wraps
from itertools import chain, cycle
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    ParamSpec,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from inception_v3.support.text import printable

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
MAX_SHOWN = 80  # characters of a value in a message
MAX_BATCH_SIZE, MAX_SEED, MAX_NUMPY_SEED = 65_536, 2**63 - 1, 2**32 - 1


@dataclass(frozen=True)
class Range:
    """The bounds of a number, each optional. `minimum` and `maximum` are allowed, `above` and `below` are not."""

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        names = {"minimum": "at least", "above": "greater than", "maximum": "at most", "below": "less than"}
        bounds = {words: getattr(self, name) for name, words in names.items()}
        limits = {words: f"{bound:,}" if bound else "zero" for words, bound in bounds.items() if bound is not None}
        return " and ".join(f"{words} {limit}" for words, limit in limits.items())


Fraction = Annotated[float, Range(0, 1)]
PositiveFraction = Annotated[float, Range(above=0, maximum=1)]
Decay = Annotated[float, Range(0, below=1)]  # of a moving average
BatchSize = Annotated[int, Range(1, MAX_BATCH_SIZE)]
Threads = Annotated[int, Range(1, 256)]
Workers = Annotated[int, Range(0, 256)]
Count = Annotated[int, Range(1, 1_000_000)]
CountFromTwo = Annotated[int, Range(2, 1_000_000)]
Seed = Annotated[int, Range(0, MAX_SEED)]
NumPySeed = Annotated[int, Range(0, MAX_NUMPY_SEED)]  # of numpy.random.RandomState


class _Kind(NamedTuple):
    """What a type hint allows, in words and for several ("whole numbers"), and the conversion of a value.

    `convert` raises TypeError for another type, and ValueError with the requirement for another value.
    """

    words: str
    plural: str
    convert: Callable[[Any], Any]


class FieldError(Exception):
    """A wrong field of an object in JSON. The message names the field."""


def check(name: str, value: Any, hint: Any, *, from_json: bool = False) -> Any:
    """Return the value, scalars as Python's numbers, or with `from_json` objects as dataclasses.

    Raises TypeError or ValueError: it does not fit the type hint. With `from_json` also FieldError.
    """
    return _convert(name, value, _kind(hint, from_json))


def check_fields(options: Any) -> None:
    """Check the fields of a frozen dataclass; call it in `__post_init__`. Raises TypeError, ValueError."""
    hints: dict[str, Any] = {field.name: field.type for field in fields(options)}
    for name, hint in hints.items():
        object.__setattr__(options, name, check(name, getattr(options, name), hint))


def checked(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Check the arguments of each call of a function by its type hints. The defaults are not checked."""
    kinds = {name: _kind(hint) for name, hint in function.__annotations__.items() if name != "return"}
    code = function.__code__
    names = code.co_varnames[: code.co_argcount]
    rest = code.co_varnames[code.co_argcount + code.co_kwonlyargcount :][:1] or ("",)  # the name of *arguments

    def convert(name: str, value: Any) -> Any:
        return _convert(name, value, kinds[name]) if name in kinds else value

    @wraps(function)
    def call(*arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
        positional = map(convert, chain(names, cycle(rest)), arguments)
        named = {name: convert(name, value) for name, value in options.items()}
        return function(*positional, **named)

    return call


def check_options(function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Check keyword arguments before the work that comes before the call of a function. Raises as the call does."""
    for name, value in options.items():
        if name not in function.__annotations__:
            raise TypeError(f"{name} is no argument of {function.__name__}")
        check(name, value, function.__annotations__[name])


def _convert(name: str, value: Any, kind: _Kind) -> Any:
    try:
        return kind.convert(value)
    except (TypeError, ValueError) as error:
        is_type = isinstance(error, TypeError)
        found = f"{_shown(value)} ({type(value).__name__})" if is_type and value is not None else _shown(value)
        raise type(error)(f"{name} must be {kind.words if is_type else error}, not {found}") from None


def _shown(value: Any) -> str:
    is_huge = isinstance(value, int) and value.bit_length() > 4_000  # Python refuses to write its digits
    text = f"a number of {value.bit_length():,} bits" if is_huge else printable(repr(value))
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


@cache
def _kind(hint: Any, from_json: bool = False) -> _Kind:
    origin, arguments, kind_of = get_origin(hint), get_args(hint), partial(_kind, from_json=from_json)
    if hint in (numbers := _JSON_NUMBERS if from_json else _NUMBERS):
        return numbers[hint]
    if from_json and is_dataclass(hint):
        return _object(hint)
    if hint is None:
        return _instance(NoneType)
    if hint is Any or isinstance(hint, str):
        return _Kind("anything", "anything", lambda value: value)
    if origin is Annotated:
        return _limited(kind_of(arguments[0]), arguments[1])
    if origin in (Union, UnionType):
        return _either([kind_of(argument) for argument in arguments])
    if origin is Literal:
        return _choice(arguments)
    if origin is tuple:
        return _tuple([kind_of(each) for each in arguments if each is not ...], any_length=arguments[-1] is ...)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(kind_of(arguments[0]), kind_of(arguments[1]), number_keys=from_json and arguments[0] is int)
    if isinstance(origin, type) and issubclass(origin, Collection):
        return _collection(origin, kind_of(arguments[0]))
    return _instance(origin or hint)


def scalar(value: Any) -> Any:
    """A scalar of NumPy or PyTorch as Python's; other values unchanged."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _to_bool(value: Any) -> bool:
    if (value := scalar(value)) is True or value is False:
        return bool(value)
    raise TypeError


def _to_int(value: Any) -> int:
    value = scalar(value)
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError
    return int(value)


def _to_float(value: Any) -> float:
    value = scalar(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError
    if not abs(value) <= sys.float_info.max:  # type: ignore[operator]  # larger, infinite, or NaN
        raise ValueError("a finite number")
    return float(value)


def _limited(kind: _Kind, limits: Range) -> _Kind:
    def convert(value: Any) -> Any:
        try:
            number = kind.convert(value)
        except ValueError:
            number = math.nan
        if number not in limits:
            raise ValueError(str(limits))
        return number

    return _Kind(kind.words, kind.plural, convert)


def _either(kinds: list[_Kind]) -> _Kind:
    words = _alternatives(kind.words for kind in kinds)

    def convert(value: Any) -> Any:
        wrong_value = None
        for kind in kinds:
            try:
                return kind.convert(value)
            except TypeError:
                continue
            except ValueError as error:
                wrong_value = ValueError(words) if str(error) == kind.words else error
        raise wrong_value or TypeError

    return _Kind(words, _alternatives(kind.plural for kind in kinds), convert)


def _alternatives(texts: Iterable[str]) -> str:
    *first, last = dict.fromkeys(texts)
    return f"{', '.join(first)} or {last}" if first else last


def _choice(choices: tuple[Any, ...]) -> _Kind:
    words = f"one of {', '.join(map(str, choices))}"

    def convert(value: Any) -> Any:
        value = scalar(value)
        if type(value) is bool or not isinstance(value, type(choices[0])):
            raise TypeError
        if value not in choices:
            raise ValueError(words)
        return value

    return _Kind(words, words, convert)


def _tuple(kinds: list[_Kind], any_length: bool) -> _Kind:
    """A tuple: also a list or a one-dimensional array, which become one."""
    words = f"{'a tuple of' if any_length else len(kinds)} {kinds[0].plural}"

    def convert(value: Any) -> Any:
        if isinstance(value, str | bytes) or not (isinstance(value, Sequence) or getattr(value, "ndim", None) == 1):
            raise TypeError
        if len(value) != len(kinds) and not any_length:
            raise ValueError(words)
        return tuple(kind.convert(item) for item, kind in zip(value, cycle(kinds)))

    return _Kind(words, words, convert)


def _collection(origin: type[Collection[Any]], kind: _Kind) -> _Kind:
    """A list, Sequence, Set or Collection. A tuple may be a list; the items of others stay as they are."""

    def convert(value: Any) -> Any:
        if not isinstance(value, (list, tuple) if origin is list else origin) or isinstance(value, str | bytes):
            raise TypeError
        items = [kind.convert(item) for item in value]
        return items if origin is list else value

    return _Kind(f"a list of {kind.plural}", f"lists of {kind.plural}", convert)


def _mapping(key: _Kind, value_kind: _Kind, number_keys: bool) -> _Kind:
    """A mapping. With `number_keys` the keys are digits, and become whole numbers."""

    def convert(value: Any) -> Any:
        if not isinstance(value, Mapping) or (number_keys and not all(map(str.isdecimal, value))):
            raise TypeError
        if number_keys:
            value = {int(name): item for name, item in value.items()}
        return {key.convert(name): value_kind.convert(item) for name, item in value.items()}

    return _Kind(f"a mapping from {key.plural} to {value_kind.plural}", "mappings", convert)


def _object(cls: Any) -> _Kind:
    """A dataclass of the fields of an object in JSON."""
    kinds = {name: _kind(hint, from_json=True) for name, hint in get_type_hints(cls).items()}
    required = {field.name for field in fields(cls) if field.default is field.default_factory is MISSING}

    def convert(value: Any) -> Any:
        if not isinstance(value, dict):
            raise TypeError
        if not required <= value.keys() <= kinds.keys():
            raise FieldError(f"the keys must be {', '.join(kinds)}, not {_shown(sorted(value))}")
        try:
            return cls(**{name: _convert(name, item, kinds[name]) for name, item in value.items()})
        except (TypeError, ValueError) as error:
            raise FieldError(str(error)) from error

    return _Kind("an object", "objects", convert)


def _instance(cls: Any, types: Any = None) -> _Kind:
    """An instance of a class, or of one of `types`. True is no number."""
    article = "an" if cls.__name__[0] in "AEIOU" else "a"
    words, plural = _NAMES.get(cls, (f"{article} {cls.__name__}", f"{cls.__name__}s"))

    def convert(value: Any) -> Any:
        if not isinstance(value, types or cls) or (isinstance(value, bool) and cls in _NUMBERS and cls is not bool):
            raise TypeError
        return value

    return _Kind(words, plural, convert)


_NAMES: dict[Any, tuple[str, str]] = {
    bool: ("True or False", "values True or False"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a string", "strings"),
    dict: ("an object", "objects"),
    Path: ("a path", "paths"),
    NoneType: ("None", "None"),
    Callable: ("a function", "functions"),
}
_NUMBERS = {
    hint: _Kind(*_NAMES[hint], convert) for hint, convert in ((bool, _to_bool), (int, _to_int), (float, _to_float))
}
_JSON_NUMBERS = {bool: _instance(bool), int: _instance(int), float: _instance(float, (int, float))}
