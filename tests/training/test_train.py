"""Training: what it learns, what it leaves behind, and what stops it."""

import csv
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

import inception_v3
from conftest import relative
from generated_images import pets, skies, stripes
from inception_v3.data import LabelledImages, load_data
from inception_v3.errors import InputError
from inception_v3.evaluation.evaluate import Metrics, evaluate
from inception_v3.network.layers import BatchNorm
from inception_v3.training import schedules
from inception_v3.training import state as training_state
from inception_v3.training.augment import mix
from inception_v3.training.losses import class_weights, classification_loss
from inception_v3.training.model import new_model, one_value_layers, uses_aux_head
from inception_v3.training.recipe import Recipe, TrainingOptions, load_recipe
from inception_v3.training.run_folder import RunFolder
from inception_v3.training.state import TrainingProgress
from inception_v3.training.train import add_gradients, divergence, train
from inception_v3.weights.model import InceptionV3

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = replace(load_recipe("digits"), depth_multiplier=0.1, epochs=2, batch_size=8)


def run(data: Path, out: Path, recipe: Recipe = SMALL, **arguments: Any) -> Metrics:
    with RunFolder(out, overwrite=True) as folder:
        return train(
            *load_data(str(data)),
            folder,
            recipe,
            torch.device("cpu"),
            console=Console(file=io.StringIO(), width=200),
            **arguments,
        )


LEARNING = replace(
    SMALL, augment="none", dropout_keep_prob=1.0, label_smoothing=0.0, learning_rate=3e-3, schedule="cosine",
    warmup_epochs=0.5, epochs=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Metrics]:
    """A folder with data/ and run/, and the evaluation of the trained model."""
    folder = tmp_path_factory.mktemp("trained")
    data = pets(folder / "data")
    (data / "dog" / "broken.png").write_text("this is text")
    return folder, run(data, folder / "run", LEARNING)


# ------------------------------------------------------------------------------------------- what it learns


def test_cats_and_dogs_are_classified(trained: tuple[Path, Metrics]) -> None:
    """A network that does not learn is right half of the time."""
    _, metrics = trained
    assert metrics.count == 40
    assert metrics.top1 >= 0.8


@pytest.mark.slow
def test_ten_classes_are_classified(tmp_path: Path) -> None:
    """Images of 32x32 pixels, as in CIFAR-10; a guess is right one time in ten."""
    metrics = run(stripes(tmp_path / "data"), tmp_path / "run", replace(LEARNING, epochs=6))
    assert metrics.top1 >= 0.5


# ---------------------------------------------------------------------------------- what it writes


def test_the_saved_model_repeats_the_evaluation(trained: tuple[Path, Metrics]) -> None:
    folder, metrics = trained
    model = inception_v3.load(folder / "run")
    assert model.class_names == ["cat", "dog"]
    assert model.image_size == (75, 75)
    _, test_set = load_data(str(folder / "data"))
    from inception_v3.data import batches

    again = evaluate(model, batches(test_set, model.preprocessing, 3), test_set.class_names)
    assert np.array_equal(again.confusion, metrics.confusion)


def test_the_run_folder_is_complete(trained: tuple[Path, Metrics]) -> None:
    run_folder = trained[0] / "run"
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 6))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["held_out_top1"] == trained[1].top1
    assert all(0 <= line["data_wait"] <= 1 for line in lines)
    for name in ("curves.png", "confusion_matrix.png"):
        with Image.open(run_folder / name) as image:
            assert min(image.size) > 200
    assert json.loads((run_folder / "recipe.json").read_text())["epochs"] == 5
    assert list((run_folder / "tensorboard").glob("events.*"))
    assert inception_v3.load(run_folder / "best.safetensors").class_names == ["cat", "dog"]
    assert not list(run_folder.rglob("*.partial"))


def test_an_unreadable_image_is_listed_and_left_out(trained: tuple[Path, Metrics]) -> None:
    folder, _ = trained
    with (folder / "run" / "bad_images.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image", "reason"]
    assert [row[0] for row in rows[1:]] == ["dog/broken.png"]


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    data = skies(tmp_path / "data")
    recipe = replace(SMALL, epochs=1)
    weights = []
    for seed in (0, 0, 1):
        run(data, tmp_path / "run", recipe, options=TrainingOptions(seed=seed))
        weights.append(inception_v3.load(tmp_path / "run").get_parameter("Conv2d_1a_3x3.weights"))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_training_works_without_the_faster_kernels(tmp_path: Path) -> None:
    """One step in a copy of the package from which network/accelerate.py is deleted."""
    package = shutil.copytree(Path(inception_v3.__file__).parent, tmp_path / "inception_v3")
    (package / "network" / "accelerate.py").unlink()
    arguments = [str(skies(tmp_path / "data")), "--out", str(tmp_path / "run"), "--recipe", "digits", "--epochs", "1"]
    arguments += ["--batch-size", "16", "--depth-multiplier", "0.1", "--workers", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "inception_v3", "train", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert training_state.read(tmp_path / "run" / "checkpoints" / "step-00000001.safetensors").progress.epoch == 1
    assert inception_v3.load(tmp_path / "run").class_names == ["day", "night"]


# --------------------------------------------------------------------------------------------- what stops it


def test_a_data_set_without_readable_training_images_is_an_error(tmp_path: Path) -> None:
    data = skies(tmp_path / "data")
    for file in data.rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match="none of the training images can be read"):
        run(data, tmp_path / "run")


def test_a_class_without_readable_training_images_is_an_error(tmp_path: Path) -> None:
    data = skies(tmp_path / "data")
    for file in (data / "day").iterdir():
        if file.relative_to(data).as_posix() in load_data(str(data))[0].names:
            file.write_bytes(b"")
    with pytest.raises(InputError, match=r"class day: none of its training \w+ can be read"):
        run(data, tmp_path / "run")


@pytest.mark.parametrize(
    ("classes", "size", "message"),
    [
        (["day"], 75, r"the model: num_classes is 1, but the data has 2 classes"),
        (["day", "night"], 91, "91x91, but the recipe's .* is 75"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_at_once(
    tmp_path: Path, classes: list[str], size: int, message: str
) -> None:
    model = new_model(replace(SMALL, image_size=size), classes)
    with pytest.raises(InputError, match=message):
        run(skies(tmp_path / "data"), tmp_path / "run", model=model)
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_a_data_set_without_readable_held_out_images_is_an_error(tmp_path: Path) -> None:
    data = skies(tmp_path / "data")
    _, test_set = load_data(str(data))
    for name in test_set.names:
        (data / name).write_bytes(b"")
    with pytest.raises(InputError, match="none of the held-out images can be read"):
        run(data, tmp_path / "run", replace(SMALL, epochs=1))
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_loss_that_is_not_finite_stops_the_training_and_keeps_the_last_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learning rate explodes in the second step. The third step shows that its weights are bad, and their saved
    state is deleted."""
    monkeypatch.setattr(schedules, "learning_rate", lambda _, epochs: 1e30 if epochs > 4 / 13 else 1e-3)
    recipe = replace(SMALL, batch_size=4)
    with pytest.raises(InputError, match="smaller --learning-rate") as error:
        run(skies(tmp_path / "data"), tmp_path / "run", recipe, options=TrainingOptions(save_every=1))
    message = str(error.value)
    assert re.search(
        r"(loss|norm of the gradient) is (nan|inf) at step 3, in epoch 1, with a learning rate of 1e\+30", message
    ), message
    assert re.search(r"on (day|night)/\d+\.png, \S+, \S+ and 1 more:", message), message
    kept = [file.name for file in sorted((tmp_path / "run" / "checkpoints").iterdir())]
    assert kept == ["step-00000001.safetensors"]
    assert kept[0] in message
    assert training_state.read(tmp_path / "run" / "checkpoints" / kept[0]).progress.step == 1


@pytest.mark.parametrize("rate", [1e30, 1e38])
@pytest.mark.parametrize("steps", [3, 4])
def test_an_explosion_never_replaces_the_last_good_state_and_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float, steps: int
) -> None:
    """In the middle of an epoch, or in the last step of the run; the weights become huge or not finite."""
    data, recipe = skies(tmp_path / "data", 18), replace(SMALL, batch_size=4, epochs=1)  # 14 training images
    options = TrainingOptions(save_every=1)
    run(data, tmp_path / "run", recipe, options=options)
    good = (tmp_path / "run" / "model.safetensors").read_bytes()
    monkeypatch.setattr(schedules, "learning_rate", lambda _, epochs: rate if epochs > (steps - 1) * 4 / 14 else 1e-3)
    console = Console(file=io.StringIO())
    cpu = torch.device("cpu")
    with RunFolder(tmp_path / "exploded", keep=1) as folder:
        folder.remove_old_run()
        folder.model_file.write_bytes(good)
        with pytest.raises(InputError, match="last good state") as error:
            train(*load_data(str(data)), folder, recipe, cpu, options=options, console=console)
    kept = [file.name for file in sorted((tmp_path / "exploded" / "checkpoints").iterdir())]
    assert kept == [f"step-{steps - 1:08}.safetensors"], str(error.value)
    assert kept[0] in str(error.value)
    state = training_state.read(tmp_path / "exploded" / "checkpoints" / kept[0])
    assert all(tensor.isfinite().all() for tensor in state.tensors.values())
    assert (tmp_path / "exploded" / "model.safetensors").read_bytes() == good


class KilledError(BaseException):
    """An exception that no handler catches, in place of kill -9."""


def killed_in_call(number: int, function: Any) -> Any:
    """The function, which raises KilledError in the call of this number, counted from 1."""
    calls = itertools.count(1)

    def wrapper(*arguments: Any, **options: Any) -> Any:
        if next(calls) == number:
            raise KilledError
        return function(*arguments, **options)

    return wrapper


@pytest.mark.parametrize("moment", ["evaluation", "model", "state"])
def test_a_training_killed_at_the_end_of_an_epoch_resumes_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """During the evaluation, before the model is written, and before the state after the epoch is written: no step is
    repeated, and the model is that of the last epoch."""
    from inception_v3.training import train as module

    data, recipe = skies(tmp_path / "data", 18), replace(SMALL, batch_size=4, epochs=2)  # 14 training images
    run(data, tmp_path / "whole", recipe)
    steps = 0

    def counted(*arguments: Any) -> tuple[float, float]:
        nonlocal steps
        steps += 1
        return add_gradients(*arguments)

    monkeypatch.setattr(module, "add_gradients", counted)
    owner, name, call = {
        "evaluation": (module, "evaluate", 2),
        "model": (RunFolder, "save_model", 2),
        "state": (training_state, "write", 4),
    }[moment]
    function = getattr(owner, name)
    monkeypatch.setattr(owner, name, killed_in_call(call, function))
    with pytest.raises(KilledError):
        run(data, tmp_path / "run", recipe)
    monkeypatch.setattr(owner, name, function)
    console = Console(file=io.StringIO())
    with RunFolder(tmp_path / "run", resume=True) as folder:
        train(*load_data(str(data)), folder, recipe, torch.device("cpu"), console=console)
    assert steps == 8
    for name in ("model.safetensors", "best.safetensors", "checkpoints/step-00000008.safetensors"):
        ours, theirs = load_file(tmp_path / "run" / name), load_file(tmp_path / "whole" / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name


def test_a_loss_that_stays_far_above_the_first_has_diverged() -> None:
    def messages(losses: list[float]) -> list[str]:
        progress = TrainingProgress()
        return [divergence(progress, loss, 1.0, classes=10) for loss in losses]

    assert not any(messages([3.0] + [29.0] * 100)), "not ten times the first loss"
    assert not any(messages(([3.0] + [1000.0] * 49) * 3)), "recovers in time"
    assert not any(messages([0.01] + [1.0] * 100)), "a good model may become as bad as a guess"
    diverged = messages([3.0, 2.0] + [31.0] * 50)
    assert [bool(message) for message in diverged] == [False] * 51 + [True]
    assert "over 10 times the first loss for 50 steps" in diverged[-1]
    assert divergence(TrainingProgress(), float("nan"), 1.0, 10) == "the loss is nan"
    assert divergence(TrainingProgress(), 1.0, float("inf"), 10) == "the norm of the gradient is inf"


@pytest.mark.parametrize("wrong", [{"depth_multiplier": 100.0}, {"image_size": 100_000}])
def test_a_training_that_exceeds_the_memory_is_refused_before_it_starts(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"a step needs [\d,]+ GiB or more, but cpu has .*: lower") as error:
        run(skies(tmp_path / "data"), tmp_path / "run", SMALL.with_options(**wrong))
    assert error.value.exit_status == 2


@pytest.mark.parametrize(
    ("training", "error"),
    [
        (True, torch.OutOfMemoryError("CUDA out of memory")),
        (False, RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory")),
    ],
)
def test_running_out_of_memory_is_one_line_with_the_remedy(tmp_path: Path, training: bool, error: Exception) -> None:
    """In a training step and in an evaluation."""

    class OutOfMemory(InceptionV3):
        def forward(self, images: torch.Tensor, end_points: Any = None) -> Any:
            if self.training == training:
                raise error
            return super().forward(images, end_points)

    model = OutOfMemory(num_classes=2, depth_multiplier=0.1, image_size=75)
    model.preprocessing, model.class_names = inception_v3.Preprocessing((75, 75)), ["day", "night"]
    with pytest.raises(InputError, match=r"cpu: not enough memory; lower batch_size .*accumulate.* or image_size"):
        run(skies(tmp_path / "data"), tmp_path / "run", replace(SMALL, epochs=1), model=model)


def test_a_run_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "run")


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_is_not_overwritten_without_overwrite(tmp_path: Path, resume: bool) -> None:
    """Also not with --resume, if there is a model but no state to resume."""
    (tmp_path / "model.safetensors").write_text("hours of work")
    with pytest.raises(InputError, match="--overwrite") as error:
        RunFolder(tmp_path, resume=resume)
    assert error.value.exit_status == 2
    assert (tmp_path / "model.safetensors").read_text() == "hours of work"
    with RunFolder(tmp_path, overwrite=True) as folder:
        folder.remove_old_run()
        assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("wrong", [{"depth_multiplier": 100.0}, {"class_weights": {"dawn": 2.0}}])
def test_the_old_run_is_kept_if_the_new_one_cannot_start(tmp_path: Path, wrong: dict[str, Any]) -> None:
    data = skies(tmp_path / "data")
    run(data, tmp_path / "run", replace(SMALL, epochs=1))
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*.*") if file.is_file()}
    assert len(before) > 5
    with pytest.raises(InputError):
        run(data, tmp_path / "run", SMALL.with_options(**wrong))
    assert all(file.read_bytes() == content for file, content in before.items())


def test_a_full_disk_stops_the_training_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="the disk is full"):
        run(skies(tmp_path / "data"), tmp_path / "run")


# ------------------------------------------------------------------------------------------ options of recipes

EXACT = replace(
    SMALL, epochs=1, augment="none", dropout_keep_prob=1.0, freeze_batch_norm=True, precision="float32",
    optimizer="sgd", learning_rate=0.01, clip_norm=2.0,
)  # fmt: skip


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_accumulated_batches_equal_one_large_batch(tmp_path: Path) -> None:
    """One batch of 12 images, or three of 4, with frozen statistics. The last step has one image."""
    data = skies(tmp_path / "data")
    (data / "day" / "broken.png").write_text("")
    run(data, tmp_path / "whole", replace(EXACT, batch_size=12))
    run(data, tmp_path / "parts", replace(EXACT, batch_size=4, accumulate=3))
    run(data, tmp_path / "other", replace(EXACT, batch_size=4))
    whole, parts, other = (weights_of(tmp_path / name) for name in ("whole", "parts", "other"))
    assert max(relative(parts[name], whole[name]) for name in whole) < 2e-5
    assert max(relative(other[name], whole[name]) for name in whole) > 1e-3


def test_frozen_statistics_do_not_change_and_others_do(tmp_path: Path) -> None:
    data = skies(tmp_path / "data")
    run(data, tmp_path / "frozen", EXACT)
    frozen = weights_of(tmp_path / "frozen")
    assert all((value == name.endswith("variance")).all() for name, value in frozen.items() if "moving" in name)
    run(data, tmp_path / "moving", replace(EXACT, freeze_batch_norm=False, batch_norm_decay=0.5))
    moving = weights_of(tmp_path / "moving")
    assert all(not torch.equal(frozen[name], moving[name]) for name in frozen if "moving" in name)
    assert inception_v3.load(tmp_path / "moving").settings.batch_norm_decay == 0.5


def test_growing_images_are_evaluated_at_the_last_size(tmp_path: Path) -> None:
    sizes: list[int] = []

    class SizeRecorder(InceptionV3):
        def forward(self, images: torch.Tensor, end_points: Any = None) -> Any:
            sizes.append(images.shape[-1] if self.training else -images.shape[-1])
            return super().forward(images, end_points)

    recipe = SMALL.with_options(image_sizes=[75, 107], augment="photos")
    model = SizeRecorder(num_classes=2, depth_multiplier=0.1, image_size=107)
    model.preprocessing, model.class_names = inception_v3.Preprocessing((107, 107)), ["day", "night"]
    run(skies(tmp_path / "data"), tmp_path / "run", recipe, model=model)
    assert sizes == [75, 75, -107, 107, 107, -107]
    assert inception_v3.load(tmp_path / "run").image_size == (107, 107)


def test_the_auxiliary_loss_is_left_out_for_images_that_are_too_small() -> None:
    recipe = SMALL.with_options(image_sizes=[79, 151, 299])
    model = new_model(recipe, ["a", "b"])
    assert [uses_aux_head(model, recipe, size) for size in (79, 151, 299)] == [False, False, True]
    assert uses_aux_head(new_model(SMALL, ["a", "b"]), SMALL, 75)
    assert not uses_aux_head(model, replace(recipe, aux_weight=0.0), 299)


def test_each_recipe_has_its_preprocessing_for_evaluation() -> None:
    paper = load_recipe("paper")
    assert new_model(paper, ["a", "b"]).preprocessing == inception_v3.Preprocessing.named("slim")
    assert new_model(Recipe(), ["a", "b"]).preprocessing == inception_v3.Preprocessing()
    assert new_model(replace(SMALL, preprocessing="keras"), ["a", "b"]).preprocessing.crop_fraction == 1.0
    assert new_model(SMALL, ["a", "b"]).preprocessing == inception_v3.Preprocessing((75, 75), 1.0)


def test_images_larger_than_the_last_pool_get_a_global_pool() -> None:
    recipe = SMALL.with_options(image_size=400)
    model = new_model(recipe, ["a", "b"])
    assert uses_aux_head(model, recipe, 400)
    logits, heads = model(torch.zeros(2, 3, 400, 400), ("AuxLogits",))
    assert logits.shape == heads["AuxLogits"].shape == (2, 2)
    assert not new_model(SMALL, ["a", "b"]).settings.global_pool


def test_a_training_can_start_from_a_model_and_train_a_part_of_it(tmp_path: Path) -> None:
    data = skies(tmp_path / "data")
    model = new_model(SMALL, ["day", "night"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run(data, tmp_path / "run", EXACT, model=model, rate_factors={"": 0.0, "Logits": 1.0})
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["Logits.Conv2d_1c_1x1.weights", "Logits.Conv2d_1c_1x1.biases"]


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_labels_are_mixed_in_the_proportions_of_the_images(options: dict[str, float]) -> None:
    """Each image is uniform, so the mean of a mixed image shows its proportions."""
    labels = torch.tensor([0, 1, 2])
    images = labels.float().view(3, 1, 1, 1).expand(3, 3, 20, 20)
    mixed, probabilities = mix(images.clone(), labels, Recipe(**options), 4)
    assert probabilities.shape == (3, 4)
    assert torch.allclose(probabilities.sum(1), torch.ones(3))
    assert torch.allclose(mixed.mean((1, 2, 3)), probabilities @ torch.arange(4.0), atol=1e-5)
    assert not torch.equal(mixed, images)
    torch.manual_seed(0)
    assert torch.equal(mix(images, labels, Recipe(**options), 4)[0], mixed), "drawn from torch's generator"


# -------------------------------------------------------------------------------------------- loss and metrics


def test_label_smoothing_and_the_auxiliary_loss_are_those_of_the_paper() -> None:
    logits, aux = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    labels = torch.tensor([0, 3, 4, 1])
    target = torch.nn.functional.one_hot(labels, 5) * 0.9 + 0.1 / 5
    losses = [-(target * output.log_softmax(1)).sum(1).mean() for output in (logits, aux)]
    expected = losses[0] + 0.4 * losses[1]
    assert torch.allclose(classification_loss(logits, labels, aux, label_smoothing=0.1), expected)


def test_one_hot_probabilities_have_the_loss_of_labels() -> None:
    logits, labels = torch.randn(4, 5), torch.tensor([0, 3, 4, 1])
    probabilities, weights = torch.nn.functional.one_hot(labels, 5).float(), torch.rand(5)
    for options in ({}, {"label_smoothing": 0.1}, {"class_weights": weights}):
        ours = classification_loss(logits, probabilities, logits, **options)  # type: ignore[arg-type]
        assert torch.allclose(ours, classification_loss(logits, labels, logits, **options))  # type: ignore[arg-type]


def test_class_weights_are_factors_on_the_loss_of_each_image() -> None:
    logits, labels, weights = torch.randn(4, 3), torch.tensor([0, 2, 2, 1]), torch.tensor([1.0, 2.0, 5.0])
    each = torch.stack([classification_loss(logits[[i]], labels[[i]]) for i in range(4)])
    ours = classification_loss(logits, labels, class_weights=weights)
    assert torch.allclose(ours, (each * weights[labels]).mean())


def test_balanced_weights_give_every_class_the_same_total_weight() -> None:
    labels = [0, 0, 0, 1, 2, 2]
    weights = class_weights("balanced", ["a", "b", "c"], labels)
    assert weights is not None
    assert torch.allclose(weights * torch.tensor([3, 1, 2]), torch.tensor(2.0))
    assert class_weights("none", ["a", "b", "c"], labels) is None
    from_table = class_weights({"b": 3.0}, ["a", "b", "c"], labels)
    assert from_table is not None
    assert from_table.tolist() == [1, 3, 1]
    with pytest.raises(InputError, match="no class cats; did you mean cat"):
        class_weights({"cats": 2}, ["cat", "dog"], [0, 1])


def test_metrics_count_exactly_over_uneven_batches(random_model) -> None:  # type: ignore[no-untyped-def]
    from inception_v3.data import batches
    from inception_v3.images.preprocessing import Preprocessing

    model = random_model(num_classes=7, image_size=75)
    model.preprocessing = Preprocessing((75, 75))
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (75, 75, 3), dtype=np.uint8)) for _ in range(11)]
    labels = [number % 7 for number in range(11)]
    data = LabelledImages([*"abcdefg"], images, labels, [str(number) for number in range(11)])
    metrics = evaluate(model, batches(data, model.preprocessing, 4), data.class_names)
    with torch.inference_mode():
        logits = torch.cat([model(model.preprocess(image), ())[0] for image in images])
    ranked = logits.argsort(1, descending=True)
    assert metrics.count == 11
    assert metrics.top1 == pytest.approx((ranked[:, 0] == torch.tensor(labels)).double().mean().item(), abs=1 / 11)
    top5 = (ranked[:, :5] == torch.tensor(labels)[:, None]).any(1).double().mean().item()
    assert metrics.top5 == pytest.approx(top5, abs=1 / 11)
    assert metrics.confusion.sum(1).tolist() == [2, 2, 2, 2, 1, 1, 1]


def test_a_new_run_leaves_nothing_of_the_old_one(tmp_path: Path) -> None:
    data = skies(tmp_path / "data")
    (data / "day" / "broken.png").write_text("")
    run(data, tmp_path / "run", replace(SMALL, epochs=1))
    (data / "day" / "broken.png").unlink()
    run(data, tmp_path / "run", replace(SMALL, epochs=1))
    assert not (tmp_path / "run" / "bad_images.csv").exists()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1


# ------------------------------------------------------------------------------------------- batches of one image


@pytest.mark.parametrize("size", [75, 106, 107, 154, 155, 299, 346, 347])
@pytest.mark.parametrize("aux_weight", [0.0, 0.4])
def test_the_layers_with_one_value_per_channel_are_those_that_see_one(size: int, aux_weight: float) -> None:
    recipe = replace(SMALL, image_size=size, aux_weight=aux_weight, depth_multiplier=0.01)
    model = new_model(recipe, ["a", "b"]).train()
    names = {module: name for name, module in model.named_modules()}
    seen = []
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.register_forward_pre_hook(
                lambda norm, inputs: seen.append(names[norm]) if inputs[0].numel() == inputs[0].shape[1] else None
            )
    model(torch.zeros(1, 3, size, size), ("AuxLogits",) if aux_weight else ())
    layers = one_value_layers(model, recipe, size)
    assert sorted(f"{name.replace('/', '.')}.BatchNorm" for name in layers if "Aux" not in name) == sorted(
        name for name in seen if "Aux" not in name
    )
    assert sum("Aux" in name for name in layers) == sum("Aux" in name for name in seen)
    assert bool(layers) == (size < 107 or (size < 347 and aux_weight > 0))


def test_one_value_per_channel_becomes_a_constant() -> None:
    """The reason why such a batch is refused: the outputs do not depend on the image."""
    model = new_model(replace(SMALL, dropout_keep_prob=1.0), ["a", "b"]).train()
    model.settings = model.settings | {"dropout_keep_prob": 1.0}
    black, white = (model(torch.full((1, 3, 75, 75), value), ())[0] for value in (-1.0, 1.0))
    assert torch.equal(black, white)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"batch_size": 1}, r"at 75x75 the map of Mixed_7a\S+ is 1x1.*set batch_size to 2 or more, or freeze"),
        ({"batch_size": 1, "accumulate": 4}, "set batch_size to 2 or more, or freeze_batch_norm to true"),
        (
            {"batch_size": 1, "image_size": 107},
            "at 107x107 the map of AuxLogits.* is 1x1.*2 or more, or aux_weight to 0, or freeze",
        ),
        ({"batch_size": 1, "image_size": 139, "image_sizes": ((1.0, 75), (1.0, 139))}, "at 75x75 the map of Mixed_7a"),
    ],
)
def test_a_batch_size_of_one_that_cannot_train_is_refused_before_training(
    tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InputError, match=problem) as raised:
        run(skies(tmp_path / "data", 10), tmp_path / "run", replace(SMALL, **changes))
    assert raised.value.exit_status == 2
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "changes", [{"freeze_batch_norm": True}, {"image_size": 107, "aux_weight": 0.0}], ids=["frozen", "no 1x1 map"]
)
def test_a_batch_size_of_one_trains_where_batch_norm_sees_more_values(tmp_path: Path, changes: dict[str, Any]) -> None:
    recipe = replace(SMALL, batch_size=1, epochs=1, **changes)
    assert run(skies(tmp_path / "data", 10), tmp_path / "run", recipe).count == 2


def test_one_training_image_is_refused(tmp_path: Path) -> None:
    train_set, test_set = load_data(str(skies(tmp_path / "data", 10)))
    with RunFolder(tmp_path / "run") as folder, pytest.raises(InputError, match="give more images"):
        train(train_set.subset([0]), test_set, folder, SMALL, torch.device("cpu"))


@pytest.mark.parametrize(("batch_size", "left_out"), [(2, True), (4, True), (3, False)])
def test_a_last_batch_of_one_image_is_left_out_and_reported_once(
    tmp_path: Path, batch_size: int, left_out: bool
) -> None:
    train_set, test_set = load_data(str(skies(tmp_path / "data", 20)))
    count = 9 if left_out else 8
    output = io.StringIO()
    with RunFolder(tmp_path / "run") as folder:
        train(
            train_set.subset(range(count)),
            test_set,
            folder,
            replace(SMALL, batch_size=batch_size, epochs=3),
            torch.device("cpu"),
            console=Console(file=output, width=200),
        )
    assert output.getvalue().count("a batch of one image is left out: at 75x75") == left_out
    assert output.getvalue().count("held-out top-1") == 3


def test_a_batch_that_an_unreadable_image_reduces_to_one_is_left_out(tmp_path: Path) -> None:
    data = skies(tmp_path / "data", 10)
    train_set, test_set = load_data(str(data))
    four = train_set.subset(range(4))
    broken = data / four.names[0]
    broken.write_text("this is text")
    output = io.StringIO()
    with RunFolder(tmp_path / "run") as folder:
        train(
            four,
            test_set,
            folder,
            replace(SMALL, batch_size=2, epochs=1),
            torch.device("cpu"),
            console=Console(file=output, width=200),
        )
    assert "a batch of one image is left out" in output.getvalue()
