"""`inception-v3 serve` as users run it, with a small exported network of version 0.1.0."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from serving import png

from inception_v3.cli.serve import _is_loopback

ONNX = Path(__file__).parents[1] / "version_0_1" / "run.onnx"
TESTS = Path(__file__).parents[1]
FAKE = """
import pathlib, sys
sys.path.insert(0, {tests!r})
import fake_engine
# An exported file, whose images are prepared without PyTorch.
fake_engine.instead_of_a_network({seconds}, quick={quick}, file=pathlib.Path({file!r}))
from inception_v3.__main__ import main
main()
"""


class Process:
    """A server in a process of its own, whose log is read by a thread."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)

    def event(self, name: str) -> dict[str, Any]:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for line in [*self.lines]:
                if line.startswith("{") and json.loads(line)["event"] == name:
                    return dict(json.loads(line))
            assert self.process.poll() is None, "".join(self.lines)
            time.sleep(0.02)
        raise AssertionError("".join(self.lines))

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(60)
        self._reader.join(10)
        return status


@contextmanager
def serving(
    *arguments: object, fake_seconds: float | None = None, quick: int = 1, **environment: str
) -> Iterator[Process]:
    """A server; with `fake_seconds` one of FakeEngine, which takes this time for each batch after the `quick` first."""
    command = ["-m", "inception_v3"]
    if fake_seconds is not None:
        command = ["-c", FAKE.format(tests=str(TESTS), seconds=fake_seconds, quick=quick, file=str(ONNX))]
    process = subprocess.Popen(
        [sys.executable, *command, "serve", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    assert process.stderr is not None
    served = Process(process)
    try:
        yield served
    finally:
        process.kill()
        process.wait()
        served._reader.join(10)
        process.stderr.close()


def write_images(folder: Path, count: int) -> list[Path]:
    rng = np.random.default_rng(0)
    files = [folder / f"{number}.jpg" for number in range(count)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (90, 80, 3), dtype=np.uint8)).save(file)
    return files


def test_predictions_in_any_company_equal_those_of_predict(tmp_path: Path) -> None:
    files = write_images(tmp_path, 24)
    done = subprocess.run(
        [sys.executable, "-m", "inception_v3", "predict", ONNX, *files, "--json", "--batch-size", "1"],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    expected = [json.loads(line)["predictions"] for line in done.stdout.splitlines()]
    with serving(ONNX, "--port", 0) as server, ThreadPoolExecutor(8) as threads:
        url = server.event("ready")["address"]

        def ask(file: Path) -> Any:
            response = httpx.post(f"{url}/predict", content=file.read_bytes(), timeout=60)
            return response.json()["results"][0]["predictions"]

        found = list(threads.map(ask, files))
        metrics = httpx.get(f"{url}/metrics").text
    assert [[each["class"] for each in image] for image in found] == [[e["class"] for e in image] for image in expected]
    np.testing.assert_allclose(
        [[each["probability"] for each in image] for image in found],
        [[each["probability"] for each in image] for image in expected],
        atol=1e-5,
    )
    assert 'inception_v3_images_total{model="run",version="1"} 24.0' in metrics


def test_sigterm_drains_the_requests_in_flight_and_exits_with_0() -> None:
    with serving("pets=x", "--port", 0, fake_seconds=0.6) as server, ThreadPoolExecutor(4) as threads:
        url = server.event("ready")["address"]
        image = png(1)
        requests = [threads.submit(httpx.post, f"{url}/predict", content=image, timeout=60) for _ in range(4)]
        wait_for_requests(url, 4)
        assert server.end() == 0
        assert [each.result().status_code for each in requests] == [200] * 4
        assert any('"stopped"' in line for line in server.lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_server_at_once(number: int) -> None:
    with serving("pets=x", "--port", 0, fake_seconds=30) as server, ThreadPoolExecutor(1) as threads:
        url = server.event("ready")["address"]
        request = threads.submit(httpx.post, f"{url}/predict", content=png(1), timeout=60)
        wait_for_requests(url, 1)
        server.process.send_signal(number)
        wait_until_refused(int(url.rpartition(":")[2]))  # two signals that arrive together count as one
        started = time.monotonic()
        assert server.end(number) == 0
        assert time.monotonic() - started < 10
        assert request.result().json() == {"error": "the server has stopped"}


def test_a_signal_while_a_model_is_loaded_ends_the_server_at_once(tmp_path: Path) -> None:
    path = tmp_path / "serve.sock"
    with serving("pets=x", "--unix-socket", path, fake_seconds=30, quick=0) as server:
        server.event("listening")
        started = time.monotonic()
        assert server.end() == 0
        assert time.monotonic() - started < 10
        assert not path.exists()


def wait_for_requests(url: str, count: int) -> None:
    """Wait until a server has received this number of requests, and answered none."""
    end = time.monotonic() + 20
    while f"requests_in_flight {count + 1:.1f}" not in httpx.get(f"{url}/metrics").text:
        assert time.monotonic() < end, "they did not arrive"
        time.sleep(0.02)


def wait_until_refused(port: int) -> None:
    """Wait until a server takes no more connections."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.02)
    raise AssertionError("it still listens")


def test_a_unix_socket_is_served_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "serve.sock"
    with serving(ONNX, "--unix-socket", path) as server:
        assert server.event("ready")["address"] == f"unix:{path}"
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://server") as client:
            assert client.get("/v2/models/run").json()["name"] == "run"
        assert path.stat().st_mode & 0o777 == 0o660
        assert server.end() == 0
    assert not path.exists()


def test_the_token_is_in_a_file_or_a_variable_and_never_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret-1\n")
    in_file, in_variable = ["--token-file", tmp_path / "token"], {"INCEPTION_V3_TOKEN": "secret-1"}
    for arguments, environment in ((in_file, {}), ([], in_variable)):
        with serving(ONNX, "--port", 0, "--host", "0.0.0.0", *arguments, **environment) as server:
            url = server.event("ready")["address"].replace("0.0.0.0", "127.0.0.1")
            assert httpx.get(f"{url}/v2").status_code == 401
            assert httpx.get(f"{url}/v2", headers={"Authorization": "Bearer secret-1"}).status_code == 200
            server.end()
            assert "secret" not in "".join(server.lines)
            assert "other computers can use this server" not in "".join(server.lines)


def test_beyond_loopback_without_a_token_there_is_a_warning() -> None:
    with serving(ONNX, "--port", 0, "--host", "0.0.0.0") as server:
        server.event("ready")
        assert server.lines[0].startswith("--host 0.0.0.0: other computers can use this server; require a token")


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("::1:1", False),
        ("localhost.example", False),
        ("127.example", False),
        ("::", False),
    ],
)
def test_only_addresses_of_this_computer_need_no_warning(host: str, is_loopback: bool) -> None:
    assert _is_loopback(host) is is_loopback


def test_what_cannot_be_served_is_reported_in_one_line(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        fault = f"error: http://127.0.0.1:{port}: another program listens there; give another --port\n"
        assert command("serve", ONNX, "--port", port) == (1, "", fault)
    (tmp_path / "empty").write_text("")
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x08" + ONNX.read_bytes()[2:5000])
    for arguments, expected, fault in (
        ([tmp_path / "none.onnx", "--port", 0], 1, "none.onnx"),
        ([tmp_path / "bad.onnx", "--port", 0], 1, "bad.onnx"),
        ([ONNX, "--token-file", tmp_path / "none"], 1, "none"),
        ([ONNX, "--token-file", tmp_path / "empty"], 2, "a token is one word of ASCII characters"),
        ([ONNX, "--trusted-proxy", "proxy.example"], 2, "give an address such as 10.0.0.1"),
        ([ONNX, ONNX], 2, "a second model called run, version 1"),
        ([ONNX, "--precision", "int8", "--port", 0], 2, "int8"),
    ):
        status, _, errors = command("serve", *arguments)
        line = errors.splitlines()[-1]
        assert status == expected, line
        assert fault in line
        assert line.startswith("error: ")


def test_an_exported_network_is_served_without_pytorch_and_without_the_other_light_packages() -> None:
    code = f"""
import sys
from inception_v3.serve.models import Models, OpenOptions
from inception_v3.serve import server
models = Models(["pets={ONNX}"], OpenOptions(), 8)
models.load()
models.close()
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "starlette" in found
    assert not {*found} & {"torch", "torchvision", "scipy", "matplotlib", "pandas", "onnx", "openvino", "rich", "httpx"}
