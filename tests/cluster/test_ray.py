"""The commands with --ray: the same rows and scores as on one machine, and refusals in one line."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inception_v3 import __version__
from inception_v3.cluster.feature_sets import FeatureSetJob, check_on_cluster
from inception_v3.cluster.options import ClusterOptions, parse_actors
from inception_v3.cluster.predictions import ModelReference, split
from inception_v3.cluster.run import Actor, PartResult, pack, part_size, run_parts, unpack
from inception_v3.cluster.session import Cluster, _init
from inception_v3.errors import InputError
from inception_v3.fidelity.options import FidelityOptions
from inception_v3.images.addresses import expand
from inception_v3.images.find import ImageSource, LeftOut
from inception_v3.images.located import LocatedImage, locate, locate_in, open_located
from inception_v3.support import cpu
from inception_v3.support.packages import missing_packages
from inception_v3.weights.load import save
from inception_v3.weights.model import InceptionV3

needs_ray = pytest.mark.skipif(bool(missing_packages(("ray",))), reason="needs the extra ray")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "inception_v3", *map(str, arguments)]


def run(*arguments: object, status: int = 0, **environment: object) -> subprocess.CompletedProcess[str]:
    env = os.environ | {name: str(value) for name, value in environment.items()}
    result = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=240, env=env)
    assert result.returncode == status, result.stderr
    return result


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "thin.safetensors"
    save(InceptionV3(num_classes=5, depth_multiplier=0.1), path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 40 images, one of which is unreadable."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(80):
        path = folder / f"class_{number % 2}" / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (80, 90, 3), np.uint8)).save(path)
    (folder / "class_0" / "030.png").write_text("not an image")
    return folder


# ----------------------------------------------------------------------------------------- without Ray


def test_located_images_are_opened_with_the_names_and_bytes_of_the_ordinary_command(
    images: Path, archive: Path
) -> None:
    """Folders, archives, patterns, and an archive that is given three times."""
    arguments = [str(images), str(archive), f"{images}/class_1/*.png", str(archive), str(archive)]
    expected = [(source.name, source.read()) for source in expand(arguments)]
    located = [*locate(arguments)]
    assert [image.name for image in located] == [name for name, _ in expected]
    assert [(source.name, source.read()) for source in open_located(located)] == expected
    part = slice(70, 90)  # it begins in the middle of the archive
    assert [(source.name, source.read()) for source in open_located(located[part])] == expected[part]


@pytest.fixture(params=["tar", "zip"])
def archive(request: pytest.FixtureRequest, images: Path, tmp_path: Path) -> Path:
    return Path(shutil.make_archive(str(tmp_path / "images"), request.param, images / "class_1"))


def test_a_damaged_archive_is_one_image_that_cannot_be_read(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(b"not a tar" * 1000)
    (image,) = locate([str(damaged)])
    (source,) = open_located([image])
    with pytest.raises(InputError, match=r"damaged\.tar"):
        source.read()


def test_a_damaged_archive_ends_the_listing_of_an_image_set_after_its_good_images(images: Path, tmp_path: Path) -> None:
    """As `fidelity` on one machine, which computes no score of half an archive."""
    whole = Path(shutil.make_archive(str(tmp_path / "whole"), "tar", images / "class_1"))
    truncated = tmp_path / "truncated.tar"
    truncated.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    listed: list[LocatedImage] = []
    with pytest.raises(InputError, match=r"truncated\.tar"):
        listed.extend(locate_in(ImageSource(str(truncated), truncated), LeftOut()))
    assert 0 < len(listed) < 40
    assert [image.error is None for image in locate([str(truncated)])] == [True] * len(listed) + [False]


def test_images_that_left_an_archive_after_the_listing_cannot_be_read(
    archive: Path, images: Path, tmp_path: Path
) -> None:
    located = [*locate([str(archive)])]
    (fewer := tmp_path / "fewer").mkdir()
    for path in sorted((images / "class_1").iterdir())[:10]:
        shutil.copy(path, fewer)
    shutil.make_archive(str(archive.with_suffix("")), archive.suffix[1:], fewer)
    sources = [*open_located(located)]
    assert [source.name for source in sources] == [image.name for image in located]
    assert all(source.read() for source in sources[:10])
    for source in sources[10:]:
        with pytest.raises(InputError, match="has changed since it was listed"):
            source.read()


def test_images_of_an_archive_that_a_node_cannot_download_have_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(url: str) -> Path:
        raise InputError(f"{url}: no connection")

    monkeypatch.setattr("inception_v3.support.download.fetch", fetch)
    url = "https://data.example/cats.tar"
    for source in open_located(LocatedImage(f"{url}/{index}.png", url, index) for index in range(3)):
        with pytest.raises(InputError, match="no connection"):
            source.read()


def test_parts_are_whole_batches_that_get_smaller_to_the_end() -> None:
    assert part_size(10_000, 2, 16) == 256  # the most
    assert part_size(1000, 4, 16) == 112  # half of a share of 250
    assert part_size(10, 4, 16) == 16  # a batch


@pytest.mark.parametrize("count", [1, 2, 17, 100, 3000])
def test_all_images_are_in_parts_of_whole_batches_in_their_order(count: int) -> None:
    images = [LocatedImage(f"{index}.png", f"{index}.png") for index in range(count)]
    parts = [unpack(part) for part in split(images, 1, 16, 2)]
    assert [image for part in parts for image in part.images] == images
    assert [part.first_batch for part in parts] == [1, *[16] * (len(parts) - 1)]
    sizes = [len(part.images) for part in parts]
    assert sizes[0] == 1
    assert all(size % 16 == 0 for size in sizes[1:-1])
    assert sizes[1:-1] == sorted(sizes[1:-1], reverse=True)
    assert max(sizes) <= 256


def test_actors_are_a_number_or_bounds() -> None:
    assert parse_actors("3") == (3, 3)
    assert parse_actors("2:16") == (2, 16)


@pytest.mark.parametrize("text", ["0", "3:2", "-1", "two", "1:", ""])
def test_other_values_of_actors_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="give N, or MIN:MAX") as refused:
        parse_actors(text)
    assert refused.value.exit_status == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-", "--ray", "local"], "-: standard input cannot be read on other machines"),
        (["x", "--actors", "2"], "--actors: only for a run on Ray; give --ray too"),
        (["x", "--actor-gpus", "0"], "--actor-gpus: only for a run on Ray"),
        (["x", "--dashboard"], "--dashboard: only for a run on Ray"),
        (["x", "--ray", ""], "--ray: the value is empty"),
        (["x", "--ray", "local", "--shard", "1/2"], "use only one of them"),
    ],
)
def test_wrong_options_are_refused_in_a_line(model: Path, images: Path, options: list[str], message: str) -> None:
    if options[0] == "x":
        options = [str(images), *options[1:]]
    error = run("predict", model, *options, status=2).stderr
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "raw"], "--weights raw: not with --ray"),
        (["--precision", "fp32,int8"], "--precision int8: not with --ray"),
        (["--precision", "all"], "--precision int8: not with --ray"),
    ],
)
def test_networks_that_only_the_process_of_evaluate_has_are_refused(
    model: Path, images: Path, options: list[str], message: str
) -> None:
    assert message in run("evaluate", model, images, *options, "--ray", "local", status=2).stderr


def test_fidelity_in_int8_is_refused() -> None:
    with pytest.raises(InputError, match="--precision int8: its calibration") as refused:
        check_on_cluster(FidelityOptions(dtype="int8"))
    assert refused.value.exit_status == 2


# ---------------------------------------------------------------------------------- in an actor


@dataclass(frozen=True)
class CountCores:
    """Returns how many cores the engine of an actor would use; or cannot be opened, for the reason `fault`."""

    fault: str = ""

    def open(self) -> Callable[[int], int]:
        if self.fault:
            raise InputError(self.fault, exit_status=2)
        return lambda part: part * cpu.core_count()


@pytest.fixture
def _own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """An actor limits the cores of its process, which is here the process of the tests."""
    monkeypatch.setattr(cpu, "_limit", None)


def result_of(actor: Actor, part: object) -> PartResult:
    result: PartResult = unpack(actor({"part": [pack(part)]})["result"][0])
    return result


@pytest.mark.usefixtures("_own_limit")
def test_an_actor_uses_the_cores_that_ray_gives_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    assert result_of(Actor(CountCores(), 3, __version__, "."), 10).value == 30


@pytest.mark.usefixtures("_own_limit")
def test_an_actor_reports_why_it_cannot_open_the_job() -> None:
    result = result_of(Actor(CountCores("model.onnx: no such file"), 1, __version__, "."), 1)
    assert (result.error, result.exit_status) == ("model.onnx: no such file", 2)


def test_another_version_on_a_node_is_refused_with_both_versions() -> None:
    error = result_of(Actor(CountCores(), 1, "0.0.7", "."), 1).error
    assert error is not None
    assert f"has inception-v3 {__version__}, and this machine 0.0.7" in error


def test_another_model_on_a_node_is_refused(model: Path) -> None:
    with pytest.raises(InputError, match=r"thin\.safetensors: is another model on this node"):
        ModelReference(str(model), "another checksum", "pytorch", "fp32").open()
    with pytest.raises(InputError, match=r"thin\.safetensors: is another model on this node"):
        FeatureSetJob(FidelityOptions(weights=model, any_weights=True), "another checksum", 1).open()


# --------------------------------------------------------------------- in the process of the command


class Rows:
    """The results of Ray Data: those that are given, each after a pause, and then none for a long time."""

    def __init__(self, results: tuple[PartResult, ...], pause: float) -> None:
        self.results, self.pause, self.is_over = results, pause, threading.Event()

    def iter_batches(self, **_: object) -> Iterator[dict[str, list[bytes]]]:
        for result in self.results:
            time.sleep(self.pause)
            yield {"result": [pack(result)]}
        self.is_over.wait(30)


@pytest.fixture
def results_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Iterator[Any]]]:
    """A function that yields what `run_parts` yields for the results of a cluster."""
    ray = SimpleNamespace(
        available_resources=lambda: {"CPU": 0.5},
        cluster_resources=lambda: {"CPU": 2.0},
        nodes=lambda: [{"Alive": True}],
    )
    all_rows: list[Rows] = []

    def results_of(*results: PartResult, notes: list[str], stall_timeout: float, pause: float = 0) -> Iterator[Any]:
        all_rows.append(Rows(results, pause))
        monkeypatch.setattr("inception_v3.cluster.run._start", lambda *_: all_rows[-1])
        cluster = Cluster(ray, ClusterOptions("local", stall_timeout=stall_timeout), (1, 3))
        return run_parts(cluster, CountCores(), [b"part"], notes.append)

    yield results_of
    for rows in all_rows:
        rows.is_over.set()


class AuthenticationError(Exception):
    """As Ray's own."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Exception("The current node timed out during startup."), "cannot join it: The current node timed out"),
        (RuntimeError("Version mismatch: 2.50 there"), "Version mismatch: 2.50 there .*; install the same versions"),
        (AuthenticationError("no token"), "wants another token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_reported_in_a_line(error: Exception, message: str) -> None:
    def init(**_: object) -> None:
        raise error

    with pytest.raises(InputError, match=message) as raised:
        _init(SimpleNamespace(init=init, __version__="2.60.0"), ClusterOptions("head:6379"))
    assert "\n" not in str(raised.value)


def test_a_run_in_which_nothing_finishes_fails_after_the_timeout(
    monkeypatch: pytest.MonkeyPatch, results_of: Callable[..., Iterator[Any]]
) -> None:
    monkeypatch.setattr("inception_v3.cluster.run.STALL_SECONDS", 0.2)
    monkeypatch.setattr("inception_v3.cluster.run.POLL_SECONDS", 0.1)
    notes: list[str] = []
    parts = [PartResult(name, "node") for name in ("first", "second", "third")]
    results = results_of(*parts, notes=notes, stall_timeout=1.5, pause=0.6)  # each is in time
    assert [next(results) for _ in parts] == ["first", "second", "third"]
    notes.clear()
    with pytest.raises(InputError, match=r"nothing has finished for 2 s .*give a longer --stall-timeout"):
        next(results)
    assert 1 <= len(notes) <= 7
    assert "1 to 3 actors of 1 CPUs were requested, 1.5 of 2 CPUs are in use, 1 nodes are alive" in notes[0]


def test_an_error_of_an_actor_ends_the_run_with_its_node_and_exit_status(
    results_of: Callable[..., Iterator[Any]],
) -> None:
    failed = PartResult(None, "node7 (process 12)", "model.onnx: no such file", 2)
    results = results_of(PartResult("first", "node"), failed, notes=[], stall_timeout=60)
    assert next(results) == "first"
    with pytest.raises(InputError, match=r"^node7 \(process 12\): model\.onnx: no such file$") as raised:
        next(results)
    assert raised.value.exit_status == 2


@needs_ray
@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no cluster answers"),
        ("ray://127.0.0.1:1", "Ray Client is not supported"),
        ("127.0.0.1", "give local, auto, or HOST:PORT"),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(model: Path, images: Path, address: str, message: str) -> None:
    started = time.monotonic()
    result = subprocess.run(
        command("predict", model, images, "--ray", address), capture_output=True, text=True, timeout=60
    )
    assert message in result.stderr
    assert result.returncode in (1, 2)
    assert len(result.stderr.splitlines()) == 1
    assert time.monotonic() - started < 10


# -------------------------------------------------------------------------------------------- with Ray


@needs_ray
def test_predict_writes_the_same_file_as_without_ray(model: Path, images: Path, tmp_path: Path) -> None:
    plain, cluster = tmp_path / "plain.jsonl", tmp_path / "cluster.jsonl"
    run("predict", model, images, "--out", plain, status=3)
    home = tmp_path / "home"
    home.mkdir()
    result = run("predict", model, images, "--out", cluster, "--ray", "local", status=3, HOME=home)
    assert cluster.read_bytes() == plain.read_bytes()
    assert not (home / ".ray").exists()  # Ray would write a token there
    assert "80 images, 1 unreadable" in result.stderr
    assert Path(f"{cluster}.about.json").read_bytes() == Path(f"{plain}.about.json").read_bytes()
    assert not re.search(r"\(pid=|raylet|\bINFO\b|\bWARNING\b", result.stderr)  # nothing of Ray's own


@needs_ray
def test_a_run_begun_without_ray_is_continued_with_it_although_an_actor_is_killed(
    model: Path, images: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "out.jsonl", tmp_path / "log"
    run("predict", model, images, "--out", out, "--batch-size", 4, status=3)
    complete = out.read_bytes()
    out.write_bytes(b"".join(complete.splitlines(keepends=True)[:17]) + b'{"image": "half')  # as a kill leaves it
    options = ("--resume", "--ray", "local", "--actors", "1", "--batch-size", 4)
    with log.open("w") as stderr:
        process = subprocess.Popen(command("predict", model, images, "--out", out, *options), stderr=stderr)
        wait_for_rows(out, 19)
        (actor,) = (pid for pid in descendants(process.pid) if "ray::MapWorker" in command_line(pid))
        os.kill(actor, signal.SIGKILL)
        assert process.wait(120) == 3
    assert "17 images are done already" in log.read_text()
    assert out.read_bytes() == complete


def names(out: Path) -> list[str]:
    return [json.loads(line)["image"] for line in out.read_text().splitlines()]


@needs_ray
@pytest.mark.slow
def test_features_are_the_same_to_the_last_bit(model: Path, images: Path, tmp_path: Path) -> None:
    plain, ray = tmp_path / "plain.npz", tmp_path / "ray.npz"
    run("features", model, images, "--out", plain, status=3)
    run("features", model, images, "--out", ray, "--ray", "local", status=3)
    assert ray.read_bytes() == plain.read_bytes()


@needs_ray
@pytest.mark.slow
def test_fidelity_is_the_same_to_the_last_digit(images: Path, tmp_path: Path) -> None:
    weights = tmp_path / "wide.safetensors"
    save(InceptionV3(num_classes=5, depth_multiplier=0.25), weights)
    arguments = [images / "class_0", images / "class_1", "--weights-file", weights, "--any-weights", "--no-cache"]
    plain, ray = (
        json.loads(run("fidelity", *arguments, "--json", *options).stdout) for options in ([], ["--ray", "local"])
    )
    assert ray == plain


@needs_ray
@pytest.mark.slow
def test_evaluate_computes_the_same_metrics(model: Path, images: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("".join(f"class_{number}\n" for number in range(5)))

    def metrics(*options: str) -> dict[str, Any]:
        result = run("evaluate", model, images, "--class-names", classes, "--json", *options)
        found: dict[str, Any] = json.loads(result.stdout)
        timed = ("images_per_second", "precisions")
        return {name: value for name, value in found.items() if name not in timed}

    assert metrics("--ray", "local") == metrics()


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_job_and_leaves_results_that_are_continued(
    model: Path, images: Path, tmp_path: Path, number: signal.Signals
) -> None:
    plain, out = tmp_path / "plain.jsonl", tmp_path / "out.jsonl"
    run("predict", model, images, "--out", plain, "--batch-size", 4, status=3)
    process = subprocess.Popen(
        command("predict", model, images, "--out", out, "--ray", "local", "--batch-size", 4), start_new_session=True
    )
    wait_for_rows(out, 5)
    os.killpg(process.pid, number)
    assert process.wait(30) == 128 + number
    run("predict", model, images, "--out", out, "--resume", "--batch-size", 4, status=3)
    assert names(out) == names(plain)


@needs_ray
@pytest.mark.slow
def test_a_killed_actor_is_replaced_and_no_row_is_lost(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            command("predict", model, images, "--out", out, "--ray", "local", "--batch-size", 2), stderr=log
        )
        wait_for_rows(out, 3)
        actors = [pid for pid in descendants(process.pid) if "ray::MapWorker" in command_line(pid)]
        os.kill(actors[0], signal.SIGKILL)
        assert process.wait(120) == 3
    assert names(out) == [image.name for image in locate([str(images)])]
    assert len([line for line in (tmp_path / "log").read_text().splitlines() if "Ray" in line]) <= 3


@needs_ray
@pytest.mark.slow
def test_a_server_that_never_answers_is_reported_within_ten_seconds(model: Path, images: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        started = time.monotonic()
        error = run("predict", model, images, "--ray", f"127.0.0.1:{server.getsockname()[1]}", status=1).stderr
        assert "no cluster answers" in error
        assert time.monotonic() - started < 15


@needs_ray
@pytest.mark.slow
def test_more_actors_than_fit_are_refused_instead_of_waiting(model: Path, images: Path) -> None:
    error = run("predict", model, images, "--ray", "local", "--actors", 999, status=2).stderr
    assert "999 actors of 1 CPUs do not fit" in error


def wait_for_rows(out: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while not out.exists() or out.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline, "no rows"
        time.sleep(0.02)


def descendants(pid: int) -> list[int]:
    """The processes that this one has started, and theirs."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
