"""TensorFlow checkpoints, read in the formats V1 and V2 and written in V2, without TensorFlow.

Both formats use LevelDB's sorted table (tensorflow/core/lib/io/table_format.txt, which refers to LevelDB's
doc/table_format.md). In V1 (tensorflow/core/util/saved_tensor_slice.proto) one table holds everything: the key "" has
a list of the variables, the other keys have their values as protobuf messages. In V2
(tensorflow/core/util/tensor_bundle and protobuf/tensor_bundle.proto) the table PREFIX.index has the position of each
variable's bytes in the files PREFIX.data-XXXXX-of-XXXXX.

A file is not trusted: every size that it declares is compared with the file's own size before memory is allocated,
and the checksum of everything read is verified.
"""

import math
import os
import re
import struct
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from inception_v3.errors import InputError
from inception_v3.support.crc32c import masked_crc
from inception_v3.support.files import atomic_write
from inception_v3.support.protocol_buffers import (
    Bytes,
    Fields,
    decode_varints,
    encode,
    encode_varint,
    integer,
    messages,
    octets,
    parse,
    read_varint,
)
from inception_v3.support.system_errors import check_readable, is_file, read_reason

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # the name of a text that TensorFlow 2 stores among the variables
FOOTER = 48  # bytes: the handles of two blocks, padded to 40 bytes, and the magic number
TRAILER = 5  # bytes after each block: the type of compression and the checksum
# NumPy's name of each DataType in tensorflow/core/framework/types.proto. NumPy has no bfloat16.
BFLOAT16 = 14
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", BFLOAT16: "<u2", 19: "<f2"}
# The field of TensorProto that holds the values of each DataType in V1: floats as bytes, integers as varints.
V1_FLOATS = {1: 5, 2: 6}
V1_VARINTS = {3: 7, 9: 10, BFLOAT16: 13, 19: 13}

Slice = tuple[tuple[int, int], ...]  # (start, length) in each dimension; a length of -1 means all of it
Fetch = Callable[[bytes, int, tuple[int, ...]], np.ndarray]


class Variable(NamedTuple):
    """A variable as the checkpoint declares it. `slices` is empty if a single entry of V2 holds the whole variable."""

    name: str
    dtype: int
    shape: tuple[int, ...]
    slices: list[Slice]


def recognises(path: str | Path) -> bool:
    """Whether `path` belongs to a checkpoint: a V1 file, or the prefix, the index or a data file of V2."""
    return _table_file(Path(path)) is not None


def read(path: str | Path, wanted: Callable[[str], bool] | None = None) -> dict[str, np.ndarray]:
    """Read the variables of a checkpoint by name, sorted; with `wanted`, only those for whose name it returns True.

    bfloat16 becomes float32, which holds its values exactly. Without `wanted`, strings and other types that are not
    weights are skipped.

    Raises InputError, in one line: not a checkpoint, damaged, files missing, written by a newer TensorFlow, or a
    wanted variable has a type that cannot be read.
    """
    checkpoint = open_checkpoint(path)
    names = sorted(name for name in checkpoint.variables if wanted is None or wanted(name))
    is_weight = {name: wanted is not None or checkpoint.variables[name].dtype in DTYPES for name in names}
    return {name: checkpoint.read(name) for name in names if is_weight[name]}


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint: its table, and its variables by name."""

    file: Path
    variables: "dict[str, Variable]"
    fetch: Fetch

    def read(self, name: str) -> np.ndarray:
        """The values of a variable. Raises InputError: damaged, or of a type that cannot be read."""
        variable = self.variables[name]
        if variable.dtype not in DTYPES:
            raise InputError(
                f"{self.file}: {name!r} is of TensorFlow's type {variable.dtype}; "
                "save it as float16, bfloat16, float32, float64, int32 or int64"
            )
        with _as_input_error(self.file, name):
            return _assemble(self.file, variable, self.fetch)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Read the list of a checkpoint's variables. Raises InputError as `read`."""
    file = _table_file(Path(path))
    if file is None:
        raise InputError(f"{path}: not a complete TensorFlow checkpoint; give a V1 file or the prefix of a V2 one")
    with _as_input_error(file):
        table = Table(file)
        header = parse(table.find(b""))
        # In field 1, V1 has a message and V2 the number of its data files.
        variables, fetch = _open_v1(table, header) if messages(header, 1) else _open_v2(table, header)
    return Checkpoint(file, {variable.name: variable for variable in variables}, fetch)


def read_object_graph(path: str | Path) -> memoryview | None:
    """The TrackableObjectGraph (trackable_object_graph.proto) in a checkpoint of TensorFlow 2; None in any other.

    Raises InputError: damaged, or files missing.
    """
    file = _table_file(Path(path))
    if file is None or file.suffix != ".index":
        return None
    with _as_input_error(file, OBJECT_GRAPH):
        table = Table(file)
        entry = next((value for key, value in table.items() if key == OBJECT_GRAPH.encode()), None)
        if entry is None:
            return None
        fields = parse(entry)
        data = _data_file(table, integer(fields, 3), integer(parse(table.find(b"")), 1))
        content = _read_at(data, integer(fields, 4), integer(fields, 5)).data
        size, start = read_varint(content, 0)
        length = struct.pack("<I", size)
        check, text = content[start : start + 4], content[start + 4 :]
        # tensorflow/core/util/tensor_bundle/tensor_bundle.cc, WriteStringTensor
        if len(text) != size or masked_crc(length + check + text) != struct.unpack("<I", octets(fields, 6))[0]:
            raise ValueError(f"a wrong checksum in {data}")
        return text


def list_variables(path: str | Path) -> dict[str, tuple[int, ...]]:
    """The shapes of all variables of a checkpoint by name, sorted. Raises InputError, as `read`."""
    return {name: variable.shape for name, variable in sorted(open_checkpoint(path).variables.items())}


def write(prefix: str | Path, variables: Mapping[str, np.ndarray]) -> None:
    """Write a V2 checkpoint, PREFIX.index and one data file, that `tf.train.load_checkpoint` and a Saver read.

    Both files are complete before either replaces an older one. Raises InputError: the disk is full, the path cannot
    be written, or a variable has a name or a type that TensorFlow could not read back.
    """
    numbers = {np.dtype(name): number for number, name in DTYPES.items() if number != BFLOAT16}
    entries = {}
    for name, value in variables.items():
        key = name.encode(errors="replace")
        # The empty key is the header's, and keys that begin with NUL belong to slices.
        if not key or key.startswith(b"\0") or key.decode() != name:
            raise InputError(f"{prefix}: a checkpoint cannot hold a variable called {name!r}; rename it")
        if value.dtype.newbyteorder("<") not in numbers:
            raise InputError(f"{prefix}: {name!r} is of type {value.dtype}; give float16/32/64 or int32/64")
        entries[key] = value
    index, data = Path(f"{prefix}.index"), Path(f"{prefix}.data-00000-of-00001")
    # The contexts exit in reverse order: the data file is renamed first, so that an index never lacks its data.
    with atomic_write(index) as index_file, atomic_write(data) as data_file:
        records = [(b"", encode(1, 1) + encode(3, encode(1, 1)))]  # one data file, format version 1
        with data_file.open("wb") as file:
            for key, value in sorted(entries.items()):
                little = np.asarray(value, value.dtype.newbyteorder("<"), order="C")
                stored = little.reshape(-1).view(np.uint8)
                shape = b"".join(encode(2, encode(1, length)) for length in little.shape)
                position = encode(4, file.tell()) + encode(5, stored.size)
                crc = struct.pack("<BI", 6 << 3 | 5, masked_crc(stored.data))
                records.append((key, encode(1, numbers[little.dtype]) + encode(2, shape) + position + crc))
                file.write(stored.data)
        index_file.write_bytes(_build_table(records))


def _table_file(path: Path) -> Path | None:
    """Return the table of the checkpoint that `path` belongs to: the file itself, or the index beside it."""
    index = Path(re.sub(r"\.data-\d{5}-of-\d{5}$", "", str(path)) + ".index")
    try:
        if is_file(path):
            with path.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - len(MAGIC)))
                if file.read() == MAGIC:
                    return path
        if not is_file(index):
            return None
        check_readable(index)
        return index
    except (OSError, ValueError):
        return None


@contextmanager
def _as_input_error(path: Path, variable: str | None = None) -> Iterator[None]:
    """Turn any error while reading or parsing `path` into an InputError of one line."""
    subject = f"{path}: {variable!r}" if variable is not None else f"{path}"
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{subject}: {error.filename} is missing; put it beside the other files") from error
    except OSError as error:
        raise InputError(f"{subject}: {read_reason(error.filename or path, error)}") from error
    except MemoryError as error:
        raise InputError(f"{subject}: does not fit into memory; use a machine with more memory") from error
    except (ValueError, IndexError, OverflowError, struct.error) as error:
        raise InputError(f"{subject}: damaged ({error}); copy or download the checkpoint again") from error


# --- the two formats ---


def _open_v1(table: "Table", header: Fields) -> tuple[list[Variable], Fetch]:
    meta = parse(octets(header, 1))
    _check_version(table.path, parse(octets(meta, 2)))
    variables = [
        _variable(octets(fields, 1), integer(fields, 3), octets(fields, 2), messages(fields, 4))
        for fields in map(parse, messages(meta, 1))
    ]
    if len({variable.name for variable in variables}) != len(variables):
        raise ValueError("a variable is listed twice")

    def fetch(key: bytes, dtype: int, shape: tuple[int, ...]) -> np.ndarray:
        tensor = parse(octets(parse(octets(parse(table.find(key)), 2)), 3))
        if dtype in V1_FLOATS:
            values = np.frombuffer(octets(tensor, V1_FLOATS[dtype]), DTYPES[dtype]).copy()
        else:
            # Narrow integers are stored as 64 bits; 16-bit floats are stored as the integer with their bits.
            values = decode_varints(octets(tensor, V1_VARINTS[dtype]))
            values = values.astype(f"<i{np.dtype(DTYPES[dtype]).itemsize}").view(DTYPES[dtype])
        if values.size != math.prod(shape):
            raise ValueError(f"{values.size} values for the shape {list(shape)}")
        return to_native(values, dtype).reshape(shape)

    return variables, fetch


def _open_v2(table: "Table", header: Fields) -> tuple[list[Variable], Fetch]:
    if table.path.suffix != ".index":
        raise InputError(f"{table.path}: the index of a V2 checkpoint; rename it to the prefix of its data and .index")
    if integer(header, 2):
        raise InputError(f"{table.path}: from a big-endian machine; load it in TensorFlow there and save it as V1")
    _check_version(table.path, parse(octets(header, 3)))
    shards = integer(header, 1)
    entries = {key: parse(value) for key, value in table.items()}
    # Keys that begin with NUL belong to slices, which the entry of the whole variable lists.
    variables = [
        _variable(key, integer(fields, 1), octets(fields, 2), messages(fields, 7))
        for key, fields in entries.items()
        if key and not key.startswith(b"\0")
    ]
    bytes_read: Counter[Path] = Counter()

    def fetch(key: bytes, dtype: int, shape: tuple[int, ...]) -> np.ndarray:
        if key not in entries:
            raise ValueError("one of its slices is missing")
        fields = entries[key]
        shard, offset, size = integer(fields, 3), integer(fields, 4), integer(fields, 5)
        if not 0 <= shard < shards or (integer(fields, 1), read_shape(octets(fields, 2))) != (dtype, shape):
            raise ValueError("its entries contradict each other")
        if size != math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize:
            raise ValueError(f"{size} bytes for the shape {list(shape)}")
        file = _data_file(table, shard, shards)
        # Entries that all point at the same bytes could exhaust the memory.
        bytes_read[file] += size
        if bytes_read[file] > file.stat().st_size:
            raise ValueError(f"{file} is truncated")
        values = _read_at(file, offset, size)
        if masked_crc(values.data) != struct.unpack("<I", octets(fields, 6))[0]:
            raise ValueError(f"a wrong checksum in {file}")
        return to_native(values.view(DTYPES[dtype]), dtype).reshape(shape)

    return variables, fetch


def _data_file(table: "Table", shard: int, shards: int) -> Path:
    return table.path.with_name(f"{table.path.stem}.data-{shard:05d}-of-{shards:05d}")


def _check_version(path: Path, version: Fields) -> None:
    """Raise InputError if VersionDef.min_consumer, the oldest reader that suffices, is newer than TensorFlow 2.12."""
    if integer(version, 2) > 1:
        raise InputError(f"{path}: of a format newer than TensorFlow 2.12's; save it with that version")


def _variable(name: Bytes, dtype: int, shape: Bytes, slices: list[memoryview]) -> Variable:
    dimensions = [[parse(extent) for extent in messages(parse(message), 1)] for message in slices]
    extents = [tuple((integer(d, 1), integer(d, 2) if 2 in d else -1) for d in extent) for extent in dimensions]
    return Variable(bytes(name).decode(), dtype, read_shape(shape), extents)


def read_shape(message: Bytes) -> tuple[int, ...]:
    fields = parse(message)
    shape = tuple(integer(parse(dimension), 1) for dimension in messages(fields, 2))
    if integer(fields, 3) or any(length < 0 for length in shape):
        raise ValueError("a shape is unknown")
    return shape


def to_native(values: np.ndarray, dtype: int) -> np.ndarray:
    """Convert values of a DataType to the machine's byte order, and bfloat16 to float32."""
    if dtype == BFLOAT16:  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _assemble(file: Path, variable: Variable, fetch: Fetch) -> np.ndarray:
    """Read a variable, from one entry or from the slices of a partitioned variable."""
    name, dtype, shape, slices = variable.name.encode(), variable.dtype, variable.shape, variable.slices
    if not slices:
        return fetch(name, dtype, shape)
    regions, parts = [], []
    for extents in slices:
        spans = [(start, start + n) if n >= 0 else (0, full) for (start, n), full in zip(extents, shape, strict=True)]
        if any(start < 0 or stop > full for (start, stop), full in zip(spans, shape, strict=True)):
            raise ValueError("a slice exceeds the shape")
        regions.append(tuple(slice(start, stop) for start, stop in spans))
        parts.append(tuple(stop - start for start, stop in spans))
    if sum(map(math.prod, parts)) < math.prod(shape):
        raise InputError(
            f"{file}: {variable.name!r} is partly in other files (a sharded V1 checkpoint); "
            "save it in TensorFlow without sharding, or in format V2"
        )
    if sum(map(math.prod, parts)) > math.prod(shape):
        raise ValueError("slices overlap")
    pieces = [fetch(_slice_key(name, s), dtype, part) for s, part in zip(slices, parts, strict=True)]
    if len(pieces) == 1:
        return pieces[0]
    result, filled = np.empty(shape, pieces[0].dtype), np.zeros(shape, bool)
    for region, piece in zip(regions, pieces, strict=True):
        result[region], filled[region] = piece, True
    if not filled.all():
        raise ValueError("slices overlap")
    return result


def _slice_key(name: bytes, extents: Slice) -> bytes:
    """The key of a slice in the table.

    Source: EncodeTensorNameSlice in tensorflow/core/util/saved_tensor_slice_util.cc, with lib/strings/ordered_code.cc.
    """
    rank = bytes([1, len(extents)]) if extents else b"\0"
    return b"\0" + name.replace(b"\0", b"\0\xff") + b"\0\1" + rank + b"".join(_ordered(n) for e in extents for n in e)


def _ordered(number: int) -> bytes:
    if number < 0:
        return bytes(octet ^ 0xFF for octet in _ordered(~number))
    length = number.bit_length() // 7 + 1
    return (number | ((1 << length) - 1) << 7 * length).to_bytes(length, "big")


# --- tables ---


class Table:
    """A sorted table of keys and values. One block at a time is in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.limit = path.stat().st_size - FOOTER
        footer = _read_at(path, self.limit, FOOTER).data
        if footer[-len(MAGIC) :] != MAGIC:
            raise ValueError("its end is missing")
        # The footer has two handles: first the metaindex block, which TensorFlow leaves empty, then the index block.
        index = self._block(decode_varints(footer[: -len(MAGIC)])[2:4])
        self.keys = list(index)
        self.handles = [decode_varints(handle) for handle in index.values()]
        self.current = -1
        self.block: dict[bytes, memoryview] = {}

    def items(self) -> Iterator[tuple[bytes, memoryview]]:
        for handle in self.handles:
            yield from self._block(handle).items()

    def find(self, key: bytes) -> memoryview:
        # A key of the index is at or above every key of its block, and below every key of the next block.
        number = bisect_left(self.keys, key)
        if number != self.current and number < len(self.keys):
            self.block, self.current = self._block(self.handles[number]), number
        if number != self.current or key not in self.block:
            raise ValueError("its values are missing" if key else "it has no list of variables")
        return self.block[key]

    def _block(self, handle: np.ndarray) -> dict[bytes, memoryview]:
        offset, size = handle.tolist()
        if min(offset, size) < 0 or offset + size + TRAILER > self.limit:
            raise ValueError("a block is beyond the end of the file")
        data = _read_at(self.path, offset, size + TRAILER).data
        if masked_crc(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise ValueError("a wrong checksum")
        # TensorFlow's tensor_slice_writer.cc and tensor_bundle.cc turn the tables' compression off.
        if data[-TRAILER]:
            raise InputError(f"{self.path}: compressed, which cannot be read; load it in TensorFlow and save it again")
        return _entries(data[:-TRAILER])


def _entries(block: memoryview) -> dict[bytes, memoryview]:
    """Keys and values of a block, in order. A key is stored without the prefix that it shares with the key before."""
    limit = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    if limit < 0:
        raise ValueError("a block is too short")
    entries: dict[bytes, memoryview] = {}
    key, offset, total = b"", 0, 0
    while offset < limit:
        shared, offset = read_varint(block, offset)
        rest, offset = read_varint(block, offset)
        size, offset = read_varint(block, offset)
        total += shared + rest
        # TensorFlow stores every 16th key in full, which limits the sum of all lengths. Without the limit, keys that
        # share more and more could exhaust the memory.
        if shared > len(key) or rest + size > limit - offset or total > 16 * len(block):
            raise ValueError("a block has an invalid structure")
        previous, key = key, key[:shared] + bytes(block[offset : offset + rest])
        if entries and key <= previous:
            raise ValueError("keys are out of order")
        entries[key] = block[offset + rest : offset + rest + size]
        offset += rest + size
    return entries


def _build_table(records: list[tuple[bytes, bytes]]) -> bytes:
    """A table with one block of records, which are already sorted by key."""
    data, meta = _build_block(records), _build_block([])
    index = _build_block([(records[-1][0], encode_varint(0) + encode_varint(len(data) - TRAILER))])
    handles = (len(data), len(meta) - TRAILER, len(data) + len(meta), len(index) - TRAILER)
    return data + meta + index + b"".join(map(encode_varint, handles)).ljust(FOOTER - len(MAGIC), b"\0") + MAGIC


def _build_block(records: list[tuple[bytes, bytes]]) -> bytes:
    block, restarts = bytearray(), []
    for key, value in records:
        restarts.append(len(block))  # the offset of each key that is stored in full: here every key
        block += b"\0" + encode_varint(len(key)) + encode_varint(len(value)) + key + value
    restarts = restarts or [0]
    block += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts)) + b"\0"
    return bytes(block) + struct.pack("<I", masked_crc(block))


def _read_at(path: Path, offset: int, size: int) -> np.ndarray:
    if offset < 0 or offset + size > path.stat().st_size:
        raise ValueError(f"{path} is truncated")
    return np.fromfile(path, np.uint8, size, offset=offset)
