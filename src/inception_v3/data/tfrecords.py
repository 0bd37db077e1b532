"""TFRecords of tf.train.Example as TF-Slim's scripts write them; read without TensorFlow.

slim/datasets/build_imagenet_data.py and dataset_utils.py: image/encoded, image/class/label, and for ImageNet
image/class/text. Labels run from 1; 0 is the background. Every record has two checksums, and both are verified.
"""

import struct
from array import array
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from inception_v3.data.extras import extra
from inception_v3.data.pictures import BACKGROUND, Pictures
from inception_v3.data.records import Index, labelled, read_files, told_apart
from inception_v3.errors import InputError
from inception_v3.images.decode import MAX_STREAM_BYTES
from inception_v3.support.crc32c import masked_crc
from inception_v3.support.text import printable

IMAGE, LABEL, TEXT = "image/encoded", "image/class/label", "image/class/text"
HEADER, FOOTER = 12, 4  # bytes: length and its checksum; the content's checksum
GZIP = b"\x1f\x8b"


def read(files: list[Path], place: str, background: bool = False) -> Pictures:
    """The pictures of all files, called FILE/NUMBER by their place in it.

    Label 1 becomes class 0; with `background` labels stay as they are, and a network has one output more. Names are
    those of a labels.txt beside the files, or of image/class/text (of ImageNet the 1000 that its models have), or
    else the labels. Where they give 0 a name of its own, it is a class like any other, and labels stay as they are.
    Raises InputError: no TFRecords, a label that is no number, or 0 where that is the background.
    """
    pictures, known = read_files(files, place, index, read_image)
    first = 0 if background or known.get(0, BACKGROUND) != BACKGROUND else 1
    if min(pictures.labels) < first:
        at = next(number for number, label in enumerate(pictures.labels) if label < first)
        raise InputError(
            f"{place}: {pictures.names[at]} has label 0, the background; give tfrecords+background:{place} to keep it "
            "as a class"
        )
    last = max(len(pictures.class_names), max(known, default=-1) + 1) - 1
    imagenet = _imagenet(known, last)
    names = {label: known.get(label, str(label)) for label in range(last + 1)} | imagenet
    if first == 0:
        names[0] = known.get(0, BACKGROUND)
    pictures.class_names = told_apart([names[label] for label in range(first, max(names) + 1)], first)
    if first:
        pictures.labels = array("i", (label - 1 for label in pictures.labels))
    return pictures


def _imagenet(known: dict[int, str], last: int) -> dict[int, str]:
    """The names that models have for labels 1 to 1000, if the texts (all synonyms of a class) are ImageNet's."""
    from torchvision.models import Inception_V3_Weights

    categories: list[str] = Inception_V3_Weights.IMAGENET1K_V1.meta["categories"]
    texts = {label: text for label, text in known.items() if label > 0}
    if not texts or last > len(categories):
        return {}
    same = [categories[label - 1] in (one.strip() for one in text.split(",")) for label, text in texts.items()]
    return dict(enumerate(categories, 1)) if sum(same) >= 0.9 * len(same) else {}


def index(path: Path) -> Index:
    """Where the records of a file are, and their labels. Damaged ones are left out, and told of."""
    found = Index()
    length = path.stat().st_size
    offset = number = 0
    if not length:
        found.bad.append(("", "the file is empty; fetch it again"))
    with path.open("rb") as file:
        while offset < length:
            name = f"{number:06d}"
            try:
                size, content = _record(file, offset, length)
            except _LostError as error:
                what = "what comes after is left out" if number else "or this is no TFRecord file"
                found.bad.append(("", f"{error}: {what}; fetch it again"))
                break
            if content is None:
                found.bad.append((name, f"damaged at byte {offset}: its checksum is wrong; fetch the file again"))
            else:
                _add(found, path, name, offset, content)
            offset += HEADER + size + FOOTER
            number += 1
    return found


class _LostError(Exception):
    """Where the next record starts cannot be told."""


def _record(file: BinaryIO, offset: int, length: int) -> tuple[int, bytes | None]:
    """The size of the record there, and its content; None where its checksum is wrong."""
    file.seek(offset)
    header = file.read(HEADER)
    if len(header) < HEADER:
        raise _LostError(f"cut short at byte {offset}")
    size: int
    size, checksum = struct.unpack("<QI", header)
    if checksum != masked_crc(header[:8]):
        raise _LostError("compressed: gunzip it" if header[:2] == GZIP else f"damaged at byte {offset}")
    if offset + HEADER + size + FOOTER > length:
        raise _LostError(f"cut short at byte {length}")
    if size > MAX_STREAM_BYTES:
        return size, None
    content = file.read(size)
    return size, content if file.read(FOOTER) == struct.pack("<I", masked_crc(content)) else None


def _features(content: bytes, place: str) -> Any:
    example = extra("tfrecord.example_pb2", place).Example()
    example.ParseFromString(content)
    return example.features.feature


def _add(found: Index, path: Path, name: str, offset: int, content: bytes) -> None:
    place = f"{path}: record {name}"
    try:
        features = _features(content, str(path))
    except InputError:
        raise
    except Exception:  # protobuf's DecodeError, of whichever implementation is installed
        found.bad.append((name, f"no tf.train.Example at byte {offset}; write it again"))
        return
    if LABEL not in features:
        raise InputError(f"{place}: it has no {LABEL}; write TFRecords as TF-Slim does")
    value = features[LABEL]
    numbers = getattr(value, value.WhichOneof("kind") or "int64_list").value
    only = numbers[0] if len(numbers) == 1 else str(list(numbers))
    label = labelled(only.decode("utf-8", "replace") if isinstance(only, bytes) else only, place)
    if IMAGE not in features or len(features[IMAGE].bytes_list.value) != 1:
        found.bad.append((name, f"no {IMAGE} at byte {offset}"))
        return
    found.add(name, offset, len(features[IMAGE].bytes_list.value[0]), label)
    if label not in found.class_names and TEXT in features and (texts := features[TEXT].bytes_list.value):
        found.class_names[label] = printable(texts[0].decode("utf-8", "replace"))


def read_image(path: Path, offset: int, size: int) -> bytes:
    """The picture, of `size` bytes, of the record there. Raises InputError with the reason: its caller has the name."""
    try:
        with path.open("rb") as file:
            _, content = _record(file, offset, path.stat().st_size)
    except (OSError, _LostError) as error:
        raise InputError(f"cannot be read ({error}); start again if the file has changed") from error
    if content is None:
        raise InputError(f"damaged at byte {offset}: its checksum is wrong; fetch {path} again")
    encoded: bytes = _features(content, str(path))[IMAGE].bytes_list.value[0]
    return encoded


with_background = partial(read, background=True)
