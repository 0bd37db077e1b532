"""The commands of "Bring your own" in docs/weights.md run on small files, and print what the page shows."""

import argparse
import json
import os
import re
import sys
import warnings
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"  # read once, when Keras is imported

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

import inception_v3
from generated_images import skies
from inception_v3.cli import main
from inception_v3.weights.model import InceptionV3

PAGE = Path(__file__).parent.parent / "docs" / "weights.md"
COMMAND = re.compile(r"^    \$ inception-v3 (.*)\n((?:    .*\n)+)", re.MULTILINE)


def documented() -> dict[str, str]:
    """The commands of the section, and what each prints; `...` stands for anything."""
    section = PAGE.read_text("utf-8").partition("\n## Bring your own\n")[2].partition("\n## ")[0]
    return {command: re.sub("^    ", "", printed, flags=re.MULTILINE) for command, printed in COMMAND.findall(section)}


# ------------------------------------------------------------------------------------------------------ the files


def constant(name: str, tensor: Tensor) -> Tensor:
    """A tensor whose file is small. Scales and offsets of 0 make all features 0: biases decide."""
    value = 0.0 if name.endswith(("bn.weight", "bn.bias")) else 1.0 if name.endswith("running_var") else 0.01
    return torch.tensor(value).to(tensor.dtype).expand(tensor.shape)


def linear(*bias: float) -> nn.Linear:
    """A layer of 2048 inputs. Its outputs are its bias if they are all 0."""
    layer = nn.Linear(1, 1)
    layer.weight = nn.Parameter(torch.tensor(0.01).expand(len(bias), 2048))
    layer.bias = nn.Parameter(torch.tensor(bias))
    return layer


def network(head: nn.Module) -> nn.Module:
    """torchvision's network with another head."""
    with torch.device("meta"):
        model = torchvision.models.inception_v3(weights=None, init_weights=False, transform_input=False)
    model.load_state_dict({name: constant(name, each) for name, each in model.state_dict().items()}, assign=True)
    model.fc = head
    return model.eval()


def write_torch_files() -> None:
    state = network(linear(0.0, 1.0)).state_dict()
    average = {f"module.{name}": tensor for name, tensor in (state | {"fc.bias": torch.tensor([0.0, 2.0])}).items()}
    arguments = argparse.Namespace(lr=0.1)
    torch.save({"model": state, "model_ema": average, "epoch": 9, "args": arguments}, "checkpoint.pth")
    head = nn.Sequential(linear(1.0, 1.0), nn.ReLU(), nn.Dropout(), nn.Linear(2, 2))
    head[3].load_state_dict({"weight": torch.eye(2), "bias": torch.tensor([0.5, 0.0])})
    torch.save(network(head), "whole.pth")
    lightning = {"pytorch-lightning_version": "2.6.6", "state_dict": {f"net.{name}": t for name, t in state.items()}}
    torch.save(lightning, "last.ckpt")
    torch.save(network(linear(1.5)).state_dict(), "one_output.pth")
    torch.save(state, "other_size.pth")


def write_folder() -> None:
    """As transformers' TimmWrapperForImageClassification writes it."""
    Path("folder").mkdir()
    state = network(linear(0.0, 1.0)).state_dict()
    tensors = {f"timm_model.{name}": t.clone() for name, t in state.items() if not name.startswith("AuxLogits")}
    safetensors.torch.save_file(tensors, "folder/model.safetensors")
    config = {"architecture": "inception_v3", "num_classes": 2, "label_names": ["day", "night"]}
    preparation = {"input_size": [3, 267, 267], "crop_pct": 0.9, "mean": [0.5] * 3, "std": [0.5] * 3}
    Path("folder/config.json").write_text(json.dumps(config | {"pretrained_cfg": preparation}))


def write_keras_files() -> None:
    import keras
    from keras import layers

    base = keras.applications.InceptionV3(weights=None, include_top=False, input_shape=(150, 150, 3))
    for layer in base.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.beta.assign(keras.ops.zeros(layer.beta.shape) - 1e6)  # so that all features are 0
    images = keras.Input((150, 150, 3))
    net = base(keras.applications.inception_v3.preprocess_input(images), training=False)
    net = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(net))
    keras.Model(images, layers.Dense(1, name="dense", bias_initializer="ones")(net)).save("model.keras")
    rescaling = [keras.Input((150, 150, 3)), layers.Rescaling(1 / 255), base]
    head = [layers.GlobalAveragePooling2D(), layers.Dense(32, "relu"), layers.Dense(2, "softmax")]
    keras.Sequential(rescaling + head).save("model.h5")


def write_web_model() -> None:
    Path("web_model").mkdir()
    options = {"depth_multiplier": 0.1, "min_depth": 8, "create_aux_logits": False, "global_pool": True}
    model = InceptionV3(2, image_size=139, **options).eval()
    inception_v3.save(model, "web_model/model.json", "tensorflowjs", allow_difference=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    before = Path.cwd()
    os.chdir(folder)
    try:
        skies(Path("photos"), 2)
        Path("names.txt").write_text("day\nnight\n")
        write_torch_files()
        write_folder()
        write_keras_files()
        write_web_model()
    finally:
        os.chdir(before)
    return folder


# ------------------------------------------------------------------------------------------------------- the test


@pytest.mark.parametrize("command", documented())
def test_a_command_prints_what_the_page_shows(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["inception-v3", *command.split()])
    monkeypatch.setattr(sys, "stderr", sys.stdout)  # as on a terminal
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with pytest.raises(SystemExit) as exit:
            main()
    output = capsys.readouterr().out
    assert not exit.value.code, output
    shown = re.escape(documented()[command]).replace(re.escape("..."), ".*")
    assert re.fullmatch(shown, output, re.DOTALL), output


def test_there_are_ten() -> None:
    assert len(documented()) == 10
