"""Several processes on gloo: they train as one process would, only one writes, and none is left waiting."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed import HashStore

from generated_images import skies
from inception_v3.data import load_data
from inception_v3.errors import InputError
from inception_v3.evaluation.models import evaluate_models
from inception_v3.network.layers import BatchNorm
from inception_v3.network.sync_batch_norm import SyncBatchNorm
from inception_v3.support.distributed import _agree_on_name
from inception_v3.weights.load import load
from processes import Command, command_line, run_distributed, start

SMALL = ("--image-size", 75, "--depth-multiplier", 0.1)
EXACT = """
augment = "photos"
epochs = 3
dropout_keep_prob = 1.0
optimizer = "sgd"
learning_rate = 0.01
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("distributed")
    skies(workspace / "data", 16)  # 13 training images, so that the last step is smaller
    (workspace / "data" / "day" / "broken.png").write_text("this is text")
    (workspace / "own.toml").write_text("epochs = 3\n")
    (workspace / "synchronised.toml").write_text("sync_batch_norm = true\n")
    return workspace


def train(
    workspace: Path, out: str, recipe: str, batch_size: int, *options: object, processes: int = 1
) -> list[Command]:
    arguments = [
        *("train", workspace / "data", "--out", workspace / out, "--recipe", workspace / f"{recipe}.toml", *SMALL),
        *("--batch-size", batch_size, *options),
    ]
    log = workspace / f"{len(list(workspace.glob('*.log*')))}-{out}.log"
    if processes == 1:
        return [start(*arguments, log=log)]
    return run_distributed(processes, command_line, list(map(str, arguments)), None, (), log=log)


def finish(commands: list[Command]) -> list[str]:
    assert [command.wait() for command in commands] == [0] * len(commands), [command.output for command in commands]
    return [command.output for command in commands]


def losses(run: Path) -> torch.Tensor:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return torch.tensor([[line["loss"], line["held_out_loss"]] for line in lines])


# ------------------------------------------------------------------------------ the same result as one process


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("auto", 1e-2)])
def test_two_processes_train_like_one_with_twice_the_batch_size(
    workspace: Path, precision: str, tolerance: float
) -> None:
    """Each trains on half of every step's images, in two batches, with frozen statistics. The losses of every epoch, in
    training and on held-out images, are those of one process, up to rounding of each process's gradient."""
    for name, accumulate in (("frozen", 1), ("parts", 2)):
        recipe = f'{EXACT}freeze_batch_norm = true\nprecision = "{precision}"\naccumulate = {accumulate}\n'
        (workspace / f"{name}-{precision}.toml").write_text(recipe)
    one, two = workspace / f"one-{precision}", workspace / f"two-{precision}"
    single_output, first_output, second_output = finish(
        train(workspace, one.name, f"frozen-{precision}", 8)
        + train(workspace, two.name, f"parts-{precision}", 2, processes=2)
    )
    ours, theirs = losses(two), losses(one)
    assert ours.shape == (3, 2)
    assert torch.allclose(ours, theirs, rtol=tolerance), (ours, theirs)
    assert ours[2, 0] < ours[0, 0] - 0.01, "the model learns"
    assert "2 processes" in first_output
    assert second_output == "", "only the first process prints"
    assert (one / "bad_images.csv").read_text() == (two / "bad_images.csv").read_text()
    assert "broken.png" in (two / "bad_images.csv").read_text()
    assert "top-1" in single_output


@pytest.mark.parametrize("recipe", ["own", "synchronised"])
def test_all_processes_end_with_equal_weights(workspace: Path, recipe: str) -> None:
    """Each process has the statistics of its own images, unless they are synchronised."""
    finish(run_distributed(2, save_weights_of_each_process, workspace, recipe, log=workspace / f"equal-{recipe}.log"))
    start, first, second = (load_file(workspace / f"{recipe}-{name}.safetensors") for name in ("start", "0", "1"))
    weights = {name for name in first if "moving" not in name}
    assert len(weights) > 190
    equal = {name for name in first if torch.equal(first[name], second[name])}
    assert equal == (weights if recipe == "own" else set(first))
    assert not any(torch.equal(first[name], start[name]) for name in first), "all have changed"
    run = workspace / f"equal-{recipe}"
    _, held_out = load_data(str(workspace / "data"))
    whole = evaluate_models([load(run)], held_out)
    (figures,) = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert figures["held_out_loss"] == pytest.approx(whole.loss, rel=1e-5), "although each evaluated a part"
    assert figures["held_out_top1"] == whole.top1


def save_weights_of_each_process(workspace: Path, recipe_name: str) -> None:
    from inception_v3.support import distributed
    from inception_v3.training.model import new_model
    from inception_v3.training.recipe import load_recipe
    from inception_v3.training.run_folder import RunFolder
    from inception_v3.training.train import train

    recipe = load_recipe(str(workspace / f"{recipe_name}.toml")).with_options(
        image_size=75, depth_multiplier=0.1, batch_size=4, epochs=1, learning_rate=0.1
    )
    train_set, test_set = load_data(str(workspace / "data"))
    model = new_model(recipe, train_set.class_names)
    cpu = torch.device("cpu")
    with distributed.process_group(cpu) as processes:
        if processes.rank:  # different initial weights, which those of the first process replace
            torch.nn.init.ones_(model.get_parameter("Logits.Conv2d_1c_1x1.weights"))
        else:
            save_file(model.state_dict(), workspace / f"{recipe_name}-start.safetensors")
        with RunFolder(workspace / f"equal-{recipe_name}", writer=not processes.rank) as run:
            train(train_set, test_set, run, recipe, cpu, model=model, group=processes)
        weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, workspace / f"{recipe_name}-{processes.rank}.safetensors")


def test_synchronised_statistics_are_those_of_all_images(workspace: Path) -> None:
    """Two processes with 4 and 3 images have the outputs, averages and gradients of one with 7, in float64."""
    torch.manual_seed(0)
    whole = BatchNorm(5, decay=0.9, scale=True).double()
    images = torch.randn(7, 5, 3, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(7, 5, 3, 2, dtype=torch.float64)
    out = whole(images)
    torch.autograd.backward((out * weights).sum())
    save_file({"images": images.detach(), "weights": weights}, workspace / "halves.safetensors")
    finish(run_distributed(2, synchronised_halves, workspace, log=workspace / "synchronised.log"))
    halves = [load_file(workspace / f"half-{rank}.safetensors") for rank in (0, 1)]
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


def synchronised_halves(workspace: Path) -> None:
    from inception_v3.support import distributed

    with distributed.process_group(torch.device("cpu")) as processes:
        mine = slice(0, 4) if processes.rank == 0 else slice(4, 7)
        saved = {name: tensor[mine] for name, tensor in load_file(workspace / "halves.safetensors").items()}
        images = saved["images"].requires_grad_()
        layer = SyncBatchNorm(5, decay=0.9, scale=True).double()
        out = layer(images)
        torch.autograd.backward((out * saved["weights"]).sum())
        results = {"out": out, "gradient": images.grad, "beta": layer.beta.grad, "gamma": layer.gamma.grad}  # type: ignore[union-attr]
        results |= {"moving_mean": layer.moving_mean, "moving_variance": layer.moving_variance}
        tensors = {name: tensor.detach().contiguous() for name, tensor in results.items()}  # type: ignore[union-attr]
        save_file(tensors, workspace / f"half-{processes.rank}.safetensors")


# ------------------------------------------------------------------------------------------- batches of one image


def test_a_process_leaves_out_a_batch_of_one_image_and_the_first_reports_it(workspace: Path) -> None:
    """The last 3 of 13 images are divided into 2 and 1; the others of the second process are in batches of 5."""
    first, second = finish(train(workspace, "alone", "own", 5, "--epochs", 2, processes=2))
    assert first.count("a batch of one image is left out: at 75x75") == 1
    assert second == ""
    assert losses(workspace / "alone").isfinite().all()


def test_one_image_per_process_is_refused_unless_the_statistics_are_synchronised(workspace: Path) -> None:
    commands = train(workspace, "ones", "own", 1, processes=2)
    assert [command.wait(60) for command in commands] == [2, 2]
    (line,) = (line for command in commands for line in command.output.splitlines())
    assert "a batch of one image cannot train" in line
    assert "set batch_size to 2 or more" in line
    first, _ = finish(train(workspace, "ones-synchronised", "synchronised", 1, "--epochs", 1, processes=2))
    assert "left out" not in first


# ---------------------------------------------------------------------------------------- killed and stopped


def test_killing_one_process_stops_the_other_and_one_process_can_resume(workspace: Path) -> None:
    first, second = train(workspace, "killed", "own", 2, "--save-every", 2, processes=2)
    first.wait_for(lambda: list((workspace / "killed" / "checkpoints").glob("step-*")))
    second.kill(signal.SIGKILL)
    assert first.wait(60) == 1
    (line,) = (line for line in first.output.splitlines() if line.startswith("error:"))
    assert "another process has ended" in line
    assert "--resume" in line
    (output,) = finish(train(workspace, "killed", "own", 2, "--resume"))
    assert "resuming after step" in output
    assert losses(workspace / "killed").shape == (3, 2)


@pytest.mark.parametrize("refusing", [0, 1])
def test_an_error_of_one_process_is_reported_only_by_that_process(workspace: Path, refusing: int) -> None:
    """The others only know that a process has ended."""
    arguments = ["train", str(workspace / "data"), "--out", str(workspace / f"refused-{refusing}"), *map(str, SMALL)]
    log = workspace / f"refused-{refusing}.log"
    commands = run_distributed(2, command_line, arguments, refuse_to_start, (refusing,), log=log)
    assert [command.wait(60) for command in commands] == [1, 1]
    errors = [line for command in commands for line in command.output.splitlines() if line.startswith("error:")]
    assert errors == [f"error: process {refusing} refuses"]


def test_an_error_of_all_processes_is_reported_once(workspace: Path) -> None:
    arguments = ["train", str(workspace / "nowhere"), "--out", str(workspace / "nothing")]
    commands = run_distributed(2, command_line, arguments, None, (), log=workspace / "nowhere.log")
    assert [command.wait(60) for command in commands] == [2, 2]
    (output,) = (line for command in commands for line in command.output.splitlines())
    assert output.startswith(f"error: {workspace / 'nowhere'}: ")


def test_processes_that_start_again_agree_on_a_name_of_their_own() -> None:
    """Also if the nodes count restarts differently, and the store still has what those before them wrote."""
    store, names = HashStore(), list[set[str]]()
    for _ in range(3):
        with ThreadPoolExecutor(3) as processes:
            names.append(set(processes.map(lambda rank: _agree_on_name(store, rank, 3), (2, 1, 0))))
    assert [len(each) for each in names] == [1, 1, 1]
    assert len(set.union(*names)) == 3


def test_a_process_that_never_starts_ends_the_wait_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inception_v3.support.distributed.START_TIMEOUT", timedelta(seconds=0.2))
    for rank in (0, 1):
        with pytest.raises(InputError, match="not all of the 2 processes have started within"):
            _agree_on_name(HashStore(), rank, 2)


def refuse_to_start(refusing: int) -> None:
    from inception_v3.training import run_folder

    original_init = run_folder.RunFolder.__init__

    def refuse(*arguments: object, **options: object) -> None:
        if os.environ["RANK"] == str(refusing):
            raise InputError(f"process {refusing} refuses")
        original_init(*arguments, **options)  # type: ignore[arg-type]

    run_folder.RunFolder.__init__ = refuse  # type: ignore[method-assign,assignment]


def test_the_documented_torchrun_command_works_and_ctrl_c_saves(workspace: Path) -> None:
    """In a terminal, Ctrl-C reaches all processes at once."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    command += [
        "-m",
        "inception_v3",
        "train",
        workspace / "data",
        "--out",
        workspace / "torchrun",
        *SMALL,
        "--epochs",
        1000,
    ]
    log = workspace / "torchrun.log"
    environment = os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    with log.open("w") as output, subprocess.Popen(
        list(map(str, command)), stdout=output, stderr=output, env=environment, start_new_session=True
    ) as torchrun:  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while "epoch 1/" not in log.read_text() and torchrun.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            os.killpg(torchrun.pid, signal.SIGINT)
            torchrun.wait(60)
        finally:
            if torchrun.poll() is None:
                os.killpg(torchrun.pid, signal.SIGKILL)
    text = log.read_text()
    assert "2 processes" in text, text
    assert text.count("the weights so far are in") == 1, text
    assert "resume with: torchrun --nproc-per-node 2 -m inception_v3 train" in text
    assert (workspace / "torchrun" / "model.safetensors").exists()
