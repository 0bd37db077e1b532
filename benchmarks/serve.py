"""Throughput and latency of `inception-v3 serve` beside the engine that it runs.

    python benchmarks/serve.py MODEL [--precision fp32] [--seconds 10] [--concurrency 8]

By turns on the same machine, clients included: the engine in batches of its best size, and alone; then 299x299 JPEG
files through /predict with this concurrency, and with one client. Prints JSON.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection

import numpy as np
from PIL import Image

from inception_v3.inference.choose import open_engine


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


def engine_figures(model: str, precision: str | None, seconds: float) -> dict[str, float]:
    """Images per second in the best batches, and the median latency of one image in ms."""
    opened = open_engine(model, precision=precision)
    pixels = np.random.default_rng(0).integers(0, 256, (16, *opened.description.preprocessing.image_size, 3), np.uint8)
    best = 0.0
    for size in (1, 2, 4, 8, 16):
        times = timed(lambda size=size: opened.engine.run(pixels[:size]), seconds / 5)
        best = max(best, size / float(np.median(times)))
    single = float(np.median(timed(lambda: opened.engine.run(pixels[:1]), seconds / 5)))
    return {"images_per_second": best, "ms": single * 1e3}


def timed(call: object, seconds: float) -> list[float]:
    call()  # type: ignore[operator]
    times, end = [], time.monotonic() + seconds
    while len(times) < 3 or time.monotonic() < end:
        started = time.perf_counter()
        call()  # type: ignore[operator]
        times.append(time.perf_counter() - started)
    return times


def served_figures(port: int, files: list[bytes], clients: int, seconds: float) -> dict[str, float]:
    """Images per second and percentiles of the latency with this many clients, each with one request at a time."""
    times: list[list[float]] = [[] for _ in range(clients)]
    end = time.monotonic() + seconds

    def ask(client: int) -> None:
        connection = HTTPConnection("127.0.0.1", port)
        number = client
        while time.monotonic() < end:
            started = time.perf_counter()
            connection.request("POST", "/predict", files[number % len(files)], {"Content-Type": "image/jpeg"})
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, body
            times[client].append(time.perf_counter() - started)
            number += clients

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(clients)]
    started = time.monotonic()
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    every = np.concatenate(times) * 1e3
    percentiles = dict(zip(("p50", "p95", "p99"), np.percentile(every, (50, 95, 99)).tolist(), strict=True))
    return {"images_per_second": len(every) / (time.monotonic() - started)} | percentiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--precision")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--concurrency", type=int, default=8)
    options = parser.parse_args()
    engine = engine_figures(options.model, options.precision, options.seconds)
    command = [sys.executable, "-m", "inception_v3", "serve", options.model, "--port", "0"]
    command += ["--precision", options.precision] if options.precision else []
    started = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stderr is not None
    for line in process.stderr:
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "ready":
            break
    ready = time.monotonic() - started
    threading.Thread(target=process.stderr.read, daemon=True).start()
    port, files = int(event["address"].rpartition(":")[2]), jpegs(64)
    served_figures(port, files, options.concurrency, 1)
    many = served_figures(port, files, options.concurrency, options.seconds)
    one = served_figures(port, files, 1, options.seconds)
    process.terminate()
    process.wait()
    figures = {
        "model": options.model,
        "engine": engine,
        "seconds_to_ready": ready,
        f"concurrency_{options.concurrency}": many | {"share": many["images_per_second"] / engine["images_per_second"]},
        "concurrency_1": one | {"ms_more_than_the_engine": one["p50"] - engine["ms"]},
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
