"""Work is never lost: a training that was killed, stopped or starved goes on to the same weights, bit for bit."""

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
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirteen pictures to train on, so 4 steps an epoch, and a recipe with everything random in it."""
    place = tmp_path_factory.mktemp("resume")
    skies(place / "data", 16)
    (place / "mine.toml").write_text(RECIPE)
    return place


def train(place: Path, name: str, *options: object, **more: object) -> Command:
    """Start a training in a process of its own."""
    number = len(list(place.glob("*.log")))
    return start(
        *("train", place / "data", "--out", place / name, "--recipe", place / "mine.toml", *SMALL, *options),
        log=place / f"{number}-{name}.log",
        **more,  # type: ignore[arg-type]
    )


def states(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-*"))


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """A run that nothing disturbed."""
    assert train(place, "whole").wait() == 0
    return place / "whole"


def assert_same(run: Path, whole: Path) -> None:
    """The same weights, running averages, optimizer's slots and figures."""
    assert [file.name for file in states(run)[-1:]] == [file.name for file in states(whole)[-1:]]
    for name in ("model.safetensors", "best.safetensors", f"checkpoints/{states(whole)[-1].name}"):
        ours, theirs = load_file(run / name), load_file(whole / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    timed = ("images_per_second", "data_wait")
    figures = [
        [{k: v for k, v in json.loads(line).items() if k not in timed} for line in file.read_text().splitlines()]
        for file in (run / "metrics.jsonl", whole / "metrics.jsonl")
    ]
    assert figures[0] == figures[1]


# ------------------------------------------------------------------------------------------------ killed


def test_killed_again_and_again_it_ends_with_the_same_weights(place: Path, whole: Path) -> None:
    """kill -9 at moments that nobody chose: after a new state, and some time later, in whatever it does then."""
    resume: tuple[object, ...] = ()
    for delay in (0.0, 0.02, 0.05, 0.1):
        before = states(place / "killed")
        command = train(place, "killed", "--save-every", 1, *resume)
        command.wait_for(lambda before=before: states(place / "killed") != before)  # type: ignore[misc]
        time.sleep(delay)
        command.kill(signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL
        resume = ("--resume",)
    assert train(place, "killed", *resume).wait() == 0
    assert_same(place / "killed", whole)
    assert not list((place / "killed").rglob("*.partial"))


def test_the_number_of_workers_changes_nothing(place: Path, whole: Path) -> None:
    """Two worker processes up to the kill, none after it."""
    command = train(place, "workers", "--save-every", 3, "--workers", 2)
    command.wait_for(lambda: states(place / "workers"))
    command.kill(signal.SIGKILL)
    command.wait()
    assert train(place, "workers", "--resume").wait() == 0
    assert_same(place / "workers", whole)


def test_a_damaged_state_is_left_for_the_one_before(place: Path, whole: Path) -> None:
    command = train(place, "damaged", "--save-every", 1)
    command.wait_for(lambda: len(states(place / "damaged")) == 2)
    command.kill(signal.SIGKILL)
    command.wait()
    *_, newest = states(place / "damaged")
    newest.write_bytes(newest.read_bytes()[:-5000])
    command = train(place, "damaged", "--resume")
    assert command.wait() == 0
    assert f"{newest.name}: cannot be read" in command.output
    assert_same(place / "damaged", whole)


# ----------------------------------------------------------------------------------------------- stopped


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_at_once_saves_too(place: Path, whole: Path, number: int) -> None:
    """As a terminal, `timeout`, torchrun and SLURM send it: the workers go on until the state is saved."""
    name = f"group-{number}"
    command = train(place, name, "--workers", 2, "--save-every", 1, prepare=os.setpgrp)
    command.wait_for(lambda: "epoch 1/3" in command.output)
    assert command.process.pid is not None
    os.killpg(command.process.pid, number)
    assert command.wait() == 128 + number
    assert "go on with: " in command.output
    assert train(place, name, "--resume").wait() == 0
    assert_same(place / name, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_save_at_once_and_say_how_to_go_on(place: Path, whole: Path, number: int) -> None:
    name = f"stopped-{number}"
    command = train(place, name, "--workers", 2)
    command.wait_for(lambda: "epoch 1/3" in command.output)
    command.kill(number)
    assert command.wait() == 128 + number
    assert f"the weights so far are in {place / name}/model.safetensors" in command.output
    assert inception_v3.load(place / name).class_names == ["day", "night"]
    (line,) = (line for line in command.output.splitlines() if line.startswith("go on with: "))
    assert line.startswith(f"go on with: inception-v3 train {place / 'data'} --out {place / name} ")
    assert line.endswith(" --resume")
    command = start(*line.split()[4:], log=place / f"again-{name}.log")
    assert command.wait() == 0
    assert "going on after step" in command.output
    assert_same(place / name, whole)


# ----------------------------------------------------------------------------------------------- starved


def limited(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_state_that_cannot_be_written_leaves_the_one_before_whole(place: Path, whole: Path) -> None:
    """The system refuses files as large as a state, as a full disk does."""
    command = train(place, "full", "--save-every", 1)
    command.wait_for(lambda: states(place / "full"))
    command.kill(signal.SIGKILL)
    command.wait()
    kept = states(place / "full")[0]
    before = kept.read_bytes()
    command = train(place, "full", "--resume", prepare=limited, given=(3_000_000,))
    assert command.wait() == 1
    (line,) = (line for line in command.output.splitlines() if line.startswith("error:"))
    assert "File too large" in line
    assert kept.read_bytes() == before
    assert train(place, "full", "--resume").wait() == 0
    assert_same(place / "full", whole)


# ------------------------------------------------------------------------------------- what cannot be gone on


def error(command: Command, status: int) -> str:
    assert command.wait() == status, command.output
    (line,) = (line for line in command.output.splitlines() if line.startswith("error:"))
    return line


def test_a_finished_run_says_so(place: Path, whole: Path) -> None:
    before = (whole / "model.safetensors").read_bytes()
    command = train(place, "whole", "--resume")
    assert command.wait() == 0
    assert "all epochs are done already" in command.output
    assert "top-1" in command.output
    assert (whole / "model.safetensors").read_bytes() == before


def test_another_training_is_not_gone_on_with_and_the_difference_is_named(place: Path, whole: Path) -> None:
    line = error(train(place, "whole", "--resume", "--learning-rate", 0.5, "--seed", 6), 2)
    assert "learning_rate was 0.01 and is 0.5 now" in line
    assert "seed was 5 and is 6 now" in line
    assert "epochs" not in line
    skies(place / "more", 18)
    log = place / "other.log"
    command = start(
        "train", place / "more", "--out", whole, "--recipe", place / "mine.toml", *SMALL, "--resume", log=log
    )
    assert "training pictures was 13 of 2 classes" in error(command, 2)


def test_where_there_is_nothing_to_go_on_with_it_begins(place: Path, whole: Path) -> None:
    command = train(place, "fresh", "--resume")
    assert command.wait() == 0
    assert "nothing to go on with; this is a new run" in command.output
    assert_same(place / "fresh", whole)


def test_a_run_folder_in_use_is_left_alone(place: Path) -> None:
    first = train(place, "used", "--epochs", 1000)
    first.wait_for(lambda: "epoch 1/" in first.output)
    for option in ("--resume", "--overwrite"):
        command = start("train", "digits", "--out", place / "used", option, log=place / "second.log")
        assert "another training is running there" in error(command, 1)
        (place / "second.log").unlink()
    first.kill(signal.SIGKILL)
    first.wait()
    command = train(place, "used", "--epochs", 1000, "--resume")
    command.wait_for(lambda: "going on after step" in command.output)
    command.kill(signal.SIGINT)
    assert command.wait() == 130, "the lock goes with its process"


def test_resume_and_overwrite_exclude_each_other(place: Path) -> None:
    assert "give one of them" in error(train(place, "whole", "--resume", "--overwrite"), 2)


def test_as_many_states_are_kept_as_asked_for_and_the_best_model(place: Path, whole: Path) -> None:
    assert [file.name for file in states(whole)] == ["step-00000008.safetensors", "step-00000012.safetensors"]
    assert train(place, "three", "--keep", 3, "--save-every", 1).wait() == 0
    assert len(states(place / "three")) == 3
    top1 = [json.loads(line)["held_out_top1"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    best = safe_metadata(whole / "best.safetensors")["epochs"]
    assert best == top1.index(max(top1)) + 1
    assert safe_metadata(whole / "model.safetensors")["epochs"] == 3


def safe_metadata(file: Path) -> dict[str, float]:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return json.loads(opened.metadata()["training"])  # type: ignore[no-any-return]
