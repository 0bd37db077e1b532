"""Kill what a run on two nodes consists of, at random moments, and count the rows of its results.

    python tests/cluster/kills.py [--times 20] [--kinds actor worker raylet driver] [--seed 0]

Two nodes of Ray with one CPU each run on this machine. In each run `predict` computes 600 images there, and one of
these processes gets SIGKILL: an actor (it holds an engine), another worker process of Ray, the raylet of the second
node (all processes of that node then end, and so does the command if it has joined there), or the command itself (the
driver). A command that ends with an error is continued with --resume, up to four times. The results are compared with
those of one machine, byte for byte. Prints a table after each round, and exits with status 1 if a row is missing,
occurs twice or differs, or if a run takes more than LIMIT_SECONDS.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KINDS = ("actor", "worker", "raylet", "driver")
IMAGES, LIMIT_SECONDS, RESUMES = 600, 180, 4
# Both nodes and the command read this token, or Ray would write one to the home folder.
ENVIRONMENT = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0"}


@dataclass
class Counts:
    """What became of the runs of one kind."""

    runs: int = 0
    killed: int = 0
    lost: int = 0
    twice: int = 0
    hung: int = 0
    differing: int = 0
    resumed: int = 0
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.twice or self.hung or self.differing)


class Nodes:
    """Two nodes of one CPU each, the first with the head of the cluster."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        settings: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 2**27, "include_dashboard": False}
        self._settings = settings
        self.cluster = Cluster(initialize_head=True, head_node_args=settings)
        self.second = self.cluster.add_node(num_cpus=1, object_store_memory=2**27)

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def replace_second(self) -> None:
        """Start a new second node in place of one whose raylet has ended."""
        with suppress(Exception):
            self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = self.cluster.add_node(num_cpus=1, object_store_memory=2**27)

    def raylet(self) -> int:
        (info,) = self.second.all_processes["raylet"]
        return int(info.process.pid)


@contextmanager
def two_nodes() -> Iterator[Nodes]:
    nodes = Nodes()
    try:
        yield nodes
    finally:
        nodes.cluster.shutdown()


def command(model: Path, images: Path, out: Path, *options: object) -> list[str]:
    arguments = ["predict", model, images, "--out", out, "--batch-size", 4, "--quiet", *options]
    return [sys.executable, "-m", "inception_v3", *map(str, arguments)]


def titles(pattern: str) -> list[int]:
    """The processes of Ray's workers whose title has the pattern."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if title.startswith("ray::") and pattern in title:
                found.append(int(folder.name))
    return sorted(found)


def others() -> list[int]:
    """Worker processes of Ray that hold no engine. With one of its agents, a raylet would end too."""
    kept = titles("MapBatches(Actor)") + titles("MapWorker") + titles("Agent")
    return [pid for pid in titles("") if pid not in kept]


def victims(kind: str, nodes: Nodes, driver: int) -> list[int]:
    find: dict[str, Callable[[], list[int]]] = {
        "actor": lambda: titles("MapWorker") or titles("MapBatches(Actor)"),
        "worker": others,
        "raylet": lambda: [nodes.raylet()],
        "driver": lambda: [driver],
    }
    return find[kind]()


def rows(out: Path) -> list[bytes]:
    return out.read_bytes().splitlines() if out.exists() else []


def run_once(kind: str, nodes: Nodes, model: Path, images: Path, out: Path, wanted: list[bytes], rng: random.Random,
             counts: Counts) -> None:  # fmt: skip
    """One run with one kill, at a random moment of the time in which rows are written."""
    out.unlink(missing_ok=True)
    Path(f"{out}.about.json").unlink(missing_ok=True)
    at_row, counts.runs = rng.randrange(0, len(wanted) * 9 // 10), counts.runs + 1
    options = ("--ray", nodes.address, "--actors", "1:2")
    process = subprocess.Popen(command(model, images, out, *options), start_new_session=True)
    deadline, is_killed = time.monotonic() + LIMIT_SECONDS, False
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if not is_killed and len(rows(out)) >= at_row and (found := victims(kind, nodes, process.pid)):
                with suppress(ProcessLookupError):
                    os.kill(rng.choice(found), signal.SIGKILL)
                    counts.killed += 1
                is_killed = True
            time.sleep(0.02)
        if process.poll() is None:
            counts.hung += 1
            return
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    counts.statuses[process.returncode] += 1
    if process.returncode:  # the driver, or a failure that the user resumes, perhaps more than once
        for _ in range(RESUMES):
            try:
                if not subprocess.run(
                    command(model, images, out, *options, "--resume"), timeout=LIMIT_SECONDS
                ).returncode:
                    counts.resumed += 1
                    break
            except subprocess.TimeoutExpired:
                counts.hung += 1
            time.sleep(10)  # until Ray has noticed that a node has gone
    found = rows(out)
    names = Counter(found)
    counts.twice += sum(count - 1 for count in names.values())
    counts.lost += len(set(wanted) - set(found))
    counts.differing += found != wanted


def write_inputs(folder: Path) -> tuple[Path, Path]:
    import numpy as np
    from PIL import Image

    from inception_v3.weights.load import save
    from inception_v3.weights.model import InceptionV3

    model, images, rng = folder / "thin.safetensors", folder / "images", np.random.default_rng(0)
    save(InceptionV3(num_classes=5, depth_multiplier=0.1), model)
    images.mkdir()
    for number in range(IMAGES):
        Image.fromarray(rng.integers(0, 256, (60, 60, 3), np.uint8)).save(images / f"{number:04}.png")
    return model, images


def kill(kinds: list[str], times: int, seed: int) -> dict[str, Counts]:
    """Run each kind `times` times, by turns."""
    os.environ.update(ENVIRONMENT)
    found = {kind: Counts() for kind in kinds}
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, images = write_inputs(folder)
        subprocess.run(command(model, images, folder / "plain.jsonl"), check=True)
        wanted = rows(folder / "plain.jsonl")
        assert len(wanted) == IMAGES
        with two_nodes() as nodes:
            for number in range(times):
                for kind in kinds:
                    run_once(kind, nodes, model, images, folder / "out.jsonl", wanted, rng, found[kind])
                    if kind == "raylet":
                        nodes.replace_second()
                print(f"{number + 1} of {times}\n{table(found)}", file=sys.stderr, flush=True)
    return found


def table(found: dict[str, Counts]) -> str:
    lines = ["| process | runs | killed | rows lost | rows twice | other differences | hung | ended with | resumed |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |")
    for kind, each in found.items():
        statuses = ", ".join(f"{status}: {count}" for status, count in sorted(each.statuses.items()))
        cells = (kind, each.runs, each.killed, each.lost, each.twice, each.differing, each.hung, statuses, each.resumed)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = kill(options.kinds, options.times, options.seed)
    print(table(found))
    sys.exit(not all(each.is_good for each in found.values()))


if __name__ == "__main__":
    main()
