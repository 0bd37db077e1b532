"""Recipes: every number that determines a training, in one short TOML file; and the options of running it."""

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
from inception_v3.support.arguments import Count, Seed, Workers, check_fields, checked, scalar
from inception_v3.support.system_errors import why_missing
from inception_v3.support.text import printable, suggest

AugmentName = Literal["none", "photos", "photos-randaugment", "crops", "handwriting", "slim", "slim-fast"]  # augment.py
CHOICES: dict[str, tuple[str, ...]] = {
    "preprocessing": get_args(PreprocessingName),
    "augment": get_args(AugmentName),
    "optimizer": ("rmsprop", "sgd", "adamw"),
    "schedule": ("stairs", "cosine"),
    "precision": ("auto", "float32"),
}
OR_AUTO = ("batch_norm_decay", "ema_decay")  # a number, or "auto"
POSITIVE = ("image_size", "crop_fraction", "depth_multiplier", "dropout_keep_prob", "epochs", "batch_size",
            "accumulate", "learning_rate", "decay_epochs", "rmsprop_epsilon", "adamw_epsilon")  # fmt: skip
MAXIMUM = {
    **dict.fromkeys(("crop_fraction", "dropout_keep_prob", "label_smoothing", "learning_rate_decay"), 1),
    "image_size": 100_000, "depth_multiplier": 100, "epochs": 1_000_000, "batch_size": 65_536, "accumulate": 65_536,
}  # fmt: skip
BELOW_ONE = ("batch_norm_decay", "ema_decay", "rmsprop_decay", "momentum", "adamw_beta1", "adamw_beta2")
SMALLEST, LARGEST = 1e-30, 1e30  # float32 cannot compute with numbers much closer to zero, or much larger


@dataclass(frozen=True)
class Recipe:
    """The numbers of a training. The defaults suit a folder of photographs; the files in recipes/ give reasons."""

    # The network and its images
    image_size: int = 299
    image_sizes: tuple[tuple[float, int], ...] = ()  # growing images: (fraction of the epochs, size), smallest first
    preprocessing: PreprocessingName = "inception"  # for evaluation, and for training where `augment` is "none"
    crop_fraction: float = 0.875  # central part that evaluation keeps; only for preprocessing "inception" and "slim"
    depth_multiplier: float = 1.0
    dropout_keep_prob: float = 0.8
    batch_norm_decay: float | str = "auto"  # "auto" depends on the number of steps: schedules.py
    freeze_batch_norm: bool = False  # normalise by the moving averages and do not update them
    sync_batch_norm: bool = False  # normalise over the images of all processes
    augment: AugmentName = "photos"
    mixup: float = 0.0  # alpha of the Beta distribution of the mixing proportion; 0 turns it off
    cutmix: float = 0.0  # likewise; with both, each batch uses one of them at random
    class_weights: str | Mapping[str, float] = "none"  # "balanced", or a weight by class name; missing classes have 1

    # Length and batches
    epochs: int = 50
    batch_size: int = 32  # of each process
    accumulate: int = 1  # batches per step

    # Optimizer
    optimizer: Literal["rmsprop", "sgd", "adamw"] = "rmsprop"
    momentum: float = 0.9  # for rmsprop and sgd
    rmsprop_decay: float = 0.9
    rmsprop_epsilon: float = 1.0
    adamw_beta1: float = 0.9
    adamw_beta2: float = 0.999
    adamw_epsilon: float = 1e-8
    learning_rate: float = 0.045
    schedule: Literal["stairs", "cosine"] = "stairs"
    warmup_epochs: float = 0.0  # the learning rate rises linearly from zero
    learning_rate_decay: float = 0.94  # for stairs: the factor after every `decay_epochs`
    decay_epochs: float = 2.0
    clip_norm: float = 2.0  # largest norm of all gradients together; 0 turns clipping off
    precision: Literal["auto", "float32"] = "auto"  # "auto" uses bfloat16 where the device computes in it

    # Loss and averages
    label_smoothing: float = 0.1
    aux_weight: float = 0.4
    weight_decay: float = 0.00004  # L2 of the kernels, as part of the loss; for adamw its own decoupled weight decay
    ema_decay: float | str = "auto"  # of the running average of the weights; "auto" is 0.9999

    def with_options(self, **options: Any) -> "Recipe":
        """A copy with the options that are not None. Raises InputError, naming the key, for an invalid value."""
        given = {key: scalar(value) for key, value in options.items() if value is not None}
        if unknown := given.keys() - asdict(self):
            raise InputError(f"no such key: {', '.join(sorted(unknown))}", exit_status=2)
        for key, value in (asdict(self) | given).items():
            if requirement := _violated_requirement(key, value):
                raise InputError(f"{key} must be {requirement}, not {value!r}", exit_status=2)
        if "image_sizes" in given:
            # Plain sizes get equal fractions.
            given["image_sizes"] = tuple(
                (1.0, stage) if type(stage) is int else (float(stage[0]), stage[1]) for stage in given["image_sizes"]
            )
            if given["image_sizes"]:
                given.setdefault("image_size", given["image_sizes"][-1][1])
        changed = replace(self, **given)
        sizes = [size for _, size in changed.image_sizes] or [changed.image_size]
        if min(sizes) < minimum_size():
            raise InputError(f"image_size must be at least {minimum_size()}, not {min(sizes)}", exit_status=2)
        if sizes != sorted(sizes) or sizes[-1] != changed.image_size:
            raise InputError(
                f"image_sizes must increase and end with image_size, {changed.image_size}: not {sizes}", exit_status=2
            )
        if changed.sync_batch_norm and changed.accumulate > 1:
            raise InputError(
                "sync_batch_norm and accumulate cannot be combined: processes with different numbers of batches would "
                "wait for each other; use more processes, or sync_batch_norm = false",
                exit_status=2,
            )
        return changed


@dataclass(frozen=True)
class TrainingOptions:
    """How to run a training. Only the seed changes the result."""

    seed: Seed = 0  # of the initial weights, the order of the images, augmentation, dropout and mixing
    workers: Workers = 0  # processes that decode images; 0 decodes in the training process
    save_every: Count | None = None  # steps between saved states, besides one after every epoch; None: two minutes
    log_steps: Count | None = None  # steps between printed lines, and figures of the trackers; None: no lines, 10 steps

    def __post_init__(self) -> None:
        check_fields(self)


DEFAULT_OPTIONS = TrainingOptions()


def _violated_requirement(key: str, value: Any) -> str | None:
    """The requirement that a value does not meet, as words that complete "KEY must be"; None if the value is valid."""
    if key in CHOICES:
        return None if value in CHOICES[key] else f"one of {', '.join(CHOICES[key])}"
    if key == "image_sizes":
        valid = isinstance(value, list | tuple) and (
            all(type(size) is int for size in value) or all(map(_is_stage, value))
        )
        return None if valid else "a list of sizes, such as [79, 151, 299], or of [fraction of the epochs, size]"
    if key == "class_weights":
        if isinstance(value, Mapping):
            valid = all(map(_is_positive_number, value.values()))
        else:
            valid = value in ("none", "balanced")
        return None if valid else '"none", "balanced" or a table of weights such as { cat = 1.0, dog = 2.5 }'
    if key in OR_AUTO and value == "auto":
        return None
    kind = float if key in OR_AUTO else type(getattr(Recipe, key))
    if type(value) is not kind and not (kind is float and type(value) is int):
        return kind.__name__ + (' or "auto"' if key in OR_AUTO else "")
    lower_bound = "greater than zero" if key in POSITIVE else "zero or more"
    if not value >= 0 or value == math.inf or (value == 0 and key in POSITIVE):
        return lower_bound
    if 0 < value < SMALLEST:
        return f"{SMALLEST} or more" if key in POSITIVE else f"0, or {SMALLEST} or more"
    if value > (maximum := MAXIMUM.get(key, LARGEST)):
        return f"{lower_bound} and at most {maximum:,}"
    if key in BELOW_ONE and value >= 1:
        return f"{lower_bound} and less than 1"
    return None


def _is_positive_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _is_stage(value: Any) -> bool:
    """Whether `value` is [fraction of the epochs, size]."""
    pair = isinstance(value, list | tuple) and len(value) == 2
    return pair and _is_positive_number(value[0]) and type(value[1]) is int


@checked
def load_recipe(name: str | Path) -> Recipe:
    """Read a recipe of this package, by name, or a TOML file, by path. Raises InputError, naming the file and key."""
    name = str(name)
    folder = resources.files("inception_v3.training") / "recipes"
    names = sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml"))
    try:
        text = (folder / f"{name}.toml" if name in names else Path(name)).read_text("utf-8")
        table = tomllib.loads(text)
    except OSError as error:
        fault = f"no such recipe or .toml file; {suggest(name, names)}"
        raise InputError(f"{printable(name)}: {why_missing(name, fault)}", exit_status=2) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: no such recipe or .toml file; {suggest(name, names)}", exit_status=2) from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name}: not TOML: {error}", exit_status=2) from error
    keys = [field.name for field in fields(Recipe)]
    for key in table:
        if key not in keys:
            raise InputError(f"{name}: no such key: {key}; {suggest(key, keys)}", exit_status=2)
    try:
        return Recipe().with_options(**table)
    except InputError as error:
        raise InputError(f"{name}: {error}", exit_status=error.exit_status) from error
