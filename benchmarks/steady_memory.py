"""Measure the resident memory of `predict` over many images: it must not grow with their number.

    python benchmarks/steady_memory.py --pictures 100000
    python benchmarks/steady_memory.py --listing 1000000      # only list a folder of this many files, in order

Small JPEGs under many names (links to a few files) go through an engine that computes nothing, to a Parquet folder. The
slope is that of a line fitted to the resident memory of the last half.
"""

import argparse
import os
import re
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from predict_folder import FakeEngine

from inception_v3.images.addresses import expand
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.pipeline import default_resizer
from inception_v3.inference.predict import predict
from inception_v3.inference.results import open_results


def memory(name: str = "VmRSS") -> int:
    """The resident memory of this process in kB; "VmHWM" is its maximum. Linux only."""
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--listing", type=int, metavar="FILES")
    parser.add_argument("--out", choices=("jsonl", "csv", "parquet"), default="parquet")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "images")
        folder.mkdir()
        if options.listing:
            measure_listing(folder, options.listing)
        else:
            link_images(folder, options.pictures)
            measure_prediction(folder, options.pictures, options.out)


def link_images(folder: Path, count: int) -> None:
    """Fill a folder with links to 100 small JPEGs, which are written beside it."""
    rng = np.random.default_rng(0)
    for number in range(100):
        pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((100, 75)).save(folder.with_name(f"{number}.jpg"))
    for number in range(count):
        os.link(folder.with_name(f"{number % 100}.jpg"), folder / f"{number:08}.jpg")


def measure_prediction(folder: Path, images: int, kind: str) -> None:
    preprocessing, names = Preprocessing((75, 75)), [str(number) for number in range(1000)]
    results = open_results(folder.with_name(f"out.{kind}"), {}, top=5, resume=False)
    counts, sizes, started = [], [], time.perf_counter()
    predictions = predict(FakeEngine(0), preprocessing, names, expand([str(folder)]))
    for count, prediction in enumerate(predictions, 1):
        results.write(prediction)
        if count % (images // 200) == 0:
            counts.append(count)
            sizes.append(memory())
    results.close()
    seconds = time.perf_counter() - started
    half = len(counts) // 2
    slope = np.polyfit(counts[half:], sizes[half:], 1)[0]
    print(f"{images:,} images to {kind}, resized by {default_resizer()}, in {seconds:.0f} s")
    print(f"resident memory: {sizes[0] / 1000:.1f} MB at the beginning, {sizes[half] / 1000:.1f} MB in the middle, "
          f"{sizes[-1] / 1000:.1f} MB at the end, {memory('VmHWM') / 1000:.1f} MB at most")  # fmt: skip
    print(f"slope over the last half: {slope:.4f} kB per image")


def measure_listing(folder: Path, files: int) -> None:
    for number in range(files):
        Path(folder, f"photo_{number * 7919 % 1000003:07}_{number:07}.jpg").touch()
    before, started = memory(), time.perf_counter()
    sources = expand([str(folder)])
    next(sources)
    first = time.perf_counter() - started
    count = 1 + sum(1 for _ in sources)
    seconds, growth = time.perf_counter() - started, memory("VmHWM") - before
    print(f"{count:,} files of one folder in order: the first after {first:.1f} s, all in {seconds:.0f} s; "
          f"memory grew by {growth / 1000:.1f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
