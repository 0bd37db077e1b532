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
        actors: the least and the largest number of processes that hold an engine; None for one on every CPU or GPU.
        cpus, gpus: of each of these processes.
        stall_timeout: seconds without a finished part after which the run fails.
        dashboard: whether Ray's dashboard is started with `local`.
    """

    address: str
    actors: tuple[int, int] | None = None
    cpus: int = 1
    gpus: float = 0
    stall_timeout: float = 600
    dashboard: bool = False


def parse_actors(text: str) -> tuple[int, int]:
    """The numbers of N or MIN:MAX. Raises InputError with exit status 2."""
    match = re.fullmatch(r"([0-9]{1,6})(?::([0-9]{1,6}))?", text)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high:
        raise InputError(f"--actors {text}: give N, or MIN:MAX such as 2:16, with 1 or more", exit_status=2)
    return low, high
