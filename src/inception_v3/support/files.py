"""Writing files that are either whole or not there; checksums; where caches are."""

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
    """Give a temporary path beside `path` to write to, and put it in the place of `path` when all went well.

    After an error, an interrupt or a kill the file that was there before is still whole.
    Raises InputError where the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())  # some libraries write for the owner alone
        temporary.replace(path)
    except Exception as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):  # not there, or its folder is not
            temporary.unlink()


@contextmanager
def file_lock(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """As long as this holds no other process has `path`, which need not be there yet.

    `waiting` is called where another has it. Raises InputError where the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting()
            lock.acquire()
    except OSError as error:
        raise write_error(path, error) from error
    try:
        yield
    finally:
        lock.release()


def cache_folder(*below: str) -> Path:
    """A folder of ours where caches belong on this system: below $XDG_CACHE_HOME or ~/.cache.

    Raises InputError where there is no home folder.
    """
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise InputError(f"no home folder for the cache ({error}); set XDG_CACHE_HOME", exit_status=2) from error
    return Path(base, "inception-v3", *below)


def check_writable(path: Path) -> None:
    """Raises InputError where `atomic_write` would for sure fail, so that long work need not run first."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        trial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise write_error(path, error) from error


def _umask() -> int:
    """What the user's permissions leave out; the system tells it only in return for a new one."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def checksum(file: Path) -> str:
    """The sha256 of a model's file; of a TensorFlow checkpoint, which is several, of all in the order of names.

    Raises FileNotFoundError: there is neither.
    """
    total = hashlib.sha256()
    parts = [file] if file.exists() and not file.is_dir() else sorted(file.parent.glob(f"{file.name}.*"))
    if not parts:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
    for part in parts:
        with part.open("rb") as opened:
            while block := opened.read(2**20):
                total.update(block)
    return total.hexdigest()


def write_error(path: Path, error: Exception) -> Exception:
    """The error to show for one met while writing `path`: the system's own, told in one line."""
    # safetensors wraps the system's error in one of its own, with the number in the text
    if not isinstance(error, OSError) and (number := re.search(r"os error (\d+)", str(error))):
        error = OSError(int(number[1]), os.strerror(int(number[1])))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"{path}: the disk is full; free some space and run the command again")
    if isinstance(error, OSError):
        return InputError(f"{path}: cannot be written ({error.strerror or error}); choose another folder")
    return error
