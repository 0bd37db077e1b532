"""`inspect` on the forms in which the network is saved: its kind, head, classes, and a command that converts it."""

import json
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import test_stated_settings as stated
import test_tf_slim_forms as slim
import torch
from safetensors.torch import save_file
from slim_graphs import SlimWriter

from conftest import ROOT
from inception_v3.cli import main
from inception_v3.inference.inspect import inspect
from inception_v3.weights.formats.torchvision_names import base_shapes
from inception_v3.weights.inspection import Inspection
from inception_v3.weights.load import load, save
from inception_v3.weights.model import InceptionV3

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ["ant", "bee", "cat"]
State = dict[str, torch.Tensor]
Build = Callable[..., InceptionV3]


@pytest.fixture(scope="module")
def state() -> State:
    """A state dict under torchvision's names, of views of one value each, so that its files are small."""
    shapes = base_shapes() | {"fc.weight": (3, 2048), "fc.bias": (3,)}
    return {name: torch.full((1,), 0.5).expand(shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def thin(random_model: Build) -> InceptionV3:
    """A narrow network with the names of its classes."""
    options = {"depth_multiplier": 0.1, "min_depth": 8, "image_size": 107, "num_classes": 3}
    model = random_model(**options, create_aux_logits=False, global_pool=True)
    model.class_names = NAMES
    return model


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in a folder beside the model's, where `inspect` proposes to write the converted model."""
    (tmp_path / "cwd").mkdir()
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    with warnings.catch_warnings(action="ignore"):  # they are in the inspection
        yield


# ------------------------------------------------------------------------------------------------------ the forms
# Each function writes a model to a folder, and returns the path to give.


def state_dict(folder: Path, state: State, model: InceptionV3) -> Path:
    torch.save(state, folder / "w.pth")
    return folder / "w.pth"


def training_dictionary(folder: Path, state: State, model: InceptionV3) -> Path:
    average = {f"module.{name}": value for name, value in state.items()}
    torch.save({"model": state, "model_ema": average, "epoch": 3, "classes": NAMES}, folder / "w.pth")
    return folder / "w.pth"


def lightning(folder: Path, state: State, model: InceptionV3) -> Path:
    names = {"hyper_parameters": {"class_names": NAMES}, "pytorch-lightning_version": "2.1.0"}
    torch.save({"state_dict": {f"net.{name}": value for name, value in state.items()}} | names, folder / "last.ckpt")
    return folder / "last.ckpt"


def shards(folder: Path, state: State, model: InceptionV3) -> Path:
    files = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(state)}
    for file in set(files.values()):
        save_file({name: state[name].contiguous() for name in state if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return folder


def timm_folder(folder: Path, state: State, model: InceptionV3) -> Path:
    torch.save(state, folder / "pytorch_model.bin")
    config = {"architecture": "inception_v3", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "label_names": NAMES}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def timm_training(folder: Path, state: State, model: InceptionV3) -> Path:
    torch.save(state, folder / "last.pth.tar")
    lines = ["model: inception_v3", "mean:", "- 0.1", "- 0.2", "- 0.3", "std: null", "class_map: data/names.txt"]
    (folder / "args.yaml").write_text("\n".join(lines))
    (folder / "names.txt").write_text("\n".join(NAMES))
    return folder / "last.pth.tar"


def transformers_folder(folder: Path, state: State, model: InceptionV3) -> Path:
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps({"id2label": dict(enumerate(NAMES))}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "size": 299}))
    return folder


def whole_model(folder: Path, state: State, model: InceptionV3) -> Path:
    torch.save(stated.pickled(state), folder / "model.pt")
    return folder / "model.pt"


def keras_h5(folder: Path, state: State, model: InceptionV3) -> Path:
    wide = InceptionV3(num_classes=3, create_aux_logits=False, global_pool=True, image_size=150)
    wide.preprocessing = stated.Preprocessing((150, 150), mean=(0.1, 0.2, 0.3))
    save(wide, folder / "model.h5", "keras", allow_difference=True)
    (folder / "labels.txt").write_text("\n".join(NAMES))
    return folder / "model.h5"


def keras_weights(folder: Path, state: State, model: InceptionV3) -> Path:
    wide = InceptionV3(num_classes=3, create_aux_logits=False, global_pool=True)
    save(wide, folder / "model.weights.h5", "keras", allow_difference=True)
    return folder / "model.weights.h5"


def published_name(folder: Path, state: State, model: InceptionV3) -> Path:
    torch.save(state, folder / "downloaded.pth")
    return folder / "downloaded.pth"


def own_format(suffix: str, format: str) -> Callable[[Path, State, InceptionV3], Path]:
    def write(folder: Path, state: State, model: InceptionV3) -> Path:
        save(model, folder / f"model{suffix}", format, allow_difference=True)
        return folder / f"model{suffix}"

    return write


def run_folder(folder: Path, state: State, model: InceptionV3) -> Path:
    save(model, folder / "model.safetensors")
    return folder


def slim_training(folder: Path, state: State, model: InceptionV3) -> Path:
    slim.write(folder / "model.ckpt-7", slim.variables(model, "InceptionV3/"))
    (folder / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-7"\n')
    return folder


def frozen_graph(folder: Path, state: State, model: InceptionV3) -> Path:
    writer = SlimWriter(model)
    writer.logits(writer.base(writer.input()))
    return writer.save(folder / "frozen.pb")


def exported(folder: Path, state: State, model: InceptionV3) -> Path:
    return Path(shutil.copy(ROOT / "tests" / "version_0_1" / "run.onnx", folder))


@dataclass(frozen=True)
class Expected:
    """What is shown: words of the kind, the format, the sources of the class names and of the mean."""

    kind: str
    format: str
    names: str | None
    mean: str
    has_command: bool = True


TORCH = "a file of torch.save"
FORMS: dict[Callable[[Path, State, InceptionV3], Path], Expected] = {
    state_dict: Expected(TORCH, "torchvision", None, "assumed: as usual for torchvision"),
    training_dictionary: Expected(TORCH, "torchvision", "the checkpoint", "assumed: as usual for torchvision"),
    lightning: Expected(TORCH, "torchvision", "hyper_parameters", "assumed: as usual for torchvision"),
    shards: Expected("the index of a state dict", "timm", None, "assumed: as usual for timm"),
    timm_folder: Expected(TORCH, "timm", "config.json beside it", "config.json beside it"),
    timm_training: Expected(TORCH, "timm", "args.yaml beside it", "args.yaml beside it"),
    transformers_folder: Expected(TORCH, "torchvision", "config.json", "preprocessor_config.json beside it"),
    whole_model: Expected(TORCH, "torchvision", None, "file"),
    published_name: Expected(TORCH, "torchvision", None, "assumed: as usual for torchvision"),
    keras_h5: Expected("HDF5", "keras", "labels.txt beside it", "file"),
    keras_weights: Expected("HDF5", "keras", None, "assumed: as Keras's preprocess_input scales images"),
    own_format(".json", "tensorflowjs"): Expected("a TensorFlow.js layers model", "tensorflowjs", "file", "file"),
    own_format(".ckpt", "tf-slim"): Expected("a TensorFlow checkpoint, V2", "tf-slim", None, "assumed: as usual"),
    run_folder: Expected("safetensors", "native", "file", "file", has_command=False),
    slim_training: Expected("a TensorFlow checkpoint, V2", "tf-slim", None, "assumed: as usual for tf-slim"),
    frozen_graph: Expected("a TensorFlow graph", "graphdef-slim", None, "assumed: as usual for graphdef-slim"),
    exported: Expected("a network exported to onnx", "onnx", "file", "file", has_command=False),
}


def check(inspection: Inspection, expected: Expected) -> None:
    assert inspection.readable, inspection.refusal
    assert inspection.kind.startswith(expected.kind)
    assert inspection.format == expected.format
    assert inspection.head is not None
    assert inspection.head.activation == "softmax"
    names = inspection.class_names
    assert (names.source if names else None) == expected.names
    assert inspection.preprocessing["mean"].source.startswith(expected.mean)
    assert (inspection.command is not None) == expected.has_command
    assert inspection.bytes > 0


@pytest.mark.parametrize("write", FORMS, ids=lambda write: write.__qualname__.split(".")[0])
def test_each_form_is_described_and_converted_by_the_command_that_is_shown(
    write: Callable[[Path, State, InceptionV3], Path],
    state: State,
    thin: InceptionV3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write(tmp_path / "model", state, thin)
    is_published = write is published_name
    name = "torchvision:IMAGENET1K_V1" if is_published else str(path)
    inspection = inspect(name, weights_file=path if is_published else None)
    check(inspection, FORMS[write])
    if inspection.command is None:
        return
    words = shlex.split(inspection.command)
    # test_convert.py compares outputs, which takes seconds for a network of the published widths.
    monkeypatch.setattr("inception_v3.weights.convert.outputs", lambda model, pixels: {"Logits": torch.ones(1, 1)})
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code in (None, 0)
    model = load(words[3])
    assert model.settings.num_classes == 3
    names = inspection.class_names
    assert model.class_names == (names.value if names else None) or is_published
    for option, fact in inspection.preprocessing.items():
        assert getattr(model.preprocessing, option) == fact.value


def test_a_file_of_weights_is_refused_for_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exception, match="not a published name, so --weights-file cannot replace its download"):
        inspect(str(tmp_path), weights_file=tmp_path)
