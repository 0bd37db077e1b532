"""The formats of weights, found by name or by the content of a file."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from inception_v3.errors import InputError
from inception_v3.weights.formats.weights import Weights

if TYPE_CHECKING:
    from inception_v3.weights.model import InceptionV3

# In this order files are asked for, the most particular first: the module in formats/ for each name.
MODULES = {
    "native": "native",
    "tf-slim": "tf_slim",
    "keras": "keras",
    "graphdef-2015": "graph_def",
    "fid-2015": "fid_2015",
    "timm": "timm",
    "torchvision": "torchvision",
}


class Format(Protocol):
    """What each module in formats/ has."""

    NAME: str
    recognise: Callable[[Path], bool]
    read: Callable[[Path], Weights]


class Writer(Format, Protocol):
    """A format that can also be written; `differences` are why their program would compute other numbers."""

    write: "Callable[[InceptionV3, Path], None]"
    differences: "Callable[[InceptionV3], list[str]]"


def find_format(name: str) -> Format:
    """The format of that name. Raises InputError, listing them."""
    if name not in MODULES:
        raise InputError(f"no format {name!r}; there are {', '.join(MODULES)}", exit_status=2)
    return cast(Format, import_module(f"inception_v3.weights.formats.{MODULES[name]}"))


def find_writer(name: str) -> Writer:
    """The format of that name, to write. Raises InputError, listing them; or for one that is only read."""
    found = find_format(name)
    if not hasattr(found, "write"):
        raise InputError(f"{name} is only read here; write fid-2015, which holds the same network", exit_status=2)
    return cast(Writer, found)


def recognise(file: Path) -> Format:
    """The format of a file, by its content. Raises InputError: no such file, or nothing that is known."""
    for name in MODULES:
        known = find_format(name)
        if known.recognise(file):
            return known
    if not file.exists():
        raise InputError(f"{file}: there is no such file; check the path")
    raise InputError(
        f"{file}: not a model that can be read here (damaged, or of another program); give a run folder, a "
        "model.safetensors or a TF-Slim checkpoint"
    )
