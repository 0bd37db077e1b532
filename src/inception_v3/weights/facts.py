"""What the file of a model may not state, and its user can: the scaling of images, and the names of the classes."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.support.json_values import parse_json
from inception_v3.support.system_errors import file_status, read_error
from inception_v3.support.text import byte_order_encoding, nfc, printable

Channels = tuple[float, float, float]

IMAGENET_MEAN_STD: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLASS_FILES = tuple(
    f"{name}.{ending}"
    for name in ("labels", "classes", "class_names", "class_to_idx", "idx_to_class", "class_indices", "id2label")
    for ending in ("txt", "json")
)
MAX_BYTES = 16 << 20  # of a list of class names


@dataclass(frozen=True)
class Facts:
    """Facts that a user states about a model; None leaves the value of its file, or the assumption.

    Attributes:
        mean: per channel, for pixels scaled to [0, 1], as in `Preprocessing`.
        std: per channel, like `mean`.
        class_names: the names of the classes in the order of the outputs.
        transform_input: whether the network gets images with this mean and std (by default ImageNet's) and transforms
            them to [-1, 1] by ImageNet's, as torchvision's transform_input does. False: they are its inputs.
    """

    mean: Channels | None = None
    std: Channels | None = None
    class_names: list[str] | None = None
    transform_input: bool | None = None

    def given(self, options: Mapping[str, Any]) -> set[str]:
        """The names of all facts that are given, here or in the options of InceptionV3."""
        facts = {name for name in ("mean", "std", "class_names") if getattr(self, name) is not None}
        return {*facts, *options} | ({"mean"} if self.transform_input is not None or self.std is not None else set())

    def preprocessing(self, stated: Preprocessing) -> Preprocessing:
        """The preprocessing that a file states, with the given mean and std."""
        mean, std = (stated.mean, stated.std) if self.transform_input is None else IMAGENET_MEAN_STD
        mean, std = self.mean or mean, self.std or std
        if self.transform_input:
            mean, std = after_transform_input(mean, std)
        return replace(stated, mean=mean, std=std)

    def names(self, file: Path, stated: list[str] | None, count: int) -> list[str] | None:
        """The names of `count` classes. Raises InputError: another number of them is given."""
        if self.class_names is None:
            return stated if stated and len(stated) == count else None
        if len(self.class_names) != count:
            raise InputError(
                f"{file}: it has {count} classes, but --class-names (in Python class_names) gives "
                f"{len(self.class_names)} names; give one for each class",
                exit_status=2,
            )
        return self.class_names


def after_transform_input(mean: Channels, std: Channels) -> tuple[Channels, Channels]:
    """The mean and std that have the effect of these, followed by torchvision's transform_input.

    That turns x into x * imagenet_std / 0.5 + (imagenet_mean - 0.5) / 0.5, which is in [-1, 1] for ImageNet's.
    """
    pairs = list(zip(mean, std, *IMAGENET_MEAN_STD, strict=True))
    means = [round(own - scale / std_of * (mean_of - 0.5), 12) for own, scale, mean_of, std_of in pairs]
    stds = [round(0.5 * scale / std_of, 12) for _, scale, _, std_of in pairs]
    return (means[0], means[1], means[2]), (stds[0], stds[1], stds[2])


def warn_of_assumed(file: Path, assumed: Mapping[str, str], given: set[str]) -> None:
    """Warn in one line of the assumptions (a text for each fact), without those that the user states."""
    lines = [line for name, line in assumed.items() if name not in given]
    if lines:
        warnings.warn(f"{file}: {'; '.join(lines)}", stacklevel=4)


def read_class_names(path: str | Path) -> list[str]:
    """The class names in a text file with one on each line, or in JSON: a list, or an object such as {"0": "cat"}.

    Text is in UTF-8, or in UTF-16 with its mark. Raises InputError: the file cannot be read, a name is empty, or the
    numbers of a JSON object are not 0, 1, 2 ....
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES >> 20} MiB")
        text = content.decode(byte_order_encoding(content) or "utf-8")
        names = _listed(text) if text.lstrip()[:1] in ("[", "{") else text.rstrip().splitlines()
        names = _without_numbers([nfc(name.strip()) for name in names])
    except OSError as error:
        raise read_error(path, error) from error
    except ValueError as error:
        fault = f"not UTF-8 (byte {error.start})" if isinstance(error, UnicodeDecodeError) else str(error)
        raise InputError(f"--class-names {printable(path)}: {fault}; write one name on each line") from error
    if not names or not all(names):
        fault = f"line {names.index('') + 1} is empty" if names else "it is empty"
        raise InputError(f"--class-names {printable(path)}: {fault}; write one name on each line")
    return names


def names_beside(folder: Path) -> tuple[list[str], str] | None:
    """The class names in a file of a usual name, and its name; None without such a file. Raises InputError."""
    file = next((folder / name for name in CLASS_FILES if file_status(folder / name) is not None), None)
    return None if file is None else (read_class_names(file), file.name)


def _without_numbers(names: list[str]) -> list[str]:
    """Names without their numbers if each has its own, as in `0:daisy` of TF-Slim and `0 daisy` of others."""
    parts = [re.fullmatch(rf"{number}[: ]\s*(.+)", name) for number, name in enumerate(names)]
    return [part[1] for part in parts if part] if all(parts) else names


def _listed(text: str) -> list[str]:
    """The names in a JSON list, or in an object by their numbers or with them. Raises ValueError."""
    value = parse_json(text, dict | list)
    if (names := names_in(value)) is None:
        parse_json(text, dict[int, str] | list[str])  # raises ValueError for most faults
        raise ValueError("its numbers are not 0, 1, 2 ... without a gap")
    return names


def names_in(value: Any) -> list[str] | None:
    """The class names in a list, in a mapping of their numbers, or in a mapping of the names to numbers; or None."""
    if isinstance(value, dict) and value and all(type(number) is int for number in value.values()):
        value = {number: name for name, number in value.items()}
    if isinstance(value, dict):
        numbers = {str(number): name for number, name in value.items()}
        value = [numbers.get(str(number)) for number in range(len(value))]
    is_list = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    return [nfc(name) for name in value] if value and is_list else None
