"""Results in files: every picture once, whatever ends the program and whenever; and what they are of."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from test_cli import Run, one_line, run  # noqa: F401 (the fixture)

from fake_engine import instead_of_a_network, save
from inception_v3.errors import InputError
from inception_v3.images.find import ImageSource
from inception_v3.inference import results
from inception_v3.inference.predict import Prediction
from inception_v3.inference.results import open_results, rest
from processes import Command, start

KINDS = ("jsonl", "csv", "parquet")
ABOUT = {"model": "m"}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for number in range(60):
        save(folder / f"{number:03}.png", number)
    (folder / "017.png").write_text("no picture")
    return folder


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command in this process, with FakeEngine."""
    from inception_v3.inference import choose

    for module, name in ((choose, "open_engine"), (results, "ROWS_PER_PART")):
        monkeypatch.setattr(module, name, getattr(module, name))  # to be put back
    instead_of_a_network(0)


def rows(out: Path) -> list[tuple[str, str]]:
    """Each image and its class, or its error, in the order of the file."""
    if out.suffix == ".jsonl":
        found = [json.loads(line) for line in out.read_text().splitlines()]
        return [(Path(one["image"]).name, one["predictions"][0]["class"] if "predictions" in one else "error")
                for one in found]  # fmt: skip
    if out.suffix == ".csv":
        with out.open(newline="") as file:
            table = list(csv.DictReader(file))
    else:
        table = pyarrow.parquet.read_table(out).to_pylist()
    return [(Path(one["image"]).name, "error" if one["error"] else one["class_1"]) for one in table]


EXPECTED = [(f"{number:03}.png", "error" if number == 17 else str(number)) for number in range(60)]


# ------------------------------------------------------------------------------------------- whatever ends it


def predicting(pictures: Path, out: Path, seconds: float, *more: object) -> Command:
    given = (seconds, out.with_name("network.log"))
    arguments = ("predict", "model", pictures, "--out", out, "--batch-size", 3, *more)
    return start(*arguments, log=out.with_name("log"), prepare=instead_of_a_network, given=given)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_again_and_again_every_picture_is_there_once(pictures: Path, kind: str) -> None:
    out, rng, kills = pictures.parent / f"out.{kind}", random.Random(kind), 0
    log = out.with_name("network.log")
    while True:
        before = log.stat().st_size if log.exists() else 0
        command = predicting(pictures, out, 0.004, "--resume")
        command.process.join(0.01)
        if kills < 4:
            command.wait_for(lambda: log.exists() and log.stat().st_size > before)  # noqa: B023
            time.sleep(rng.uniform(0, 0.04))
            command.kill(signal.SIGKILL)
            kills += 1
        if command.wait() != -signal.SIGKILL:
            break
    assert command.process.exitcode == 1, "a picture could not be read"
    assert rows(out) == EXPECTED
    assert sum(map(int, log.read_text().split())) <= 59 + 3 * kills, "no more is done again than was in the network"
    assert sorted(path.name for path in out.parent.glob("out*")) == [out.name, f"{out.name}.about.json"]


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_stops_at_once_and_keeps_what_is_done(pictures: Path, kind: str) -> None:
    out = pictures.parent / f"out.{kind}"
    command = predicting(pictures, out, 0.5)  # ten seconds in all
    log = out.with_name("network.log")
    command.wait_for(lambda: log.exists() and log.read_text().count("\n") > 2)
    command.kill(signal.SIGINT)
    assert command.wait() == 130
    assert "with --resume goes on" in command.output
    done = rows(out)
    assert 0 < len(done) < 60
    assert done == EXPECTED[: len(done)]
    assert predicting(pictures, out, 0, "--resume").wait() == 1
    assert rows(out) == EXPECTED


@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_that_fails_leaves_what_is_done_to_go_on_from(pictures: Path, kind: str) -> None:
    out = pictures.parent / f"out.{kind}"
    arguments = ("predict", "model", pictures, "--out", out, "--batch-size", 3)
    failing = start(*arguments, log=out.with_name("log"), prepare=instead_of_a_network, given=(0, None, 30))
    assert failing.wait() == 1
    assert "fake (fp32) failed at" in failing.output
    assert "the device is on fire" in failing.output
    done = rows(out)
    assert 20 < len(done) < 40
    assert done == EXPECTED[: len(done)]
    assert predicting(pictures, out, 0, "--resume").wait() == 1
    assert rows(out) == EXPECTED


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_cut_at_any_byte_it_is_made_whole_again(tmp_path: Path, kind: str) -> None:
    given = [Prediction(f"é{n},\"'.png", [("a b", 0.5), ('c,\n"d"', 0.25)]) for n in range(3)]
    given[1] = Prediction(given[1].image, [], "é1: no picture")
    sources = [ImageSource(one.image, b"") for one in given]

    def write(out: Path, resume: bool) -> None:
        to = open_results(out, ABOUT, top=2, resume=resume)
        left = {source.name for source in rest(to.finished(), sources).sources}
        for one in given:
            if one.image in left:
                to.write(one)
        to.close()

    write(tmp_path / f"whole.{kind}", False)
    whole = (tmp_path / f"whole.{kind}").read_bytes()
    for length in range(len(whole) + 1):
        out = tmp_path / f"{length}.{kind}"
        write(out, False)
        out.write_bytes(whole[:length])
        write(out, True)
        assert out.read_bytes() == whole


def test_parquet_killed_between_a_file_and_the_lines_it_was_made_of(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(results, "ROWS_PER_PART", 4)
    out, sources = tmp_path / "out.parquet", [ImageSource(f"{number}.png", b"") for number in range(10)]
    to = open_results(out, ABOUT, top=1, resume=False)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    for source in sources[:3]:
        to.write(Prediction(source.name, [("a", 1.0)]))
    with pytest.raises(KeyboardInterrupt):
        to.write(Prediction(sources[3].name, [("a", 1.0)]))
    monkeypatch.undo()
    again = open_results(out, ABOUT, top=1, resume=True)
    left = rest(again.finished(), sources)
    assert left.done == 4
    for source in left.sources:
        again.write(Prediction(source.name, [("a", 1.0)]))
    again.close()
    assert [name for name, _ in rows(out)] == [source.name for source in sources]
    assert not list(tmp_path.glob("*unfinished*"))


def test_parquet_interrupted_while_it_looks_at_what_is_done(tmp_path: Path) -> None:
    out, sources = tmp_path / "out.parquet", [ImageSource(f"{number}.png", b"") for number in range(10)]
    to = open_results(out, ABOUT, top=1, resume=False)
    for source in sources[:5]:
        to.write(Prediction(source.name, [("a", 1.0)]))
    to._lines.close()  # as a kill does
    again = open_results(out, ABOUT, top=1, resume=True)
    next(again.finished())
    again.close()
    assert [name for name, _ in rows(out)] == [source.name for source in sources[:5]]


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_do_not_write_to_one_file(tmp_path: Path, kind: str) -> None:
    out = tmp_path / f"out.{kind}"
    first = open_results(out, ABOUT, top=1, resume=False)
    with pytest.raises(InputError, match=r"another run is writing there; wait for it, or give another --out$"):
        open_results(out, ABOUT, top=1, resume=True)
    first.write(Prediction("a.png", [("a", 1.0)]))
    first.close()
    open_results(out, ABOUT, top=1, resume=True).close()
    assert rows(out) == [("a.png", "a")]


# -------------------------------------------------------------------------------------- other pictures meanwhile


def walked(finished: list[str], now: list[str]) -> tuple[list[str], Any]:
    left = rest(iter([(name, False) for name in finished]), [ImageSource(name, b"") for name in now])
    return [source.name for source in left.sources], left


@pytest.mark.parametrize(
    ("finished", "now", "to_do", "gone", "changed"),
    [
        ("", "abc", "abc", 0, False),
        ("ab", "abcd", "cd", 0, False),
        ("abc", "abc", "", 0, False),
        ("bc", "abcd", "ad", 0, True),
        ("abc", "acd", "d", 1, True),
        ("abc", "ab", "", 1, True),
        ("abc", "cba", "", 0, True),
        ("abc", "xyz", "xyz", 3, True),
        ("abc", "", "", 3, True),
        ("aab", "aaab", "a", 0, True),
        ("abb", "xbbba", "xb", 0, True),
        ("a", "aa", "a", 0, False),
    ],
)
def test_each_result_stands_for_one_picture(finished: str, now: str, to_do: str, gone: int, changed: bool) -> None:
    names, left = walked(list(finished), list(now))
    assert "".join(names) == to_do
    assert (left.done, left.gone, left.changed) == (len(finished), gone, changed)


def test_nothing_is_held_while_both_go_in_step() -> None:
    taken = 0

    def finished():  # type: ignore[no-untyped-def]
        for number in range(1000):
            assert taken >= number - 1
            yield str(number), False

    def sources():  # type: ignore[no-untyped-def]
        nonlocal taken
        for taken in range(1001):
            yield ImageSource(str(taken), b"")

    left = rest(finished(), sources())
    assert left.done == 1000
    assert [source.name for source in left.sources] == ["1000"]


@pytest.mark.usefixtures("fake")
def test_a_folder_that_changed_is_told(run: Run, pictures: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out.jsonl"
    run("predict", "model", pictures, "--out", out)
    (pictures / "030.png").unlink()
    save(pictures / "000b.png", 100)
    status, _, err = run("predict", "model", pictures, "--out", out, "--resume")
    assert status == 1
    assert "60 pictures are done already" in err
    assert "not the same as before" in err
    assert "1 results are of pictures that are not asked for now; they stay" in err
    assert "1 of 61 images could not be read" in one_line(err), "those of before count"
    assert rows(out) == [*EXPECTED, ("000b.png", "100")]


# --------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("fake")
def test_what_is_there_is_neither_lost_nor_mixed(run: Run, pictures: Path, kind: str) -> None:  # noqa: F811
    out = pictures.parent / "new folder" / f"out.{kind}"
    assert run("predict", "model", pictures, "--out", out)[0] == 1
    assert rows(out) == EXPECTED
    status, _, err = run("predict", "model", pictures, "--out", out)
    assert status == 2
    assert f"{out}: is there already; --resume goes on with it" in one_line(err)
    for other, told in (
        (("model", "--top", 3), "was made with top 5, not 3"),
        (("other",), "was made with model 'model', not 'other'"),
        (("model", "--decode", "scaled"), "was made with decode 'exact', not 'scaled'"),
    ):
        status, _, err = run("predict", *other, pictures, "--out", out, "--resume")
        assert status == 2
        assert told in one_line(err)
    out.with_name(f"{out.name}.about.json").unlink()
    status, _, err = run("predict", "model", pictures, "--out", out, "--resume")
    assert status == 2
    assert "about.json: missing or damaged" in one_line(err)
    assert rows(out) == EXPECTED


@pytest.mark.usefixtures("fake")
def test_it_says_what_made_the_results(run: Run, pictures: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out.parquet"
    _, told, _ = run("predict", "model", pictures, "--out", out, "--json")
    about = json.loads(Path(f"{out}.about.json").read_text())
    assert (about["engine"], about["precision"], about["decode"], about["top"]) == ("fake", "fp32", "exact", 5)
    assert about["resize"] == "torchvision", "PyTorch is loaded here"
    assert json.loads(pyarrow.parquet.read_schema(out / "part-000000000000.parquet").metadata[b"inception_v3"]) == about
    told = json.loads(told)
    assert (told["pictures"], told["failed"], told["earlier"]) == (60, 1, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "results.txt"), "must end in .jsonl, .csv, .parquet"),
        (("--resume",), "name it with --out"),
    ],
)
def test_wrong_use_is_told_before_the_model_is_read(run: Run, pictures: Path, arguments: Any, message: str) -> None:  # noqa: F811
    status, _, err = run("predict", "/no/such/model", pictures, *arguments)
    assert status == 2
    assert message in one_line(err)


def test_parquet_without_pyarrow_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(results, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'inception-v3\[data\]'"):
        open_results(tmp_path / "out.parquet", ABOUT, top=1, resume=False)


def test_a_results_file_that_is_none_is_left_alone(tmp_path: Path) -> None:
    for kind in ("jsonl", "csv"):
        out = tmp_path / f"out.{kind}"
        open_results(out, ABOUT, top=1, resume=False).close()
        out.write_text("hello\nworld\n")
        with pytest.raises(InputError, match=f"out.{kind}: line 1 is no result of this program"):
            rest(open_results(out, ABOUT, top=1, resume=True).finished(), [])
        assert out.read_text() == "hello\nworld\n"


def test_a_full_disk_is_told_and_what_is_there_stays(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = start("predict", "model", pictures, "--out", out, log=tmp_path / "log", prepare=_little_room)
    assert command.wait() == 1
    assert f"{out}: cannot be written (File too large)" in command.output
    assert predicting(pictures, out, 0, "--resume").wait() == 1
    assert rows(out) == EXPECTED


def _little_room() -> None:
    import resource

    instead_of_a_network(0)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))


# -------------------------------------------------------------------------------------------------- in a pipe


FAKE = (
    "import sys; sys.path.insert(0, sys.argv[1]); seconds = float(sys.argv[2])\n"
    "from fake_engine import *; instead_of_a_network(seconds)\n"
    "from inception_v3.cli import main; sys.argv = ['inception-v3', 'predict', 'model', *sys.argv[3:]]; main()\n"
)


def piped(*arguments: object, seconds: float = 0.0, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FAKE, Path(__file__).parents[1], seconds, *arguments, "--json"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(list(map(str, command)), **(pipes | options))


def test_a_list_that_comes_slowly_is_answered_as_it_comes(pictures: Path) -> None:
    process = piped("-", "--batch-size", 1)
    assert process.stdin
    assert process.stdout
    for number in (3, 1, 2):
        process.stdin.write(f"{pictures}/{number:03}.png\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["predictions"][0]["class"] == str(number)
    process.stdin.close()
    assert process.wait(60) == 0


def test_ctrl_c_while_it_waits_for_a_list(pictures: Path) -> None:
    process = piped("-")
    assert process.stdin
    assert process.stdout
    assert process.stderr
    process.stdin.write(f"{pictures}/003.png\n")
    process.stdin.flush()
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.stderr.read() == "fake fp32 on cpu: requested\ninterrupted\n"


def test_a_reader_that_has_enough_ends_it_quietly_and_soon(pictures: Path) -> None:
    process = piped(pictures, "--batch-size", 1, seconds=0.02)
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    process.wait(60)
    assert process.stderr.read() == "fake fp32 on cpu: requested\n"


def test_the_count_is_shown_on_a_terminal_alone(pictures: Path, tmp_path: Path) -> None:
    master, slave = os.openpty()
    process = piped(pictures, "--out", tmp_path / "out.csv", seconds=0.1, stderr=slave)
    os.close(slave)
    shown = b""
    while chunk := _read(master):
        shown += chunk
    assert process.wait(60) == 1
    assert b"pictures" in shown
    assert b"/s" in shown
    assert b"1 of 60 images could not be read" in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end is closed
        return b""
