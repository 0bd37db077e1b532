"""Bottlenecks: what the network says of a picture before its last layer, computed once and kept on disk.

A picture is known by its content and a network by its weights, so names, folders and class lists may change: what
was computed once is found again. One SQLite file holds everything. Its transactions leave it whole after a kill or
on a full disk, and several processes may use it at once. It may be deleted at any time.
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
from typing import Literal, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import inception_v3
from inception_v3.data import Batch, LabelledImages, batches
from inception_v3.errors import InputError
from inception_v3.network.layers import Conv2d
from inception_v3.support.devices import explain_out_of_memory, precision_context
from inception_v3.weights.model import InceptionV3

Precision = Literal["fp32", "bf16"]
FEATURES = "PreLogits"
HEADS = ("Logits.", "AuxLogits.")
OF_HEADS = {"num_classes", "dropout_keep_prob", "create_aux_logits", "spatial_squeeze", "batch_norm_decay",
            "image_size", "final_endpoint"}  # fmt: skip  # settings that leave the features as they are
CACHE_FILE = "bottlenecks.sqlite"
LAYOUT = 1  # of the tables below
TABLES = (
    "CREATE TABLE files (path BLOB PRIMARY KEY, size, modified, changed, digest BLOB) WITHOUT ROWID",
    "CREATE TABLE features (network BLOB, picture BLOB, vector BLOB, checksum, PRIMARY KEY (network, picture))",
    f"PRAGMA user_version = {LAYOUT}",
)
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
AT_ONCE = 4096  # vectors that are read, 32 MiB
PATIENCE = 60.0  # seconds to wait for another process's transaction, which takes a fraction of one
STILL_CHANGING = 2 * 10**9  # nanoseconds: a file this new may change again without a change of its time stamps

Result = TypeVar("Result")
State = tuple[int, int, int]  # of a file: its size, when it was modified, when that was changed


class BottleneckCache:
    """The file in `folder` that holds bottlenecks. No connection stays open between calls.

    Methods raise InputError where the file cannot be read or written, is locked, or the disk is full; `digests` tells
    it where reading is enough. A damaged file is replaced by an empty one.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / CACHE_FILE
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: cannot be made ({error.strerror}); give another --cache") from error
        self._run(lambda _: None)

    def _run(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """The result of `work`, as one transaction."""
        for attempt in range(2):
            try:
                with closing(sqlite3.connect(self.file, timeout=PATIENCE)) as database:
                    if database.execute("PRAGMA user_version").fetchone()[0] != LAYOUT:
                        self._lay_out(database)
                    with database:
                        return work(database)
            except sqlite3.DatabaseError as error:
                code = error.sqlite_errorcode & 0xFF
                if code in DAMAGED and not attempt:
                    self.file.unlink(missing_ok=True)
                    self.file.with_name(f"{CACHE_FILE}-journal").unlink(missing_ok=True)
                    continue
                reason = "the disk is full; free some space" if code == sqlite3.SQLITE_FULL else str(error)
                raise InputError(f"{self.file}: {reason}, or give another --cache") from error
        raise AssertionError("the second attempt returns or raises")

    @staticmethod
    def _lay_out(database: sqlite3.Connection) -> None:
        """Two processes may find no tables at once: the one that waited looks again."""
        with database:
            database.execute("BEGIN IMMEDIATE")
            if database.execute("PRAGMA user_version").fetchone()[0] != LAYOUT:
                for table in ("files", "features"):
                    database.execute(f"DROP TABLE IF EXISTS {table}")
                for statement in TABLES:
                    database.execute(statement)

    def digests(
        self, files: Sequence[Path], on_file: Callable[[], None] = lambda: None
    ) -> tuple[list[tuple[bytes, State] | None], str | None]:
        """For each file the digest of its content and its state then; None where it cannot be read.

        A file is read once, and again when its size or one of its times has changed. What comes second is why the cache
        took no more, so that files will be read again that have not changed.
        """
        paths = [os.fsencode(os.path.abspath(file)) for file in files]  # noqa: PTH100 (resolving would read links)
        query = "SELECT size, modified, changed, digest FROM files WHERE path = ?"
        known = self._run(lambda database: [database.execute(query, (path,)).fetchone() for path in paths])
        found: list[tuple[bytes, State] | None] = []
        new: list[tuple[object, ...]] = []
        not_kept = None
        try:
            for file, path, row in zip(files, paths, known, strict=True):
                on_file()
                try:
                    state = _state(file)
                    if row is not None and row[:3] == state:
                        found.append((row[3], state))
                        continue
                    with file.open("rb") as opened:
                        digest = hashlib.file_digest(opened, _blake2b).digest()
                except OSError:
                    found.append(None)
                    continue
                found.append((digest, state))
                if time.time_ns() - max(state[1:]) > STILL_CHANGING:
                    new.append((path, *state, digest))
        finally:
            if new:
                insert = "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)"
                try:
                    self._run(lambda database: database.executemany(insert, new))
                except InputError as error:
                    not_kept = str(error)
        return found, not_kept

    def read(self, network: bytes, pictures: Sequence[bytes], length: int) -> dict[bytes, np.ndarray]:
        """Of those pictures the vectors that are there and whole, float32 of shape (length,)."""

        def select(database: sqlite3.Connection) -> dict[bytes, np.ndarray]:
            query = "SELECT vector, checksum FROM features WHERE network = ? AND picture = ?"
            found = {}
            for picture in pictures:
                row = database.execute(query, (network, picture)).fetchone()
                if row is not None and row[1] == _checksum(picture, row[0]) and len(row[0]) == 4 * length:
                    found[picture] = np.frombuffer(row[0], np.float32)
            return found

        return self._run(select)

    def write(self, network: bytes, vectors: dict[bytes, np.ndarray]) -> None:
        """Keep the vector of each picture."""
        rows = [
            (network, picture, blob := vector.astype(np.float32).tobytes(), _checksum(picture, blob))
            for picture, vector in vectors.items()
        ]
        insert = "INSERT OR REPLACE INTO features VALUES (?, ?, ?, ?)"
        self._run(lambda database: database.executemany(insert, rows))


def _state(file: Path) -> State:
    """What tells, without reading it, that a file is not what it was."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _blake2b() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


def _checksum(picture: bytes, blob: bytes) -> int:
    return zlib.crc32(blob, zlib.crc32(picture))


def network_key(model: InceptionV3, precision: Precision) -> bytes:
    """A digest of all but the picture that its features depend on, the programs that compute them included.

    The heads are no part of it: a network with other classes has the same features.
    """
    programs = {name: version(name) for name in ("torch", "torchvision", "pillow")}
    setup = {
        "programs": programs | {"inception_v3": inception_v3.__version__},
        "settings": {name: value for name, value in model.settings.items() if name not in OF_HEADS},
        "preprocessing": asdict(model.preprocessing),
        "precision": precision,
        "device": next(model.parameters()).device.type,
    }
    digest = _blake2b()
    digest.update(json.dumps(setup, sort_keys=True).encode())
    for name, tensor in model.state_dict().items():
        if not name.startswith(HEADS):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.digest()


@dataclass
class Bottlenecks:
    """`features` is (N, D) float32, `places` (N,) where in the data set its rows come from, in order."""

    features: Tensor
    places: Tensor
    bad: list[tuple[str, str]]  # (name, reason) of what could not be read
    computed: int  # the others were in the cache
    not_kept: str | None  # why the cache took no more


def bottlenecks(
    model: InceptionV3,
    pictures: LabelledImages,
    cache: BottleneckCache,
    *,
    precision: Precision = "fp32",
    batch_size: int = 32,
    workers: int = 0,
    on_file: Callable[[], None] = lambda: None,
    on_features: Callable[[int], None] = lambda done: None,
) -> Bottlenecks:
    """The features of every picture that can be read: from the cache, or computed and put there.

    `model` must be in inference mode and give one vector an image. What was computed before an interrupt is kept.
    `on_file` is called for each picture that is looked up, `on_features` with the number of those whose features
    are there. Raises InputError as BottleneckCache does, but for a cache that can be read and takes no more.
    """
    network = network_key(model, precision)
    features = np.empty((len(pictures), last_layer(model).weights.shape[1]), np.float32)
    there = np.zeros(len(pictures), bool)
    keys, states, not_kept = _keys(pictures, cache, on_file)
    for first in range(0, len(keys), AT_ONCE):
        places = range(len(keys))[first : first + AT_ONCE]
        cached = cache.read(network, [key for place in places if (key := keys[place])], features.shape[1])
        for place in places:
            if (key := keys[place]) is not None and key in cached:
                features[place], there[place] = cached[key], True
        on_features(int(there[list(places)].sum()))

    missing = np.flatnonzero(~there).tolist()
    bad: list[tuple[str, str]] = []
    if len(missing) <= 4 * batch_size:
        workers = 0  # to start processes would take longer than the pictures do
    loader = batches(pictures.subset(missing), model.preprocessing, batch_size, workers=workers)
    with _Keeper(cache, network) as keeper:
        for batch in loader if missing else ():
            assert isinstance(batch, Batch)
            bad += batch.bad
            readable = [missing[place] for place in batch.indices.tolist()]
            if readable:
                features[readable], there[readable] = features_of(model, batch.images, precision), True
            for place in readable:
                # what was decoded may be newer than what the digest is of
                key = keys[place]
                if key is not None and key == _key_now(pictures, place, key, states.get(place)):
                    keeper.add(key, features[place])
            on_features(len(batch.labels) + len(batch.bad))
    return Bottlenecks(
        torch.from_numpy(features if there.all() else features[there]),
        torch.from_numpy(np.flatnonzero(there)),
        bad,
        len(missing) - len(bad),
        keeper.problem or not_kept,
    )


class _Keeper:
    """Puts vectors into the cache once a second and on leaving; when it takes no more, for the reason in `problem`,
    work that may have taken hours goes on without it."""

    def __init__(self, cache: BottleneckCache, network: bytes) -> None:
        self.cache, self.network = cache, network
        self.waiting: dict[bytes, np.ndarray] = {}
        self.kept_at = time.monotonic()
        self.problem: str | None = None

    def __enter__(self) -> "_Keeper":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def add(self, picture: bytes, vector: np.ndarray) -> None:
        self.waiting[picture] = vector
        if time.monotonic() - self.kept_at > 1:
            self.flush()

    def flush(self) -> None:
        if self.waiting and self.problem is None:
            try:
                self.cache.write(self.network, self.waiting)
            except InputError as error:
                self.problem = str(error)
        self.waiting.clear()
        self.kept_at = time.monotonic()


def _keys(
    pictures: LabelledImages, cache: BottleneckCache, on_file: Callable[[], None]
) -> tuple[list[bytes | None], dict[int, State], str | None]:
    """What each picture is known by, None where it cannot be read; the states of files; why they were not kept."""
    keys: list[bytes | None] = [None] * len(pictures)
    states: dict[int, State] = {}
    files = {place: source for place, source in enumerate(pictures.sources) if isinstance(source, Path)}
    digests, not_kept = cache.digests(list(files.values()), on_file)
    for place, found in zip(files, digests, strict=True):
        if found is not None:
            keys[place], states[place] = found
    for place in range(len(pictures)):
        if place not in files:
            on_file()
            with suppress(InputError):  # told by who opens it
                keys[place] = _digest(pictures, place)
    return keys, states, not_kept


def _digest(pictures: LabelledImages, place: int) -> bytes:
    """Of a picture that is no file of its own. Raises InputError: it cannot be read."""
    source = pictures.sources[place]
    digest = _blake2b()
    if isinstance(source, Image.Image):
        digest.update(f"{source.mode} {source.size}".encode())
    digest.update(pictures.content(place))
    return digest.digest()


def _key_now(pictures: LabelledImages, place: int, key: bytes, state: State | None) -> bytes | None:
    """What a picture that was known by `key` is known by now; None where it has gone or its file has changed."""
    source = pictures.sources[place]
    if isinstance(source, Image.Image):
        return key
    try:
        if isinstance(source, Path):
            return key if _state(source) == state else None
        return _digest(pictures, place)
    except (InputError, OSError):
        return None


def last_layer(model: InceptionV3) -> Conv2d:
    """What makes logits of features."""
    layer = model.get_submodule("Logits.Conv2d_1c_1x1")
    assert isinstance(layer, Conv2d)
    return layer


@torch.inference_mode()
def features_of(model: InceptionV3, images: Tensor, precision: Precision = "fp32") -> np.ndarray:
    """Pixels (N, 3, H, W), as `data.batches` gives them, to PreLogits: float32 of shape (N, D)."""
    device = next(model.parameters()).device
    scaled = model.preprocessing.scale(images.to(device)).contiguous(memory_format=torch.channels_last)
    with explain_out_of_memory(device), precision_context(device, precision):
        _, end_points = model(scaled, end_points=(FEATURES,))
    vectors: np.ndarray = end_points[FEATURES].float().flatten(1).cpu().numpy()
    return vectors
