"""Several processes that train or evaluate together: torchrun starts them, and each takes a part of the images.

Only the first process writes files and prints. In training all processes hold the same weights, because the gradients
are averaged before each step.
"""

import os
import secrets
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from inception_v3.errors import InputError
from inception_v3.support.signals import stop_signals_call

TIMEOUT = timedelta(minutes=30)  # for a process that hangs; a process that ends is noticed at once
START_TIMEOUT = timedelta(minutes=5)  # from the start of the first process to that of the last
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class ProcessGroup:
    """This process's rank, the number of processes, and the collective operations between them.

    All processes must call the same methods in the same order. Raises InputError (inside `process_group`) if another
    process has ended. `ProcessGroup()` is a single process without communication.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def sum(self, *numbers: float) -> list[float]:
        """Add up each number over the processes."""
        if self.world_size == 1:
            return list(numbers)
        totals = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(totals)
        return cast(list[float], totals.tolist())

    def broadcast_object(self, value: Any) -> Any:
        """Return the first process's `value` in every process."""
        values = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(values, device=self.device)
        return values[0]

    def gather(self, values: list[Any]) -> list[Any]:
        """Concatenate the lists of all processes, in order of rank."""
        lists: list[Any] = [values] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(lists, values)
        return [value for part in lists for value in part]

    def indices(self, count: int) -> range:
        """Return this process's part of `range(count)`: every world_size-th index."""
        return range(self.rank, count, self.world_size)

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors of every process with the first process's values."""
        for tensor in tensors if self.world_size > 1 else ():
            dist.broadcast(tensor, 0)

    def data_parallel(self, model: nn.Module, *, find_unused_parameters: bool) -> nn.Module:
        """Wrap the model in DistributedDataParallel, which averages gradients and copies the first process's buffers.

        `find_unused_parameters` is needed if a step leaves some parameters without a gradient.
        """
        if self.world_size == 1:
            return model
        return DistributedDataParallel(model, find_unused_parameters=find_unused_parameters)

    @staticmethod
    def no_sync(network: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which gradients accumulate locally and are not averaged yet."""
        return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


@contextmanager
def process_group(
    device: torch.device, *, remedy: str = "start all processes again with --resume"
) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started. Without torchrun it is a group of one.

    An InputError inside the context ends all processes: on each machine the first process to fail raises it, and the
    others exit silently. Raises InputError if another process has ended; `remedy` is the last part of its message.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield ProcessGroup(device=device)
        return
    store = None
    try:
        with stop_signals_call(_raise_terminated, [signal.SIGTERM]):
            store, rank, world_size = _rendezvous()
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=TIMEOUT)
            yield ProcessGroup(rank, world_size, device)
    except InputError as error:
        if _error_already_reported(store):
            raise SystemExit(error.exit_status) from error
        raise
    except RuntimeError as error:
        if not isinstance(error, dist.DistError | _TerminatedError) and "gloo" not in str(error).lower():
            raise
        if _error_already_reported(store):
            raise SystemExit(1) from error
        raise InputError(f"another process has ended or does not respond; see its output, and {remedy}") from error
    dist.destroy_process_group()


def _rendezvous() -> tuple[Any, int, int]:
    """The store through which the processes find each other, this process's rank, and the number of processes.

    PyTorch's own prefixes the keys of torchrun's store with the number of restarts, which torchrun counts on each node.
    If only one of the nodes counts a loss, the processes of the others would wait in vain.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        store, rank, world_size = next(rendezvous("env://", timeout=TIMEOUT))
        return store, rank, world_size
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    shared = TCPStore(address, port, is_master=False, timeout=TIMEOUT)
    return PrefixStore(_agree_on_name(shared, rank, world_size), shared), rank, world_size


def _agree_on_name(store: Any, rank: int, world_size: int) -> str:
    """A name that these processes have in common, and no others of the same job before them.

    Each process shows an ID of its own under its rank, and the first one answers to the ID. So whatever an earlier
    process has left under a rank is harmless. Raises InputError after START_TIMEOUT.
    """
    own, deadline = secrets.token_hex(8), time.monotonic() + START_TIMEOUT.total_seconds()
    store.set(f"id of {rank}", own)
    while time.monotonic() < deadline:
        if rank and store.check([f"name for {own}"]):
            name: str = store.get(f"name for {own}").decode()
            store.add(f"processes of {name}", 1)
            return name
        if not rank:
            for other in range(1, world_size):
                if store.check([f"id of {other}"]):
                    store.set(f"name for {store.get(f'id of {other}').decode()}", own)
            if store.add(f"processes of {own}", 0) == world_size - 1:
                return own
        time.sleep(POLL_SECONDS)
    minutes = START_TIMEOUT.total_seconds() / 60
    raise InputError(f"not all of the {world_size} processes have started within {minutes:g} minutes; see their output")


def _error_already_reported(store: Any) -> bool:
    """Return whether another process on this machine reports the error; if not, note that this process does."""
    try:
        return store is not None and store.add(f"errors on machine {os.environ.get('GROUP_RANK', '0')}", 1) > 1
    except RuntimeError:  # the process that kept the store has ended
        return False


class _TerminatedError(RuntimeError):
    """SIGTERM, which torchrun sends to the remaining processes when one has ended."""


def _raise_terminated(_: int, __: object) -> None:
    raise _TerminatedError


def local_device(device: torch.device) -> torch.device:
    """Return this process's own GPU if torchrun started several processes, otherwise `device`.

    Raises InputError: more processes than GPUs.
    """
    if device.type != "cuda" or "WORLD_SIZE" not in os.environ:
        return device
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= torch.cuda.device_count():
        raise InputError(
            f"{local_rank + 1} or more processes, {torch.cuda.device_count()} GPUs: lower --nproc-per-node",
            exit_status=2,
        )
    own = torch.device("cuda", local_rank)
    torch.cuda.set_device(own)
    return own
