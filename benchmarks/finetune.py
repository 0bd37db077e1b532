"""How long `inception-v3 finetune` takes the first time and again: whole commands, from start to exit.

    python benchmarks/finetune.py --pictures 1000

The network has its full width and random weights, the pictures are generated JPEGs of 500x375 in train/ and val/. CPU
time is that of the processor's cores together; it is less disturbed by what else the machine does than wall time.

    python benchmarks/finetune.py --batches

tells instead how much features depend on how many pictures go through the network at once, and on the precision.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from PIL import Image

from inception_v3 import InceptionV3
from inception_v3.finetuning.bottlenecks import Precision, features_of
from inception_v3.weights.load import save

CLASSES = 10


def write_pictures(folder: Path, count: int) -> None:
    """Stripes, each class at an angle of its own, and noise."""
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
    """Wall time, CPU time, and what the command answers."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu, json.loads(done.stdout)


def compare_batches() -> None:
    """Largest differences of the features of 33 images, over the largest feature."""
    model = InceptionV3(create_aux_logits=False).eval()
    pixels = torch.randint(0, 256, (33, 3, 299, 299), dtype=torch.uint8)
    found = {}
    for precision in get_args(Precision):
        for size in (16, 1, 5, 33):
            parts = [features_of(model, part, precision) for part in pixels.split(size)]
            found[precision, size] = np.concatenate(parts)
        whole = found[precision, 16]
        for size in (1, 5, 33):
            difference = np.abs(found[precision, size] - whole).max() / np.abs(whole).max()
            print(f"{precision}, batches of {size} and of 16: {difference:.1e}")
    exact = found["fp32", 16]
    print(f"bf16 and fp32: {np.abs(found['bf16', 16] - exact).max() / np.abs(exact).max():.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--again", type=int, default=3, help="later runs; the table has their median")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--batches", action="store_true", help="compare features instead")
    options = parser.parse_args()
    if options.batches:
        compare_batches()
        return
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_pictures(place / "pictures", options.pictures)
        save(InceptionV3(), place / "weights.safetensors")
        command = [sys.executable, "-m", "inception_v3", "finetune", str(place / "weights.safetensors")]
        command += [str(place / "pictures"), "--out", str(place / "run"), "--cache", str(place / "cache")]
        command += ["--precision", options.precision, "--overwrite", "--json"]
        first, *later = [measure(command) for _ in range(1 + options.again)]
    again = sorted(later, key=lambda run: run[1])[len(later) // 2]
    print(f"{options.pictures:,} pictures, {options.precision}")
    print("| | wall s | CPU s | features s | last layer s |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for label, (wall, cpu, answer) in (("first run", first), ("later run", again)):
        seconds = answer["head"]["seconds"]  # type: ignore[index]
        print(f"| {label} | {wall:.1f} | {cpu:.1f} | {seconds['features']:.2f} | {seconds['head']:.2f} |")
    print(f"| ratio | {first[0] / again[0]:.0f} | {first[1] / again[1]:.0f} | | |")


if __name__ == "__main__":
    main()
