"""Result files: every image once, whenever and however the program ends, and a description of the run."""

import csv
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from test_cli import Run, one_line, run  # noqa: F401 (the fixture)

from archives import write_zip
from fake_engine import instead_of_a_network, save
from inception_v3.errors import InputError
from inception_v3.images.find import ImageSource
from inception_v3.inference import results
from inception_v3.inference.predict import Prediction
from inception_v3.inference.results import ParquetResults, open_results, remaining_images
from inception_v3.support import packages
from processes import Command, start

KINDS = ("jsonl", "csv", "parquet")
ABOUT = {"model": "m"}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of 60 images, of which 017.png is unreadable."""
    folder = tmp_path / "images"
    for number in range(60):
        save(folder / f"{number:03}.png", number)
    (folder / "017.png").write_text("not an image")
    return folder


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the command in this process with FakeEngine."""
    from inception_v3.inference import choose

    for module, name in ((choose, "open_engine"), (results, "ROWS_PER_PART")):
        monkeypatch.setattr(module, name, getattr(module, name))  # restored after the test
    instead_of_a_network(0)


def rows(out: Path) -> list[tuple[str, str]]:
    """Each image and its class, or its error, in the order of the file."""
    if out.suffix == ".jsonl":
        results = [json.loads(line) for line in out.read_text().splitlines()]
        return [(Path(row["image"]).name, row["predictions"][0]["class"] if "predictions" in row else "error")
                for row in results]  # fmt: skip
    if out.suffix == ".csv":
        with out.open(newline="") as file:
            table = list(csv.DictReader(file))
    else:
        table = pyarrow.parquet.read_table(out).to_pylist()
    return [(Path(row["image"]).name, "error" if row["error"] else row["class_1"]) for row in table]


EXPECTED = [(f"{number:03}.png", "error" if number == 17 else str(number)) for number in range(60)]


# ------------------------------------------------------------------------------------- kills and interruptions


def start_predict(images: Path, out: Path, seconds: float, *options: object) -> Command:
    """Start `predict` in another process. The engine takes `seconds` per batch, and logs each batch's size."""
    given = (seconds, out.with_name("network.log"))
    arguments = ("predict", "model", images, "--out", out, "--batch-size", 3, *options)
    return start(*arguments, log=out.with_name("log"), prepare=instead_of_a_network, given=given)


@pytest.mark.parametrize("kind", KINDS)
def test_after_repeated_kills_every_image_has_one_result(images: Path, kind: str) -> None:
    out, rng, kills = images.parent / f"out.{kind}", random.Random(kind), 0
    log = out.with_name("network.log")
    while True:
        before = log.stat().st_size if log.exists() else 0
        command = start_predict(images, out, 0.004, "--resume")
        command.process.join(0.01)
        if kills < 4:
            command.wait_for(lambda: log.exists() and log.stat().st_size > before)  # noqa: B023
            time.sleep(rng.uniform(0, 0.04))
            command.kill(signal.SIGKILL)
            kills += 1
        if command.wait() != -signal.SIGKILL:
            break
    assert command.process.exitcode == 3, "an image could not be read"
    assert rows(out) == EXPECTED
    assert sum(map(int, log.read_text().split())) <= 59 + 3 * kills, "only the batch in the engine is computed again"
    assert sorted(path.name for path in out.parent.glob("out*")) == [out.name, f"{out.name}.about.json"]


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_stops_at_once_and_keeps_the_results(images: Path, kind: str) -> None:
    out = images.parent / f"out.{kind}"
    command = start_predict(images, out, 0.5)  # ten seconds in total
    log = out.with_name("network.log")
    command.wait_for(lambda: log.exists() and log.read_text().count("\n") > 2)
    command.kill(signal.SIGINT)
    assert command.wait() == 130
    assert "run the same command with --resume to continue" in command.output
    done = rows(out)
    assert 0 < len(done) < 60
    assert done == EXPECTED[: len(done)]
    assert start_predict(images, out, 0, "--resume").wait() == 3
    assert rows(out) == EXPECTED


@pytest.mark.parametrize("kind", KINDS)
def test_results_before_an_engine_failure_can_be_resumed(images: Path, kind: str) -> None:
    out = images.parent / f"out.{kind}"
    arguments = ("predict", "model", images, "--out", out, "--batch-size", 3)
    failing = start(*arguments, log=out.with_name("log"), prepare=instead_of_a_network, given=(0, None, 30))
    assert failing.wait() == 1
    assert "fake (fp32) failed on" in failing.output
    assert "the device is on fire" in failing.output
    done = rows(out)
    assert 20 < len(done) < 40
    assert done == EXPECTED[: len(done)]
    assert start_predict(images, out, 0, "--resume").wait() == 3
    assert rows(out) == EXPECTED


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_file_cut_at_any_byte_is_completed(tmp_path: Path, kind: str) -> None:
    predictions = [Prediction(f"é{n},\"'.png", [("a b", 0.5), ('c,\n"d"', 0.25)]) for n in range(3)]
    predictions[1] = Prediction(predictions[1].image, [], "é1: not an image")
    sources = [ImageSource(prediction.image, b"") for prediction in predictions]

    def write(out: Path, resume: bool) -> None:
        file = open_results(out, ABOUT, top=2, resume=resume)
        remaining = {source.name for source in remaining_images(file.finished(), sources).sources}
        for prediction in predictions:
            if prediction.image in remaining:
                file.write(prediction)
        file.close()

    write(tmp_path / f"complete.{kind}", False)
    complete = (tmp_path / f"complete.{kind}").read_bytes()
    for length in range(len(complete) + 1):
        out = tmp_path / f"{length}.{kind}"
        write(out, False)
        out.write_bytes(complete[:length])
        write(out, True)
        assert out.read_bytes() == complete


def test_parquet_is_not_written_twice_after_a_kill_before_its_lines_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "ROWS_PER_PART", 4)
    out, sources = tmp_path / "out.parquet", [ImageSource(f"{number}.png", b"") for number in range(10)]
    file = open_results(out, ABOUT, top=1, resume=False)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    for source in sources[:3]:
        file.write(Prediction(source.name, [("a", 1.0)]))
    with pytest.raises(KeyboardInterrupt):
        file.write(Prediction(sources[3].name, [("a", 1.0)]))
    monkeypatch.undo()
    file = open_results(out, ABOUT, top=1, resume=True)
    remaining = remaining_images(file.finished(), sources)
    assert remaining.done == 4
    for source in remaining.sources:
        file.write(Prediction(source.name, [("a", 1.0)]))
    file.close()
    assert [name for name, _ in rows(out)] == [source.name for source in sources]
    assert not list(tmp_path.glob("*unfinished*"))


def test_parquet_interrupted_while_it_reads_earlier_results_keeps_them(tmp_path: Path) -> None:
    out, sources = tmp_path / "out.parquet", [ImageSource(f"{number}.png", b"") for number in range(10)]
    file = open_results(out, ABOUT, top=1, resume=False)
    assert isinstance(file, ParquetResults)
    for source in sources[:5]:
        file.write(Prediction(source.name, [("a", 1.0)]))
    file._pending.close()  # as a kill does
    file = open_results(out, ABOUT, top=1, resume=True)
    next(file.finished())
    file.close()
    assert [name for name, _ in rows(out)] == [source.name for source in sources[:5]]


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_do_not_write_to_one_file(tmp_path: Path, kind: str) -> None:
    out = tmp_path / f"out.{kind}"
    first = open_results(out, ABOUT, top=1, resume=False)
    with pytest.raises(InputError, match=r"another run is writing to it; wait for that run, or choose another --out$"):
        open_results(out, ABOUT, top=1, resume=True)
    first.write(Prediction("a.png", [("a", 1.0)]))
    first.close()
    open_results(out, ABOUT, top=1, resume=True).close()
    assert rows(out) == [("a.png", "a")]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_results_file_is_refused(tmp_path: Path, kind: str) -> None:
    (device := tmp_path / f"device.{kind}").symlink_to("/dev/null")
    other = tmp_path / f"other.{kind}"
    other.write_text("mine") if kind == "parquet" else other.mkdir()
    for out in (device, other):
        with pytest.raises(InputError, match=r"not a file|is not a folder|is a folder") as error:
            open_results(out, ABOUT, top=1, resume=False)
        assert error.value.exit_status == 2
    assert device.is_char_device()


# ---------------------------------------------------------------------------------------------- changed folders


@pytest.mark.parametrize(
    ("finished", "now", "names", "unmatched", "changed"),
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
def test_each_result_is_matched_with_one_image(
    finished: str, now: str, names: str, unmatched: int, changed: bool
) -> None:
    remaining = remaining_images(iter([(name, False) for name in finished]), [ImageSource(name, b"") for name in now])
    assert "".join(source.name for source in remaining.sources) == names
    assert (remaining.done, remaining.unmatched, remaining.changed) == (len(finished), unmatched, changed)


def test_unchanged_folders_are_matched_in_constant_memory() -> None:
    taken = 0

    def finished():  # type: ignore[no-untyped-def]
        for number in range(1000):
            assert taken >= number - 1
            yield str(number), False

    def sources():  # type: ignore[no-untyped-def]
        nonlocal taken
        for taken in range(1001):
            yield ImageSource(str(taken), b"")

    remaining = remaining_images(finished(), sources())
    assert remaining.done == 1000
    assert [source.name for source in remaining.sources] == ["1000"]


@pytest.mark.usefixtures("fake")
def test_a_changed_folder_is_reported(run: Run, images: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out.jsonl"
    run("predict", "model", images, "--out", out)
    (images / "030.png").unlink()
    save(images / "000b.png", 100)
    status, _, err = run("predict", "model", images, "--out", out, "--resume")
    assert status == 3
    assert "60 images are done already" in err
    assert "the images differ from those of the earlier run" in err
    assert "1 results are of images that were not given this time; they are kept" in err
    assert "1 of 61 images could not be read" in one_line(err), "earlier results count"
    assert rows(out) == [*EXPECTED, ("000b.png", "100")]


# --------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("fake")
def test_existing_results_are_neither_overwritten_nor_mixed(run: Run, images: Path, kind: str) -> None:  # noqa: F811
    out = images.parent / "new folder" / f"out.{kind}"
    assert run("predict", "model", images, "--out", out)[0] == 3
    assert rows(out) == EXPECTED
    status, _, err = run("predict", "model", images, "--out", out)
    assert status == 2
    assert f"{out}: exists already; continue it with --resume" in one_line(err)
    for other, message in (
        (("model", "--top", 3), "was written with top 5, not 3"),
        (("other",), "was written with model 'model', not 'other'"),
        (("model", "--decode", "scaled"), "was written with decode 'exact', not 'scaled'"),
    ):
        status, _, err = run("predict", *other, images, "--out", out, "--resume")
        assert status == 2
        assert message in one_line(err)
    out.with_name(f"{out.name}.about.json").unlink()
    status, _, err = run("predict", "model", images, "--out", out, "--resume")
    assert status == 2
    assert "about.json: " in one_line(err)
    assert rows(out) == EXPECTED


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("fake")
def test_overwriting_replaces_results_but_never_an_input(run: Run, images: Path, tmp_path: Path, kind: str) -> None:  # noqa: F811
    out = images / f"out.{kind}"
    for _ in range(2):
        assert run("predict", "model", images, "--out", out, "--overwrite")[0] == 3, "of an image that cannot be read"
    given = tmp_path / f"given.{kind}"
    if kind == "parquet":
        (save(given / "0.png", 0), contents := (given / "0.png").read_bytes())
    else:
        given.write_bytes(contents := save(tmp_path / "0.png", 0).read_bytes())
    status, _, err = run("predict", "model", given, "--out", given, "--overwrite")
    assert status == 2
    assert f"{given}: is an input and would be lost" in one_line(err)
    assert (given / "0.png" if kind == "parquet" else given).read_bytes() == contents


@pytest.mark.usefixtures("fake")
def test_the_model_and_options_are_recorded_with_the_results(run: Run, images: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out.parquet"
    _, printed, _ = run("predict", "model", images, "--out", out, "--json")
    about = json.loads(Path(f"{out}.about.json").read_text())
    assert (about["engine"], about["precision"], about["decode"], about["top"]) == ("fake", "fp32", "exact", 5)
    assert about["resize"] == "torchvision", "PyTorch is loaded here"
    assert json.loads(pyarrow.parquet.read_schema(out / "part-000000000000.parquet").metadata[b"inception_v3"]) == about
    counts = json.loads(printed)
    assert (counts["pictures"], counts["failed"], counts["earlier"]) == (60, 1, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "results.txt"), "must end in .jsonl, .csv, .parquet"),
        (("--resume",), "name the file with --out"),
    ],
)
def test_options_are_checked_before_the_model_is_loaded(run: Run, images: Path, arguments: Any, message: str) -> None:  # noqa: F811
    status, _, err = run("predict", "/no/such/model", images, *arguments)
    assert status == 2
    assert message in one_line(err)


def test_parquet_without_pyarrow_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"Parquet needs pyarrow; uv pip install .*\[parquet\]"):
        open_results(tmp_path / "out.parquet", ABOUT, top=1, resume=False)


def test_a_file_that_holds_no_results_is_not_changed(tmp_path: Path) -> None:
    for kind in ("jsonl", "csv"):
        out = tmp_path / f"out.{kind}"
        open_results(out, ABOUT, top=1, resume=False).close()
        out.write_text("hello\nworld\n")
        with (
            closing(open_results(out, ABOUT, top=1, resume=True)) as opened,
            pytest.raises(InputError, match=f"out.{kind}: line 1 is not a result of `predict`"),
        ):
            remaining_images(opened.finished(), [])
        assert out.read_text() == "hello\nworld\n"


def test_a_full_disk_is_reported_and_the_results_are_kept(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = start("predict", "model", images, "--out", out, log=tmp_path / "log", prepare=_limit_file_size)
    assert command.wait() == 1
    assert f"{out}: larger than " in command.output
    assert start_predict(images, out, 0, "--resume").wait() == 3
    assert rows(out) == EXPECTED


def _limit_file_size() -> None:
    import resource

    instead_of_a_network(0)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))


# -------------------------------------------------------------------------------------------------- exit statuses


@pytest.mark.parametrize(
    ("allowed", "status"),
    [
        ((), 3),
        (("--allow-unreadable",), 0),
        (("--allow-unreadable", "100%"), 0),
        (("--allow-unreadable", "2"), 0),
        (("--allow-unreadable=1"), 3),
        (("--allow-unreadable", "0"), 3),
        (("--allow-unreadable", "3.334%"), 0),  # 2 of 60 are 3.3333 %
        (("--allow-unreadable", "3.33%"), 3),
    ],
)
@pytest.mark.usefixtures("fake")
def test_unreadable_images_are_exit_status_3_unless_they_are_allowed(
    run: Run,  # noqa: F811
    images: Path,
    allowed: tuple[str, ...] | str,
    status: int,
) -> None:
    (images / "018.png").write_text("not an image")
    options = (allowed,) if isinstance(allowed, str) else allowed
    for arguments in (("model", images, *options), (*options, "model", images)):
        exited, out, err = run("predict", *arguments, "--json")
        assert exited == status
        assert len(out.splitlines()) == 60
        last = err.splitlines()[-1]
        assert "2 of 60 images could not be read" in last
        assert last.startswith("error:") == (status == 3)
        assert not options or "--allow-unreadable" in last


@pytest.mark.usefixtures("fake")
def test_with_every_image_readable_the_exit_status_is_0(run: Run, images: Path) -> None:  # noqa: F811
    (images / "017.png").unlink()
    assert run("predict", "model", images)[0] == run("predict", "model", images, "--allow-unreadable", 0)[0] == 0


@pytest.mark.parametrize("value", ["-1", "1.5", "101%", "5x", "%", "", "1e3", "٣"])
def test_a_malformed_bound_of_unreadable_images_is_wrong_usage(run: Run, images: Path, value: str) -> None:  # noqa: F811
    status, _, err = run("predict", "/no/such/model", images, f"--allow-unreadable={value}")
    assert status == 2
    assert "not a number of images such as 10, or a percentage such as 0.5%" in one_line(err)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("fake")
def test_a_finished_run_prints_a_command_that_lists_its_unreadable_images(
    run: Run,  # noqa: F811
    images: Path,
    kind: str,
) -> None:
    out = images.parent / "new folder" / f"it's out.{kind}"
    save(images / "error.png", 100)
    run("predict", "model", images, "--out", out)
    status, _, err = run("predict", "model", images, "--out", out, "--resume")
    assert status == 3
    assert "the reasons above" not in err
    assert f"1 of 61 images could not be read; {out} holds the reasons" in one_line(err)
    command = one_line(err).partition("list them: ")[2].replace("python -c", f"{sys.executable} -c")
    listed = subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout
    assert len(listed.splitlines()) == 1
    assert "017.png" in listed


# --------------------------------------------------------------------------------------------------------- shards


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_shards_that_run_at_the_same_time_predict_every_image_once(images: Path, kind: str) -> None:
    outs = [images.parent / ("out.parquet" if kind == "parquet" else f"{number}.{kind}") for number in range(1, 5)]
    shards = [
        start(
            *("predict", "model", images, "--out", out, "--batch-size", 3, "--shard", f"{number}/4"),
            log=images.parent / f"log {number}",
            prepare=instead_of_a_network,
            given=(0.05, None),
        )
        for number, out in enumerate(outs, 1)
    ]
    assert [shard.wait() for shard in shards] == [0, 3, 0, 0], "017.png is in the second quarter"
    assert "1 of 15 images could not be read" in shards[1].output
    assert [row for out in dict.fromkeys(outs) for row in rows(out)] == EXPECTED
    assert not list(images.parent.glob("*unfinished*"))
    assert len(list(images.parent.glob("*.about.json"))) == len(set(outs))


def test_a_killed_shard_resumes_only_its_own_images_while_another_one_runs(images: Path) -> None:
    out = images.parent / "out.parquet"
    log = out.with_name("network.log")

    def shard(number: int, seconds: float, *options: str) -> Command:
        return start_predict(images, out, seconds, "--shard", f"{number}/2", *options)

    killed = shard(2, 0.05)
    killed.wait_for(lambda: log.exists() and log.read_text().count("\n") > 4)
    killed.kill(signal.SIGKILL)
    killed.wait()
    done = len(rows(out))
    assert 0 < done < 30
    log.unlink()
    resumed, other = shard(2, 0.05, "--resume"), shard(1, 0.05)
    assert resumed.wait() == 0
    assert other.wait() == 3
    assert rows(out) == EXPECTED
    for number, status in ((1, 3), (2, 0)):
        log.unlink()
        again = shard(number, 0, "--resume")
        assert again.wait() == status
        assert "30 images are done already" in again.output
        assert "not given this time" not in again.output
        assert not log.exists() or not log.read_text(), "nothing is computed again"
        log.touch()


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.usefixtures("fake")
def test_a_shard_does_not_depend_on_the_order_of_the_arguments(run: Run, images: Path, order: int) -> None:  # noqa: F811
    arguments = [images / name for name, _ in EXPECTED][::order]
    _, out, _ = run("predict", "model", *arguments, "--shard", "2/3", "--json")
    assert sorted(Path(json.loads(line)["image"]).name for line in out.splitlines()) == [n for n, _ in EXPECTED[20:40]]


@pytest.mark.usefixtures("fake")
def test_a_folder_holds_only_shards_that_fit_together(run: Run, images: Path) -> None:  # noqa: F811
    out = images.parent / "out.parquet"
    assert run("predict", "model", images, "--out", out, "--shard", "1/4")[0] == 0
    save(images.parent / "more" / "0.png", 0)
    for arguments, fault in (
        ((images, "--shard", "1/4"), "holds shard 1/4 already; continue it with --resume"),
        ((images, "--shard", "2/4", "--top", 3), "was written with top 5, not 3"),
        ((images, "--shard", "2/4", "--top", 3, "--overwrite"), "was written with top 5, not 3"),
        ((images, "--shard", "2/5"), "was written in 4 shards; give --shard I/4"),
        ((images, "--resume"), "was written in 4 shards; give --shard I/4"),
        ((images, "--overwrite"), "was written in 4 shards; give --shard I/4, or delete the folder"),
        ((images, images.parent / "more", "--shard", "2/4"), "other images (60 before, 61 now)"),
        ((images, "--shard", "2/4", "--decode", "scaled", "--resume"), "was written with decode 'exact', not 'scaled'"),
    ):
        status, _, err = run("predict", "model", *arguments, "--out", out)
        assert status == 2
        assert fault in one_line(err)
    assert rows(out) == EXPECTED[:15]
    for _ in range(2):
        assert run("predict", "model", images, "--out", out, "--shard", "3/4", "--overwrite")[0] == 0
    assert rows(out) == EXPECTED[:15] + EXPECTED[30:45]


@pytest.mark.usefixtures("fake")
def test_a_folder_of_all_images_takes_no_shards(run: Run, images: Path) -> None:  # noqa: F811
    out = images.parent / "out.parquet"
    run("predict", "model", images, "--out", out)
    for option in ("--resume", "--overwrite"):
        status, _, err = run("predict", "model", images, "--out", out, "--shard", "1/2", option)
        assert status == 2
        assert "was written without --shard; leave it out" in one_line(err)
    assert rows(out) == EXPECTED


def test_one_file_is_not_shared_by_shards(images: Path) -> None:
    out = images.parent / "out.jsonl"
    log = out.with_name("network.log")
    first = start_predict(images, out, 0.2, "--shard", "1/2")
    first.wait_for(lambda: log.exists() and log.read_text().count("\n") > 1)
    for options in ((), ("--resume",), ("--overwrite",)):
        second = start_predict(images, out, 0, "--shard", "2/2", *options)
        assert second.wait() == 2
        assert "holds shard 1/2, and only a folder NAME.parquet can be shared by shards" in second.output
    assert first.wait() == 3
    assert rows(out) == EXPECTED[:30]


@pytest.mark.parametrize("kind", KINDS)
def test_overwriting_does_not_delete_the_results_of_a_run_that_is_still_writing(tmp_path: Path, kind: str) -> None:
    out = tmp_path / f"out.{kind}"
    first = open_results(out, ABOUT, top=1, resume=False)
    with pytest.raises(InputError, match="another run is writing to it"):
        open_results(out, ABOUT, top=1, resume=False, overwrite=True)
    first.write(Prediction("a.png", [("a", 1.0)]))
    first.close()
    assert rows(out) == [("a.png", "a")]


@pytest.mark.usefixtures("fake")
def test_there_may_be_more_shards_than_images(run: Run, images: Path) -> None:  # noqa: F811
    out, two = images.parent / "out.parquet", (images / "000.png", images / "001.png")
    for number in range(1, 6):
        assert run("predict", "model", *two, "--out", out, "--shard", f"{number}/5")[0] == 0
    assert rows(out) == EXPECTED[:2]


# --------------------------------------------------------------------------------------------------- many images


@pytest.mark.parametrize(
    ("arguments", "callers"),
    [
        (["{images}/000.png"], 1),
        (["{images}/000.png", "-"], 1),
        (["{images}/000.png"] * 31, 1),
        (["{images}/000.png"] * 32, None),
        (["{images}"], None),
        (["{images}/000.png", "{images}/00*.png"], None),
        (["{images}/set.zip"], None),
    ],
)
@pytest.mark.usefixtures("fake")
def test_only_a_few_files_and_streams_share_all_cores(
    run: Run,  # noqa: F811
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    callers: int | None,
) -> None:
    """Several threads with a network each (None: as many as suit the engine) take longer to open."""
    from inception_v3.inference import choose

    write_zip(images / "set.zip", {"0.png": (images / "000.png").read_bytes()})
    requested: list[object] = []
    opened = choose.open_engine("model")
    monkeypatch.setattr(choose, "open_engine", lambda *_, **options: (requested.append(options["callers"]), opened)[1])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((images / "001.png").read_bytes())))
    assert run("predict", "model", *(argument.format(images=images) for argument in arguments))[0] in (0, 3)
    assert requested == [callers]


# ------------------------------------------------------------------------------------------------------- pipes


FAKE = (
    "import sys; sys.path.insert(0, sys.argv[1]); seconds = float(sys.argv[2])\n"
    "from fake_engine import *; instead_of_a_network(seconds)\n"
    "from inception_v3.cli import main; sys.argv = ['inception-v3', 'predict', 'model', *sys.argv[3:]]; main()\n"
)


def piped(*arguments: object, seconds: float = 0.0, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FAKE, Path(__file__).parents[1], seconds, *arguments, "--json"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(list(map(str, command)), **(pipes | options))


def test_each_path_of_a_slow_list_is_predicted_at_once(images: Path) -> None:
    with piped("-", "--batch-size", 1) as process:
        assert process.stdin
        assert process.stdout
        for number in (3, 1, 2):
            process.stdin.write(f"{images}/{number:03}.png\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["predictions"][0]["class"] == str(number)
        process.stdin.close()
        assert process.wait(60) == 0


def test_ctrl_c_while_waiting_for_a_list(images: Path) -> None:
    with piped("-") as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.write(f"{images}/003.png\n")
        process.stdin.flush()
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert re.fullmatch("fake fp32 on cpu: [^\n]+\ninterrupted\n", process.stderr.read())


def test_a_closed_pipe_ends_the_command_quietly_and_soon(images: Path) -> None:
    with piped(images, "--batch-size", 1, seconds=0.02) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        process.wait(60)
        assert re.fullmatch("fake fp32 on cpu: [^\n]+\n", process.stderr.read())


def test_the_count_is_shown_only_on_a_terminal(images: Path, tmp_path: Path) -> None:
    master, slave = os.openpty()
    with piped(images, "--out", tmp_path / "out.csv", seconds=0.1, stderr=slave) as process:
        os.close(slave)
        shown = b""
        while chunk := _read(master):
            shown += chunk
        assert process.wait(60) == 3
        assert re.search(rb"\d of 60 images, [^\n]*\d images/s", shown)
        assert b"1 of 60 images could not be read" in shown


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end is closed
        return b""
