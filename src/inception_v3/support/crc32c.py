"""CRC32C checksums as TensorFlow stores them, in checkpoints and in TFRecords."""


def masked_crc(data: bytes | bytearray | memoryview) -> int:
    """Compute the masked CRC32C of `data`. The mask allows checksums of data that itself contains checksums.

    Source: tensorflow/core/lib/hash/crc32c.h.
    """
    import google_crc32c

    crc = 0
    for start in range(0, len(data), 1 << 20):  # extend() takes only bytes, so copy one block at a time
        crc = google_crc32c.extend(crc, bytes(data[start : start + (1 << 20)]))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
