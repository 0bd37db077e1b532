"""Recipes: every number that determines a training, in one short TOML file; and the options of running it."""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import PreprocessingName
from inception_v3.network.architecture import DepthMultiplier, Length, minimum_size
from inception_v3.support.arguments import (
    BatchSize,
    Count,
    Decay,
    Fraction,
    PositiveFraction,
    Range,
    Seed,
    Workers,
    check,
    check_fields,
    checked,
)
from inception_v3.support.system_errors import why_missing
from inception_v3.support.text import suggest

AugmentName = Literal["none", "photos", "photos-randaugment", "crops", "handwriting", "slim", "slim-fast"]  # augment.py
SMALLEST, LARGEST = 1e-30, 1e30  # float32 cannot compute with numbers much closer to zero, or much larger
Positive = Annotated[float, Range(above=0, maximum=LARGEST)]
ZeroOrMore = Annotated[float, Range(minimum=0, maximum=LARGEST)]


@dataclass(frozen=True)
class Recipe:
    """The numbers of a training. The defaults suit a folder of photographs; the files in recipes/ give reasons.

    Raises:
        TypeError: a field of the wrong type.
        ValueError: a wrong value.
    """

    # The network and its images
    image_size: Length = 299
    image_sizes: tuple[tuple[Positive, int], ...] = ()  # growing images: (fraction of the epochs, size), smallest first
    preprocessing: PreprocessingName = "inception"  # for evaluation, and for training where `augment` is "none"
    crop_fraction: PositiveFraction = 0.875  # part that evaluation keeps; only for preprocessing "inception" and "slim"
    depth_multiplier: DepthMultiplier = 1.0
    dropout_keep_prob: PositiveFraction = 0.8
    batch_norm_decay: Decay | Literal["auto"] = "auto"  # "auto" depends on the number of steps: schedules.py
    freeze_batch_norm: bool = False  # normalise by the moving averages and do not update them
    sync_batch_norm: bool = False  # normalise over the images of all processes
    augment: AugmentName = "photos"
    mixup: ZeroOrMore = 0.0  # alpha of the Beta distribution of the mixing proportion; 0 turns it off
    cutmix: ZeroOrMore = 0.0  # likewise; with both, each batch uses one of them at random
    # "balanced", or a weight by class name; missing classes have 1
    class_weights: Literal["none", "balanced"] | Mapping[str, Positive] = "none"

    # Length and batches
    epochs: Count = 50
    batch_size: BatchSize = 32  # of each process
    accumulate: Annotated[int, Range(1, 65_536)] = 1  # batches per step

    # Optimizer
    optimizer: Literal["rmsprop", "sgd", "adamw"] = "rmsprop"
    momentum: Decay = 0.9  # for rmsprop and sgd
    rmsprop_decay: Decay = 0.9
    rmsprop_epsilon: Positive = 1.0
    adamw_beta1: Decay = 0.9
    adamw_beta2: Decay = 0.999
    adamw_epsilon: Positive = 1e-8
    learning_rate: Positive = 0.045
    schedule: Literal["stairs", "cosine"] = "stairs"
    warmup_epochs: ZeroOrMore = 0.0  # the learning rate rises linearly from zero
    learning_rate_decay: Fraction = 0.94  # for stairs: the factor after every `decay_epochs`
    decay_epochs: Positive = 2.0
    clip_norm: ZeroOrMore = 2.0  # largest norm of all gradients together; 0 turns clipping off
    precision: Literal["auto", "float32"] = "auto"  # "auto" uses bfloat16 where the device computes in it

    # Loss and averages
    label_smoothing: Fraction = 0.1
    aux_weight: ZeroOrMore = 0.4
    weight_decay: ZeroOrMore = 0.00004  # L2 of the kernels, in the loss; for adamw its own decoupled weight decay
    ema_decay: Decay | Literal["auto"] = "auto"  # of the running average of the weights; "auto" is 0.9999

    def __post_init__(self) -> None:
        check_fields(self)
        for key, value in asdict(self).items():
            if isinstance(value, float) and 0 < value < SMALLEST:
                raise ValueError(f"{key} must be 0, or {SMALLEST} or more, not {value}")

    def with_options(self, **options: Any) -> "Recipe":
        """A copy with the options that are not None.

        Raises:
            InputError: an invalid value; the message names the key.
        """
        given = {key: value for key, value in options.items() if value is not None}
        if unknown := given.keys() - asdict(self):
            raise InputError(f"no such key: {', '.join(sorted(unknown))}", exit_status=2)
        if "image_sizes" in given:
            given["image_sizes"] = _stages(given["image_sizes"])
            if given["image_sizes"]:
                given.setdefault("image_size", given["image_sizes"][-1][1])
        try:
            changed = replace(self, **given)
        except (TypeError, ValueError) as error:
            raise InputError(str(error), exit_status=2) from error
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


def _stages(value: Any) -> tuple[tuple[float, int], ...]:
    """The fractions of the epochs, with their sizes; plain sizes get equal fractions. Raises InputError."""
    try:
        sizes = check("image_sizes", value, tuple[int, ...] | tuple[tuple[Positive, int], ...])
    except (TypeError, ValueError) as error:
        valid = "a list of sizes, such as [79, 151, 299], or of [fraction of the epochs, size]"
        raise InputError(f"image_sizes must be {valid}, not {value!r}", exit_status=2) from error
    return tuple((1.0, size) if isinstance(size, int) else size for size in sizes)


@checked
def load_recipe(name: str | Path) -> Recipe:
    """Read a recipe of this package, by name, or a TOML file, by path.

    Raises:
        InputError: no such recipe, or an invalid key or value, which the message names.
    """
    name = str(name)
    folder = resources.files("inception_v3.training") / "recipes"
    names = sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml"))
    try:
        text = (folder / f"{name}.toml" if name in names else Path(name)).read_text("utf-8")
        table = tomllib.loads(text)
    except OSError as error:
        fault = f"no such recipe or .toml file; {suggest(name, names)}"
        raise InputError(f"{name}: {why_missing(name, fault)}", exit_status=2) from error
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
