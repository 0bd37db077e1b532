"""The description in an exported file: one JSON text under the key `inception_v3`.

It records the network's settings, the preprocessing, the classes, the precision, and how the outputs differed from the
network in float32 when the file was written. Reading it needs neither PyTorch nor an engine.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.engines.base import Precision
from inception_v3.network.settings import Settings
from inception_v3.support.json_values import check_type, parse_json
from inception_v3.support.text import count_of

KEY = "inception_v3"
VERSION = 3
READABLE_VERSIONS = (2, 3)  # version 2 had neither `speed` nor `int8_share`, and fewer figures in the check
MAX_BYTES = 64 * 2**20  # of a description; only class names can be long


@dataclass(frozen=True)
class AgreementCheck:
    """How the outputs of an exported file differ from those of the network, run in float32 by PyTorch.

    The field names are the keys in the file.

    Attributes:
        pictures: the number of images that were compared.
        source: where the images came from.
        preparation: the library that resized them: "pillow", as `predict` uses for exported files, or "none".
        top_1_agreement: the fraction of images with the same top class, without the ties unless all
            images are ties; 1 without logits.
        max_difference, mean_difference: absolute differences of probabilities, or differences of end points relative
            to their largest value (`compared`).
        end_points_difference: the largest relative difference of an end point. It shows errors that a probability near
            1 hides.
        classes: the number of different top classes; 0 without logits.
        compared: probabilities, or end points for a network without logits.
        ties: the number of images that `top_1_agreement` leaves out, because their two most probable classes differ by
            no more than `tie_margin`.
        tie_margin: the largest change of a probability that bf16 causes; 0 for other precisions than int8.
        mean_kl: the mean Kullback-Leibler divergence, in nats, from the network's probabilities.
        accuracy, network_accuracy: the fractions of images whose top class is their label, by the file and by the
            network; None without labels.
    """

    pictures: int
    source: str
    preparation: str
    top_1_agreement: float
    max_difference: float
    mean_difference: float
    end_points_difference: float = 0.0
    classes: int = 0
    compared: Literal["probabilities", "end points"] = "probabilities"
    ties: int = 0
    tie_margin: float = 0.0
    mean_kl: float = 0.0
    accuracy: float | None = None
    network_accuracy: float | None = None

    def __str__(self) -> str:
        parts = []
        if self.compared == "probabilities":
            ties = f" without {count_of(self.ties, 'tie')}" if self.ties else ""
            ties = " (all are ties)" if self.ties == self.pictures else ties
            parts = [f"top-1 agreement {self.top_1_agreement:.2%}{ties}", f"KL divergence {self.mean_kl:.1e}"]
        parts.append(
            f"{self.compared} off by {self.max_difference:.1e} at most and {self.mean_difference:.1e} on average"
        )
        if self.accuracy is not None and self.network_accuracy is not None:
            parts.append(f"accuracy {self.accuracy:.1%} (network: {self.network_accuracy:.1%})")
        return f"{', '.join(parts)}, {self.pictures} images ({self.source})"


@dataclass(frozen=True)
class Speed:
    """Images per second of an exported network: one image at a time, and in batches of 16; `cpu` is its `cpu_name`."""

    cpu: str
    single: float
    batches: float


@dataclass(frozen=True)
class Description:
    """Describes an exported network. The field names are the keys in the file.

    Attributes:
        settings, preprocessing, class_names: of the model that was exported.
        outputs: the end points that the network returns.
        precision: the precision that was checked.
        any_size: whether it takes images of any size.
        weights: checksum of the file of the model that was exported.
        check: the comparison with the model, or None if there was none.
        numbers: checksum of the exported weights that were checked; "" for formats that protect their own.
        kept_higher: convolutions of an int8 network that stayed in a higher precision.
        int8_share: the fraction of an int8 network's multiplications that are in int8; 0 for other precisions.
        speed: images per second on the CPU of the export, or None if they were not measured.
    """

    settings: Settings
    preprocessing: Preprocessing
    class_names: list[str] | None
    outputs: tuple[str, ...]
    precision: Precision
    any_size: bool
    weights: str
    check: AgreementCheck | None = None
    numbers: str = ""
    kept_higher: tuple[str, ...] = ()
    int8_share: float = 0.0
    speed: Speed | None = None

    def names(self) -> list[str]:
        """The class names; the class numbers if there are no names."""
        return self.class_names or [str(number) for number in range(self.settings.class_count)]

    def __str__(self) -> str:
        """The precision, the share of int8, and the check."""
        share = f", {self.int8_share:.1%} of the multiplications in int8" if self.int8_share else ""
        return f"{self.precision}{share}, {self.check or 'not checked'}"

    def to_json(self) -> str:
        return json.dumps({"version": VERSION} | asdict(self), ensure_ascii=True)


def parse_description(text: str, path: Path) -> Description:
    """Parse the JSON text in the file `path`. Raises InputError: damaged, or written by another version."""
    try:
        values = parse_json(text, dict)
        if (version := values.pop("version", None)) not in READABLE_VERSIONS:
            raise InputError(f"{path}: written by another version of inception-v3; export it again with this one")
        expected = {field.name for field in fields(Description)}
        if (version == VERSION and values.keys() != expected) or not values.keys() <= expected:
            raise ValueError(f"its keys are {sorted(values)}")
        description: Description = check_type(values, Description)
        classes = description.settings.class_count
        if (names := description.class_names) is not None and len(names) != classes:
            raise ValueError(f"{len(names)} class names for {classes} classes")
        return description
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: its description cannot be read ({error}); export it again") from error
