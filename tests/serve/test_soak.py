"""Minutes of full load with hostile clients (slow tests), and the OpenAPI document held to its word by schemathesis.

SOAK_SECONDS sets the time under load, ten minutes by default. schemathesis has dependencies of its own: SCHEMATHESIS is
the path of the program in an environment with it, such as that of `uv tool install schemathesis`.
"""

import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.request import urlopen

import pytest
from serving import png
from test_serve_command import ONNX, Process, serving

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
CLIENTS = 8
pytestmark = pytest.mark.slow

POST = b"POST /predict HTTP/1.1\r\nHost: x\r\n"
IMAGE = b"Content-Length: %d\r\n\r\n" % len(png(1)) + png(1)
HOSTILE = [
    POST + b"Content-Length: 999999\r\n\r\nabc",
    POST + b"Transfer-Encoding: chunked\r\n\r\nffff\r\n",
    POST + b"Content-Length: 2\r\n\r\n{}",
    POST + IMAGE,  # a client that does not wait
    (POST + IMAGE) * 3,
    b"GET /v2 HTTP/1.1\r\nX: " + b"a" * 100_000,
    b"GET /v2/models/..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: x\r\n\r\n",
    POST.replace(b"/predict", b"/v2/models/run/infer")
    + b"Inference-Header-Content-Length: 99\r\nContent-Length: 1\r\n\r\n{",
    b"\x00\xff nonsense\r\n\r\n",
]


@dataclass
class Clients:
    """Clients that send images without a pause, and one hostile request in twenty, until `stop`.

    `answers` has the status and the X-Request-ID of each response, with the one that was sent; None: no response.
    """

    port: int
    stop: threading.Event = field(default_factory=threading.Event)
    answers: list[tuple[int, str, str] | None] = field(default_factory=list)
    hostile: int = 0
    faults: list[str] = field(default_factory=list)

    def ask(self, seed: int) -> None:
        rng, connection = random.Random(seed), HTTPConnection("127.0.0.1", self.port, timeout=60)
        numbers = itertools.count()
        while not self.stop.is_set():
            if rng.random() < 0.05:
                with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)) as hostile:
                    hostile.sendall(rng.choice(HOSTILE))
                    self.hostile += 1
            sent = f"{seed}-{next(numbers)}"
            try:
                connection.request("POST", "/predict", png(rng.randrange(100)), {"X-Request-ID": sent})
                response = connection.getresponse()
                body = response.read()
                self.answers.append((response.status, sent, response.headers["X-Request-ID"]))
                if (response.status == 200) != (b'"predictions"' in body):
                    self.faults.append(f"{response.status} {body[:200]!r}")
            except (OSError, HTTPException):
                connection.close()
                self.answers.append(None)
        connection.close()

    @contextmanager
    def running(self) -> Iterator["Clients"]:
        threads = [threading.Thread(target=self.ask, args=(seed,)) for seed in range(CLIENTS)]
        for each in threads:
            each.start()
        try:
            yield self
        finally:
            self.stop.set()
            for each in threads:
                each.join()

    def check(self, log: list[str]) -> Counter[int]:
        """Each response is that of its request, and the log has it once with the same status. Returns the statuses."""
        received = [answer for answer in self.answers if answer is not None]
        assert not self.faults
        assert all(sent == returned for _, sent, returned in received)
        lines = [json.loads(line) for line in log if '"event": "request"' in line]
        logged = Counter((line["request_id"], line["status"]) for line in lines)
        assert all(logged[sent, status] == 1 for status, sent, _ in received)
        return Counter(status for status, _, _ in received)


def open_files(process: int) -> int:
    return len([*Path(f"/proc/{process}/fd").iterdir()])


def images_of(url: str) -> tuple[float, float]:
    """The images and the batches of a server until now, by its metrics."""
    text = urlopen(f"{url}/metrics").read().decode()
    return tuple(  # type: ignore[return-value]
        float(re.search(rf"^inception_v3_batch_size_{key}\{{.*\}} (\S+)$", text, re.MULTILINE)[1])  # type: ignore[index]
        for key in ("sum", "count")
    )


def test_under_load_with_hostile_clients_each_request_is_answered_once_and_memory_stays_flat() -> None:
    with serving(ONNX, "--port", 0, "--queue", 128) as server:
        url, pid = server.event("ready")["address"], server.process.pid
        with Clients(port_of(server)).running() as clients:
            time.sleep(SECONDS / 3)
            early, early_files = memory(pid), open_files(pid)
            time.sleep(SECONDS * 2 / 3)
            late, late_files = memory(pid), open_files(pid)
        images, batches = images_of(url)
        assert server.end() == 0
    statuses = clients.check(server.lines)
    print(
        f"{statuses}, {clients.hostile} hostile, {images / batches:.2f} images in a batch, "
        f"{early / 2**20:.0f} -> {late / 2**20:.0f} MiB, {early_files} -> {late_files} files"
    )
    assert None not in clients.answers
    assert set(statuses) == {200}
    assert images / batches > 1
    assert late < early + 30 * 2**20
    assert late_files < 100


def test_sigterm_under_load_answers_every_request_that_was_accepted() -> None:
    with serving(ONNX, "--port", 0) as server, Clients(port_of(server)).running() as clients:
        time.sleep(1)
        assert server.end() == 0
        clients.stop.set()
    statuses = clients.check(server.lines)
    lines = [json.loads(line) for line in server.lines if '"event": "request"' in line]
    sent = {answer[1] for answer in clients.answers if answer is not None}
    accepted = {line["request_id"] for line in lines if re.fullmatch(r"\d+-\d+", line["request_id"])}
    assert accepted == sent  # no request has reached the server without a response for its client
    assert set(statuses) <= {200, 503}
    assert statuses[200] > 10
    assert not any('"bug"' in line for line in server.lines)


def test_a_killed_server_leaves_nothing_behind_that_hinders_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "serve.sock"
    with serving(ONNX, "--unix-socket", path) as server:
        server.event("ready")
        server.process.kill()
        assert server.process.wait(10) == -signal.SIGKILL
    assert path.exists()
    with serving(ONNX, "--port", 0) as server, Clients(port_of(server)).running() as clients:
        port = port_of(server)
        time.sleep(1)
        server.process.kill()
        server.process.wait(10)
        with serving(ONNX, "--port", port) as second:  # while the clients try to connect
            second.event("ready")
            time.sleep(1)
            clients.stop.set()
            assert second.end() == 0
    clients.answers = clients.answers[-10:]
    assert clients.check(second.lines)[200] > 0
    with serving(ONNX, "--unix-socket", path) as server:
        server.event("ready")
        assert server.end() == 0


def test_a_thousand_idle_connections_and_a_burst_of_ten_thousand_requests() -> None:
    statuses: Counter[int] = Counter()
    with serving(ONNX, "--port", 0, "--queue", 64, "--max-images", 8) as server:
        port = port_of(server)
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(1000)]

        def ask(_: int) -> None:
            for _ in range(100):
                with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
                    connection.request("POST", "/predict", png(1))
                    statuses[connection.getresponse().status] += 1

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(100)]
        for each in threads:
            each.start()
        with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as live:
            live.request("GET", "/v2/health/live")
            assert live.getresponse().status == 200
        for each in threads:
            each.join()
        for each in idle:
            each.close()
        assert server.end() == 0
    assert sum(statuses.values()) == 10_000
    assert set(statuses) <= {200, 503}
    assert statuses[200] > 0


def memory(process: int) -> int:
    """The memory of a process in bytes."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def port_of(server: Process) -> int:
    return int(server.event("ready")["address"].rpartition(":")[2])


def test_schemathesis_finds_nothing_in_the_openapi_document(tmp_path: Path) -> None:
    program = os.environ.get("SCHEMATHESIS") or shutil.which("schemathesis")
    if program is None:
        pytest.skip("schemathesis has dependencies of its own; SCHEMATHESIS is the path of the program")
    with serving(ONNX, "--port", 0) as server:
        url = server.event("ready")["address"]
        # That valid data are accepted is not checked: the schema cannot say which texts are images of the right size.
        arguments = ["--max-examples", "20", "--exclude-checks", "positive_data_acceptance"]
        done = subprocess.run(
            [program, "run", f"{url}/openapi.json", *arguments], cwd=tmp_path, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stdout[-3000:]
