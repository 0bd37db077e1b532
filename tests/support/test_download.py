"""Downloads: whole, checked and once, over a network that breaks, changes its mind, or is not there."""

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
from inception_v3.support.download import DownloadError, download
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
    """What lies in the cache, but for the empty file that processes lock."""
    return {path.name for path in file.parent.iterdir() if not path.name.endswith(".lock")}


# ----------------------------------------------------------------------------------------------- as it should be


def test_a_file_is_fetched_once(server: WebServer, file: Path) -> None:
    download(f"{server.url}/weights", file, SHA256)
    assert file.read_bytes() == CONTENT
    assert visible(file) == {"weights"}
    assert stat.S_IMODE(file.stat().st_mode) & 0o400
    download(f"{server.url}/weights", file, SHA256)
    assert len(server.requests) == 1


def test_what_is_there_is_taken_without_a_network(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(CONTENT)
    download("http://127.0.0.1:9/weights", file, SHA256)


def test_a_damaged_file_in_the_cache_is_replaced(server: WebServer, file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(CONTENT[:-1])
    download(f"{server.url}/weights", file, SHA256)
    assert file.read_bytes() == CONTENT


def test_a_server_that_does_not_tell_the_length_serves_too(server: WebServer, file: Path) -> None:
    server.files["/weights"].length = False
    download(f"{server.url}/weights", file, SHA256)
    assert file.read_bytes() == CONTENT


def test_it_goes_where_the_server_sends_it(server: WebServer, file: Path) -> None:
    there = Fault(302, location=f"{server.url}/weights")
    server.faults = [there, Fault(cut=1000), there]
    download(f"{server.url}/old", file, SHA256)
    assert file.read_bytes() == CONTENT
    assert server.ranges == [None, None, "bytes=1000-", "bytes=1000-"], "and resumes there"


# ------------------------------------------------------------------------------------------------------- breaks


def test_a_break_is_resumed_from_where_it_was(server: WebServer, file: Path) -> None:
    server.faults = [Fault(cut=1000), Fault(cut=5000), Fault(503)]
    download(f"{server.url}/weights", file, SHA256)
    assert file.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-", "bytes=6000-", "bytes=6000-"]
    assert [condition for *_, condition in server.requests] == [None, *['"one"'] * 3], "only of the same version"


def test_silence_is_a_break(server: WebServer, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 1.0)
    server.faults = [Fault(stall=1000)]
    download(f"{server.url}/weights", file, SHA256)
    assert file.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-"]


@pytest.mark.parametrize("fault", [Fault(cut=0), Fault(503), Fault(stall=0)])
def test_what_stays_broken_is_told_and_the_next_call_goes_on(
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
    assert server.ranges == ["bytes=1000-"]
    assert visible(file) == {"weights"}


def test_another_part_than_was_asked_for_is_not_taken(server: WebServer, file: Path) -> None:
    server.faults = [Fault(cut=1000), Fault(start=500)]
    download(f"{server.url}/weights", file)
    assert file.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-", None]


def test_a_server_without_ranges_sends_the_whole_again(server: WebServer, file: Path) -> None:
    server.files["/weights"].ranges = False
    server.faults = [Fault(cut=1000)]
    download(f"{server.url}/weights", file, SHA256)
    assert file.read_bytes() == CONTENT


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_sure_version_nothing_is_resumed(server: WebServer, file: Path, etag: str | None) -> None:
    server.files["/weights"].etag = etag
    server.faults = [Fault(cut=1000)]
    download(f"{server.url}/weights", file)
    assert file.read_bytes() == CONTENT
    assert server.ranges == [None, None]


@pytest.mark.parametrize("obeys", [True, False], ids=["If-Range obeyed", "If-Range ignored"])
def test_two_versions_of_a_file_are_never_mixed(
    server: WebServer, file: Path, obeys: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    server.faults = [Fault(cut=1000), Fault(cut=0)]
    with pytest.raises(DownloadError):
        download(f"{server.url}/weights", file)
    monkeypatch.setattr(module, "ATTEMPTS", 4)
    server.files["/weights"] = Served(bytes(reversed(CONTENT)), '"two"')
    if not obeys:
        monkeypatch.setattr(WebServer, "answer", without_if_range(WebServer.answer))
    download(f"{server.url}/weights", file)
    assert file.read_bytes() == bytes(reversed(CONTENT))


def without_if_range(answer):  # type: ignore[no-untyped-def]
    def ignoring(self, request, body):  # type: ignore[no-untyped-def]
        del request.headers["If-Range"]
        answer(self, request, body)

    return ignoring


def test_a_file_that_is_shorter_now_is_taken_from_the_start(server: WebServer, file: Path) -> None:
    file.parent.mkdir()
    file.with_name("weights.partial").write_bytes(CONTENT * 2)
    file.with_name("weights.partial.version").write_text('"one"')
    download(f"{server.url}/weights", file)
    assert file.read_bytes() == CONTENT


def test_what_was_complete_before_a_kill_is_not_fetched_again(file: Path) -> None:
    file.parent.mkdir()
    file.with_name("weights.partial").write_bytes(CONTENT)
    download("http://127.0.0.1:9/weights", file, SHA256)
    assert visible(file) == {"weights"}


# ----------------------------------------------------------------------------------------------------- refusals


def test_another_checksum_leaves_nothing_behind(server: WebServer, file: Path) -> None:
    with pytest.raises(DownloadError, match="its sha256 is not the published one, and it was deleted"):
        download(f"{server.url}/weights", file, "sha256:00000000")
    assert visible(file) == set()


def test_md5_is_compared_too(server: WebServer, file: Path) -> None:
    download(f"{server.url}/weights", file, f"md5:{hashlib.md5(CONTENT).hexdigest()}")
    assert file.exists()


def test_what_is_not_there_is_told_at_once(server: WebServer, file: Path) -> None:
    with pytest.raises(DownloadError, match=r"/nothing: the server returned 404 \(Not Found\)$"):
        download(f"{server.url}/nothing", file)
    assert len(server.requests) == 1
    assert visible(file) == set()


def test_no_network_is_told_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda _: pytest.fail("it waits"))
    with pytest.raises(DownloadError, match=r"^http://127.0.0.1:9/weights: cannot be reached \(Connection refused\)$"):
        download("http://127.0.0.1:9/weights", file)


@pytest.mark.parametrize("told", [True, False], ids=["length told", "length not told"])
def test_what_is_too_large_is_not_fetched(
    server: WebServer, file: Path, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 100_000)
    server.files["/weights"].length = told
    size = "0.3" if told else "0.[1-3]"
    with pytest.raises(InputError, match=f"{size} MB or more is too large for an Inception V3; it was not downloaded"):
        download(f"{server.url}/weights", file)
    assert visible(file) == set()


def test_a_disk_with_too_little_room_is_told_before_it_is_full(
    server: WebServer, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(module.shutil.disk_usage("/"))(10**9, 10**9, 1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="free some space"):
        download(f"{server.url}/weights", file)
    assert visible(file) == set()


def test_a_folder_that_cannot_be_is_told(server: WebServer, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match="cannot be written"):
        download(f"{server.url}/weights", tmp_path / "cache" / "weights")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/weights", "data:,weights"])
def test_only_the_web_is_followed(server: WebServer, file: Path, target: str) -> None:
    server.faults = [Fault(302, location=target)]
    with pytest.raises(DownloadError, match="/weights: "):
        download(f"{server.url}/weights", file)
    assert visible(file) == set()


def test_from_https_it_is_not_led_back_to_http() -> None:
    request = module.urllib.request.Request("https://example.org/weights")
    follow = module._HttpRedirects().redirect_request
    assert follow(request, None, 302, "", {}, "https://example.com/x") is not None
    with pytest.raises(DownloadError, match="not a secure web address"):
        follow(request, None, 302, "", {}, "http://example.com/x")


def test_it_goes_round_in_circles_once(server: WebServer, file: Path) -> None:
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


def test_a_terminal_shows_how_far_it_is(server: WebServer, file: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", FETCH, f"{server.url}/weights", str(file), SHA256]
    assert subprocess.run(command, stdout=theirs, stderr=theirs, timeout=60).returncode == 0
    os.close(theirs)
    shown = ""
    with suppress(OSError):  # its end
        while piece := os.read(ours, 100_000):
            shown += piece.decode(errors="replace")
    os.close(ours)
    assert "weights" in shown
    assert "300.0/300.0 kB" in shown


def wait_for(condition) -> None:  # type: ignore[no-untyped-def]
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_two_processes_fetch_it_once_and_a_killed_one_is_gone_on_from(server: WebServer, file: Path) -> None:
    server.faults = [Fault(stall=7000)]
    killed = start(server, file)
    part = file.with_name("weights.partial")
    wait_for(lambda: part.exists() and part.stat().st_size == 7000)
    others = [start(server, file), start(server, file)]  # these wait for the first
    time.sleep(0.5)
    assert server.ranges == [None]
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    for process in others:
        _, err = process.communicate(timeout=20)
        assert process.returncode == 0, err.decode()
        assert err == b"", "no terminal, no bar"
    assert server.ranges == [None, "bytes=7000-"]
    assert file.read_bytes() == CONTENT
