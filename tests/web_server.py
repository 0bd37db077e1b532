"""A local web server for tests: serves given bytes with the faults of real servers, or a hub repository."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Served:
    """A file, and how the server sends it."""

    content: bytes
    etag: str | None = '"one"'
    supports_range: bool = True
    sends_length: bool = True
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """How one response differs from a correct one."""

    status: int | None = None
    cut: int | None = None  # close the connection after this many bytes of the body
    stall: int | None = None  # send nothing for a while after this many bytes
    location: str | None = None  # redirect
    start: int | None = None  # send a different part than the requested one


class WebServer:
    """Serves `files`. Each GET takes the next of `faults`; `requests` records (method, path, Range, If-Range)."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, str | None, str | None]] = []
        self.closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                outer.respond(self, body=False)

            def do_GET(self) -> None:
                outer.respond(self, body=True)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def respond(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        requested = request.headers.get("Range")
        if_range = request.headers.get("If-Range")
        self.requests.append((request.command, request.path, requested, if_range))
        fault = self.faults.pop(0) if self.faults and body else Fault()
        served = self.files.get(request.path)
        status = fault.status or (200 if served else 404)
        content, headers = b"", {}
        if fault.location:
            headers["Location"] = fault.location
        elif served is not None and status == 200:
            content, headers = served.content, dict(served.headers)
            if served.etag:
                headers["ETag"] = served.etag
            if requested and served.supports_range and if_range in (None, served.etag):
                start = int(requested.removeprefix("bytes=").partition("-")[0]) if fault.start is None else fault.start
                status = 206 if start < len(content) else 416
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                content = content[start:] if status == 206 else b""
        if served is None or served.sends_length or status != 200:
            headers["Content-Length"] = str(len(content))
        else:
            headers["Connection"] = "close"
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        if not body:
            return
        end = fault.cut if fault.cut is not None else fault.stall
        request.wfile.write(content if end is None else content[:end])
        if end is not None:
            request.wfile.flush()
            if fault.stall is not None:
                self.closing.wait(10)
            request.close_connection = True

    @property
    def requested_ranges(self) -> list[str | None]:
        """The Range header of each GET request."""
        return [requested for method, _, requested, _ in self.requests if method == "GET"]

    def publish(self, repository: str, folder: Path, names: list[str]) -> None:
        """Serve a repository as the hub does: all files from one commit, large ones with their SHA-256 as ETag."""
        for name in names:
            content = (folder / name).read_bytes()
            kind = "sha1" if name.endswith((".json", ".md")) else "sha256"
            etag = f'"{hashlib.new(kind, content).hexdigest()}"'
            served = Served(content, etag, headers={"X-Repo-Commit": COMMIT})
            for revision in ("main", COMMIT):
                self.files[f"/{repository}/resolve/{revision}/{name}"] = served

    @contextmanager
    def running(self) -> Iterator["WebServer"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.closing.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()
