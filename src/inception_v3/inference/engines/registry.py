"""The list of engines. Importing it imports no engine, and neither NumPy nor PyTorch."""

from pkgutil import resolve_name
from typing import TYPE_CHECKING

from inception_v3.errors import InputError

if TYPE_CHECKING:
    from inception_v3.inference.engines.base import Engine

# By the value of `--engine`: the file and the class. Of engines with equal speed the first is chosen.
ENGINES = {
    "pytorch": "pytorch.PyTorchEngine",
    "compile": "compile.CompileEngine",
    "onnxruntime": "onnxruntime.OnnxRuntimeEngine",
    "openvino": "openvino.OpenvinoEngine",
    "ncnn": "ncnn.NcnnEngine",
}
CHOICES = ("auto", *ENGINES)
PRECISIONS = ("fp32", "bf16", "fp16", "int8")  # the values of base.Precision, without the import of NumPy


def load_engine(name: str) -> type["Engine"]:
    """The class of an engine. Raises InputError for an unknown name."""
    if name not in ENGINES:
        raise InputError(f"unknown engine {name!r}; choose from {', '.join(CHOICES)}", exit_status=2)
    engine: type[Engine] = resolve_name(f"inception_v3.inference.engines.{ENGINES[name]}")
    return engine


def load_engines() -> list[type["Engine"]]:
    """The classes of all engines. Their packages are not imported."""
    return [load_engine(name) for name in ENGINES]
