"""A file from the web into a cache folder: once, whole, compared with its checksum, resumed after a break.

What has come so far lies beside the file as NAME.partial, and in NAME.partial.version what the server called that
version of the file (its ETag, else its date). The next attempt, in this process or another, asks for the rest of
that same version alone (Range and If-Range); anything else that comes back is taken from the start.
"""

import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from email.message import Message
from functools import partial
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from inception_v3.errors import InputError
from inception_v3.support.files import file_lock, write_error
from inception_v3.support.progress import download_bar

TIMEOUT = 20.0  # seconds without a byte
ATTEMPTS = 4  # in a row that bring nothing
PAUSE = 1.0  # seconds before another attempt, doubled each time
LIMIT = 1 << 29  # bytes: five times the network in float32, and no disk filled by mistake
CHUNK = 1 << 20
BUSY = (408, 429, 500, 502, 503, 504)  # a server may answer otherwise a moment later
MB = 1_000_000


class DownloadError(Exception):
    """What the network or the server did, with the address; who called knows the way round."""


class _BrokenError(Exception):
    """This attempt ended early; another may go on from there, in vain where the server was not even `reached`."""

    def __init__(self, reason: str, *, reached: bool = True) -> None:
        super().__init__(reason)
        self.reached = reached


def download(
    url: str, file: Path, checksum: str | None = None, unpack: Callable[[Path, Path], None] | None = None
) -> None:
    """Put what `url` serves to `file`, unless it is there already and has that checksum.

    `checksum` is the hash's name, a colon, and its first digits: `sha256:0cc3c7bd`, `md5:...`. `unpack(archive,
    file)` takes `file` out of what is served, and raises ValueError where that is damaged. Two processes that want
    the same file take turns, and the second finds it there. A bar is shown on a terminal.

    Raises DownloadError: not reachable, refused, broken off for good, damaged (it is deleted then).
    Raises InputError: too large, the disk is full, the folder cannot be written.
    """
    expected = checksum if unpack is None else None  # that of the archive says nothing of the file in it
    if _is_whole(file, expected):
        return
    console = Console(stderr=True)

    def waiting() -> None:
        if console.is_terminal:
            console.print(f"{file.name}: another process fetches it; waiting", highlight=False)

    with file_lock(file, waiting):
        if not _is_whole(file, expected):
            part, version = file.with_name(f"{file.name}.partial"), file.with_name(f"{file.name}.partial.version")
            _complete(url, part, version, checksum, console)
            _finish(url, part, version, file, unpack)


def _is_whole(file: Path, checksum: str | None) -> bool:
    return file.is_file() and (checksum is None or matches_checksum(file, checksum))


def matches_checksum(file: Path, checksum: str) -> bool:
    """Whether the file's hash starts with those digits. 100 MB take a tenth of a second."""
    kind, digits = checksum.split(":")
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, partial(hashlib.new, kind, usedforsecurity=False))
    return found.hexdigest().startswith(digits)


def _complete(url: str, part: Path, version: Path, checksum: str | None, console: Console) -> None:
    """Attempt after attempt, until `part` is all of it."""
    first = best = _size(part)
    failures = 0
    with download_bar(console) as progress:
        task = progress.add_task(part.stem, total=None)
        while not (checksum is not None and _is_whole(part, checksum)):  # an earlier process may have had it all
            try:
                _fetch(url, part, version, lambda have, total: progress.update(task, completed=have, total=total))
                break
            except _BrokenError as error:
                failures = 0 if _size(part) > best else failures + 1
                best = max(best, _size(part))
                # a network that has worked until now may need a moment; else there most likely is none
                if failures >= ATTEMPTS or not (error.reached or best > first):
                    raise DownloadError(f"{url}: {error}") from error
                time.sleep(PAUSE * 2 ** max(failures - 1, 0))
    if checksum is not None and not matches_checksum(part, checksum):
        _discard(part, version)
        raise DownloadError(f"{url}: its {checksum.split(':')[0]} is not the published one, and it was deleted")


def _finish(url: str, part: Path, version: Path, file: Path, unpack: Callable[[Path, Path], None] | None) -> None:
    try:
        if unpack is not None:
            unpack(part, file)
        else:
            with part.open("rb") as written:
                os.fsync(written.fileno())
            part.replace(file)
    except ValueError as error:
        _discard(part, version)
        raise DownloadError(f"{url}: {error}, and it was deleted") from error
    except OSError as error:
        raise write_error(file, error) from error
    _discard(part, version)


def _fetch(url: str, part: Path, version: Path, show: Callable[[int, int | None], None]) -> None:
    """One attempt to complete `part`. Raises _BrokenError, and leaves there what has come."""
    have, known = _size(part), version.read_text("latin-1") if version.exists() else ""
    headers = {"Accept-Encoding": "identity", "User-Agent": "inception-v3"}
    if have and known:
        headers |= {"Range": f"bytes={have}-", "If-Range": known}
    with _open(url, headers, part, version) as response:
        if response.status == 206:
            start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
            if start != str(have) or _version(response.headers) != known:
                _discard(part, version)
                raise _BrokenError("the server sent another part than was asked for")
        else:  # the whole: it was asked for, or the server has another version now, or knows no Range
            have = 0
        total = None if response.length is None else have + response.length
        _check_room(url, part.parent, have, total)
        try:
            if not have:
                _discard(part, version)
                version.write_text(_version(response.headers), "latin-1")
            with part.open("ab") as file:
                while chunk := _read(response, have, total):
                    have += len(chunk)
                    if have > LIMIT:
                        break
                    file.write(chunk)
                    show(have, total)
        except OSError as error:
            raise write_error(part, error) from error
    if have > LIMIT:  # where the server had not said how long it is
        _discard(part, version)
        raise _too_large(url, have)
    if total is not None and have < total:
        raise _BrokenError(_broke_off(have, total))


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    """Goes where a server sends it over http and https alone, and not from https back to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        allowed = ("https://",) if req.type == "https" else ("https://", "http://")
        if not newurl.lower().startswith(allowed):
            raise DownloadError(f"{req.full_url}: sends on to {newurl[:100]}, where this does not go")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str, headers: dict[str, str], part: Path, version: Path) -> http.client.HTTPResponse:
    try:
        opener = urllib.request.build_opener(_HttpOnly)
        response: http.client.HTTPResponse = opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
        return response
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # longer than the file is now
            _discard(part, version)
        elif error.code not in BUSY:
            raise DownloadError(f"{url}: the server answers {error.code} ({reason(error)})") from error
        raise _BrokenError(f"the server answers {error.code} ({reason(error)})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(f"cannot be reached ({reason(error)})", reached=False) from error


def _read(response: http.client.HTTPResponse, have: int, total: int | None) -> bytes:
    try:
        return response.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(f"{_broke_off(have, total)} ({reason(error)})") from error


def _broke_off(have: int, total: int | None) -> str:
    return f"broke off after {have / MB:.1f} MB" + (f" of {total / MB:.1f}" if total else "")


def reason(error: Exception) -> str:
    """What the network said, in one line."""
    inner = getattr(error, "reason", error)  # of URLError
    text = str(getattr(inner, "strerror", None) or inner) or type(inner).__name__
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())[:200]


def _version(headers: Message) -> str:
    """What If-Range can compare: the ETag, unless it is weak, else the date; empty where there is neither."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def _check_room(url: str, folder: Path, have: int, total: int | None) -> None:
    """Before anything is written."""
    if total is None:
        return
    if total > LIMIT:
        raise _too_large(url, total)
    free = shutil.disk_usage(folder).free
    if total - have > free:
        raise InputError(f"{folder}: {(total - have) / MB:.0f} MB are to come and {free / MB:.0f} are free; make room")


def _too_large(url: str, size: int) -> InputError:
    return InputError(f"{url}: {size / MB:.1f} MB or more is too large for an Inception V3; it was not fetched")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _discard(part: Path, version: Path) -> None:
    for path in (part, version):
        with suppress(OSError):
            path.unlink(missing_ok=True)
