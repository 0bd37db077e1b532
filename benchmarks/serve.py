"""Speed of `inception-v3 serve`: beside its own engine, a simulated queue, LitServe and MLServer. Prints a table.

    python benchmarks/serve.py MODEL... [--seconds 6] [--rounds 3] [--no-peers] [--json FILE]

For each precision, the first MODEL that has it is served. Everything that is compared is measured by turns on this
machine, with the clients, and the median of the rounds counts. In each round, engine and servers are started anew: the
same engine is up to a tenth slower in some processes. With the defaults it takes 10 minutes on two idle cores.

- share: images per second through /predict with 8 clients, over those of the engine in batches of its best size.
- p50: with one client, more than the engine takes for one image.
- p99 at half load: requests at random times, at half of the images per second of 8 clients. The simulated queue has the
  same times. When it is free, it takes up to a batch of what waits, for the time that the engine took for that batch
  size. Each of its requests also takes what one with one client takes beyond the engine: decoding and HTTP.
- start: of the first MODEL that is an .onnx file, from the command to the line "ready"; memory then, and the maximum
  after 16 clients.
- LitServe and MLServer (set up by uv in .cache/serve-peers): the same .onnx file, batch limit and number of threads,
  and JSON with base64 for all three. Two are stopped while the third is measured.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
from PIL import Image

from inception_v3.benchmarking.load_test import HttpClient, Load, LoadResult, image_requests, send_load
from inception_v3.errors import InputError
from inception_v3.inference.choose import OpenedModel, open_engine
from inception_v3.support.cpu import core_count

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "benchmarks" / "peers"
CLIENTS, BATCH = 8, 16
SIZES = (1, 2, 4, 8, 16)
SHARES = {"fp32": 0.95, "bf16": 0.90, "int8": 0.82}
PACKAGES = {"LitServe": "litserve", "MLServer": "mlserver"}
IsReady = Callable[[Path], bool]  # of the file with the output of a server
Row = tuple[str, str, str, bool | None]  # what, measured, required, whether it is met


# ------------------------------------------------------------------------------------------------------ pieces


def jpegs(count: int, size: int = 299) -> list[bytes]:
    """Smooth random images, which compress as photos do."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        file = io.BytesIO()
        small.resize((size, size), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def engine_times(opened: OpenedModel, size: int, seconds: float) -> list[float]:
    """The times of batches in the engine, at least three."""
    pixels = np.random.default_rng(0).integers(
        0, 256, (size, *opened.description.preprocessing.image_size, 3), np.uint8
    )
    opened.engine.run(pixels)
    times, end = list[float](), time.monotonic() + seconds
    while len(times) < 3 or time.monotonic() < end:
        started = time.perf_counter()
        opened.engine.run(pixels)
        times.append(time.perf_counter() - started)
    return times


@contextmanager
def process(command: list[object], is_ready: IsReady, **environment: str) -> Iterator[tuple[int, float]]:
    """Run a server until the end of the block: its process and the seconds until it was ready."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with log.open("wb") as stderr:
            started = time.monotonic()
            server = subprocess.Popen(
                [*map(str, command)], stdout=stderr, stderr=stderr, env=os.environ | environment, start_new_session=True
            )
            try:
                while not is_ready(log):
                    if server.poll() is not None or time.monotonic() > started + 120:
                        raise RuntimeError(f"{command[0]} did not start:\n{log.read_text()[-3000:]}")
                    time.sleep(0.002)
                yield server.pid, time.monotonic() - started
            finally:
                server.terminate()
                with suppress(subprocess.TimeoutExpired):
                    server.wait(20)
                with suppress(ProcessLookupError):  # LitServe leaves children behind, which are of its process group
                    os.killpg(server.pid, signal.SIGKILL)
                server.wait()


@contextmanager
def served(model: str, *options: object) -> Iterator[tuple[str, int, float]]:
    """Our server: its URL, its process, and the seconds until it was ready."""
    found: list[str] = []

    def is_ready(log: Path) -> bool:
        lines = log.read_text().splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        found.extend(event["address"] for event in events if event["event"] == "ready")
        return bool(found)

    with process([sys.executable, "-m", "inception_v3", "serve", model, "--port", 0, *options], is_ready) as (
        pid,
        seconds,
    ):
        yield found[0], pid, seconds


def loaded(url: str, bodies: list[bytes], load: Load, target: str = "") -> LoadResult:
    """Send a load. `target`: the path for bodies of JSON; without it, the bodies are image files for /predict."""

    async def run() -> LoadResult:
        client = HttpClient(url)
        try:
            if target:
                header = "Content-Type: application/json\r\n"
                requests = [client.request("POST", target, body, header) for body in bodies]
            else:
                requests = image_requests(client, url, bodies)
            result = await send_load(client, requests, load)
        finally:
            client.close()
        if result.errors:
            print(f"{url}: {dict(result.errors)}", file=sys.stderr)
        return result

    return asyncio.run(run())


def throughput(result: LoadResult) -> float:
    return len(result.succeeded) / result.seconds


def percentile(result: LoadResult, which: float) -> float:
    """In ms; infinity if nothing succeeded."""
    return float(np.percentile(result.succeeded, which)) * 1e3 if len(result.succeeded) else float("inf")


def memory(pid: int, key: str) -> float:
    """VmRSS or VmHWM of a process in MB."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(key)]
    return int(line.split()[1]) * 1024 / 1e6


def simulated_p99(starts: np.ndarray, times: dict[int, list[float]], limit: int, overhead: float) -> float:
    """The p99 in seconds of a queue before one engine that takes whatever waits, up to `limit` images."""
    rng, latencies, free, index = np.random.default_rng(0), list[float](), 0.0, 0
    sizes = sorted(times)
    while index < len(starts):
        begins = max(free, starts[index])
        count = min(int(np.searchsorted(starts, begins, "right")) - index, limit)
        above = next((size for size in sizes if size >= count), sizes[-1])
        below = max(size for size in sizes if size <= count)
        weight = (count - below) / (above - below) if above > below else 0.0
        free = begins + (1 - weight) * rng.choice(times[below]) + weight * rng.choice(times[above])
        latencies += [free - start + overhead for start in starts[index : index + count]]
        index += count
    return float(np.percentile(latencies, 99))


# ------------------------------------------------------------------------------------------ beside the engine


def first_with(models: list[str], precision: str) -> tuple[str, str] | str:
    """The first model that can be run in a precision, and its engine; or why none can."""
    reason = ""
    for model in models:
        try:
            return model, str(open_engine(model, precision=precision).engine)
        except InputError as error:
            reason = reason or str(error)
    return reason


def beside_the_engine(model: str, engine: str, precision: str, seconds: float, rounds: int) -> dict[str, Any]:
    """Throughput, latency and p99 at half load, each by turns with the engine."""
    files = jpegs(64)
    times: dict[int, list[float]] = {size: [] for size in SIZES}
    shares, best, through, more, alone, late, simulated, engine_only = ([] for _ in range(8))
    for number in range(rounds):
        opened = open_engine(model, precision=precision)
        with served(model, "--precision", precision) as (url, _, _):
            loaded(url, files, Load(concurrency=CLIENTS, seconds=min(seconds, 2)))  # warm-up
            times = {size: engine_times(opened, size, seconds / len(SIZES)) for size in SIZES}
            best.append(max(size / statistics.median(times[size]) for size in SIZES))
            through.append(throughput(loaded(url, files, Load(concurrency=CLIENTS, seconds=seconds))))
            shares.append(through[-1] / best[-1])
            single = statistics.median(engine_times(opened, 1, seconds / 4)) * 1e3
            alone.append(percentile(loaded(url, files, Load(concurrency=1, seconds=seconds / 2)), 50))
            more.append(alone[-1] - single)
            load = Load(
                rate=through[-1] / 2, seconds=max(seconds, 200 / through[-1] if seconds > 2 else 0), seed=number
            )
            late.append(percentile(loaded(url, files, load), 99))
            times = {size: times[size] + engine_times(opened, size, seconds / len(SIZES)) for size in SIZES}
        simulated.append(simulated_p99(load.starts(), times, BATCH, max(more[-1], 0) / 1e3) * 1e3)
        engine_only.append(simulated_p99(load.starts(), times, BATCH, 0.0) * 1e3)
    return {
        "model": model,
        "engine": engine,
        "engine_images_per_second": statistics.median(best),
        "images_per_second": statistics.median(through),
        "share": statistics.median(shares),
        "p50_ms_concurrency_1": statistics.median(alone),
        "ms_more_than_the_engine": statistics.median(more),
        "rate_at_half_load": statistics.median(through) / 2,
        "p99_ms_half_load": statistics.median(late),
        "p99_ms_simulated": statistics.median(simulated),
        "p99_ms_simulated_engine_only": statistics.median(engine_only),
        "p99_over_simulated": statistics.median(np.divide(late, simulated).tolist()),
    }


def engine_rows(precision: str, figures: dict[str, Any]) -> list[Row]:
    share, more = figures["share"], figures["ms_more_than_the_engine"]
    ratio = figures["p99_over_simulated"]
    images = f"{figures['images_per_second']:.1f} of {figures['engine_images_per_second']:.1f} images/s"
    return [
        (f"{precision}: share of the engine, {CLIENTS} clients ({figures['engine']})", f"{share:.1%} ({images})",
         f"{SHARES[precision]:.0%}", share >= SHARES[precision]),
        (f"{precision}: p50 with 1 client, beyond the engine", f"+ {more:.1f} ms", "+ 4 ms", more <= 4),
        (f"{precision}: p99 at half load over the simulated queue",
         f"{ratio:.2f} x ({figures['p99_ms_half_load']:.1f} / {figures['p99_ms_simulated']:.1f} ms)", "1.25 x",
         ratio <= 1.25),
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------- start, memory


def start_figures(model: str, seconds: float, rounds: int) -> dict[str, float]:
    ready, resident = [], []
    for _ in range(rounds):
        with served(model) as (_, pid, taken):
            ready.append(taken)
            resident.append(memory(pid, "VmRSS"))
    with served(model, "--batch-size", BATCH) as (url, pid, _):
        loaded(url, jpegs(64), Load(concurrency=BATCH, seconds=seconds))
        peak = memory(pid, "VmHWM")
    return {"seconds": statistics.median(ready), "MB": max(resident), "MB_peak_batch_16": peak}


# ------------------------------------------------------------------------------------------------------- peers


def peer_python(name: str, folder: Path) -> Path:
    """The Python of an environment with a peer, which is set up if it does not exist."""
    python = folder / name / "bin" / "python"
    if not (folder / name / ".complete").exists():
        uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
        print(f"setting {name} up in {folder / name}", file=sys.stderr)
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", "3.11", folder / name], check=True)
        packages = [PACKAGES[name], "onnxruntime", "pillow", "numpy"]
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *packages], check=True)
        (folder / name / ".complete").touch()
    return python


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def answers(url: str) -> IsReady:
    def is_ready(_: Path) -> bool:
        try:
            return bool(urlopen(url, timeout=1).status == 200)
        except OSError:
            time.sleep(0.1)
            return False

    return is_ready


@dataclass(frozen=True)
class Peer:
    """A server in a process group of its own, and the requests for it."""

    url: str
    target: str
    bodies: list[bytes]
    pid: int

    def loaded(self, load: Load) -> LoadResult:
        return loaded(self.url, self.bodies, load, self.target)


@contextmanager
def alone(peer: Peer, peers: Iterable[Peer]) -> Iterator[None]:
    """Stop the processes of the others meanwhile: LitServe's use a fifth of a core when they have nothing to do."""
    others = [other.pid for other in peers if other is not peer]
    for pid in others:
        os.killpg(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in others:
            os.killpg(pid, signal.SIGCONT)


def start_peers(model: str, folder: Path, stack: ExitStack) -> dict[str, Peer]:
    """The three servers; those that do not start are left out."""
    texts = [base64.b64encode(file).decode() for file in jpegs(64)]
    plain = [json.dumps({"images": [text]}).encode() for text in texts]
    tensors = [{"name": "images", "datatype": "BYTES", "shape": [1], "data": [text]} for text in texts]
    url, pid, _ = stack.enter_context(served(model, "--batch-size", BATCH))
    servers = {"serve": Peer(url, "/predict", plain, pid)}
    threads = core_count()
    try:
        port = free_ports(1)[0]
        command = [
            peer_python("LitServe", folder),
            PEERS / "litserve_server.py",
            Path(model).resolve(),
            port,
            BATCH,
            threads,
        ]
        pid, _ = stack.enter_context(process(command, answers(f"http://127.0.0.1:{port}/health")))
        servers["LitServe"] = Peer(f"http://127.0.0.1:{port}", "/predict", plain, pid)
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"LitServe: {error}", file=sys.stderr)
    try:
        http, grpc, metrics = free_ports(3)
        settings = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shutil.copy(PEERS / "mlserver_runtime.py", settings)
        (settings / "settings.json").write_text(json.dumps(
            {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics, "parallel_workers": 0}
        ))  # fmt: skip
        (settings / "model-settings.json").write_text(json.dumps(
            {"name": "peer", "implementation": "mlserver_runtime.Runtime", "max_batch_size": BATCH,
             "max_batch_time": 0.005,
             "parameters": {"extra": {"file": str(Path(model).resolve()), "threads": threads}}}
        ))  # fmt: skip
        python = peer_python("MLServer", folder)
        command = [python.with_name("mlserver"), "start", settings]
        ready = answers(f"http://127.0.0.1:{http}/v2/models/peer/ready")
        pid, _ = stack.enter_context(process(command, ready, PYTHONPATH=str(settings)))
        bodies = [json.dumps({"inputs": [tensor]}).encode() for tensor in tensors]
        servers["MLServer"] = Peer(f"http://127.0.0.1:{http}", "/v2/models/peer/infer", bodies, pid)
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"MLServer: {error}", file=sys.stderr)
    return servers


def peer_figures(model: str, folder: Path, seconds: float, rounds: int) -> dict[str, dict[str, float]]:
    """Images per second with 8 clients, and p99 at half of ours', of each server by turns."""
    speeds: dict[str, list[float]] = {}
    late: dict[str, list[float]] = {}
    for number in range(rounds):
        with ExitStack() as stack:
            servers = start_peers(model, folder, stack)
            for name, peer in servers.items():
                with alone(peer, servers.values()):
                    peer.loaded(Load(concurrency=CLIENTS, seconds=min(seconds, 2)))  # warm-up
                    result = peer.loaded(Load(concurrency=CLIENTS, seconds=seconds))
                speeds.setdefault(name, []).append(throughput(result))
            load = Load(rate=speeds["serve"][-1] / 2, seconds=2 * seconds, seed=number)
            for name, peer in servers.items():
                with alone(peer, servers.values()):
                    late.setdefault(name, []).append(percentile(peer.loaded(load), 99))
    return {
        name: {"images_per_second": statistics.median(speeds[name]), "p99_ms_half_load": statistics.median(late[name])}
        for name in speeds
    }


def peer_rows(figures: dict[str, dict[str, float]]) -> list[Row]:
    rows: list[Row] = []
    ours = figures["serve"]
    for name in PACKAGES:
        if name not in figures:
            rows.append((f"beside {name}", "it did not start", "ahead", None))
            continue
        theirs = figures[name]
        for key, unit, better in (
            ("images_per_second", "images/s", 1),
            ("p99_ms_half_load", "ms p99 at half load", -1),
        ):
            rows.append((f"beside {name}, {unit}", f"{ours[key]:.1f} / {theirs[key]:.1f}", "ahead",
                         better * ours[key] > better * theirs[key]))  # fmt: skip
    return rows


# ------------------------------------------------------------------------------------------------------ output


def show(rows: list[Row]) -> None:
    marks = {True: "yes", False: "NO", None: "-"}
    cells = [("what", "measured", "required", "met"), *((*row[:3], marks[row[3]]) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(4)]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--precision", default="fp32,bf16,int8")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--peers-folder", type=Path, default=ROOT / ".cache" / "serve-peers")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    started, rows, figures = time.monotonic(), list[Row](), dict[str, Any]()
    for precision in options.precision.split(","):
        found = first_with(options.models, precision)
        if isinstance(found, str):
            rows.append((f"{precision}: share of the engine", f"no model has it: {found[:60]}", "", None))
            continue
        figures[precision] = beside_the_engine(*found, precision, options.seconds, options.rounds)
        rows += engine_rows(precision, figures[precision])
    if exported := next((model for model in options.models if model.endswith(".onnx")), None):
        start = figures["start"] = start_figures(exported, options.seconds, options.rounds)
        rows.append(("start to ready, .onnx", f"{start['seconds']:.2f} s", "1.2 s", start["seconds"] < 1.2))
        rows.append(("memory when ready", f"{start['MB']:.0f} MB", "350 MB", start["MB"] < 350))
        rows.append(("maximum memory, batches of 16", f"{start['MB_peak_batch_16']:.0f} MB", "stated", None))
        if not options.no_peers:
            figures["peers"] = peer_figures(exported, options.peers_folder, options.seconds, options.rounds)
            rows += peer_rows(figures["peers"])
    show(rows)
    print(f"\n{core_count()} cores, {time.monotonic() - started:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
