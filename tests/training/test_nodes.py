"""Training on several nodes: one torchrun for each, on this machine, with shards as data and the ordinary command.

After the loss of a process, torchrun starts all processes again, and --resume continues in the middle of the epoch:
the weights are those of a run without the loss, to the last bit.
"""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from generated_images import skies

pytestmark = pytest.mark.slow
LIMIT_SECONDS = 300


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training images and 8 held-out ones, each in two shards as WebDataset writes them."""
    folder = tmp_path_factory.mktemp("nodes")
    files = sorted(skies(folder / "images", 32).rglob("*.png"), key=lambda file: int(file.stem))
    (folder / "shards").mkdir()
    for split, part in (("train", files[:24]), ("val", files[24:])):
        for shard in range(2):
            with tarfile.open(folder / "shards" / f"{split}-{shard:03}.tar", "w") as archive:
                for file in part[shard::2]:
                    add(archive, f"{file.stem}.png", file.read_bytes())
                    add(archive, f"{file.stem}.cls", str(int(file.parent.name == "day")).encode())
    return folder / "shards"


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


class Nodes:
    """The torchruns of a job, each in a process group of its own."""

    def __init__(self, count: int, data: Path, run: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.count, self.data, self.run = count, data, run
        self.agents = [self.start(index) for index in range(count)]

    def start(self, index: int) -> "subprocess.Popen[bytes]":
        command = [
            *(sys.executable, "-m", "torch.distributed.run", f"--nnodes={self.count}", "--nproc-per-node=1"),
            *(
                "--max-restarts=3",
                "--rdzv-conf",
                f"is_host={int(index == 0)}",
                "--rdzv-backend=c10d",
                f"--rdzv-endpoint=127.0.0.1:{self.port}",
                "--rdzv-id=job",
            ),
            *("-m", "inception_v3", "train", self.data, "--out", self.run, "--image-size", 75, "--epochs", 3),
            *("--depth-multiplier", 0.1, "--batch-size", 2, "--save-every", 2, "--resume"),
        ]
        with self.log(index).open("ab") as log:
            return subprocess.Popen(
                list(map(str, command)), stdout=log, stderr=log, start_new_session=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def log(self, index: int) -> Path:
        return self.run.with_name(f"{self.run.name}-{index}.log")

    @property
    def output(self) -> str:
        return "\n".join(self.log(index).read_text() for index in range(self.count))

    def wait_for_a_saved_state(self) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not [*(self.run / "checkpoints").glob("step-*")]:
            assert time.monotonic() < deadline, self.output
            assert all(agent.poll() is None for agent in self.agents), self.output
            time.sleep(0.02)

    def processes(self, index: int) -> list[int]:
        """Those that train on a node."""
        found = subprocess.run(["pgrep", "-P", str(self.agents[index].pid)], capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]

    def kill(self, index: int) -> None:
        """End a node: its torchrun and all that it has started."""
        for pid in (*self.processes(index), self.agents[index].pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.agents[index].wait()

    def finish(self) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        statuses = [agent.wait(max(1, deadline - time.monotonic())) for agent in self.agents]
        assert statuses == [0] * self.count, self.output

    def end(self) -> None:
        for index, agent in enumerate(self.agents):
            if agent.poll() is None:
                self.kill(index)


Start = Callable[[int, str], Nodes]


@pytest.fixture
def start(data: Path, tmp_path: Path) -> Iterator[Start]:
    """A function that starts a number of nodes with the run folder of this name."""
    with ExitStack() as stack:

        def start_nodes(count: int, name: str) -> Nodes:
            nodes = Nodes(count, data, tmp_path / name)
            stack.callback(nodes.end)
            return nodes

        yield start_nodes


def check_same_result(one: Path, other: Path) -> None:
    weights = [load_file(run / "model.safetensors") for run in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    losses = [
        [
            (line["loss"], line["held_out_loss"])
            for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        ]
        for run in (one, other)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3


def test_after_the_loss_of_a_process_the_weights_are_those_of_a_run_without_it(start: Start) -> None:
    whole = start(2, "whole")
    whole.finish()
    broken = start(2, "broken")
    broken.wait_for_a_saved_state()
    for pid in broken.processes(1):
        os.kill(pid, signal.SIGKILL)
    broken.finish()
    assert "resuming after step" in broken.output
    check_same_result(whole.run, broken.run)
