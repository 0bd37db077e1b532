"""What files of TensorFlow and ONNX are written in (protobuf.dev/programming-guides/encoding)."""


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
