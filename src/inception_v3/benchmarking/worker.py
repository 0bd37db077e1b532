"""A worker process loads one system and times it, turn by turn.

    python -m inception_v3.benchmarking.worker FOLDER SYSTEM PRECISION

It replies with lines of JSON: {"ready": memory} once the system is loaded, the times of a turn for every line on its
standard input, or {"problem": reason}, after which it ends. `Worker` is its handle in the benchmark's process.
"""

import json
import os
import subprocess
import sys
import threading
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from inception_v3.benchmarking.matrix_product import MATRIX_PRODUCT, matrix_products
from inception_v3.benchmarking.systems import SYSTEMS, Candidate, LoadedSystem, Workload
from inception_v3.inference.engines.base import Pixels
from inception_v3.support.text import one_line

LOGITS_FILE = "{} logits.npy"
WARM_UP_BATCHES = 2
MAX_SECONDS = 1800.0  # without a reply, after which a worker hangs and is killed
IMAGES_PER_TURN = 8  # if batches are small; a turn runs at least one batch of each size
BatchTimes = dict[str, list[float]]  # seconds of each batch in a turn, by batch size
Memory = dict[str, float | None]  # peak memory in MB, by batch size

# --------------------------------------------------------------------------------------- in the benchmark's process


class MeasurementError(Exception):
    """A worker could not load its system, or has ended."""


@dataclass
class Worker:
    """The handle of a worker process, and its peak memory."""

    process: "subprocess.Popen[str]"
    log: Path
    memory: Memory = field(default_factory=dict)

    def take_turn(self) -> dict[str, Any]:
        """Let the system run, and return what it measured. Raises MeasurementError."""
        assert self.process.stdin is not None
        with suppress(OSError):  # the process has ended; `receive` finds the reason
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        return self.receive()

    def receive(self) -> dict[str, Any]:
        """Wait for the next reply. Raises MeasurementError if it is a problem, or if the process has ended or hangs."""
        assert self.process.stdout is not None
        timer = threading.Timer(MAX_SECONDS, self.process.kill)
        timer.daemon = True
        timer.start()
        line = self.process.stdout.readline()
        hangs = timer.finished.is_set()
        timer.cancel()
        if hangs:
            raise MeasurementError(f"has not replied for {MAX_SECONDS / 60:.0f} minutes")
        if not line:
            log = self.log.read_text(errors="replace").strip().splitlines()
            raise MeasurementError(
                f"ended with exit status {self.process.wait()}" + (f": {log[-1][:200]}" if log else "")
            )
        reply: dict[str, Any] = json.loads(line)
        if "problem" in reply:
            raise MeasurementError(reply["problem"])
        return reply


@contextmanager
def start_worker(workload: Workload, system: str, precision: str) -> Iterator[Worker]:
    """Start a worker, wait until its system is loaded, and kill it on exit. Raises MeasurementError.

    The process has a session of its own, so that Ctrl-C reaches only the benchmark, which then ends its workers.
    """
    log = workload.folder / f"{system} {precision}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(workload.folder), system, precision],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            # No busy waiting during the turns of other workers. A killed worker leaves its temporary files, which
            # are deleted with the folder of the benchmark.
            env={"OMP_WAIT_POLICY": "passive"} | os.environ | {"TMPDIR": str(workload.folder)},
        )
    worker = Worker(process, log)
    try:
        worker.memory = worker.receive()["ready"]
        yield worker
    finally:
        process.kill()
        process.communicate()


# --------------------------------------------------------------------------------------------- in the worker process


def main() -> None:
    """Load a system, and run it for every line on standard input."""
    folder, system, precision = Path(sys.argv[1]), *sys.argv[2:]
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print to stdout, which must hold only replies

    def reply(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=replies, flush=True)

    try:
        workload = Workload.read(folder)
        memory, take_turn = _prepare(workload, system, precision)
        reply({"ready": memory})
        for _ in sys.stdin:
            reply(take_turn())
    except Exception as error:  # other libraries may raise anything
        reason = one_line(error, 200)
        reply({"problem": reason if hasattr(error, "exit_status") else f"{type(error).__name__}: {reason}"})


def _prepare(workload: Workload, system: str, precision: Any) -> tuple[Memory, Callable[[], dict[str, Any]]]:
    """Load and warm up a system, and write its logits. Returns its peak memory, and the function that takes a turn."""
    if system == MATRIX_PRODUCT:
        measure = matrix_products(workload.device, precision.split(","))
        measure()
        return {}, measure
    candidate = Candidate(SYSTEMS[system], precision)
    loaded = candidate.system.load(workload, workload.folder / candidate.file, precision)
    batches: dict[int, Any] = {}
    memory: Memory = {}
    for size in workload.batch_sizes:  # from the smallest, because memory is the peak so far
        batches[size] = loaded.prepare(_batch(workload.pixels, 0, size))
        for _ in range(WARM_UP_BATCHES):
            loaded.run(batches[size])
        memory[str(size)] = _peak_memory(workload.device)
    largest = workload.batch_sizes[-1]  # for all images: torch.compile might compile again for another size
    starts = range(0, len(workload.pixels), largest)
    parts = [loaded.run(loaded.prepare(_batch(workload.pixels, start, largest))) for start in starts]
    np.save(workload.folder / LOGITS_FILE.format(candidate), np.concatenate(parts)[: len(workload.pixels)])
    return memory, partial(_time_batches, loaded, batches)


def _batch(pixels: Pixels, start: int, size: int) -> Pixels:
    """Take `size` images from index `start` on. After the last image, continue with the first."""
    return np.ascontiguousarray(pixels[np.arange(start, start + size) % len(pixels)])


def _peak_memory(device: str) -> float | None:
    """Peak resident memory in MB, or on a GPU the peak that PyTorch allocated there; None if neither is known."""
    if device != "cpu":
        if "torch" not in sys.modules or not device.startswith("cuda"):
            return None
        import torch

        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would include the memory of the parent process before exec
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _time_batches(loaded: LoadedSystem, batches: dict[int, Any]) -> BatchTimes:
    """Time a turn, smallest batch size first, so that threads and caches are warm for the largest."""
    return {
        str(size): timeit.repeat(partial(loaded.run, images), number=1, repeat=max(1, IMAGES_PER_TURN // size))
        for size, images in batches.items()
    }


if __name__ == "__main__":
    main()
