"""Small files of CIFAR and MNIST with random images, in the form in which their authors publish them."""

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torchvision


def write_cifar(root: Path, kind: type, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Write files of 20 random images, and give torchvision's class their checksums instead of the published ones.

    Returns the pixels of the first training file."""
    rng = np.random.default_rng(0)
    base = root / kind.base_folder
    base.mkdir(parents=True)
    pixels = []

    def write(name: str, content: dict[str, object]) -> list[str]:
        data = pickle.dumps(content)
        (base / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    label_key = "fine_labels" if kind is torchvision.datasets.CIFAR100 else "labels"
    for attribute in ("train_list", "test_list"):
        files = []
        for name, _ in getattr(kind, attribute):
            pixels.append(rng.integers(0, 256, (20, 3072), dtype=np.uint8))
            files.append(write(name, {"data": pixels[-1], label_key: [number % 10 for number in range(20)]}))
        monkeypatch.setattr(kind, attribute, files)
    names = [f"class {number}" for number in range(10)]
    md5 = write(kind.meta["filename"], {kind.meta["key"]: names})[1]
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5})
    return pixels[0]


def write_mnist(root: Path, kind: str = "MNIST") -> tuple[Path, np.ndarray]:
    """Write files of 30 random training and 20 random test images, as published.

    Returns their folder, and the pixels of the test images.
    """
    raw = root / kind / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 30), ("t10k", 20)):
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 2051, count, 28, 28) + pixels.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, count) + labels.tobytes())
    return raw, pixels
