"""What a file of PyTorch, or a file beside it, states besides tensors: how images are prepared, and the class names.

A checkpoint may hold the arguments of the script that wrote it, and the class names; safetensors have metadata.
Beside it, transformers writes config.json and preprocessor_config.json. timm's own config.json is read by timm.py. A
setting about images or classes that is not understood is reported.
"""

import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inception_v3.errors import InputError
from inception_v3.support.json_values import read_json
from inception_v3.support.system_errors import file_status
from inception_v3.support.text import one_line
from inception_v3.weights.facts import IMAGENET_MEAN_STD, Channels, names_in
from inception_v3.weights.formats.pickled import Instance, PickleError
from inception_v3.weights.formats.state_dict_file import is_safetensors
from inception_v3.weights.formats.state_dict_search import is_module
from inception_v3.weights.formats.torch_file import StoredTensor, is_torch_file, open_torch_file
from inception_v3.weights.formats.torch_scaling import Scaling, scaling_of
from inception_v3.weights.wordnet import names_of_ids

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
# The keys of class names in a checkpoint, in metadata and in config.json.
CLASS_KEYS = (
    "class_names", "classes", "labels", "label_names", "categories", "class_to_idx", "idx_to_class", "class2idx",
    "idx2class", "class_indices", "id2label", "label2id", "label_map", "classnames", "class_labels",
)  # fmt: skip
OPTION_KEYS = ("args", "hyper_parameters", "hparams", "config", "cfg", "opt", "params")  # in a checkpoint
MEAN_STD_KEYS = [(f"{name}mean", f"{name}std") for name in ("", "image_", "img_", "pixel_", "input_", "norm_")]
SIZE_KEYS = ("image_size", "img_size", "val_crop_size", "crop_size", "input_size")
RESIZE_KEYS = ("val_resize_size", "resize_size")
MIN_SIZE, MAX_SIZE = 75, 2000  # of the network's images; another number is that of something else
# Names of options that may be about images, classes or the head. Those of a training's other options are of no use.
ABOUT_NETWORK = re.compile(
    r"image|img|pixel|resize|crop|mean|std|norm|interp|class(?!_w)|label(?!_?smooth)|head|pool|activ|input|pre_?proc|"
    r"transform|channel|rgb|bgr",
    re.IGNORECASE,
)
# What transformers and huggingface_hub write into config.json that says nothing about the network's outputs.
HARMLESS = (
    "architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "num_labels", "num_classes",
    "_name_or_path", "num_channels", "in_chans", "initializer_range", "finetuning_task", "use_cache",
    "return_dict", "output_hidden_states", "output_attentions", "format", "license", "tags", "pipeline_tag",
    "library_name", "repo_url", "docs_url", "pretrained", "weights", "aux_logits", "dropout", "drop_rate",
    "total_size", "num_features", "image_processor_type", "feature_extractor_type", "processor_class",
)  # fmt: skip
PROCESSOR_KEYS = (
    "do_resize", "size", "do_center_crop", "crop_size", "resample", "do_rescale", "rescale_factor",
    "do_normalize", "image_mean", "image_std", "crop_pct", "do_convert_rgb", "input_data_format", "data_format",
    "return_tensors", "device", "disable_grouping",
)  # fmt: skip
RESAMPLING = dict(enumerate(("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")))  # Pillow's numbers
OUTPUTS = {"multi_label_classification": "sigmoid", "single_label_classification": "softmax"}  # of problem_type


@dataclass
class Stated:
    """What is stated about a network.

    Attributes:
        options: of `Preprocessing`, but mean and std.
        scaling: the mean and std.
        transforms: torchvision's `transform_input`, if that follows from how the network was trained.
        class_names, num_classes, output_activation: of the head.
        sources: where each fact comes from, by its name.
        lines: what is not used, for the user.
    """

    options: dict[str, Any] = field(default_factory=dict)
    scaling: Scaling | None = None
    transforms: bool | None = None
    class_names: list[str] | None = None
    num_classes: int | None = None
    output_activation: str | None = None
    sources: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def add(self, name: str, value: Any, source: str) -> None:
        """Add an option of `Preprocessing`, unless an earlier source states it."""
        if name not in self.sources:
            self.options[name], self.sources[name] = value, source

    def add_scaling(self, mean: Any, std: Any, keys: str, source: str) -> bool:
        """Add a mean and a std, unless an earlier source states them. Returns whether they can be used."""
        scaling = scaling_of(mean, std, keys)
        if scaling is not None and self.scaling is None:
            self.scaling = scaling
            self.sources |= {"mean": source, "std": source}
        return scaling is not None

    def add_names(self, value: Any, source: str) -> bool:
        """Add class names, unless an earlier source states them. Returns whether they are class names."""
        names = names_in(value)
        if names is not None and self.class_names is None:
            self.class_names, self.sources["class_names"] = names_of_ids(names), source
        return names is not None

    def names_of(self, count: int) -> list[str] | None:
        """The names if they are those of `count` classes; otherwise None, with a line."""
        if self.class_names is None or len(self.class_names) == count:
            return self.class_names
        source = self.sources.pop("class_names")
        self.lines.append(f"the {len(self.class_names)} names of {source} are not used: it has {count} classes")
        return None


def read_stated(path: Path) -> Stated:
    """What a file, and the files beside it, state. Raises InputError: a file beside it is damaged or not possible."""
    stated = Stated()
    if file_status(path.parent / PROCESSOR) is not None:
        _read_processor(stated, path.parent / PROCESSOR)
    for source, settings, is_whole in _settings(path):
        _read_settings(stated, settings, source, is_whole)
    return stated


def add_class_names(stated: Stated, path: Path) -> None:
    """Add the class names in a file."""
    for source, settings, _ in _settings(path):
        for name in CLASS_KEYS:
            stated.add_names(settings.get(name), source)


def _settings(path: Path) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    """The settings in a file and in config.json, with their source, and whether all of them are about the network."""
    if is_torch_file(path):
        root: Any = None
        with suppress(InputError, PickleError, OSError, zipfile.BadZipFile):
            root = open_torch_file(path).root
        for each in (root, *(root.values() if isinstance(root, dict) else ())):
            if isinstance(each, Instance) and is_module(each):
                yield "the model", {key: each.attributes[key] for key in CLASS_KEYS if key in each.attributes}, True
        if isinstance(root, dict):
            for key in OPTION_KEYS:
                options = root.get(key)
                options = {**options.attributes, **options.items} if isinstance(options, Instance) else options
                if isinstance(options, dict):
                    yield key, {str(name): value for name, value in options.items()}, False
            keys = {*CLASS_KEYS, *(name for pair in MEAN_STD_KEYS for name in pair)}
            yield (
                "the checkpoint",
                {name: value for name, value in root.items() if name in keys and not isinstance(value, StoredTensor)},
                True,
            )
    elif is_safetensors(path) and path.suffix != ".json":
        metadata = _metadata(path)
        yield "the metadata", {name: _parsed(value) for name, value in metadata.items()}, True
    if file_status(path.parent / CONFIG) is not None:
        yield CONFIG, read_json(path.parent / CONFIG, dict), True


def _metadata(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        metadata = json.loads(file.read(int.from_bytes(file.read(8), "little"))).get("__metadata__", {})
    return metadata if isinstance(metadata, dict) else {}


def _parsed(text: Any) -> Any:
    """The value of a text of JSON, and any other text as it is."""
    with suppress(ValueError, TypeError, RecursionError):
        return json.loads(text)
    return text


def _read_settings(stated: Stated, settings: Mapping[str, Any], source: str, is_whole: bool) -> None:
    """Add what is understood of settings, and a line about the rest: about all of it if `is_whole`."""
    used = {name for name in settings if name in HARMLESS or settings[name] is None}
    used |= {name for name in CLASS_KEYS if name in settings and stated.add_names(settings[name], source)}
    for pair in MEAN_STD_KEYS:
        if {*pair} <= settings.keys():
            keys = f"{pair[0]} and {pair[1]}"
            if stated.add_scaling(settings[pair[0]], settings[pair[1]], keys, source):
                used |= {*pair}
    used |= set(_read_size(stated, settings, source))
    interpolation = settings.get("interpolation")
    if interpolation in RESAMPLING.values():
        stated.add("interpolation", interpolation, source)
        used.add("interpolation")
    for name in ("num_classes", "num_labels"):
        if type(settings.get(name)) is int:
            stated.num_classes = settings[name]
    if isinstance(problem := settings.get("problem_type"), str) and problem in OUTPUTS:
        stated.output_activation, stated.sources["output_activation"] = OUTPUTS[problem], source
        used.add("problem_type")
    if {"val_crop_size", "val_resize_size", "model"} <= settings.keys():  # the training script of torchvision
        stated.transforms = bool(settings.get("weights") or settings.get("pretrained"))
        stated.add_scaling(*IMAGENET_MEAN_STD, "mean and std of torchvision's training script", source)
        used |= {"train_crop_size"}
    unknown = [name for name in settings if name not in used and (is_whole or _may_matter(name, settings[name]))]
    if unknown:
        stated.lines.append(not_understood(unknown, source))


def not_understood(names: list[str], source: str) -> str:
    """The line about settings that are not used."""
    listed = ", ".join(one_line(name, 60) for name in names[:8]) + (f" and {len(names) - 8} more" * (len(names) > 8))
    of = f"{listed} of {source}"
    return (
        f"its settings {of} are not understood and not used"
        if len(names) > 1
        else (f"its setting {of} is not understood and not used")
    )


def _may_matter(name: str, value: Any) -> bool:
    """Whether an option of a training may be about the network's images or outputs: by its name, and set."""
    return ABOUT_NETWORK.search(name) is not None and value not in (None, False, "", 0)


def _read_size(stated: Stated, settings: Mapping[str, Any], source: str) -> Iterator[str]:
    """Add the sizes of images. Yields the names of the settings that are used."""
    for name in SIZE_KEYS:
        size = _size(settings.get(name), needs_channels=name == "input_size")
        if size is not None:
            stated.add("image_size", size, source)
            crop = settings.get("crop_pct")
            if isinstance(crop, int | float) and 0 < crop <= 10:  # as in timm
                height, width = (math.floor(length / crop) for length in size)
                stated.add("resize", height if height == width else (height, width), source)
                yield "crop_pct"
            yield name
    for name in RESIZE_KEYS:
        if type(resize := settings.get(name)) is int and 0 < resize <= MAX_SIZE:
            stated.add("resize", resize, source)
            yield name


def _size(value: Any, needs_channels: bool = False) -> tuple[int, int] | None:
    """(height, width) of a number, of a pair, or of a pair with three channels before or after it."""
    lengths = list(value) if isinstance(value, list | tuple) else [] if needs_channels else [value, value]
    if len(lengths) == 3 and 3 in (lengths[0], lengths[2]):
        lengths.remove(3)
    elif needs_channels:
        return None
    is_size = len(lengths) == 2 and all(type(each) is int and MIN_SIZE <= each <= MAX_SIZE for each in lengths)
    return (lengths[0], lengths[1]) if is_size else None


# ------------------------------------------------------------------------------------- preprocessor_config.json


def _read_processor(stated: Stated, file: Path) -> None:
    """Add what an image processor of transformers does. Raises InputError: what cannot be computed here."""
    config = {name: value for name, value in read_json(file, dict).items() if value is not None}
    source = f"{file.name} beside it"
    try:
        for name, value in _processed(config).items():
            stated.add(name, value, source)
        factor = float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0
        mean, std = (_three(config, name) for name in ("image_mean", "image_std"))
        stated.scaling = Scaling(_divided(mean, 255 * factor), _divided(std, 255 * factor), "image_mean and image_std")
        stated.sources |= {"mean": source, "std": source}
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise InputError(f"{file}: {one_line(error, 300)}; correct or remove the file") from error
    if unknown := [name for name in config if name not in (*PROCESSOR_KEYS, *HARMLESS)]:
        stated.lines.append(not_understood(unknown, f"{file.name} beside it"))


def _three(config: Mapping[str, Any], name: str) -> Channels:
    """A mean or std; without normalisation, that which leaves images as they are."""
    usual = 0.0 if name == "image_mean" else 1.0
    values = config.get(name, usual) if config.get("do_normalize", True) else usual
    values = values if isinstance(values, list) else [values]
    red, green, blue = (float(value) for value in values * (3 // max(len(values), 1)))
    return red, green, blue


def _divided(values: Channels, divisor: float) -> Channels:
    red, green, blue = (round(value / divisor, 7) for value in values)
    return red, green, blue


def _processed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `Preprocessing` for those of an image processor. Raises ValueError: it cannot be computed."""
    size, crop = config.get("size", {"height": 299, "width": 299}), config.get("crop_size")
    shorter = size.get("shortest_edge") if isinstance(size, dict) else size if config.get("do_center_crop") else None
    whole = None if shorter is not None else _edges(size, "size")
    resample = config.get("resample", 2)
    interpolation = RESAMPLING.get(resample, resample)
    if interpolation not in RESAMPLING.values():
        raise ValueError(f"its resample {resample} cannot be computed here")
    if not config.get("do_resize", True):
        raise ValueError("its do_resize is false, and images of any size cannot be computed here")
    if "crop_pct" in config and type(shorter) is int:  # of ConvNextImageProcessor
        crop, shorter = {"height": shorter, "width": shorter}, int(shorter / config["crop_pct"])
    elif not config.get("do_center_crop", crop is not None):
        crop = None
    image_size = _edges(crop, "crop_size") if crop is not None else whole
    if image_size is None or (shorter is not None and type(shorter) is not int):
        raise ValueError(
            f"its size {size} without a centre crop gives images of any size, which cannot be computed here"
        )
    options = {"image_size": image_size, "interpolation": interpolation, "resize": shorter or whole}
    return options | ({} if shorter else {"fit": "stretch"})


def _edges(size: Any, name: str) -> tuple[int, int]:
    edges: Any = (size.get("height"), size.get("width")) if isinstance(size, dict) else (size, size)
    if not all(type(edge) is int and MIN_SIZE <= edge <= MAX_SIZE for edge in edges):
        raise ValueError(f"its {name} {size} is not a height and width from {MIN_SIZE} to {MAX_SIZE}")
    return edges[0], edges[1]
