"""Downloads are complete, verified, resumed and not repeated, over a network with faults."""

import hashlib
import os
import pty
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from inception_v3.errors import InputError
from inception_v3.support import download as module
from inception_v3.support.download import DownloadError, download, fetch
from web_server import Fault, Served, WebServer

CONTENT = os.urandom(1000) * 300
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()[:8]}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setattr(module, "PAUSE", 0.01)
    with WebServer().running() as server:
        server.files["/weights"] = Served(CONTENT)
        yield server


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "weights"


def visible(file: Path) -> set[str]:
    """Names of the files in the cache, except the lock file."""
    return {path.name for path in file.parent.glob("*") if not path.name.endswith(".lock")}


# ----------------------------------------------------------------------------------------------- without faults


def test_a_file_is_downloaded_once(server: WebServer, file: Path) -> None:
    download(f"{server.url}/weights", file, SHA256)
    assert file.read_bytes() == CONTENT
    assert visible(file) == {"weights"}
    assert stat.S_IMODE(file.stat().st_mode) & 0o400
    download(f"{server.url}/weights", file, SHA256)
    assert len(server.requests) == 1


def test_a_complete_file_needs_no_network(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(CONTENT)
    download("http://127.0.0.1:9/weights", file, SHA256)


def test_a_damaged_file_in_the_cache_is_replaced(server: WebServer, file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(CONTENT[:-1])
    download(f"{server.url}/weights", file, SHA256)
    assert file.read_bytes() == CONTENT


def test_a_server_may_omit_the_length(server: WebServer, file: Path) -> None:
    server.files["/weights"].sends_length = False
    download(f"{server.url}/weights", file, SHA256)
    assert file.read_bytes() == CONTENT


def test_redirects_are_followed_and_resumed(server: WebServer, file: Path) -> None:
    redirect = Fault(302, location=f"{server.url}/weights")
    server.faults = [redirect, Fault(cut=1000), redirect]
    download(f"{server.url}/old", file, SHA256)
    assert file.read_bytes() == CONTENT
    assert server.requested_ranges == [None, None, "bytes=1000-", "bytes=1000-"]


# ------------------------------------------------------------------------------------------------- interruptions


def test_an_interrupted_download_is_resumed(server: WebServer, file: Path) -> None:
    server.faults = [Fault(cut=1000), Fault(cut=5000), Fault(503)]
    download(f"{server.url}/weights", file, SHA256)
    assert file.read_bytes() == CONTENT
    assert server.requested_ranges == [None, "bytes=1000-", "bytes=6000-", "bytes=6000-"]
    assert [condition for *_, condition in server.requests] == [None, *['"one"'] * 3], "If-Range: only the same version"


def test_a_timeout_is_an_interruption(server: WebServer, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 1.0)
    server.faults = [Fault(stall=1000)]
    download(f"{server.url}/weights", file, SHA256)
    assert file.read_bytes() == CONTENT
    assert server.requested_ranges == [None, "bytes=1000-"]


@pytest.mark.parametrize("fault", [Fault(cut=0), Fault(503), Fault(stall=0)])
def test_after_too_many_failures_the_next_call_resumes(
    server: WebServer, file: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.5)
    server.faults = [Fault(cut=1000), *[fault] * 10]
    with pytest.raises(
        DownloadError, match=r"^http\S+/weights: (interrupted after 0\.0 MB of 0\.3|the server returned 503)"
    ):
        download(f"{server.url}/weights", file, SHA256)
    assert visible(file) == {"weights.partial", "weights.partial.version"}
    server.faults.clear()
    server.requests.clear()
    download(f"{server.url}/weights", file, SHA256)
    assert file.read_bytes() == CONTENT
    assert server.requested_ranges == ["bytes=1000-"]
    assert visible(file) == {"weights"}


def test_a_part_that_was_not_requested_is_rejected(server: WebServer, file: Path) -> None:
    server.faults = [Fault(cut=1000), Fault(start=500)]
    download(f"{server.url}/weights", file)
    assert file.read_bytes() == CONTENT
    assert server.requested_ranges == [None, "bytes=1000-", None]


def test_without_range_support_the_download_starts_again(server: WebServer, file: Path) -> None:
    server.files["/weights"].supports_range = False
    server.faults = [Fault(cut=1000)]
    download(f"{server.url}/weights", file, SHA256)
    assert file.read_bytes() == CONTENT


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_version_nothing_is_resumed(server: WebServer, file: Path, etag: str | None) -> None:
    server.files["/weights"].etag = etag
    server.faults = [Fault(cut=1000)]
    download(f"{server.url}/weights", file)
    assert file.read_bytes() == CONTENT
    assert server.requested_ranges == [None, None]


@pytest.mark.parametrize("supports_if_range", [True, False], ids=["If-Range supported", "If-Range ignored"])
def test_two_versions_of_a_file_are_never_mixed(
    server: WebServer, file: Path, supports_if_range: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    server.faults = [Fault(cut=1000), Fault(cut=0)]
    with pytest.raises(DownloadError):
        download(f"{server.url}/weights", file)
    monkeypatch.setattr(module, "ATTEMPTS", 4)
    server.files["/weights"] = Served(bytes(reversed(CONTENT)), '"two"')
    if not supports_if_range:
        monkeypatch.setattr(WebServer, "respond", ignoring_if_range(WebServer.respond))
    download(f"{server.url}/weights", file)
    assert file.read_bytes() == bytes(reversed(CONTENT))


def ignoring_if_range(respond):  # type: ignore[no-untyped-def]
    def respond_without_if_range(self, request, body):  # type: ignore[no-untyped-def]
        del request.headers["If-Range"]
        respond(self, request, body)

    return respond_without_if_range


def test_a_file_that_became_shorter_is_downloaded_from_the_start(server: WebServer, file: Path) -> None:
    file.parent.mkdir()
    file.with_name("weights.partial").write_bytes(CONTENT * 2)
    file.with_name("weights.partial.version").write_text('"one"')
    download(f"{server.url}/weights", file)
    assert file.read_bytes() == CONTENT


def test_a_complete_partial_file_is_not_downloaded_again(file: Path) -> None:
    file.parent.mkdir()
    file.with_name("weights.partial").write_bytes(CONTENT)
    download("http://127.0.0.1:9/weights", file, SHA256)
    assert visible(file) == {"weights"}


# ------------------------------------------------------------------------------------------------------- errors


def test_a_wrong_checksum_leaves_no_file(server: WebServer, file: Path) -> None:
    with pytest.raises(DownloadError, match="its sha256 is not the published one, and it was deleted"):
        download(f"{server.url}/weights", file, "sha256:00000000")
    assert visible(file) == set()


def test_md5_checksums_are_verified(server: WebServer, file: Path) -> None:
    download(f"{server.url}/weights", file, f"md5:{hashlib.md5(CONTENT).hexdigest()}")
    assert file.exists()


def test_a_missing_file_is_reported_without_retries(server: WebServer, file: Path) -> None:
    with pytest.raises(DownloadError, match=r"/nothing: the server returned 404 \(Not Found\)$"):
        download(f"{server.url}/nothing", file)
    assert len(server.requests) == 1
    assert visible(file) == set()


def test_a_missing_network_is_reported_without_retries(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda _: pytest.fail("it retries"))
    with pytest.raises(DownloadError, match=r"^http://127.0.0.1:9/weights: cannot be reached \(Connection refused\)$"):
        download("http://127.0.0.1:9/weights", file)


@pytest.mark.parametrize("sends_length", [True, False], ids=["length sent", "length not sent"])
def test_a_file_above_the_limit_is_not_downloaded(
    server: WebServer, file: Path, sends_length: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 100_000)
    server.files["/weights"].sends_length = sends_length
    size = "0.3" if sends_length else "0.[1-3]"
    with pytest.raises(InputError, match=f"{size} MB or more is too large for an Inception V3; it was not downloaded"):
        download(f"{server.url}/weights", file)
    assert visible(file) == set()


def test_too_little_disk_space_is_reported_before_the_download(
    server: WebServer, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(module.shutil.disk_usage("/"))(10**9, 10**9, 1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="free some space"):
        download(f"{server.url}/weights", file)
    assert visible(file) == set()


def test_a_cache_folder_that_cannot_be_created_is_reported(server: WebServer, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match="cannot be written"):
        download(f"{server.url}/weights", tmp_path / "cache" / "weights")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/weights", "data:,weights"])
def test_redirects_to_other_schemes_are_refused(server: WebServer, file: Path, target: str) -> None:
    server.faults = [Fault(302, location=target)]
    with pytest.raises(DownloadError, match="/weights: "):
        download(f"{server.url}/weights", file)
    assert visible(file) == set()


def test_redirects_from_https_to_http_are_refused() -> None:
    request = module.urllib.request.Request("https://example.org/weights")
    follow = module._HttpRedirects().redirect_request
    assert follow(request, None, 302, "", {}, "https://example.com/x") is not None
    with pytest.raises(DownloadError, match="which is not allowed"):
        follow(request, None, 302, "", {}, "http://example.com/x")


def test_endless_redirects_are_one_error(server: WebServer, file: Path) -> None:
    server.faults = [Fault(302, location=f"{server.url}/weights")] * 20
    with pytest.raises(DownloadError, match="the server returned 302") as raised:
        download(f"{server.url}/weights", file)
    assert "\n" not in str(raised.value)


# ---------------------------------------------------------------------------------------------------- processes

FETCH = "import sys; from pathlib import Path; from inception_v3.support.download import download; "
FETCH += "download(sys.argv[1], Path(sys.argv[2]), sys.argv[3])"


def start(server: WebServer, file: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", FETCH, f"{server.url}/weights", str(file), SHA256]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def test_a_terminal_shows_the_progress(server: WebServer, file: Path) -> None:
    terminal, inner = pty.openpty()
    command = [sys.executable, "-c", FETCH, f"{server.url}/weights", str(file), SHA256]
    assert subprocess.run(command, stdout=inner, stderr=inner, timeout=60).returncode == 0
    os.close(inner)
    shown = ""
    with suppress(OSError):  # end of file
        while piece := os.read(terminal, 100_000):
            shown += piece.decode(errors="replace")
    os.close(terminal)
    assert "weights" in shown
    assert "300.0/300.0 kB" in shown


def wait_for(condition) -> None:  # type: ignore[no-untyped-def]
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_processes_download_once_and_resume_after_a_killed_one(server: WebServer, file: Path) -> None:
    server.faults = [Fault(stall=7000)]
    killed = start(server, file)
    part = file.with_name("weights.partial")
    wait_for(lambda: part.exists() and part.stat().st_size == 7000)
    others = [start(server, file), start(server, file)]  # they wait for the lock
    time.sleep(0.5)
    assert server.requested_ranges == [None]
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    for process in others:
        _, err = process.communicate(timeout=20)
        assert process.returncode == 0, err.decode()
        assert err == b"", "no bar without a terminal"
    assert server.requested_ranges == [None, "bytes=7000-"]
    assert file.read_bytes() == CONTENT


# ------------------------------------------------------------------------------------------------ by URL only


def test_a_url_is_downloaded_once_to_the_cache_and_keeps_its_name(server: WebServer) -> None:
    url = f"{server.url}/weights"
    file = fetch(url)
    assert (file.name, file.read_bytes()) == ("weights", CONTENT)
    requested = len(server.requests)
    assert fetch(url) == file
    assert len(server.requests) == requested


def test_a_file_of_data_may_exceed_the_limit_of_weights(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    assert fetch(f"{server.url}/weights").read_bytes() == CONTENT


def test_an_interrupted_url_is_resumed_by_the_next_call(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{server.url}/weights"
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    server.faults = [Fault(cut=100_000), Fault(503)]
    with pytest.raises(InputError, match=r"503 .*; check the address and the network, and run the command again"):
        fetch(url)
    assert fetch(url).read_bytes() == CONTENT
    assert server.requests[-1][2] == "bytes=100000-"
