"""A training that was killed, stopped or ran out of disk space resumes and ends with the same weights, bit for bit."""

import json
import os
import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import inception_v3
from generated_images import skies
from processes import Command, start

SMALL = ("--image-size", 75, "--depth-multiplier", 0.1, "--batch-size", 4, "--seed", 5, "--workers", 0)
RECIPE = """
augment = "photos"
epochs = 3
mixup = 0.2
learning_rate = 0.01
warmup_epochs = 0.5
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 training images, which make 4 steps per epoch, and a recipe that uses every kind of randomness."""
    workspace = tmp_path_factory.mktemp("resume")
    skies(workspace / "data", 18)
    (workspace / "mine.toml").write_text(RECIPE)
    return workspace


def train(workspace: Path, name: str, *options: object, **more: object) -> Command:
    """Start a training in a new process."""
    number = len(list(workspace.glob("*.log")))
    return start(
        *(
            "train",
            workspace / "data",
            "--out",
            workspace / name,
            "--recipe",
            workspace / "mine.toml",
            *SMALL,
            *options,
        ),
        log=workspace / f"{number}-{name}.log",
        **more,  # type: ignore[arg-type]
    )


def states(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-*"))


@pytest.fixture(scope="module")
def uninterrupted(workspace: Path) -> Path:
    """A run without interruption."""
    assert train(workspace, "uninterrupted").wait() == 0
    return workspace / "uninterrupted"


def assert_same(run: Path, expected: Path) -> None:
    """Both runs have the same weights, running averages, optimizer slots and figures."""
    assert [file.name for file in states(run)[-1:]] == [file.name for file in states(expected)[-1:]]
    for name in ("model.safetensors", "best.safetensors", f"checkpoints/{states(expected)[-1].name}"):
        ours, theirs = load_file(run / name), load_file(expected / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    measured = ("images_per_second", "data_wait")
    figures = [
        [
            {key: value for key, value in json.loads(line).items() if key not in measured}
            for line in file.read_text().splitlines()
        ]
        for file in (run / "metrics.jsonl", expected / "metrics.jsonl")
    ]
    assert figures[0] == figures[1]


# ------------------------------------------------------------------------------------------------ killed


def test_a_training_killed_many_times_ends_with_the_same_weights(workspace: Path, uninterrupted: Path) -> None:
    """kill -9 at arbitrary moments: after a new state, and some time later."""
    resume: tuple[object, ...] = ()
    for delay in (0.0, 0.02, 0.05, 0.1):
        before = states(workspace / "killed")
        command = train(workspace, "killed", "--save-every", 1, *resume)
        command.wait_for(lambda before=before: states(workspace / "killed") != before)  # type: ignore[misc]
        time.sleep(delay)
        command.kill(signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL
        resume = ("--resume",)
    assert train(workspace, "killed", *resume).wait() == 0
    assert_same(workspace / "killed", uninterrupted)
    assert not list((workspace / "killed").rglob("*.partial"))


def test_the_number_of_workers_changes_nothing(workspace: Path, uninterrupted: Path) -> None:
    """Two worker processes up to the kill, none after it."""
    command = train(workspace, "workers", "--save-every", 3, "--workers", 2)
    command.wait_for(lambda: states(workspace / "workers"))
    command.kill(signal.SIGKILL)
    command.wait()
    assert train(workspace, "workers", "--resume").wait() == 0
    assert_same(workspace / "workers", uninterrupted)


def test_a_damaged_state_is_skipped_and_the_state_before_it_used(workspace: Path, uninterrupted: Path) -> None:
    command = train(workspace, "damaged", "--save-every", 1)
    command.wait_for(lambda: len(states(workspace / "damaged")) == 2)
    command.kill(signal.SIGKILL)
    command.wait()
    *_, newest = states(workspace / "damaged")
    newest.write_bytes(newest.read_bytes()[:-5000])
    command = train(workspace, "damaged", "--resume")
    assert command.wait() == 0
    assert f"{newest.name}: cannot be read" in command.output
    assert_same(workspace / "damaged", uninterrupted)


# ----------------------------------------------------------------------------------------------- stopped


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_all_processes_at_once_saves_too(workspace: Path, uninterrupted: Path, number: int) -> None:
    """As a terminal, `timeout`, torchrun and SLURM send it: the workers continue until the state is saved."""
    name = f"group-{number}"
    command = train(workspace, name, "--workers", 2, "--save-every", 1, prepare=os.setpgrp)
    command.wait_for(lambda: "epoch 1/3" in command.output)
    assert command.process.pid is not None
    os.killpg(command.process.pid, number)
    assert command.wait() == 128 + number
    assert "resume with: " in command.output
    assert train(workspace, name, "--resume").wait() == 0
    assert_same(workspace / name, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_sighup_and_sigterm_save_at_once_and_show_how_to_resume(
    workspace: Path, uninterrupted: Path, number: int
) -> None:
    name = f"stopped-{number}"
    command = train(workspace, name, "--workers", 2)
    command.wait_for(lambda: "epoch 1/3" in command.output)
    command.kill(number)
    assert command.wait() == 128 + number
    assert f"the weights so far are in {workspace / name}/model.safetensors" in command.output
    assert inception_v3.load(workspace / name).class_names == ["day", "night"]
    (line,) = (line for line in command.output.splitlines() if line.startswith("resume with: "))
    assert line.startswith(f"resume with: inception-v3 train {workspace / 'data'} --out {workspace / name} ")
    assert line.endswith(" --resume")
    command = start(*line.split()[3:], log=workspace / f"again-{name}.log")
    assert command.wait() == 0
    assert "resuming after step" in command.output
    assert_same(workspace / name, uninterrupted)


def worker_of(command: Command) -> int:
    """The process ID of a worker of a training that has begun."""
    command.wait_for(lambda: "epoch 1/3" in command.output)
    children = Path(f"/proc/{command.process.pid}/task/{command.process.pid}/children").read_text()
    return int(children.split()[0])


def test_a_worker_that_is_killed_ends_the_training_which_can_resume(workspace: Path, uninterrupted: Path) -> None:
    """For example for lack of memory."""
    command = train(workspace, "killed-worker", "--workers", 2)
    os.kill(worker_of(command), signal.SIGKILL)
    assert command.wait(15) == 1
    *_, last = command.output.splitlines()
    assert last.startswith("error: a worker process failed (")
    assert train(workspace, "killed-worker", "--resume").wait() == 0
    assert_same(workspace / "killed-worker", uninterrupted)


def test_a_signal_stops_a_training_that_waits_for_a_worker_that_hangs(workspace: Path, uninterrupted: Path) -> None:
    command = train(workspace, "hanging-worker", "--workers", 1)
    os.kill(worker_of(command), signal.SIGSTOP)
    time.sleep(1)  # the batches that were ready are used up
    command.kill(signal.SIGTERM)
    assert command.wait(15) == 128 + signal.SIGTERM
    assert train(workspace, "hanging-worker", "--resume").wait() == 0
    assert_same(workspace / "hanging-worker", uninterrupted)


# ------------------------------------------------------------------------------------------- a full disk


def limited(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_state_that_cannot_be_written_does_not_damage_the_state_before_it(
    workspace: Path, uninterrupted: Path
) -> None:
    """The system refuses files as large as a state, as it does on a full disk."""
    command = train(workspace, "full", "--save-every", 1)
    command.wait_for(lambda: states(workspace / "full"))
    command.kill(signal.SIGKILL)
    command.wait()
    kept = states(workspace / "full")[0]
    before = kept.read_bytes()
    command = train(workspace, "full", "--resume", prepare=limited, given=(3_000_000,))
    assert command.wait() == 1
    (line,) = (line for line in command.output.splitlines() if line.startswith("error:"))
    assert "larger than 3,000,000 bytes, the limit of a file" in line
    assert kept.read_bytes() == before
    assert train(workspace, "full", "--resume").wait() == 0
    assert_same(workspace / "full", uninterrupted)


# ------------------------------------------------------------------------------------ what cannot be resumed


def error(command: Command, status: int) -> str:
    assert command.wait() == status, command.output
    (line,) = (line for line in command.output.splitlines() if line.startswith("error:"))
    return line


def test_resuming_a_finished_run_only_reports_it(workspace: Path, uninterrupted: Path) -> None:
    before = (uninterrupted / "model.safetensors").read_bytes()
    command = train(workspace, "uninterrupted", "--resume")
    assert command.wait() == 0
    assert "all epochs are already done" in command.output
    assert "top-1" in command.output
    assert (uninterrupted / "model.safetensors").read_bytes() == before


def test_a_different_training_is_not_resumed_and_the_differences_are_named(
    workspace: Path, uninterrupted: Path
) -> None:
    line = error(train(workspace, "uninterrupted", "--resume", "--learning-rate", 0.5, "--seed", 6), 2)
    assert "learning_rate was 0.01 and is 0.5 now" in line
    assert "seed was 5 and is 6 now" in line
    assert "epochs" not in line
    skies(workspace / "more", 20)
    log = workspace / "other.log"
    command = start(
        "train",
        workspace / "more",
        "--out",
        uninterrupted,
        "--recipe",
        workspace / "mine.toml",
        *SMALL,
        "--resume",
        log=log,
    )
    assert "training pictures was 14 of 2 classes" in error(command, 2)


def test_resume_without_a_saved_state_starts_a_new_run(workspace: Path, uninterrupted: Path) -> None:
    command = train(workspace, "fresh", "--resume")
    assert command.wait() == 0
    assert "no saved state to resume; starting a new run" in command.output
    assert_same(workspace / "fresh", uninterrupted)


def test_a_run_folder_in_use_is_refused(workspace: Path) -> None:
    first = train(workspace, "used", "--epochs", 1000)
    first.wait_for(lambda: "epoch 1/" in first.output)
    for option in ("--resume", "--overwrite"):
        command = start("train", "digits", "--out", workspace / "used", option, log=workspace / "second.log")
        assert "in use by another training" in error(command, 1)
        (workspace / "second.log").unlink()
    first.kill(signal.SIGKILL)
    first.wait()
    command = train(workspace, "used", "--epochs", 1000, "--resume")
    command.wait_for(lambda: "resuming after step" in command.output)
    command.kill(signal.SIGINT)
    assert command.wait() == 130, "the lock ends with its process"


def test_resume_and_overwrite_exclude_each_other(workspace: Path) -> None:
    assert "use only one of them" in error(train(workspace, "uninterrupted", "--resume", "--overwrite"), 2)


def test_the_requested_number_of_states_and_the_best_model_are_kept(workspace: Path, uninterrupted: Path) -> None:
    assert [file.name for file in states(uninterrupted)] == ["step-00000008.safetensors", "step-00000012.safetensors"]
    assert train(workspace, "three", "--keep", 3, "--save-every", 1).wait() == 0
    assert len(states(workspace / "three")) == 3
    top1 = [json.loads(line)["held_out_top1"] for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()]
    best_epoch = training_facts(uninterrupted / "best.safetensors")["epochs"]
    assert best_epoch == top1.index(max(top1)) + 1
    assert training_facts(uninterrupted / "model.safetensors")["epochs"] == 3


def training_facts(file: Path) -> dict[str, float]:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return json.loads(opened.metadata()["training"])  # type: ignore[no-any-return]
