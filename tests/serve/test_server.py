"""The server as its clients see it: uploads, company, deadlines, bounds, faults of clients, and safety."""

import asyncio
import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from serving import Running, png, wait_for

from inception_v3.serve import limits
from inception_v3.serve.application import UNSUPPORTED
from inception_v3.serve.limits import Limits
from inception_v3.serve.metrics import Statistics
from inception_v3.serve.server import Place, listen

Start = Callable[..., Running]


def classes(response: httpx.Response) -> list[str]:
    """The top class of each image of a response of /predict, or its error."""
    assert response.status_code == 200, response.text
    return [
        each["error"] if "error" in each else each["predictions"][0]["class"] for each in response.json()["results"]
    ]


def error(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    return str(response.json()["error"])


def in_background(call: Callable[[], httpx.Response], count: int = 1) -> list[Any]:
    """Futures of requests that are on their way."""
    threads = ThreadPoolExecutor(count)
    return [threads.submit(call) for _ in range(count)]


@pytest.fixture
def logged(capfd: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    """A function that returns the requests that the servers of a test have logged until now."""
    lines: list[str] = []

    def read() -> list[dict[str, Any]]:
        lines.extend(capfd.readouterr().err.splitlines())
        return [event for event in map(json.loads, lines) if event["event"] == "request"]

    return read


# ----------------------------------------------------------------------------------------------------- uploads


def test_a_form_with_several_images_gets_the_classes_of_each(pets: Running) -> None:
    response = pets.client.post("/predict?top=2", files=pets.images(5, 9))
    assert classes(response) == ["class 5", "class 9"]
    assert response.json()["results"][0]["image"] == "5.png"
    assert [len(each["predictions"]) for each in response.json()["results"]] == [2, 2]
    assert (response.json()["model"], response.json()["version"]) == ("pets", "1")


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "IMAGE/PNG; q=1", None])
def test_the_body_may_be_an_image(pets: Running, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    assert classes(pets.client.post("/predict", content=png(7), headers=headers)) == ["class 7"]


def test_json_holds_images_in_base64_with_or_without_names(pets: Running) -> None:
    texts = [base64.b64encode(png(number)).decode() for number in (3, 4)]
    response = pets.client.post("/predict", json={"images": [texts[0], {"data": texts[1], "name": "cat.png"}]})
    assert classes(response) == ["class 3", "class 4"]
    assert [each["image"] for each in response.json()["results"]] == ["images[0]", "cat.png"]


def test_features_are_those_of_the_end_points_that_are_named(pets: Running) -> None:
    response = pets.client.post("/features?end_points=PreLogits,logits", files=pets.images(6))
    features = response.json()["results"][0]["features"]
    assert features.keys() == {"PreLogits", "logits"}
    assert len(features["PreLogits"]) == 2048
    assert int(np.argmax(features["logits"])) == 6
    assert "pets has no Mixed_9" in error(pets.client.post("/features?end_points=Mixed_9", files=pets.images(6)), 400)


def test_an_unreadable_image_does_not_stop_the_others(pets: Running) -> None:
    files = [*pets.images(5), ("image", ("bad.jpg", b"\xff\xd8\xff no", "image/jpeg")), *pets.images(8)]
    first, bad, last = classes(pets.client.post("/predict", files=files))
    assert (first, last) == ("class 5", "class 8")
    assert bad.startswith("bad.jpg: ")


WRONG_UPLOADS: list[tuple[dict[str, Any], int, str]] = [
    ({"content": b"hello"}, 400, "not a supported image"),
    ({"content": b""}, 400, "0 images"),
    ({"content": png(3)[:50]}, 400, "cannot be read|cut short"),
    ({"content": png(3), "headers": {"Content-Type": "text/html"}}, 415, "Content-Type text/html"),
    ({"content": png(3), "headers": {"Content-Encoding": "br"}}, 415, "send gzip, deflate or identity"),
    ({"content": png(3), "headers": {"Content-Encoding": "gzip"}}, 400, "no valid gzip data"),
    ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "boundary"),
    ({"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=a"}}, 400, "multipart/form-data: "),
    ({"data": {"image": "text"}, "files": {"a": ("", b"")}}, 400, "send the images as files|0 images"),
    ({"json": {"images": []}}, 400, "0 images"),
    ({"json": {"images": "x"}}, 400, 'must be {"images"'),
    ({"json": {"images": [{"data": 7}]}}, 400, r"images\[0\]: must be the base64"),
    ({"json": {"images": [{"name": 7}]}}, 400, r"images\[0\]: name must be a string"),
    ({"json": {"images": ["AAAA"] * 129}}, 400, "129 images; send at least 1 and at most 128"),
    ({"json": {"images": [{"url": "file:///etc/passwd"}]}}, 400, "must be the base64"),
    ({"json": {"images": ["http://127.0.0.1/cat.png"]}}, 400, "must be the base64"),
]


@pytest.mark.parametrize("number", range(len(WRONG_UPLOADS)))
def test_a_wrong_upload_is_refused_with_its_fault(pets: Running, number: int) -> None:
    request, status, fault = WRONG_UPLOADS[number]
    assert re.search(fault, error(pets.client.post("/predict", **request), status))


@pytest.mark.parametrize("query", ["top=0", "top=x", "top=-1", "timeout=0", "timeout=nan", "timeout=x"])
def test_a_wrong_parameter_is_refused(pets: Running, query: str) -> None:
    assert query.partition("=")[0] in error(pets.client.post(f"/predict?{query}", files=pets.images(1)), 400)


def test_the_name_of_an_upload_is_never_opened_and_printed_on_one_line(pets: Running) -> None:
    files = [("image", ("/etc/passwd", b"no image", "image/png")), *pets.images(1)]
    response = pets.client.post("/predict", files=files)
    assert "not a supported image" in response.json()["results"][0]["error"]
    named = {"images": [{"data": base64.b64encode(png(1)).decode(), "name": "a\nb\x1b[2J"}]}
    assert pets.client.post("/predict", json=named).json()["results"][0]["image"] == "a\\nb\\x1b[2J"


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(start: Start) -> None:
    server = start(limits=Limits(pixels=10_000))
    fault = error(server.client.post("/predict", content=png(1, (101, 100))), 400)
    assert fault == "images[0]: 101x100 pixels, more than the limit of 10,000; make it smaller"
    assert classes(server.client.post("/predict", content=png(1, (100, 100)))) == ["class 1"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_limit_is_refused_and_others_are_not(start: Start, chunked: bool) -> None:
    server = start(limits=Limits(body=2**16))
    body = bytes(2**17)
    content: Any = iter([body[: 2**14]] * 8) if chunked else body
    assert "65536" in error(server.client.post("/predict", content=content), 413)
    assert classes(server.client.post("/predict", content=png(2))) == ["class 2"]


def test_a_body_that_is_announced_as_too_large_is_refused_before_it_is_sent(start: Start) -> None:
    server = start(limits=Limits(body=2**16, idle_seconds=1))
    received = raw(server, b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n")
    assert received.splitlines()[0].split()[1] == b"413"


# ------------------------------------------------------------------------------------- company and the queue


def test_requests_that_come_together_share_a_batch_and_get_their_own_results(start: Start) -> None:
    server = start()
    server.engine.gate.clear()
    with ThreadPoolExecutor(12) as threads:
        first = threads.submit(server.client.post, "/predict", content=png(0))
        assert server.engine.entered.acquire(timeout=10)
        others = [threads.submit(server.client.post, "/predict", files=server.images(n, n + 20)) for n in range(1, 12)]
        (model,) = server.server.models._models.values()
        wait_for(lambda: model.batcher.waiting == 22)
        metrics = server.client.get("/metrics").text
        assert 'inception_v3_queue_images{model="pets",version="1"} 22.0' in metrics
        server.engine.gate.set()
        assert classes(first.result()) == ["class 0"]
        assert [classes(each.result()) for each in others] == [[f"class {n}", f"class {n + 20}"] for n in range(1, 12)]
    assert server.engine.batches == [1, 8, 8, 6]
    metrics = server.client.get("/metrics").text
    assert 'inception_v3_batch_size_bucket{le="8.0",model="pets",version="1"} 4.0' in metrics
    assert 'inception_v3_images_total{model="pets",version="1"} 23.0' in metrics
    assert 'inception_v3_requests_total{operation="predict",status="200"} 12.0' in metrics


def test_images_that_cannot_be_read_are_not_counted_as_computed(start: Start) -> None:
    server = start()
    bad = ("image", ("bad.jpg", b"\xff\xd8\xff no", "image/jpeg"))
    assert server.client.post("/predict", files=[*server.images(5), bad, bad]).status_code == 200
    assert server.client.post("/predict", files=[bad]).status_code == 400
    assert server.engine.batches == [1]
    metrics = server.client.get("/metrics").text
    assert 'inception_v3_images_total{model="pets",version="1"} 1.0' in metrics
    assert 'inception_v3_batch_size_count{model="pets",version="1"} 1.0' in metrics
    (statistics,) = server.client.get("/v2/models/stats").json()["model_stats"]
    assert (statistics["inference_count"], statistics["execution_count"]) == (1, 1)


def test_a_full_queue_refuses_with_the_time_to_wait_while_live_stays_true(start: Start) -> None:
    server = start(limits=Limits(queue=3))
    server.engine.gate.clear()
    running = in_background(lambda: server.client.post("/predict", files=server.images(1, 2, 3)))
    assert server.engine.entered.acquire(timeout=10)
    (model,) = server.server.models._models.values()
    for seconds, wait in ((0, "1"), (10, "8"), (1e4, "60")):  # of 4 images in the engine until now
        model.statistics = Statistics()
        model.statistics.add_batch(4, 0.0, seconds, [])
        refused = server.client.post("/predict", content=png(4))
        assert "the queue of pets is full (3 images)" in error(refused, 503)
        assert refused.headers["Retry-After"] == wait
    assert server.client.get("/v2/health/live").json()["live"] is True
    assert server.client.get("/v2/health/ready").status_code == 200
    server.engine.gate.set()
    assert classes(running[0].result()) == ["class 1", "class 2", "class 3"]
    assert classes(server.client.post("/predict", content=png(4))) == ["class 4"]


def test_a_request_after_its_deadline_gets_504_also_if_it_is_in_the_engine(start: Start) -> None:
    server = start(limits=Limits(deadline=0.3))
    server.engine.gate.clear()
    running = in_background(lambda: server.client.post("/predict", content=png(1)))
    assert server.engine.entered.acquire(timeout=10)
    running += in_background(lambda: server.client.post("/predict", content=png(1)), 2)
    assert all("the deadline has passed" in error(each.result(), 504) for each in running)
    server.engine.gate.set()
    assert classes(server.client.post("/predict", content=png(2))) == ["class 2"]
    assert sum(server.engine.batches) == 2  # the two that waited left the queue


def test_a_request_may_shorten_its_deadline(start: Start) -> None:
    server = start()
    server.engine.gate.clear()
    data = np.zeros((1, 8, 8, 3), np.uint8).tolist()
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": data}
    request = {"inputs": [tensor], "parameters": {"timeout": 200_000}}
    started = time.monotonic()
    assert "the deadline has passed" in error(server.client.post("/v2/models/pets/infer", json=request), 504)
    assert time.monotonic() - started < 5


def test_a_client_that_vanishes_gives_up_its_place(start: Start, logged: Callable[[], list[dict[str, Any]]]) -> None:
    server = start()
    server.engine.gate.clear()
    first = in_background(lambda: server.client.post("/predict", content=png(1)))
    assert server.engine.entered.acquire(timeout=10)
    (model,) = server.server.models._models.values()
    with pytest.raises(httpx.TimeoutException):
        httpx.post(f"{server.url}/predict", content=png(2), timeout=0.3)
    wait_for(lambda: model.batcher.waiting == 0 and model.queue.held == 1)
    wait_for(lambda: [each["status"] for each in logged()] == [499])
    server.engine.gate.set()
    assert classes(first[0].result()) == ["class 1"]
    assert server.engine.batches == [1]


def test_an_engine_that_fails_gives_each_request_one_error_and_the_server_lives(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    server = start()
    server.engine.failures = [RuntimeError("the device is\non fire")]
    assert "failed; the server's log has the reason" in error(server.client.post("/predict", content=png(1)), 500)
    assert classes(server.client.post("/predict", content=png(1))) == ["class 1"]
    (line,) = [line for line in capfd.readouterr().err.splitlines() if '"engine failed"' in line]
    assert "on fire" in json.loads(line)["error"]


def test_two_models_are_chosen_by_name_and_version(start: Start) -> None:
    server = start("pets:10=/dev/null", "pets:9=/dev/null", "birds=/dev/null")
    versions = [
        server.client.post(f"/predict?{query}", content=png(1)).json()[key]
        for query, key in (("", "model"), ("model=birds", "model"), ("model=pets", "version"), ("version=9", "version"))
    ]
    assert versions == ["pets", "birds", "10", "9"]
    assert server.client.get("/v2/models/pets").json()["versions"] == ["9", "10"]
    assert "there is no model dogs; there are pets" in error(server.client.post("/predict?model=dogs"), 404)


def test_a_response_does_not_wait_for_acknowledgements_of_its_first_part() -> None:
    async def options() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with listen(Place(port=0)) as listening:
            async with await asyncio.start_server(accepted, sock=listening):
                with socket.create_connection(listening.getsockname()):
                    return await asyncio.wait_for(found, 10)

    assert asyncio.run(options()) == 1


# ------------------------------------------------------------------------------------------------------ safety


def test_every_response_has_security_headers_and_none_for_other_origins(pets: Running) -> None:
    for response in (pets.client.get("/v2"), pets.client.get("/nothing", headers={"Origin": "https://evil.example"})):
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert "Access-Control-Allow-Origin" not in response.headers
        assert "Server" not in response.headers


def test_the_id_of_a_request_is_taken_over_unless_it_is_no_word(pets: Running) -> None:
    assert pets.client.get("/v2", headers={"X-Request-ID": "a-1.b_c"}).headers["X-Request-ID"] == "a-1.b_c"
    for bad in ("a b", "x" * 65, '"}'):
        assert re.fullmatch(
            "[0-9a-f]{16}", pets.client.get("/v2", headers={"X-Request-ID": bad}).headers["X-Request-ID"]
        )


def test_a_token_is_required_except_by_probes(start: Start) -> None:
    server = start(token="secret")
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "secret"},
        {"Authorization": "Basic secret"},
    ):
        refused = server.client.get("/v2", headers=headers)
        assert "Authorization: Bearer TOKEN" in error(refused, 401)
        assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert server.client.get("/v2", headers={"Authorization": "Bearer secret"}).status_code == 200
    assert server.client.get("/v2/health/ready").status_code == 200
    assert server.client.get("/metrics").status_code == 401
    assert server.client.get("/v2", headers={"Authorization": b"Bearer \xe9"}).status_code == 401


def raw(server: Running, *parts: bytes, pause: float = 0.0) -> bytes:
    """What the server sends for these bytes until it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=15) as connection:
        received = b""
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            while chunk := connection.recv(65536):
                received += chunk
        except (ConnectionResetError, BrokenPipeError):
            pass
        return received


def test_a_response_is_sent_at_once_and_not_in_parts(pets: Running) -> None:
    """Each part would be a packet, and would wake the client."""
    with socket.create_connection(("127.0.0.1", pets.port), timeout=15) as connection:
        for _ in range(20):
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            received = connection.recv(65536)
            assert received.startswith(b"HTTP/1.1 200")
            assert received.endswith(b'{"live":true}')


GET = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n"


def test_trickled_headers_are_cut_off_and_others_are_answered_meanwhile(start: Start) -> None:
    server = start(limits=Limits(header_seconds=0.5))
    slow = in_background(lambda: raw(server, GET, *[b"X: %d\r\n" % n for n in range(40)], pause=0.05))  # type: ignore[arg-type,return-value]
    started = time.monotonic()
    assert server.client.get("/v2/health/live").status_code == 200
    received = slow[0].result()
    assert received == b"" or b"408" in received.splitlines()[0]
    assert time.monotonic() - started < 5
    silent = raw(server)
    assert b"408 Request Timeout" in silent.splitlines()[0]
    assert json.loads(silent.rpartition(b"\r\n\r\n")[2]) == {"error": "the header did not arrive within 0.5 seconds"}


def test_trickled_headers_of_a_second_request_are_cut_off_too(start: Start) -> None:
    server = start(limits=Limits(header_seconds=0.5))
    received = raw(server, GET + b"\r\n", GET, pause=0.2)
    assert received.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 408" in received


@pytest.mark.parametrize("header", [b"Content-Length: 1000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello"])
def test_a_body_that_does_not_arrive_is_cut_off(start: Start, header: bytes) -> None:
    server = start(limits=Limits(body_seconds=0.4))
    received = raw(server, b"POST /predict HTTP/1.1\r\nHost: x\r\n" + header)
    assert b"408 Request Timeout" in received.splitlines()[0]
    assert b"the body did not arrive within 0.4 seconds" in received


def test_a_body_that_nobody_reads_is_cut_off_too(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLOSE_GRACE", 0.2)
    server = start(limits=Limits(body_seconds=0.2))
    started = time.monotonic()
    assert b"200 OK" in raw(server, GET + b"Content-Length: 1000\r\n\r\n")
    assert time.monotonic() - started < 6


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([b"nonsense\r\n\r\n"], 400),
        ([b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"], 400),
        ([b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"], 400),
        ([b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n"], 431),
        ([GET + b"X: " + b"a" * 20_000, b"a" * 40_000], 431),
        ([b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"], 431),
        ([GET + b"X: a\r\n evil\x00\r\n\r\n"], 400),
    ],
)
def test_what_is_no_http_gets_an_error_in_the_form_of_the_protocol(
    start: Start, parts: list[bytes], status: int
) -> None:
    server = start(limits=Limits(idle_seconds=1))
    received = raw(server, *parts)
    assert received.splitlines()[0].split()[1] == b"%d" % status
    assert json.loads(received.rpartition(b"\r\n\r\n")[2]).keys() == {"error"}
    assert server.client.get("/v2/health/live").status_code == 200


def test_idle_connections_give_way_to_new_ones(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IDLE_SECONDS", 0.2)
    server = start(limits=Limits(connections=20))
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
    time.sleep(0.4)
    assert [httpx.get(f"{server.url}/v2/health/live").status_code for _ in range(10)] == [200] * 10
    for each in idle:
        each.close()


def test_bodies_of_all_requests_together_are_bounded(start: Start) -> None:
    server = start(limits=Limits(bodies=3000))
    server.engine.gate.clear()
    body = json.dumps({"images": [base64.b64encode(png(1)).decode()], "padding": "x" * 2500}).encode()
    headers = {"Content-Type": "application/json"}
    first = in_background(lambda: server.client.post("/predict", content=body, headers=headers))
    assert server.engine.entered.acquire(timeout=10)
    refused = server.client.post("/predict", content=body, headers=headers)
    assert "too many bytes" in error(refused, 503)
    assert refused.headers["Retry-After"] == "1"
    server.engine.gate.set()
    assert classes(first[0].result()) == ["class 1"]
    assert classes(server.client.post("/predict", content=body, headers=headers)) == ["class 1"]


def test_a_burst_of_requests_is_answered_or_refused_and_nothing_stays_held(start: Start) -> None:
    server = start(limits=Limits(queue=16))
    server.engine.seconds = 0.01
    with ThreadPoolExecutor(32) as threads:
        statuses = list(
            threads.map(lambda n: server.client.post("/predict", content=png(n % 100)).status_code, range(300))
        )
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) == sum(server.engine.batches)
    (model,) = server.server.models._models.values()
    wait_for(lambda: not model.queue.held and not server.server.bodies._held.held and not model.users)
    assert threading.active_count() < 60


def test_the_log_has_one_json_line_for_each_request(start: Start, logged: Callable[[], list[dict[str, Any]]]) -> None:
    server = start()
    server.client.post("/predict", content=png(1), headers={"X-Request-ID": "abc"})
    server.client.get("/nothing%0a%1b")
    wait_for(lambda: len(logged()) == 2)
    predicted, missing = logged()
    assert predicted["request_id"] == "abc"
    assert (predicted["status"], predicted["model"], predicted["path"]) == (200, "pets", "/predict")
    assert predicted["bytes"] == len(png(1))
    assert (missing["status"], missing["path"]) == (404, "/nothing\n\x1b")


def test_only_a_trusted_proxy_names_the_client_of_a_request(
    start: Start, logged: Callable[[], list[dict[str, Any]]]
) -> None:
    for trusted in ((), ("10.0.0.0/8",), ("127.0.0.0/8",)):
        start(trusted_proxies=trusted).client.get("/v2", headers={"X-Forwarded-For": "203.0.113.9"})
    wait_for(lambda: len(logged()) == 3)
    assert [each["client"] for each in logged()] == ["127.0.0.1", "127.0.0.1", "203.0.113.9"]


def test_every_operation_is_described_and_shown_on_a_page_that_loads_nothing(pets: Running) -> None:
    paths = pets.client.get("/openapi.json").json()["paths"]
    routes = pets.server.application()._app.routes
    described = {route.path for route in routes if route.include_in_schema and route.path not in UNSUPPORTED}
    assert paths.keys() == described
    page = pets.client.get("/docs")
    assert all(path in page.text for path in paths)
    style = page.text.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; frame-ancestors 'none'"
    assert page.headers["Content-Security-Policy"] == policy
