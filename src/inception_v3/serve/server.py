"""Run the server: its socket, the loading of models beside the event loop, and the signals that end it."""

import asyncio
import contextlib
import errno
import os
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from inception_v3.errors import InputError
from inception_v3.serve.application import Server
from inception_v3.serve.limits import HEADER_BYTES, Limits, limited_protocol, raise_file_limit
from inception_v3.serve.logs import log, log_libraries
from inception_v3.serve.models import Models
from inception_v3.support.signals import stop_signals_call
from inception_v3.support.system_errors import file_status

BACKLOG = 2048
STOP_SECONDS = 5.0  # beyond the deadline of requests, which the server waits for when it stops
CANCEL_SECONDS = 1.0  # for the responses of requests that a second signal has cancelled


@dataclass(frozen=True)
class Place:
    """Where the server listens: at an address, or with `unix_socket` at a path. Port 0 is any free port."""

    host: str = "127.0.0.1"
    port: int = 8000
    unix_socket: Path | None = None

    def __str__(self) -> str:
        if self.unix_socket is not None:
            return f"unix:{self.unix_socket}"
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def listen(place: Place) -> socket.socket:
    """A listening socket. Raises InputError: the address is in use, not allowed, or not of this machine."""
    try:
        if place.unix_socket is not None:
            return _listen_unix(place.unix_socket)
        family, kind, protocol, _, address = socket.getaddrinfo(
            place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)  # without it, asyncio does not set TCP_NODELAY: 40 ms more
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
        return listening
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: "another program listens there; give another --port",
            errno.EACCES: "not allowed; give a --port of 1024 or more",
            errno.EADDRNOTAVAIL: "this machine has no such address; give another --host",
        }
        reason = reasons.get(error.errno or 0, f"{error.strerror}; give another --host or --port")
        raise InputError(f"{place}: {reason}") from error


def _listen_unix(path: Path) -> socket.socket:
    """A Unix socket, only for this user and group. One that no server listens to any more is replaced."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        status = file_status(path)
        if status is not None and stat.S_ISSOCK(status.st_mode):
            probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with probe, contextlib.suppress(ConnectionRefusedError):
                probe.connect(str(path))
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            path.unlink()
        listening.bind(str(path))
        path.chmod(0o660)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


class Uvicorn(uvicorn.Server):
    """uvicorn for this server, without its own handling of signals, which would raise them again at the end."""

    def __init__(self, server: Server, trusted_proxies: tuple[str, ...] = ()) -> None:
        limits = server.limits
        config = uvicorn.Config(
            server.application(),
            loop="asyncio",
            http=limited_protocol(limits, min(limits.connections, raise_file_limit() * 3 // 4)),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(trusted_proxies),
            forwarded_allow_ips=[*trusted_proxies] or None,
            timeout_keep_alive=int(limits.idle_seconds),
            timeout_graceful_shutdown=int(limits.deadline + STOP_SECONDS),
            h11_max_incomplete_event_size=HEADER_BYTES,
        )
        log_libraries()
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(
    models: Models, place: Place, limits: Limits, token: str | None, trusted_proxies: tuple[str, ...], watch: bool
) -> None:
    """Serve until a signal. The first one drains: requests in flight get their responses. The second ends at once.

    Raises InputError: the address cannot be used, or a model cannot be opened.
    """
    with listen(place) as listening:
        server = Server(models, limits, token)
        try:
            asyncio.run(_serve(Uvicorn(server, trusted_proxies), server, listening, place, watch))
        finally:
            server.close()
            _remove_socket(place)


def _remove_socket(place: Place) -> None:
    if place.unix_socket is not None:
        place.unix_socket.unlink(missing_ok=True)


async def _cancel(requests: set[asyncio.Task[None]]) -> None:
    """Cancel requests, and let them send the response that says so."""
    for request in requests:
        request.cancel()
    if requests:
        await asyncio.wait(requests, timeout=CANCEL_SECONDS)


def _end_at_once(place: Place) -> None:
    """End the process with status 0, without waiting for threads: a batch or the loading of a model may take long."""
    log("stopped")
    _remove_socket(place)
    sys.stderr.flush()
    os._exit(0)


async def _serve(uvicorn_server: Uvicorn, server: Server, listening: socket.socket, place: Place, watch: bool) -> None:
    """Answer while the models are loaded; those requests get 503. Raises InputError: a model cannot be opened."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        uvicorn_server.force_exit = server.is_stopping
        uvicorn_server.should_exit = server.is_stopping = True

    def at_signal(number: int, _: object) -> None:
        loop.call_soon_threadsafe(stop)

    with stop_signals_call(at_signal):
        serving = asyncio.create_task(uvicorn_server.serve(sockets=[listening]))
        if place.unix_socket is None:
            place = Place(*listening.getsockname()[:2])
        log("listening", address=str(place))
        loading = loop.run_in_executor(None, server.models.load)
        await asyncio.wait({loading, serving}, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():  # a signal; no request waits for a model that is not loaded
            _end_at_once(place)
        try:
            loading.result()
        except InputError:
            stop()
            await serving
            raise
        log("ready", address=str(place), models=len(server.models.names()))
        if watch:
            threading.Thread(target=server.models.watch, name="watch", daemon=True).start()
        await serving
        if uvicorn_server.force_exit:
            await _cancel(uvicorn_server.server_state.tasks)
            _end_at_once(place)
        log("stopped")
