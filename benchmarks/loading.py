"""Time and peak memory of loading a full-width file of each format.

    .venv/bin/python benchmarks/loading.py

Each load runs in a process of its own, after all imports, and reads a file that is in the system's cache. The memory is
the increase of the process's peak resident memory (Linux), divided by the file's size. Pages of a mapped file count.
"""

import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from inception_v3.network.settings import GRAPH_2015
from inception_v3.weights.formats.registry import FORMATS, find_format
from inception_v3.weights.load import load, save
from inception_v3.weights.model import InceptionV3

TIMES = 5
TORCHVISION = {"count_padding": True, "batch_norm_scale": True, "global_pool": True}
FILES = {
    "native": ("model.safetensors", {"num_classes": 1001}),
    "tf-slim": ("model.ckpt", {"num_classes": 1001}),
    "keras": ("model.h5", {"create_aux_logits": False}),
    "keras (Keras 3)": ("model.weights.h5", {"create_aux_logits": False}),
    "torchvision": ("model.pth", TORCHVISION),
    "timm": ("timm.safetensors", TORCHVISION),
    "fid-2015": ("fid.pth", GRAPH_2015),
}


def write_files(folder: Path) -> dict[str, Path]:
    paths = {}
    for label, (name, options) in FILES.items():
        with torch.device("meta"):
            model = InceptionV3(**options)
        model.to_empty(device="cpu")
        for tensor in model.state_dict().values():
            tensor.uniform_(0.5, 1.5)
        save(model, folder / name, label.partition(" ")[0])
        paths[label] = folder / name
    return paths


def measure(path: str) -> dict[str, float]:
    """Load one file in this process, which has imported everything and loaded nothing."""
    import h5py  # noqa: F401

    for name in FORMATS:
        find_format(name)
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before, start, cpu = _memory("VmRSS"), time.perf_counter(), time.process_time()
    load(path)
    return {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "bytes": _memory("VmHWM") - before,
    }


def _memory(name: str) -> int:
    """A figure of this process's memory in bytes: VmRSS, now, or VmHWM, its peak."""
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    print("| format | file, MB | load, s | of it CPU, s | peak memory over file |")
    print("| --- | ---: | ---: | ---: | ---: |")
    with TemporaryDirectory() as folder:
        for label, path in write_files(Path(folder)).items():
            size = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
            runs = [json.loads(subprocess.check_output([sys.executable, __file__, path])) for _ in range(TIMES)]
            seconds, cpu, peak = (statistics.median(run[key] for run in runs) for key in ("seconds", "cpu", "bytes"))
            print(f"| {label} | {size / 1e6:.0f} | {seconds:.2f} | {cpu:.2f} | {peak / size:.2f} |", flush=True)


if __name__ == "__main__":
    main()
