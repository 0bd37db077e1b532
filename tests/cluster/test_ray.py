"""The commands with --ray: the same rows and scores as on one machine, and refusals in one line."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inception_v3.cluster.options import parse_actors
from inception_v3.cluster.run import PARTS_PER_ACTOR, part_size
from inception_v3.errors import InputError
from inception_v3.images.addresses import expand
from inception_v3.images.located import locate, open_located
from inception_v3.support.packages import missing_packages
from inception_v3.weights.load import save
from inception_v3.weights.model import InceptionV3

needs_ray = pytest.mark.skipif(bool(missing_packages(("ray",))), reason="needs the extra ray")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "inception_v3", *map(str, arguments)]


def run(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=240)
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
    """Folders, archives, patterns, and an archive that is given twice."""
    arguments = [str(images), str(archive), f"{images}/class_1/*.png", str(archive)]
    expected = [(source.name, source.read()) for source in expand(arguments)]
    located = [*locate(arguments)]
    assert [image.name for image in located] == [name for name, _ in expected]
    assert [(source.name, source.read()) for source in open_located(located)] == expected
    part = slice(70, 90)  # it begins in the middle of the archive
    assert [(source.name, source.read()) for source in open_located(located[part])] == expected[part]


@pytest.fixture(params=["tar", "zip"])
def archive(request: pytest.FixtureRequest, images: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.make_archive(str(tmp_path / "images"), request.param, images / "class_1"))


def test_a_damaged_archive_is_one_image_that_cannot_be_read(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(b"not a tar" * 1000)
    (image,) = locate([str(damaged)])
    (source,) = open_located([image])
    with pytest.raises(InputError, match=r"damaged\.tar"):
        source.read()


def test_parts_are_whole_batches_and_enough_for_all_actors() -> None:
    assert part_size(10_000, 2, 16) == 256  # the most
    assert part_size(1000, 4, 16) == 16
    assert part_size(10, 4, 16) == 16
    for count in (100, 1000, 5000):
        assert part_size(count, 2, 8) % 8 == 0
        assert part_size(count, 2, 8) <= max(8, count // (2 * PARTS_PER_ACTOR))


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
    plain, ray = tmp_path / "plain.jsonl", tmp_path / "ray.jsonl"
    run("predict", model, images, "--out", plain, status=3)
    result = run("predict", model, images, "--out", ray, "--ray", "local", status=3)
    assert ray.read_bytes() == plain.read_bytes()
    assert "80 images, 1 unreadable" in result.stderr
    assert Path(f"{ray}.about.json").read_bytes() == Path(f"{plain}.about.json").read_bytes()
    assert not re.search(r"\(pid=|raylet|ray\.|INFO|WARNING", result.stderr)  # nothing of Ray's own


@needs_ray
def test_a_run_begun_without_ray_is_continued_with_it(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    run("predict", model, images, "--out", out, status=3)
    complete = out.read_bytes()
    out.write_bytes(b"".join(complete.splitlines(keepends=True)[:17]) + b'{"image": "half')  # as a kill leaves it
    result = run("predict", model, images, "--out", out, "--resume", "--ray", "local", "--actors", "1", status=3)
    assert "17 images are done already" in result.stderr
    assert names(out) == [json.loads(line)["image"] for line in complete.splitlines()]


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
