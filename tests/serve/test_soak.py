"""Minutes of full load with hostile clients (slow tests), and the OpenAPI document held to its word by schemathesis.

SOAK_SECONDS sets the time under load. schemathesis has dependencies of its own: SCHEMATHESIS is the path of the program
in an environment with it, such as that of `uv tool install schemathesis`.
"""

import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest
from serving import png
from test_serve_command import ONNX, Process, serving

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
CLIENTS = 8
pytestmark = pytest.mark.slow

POST = b"POST /predict HTTP/1.1\r\nHost: x\r\n"
HOSTILE = [
    POST + b"Content-Length: 999999\r\n\r\nabc",
    POST + b"Transfer-Encoding: chunked\r\n\r\nffff\r\n",
    POST + b"Content-Length: 2\r\n\r\n{}",
    POST + b"Content-Length: %d\r\n\r\n" % len(png(1)) + png(1),  # a client that does not wait
    b"GET /v2 HTTP/1.1\r\nX: " + b"a" * 100_000,
    b"\x00\xff nonsense\r\n\r\n",
]


def test_under_load_with_hostile_clients_each_request_is_answered_once_and_memory_stays_flat() -> None:
    counts: Counter[object] = Counter()
    with serving(ONNX, "--port", 0, "--queue", 128) as server:
        port = port_of(server)
        pid, end = server.process.pid, time.monotonic() + SECONDS

        def ask(seed: int) -> None:
            rng, connection = random.Random(seed), HTTPConnection("127.0.0.1", port, timeout=60)
            while time.monotonic() < end:
                if rng.random() < 0.05:
                    with socket.create_connection(("127.0.0.1", port)) as hostile:
                        hostile.sendall(rng.choice(HOSTILE))
                    counts["hostile"] += 1
                connection.request("POST", "/predict", png(rng.randrange(100)))
                response = connection.getresponse()
                assert b'"predictions"' in response.read()
                counts[response.status] += 1
            connection.close()

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(CLIENTS)]
        for each in threads:
            each.start()
        time.sleep(SECONDS / 3)
        early = memory(pid)
        for each in threads:
            each.join()
        late, files = memory(pid), len([*Path(f"/proc/{pid}/fd").iterdir()])
        assert server.end() == 0
    print(counts, f"{early / 2**20:.0f} -> {late / 2**20:.0f} MiB, {files} files")
    assert set(counts) == {200, "hostile"}
    assert late < early + 30 * 2**20
    assert files < 100


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
