"""TensorFlow checkpoints, read in the formats V1 and V2 and written in V2, without TensorFlow.

Both rest on LevelDB's sorted table (tensorflow/core/lib/io/table_format.txt, which refers to LevelDB's
doc/table_format.md). In V1 (tensorflow/core/util/saved_tensor_slice.proto) one table holds everything: under
the key "" a list of the variables, under the others their values as protobuf messages. In V2
(tensorflow/core/util/tensor_bundle and protobuf/tensor_bundle.proto) the table PREFIX.index says where in the
files PREFIX.data-XXXXX-of-XXXXX each variable's bytes lie.

A file is not trusted: every size it declares is held against what is there before memory is taken for it, and
every checksum of what is read is verified.
"""

import math
import os
import re
import struct
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from inception_v3.errors import InputError
from inception_v3.support.crc32c import masked_crc
from inception_v3.support.files import atomic_write
from inception_v3.support.protocol_buffers import encode, encode_varint, read_fields, read_varint

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
FOOTER = 48  # where two blocks lie, padded to 40 bytes, and the magic number
TRAILER = 5  # after each block: its compression and the checksum
# The numbers are those of DataType in tensorflow/core/framework/types.proto. NumPy has no bfloat16.
BFLOAT16 = 14
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", BFLOAT16: "<u2", 19: "<f2"}
# The field of TensorProto that holds the values of each type in V1: floats as they are, or integers as varints.
V1_FLOATS = {1: 5, 2: 6}
V1_VARINTS = {3: 7, 9: 10, BFLOAT16: 13, 19: 13}

Bytes = bytes | memoryview
Fields = dict[int, list[int | memoryview]]
Slice = tuple[tuple[int, int], ...]  # (start, length) in each dimension; a length of -1 means all of it
Fetch = Callable[[bytes, int, tuple[int, ...]], np.ndarray]


class Variable(NamedTuple):
    """What a checkpoint tells about a variable; `slices` is empty where one entry of V2 holds it whole."""

    name: str
    dtype: int
    shape: tuple[int, ...]
    slices: list[Slice]


def recognise(path: str | Path) -> bool:
    """Whether `path` leads to a checkpoint: a V1 file, or the prefix, the index or a data file of V2."""
    return _table_file(Path(path)) is not None


def read(path: str | Path, wanted: Callable[[str], bool] | None = None) -> dict[str, np.ndarray]:
    """The variables of a checkpoint by name, sorted; where `wanted` is given, only those it says yes to.

    bfloat16 comes as float32, which holds its values exactly. Strings and other types that are no weights are
    left out, unless `wanted` asks for them by name.

    Raises InputError, in one line: no checkpoint, damaged, files missing, written by a newer TensorFlow, or a
    wanted variable has a type that cannot be read.
    """
    file = _table_file(Path(path))
    if file is None:
        raise InputError(f"{path}: no whole TensorFlow checkpoint; give a V1 file or the prefix of a V2 one")
    with _blaming(file):
        table = Table(file)
        header = _parse(table.find(b""))
        # V1 has a message where V2 has the number of its data files.
        variables, fetch = _open_v1(table, header) if _many(header, 1) else _open_v2(table, header)
    found = {}
    for variable in sorted(variables):
        if wanted is not None and not wanted(variable.name):
            continue
        if variable.dtype in DTYPES:
            with _blaming(file, variable.name):
                found[variable.name] = _assemble(file, variable, fetch)
        elif wanted is not None:
            remedy = "save it as float16, bfloat16, float32, float64, int32 or int64"
            raise InputError(f"{file}: {variable.name!r} is of TensorFlow's type {variable.dtype}; {remedy}")
    return found


def write(prefix: str | Path, variables: Mapping[str, np.ndarray]) -> None:
    """Write a V2 checkpoint, PREFIX.index and one data file, that `tf.train.load_checkpoint` and a Saver read.

    Both files are whole before either takes its place. Raises InputError: the disk is full, the place cannot be
    written, or a variable has a name or a type that TensorFlow could not read back.
    """
    numbers = {np.dtype(text): number for number, text in DTYPES.items() if number != BFLOAT16}
    entries = {}
    for name, value in variables.items():
        key = name.encode(errors="replace")
        # An empty key is the header's, and those that begin with NUL are the slices'.
        if not key or key.startswith(b"\0") or key.decode() != name:
            raise InputError(f"{prefix}: no variable can be called {name!r} in a checkpoint; rename it")
        if value.dtype.newbyteorder("<") not in numbers:
            raise InputError(f"{prefix}: {name!r} is of type {value.dtype}; give float16/32/64 or int32/64")
        entries[key] = value
    index, data = Path(f"{prefix}.index"), Path(f"{prefix}.data-00000-of-00001")
    # Left in reverse: the data file takes its place first, so that no index stands without its data.
    with atomic_write(index) as index_file, atomic_write(data) as data_file:
        records = [(b"", encode(1, 1) + encode(3, encode(1, 1)))]  # one data file, format version 1
        with data_file.open("wb") as file:
            for key, value in sorted(entries.items()):
                little = np.asarray(value, value.dtype.newbyteorder("<"), order="C")
                octets = little.reshape(-1).view(np.uint8)
                shape = b"".join(encode(2, encode(1, length)) for length in little.shape)
                place = encode(4, file.tell()) + encode(5, octets.size)
                crc = struct.pack("<BI", 6 << 3 | 5, masked_crc(octets.data))
                records.append((key, encode(1, numbers[little.dtype]) + encode(2, shape) + place + crc))
                file.write(octets.data)
        index_file.write_bytes(_build_table(records))


def _table_file(path: Path) -> Path | None:
    """The table of the checkpoint that `path` belongs to: the file itself, or the index beside it."""
    index = Path(re.sub(r"\.data-\d{5}-of-\d{5}$", "", str(path)) + ".index")
    try:
        if path.is_file():
            with path.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - len(MAGIC)))
                if file.read() == MAGIC:
                    return path
        return index if index.is_file() else None
    except (OSError, ValueError):
        return None


@contextmanager
def _blaming(path: Path, variable: str | None = None) -> Iterator[None]:
    """Tell whatever goes wrong with the bytes of `path` as an InputError of one line."""
    place = f"{path}: {variable!r}" if variable is not None else f"{path}"
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{place}: {error.filename} is missing; put it beside the other files") from error
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror or error}); check the file") from error
    except MemoryError as error:
        raise InputError(f"{place}: does not fit into memory; use a machine with more") from error
    except (ValueError, IndexError, OverflowError, struct.error) as error:
        raise InputError(f"{place}: damaged ({error}); copy or download the checkpoint again") from error


# --- the two formats ---


def _open_v1(table: "Table", header: Fields) -> tuple[list[Variable], Fetch]:
    meta = _parse(_bytes(header, 1))
    _check_version(table.path, _parse(_bytes(meta, 2)))
    variables = [_variable(_bytes(m, 1), _int(m, 3), _bytes(m, 2), _many(m, 4)) for m in map(_parse, _many(meta, 1))]
    if len({variable.name for variable in variables}) != len(variables):
        raise ValueError("a variable is listed twice")

    def fetch(key: bytes, dtype: int, shape: tuple[int, ...]) -> np.ndarray:
        tensor = _parse(_bytes(_parse(_bytes(_parse(table.find(key)), 2)), 3))
        if dtype in V1_FLOATS:
            values = np.frombuffer(_bytes(tensor, V1_FLOATS[dtype]), DTYPES[dtype]).copy()
        else:
            # Integers may come as 64 bits where fewer are meant; of floats these are the bits.
            values = _varints(_bytes(tensor, V1_VARINTS[dtype]))
            values = values.astype(f"<i{np.dtype(DTYPES[dtype]).itemsize}").view(DTYPES[dtype])
        if values.size != math.prod(shape):
            raise ValueError(f"{values.size} values for the shape {list(shape)}")
        return native(values, dtype).reshape(shape)

    return variables, fetch


def _open_v2(table: "Table", header: Fields) -> tuple[list[Variable], Fetch]:
    if table.path.suffix != ".index":
        raise InputError(f"{table.path}: the index of a V2 checkpoint; let its name end in .index as its data needs")
    if _int(header, 2):
        raise InputError(f"{table.path}: from a big-endian machine; load it in TensorFlow there and save it as V1")
    _check_version(table.path, _parse(_bytes(header, 3)))
    shards = _int(header, 1)
    entries = {key: _parse(value) for key, value in table.items()}
    # The keys that begin with NUL are those of slices, which the entry of the whole variable lists.
    names = [key for key in entries if key and not key.startswith(b"\0")]
    variables = [_variable(k, _int(entries[k], 1), _bytes(entries[k], 2), _many(entries[k], 7)) for k in names]
    taken: Counter[Path] = Counter()

    def fetch(key: bytes, dtype: int, shape: tuple[int, ...]) -> np.ndarray:
        if key not in entries:
            raise ValueError("one of its slices is missing")
        fields = entries[key]
        shard, offset, size = _int(fields, 3), _int(fields, 4), _int(fields, 5)
        if not 0 <= shard < shards or (_int(fields, 1), shape_of(_bytes(fields, 2))) != (dtype, shape):
            raise ValueError("its entries contradict each other")
        if size != math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize:
            raise ValueError(f"{size} bytes for the shape {list(shape)}")
        file = table.path.with_name(f"{table.path.stem}.data-{shard:05d}-of-{shards:05d}")
        # Entries that all point at the same bytes would fill any memory.
        taken[file] += size
        if taken[file] > file.stat().st_size:
            raise ValueError(f"{file} is cut off")
        values = _read_at(file, offset, size)
        if masked_crc(values.data) != struct.unpack("<I", _bytes(fields, 6))[0]:
            raise ValueError(f"a wrong checksum in {file}")
        return native(values.view(DTYPES[dtype]), dtype).reshape(shape)

    return variables, fetch


def _check_version(path: Path, version: Fields) -> None:
    """VersionDef.min_consumer is the number of the reader that is needed; TensorFlow 2.12 is 1 for both formats."""
    if _int(version, 2) > 1:
        raise InputError(f"{path}: of a format newer than TensorFlow 2.12's; save it with that version")


def _variable(name: Bytes, dtype: int, shape: Bytes, slices: list[memoryview]) -> Variable:
    dimensions = [[_parse(extent) for extent in _many(_parse(message), 1)] for message in slices]
    extents = [tuple((_int(d, 1), _int(d, 2) if 2 in d else -1) for d in each) for each in dimensions]
    return Variable(bytes(name).decode(), dtype, shape_of(shape), extents)


def shape_of(message: Bytes) -> tuple[int, ...]:
    fields = _parse(message)
    shape = tuple(_int(_parse(dimension), 1) for dimension in _many(fields, 2))
    if _int(fields, 3) or any(length < 0 for length in shape):
        raise ValueError("a shape is unknown")
    return shape


def native(values: np.ndarray, dtype: int) -> np.ndarray:
    if dtype == BFLOAT16:  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _assemble(file: Path, variable: Variable, fetch: Fetch) -> np.ndarray:
    """The variable from its one value or from the slices of a partitioned one."""
    name, dtype, shape, slices = variable.name.encode(), variable.dtype, variable.shape, variable.slices
    if not slices:
        return fetch(name, dtype, shape)
    regions, parts = [], []
    for extents in slices:
        spans = [(start, start + n) if n >= 0 else (0, full) for (start, n), full in zip(extents, shape, strict=True)]
        if any(start < 0 or stop > full for (start, stop), full in zip(spans, shape, strict=True)):
            raise ValueError("a slice lies outside")
        regions.append(tuple(slice(start, stop) for start, stop in spans))
        parts.append(tuple(stop - start for start, stop in spans))
    if sum(map(math.prod, parts)) < math.prod(shape):
        remedy = "save it in TensorFlow without sharding, or in format V2"
        raise InputError(f"{file}: {variable.name!r} has parts elsewhere, as in sharded V1 checkpoints; {remedy}")
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
    """EncodeTensorNameSlice in tensorflow/core/util/saved_tensor_slice_util.cc, with lib/strings/ordered_code.cc."""
    rank = bytes([1, len(extents)]) if extents else b"\0"
    return b"\0" + name.replace(b"\0", b"\0\xff") + b"\0\1" + rank + b"".join(_ordered(n) for e in extents for n in e)


def _ordered(number: int) -> bytes:
    if number < 0:
        return bytes(octet ^ 0xFF for octet in _ordered(~number))
    length = number.bit_length() // 7 + 1
    return (number | ((1 << length) - 1) << 7 * length).to_bytes(length, "big")


# --- tables ---


class Table:
    """A sorted table of keys and values, of which one block at a time is in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.limit = path.stat().st_size - FOOTER
        footer = _read_at(path, self.limit, FOOTER).data
        if footer[-len(MAGIC) :] != MAGIC:
            raise ValueError("its end is missing")
        # The first block that the footer tells of, TensorFlow leaves empty.
        index = self._block(_varints(footer[: -len(MAGIC)])[2:4])
        self.keys = list(index)
        self.places = [_varints(place) for place in index.values()]
        self.current = -1
        self.block: dict[bytes, memoryview] = {}

    def items(self) -> Iterator[tuple[bytes, memoryview]]:
        for place in self.places:
            yield from self._block(place).items()

    def find(self, key: bytes) -> memoryview:
        # A key of the index is not below any in its block, and below all in the next.
        number = bisect_left(self.keys, key)
        if number != self.current and number < len(self.keys):
            self.block, self.current = self._block(self.places[number]), number
        if number != self.current or key not in self.block:
            raise ValueError("its values are missing" if key else "it has no list of variables")
        return self.block[key]

    def _block(self, place: np.ndarray) -> dict[bytes, memoryview]:
        offset, size = place.tolist()
        if min(offset, size) < 0 or offset + size + TRAILER > self.limit:
            raise ValueError("a block lies beyond the end")
        data = _read_at(self.path, offset, size + TRAILER).data
        if masked_crc(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise ValueError("a wrong checksum")
        # tensor_slice_writer.cc and tensor_bundle.cc turn the compression of tables off.
        if data[-TRAILER]:
            raise InputError(f"{self.path}: compressed, which cannot be read; load it in TensorFlow and save it again")
        return _entries(data[:-TRAILER])


def _entries(block: memoryview) -> dict[bytes, memoryview]:
    """Keys and values of a block, in order. A key is told by what it shares with the one before, and the rest."""
    limit = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    found: dict[bytes, memoryview] = {}
    key, at, total = b"", 0, 0
    if limit < 0:
        raise ValueError("a block is too short")
    while at < limit:
        shared, at = read_varint(block, at)
        rest, at = read_varint(block, at)
        size, at = read_varint(block, at)
        total += shared + rest
        # TensorFlow spells out every 16th key, so they cannot sum up to more; sharing on and on fills any memory.
        if shared > len(key) or rest + size > limit - at or total > 16 * len(block):
            raise ValueError("a block has lost its structure")
        previous, key = key, key[:shared] + bytes(block[at : at + rest])
        if found and key <= previous:
            raise ValueError("keys are out of order")
        found[key] = block[at + rest : at + rest + size]
        at += rest + size
    return found


def _build_table(records: list[tuple[bytes, bytes]]) -> bytes:
    """A table with one block of `records`, which are sorted by their keys."""
    data, meta = _build_block(records), _build_block([])
    index = _build_block([(records[-1][0], encode_varint(0) + encode_varint(len(data) - TRAILER))])
    places = (len(data), len(meta) - TRAILER, len(data) + len(meta), len(index) - TRAILER)
    return data + meta + index + b"".join(map(encode_varint, places)).ljust(FOOTER - len(MAGIC), b"\0") + MAGIC


def _build_block(records: list[tuple[bytes, bytes]]) -> bytes:
    block, starts = bytearray(), []
    for key, value in records:
        starts.append(len(block))  # of the keys that are spelled out; here all
        block += b"\0" + encode_varint(len(key)) + encode_varint(len(value)) + key + value
    starts = starts or [0]
    block += struct.pack(f"<{len(starts) + 1}I", *starts, len(starts)) + b"\0"
    return bytes(block) + struct.pack("<I", masked_crc(block))


def _read_at(path: Path, offset: int, size: int) -> np.ndarray:
    with path.open("rb") as file:
        if offset < 0 or size < 0 or offset + size > os.fstat(file.fileno()).st_size:
            raise ValueError(f"{path} is cut off")
        data = np.empty(size, np.uint8)
        file.seek(offset)
        if file.readinto(data.data) != size:
            raise ValueError(f"{path} is cut off")
    return data


# --- protobuf's wire format (protobuf.dev/programming-guides/encoding) ---


def _varints(data: Bytes) -> np.ndarray:
    """All numbers in `data` at once, as int64."""
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


def _parse(message: Bytes) -> Fields:
    """The fields of a message: numbers, or bytes that only the field's definition makes sense of."""
    found: Fields = {}
    for number, value, *_ in read_fields(memoryview(message), "a message is cut off"):
        found.setdefault(number, []).append(value)
    return found


def _int(fields: Fields, number: int) -> int:
    """A signed number; 0 is not written."""
    value = fields.get(number, [0])[-1]
    if not isinstance(value, int):
        raise ValueError("a message has lost its structure")
    return value - (1 << 64) if value >> 63 else value


def _bytes(fields: Fields, number: int) -> Bytes:
    return (_many(fields, number) or [memoryview(b"")])[-1]


def _many(fields: Fields, number: int) -> list[memoryview]:
    return [value for value in fields.get(number, []) if not isinstance(value, int)]
