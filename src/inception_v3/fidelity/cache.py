"""Features that were worked out before, on disk: a killed run goes on where it was, a second one takes seconds.

One SQLite file for each network, convention and precision; a row is found by the content of the image's file.
"""

import sqlite3
import struct
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inception_v3.fidelity.pictures import KEY_BYTES, Facts

_FACTS = struct.Struct(f"<II?10s{KEY_BYTES}s")


class FeatureCache:
    """Rows of `width` float32 features and the facts of their images, by key. Its file may vanish at any time.

    What cannot be read or written (no place, damage, a full disk) is as if it were not there: `problem` says why,
    and scores are worked out without it.
    """

    def __init__(self, folder: Path, name: str, width: int) -> None:
        self.path = folder / f"{name}.sqlite"
        self.width = width
        self.problem: str | None = None
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
            # Several runs may write to it, each for a moment; what a loss of power takes is worked out again.
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, facts BLOB, row BLOB)")
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    def get(self, key: bytes) -> tuple[NDArray[np.float32], Facts] | None:
        """Safe from several threads."""
        with self._lock:
            if self._connection is None:
                return None
            try:
                query = self._connection.execute("SELECT facts, row FROM features WHERE key = ?", (key,))
                found = query.fetchone()
            except sqlite3.Error as error:
                self._give_up(error)
                return None
        if found is None or len(found[0]) != _FACTS.size or len(found[1]) != 4 * self.width:
            return None
        width, height, gray, kind, pixels = _FACTS.unpack(found[0])
        features = np.frombuffer(found[1], "<f4")
        if not np.isfinite(features).all():
            return None
        return features, Facts(width, height, kind.rstrip(b"\0").decode("ascii", "replace"), gray, pixels)

    def put(self, rows: Iterable[tuple[bytes, Facts, NDArray[np.float32]]]) -> None:
        with self._lock:
            if self._connection is None:
                return
            try:
                self._connection.executemany(
                    "INSERT OR REPLACE INTO features VALUES (?, ?, ?)",
                    [(key, _pack(facts), np.ascontiguousarray(row, "<f4").tobytes()) for key, facts, row in rows],
                )
                self._connection.commit()
            except sqlite3.Error as error:
                self._give_up(error)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                try:
                    self._connection.commit()
                    self._connection.close()
                except sqlite3.Error as error:
                    self._give_up(error)
                self._connection = None

    def _give_up(self, error: Exception) -> None:
        self.problem = f"{self.path}: no cache of features ({error}); delete the file or choose another --cache"
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def _pack(facts: Facts) -> bytes:
    return _FACTS.pack(facts.width, facts.height, facts.gray, facts.format.encode()[:10], facts.pixels)
