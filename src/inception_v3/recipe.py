"""A recipe: every number that training depends on, in one short TOML file."""

import difflib
import tomllib
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from inception_v3.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """The defaults are those for a folder of photographs; the files in recipes/ say what differs, and why."""

    image_size: int = 299
    crop_fraction: float = 0.875  # of evaluation's pictures: the centre that is kept
    augment: Literal["none", "photos", "handwriting"] = "photos"
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
        for key in ("image_size", "epochs", "batch_size", "learning_rate", "depth_multiplier"):
            if getattr(changed, key) <= 0:
                raise InputError(f"{key} must be greater than zero, not {getattr(changed, key)}", exit_status=2)
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
        if not isinstance(value, types[key]) and not (types[key] is float and type(value) is int):
            raise InputError(f"{name}: {key} must be {types[key].__name__}, not {value!r}", exit_status=2)
    return Recipe().with_options(**table)
