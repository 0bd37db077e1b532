"""Labelled images in .npz files, as Keras (x_train, y_train) and MedMNIST (train_images, train_labels) write them."""

import re
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from inception_v3.data.labelled_images import LabelledImages
from inception_v3.data.labels import MAX_LABEL, read_label_names, unique_names
from inception_v3.data.splits import HELD_OUT_NAMES, TRAIN_NAMES
from inception_v3.errors import InputError
from inception_v3.images.containers import archive_errors, channels_last, check_image_array, read_npz_headers
from inception_v3.images.find import to_image

_SPLIT = "|".join([*TRAIN_NAMES, *HELD_OUT_NAMES])
_IMAGES = re.compile(rf"x_(?P<x>{_SPLIT})|(?P<images>{_SPLIT})_images|images|x")


def read_arrays(files: list[Path], address: str) -> LabelledImages:
    """The images of the first split in an .npz file; see `read_array_splits`."""
    return next(iter(read_array_splits(files, address).values()))


def read_array_splits(files: list[Path], address: str) -> dict[str, LabelledImages]:
    """The images of each split in an .npz file, named FILE[INDEX] or FILE/ARRAY[INDEX]; without splits under "".

    Raises InputError: several files, no arrays of images and labels, or arrays that are not images or labels.
    """
    if len(files) > 1:
        raise InputError(
            f"{address}: {len(files)} .npz files; give one with the arrays x_train, y_train, x_test, y_test"
        )
    name = str(files[0])
    headers = read_npz_headers(files[0], name)
    matches = [match for key in headers if (match := _IMAGES.fullmatch(key)) and _labels_key(key) in headers]
    if not matches:
        raise InputError(
            f"{name}: no images with labels in it, but {', '.join(headers) or 'nothing'}; save x_train, y_train, "
            "x_test and y_test, or images and labels"
        )
    for match in matches:
        check_image_array(f"{name}: {match[0]}", headers[match[0]])
        (shape, dtype), (count, *_) = headers[_labels_key(match[0])], headers[match[0]][0]
        if dtype.kind not in "iu" or shape not in ((count,), (count, 1)):
            raise _wrong_labels(name, match[0], f"{dtype} of shape {shape}")
    return {match["x"] or match["images"] or "": _read(files[0], name, match[0]) for match in matches}


def _labels_key(images_key: str) -> str:
    return images_key.replace("images", "labels") if "images" in images_key else images_key.replace("x", "y", 1)


def _read(path: Path, name: str, key: str) -> LabelledImages:
    with archive_errors(name), np.load(path, allow_pickle=False) as file:
        pixels, labels = file[key], file[_labels_key(key)].reshape(-1)
    if labels.min() < 0 or labels.max() > MAX_LABEL:
        raise _wrong_labels(name, key, f"{labels.min()} to {labels.max()}")
    label_names = read_label_names(path.parent)
    count = max(int(labels.max()), *label_names, 0) + 1
    return LabelledImages.lazy(
        unique_names([label_names.get(label, str(label)) for label in range(count)]),
        labels.tolist(),
        partial(_image, pixels),
        partial(_name, path.name if key in ("images", "x") else f"{path.name}/{key}"),
    )


def _wrong_labels(name: str, key: str, found: str) -> InputError:
    return InputError(
        f"{name}: {_labels_key(key)} holds {found}, but must hold a whole number from 0 to {MAX_LABEL:,} for each "
        f"image in {key}; number the classes"
    )


def _image(pixels: np.ndarray, index: int) -> Image.Image:
    """Image `index` of uint8 (N, H, W), (N, H, W, channels) or (N, channels, H, W) as RGB."""
    return to_image(channels_last(pixels[index])).convert("RGB")


def _name(prefix: str, index: int) -> str:
    return f"{prefix}[{index}]"
