"""Atomic writes, locks on files, checksums, and the cache folder.

Every file that this package writes goes through `atomic_write`, except files that grow line by line (the results of
`predict`), downloads, which can be resumed, databases, and the files of other packages' trackers.
"""

import atexit
import errno
import hashlib
import os
import platform
import re
import shutil
import stat
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import IO

from inception_v3.errors import InputError
from inception_v3.support.locks import exclusive_lock
from inception_v3.support.system_errors import file_status, write_reason
from inception_v3.support.text import is_utf8, printable, to_utf8

STAGING = ".inception-v3."  # names of staging folders start with this, followed by the name of the machine
READER_TIMEOUT = 10.0  # seconds
MIN_FREE = 64 * 10**6  # bytes, for files in the cache
DAY = 24 * 3600.0  # seconds
MAX_ATTEMPTS = 20  # to create a folder that other processes delete while it is empty
# Files that may be written into a folder of inputs again.
REPORT_SUFFIXES = (".csv", ".htm", ".html", ".jsonl", ".npz", ".parquet")
_temporary_folders: list[Path] = []  # at most one, instead of the cache


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path, and move the file written there to `path` when the block ends without an error.

    The temporary file is in a folder beside `path`. Missing folders are created. After an error, an interrupt or a kill
    the previous file is still complete. The result depends on what `path` is:

    - A regular file is replaced. It keeps its permissions, and its owner if this process may set it; a new file gets
      the permissions of the umask. Other hard links to the file keep the old content. A file without write permission
      is refused.
    - A symbolic link stays, and the file that it points to is replaced, or created in an existing folder.
    - A device, a FIFO or an open descriptor of this process, such as /dev/stdout or /dev/fd/3, is written to after the
      temporary file is complete. A FIFO that no program reads within READER_TIMEOUT seconds is refused.
    - A folder or a socket is refused.

    Raises:
        InputError: refused as above, the disk is full, or the folder cannot be written.
    """
    with write_errors(path):
        target = write_target(path)
        with staging_folder(target.parent) as folder:
            temporary = folder / (path.name if is_utf8(path.name) else f"file{to_utf8(path.suffix)}")
            temporary.touch()
            mode = temporary.stat().st_mode  # some libraries create files that only the owner can read
            yield temporary
            if is_stream(path):
                with temporary.open("rb") as file, _open_stream(path) as stream:
                    shutil.copyfileobj(file, stream, 1 << 20)
                return
            with suppress(FileNotFoundError):
                old = target.stat()
                mode = old.st_mode
                with suppress(PermissionError):
                    os.chown(temporary, old.st_uid, old.st_gid)
            temporary.chmod(stat.S_IMODE(mode))
            replace(temporary, target)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, as `atomic_write` does. Raises InputError."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, "utf-8")


def write_all(file: FileIO, data: bytes | memoryview) -> None:
    """Write all bytes to an unbuffered file. On a nearly full disk, `write` takes only a part. Raises OSError."""
    unwritten = memoryview(data).cast("B")
    while unwritten:
        unwritten = unwritten[file.write(unwritten) :]


@contextmanager
def path_for_library(path: Path) -> Iterator[str]:
    """Yield the path of a file for a library that maps it into memory, such as safetensors.

    These libraries take no path with bytes outside UTF-8, and report each error as a missing file. The file is opened
    here first. Raises OSError, with the reason.
    """
    with path.open("rb") as file:
        yield str(path) if is_utf8(str(path)) else f"/dev/fd/{file.fileno()}"


def replace(source: Path, target: Path) -> None:
    """Rename a complete file, so that even a power failure leaves the old or the new file. Raises OSError."""
    with source.open("rb") as written:
        os.fsync(written.fileno())
    source.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    with suppress(OSError):  # some file systems cannot synchronise a folder
        os.fsync(folder)
    os.close(folder)


@contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """Yield a new empty folder for incomplete files, inside `parent`, and delete it at the end. Its path is in UTF-8.

    `parent` is created, and deleted again if nothing is in it at the end.

    Staging folders that killed processes left in `parent` are deleted: those of this machine at once, those of other
    machines after a day, because locks may not reach from one machine to another. A folder in use is locked, and stays.
    Raises OSError.
    """
    own = f"{STAGING}{platform.node()}."
    with ExitStack() as stack:
        left_over: list[Path] = []
        with suppress(FileNotFoundError):  # another process has deleted `parent` meanwhile, because it was empty
            left_over = [*parent.glob(f"{STAGING}*.partial")]
        for left in left_over:
            with suppress(OSError):  # another process deletes it, or it belongs to another user
                if left.name.startswith(own) or time.time() - left.stat().st_mtime > DAY:
                    _remove_if_unlocked(left)
        folder, attempts = None, 0
        while folder is None:
            attempts += 1
            try:
                stack.enter_context(_created(parent))
                new = Path(tempfile.mkdtemp(".partial", own, parent))
            except FileNotFoundError:
                if attempts == MAX_ATTEMPTS:  # a file system without new folders, such as /proc
                    raise
                continue  # another process has deleted `parent`, because it was empty
            with suppress(FileNotFoundError):  # another process has found it before it was locked, and deleted it
                stack.enter_context(exclusive_lock(new / ".lock", on_wait=lambda: None))
                folder = new
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        (files := folder / "files").mkdir()
        if not is_utf8(str(files)):
            descriptor = os.open(files, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            files = Path("/proc", str(os.getpid()), "fd", str(descriptor))
        yield files


@contextmanager
def _created(folder: Path) -> Iterator[None]:
    """Create a folder and its missing parents. At the end, those of them that are empty are deleted. Raises OSError."""
    with ExitStack() as stack:
        for missing in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
            missing.mkdir(exist_ok=True)
            stack.callback(_remove_if_empty, missing)
        yield


def _remove_if_unlocked(folder: Path) -> None:
    with exclusive_lock(folder / ".lock") as locked:
        if locked:
            shutil.rmtree(folder)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def write_target(path: Path) -> Path:
    """The file that a write to `path` replaces. For a device, a file in the folder for temporary files.

    Raises InputError, as `atomic_write`, if nothing can be written there.
    """
    target = Path(os.path.realpath(path))
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink() and not target.parent.is_dir():
            raise InputError(
                f"{path}: is a symbolic link into the missing folder {target.parent}; create it, or delete the link",
                exit_status=2,
            ) from None
        return target
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: is a folder; name a file in it", exit_status=2)
    if stat.S_ISSOCK(mode):
        raise InputError(f"{path}: is a socket, which cannot be written; name a file", exit_status=2)
    if _descriptor(path) is None and not os.access(path, os.W_OK):
        raise InputError(f"{path}: is read-only; choose another name, or allow writing: chmod u+w")
    return Path(tempfile.gettempdir(), path.name) if is_stream(path) else target


def _descriptor(path: Path) -> int | None:
    """The descriptor of this process that `path` stands for: 1 for /dev/stdout, 3 for /dev/fd/3. None: a file."""
    if (match := re.fullmatch(r"/(?:dev|proc/self)/fd/([0-9]{1,9})", os.path.normpath(path))) and path.exists():
        return int(match[1])
    for number in (1, 2):
        with suppress(OSError):  # no such file, or the descriptor is closed
            if os.path.samestat(path.stat(), os.fstat(number)):
                return number
    return None


def is_stdout(path: Path) -> bool:
    """Whether `path` is this process's standard output, such as /dev/stdout."""
    return _descriptor(path) == 1


def is_stream(path: Path) -> bool:
    """Whether `path` is a device, a FIFO or an open descriptor, which must not be replaced by a file."""
    return path.exists() and ((not path.is_file() and not path.is_dir()) or _descriptor(path) is not None)


def _open_stream(path: Path) -> IO[bytes]:
    if (number := _descriptor(path)) is not None:
        if sys.stdout is not None:
            sys.stdout.flush()
        # Opening /dev/stdout again would write to the start of a redirected file.
        return os.fdopen(os.dup(number), "wb")
    return _open_fifo(path) if path.is_fifo() else path.open("wb")


def _open_fifo(path: Path) -> IO[bytes]:
    """Open a FIFO to write. Raises InputError: no program has opened it to read within READER_TIMEOUT."""
    until = time.monotonic() + READER_TIMEOUT
    while True:
        try:
            number = os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # without O_NONBLOCK, it would wait without a limit
            os.set_blocking(number, True)
            return os.fdopen(number, "wb")
        except OSError as error:
            if error.errno != errno.ENXIO:  # no reader
                raise
            if time.monotonic() > until:
                raise InputError(f"{path}: a FIFO that no program reads; start its reader first") from error
            time.sleep(0.05)


@contextmanager
def file_lock(path: Path, on_wait: Callable[[], None] | None = lambda: None) -> Iterator[bool]:
    """Hold an exclusive lock on `path`, which need not exist. See locks.exclusive_lock.

    Its folder is created, and deleted again if nothing is in it at the end.

    `on_wait` is called once if another process holds the lock, before waiting. None: do not wait, but yield False.
    Raises InputError: the folder cannot be written.
    """
    real = Path(os.path.realpath(path))
    with ExitStack() as stack:
        with write_errors(path):
            stack.enter_context(_created(real.parent))
            locked = stack.enter_context(exclusive_lock(real.with_name(f".{real.name}.lock"), on_wait))
        yield locked


def user_cache() -> Path | None:
    """This project's cache folder, in $XDG_CACHE_HOME or ~/.cache, which need not exist; None without a home folder."""
    with suppress(RuntimeError):
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "inception-v3")
    return None


def cache_folder(*parts: str) -> Path:
    """Return this project's cache folder, or the folder `parts` below it.

    If there is no home folder, it is a temporary folder of this process, with a warning.
    """
    return (user_cache() or _temporary_cache("no home folder for the cache")).joinpath(*parts)


def cache_file(file: Path) -> Path:
    """Return a file of the cache, or if it is missing and cannot be written, a file in a temporary folder instead.

    So also if fewer than MIN_FREE bytes are free in the cache, and more in the folder for temporary files. The
    temporary folder belongs to this process, and there is a warning. For files without which a command cannot run.
    """
    if not file.exists():
        try:
            check_folder(file.parent)
            free = _free_bytes(file.parent)
            if free < min(MIN_FREE, _free_bytes(Path(tempfile.gettempdir()))):
                raise InputError(f"{file.parent}: only {free / 1e6:,.1f} MB are free")
        except InputError as error:
            reason = str(error).partition(";")[0]
            return _temporary_cache(f"the cache is not used: {reason}") / file.parent.name / file.name
    return file


def _free_bytes(folder: Path) -> int:
    """The free bytes on the disk of a folder that need not exist, and that other processes may delete meanwhile."""
    try:
        return shutil.disk_usage(folder).free
    except FileNotFoundError:
        return _free_bytes(folder.parent)


def _temporary_cache(reason: str) -> Path:
    """A folder that is deleted when this process ends. Warns of the first `reason`."""
    if not _temporary_folders:
        _temporary_folders.append(Path(tempfile.mkdtemp(prefix="inception-v3-cache-")))
        atexit.register(shutil.rmtree, _temporary_folders[0], ignore_errors=True)
        warnings.warn(f"{reason}, so cached files are deleted at the end; set XDG_CACHE_HOME", stacklevel=3)
    return _temporary_folders[0]


def check_writable(path: Path, inputs: Iterable[str | Path] = ()) -> None:
    """Raise InputError if `atomic_write` to `path` is certain to fail or to destroy an input. Call it before long work.

    `inputs` are the paths that the command reads; other strings are ignored. `path` must not be one of these files. In
    one of these folders, an existing file is only replaced if its suffix is in REPORT_SUFFIXES.
    """
    with write_errors(path):
        target = write_target(path)
        check_not_input(path, inputs)
        with staging_folder(target.parent):
            pass


def check_outputs(paths: Iterable[Path | None], inputs: Iterable[str | Path] = ()) -> None:
    """Raise InputError if `check_writable` refuses one of the paths, or two of them cannot both be written."""
    inputs, seen = list(inputs), list[Path]()
    for path in filter(None, paths):
        check_writable(path, inputs)
        if is_stream(path):
            continue
        real = Path(os.path.realpath(path))
        if any(real.is_relative_to(other) or other.is_relative_to(real) for other in seen):
            raise InputError(f"{path}: given for two outputs; give each a file of its own", exit_status=2)
        seen.append(real)


def check_suffix(path: Path, suffixes: Sequence[str], written: str) -> None:
    """Raise InputError if a file has none of the suffixes, such as ".png". `written` is what it would hold."""
    if path.suffix.lower() not in suffixes:
        fault = f"{written} is saved as {', '.join(suffixes[:-1])} or {suffixes[-1]}; change the suffix"
        raise InputError(f"{path}: {fault}", exit_status=2)


def check_folder(path: Path) -> None:
    """Raise InputError if no file can be written in the folder `path`, which need not exist. Leaves nothing there."""
    status = file_status(path)
    if status is not None and not stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path}: is not a folder; give the name of a folder", exit_status=2)
    with write_errors(path), staging_folder(Path(os.path.realpath(path))):
        pass


def check_not_input(path: Path, inputs: Iterable[str | Path]) -> None:
    """Raise InputError if writing `path` would destroy one of the `inputs`; see `check_writable`."""
    target = Path(os.path.realpath(path))
    if path.exists() and not is_stream(path) and any(_is_input(target, Path(given)) for given in inputs):
        raise InputError(f"{path}: is an input and would be lost; choose another name", exit_status=2)


def _is_input(file: Path, given: Path) -> bool:
    try:
        in_folder = file.suffix not in REPORT_SUFFIXES and file.is_relative_to(os.path.realpath(given, strict=True))
        return in_folder or file.samefile(given)  # also another hard link
    except (OSError, ValueError):  # not a path
        return False


def checksum(file: Path) -> str:
    """Return the SHA-256 of a model's file. For a TensorFlow checkpoint it covers all its files, in order of name; for
    saved_model.pb also the variables beside it.

    Raises FileNotFoundError: no such file or checkpoint.
    """
    files = [file] if file.exists() and not file.is_dir() else sorted(file.parent.glob(f"{file.name}.*"))
    if file.name == "saved_model.pb":
        files += sorted(file.parent.glob("variables/variables.*"))
    if not files:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
    total = hashlib.sha256()
    for part in files:
        with part.open("rb") as opened:
            hashlib.file_digest(opened, lambda: total)  # updates `total`
    return total.hexdigest()


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an error of the system in this block, which writes `path`, into an InputError of one line."""
    try:
        yield
    except Exception as error:
        explained = write_error(path, error)
        if explained is error:
            raise
        raise explained from error


def write_error(path: Path, error: Exception) -> Exception:
    """Return the error to raise instead of `error`, which occurred while `path` was written.

    A system error becomes an InputError of one line. Any other error is returned as it is.
    """
    # safetensors wraps the system's error in its own, with the error number in the text.
    if not isinstance(error, OSError) and (number := re.search(r"os error (\d+)", str(error))):
        error = OSError(int(number[1]), os.strerror(int(number[1])))
    if not isinstance(error, OSError):
        return error
    name = path if error.filename is None or _is_beside(error.filename, path) else os.fsdecode(error.filename)
    return InputError(f"{printable(name)}: {write_reason(error)}")


def _is_beside(file: str | bytes, path: Path) -> bool:
    """Whether an error about `file` is one about writing `path`: it is in the same folder, or a folder above."""
    parent = os.path.realpath(path.parent)
    real = os.path.realpath(os.fsdecode(file))
    return Path(real).is_relative_to(parent) or Path(parent).is_relative_to(real)
