"""Find this network's tensors in the objects of a file: in any mapping, at any depth, below any prefix of the names.

State dicts are mappings of names to tensors. A whole pickled model, or a TorchScript program, is a tree of modules,
which is flattened into the same form. Nothing here needs PyTorch.
"""

import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from inception_v3.errors import InputError
from inception_v3.network.architecture import BASE_END_POINTS
from inception_v3.support.text import printable
from inception_v3.weights.formats.pickled import MAX_NAME, Instance, PickleError
from inception_v3.weights.formats.torch_file import StoredTensor, as_tensor
from inception_v3.weights.formats.torchvision_names import base_shapes

MAX_DEPTH = 32
MAX_OBJECTS = 1_000_000
MAX_TENSORS = 100_000
MAX_NETWORKS = 100  # in one state dict

# The network's children by the numbers that nn.Sequential(*model.children()) gives them, in torchvision and timm.
CHILDREN = {str(number): name for number, name in enumerate(BASE_END_POINTS)}
# Wrappers of PyTorch around a layer, whose names may stand anywhere in the name of a tensor.
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
AVERAGE = re.compile(r"(?<![a-z])(ema|averaged?|averaging|shadow|swa)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class StateDict:
    """A mapping of names to tensors in a file.

    Attributes:
        path: the keys that lead to it.
        tensors: by name, as in `state_dict()`, without the names of WRAPPERS.
        others: the types of values that are no dense tensors, by name.
        modules: for a whole model, its modules by name; "" is the model itself.
        is_numbered: whether layers have numbers in the file, and got their names from CHILDREN.
    """

    path: tuple[str, ...]
    tensors: dict[str, StoredTensor]
    others: dict[str, str] = field(default_factory=dict)
    modules: dict[str, Instance] = field(default_factory=dict)
    is_numbered: bool = False


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network in a state dict: the tensors whose names start with `prefix`."""

    state: StateDict
    prefix: str
    prefixes: tuple[str, ...]  # of all networks in the state dict

    @property
    def key(self) -> str:
        """What --state takes: the keys and the prefix, joined by dots."""
        return ".".join([*self.state.path, *filter(None, self.prefix.split("."))])

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        """The tensors below the prefix, by their name without it."""
        below = self.prefix
        return {name[len(below) :]: value for name, value in self.state.tensors.items() if name.startswith(below)}

    @property
    def outside(self) -> dict[str, StoredTensor]:
        """The tensors of the state dict that belong to no network in it, by name."""
        return {name: value for name, value in self.state.tensors.items() if not name.startswith(self.prefixes)}

    @property
    def size(self) -> int:
        """How many of the base's tensors it has."""
        return sum(self.prefix + name in self.state.tensors for name in base_shapes())

    @property
    def is_average(self) -> bool:
        """Whether the key, or a counter beside the network, says that it is an average of several steps."""
        counter = self.prefix.removesuffix("module.") + "n_averaged"
        is_raw = "current_model_state" in self.state.path  # of Lightning's callback WeightAveraging
        return not is_raw and (AVERAGE.search(self.key) is not None or counter in self.state.tensors)


# ----------------------------------------------------------------------------------------------------- searching


def find_state_dicts(root: Any) -> list[StateDict]:
    """Every mapping of names to tensors in the objects of a file, the outermost first. Raises PickleError: too many."""
    found: list[StateDict] = []
    seen: set[int] = set()
    level: list[tuple[tuple[str, ...], Any]] = [((), root)]
    for _ in range(MAX_DEPTH):
        below: list[tuple[tuple[str, ...], Any]] = []
        for path, value in level:
            if id(value) in seen:
                continue
            seen.add(id(value))
            if len(seen) > MAX_OBJECTS:
                raise PickleError("it has too many objects")
            state = _state_dict(path, value)
            if state is not None:
                found.append(state)
            if state is None or not state.modules:
                below += [((*path, name), child) for name, child in _entries(value)]
        level = below
    return found


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """The containers and objects below one, with their keys, attributes or indices."""
    if isinstance(value, dict):
        named: Any = value.items()
    elif isinstance(value, Instance):
        named = [*value.items.items(), *value.attributes.items(), *enumerate(value.args)]
    elif isinstance(value, list | tuple):
        named = enumerate(value)
    else:
        return
    for name, child in named:
        if isinstance(child, dict | list | tuple | Instance):
            yield str(name), child


def _state_dict(path: tuple[str, ...], value: Any) -> StateDict | None:
    """The state dict that a mapping or a model is, if it holds a tensor."""
    if isinstance(value, Instance) and is_module(value):
        modules = dict(named_modules(value))
        named: dict[str, Any] = {}
        for name, module in modules.items():
            named |= {f"{name}.{own}" if name else own: tensor for own, tensor in own_tensors(module).items()}
            if len(named) > MAX_TENSORS:
                raise PickleError("it has too many tensors")
        return StateDict(path, _without_wrappers(named), {}, _without_wrappers(modules)) if named else None
    entries = value.items if isinstance(value, Instance) else value
    if not isinstance(entries, dict):
        return None
    named = {name: entry for name, entry in entries.items() if isinstance(name, str)}
    tensors = {name: tensor for name, entry in named.items() if (tensor := as_tensor(entry)) is not None}
    others = {name: type(entry).__name__ for name, entry in named.items() if name not in tensors}
    tensors = _without_wrappers(tensors)
    renamed = _without_numbers(tensors)
    return StateDict(path, renamed, _without_wrappers(others), {}, renamed is not tensors) if tensors else None


def _without_wrappers(named: dict[str, Any]) -> dict[str, Any]:
    if not any(wrapper in name for name in named for wrapper in WRAPPERS):
        return named
    return {".".join(part for part in name.split(".") if part not in WRAPPERS): value for name, value in named.items()}


def _without_numbers(tensors: dict[str, Any]) -> dict[str, Any]:
    """The tensors under the names of the network's layers, where nn.Sequential(*model.children()) numbers them."""
    first, last = "0.conv.weight", f"{len(CHILDREN) - 1}.branch1x1.conv.weight"
    scopes = [name.removesuffix(first) for name in tensors if name == first or name.endswith(f".{first}")]
    scopes = [scope for scope in scopes if scope + last in tensors and f"{scope}15.conv0.conv.weight" not in tensors]
    for scope in scopes[:MAX_NETWORKS]:
        tensors = {_with_name(name, scope): value for name, value in tensors.items()}
    return tensors


def _with_name(name: str, scope: str) -> str:
    number, dot, rest = name.removeprefix(scope).partition(".")
    return f"{scope}{CHILDREN.get(number, number)}{dot}{rest}" if name.startswith(scope) else name


# ------------------------------------------------------------------------------------------------------ modules


def is_module(value: Instance) -> bool:
    """Whether an object is a module of a pickled model or of TorchScript, whose tensors are plain attributes."""
    return isinstance(value.attributes.get("_modules"), dict) or value.class_name.startswith("__torch__.")


def submodules(module: Instance) -> dict[str, Instance]:
    """The modules directly below one, by name."""
    below = _children(module)
    first, last = below.get("0"), below.get("17")
    if first and last and "conv" in _children(first) and "branch1x1" in _children(last):
        return {CHILDREN.get(name, name): child for name, child in below.items()}
    return below


def _children(module: Instance) -> dict[str, Instance]:
    named = module.attributes.get("_modules")
    entries = named if isinstance(named, dict) else module.attributes
    return {str(name): child for name, child in entries.items() if isinstance(child, Instance) and is_module(child)}


def own_tensors(module: Instance) -> dict[str, StoredTensor]:
    """The parameters and buffers of a module, without those of its submodules."""
    attributes = module.attributes
    parts = [attributes.get("_parameters"), attributes.get("_buffers")] if "_modules" in attributes else [attributes]
    entries = [entry for part in parts if isinstance(part, dict) for entry in part.items()]
    return {str(name): value for name, value in entries if isinstance(value, StoredTensor)}


def named_modules(root: Instance) -> Iterator[tuple[str, Instance]]:
    """Each module of a tree with its name, in order. Raises PickleError: too many, or a module below itself."""
    stack = [("", root, 0)]
    count = 0
    while stack:
        name, module, depth = stack.pop()
        count += 1
        if count > MAX_TENSORS or depth > MAX_DEPTH or len(name) > MAX_NAME:
            raise PickleError("it has too many modules")
        yield name, module
        below = [(f"{name}.{own}" if name else own, child, depth + 1) for own, child in submodules(module).items()]
        stack += reversed(below)


# ----------------------------------------------------------------------------------------------------- choosing


def find_candidates(states: list[StateDict], shapes: dict[str, tuple[int, ...]]) -> list[Candidate]:
    """The networks in state dicts that have most tensors of `shapes`, each once, whole models first."""
    candidates: list[Candidate] = []
    known = set()
    for state in sorted(states, key=lambda state: not state.modules):
        prefixes = tuple(_prefixes(state.tensors, shapes))
        for prefix in prefixes:
            candidate = Candidate(state, prefix, prefixes)
            if candidate.size <= len(shapes) // 2:
                continue
            values = frozenset(candidate.tensors.items())
            if values not in known:  # the same tensors under two keys are one network
                known.add(values)
                candidates.append(candidate)
    return candidates


def _prefixes(names: Collection[str], shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """The prefixes under which most of a few tensors of the network stand, at most MAX_NETWORKS."""
    found = Counter(
        name.removesuffix(anchor)
        for anchor in list(shapes)[::150]
        for name in names
        if name == anchor or name.endswith(f".{anchor}")
    )
    ranked = {prefix for prefix, _ in found.most_common(MAX_NETWORKS)}
    return [prefix for prefix in found if prefix in ranked]  # in the order of the file


class HasKey(Protocol):
    """A network of a file that holds several."""

    @property
    def key(self) -> str: ...

    @property
    def is_average(self) -> bool: ...

    @property
    def size(self) -> int: ...


Found = TypeVar("Found", bound=HasKey)


def choose(path: Path, candidates: Sequence[Found], key: str | None) -> Found:
    """The network to read: that of `key`, or else the only one, or the only average, with a warning.

    Raises InputError: several of equal rank, or none under the key; the message lists the keys.
    """
    named = find_named(candidates, key)
    keys = ", ".join(_shown(each) for each in candidates)
    if not named:
        raise InputError(f"{path}: has no network under the key {printable(key)}; it has {keys}", exit_status=2)
    ranked = preferred(named)
    if len(ranked) > 1:
        ranked_keys = ", ".join(_shown(each) for each in ranked)
        raise InputError(f"{path}: has {len(ranked)} networks, {ranked_keys}; choose one with --state KEY")
    chosen = ranked[0]
    if len(candidates) > 1 and key is None:
        reason = "average" if chosen.is_average else "only complete network"
        warnings.warn(
            f"{path}: has the networks {keys}; the {reason} {_shown(chosen)} is read, --state KEY chooses another",
            stacklevel=2,
        )
    return chosen


def find_named(candidates: Sequence[Found], key: str | None) -> Sequence[Found]:
    """The networks under a key: the one with exactly this key, or else those below it."""
    if key is None:
        return candidates
    exact = [each for each in candidates if each.key == key]
    return exact or [each for each in candidates if each.key.startswith((f"{key}.", f"{key}/"))]


def preferred(candidates: Sequence[Found]) -> list[Found]:
    """Those without missing tensors, if there are any, and the averages among them, if there are any."""
    most = max((each.size for each in candidates), default=0)
    complete = [each for each in candidates if each.size == most]
    return [each for each in complete if each.is_average] or complete


def _shown(candidate: HasKey) -> str:
    return printable(candidate.key)[:200] or "(the whole file)"
