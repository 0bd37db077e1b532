"""Optional packages: whether they are installed, and the command that installs them."""

from importlib.util import find_spec

from inception_v3.errors import InputError


def missing_packages(names: tuple[str, ...]) -> list[str]:
    """The packages, by import name, that are not installed. Imports none of them."""
    return [name for name in names if find_spec(name) is None]


def require_packages(names: tuple[str, ...], purpose: str, extra: str) -> None:
    """Raise InputError if a package is missing, naming the `purpose` and the `extra` that installs the packages."""
    if missing := missing_packages(names):
        raise InputError(f"{purpose} needs {' and '.join(missing)}; {install_command(extra)}", exit_status=2)


def install_command(extra: str) -> str:
    """The pip command that installs an extra of this package."""
    return f"pip install 'inception-v3[{extra}]'"
