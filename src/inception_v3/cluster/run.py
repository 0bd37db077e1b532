"""Compute a list of parts by Ray Data, and return their results in order.

An actor is a process that holds the job's engine. It gets a list of images, opens and computes them, and returns the
results. Pixels and weights never pass through Ray's object store. Ray restarts an actor that ends, and gives its part
to another one.
"""

import logging
import os
import pickle
import queue
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from inception_v3.cluster.session import Cluster, silence
from inception_v3.errors import InputError
from inception_v3.support.cpu import limit_cores
from inception_v3.support.system_errors import describe_failure
from inception_v3.support.text import one_line

STALL_SECONDS = 60.0  # without a finished part, after which a line reports which resources are in use
PARTS_IN_FLIGHT = 2  # of each actor: one is computed, one waits, so that no actor waits for the scheduler
POLL_SECONDS = 0.5
MAX_PART_IMAGES = 256  # the images that are computed again after an actor has ended

Note = Callable[[str], None]
Part = Any  # what a job takes: a list of images, or a range of them


class Job(Protocol):
    """Work that is opened once in each actor. It is pickled, so it holds paths and options, but no weights."""

    def open(self) -> Callable[[Any], Any]:
        """Open the engine on all cores of `core_count`. Returns the function that computes a part.

        Raises InputError.
        """


@dataclass(frozen=True)
class PartResult:
    """What an actor returns for a part: its result, or in `error` why there is none, and the node of the actor."""

    value: Any
    node: str
    error: str | None = None
    exit_status: int = 1


class Actor:
    """Holds an engine. Ray Data calls it with one part at a time."""

    def __init__(self, job: Job, cpus: int, version: str, folder: str) -> None:
        self._job, self._cpus, self._version, self._folder = job, cpus, version, folder
        self._compute: Callable[[Any], Any] | None = None
        self._node = f"{socket.gethostname()} (process {os.getpid()})"

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        try:
            if self._compute is None:
                _check_version(self._version)
                with suppress(OSError):  # without it, only relative paths are not found
                    os.chdir(self._folder)
                limit_cores(self._cpus)
                self._compute = self._job.open()
            result = PartResult(self._compute(unpack(block["part"][0])), self._node)
        except InputError as error:
            result = PartResult(None, self._node, str(error), error.exit_status)
        except Exception as error:  # the traceback of Ray, hundreds of lines, would hide it
            line = describe_failure(error) or f"unexpected {type(error).__name__}: {one_line(error, 300)}"
            result = PartResult(None, self._node, line)
        return {"result": [pack(result)]}


def _check_version(expected: str) -> None:
    from inception_v3 import __version__

    if __version__ != expected:
        fault = f"has inception-v3 {__version__}, and this machine {expected}; install the same version on all nodes"
        raise InputError(fault)


def pack(value: object) -> bytes:
    return zlib.compress(pickle.dumps(value, protocol=5), 1)


def unpack(data: bytes) -> Any:
    return pickle.loads(zlib.decompress(data))  # our own process wrote it


def part_size(remaining: int, actors: int, batch_size: int, most: int = MAX_PART_IMAGES) -> int:
    """The number of images in the next part, if `remaining` images are in no part yet: whole batches, at least one.

    It is half of an actor's share, so that parts get smaller to the end, and all actors end at about the same time.
    """
    return max(1, min(remaining // (2 * actors), most) // batch_size) * batch_size


def path_on_nodes(model: str | Path) -> str:
    """The absolute path of a model, for actors; a published name stays as it is."""
    return str(Path(model).absolute() if Path(model).exists() else model)


def check_same_model(name: str | Path, checksum: str, expected: str) -> None:
    """Raises InputError: the model on this node is not the one on the machine of the command."""
    if checksum != expected:
        fault = "is another model on this node; copy it to all nodes, or give a path on shared storage"
        raise InputError(f"{name}: {fault}")


def run_parts(cluster: Cluster, job: Job, parts: Sequence[bytes], note: Note) -> Iterator[Any]:
    """Yield what the job computes of each of the packed parts, in order.

    `note` is called with a line when nothing has finished for STALL_SECONDS. Raises InputError: an actor could not open
    the job or failed on a part, or nothing has finished for `stall_timeout` seconds.
    """
    if not parts:
        return
    for result in _with_timeout(cluster, _start(cluster, job, parts), note):
        if result.error is not None:
            raise InputError(f"{result.node}: {result.error}", exit_status=result.exit_status)
        yield result.value


def _start(cluster: Cluster, job: Job, parts: Sequence[bytes]) -> Any:
    """The packed results, as Ray Data computes them."""
    import pyarrow as pa
    from ray import data

    from inception_v3 import __version__

    silence(logging.getLogger("ray.data"))
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True
    context.execution_options.verbose_progress = False
    options, (low, high) = cluster.options, cluster.actors
    low, high = min(low, len(parts)), min(high, len(parts))
    return data.from_arrow([pa.table({"part": [part]}) for part in parts]).map_batches(
        Actor,
        fn_constructor_args=(job, options.actor_cpus, __version__, os.getcwd()),  # noqa: PTH109
        batch_size=None,
        compute=data.ActorPoolStrategy(min_size=low, max_size=high, max_tasks_in_flight_per_actor=PARTS_IN_FLIGHT),
        num_cpus=options.actor_cpus,
        num_gpus=options.actor_gpus or None,
    )


def _with_timeout(cluster: Cluster, rows: Any, note: Note) -> Iterator[PartResult]:
    """Yield the results as they arrive. A thread waits for Ray, so that Ctrl-C is noticed at once."""
    results: queue.Queue[Any] = queue.Queue(2)
    stopping = threading.Event()

    def put(item: object) -> None:
        while not stopping.is_set():
            with suppress(queue.Full):
                results.put(item, timeout=POLL_SECONDS)
                return

    def iterate() -> None:
        try:
            for batch in rows.iter_batches(batch_size=None, prefetch_batches=0):
                for result in batch["result"]:
                    put(unpack(result))
                    if stopping.is_set():
                        return
            put(None)
        except BaseException as error:
            put(error)

    threading.Thread(target=iterate, name="ray", daemon=True).start()
    try:
        last = noted = time.monotonic()
        while True:
            try:
                item = results.get(timeout=POLL_SECONDS)
            except queue.Empty:
                now = time.monotonic()
                if now - last > cluster.options.stall_timeout:
                    reason = f"nothing has finished for {now - last:.0f} s ({_describe(cluster)})"
                    raise InputError(f"--ray: {reason}; see `ray status`, or give a longer --stall-timeout") from None
                if now - max(last, noted) > STALL_SECONDS:
                    noted = now
                    note(f"nothing has finished for {now - last:.0f} s: {_describe(cluster)}")
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise _explain(item)
            last = time.monotonic()
            yield item
    finally:
        stopping.set()


def _describe(cluster: Cluster) -> str:
    """The actors that were requested and the resources that are in use, in one line."""
    available, total = cluster.ray.available_resources(), cluster.ray.cluster_resources()
    parts = [
        f"{total.get(kind, 0) - available.get(kind, 0):g} of {total[kind]:g} {kind}s are in use"
        for kind in ("CPU", "GPU")
        if kind in total
    ]
    alive = sum(node["Alive"] for node in cluster.ray.nodes())
    actors = cluster.options.describe_actors(*cluster.actors)
    return f"{actors} were requested, {', '.join(parts)}, {alive} nodes are alive"


def _explain(error: BaseException) -> BaseException:
    """Ray's error as one that is reported in a line. Its traceback is hundreds of lines long."""
    cause = getattr(error, "cause", None) or error.__cause__ or error
    if isinstance(cause, InputError):
        return cause
    name = type(cause).__name__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    text = one_line(lines[-1] if lines else "", 300)
    return InputError(f"--ray: {name}: {text}; run it again with --verbose, or see the logs in /tmp/ray/session_latest")
