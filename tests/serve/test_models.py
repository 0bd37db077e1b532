"""Which models are served, and how a changed file replaces the one in use."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from serving import GatedEngine, opened, wait_for

from inception_v3.errors import InputError
from inception_v3.inference.engines.base import LOGITS
from inception_v3.serve import models
from inception_v3.serve.models import Models, OpenOptions, find_models

OLD = Path(__file__).parents[1] / "version_0_1"


def addresses(*arguments: object) -> list[tuple[str, str, str]]:
    return [(each.name, each.version, Path(each.path).name) for each in find_models(map(str, arguments))]


def test_a_model_has_the_name_of_its_file_or_folder_or_a_given_one() -> None:
    assert addresses(OLD / "run.onnx") == [("run", "1", "run.onnx")]
    named = addresses(f"pets={OLD / 'run'}", f"pets:7={OLD / 'run.xml'}")
    assert named == [("pets", "1", "run"), ("pets", "7", "run.xml")]
    assert addresses("hf:owner/name with space") == [("hf-owner-name-with-space", "1", "name with space")]


def test_a_folder_stands_for_its_models_and_the_highest_of_their_versions(tmp_path: Path) -> None:
    shutil.copytree(OLD / "run", tmp_path / "pets")
    for version in ("2", "10", "9"):
        (tmp_path / "birds" / version).mkdir(parents=True)
        shutil.copy(OLD / "run.onnx", tmp_path / "birds" / version / "model.onnx")
    shutil.copy(OLD / "run.onnx", tmp_path / "dogs.onnx")
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / ".hidden").mkdir()
    assert addresses(tmp_path) == [("birds", "10", "10"), ("dogs", "1", "dogs.onnx"), ("pets", "1", "pets")]
    assert addresses(tmp_path / "birds") == [("birds", "10", "10")]
    assert addresses(f"x={tmp_path / 'birds'}") == [("x", "10", "10")]
    assert addresses(tmp_path / "birds" / "2") == [("2", "1", "2")]


def test_a_folder_of_alternatives_of_one_network_is_one_model() -> None:
    assert addresses(f"run={OLD}") == [("run", "1", "version_0_1")]


@pytest.mark.parametrize("argument", ["a/b=x.onnx", "=x.onnx", "é=x.onnx", "a b=x.onnx", "..=x", "a:b/c=x"])
def test_a_name_that_cannot_stand_in_a_url_is_refused(argument: str) -> None:
    with pytest.raises(InputError, match="letters, digits and"):
        find_models([argument])


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="a second model called run, version 1; give NAME=PATH or NAME:VERSION=PATH"):
        find_models([str(OLD / "run.onnx"), str(OLD / "run")])


# ------------------------------------------------------------------------------------------------- a changed file


class Numbered(GatedEngine):
    """Returns a number as the first logit."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def run(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        outputs = super().run(pixels)
        outputs[LOGITS][:, 0] = self.number
        return outputs


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Numbered]:
    """The engines that were opened. The content of a model's file is the number that its engine returns."""
    opened_engines: list[Numbered] = []

    def open_engine(path: str, *_: object, **__: object) -> object:
        file = Path(path)
        file = file / "model.safetensors" if file.is_dir() else file
        if not (text := file.read_text()).isdecimal():
            raise InputError(f"{path}: damaged")
        opened_engines.append(Numbered(int(text)))
        return opened(opened_engines[-1])

    monkeypatch.setattr(models, "open_engine", open_engine)
    return opened_engines


@pytest.fixture
def watch() -> Iterator[Callable[..., Models]]:
    served: list[Models] = []

    def start(path: Path, *more: str) -> Models:
        served.append(Models([f"pets={path}", *more], OpenOptions(), 8))
        served[-1].load()
        threading.Thread(target=served[-1].watch, args=(0.02,), daemon=True).start()
        return served[-1]

    yield start
    for each in served:
        each.close()


def answer(served: Models) -> float:
    with served.use("pets") as model:
        future = model.submit(np.zeros((1, 8, 8, 3), np.uint8), [LOGITS], time.monotonic() + 10)
        return float(future.result(10).outputs[LOGITS][0, 0])


def test_a_changed_file_replaces_the_model_and_a_damaged_one_does_not(
    tmp_path: Path, engines: list[Numbered], watch: Callable[..., Models]
) -> None:
    file = tmp_path / "a.onnx"
    file.write_text("1")
    served = watch(file)
    assert answer(served) == 1
    file.write_text("22")
    wait_for(lambda: answer(served) == 22)
    file.write_text("damaged")
    wait_for(lambda: "damaged; the earlier model stays in use" in served.index()[0]["reason"])
    assert answer(served) == 22
    assert served.index()[0]["state"] == "READY"
    file.write_text("333")
    wait_for(lambda: answer(served) == 333)
    assert served.index()[0]["reason"] == ""
    file.unlink()
    time.sleep(0.1)
    assert answer(served) == 333


def test_a_new_version_in_a_folder_replaces_the_earlier_one(
    tmp_path: Path, engines: list[Numbered], watch: Callable[..., Models]
) -> None:
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "model.safetensors").write_text(version)
    served = watch(tmp_path)
    assert (answer(served), served.names()) == (2, [("pets", "2")])
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "model.safetensors").write_text("3")
    wait_for(lambda: answer(served) == 3)
    wait_for(lambda: served.names() == [("pets", "3")])


def test_a_request_that_holds_a_replaced_model_gets_its_result_from_it(
    tmp_path: Path, engines: list[Numbered], watch: Callable[..., Models]
) -> None:
    file = tmp_path / "a.onnx"
    file.write_text("1")
    served = watch(file)
    with served.use("pets") as old:
        file.write_text("22")
        wait_for(lambda: answer(served) == 22)
        future = old.submit(np.zeros((1, 8, 8, 3), np.uint8), [LOGITS], time.monotonic() + 10)
        assert future.result(10).outputs[LOGITS][0, 0] == 1
    wait_for(lambda: not old.batcher._thread.is_alive())


def test_files_that_vanish_while_they_are_looked_at_do_not_end_the_watch(
    tmp_path: Path, engines: list[Numbered], watch: Callable[..., Models], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.onnx"
    file.write_text("1")
    served = watch(file)
    fingerprint, faults = models.fingerprint, [InputError("no such folder")]

    def fail_once(path: str) -> object:
        if faults:
            raise faults.pop()
        return fingerprint(path)

    monkeypatch.setattr(models, "fingerprint", fail_once)
    wait_for(lambda: not faults)
    file.write_text("22")
    wait_for(lambda: answer(served) == 22)


def test_a_new_version_in_a_folder_takes_the_place_of_the_earlier_one_and_of_no_other_model(
    tmp_path: Path, engines: list[Numbered], watch: Callable[..., Models]
) -> None:
    (tmp_path / "a.onnx").write_text("7")
    folder = tmp_path / "versions"
    for version in ("1", "2"):
        (folder / version).mkdir(parents=True)
        (folder / version / "model.safetensors").write_text(version)
    served = watch(folder, f"pets:7={tmp_path / 'a.onnx'}", f"birds={tmp_path / 'a.onnx'}")
    assert served.names() == [("pets", "2"), ("pets", "7"), ("birds", "1")]
    (folder / "3").mkdir()
    (folder / "3" / "model.safetensors").write_text("3")
    wait_for(lambda: served.names() == [("pets", "7"), ("pets", "3"), ("birds", "1")])


def test_the_default_is_the_highest_version(tmp_path: Path, engines: list[Numbered]) -> None:
    arguments = []
    for version, number in (("9", 9), ("10", 10), ("beta", 0)):
        (tmp_path / f"{version}.onnx").write_text(str(number))
        arguments.append(f"pets:{version}={tmp_path / f'{version}.onnx'}")
    served = Models(arguments, OpenOptions(), 8)
    served.load()
    assert answer(served) == 10
    assert served.versions("pets") == ["beta", "9", "10"]
    served.close()
