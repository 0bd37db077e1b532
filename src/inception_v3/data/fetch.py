"""Download files from URLs of any scheme that fsspec supports, once, to the user's cache folder."""

import errno
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console

from inception_v3.data.address import is_url
from inception_v3.errors import InputError
from inception_v3.support.files import atomic_write, cache_folder, file_lock
from inception_v3.support.packages import import_package
from inception_v3.support.progress import progress_bar

TIMEOUT = 60.0  # seconds without a byte; the whole download may take longer


def fetch(addresses: Sequence[str]) -> list[Path]:
    """Return the local files of paths and URLs. Files at URLs are downloaded to the cache once.

    If several processes need the same file, one downloads it and the others wait.
    Raises InputError, with the URL: no such file, no connection, unknown scheme, or the disk is full.
    """
    with progress_bar(Console(stderr=True)) as progress:
        urls = [address for address in addresses if is_url(address) and not _cached_path(address).exists()]
        bar = progress.add_task("downloading", total=len(urls), figures="", visible=bool(urls))
        for url in urls:
            target = _cached_path(url)
            with file_lock(target):
                if not target.exists():  # another process may have downloaded it meanwhile
                    _download(url, target, lambda figures: progress.update(bar, figures=figures))
            progress.advance(bar)
    return [_cached_path(address) if is_url(address) else Path(address) for address in addresses]


def _cached_path(url: str) -> Path:
    """The path of a URL's file in the cache. It ends with the file's own name, because image names begin with that."""
    name = Path(urlsplit(url).path).name or "file"
    return cache_folder("downloads") / hashlib.sha256(url.encode()).hexdigest()[:16] / name


def _download(url: str, target: Path, show: Callable[[str], None]) -> None:
    fsspec = import_package("fsspec", url, "data")

    def show_size(size: int | None, value: int, **_: object) -> None:
        show(f"{value / 2**20:.0f} of {size / 2**20:.0f} MiB" if size else "")

    options = {}
    if url.startswith(("http://", "https://")):
        limits = import_package("aiohttp", url, "data").ClientTimeout(
            total=None, sock_connect=TIMEOUT, sock_read=TIMEOUT
        )
        options = {"client_kwargs": {"timeout": limits}}
    with atomic_write(target) as temporary:
        try:
            system, path = fsspec.core.url_to_fs(url, **options)
            system.get_file(path, str(temporary), callback=fsspec.callbacks.Callback(hooks={"size": show_size}))
        except FileNotFoundError as error:
            raise InputError(f"{url}: no such file there; check the address") from error
        except Exception as error:  # the library of each scheme has its own errors
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise
            detail = " ".join(str(error).split()) or type(error).__name__
            fault = f"cannot be downloaded ({detail}); check the address and the network, and run the command again"
            if isinstance(error, ImportError):
                fault = f"this scheme needs another package ({detail}); install it"
            raise InputError(f"{url}: {fault}") from error
