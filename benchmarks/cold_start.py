"""Measures a process that classifies one image with an exported network: time from start to result, and peak memory.

    python benchmarks/cold_start.py

`inception-v3 predict model.onnx photo.jpg` is compared with a script that uses only ONNX Runtime and Pillow, without
classes and preprocessing. The commands take turns, with their files in the system's cache. The table has medians, and
the largest memory. This process imports nothing large, because a child's peak memory includes its parent's at the fork.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

BARE = """
import sys, numpy, onnxruntime
from PIL import Image
pixels = numpy.asarray(Image.open(sys.argv[2]).convert("RGB").resize((299, 299), Image.Resampling.BILINEAR))[None]
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
print(session.run(["Logits"], {"pixels": pixels})[0][0].argsort()[-5:][::-1])
"""


def make(folder: Path) -> None:
    from PIL import Image

    from inception_v3.benchmarking.synthetic import random_network, synthetic_images
    from inception_v3.inference.export import export

    Image.fromarray(synthetic_images(1, (375, 500))[0]).save(folder / "photo.jpg", quality=90)
    model = random_network(synthetic_images(16, (299, 299)))
    for name in ("model.onnx", "model.xml"):
        export(model, folder / name)


def measure(command: list[object]) -> tuple[float, float]:
    """Run a command; its seconds and its peak memory in megabytes."""
    started = time.perf_counter()
    child = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert child.stderr is not None
    messages = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{command}: {messages.decode()[-500:]}")
    return seconds, usage.ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=11)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make(options.make)
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, __file__, "--make", folder], check=True)
        predict = [sys.executable, "-m", "inception_v3", "predict"]
        commands: dict[str, list[object]] = {
            "`inception-v3 predict model.onnx`": [*predict, folder / "model.onnx", folder / "photo.jpg"],
            "`inception-v3 predict model.xml` (OpenVINO)": [*predict, folder / "model.xml", folder / "photo.jpg"],
            "ONNX Runtime and Pillow alone": [sys.executable, "-c", BARE, folder / "model.onnx", folder / "photo.jpg"],
            "`import torch` alone": [sys.executable, "-c", "import torch"],
        }
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(options.times + 1):
            for name, command in commands.items():
                runs[name].append(measure(command))
    print("| one picture, cold | seconds | fastest | peak memory, MB |")
    print("| --- | ---: | ---: | ---: |")
    for name, (_, *measured) in runs.items():  # the first run fills the system's cache
        seconds = [seconds for seconds, _ in measured]
        peak = max(megabytes for _, megabytes in measured)
        print(f"| {name} | {statistics.median(seconds):.2f} | {min(seconds):.2f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
