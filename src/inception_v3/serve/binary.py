"""Triton's binary tensor data: the JSON of a request or response, followed by the bytes of tensors.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from collections.abc import Iterable

from inception_v3.serve.errors import RequestError

HEADER = "Inference-Header-Content-Length"  # the header with the length of the JSON in bytes
LENGTH_BYTES = 4  # before each element of a BYTES tensor: its length, little-endian


def split_body(body: bytes, json_length: str | None) -> tuple[bytes, memoryview]:
    """The JSON and the bytes after it. `json_length` is the value of HEADER, None if it is missing."""
    if json_length is None:
        return body, memoryview(b"")
    if not (json_length.isascii() and json_length.isdigit() and len(json_length) <= 12):
        raise RequestError(f"{HEADER}: {json_length[:40]!r} is not a number of bytes")
    if (length := int(json_length)) > len(body):
        raise RequestError(f"{HEADER}: {length} bytes, but the body has only {len(body)}")
    return body[:length], memoryview(body)[length:]


def unpack_bytes(data: memoryview, count: int) -> list[bytes]:
    """The `count` elements of a BYTES tensor. Raises RequestError: the lengths do not fit."""
    elements: list[bytes] = []
    position = 0
    while position < len(data) and len(elements) < count:
        start = position + LENGTH_BYTES
        position = start + int.from_bytes(data[position:start], "little")
        if start > len(data) or position > len(data):
            raise RequestError(f"BYTES element {len(elements)} is longer than the tensor; check binary_data_size")
        elements.append(bytes(data[start:position]))
    if len(elements) < count or position < len(data):
        raise RequestError(f"the BYTES tensor does not hold exactly {count} elements; check shape and binary_data_size")
    return elements


def pack_bytes(elements: Iterable[bytes]) -> bytes:
    """The elements of a BYTES tensor as binary data."""
    return b"".join(len(element).to_bytes(LENGTH_BYTES, "little") + element for element in elements)
