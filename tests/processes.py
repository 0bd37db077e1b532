"""Run the command line in separate processes, which a test can kill. The libraries are loaded once for all."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        *("inception_v3.training.train", "inception_v3.reports.plots", "torchvision.transforms.v2"),
        *("inception_v3.cli.predict", "inception_v3.inference.results"),
    ]
)


@dataclass
class Command:
    """A running process; `output` is what it has written to stdout and stderr."""

    process: BaseProcess
    log: Path
    store: TCPStore | None = None  # must stay open while the processes of a group run

    @property
    def output(self) -> str:
        return self.log.read_text()

    def wait(self, timeout: float = 120) -> int:
        """Wait for the end, and return the exit status: negative is the signal that killed the process."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"still running:\n{self.output}"
        killed = self.process.exitcode == -signal.SIGKILL  # then its worker processes may print a traceback
        assert killed or "Traceback" not in self.output, self.output
        return self.process.exitcode

    def wait_for(self, condition: Callable[[], object], timeout: float = 120) -> None:
        """Wait until `condition()` is true; fail if the process ends before."""
        until = time.monotonic() + timeout
        while not condition():
            assert self.process.is_alive(), self.output
            assert time.monotonic() < until, self.output
            time.sleep(0.002)

    def kill(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)


def start(*arguments: object, log: Path, prepare: Callable[..., None] | None = None, given: Any = ()) -> Command:
    """Run `prepare(*given)`, a function of a module, and then `inception-v3 ARGUMENTS` in a new process."""
    return run(command_line, list(map(str, arguments)), prepare, given, log=log)


def command_line(arguments: list[str], prepare: Callable[..., None] | None, given: Any) -> None:
    if prepare:
        prepare(*given)
    from inception_v3 import cli

    sys.argv = ["inception-v3", *arguments]
    cli.main()


def run(function: Callable[..., None], *given: object, log: Path, **environment: str) -> Command:
    """Call a function of a module in a new process with these environment variables."""
    process = _context.Process(target=_run, args=(function, given, str(log), environment))
    log.touch()
    process.start()
    return Command(process, log)


def run_distributed(count: int, function: Callable[..., None], *given: object, log: Path) -> list[Command]:
    """Call a function in `count` processes with the environment variables that torchrun sets."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # like torchrun's agent
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    shared["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    commands = []
    for rank in range(count):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        commands.append(run(function, *given, log=log.with_name(f"{log.name}-{rank}"), **shared, **own))
        commands[-1].store = store
    return commands


def wait_for_processes(folder: Path, count: int) -> None:
    """Return when `count` processes have called this function."""
    (folder / f"here-{os.getpid()}").touch()
    while len(list(folder.glob("here-*"))) < count:
        time.sleep(0.002)


def _run(function: Callable[..., None], given: tuple[object, ...], log: str, environment: dict[str, str]) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment, COLUMNS="200")
    import torch

    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # for its worker processes, as in a normal start
    function(*given)
