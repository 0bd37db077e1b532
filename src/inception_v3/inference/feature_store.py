"""Features of images on disk, shared by all commands: computed once, found again by the content of the image.

One SQLite file holds everything. It may be used by several processes of one machine at once, and deleted at any time.
"""

import json
import os
import shutil
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from datetime import date
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import InputError
from inception_v3.support.arguments import checked
from inception_v3.support.files import atomic_write, file_lock
from inception_v3.support.json_values import parse_json
from inception_v3.support.text import printable

STORE_FILE = "features.sqlite"
MAX_BYTES = 10 * 10**9
DISK_FRACTION = 0.5  # the store fills at most this fraction of its own size and the free disk together
MIN_FREE = 2**20  # bytes; with less, SQLite fails with several reasons, such as "disk I/O error"
LOCK_TIMEOUT = 10.0  # seconds to wait for another process that writes
STILL_CHANGING = 2 * 10**9  # nanoseconds: a file this new may change again without a change of its time stamps
APPLICATION_ID, SCHEMA_VERSION = 0x49763353, 1  # in the header of the file
# With WAL a reader does not wait for a writer. `used` precedes the large columns: its update writes a single page.
SCHEMA = f"""
    PRAGMA auto_vacuum = INCREMENTAL;
    PRAGMA journal_mode = WAL;
    BEGIN IMMEDIATE;
    CREATE TABLE IF NOT EXISTS spaces (key BLOB PRIMARY KEY, fields TEXT) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS features (id INTEGER PRIMARY KEY AUTOINCREMENT, space BLOB, image BLOB, used INTEGER,
        checksum INTEGER, facts BLOB, vector BLOB, UNIQUE (space, image));
    PRAGMA application_id = {APPLICATION_ID};
    PRAGMA user_version = {SCHEMA_VERSION};
    COMMIT;
"""
INSERT = (
    "INSERT OR REPLACE INTO features (id, space, image, used, checksum, facts, vector) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
OTHER = "give another --cache"

KEY_BYTES = 16

Result = TypeVar("Result")
Vector = NDArray[np.float32]


@dataclass(frozen=True)
class FeatureSpace:
    """Everything that determines the features of an image, except the image. Other features are never returned.

    Attributes:
        weights: a checksum of the weights, and of settings of the network that change the features.
        end_point: the end points of which the features consist.
        width: the number of features of an image.
        preprocessing: the preprocessing and, where they change the pixels, the versions of the packages it uses.
        precision: fp32, bf16, fp16 or int8.
        engine: the engine and, where it changes the features, the version of its library.
        device: the kind of device, such as cpu or cuda.
        calibration: a checksum of the images that int8 was calibrated on; empty for other precisions.
    """

    weights: str
    end_point: str
    width: int
    preprocessing: str
    precision: str
    engine: str
    device: str
    calibration: str = ""

    @cached_property
    def key(self) -> bytes:
        return blake2b(json.dumps(asdict(self)).encode(), digest_size=KEY_BYTES).digest()


# The content keys of files are stored like the facts of an image without features, under a hash of the file's state.
FILES = FeatureSpace("", "files", 0, "", "", "", "")


def content_key(content: bytes | NDArray[np.uint8]) -> bytes:
    """A hash of a file's bytes, or of the shape and the pixels of an array."""
    if isinstance(content, bytes):
        return blake2b(content, digest_size=KEY_BYTES).digest()
    shape = repr(content.shape).encode()
    return blake2b(np.ascontiguousarray(content).data, digest_size=KEY_BYTES, key=shape).digest()


@dataclass(frozen=True)
class FileState:
    """A hash of a file's path, size and times, by which a change is recognised without reading it."""

    key: bytes
    time: int  # of the last change, in nanoseconds

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """The current state of a file. Raises OSError: there is no such file."""
        status = path.stat()
        facts = (os.path.abspath(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns)  # noqa: PTH100
        return cls(blake2b(repr(facts).encode(), digest_size=KEY_BYTES).digest(), max(facts[2:]))


class FeatureStore:
    """The feature store in a folder, thread-safe. Images are identified by a hash of their content.

    No method raises an error. If the file cannot be written (a full disk, no permission), features are read but no
    longer stored; if it cannot be read, the store acts as if it were empty. A damaged feature is dropped, and a damaged
    file is replaced by one with its readable features. If the file becomes larger than MAX_BYTES, or than a part of the
    free disk, the features that were not used for the longest time are removed.

    Attributes:
        file: the SQLite file. It is opened when it is first used.
        messages: one line for each problem; complete after `close`.
    """

    @checked
    def __init__(self, folder: str | Path) -> None:
        self.file = Path(folder) / STORE_FILE
        self.messages: list[str] = []
        self._damaged: set[tuple[FeatureSpace, bytes]] = set()
        self._used: set[int] = set()  # ids of features whose date of last use is to be updated
        self._lock = threading.RLock()
        self._database: sqlite3.Connection | None = None
        self._inode = 0
        self._readable = self._writable = True

    def get(self, space: FeatureSpace, images: Sequence[bytes]) -> dict[bytes, tuple[Vector, bytes]]:
        """The stored features, float32 (width,), and facts of images, by the hash of the image.

        Missing and damaged features are left out.
        """
        query = "SELECT id, used, checksum, facts, vector FROM features WHERE space = ? AND image = ?"
        rows: list[Any] = self._run(
            lambda database: [database.execute(query, (space.key, key)).fetchone() for key in images], []
        )
        results = {}
        for key, row in zip(images, rows, strict=False):
            if row is not None:
                row_id, used, checksum, facts, vector = row
                if checksum != _checksum(space.key, key, facts, vector):
                    self._damaged.add((space, key))
                    continue
                results[key] = np.frombuffer(vector, np.float32), facts
                if used != _today():
                    self._used.add(row_id)
        return results

    def put(self, space: FeatureSpace, features: Iterable[tuple[bytes, Vector, bytes]]) -> None:
        """Store features (width,) and facts of images: (hash of the image, features, facts) for each image."""
        rows = []
        for image, vector, facts in features:
            blob = np.ascontiguousarray(vector, np.float32).tobytes()
            rows.append((None, space.key, image, _today(), _checksum(space.key, image, facts, blob), facts, blob))

        def write(database: sqlite3.Connection) -> None:
            fields = json.dumps(asdict(space))
            database.execute("INSERT OR IGNORE INTO spaces VALUES (?, ?)", (space.key, fields))
            database.executemany(INSERT, rows)
            self._write_dates(database)
            _make_room(database, self.file)

        if rows:
            self._run(write, None, writes=True)

    def content_key(self, file: FileState) -> bytes | None:
        """The hash of a file's content, if the file has been read before and has not changed since."""
        return self.get(FILES, [file.key]).get(file.key, (None, None))[1]

    def put_files(self, files: Iterable[tuple[FileState, bytes]]) -> None:
        """Store the hashes of files by their states before they were read, except of files that may still change."""
        now, empty = time.time_ns(), np.empty(0, np.float32)
        self.put(FILES, [(file.key, empty, content) for file, content in files if now - file.time > STILL_CHANGING])

    def spaces(self) -> list[dict[str, Any]]:
        """The fields of each space, its number of `images`, its `bytes`, and when it was last `used`, an ISO date."""
        query = (
            "SELECT fields, count(*), sum(length(vector) + length(facts)), max(used) FROM features "
            "JOIN spaces ON key = space WHERE key != ? GROUP BY key ORDER BY 4 DESC, 2 DESC"
        )
        rows: list[Any] = self._run(lambda database: database.execute(query, (FILES.key,)).fetchall(), [])
        return [
            self._parse(fields) | {"images": images, "bytes": size, "used": date.fromordinal(used).isoformat()}
            for fields, images, size, used in rows
        ]

    def _parse(self, fields: str) -> dict[str, Any]:
        """The fields of a space. Raises InputError: damaged."""
        try:
            return cast(dict[str, Any], parse_json(fields, dict))
        except ValueError as error:
            raise InputError(f"{printable(self.file)}: damaged: {error}; delete the file") from error

    def clear(self, older_than: int = -1) -> bool:
        """Remove the features that were not used in the last `older_than` days, by default all, and shrink the file.

        Other processes may use the store at the same time. Returns False if the store cannot be written.
        """

        def remove(database: sqlite3.Connection) -> bool:
            database.execute("DELETE FROM features WHERE used < ?", (_today() - older_than,))
            database.execute("DELETE FROM spaces WHERE key NOT IN (SELECT space FROM features)")
            database.executescript("PRAGMA incremental_vacuum")  # `execute` would remove a single page
            return True

        return self._run(remove, False, writes=True)

    def close(self) -> None:
        """Store the dates of last use, close the file, and report the damaged features. Other methods reopen it."""
        with self._lock:
            if self._used:
                self._run(self._write_dates, None, writes=True)
            self._disconnect()
            if self._damaged:
                self._report(f"damaged entries: {len(self._damaged):,}; their features are computed again")
            self._damaged.clear()

    def _write_dates(self, database: sqlite3.Connection) -> None:
        rows = [(_today(), identity) for identity in self._used]
        database.executemany("UPDATE features SET used = ? WHERE id = ?", rows)
        self._used.clear()

    def _run(
        self,
        work: Callable[[sqlite3.Connection], Result],
        otherwise: Result,
        *,
        writes: bool = False,
        retry: bool = True,
    ) -> Result:
        """Run `work` as one transaction and return its result, or `otherwise` if the store cannot be used for it."""
        with self._lock:
            try:
                if self._readable and self._database is None:
                    self._open()
                if self._database is not None and (self._writable or not writes):
                    with self._database:
                        return work(self._database)
            except (InputError, OSError, sqlite3.OperationalError) as error:
                self._stop(error, reading=not writes)
            except sqlite3.DatabaseError as error:  # the file is damaged: all other errors are OperationalErrors
                self._salvage(f"{error}")
                if retry:
                    return self._run(work, otherwise, writes=writes, retry=False)
            return otherwise

    def _open(self) -> None:
        """Open the file, for reading only if it cannot be written."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._inode = self.file.stat().st_ino if self.file.exists() else 0
            self._database = self._connect("mode=rwc")
        except sqlite3.OperationalError as error:
            # An empty file: the disk is full. A lock would keep the file from being read too.
            if _is_lock(error) or not self.file.is_file() or not self.file.stat().st_size:
                raise
            # Without a log no process writes the file. Then it can be read without a log and shared memory beside it.
            log = self.file.with_name(f"{STORE_FILE}-wal")
            self._database = self._connect("mode=ro" if log.exists() else "immutable=1")
            self._stop(error, reading=False)
        self._inode = self._inode or self.file.stat().st_ino

    def _connect(self, mode: str) -> sqlite3.Connection:
        """Connect to the file, and create its tables if it is new.

        Raises sqlite3.DatabaseError: of an older version. Raises InputError: not a store, or of a newer version.
        """
        uri = f"{self.file.absolute().as_uri()}?{mode}"
        database = sqlite3.connect(uri, LOCK_TIMEOUT, isolation_level="IMMEDIATE", check_same_thread=False, uri=True)
        try:
            database.execute("PRAGMA synchronous = NORMAL")  # features lost in a power failure are computed again
            if not _value(database, "SELECT count(*) FROM sqlite_schema"):
                database.executescript(SCHEMA)
            version = _value(database, "PRAGMA user_version")
            if _value(database, "PRAGMA application_id") != APPLICATION_ID:
                raise InputError(f"not a feature store, so it is not used; move it or {OTHER}")
            if version > SCHEMA_VERSION:
                raise InputError(f"written by a newer version of inception-v3, so it is not used; update it or {OTHER}")
            if version < SCHEMA_VERSION:
                raise sqlite3.DatabaseError("written by an older version of inception-v3")
        except BaseException:
            database.close()
            raise
        return database

    def _disconnect(self) -> None:
        if self._database is not None:
            self._database.close()
        self._database = None

    def _stop(self, error: Exception, *, reading: bool) -> None:
        """After an error, use the store only for reading, or with `reading` not at all, and report it."""
        self._writable = False
        if reading or self._database is None:
            self._readable = False
            self._disconnect()
        own = isinstance(error, InputError)
        reason = getattr(error, "strerror", None) or error
        with suppress(OSError):  # there is no folder
            if not own and shutil.disk_usage(self.file.parent).free < MIN_FREE:
                reason = "the disk is full"
        effect = "features are read from it and not stored" if self._readable else "features are not stored"
        remedy = "free some space" if "full" in f"{reason}" else "check its permissions"
        if _is_lock(error):
            remedy = "end the program that uses it"
        self._report(f"{reason}" if own else f"{reason}, so {effect}; {remedy} or {OTHER}")

    def _report(self, message: str) -> None:
        self.messages.append(f"{printable(self.file)}: {message}")

    def _salvage(self, reason: str) -> None:
        """Replace a damaged file by one with its readable features, unless another process has done so."""
        self._used.clear()
        self._disconnect()
        try:
            with file_lock(self.file):
                if self._inode != self.file.stat().st_ino:
                    return
                with atomic_write(self.file) as new:
                    lost = _copy_readable(self.file, new)
                    for suffix in ("-wal", "-shm"):  # the log of the damaged file must not be applied to the new one
                        self.file.with_name(f"{STORE_FILE}{suffix}").unlink(missing_ok=True)
            self._report(f"{reason}; {lost} entries are lost, and their features are computed again")
        except (InputError, OSError, sqlite3.Error) as error:
            self._stop(error, reading=True)


def _copy_readable(damaged: Path, new: Path) -> str:
    """Write a store with the readable features of a damaged one. Returns the number of lost features, or "all"."""
    lost = "all"
    with closing(sqlite3.connect(new)) as target, closing(sqlite3.connect(damaged)) as source:
        target.executescript(SCHEMA)
        with suppress(sqlite3.Error):
            source.execute("PRAGMA writable_schema = ON")  # lets SQLite open a truncated file
            target.executemany("INSERT INTO spaces VALUES (?, ?)", source.execute("SELECT * FROM spaces"))
            rows, errors = range(_value(source, "SELECT coalesce(max(seq), 0) FROM sqlite_sequence")), 0
            for row in rows:
                try:
                    found = source.execute("SELECT * FROM features WHERE id = ?", (row + 1,)).fetchall()
                    intact = [each for each in found if each[4] == _checksum(*each[1:3], *each[5:])]
                    target.executemany(INSERT, intact)
                    errors += len(found) - len(intact)
                except sqlite3.DatabaseError:
                    errors += 1
            lost = f"{errors:,} of {len(rows):,}" if rows else lost
        target.commit()
    return lost


def _make_room(database: sqlite3.Connection, file: Path) -> None:
    """Remove the features that were not used for the longest time, if the file is larger than its limit.

    The file does not become smaller, but its free pages are used again.
    """
    page, total, free = (_value(database, f"PRAGMA {name}") for name in ("page_size", "page_count", "freelist_count"))
    limit = min(MAX_BYTES, DISK_FRACTION * (total * page + shutil.disk_usage(file.parent).free))
    if (total - free) * page > limit:
        excess = 1 - 0.9 * limit / ((total - free) * page)
        count = int(excess * _value(database, "SELECT count(*) FROM features"))
        query = "DELETE FROM features WHERE id IN (SELECT id FROM features ORDER BY used, id LIMIT ?)"
        database.execute(query, (count,))


def _is_lock(error: Exception) -> bool:
    """Whether another process held a lock on the file for LOCK_TIMEOUT."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _value(database: sqlite3.Connection, query: str) -> Any:
    return database.execute(query).fetchone()[0]


def _today() -> int:
    return date.today().toordinal()


def _checksum(space: bytes, image: bytes, facts: bytes, vector: bytes) -> int:
    return zlib.crc32(b"".join((space, image, facts, vector)))
