"""Several processes on gloo: the training that one process would do, one writer, and none left waiting."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from inception_v3.data import load_data
from inception_v3.errors import InputError
from inception_v3.evaluation.evaluate import evaluate_models
from inception_v3.network.layers import BatchNorm
from inception_v3.network.sync_batch_norm import SyncBatchNorm
from inception_v3.weights.load import load
from generated_images import skies
from processes import Command, command_line, start, run_distributed

SMALL = ("--image-size", 75, "--depth-multiplier", 0.1)
EXACT = """
augment = "photos"
epochs = 3
dropout_keep_prob = 1.0
optimizer = "sgd"
learning_rate = 0.01
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("distributed")
    skies(place / "data", 16)  # 13 to train on: the last step is a small one
    (place / "data" / "day" / "broken.png").write_text("this is text")
    (place / "own.toml").write_text("epochs = 3\n")
    (place / "synchronised.toml").write_text("sync_batch_norm = true\n")
    return place


def train(place: Path, out: str, recipe: str, batch_size: int, *options: object, processes: int = 1) -> list[Command]:
    arguments = [
        *("train", place / "data", "--out", place / out, "--recipe", place / f"{recipe}.toml", *SMALL),
        *("--batch-size", batch_size, *options),
    ]
    log = place / f"{len(list(place.glob('*.log*')))}-{out}.log"
    if processes == 1:
        return [start(*arguments, log=log)]
    return run_distributed(processes, command_line, list(map(str, arguments)), None, (), log=log)


def finish(commands: list[Command]) -> list[str]:
    assert [command.wait() for command in commands] == [0] * len(commands), [command.output for command in commands]
    return [command.output for command in commands]


def losses(run: Path) -> torch.Tensor:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return torch.tensor([[line["loss"], line["held_out_loss"]] for line in lines])


# ------------------------------------------------------------------------------ as one process would do it


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("auto", 1e-2)])
def test_two_processes_train_as_one_with_the_doubled_batch(place: Path, precision: str, tolerance: float) -> None:
    """Each sees half of every step's pictures, in two parts, with frozen statistics. Every epoch's loss, in training
    and on held-out pictures, is that of one process, but for what bfloat16 rounds in each process's gradient."""
    for name, accumulate in (("frozen", 1), ("parts", 2)):
        recipe = f'{EXACT}freeze_batch_norm = true\nprecision = "{precision}"\naccumulate = {accumulate}\n'
        (place / f"{name}-{precision}.toml").write_text(recipe)
    one, two = place / f"one-{precision}", place / f"two-{precision}"
    alone, first, second = finish(
        train(place, one.name, f"frozen-{precision}", 8) + train(place, two.name, f"parts-{precision}", 2, processes=2)
    )
    ours, theirs = losses(two), losses(one)
    assert ours.shape == (3, 2)
    assert torch.allclose(ours, theirs, rtol=tolerance), (ours, theirs)
    assert ours[2, 0] < ours[0, 0] - 0.01, "and they do learn"
    assert "2 processes" in first
    assert second == "", "the first process alone speaks"
    assert (one / "bad_images.csv").read_text() == (two / "bad_images.csv").read_text()
    assert "broken.png" in (two / "bad_images.csv").read_text()
    assert "top-1" in alone


@pytest.mark.parametrize("recipe", ["own", "synchronised"])
def test_after_training_they_hold_equal_weights(place: Path, recipe: str) -> None:
    """Each has the statistics of its own pictures; where they are synchronised, those are equal too."""
    finish(run_distributed(2, weights_of_each_process, place, recipe, log=place / f"equal-{recipe}.log"))
    start, first, second = (load_file(place / f"{recipe}-{name}.safetensors") for name in ("start", "0", "1"))
    weights = {name for name in first if "moving" not in name}
    assert len(weights) > 190
    equal = {name for name in first if torch.equal(first[name], second[name])}
    assert equal == (weights if recipe == "own" else set(first))
    assert not any(torch.equal(first[name], start[name]) for name in first), "and all have moved"
    run = place / f"equal-{recipe}"
    _, held_out = load_data(str(place / "data"))
    whole = evaluate_models([load(run)], held_out)
    (told,) = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert told["held_out_loss"] == pytest.approx(whole.loss, rel=1e-5), "of the kept model, though each judged a part"
    assert told["held_out_top1"] == whole.top1


def weights_of_each_process(place: Path, recipe_name: str) -> None:
    from inception_v3.support import distributed
    from inception_v3.training.model import new_model
    from inception_v3.training.recipe import load_recipe
    from inception_v3.training.run_folder import RunFolder
    from inception_v3.training.train import train

    recipe = load_recipe(str(place / f"{recipe_name}.toml")).with_options(
        image_size=75, depth_multiplier=0.1, batch_size=4, epochs=1, learning_rate=0.1
    )
    train_set, test_set = load_data(str(place / "data"))
    model = new_model(recipe, train_set.class_names)
    cpu = torch.device("cpu")
    with distributed.process_group(cpu) as processes:
        if processes.rank:  # another start, which the first process's replaces
            torch.nn.init.ones_(model.get_parameter("Logits.Conv2d_1c_1x1.weights"))
        else:
            save_file(model.state_dict(), place / f"{recipe_name}-start.safetensors")
        with RunFolder(place / f"equal-{recipe_name}", writer=not processes.rank) as run:
            train(train_set, test_set, run, recipe, cpu, model=model, group=processes)
        weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, place / f"{recipe_name}-{processes.rank}.safetensors")


def test_synchronised_statistics_are_those_of_all_pictures(place: Path) -> None:
    """Outputs, moving averages and gradients of two uneven halves are those of the whole, in float64."""
    torch.manual_seed(0)
    whole = BatchNorm(5, decay=0.9, scale=True).double()
    images = torch.randn(7, 5, 3, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(7, 5, 3, 2, dtype=torch.float64)
    out = whole(images)
    torch.autograd.backward((out * weights).sum())
    save_file({"images": images.detach(), "weights": weights}, place / "halves.safetensors")
    finish(run_distributed(2, synchronised_halves, place, log=place / "synchronised.log"))
    halves = [load_file(place / f"half-{rank}.safetensors") for rank in (0, 1)]
    gradient = images.grad
    assert gradient is not None
    assert whole.gamma is not None
    torch.testing.assert_close(torch.cat([half["out"] for half in halves]), out.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.cat([half["gradient"] for half in halves]), gradient, rtol=1e-11, atol=1e-12)
    for name in ("beta", "gamma"):
        parts = halves[0][name] + halves[1][name]
        torch.testing.assert_close(parts, whole.get_parameter(name).grad, rtol=1e-11, atol=1e-12)
    for half in halves:
        torch.testing.assert_close(half["moving_mean"], whole.moving_mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(half["moving_variance"], whole.moving_variance, rtol=1e-12, atol=1e-12)


def synchronised_halves(place: Path) -> None:
    from inception_v3.support import distributed

    with distributed.process_group(torch.device("cpu")) as processes:
        mine = slice(0, 4) if processes.rank == 0 else slice(4, 7)
        saved = {name: tensor[mine] for name, tensor in load_file(place / "halves.safetensors").items()}
        images = saved["images"].requires_grad_()
        layer = SyncBatchNorm.of(BatchNorm(5, decay=0.9, scale=True).double())
        out = layer(images)
        torch.autograd.backward((out * saved["weights"]).sum())
        found = {"out": out, "gradient": images.grad, "beta": layer.beta.grad, "gamma": layer.gamma.grad}  # type: ignore[union-attr]
        found |= {"moving_mean": layer.moving_mean, "moving_variance": layer.moving_variance}
        save_file({k: v.detach().contiguous() for k, v in found.items()}, place / f"half-{processes.rank}.safetensors")  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------- broken off


def test_one_killed_stops_the_other_and_one_process_goes_on_alone(place: Path) -> None:
    first, second = train(place, "broken", "own", 2, "--save-every", 2, processes=2)
    first.wait_for(lambda: list((place / "broken" / "checkpoints").glob("step-*")))
    second.kill(signal.SIGKILL)
    assert first.wait(60) == 1
    (line,) = (line for line in first.output.splitlines() if line.startswith("error:"))
    assert "another process has ended" in line
    assert "--resume" in line
    (said,) = finish(train(place, "broken", "own", 2, "--resume"))
    assert "going on after step" in said
    assert losses(place / "broken").shape == (3, 2)


@pytest.mark.parametrize("refusing", [0, 1])
def test_what_one_refuses_it_alone_tells(place: Path, refusing: int) -> None:
    """Whichever it is: the others have nothing to say but that it has ended."""
    arguments = ["train", str(place / "data"), "--out", str(place / f"refused-{refusing}"), *map(str, SMALL)]
    log = place / f"refused-{refusing}.log"
    commands = run_distributed(2, command_line, arguments, refuse_to_start, (refusing,), log=log)
    assert [command.wait(60) for command in commands] == [1, 1]
    said = [line for command in commands for line in command.output.splitlines() if line.startswith("error:")]
    assert said == [f"error: process {refusing} will not"]


def test_what_all_refuse_is_told_once(place: Path) -> None:
    arguments = ["train", str(place / "nowhere"), "--out", str(place / "nothing")]
    commands = run_distributed(2, command_line, arguments, None, (), log=place / "nowhere.log")
    assert [command.wait(60) for command in commands] == [2, 2]
    (said,) = (line for command in commands for line in command.output.splitlines())
    assert said.startswith(f"error: {place / 'nowhere'}: ")


def refuse_to_start(refusing: int) -> None:
    from inception_v3.training import run_folder

    opened = run_folder.RunFolder.__init__

    def refuse(*arguments: object, **options: object) -> None:
        if os.environ["RANK"] == str(refusing):
            raise InputError(f"process {refusing} will not")
        opened(*arguments, **options)  # type: ignore[arg-type]

    run_folder.RunFolder.__init__ = refuse  # type: ignore[method-assign,assignment]


def test_torchrun_works_as_it_is_and_ctrl_c_saves(place: Path) -> None:
    """The manual's command. In a terminal Ctrl-C reaches all of its processes at once."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    command += ["-m", "inception_v3", "train", place / "data", "--out", place / "torchrun", *SMALL, "--epochs", 1000]
    log = place / "torchrun.log"
    environment = os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    with log.open("w") as output, subprocess.Popen(
        list(map(str, command)), stdout=output, stderr=output, env=environment, start_new_session=True
    ) as torchrun:  # fmt: skip
        try:
            until = time.monotonic() + 120
            while "epoch 1/" not in log.read_text() and torchrun.poll() is None and time.monotonic() < until:
                time.sleep(0.05)
            os.killpg(torchrun.pid, signal.SIGINT)
            torchrun.wait(60)
        finally:
            if torchrun.poll() is None:
                os.killpg(torchrun.pid, signal.SIGKILL)
    said = log.read_text()
    assert "2 processes" in said, said
    assert said.count("the weights so far are in") == 1, said
    assert "go on with: torchrun --nproc-per-node 2 -m inception_v3 train" in said
    assert (place / "torchrun" / "model.safetensors").exists()
