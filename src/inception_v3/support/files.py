"""Atomic writes, file locks, checksums, and the cache folder."""

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from inception_v3.errors import InputError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` when the block ends without an error.

    After an error, an interrupt or a kill the previous file is still complete.
    Raises InputError: the disk is full, or the folder cannot be written.
    """
    temporary = _temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0o077)  # the umask can only be read by setting another, so set it and set it back
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # some libraries create files that only the owner can read
        temporary.replace(path)
    except Exception as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):  # the file or its folder does not exist
            temporary.unlink()


@contextmanager
def file_lock(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold an exclusive lock on `path` across processes. The file itself need not exist.

    `on_wait` is called once if another process holds the lock. Raises InputError: the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            on_wait()
            held = lock.acquire()
    except OSError as error:
        raise write_error(path, error) from error
    with held:
        yield


def cache_folder(*parts: str) -> Path:
    """Return this project's cache folder, or the folder `parts` below it: in $XDG_CACHE_HOME or ~/.cache.

    Raises InputError: there is no home folder.
    """
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise InputError(f"no home folder for the cache ({error}); set XDG_CACHE_HOME", exit_status=2) from error
    return Path(base, "inception-v3", *parts)


def check_writable(path: Path) -> None:
    """Raise InputError if `atomic_write` to `path` is certain to fail. Call this before hours of work."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        _temporary_path(path).touch()
        _temporary_path(path).unlink()
    except OSError as error:
        raise write_error(path, error) from error


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def checksum(file: Path) -> str:
    """Return the SHA-256 of a model's file. For a TensorFlow checkpoint it covers all its files, in order of name.

    Raises FileNotFoundError: no such file or checkpoint.
    """
    files = [file] if file.exists() and not file.is_dir() else sorted(file.parent.glob(f"{file.name}.*"))
    if not files:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
    total = hashlib.sha256()
    for part in files:
        with part.open("rb") as opened:
            hashlib.file_digest(opened, lambda: total)  # updates `total`
    return total.hexdigest()


def write_error(path: Path, error: Exception) -> Exception:
    """Return the error to raise instead of `error`, which occurred while `path` was written.

    A system error becomes an InputError of one line. Any other error is returned as it is.
    """
    # safetensors wraps the system's error in its own, with the error number in the text.
    if not isinstance(error, OSError) and (number := re.search(r"os error (\d+)", str(error))):
        error = OSError(int(number[1]), os.strerror(int(number[1])))
    if not isinstance(error, OSError):
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"{path}: the disk is full; free some space and run the command again")
    return InputError(f"{path}: cannot be written ({error.strerror or error}); choose another folder")
