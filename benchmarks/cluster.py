"""Measure `predict --ray local` against the plain command on the same cores, by turns.

    python benchmarks/cluster.py                    # 20,000 small images, a thin network and a full one
    python benchmarks/cluster.py --images 2000 --rounds 1
    python benchmarks/cluster.py --memory           # memory of the list of parts for 2,000 and 200,000 files

Start-up is the time to the first row, the rate is that of the rows after it. Both come from the times at which rows
appear in the results file. OMP_NUM_THREADS does not matter: the plain command takes all cores, and each actor one.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

POLL_SECONDS = 0.02
NETWORKS = {"thin": 0.1, "full": 1.0}  # depth multipliers


@dataclass(frozen=True)
class Run:
    """Seconds to the first row and to the end, rows a second after the first, and the largest memory in MiB."""

    first_row: float
    seconds: float
    rate: float
    memory: float


def measure(model: Path, images: Path, out: Path, *options: str) -> Run:
    command = [sys.executable, "-m", "inception_v3", "predict", str(model), str(images), "--out", str(out)]
    out.unlink(missing_ok=True)  # the rows of an earlier run would count
    started = time.monotonic()
    process = subprocess.Popen([*command, "--overwrite", "--quiet", *options])
    first, first_rows, memory = 0.0, 0, 0.0
    while process.poll() is None:
        memory = max(memory, resident_mib(process.pid))
        if not first and out.exists() and (first_rows := out.read_bytes().count(b"\n")):
            first = time.monotonic() - started
        time.sleep(POLL_SECONDS)
    seconds = time.monotonic() - started
    rows = out.read_bytes().count(b"\n")
    if process.returncode or not first:
        raise SystemExit(f"{' '.join(command)} failed")
    return Run(first, seconds, (rows - first_rows) / (seconds - first), memory)


def resident_mib(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, IndexError):
        return 0.0


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


def write_network(path: Path, depth_multiplier: float) -> None:
    from inception_v3.weights.load import save
    from inception_v3.weights.model import InceptionV3

    save(InceptionV3(num_classes=10, depth_multiplier=depth_multiplier), path)


def compare(folder: Path, images: Path, networks: list[str], rounds: int) -> None:
    print("| network | command | first row | images/s | of plain | driver memory |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name in networks:
        write_network(folder / f"{name}.safetensors", NETWORKS[name])
        runs: dict[str, list[Run]] = {"plain": [], "--ray local": []}
        for _ in range(rounds):
            for label, measured in runs.items():
                options = [] if label == "plain" else label.split()
                measured.append(measure(folder / f"{name}.safetensors", images, folder / "out.jsonl", *options))
        plain = statistics.median(run.rate for run in runs["plain"])
        for label, measured in runs.items():
            rate = statistics.median(run.rate for run in measured)
            first = statistics.median(run.first_row for run in measured)
            memory = max(run.memory for run in measured)
            print(
                f"| {name} | {label} | {first:.1f} s | {rate:.1f} | {rate / plain:.2f} | {memory:.0f} MiB |", flush=True
            )


def print_memory_of_parts() -> None:
    """Print the memory that the list of parts takes in the process of the command, for files of one large folder."""
    from inception_v3.cluster.predictions import split
    from inception_v3.images.located import LocatedImage

    for count in (2_000, 200_000):
        images = (LocatedImage(name, name) for name in (f"/data/{n // 1000:05}/{n:08}.jpg" for n in range(count)))
        parts = split(images, 1, 16, 2)
        print(f"{count:,} files: {len(parts)} parts, {sum(map(len, parts)) / count:.1f} bytes a file")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    if options.memory:
        print_memory_of_parts()
        return
    with tempfile.TemporaryDirectory() as name:
        images = Path(name) / "images"
        write_images(images, options.images)
        compare(Path(name), images, options.networks, options.rounds)


if __name__ == "__main__":
    main()
