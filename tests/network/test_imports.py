"""The network needs only PyTorch and NumPy: no image library, no weights format, no download."""

import subprocess
import sys

import pytest

IMPORT_ALL = """
import importlib, pkgutil, sys
import numpy, torch
before = set(sys.modules)
import inception_v3.network as package
for module in pkgutil.iter_modules(package.__path__):
    importlib.import_module(f"inception_v3.network.{module.name}")
imported = {name.partition(".")[0] for name in set(sys.modules) - before if sys.modules[name]}
print(*sorted(imported - sys.stdlib_module_names))
"""
IMPORT_NETWORK = """
import sys
import inception_v3.network.network
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
OTHERS = {"PIL", "huggingface_hub", "rich", "safetensors", "scipy", "sklearn", "torchvision"}


def run(code: str) -> set[str]:
    """Run code in a fresh interpreter, and return the words that it prints."""
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_no_module_of_the_network_imports_more_than_pytorch_and_numpy() -> None:
    assert run(IMPORT_ALL) <= {"inception_v3", "torch", "numpy"}


def test_importing_the_network_loads_no_other_library() -> None:
    assert not run(IMPORT_NETWORK) & OTHERS


@pytest.mark.parametrize("module", ["architecture", "describe", "settings"])
def test_the_table_and_the_options_need_no_pytorch(module: str) -> None:
    code = f"import sys, inception_v3.network.{module}; print(*sys.modules)"
    assert not run(code) & {"torch", "numpy"}
