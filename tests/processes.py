"""The command in processes of its own, which a test can kill. The libraries are loaded once for all of them."""

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
    """A running `inception-v3 ...`; `said` is what it wrote to stdout and stderr."""

    process: BaseProcess
    log: Path
    store: TCPStore | None = None  # of a run_distributed, and ends with it

    @property
    def output(self) -> str:
        return self.log.read_text()

    def wait(self, timeout: float = 120) -> int:
        """Its exit status; minus the signal's number where one killed it."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"still running:\n{self.output}"
        killed = self.process.exitcode == -signal.SIGKILL  # its workers may complain
        assert killed or "Traceback" not in self.output, self.output
        return self.process.exitcode

    def wait_for(self, happened: Callable[[], object], timeout: float = 120) -> None:
        until = time.monotonic() + timeout
        while not happened():
            assert self.process.is_alive(), self.output
            assert time.monotonic() < until, self.output
            time.sleep(0.002)

    def kill(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)


def start(*arguments: object, log: Path, prepare: Callable[..., None] | None = None, given: Any = ()) -> Command:
    """Run `inception-v3 ARGUMENTS`; `prepare(*given)`, a function of a module, runs first in that process."""
    return run(command_line, list(map(str, arguments)), prepare, given, log=log)


def command_line(arguments: list[str], prepare: Callable[..., None] | None, given: Any) -> None:
    if prepare:
        prepare(*given)
    from inception_v3 import cli

    sys.argv = ["inception-v3", *arguments]
    cli.main()


def run(function: Callable[..., None], *given: object, log: Path, **environment: str) -> Command:
    """Call a function of a module in a process of its own."""
    process = _context.Process(target=_run, args=(function, given, str(log), environment))
    log.touch()
    process.start()
    return Command(process, log)


def run_distributed(count: int, function: Callable[..., None], *given: object, log: Path) -> list[Command]:
    """Call it in so many processes that know of each other by torchrun's variables."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # torchrun has it too, and outlives them
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    shared["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    commands = []
    for rank in range(count):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        commands.append(run(function, *given, log=log.with_name(f"{log.name}-{rank}"), **shared, **own))
        commands[-1].store = store
    return commands


def wait_for_processes(place: Path, count: int) -> None:
    """Go on when so many processes have come here."""
    (place / f"here-{os.getpid()}").touch()
    while len(list(place.glob("here-*"))) < count:
        time.sleep(0.002)


def _run(function: Callable[..., None], given: tuple[object, ...], log: str, environment: dict[str, str]) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(environment, COLUMNS="200")
    import torch

    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of its own workers, as in a program of its own
    function(*given)
