"""Packages of the extra `inception-v3[data]`, which only some data sets need."""

from importlib import import_module
from typing import Any

from inception_v3.errors import InputError


def import_extra(module: str, address: str) -> Any:
    """Import a module of an optional package. Raises InputError, naming the `address`, if it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f"{address}: reading it needs {module.split('.')[0]}; pip install 'inception-v3[data]'"
        ) from error
