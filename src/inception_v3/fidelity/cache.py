"""Features on disk, so that an interrupted run resumes where it stopped and a second run takes seconds.

There is one SQLite file for each network, convention and precision. Rows are looked up by the content of the image.
"""

import sqlite3
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from inception_v3.fidelity.feature_rows import FeatureRow
from inception_v3.fidelity.stored_image import KEY_BYTES, ImageFacts

_FACTS = struct.Struct(f"<II?10s{KEY_BYTES}s")


class FeatureCache:
    """Stores rows of `width` float32 features and the facts of their images under `content_key`. Thread-safe.

    The cache is optional: after an error (a damaged file, a full disk, no permission) it acts as if it were empty,
    `problem` holds the message, and scores are computed without it.
    """

    def __init__(self, folder: Path, name: str, width: int) -> None:
        self.path = folder / f"{name}.sqlite"
        self.width = width
        self.problem: str | None = None
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        with self._connected():
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
            # Several processes may write at once. Rows lost in a power failure are computed again.
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, facts BLOB, row BLOB)")

    def get(self, key: bytes) -> tuple[FeatureRow, ImageFacts] | None:
        """The row and the facts of an image; None if they are missing or damaged."""
        entry = None
        with self._connected() as connection:
            if connection is not None:
                entry = connection.execute("SELECT facts, row FROM features WHERE key = ?", (key,)).fetchone()
        if entry is None or len(entry[0]) != _FACTS.size or len(entry[1]) != 4 * self.width:
            return None
        row = np.frombuffer(entry[1], "<f4")
        width, height, gray, file_format, pixel_key = _FACTS.unpack(entry[0])
        file_format = file_format.rstrip(b"\0").decode("ascii", "replace")
        return (row, ImageFacts(width, height, file_format, gray, pixel_key)) if np.isfinite(row).all() else None

    def put(self, rows: Iterable[tuple[bytes, ImageFacts, FeatureRow]]) -> None:
        """Store rows under their keys, and commit."""
        with self._connected() as connection:
            if connection is not None:
                connection.executemany(
                    "INSERT OR REPLACE INTO features VALUES (?, ?, ?)",
                    [(key, _pack(facts), np.ascontiguousarray(row, "<f4").tobytes()) for key, facts, row in rows],
                )
                connection.commit()

    def close(self) -> None:
        with self._connected() as connection:
            if connection is not None:
                connection.commit()
                connection.close()
        self._connection = None

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection | None]:
        """Hold the lock, and disable the cache after an error. Yields None if it is disabled or closed."""
        with self._lock:
            try:
                yield self._connection
            except (OSError, sqlite3.Error) as error:
                self.problem = (
                    f"{self.path}: cannot be used as feature cache ({error}); delete it or choose another --cache"
                )
                if self._connection is not None:
                    self._connection.close()
                self._connection = None


def _pack(facts: ImageFacts) -> bytes:
    return _FACTS.pack(facts.width, facts.height, facts.gray, facts.format.encode()[:10], facts.pixel_key)
