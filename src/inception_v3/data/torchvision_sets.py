"""CIFAR and MNIST from the files that their authors published, read with torchvision's classes."""

import contextlib
import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from inception_v3.data.labelled_images import LabelledImages
from inception_v3.data.splits import SplitReaders
from inception_v3.errors import InputError
from inception_v3.support.files import file_lock
from inception_v3.support.system_errors import check_readable, file_status

TORCHVISION_SETS = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "mnist": "MNIST", "fashion-mnist": "FashionMNIST"}


def find_torchvision_splits(name: str, root: Path, download: bool = False) -> SplitReaders:
    """The published splits of a data set in TORCHVISION_SETS. Its files are downloaded only if `download` is true."""
    return SplitReaders(
        partial(read_torchvision, name, root, True, download), partial(read_torchvision, name, root, False, download)
    )


def read_torchvision(name: str, root: Path, train: bool, download: bool) -> LabelledImages:
    """The images of one split, named NAME/train/NUMBER or NAME/test/NUMBER.

    Raises InputError: files are missing or damaged, or the download fails.
    """
    from torchvision import datasets

    if file_status(root) is not None:
        check_readable(root)
    kind = getattr(datasets, TORCHVISION_SETS[name])
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # torchvision prints the URLs of its downloads
            dataset: Any = _download(kind, root, train) if download else kind(str(root), train=train)
    except Exception as error:  # RuntimeError for missing files, any class for damaged ones
        detail = " ".join(str(error).split()).partition(" You can use")[0] or type(error).__name__
        remedy = "check the network" if download else f"give {name}+download:{root} to download it"
        raise InputError(f"{name}:{root}: {detail.rstrip('.')}; {remedy}, or put torchvision's files there") from error
    class_names = [class_name.partition(" - ")[0] for class_name in dataset.classes]  # MNIST has "0 - zero"
    name_format = f"{name}/{'train' if train else 'test'}/{{:05d}}"
    return LabelledImages.lazy(
        class_names,
        np.asarray(dataset.targets).tolist(),
        partial(_image, np.asarray(dataset.data)),
        name_format.format,
    )


def _image(pixels: np.ndarray, index: int) -> Image.Image:
    """Image `index` of uint8 (N, H, W) or (N, H, W, 3) as RGB."""
    return Image.fromarray(pixels[index]).convert("RGB")


def _download(kind: Any, root: Path, train: bool) -> Any:
    """Open the data set, and download it first if its files are missing. Of several processes only one downloads."""
    try:
        return kind(str(root), train=train)
    except Exception:  # missing, or another process is still unpacking it
        with file_lock(root / kind.__name__):
            return kind(str(root), train=train, download=True)  # keeps the files that are already there
