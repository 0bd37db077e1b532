"""The CPU, its cores for this process, and how its C library treats freed memory. Needs no PyTorch."""

import ctypes
import os
import platform
from contextlib import suppress
from functools import cache
from pathlib import Path

_limit: int | None = None


def limit_cores(count: int) -> None:
    """Let this process use at most that many cores, which a scheduler has given to it."""
    global _limit
    _limit = count


def core_count() -> int:
    """Return the number of CPU cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _limit or cores)


@cache
def processor_name() -> str:
    """The processor's name, such as "AMD EPYC"."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_name() -> str:
    """The processor's name and the number of cores that this process may use, such as "AMD EPYC, 2 cores"."""
    return f"{processor_name()}, {core_count()} cores"


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next training step. Other C libraries stay as they are.

    By default glibc returns large blocks to the system at once, which then clears the same pages again in every step.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    with suppress(OSError, TypeError, AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)
