"""Labels and class names as data sets store them."""

import re
from collections import Counter
from pathlib import Path
from typing import TypeGuard

from inception_v3.data.splits import split_name
from inception_v3.errors import InputError
from inception_v3.support.system_errors import is_file, read_error
from inception_v3.support.text import nfc

MAX_LABEL = 99_999  # a damaged label could be any number, and a list of that many classes would fill the memory


def is_label(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_LABEL


def parse_label(value: object, name: str) -> int:
    """Parse a label stored as an integer or as decimal digits. Raises InputError, with the `name` of the record."""
    # int() refuses strings of thousands of digits with an error of its own, so their length is limited first
    digits = isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,20}\s*", value)
    label = int(digits[0]) if digits else value
    if not is_label(label):
        raise InputError(
            f"{name}: its label is {str(value)[:40]!r}, but must be a whole number from 0 to {MAX_LABEL:,}; "
            "number the classes, and write their names to a labels.txt"
        )
    return label


def read_label_names(folder: Path) -> dict[int, str]:
    """Class names by label from the folder's labels.txt; empty without that file.

    Each line is `0:daisy`, as TF-Slim writes it, or only the name. For the folder of a split, such as train/, the file
    may also lie beside the folder. Raises InputError: the file cannot be read, or a line is empty.
    """
    file = folder / "labels.txt"
    if not is_file(file):
        return read_label_names(folder.parent) if split_name(folder.name) else {}
    names: dict[int, str] = {}
    try:
        lines = file.read_text("utf-8-sig").rstrip().splitlines()  # editors on Windows write a byte order mark
    except OSError as error:
        raise read_error(file, error) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: cannot be read ({error}); write a line NUMBER:NAME for each class") from error
    for index, line in enumerate(lines):
        if (match := re.fullmatch(r"(?:([0-9]{1,20}):)?(.*\S)\s*", line)) is None:
            raise InputError(f"{file}: line {index + 1} is empty; write NUMBER:NAME")
        names[int(match[1] or index)] = nfc(match[2])
    return names


def unique_names(class_names: list[str], first_label: int = 0) -> list[str]:
    """Append the label to names that several classes share: ImageNet has two classes called "crane"."""
    counts = Counter(class_names)
    return [f"{name} ({label})" if counts[name] > 1 else name for label, name in enumerate(class_names, first_label)]
