"""The interface of an export format, and a function that several formats share."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from inception_v3.inference.engines.base import Precision, Run
from inception_v3.inference.engines.graph import Graph
from inception_v3.inference.engines.registry import load_engine
from inception_v3.inference.exported.description import KEY, Description
from inception_v3.support.files import checksum
from inception_v3.support.protocol_buffers import read_fields


class ExportFormat(ABC):
    """One kind of exported file.

    Attributes:
        name, suffix: from registry.py. The name is a value of `--to`.
        engine: the engine that checks a written file; "" if the format has its own `run`, or if nothing here runs it.
            The precisions, packages and extra of such a format are those of the engine on a CPU.
        program: the program that runs the files if no engine does.
        precisions: the precisions that it can be exported in.
        packages, extra: the packages that write and check a file, and the extra of inception-v3 with them.
        weights_suffix: suffix of the separate file that holds the weights; "" if there is no such file.
        is_folder: whether an exported network is a folder.
        keeps_names: whether inner values have the names of their layers, so that the engine can return them too.
        runs_here: whether a written file can be checked.
    """

    engine: ClassVar[str] = ""
    program: ClassVar[str] = ""
    precisions: tuple[Precision, ...] = ("fp32",)
    packages: tuple[str, ...] = ()
    extra: str = ""
    weights_suffix: ClassVar[str] = ""
    is_folder: ClassVar[bool] = False
    keeps_names: ClassVar[bool] = False
    runs_here: ClassVar[bool] = True

    def __init__(self, name: str, suffix: str) -> None:
        self.name, self.suffix = name, suffix
        if self.engine:
            engine = load_engine(self.engine)
            self.precisions, self.extra = engine.precisions["cpu"], engine.extra
            self.packages = engine.needed_packages(in_memory=True)

    @abstractmethod
    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether a path is an exported network of this format. `head`: its first 512 bytes, b"" for a folder."""

    @abstractmethod
    def read_description(self, path: Path) -> str | None:
        """The JSON text of the description, or None if the file has none. A damaged file may raise any error."""

    def weights_checksum(self, path: Path) -> str:
        """Checksum of the exported weights; "" if the format protects them itself."""
        return checksum(path.with_suffix(self.weights_suffix)) if self.weights_suffix else ""

    def files(self, out: Path) -> list[Path]:
        """The files of an exported network: that of its weights first; empty for a folder."""
        suffixes = () if self.is_folder else (self.weights_suffix, out.suffix)
        return [out.with_suffix(suffix) for suffix in suffixes if suffix]

    @abstractmethod
    def convert(self, graph: Graph, precision: Precision = "fp32") -> Any:
        """Convert a graph to the format's model object."""

    @abstractmethod
    def save(self, model: Any, file: Path, description: Description) -> None:
        """Write a model object. `write_description` adds the description after the check of the file."""

    @abstractmethod
    def write_description(self, file: Path, text: str) -> None:
        """Add the description to a file without changing its weights."""

    def with_outputs(self, path: Path, names: Collection[str], outputs: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
        """The network of a file for `run`, and its outputs: its own `outputs`, and those of the `names` that it has.

        The file is not changed. A format that does not keep the names of inner values has only its own outputs.
        """
        if not self.keeps_names:
            return path, outputs
        network, added = load_engine(self.engine).with_outputs(path, names)
        return network, (*outputs, *added)

    def constant(self, path: Path, name: str) -> NDArray[np.floating] | None:
        """The constant of this name in a file, such as the weights Logits/weights; None if the format has no names."""
        return None

    def run(self, network: Any, precision: Precision, outputs: tuple[str, ...]) -> Run:
        """The function that runs a file or a model object, to check it."""
        return load_engine(self.engine).open(network, precision, None).run


def find_description(entries: Iterable[memoryview]) -> str | None:
    """The description among protocol buffer messages of a key (field 1) and a value (field 2)."""
    for entry in entries:
        parts = {field.number: field.value for field in read_fields(entry)}
        if parts.get(1) == memoryview(KEY.encode()) and isinstance(value := parts.get(2), memoryview):
            return bytes(value).decode()
    return None
