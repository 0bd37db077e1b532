"""Download a file into a cache folder: once, complete, verified, and resumed after an interruption.

The bytes that have arrived so far are kept in NAME.partial, and the server's version of the file (its ETag, else its
date) in NAME.partial.version. The next attempt, in this process or another, requests only the rest of that version
(Range and If-Range). If the server has another version, the download starts again. Schemes other than http and https
are read by fsspec, and always from the beginning.
"""

import hashlib
import http.client
import math
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from email.message import Message
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from inception_v3.errors import InputError
from inception_v3.support.files import cache_file, cache_folder, file_lock, replace, write_error, write_errors
from inception_v3.support.packages import require_packages
from inception_v3.support.progress import BYTES, show_progress
from inception_v3.support.streams import new_console, print_text
from inception_v3.support.text import one_line
from inception_v3.support.verbosity import verbosity

TIMEOUT = 20.0  # seconds without a byte
ATTEMPTS = 4  # attempts in a row without a new byte, after which the download fails
PAUSE = 1.0  # seconds before the next attempt, doubled each time
MAX_BYTES = 1 << 29  # of weights: five times the network in float32, so that no disk is filled by mistake
CHUNK = 1 << 20
RETRY_STATUSES = (408, 429, 500, 502, 503, 504)  # temporary errors of a server
MB = 1_000_000


Report = Callable[[int, int | None], None]  # gets the number of bytes so far, and of all bytes


class DownloadError(Exception):
    """A download that failed because of the network or the server. The message starts with the URL."""


class _AttemptError(Exception):
    """One attempt has failed. `reached` is whether the server responded; if so, the next attempt may resume."""

    def __init__(self, reason: str, *, reached: bool = True) -> None:
        super().__init__(reason)
        self.reached = reached


class _PartialFile:
    """The bytes that have arrived so far and the version of the file they belong to, beside the target."""

    def __init__(self, target: Path, limit: float) -> None:
        self.limit = limit  # in bytes
        self.path = target.with_name(f"{target.name}.partial")
        self.version_path = target.with_name(f"{target.name}.partial.version")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def version(self) -> str:
        """The stored version; empty if the server gave none."""
        return self.version_path.read_text("latin-1") if self.version_path.exists() else ""

    def discard(self) -> None:
        for path in (self.path, self.version_path):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def fetch(url: str) -> Path:
    """Return the file of a URL of any scheme that fsspec supports, downloaded once to the user's cache folder.

    Raises InputError, with the URL: no such file, no connection, unknown scheme, or the disk is full.
    """
    name = Path(urlsplit(url).path).name or "file"  # the file's own name, because names of images begin with it
    file = cache_file(cache_folder("downloads") / hashlib.sha256(url.encode()).hexdigest()[:16] / name)
    try:
        download(url, file, limit=math.inf)
    except DownloadError as error:
        raise InputError(f"{error}; check the address and the network, and run the command again") from error
    return file


def download(
    url: str,
    file: Path,
    checksum: str | None = None,
    unpack: Callable[[Path, Path], None] | None = None,
    limit: float | None = None,
) -> None:
    """Download `url` to `file`, unless the file exists and matches the checksum.

    Processes that want the same file take turns, and the second one finds it complete. Shows a bar on a terminal.

    Args:
        url: http or https, or any other scheme of fsspec.
        file: where to store the file; its folder is created.
        checksum: the name of the hash, a colon, and the first or all digits of the hash: `sha256:0cc3c7bd`, `md5:...`.
        unpack: `unpack(archive, file)` extracts `file` from the download. It raises ValueError for a damaged archive.

        limit: the largest size in bytes, MAX_BYTES by default. The free space on the disk is always a limit.

    Raises:
        DownloadError: not reachable, refused, interrupted too often, or damaged (the file is deleted then).
        InputError: too large, a full disk, or a folder that cannot be written.
    """
    expected = checksum if unpack is None else None  # the checksum is the archive's, not that of the file in it
    if _is_complete(file, expected):
        return
    console = new_console(stderr=True)
    console.quiet = verbosity.quiet or not console.is_terminal
    message = f"{file.name}: waiting for another process that downloads it"
    with file_lock(file, lambda: print_text(console, message)):
        if not _is_complete(file, expected):
            received = _PartialFile(file, MAX_BYTES if limit is None else limit)
            _download_with_retries(url, received, checksum)
            _install(url, received, file, unpack)


def _is_complete(file: Path, checksum: str | None) -> bool:
    return file.is_file() and (checksum is None or matches_checksum(file, checksum))


def matches_checksum(file: Path, checksum: str) -> bool:
    """Return whether the file's hash starts with the digits of `checksum`. Takes 0.1 s for 100 MB."""
    algorithm, digits = checksum.split(":")
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, partial(hashlib.new, algorithm, usedforsecurity=False))
    return digest.hexdigest().startswith(digits)


def _download_with_retries(url: str, received: _PartialFile, checksum: str | None) -> None:
    """Repeat attempts until `received` is the whole file, and verify its checksum."""
    first = most = received.size
    failures = 0
    with show_progress(new_console(stderr=True), count_bytes=True) as start_step:
        step = start_step(received.path.stem, None, BYTES)

        def show(size: int, total: int | None) -> None:
            step.total = total
            step.update(size)

        while not (checksum is not None and _is_complete(received.path, checksum)):  # may be complete already
            try:
                attempt = _attempt if url.startswith(("http://", "https://")) else _attempt_with_fsspec
                attempt(url, received, show)
                break
            except _AttemptError as error:
                failures = 0 if received.size > most else failures + 1
                most = max(most, received.size)
                # Retry if something has arrived from this server; otherwise there is most likely no network at all.
                if failures >= ATTEMPTS or not (error.reached or most > first):
                    raise DownloadError(f"{url}: {error}") from error
                time.sleep(PAUSE * 2 ** max(failures - 1, 0))
    if checksum is not None and not matches_checksum(received.path, checksum):
        received.discard()
        raise DownloadError(f"{url}: its {checksum.split(':')[0]} is not the published one, and it was deleted")


def _install(url: str, received: _PartialFile, file: Path, unpack: Callable[[Path, Path], None] | None) -> None:
    """Move the complete download to `file`, or unpack it there."""
    try:
        if unpack is not None:
            unpack(received.path, file)
        else:
            replace(received.path, file)
    except ValueError as error:
        received.discard()
        raise DownloadError(f"{url}: {error}, and it was deleted") from error
    except OSError as error:
        raise write_error(file, error) from error
    received.discard()


def _attempt(url: str, received: _PartialFile, report: Report) -> None:
    """Request the missing bytes once and append them to `received`.

    Raises _AttemptError: the response ended early; the bytes that have arrived are kept.
    """
    version = received.version
    size = received.size if version else 0
    headers = {"Accept-Encoding": "identity", "User-Agent": "inception-v3"}
    if size:
        headers |= {"Range": f"bytes={size}-", "If-Range": version}
    with _open(url, headers, received) as response:
        if response.status == 206:
            start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
            if start != str(size) or _version(response.headers) != version:
                received.discard()
                raise _AttemptError("the server sent a different part than the requested one")
        else:  # the whole file: it was requested, or the server has another version now or does not support Range
            size = 0
        total = None if response.length is None else size + response.length
        _receive(url, received, response.read1, _version(response.headers), size, total, report)


def _attempt_with_fsspec(url: str, received: _PartialFile, report: Report) -> None:
    """Read the whole file. Raises DownloadError, also for an unknown scheme."""
    require_packages(("fsspec",), url, "data")
    try:
        with import_module("fsspec").open(url, "rb") as file:
            _receive(url, received, file.read, "", 0, getattr(file, "size", None), report)
    except (InputError, _AttemptError):
        raise
    except FileNotFoundError as error:
        raise DownloadError(f"{url}: no such file there") from error
    except Exception as error:  # the library of each scheme has its own errors
        fault = "this scheme needs another package" if isinstance(error, ImportError) else "cannot be downloaded"
        raise DownloadError(f"{url}: {fault} ({network_reason(error)})") from error


def _receive(
    url: str,
    received: _PartialFile,
    read: Callable[[int], bytes],
    version: str,
    size: int,
    total: int | None,
    report: Report,
) -> None:
    """Append everything that `read` returns after the first `size` bytes to `received`.

    Raises _AttemptError: it ends early; InputError: it is too large, or cannot be written.
    """
    if total is not None:
        _check_space(url, received, size, total)
    with write_errors(received.path):
        if not size:
            received.discard()
            received.version_path.write_text(version, "latin-1")
        with received.path.open("ab") as file:
            while size <= received.limit and (chunk := _read(read, size, total)):
                size += file.write(chunk)
                report(size, total)
    if size > received.limit:  # the server did not send the length in advance
        received.discard()
        raise _too_large(url, size)
    if total is not None and size < total:
        raise _AttemptError(_interrupted(size, total))


class _HttpRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, and not from https back to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        allowed = ("https://",) if req.type == "https" else ("https://", "http://")
        if not newurl.lower().startswith(allowed):
            raise DownloadError(f"{req.full_url}: redirects to {newurl[:100]}, which is not allowed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str, headers: dict[str, str], received: _PartialFile) -> http.client.HTTPResponse:
    try:
        request = urllib.request.Request(url, headers=headers)
        response: http.client.HTTPResponse = urllib.request.build_opener(_HttpRedirects).open(request, timeout=TIMEOUT)
        return response
    except urllib.error.HTTPError as error:
        error.close()
        message = f"the server returned {error.code} ({network_reason(error)})"
        if error.code == 416:  # Range Not Satisfiable: the file is shorter now
            received.discard()
        elif error.code not in RETRY_STATUSES:
            raise DownloadError(f"{url}: {message}") from error
        raise _AttemptError(message) from error
    except (OSError, http.client.HTTPException) as error:
        raise _AttemptError(f"cannot be reached ({network_reason(error)})", reached=False) from error


def _read(read: Callable[[int], bytes], size: int, total: int | None) -> bytes:
    try:
        return read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _AttemptError(f"{_interrupted(size, total)} ({network_reason(error)})") from error


def _interrupted(size: int, total: int | None) -> str:
    return f"interrupted after {size / MB:.1f} MB" + (f" of {total / MB:.1f}" if total else "")


def network_reason(error: Exception) -> str:
    """Return the message of a network error on one printable line."""
    inner = getattr(error, "reason", error)  # URLError wraps the system's error
    return one_line(getattr(inner, "strerror", None) or inner, 200)


def _version(headers: Message) -> str:
    """Return what If-Range can compare: a strong ETag, else the date of the last change, else an empty string."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def _check_space(url: str, received: _PartialFile, size: int, total: int) -> None:
    """Raise InputError, before anything is written, if the file is too large for the limit or for the disk."""
    if total > received.limit:
        raise _too_large(url, total)
    folder = received.path.parent
    free = shutil.disk_usage(folder).free
    if total - size > free:
        raise InputError(f"{folder}: {(total - size) / MB:.0f} MB needed, {free / MB:.0f} MB free; free some space")


def _too_large(url: str, size: int) -> InputError:
    return InputError(f"{url}: {size / MB:.1f} MB or more is too large for an Inception V3; it was not downloaded")
