"""timm's inception_v3 (timm/models/inception_v3.py): torchvision's network and names, with its own preprocessing.

Its four sets of weights (tv, tf, tf_adv, gluon) all run with gammas and with the padding counted, even those that
come from TF-Slim. Images are resized bicubic, the shorter side to floor(299 / 0.875) = 341 pixels
(timm/data/transforms_factory.py, transforms_imagenet_eval), and scaled by mean and std 0.5; gluon's by ImageNet's.
The state dict does not record which, but the hub's config.json beside it does (timm/models/_hub.py).
"""

import math
import re
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from safetensors.torch import save_file

from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.support.json_values import read_json
from inception_v3.support.system_errors import file_status, read_error
from inception_v3.support.text import one_line, printable
from inception_v3.weights.facts import IMAGENET_MEAN_STD, names_in, read_class_names
from inception_v3.weights.formats import native, torchvision
from inception_v3.weights.formats.base import WritableFormat
from inception_v3.weights.formats.pickled import Instance, PickleError
from inception_v3.weights.formats.state_dict_file import is_pickled, is_safetensors
from inception_v3.weights.formats.torch_file import is_torch_file, open_torch_file
from inception_v3.weights.formats.torch_scaling import Scaling
from inception_v3.weights.formats.torch_stated import Stated, add_class_names
from inception_v3.weights.formats.weights import Weights
from inception_v3.weights.programs.program import Program
from inception_v3.weights.wordnet import names_of_ids

CONFIG = "config.json"
ARGUMENTS = "args.yaml"  # of timm's training script
MAX_BYTES = 1 << 20  # of args.yaml
PICKLED = (".bin", ".pth", ".pt")
PREPROCESSING = Preprocessing.named("timm")


# What only timm's training, its hub or its readers use, in pretrained_cfg and beside it.
OTHER_SETTINGS = """
    url file state_dict hf_hub_id hf_hub_filename source architecture tag custom_load test_input_size min_input_size
    fixed_input_size test_crop_pct label_descriptions pool_size test_pool_size first_conv classifier license description
    origin_url paper_name paper_ids notes num_features architectures model_type dtype torch_dtype transformers_version
    initializer_range do_pooling problem_type label2id id2label drop_rate aux_logits label_offset in_chans
"""
IMAGES = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
NAMES = {"label_names", "id2label", "label2id"}
# The settings from which each option of Preprocessing follows.
OPTIONS = {
    "image_size": ("input_size",),
    "resize": ("crop_pct", "input_size"),
    "mean": ("mean",),
    "std": ("std",),
    "interpolation": ("interpolation",),
    "fit": ("crop_mode",),
}
DEFAULTS: dict[str, Any] = {  # of PretrainedCfg in timm/models/_pretrained.py, for what config.json leaves out
    "input_size": [3, 224, 224],
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
    "mean": IMAGENET_MEAN_STD[0],
    "std": IMAGENET_MEAN_STD[1],
}
OF_INCEPTION: dict[str, Any] = DEFAULTS | {  # of inception_v3 in timm/models/inception_v3.py
    "input_size": [3, 299, 299],
    "mean": PREPROCESSING.mean,
    "std": PREPROCESSING.std,
}
ARCHITECTURE = re.compile(r"(tf_|adv_|gluon_)?inception_v3(\..*)?")
INTERPOLATIONS = {"nearest-exact": "nearest"}  # Pillow has one of the two


# The options of timm's training script by the names that they have in config.json.
OPTION_NAMES = {name: name for name in (*IMAGES, "img_size", "num_classes", "class_map")} | {
    "gp": "global_pool",
    "bn_eps": "norm_eps",
    "model_kwargs": "model_args",
}


@dataclass(frozen=True)
class _Config:
    """All settings, the names of those that are no defaults, and the file that states these."""

    settings: dict[str, Any]
    stated: set[str]
    file: Path


class _SettingError(ValueError):
    """A setting that cannot be used here."""


def recognises(path: Path) -> bool:
    """Whether the file is safetensors by another program, or a pickle by timm or beside its config.json."""
    return (is_safetensors(path) and not native.recognises(path)) or (is_pickled(path) and _config(path) is not None)


def read(path: Path, state: str | None = None) -> Weights:
    """Read the network of a file, see torchvision.read, and how timm's config.json says that it is used.

    Warns of each setting that is not understood. Raises InputError: a setting that cannot be computed here.
    """
    found = _config(path)
    if found is None:
        return torchvision.read(path, state, PREPROCESSING)
    config, file = found.settings, found.file
    try:
        preprocessing = _preprocessing(config)
        _check_network(config)
        stated = Stated({"image_size": preprocessing.image_size}, transforms=False)
        stated.scaling = Scaling(preprocessing.mean, preprocessing.std, "mean and std")
        if not NAMES & config.keys():
            add_class_names(stated, path)
        weights = torchvision.read(path, state, preprocessing, stated)
        epsilon = float(config.get("norm_eps", weights.settings.batch_norm_epsilon))
        settings = replace(weights.settings, image_size=preprocessing.image_size, batch_norm_epsilon=epsilon)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise InputError(f"{file}: {one_line(error, 300)}; correct or remove the file") from error
    lines = [f"its setting {one_line(name)} is not understood and not used" for name in _unknown(config)]
    names, line = _class_names(config, weights)
    for each in (*lines, *line):
        warnings.warn(f"{file}: {printable(each)}", stacklevel=2)
    source = f"{file.name} beside it" if file != path else "the options of timm in it"
    options = [option for option, keys in OPTIONS.items() if found.stated.intersection(keys)]
    sources = weights.sources | dict.fromkeys(options, source)
    weights = replace(weights, settings=settings, sources=sources)
    if names is None:
        return weights
    assumed = {name: line for name, line in weights.assumed.items() if name != "class_names"}
    return replace(weights, class_names=names, assumed=assumed, sources=sources | {"class_names": source})


# --------------------------------------------------------------------------------------------------- config.json


def _config(path: Path) -> _Config | None:
    """The settings of timm for a file, by config.json beside it, the file, or args.yaml; None if they are not timm's.

    Raises InputError: config.json or args.yaml cannot be read, or is no mapping.
    """
    if file_status(path.parent / CONFIG) is not None:
        config = read_json(path.parent / CONFIG, dict)
        if isinstance(name := config.get("architecture"), str) and ARCHITECTURE.fullmatch(name):
            return _merged(config, path.parent / CONFIG)
    inside = _config_inside(path) if is_torch_file(path) else None
    return inside if inside and inside.stated else _config_of_training(path) or inside


def _merged(config: dict[str, Any], file: Path, defaults: dict[str, Any] = DEFAULTS) -> _Config:
    """All settings of config.json at one level, as timm/models/_hub.py merges them. Older files have one level."""
    above = {name: value for name, value in config.items() if name not in ("pretrained_cfg", "model_args")}
    inner = [config[name] for name in ("pretrained_cfg", "model_args") if isinstance(config.get(name), dict)]
    merged: dict[str, Any] = {}
    for settings in (*inner[:1], above, *inner[1:]):
        merged |= {name: value for name, value in settings.items() if value is not None}
    if "labels" in merged:
        merged.setdefault("label_names", merged.pop("labels"))
    if isinstance(size := merged.pop("img_size", None), int):
        merged["input_size"] = [3, size, size]
    return _Config(defaults | merged, {*merged}, file)


def _config_inside(path: Path) -> _Config | None:
    """The options of timm's training script, or the configuration of a whole model of timm; None in other files."""
    try:
        root = open_torch_file(path).root
    except (InputError, PickleError, OSError, BadZipFile):
        return None
    if isinstance(root, dict) and isinstance(root.get("arch"), str) and "version" in root:  # of CheckpointSaver
        found = root.get("args")
        options = found.attributes if isinstance(found, Instance) else found
        options = options if isinstance(options, dict) else {}
        return _of_options({name: each for name, each in options.items() if _is_flat(each)}, root["arch"], path, path)
    if not isinstance(root, Instance) or not root.class_name.startswith("timm."):
        return None
    found = root.attributes.get("pretrained_cfg")
    options = found.attributes if isinstance(found, Instance) else found
    options = options if isinstance(options, dict) else {}
    names = (*IMAGES, "label_names")
    stated = {name: options[name] for name in names if options.get(name) and _is_flat(options[name])}
    return _merged(stated, path, OF_INCEPTION)


def _config_of_training(path: Path) -> _Config | None:
    """The options in args.yaml beside a file; None if they are those of another program or network.

    Raises InputError: it cannot be read.
    """
    file = path.parent / ARGUMENTS
    if file_status(file) is None:
        return None
    import yaml

    try:
        with file.open("rb") as opened:
            options = yaml.safe_load(opened.read(MAX_BYTES).decode())
    except OSError as error:
        raise read_error(file, error) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not YAML ({one_line(error, 200)}); correct or remove the file") from error
    model = options.get("model") if isinstance(options, dict) else None
    is_timms = isinstance(model, str) and ARCHITECTURE.fullmatch(model.removeprefix("timm/")) is not None
    return _of_options(options, str(model), file, path) if is_timms else None


def _of_options(options: dict[str, Any], model: str, file: Path, weights: Path) -> _Config:
    """The settings in the options of timm's training script. An option that is empty leaves timm's default."""
    gluon = {"mean": IMAGENET_MEAN_STD[0], "std": IMAGENET_MEAN_STD[1]} if "gluon" in model else {}
    settings = {ours: options[name] for name, ours in OPTION_NAMES.items() if options.get(name)}
    class_map = settings.get("class_map")
    if isinstance(class_map, str) and file_status(beside := weights.parent / Path(class_map).name) is not None:
        settings["label_names"] = read_class_names(beside)
        del settings["class_map"]
    return _merged(settings, file, OF_INCEPTION | gluon)


def _is_flat(value: Any) -> bool:
    """Whether a value from a pickle is text, a number, or a list of those. Others can be too deep to be shown."""
    plain = (str, int, float)
    return isinstance(value, plain) or (
        isinstance(value, list | tuple) and all(isinstance(each, plain) for each in value)
    )


def _unknown(config: dict[str, Any]) -> list[str]:
    understood = {*IMAGES, *NAMES, "num_classes", "global_pool", "norm_eps", "act_layer"}
    return [name for name in config if name not in understood.union(OTHER_SETTINGS.split())]


def _preprocessing(config: dict[str, Any]) -> Preprocessing:
    """What timm.data.create_transform does for evaluation (transforms_imagenet_eval). Raises ValueError."""
    size = config["input_size"]
    if not isinstance(size, list | tuple) or len(size) != 3 or size[0] != 3:
        raise _SettingError(f"its input_size {size} is not [3, height, width]; the network reads three channels")
    image_size = int(size[1]), int(size[2])
    crop, mode, interpolation = config["crop_pct"], config["crop_mode"], config["interpolation"]
    if type(crop) not in (int, float) or not 0 < crop <= 10:
        raise _SettingError(f"its crop_pct {crop} is not a part of an image")
    interpolation = INTERPOLATIONS.get(interpolation, interpolation)
    if interpolation not in ("bilinear", "bicubic", "nearest", "box", "hamming", "lanczos"):
        raise _SettingError(f"its interpolation {interpolation} cannot be computed here")
    if mode not in ("center", "squash", "border"):
        raise _SettingError(f"its crop_mode {mode} cannot be computed here")
    height, width = (math.floor(length / crop) for length in image_size)
    by_shorter_side = mode == "center" and height == width
    return Preprocessing(
        image_size=image_size,
        mean=_three_floats("mean", config["mean"]),
        std=_three_floats("std", config["std"]),
        resize=height if by_shorter_side else (height, width),
        interpolation=interpolation,
        fit={"squash": "stretch", "border": "contain", "center": "cover"}[mode],  # type: ignore[arg-type]
    )


def _three_floats(name: str, values: Any) -> tuple[float, float, float]:
    try:
        numbers = [float(value) for value in values]
        red, green, blue = numbers * 3 if len(numbers) == 1 else numbers
    except (TypeError, ValueError) as error:
        raise _SettingError(f"its {name} {values} is not a number for each of three channels") from error
    return red, green, blue


def _check_network(config: dict[str, Any]) -> None:
    """Raise ValueError if the network is not that which timm builds by default."""
    pool = config.get("global_pool", "avg")
    if pool not in ("avg", "fast", "fastavg", ""):
        raise _SettingError(f"its global_pool {pool} is not an average and cannot be computed here")
    if config.get("act_layer", "relu") != "relu":
        raise _SettingError(f"its act_layer {config['act_layer']} cannot be computed here")
    if config.get("label_offset"):
        raise _SettingError("its label_offset, which leaves out the first outputs, cannot be computed here")


def _class_names(config: dict[str, Any], weights: Weights) -> tuple[list[str] | None, list[str]]:
    """The names of the classes, and lines about settings that do not fit the weights."""
    count, lines = weights.settings.class_count, []
    key = next((each for each in ("label_names", "id2label", "label2id") if each in config), "label_names")
    names = config.get(key) if key == "label_names" else names_in(config[key])
    if names == [f"LABEL_{number}" for number in range(count)]:  # transformers's own numbers
        return None, []
    has_head = weights.settings.final_endpoint is None
    stated = config.get("num_classes")
    if stated not in (None, weights.settings.num_classes) and has_head:
        lines.append(f"states {stated} classes, but the weights have {weights.settings.num_classes}, which are used")
    if key not in config or not has_head:
        return None, lines
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names) or len(names) != count:
        return None, [*lines, f"its {key} are not the names of {count} classes, and not used"]
    return names_of_ids(list(names)), lines


# ------------------------------------------------------------------------------------------------------- writing


def write(weights: Weights, path: Path) -> None:
    """Write safetensors, as timm and the hub prefer; or with torch.save if timm expects that from the suffix.

    Raises InputError: other widths, a cut network, a full disk.
    """
    if path.suffix in PICKLED:
        torchvision.write(weights, path)
        return
    aux = torchvision.can_hold_aux(weights)
    torchvision.save(path, weights, aux, partial(save_file, metadata={"format": "pt"}))


FORMAT = WritableFormat(
    name="timm",
    recognises=recognises,
    read=read,
    read_state=read,
    write=write,
    differences=torchvision.differences,
    suffixes=(".bin",),
    required_suffixes=(".safetensors", *PICKLED),
    program=Program("timm"),
)
