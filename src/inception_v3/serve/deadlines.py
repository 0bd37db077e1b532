"""The time that a request may take, and clients that do not wait."""

import asyncio
import math
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from inception_v3.serve.errors import ClientGoneError, RequestError
from inception_v3.serve.limits import Limits

Result = TypeVar("Result")


def deadline_of(limits: Limits, timeout: float | None) -> float:
    """The deadline of a request, a time of time.monotonic(). `timeout`: the seconds that the client allows, if any."""
    return time.monotonic() + min(timeout or math.inf, limits.deadline)


async def until(request: Request, deadline: float, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`. It is cancelled after the deadline (504), and when the client has gone."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, timeout=deadline - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError if gone.done() else deadline_passed()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def deadline_passed() -> RequestError:
    return RequestError("the deadline has passed; the server is busy, or the request has too many images", 504)
