"""A run folder written by version 0.1 (tests/version_0_1/run: digits, 2 epochs, depth_multiplier 0.03)."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from inception_v3 import cli
from inception_v3.training import state as training_state
from inception_v3.training.model import new_model
from inception_v3.training.optimizers import build_optimizer
from inception_v3.training.recipe import load_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

STATE = "checkpoints/step-00000090.safetensors"


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(Path(__file__).parents[1] / "version_0_1" / "run", tmp_path / "run"))


def resume(
    run: Path, epochs: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str]:
    """Resume the run with the command line; returns the exit status and what it wrote to stderr."""
    options = ["--epochs", str(epochs), "--depth-multiplier", "0.03", "--workers", "0"]
    monkeypatch.setattr(sys, "argv", ["inception-v3", "train", "digits", "--out", str(run), "--resume", *options])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    return int(exited.value.code or 0), capsys.readouterr().err


def test_resuming_it_with_the_same_epochs_has_nothing_to_train(
    old_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, state = ((old_run / name).read_bytes() for name in ("model.safetensors", STATE))
    status, messages = resume(old_run, 2, capsys, monkeypatch)
    assert status == 0, messages
    assert "all epochs are already done" in messages
    assert (old_run / "model.safetensors").read_bytes() == model
    assert (old_run / STATE).read_bytes() == state


def test_resuming_it_with_more_epochs_is_refused(
    old_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of epochs determines the learning rates, so that more epochs are a different training."""
    status, messages = resume(old_run, 3, capsys, monkeypatch)
    assert status == 2
    assert "epochs was 2 and is 3 now" in messages
    assert "; " not in messages.partition("is 3 now; ")[0].partition("another training: ")[2], "the only difference"


def test_its_state_restores_weights_averages_optimizer_and_progress(old_run: Path) -> None:
    recipe = load_recipe("digits").with_options(epochs=2, depth_multiplier=0.03)
    class_names = [str(digit) for digit in range(10)]
    model, average = new_model(recipe, class_names), new_model(recipe, class_names)
    optimizer = build_optimizer(recipe, model)
    progress = training_state.read(old_run / STATE).restore(model, average, optimizer)
    assert (progress.epoch, progress.position, progress.step, len(progress.epochs)) == (2, 0, 90, 2)
    assert (progress.correct, progress.images_seen, progress.diverging_steps) == (0, 0, 0)
    assert progress.best_top1 == progress.epochs[1]["held_out_top1"]

    stored, saved_model = load_file(old_run / STATE), load_file(old_run / "model.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, stored[f"model.{name}"]), name
    for name, tensor in average.state_dict().items():
        assert torch.equal(tensor, saved_model[name]), name
    for name, parameter in model.named_parameters():
        slots = optimizer.state[parameter]
        assert slots.keys() == {"ms", "mom"}
        assert all(torch.equal(value, stored[f"optimizer.{slot}.{name}"]) for slot, value in slots.items()), name
