"""Measure `predict --ray` against the plain command on the same cores, by turns, and what a run on many machines costs.

    python benchmarks/cluster.py                    # speed, nodes and memory, as docs/scale.md has them
    python benchmarks/cluster.py --images 2000      # the same in 11 minutes on two idle cores
    python benchmarks/cluster.py --speed            # --ray local with two actors, and the plain command
    python benchmarks/cluster.py --nodes            # two nodes of one core each, and one of them
    python benchmarks/cluster.py --memory           # the memory of the command for 2,000 and for 200,000 images
    python benchmarks/cluster.py --resources        # what this machine does in a second
    python benchmarks/cluster.py --costs            # the same, and what it means for a million and a billion images

Speed and nodes: the thin network computes --images small images, the full one --full-images. Start-up is the time to
the first row, the rate is that of the rows after it, and the end is the time from the last row to the exit. All three
come from the times at which rows appear in the results file. By the first row another actor may have computed a batch,
which makes the rate too high by up to 16 images of the total. Commands are pinned to the first two cores, and each node
to one of them; the command itself then runs on the first. The median of --rounds counts.

Memory: the actors open no image and return a prediction at once, so that only the command's own work remains. The
figures are of its process, without Ray's.
"""

import argparse
import json
import logging
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

POLL_SECONDS = 0.05
NETWORKS = {"thin": 0.1, "full": 1.0}  # depth multipliers
CLASSES = [(f"class {number}", 0.2) for number in range(5)]
BLOCK = 2**20
NULL_IMAGES = 50_000  # of --resources


# ---------------------------------------------------------------------------------------- speed, on this machine


@dataclass(frozen=True)
class Run:
    """A run of the command.

    Attributes:
        first_row: seconds from the start to the first row. `end`: from the last row to the exit.
        rate: rows a second between them.
        memory: the maximum of the command's resident memory, in MiB.
    """

    first_row: float
    rate: float
    end: float
    memory: float


def measure(model: Path, images: Path, out: Path, cores: set[int], *options: str) -> Run:
    """Run `predict` on these cores."""
    out.unlink(missing_ok=True)  # the rows of an earlier run would count
    command = [sys.executable, "-m", "inception_v3", "predict", str(model), str(images), "--out", str(out)]
    started = time.monotonic()
    with pinned(cores):
        process = subprocess.Popen([*command, "--overwrite", "--quiet", *options])
    seen: list[tuple[float, int]] = []  # the time and the number of rows, whenever there were more
    memory, offset, rows = 0.0, 0, 0
    while True:
        has_ended = process.poll() is not None
        memory = max(memory, peak_mib(process.pid))
        if out.exists():
            with out.open("rb") as file:
                file.seek(offset)
                new = file.read()
            offset += len(new)
            if more := new.count(b"\n"):
                rows += more
                seen.append((time.monotonic() - started, rows))
        if has_ended:
            break
        time.sleep(POLL_SECONDS)
    seconds = time.monotonic() - started
    if process.returncode or len(seen) < 2:
        raise SystemExit(f"{' '.join([*command, *options])} failed, or wrote all rows at once; give more --images")
    (first, first_rows), (last, _) = seen[0], seen[-1]
    return Run(first, (rows - first_rows) / (last - first), seconds - last, memory)


@contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """Start processes on these cores inside this block."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def peak_mib(pid: int | str) -> float:
    """The maximum of a process's resident memory so far; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return int(lines.get("VmHWM", "0 kB").split()[0]) / 1024


def write_images(folder: Path, count: int) -> None:
    """Small JPEGs; beyond 100 they are hard links, which cost no disk."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number // 1000:04}" / f"{number:07}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < 100:
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).resize((96, 96)).save(path)
        else:
            os.link(folder / "0000" / f"{number % 100:07}.jpg", path)


def write_network(path: Path, depth_multiplier: float, num_classes: int = 10) -> None:
    from inception_v3.weights.load import save
    from inception_v3.weights.model import InceptionV3

    save(InceptionV3(num_classes=num_classes, depth_multiplier=depth_multiplier), path)


def images_and_network(folder: Path, name: str, count: int) -> tuple[Path, Path]:
    """A network, and the images that it computes; they are written on first use."""
    model, images = folder / f"{name}.safetensors", folder / f"images-{count}"
    if not model.exists():
        write_network(model, NETWORKS[name])
    if not images.exists():
        write_images(images, count)
    return model, images


def print_rows(name: str, runs: dict[str, list[Run]]) -> None:
    """Print a row of the table for each command. The first one is what the others are compared with."""
    first_rate = 0.0
    for label, measured in runs.items():
        values = {each.name: statistics.median(getattr(run, each.name) for run in measured) for each in fields(Run)}
        first_rate = first_rate or values["rate"]
        columns = [f"{values['first_row']:.1f} s", f"{values['rate']:.1f}", f"{values['rate'] / first_rate:.2f}"]
        columns += [f"{values['end']:.1f} s", f"{values['memory']:.0f} MiB"]
        print(f"| {name} | {label} | {' | '.join(columns)} |", flush=True)


def print_head(ratio: str) -> None:
    print(f"\n| network | command | first row | images/s | {ratio} | end | memory |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)


def compare_speed(folder: Path, counts: dict[str, int], rounds: int, cores: list[int]) -> None:
    """Two one-threaded actors, and the plain command."""
    print_head("of plain")
    for name, count in counts.items():
        model, images = images_and_network(folder, name, count)
        commands: dict[str, list[str]] = {"plain": [], "`--ray local`": ["--ray", "local", "--actors", "2"]}
        runs: dict[str, list[Run]] = {label: [] for label in commands}
        for _ in range(rounds):
            for label, options in commands.items():
                runs[label].append(measure(model, images, folder / "out.jsonl", {*cores}, *options))
        print_rows(name, runs)


def compare_nodes(folder: Path, count: int, rounds: int, cores: list[int]) -> None:
    """Two nodes of one core each, and one of them, with the full network."""
    print_head("of one node")
    model, images = images_and_network(folder, "full", count)
    runs: dict[str, list[Run]] = {"one node": [], "two nodes": []}
    for _ in range(rounds):
        for used, measured in zip((cores[:1], cores), runs.values(), strict=True):
            with ray_nodes(used) as address:
                measured.append(measure(model, images, folder / "out.jsonl", {cores[0]}, "--ray", address))
    print_rows("full", runs)


@contextmanager
def ray_nodes(cores: list[int]) -> Iterator[str]:
    """A Ray cluster with a node of one CPU on each of these cores. Yields its address."""
    from inception_v3.cluster.session import ENVIRONMENT, OBJECT_STORE_BYTES, silence

    os.environ.update(ENVIRONMENT)
    from ray.cluster_utils import Cluster

    silence(logging.getLogger("ray"))
    cluster = Cluster()
    try:
        for core in cores:
            with pinned({core}):
                cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()


# ------------------------------------------------------------------------------------ memory of the command


@dataclass(frozen=True)
class NullJob:
    """Predicts without opening an image."""

    batch_size: int = 16

    def open(self) -> Callable[[Any], list[Any]]:
        from inception_v3.inference.predict import Prediction

        return lambda part: [Prediction(image.name, CLASSES) for image in part.images]


@dataclass(frozen=True)
class NullRun:
    """A run with NullJob: images, MiB of memory before and at most, seconds, and images a second after the first."""

    images: int
    before: float
    memory: float
    seconds: float
    rate: float


def run_null(images: Path, out: Path) -> None:
    """What the process of `predict --ray local` does, with the predictions of NullJob. Prints a NullRun as JSON."""
    from inception_v3.cluster.options import ClusterOptions
    from inception_v3.cluster.predictions import predict_on
    from inception_v3.cluster.session import join_cluster
    from inception_v3.images.located import locate
    from inception_v3.inference.results import open_results

    with join_cluster(ClusterOptions("local"), print) as cluster:
        before, started, first, rows = peak_mib("self"), time.monotonic(), 0.0, 0
        results = open_results(out, {}, top=len(CLASSES), resume=False)
        for prediction in predict_on(cluster, NullJob(), locate([str(images)]), print):  # type: ignore[arg-type]
            results.write(prediction)
            rows += 1
            first = first or time.monotonic()
        results.close()
        ended, peak = time.monotonic(), peak_mib("self")
    print(json.dumps(asdict(NullRun(rows, before, peak, ended - started, (rows - 1) / (ended - first)))))


def null_run(folder: Path, count: int) -> NullRun:
    """Run `run_null` in a process of its own."""
    if not (images := folder / f"null-{count}").exists():
        write_images(images, count)
    command = [sys.executable, __file__, "--null", images, folder / f"{count}.jsonl"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return NullRun(**json.loads(done.stdout.splitlines()[-1]))


def print_memory(folder: Path, counts: list[int]) -> None:
    print("\n| images | memory with Ray joined | maximum | time | images/s |\n| ---: | ---: | ---: | ---: | ---: |")
    for count in counts:
        run = null_run(folder, count)
        print(
            f"| {run.images:,} | {run.before:.0f} MiB | {run.memory:.0f} MiB | {run.seconds:.1f} s | {run.rate:,.0f} |",
            flush=True,
        )


# ------------------------------------------------------------------- what the resources of this machine can do


@dataclass(frozen=True)
class Resources:
    """What was measured on this machine. All rates are in a second.

    Attributes:
        decode, engine, predict: images that one core decodes and resizes, computes in fp32, and both by `predict`.
        rows: images whose rows the process of `--ray` lists, sends, receives and writes, with actors that do nothing.
        vectors: PreLogits that one core unpacks. `moments`: those that it adds to the mean and covariance of FID.
        disk_read, disk_write, loopback: bytes.
        image, row, sent_row, features, sent_features: bytes of an image, of its row in Parquet and on the way from an
            actor, and of the PreLogits in a file and on that way.
    """

    decode: float
    engine: float
    predict: float
    rows: float
    vectors: float
    moments: float
    disk_read: float
    disk_write: float
    loopback: float
    image: float
    row: float
    sent_row: float
    features: float
    sent_features: float


def rate_of(work: Callable[[], object], amount: float, seconds: float) -> float:
    """The amount a second that `work` does, repeated for that time after it has run once."""
    work()
    runs, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        work()
        runs += 1
    return runs * amount / (time.perf_counter() - started)


def measure_resources(folder: Path, images: int, seconds: float) -> Resources:
    """Measure for that many seconds each, on one core; the loopback and `rows` have all cores."""
    with pinned({min(os.sched_getaffinity(0))}):
        values = measure_core(folder, images, seconds) | measure_disk(folder)
    return Resources(**values, loopback=measure_loopback(), rows=null_run(folder, NULL_IMAGES).rate)


def measure_core(folder: Path, count: int, seconds: float) -> dict[str, float]:
    from predict_folder import write_images as write_photos

    from inception_v3.cluster.run import MAX_PART_IMAGES, PartResult, pack, unpack
    from inception_v3.fidelity.statistics import Moments
    from inception_v3.images.addresses import expand
    from inception_v3.inference.choose import open_engine
    from inception_v3.inference.engines.base import FEATURES
    from inception_v3.inference.pipeline import image_preparer
    from inception_v3.inference.predict import Prediction, predict
    from inception_v3.inference.results import open_results
    from inception_v3.support.cpu import limit_cores

    limit_cores(1)
    import torch

    torch.set_num_threads(1)
    (photos := folder / "photos").mkdir()
    write_photos(photos, count, 500, 375)
    write_network(folder / "network.safetensors", 1.0, 1000)
    opened = open_engine(str(folder / "network.safetensors"), "auto", None, callers=1)
    description, engine = opened.description, opened.engine
    sources, pixels = [*expand([str(photos)])], np.empty((count, *description.preprocessing.image_size, 3), np.uint8)
    prepare = image_preparer(description.preprocessing)

    def decode() -> None:
        for source, row in zip(sources, pixels, strict=True):
            prepare(source, row)

    def run_predict() -> list[Prediction]:
        batch = engine.batch_size
        return [*predict(engine, description.preprocessing, description.names(), iter(sources), batch_size=batch)]

    decoded = rate_of(decode, count, seconds)
    batch = pixels[: engine.batch_size]
    computed = rate_of(lambda: engine.run(batch), len(batch), seconds)
    both = rate_of(run_predict, count, seconds)
    parts = [random_predictions(n, description.names(), MAX_PART_IMAGES) for n in range(40)]
    sent = pack(PartResult(parts[0], "node"))
    results = open_results(folder / "size.parquet", {}, top=5, resume=False)
    for prediction in (each for part in parts for each in part):
        results.write(prediction)
    results.close()
    bytes_written = sum(file.stat().st_size for file in (folder / "size.parquet").iterdir())
    features = engine.run(batch)[FEATURES].reshape(len(batch), -1)
    sent_features = pack(features)
    width, empty = features.shape[1], Moments.empty(features.shape[1])
    block = torch.rand(1024, width)
    return {
        "decode": decoded,
        "engine": computed,
        "predict": both,
        "moments": rate_of(lambda: empty.add(block), len(block), seconds),
        "image": statistics.mean(file.stat().st_size for file in photos.iterdir()),
        "row": bytes_written / (len(parts) * MAX_PART_IMAGES),
        "sent_row": len(sent) / MAX_PART_IMAGES,
        "features": features[0].nbytes,
        "sent_features": len(sent_features) / len(features),
        "vectors": rate_of(lambda: unpack(sent_features), len(features), seconds),
    }


def random_predictions(seed: int, names: list[str], count: int) -> list[Any]:
    """Five classes with probabilities for each image, as little alike as those of a trained network."""
    from inception_v3.inference.predict import Prediction

    rng = np.random.default_rng(seed)
    predictions = []
    for number in range(count):
        values = np.sort(rng.dirichlet([0.5] * 6))[:0:-1].astype(np.float32)
        classes = [
            (names[index], float(value)) for index, value in zip(rng.integers(len(names), size=5), values, strict=True)
        ]
        predictions.append(Prediction(f"/data/{seed:05}/{number:06}.jpg", classes))
    return predictions


def measure_disk(folder: Path, size: int = 256 * BLOCK) -> dict[str, float]:
    """Bytes a second of a file that is not in the page cache."""
    block, path = os.urandom(BLOCK), folder / "disk"
    started = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(size // BLOCK):
            file.write(block)
        os.fsync(file.fileno())
        written = size / (time.perf_counter() - started)
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        started = time.perf_counter()
        while file.read(BLOCK):
            pass
        return {"disk_write": written, "disk_read": size / (time.perf_counter() - started)}


def measure_loopback(size: int = 1024 * BLOCK) -> float:
    """Bytes a second from one thread of this process to another by TCP."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as sending:
        receiving, _ = server.accept()
        with receiving:
            block, buffer, received = bytes(BLOCK), bytearray(BLOCK), 0
            sender = threading.Thread(target=lambda: [sending.sendall(block) for _ in range(size // BLOCK)])
            started = time.perf_counter()
            sender.start()
            while received < size:
                received += receiving.recv_into(buffer)
            seconds = time.perf_counter() - started
            sender.join()
    return size / seconds


def print_resources(measured: Resources) -> None:
    """Print what was measured, and how many cores one of each resource serves: the smallest number binds first."""
    r = measured.predict
    limits = [
        ("one core, decoding", measured.decode, f"{1000 / measured.decode:.1f} ms"),
        ("one core, engine", measured.engine, f"{1000 / measured.engine:.1f} ms"),
        ("one core, both by `predict`", r, f"{1000 / r:.1f} ms"),
        ("the command of --ray, without the engine", measured.rows, f"{1000 / measured.rows:.3f} ms"),
        ("the command of --ray, unpacking features", measured.vectors, f"{1000 / measured.vectors:.3f} ms"),
        ("disk, reading images", measured.disk_read / measured.image, f"{measured.image / 1e3:.0f} kB"),
        ("network, images", measured.loopback / measured.image, f"{measured.image / 1e3:.0f} kB"),
        ("network, rows from actors", measured.loopback / measured.sent_row, f"{measured.sent_row:.0f} bytes"),
        (
            "network, features from actors",
            measured.loopback / measured.sent_features,
            f"{measured.sent_features / 1e3:.1f} kB",
        ),
        ("disk, writing rows", measured.disk_write / measured.row, f"{measured.row:.0f} bytes"),
        ("disk, writing features", measured.disk_write / measured.features, f"{measured.features / 1e3:.1f} kB"),
        ("one core, moments of FID", measured.moments, f"{1000 / measured.moments:.2f} ms"),
    ]
    print("\n| resource | of an image | images/s | cores that it serves |\n| --- | ---: | ---: | ---: |")
    for name, rate, amount in limits:
        print(f"| {name} | {amount} | {rate:,.1f} | {rate / r:,.1f} |")
    print(
        f"\ndisk: reads {measured.disk_read / 1e6:,.0f} MB/s, writes {measured.disk_write / 1e6:,.0f} MB/s; "
        f"loopback: {measured.loopback / 1e6:,.0f} MB/s"
    )


@dataclass(frozen=True)
class Cost:
    """What a command costs, by arithmetic. Seconds and bytes.

    Attributes:
        one_core: seconds of one core. `cores`: of many, unless the command's own work is slower.
        driver: seconds of the command's own process for rows or features.
        read, sent, stored: bytes of the images, from actors to the command, and of the results.
    """

    one_core: float
    cores: float
    driver: float
    read: float
    sent: float
    stored: float


FIDELITY_VALUES = 2048 + 2023  # of an image: the features of FID and of sFID


def cost(command: str, count: float, cores: int, measured: Resources) -> Cost:
    """N images on C cores: N / (r C) seconds, or those of the command's own process if they are more."""
    features = measured.features
    stored = {"predict": measured.row, "features": features, "fidelity": FIDELITY_VALUES * 4, "evaluate": 48}[command]
    sent_ratio = measured.sent_features / features
    sent = {"predict": measured.sent_row, "features": measured.sent_features, "fidelity": stored * sent_ratio}
    write = 1 / measured.rows + stored / measured.disk_write
    driver = {
        "predict": 1 / measured.rows,
        "features": write + 1 / measured.vectors,
        "fidelity": write + 2 / measured.vectors + 2 / measured.moments,
        "evaluate": 1 / measured.rows,  # at most: its rows are numbers
    }[command]
    one_core = count / measured.predict
    return Cost(
        one_core,
        max(one_core / cores, count * driver),
        count * driver,
        count * measured.image,
        count * sent.get(command, stored),
        count * stored,
    )


def print_costs(measured: Resources) -> None:
    print("\n| command | images | cores | one core | all cores | the command's own work | read | sent | stored |")
    print(f"| --- |{' ---: |' * 8}")
    for count, cores in ((1e6, 64), (1e9, 1024)):
        for command in ("predict", "features", "fidelity", "evaluate"):
            each = cost(command, count, cores, measured)
            times = [duration(each.one_core), duration(each.cores), duration(each.driver)]
            sizes = [size_of(each.read), size_of(each.sent), size_of(each.stored)]
            print(f"| `{command}` | {count:,.0f} | {cores:,} | {' | '.join([*times, *sizes])} |")


def duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s"


def size_of(count: float) -> str:
    for unit, length in (("TB", 1e12), ("GB", 1e9)):
        if count >= length:
            return f"{count / length:,.1f} {unit}"
    return f"{count / 1e6:.0f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("speed", "nodes", "memory", "resources", "costs"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--images", type=int, default=20_000, help="for the thin network")
    parser.add_argument("--full-images", type=int, help="for the full network; by default a fifth of --images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS], help="for --speed")
    parser.add_argument("--memory-images", type=int, nargs="+", default=[2_000, 200_000])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each of the measurements of --resources")
    parser.add_argument("--null", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.null:
        run_null(*options.null)
        return
    is_all = not (options.speed or options.nodes or options.memory or options.resources or options.costs)
    full = options.full_images or max(1, options.images // 5)
    counts = {name: {"thin": options.images, "full": full}[name] for name in options.networks}
    cores = sorted(os.sched_getaffinity(0))[:2]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.speed or is_all:
            compare_speed(folder, counts, options.rounds, cores)
        if options.nodes or is_all:
            compare_nodes(folder, full, options.rounds, cores)
        if options.memory or is_all:
            print_memory(folder, options.memory_images)
        if options.resources or options.costs:
            measured = measure_resources(folder, 64, options.seconds)
            print_resources(measured)
            if options.costs:
                print_costs(measured)


if __name__ == "__main__":
    main()
