"""Files are replaced as a whole, devices and links are kept, locks end with their process."""

import errno
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from inception_v3.errors import InputError
from inception_v3.support import files, locks
from inception_v3.support.files import atomic_write, check_writable, file_lock
from inception_v3.support.system_errors import describe_failure


def write(path: Path, text: str = "new") -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text)


def refused(path: Path, status: int = 2) -> str:
    """The message with which a write to `path`, and the check before it, are refused."""
    with pytest.raises(InputError) as check:
        check_writable(path)
    with pytest.raises(InputError) as error:
        write(path)
    assert (str(check.value), error.value.exit_status) == (str(error.value), status)
    return str(error.value)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ----------------------------------------------------------------------------------------------- kinds of files


def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for mode in (0o600, 0o644, 0o777):
        path.write_text("old")
        path.chmod(mode)
        write(path)
        assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", mode)


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_new_file_has_the_permissions_of_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write(tmp_path / "file")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask


def test_missing_folders_are_created_only_for_a_complete_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    with pytest.raises(RuntimeError), atomic_write(path):
        raise RuntimeError
    check_writable(path)
    assert names(tmp_path) == []
    write(path)
    assert path.read_text() == "new"


def test_a_symbolic_link_stays_and_the_file_behind_it_is_replaced(tmp_path: Path) -> None:
    (folder := tmp_path / "folder").mkdir()
    (link := tmp_path / "link").symlink_to("folder/file")
    for text in ("first", "second"):  # a dangling link at first
        write(link, text)
        assert link.is_symlink()
        assert (folder / "file").read_text() == text
    assert names(folder) == ["file"]


def test_a_link_into_a_missing_folder_is_refused(tmp_path: Path) -> None:
    (link := tmp_path / "link").symlink_to("missing/file")
    assert f"is a symbolic link into the missing folder {tmp_path / 'missing'}; create it" in refused(link)
    assert names(tmp_path) == ["link"]


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert "its symbolic links form a circle" in refused(tmp_path / "a", status=1)


def test_another_hard_link_keeps_the_old_content(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "other").hardlink_to(tmp_path / "file")
    write(tmp_path / "file")
    assert (tmp_path / "other").read_text() == "old"


def test_a_fifo_receives_the_complete_file(tmp_path: Path) -> None:
    os.mkfifo(fifo := tmp_path / "fifo")
    check_writable(fifo)
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(fifo.read_text()))
    reader.start()
    write(fifo, "x" * 1_000_000)
    reader.join()
    assert received == ["x" * 1_000_000]
    assert fifo.is_fifo()
    assert names(tmp_path) == ["fifo"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a Linux device")
def test_devices_are_written_to_and_not_replaced() -> None:
    check_writable(Path("/dev/null"))
    write(Path("/dev/null"))
    with pytest.raises(InputError, match=r"^/dev/full: the disk is full; free some space"):
        write(Path("/dev/full"))
    assert Path("/dev/null").is_char_device()
    assert Path("/dev/full").is_char_device()


def test_the_standard_output_is_continued_even_if_it_is_a_file(tmp_path: Path) -> None:
    program = "from inception_v3.support.files import *\nprint('before')\nwrite_text(Path('/dev/stdout'), 'text\\n')\n"
    with (tmp_path / "out").open("w") as out:
        out.write("first\n")
        out.flush()
        subprocess.run([sys.executable, "-c", program + "print('after')"], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "first\nbefore\ntext\nafter\n"
    piped = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True)
    assert piped.stdout == b"before\ntext\n"


def test_folders_and_sockets_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket is limited to about 100 bytes
    assert refused(Path()).endswith(": is a folder; name a file in it")
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket")
        assert "is a socket" in refused(Path("socket"))


def test_a_file_without_write_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path := tmp_path / "file").write_text("old")
    path.chmod(0o444)
    monkeypatch.setattr(os, "access", lambda *_: False)  # which is True for root
    assert "is read-only; choose another name, or allow writing" in refused(path, status=1)
    assert path.read_text() == "old"


# ------------------------------------------------------------------------------------------------------- inputs


def test_an_input_is_not_overwritten(tmp_path: Path) -> None:
    (folder := tmp_path / "images").mkdir()
    for name in ("images/1.jpg", "images/report.html", "model"):
        (tmp_path / name).write_text("old")
    (tmp_path / "link").symlink_to("model")
    (tmp_path / "other").hardlink_to(tmp_path / "model")
    inputs = [tmp_path / "model", str(folder), "digits", "hf:owner/name", "x" * 5000]
    for lost in ("model", "link", "other", "images/1.jpg"):
        with pytest.raises(InputError, match=f"{lost}: is an input and would be lost; choose another name"):
            check_writable(tmp_path / lost, inputs)
    for written in ("images/report.html", "images/new.png", "new"):
        check_writable(tmp_path / written, inputs)


# ----------------------------------------------------------------------------------------------- killed processes

STAGE = """
import sys, time
from pathlib import Path
from inception_v3.support.files import atomic_write
with atomic_write(Path(sys.argv[1])) as temporary:
    temporary.write_text("incomplete")
    print("ready", flush=True)
    time.sleep(60)
"""


def writer(path: Path) -> "subprocess.Popen[str]":
    """A process in the middle of a write to `path`."""
    process = subprocess.Popen([sys.executable, "-c", STAGE, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_the_next_writer_removes_the_files_of_a_killed_process_and_no_others(tmp_path: Path) -> None:
    with writer(tmp_path / "killed") as killed, writer(tmp_path / "alive") as alive:
        killed.kill()
        killed.wait()
        assert len(names(tmp_path)) == 2
        write(tmp_path / "file")
        (left,) = set(names(tmp_path)) - {"file"}
        assert (tmp_path / left / "files" / "alive").read_text() == "incomplete"
        alive.kill()
        alive.wait()
        write(tmp_path / "file")
        assert names(tmp_path) == ["file"]


def test_the_files_of_another_machine_are_removed_after_a_day(tmp_path: Path) -> None:
    (left := tmp_path / ".inception-v3.another-machine.x.partial").mkdir()
    write(tmp_path / "file")
    assert left.exists()
    os.utime(left, (time.time() - 100_000,) * 2)
    write(tmp_path / "file")
    assert names(tmp_path) == ["file"]


def test_many_writers_of_one_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def write_often(name: str) -> None:
        try:
            for number in range(50):
                write(tmp_path / name, str(number))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write_often, args=(name,)) for name in "aabc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert names(tmp_path) == ["a", "b", "c"]


# ------------------------------------------------------------------------------------------------------- locks

HOLD = """
import sys, time
from pathlib import Path
from inception_v3.support.files import file_lock
with file_lock(Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(60)
"""


def holder(path: Path, program: str = HOLD) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_lock_excludes_other_processes_and_ends_with_its_process(tmp_path: Path) -> None:
    path, waits = tmp_path / "file", []
    with holder(path) as process:
        with file_lock(path, on_wait=None) as locked:
            assert not locked
        threading.Timer(0.3, process.kill).start()
        with file_lock(path, on_wait=lambda: waits.append(time.monotonic())):
            assert time.monotonic() > waits[0] + 0.2
    assert names(tmp_path) == [], "the lock file is deleted"


def test_a_lock_excludes_other_threads_and_other_names_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    with file_lock(tmp_path / "file"), file_lock(tmp_path / "link", on_wait=None) as locked:
        assert not locked


def test_a_forked_worker_that_outlives_the_process_does_not_keep_its_lock(tmp_path: Path) -> None:
    program = HOLD.replace("    print", "    import os; os.fork() or (time.sleep(3), os._exit(0))\n    print")
    with holder(tmp_path / "file", program) as process:
        process.kill()
    until, locked = time.monotonic() + 2, False  # the worker lives for 3 s, and may not have run since the fork
    while not locked and time.monotonic() < until:
        with file_lock(tmp_path / "file", on_wait=None) as locked:
            pass
    assert locked


def test_of_many_waiting_processes_one_at_a_time_has_the_lock(tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from inception_v3.support.files import file_lock
for number in range(30):
    with file_lock(Path(sys.argv[1])):
        count = int(Path(sys.argv[1]).read_text())
        Path(sys.argv[1]).write_text(str(count + 1))
"""
    (path := tmp_path / "count").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", program, path]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert path.read_text() == "120"
    assert names(tmp_path) == ["count"]


def test_a_file_system_without_locks_uses_a_lock_in_the_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    (local := tmp_path / "local").mkdir()
    monkeypatch.setattr(locks.tempfile, "gettempdir", lambda: str(local))
    flock = fcntl.flock

    def without_locks(file: "object", operation: int) -> None:
        if Path(file.name).parent != local:  # type: ignore[attr-defined]
            raise OSError(errno.ENOLCK, "No locks available")
        flock(file, operation)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", without_locks)
    with file_lock(tmp_path / "file"), file_lock(tmp_path / "file", on_wait=None) as locked:
        assert not locked
    with file_lock(tmp_path / "file", on_wait=None) as locked:
        assert locked
    write(tmp_path / "file")
    assert names(tmp_path) == ["file", "local"]
    assert names(local) == []


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    """A process's limit of a file acts like a full disk: a part is written, then the system refuses."""
    program = f"""
import resource, signal
from inception_v3.support.files import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_text(Path({str(tmp_path / "file")!r}), "x" * 2000)
"""
    (tmp_path / "file").write_text("old")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "file: larger than 1,000 bytes, the limit of a file (ulimit -f); raise it with" in done.stderr
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


# ------------------------------------------------------------------------------------------------------- cache


def test_a_cache_that_cannot_be_written_is_replaced_by_a_temporary_folder_with_one_line(tmp_path: Path) -> None:
    """A file stands in place of the cache folder; the temporary folder is deleted at the end."""
    program = (
        "from inception_v3.support.files import *\n"
        "for name in 'ab':\n"
        "    file = cache_file(cache_folder('downloads', name) / 'x')\n"
        "    write_text(file, 'text')\n"
        "    print(file, file.read_text())\n"
    )
    (tmp_path / "file").write_text("in the way")
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "file"), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.stdout.count("/a/x text\n"), done.stdout.count("/b/x text\n")) == (1, 1), done.stderr
    assert done.stderr.count("UserWarning: the cache is not used: ") == 1
    assert names(tmp_path) == ["file"]


def test_a_full_cache_is_replaced_by_a_temporary_folder_that_has_more_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    free = {"cache": 10**5, "temporary": 10**4}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        "shutil.disk_usage",
        lambda path: SimpleNamespace(free=free["cache" if Path(path).is_relative_to(tmp_path) else "temporary"]),
    )
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path.parent))
    file = files.cache_folder("archives") / "x.tar"
    assert (files.cache_file(file), len(recwarn)) == (file, 0)
    free["temporary"] = 10**9
    assert not files.cache_file(file).is_relative_to(tmp_path)
    assert "archives: only 0.1 MB are free, so cached files are deleted at the end" in str(recwarn.pop().message)
    free["cache"] = 10**9
    assert files.cache_file(file) == file


def test_a_cache_folder_that_another_process_deletes_meanwhile_is_still_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """Another process deletes the folder that it created, while it is still empty, at any moment."""
    disk_usage, folder = shutil.disk_usage, tmp_path / "cache" / "downloads"

    def delete_then_ask(path: Path) -> object:
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        return disk_usage(path)

    folder.mkdir(parents=True)
    monkeypatch.setattr("shutil.disk_usage", delete_then_ask)
    assert (files.cache_file(folder / "x.tar"), len(recwarn)) == (folder / "x.tar", 0)


def test_a_library_that_cannot_be_loaded_while_a_file_is_written_is_one_line(tmp_path: Path) -> None:
    """The error must not be its own cause, or the search for its first cause would never end."""
    with pytest.raises(ImportError) as error, atomic_write(tmp_path / "file"):
        raise ImportError("undefined symbol: x", name="cv2")
    assert error.value.__cause__ is None
    assert (describe_failure(error.value) or "").startswith("cv2: installed, but the system cannot load it")


def test_a_folder_that_another_process_deletes_while_it_is_listed_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two runs do that check the same missing folder: each creates it, and deletes it while it is empty."""
    listed: list[str] = []

    def vanished(folder: Path, pattern: str) -> list[Path]:
        listed.append(pattern)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))

    monkeypatch.setattr(Path, "glob", vanished)
    files.check_folder(tmp_path / "out.parquet")
    assert listed
    assert not (tmp_path / "out.parquet").exists()
