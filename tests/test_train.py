"""Training: what it learns, what it leaves behind, and what stops it."""

import csv
import io
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import inception_v3
from inception_v3.data import load_data
from inception_v3.errors import InputError
from inception_v3.evaluate import Metrics, evaluate
from inception_v3.losses import classification_loss
from inception_v3.recipe import Recipe, load_recipe
from inception_v3.run_folder import RunFolder
from inception_v3.train import train
from pictures import skies

SMALL = replace(load_recipe("digits"), depth_multiplier=0.1, epochs=2, batch_size=8)


def run(data: Path, out: Path, recipe: Recipe = SMALL, seed: int = 0, **options: Any) -> tuple[Metrics, str]:
    console = Console(file=io.StringIO(), width=200)
    with RunFolder(out, overwrite=True) as folder:
        metrics = train(
            *load_data(str(data)), folder, recipe, torch.device("cpu"), seed=seed, console=console, **options
        )
    return metrics, console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Metrics, str]:
    place = tmp_path_factory.mktemp("trained")
    data = skies(place / "data", 40)
    (data / "day" / "broken.png").write_text("this is text")
    recipe = replace(
        SMALL, epochs=12, batch_size=4, augment="none", learning_rate=1e-3, ema_decay=0.9, batch_norm_decay=0.9
    )
    metrics, said = run(data, place / "run", recipe)
    return place, metrics, said


# ------------------------------------------------------------------------------------------- what it leaves


def test_the_run_folder_holds_a_model_that_repeats_the_judgement(trained: tuple[Path, Metrics, str]) -> None:
    place, metrics, _ = trained
    model = inception_v3.load(place / "run")
    assert model.class_names == ["day", "night"]
    assert model.image_size == (75, 75)
    _, test_set = load_data(str(place / "data"))
    from inception_v3.data import batches

    again = evaluate(model, batches(test_set, model.preprocessing, 3), test_set.class_names)
    assert np.array_equal(again.confusion, metrics.confusion)
    assert metrics.top1 > 0.8, "day and night are easily told apart"


def test_everything_that_was_promised_is_there(trained: tuple[Path, Metrics, str]) -> None:
    run_folder = trained[0] / "run"
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 13))
    assert lines[-1]["loss"] < lines[0]["loss"]
    for name in ("curves.png", "confusion_matrix.png"):
        assert min(Image.open(run_folder / name).size) > 200
    assert json.loads((run_folder / "recipe.json").read_text())["epochs"] == 12
    assert list((run_folder / "tensorboard").glob("events.*"))
    assert not list(run_folder.glob("*.partial"))


def test_a_bad_picture_is_listed_and_left_out(trained: tuple[Path, Metrics, str]) -> None:
    place, _, _ = trained
    with (place / "run" / "bad_images.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image", "reason"]
    assert [row[0] for row in rows[1:]] == ["day/broken.png"]


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    data = skies(tmp_path / "data")
    recipe = replace(SMALL, epochs=1)
    weights = []
    for seed in (0, 0, 1):
        run(data, tmp_path / "run", recipe, seed)
        weights.append(inception_v3.load(tmp_path / "run").get_parameter("Conv2d_1a_3x3.weights"))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_last_batch_of_one_picture_is_trained_on_too(tmp_path: Path) -> None:
    """At 75 pixels the last map has one value a channel: PyTorch's own BatchNorm refuses a batch of one there."""
    recipe = replace(SMALL, epochs=1, batch_size=12)
    metrics, _ = run(skies(tmp_path / "data"), tmp_path / "run", recipe)  # 13 to train on
    assert metrics.count == 3


# --------------------------------------------------------------------------------------------- what stops it


def test_pictures_that_cannot_be_read_at_all_stop_it(tmp_path: Path) -> None:
    data = skies(tmp_path / "data")
    for file in data.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match="none of the training pictures can be read"):
        run(data, tmp_path / "run")


def test_a_loss_that_is_no_number_stops_it_and_keeps_the_last_whole_epoch(tmp_path: Path) -> None:
    recipe = replace(SMALL, learning_rate=1e30, warmup_epochs=0.0)
    with pytest.raises(InputError, match="smaller --learning-rate"):
        run(skies(tmp_path / "data"), tmp_path / "run", recipe)


def test_a_run_is_not_overwritten_unless_asked_for(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("hours of work")
    with pytest.raises(InputError, match="--overwrite") as error:
        RunFolder(tmp_path)
    assert error.value.exit_status == 2
    assert (tmp_path / "model.safetensors").read_text() == "hours of work"


def test_a_full_disk_stops_it_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="the disk is full"):
        run(skies(tmp_path / "data"), tmp_path / "run")


# ------------------------------------------------------------------------------------------- loss


def test_label_smoothing_and_the_auxiliary_loss_are_the_papers() -> None:
    logits, aux = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    labels = torch.tensor([0, 3, 4, 1])
    target = torch.nn.functional.one_hot(labels, 5) * 0.9 + 0.1 / 5
    expected = sum(w * -(target * x.log_softmax(1)).sum(1).mean() for w, x in ((1, logits), (0.4, aux)))
    assert torch.allclose(classification_loss(logits, labels, aux, label_smoothing=0.1), expected)


def test_starting_again_leaves_nothing_of_the_first_run(tmp_path: Path) -> None:

    data = skies(tmp_path / "data")
    (data / "day" / "broken.png").write_text("")
    run(data, tmp_path / "run", replace(SMALL, epochs=1))
    (data / "day" / "broken.png").unlink()
    run(data, tmp_path / "run", replace(SMALL, epochs=1))
    assert not (tmp_path / "run" / "bad_images.csv").exists()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
