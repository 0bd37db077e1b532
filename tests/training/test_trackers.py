"""Where a training can be followed: TensorBoard, MLflow and W&B, all offline here; and what fails on the way."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inception_v3.data import load_data
from inception_v3.errors import InputError
from inception_v3.training import trackers
from inception_v3.training.recipe import Recipe, load_recipe
from inception_v3.training.run_folder import RunFolder
from inception_v3.training.trackers import Trackers
from inception_v3.training.train import train
from generated_images import skies

pytestmark = pytest.mark.usefixtures("one_thread")

FIGURES = {"train/loss": 2.5, "train/accuracy": 0.25}


def test_a_training_tells_every_tracker_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    recipe = replace(load_recipe("digits"), depth_multiplier=0.1, epochs=2, batch_size=2)
    with RunFolder(tmp_path / "run", track=("mlflow", "wandb")) as run:
        train(*load_data(str(skies(tmp_path / "data"))), run, recipe, torch.device("cpu"))
    logged = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    steps = 2 * 7

    shown = tensorboard(tmp_path / "run")
    assert shown["epoch/held_out_top1"][-1] == (steps, pytest.approx(logged["held_out_top1"]))
    assert [step for step, _ in shown["train/loss"]] == [10], "every tenth step"
    assert {"train/learning_rate", "train/images_per_second", "train/data_wait", "train/accuracy"} <= shown.keys()

    from mlflow.tracking import MlflowClient

    client = MlflowClient((tmp_path / "run" / "mlruns").as_uri())
    (one,) = client.search_runs([client.get_experiment_by_name("inception-v3").experiment_id])
    assert one.data.params["learning_rate"] == "0.0003"
    assert one.info.status == "FINISHED"
    assert one.data.metrics["epoch/loss"] == pytest.approx(logged["loss"])
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))


def tensorboard(run: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_what_a_broken_run_told_after_its_last_state_is_told_again(tmp_path: Path) -> None:
    """TensorBoard shows each step once."""
    first = Trackers(["tensorboard"], tmp_path, {})
    for step in (10, 20, 30):
        first.log(step, {"train/loss": 1.0})
    first.close()
    second = Trackers(["tensorboard"], tmp_path, {}, step=20)
    second.log(30, {"train/loss": 0.5})
    second.close()
    assert tensorboard(tmp_path)["train/loss"] == [(10, 1.0), (20, 1.0), (30, 0.5)]


@pytest.mark.parametrize("name", ["mlflow"])
def test_a_run_that_is_gone_on_with_stays_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for step in (0, 20):
        several = Trackers([name], tmp_path, {"seed": 0}, step=step)
        several.log(step + 10, FIGURES)
        several.close()
    from mlflow.tracking import MlflowClient

    client = MlflowClient((tmp_path / "mlruns").as_uri())
    (one,) = client.search_runs([client.get_experiment_by_name("inception-v3").experiment_id])
    assert [m.step for m in client.get_metric_history(one.info.run_id, "train/loss")] == [10, 30]


class Broken:
    """A tracker whose server goes away after the second message."""

    told: list[int] = []  # noqa: RUF012

    def __init__(self, *_: Any) -> None:
        self.told.clear()

    def log(self, step: int, figures: dict[str, float]) -> None:
        if step > 2:
            raise ConnectionError("no route to host\nand a stack of other lines")
        self.told.append(step)

    def close(self) -> None:
        raise AssertionError("it is gone already")


def follow(tracker: Trackers, steps: int) -> None:
    for step in range(1, steps + 1):
        tracker.log(step, FIGURES)
    tracker.close()


def test_a_tracker_that_fails_is_told_once_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(trackers.MAKERS, "wandb", Broken)
    several = Trackers(["wandb", "tensorboard"], tmp_path, {})
    with pytest.warns(UserWarning, match="wandb has failed and is left out from here on .no route to host.") as told:
        follow(several, 5)
    assert len(told) == 1
    assert Broken.told == [1, 2]
    assert [step for step, _ in tensorboard(tmp_path)["train/loss"]] == [1, 2, 3, 4, 5]


def test_one_that_is_not_installed_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers.NEEDS, "wandb", ("no_such_module", "wandb"))
    with pytest.raises(InputError, match=r"pip install 'inception-v3\[wandb\]'") as error:
        RunFolder(tmp_path / "run", track=("wandb",))
    assert error.value.exit_status == 2
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="there are tensorboard, mlflow, wandb"):
        RunFolder(tmp_path / "run", track=("comet",))


def test_without_tensorboard_a_training_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers.NEEDS, "tensorboard", ("no_such_module", "train"))
    with RunFolder(tmp_path / "run") as run:
        run.start(Recipe(), ["a.png"])
        run.tracker.log(1, FIGURES)
    assert run.missing == ["TensorBoard logs"]
    assert not (tmp_path / "run" / "tensorboard").exists()
