"""CIFAR and MNIST as torchvision's classes read them, from the files that their authors published."""

import contextlib
import io
from array import array
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image

from inception_v3.data.pictures import Pictures, Splits
from inception_v3.data.sequences import Made
from inception_v3.errors import InputError

CLASSES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST", "fashion-mnist": "FashionMNIST"}


def find(name: str, root: Path, download: bool = False) -> Splits:
    """One of CLASSES; nothing is downloaded unless that is asked for."""
    return Splits(partial(_read, name, root, True, download), partial(_read, name, root, False, download))


@dataclass(frozen=True)
class _Arrays:
    pixels: np.ndarray  # uint8 (N, H, W) or (N, H, W, 3)
    called: str

    def picture(self, number: int) -> Image.Image:
        return Image.fromarray(self.pixels[number]).convert("RGB")

    def name(self, number: int) -> str:
        return f"{self.called}/{number:05d}"


def _read(name: str, root: Path, train: bool, download: bool) -> Pictures:
    """Pictures called NAME/train/NUMBER and NAME/test/NUMBER. Raises InputError: no such files, or damaged ones."""
    from torchvision import datasets

    kind = getattr(datasets, CLASSES[name])
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints where it downloads from
            found: Any = _once(kind, root, train) if download else kind(str(root), train=train)
    except Exception as error:  # RuntimeError where files are missing, anything where they are damaged
        detail = " ".join(str(error).split()).partition(" You can use")[0] or type(error).__name__
        get = "check the network" if download else f"give {name}+download:{root} to download it"
        raise InputError(f"{name}:{root}: {detail.rstrip('.')}; {get}, or put torchvision's files there") from error
    arrays = _Arrays(np.asarray(found.data), f"{name}/{'train' if train else 'test'}")
    labels = array("i", np.asarray(found.targets).tolist())
    numbers = range(len(labels))
    class_names = [one.partition(" - ")[0] for one in found.classes]  # of MNIST "0 - zero"
    return Pictures(class_names, Made(arrays.picture, numbers), labels, Made(arrays.name, numbers))


def _once(kind: Any, root: Path, train: bool) -> Any:
    """The set, downloaded where it is not there; of several processes the first does that, and the others find it."""
    try:
        return kind(str(root), train=train)
    except Exception:  # missing, or another process is unpacking it
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{kind.__name__}.lock"):
            return kind(str(root), train=train, download=True)  # which looks again before anything else
