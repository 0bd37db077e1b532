"""A recipe: every number that training depends on, in one short TOML file."""

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import PreprocessingName
from inception_v3.network.architecture import minimum_size

AugmentName = Literal[
    "none", "photos", "photos-randaugment", "crops", "handwriting", "slim", "slim-fast"
]  # those of augment.py
CHOICES: dict[str, tuple[str, ...]] = {
    "preprocessing": get_args(PreprocessingName),
    "augment": get_args(AugmentName),
    "optimizer": ("rmsprop", "sgd", "adamw"),
    "schedule": ("stairs", "cosine"),
    "precision": ("auto", "float32"),
}
OR_AUTO = ("batch_norm_decay", "ema_decay")
POSITIVE = ("image_size", "crop_fraction", "depth_multiplier", "dropout_keep_prob", "epochs", "batch_size",
            "accumulate", "learning_rate", "decay_epochs", "rmsprop_epsilon", "adamw_epsilon")  # fmt: skip
AT_MOST_ONE = ("crop_fraction", "dropout_keep_prob", "label_smoothing", "learning_rate_decay")
LEAST = 1e-30  # what is closer to zero is none to float32
BELOW_ONE = ("batch_norm_decay", "ema_decay", "rmsprop_decay", "momentum", "adamw_beta1", "adamw_beta2")


@dataclass(frozen=True)
class Recipe:
    """The defaults are those for a folder of photographs; the files in recipes/ say what differs, and why."""

    # What the network is, and sees
    image_size: int = 299
    image_sizes: tuple[tuple[float, int], ...] = ()  # progressive: sizes, or [share of the epochs, size], growing
    preprocessing: PreprocessingName = "inception"  # of evaluation's pictures, and of training's without `augment`
    crop_fraction: float = 0.875  # of evaluation's pictures: the centre that is kept, where it is not another program's
    depth_multiplier: float = 1.0
    dropout_keep_prob: float = 0.8
    batch_norm_decay: float | str = "auto"  # "auto" fits it to the number of steps: schedules.py
    freeze_batch_norm: bool = False  # normalise by the moving averages, and leave them as they are
    sync_batch_norm: bool = False  # of several processes: statistics over the pictures of all of them
    augment: AugmentName = "photos"
    mixup: float = 0.0  # alpha of the Beta distribution that a batch draws its share from; 0 mixes nothing
    cutmix: float = 0.0  # likewise; where both are given, each batch takes one of the two
    class_weights: str | Mapping[str, float] = "none"  # "balanced", or a weight for each class; others have 1

    # Its length, in pictures
    epochs: int = 50
    batch_size: int = 32  # of each process
    accumulate: int = 1  # so many batches make a step

    # How a step is taken
    optimizer: Literal["rmsprop", "sgd", "adamw"] = "rmsprop"
    momentum: float = 0.9  # of rmsprop and sgd
    rmsprop_decay: float = 0.9
    rmsprop_epsilon: float = 1.0
    adamw_beta1: float = 0.9
    adamw_beta2: float = 0.999
    adamw_epsilon: float = 1e-8
    learning_rate: float = 0.045
    schedule: Literal["stairs", "cosine"] = "stairs"
    warmup_epochs: float = 0.0  # in which the rate climbs from zero
    learning_rate_decay: float = 0.94  # of the stairs: a factor every `decay_epochs`
    decay_epochs: float = 2.0
    clip_norm: float = 2.0  # of all gradients together; 0 does not clip
    precision: Literal["auto", "float32"] = "auto"  # "auto" multiplies in bfloat16 where the processor does

    # What is minimised, and what is kept
    label_smoothing: float = 0.1
    aux_weight: float = 0.4
    weight_decay: float = 0.00004  # L2 of the kernels, in the loss; adamw has its own, decoupled, in its place
    ema_decay: float | str = "auto"  # of the running average of the weights; "auto" is 0.9999

    def with_options(self, **options: Any) -> "Recipe":
        """A copy with those options that are not None, checked. Raises InputError, naming the key."""
        given = {key: value for key, value in options.items() if value is not None}
        for key, value in (asdict(self) | given).items():
            if mistake := _mistake(key, value):
                raise InputError(f"{key} must be {mistake}, not {value!r}", exit_status=2)
        if "image_sizes" in given:
            given["image_sizes"] = _stages(given["image_sizes"])
            if given["image_sizes"]:
                given.setdefault("image_size", given["image_sizes"][-1][1])
        changed = replace(self, **given)
        sizes = [size for _, size in changed.image_sizes] or [changed.image_size]
        if min(sizes) < minimum_size():
            raise InputError(f"image_size must be at least {minimum_size()}, not {min(sizes)}", exit_status=2)
        if sizes != sorted(sizes) or sizes[-1] != changed.image_size:
            message = f"image_sizes must grow, and end with the image_size, {changed.image_size}: not {sizes}"
            raise InputError(message, exit_status=2)
        if changed.sync_batch_norm and changed.accumulate > 1:
            raise InputError(
                "sync_batch_norm and accumulate do not go together: processes with unequal numbers of batches would "
                "wait for each other; take more processes, or sync_batch_norm = false",
                exit_status=2,
            )
        return changed


def _mistake(key: str, value: Any) -> str | None:
    """What is wrong with a value, in words that complete "KEY must be"."""
    if key in CHOICES:
        return None if value in CHOICES[key] else f"one of {', '.join(CHOICES[key])}"
    if key == "image_sizes":
        fine = isinstance(value, list | tuple) and (all(map(_is_size, value)) or all(map(_is_stage, value)))
        return None if fine else "a list of sizes, such as [79, 151, 299], or of [share, size]"
    if key == "class_weights":
        numbers = value.values() if isinstance(value, Mapping) else ()
        fine = value in ("none", "balanced") or isinstance(value, Mapping)
        fine = fine and all(_is_number(number) and 0 < number < math.inf for number in numbers)
        return None if fine else '"none", "balanced" or a table of weights such as { cat = 1.0, dog = 2.5 }'
    if key in OR_AUTO and value == "auto":
        return None
    kind = float if key in OR_AUTO else type(getattr(Recipe, key))
    if type(value) is not kind and not (kind is float and type(value) is int):
        return kind.__name__ + (' or "auto"' if key in OR_AUTO else "")
    low = "greater than zero" if key in POSITIVE else "zero or more"
    if not math.isfinite(value) or value < 0 or (value == 0 and key in POSITIVE):
        return low
    if 0 < value < LEAST:
        return f"{LEAST} or more" if key in POSITIVE else f"0, or {LEAST} or more"
    if key in AT_MOST_ONE and value > 1:
        return f"{low} and at most 1"
    if key in BELOW_ONE and value >= 1:
        return f"{low} and less than 1"
    return None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_size(value: Any) -> bool:
    return type(value) is int


def _is_stage(value: Any) -> bool:
    """A share of the training and a size."""
    pair = isinstance(value, list | tuple) and len(value) == 2
    return pair and _is_number(value[0]) and 0 < value[0] < math.inf and _is_size(value[1])


def _stages(sizes: Any) -> tuple[tuple[float, int], ...]:
    """Sizes alone have equal shares."""
    return tuple((1.0, one) if _is_size(one) else (float(one[0]), one[1]) for one in sizes)


def load_recipe(name: str) -> Recipe:
    """A recipe that ships with the package, by name, or a TOML file by path. Raises InputError, naming the key."""
    shipped = resources.files("inception_v3.training") / "recipes"
    known = sorted(path.name.removesuffix(".toml") for path in shipped.iterdir() if path.name.endswith(".toml"))
    try:
        text = (shipped / f"{name}.toml" if name in known else Path(name)).read_text("utf-8")
        table = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        message = f"{name}: no such recipe; there are {', '.join(known)}, or give a .toml file"
        raise InputError(message, exit_status=2) from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name}: not TOML: {error}", exit_status=2) from error
    keys = [field.name for field in fields(Recipe)]
    for key in table:
        if key not in keys:
            close = difflib.get_close_matches(key, keys, 1)
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(keys)}"
            raise InputError(f"{name}: no such key: {key}{hint}", exit_status=2)
    try:
        return Recipe().with_options(**table)
    except InputError as error:
        raise InputError(f"{name}: {error}", exit_status=error.exit_status) from error
