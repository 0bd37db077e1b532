"""What torch.save, pickle.dump and TorchScript write, as data: the objects of a file, and its tensors by description.

A description (`StoredTensor`) has the shape and the position in the file. `read_tensor` maps the values into memory.
Both forms of torch.save are read, the zip and the one before version 1.6. pickle.dump stores the values of a tensor as
bytes in the pickle, and so does every pickle with those of a NumPy array. Nothing here needs PyTorch but `read_tensor`.
"""

import io
import mmap
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from inception_v3.errors import InputError
from inception_v3.weights.formats.pickled import MAX_MEMORY, Global, Instance, PickleError, is_key, read_pickle

if TYPE_CHECKING:
    from torch import Tensor

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_BYTES = LEGACY_MAGIC.to_bytes(10, "little")
EXPORT_RECORDS = {"archive_format", "serialized_exported_program.json"}  # names of records of torch.export
PICKLE_STARTS = tuple(bytes([0x80, protocol]) for protocol in (2, 3, 4, 5))
HEADER_OPCODES = 200  # of each pickle in front of the values of a single storage

# The dtypes of torch.FloatStorage and its siblings, and their size in bytes.
STORAGES = {
    "Double": ("float64", 8),
    "Float": ("float32", 4),
    "Half": ("float16", 2),
    "BFloat16": ("bfloat16", 2),
    "Long": ("int64", 8),
    "Int": ("int32", 4),
    "Short": ("int16", 2),
    "Char": ("int8", 1),
    "Byte": ("uint8", 1),
    "Bool": ("bool", 1),
    "ComplexFloat": ("complex64", 8),
    "ComplexDouble": ("complex128", 16),
    "QInt8": ("qint8", 1),
    "QUInt8": ("quint8", 1),
    "QInt32": ("qint32", 4),
}
# NumPy's dtypes, as its pickles call them.
DTYPES = {
    "f2": ("float16", 2),
    "f4": ("float32", 4),
    "f8": ("float64", 8),
    "i8": ("int64", 8),
    "i4": ("int32", 4),
    "i2": ("int16", 2),
    "i1": ("int8", 1),
    "u1": ("uint8", 1),
    "b1": ("bool", 1),
}


@dataclass(frozen=True)
class Storage:
    """The values behind one or several tensors. `values` has their bytes if they are part of the pickle."""

    key: str
    dtype: str
    item_size: int
    count: int
    values: memoryview | None = field(default=None, compare=False, repr=False)

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * self.item_size


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file. `dtype` has PyTorch's name without `torch.`; strides and offset count values."""

    storage: Storage
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class TorchFile:
    """The objects of a file. `starts` maps the key of each storage to its first byte and its size."""

    path: Path
    root: Any
    starts: dict[str, tuple[int, int]]
    is_script: bool = False  # TorchScript


# -------------------------------------------------------------------------------------------------- the pickle


def _persistent(identifier: Any) -> Any:
    """The storage or, in the old form, the class that a persistent id describes."""
    if isinstance(identifier, tuple) and len(identifier) > 1 and identifier[0] == "module":
        return identifier[1]
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
        raise PickleError("it has a persistent id that is not a storage")
    _, kind, key, _, count, *view = identifier
    name = kind.name.rpartition(".")[2].removesuffix("Storage") if isinstance(kind, Global) else ""
    dtype, item_size = STORAGES.get(name, ("bytes", 1))
    if not isinstance(key, str) or not isinstance(count, int) or count < 0 or view not in ([], [None]):
        raise PickleError("it has a storage without a key and a size")
    return Storage(key, dtype, item_size, count)


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise PickleError("it has a tensor without a storage")
    numbers = (offset, *shape, *strides)
    if len(numbers) > 40 or not all(isinstance(number, int) and 0 <= number < 1 << 48 for number in numbers):
        raise PickleError("it has a tensor without a size")
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if prod(shape) and last >= storage.count:
        raise PickleError("it has a tensor that is larger than its storage")
    return StoredTensor(storage, storage.dtype, tuple(shape), tuple(strides), offset)


def _rebuild_tensor_v3(storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> StoredTensor:
    """The form for dtypes without a storage of their own, 8-bit floats and others. Its storage counts bytes."""
    dtype = more[2].name.removeprefix("torch.") if len(more) > 2 and isinstance(more[2], Global) else "unknown"
    return replace(_rebuild_tensor(storage, offset, shape, strides), dtype=dtype)


def _rebuild_from_type(function: Any, kind: Any, args: Any, state: Any) -> Any:
    """A tensor of a subclass of torch.Tensor."""
    rebuild = REBUILDERS.get(function.name) if isinstance(function, Global) else None
    if rebuild is None or rebuild is _rebuild_from_type or not isinstance(args, tuple):
        return Instance(kind.name if isinstance(kind, Global) else "")
    return rebuild(*args)


def _rebuild_dict(*args: Any) -> dict[str, Any]:
    """An OrderedDict or a defaultdict; Python 2 passes the entries of the former as a list of pairs."""
    pairs = args[0] if args and isinstance(args[0], list) else ()
    return {pair[0]: pair[1] for pair in pairs if isinstance(pair, list | tuple) and is_key(pair[0])}


def _load_storage(content: Any) -> Storage:
    """The storage of a tensor in a file of pickle.dump: five pickles, its size and its values, as bytes."""
    if not isinstance(content, bytes):
        raise PickleError("it has a tensor without values")
    stream = io.BytesIO(content)
    magic, _, system, storage, _ = (read_pickle(stream, {}, _persistent, HEADER_OPCODES) for _ in range(5))
    is_known = magic == LEGACY_MAGIC and isinstance(system, dict) and system.get("little_endian") is True
    if not is_known or not isinstance(storage, Storage):
        raise PickleError("it has a tensor whose values are damaged")
    start = stream.tell() + 8
    return replace(storage, key=f"bytes {id(content)}", values=memoryview(content)[start : start + storage.size])


def _encode(text: Any = None, encoding: Any = None, *_: Any) -> Any:
    """Bytes, which Python 2's pickles store as text."""
    is_bytes = isinstance(text, str) and encoding in ("latin1", "latin-1")
    return text.encode("latin1") if is_bytes else Instance("_codecs.encode")


def _array_of_buffer(buffer: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> Instance:
    """A NumPy array in a pickle of protocol 5, in the form that the older protocols have."""
    return Instance("numpy.ndarray", state=(1, shape, dtype, order == "F", buffer))


def as_tensor(value: Any) -> StoredTensor | None:
    """The tensor that an object of a file is. A NumPy array of numbers is one, too. Raises PickleError: damaged."""
    if isinstance(value, StoredTensor):
        return value
    state = value.state if isinstance(value, Instance) and value.class_name == "numpy.ndarray" else None
    if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], Instance):
        return None
    _, shape, dtype, is_fortran, content = state
    order = dtype.state[1] if isinstance(dtype.state, tuple) and len(dtype.state) > 1 else None
    code = dtype.args[0] if dtype.args and isinstance(dtype.args[0], str) else ""
    if code not in DTYPES or order == ">" or not isinstance(content, bytes | bytearray):
        return None
    if not isinstance(shape, tuple) or len(shape) > 8 or not all(isinstance(length, int) for length in shape):
        raise PickleError("it has an array without a shape")
    name, item_size = DTYPES[code]
    strides = [1]
    for length in shape[:-1] if is_fortran else shape[:0:-1]:
        strides.append(strides[-1] * length)
    storage = Storage(f"bytes {id(content)}", name, item_size, len(content) // item_size, memoryview(content))
    return _rebuild_tensor(storage, 0, shape, (strides if is_fortran else strides[::-1])[: len(shape)])


REBUILDERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.nn.parameter.Parameter": lambda tensor=None, *_: tensor,
    "torch.Size": lambda sizes=(), *_: sizes,
    "collections.OrderedDict": _rebuild_dict,
    "collections.defaultdict": _rebuild_dict,
    "torch.storage._load_from_bytes": _load_storage,
    "_codecs.encode": _encode,
    "numpy.core.multiarray._reconstruct": lambda *_: Instance("numpy.ndarray"),
    "numpy._core.multiarray._reconstruct": lambda *_: Instance("numpy.ndarray"),
    "numpy.core.numeric._frombuffer": _array_of_buffer,
    "numpy._core.numeric._frombuffer": _array_of_buffer,
}

_read_pickle: Callable[[IO[bytes]], Any] = partial(read_pickle, rebuilders=REBUILDERS, persistent=_persistent)


# ---------------------------------------------------------------------------------------------------- the file


def is_torch_file(path: Path) -> bool:
    """Whether the file is one of torch.save, pickle.dump, TorchScript or torch.export. Never raises."""
    try:
        with path.open("rb") as file:
            if file.read(2) in PICKLE_STARTS:
                return True
        with zipfile.ZipFile(path) as archive:
            return any(_is_main(name) or name.endswith("archive_format") for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False


def _is_main(record: str) -> bool:
    """Whether a record of a zip is the pickle of what was saved: NAME/data.pkl."""
    return record == "data.pkl" or (record.endswith("/data.pkl") and record.count("/") == 1)


def open_torch_file(path: Path) -> TorchFile:
    """Read the objects of a file. The last file, or its fault, is remembered, since several formats look at it.

    Raises InputError, PickleError, OSError or zipfile.BadZipFile.
    """
    stat = path.stat()
    opened = _open(path, (stat.st_mtime_ns, stat.st_size, stat.st_ino))
    if isinstance(opened, Exception):
        raise opened
    return opened


@lru_cache(maxsize=1)
def _open(path: Path, version: tuple[int, ...]) -> TorchFile | Exception:
    try:
        return _open_zip(path) if zipfile.is_zipfile(path) else _open_pickle(path)
    except (InputError, PickleError, ValueError, zipfile.BadZipFile) as error:
        return error.with_traceback(None)


def _open_zip(path: Path) -> TorchFile:
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        records = {record.filename: record for record in archive.infolist()}
        _check_kind(path, records)
        main = next((name for name in records if _is_main(name)), None)
        if main is None:
            raise InputError(f"{path}: a zip without data.pkl, so not a file of torch.save; save it again")
        folder = main.removesuffix("data.pkl")
        read = (main, f"{folder}byteorder", f"{folder}data/")
        if any(name.startswith(read) and record.compress_type for name, record in records.items()):  # maybe a zip bomb
            raise InputError(f"{path}: has compressed records, which torch does not write; download it again")
        if records[main].file_size > MAX_MEMORY:
            raise PickleError("its pickle is too large")
        order = folder + "byteorder"
        if order in records and _stored(file, records[order]) != b"little":
            raise InputError(f"{path}: written on a big-endian machine; load it with torch and save it on this one")
        root = _read_pickle(io.BytesIO(_stored(file, records[main])))
        storages = f"{folder}data/"
        starts = {
            name.removeprefix(storages): (_first_byte(file, record), record.file_size)
            for name, record in records.items()
            if name.startswith(storages)
        }
        return TorchFile(path, root, starts, folder + "constants.pkl" in records)


def _check_kind(path: Path, records: dict[str, zipfile.ZipInfo]) -> None:
    """Raise InputError for a program of torch.export."""
    names = {name.rpartition("/")[2] for name in records}
    if names & EXPORT_RECORDS:
        raise InputError(
            f"{path}: a program of torch.export (.pt2), whose layers may have been rewritten; write its tensors with "
            f"torch.save(torch.export.load('{path.name}').state_dict, 'model.pth')"
        )


def _first_byte(file: IO[bytes], record: zipfile.ZipInfo) -> int:
    """The position of a record's content, behind its local header. Raises BadZipFile."""
    file.seek(record.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\3\4":
        raise zipfile.BadZipFile("a damaged record")
    lengths: tuple[int, int] = struct.unpack_from("<HH", header, 26)  # of a name and of extra fields, which follow
    return record.header_offset + 30 + sum(lengths)


def _stored(file: IO[bytes], record: zipfile.ZipInfo) -> bytes:
    """The content of a record that is not compressed, without its checksum, which a file may lack."""
    file.seek(_first_byte(file, record))
    return file.read(record.file_size)


class _Mapped(mmap.mmap):
    """A file whose read(n) returns at most what the file has, and never more than MAX_MEMORY."""

    def read(self, n: int | None = None) -> bytes:
        if (n or 0) > MAX_MEMORY and len(self) > MAX_MEMORY:
            raise PickleError("it has a text or bytes that are too long")
        return super().read(n)


def _open_pickle(path: Path) -> TorchFile:
    """A file of pickle.dump, or the form before PyTorch 1.6: five pickles, then the size and values of each storage."""
    with path.open("rb") as file, _Mapped(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        stream: Any = content
        if content[:2] not in PICKLE_STARTS:
            raise PickleError("neither a file of torch.save nor safetensors")
        first = _read_pickle(stream)
        if first != LEGACY_MAGIC:
            return TorchFile(path, first, {})
        _version, system, root, keys = (_read_pickle(stream) for _ in range(4))
        if not isinstance(system, dict) or system.get("little_endian") is not True or not isinstance(keys, list):
            raise PickleError("its header is damaged, or written on a big-endian machine")
        sizes = {storage.key: storage.item_size for storage in _storages(root)}
        starts, position = {}, content.tell()
        for key in keys:
            if not isinstance(key, str) or position + 8 > len(content):
                raise PickleError("it is truncated")
            size = int.from_bytes(content[position : position + 8], "little") * sizes.get(key, 1)
            starts[key] = position + 8, size
            position += 8 + size
        if position > len(content):
            raise PickleError("it is truncated")
        return TorchFile(path, root, starts)


def _storages(root: Any) -> list[Storage]:
    return [value.storage for value in walk(root) if isinstance(value, StoredTensor)]


def walk(root: Any, limit: int = 2_000_000) -> "list[Any]":
    """Every object below the root once, in the order of the file. Raises PickleError: too many."""
    seen: set[int] = set()
    objects, stack = [], [root]
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        objects.append(value)
        stack += reversed(children(value))
        if len(seen) > limit:
            raise PickleError("it has too many objects")
    return objects


def children(value: Any) -> list[Any]:
    """The containers, objects and tensors directly below an object."""
    below: list[Any] = []
    if isinstance(value, dict):
        below = list(value.values())
    elif isinstance(value, list | tuple):
        below = list(value)
    elif isinstance(value, Instance):
        below = [*value.args, *value.attributes.values(), *value.items.values()]
    return [child for child in below if isinstance(child, dict | list | tuple | Instance | StoredTensor)]


# ------------------------------------------------------------------------------------------------- the tensors


def map_file(path: Path) -> mmap.mmap:
    """Map a file into memory. Changes of the values stay in memory."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def read_tensor(file: TorchFile, content: "mmap.mmap | memoryview", tensor: StoredTensor) -> "Tensor":
    """The tensor, as a view of the file's `content`. Raises PickleError: its values are not in the file."""
    import torch

    storage = tensor.storage
    if storage.values is not None:
        content, start, size = storage.values, 0, len(storage.values)
    else:
        start, size = file.starts.get(storage.key, (0, -1))
    if storage.size > size or start + storage.size > len(content):
        raise PickleError("it is truncated: a tensor is not in the file")
    dtype = getattr(torch, tensor.dtype)
    if storage.count == 0:
        return torch.empty(tensor.shape, dtype=dtype)
    with warnings.catch_warnings(action="ignore"):  # the bytes of a pickle cannot be written, and nothing does
        values = torch.frombuffer(content, dtype=dtype, count=storage.count, offset=start)
    if start % storage.item_size or storage.values is not None:
        values = values.clone()
    return values.as_strided(tensor.shape, tensor.strides, tensor.offset)
