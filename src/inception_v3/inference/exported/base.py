"""The interface of an export format, and what several formats share."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from inception_v3.inference.engines.base import Precision, Run
from inception_v3.inference.engines.graph import Graph
from inception_v3.inference.exported.description import KEY, Description
from inception_v3.network.architecture import Size
from inception_v3.support.packages import require_packages
from inception_v3.support.protocol_buffers import read_fields


class ExportFormat(ABC):
    """One kind of exported file.

    Attributes:
        name, suffix: from registry.py. The name is a value of `--to`.
        program: the program that runs the files, for messages.
        precisions: the precisions that it can be exported in.
        packages, extra: the packages that write and check a file, and the extra of inception-v3 with them.
        is_folder: whether an exported network is a folder.
    """

    program: ClassVar[str]
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32",)
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    is_folder: ClassVar[bool] = False

    def __init__(self, name: str, suffix: str) -> None:
        self.name, self.suffix = name, suffix

    # Reading. A damaged file may raise any error.

    @abstractmethod
    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether a path is an exported network of this format. `head`: its first 512 bytes, b"" for a folder."""

    @abstractmethod
    def read_description(self, path: Path) -> str | None:
        """The JSON text of the description, or None if the file has none."""

    def weights_checksum(self, path: Path) -> str:
        """Checksum of the exported weights; "" if the format protects them itself."""
        return ""

    # Writing

    def check_installed(self) -> None:
        """Raises InputError, which names the extra, if a package is missing to write and check a file."""
        require_packages(self.packages, f"exporting to {self.suffix}", self.extra)

    @abstractmethod
    def convert(self, graph: Graph, precision: Precision = "fp32", example_size: Size = (299, 299)) -> Any:
        """Convert a graph to the format's model object. A tracing format traces images of `example_size`."""

    @abstractmethod
    def save(self, model: Any, file: Path, description: Description) -> None:
        """Write a model object. `write_description` adds the description after the check of the file."""

    @abstractmethod
    def write_description(self, file: Path, text: str) -> None:
        """Add the description to a file without changing its weights."""

    def files(self, file: Path) -> list[Path]:
        """The files that make up an exported network, the file that refers to the others last."""
        return [file]

    # Running, to check what was written

    def run_file(self, file: Path, description: Description) -> Run | None:
        """The function that runs a file, or None if only other systems can."""
        return None

    def run_model(self, model: Any) -> Run:
        """The function that runs an int8 model object in memory."""
        raise NotImplementedError


def message_fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The number and the bytes of each field of a protocol buffer message; b"" for integers."""
    for number, value, *_ in read_fields(memoryview(message)):
        yield number, b"" if isinstance(value, int) else bytes(value)


def find_description(entries: Iterable[bytes]) -> str | None:
    """The description among protocol buffer messages of a key (field 1) and a value (field 2)."""
    for entry in entries:
        parts = dict(message_fields(entry))
        if parts.get(1) == KEY.encode() and 2 in parts:
            return parts[2].decode()
    return None
