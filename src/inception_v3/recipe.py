"""A recipe: every number that training depends on, in one short TOML file."""

import difflib
import math
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from inception_v3.architecture import minimum_size
from inception_v3.errors import InputError

AugmentName = Literal[
    "none", "photos", "photos-randaugment", "crops", "handwriting", "slim", "slim-fast"
]  # those of augment.py
AUGMENT_NAMES: tuple[str, ...] = get_args(AugmentName)
POSITIVE = ("image_size", "crop_fraction", "depth_multiplier", "dropout_keep_prob", "epochs", "batch_size",
            "learning_rate", "decay_every", "epsilon")  # fmt: skip
AT_MOST_ONE = ("crop_fraction", "dropout_keep_prob", "warmup", "batch_norm_decay", "ema_decay", "rmsprop_decay",
               "momentum", "label_smoothing")  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """The defaults are those for a folder of photographs; the files in recipes/ say what differs, and why."""

    image_size: int = 299
    crop_fraction: float = 0.875  # of evaluation's pictures: the centre that is kept
    augment: AugmentName = "photos"
    depth_multiplier: float = 1.0
    dropout_keep_prob: float = 0.8
    batch_norm_decay: float = 0.99

    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 0.045
    learning_rate_decay: float = 0.94  # every `decay_every` of the training's length
    decay_every: float = 0.02
    warmup: float = 0.02  # share of the training in which the rate climbs from zero
    rmsprop_decay: float = 0.9
    momentum: float = 0.9
    epsilon: float = 1.0
    clip_norm: float = 2.0  # of all gradients together; 0 does not clip
    label_smoothing: float = 0.1
    aux_weight: float = 0.4
    weight_decay: float = 0.00004
    ema_decay: float = 0.99

    def with_options(self, **options: Any) -> "Recipe":
        """A copy with those options that are not None, checked."""
        changed = replace(self, **{key: value for key, value in options.items() if value is not None})
        for key, value in asdict(changed).items():
            if key == "augment":
                if value not in AUGMENT_NAMES:
                    raise InputError(f"augment must be one of {', '.join(AUGMENT_NAMES)}, not {value!r}", exit_status=2)
                continue
            low, high = 0, 1 if key in AT_MOST_ONE else math.inf
            if not low <= value <= high or (value == low and key in POSITIVE):
                above = "greater than zero" if key in POSITIVE else "zero or more"
                most = " and at most 1" if key in AT_MOST_ONE else ""
                raise InputError(f"{key} must be {above}{most}, not {value}", exit_status=2)
        if changed.image_size < minimum_size():
            raise InputError(f"image_size must be at least {minimum_size()}, not {changed.image_size}", exit_status=2)
        return changed


def load_recipe(name: str) -> Recipe:
    """A recipe that ships with the package, by name, or a TOML file by path. Raises InputError, naming the key."""
    shipped = resources.files("inception_v3") / "recipes"
    known = sorted(path.name.removesuffix(".toml") for path in shipped.iterdir() if path.name.endswith(".toml"))
    try:
        text = (shipped / f"{name}.toml" if name in known else Path(name)).read_text("utf-8")
        table = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        message = f"{name}: no such recipe; there are {', '.join(known)}, or give a .toml file"
        raise InputError(message, exit_status=2) from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name}: not TOML: {error}", exit_status=2) from error
    types = {field.name: type(field.default) for field in fields(Recipe)}
    for key, value in table.items():
        if key not in types:
            close = difflib.get_close_matches(key, types, 1)
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(types)}"
            raise InputError(f"{name}: no such key: {key}{hint}", exit_status=2)
        if type(value) is not types[key] and not (types[key] is float and type(value) is int):
            raise InputError(f"{name}: {key} must be {types[key].__name__}, not {value!r}", exit_status=2)
    return Recipe().with_options(**table)
