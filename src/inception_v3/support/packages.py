"""Optional packages: whether they are installed, and the command that installs them."""

import json
import shlex
import sys
from importlib import import_module
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any
from urllib.parse import unquote, urlsplit

from inception_v3.errors import InputError

# Import names of the packages of the extra `torch`, which exported networks do not need.
TORCH_PACKAGES = ("torch", "torchvision", "safetensors", "huggingface_hub", "scipy", "google_crc32c", "jinja2")
SOURCE = Path(__file__).parents[3]  # the clone, if this file is in one


def missing_packages(names: tuple[str, ...]) -> list[str]:
    """The packages, by import name, that are not installed. Imports none of them."""
    return [name for name in names if find_spec(name) is None]


def require_packages(names: tuple[str, ...], purpose: str, extra: str) -> None:
    """Raise InputError if a package is missing, naming the `purpose` and the `extra` that installs the packages."""
    if missing := missing_packages(names):
        raise InputError(f"{purpose} needs {' and '.join(missing)}; {install_command(extra)}", exit_status=2)


def import_package(module: str, purpose: str, extra: str) -> Any:
    """Import a module of an optional package. Raises InputError as `require_packages` does."""
    require_packages((module.partition(".")[0],), purpose, extra)
    return import_module(module)


def install_command(extra: str) -> str:
    """The command that installs an extra of this package into the Python that runs, with pip if it has pip, or uv.

    No package index has this package, so the command names the clone or the wheel that it was installed from. If that
    does not exist any more, the command names the packages of the extra.
    """
    packages = " ".join(map(shlex.quote, _requirements(extra)))
    if find_spec("pip") is None:
        return f"uv pip install {packages} --python {shlex.quote(sys.prefix)}"
    program = Path(sys.executable)
    pip = "pip" if which("pip") == str(program.with_name("pip")) else f"{shlex.quote(str(program))} -m pip"
    return f"{pip} install {packages}"


def _requirements(extra: str) -> list[str]:
    """The arguments of `pip install` that install an extra."""
    if (SOURCE / "pyproject.toml").exists():
        return ["-e", _with_extra(SOURCE, extra)]
    installed = distribution("inception-v3")
    url = json.loads(installed.read_text("direct_url.json") or "{}").get("url", "")  # pip and uv write it, PEP 610
    origin = Path(unquote(urlsplit(url).path))
    if url.startswith("file:") and origin.exists():
        return [_with_extra(origin, extra)]
    marker = f"extra == '{extra}'"
    return [each.partition(";")[0] for each in installed.requires or () if each.endswith(marker)]


def _with_extra(path: Path, extra: str) -> str:
    return f"{'.' if path == Path.cwd() else path}[{extra}]"
