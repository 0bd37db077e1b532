"""Packages that only some data sets need."""

from importlib import import_module
from typing import Any

from inception_v3.errors import InputError


def extra(module: str, place: str) -> Any:
    """The module. Raises InputError, naming what needs it, where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise InputError(f"{place}: reading it needs {package}; pip install 'inception-v3[data]'") from error
