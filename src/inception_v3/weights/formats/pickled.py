"""Read a pickle as data: nothing is imported, and no code of the file's choosing runs.

`pickletools.genops` decodes the opcodes, and `_Machine` executes them on a stack. A class or function that the file
names becomes a `Global`, an object of such a class an `Instance`, which only stores what the file gives it. The only
functions that run are the `rebuilders` that the caller passes, by the name under which the file calls them.
"""

import pickletools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

MAX_OPCODES = 3_000_000  # a training state has some 100,000
MAX_SECONDS = 10.0
MAX_MEMORY = 2 << 30  # bytes of all objects and of the texts and bytes in them; a training state in float64 has 1.3e9
MAX_KEY = 1 << 60  # two integers below it have different hashes
MAX_NAME = 1000  # characters of a key or of a class
MAX_BITS = 256  # of an integer; the state of a random generator has 128
OBJECT = 128  # bytes, about, of an object and of its entry in a list, the memo or a dictionary
JOBLIB = "joblib.numpy_pickle.NumpyArrayWrapper"

_LITERALS = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    ]
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class PickleError(ValueError):
    """A pickle that is damaged, too large, or uses an opcode that PyTorch's files do not have."""


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Global:
    """A class or function, as the file names it: `torch.nn.modules.linear.Linear`."""

    name: str


@dataclass(eq=False, slots=True, repr=False)
class Instance:
    """An object of a class that the file names.

    Attributes:
        class_name: the class, or the function that would have returned the object.
        args: the arguments of that call.
        attributes: the object's `__dict__`, if the file gives one.
        items: its entries if it is a mapping, such as an object of a subclass of dict.
        state: what the file passes to its `__setstate__`.
    """

    class_name: str
    args: tuple[Any, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    items: dict[Any, Any] = field(default_factory=dict)
    state: Any = None


Rebuilders = Mapping[str, Callable[..., Any]]


def read_pickle(
    stream: IO[bytes], rebuilders: Rebuilders, persistent: Callable[[Any], Any], max_opcodes: int = MAX_OPCODES
) -> Any:
    """Read one pickle from a stream, whose `read(n)` must not allocate more than the file has.

    Args:
        stream: at the first opcode. Afterwards it is behind the last.
        rebuilders: functions by the name under which the file calls them. They must be safe for any arguments.
        persistent: returns the object of a persistent id. Safe for any argument, too.

    Raises PickleError: damaged, more than `max_opcodes`, MAX_SECONDS or MAX_MEMORY.
    """
    machine, deadline = _Machine(rebuilders, persistent), time.thread_time() + MAX_SECONDS
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count >= max_opcodes:
                raise PickleError(f"it has more than {count:,} opcodes, too many for a network")
            if count % 1024 == 0 and time.thread_time() > deadline:
                raise PickleError(f"its pickle takes more than {MAX_SECONDS:g} seconds to read, too much for a network")
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.execute(opcode.name, argument)
    except (LookupError, TypeError, AttributeError, RecursionError, ValueError) as error:
        raise error if isinstance(error, PickleError) else PickleError(f"a damaged pickle: {error}") from error
    raise PickleError("it is truncated")


class _Machine:
    """The stack and the memo of a pickle. `execute` may raise LookupError, TypeError, AttributeError or ValueError."""

    def __init__(self, rebuilders: Rebuilders, persistent: Callable[[Any], Any]) -> None:
        self.rebuilders, self.persistent = rebuilders, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []  # lengths of the stack
        self.memo: dict[int, Any] = {}
        self.memory = 0

    def spend(self, size: int) -> None:
        """Count bytes of memory. Raises PickleError: more than MAX_MEMORY."""
        self.memory += size
        if self.memory > MAX_MEMORY:
            raise PickleError(f"its objects take more than {MAX_MEMORY >> 30} GiB of memory, too much for a network")

    def execute(self, name: str, argument: Any) -> None:
        """Execute one opcode, by its name in pickletools."""
        self.spend(OBJECT + (len(argument) if isinstance(argument, str | bytes | bytearray) else 0))
        if isinstance(argument, int) and argument.bit_length() > MAX_BITS:
            raise PickleError("it has an integer of too many digits")
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name in _TUPLES:
            self.stack.append(tuple(self._take(_TUPLES[name])))
        elif name not in ("PROTO", "FRAME"):
            execute = getattr(self, f"_{name.lower()}", None)
            if execute is None:
                raise PickleError(f"it has the opcode {name}, which PyTorch's files do not have")
            execute(argument) if name in ("GLOBAL", "INST", "PERSID") else execute()

    def _take(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise PickleError("a damaged pickle: its stack is empty")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def _pop_to_mark(self) -> list[Any]:
        return self._take(len(self.stack) - self.marks.pop())

    # ------------------------------------------------------------------------------------------------ containers

    def _pop(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self._take(1)

    def _mark(self) -> None:
        self.marks.append(len(self.stack))

    def _pop_mark(self) -> None:
        self._pop_to_mark()

    def _dup(self) -> None:
        self.stack.append(self.stack[-1])

    def _memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _empty_list(self) -> None:
        self.stack.append([])

    def _empty_tuple(self) -> None:
        self.stack.append(())

    def _empty_dict(self) -> None:
        self.stack.append({})

    def _empty_set(self) -> None:
        self.stack.append([])  # the members of a set need not be hashable here

    def _list(self) -> None:
        self.stack.append(self._pop_to_mark())

    def _tuple(self) -> None:
        self.stack.append(tuple(self._pop_to_mark()))

    _frozenset = _list

    def _dict(self) -> None:
        items = self._pop_to_mark()
        self.stack.append({})
        self._set_items(items)

    def _append(self) -> None:
        self._extend(self._take(1))

    def _appends(self) -> None:
        self._extend(self._pop_to_mark())

    _additems = _appends

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def _setitem(self) -> None:
        self._set_items(self._take(2))

    def _setitems(self) -> None:
        self._set_items(self._pop_to_mark())

    def _set_items(self, items: list[Any]) -> None:
        """Store keys and values. Keys that could take much time or memory, such as nested tuples, are left out."""
        target = self.stack[-1]
        stored = target.items if isinstance(target, Instance) else target
        if isinstance(stored, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                if is_key(key):
                    stored[key] = value

    # --------------------------------------------------------------------------------------- classes and objects

    def _global(self, argument: str) -> None:
        self.stack.append(Global(argument.replace(" ", ".", 1)))

    def _stack_global(self) -> None:
        module, name = self._take(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("a damaged pickle: a class without a name")
        if len(module) + len(name) > MAX_NAME:
            raise PickleError("it has a class whose name is too long")
        self.stack.append(Global(f"{module}.{name}"))

    def _inst(self, argument: str) -> None:
        self.stack.append(Instance(argument.replace(" ", ".", 1), tuple(self._pop_to_mark())))

    def _obj(self) -> None:
        kind, *args = self._pop_to_mark()
        self.stack.append(Instance(_name(kind), tuple(args)))

    def _newobj(self) -> None:
        kind, args = self._take(2)
        self.stack.append(Instance(_name(kind), args if isinstance(args, tuple) else ()))

    def _newobj_ex(self) -> None:
        kind, args, _ = self._take(3)
        self.stack.append(Instance(_name(kind), args if isinstance(args, tuple) else ()))

    def _reduce(self) -> None:
        function, args = self._take(2)
        name, args = _name(function), args if isinstance(args, tuple) else ()
        rebuild = self.rebuilders.get(name)
        made = rebuild(*args) if rebuild else Instance(name, args)
        self.spend(len(made) * (OBJECT if isinstance(made, dict) else 1) if isinstance(made, dict | bytes) else 0)
        self.stack.append(made)

    def _build(self) -> None:
        state = self._take(1)[0]
        target = self.stack[-1]
        if isinstance(target, Instance):
            if target.class_name == JOBLIB:
                raise PickleError("joblib wrote its NumPy arrays between the opcodes; write it with torch.save instead")
            target.state = state
            for part in state if isinstance(state, tuple) and len(state) == 2 else (state,):  # __dict__ and __slots__
                if isinstance(part, dict):
                    self.spend(OBJECT * len(part))
                    target.attributes |= {key: value for key, value in part.items() if isinstance(key, str)}

    def _persid(self, argument: str) -> None:
        self.stack.append(self.persistent(argument))

    def _binpersid(self) -> None:
        self.stack.append(self.persistent(self._take(1)[0]))


def is_key(key: Any) -> bool:
    """Whether a key of a dictionary is kept: a text or an integer that takes little time and memory."""
    return (isinstance(key, str) and len(key) <= MAX_NAME) or (isinstance(key, int) and abs(key) < MAX_KEY)


def _name(kind: Any) -> str:
    return kind.name if isinstance(kind, Global) else ""
