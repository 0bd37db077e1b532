"""A load on an HTTP server: requests at random times or from a number of clients, and how long the responses take."""

import asyncio
import json
import re
import ssl
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any
from urllib.parse import SplitResult, urlsplit

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import InputError
from inception_v3.support.text import one_line, printable

MAX_CONNECTIONS = 512  # further requests wait for a connection; the wait is a part of their latency
MAX_REQUESTS = 1_000_000
FAILURES = (OSError, EOFError, ValueError, asyncio.LimitOverrunError)  # of a connection, or of what it returned
CPU_METRIC = re.compile(rb"^process_cpu_seconds_total ([0-9.e+-]+)", re.MULTILINE)


@dataclass(frozen=True)
class Load:
    """What to send. Either `rate` or `concurrency` is given.

    Attributes:
        rate: requests per second on average, at random times (a Poisson process), whether the server keeps up or not.
        concurrency: clients that each send a request when the last one is answered.
        seconds: how long requests are sent. The last responses may arrive later.
        timeout: seconds after which a request has failed.
        seed: of the times.
    """

    rate: float | None = None
    concurrency: int | None = None
    seconds: float = 10.0
    timeout: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InputError: more than MAX_REQUESTS."""
        if self.rate is not None and self.rate * self.seconds > MAX_REQUESTS:
            fault = f"--rate {self.rate:g}: more than {MAX_REQUESTS:,} requests; give a lower rate or duration"
            raise InputError(fault, exit_status=2)

    def starts(self) -> NDArray[np.float64]:
        """The times of the requests of `rate` in seconds from the start."""
        assert self.rate is not None
        expected = self.rate * self.seconds
        gaps = np.random.default_rng(self.seed).exponential(1 / self.rate, int(expected + 10 * expected**0.5 + 20))
        times = np.cumsum(gaps)
        return times[times < self.seconds]


@dataclass
class LoadResult:
    """Responses of one load.

    Attributes:
        starts: seconds from the beginning to the intended start of each request, in order of the responses.
        latencies: seconds from the intended start to the end of the response; nan for requests that failed.
        delays: seconds from the intended start until the client has sent the request's first bytes.
        errors: requests by why they failed: the status, "timeout", or the kind of a connection's error.
        seconds: from the beginning to the last response.
        client_cpu: seconds of CPU time of this process.
        server_cpu: those of the server, if its /metrics has them.
    """

    starts: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    client_cpu: float = 0.0
    server_cpu: float | None = None

    @property
    def succeeded(self) -> NDArray[np.float64]:
        """The latencies of the requests that succeeded."""
        latencies = np.array(self.latencies, np.float64)
        return latencies[np.isfinite(latencies)]

    def as_dict(self) -> dict[str, Any]:
        """The figures; times in ms. Percentiles are of the requests that succeeded, and null if there is none."""
        latencies = self.succeeded
        names = ("p50", "p95", "p99", "max")
        values = np.percentile(latencies, (50, 95, 99, 100)).tolist() if len(latencies) else [None] * 4
        return {
            "requests": len(self.latencies),
            "succeeded": len(latencies),
            "errors": dict(self.errors.most_common()),
            "seconds": self.seconds,
            "requests_per_second": len(latencies) / self.seconds,
            "latency_ms": {name: v and v * 1e3 for name, v in zip(names, values, strict=True)}
            | {"mean": float(latencies.mean()) * 1e3 if len(latencies) else None},
            "client_delay_ms": {"p99": float(np.percentile(self.delays, 99)) * 1e3 if self.delays else None},
            "cpu_seconds": {"client": self.client_cpu, "server": self.server_cpu},
        }


# ------------------------------------------------------------------------------------------------- one server


class HttpClient:
    """Connections to one server, kept open and used again. A request is the bytes of its header and body."""

    def __init__(self, url: str, token: str | None = None, timeout: float = 60.0) -> None:
        """Raises InputError: not a URL of HTTP."""
        parts = _split(url)
        self._host, self._timeout = parts.hostname or "", timeout
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (80 if self._tls is None else 443)
        self._header = f"Host: {parts.netloc.rpartition('@')[2]}\r\n"
        if token is not None:
            self._header += f"Authorization: Bearer {token}\r\n"
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._open = asyncio.Semaphore(MAX_CONNECTIONS)

    def request(self, method: str, target: str, body: bytes = b"", header: str = "") -> bytes:
        """The bytes of a request. `header`: further lines, each with its end."""
        length = f"Content-Length: {len(body)}\r\n" if method == "POST" else ""
        return f"{method} {target} HTTP/1.1\r\n{self._header}{header}{length}\r\n".encode() + body

    async def send(self, request: bytes) -> tuple[int, bytes, float]:
        """The status and the body of the response, and when the request was sent, by `time.perf_counter`.

        Raises one of FAILURES, or TimeoutError.
        """
        async with asyncio.timeout(self._timeout), self._open:
            while True:
                is_used = bool(self._idle)
                reader, writer = self._idle.pop() if is_used else await self._connect()
                sent = time.perf_counter()
                try:
                    writer.write(request)
                    status, body, stays = await _read_response(reader)
                    break
                except (ConnectionError, asyncio.IncompleteReadError) as error:
                    writer.close()
                    if not is_used or (isinstance(error, asyncio.IncompleteReadError) and error.partial):
                        raise
                    # The server has closed a connection that waited: once more, on another one.
                except BaseException:
                    writer.close()
                    raise
            if stays:
                self._idle.append((reader, writer))
            else:
                writer.close()
            return status, body, sent

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._host, self._port, ssl=self._tls)

    async def cpu_seconds(self) -> float | None:
        """The CPU time of the server's process by its /metrics; None without that metric."""
        with suppress(*FAILURES, TimeoutError):
            status, body, _ = await self.send(self.request("GET", "/metrics"))
            found = CPU_METRIC.search(body) if status == 200 else None
            return float(found[1]) if found else None
        return None

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


async def _read_response(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """The status, the body, and whether the connection stays open. Raises ValueError: not HTTP."""
    start, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    version, status, *_ = start.split(b" ", 2)
    headers = {name.strip().lower(): value.strip().lower() for name, _, value in (x.partition(b":") for x in lines)}
    stays = version == b"HTTP/1.1" and headers.get(b"connection") != b"close"
    if headers.get(b"transfer-encoding") == b"chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        while await reader.readline() != b"\r\n":
            pass
    elif b"content-length" in headers:
        body = await reader.readexactly(int(headers[b"content-length"]))
    else:
        body, stays = await reader.read(), False
    return int(status), body, stays


def _split(url: str) -> SplitResult:
    """Raises InputError."""
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and url.isprintable():
            return parts
    raise InputError(f"{printable(url)}: give the URL of a server, such as http://127.0.0.1:8000", exit_status=2)


def image_requests(client: HttpClient, url: str, images: Sequence[bytes]) -> list[bytes]:
    """A request for each image: the file as the body, or for a path that ends in /infer, a tensor of the protocol."""
    parts = _split(url)
    path = parts.path if parts.path not in ("", "/") else "/predict"
    target = (path + (f"?{parts.query}" if parts.query else "")).replace(" ", "%20")
    if not path.endswith("/infer"):
        return [client.request("POST", target, image, "Content-Type: application/octet-stream\r\n") for image in images]
    requests = []
    for image in images:
        size = {"binary_data_size": len(image) + 4}
        tensor = {"name": "images", "datatype": "BYTES", "shape": [1], "parameters": size}
        head = json.dumps({"inputs": [tensor]}).encode()
        header = f"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: {len(head)}\r\n"
        requests.append(client.request("POST", target, head + len(image).to_bytes(4, "little") + image, header))
    return requests


# --------------------------------------------------------------------------------------------------- the load


def run_load(url: str, images: Sequence[bytes], load: Load, token: str | None = None) -> LoadResult:
    """Send images to a server, in turn. One request is sent before, to check the server.

    Raises InputError: no server there, or its first response is an error.
    """
    return asyncio.run(_run(url, images, load, token))


async def _run(url: str, images: Sequence[bytes], load: Load, token: str | None) -> LoadResult:
    client = HttpClient(url, token, load.timeout)
    try:
        requests = image_requests(client, url, images)
        await _check(client, url, requests[0])
        return await send_load(client, requests, load)
    finally:
        client.close()


async def _check(client: HttpClient, url: str, request: bytes) -> None:
    try:
        status, body, _ = await client.send(request)
    except TimeoutError as error:
        raise InputError(f"{url}: no response in time; see whether the server is busy") from error
    except FAILURES as error:
        reason = one_line(str(error)) or type(error).__name__
        raise InputError(f"{url}: {reason}; start the server, or give its URL") from error
    if status != 200:
        raise InputError(
            f"{url}: the first response has status {status}: {one_line(body[:300].decode('utf-8', 'replace'))}"
        )


async def send_load(client: HttpClient, requests: Sequence[bytes], load: Load) -> LoadResult:
    """Send the requests in turn, at the times of `load`."""
    result, turns = LoadResult(), cycle(requests)
    server_cpu, client_cpu = await client.cpu_seconds(), time.process_time()
    began = time.perf_counter()

    async def send(start: float) -> None:
        """Send the next request, whose intended start is `start` seconds after the beginning."""
        sent, latency, failure = None, float("nan"), ""
        try:
            status, _, sent = await client.send(next(turns))
            if status == 200:
                latency = time.perf_counter() - began - start
            else:
                failure = str(status)
        except TimeoutError:
            failure = "timeout"
        except FAILURES as error:
            failure = type(error).__name__
        result.starts.append(start)
        result.latencies.append(latency)
        if sent is not None:
            result.delays.append(sent - began - start)
        if failure:
            result.errors[failure] += 1

    async def repeat() -> None:
        while (start := time.perf_counter() - began) < load.seconds:
            await send(start)

    async with asyncio.TaskGroup() as tasks:
        if load.concurrency is not None:
            for _ in range(load.concurrency):
                tasks.create_task(repeat())
        else:
            for start in load.starts().tolist():
                if (wait := start - (time.perf_counter() - began)) > 0:
                    await asyncio.sleep(wait)
                tasks.create_task(send(start))
    result.seconds = time.perf_counter() - began
    result.client_cpu = time.process_time() - client_cpu
    after = await client.cpu_seconds()
    result.server_cpu = after - server_cpu if after is not None and server_cpu is not None else None
    return result
