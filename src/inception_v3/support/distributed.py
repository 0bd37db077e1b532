"""Several processes, one training or judgement: torchrun starts them, each has a share of the pictures.

The first process alone writes and prints. In training all hold the same weights: their gradients are averaged before
each step.
"""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from inception_v3.errors import InputError

TIMEOUT = timedelta(minutes=30)  # of a process that hangs; one that ends is noticed at once


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of one work: this one's number, how many there are, and what they tell each other.

    Each method is called by all of them at the same place. Raises InputError where one of them has gone.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def sum(self, *numbers: float) -> list[float]:
        """Each number added up over the processes."""
        if self.count == 1:
            return list(numbers)
        totals = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(totals)
        return cast(list[float], totals.tolist())

    def share(self, value: Any) -> Any:
        """The first process's value, for all."""
        values = [value]
        if self.count > 1:
            dist.broadcast_object_list(values, device=self.device)
        return values[0]

    def gather(self, values: list[Any]) -> list[Any]:
        """What all have, in one list."""
        found: list[Any] = [values] * self.count
        if self.count > 1:
            dist.all_gather_object(found, values)
        return [value for one in found for value in one]

    def places(self, count: int) -> range:
        """Which of so many pictures are this process's share."""
        return range(self.rank, count, self.count)

    def copy(self, tensors: Iterable[Tensor]) -> None:
        """Give those of all processes the first one's values."""
        for tensor in tensors if self.count > 1 else ():
            dist.broadcast(tensor, 0)

    def parallel(self, model: nn.Module, *, find_unused_parameters: bool) -> nn.Module:
        """The model, whose gradients are averaged over the processes; its statistics are those of the first.

        `find_unused_parameters` says that not every weight gets a gradient in every step.
        """
        if self.count == 1:
            return model
        return DistributedDataParallel(model, find_unused_parameters=find_unused_parameters)

    @staticmethod
    def alone(network: nn.Module) -> AbstractContextManager[None]:
        """Gradients are added to what is there, and not yet averaged."""
        return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


@contextmanager
def team(device: torch.device, *, remedy: str = "start all processes again with --resume") -> Iterator[ProcessGroup]:
    """The processes that torchrun started, or this one alone.

    An InputError that comes up in here ends all of them. The first process of each machine that has one raises it, the
    others end in silence. Raises InputError where another process has gone; `again` says what to do then.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ProcessGroup(device=device)
        return
    in_main = threading.current_thread() is threading.main_thread()  # others may not ask for signals
    before = signal.signal(signal.SIGTERM, _stop) if in_main else None
    store = None
    try:
        store, rank, count = next(rendezvous("env://", timeout=TIMEOUT))
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=TIMEOUT)
        yield ProcessGroup(rank, count, device)
    except InputError as error:
        if _is_told(store):
            raise SystemExit(error.exit_status) from error
        raise
    except RuntimeError as error:
        if isinstance(error, dist.DistError | _StoppedError) or "gloo" in str(error).lower():
            if _is_told(store):
                raise SystemExit(1) from error
            message = f"another process has ended or does not respond; see its output, and {again}"
            raise InputError(message) from error
        raise
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before)
    dist.destroy_process_group()


def _is_told(store: Any) -> bool:
    """Whether another process of this machine says what is wrong; else it is for this one to say."""
    try:
        return store is not None and store.add(f"told on machine {os.environ.get('GROUP_RANK', '0')}", 1) > 1
    except RuntimeError:  # who kept the store has gone
        return False


class _StoppedError(RuntimeError):
    """By SIGTERM, which torchrun sends to the other processes when one has ended."""


def _stop(_: int, __: object) -> None:
    raise _StoppedError


def local_device(device: torch.device) -> torch.device:
    """Of several GPUs, the one of this process. Raises InputError where there are more processes than GPUs."""
    place = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type != "cuda" or "WORLD_SIZE" not in os.environ:
        return device
    if place >= torch.cuda.device_count():
        message = f"{place + 1} processes or more and {torch.cuda.device_count()} GPUs: lower --nproc-per-node"
        raise InputError(message, exit_status=2)
    own = torch.device("cuda", place)
    torch.cuda.set_device(own)
    return own
