"""`inception-v3 load-test`"""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inception_v3.cli.common import (
    TOKEN_VARIABLE,
    Json,
    Seed,
    check_only_one,
    check_seed,
    data_option,
    note,
    output_option,
    print_json,
    print_line,
    read_token,
    running_option,
    warn,
)
from inception_v3.errors import InputError

if TYPE_CHECKING:
    from inception_v3.images.find import ImageSource

MAX_IMAGES = 1000
LATE_MS = 10.0  # of the client, above which it warns


def load_test(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="A server such as http://127.0.0.1:8000; with a path, where to send the images."
        ),
    ],
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGES...", help="Images to send, in turn, as for `predict`.")
    ],
    rate: Annotated[
        float | None,
        running_option(
            min=0.001, max=100_000, metavar="R", help="Requests per second on average, at random times (open loop)."
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        running_option(min=1, max=512, metavar="N", help="Clients that each wait for their response (closed loop)."),
    ] = None,
    duration: Annotated[
        float, running_option(min=0.1, max=86_400, metavar="SECONDS", help="How long requests are sent.")
    ] = 10.0,
    timeout: Annotated[
        float, running_option(min=0.001, max=3600, metavar="SECONDS", help="Time after which a request has failed.")
    ] = 60.0,
    token_file: Annotated[
        Path | None,
        data_option(metavar="FILE", help=f"Send the token in this file to the server; or set {TOKEN_VARIABLE}."),
    ] = None,
    seed: Seed = 0,
    out: Annotated[Path | None, output_option(metavar="FILE.png", help="Plot the latencies.")] = None,
    as_json: Json = False,
) -> None:
    """Measure a server under load: throughput, latencies, errors, and the CPU time of client and server.

    With --rate, requests start at random times (a Poisson process) whether the server keeps up or not, and a latency
    counts from the intended start.
    """
    from inception_v3.benchmarking.load_test import Load, run_load
    from inception_v3.support.files import atomic_write, check_outputs, check_suffix
    from inception_v3.support.packages import require_packages

    check_seed(seed)
    check_only_one(rate=rate is not None, concurrency=concurrency is not None)
    if rate is None and concurrency is None:
        raise InputError("give --rate or --concurrency; see inception-v3 load-test --help", exit_status=2)
    if out is not None:
        check_suffix(out, (".png",), "a plot")
        check_outputs((out,), images)
        require_packages(("matplotlib",), "--out", "train")
    load = Load(rate, concurrency, duration, timeout, seed)
    result = run_load(url, _read(images), load, read_token(token_file))
    figures = result.as_dict()
    kind = f"open loop, {rate:g} requests/s" if rate is not None else f"closed loop, {concurrency} clients"
    if as_json:
        options = {"url": url, "rate": rate, "concurrency": concurrency, "duration": duration, "seed": seed}
        print_json(options | figures)
    else:
        _print(figures, f"{kind}, {duration:g} s")
    delay = figures["client_delay_ms"]["p99"] or 0
    if rate is not None and delay > LATE_MS:
        warn(f"requests were sent up to {delay:.0f} ms late (p99): this client, or all its connections, were busy")
    if not len(result.succeeded):
        raise InputError(f"{url}: no request succeeded")
    if out is not None:
        import numpy as np

        from inception_v3.reports.plots import latencies

        with atomic_write(out) as temporary:
            latencies(np.array(result.starts), np.array(result.latencies) * 1e3, f"{url}: {kind}", temporary)


def _read(addresses: list[str]) -> list[bytes]:
    """The files of the first MAX_IMAGES images. Raises InputError: no image, or one cannot be read."""
    from inception_v3.images.addresses import collect

    sources = collect(addresses)
    if len(sources) > MAX_IMAGES:
        note(f"{len(sources):,} images; the first {MAX_IMAGES:,} are sent in turn")
    return [_file(source) for source in sources[:MAX_IMAGES]]


def _file(source: "ImageSource") -> bytes:
    """The file of an image; of one that is an array of pixels, a PNG file."""
    content = source.read()
    if isinstance(content, bytes):
        return content
    file = io.BytesIO()
    source.open().save(file, "PNG")
    return file.getvalue()


def _print(figures: dict[str, Any], title: str) -> None:
    latency, cpu, seconds = figures["latency_ms"], figures["cpu_seconds"], figures["seconds"]
    print_line(title)
    print_line(f"{figures['requests']:,} requests, {figures['succeeded']:,} succeeded, "
          f"{figures['requests_per_second']:.1f} requests/s")  # fmt: skip
    if figures["succeeded"]:
        print_line("latency: " + ", ".join(f"{name} {latency[name]:.1f} ms" for name in ("p50", "p95", "p99", "max")))
    if figures["errors"]:
        print_line("errors: " + ", ".join(f"{reason} ({count:,})" for reason, count in figures["errors"].items()))
    server = "not known" if cpu["server"] is None else f"{cpu['server'] / seconds:.0%} of a core"
    print_line(f"CPU: client {cpu['client'] / seconds:.0%} of a core, server {server}")
