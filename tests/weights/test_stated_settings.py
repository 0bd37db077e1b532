"""What a file of another program, or a file beside it, states about images and classes is used, or else reported."""

import argparse
import json
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file

import inception_v3
from conftest import ROOT, randomise
from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.weights.convert import convert
from inception_v3.weights.formats.torchvision_names import base_shapes
from inception_v3.weights.load import load_unstated
from inception_v3.weights.model import InceptionV3

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5,) * 3, (0.5,) * 3)
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """A state dict under torchvision's names, of views of one value each, so that its files are small."""
    shapes = base_shapes() | {"fc.weight": (3, 2048), "fc.bias": (3,)}
    return {name: torch.full((1,), 0.5).expand(shape) for name, shape in shapes.items()}


@pytest.fixture
def save(tmp_path: Path) -> Callable[[object], Path]:
    def write(content: object) -> Path:
        torch.save(content, tmp_path / "w.pth")
        return tmp_path / "w.pth"

    return write


Save = Callable[[object], Path]


def load(path: Path, **facts: Any) -> tuple[InceptionV3, str]:
    """The model, and the lines of the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = inception_v3.load(path, **facts)
    return model, "\n".join(str(each.message) for each in caught)


def scaling(model: InceptionV3) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return model.preprocessing.mean, model.preprocessing.std


# ------------------------------------------------------------------------------------------------ a mean and a std


@pytest.mark.parametrize(
    ("mean", "std", "expected", "line"),
    [
        ([0.5], [0.5], HALF, ""),
        ([0.2, 0.3, 0.4], [0.1, 0.2, 0.3], ((0.2, 0.3, 0.4), (0.1, 0.2, 0.3)), "no transform_input is assumed"),
        ([51.0, 51.0, 51.0], [102.0] * 3, ((0.2,) * 3, (0.4,) * 3), "no transform_input is assumed"),
        (*map(list, IMAGENET), HALF, "transform_input is assumed behind them (--no-transform replaces this)"),
        ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375], HALF, "transform_input is assumed behind them"),
        ([123.0, 116.0, 103.0], [1.0, 1.0, 1.0], HALF, "which are not used: it is not clear how they scale the images"),
    ],
)
@pytest.mark.parametrize("names", [("mean", "std"), ("0.mean", "0.std"), ("norm.pixel_mean", "norm.pixel_std")])
def test_buffers_in_front_of_a_network_become_preprocessing(
    names: tuple[str, str], mean: list[float], std: list[float], expected: Any, line: str, state: State, save: Save
) -> None:
    network = {f"1.{name}": value for name, value in state.items()} if names[0] != "mean" else state
    buffers = {names[0]: torch.tensor(mean).view(1, -1, 1, 1), names[1]: torch.tensor(std)}
    model, lines = load(save(network | buffers))
    assert torch.tensor(scaling(model)).allclose(torch.tensor(expected))
    assert line in lines
    assert ("pixels in [-1, 1] are assumed" in lines) == ("not clear" in line)


def test_no_transform_means_that_the_network_reads_images_with_imagenets_mean_and_std(state: State, save: Save) -> None:
    path = save(state | {"mean": torch.tensor(IMAGENET[0]), "std": torch.tensor(IMAGENET[1])})
    model, lines = load(path, transform_input=False)
    assert (scaling(model), "transform_input" in lines) == (IMAGENET, False)


def pickled(state: State, *front: torch.nn.Module, transform_input: bool = False) -> torch.nn.Module:
    with torch.device("meta"):
        network = torchvision.models.inception_v3(
            weights=None, init_weights=False, num_classes=3, aux_logits=False, transform_input=transform_input
        )
    counters = {name: torch.tensor(0) for name in network.state_dict() if name.endswith("tracked")}
    network.load_state_dict(state | counters, assign=True)
    named = {f"front{number}": module for number, module in enumerate(front)}
    return torch.nn.Sequential(OrderedDict(named | {"network": network}))


def test_a_normalize_in_front_of_a_pickled_network_becomes_preprocessing(state: State, save: Save) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    model, lines = load(save(pickled(state, torchvision.transforms.Normalize(mean, std))))
    assert (scaling(model), "[-1, 1]" in lines) == ((mean, std), False)
    model, _ = load(save(pickled(state, torchvision.transforms.Normalize(*IMAGENET), transform_input=True)))
    assert torch.tensor(scaling(model)).allclose(torch.tensor(HALF))


def test_a_module_in_front_of_a_network_that_cannot_be_computed_is_refused_by_name(state: State, save: Save) -> None:
    with pytest.raises(InputError, match="front0 of the class Upsample in front of the network"):
        load(save(pickled(state, torch.nn.Upsample(299))))


# ---------------------------------------------------------------------------------------------------- the checkpoint


def test_the_options_of_a_training_script_are_obeyed_or_reported(state: State, save: Save) -> None:
    options = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "img_size": 200, "crop_pct": 0.8}
    options |= {"interpolation": "bicubic", "num_classes": 4, "lr": 0.1, "hue_of_image": 1}
    model, lines = load(save({"model": state, "args": argparse.Namespace(**options)}))
    assert scaling(model) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    preprocessing = model.preprocessing
    assert (preprocessing.image_size, preprocessing.resize, preprocessing.interpolation) == ((200, 200), 250, "bicubic")
    assert "its setting hue_of_image of args is not understood and not used" in lines
    assert "4 classes are stated, but the weights have 3" in lines


@pytest.mark.parametrize(("weights", "expected"), [(None, IMAGENET), ("IMAGENET1K_V1", HALF)])
def test_torchvisions_script_trains_without_transform_input_unless_it_starts_from_weights(
    weights: str | None, expected: Any, state: State, save: Save
) -> None:
    options = {"model": "inception_v3", "val_crop_size": 299, "val_resize_size": 320, "train_crop_size": 299}
    model, lines = load(save({"model": state, "args": argparse.Namespace(**options, weights=weights)}))
    assert torch.tensor(scaling(model)).allclose(torch.tensor(expected))
    assert (model.preprocessing.resize, lines) == (320, "")


@pytest.mark.parametrize(
    "entry",
    [
        {"class_to_idx": {"b": 1, "c": 2, "a": 0}},
        {"idx_to_class": {0: "a", 1: "b", 2: "c"}},
        {"hyper_parameters": {"class_names": ["a", "b", "c"]}, "pytorch-lightning_version": "2.1"},
        {"config": {"id2label": {"0": "a", "1": "b", "2": "c"}}},
    ],
)
def test_class_names_in_a_checkpoint_are_the_models(entry: dict[str, Any], state: State, save: Save) -> None:
    assert load(save({"state_dict": state} | entry))[0].class_names == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.txt", "a\nb\nc\n"),
        ("labels.txt", "0:a\n1:b\n2:c\n"),
        ("classes.txt", "0 a\n1 b\n2 c"),
        ("class_to_idx.json", '{"a": 0, "c": 2, "b": 1}'),
    ],
)
def test_class_names_in_a_file_beside_are_the_models(name: str, content: str, state: State, save: Save) -> None:
    path = save(state)
    (path.parent / name).write_text(content)
    assert load(path)[0].class_names == ["a", "b", "c"]
    (path.parent / name).write_text("x\ny\n")
    model, lines = load(path)
    assert model.class_names is None
    assert f"{name} beside it has 2 names for 3 classes; not used" in lines


# ----------------------------------------------------------------------------------------------- timm's args.yaml

ARGUMENTS = "model: timm/inception_v3\nmean: null\nstd: [0.4, 0.5, 0.6]\nimg_size: 200\ncrop_pct: 0.8\n"


def test_the_args_yaml_of_timms_training_is_obeyed_or_reported(state: State, save: Save) -> None:
    path = save(state)
    arguments = path.with_name("args.yaml")
    arguments.write_text(ARGUMENTS + "interpolation: bilinear\nnum_classes: 4\nclass_map: gone.txt\nlr: 0.1\n")
    model, lines = load(path)
    assert scaling(model) == ((0.5, 0.5, 0.5), (0.4, 0.5, 0.6))
    preprocessing = model.preprocessing
    assert (preprocessing.image_size, preprocessing.resize) == ((200, 200), 250)
    assert preprocessing.interpolation == "bilinear"
    assert "args.yaml: its setting class_map is not understood and not used" in lines
    assert "args.yaml: states 4 classes, but the weights have 3, which are used" in lines
    arguments.write_text("model: resnet50\nmean: [0.1, 0.1, 0.1]\n")
    assert scaling(load(path)[0]) == HALF
    arguments.write_text("model: [")
    with pytest.raises(InputError, match=r"args\.yaml: not YAML .*; correct or remove the file"):
        load(path)


def test_the_options_in_a_checkpoint_of_timm_come_before_its_args_yaml(state: State, save: Save) -> None:
    options = argparse.Namespace(model="inception_v3", mean=[0.1, 0.2, 0.3])
    path = save({"state_dict": state, "arch": "inception_v3", "version": 2, "args": options})
    path.with_name("args.yaml").write_text(ARGUMENTS)
    assert scaling(load(path)[0]) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))


# ------------------------------------------------------------------------------------------------------ transformers


def folder(tmp_path: Path, state: State, processor: dict[str, Any], **config: Any) -> Path:
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "model.safetensors")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_the_configurations_of_transformers_are_obeyed_or_reported(state: State, tmp_path: Path) -> None:
    processor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1], "rescale_factor": 1 / 127.5}
    processor |= {"size": {"height": 200, "width": 220}, "resample": 3, "do_rescale": True, "my_gamma": 2}
    names = {"0": "a", "1": "b", "2": "c"}
    config = {"model_type": "x", "id2label": names, "problem_type": "multi_label_classification", "depth": 3}
    model, lines = load(folder(tmp_path, state, processor, **config))
    preprocessing = model.preprocessing
    assert (preprocessing.image_size, preprocessing.resize, preprocessing.fit) == ((200, 220), (200, 220), "stretch")
    assert (preprocessing.interpolation, model.class_names) == ("bicubic", ["a", "b", "c"])
    assert model.settings.output_activation == "sigmoid"
    pixels = torch.rand(1, 3, 5, 5) * 255
    mean, std = (torch.tensor(processor[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    assert (preprocessing.scale(pixels) - (pixels / 127.5 - mean) / std).abs().max() < 1e-4
    assert "its setting my_gamma of preprocessor_config.json beside it is not understood and not used" in lines
    assert "its setting depth of config.json is not understood and not used" in lines
    for odd in ({"size": {"shortest_edge": 320}, "do_center_crop": False}, {"resample": 9}, {"do_resize": False}):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor | odd))
        with pytest.raises(InputError, match=r"preprocessor_config\.json: its .*; correct or remove the file"):
            load(tmp_path)
    crop = {"size": {"shortest_edge": 320}, "crop_size": {"height": 299, "width": 299}, "do_center_crop": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(crop | {"do_normalize": False}))
    preprocessing = load(tmp_path)[0].preprocessing
    assert (preprocessing.resize, preprocessing.image_size) == (320, (299, 299))
    assert (preprocessing.mean, preprocessing.std) == ((0.0,) * 3, (1.0,) * 3)


# ------------------------------------------------------------------------------------------- Keras and TensorFlow.js


def thin_model(**options: Any) -> InceptionV3:
    options = {"depth_multiplier": 0.1, "min_depth": 8, "image_size": 107, "num_classes": 3} | options
    model = InceptionV3(**options, create_aux_logits=False, global_pool=True).eval()
    randomise(model, 3)
    return model


def test_settings_of_tensorflowjs_that_are_not_understood_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    inception_v3.save(thin_model(depth_multiplier=1.0), path, "tensorflowjs")
    model = json.loads(path.read_text())
    model["userDefinedMetadata"]["labels"] = ["a", "b", "c"]
    own = model["userDefinedMetadata"].pop("inception_v3")
    model["brightness"] = 2
    model["modelTopology"]["model_config"]["config"]["layers"][1]["config"]["gain"] = 3
    path.write_text(json.dumps(model))
    loaded, lines = load(path)
    assert "it states brightness, which is not understood and not used" in lines
    assert "its Conv2D 'conv2d' has the setting gain, which is not understood and not used" in lines
    assert (loaded.class_names, own["class_names"]) == (["a", "b", "c"], None)


@pytest.mark.parametrize("mean_std", [((0.0,) * 3, (1.0,) * 3), ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))])
def test_another_mean_and_std_are_written_for_tensorflowjs_as_a_rescaling(mean_std: Any, tmp_path: Path) -> None:
    model = thin_model(depth_multiplier=1.0)
    model.preprocessing = Preprocessing((107, 107), mean=mean_std[0], std=mean_std[1])
    path = tmp_path / "model.json"
    inception_v3.save(model, path, "tensorflowjs")
    written = json.loads(path.read_text())
    assert written["modelTopology"]["model_config"]["config"]["layers"][1]["class_name"] == "Rescaling"
    del written["userDefinedMetadata"]
    path.write_text(json.dumps(written))
    loaded, lines = load(path)
    assert torch.tensor(scaling(loaded)).allclose(torch.tensor(mean_std), atol=1e-6)
    assert "scaled" not in lines


def test_what_a_format_cannot_store_is_reported_before_the_file_is_written(tmp_path: Path) -> None:
    model = thin_model()
    model.class_names = ["a", "b", "c"]
    model.preprocessing = Preprocessing((107, 107), 0.7, interpolation="bicubic")
    inception_v3.save(model, tmp_path / "model.safetensors")
    reports: list[str] = []

    def report(line: str) -> None:
        assert not (tmp_path / "model.ckpt.index").exists()
        reports.append(line)

    done = convert(str(tmp_path / "model.safetensors"), tmp_path / "model.ckpt", report=report)
    assert done.dropped[1:] == ["class names"]
    (line,) = reports
    assert "how images are prepared (" in line
    assert "crop_fraction 0.7" in line
    assert "interpolation bicubic" in line


# --------------------------------------------------------------------------------------------------- the commands


def test_other_models_get_the_facts_that_their_files_do_not_state(state: State, save: Save) -> None:
    path = save(state)
    facts = {"mean": (0.1, 0.2, 0.3), "class_names": ["a", "b", "c"], "output_activation": "sigmoid", "state": "ema"}
    model, used = load_unstated(path, "cpu", facts)
    assert used == ["mean", "class_names"]
    assert (model.preprocessing.mean, model.class_names) == ((0.1, 0.2, 0.3), ["a", "b", "c"])
    inception_v3.save(model, path.with_suffix(".safetensors"))
    assert load_unstated(path.with_suffix(".safetensors"), "cpu", facts | {"mean": (0.9, 0.9, 0.9)})[1] == []


@pytest.mark.parametrize("command", ["convert", "export", "bench", "finetune"])
def test_facts_about_an_exported_network_are_refused_as_its_own(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = ROOT / "tests" / "version_0_1" / "run.onnx"
    arguments = {
        "convert": [exported, tmp_path / "out.safetensors"],
        "export": [exported, tmp_path / "out.onnx"],
        "bench": [exported],
        "finetune": [exported, "digits", "--out", tmp_path / "run"],
    }[command]
    cases = (["--mean", "0.5"], 2, "states it; leave it out"), ([], 1, "exported network (onnx)")
    for facts, status, reason in cases:
        monkeypatch.setattr("sys.argv", ["inception-v3", *map(str, [command, *arguments, *facts])])
        with pytest.raises(SystemExit) as exited:
            inception_v3.cli.main()
        errors = capfd.readouterr().err
        assert (exited.value.code, errors.count("\n")) == (status, 1), errors
        assert reason in errors
