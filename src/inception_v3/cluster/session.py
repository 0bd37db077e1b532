"""Start Ray on this machine, or join a cluster, and check at once what would fail or hang later."""

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from inception_v3.cluster.options import LOCAL, ClusterOptions
from inception_v3.errors import InputError
from inception_v3.support.cpu import core_count
from inception_v3.support.packages import require_packages
from inception_v3.support.signals import STOP_SIGNALS
from inception_v3.support.streams import discard_stderr
from inception_v3.support.text import one_line
from inception_v3.support.verbosity import verbosity

ANSWER_SECONDS, CONNECT_SECONDS = 2.0, 7.0  # for a machine, and for a cluster, to answer
OBJECT_STORE_BYTES = 256 * 2**20  # on this machine: it holds lists of files and finished parts, never pixels
# Read by Ray when it is imported.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # `uv run` would build an environment for every worker
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # after the end, a thread of Ray Data would start a cluster of its own
    "RAY_worker_niceness": "0",  # Ray's default, 15, would leave the CPU to any other program
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_gcs_rpc_server_connect_timeout_s": str(int(CONNECT_SECONDS)),
    "RAY_gcs_rpc_server_reconnect_timeout_s": "30",
    # A full disk is reported by whoever writes; Ray would otherwise warn on every node.
    "RAY_local_fs_capacity_threshold": "1",
}


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process has joined.

    `ray` is the module; `actors` are the least and the largest number of processes with an engine.
    """

    ray: Any
    options: ClusterOptions
    actors: tuple[int, int]


@contextmanager
def join_cluster(options: ClusterOptions, note: Callable[[str], None]) -> Iterator[Cluster]:
    """Start Ray or join a cluster inside this block. `note` is called with each line about a failed process.

    Call it in the main thread: Ray's processes end with the thread that has started them, and its handlers of signals
    can be replaced only there.

    Raises InputError: Ray is not installed, the address does not answer, its versions differ from those here, or it has
    fewer CPUs or GPUs than the actors need.
    """
    require_packages(("ray",), "--ray", "ray")
    if options.address != LOCAL:
        _check_answers(options.address)
    else:
        # Else Ray would write a token to the home folder, which may not be writable.
        os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    os.environ.update(ENVIRONMENT)
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    import ray

    silence(logging.getLogger("ray"))
    _shorten_errors(note)
    try:
        with _discard_native_messages():
            _init(ray, options)
            for number, handler in handlers.items():  # Ray sets its own for SIGTERM
                with suppress(ValueError, TypeError):
                    signal.signal(number, handler)
            yield Cluster(ray, options, _count_actors(ray, options))
    finally:
        ray.shutdown()


def _discard_native_messages() -> AbstractContextManager[None]:
    """Discard what Ray's C++ code prints, except with --verbose, or if sys.stderr writes to the same descriptor."""
    is_kept = verbosity.verbose or sys.stderr is None or sys.stderr.fileno() == 2
    return nullcontext() if is_kept else discard_stderr()


def _shorten_errors(note: Callable[[str], None]) -> None:
    """Pass what Ray's nodes report of failed processes to `note`, in one line each.

    Ray prints hundreds of characters of each to standard output, where a command prints its results. It has no option
    for that, so the function that prints them is replaced.
    """
    from ray._private import worker

    def print_short(data: dict[str, Any], *_: Any, **__: Any) -> None:
        for line in data["lines"]:
            if "worker died" in line or "OOM" in line or "memory" in line:
                why = "for lack of memory" if "low on memory" in line else "unexpectedly"
                note(f"Ray: an actor has ended {why}; its part is computed again")

    if not verbosity.verbose:
        worker.print_to_stdstream = print_short


def silence(logger: logging.Logger) -> None:
    """Print none of Ray's messages, which are for its developers; with --verbose, its warnings."""
    logger.setLevel(logging.WARNING if verbosity.verbose else logging.CRITICAL + 1)


def _check_answers(address: str) -> None:
    if "://" in address:
        fault = "Ray Client is not supported; run the command on a machine of the cluster with HOST:PORT or auto"
        raise InputError(f"--ray {address}: {fault}", exit_status=2)
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"--ray {address}: give local, auto, or HOST:PORT of a cluster's head node", exit_status=2)
    fault = "no cluster answers"
    remedy = "check the address, or start one with `ray start --head`"
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise InputError(f"--ray {address}: {fault} ({reason}); {remedy}") from error
    # In a process of its own, because `ray.init` waits without a limit for a server that accepts and never answers.
    # `ray health-check` does the same, after an import of seconds.
    command = [sys.executable, "-c", "import ray, sys; ray._raylet.GcsClient(address=sys.argv[1])", address]
    try:
        subprocess.run(command, timeout=CONNECT_SECONDS, capture_output=True, check=False)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"--ray {address}: {fault} in {CONNECT_SECONDS:.0f} s; {remedy}") from error


def _init(ray: Any, options: ClusterOptions) -> None:
    settings: dict[str, Any] = {"address": options.address}
    if options.address == LOCAL:
        settings |= {
            "num_cpus": core_count(),
            "include_dashboard": options.dashboard,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    try:
        ray.init(**settings, configure_logging=False, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:  # Ray raises Exception itself if its processes do not start in time
        reason = one_line(error, 300)
        if type(error).__name__ == "AuthenticationError":
            remedy = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the token of the cluster"
            raise InputError(f"--ray {options.address}: the cluster wants another token; {remedy}") from error
        if "ersion mismatch" in reason:
            here = f"Python {sys.version.split()[0]} and Ray {ray.__version__} here"
            raise InputError(f"--ray {options.address}: {reason} ({here}); install the same versions") from error
        raise InputError(f"--ray {options.address}: cannot join it: {reason}; check `ray status` there") from error


def _count_actors(ray: Any, options: ClusterOptions) -> tuple[int, int]:
    """Raises InputError if the least number of actors does not fit, because they would wait forever."""
    resources = ray.cluster_resources()
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    fitting = int(cpus // options.actor_cpus)
    if options.actor_gpus:
        fitting = min(fitting, int(gpus // options.actor_gpus))
    if options.actors is None and fitting:
        return fitting, fitting
    low, high = options.actors or (1, 1)
    if low > fitting:
        needs = options.describe_actors(low, low)
        has = f"{cpus:g} CPUs and {gpus:g} GPUs"
        raise InputError(
            f"--actors: {needs} do not fit into this cluster, which has {has}; give at most {max(fitting, 1)}",
            exit_status=2,
        )
    return low, high
