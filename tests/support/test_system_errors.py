"""Errors of the operating system: one line names the file, the cause and the remedy."""

import errno
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from inception_v3.errors import InputError
from inception_v3.support.files import path_for_library, write_error
from inception_v3.support.system_errors import (
    check_readable,
    describe_failure,
    file_status,
    read_reason,
    temporary_folder,
    write_reason,
)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "no permission to read it; allow it with chmod u+r"),
        (errno.EMFILE, "too many open files; allow more with `ulimit -n 4096`"),
        (errno.ENAMETOOLONG, "the name is too long"),
        (errno.ESTALE, "the network file system does not know it any more"),
        (errno.EIO, "input/output error; check the disk"),
        (errno.ETIMEDOUT, "cannot be read (Connection timed out); check the file"),
    ],
)
def test_each_error_of_reading_has_its_cause_and_remedy(number: int, words: str, tmp_path: Path) -> None:
    (file := tmp_path / "file").touch()
    assert read_reason(file, OSError(number, os.strerror(number))).startswith(words)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only; choose another folder"),
        (errno.EMFILE, "too many open files"),
        (errno.EFBIG, "larger than a file may be on this file system"),
        (errno.EACCES, "cannot be written (Permission denied); choose another folder"),
    ],
)
def test_each_error_of_writing_has_its_cause_and_remedy(number: int, words: str) -> None:
    if resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY or number != errno.EFBIG:
        assert write_reason(OSError(number, os.strerror(number))).startswith(words)


def test_an_error_about_another_file_names_that_file(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, "full", "/elsewhere/file")
    assert str(write_error(tmp_path / "out", error)).startswith("/elsewhere/file: the disk is full")
    error = OSError(errno.ENOSPC, "full", str(tmp_path / ".inception-v3.x" / "out"))
    assert str(write_error(tmp_path / "out", error)).startswith(f"{tmp_path}/out: the disk is full")


def test_a_full_folder_for_temporary_files_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(InputError) as error, temporary_folder():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    remedy = "free some space there, or set TMPDIR to another folder"
    assert str(error.value) == f"{tmp_path} (for temporary files): the disk is full; {remedy}"


@pytest.mark.usefixtures("unprivileged")
def test_a_missing_file_is_none_and_one_that_cannot_be_reached_is_refused(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "locked").chmod(0)
    assert file_status(tmp_path / "none") is None
    assert file_status(tmp_path / "file" / "x") is None
    assert file_status(tmp_path / "locked") is not None
    for ask in (file_status, check_readable):
        with pytest.raises(InputError, match=f"no permission to enter the folder {tmp_path}/locked"):
            ask(tmp_path / "locked" / "x")


@pytest.mark.usefixtures("unprivileged")
def test_a_file_for_a_library_is_refused_by_its_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "file").chmod(0)
    with pytest.raises(PermissionError), path_for_library(tmp_path / "file"):
        pass


def error_of(code: str, *arguments: str) -> Exception:
    try:
        exec(compile(code, *arguments, "exec") if arguments else code, {})
    except Exception as error:
        return error
    raise AssertionError("no error")


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        (
            "libGL.so.1: cannot open shared object file: No such file or directory",
            "package of your system that has lib",
        ),
        ("libx.so: failed to map segment from shared object", "raise the limit (ulimit -v)"),
        ("undefined symbol: x", "install it again: pip install --force-reinstall cv2"),
    ],
)
def test_a_library_that_the_system_cannot_load_is_one_line(reason: str, remedy: str) -> None:
    error = error_of(f"raise ImportError({reason!r})", "/venv/lib/python3/site-packages/cv2/__init__.py")
    line = describe_failure(error)
    assert line is not None
    assert line.startswith(f"cv2: installed, but the system cannot load it ({reason})")
    assert remedy in line


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("raise MemoryError", "not enough memory; use a smaller --batch-size"),
        ("raise RuntimeError('DefaultCPUAllocator: can\\'t allocate memory: you tried')", "not enough memory"),
        ("raise RuntimeError('std::bad_alloc')", "not enough memory"),
        ("raise RuntimeError('can\\'t start new thread')", "the system starts no more threads"),
        ("raise OSError(24, 'Too many open files')", "too many open files; allow more"),
        ("raise OSError(5, 'x', '/data/x')", "/data/x: input/output error"),
    ],
)
def test_an_error_of_the_system_anywhere_is_one_line(code: str, line: str) -> None:
    described = describe_failure(error_of(code))
    assert described is not None
    assert described.startswith(line)


def test_an_error_of_this_program_is_no_error_of_the_system() -> None:
    assert describe_failure(ValueError("x")) is None
    assert describe_failure(error_of("from inception_v3.errors import nothing")) is None
    assert describe_failure(error_of("import no_such_module")) is None


@pytest.mark.parametrize("kilobytes", [150_000, 400_000])
def test_a_command_with_too_little_address_space_is_one_line(kilobytes: int, tmp_path: Path) -> None:
    command = f"ulimit -v {kilobytes}; exec {sys.executable} -m inception_v3 describe"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    if done.returncode >= 0 and done.returncode < 128:  # a library may abort
        assert "Traceback" not in done.stderr
        assert done.returncode == 0 or "error: " in done.stderr
