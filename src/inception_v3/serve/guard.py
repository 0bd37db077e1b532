"""Around every request: the token, errors in the protocol's form, security headers, the log and the metrics."""

import asyncio
import hmac
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from inception_v3.serve.errors import ClientGoneError, RequestError
from inception_v3.serve.limits import HEADER_BYTES
from inception_v3.serve.logs import log
from inception_v3.serve.metrics import Metrics
from inception_v3.support.text import one_line, printable

# These need no token: those of probes, and the page, which holds nothing of the models and asks for the token.
OPEN_PATHS = ("/", "/v2/health/live", "/v2/health/ready")
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Permissions-Policy": "camera=(), microphone=()",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
CLIENT_GONE = 499  # the status in the log of a request whose client did not wait; nginx's


def request_id(request: Request) -> str:
    return str(request.scope["state"]["request_id"])


@dataclass
class _Exchange:
    """What the log and the metrics need of one request."""

    request_id: str
    started: float = field(default_factory=time.monotonic)
    status: int = 0


class Guard:
    """The ASGI application around the routes of `app`.

    At the end of each request, `release` gets the numbers of bytes that the request has added to `state.held`.
    """

    def __init__(
        self, app: Starlette, metrics: Metrics, release: Callable[[list[int]], None], token: str | None
    ) -> None:
        self._app, self._metrics, self._release = app, metrics, release
        self._token = token.encode() if token is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # uvicorn's lifespan is off, and WebSockets are too
        headers = Headers(scope=scope)
        given = headers.get("X-Request-ID", "")
        exchange = _Exchange(given if REQUEST_ID.fullmatch(given) else os.urandom(8).hex())
        state = scope.setdefault("state", {})
        state["request_id"], state["held"] = exchange.request_id, []

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                own = MutableHeaders(scope=message)
                own["X-Request-ID"] = exchange.request_id
                for name, value in SECURITY_HEADERS.items():
                    own.setdefault(name, value)
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._respond(scope, receive, send_with_headers, headers, exchange)
        finally:
            self._release(state["held"])
            self._metrics.in_flight.dec()
            self._note(scope, exchange)

    async def _respond(self, scope: Scope, receive: Receive, send: Send, headers: Headers, exchange: _Exchange) -> None:
        try:
            self._check(scope, headers)
            scope["app"] = self._app  # routes then raise HTTPException
            await self._app.router(scope, receive, send)
            return
        except (ClientGoneError, ClientDisconnect):
            exchange.status = CLIENT_GONE
            return
        except RequestError as error:
            response = JSONResponse({"error": str(error)}, error.status, error.headers)
            if error.status == 401:
                response.headers["WWW-Authenticate"] = "Bearer"
        except HTTPException as error:
            response = JSONResponse({"error": _http_fault(scope, error)}, error.status_code, error.headers)
        except asyncio.CancelledError:  # a second signal, or the time to drain has passed
            response = JSONResponse({"error": "the server has stopped"}, 503)
        except Exception as error:
            log("bug", "error", request_id=exchange.request_id, error=one_line(repr(error)), where=_where(error))
            response = JSONResponse({"error": f"unexpected error; request {exchange.request_id}"}, 500)
        if exchange.status:  # the response has begun already
            return
        await response(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> None:
        size = sum(len(name) + len(value) + 4 for name, value in scope["headers"]) + len(scope.get("raw_path") or b"")
        if size + len(scope["query_string"]) > HEADER_BYTES:
            raise RequestError(f"the header is longer than {HEADER_BYTES} bytes", 431)
        if self._token is None or scope["path"] in OPEN_PATHS:
            return
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        if not hmac.compare_digest(given.strip().encode(), self._token) or scheme.lower() != "bearer":
            raise RequestError("this server needs the header Authorization: Bearer TOKEN", 401)

    def _note(self, scope: Scope, exchange: _Exchange) -> None:
        seconds = time.monotonic() - exchange.started
        operation = getattr(scope.get("endpoint"), "__name__", "other")
        self._metrics.requests.labels(operation, str(exchange.status)).inc()
        self._metrics.request_seconds.labels(operation).observe(seconds)
        client = (scope.get("client") or ("",))[0]
        log("request", request_id=exchange.request_id, method=scope["method"], path=scope["path"][:200],
            status=exchange.status, seconds=round(seconds, 4), client=client,
            model=scope["state"].get("model", ""), bytes=sum(scope["state"]["held"]))  # fmt: skip


def _http_fault(scope: Scope, error: HTTPException) -> str:
    path = printable(scope["path"][:200])
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return f"{path} takes {allowed}, not {printable(scope['method'][:20])}"
    if error.status_code == 404:
        return f"there is no {path}; /docs lists all operations"
    return str(error.detail)


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else ""
