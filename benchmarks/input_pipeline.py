"""Whether decoding keeps up with training: how long a training waits for data, as it reports itself.

    .venv/bin/python benchmarks/input_pipeline.py

`inception-v3 train` runs with depth_multiplier=1.0 and 299x299 images, on generated JPEGs of 500x375. `data wait` is
the figure in metrics.jsonl: the fraction of an epoch's time that the training waits for a batch. The first epoch
includes the start of the worker processes, and every epoch waits for its first batch. `pipeline alone` is the number of
images per second that the same processes decode and augment while no network computes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from inception_v3.data import TrainingBatches, load_data
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.training.augment import AUGMENTS

HELD_OUT = 8  # images for the evaluation after every epoch, which is not part of the wait


def write_images(folder: Path, count: int) -> None:
    """Gradients with noise, with the file size of photographs: 60 to 70 KB."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:375, 0:500]
    for number in range(count + HELD_OUT):
        wave = np.sin(x * rng.uniform(0.01, 0.1) + y * rng.uniform(0.01, 0.1))
        pixels = 128 + 60 * wave[..., None] * rng.uniform(0.3, 1, 3) + rng.normal(0, 12, (375, 500, 3))
        path = folder / ("train" if number < count else "val") / f"class {number % 2}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=85)


def train(folder: Path, augment: str, batch_size: int, workers: int) -> list[dict[str, float]]:
    """The figures of each of two epochs."""
    recipe, run = folder / "recipe.toml", folder / "run"
    recipe.write_text(f'epochs = 2\naugment = "{augment}"\nbatch_size = {batch_size}\nlearning_rate = 1e-4\n')
    command = [sys.executable, "-m", "inception_v3", "train", folder / "images", "--recipe", recipe, "--out", run]
    subprocess.run([*command, "--workers", str(workers), "--overwrite"], check=True, capture_output=True)
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def pipeline_speed(folder: Path, augment: str, batch_size: int, workers: int) -> float:
    """Images per second without a network, in the second epoch."""
    train_set, _ = load_data(str(folder / "images"))
    loader = TrainingBatches(train_set, Preprocessing(), batch_size, augment=AUGMENTS[augment], workers=workers)  # type: ignore[index]
    for epoch in range(2):
        started = time.perf_counter()
        for _ in loader.epoch(epoch, 299):
            pass
    return len(train_set) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that decode images")
    parser.add_argument("--augments", nargs="+", default=["photos", "photos-randaugment", "slim"], choices=AUGMENTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", options.pictures)
        sizes = [file.stat().st_size for file in folder.rglob("*.jpg")]
        print(
            f"{options.pictures} JPEGs of 500x375 ({sum(sizes) / len(sizes) / 1000:.0f} KB), batches of "
            f"{options.batch_size}, {options.workers} workers, {torch.get_num_threads()} cores"
        )
        print("| augment | data wait, first epoch | second epoch | images/s | pipeline alone, images/s |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for augment in options.augments:
            settings = (folder, augment, options.batch_size, options.workers)
            first, second = train(*settings)
            print(
                f"| `{augment}` | {first['data_wait']:.1%} | {second['data_wait']:.1%} "
                f"| {second['images_per_second']:.1f} | {pipeline_speed(*settings):.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
