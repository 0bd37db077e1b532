"""Trackers: TensorBoard, MLflow and W&B, all offline here, and what happens if they fail."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from generated_images import skies
from inception_v3.data import load_data
from inception_v3.errors import InputError
from inception_v3.support import packages
from inception_v3.training import trackers
from inception_v3.training.recipe import Recipe, load_recipe
from inception_v3.training.run_folder import RunFolder
from inception_v3.training.trackers import Trackers
from inception_v3.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

FIGURES = {"train/loss": 2.5, "train/accuracy": 0.25}


def test_a_training_logs_to_every_requested_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    recipe = replace(load_recipe("digits"), depth_multiplier=0.1, epochs=2, batch_size=2)
    with RunFolder(tmp_path / "run", track=("mlflow", "wandb")) as run:
        train(*load_data(str(skies(tmp_path / "data", 17))), run, recipe, torch.device("cpu"))
    logged = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    steps = 2 * 7

    figures = tensorboard(tmp_path / "run")
    assert figures["epoch/held_out_top1"][-1] == (steps, pytest.approx(logged["held_out_top1"]))
    assert [step for step, _ in figures["train/loss"]] == [10], "every tenth step"
    assert {"train/learning_rate", "train/images_per_second", "train/data_wait", "train/accuracy"} <= figures.keys()

    from mlflow.tracking import MlflowClient

    client = MlflowClient((tmp_path / "run" / "mlruns").as_uri())
    (mlflow_run,) = client.search_runs([client.get_experiment_by_name("inception-v3").experiment_id])
    assert mlflow_run.data.params["learning_rate"] == "0.0003"
    assert mlflow_run.info.status == "FINISHED"
    assert mlflow_run.data.metrics["epoch/loss"] == pytest.approx(logged["loss"])
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))


def tensorboard(run: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_a_resumed_run_replaces_what_was_logged_after_its_state(tmp_path: Path) -> None:
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
def test_a_resumed_run_stays_one_run_of_the_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for step in (0, 20):
        trackers = Trackers([name], tmp_path, {"seed": 0}, step=step)
        trackers.log(step + 10, FIGURES)
        trackers.close()
    from mlflow.tracking import MlflowClient

    client = MlflowClient((tmp_path / "mlruns").as_uri())
    (mlflow_run,) = client.search_runs([client.get_experiment_by_name("inception-v3").experiment_id])
    assert [metric.step for metric in client.get_metric_history(mlflow_run.info.run_id, "train/loss")] == [10, 30]


class FailingTracker:
    """A tracker whose server disappears after the second step."""

    logged: list[int] = []  # noqa: RUF012

    def __init__(self, *_: Any) -> None:
        self.logged.clear()

    def log(self, step: int, figures: dict[str, float]) -> None:
        if step > 2:
            raise ConnectionError("no route to host\nand many other lines")
        self.logged.append(step)

    def close(self) -> None:
        raise AssertionError("a failed tracker must not be used again")


def log_steps(tracker: Trackers, steps: int) -> None:
    for step in range(1, steps + 1):
        tracker.log(step, FIGURES)
    tracker.close()


def test_a_tracker_that_fails_gives_one_warning_and_training_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(trackers.TRACKERS, "wandb", FailingTracker)
    wandb_and_tensorboard = Trackers(["wandb", "tensorboard"], tmp_path, {})
    with pytest.warns(
        UserWarning, match="wandb has failed .no route to host.; training continues without it"
    ) as warnings:
        log_steps(wandb_and_tensorboard, 5)
    assert len(warnings) == 1
    assert FailingTracker.logged == [1, 2]
    assert [step for step, _ in tensorboard(tmp_path)["train/loss"]] == [1, 2, 3, 4, 5]


def test_the_message_about_a_tracker_that_is_not_installed_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_package(monkeypatch, "wandb")
    with pytest.raises(InputError, match=r"pip install .*\[wandb\]'") as error:
        RunFolder(tmp_path / "run", track=("wandb",))
    assert error.value.exit_status == 2
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="choose from tensorboard, mlflow, wandb"):
        RunFolder(tmp_path / "run", track=("comet",))


def hide_package(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As if the package were not installed."""
    find_spec = packages.find_spec
    monkeypatch.setattr(packages, "find_spec", lambda package: None if package == name else find_spec(package))


def test_without_tensorboard_a_training_runs_and_reports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_package(monkeypatch, "tensorboard")
    with RunFolder(tmp_path / "run") as run:
        run.start(Recipe(), ["a.png"])
        run.tracker.log(1, FIGURES)
    assert run.missing == ["TensorBoard logs"]
    assert not (tmp_path / "run" / "tensorboard").exists()
