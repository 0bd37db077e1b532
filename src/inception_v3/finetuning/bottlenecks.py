"""Bottlenecks: the network's features in front of its last layer, computed once for each image and kept on disk.

An image is identified by its content and a network by its weights. So features are found again when files are renamed,
moved or put into other classes. One SQLite file holds everything: its transactions survive a kill and a full disk, and
several processes may use it at once. It may be deleted at any time.
"""

import hashlib
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import inception_v3
from inception_v3.data import LabelledImages, batches
from inception_v3.errors import InputError
from inception_v3.inference.engines.base import Precision
from inception_v3.network.layers import Conv2d
from inception_v3.support.devices import explain_out_of_memory, precision_context
from inception_v3.weights.model import InceptionV3

HEAD_PREFIXES = ("Logits.", "AuxLogits.")  # of the names of parameters
HEAD_SETTINGS = {"num_classes", "dropout_keep_prob", "create_aux_logits", "spatial_squeeze", "batch_norm_decay",
                 "image_size", "final_endpoint"}  # fmt: skip  # settings that do not change the features
CACHE_FILE = "bottlenecks.sqlite"
SCHEMA_VERSION = 1
SCHEMA = (
    "CREATE TABLE files (path BLOB PRIMARY KEY, size, modified, changed, digest BLOB) WITHOUT ROWID",
    "CREATE TABLE features (network BLOB, picture BLOB, vector BLOB, checksum, PRIMARY KEY (network, picture))",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
READ_SIZE = 4096  # vectors that are read in one query, 32 MiB
STILL_CHANGING = 2 * 10**9  # nanoseconds: a file this new may change again without a change of its time stamps

Result = TypeVar("Result")
FileState = tuple[int, int, int]  # the size of a file, and the times when its content and its status were changed


class BottleneckCache:
    """The file of cached features in a folder. No connection stays open between calls.

    All methods raise InputError if the file cannot be read or written, is locked for too long, or the disk is full. A
    damaged file is replaced by an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / CACHE_FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: cannot be created ({error.strerror}); give another --cache") from error
        self._run(lambda _: None)

    def _run(self, work: Callable[[sqlite3.Connection], Result], *, replace_damaged: bool = True) -> Result:
        """Run `work` as one transaction and return its result."""
        try:
            # The transactions of other processes take a fraction of a second.
            with closing(sqlite3.connect(self.file, timeout=60)) as database:
                if database.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
                    self._create_tables(database)
                with database:
                    return work(database)
        except sqlite3.DatabaseError as error:
            code = error.sqlite_errorcode & 0xFF
            if code not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or not replace_damaged:
                reason = "the disk is full; free some space" if code == sqlite3.SQLITE_FULL else str(error)
                raise InputError(f"{self.file}: {reason}, or give another --cache") from error
        for damaged in (self.file, self.file.with_name(f"{CACHE_FILE}-journal")):
            damaged.unlink(missing_ok=True)
        return self._run(work, replace_damaged=False)

    @staticmethod
    def _create_tables(database: sqlite3.Connection) -> None:
        """Create the tables, unless another process has done so while this one waited for the lock."""
        with database:
            database.execute("BEGIN IMMEDIATE")
            if database.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
                for statement in ("DROP TABLE IF EXISTS files", "DROP TABLE IF EXISTS features", *SCHEMA):
                    database.execute(statement)

    def digests(
        self, files: Sequence[Path], on_file: Callable[[], None] = lambda: None
    ) -> tuple[list[tuple[bytes, FileState] | None], str | None]:
        """The digest of each file's content and the state of the file, or None for a file that cannot be read.

        A file is read only if it is new, or if its size or its times have changed. The second value is the
        reason why the cache could not be written, or None. If it could not, the files are read again next time.
        """
        paths = [os.fsencode(os.path.abspath(file)) for file in files]  # noqa: PTH100 (resolving would read links)
        query = "SELECT size, modified, changed, digest FROM files WHERE path = ?"
        rows = self._run(lambda database: [database.execute(query, (path,)).fetchone() for path in paths])
        results: list[tuple[bytes, FileState] | None] = []
        new_rows: list[tuple[object, ...]] = []
        error = None
        try:
            for file, path, row in zip(files, paths, rows, strict=True):
                on_file()
                try:
                    state = _file_state(file)
                    if row is not None and row[:3] == state:
                        digest = row[3]
                    else:
                        with file.open("rb") as opened:
                            digest = hashlib.file_digest(opened, _blake2b).digest()
                        if time.time_ns() - max(state[1:]) > STILL_CHANGING:
                            new_rows.append((path, *state, digest))
                    results.append((digest, state))
                except OSError:
                    results.append(None)
        finally:
            try:
                self._insert("files", new_rows)
            except InputError as failure:
                error = str(failure)
        return results, error

    def read(self, network: bytes, images: Sequence[bytes], length: int) -> dict[bytes, np.ndarray]:
        """Read the vectors that the cache holds undamaged, float32 of shape (length,), by the digest of the image.

        `network` is a digest from `network_key`, and `images` are the digests of the images.
        """
        query = "SELECT vector, checksum FROM features WHERE network = ? AND picture = ?"
        rows = self._run(lambda database: [database.execute(query, (network, image)).fetchone() for image in images])
        return {
            image: np.frombuffer(row[0], np.float32)
            for image, row in zip(images, rows, strict=True)
            if row is not None and row[1] == _checksum(image, row[0]) and len(row[0]) == 4 * length
        }

    def write(self, network: bytes, vectors: dict[bytes, np.ndarray]) -> None:
        """Store the vector of each image."""
        blobs = {image: vector.astype(np.float32).tobytes() for image, vector in vectors.items()}
        self._insert("features", [(network, image, blob, _checksum(image, blob)) for image, blob in blobs.items()])

    def _insert(self, table: str, rows: Sequence[tuple[object, ...]]) -> None:
        if rows:
            statement = f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(rows[0]))})"
            self._run(lambda database: database.executemany(statement, rows))


def _file_state(file: Path) -> FileState:
    """Size and times, by which a changed file is recognised without reading it."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _blake2b() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


def _checksum(image: bytes, blob: bytes) -> int:
    return zlib.crc32(blob, zlib.crc32(image))


def network_key(model: InceptionV3, precision: Precision) -> bytes:
    """A digest of everything that determines the features of an image, including the versions of the packages.

    The heads are left out: networks that differ only in their classes share their features.
    """
    setup = {
        "programs": {name: version(name) for name in ("torch", "torchvision", "pillow")}
        | {"inception_v3": inception_v3.__version__},
        "settings": {name: value for name, value in model.settings.items() if name not in HEAD_SETTINGS},
        "preprocessing": asdict(model.preprocessing),
        "precision": precision,
        "device": next(model.parameters()).device.type,
    }
    digest = _blake2b()
    digest.update(json.dumps(setup, sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        if not name.startswith(HEAD_PREFIXES):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.digest()


@dataclass
class Bottlenecks:
    """The features of a data set."""

    features: Tensor  # (N, D) float32
    indices: Tensor  # (N,): the index of each row's image in the data set, ascending
    bad: list[tuple[str, str]]  # (name, reason) of images that could not be read
    computed: int  # number of rows that were not in the cache
    cache_error: str | None  # why the cache could not be written, or None


def bottlenecks(
    model: InceptionV3,
    images: LabelledImages,
    cache: BottleneckCache,
    *,
    precision: Precision = "fp32",
    batch_size: int = 32,
    workers: int = 0,
    on_file: Callable[[], None] = lambda: None,
    on_features: Callable[[int], None] = lambda count: None,
) -> Bottlenecks:
    """The features of every readable image: read from the cache, or computed and stored there.

    After an interrupt, the cache holds the features computed until then. If it can be read but not written, the
    features are computed without it.

    Args:
        model: in evaluation mode, with one feature vector per image.
        batch_size: images in one forward pass.
        workers: number of processes that decode images; 0 decodes in this process.
        on_file: called for each image that is looked up in the cache.
        on_features: called with the number of images that have been finished since the last call.

    Raises:
        InputError: the cache cannot be read.
    """
    network = network_key(model, precision)
    features = np.empty((len(images), last_layer(model).weights.shape[1]), np.float32)
    done = np.zeros(len(images), bool)
    keys, cache_error = _image_keys(images, cache, on_file)
    for first in range(0, len(images), READ_SIZE):
        indices = range(len(images))[first : first + READ_SIZE]
        cached = cache.read(network, [keys[index][0] for index in indices if index in keys], features.shape[1])
        for index in indices:
            if index in keys and keys[index][0] in cached:
                features[index], done[index] = cached[keys[index][0]], True
        on_features(int(done[list(indices)].sum()))

    missing = np.flatnonzero(~done).tolist()
    bad: list[tuple[str, str]] = []
    if len(missing) <= 4 * batch_size:
        workers = 0  # starting processes would take longer than decoding these images
    loader = batches(images.subset(missing), model.preprocessing, batch_size, workers=workers)
    with closing(_CacheWriter(cache, network)) as writer:
        for batch in loader if missing else ():
            bad += batch.bad
            readable = [missing[index] for index in batch.indices.tolist()]
            if readable:
                features[readable], done[readable] = compute_features(model, batch.images, precision), True
            for index in readable:
                # The file may have changed between the computation of its key and its decoding.
                if index in keys and _is_unchanged(images, index, *keys[index]):
                    writer.add(keys[index][0], features[index])
            on_features(len(batch.labels) + len(batch.bad))
    return Bottlenecks(
        torch.from_numpy(features if done.all() else features[done]),
        torch.from_numpy(np.flatnonzero(done)),
        bad,
        len(missing) - len(bad),
        writer.error or cache_error,
    )


class _CacheWriter:
    """Writes vectors to the cache once a second and on `close`. It stops after a failure; `error` is the reason."""

    def __init__(self, cache: BottleneckCache, network: bytes) -> None:
        self.cache, self.network = cache, network
        self.vectors: dict[bytes, np.ndarray] = {}
        self.written_at = time.monotonic()
        self.error: str | None = None

    def add(self, image: bytes, vector: np.ndarray) -> None:
        self.vectors[image] = vector
        if time.monotonic() - self.written_at > 1:
            self.close()

    def close(self) -> None:
        """Write the vectors that have been added since the last time."""
        if self.error is None:
            try:
                self.cache.write(self.network, self.vectors)
            except InputError as error:  # a cache that cannot be written must not end hours of work
                self.error = str(error)
        self.vectors.clear()
        self.written_at = time.monotonic()


def _image_keys(
    images: LabelledImages, cache: BottleneckCache, on_file: Callable[[], None]
) -> tuple[dict[int, tuple[bytes, FileState | None]], str | None]:
    """The key and the file state of each readable image, by index; and why the cache could not be written, or None."""
    files = {index: source for index, source in enumerate(images.sources) if isinstance(source, Path)}
    digests, cache_error = cache.digests(list(files.values()), on_file)
    keys: dict[int, tuple[bytes, FileState | None]] = {
        index: result for index, result in zip(files, digests, strict=True) if result is not None
    }
    for index in range(len(images)):
        if index not in files:
            on_file()
            with suppress(InputError):  # decoding the image will report it
                keys[index] = (_digest(images, index), None)
    return keys, cache_error


def _digest(images: LabelledImages, index: int) -> bytes:
    """The digest of an image that has no file of its own. Raises InputError if it cannot be read."""
    source = images.sources[index]
    digest = _blake2b()
    if isinstance(source, Image.Image):
        digest.update(f"{source.mode} {source.size}".encode())
    digest.update(images.content(index))
    return digest.digest()


def _is_unchanged(images: LabelledImages, index: int, key: bytes, state: FileState | None) -> bool:
    """Whether an image still has the content for which its key was computed."""
    source = images.sources[index]
    if isinstance(source, Image.Image):
        return True
    try:
        return _file_state(source) == state if isinstance(source, Path) else _digest(images, index) == key
    except (InputError, OSError):
        return False


def last_layer(model: InceptionV3) -> Conv2d:
    """The layer that computes the logits from the features."""
    layer = model.get_submodule("Logits.Conv2d_1c_1x1")
    assert isinstance(layer, Conv2d)
    return layer


@torch.inference_mode()
def compute_features(model: InceptionV3, images: Tensor, precision: Precision = "fp32") -> np.ndarray:
    """Run the network without its last layer: uint8 images (N, 3, H, W) to features (N, D) float32 on the CPU."""
    device = next(model.parameters()).device
    scaled = model.preprocessing.scale(images.to(device)).contiguous(memory_format=torch.channels_last)
    with explain_out_of_memory(device), precision_context(device, precision):
        _, end_points = model(scaled, end_points=("PreLogits",))
    return np.asarray(end_points["PreLogits"].float().flatten(1).cpu())
