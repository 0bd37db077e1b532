"""Worker processes: how batches reach the main process, and what happens if a worker cannot work."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from generated_images import skies
from inception_v3.data import Batch, LabelledImages, batches, workers
from inception_v3.data.workers import WorkerError
from inception_v3.images.preprocessing import Preprocessing

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = LabelledImages(
    ["a", "b"], [Image.new("RGB", (80, 80), (n, 0, 0)) for n in range(12)], [0, 1] * 6, [str(n) for n in range(12)]
)


def load(count: int = 2, images: LabelledImages = IMAGES, **options: object) -> list[Batch]:
    return list(batches(images, Preprocessing((75, 75)), 4, workers=count, **options))  # type: ignore[arg-type]


def assert_equal(received: list[Batch]) -> None:
    for batch, expected in zip(received, load(0), strict=True):
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.labels, expected.labels)
        assert torch.equal(batch.indices, expected.indices)


@pytest.fixture(autouse=True)
def no_warning_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_warned", [])


def small_shared_memory(path: object) -> SimpleNamespace:
    return SimpleNamespace(f_bavail=100, f_frsize=1000)


def test_with_little_shared_memory_the_same_batches_arrive_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "statvfs", small_shared_memory)
    monkeypatch.setattr(Tensor, "share_memory_", lambda tensor: os.abort())  # shared memory is not used
    with pytest.warns(UserWarning, match=r"^/dev/shm has 0\.1 MB free") as warned:
        received = load(), load(1)
    assert_equal(received[0])
    assert_equal(received[1])
    assert len(warned) == 1
    assert str(warned[0].message).endswith("to enlarge it in a container: docker run --shm-size=65m")


def test_shared_memory_that_another_program_fills_later_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensor: Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(Tensor, "share_memory_", full)
    with warnings.catch_warnings(action="error"):
        assert_equal(load())


def test_without_semaphores_images_are_decoded_in_the_main_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(multiprocessing, "Semaphore", full)
    with pytest.warns(UserWarning, match=r"worker processes cannot start \(No space left on device\)") as warned:
        assert_equal(load())
    assert len(warned) == 1


@pytest.mark.parametrize("number", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGBUS])
def test_a_worker_that_is_killed_ends_the_iteration_in_one_line(number: int, capfd: pytest.CaptureFixture[str]) -> None:
    """For example for lack of memory."""
    main = os.getpid()

    def kill_this_worker(image: Image.Image) -> Tensor:
        if image.getpixel((0, 0)) == (9, 0, 0) and os.getpid() != main:
            os.kill(os.getpid(), number)
        return torch.zeros(3, 75, 75, dtype=torch.uint8)

    start = time.monotonic()
    with pytest.raises(WorkerError) as raised:
        load(transform=kill_this_worker)
    assert time.monotonic() < start + 10
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith("; free some memory, or give fewer --workers")
    assert capfd.readouterr().err == ""


def test_an_error_in_a_worker_is_one_line_with_its_reason() -> None:
    def too_large(image: Image.Image) -> Tensor:
        raise MemoryError("no room for 4 GB")

    with pytest.raises(WorkerError, match=r"^a worker process failed \(MemoryError: no room for 4 GB\); [^\n]*$"):
        load(transform=too_large)


def test_processes_that_cannot_be_started_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(WorkerError, match=r"Resource temporarily unavailable.*fewer --workers"):
        load()


def test_a_ctrl_c_while_a_batch_is_awaited_acts_at_once() -> None:
    def hang(image: Image.Image) -> Tensor:
        time.sleep(60)
        raise AssertionError

    def press(*_: object) -> None:
        raise KeyboardInterrupt

    loader = batches(IMAGES, Preprocessing((75, 75)), 4, workers=1, transform=hang)
    previous = signal.signal(signal.SIGALRM, press)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(loader)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert time.monotonic() < start + 3
    for child in multiprocessing.active_children():
        child.kill()  # else it is waited for


@pytest.mark.slow
def test_workers_need_no_space_in_a_full_shared_memory(tmp_path: Path) -> None:
    """As in a container. Needs root: the process gets a /dev/shm of its own with 1 MB."""
    skies(tmp_path / "data", 40)
    mount = "mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "
    train = f"{sys.executable} -m inception_v3 train data --out run --workers 2 --epochs 1 --depth-multiplier 0.1"
    small = " --image-size 150 --batch-size 16"
    if subprocess.run(["unshare", "-m", "sh", "-c", f"{mount} true"], capture_output=True).returncode:
        pytest.skip("may not mount")
    command = ["unshare", "-m", "sh", "-c", mount + train + small]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("docker run --shm-size") == 1
    assert "Traceback" not in done.stderr


def test_workers_do_not_start_without_space_for_all_their_semaphores(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    space = iter(range(13))  # for 13 semaphores; two workers need 14

    def semaphore() -> int:
        for page in space:
            return page
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("multiprocessing.Semaphore", semaphore)
    assert not workers.can_start_workers(2)
    assert "worker processes cannot start (No space left on device): images are decoded in this process" in str(
        recwarn.pop().message
    )


def test_a_worker_without_space_is_reported_with_the_folder() -> None:
    with (
        pytest.raises(workers.WorkerError, match=r"failed \(.*No space left.*\); free some space in /dev/shm, or give"),
        workers.explain_worker_failure(),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


class Unsendable:
    """A value that multiprocessing cannot send, as a tensor when too many files are open."""

    def __reduce__(self) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_worker_that_cannot_send_a_batch_ends_the_loop_without_a_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    loader = DataLoader([0, 1], num_workers=1, collate_fn=lambda _: Unsendable(), worker_init_fn=workers.start_worker)
    with pytest.raises(WorkerError, match="exited unexpectedly"), workers.starting_workers():
        next(workers.explain_each(iter(loader)))
    assert capfd.readouterr().err == ""


def test_too_many_open_files_of_workers_are_reported_with_the_remedy() -> None:
    remedy = r"failed: too many open files; allow more with `ulimit -n"
    with pytest.raises(WorkerError, match=remedy), workers.explain_worker_failure():
        raise RuntimeError("Too many open files. Communication with the workers is no longer possible.")
