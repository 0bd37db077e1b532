"""Limits of a server, and uvicorn's HTTP protocol with deadlines: slow headers and bodies are cut off."""

import asyncio
import json
import resource
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

HEADER_BYTES = 16 * 2**10  # of the request line and all headers
CLOSE_GRACE = 2.0  # seconds after the deadline of a body in which the application answers before the connection ends
IDLE_SECONDS = 1.0  # after which a connection without a request may be closed for a new one
MAX_FILES = 65_536  # open files


@dataclass(frozen=True)
class Limits:
    """What a request may take. Sizes in bytes, times in seconds.

    Attributes:
        body: of one request, also after decompression. `bodies`: of all requests together.
        images: in one request. `pixels`: in one image.
        queue: images of one model that are prepared, wait or are computed.
        deadline: from the end of a request's body to its response.
        header_seconds, body_seconds: for receiving them.
        idle_seconds: that a connection may wait for its next request.
        connections: open at once.
    """

    body: int = 32 * 2**20
    bodies: int = 256 * 2**20
    images: int = 128
    pixels: int = 50_000_000
    queue: int = 256
    deadline: float = 30.0
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    idle_seconds: float = 15.0
    connections: int = 2048


def raise_file_limit() -> int:
    """Allow this process as many open files as it may have. Returns the number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard if hard != resource.RLIM_INFINITY else MAX_FILES, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return wanted if soft == resource.RLIM_INFINITY else soft


class JoinedWrites:
    """A transport that sends at once what is written in one turn of the event loop: the header and body of a response.

    Everything else is that of `transport`.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._send)
        self._parts.append(data)

    def _send(self) -> None:
        if self._parts and not self._transport.is_closing():
            self._transport.write(b"".join(self._parts))
        self._parts.clear()

    def close(self) -> None:
        self._send()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class LimitedProtocol(H11Protocol):
    """A connection. One timer runs while it waits for a header, another until the end of a body."""

    limits: ClassVar[Limits]
    max_connections: ClassVar[int]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.idle_since = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._waits_for = ""

    def connection_made(self, transport: Any) -> None:
        if len(self.connections) >= self.max_connections and not self._close_an_idle_connection():
            self.transport = transport
            transport.abort()
            return
        super().connection_made(JoinedWrites(transport, self.loop))  # type: ignore[arg-type]
        self._wait_for("header", self.limits.header_seconds)

    def _close_an_idle_connection(self) -> bool:
        latest = time.monotonic() - IDLE_SECONDS
        connections: Any = self.connections  # all of this class
        oldest = min(connections, key=lambda each: each.idle_since)
        if oldest.idle_since > latest:
            return False
        self.connections.discard(oldest)
        oldest.transport.abort()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self.flow is not None:  # None: it was refused in connection_made
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.flow is None or self.transport.is_closing():
            return
        super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        if self.transport.is_closing():
            return
        their_state = self.conn.their_state
        if their_state is h11.IDLE:
            if self._waits_for != "header" and (self.conn.trailing_data[0] or self.cycle is None):
                self._wait_for("header", self.limits.header_seconds)
        elif their_state is h11.SEND_BODY:
            if self._waits_for != "body":
                self._wait_for("body", self.limits.body_seconds + CLOSE_GRACE)
        else:
            self._stop_timer()
        if their_state is not h11.IDLE:
            self.idle_since = float("inf")

    def on_response_complete(self) -> None:
        self.idle_since = time.monotonic()
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()  # which waits until the response is sent
        self.loop.call_later(self.limits.body_seconds, self.transport.abort)

    def _wait_for(self, what: str, seconds: float) -> None:
        self._stop_timer()
        self._waits_for = what
        self._timer = self.loop.call_later(seconds, self._cut_off)

    def _stop_timer(self) -> None:
        self._waits_for = ""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut_off(self) -> None:
        """Close a connection whose header or body did not arrive in time."""
        if self._waits_for == "header" and not self.transport.is_closing():
            self._refuse(408, f"the header did not arrive within {self.limits.header_seconds:g} seconds")
        else:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP: in the protocol's form, unless a response has begun."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if len(self.conn.trailing_data[0]) > HEADER_BYTES:
            self._refuse(431, f"the header is longer than {HEADER_BYTES} bytes")
        else:
            self._refuse(400, "this is no valid HTTP request")

    def _refuse(self, status: int, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        with suppress(h11.LocalProtocolError):
            response = h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
        self.transport.close()


def limited_protocol(limits: Limits, max_connections: int) -> type[LimitedProtocol]:
    """The protocol class with these limits, which uvicorn constructs for each connection."""
    return type("Protocol", (LimitedProtocol,), {"limits": limits, "max_connections": max_connections})
