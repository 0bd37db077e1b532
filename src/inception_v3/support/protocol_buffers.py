"""What files of TensorFlow and ONNX are written in (protobuf.dev/programming-guides/encoding)."""

from collections.abc import Iterator
from typing import NamedTuple


class Field(NamedTuple):
    """`start` to `end` is where it stands in its message, with its number; its value stands last."""

    number: int
    value: int | memoryview
    start: int
    end: int


def read_fields(message: memoryview, damage: str = "") -> Iterator[Field]:
    """One at a time: a list of all could fill the memory. Raises ValueError, with `damage`, where it is no message."""
    end = 0
    while end < len(message):
        start = end
        tag, at = read_varint(message, start)
        kind = tag & 7
        value, end = read_varint(message, at) if kind in (0, 2) else (0, at)
        if kind not in (0, 1, 2, 5):
            raise ValueError(damage or "no model that is known")
        at, end = end, end + {0: 0, 1: 8, 2: value, 5: 4}[kind]
        if end > len(message):
            raise ValueError(damage or "it is cut short")
        yield Field(tag >> 3, message[at:end] if kind else value, start, end)


def read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """The number at `at`, unsigned, and where the next thing begins. Raises ValueError where there is none."""
    value = 0
    for count, octet in enumerate(data[at : at + 10]):
        value |= (octet & 0x7F) << 7 * count
        if octet < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + count + 1
    raise ValueError("a number has no end" if at + 10 <= len(data) else "it is cut short")


def put_varint(number: int) -> bytes:
    octets = bytearray()
    while number > 0x7F:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*octets, number])


def put(number: int, value: int | bytes | bytearray) -> bytes:
    """A field of this number; 0 is not written."""
    if isinstance(value, int):
        return put_varint(number << 3) + put_varint(value) if value else b""
    return put_varint(number << 3 | 2) + put_varint(len(value)) + value
