"""The options of a run on Ray. Ray is imported only when a run begins."""

import re
from dataclasses import dataclass

from inception_v3.errors import InputError

LOCAL = "local"


@dataclass(frozen=True)
class ClusterOptions:
    """How a command runs on Ray.

    Attributes:
        address: `local` for new Ray processes on this machine, or HOST:PORT of a cluster, or `auto`.
        actors: the least and the largest number of processes that hold an engine; None for as many as fit.
        actor_cpus, actor_gpus: the CPUs and GPUs of each of these processes.
        stall_timeout: seconds without a finished part after which the run fails.
        dashboard: whether Ray's dashboard is started with `local`.
    """

    address: str
    actors: tuple[int, int] | None = None
    actor_cpus: int = 1
    actor_gpus: float = 0
    stall_timeout: float = 600
    dashboard: bool = False

    def describe_actors(self, low: int, high: int) -> str:
        number = f"{low}" if low == high else f"{low} to {high}"
        gpus = f" and {self.actor_gpus:g} GPUs" if self.actor_gpus else ""
        return f"{number} actors of {self.actor_cpus} CPUs{gpus}"


def parse_actors(text: str) -> tuple[int, int]:
    """The numbers of N or MIN:MAX. Raises InputError with exit status 2."""
    match = re.fullmatch(r"([0-9]{1,6})(?::([0-9]{1,6}))?", text)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high:
        raise InputError(f"--actors {text}: give N, or MIN:MAX such as 2:16, with 1 or more", exit_status=2)
    return low, high
