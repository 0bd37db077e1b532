"""The description in an exported file: one JSON text under the key `inception_v3`.

It records the network's settings, the preprocessing, the classes, the precision, and how the outputs differed from the
network in float32 when the file was written. Reading it needs neither PyTorch nor an engine.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.engines.base import Precision
from inception_v3.network.settings import Settings

KEY = "inception_v3"
VERSION = 2
MAX_BYTES = 64 * 2**20  # of a description; only class names can be long


@dataclass(frozen=True)
class AgreementCheck:
    """How the outputs of an exported file differ from those of the network, run in float32 by PyTorch.

    The field names are the keys in the file.

    Attributes:
        pictures: the number of images that were compared.
        source: where the images came from.
        preparation: the library that resized them: "pillow", as `predict` uses for exported files, or "none".
        top_1_agreement: the fraction of images with the same top class; 1 without logits.
        max_difference, mean_difference: absolute differences of probabilities, or differences of end points relative
            to their largest value (`compared`).
        end_points_difference: the largest relative difference of an end point. It shows errors that a probability near
            1 hides.
        classes: the number of different top classes; 0 without logits.
        compared: probabilities, or end points for a network without logits.
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

    def __str__(self) -> str:
        top_1 = f"top-1 agreement {self.top_1_agreement:.2%}, " if self.compared == "probabilities" else ""
        return (
            f"{top_1}{self.compared} off by {self.max_difference:.1e} at most and "
            f"{self.mean_difference:.1e} on average, {self.pictures} images ({self.source})"
        )


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
        kept_higher: end points of an int8 network that stayed in float32.
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

    def names(self) -> list[str]:
        """The class names; the class numbers if there are no names."""
        return self.class_names or [str(number) for number in range(self.settings.num_classes)]

    def to_json(self) -> str:
        return json.dumps({"version": VERSION} | asdict(self), ensure_ascii=True)


def parse_description(text: str, path: Path) -> Description:
    """Parse the JSON text in the file `path`. Raises InputError: damaged, or written by another version."""
    try:
        values = json.loads(text)
        if values.pop("version") != VERSION:
            raise InputError(f"{path}: written by another version of inception-v3; export it again with this one")
        if values.keys() != {field.name for field in fields(Description)}:
            raise ValueError(f"its keys are {sorted(values)}")
        if values["precision"] not in get_args(Precision):
            raise ValueError(f"its precision is {values['precision']}")
        values["settings"] = Settings(**values["settings"])
        values["preprocessing"] = Preprocessing(**values["preprocessing"])
        values |= {name: tuple(values[name]) for name in ("outputs", "kept_higher")}
        values["check"] = values["check"] and AgreementCheck(**values["check"])
        if (names := values["class_names"]) is not None:
            values["class_names"], classes = list(names), values["settings"].num_classes
            if len(names) != classes:
                raise ValueError(f"{len(names)} class names for {classes} classes")
        return Description(**values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: its description cannot be read ({error}); export it again") from error
