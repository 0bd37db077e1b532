"""Exported networks: what travels in a file (SUFFIXES) beside the numbers, and what it says of them.

One JSON text, under the key `inception_v3`: which network, how pictures are prepared, the classes, the precision, and
how far the answers were from the network in float32 when the file was made. Neither PyTorch nor an engine reads it.
"""

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args
from xml.etree import ElementTree

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.engines import onnx_file
from inception_v3.inference.engines.base import Precision
from inception_v3.network.settings import Settings
from inception_v3.support.files import checksum
from inception_v3.support.protocol_buffers import read_fields

KEY = "inception_v3"
VERSION = 2
Kind = Literal["onnx", "openvino", "torch-export", "coreml"]
SUFFIXES: dict[str, Kind] = {".onnx": "onnx", ".xml": "openvino", ".pt2": "torch-export", ".mlpackage": "coreml"}
COREML_SPEC = Path("Data", "com.apple.CoreML", "model.mlmodel")  # in a package, which is a folder
MAX_DESCRIPTION = 64 * 2**20  # bytes; class names are all that can be long
# The least share of pictures whose first class must be that of float32, where the user asks for no other.
MIN_AGREEMENT: dict[Precision, float] = {"fp32": 1.0, "bf16": 0.995, "fp16": 0.995, "int8": 0.99}
# The largest difference that is rounding and no mistake, in probabilities or in shares of a feature's largest value.
LARGEST: dict[Precision, float] = {"fp32": 0.001, "bf16": 0.2, "fp16": 0.1, "int8": 0.5}


@dataclass(frozen=True)
class Check:
    """How an engine's answers differ from those of the network itself, layer by layer, in float32 on PyTorch.

    Differences are those of `compared`: probabilities, or where there are none end points, relative to their largest
    value. `end_points_difference` is the largest of these in both cases: a probability near 1 hides much.
    `preparation` says who resized: pillow, as where `predict` runs the file, or none.
    """

    pictures: int
    source: str
    preparation: str
    top_1_agreement: float
    max_difference: float
    mean_difference: float
    end_points_difference: float = 0.0
    classes: int = 0  # how many first classes there were; 0 without logits
    compared: Literal["probabilities", "end points"] = "probabilities"

    def __str__(self) -> str:
        top_1 = f"top-1 agreement {self.top_1_agreement:.2%}, " if self.compared == "probabilities" else ""
        return (
            f"{top_1}{self.compared} off by {self.max_difference:.1e} at most and "
            f"{self.mean_difference:.1e} on average, {self.pictures} pictures ({self.source})"
        )


@dataclass(frozen=True)
class Description:
    """All that is known of an exported network. `weights` is a checksum of what it was made from, `numbers` of what
    was written and checked (see `numbers` below)."""

    settings: Settings
    preprocessing: Preprocessing
    class_names: list[str] | None
    outputs: tuple[str, ...]
    precision: Precision
    any_size: bool
    weights: str
    check: Check | None = None
    numbers: str = ""
    kept_higher: tuple[str, ...] = ()  # end points of an int8 network that stayed in float32

    def names(self) -> list[str]:
        """What the classes are called: by their number where they have no name."""
        return self.class_names or [str(number) for number in range(self.settings.num_classes)]

    def to_json(self) -> str:
        return json.dumps({"version": VERSION} | asdict(self), ensure_ascii=True)


def parse(text: str, path: Path) -> Description:
    """Raises InputError, naming the file: written by a newer version, or damaged."""
    try:
        values = dict(json.loads(text))
        if values.pop("version") != VERSION:
            raise InputError(f"{path}: written by another version of inception-v3; export it anew with this one")
        stored: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in
                  values["preprocessing"].items()}  # fmt: skip
        check = values["check"]
        known = {field.name for field in fields(Description)}
        if values.keys() != known or values["precision"] not in get_args(Precision):
            raise ValueError(f"its keys are {sorted(values)}")
        options: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values["settings"].items()
        }
        settings = Settings(**options)
        classes = settings.num_classes
        if values["class_names"] is not None and len(values["class_names"]) != classes:
            raise ValueError(f"{len(values['class_names'])} class names for {classes} classes")
        return Description(
            **values
            | {"settings": settings, "preprocessing": Preprocessing(**stored), "check": check and Check(**check)}
            | {"outputs": tuple(values["outputs"]), "kept_higher": tuple(values["kept_higher"])}
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: its description cannot be read ({error}); export it anew") from error


def recognise(path: Path) -> Kind | None:
    """Which kind of exported network a file is, by its content; None for anything else."""
    if path.suffix == ".mlpackage" and (path / COREML_SPEC).is_file():
        return "coreml"
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        return None
    if head[:4] == b"PK\x03\x04" and path.suffix == ".pt2":
        return "torch-export"
    if b"<net " in head:
        return "openvino"
    # ModelProto: ir_version, then the name of the program that wrote it
    return "onnx" if head[:1] == b"\x08" and head[2:3] == b"\x12" else None


def read(path: Path) -> Description:
    """What an exported network says of itself. Raises InputError, naming the file: not one of ours, damaged, newer."""
    kind = recognise(path)
    try:
        text = _READERS[kind](path) if kind else None
    except (OSError, ElementTree.ParseError, zipfile.BadZipFile, ValueError, IndexError) as error:
        raise InputError(f"{path}: the file is damaged ({error}); export it anew") from error
    if text is None:
        raise InputError(f"{path}: not exported by inception-v3; make one with `inception-v3 export RUN OUT`")
    return parse(text, path)


def _from_xml(path: Path) -> str | None:
    """The description is one attribute. Its text is looked for in the file's end, so that no parser reads the rest."""
    size = path.stat().st_size
    if size > MAX_DESCRIPTION:
        raise ValueError("larger than such a file can be")
    found = re.search(rf'<{KEY}>\s*(<description value="[^"<]*" />)', path.read_text("utf-8"))
    return ElementTree.fromstring(found[1]).get("value") if found else None


def _from_onnx(path: Path) -> str | None:
    found = (_entry(content, KEY) for content in onnx_file.metadata(path, MAX_DESCRIPTION))
    return next((text for text in found if text is not None), None)


def _from_archive(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        name = next((name for name in archive.namelist() if name.endswith(f"extra/{KEY}.json")), None)
        if name is None:
            return None
        if archive.getinfo(name).file_size > MAX_DESCRIPTION:
            raise ValueError("its description is larger than it can be")
        return archive.read(name).decode("utf-8")


def _from_coreml(path: Path) -> str | None:
    """From Model.description.metadata.userDefined of the package's specification."""
    spec = path / COREML_SPEC
    if spec.stat().st_size > MAX_DESCRIPTION:
        raise ValueError("larger than such a file can be")
    messages = [spec.read_bytes()]
    for wanted in (2, 100, 100):
        messages = [content for message in messages for number, content in _parts(message) if number == wanted]
    found = (_entry(message, KEY) for message in messages)
    return next((text for text in found if text is not None), None)


def _parts(message: bytes) -> Iterator[tuple[int, bytes]]:
    for number, value, *_ in read_fields(memoryview(message)):
        yield number, b"" if isinstance(value, int) else bytes(value)


def _entry(message: bytes, key: str) -> str | None:
    """The value of an entry with this key."""
    parts = dict(_parts(message))
    return parts[2].decode() if parts.get(1) == key.encode() and 2 in parts else None


def numbers(path: Path) -> str:
    """A checksum of the network's numbers, wherever a kind of file keeps them; "" for those that guard their own.

    Raises InputError, naming the file: there are none, or the file is damaged.
    """
    try:
        match recognise(path):
            case "onnx":
                return onnx_file.checksum(path)
            case "openvino":
                return checksum(path.with_suffix(".bin"))
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise InputError(f"{path}: {missing}, which holds its numbers, is not there; copy both") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: the file is damaged ({error}); export it anew") from error
    return ""


_READERS: dict[Kind, Callable[[Path], str | None]] = {
    "onnx": _from_onnx,
    "openvino": _from_xml,
    "torch-export": _from_archive,
    "coreml": _from_coreml,
}
