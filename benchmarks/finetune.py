"""The time that `inception-v3 finetune` takes in its first run and in later runs, from start to exit.

    python benchmarks/finetune.py --pictures 1000

The network has depth_multiplier=1.0 and random weights. The images are generated JPEGs of 500x375 in train/ and val/.
CPU time is the sum over all cores; other programs on the machine disturb it less than wall time.

    python benchmarks/finetune.py --batches

shows instead how much the features depend on the batch size and on the precision.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from inception_v3 import InceptionV3
from inception_v3.inference.choose import open_graph
from inception_v3.inference.engines.base import FEATURES, Precision
from inception_v3.inference.engines.graph import build_graph, swap_pools
from inception_v3.weights.load import save

CLASSES = 10
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


def write_images(folder: Path, count: int) -> None:
    """Stripes with noise; each class has its own angle."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:375, 0:500]
    for number in range(count):
        label = number % CLASSES
        angle = np.pi * label / CLASSES
        wave = np.sin((np.cos(angle) * x + np.sin(angle) * y) * rng.uniform(0.05, 0.3) + rng.uniform(0, 6.28))
        pixels = 128 + 60 * wave[..., None] * rng.uniform(0.3, 1, 3) + rng.normal(0, 25, (375, 500, 3))
        part = "val" if number % (5 * CLASSES) < CLASSES else "train"
        path = folder / part / f"class {label}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=85)


def measure(command: list[str]) -> tuple[float, float, dict[str, object]]:
    """Wall time, CPU time, and the JSON that the command prints."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, json.loads(done.stdout)


def compare_batches() -> None:
    """Print the largest differences between the features of 33 images, relative to the largest feature."""
    model = InceptionV3(create_aux_logits=False).eval()
    graph = swap_pools(build_graph(model, outputs=(FEATURES,)))
    pixels = np.random.default_rng(0).integers(0, 256, (33, 299, 299, 3), np.uint8)
    features = {}
    for precision in PRECISIONS:
        engine, _ = open_graph(graph, "auto", precision)
        for size in (16, 1, 5, 33):
            parts = [engine.run(pixels[start : start + size])[FEATURES] for start in range(0, len(pixels), size)]
            features[precision, size] = np.concatenate(parts)
        reference = features[precision, 16]
        for size in (1, 5, 33):
            difference = np.abs(features[precision, size] - reference).max() / np.abs(reference).max()
            print(f"{precision}, batches of {size} and of 16: {difference:.1e}")
    exact = features["fp32", 16]
    print(f"bf16 and fp32: {np.abs(features['bf16', 16] - exact).max() / np.abs(exact).max():.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--again", type=int, default=3, help="number of later runs; the table shows their median")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS)
    parser.add_argument("--batches", action="store_true", help="compare the features of different batch sizes")
    options = parser.parse_args()
    if options.batches:
        compare_batches()
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", options.pictures)
        save(InceptionV3(), folder / "weights.safetensors")
        command = [sys.executable, "-m", "inception_v3", "finetune", str(folder / "weights.safetensors")]
        command += [str(folder / "images"), "--out", str(folder / "run"), "--cache", str(folder / "cache")]
        command += ["--precision", options.precision, "--overwrite", "--json"]
        first, *later = [measure(command) for _ in range(1 + options.again)]
    again = sorted(later, key=lambda run: run[1])[len(later) // 2]
    print(f"{options.pictures:,} images, {options.precision}")
    print("| | wall s | CPU s | features s | last layer s |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for label, (wall, cpu, output) in (("first run", first), ("later run", again)):
        seconds = output["head"]["seconds"]  # type: ignore[index]
        print(f"| {label} | {wall:.1f} | {cpu:.1f} | {seconds['features']:.2f} | {seconds['head']:.2f} |")
    print(f"| ratio | {first[0] / again[0]:.0f} | {first[1] / again[1]:.0f} | | |")


if __name__ == "__main__":
    main()
