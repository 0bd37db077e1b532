# The functions of os.path are False where those of pathlib raise errors.
# ruff: noqa: PTH110, PTH112, PTH114, PTH116, PTH118
"""Errors of the operating system in one line: the file, the cause, and the remedy.

On Python 3.11, `Path.exists`, `is_file`, `is_dir` and `glob` raise PermissionError, RuntimeError or OSError for some
paths and are False for others. Paths from outside go through `file_status`, `is_file`, `is_folder`, `list_folder` and
`check_readable` instead, which raise an InputError with the reason.
"""

import errno
import os
import re
import shlex
import stat
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from inception_v3.errors import InputError
from inception_v3.support.text import one_line, printable

OPEN_FILES = "too many open files; allow more with `ulimit -n 4096`, and run the command again"
# The causes that are the same for reading and writing, with their remedies.
_CAUSES = {
    errno.ELOOP: "its symbolic links form a circle; correct the links",
    errno.ENAMETOOLONG: "the name is too long for this file system; shorten it",
    errno.EMFILE: OPEN_FILES,
    errno.ENFILE: OPEN_FILES,
    errno.ENOMEM: "not enough memory; end other programs, or raise the limit (ulimit -v)",
    errno.ESTALE: "the network file system does not know it any more (stale file handle); mount it again",
    errno.EIO: "input/output error; check the disk or the network, and run the command again",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOSPC: "the disk is full; free some space and run the command again",
    errno.EDQUOT: "the disk quota is used up; delete some of your files and run the command again",
}
_NO_MEMORY = re.compile(
    r"can't allocate memory|bad_alloc|[Cc]annot allocate memory|Failed to allocate memory|CUDA out of memory"
)


def read_error(path: str | Path, error: Exception) -> InputError:
    """The error to raise instead of an OSError, or a ValueError about the path, that occurred while reading `path`.

    Its exit status is 2 if the path itself is wrong: a circle of links, a name that is too long, or a null byte.
    """
    is_wrong = not isinstance(error, OSError) or error.errno in (errno.ELOOP, errno.ENAMETOOLONG)
    return InputError(f"{printable(path)}: {read_reason(path, error)}", exit_status=2 if is_wrong else 1)


def why_missing(path: str | Path, otherwise: str) -> str:
    """The reason why there is no such file, if it is more than that the name is wrong; or `otherwise`."""
    try:
        os.stat(path)
    except (OSError, ValueError) as error:
        if os.path.islink(path) or not isinstance(error, FileNotFoundError):
            return read_reason(path, error)
    return otherwise


def read_reason(path: str | Path, error: Exception) -> str:
    """The cause and the remedy of an error while reading `path`, without the name of the file."""
    if not isinstance(error, OSError):  # Python refuses the path itself
        return f"not a path ({printable(error)}); correct it"
    if isinstance(error, IsADirectoryError):
        try:
            os.scandir(path).close()
        except OSError as listing_error:
            error = listing_error
        else:
            return "a folder, not a file; give a file in it"
    if isinstance(error, PermissionError):
        return _permission_reason(path)
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        return f"is a symbolic link to {printable(os.path.realpath(path))}, which does not exist; correct the link"
    if isinstance(error, FileNotFoundError):
        return "there is no such file or folder; check the path"
    if isinstance(error, NotADirectoryError):
        file = next(each for each in (Path(path), *Path(path).parents) if os.path.exists(each))
        return f"{printable(file)} is a file, not a folder; check the path"
    detail = printable(error.strerror or error)
    return _CAUSES.get(error.errno or 0, f"cannot be read ({detail}); check the file")


def write_reason(error: OSError) -> str:
    """The cause and the remedy of an error while writing a file, without the name of the file."""
    if error.errno == errno.EFBIG:
        return _file_size_reason()
    detail = printable(error.strerror or error)
    return _CAUSES.get(error.errno or 0, f"cannot be written ({detail}); choose another folder")


def describe_failure(error: Exception) -> str | None:
    """One line about an error of the system that occurred anywhere: the cause and the remedy. None for other errors.

    The system refuses a file, memory or a thread, or cannot load a library that is installed.
    """
    if (line := _describe_unloadable(error)) is not None:
        return line
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        return "not enough memory; use a smaller --batch-size or fewer --workers, or raise the limit (ulimit -v)"
    if "can't start new thread" in str(error):
        return "the system starts no more threads; raise the limits of processes (ulimit -u) and memory (ulimit -v)"
    if not isinstance(error, OSError):
        return None
    if isinstance(error.filename, str | bytes):
        file = os.fsdecode(error.filename)
        return f"{printable(file)}: {read_reason(file, error)}"
    if isinstance(error, FileNotFoundError) and "temporary" in str(error):
        return str(temporary_file_error(error))
    return _CAUSES.get(error.errno or 0)


def _describe_unloadable(error: Exception) -> str | None:
    """One line about a library that is installed and that the system cannot load; None for other errors."""
    of_loader = isinstance(error, OSError) and error.errno is None and re.search(r"\.so\b|\.dylib|DLL", str(error))
    if isinstance(error, ModuleNotFoundError) or not (of_loader or isinstance(error, ImportError)):
        return None
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    libraries = [match[1] for file in files if (match := re.search(r"site-packages[/\\]([^/\\.]+)", file))]
    library = next((name for name in libraries if name not in ("inception_v3", "typer", "click")), "")
    seen = {id(error)}  # an error that was raised from itself is its own cause
    while isinstance(cause := error.__cause__ or error.__context__, ImportError | OSError) and id(cause) not in seen:
        seen.add(id(cause))
        error = cause  # NumPy wraps the system's reason in a page of advice
    library = library or (getattr(error, "name", None) or "").partition(".")[0]
    if library in ("", "inception_v3"):
        return None
    reason = one_line(error, 200)
    remedy = f"install it again: pip install --force-reinstall {library}"
    if re.search(r"failed to map segment|[Cc]annot allocate memory", reason):
        remedy = "there is too little memory or address space: raise the limit (ulimit -v)"
    elif missing := re.match(r"(\S+): cannot open shared object file", reason):
        remedy = f"install the package of your system that has {missing[1]}"
    return f"{library}: installed, but the system cannot load it ({reason}); {remedy}"


def _permission_reason(path: str | Path) -> str:
    ancestors = [*reversed(Path(path).parents), *reversed(Path(os.path.realpath(path)).parents)]
    closed = next((folder for folder in ancestors if not _may_enter(folder)), None)
    if closed is not None:
        return (
            f"no permission to enter the folder {printable(closed)}; allow it with "
            f"chmod u+x {shlex.quote(printable(closed))}"
        )
    if os.path.isdir(path):
        return "no permission to list this folder; allow it with chmod u+rx"
    return "no permission to read it; allow it with chmod u+r"


def _may_enter(folder: Path) -> bool:
    try:
        os.stat(os.path.join(folder, "."))
    except OSError as error:
        return not isinstance(error, PermissionError)
    return True


def _file_size_reason() -> str:
    with suppress(ImportError):  # Windows has no such limits
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        if limit != resource.RLIM_INFINITY:
            return f"larger than {limit:,} bytes, the limit of a file (ulimit -f); raise it with `ulimit -f unlimited`"
    return "larger than a file may be on this file system; choose a folder on another disk"


# ------------------------------------------------------------------------------------- questions about a path


def file_status(path: str | Path) -> os.stat_result | None:
    """The status of a file or folder, or of what a symbolic link points to; None if there is none.

    Raises InputError: whether there is one cannot be found out, because of a permission, a circle of links, a name
    that is too long, or an error of the disk.
    """
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise read_error(path, error) from error


def is_file(path: str | Path) -> bool:
    """Whether it is a regular file. Raises InputError as `file_status` does."""
    status = file_status(path)
    return status is not None and stat.S_ISREG(status.st_mode)


def is_folder(path: str | Path) -> bool:
    """Whether it is a folder. Raises InputError as `file_status` does."""
    status = file_status(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def list_folder(folder: Path) -> list[Path]:
    """The paths in a folder, sorted. Raises InputError: it cannot be listed."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise read_error(folder, error) from error


def check_readable(path: str | Path) -> None:
    """Raise InputError, with the reason, unless a regular file can be opened, or a folder listed and entered.

    Anything else that exists, such as a FIFO, is not opened.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            Path(path).open("rb").close()
        elif stat.S_ISDIR(mode):
            os.scandir(path).close()
            os.stat(os.path.join(path, "."))  # needs the permission to enter it
    except (OSError, ValueError) as error:
        raise read_error(path, error) from error


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a new folder for temporary files, and delete it at the end. Raises InputError: no space for it."""
    with temporary_file_errors(), tempfile.TemporaryDirectory(prefix="inception-v3-") as name:
        yield Path(name)


@contextmanager
def temporary_file_errors() -> Iterator[None]:
    """Turn an OSError about a file in the folder for temporary files into an InputError that names the folder."""
    try:
        yield
    except OSError as error:
        file = error.filename
        if error.errno is None or (file is not None and not os.fsdecode(file).startswith(tempfile.gettempdir())):
            raise
        raise temporary_file_error(error) from error


def temporary_file_error(error: OSError) -> InputError:
    """The error to raise instead of an OSError about a file in the folder for temporary files."""
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError as missing:  # Python has tried several folders
        return InputError(f"temporary files: {missing.strerror}; set TMPDIR to a folder that can be written")
    cause, _, remedy = write_reason(error).partition("; ")
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
        remedy = "free some space there, or set TMPDIR to another folder"
    return InputError(f"{printable(folder)} (for temporary files): {cause}; {remedy}")
