"""Read and write the Protocol Buffers wire format, in which TensorFlow and ONNX store their files.

Source: protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5  # wire types

Bytes = bytes | memoryview
Fields = dict[int, list[int | memoryview]]  # the values of a message's fields by field number


class Field(NamedTuple):
    """A field of a message: its number and value, and its offsets in the message.

    `start` to `end` is the whole encoded field; the value comes last in it.
    """

    number: int
    value: int | memoryview
    start: int
    end: int


def read_fields(message: memoryview, damage: str = "") -> Iterator[Field]:
    """Yield the fields of an encoded message one by one, because a list of all of them could fill the memory.

    Raises ValueError: not a valid message; `damage` replaces the text of the error.
    """
    end = 0
    while end < len(message):
        start = end
        tag, offset = read_varint(message, start)
        wire_type = tag & 7
        value, end = read_varint(message, offset) if wire_type in (VARINT, LENGTH_DELIMITED) else (0, offset)
        if wire_type not in (VARINT, FIXED64, LENGTH_DELIMITED, FIXED32):
            raise ValueError(damage or "not a known model format")
        offset, end = end, end + {VARINT: 0, FIXED64: 8, LENGTH_DELIMITED: value, FIXED32: 4}[wire_type]
        if end > len(message):
            raise ValueError(damage or "it is cut short")
        yield Field(tag >> 3, message[offset:end] if wire_type else value, start, end)


def read_messages(message: memoryview, number: int, damage: str = "") -> Iterator[memoryview]:
    """Yield the messages, texts or byte strings of all fields with this number. Raises ValueError, as `read_fields`."""
    for field in read_fields(message, damage):
        if field.number == number and isinstance(field.value, memoryview):
            yield field.value


def parse(message: Bytes, limit: int | None = None) -> Fields:
    """The values of a message's fields by field number: integers, or bytes that are a message, text or floats.

    Raises ValueError: not a valid message, or more than `limit` values.
    """
    fields: Fields = {}
    for count, (number, value, *_) in enumerate(read_fields(memoryview(message), "a message is truncated")):
        if count == limit:
            raise ValueError(f"a message has more than {limit:,} parts")
        fields.setdefault(number, []).append(value)
    return fields


def integer(fields: Fields, number: int, default: int = 0) -> int:
    """The signed integer of a field; protobuf does not write 0. Raises ValueError: it is no integer."""
    value = fields.get(number, [default])[-1]
    if not isinstance(value, int):
        raise ValueError("a message has an invalid structure")
    return value - (1 << 64) if value >> 63 else value


def octets(fields: Fields, number: int) -> Bytes:
    """The message, text or byte string of a field; empty if there is none."""
    return (messages(fields, number) or [memoryview(b"")])[-1]


def text(fields: Fields, number: int) -> str:
    """The text of a field. Raises ValueError: it is not UTF-8."""
    return bytes(octets(fields, number)).decode()


def messages(fields: Fields, number: int) -> list[memoryview]:
    """The messages, texts or byte strings of all fields with this number."""
    return [value for value in fields.get(number, []) if not isinstance(value, int)]


def integers(fields: Fields, number: int) -> list[int]:
    """The signed integers of a repeated field, packed or not."""
    packed = b"".join(messages(fields, number))
    plain = [integer({0: [value]}, 0) for value in fields.get(number, []) if isinstance(value, int)]
    return plain + [int(value) for value in decode_varints(packed)]


def read_varint(data: bytes | memoryview, offset: int) -> tuple[int, int]:
    """Decode the unsigned integer at `offset`; return it and the offset behind it.

    Raises ValueError: it does not end within the data or within ten bytes.
    """
    if data[offset : offset + 1] and data[offset] < 0x80:  # most are this short, and this is several times faster
        return data[offset], offset + 1
    value = 0
    for count, octet in enumerate(data[offset : offset + 10]):
        value |= (octet & 0x7F) << 7 * count
        if octet < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, offset + count + 1
    raise ValueError("a number has no end" if offset + 10 <= len(data) else "it is cut short")


def decode_varints(data: bytes | memoryview) -> NDArray[np.int64]:
    """Decode all integers in `data`, together, which is faster than one by one. Raises ValueError: one has no end."""
    octets = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(octets < 0x80)
    starts = np.append(0, ends + 1)
    longest = int(np.diff(starts).max(initial=0))
    if starts[-1] != octets.size or longest > 10:
        raise ValueError("a number has no end")
    starts = starts[:-1]
    values = np.zeros(ends.size, np.uint64)
    for count in range(longest):
        longer = ends - starts >= count
        values[longer] |= (octets[starts[longer] + count] & 0x7F).astype(np.uint64) << np.uint64(7 * count)
    return values.view(np.int64)


def encode_varint(number: int) -> bytes:
    """Encode an unsigned integer."""
    octets = bytearray()
    while number > 0x7F:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*octets, number])


def encode(number: int, value: int | bytes | bytearray) -> bytes:
    """Encode a field with this number. The integer 0 is the default value, which is left out."""
    if isinstance(value, int):
        return encode_varint(number << 3 | VARINT) + encode_varint(value) if value else b""
    return encode_varint(number << 3 | LENGTH_DELIMITED) + encode_varint(len(value)) + value
