"""Files from URLs, of any scheme that fsspec knows: downloaded once, into the user's cache folder."""

import errno
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console

from inception_v3.data.extras import extra
from inception_v3.errors import InputError
from inception_v3.support.files import file_lock, cache_folder, atomic_write
from inception_v3.support.progress import progress_bar

TIMEOUT = 60.0  # seconds without a byte, not of the whole download


def is_url(address: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]*(::[^/]+)?://", address) is not None


def fetch(addresses: Sequence[str]) -> list[Path]:
    """The files on disk, each URL's in the cache, where it stays. Of several processes one downloads, the others wait.

    Raises InputError, naming the URL: not there, cut off, no network, no such scheme, or the disk is full.
    """
    with progress_bar(Console(stderr=True)) as progress:
        urls = [address for address in addresses if is_url(address) and not _place(address).exists()]
        bar = progress.add_task("downloading", total=len(urls), figures="", visible=bool(urls))
        for url in urls:
            _download(url, _place(url), lambda figures: progress.update(bar, figures=figures))
            progress.advance(bar)
    return [_place(address) if is_url(address) else Path(address) for address in addresses]


def _place(url: str) -> Path:
    """Its last part keeps the name of the file: pictures are called by it."""
    name = Path(urlsplit(url).path).name or "file"
    return cache_folder("downloads") / hashlib.sha256(url.encode()).hexdigest()[:16] / name


def _download(url: str, target: Path, tell: Any) -> None:
    """All processes of a training find the file missing at once: the first gets it, and the others look again."""
    with file_lock(target):
        if not target.exists():
            _get(url, target, tell)


def _get(url: str, target: Path, tell: Any) -> None:
    fsspec = extra("fsspec", url)

    class Told(fsspec.callbacks.Callback):  # type: ignore[misc, name-defined]
        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            tell(f"{self.value / 2**20:.0f} of {self.size / 2**20:.0f} MiB" if self.size else "")

    with atomic_write(target) as temporary:
        try:
            system, path = fsspec.core.url_to_fs(url, **_options(url))
            system.get_file(path, str(temporary), callback=Told())
        except Exception as error:  # each scheme's library has its own errors
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise
            raise InputError(f"{url}: {_reason(error)}") from error


def _options(url: str) -> dict[str, Any]:
    if not url.startswith(("http://", "https://")):
        return {}
    limits = extra("aiohttp", url).ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=TIMEOUT)
    return {"client_kwargs": {"timeout": limits}}


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file there; check the address"
    if isinstance(error, ImportError):
        return f"this scheme needs another package ({' '.join(str(error).split())})"
    detail = " ".join(str(error).split()) or type(error).__name__
    return f"cannot be downloaded ({detail}); check the address and the network, and run the command again"
