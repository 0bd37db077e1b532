"""`load-test`: latencies count from the intended start, and errors are counted, whatever the server does."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inception_v3.benchmarking.load_test import HttpClient, Load, LoadResult, image_requests, run_load
from inception_v3.errors import InputError

Answer = Callable[[int], Awaitable[bytes]]  # the bytes of the response to the request with this number
METRICS = b"# HELP x\nprocess_cpu_seconds_total %d.5\n"


def response(body: bytes = b"{}", status: str = "200 OK", header: bytes = b"") -> bytes:
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status.encode(), header, len(body), body)


@contextmanager
def served(answer: Answer) -> Iterator[tuple[str, list[bytes]]]:
    """A server in a thread: its URL, and the requests that it got, without those to /metrics."""
    requests: list[bytes] = []
    loop, started, port = asyncio.new_event_loop(), threading.Event(), [0]
    scrapes = iter(range(100))

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while header := await reader.readuntil(b"\r\n\r\n"):
                if header.startswith(b"GET /metrics"):
                    writer.write(response(METRICS % next(scrapes)))
                    continue
                length = int(header.lower().partition(b"content-length: ")[2].split()[0])
                requests.append(header + await reader.readexactly(length))
                writer.write(sent := await answer(len(requests) - 1))
                if not sent or b"Connection: close" in sent:
                    break
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port[0] = server.sockets[0].getsockname()[1]
        started.set()
        await server.serve_forever()

    def run() -> None:
        asyncio.set_event_loop(loop)
        task = loop.create_task(main())
        tasks.append(task)
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            rest = asyncio.all_tasks(loop)
            for each in rest:
                each.cancel()
            loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))

    tasks: list[asyncio.Task[None]] = []
    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(10)
    try:
        yield f"http://127.0.0.1:{port[0]}", requests
    finally:
        loop.call_soon_threadsafe(tasks[0].cancel)
        thread.join(10)
        loop.close()


async def at_once(_: int) -> bytes:
    return response()


def test_times_of_requests_are_a_poisson_process_with_the_same_seed_the_same() -> None:
    starts = Load(rate=500, seconds=40, seed=3).starts()
    gaps = np.diff(starts)
    assert abs(len(starts) - 20_000) < 600
    assert abs(gaps.std() / gaps.mean() - 1) < 0.05  # as of an exponential distribution
    assert starts.max() < 40
    assert np.array_equal(starts, Load(rate=500, seconds=40, seed=3).starts())
    assert not np.array_equal(starts[:9], Load(rate=500, seconds=40, seed=4).starts()[:9])


def test_a_server_that_stalls_delays_every_request_of_the_stall_in_an_open_loop() -> None:
    gate = asyncio.Lock()

    async def answer(number: int) -> bytes:
        async with gate:
            if number == 20:
                await asyncio.sleep(0.5)
            return response()

    with served(answer) as (url, requests):
        result = run_load(url, [b"image"], Load(rate=200, seconds=1))
    assert len(result.latencies) == len(requests) - 1  # and the first one, which only checks the server
    assert np.sum(result.succeeded > 0.1) > 60  # of the hundred requests that should have started during the stall
    assert result.as_dict()["latency_ms"]["p99"] > 400
    assert result.seconds >= 0.9


def test_a_closed_loop_has_as_many_requests_at_once_as_clients() -> None:
    at_work, most = 0, 0

    async def answer(_: int) -> bytes:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0.02)
        at_work -= 1
        return response()

    with served(answer) as (url, requests):
        result = run_load(url, [b"a", b"b"], Load(concurrency=3, seconds=0.5))
    assert most == 3
    assert 20 < len(result.succeeded) <= 75
    assert {each[-1:] for each in requests} == {b"a", b"b"}


def test_errors_are_counted_by_status_and_kind_and_have_no_latency() -> None:
    async def answer(number: int) -> bytes:
        if number == 0:
            return response()
        if number % 5 == 1:
            await asyncio.sleep(5)
        return [response(), b"", response(status="503 Busy"), b"", b"nonsense\r\n\r\n"][number % 5]

    with served(answer) as (url, _):
        result = run_load(url, [b"x"], Load(rate=100, seconds=0.5, timeout=0.3))
    assert {"503", "timeout", "IncompleteReadError", "ValueError"} == {*result.errors}
    assert len(result.succeeded) + result.errors.total() == len(result.latencies)
    assert len(result.succeeded) > 3


@pytest.mark.parametrize(
    "sent",
    [
        response(b"{}", header=b"Connection: close\r\n"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}",
    ],
)
def test_responses_of_every_form_of_http_are_read(sent: bytes) -> None:
    async def answer(_: int) -> bytes:
        return sent

    with served(answer) as (url, requests):
        result = run_load(url, [b"x"], Load(concurrency=2, seconds=0.2))
    assert not result.errors
    assert len(requests) > 3


def test_the_cpu_time_of_the_server_is_that_of_its_metrics() -> None:
    with served(at_once) as (url, _):
        result = run_load(url, [b"x"], Load(concurrency=1, seconds=0.2))
    assert result.server_cpu == 1.0
    assert 0 < result.client_cpu < 1


def test_a_path_that_ends_in_infer_gets_tensors_of_the_protocol_and_others_the_file() -> None:
    client = HttpClient("http://localhost:8000", token="secret")
    (file,) = image_requests(client, "http://localhost:8000", [b"JPEG"])
    assert file.startswith(b"POST /predict HTTP/1.1\r\nHost: localhost:8000\r\nAuthorization: Bearer secret\r\n")
    assert file.endswith(b"Content-Length: 4\r\n\r\nJPEG")
    (tensor,) = image_requests(client, "http://localhost:8000/v2/models/pets/infer", [b"JPEG"])
    header, _, body = tensor.partition(b"\r\n\r\n")
    length = int(header.partition(b"Inference-Header-Content-Length: ")[2].split()[0])
    assert json.loads(body[:length])["inputs"][0]["parameters"] == {"binary_data_size": 8}
    assert body[length:] == b"\4\0\0\0JPEG"


def test_a_load_without_a_success_has_no_percentiles() -> None:
    result = LoadResult([0.0], [float("nan")], [], seconds=1.0)
    assert result.as_dict()["latency_ms"] == {"p50": None, "p95": None, "p99": None, "max": None, "mean": None}


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://host:99999", "http://a\nb"])
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="give the URL of a server"):
        HttpClient(url)


# ------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_the_command_prints_json_and_writes_a_plot(command: Callable[..., tuple[int, str, str]], image: Path) -> None:
    plot = image.with_name("load.png")
    with served(at_once) as (url, requests):
        status, out, err = command("load-test", url, image, "--rate", 50, "--duration", 0.5, "--json", "--out", plot)
    assert (status, err) == (0, "")
    figures = json.loads(out)
    assert figures["requests"] == figures["succeeded"] == len(requests) - 1
    assert (figures["rate"], figures["concurrency"], figures["errors"]) == (50, None, {})
    assert requests[0].endswith(image.read_bytes())
    with Image.open(plot) as drawn:
        assert drawn.width > 900


def test_the_command_prints_a_summary(command: Callable[..., tuple[int, str, str]], image: Path) -> None:
    async def answer(number: int) -> bytes:
        return response(status="503 Busy" if number % 2 else "200 OK")

    with served(answer) as (url, _):
        status, out, _ = command("load-test", url, image, "--concurrency", 2, "--duration", 0.2)
    title, requests, latency, errors, cpu = out.splitlines()
    assert (status, title) == (0, "closed loop, 2 clients, 0.2 s")
    assert "succeeded" in requests
    assert latency.startswith("latency: p50 ")
    assert errors.startswith("errors: 503 (")
    assert cpu.startswith("CPU: client ")


@pytest.mark.parametrize(
    ("arguments", "status", "fault"),
    [
        ([], 2, "give --rate or --concurrency"),
        (["--rate", "1", "--concurrency", "1"], 2, "--rate and --concurrency: use only one of them"),
        (["--rate", "0"], 2, "--rate"),
        (["--rate", "nan"], 2, "--rate"),
        (["--rate", "100000", "--duration", "1000"], 2, "give a lower rate or duration"),
        (["--concurrency", "1", "--out", "load.jpg"], 2, "load.jpg: a plot is saved as"),
        (["--concurrency", "1"], 1, "start the server, or give its URL"),
    ],
)
def test_wrong_arguments_are_reported_in_one_line(
    arguments: list[str], status: int, fault: str, command: Callable[..., tuple[int, str, str]], image: Path
) -> None:
    found, out, err = command("load-test", "http://127.0.0.1:1", image, *arguments)
    assert (found, out) == (status, "")
    assert fault in err
    assert len(err.splitlines()) == 1


def test_the_first_response_shows_a_wrong_token(command: Callable[..., tuple[int, str, str]], image: Path) -> None:
    async def answer(_: int) -> bytes:
        return response(b'{"error": "this server needs the header"}', "401 Unauthorized")

    with served(answer) as (url, _):
        status, _, err = command("load-test", url, image, "--concurrency", 1)
    assert status == 1
    assert err.startswith(
        f'error: {url}: the first response has status 401: {{"error": "this server needs the header"}}'
    )
