"""`inception-v3 cache`: shows and clears the feature store and the other cached files."""

import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from inception_v3 import cli
from inception_v3.inference.feature_store import FeatureSpace, FeatureStore

Run = Callable[..., tuple[int, str, str]]
SPACE = FeatureSpace("1234567890abcdef", "PreLogits", 100, "inception", "fp32", "pytorch", "cpu")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with 3 images in float32, 2 in bf16, and a download of 1,000 bytes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "inception-v3"
    with closing(FeatureStore(folder / "features")) as store:
        for precision, count in (("fp32", 3), ("bf16", 2)):
            rows = [(b"%d" % number, np.zeros(100, np.float32), b"") for number in range(count)]
            store.put(replace(SPACE, precision=precision), rows)
    (folder / "downloads").mkdir()
    (folder / "downloads" / "file").write_bytes(bytes(1000))
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["inception-v3", "cache", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        out, err = capsys.readouterr()
        return int(exited.value.code or 0), out, err

    return run


def images(run: Run, *arguments: object) -> dict[str, int]:
    status, out, _ = run("--json", *arguments)
    assert status == 0
    return {space["precision"]: space["images"] for space in json.loads(out)["spaces"]}


def test_it_shows_each_space_and_the_size_of_each_folder(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inception_v3.cli.cache.output", Console(width=200))
    status, out, err = run()
    assert (status, err) == (0, "")
    for text in ("1234567890ab", "PreLogits", "fp32", "bf16", "pytorch", "downloads: 0.0 MB", str(home / "features")):
        assert text in out
    shown = json.loads(run("--json")[1])
    assert shown["folder"] == str(home / "features")
    assert shown["folders"] == {"downloads": 1000, "features": (home / "features" / "features.sqlite").stat().st_size}
    assert {space["precision"]: (space["images"], space["bytes"]) for space in shown["spaces"]} == {
        "fp32": (3, 1200),
        "bf16": (2, 800),
    }


def test_showing_creates_nothing(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert run()[0] == 0
    assert run("--clear", "all", "--yes")[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_features_downloads_or_all_can_be_cleared(home: Path, run: Run) -> None:
    assert run("--clear", "downloads", "--yes")[0] == 0
    assert not (home / "downloads").exists()
    assert images(run) == {"fp32": 3, "bf16": 2}
    (home / "bottlenecks").mkdir()
    assert run("--clear", "all", "--yes")[0] == 0
    assert images(run) == {}
    assert [path.name for path in home.iterdir()] == ["features"]


def test_only_features_that_were_not_used_for_some_days_can_be_cleared(home: Path, run: Run) -> None:
    with closing(sqlite3.connect(home / "features" / "features.sqlite")) as database, database:
        database.execute("UPDATE features SET used = used - 31 WHERE id > 3")
    assert run("--clear", "features", "--older-than", 30, "--yes")[0] == 0
    assert images(run) == {"fp32": 3}


def test_another_folder_is_shown_and_cleared_without_its_other_files(home: Path, run: Run, tmp_path: Path) -> None:
    (home / "features").rename(tmp_path / "mine")
    (tmp_path / "mine" / "photo.jpg").write_bytes(bytes(10**6))
    assert images(run, "--cache", tmp_path / "mine") == {"fp32": 3, "bf16": 2}
    assert run("--cache", tmp_path / "mine", "--clear", "all", "--yes")[0] == 0
    assert images(run, "--cache", tmp_path / "mine") == {}
    assert (tmp_path / "mine" / "photo.jpg").exists()
    assert (home / "downloads" / "file").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--clear", "featurs", "--yes"), "did you mean features?"),
        (("--clear", "..", "--yes"), "choose from downloads, features, all"),
        (("--clear", "all"), "give --yes"),
        (("--older-than", "3"), "needs --clear features"),
        (("--older-than", "3", "--clear", "all", "--yes"), "needs --clear features"),
    ],
)
def test_wrong_options_give_one_line_and_remove_nothing(
    home: Path, run: Run, arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    status, _, err = run(*arguments)
    assert status == 2
    assert message in " ".join(err.split())
    assert images(run) == {"fp32": 3, "bf16": 2}
    assert (home / "downloads" / "file").exists()


def test_features_that_another_process_has_locked_are_not_reported_as_cleared(
    home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inception_v3.inference.feature_store.LOCK_TIMEOUT", 0.1)
    with closing(sqlite3.connect(home / "features" / "features.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        status, out, err = run("--clear", "features", "--yes")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "features.sqlite: database is locked" in err
    assert images(run) == {"fp32": 3, "bf16": 2}


@pytest.mark.parametrize("command", ["cache", "finetune model data --out run", "fidelity data"])
def test_a_file_as_the_folder_of_the_cache_is_refused(
    command: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = home / "downloads" / "file"
    monkeypatch.setattr(sys, "argv", ["inception-v3", *command.split(), "--cache", str(file)])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    err = capsys.readouterr().err
    assert (exited.value.code, f"'{file}' is a file" in err, err.count("\n")) == (2, True, 1), err
