"""Read the body of a request: within the limits, decompressed, and as images."""

import asyncio
import math
import zlib
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TypeVar

from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from inception_v3.serve.batching import Budget, BusyError
from inception_v3.serve.errors import RequestError
from inception_v3.serve.limits import Limits
from inception_v3.serve.protocol import INPUT
from inception_v3.serve.uploads import Upload, check_count, name_of, parse_json_images
from inception_v3.support.text import printable

Result = TypeVar("Result")


async def in_thread(threads: ThreadPoolExecutor, call: Callable[[], Result]) -> Result:
    """Call a function outside of the event loop."""
    return await asyncio.get_running_loop().run_in_executor(threads, call)


class Bodies:
    """Reads bodies; parses and decompresses them in `threads`.

    The bytes of all requests together are bounded. Those of a request, the numbers in its `state.held`, count until
    `release` is called with them.
    """

    def __init__(self, limits: Limits, threads: ThreadPoolExecutor) -> None:
        self.limits, self._threads = limits, threads
        self._held = Budget(limits.bodies)

    async def body(self, request: Request) -> bytes:
        """The body of a request, decompressed. Raises RequestError: too large, too slow, or no such compression."""
        encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip", "deflate"):
            raise RequestError(f"Content-Encoding {printable(encoding[:40])}: send gzip, deflate or identity", 415)
        chunks = [chunk async for chunk in self.stream(request)]
        body = b"".join(chunks)
        if encoding == "identity":
            return body
        return await in_thread(self._threads, partial(decompress, body, encoding, self.limits.body))

    async def stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        """The parts of a body. They count as held by the server until the request ends (see Guard)."""
        limit, size = self.limits.body, 0
        held: list[int] = request.state.held
        announced = request.headers.get("Content-Length", "")
        if announced.isdecimal() and int(announced) > limit:
            raise RequestError(f"the body has {announced[:20]} bytes; the limit is {limit}", 413)
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > limit:
                        raise RequestError(f"the body has more than {limit} bytes", 413)
                    self._held.take(len(chunk))
                    held.append(len(chunk))
                    yield chunk
        except TimeoutError as error:
            raise RequestError(f"the body did not arrive within {self.limits.body_seconds:g} seconds", 408) from error
        except BusyError as error:
            fault = "the server holds too many bytes of requests; try again later"
            raise RequestError(fault, 503, retry_after=1) from error

    def release(self, held: list[int]) -> None:
        self._held.give_back(sum(held))

    async def images(self, request: Request) -> list[Upload]:
        """The images of a form or of a JSON body, or the body as one image. Raises RequestError, as `body` does."""
        kind = request.headers.get("Content-Type", "application/octet-stream").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            return await self._form_images(request)
        if kind == "application/json":
            body = await self.body(request)
            return await in_thread(
                self._threads, partial(parse_json_images, body, self.limits.images, self.limits.pixels)
            )
        if kind != "application/octet-stream" and not kind.startswith("image/"):
            forms = "multipart/form-data, application/json, image/... or application/octet-stream"
            raise RequestError(f"Content-Type {printable(kind[:80])}: send {forms}", 415)
        body = await self.body(request)
        check_count(int(bool(body)), self.limits.images)
        return [Upload(name_of(request.query_params.get("name"), 0), body, self.limits.pixels)]

    async def _form_images(self, request: Request) -> list[Upload]:
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise RequestError("a compressed form is not supported; images are compressed already", 415)
        parser = MultiPartParser(
            request.headers, self.stream(request), max_files=self.limits.images, max_fields=0,
            max_part_size=self.limits.body,
        )  # fmt: skip
        parser.spool_max_size = self.limits.body  # files stay in memory
        try:
            form = await parser.parse()
        except MultiPartException as error:
            fault = error.message.rstrip(".")
            raise RequestError(f"multipart/form-data: {fault}; send the images as files") from error
        except (KeyError, ValueError) as error:
            raise RequestError("multipart/form-data: no boundary; let the HTTP library write the header") from error
        try:
            files = [value for _, value in form.multi_items() if not isinstance(value, str)]
            check_count(len(files), self.limits.images)
            return [
                Upload(name_of(file.filename, index), await file.read(), self.limits.pixels)
                for index, file in enumerate(files)
            ]
        finally:
            await form.close()

    def uploads(self, files: list[bytes]) -> list[Upload]:
        return [Upload(f"{INPUT}[{index}]", data, self.limits.pixels) for index, data in enumerate(files)]


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """Raises RequestError: damaged, or more than `limit` bytes."""
    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 16 if encoding == "gzip" else zlib.MAX_WBITS)
    try:
        content = decompressor.decompress(body, limit + 1)
    except zlib.error as error:
        raise RequestError(f"the body is no valid {encoding} data") from error
    if len(content) > limit:
        raise RequestError(f"the body has more than {limit} bytes after decompression", 413)
    if not decompressor.eof or decompressor.unused_data:
        raise RequestError(f"the {encoding} data of the body is cut short, or more follows it")
    return content


def whole_number(request: Request, name: str, default: int) -> int:
    """A query parameter of 1 or more."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text)):
        raise RequestError(f"{name} must be a whole number of at least 1, not {printable(text[:40]) or '(empty)'}")
    return int(text)


def seconds(request: Request, name: str) -> float | None:
    """A query parameter in seconds, 1 or more; None without it."""
    if (text := request.query_params.get(name)) is None:
        return None
    with suppress(ValueError):
        if 1 <= (value := float(text)) < math.inf:
            return value
    raise RequestError(f"{name} must be a number of seconds of at least 1, not {printable(text[:40]) or '(empty)'}")
