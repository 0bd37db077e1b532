"""An .onnx file read field by field: its metadata, and its network without the numbers, which stay on the disk.

An ONNX file is one message of protocol buffers (onnx.proto). ONNX Runtime and the onnx package take it into memory
whole before they do anything with it; here what is long is jumped over, since each field says how long it is.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from inception_v3.support.protocol_buffers import encode, read_fields

# Numbers of fields.
GRAPH, METADATA = 7, 14  # of ModelProto
INITIALIZER = 5  # of GraphProto
RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 9, 13, 14  # of TensorProto
LEAST = 1024  # bytes: less is not worth an entry


def metadata(path: Path, longest: int) -> Iterator[bytes]:
    """Entries of the file's metadata (StringStringEntryProto) that are not longer. Raises ValueError: damaged."""
    for number, value, *_ in read_fields(_mapped(path)):
        if number == METADATA and isinstance(value, memoryview) and len(value) <= longest:
            yield bytes(value)


def add_metadata(path: Path, key: str, value: str) -> None:
    """An entry more: fields may stand in any order, and the last one is as good as the first."""
    with path.open("ab") as file:
        file.write(encode(METADATA, encode(1, key.encode()) + encode(2, value.encode())))


def checksum(path: Path) -> str:
    """SHA-256 of the network with its numbers; not of the metadata. Raises ValueError: damaged."""
    total = hashlib.sha256()
    with path.open("rb") as file:  # what is read through a map counts as this process's memory
        for number, value, _, end in read_fields(_mapped(path)):
            if number == GRAPH and isinstance(value, memoryview):
                file.seek(end - len(value))
                for place in range(file.tell(), end, 2**20):
                    total.update(file.read(min(2**20, end - place)))
    return total.hexdigest()


def outline(path: Path) -> bytes:
    """The file without its large tensors, each of which says where in the file its numbers lie (EXTERNAL_DATA).

    So ONNX Runtime maps them, where it would hold them twice. Raises ValueError: damaged.
    """
    name = path.name.encode()
    model = _mapped(path)
    found = bytearray()
    for number, graph, start, end in read_fields(model):
        if number == GRAPH and isinstance(graph, memoryview):
            kept = bytearray()
            for part in read_fields(graph):
                if part.number == INITIALIZER and isinstance(part.value, memoryview) and len(part.value) > LEAST:
                    kept += _elsewhere(part.value, end - len(graph) + part.end - len(part.value), name)
                else:
                    kept += graph[part.start : part.end]
            found += encode(GRAPH, kept)
        else:
            found += model[start:end]
    return bytes(found)


def _elsewhere(tensor: memoryview, place: int, name: bytes) -> bytes:
    """The tensor that lies at `place` in the file of this name, without its numbers."""
    kept = bytearray()
    for number, value, start, end in read_fields(tensor):
        if number != RAW_DATA or isinstance(value, int):
            kept += tensor[start:end]
            continue
        told = {b"location": name, b"offset": b"%d" % (place + end - len(value)), b"length": b"%d" % len(value)}
        for key, text in told.items():
            kept += encode(EXTERNAL_DATA, encode(1, key) + encode(2, text))
        kept += encode(DATA_LOCATION, 1)
    return encode(INITIALIZER, kept)


def _mapped(path: Path) -> memoryview:
    return np.memmap(path, np.uint8, "r").data
