"""An .onnx file read field by field: its metadata, and its network without the numbers, which stay on the disk.

An ONNX file is one message of protocol buffers (onnx.proto). ONNX Runtime and the onnx package take it into memory
whole before they do anything with it; here what is long is jumped over, since each field says how long it is.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from inception_v3.protocol_buffers import put

# Numbers of fields.
GRAPH, METADATA = 7, 14  # of ModelProto
INITIALIZER = 5  # of GraphProto
RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 9, 13, 14  # of TensorProto
LEAST = 1024  # bytes: less is not worth an entry


@dataclass(frozen=True)
class Field:
    """`start` to `end` is what it holds; `at` is where its own number stands. A number is held by `end` alone."""

    number: int
    at: int
    start: int
    end: int


def metadata(path: Path, longest: int) -> Iterator[bytes]:
    """Entries of the file's metadata (StringStringEntryProto) that are not longer. Raises ValueError: damaged."""
    with path.open("rb") as file:
        for field in fields(file, 0, path.stat().st_size):
            if field.number == METADATA and field.end - field.start <= longest:
                yield _read(file, field.start, field.end)


def add_metadata(path: Path, key: str, value: str) -> None:
    """An entry more: fields may stand in any order, and the last one is as good as the first."""
    with path.open("ab") as file:
        file.write(put(METADATA, put(1, key.encode()) + put(2, value.encode())))


def checksum(path: Path) -> str:
    """SHA-256 of the network with its numbers; not of the metadata. Raises ValueError: damaged."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        for field in fields(file, 0, path.stat().st_size):
            if field.number == GRAPH:
                file.seek(field.start)
                for place in range(field.start, field.end, 2**20):
                    total.update(file.read(min(2**20, field.end - place)))
    return total.hexdigest()


def outline(path: Path) -> bytes:
    """The file without its large tensors, each of which says where in the file its numbers lie (EXTERNAL_DATA).

    So ONNX Runtime maps them, where it would hold them twice. Raises ValueError: damaged.
    """
    name = path.name.encode()
    with path.open("rb") as file:
        found = bytearray()
        for field in fields(file, 0, path.stat().st_size):
            if field.number == GRAPH:
                graph = bytearray()
                for part in fields(file, field.start, field.end):
                    large = part.number == INITIALIZER and part.end - part.start > LEAST
                    graph += _elsewhere(file, part, name) if large else _read(file, part.at, part.end)
                found += put(GRAPH, graph)
            else:
                found += _read(file, field.at, field.end)
    return bytes(found)


def _elsewhere(file: BinaryIO, tensor: Field, name: bytes) -> bytes:
    kept = bytearray()
    for field in fields(file, tensor.start, tensor.end):
        if field.number != RAW_DATA:
            kept += _read(file, field.at, field.end)
            continue
        told = {b"location": name, b"offset": b"%d" % field.start, b"length": b"%d" % (field.end - field.start)}
        for key, value in told.items():
            kept += put(EXTERNAL_DATA, put(1, key) + put(2, value))
        kept += put(DATA_LOCATION, 1)
    return put(INITIALIZER, kept)


def fields(file: BinaryIO, start: int, end: int) -> Iterator[Field]:
    """Those of the message between two places of a file. Raises ValueError where it is none."""
    place = start
    while place < end:
        file.seek(place)
        number, kind = divmod(read_varint(file), 8)
        if kind == 0:
            read_varint(file)
            first = last = file.tell()
        elif kind in (1, 5):
            first, last = file.tell(), file.tell() + (8 if kind == 1 else 4)
        elif kind == 2:
            length = read_varint(file)
            first, last = file.tell(), file.tell() + length
        else:
            raise ValueError("no model that is known")
        if last > end:
            raise ValueError("it is cut short")
        yield Field(number, place, first, last)
        place = last


def read_varint(stream: BinaryIO) -> int:
    value = shift = 0
    while True:
        byte = stream.read(1)
        if not byte or shift > 63:
            raise ValueError("it is cut short")
        value |= (byte[0] & 127) << shift
        shift += 7
        if byte[0] < 128:
            return value


def _read(file: BinaryIO, start: int, end: int) -> bytes:
    file.seek(start)
    return file.read(end - start)
