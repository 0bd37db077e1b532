"""Values in TensorFlow's graphs: the message TensorProto of tensorflow/core/framework/tensor.proto."""

import math

import numpy as np

from inception_v3.support.protocol_buffers import Bytes, integer, integers, messages, octets, parse
from inception_v3.weights.formats.tensorflow_checkpoint import (
    BFLOAT16,
    DTYPES,
    V1_FLOATS,
    V1_VARINTS,
    read_shape,
    to_native,
)

FLOATS = (*V1_FLOATS, BFLOAT16, 19)  # 19 is float16, in tensorflow/core/framework/types.proto
MAX_VALUES = 100_000_000  # of a tensor; the largest variable of Inception V3 has 2 million
MAX_LISTED = 1 << 20  # values that are listed one by one
MAX_SHAPE = 1000  # bytes


def read_tensor(tensor: Bytes, expected: tuple[int, ...] | None = None) -> np.ndarray:
    """The values of a TensorProto; with `expected`, floats of that shape. Raises ValueError: other values, damaged.

    They are stored as bytes, or as a list whose last value is repeated if it is too short.
    """
    fields = parse(tensor, MAX_LISTED)
    dtype, declared = integer(fields, 1), octets(fields, 2)
    if dtype not in DTYPES if expected is None else dtype not in FLOATS:
        raise ValueError(f"its TensorFlow type {dtype} is not {'known' if expected is None else 'a float'}")
    shape = read_shape(declared) if len(declared) <= MAX_SHAPE else ()
    if expected is not None and shape != expected:
        raise ValueError(f"its shape is {list(shape)}, not {list(expected)}")
    if math.prod(shape) > MAX_VALUES:
        raise ValueError(f"its shape {list(shape)} is too large")
    if not set(fields) <= {1, 2, 3, 4, V1_FLOATS.get(dtype), V1_VARINTS.get(dtype)}:
        raise ValueError("its values are stored in a form that cannot be read")
    if content := octets(fields, 4):
        values = np.frombuffer(content, DTYPES[dtype])
    elif dtype in V1_FLOATS:
        values = np.frombuffer(b"".join(messages(fields, V1_FLOATS[dtype])), DTYPES[dtype])
    else:
        numbers = np.array(integers(fields, V1_VARINTS.get(dtype, 0)), np.int64)
        values = numbers.astype(f"<i{np.dtype(DTYPES[dtype]).itemsize}").view(DTYPES[dtype])
    missing = math.prod(shape) - values.size
    if missing > 0 and not content:
        values = np.append(values, np.full(missing, values[-1] if values.size else 0, values.dtype))
    if values.size != math.prod(shape):
        raise ValueError(f"it holds {values.size} values instead of {math.prod(shape)}")
    return to_native(values, dtype).reshape(shape)
