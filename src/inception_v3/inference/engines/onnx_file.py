"""Reads an .onnx file field by field: its metadata, and its network without the weights, which stay on disk.

An ONNX file is one protocol buffer message (onnx.proto). ONNX Runtime and the package onnx load it into memory whole.
Every field states its length, so this module skips the long ones.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from inception_v3.support.protocol_buffers import encode, read_fields

# Field numbers of onnx.proto
GRAPH, METADATA = 7, 14  # in ModelProto
INITIALIZER = 5  # in GraphProto
RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 9, 13, 14  # in TensorProto
MIN_EXTERNAL = 1024  # bytes; a smaller tensor is not worth a reference


def metadata(path: Path, max_length: int) -> Iterator[memoryview]:
    """The metadata entries (StringStringEntryProto) up to `max_length` bytes. Raises ValueError: damaged."""
    for number, value, *_ in read_fields(_mapped(path)):
        if number == METADATA and isinstance(value, memoryview) and len(value) <= max_length:
            yield value


def add_metadata(path: Path, key: str, value: str) -> None:
    """Append a metadata entry. Protocol buffers allow fields in any order, so the file's end is a valid position."""
    with path.open("ab") as file:
        file.write(encode(METADATA, encode(1, key.encode()) + encode(2, value.encode())))


def checksum(path: Path) -> str:
    """SHA-256 of the network with its weights, without the metadata. Raises ValueError: damaged."""
    total = hashlib.sha256()
    with path.open("rb") as file:  # mapped pages would count as memory of this process
        for number, value, _, end in read_fields(_mapped(path)):
            if number == GRAPH and isinstance(value, memoryview):
                file.seek(end - len(value))
                for offset in range(file.tell(), end, 2**20):
                    total.update(file.read(min(2**20, end - offset)))
    return total.hexdigest()


def outline(path: Path) -> bytes:
    """The model with references (EXTERNAL_DATA) to the file instead of its large tensors.

    ONNX Runtime maps referenced tensors. Without references it would hold them twice. Raises ValueError: damaged.
    """
    model = _mapped(path)
    outlined = bytearray()
    for number, graph, start, end in read_fields(model):
        if number == GRAPH and isinstance(graph, memoryview):
            kept = bytearray()
            for part in read_fields(graph):
                if part.number == INITIALIZER and isinstance(part.value, memoryview) and len(part.value) > MIN_EXTERNAL:
                    kept += _reference(part.value, end - len(graph) + part.end - len(part.value), path.name.encode())
                else:
                    kept += graph[part.start : part.end]
            outlined += encode(GRAPH, kept)
        else:
            outlined += model[start:end]
    return bytes(outlined)


def _reference(tensor: memoryview, offset: int, file_name: bytes) -> bytes:
    """The tensor at `offset` in the file, with a reference instead of its values."""
    kept = bytearray()
    for number, value, start, end in read_fields(tensor):
        if number != RAW_DATA or isinstance(value, int):
            kept += tensor[start:end]
            continue
        start, length = offset + end - len(value), len(value)
        for key, text in {b"location": file_name, b"offset": b"%d" % start, b"length": b"%d" % length}.items():
            kept += encode(EXTERNAL_DATA, encode(1, key) + encode(2, text))
        kept += encode(DATA_LOCATION, 1)
    return encode(INITIALIZER, kept)


def _mapped(path: Path) -> memoryview:
    return np.memmap(path, np.uint8, "r").data
