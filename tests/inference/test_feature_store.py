"""The feature store: only the right features are returned, damage costs the damaged features, and nothing raises."""

import multiprocessing
import os
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inception_v3.inference import feature_store as module
from inception_v3.inference.feature_store import FeatureSpace, FeatureStore, FileState

SPACE = FeatureSpace("weights", "PreLogits", 900, "inception", "fp32", "pytorch", "cpu")
Features = dict[bytes, np.ndarray]


def features(count: int, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    return {f"image {seed} {number}".encode(): rng.random(SPACE.width, np.float32) for number in range(count)}


def put(store: FeatureStore, given: Features, space: FeatureSpace = SPACE) -> None:
    store.put(space, [(key, vector, b"facts of " + key) for key, vector in given.items()])


def stored(store: FeatureStore, given: Features, space: FeatureSpace = SPACE) -> int:
    """The number of features that the store holds. Every one of them must be correct."""
    results = store.get(space, list(given))
    for key, (vector, facts) in results.items():
        assert np.array_equal(vector, given[key])
        assert facts == b"facts of " + key
    return len(results)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeatureStore]:
    with closing(FeatureStore(tmp_path / "store")) as opened:
        yield opened


def execute(store: FeatureStore, *statements: str) -> None:
    with closing(sqlite3.connect(store.file)) as database, database:
        for statement in statements:
            database.execute(statement)


# --- features and their spaces ---


def test_stored_features_are_returned_by_the_key_of_the_image(store: FeatureStore) -> None:
    given = features(30)
    put(store, given)
    assert stored(store, given) == 30
    assert stored(FeatureStore(store.file.parent), given) == 30
    assert stored(store, features(30, seed=1)) == 0
    assert store.messages == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weights", "other weights"),
        ("end_point", "Mixed_7c"),
        ("preprocessing", "torchvision"),
        ("precision", "int8"),
        ("engine", "openvino"),
        ("device", "cuda"),
        ("calibration", "other images"),
    ],
)
def test_features_of_another_space_are_not_returned(store: FeatureStore, field: str, value: str) -> None:
    given = features(3)
    put(store, given)
    assert stored(store, given, replace(SPACE, **{field: value})) == 0


def test_the_key_of_a_file_is_known_until_the_file_changes(store: FeatureStore, tmp_path: Path) -> None:
    file = tmp_path / "image"
    file.write_text("one")
    os.utime(file, (0, 0))
    before = FileState.of(file)
    store.put_files([(replace(before, time=0), b"key")])
    assert store.content_key(FileState.of(file)) == b"key"
    file.write_text("two")
    os.utime(file, (0, 0))
    assert store.content_key(FileState.of(file)) is None


def test_the_key_of_a_file_that_has_just_been_written_is_not_stored(store: FeatureStore, tmp_path: Path) -> None:
    """A second change in the same tick of the clock, to the same size, does not change its size and times."""
    file = tmp_path / "image"
    file.write_text("one")
    store.put_files([(FileState.of(file), b"key")])
    assert store.content_key(FileState.of(file)) is None


def test_threads_can_use_one_store(store: FeatureStore) -> None:
    counts: list[int] = []

    def work(seed: int) -> None:
        for part in range(10):
            put(store, features(5, seed * 100 + part))
            counts.append(stored(store, features(5, seed * 100 + part)))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [5] * 40


# --- damage ---


def test_a_damaged_feature_is_dropped_and_reported_and_the_others_stay(store: FeatureStore) -> None:
    given = features(3)
    put(store, given)
    execute(
        store,
        "UPDATE features SET vector = zeroblob(2000) WHERE id = 1",
        "UPDATE features SET facts = x'00' WHERE id = 2",
    )
    assert list(store.get(SPACE, list(given))) == [b"image 0 2"]
    put(store, given)
    assert stored(store, given) == 3
    store.close()
    assert store.messages == [f"{store.file}: damaged entries: 2; their features are computed again"]


def zeros_inside(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(40_000) + content[middle + 40_000 :]


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (lambda content: content[: len(content) // 2], 100),
        (zeros_inside, 200),
        (lambda content: content[:4096] + b"\xa5" * (len(content) - 4096), 0),
        (lambda content: b"this is not a database" * 1000, 0),
        (lambda content: b"short", 0),
    ],
    ids=["truncated", "zeros inside", "garbage after the first page", "not a database", "short"],
)
def test_a_damaged_file_costs_one_line_and_the_damaged_features(
    store: FeatureStore, damage: Callable[[bytes], bytes], kept: int
) -> None:
    given = features(300)
    put(store, given)
    store.close()
    store.file.write_bytes(damage(store.file.read_bytes()))
    again = FeatureStore(store.file.parent)
    count = stored(again, given)
    assert kept <= count < 300
    put(again, given)
    assert stored(again, given) == 300
    again.close()
    assert len(again.messages) == 1
    assert "computed again" in again.messages[0]
    with closing(sqlite3.connect(store.file)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_file_that_is_damaged_during_a_run_is_replaced(store: FeatureStore) -> None:
    given = features(300)
    put(store, given)
    store.close()
    assert stored(store, features(1, seed=5)) == 0  # opens the file
    content = store.file.read_bytes()
    with store.file.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xa5" * (len(content) - 8192))
    put(store, features(300, seed=9))
    assert stored(store, features(300, seed=9)) == 300
    assert len(store.messages) == 1


def test_two_stores_that_find_the_same_damage_replace_the_file_once(store: FeatureStore) -> None:
    given = features(300)
    put(store, given)
    store.close()
    stores = [FeatureStore(store.file.parent) for _ in range(2)]
    for each in stores:
        stored(each, features(1, seed=5))
    with store.file.open("r+b") as file:
        file.truncate(store.file.stat().st_size // 2)
    put(stores[0], given)
    assert stored(stores[1], given) == 300
    for each in stores:
        each.close()
    assert [len(each.messages) for each in stores] in ([1, 0], [1, 1])
    assert stored(store, given) == 300


def test_a_store_of_an_older_version_is_replaced_with_a_line(store: FeatureStore) -> None:
    put(store, features(3))
    store.close()
    execute(store, "DROP TABLE features", "CREATE TABLE features (something)", "PRAGMA user_version = 0")
    assert stored(store, features(3)) == 0
    put(store, features(3))
    assert stored(store, features(3)) == 3
    assert len(store.messages) == 1
    assert "older version" in store.messages[0]


@pytest.mark.parametrize(
    ("statement", "message"),
    [("PRAGMA user_version = 99", "newer version"), ("PRAGMA application_id = 7", "not a feature store")],
)
def test_the_file_of_another_program_or_a_newer_version_is_left_as_it_is(
    store: FeatureStore, statement: str, message: str
) -> None:
    put(store, features(3))
    store.close()
    execute(store, statement)
    store.clear()
    content = store.file.read_bytes()
    again = FeatureStore(store.file.parent)
    assert stored(again, features(3)) == 0
    put(again, features(5))
    again.close()
    assert store.file.read_bytes() == content
    assert len(again.messages) == 1
    assert message in again.messages[0]


# --- files that cannot be written ---


@pytest.mark.parametrize("limit", ["max_page_count = 40", "query_only = 1"])
def test_a_store_that_cannot_be_written_is_read_and_reported_once(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    given = features(20)
    put(store, given)
    store.close()
    connect = sqlite3.connect

    def connect_with_limit(*arguments: Any, **options: Any) -> sqlite3.Connection:
        database = connect(*arguments, **options)
        database.execute(f"PRAGMA {limit}")
        return database

    monkeypatch.setattr(sqlite3, "connect", connect_with_limit)
    for seed in (1, 2):
        put(store, features(100, seed))
    assert stored(store, given) == 20
    assert stored(store, features(100, 1)) == 0
    assert len(store.messages) == 1
    assert "not stored" in store.messages[0]
    assert ("free some space" in store.messages[0]) == ("max_page_count" in limit)


@pytest.mark.parametrize("folder", ["a file", "a file/below"])
def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path, folder: str) -> None:
    (tmp_path / "a file").write_text("")
    store = FeatureStore(tmp_path / folder)
    put(store, features(3))
    assert stored(store, features(3)) == 0
    assert store.spaces() == []
    store.close()
    assert len(store.messages) == 1
    assert "give another --cache" in store.messages[0]
    assert "\n" not in store.messages[0]


def _use_as_nobody(folder: Path, kept: int) -> None:
    os.setuid(65534)
    store = FeatureStore(folder)
    assert stored(store, features(20)) == kept
    put(store, features(5, 1))
    assert stored(store, features(20)) == kept
    assert stored(store, features(5, 1)) == 0
    store.close()
    assert len(store.messages) == 1
    assert "not stored" in store.messages[0]


def test_a_full_disk_is_the_reason_whatever_sqlite_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite creates an empty file, and then reports a disk I/O error."""

    def connect(self: FeatureStore, mode: str) -> sqlite3.Connection:
        self.file.touch()
        assert mode == "mode=rwc", "an empty file is not opened for reading"
        raise sqlite3.OperationalError("disk I/O error")

    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(FeatureStore, "_connect", connect)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: full)
    store = FeatureStore(tmp_path)
    assert store.get(SPACE, [b"key"]) == {}
    assert store.messages == [
        f"{store.file}: the disk is full, so features are not stored; free some space or give another --cache"
    ]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "kept"),
    [(0o444, 0o555, 20), (0o444, 0o777, 20), (0o644, 0o555, 20), (0o000, 0o777, 0), (0o644, 0o000, 0)],
)
def test_a_read_only_store_is_read_and_an_unreadable_one_reported(
    store: FeatureStore, tmp_path: Path, file_mode: int, folder_mode: int, kept: int
) -> None:
    put(store, features(20))
    store.close()
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    store.file.chmod(file_mode)
    store.file.parent.chmod(folder_mode)
    user = multiprocessing.get_context("fork").Process(target=_use_as_nobody, args=(store.file.parent, kept))
    user.start()
    user.join(60)
    store.file.parent.chmod(0o755)
    assert user.exitcode == 0


# --- several processes ---


def _write_many(folder: Path, seed: int, times: int) -> None:
    store = FeatureStore(folder)
    for number in range(times):
        put(store, features(20, seed + number))
        assert stored(store, features(20, seed + number)) == 20


def test_two_processes_can_write_at_the_same_time(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=_write_many, args=(tmp_path, seed, 10)) for seed in (100, 200)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    store = FeatureStore(tmp_path)
    assert all(stored(store, features(20, seed)) == 20 for seed in (*range(100, 110), *range(200, 210)))


def test_a_store_that_is_open_elsewhere_can_be_written(store: FeatureStore) -> None:
    other = FeatureStore(store.file.parent)
    put(store, features(1, 1))  # this process continues, or hangs
    started = time.monotonic()
    put(other, features(1, 2))
    assert time.monotonic() - started < 5
    assert stored(store, features(1, 2)) == stored(other, features(1, 1)) == 1


def test_kill_9_does_not_damage_it(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    for pause in (0.02, 0.05, 0.1):
        writer = fork.Process(target=_write_many, args=(tmp_path, 0, 10**6))
        writer.start()
        time.sleep(pause)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join(60)
    store = FeatureStore(tmp_path)
    for count in (stored(store, features(20, seed)) for seed in range(50)):
        assert count in (0, 20), "a transaction is complete or missing"
    put(store, features(1, 10**7))
    store.close()
    assert store.messages == []
    with closing(sqlite3.connect(store.file)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# --- size, and what `inception-v3 cache` shows and clears ---


def test_the_features_that_were_not_used_for_the_longest_time_are_removed_first(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image takes a page of 4 KiB."""
    today = module._today()
    monkeypatch.setattr(module, "_today", lambda: today - 9)
    put(store, features(100, 1))
    put(store, features(100, 2))
    monkeypatch.setattr(module, "_today", lambda: today)
    assert stored(store, features(100, 1)) == 100  # used again
    monkeypatch.setattr(module, "MAX_BYTES", 1_000_000)
    put(store, features(100, 3))
    put(store, features(1, 4))
    assert stored(store, features(100, 1)) == stored(store, features(100, 3)) == 100
    assert stored(store, features(100, 2)) < 60
    for seed in range(5, 20):
        put(store, features(100, seed))
    store.close()
    assert store.file.stat().st_size < 1_600_000


def test_the_store_fills_only_a_part_of_the_free_disk(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 200_000}))
    for seed in range(20):
        put(store, features(50, seed))
    store.close()
    assert store.file.stat().st_size < 800_000


def test_spaces_are_described_with_their_images_bytes_and_last_use(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, features(3))
    put(store, features(5), replace(SPACE, precision="bf16"))
    store.put_files([(FileState(b"state", 0), b"key")])
    found = {space["precision"]: (space["images"], space["bytes"], space["width"]) for space in store.spaces()}
    facts = len(b"facts of image 0 0")
    assert found == {"fp32": (3, 3 * (3600 + facts), 900), "bf16": (5, 5 * (3600 + facts), 900)}
    assert all(space["used"] == time.strftime("%Y-%m-%d") for space in store.spaces())


def test_clear_removes_all_features_or_the_old_ones_and_shrinks_the_file(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = module._today()
    put(store, features(100, 1))
    monkeypatch.setattr(module, "_today", lambda: today - 30)
    put(store, features(100, 2))
    monkeypatch.setattr(module, "_today", lambda: today)
    store.clear(older_than=30)
    assert stored(store, features(100, 2)) == 100
    execute(store, f"UPDATE features SET used = {today - 31} WHERE used < {today - 3}")
    store.clear(older_than=30)
    assert (stored(store, features(100, 1)), stored(store, features(100, 2))) == (100, 0)
    store.clear()
    assert store.spaces() == []
    store.close()
    assert store.file.stat().st_size < 40_000


def test_a_lock_of_another_process_is_waited_for_once_and_reported(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_TIMEOUT", 0.1)
    put(store, given := features(3))
    store.close()
    with closing(sqlite3.connect(store.file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(3):
            put(store, features(2, seed=1))
        assert (stored(store, given), store.clear()) == (3, False)
        (message,) = store.messages
        assert message.endswith(
            "database is locked, so features are read from it and not stored; end the program that "
            "uses it or give another --cache"
        )
        store.close()
        other.execute("ROLLBACK")
        other.execute("PRAGMA journal_mode = DELETE")  # then a lock also keeps readers away
        other.execute("BEGIN EXCLUSIVE")
        unreadable = FeatureStore(store.file.parent)
        assert [stored(unreadable, given) for _ in range(3)] == [0, 0, 0]
        (message,) = unreadable.messages
        assert "database is locked, so features are not stored; end the program" in message
