"""TFRecords of tf.train.Example as TF-Slim's scripts write them, read without TensorFlow.

The features are those of slim/datasets/build_imagenet_data.py and dataset_utils.py: image/encoded, image/class/label,
and for ImageNet image/class/text. Labels start at 1, and 0 is the background. Both checksums of a record are verified.
"""

import re
import struct
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from inception_v3.data.labelled_images import BACKGROUND, LabelledImages
from inception_v3.data.labels import parse_label, unique_names
from inception_v3.data.records import FileIndex, read_records
from inception_v3.errors import InputError
from inception_v3.images.decode import MAX_STREAM_BYTES
from inception_v3.support.crc32c import masked_crc
from inception_v3.support.protocol_buffers import decode_varints, read_fields
from inception_v3.support.system_errors import read_reason
from inception_v3.support.text import text_line

TFRECORD_NAME = re.compile(r"\.tfrecords?$|-\d{5,}-of-\d{5,}$")  # matches the end of a name
IMAGE, LABEL, TEXT = "image/encoded", "image/class/label", "image/class/text"
DECODERS: dict[int, Callable[[Any], list[Any]]] = {  # by the number of the field in tf.train.Feature
    1: lambda value: [bytes(value)],
    2: lambda packed: np.frombuffer(packed, "<f4").tolist(),
    3: lambda packed: [packed] if isinstance(packed, int) else decode_varints(packed).tolist(),
}
HEADER, FOOTER = 12, 4  # bytes: the length and its checksum; the checksum of the content


def read_tfrecords(files: list[Path], address: str, keep_background: bool = False) -> LabelledImages:
    """The images of all files, named FILE/NUMBER by their index in the file.

    Label 1 becomes class 0, unless label 0 is a class: with `keep_background`, or if label 0 has a name other than
    "background". Class names come from a labels.txt beside the files, or else from image/class/text. ImageNet's
    classes get the names that its models use, and classes without a name get their label as the name.
    Raises InputError: not TFRecords, a label that is not a whole number, or a label 0 that is not a class.
    """
    images, label_names = read_records(files, address, index_tfrecords, read_record)
    first_label = 0 if keep_background or label_names.get(0, BACKGROUND) != BACKGROUND else 1
    if min(images.labels) < first_label:
        name = images.names[images.labels.index(0)]
        raise InputError(
            f"{address}: {name} has label 0, the background; give tfrecords+background:{address} to keep it as a class"
        )
    last_label = max(len(images.class_names) - 1, max(label_names, default=0))
    names = {0: BACKGROUND} | {label: str(label) for label in range(1, last_label + 1)} | label_names
    names |= _imagenet_names(label_names, last_label)
    images.class_names = unique_names([names[label] for label in range(first_label, max(names) + 1)], first_label)
    images.labels = array("i", (label - first_label for label in images.labels))
    return images


def _imagenet_names(texts: dict[int, str], last_label: int) -> dict[int, str]:
    """The class names of ImageNet models for labels 1 to 1000, if `texts` are ImageNet's lists of synonyms; or {}."""
    from inception_v3.weights.formats.weights import imagenet_classes  # imports PyTorch

    categories = imagenet_classes()
    texts = {label: text for label, text in texts.items() if label > 0}
    if not texts or last_label > len(categories):
        return {}
    matches = sum(categories[label - 1] in map(str.strip, text.split(",")) for label, text in texts.items())
    return dict(enumerate(categories, 1)) if matches >= 0.9 * len(texts) else {}


def index_tfrecords(path: Path) -> FileIndex:
    """The images of a file and their labels. Damaged records are left out, and listed as bad."""
    index = FileIndex()
    length = path.stat().st_size
    offset = number = 0
    if not length:
        index.bad.append(("", "the file is empty; download it again"))
    with path.open("rb") as file:
        while offset < length:
            name = f"{number:06d}"
            try:
                size, content = _read_content(file, offset, length)
            except ValueError as error:
                consequence = "the rest is left out" if number else "perhaps this is not a TFRecord file"
                index.bad.append(("", f"{error}: {consequence}; download it again"))
                break
            if content is None:
                index.bad.append((name, f"damaged at byte {offset}: wrong checksum; download the file again"))
            else:
                _add_example(index, path, name, offset, content)
            offset += HEADER + size + FOOTER
            number += 1
    return index


def _read_content(file: BinaryIO, offset: int, length: int) -> tuple[int, bytes | None]:
    """The size and the content of the record at `offset`. It is None if its checksum is wrong or it is too large.

    Raises ValueError: the length cannot be read, so the start of the next record is unknown.
    """
    file.seek(offset)
    header = file.read(HEADER)
    if len(header) < HEADER:
        raise ValueError(f"cut short at byte {offset}")
    size, checksum = struct.unpack("<QI", header)
    if checksum != masked_crc(header[:8]):
        raise ValueError("compressed: gunzip it" if header[:2] == b"\x1f\x8b" else f"damaged at byte {offset}")
    if offset + HEADER + size + FOOTER > length:
        raise ValueError(f"cut short at byte {length}")
    if size > MAX_STREAM_BYTES:
        return size, None
    content = file.read(size)
    return size, content if file.read(FOOTER) == struct.pack("<I", masked_crc(content)) else None


def _fields(message: Any) -> Iterator[tuple[int, Any]]:
    """The (number, value) of each field of a message. Raises ValueError or TypeError: it is not a message."""
    return ((field.number, field.value) for field in read_fields(message))


def _parse_example(content: bytes) -> dict[str, memoryview]:
    """The encoded features (tf.train.Feature) of a tf.train.Example, by name.

    Raises ValueError or TypeError for other content. Source: tensorflow/core/example/example.proto and feature.proto.
    """
    features = {}
    for _, table in _fields(memoryview(content)):
        for _, entry in _fields(table):
            name_and_value = dict(_fields(entry))
            features[str(name_and_value.get(1, b""), "utf-8")] = name_and_value.get(2, memoryview(b""))
    return features


def _values(feature: memoryview) -> list[Any]:
    """The values of a feature: bytes, floats or integers. Raises as `_parse_example` does."""
    lists = (fields for fields in _fields(feature) if fields[0] in DECODERS)
    return [value for kind, items in lists for _, item in _fields(items) for value in DECODERS[kind](item)]


def _add_example(index: FileIndex, path: Path, name: str, offset: int, content: bytes) -> None:
    """Add an example to the index, or to `index.bad`. Raises InputError: its label is missing or not a number."""
    try:
        features = _parse_example(content)
        images, labels, texts = (_values(features.get(each, memoryview(b""))) for each in (IMAGE, LABEL, TEXT))
    except (ValueError, TypeError):
        index.bad.append((name, f"not a tf.train.Example at byte {offset}; write it again"))
        return
    if LABEL not in features:
        raise InputError(f"{path}: record {name}: it has no {LABEL}; write TFRecords as TF-Slim does")
    value = labels[0] if len(labels) == 1 else str(labels)
    label = parse_label(
        value.decode("utf-8", "replace") if isinstance(value, bytes) else value, f"{path}: record {name}"
    )
    if len(images) != 1 or not isinstance(images[0], bytes):
        index.bad.append((name, f"no {IMAGE} at byte {offset}; write it again"))
        return
    index.add(name, offset, len(images[0]), label)
    if texts and isinstance(texts[0], bytes):
        index.class_names.setdefault(label, text_line(texts[0].decode("utf-8", "replace")))


def read_record(name: str, path: Path, offset: int, size: int) -> bytes:
    """The encoded image of the record at `offset`; its `size` is not needed.

    Raises InputError, with the `name` of the image: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            _, content = _read_content(file, offset, path.stat().st_size)
    except OSError as error:
        raise InputError(f"{name}: {path}: {read_reason(path, error)}") from error
    except ValueError as error:
        raise InputError(f"{name}: cannot be read ({error}); if the file has changed, run the command again") from error
    if content is None:
        raise InputError(f"{name}: damaged at byte {offset}: wrong checksum; download {path} again")
    return bytes(_values(_parse_example(content)[IMAGE])[0])
