"""Parts of the network silenced."""

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inception_v3 import InceptionV3, save
from inception_v3.errors import NotFiniteError
from inception_v3.explain.ablation import ablate, branch_names
from inception_v3.explain.views import View

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model() -> InceptionV3:
    torch.manual_seed(0)
    network = InceptionV3(num_classes=4, depth_multiplier=0.2, image_size=107, hidden_units=(6,)).double().eval()
    network.class_names = ["a", "b", "c", "d"]
    return network


@pytest.fixture(scope="module")
def view(model: InceptionV3) -> View:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 10, 3), np.uint8)
    return View.of("noise", Image.fromarray(pixels).resize((140, 120)), model.preprocessing)


def silenced_by_hook(model: InceptionV3, view: View, layer: str, channels: slice, mean: bool) -> np.ndarray:
    """The logits when a layer's output is changed while the whole network runs."""

    def silence(_: object, __: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        part = output[:, channels]
        output[:, channels] = part.mean((2, 3), keepdim=True) if mean else 0
        return output

    with model.get_submodule(layer.replace("/", ".")).register_forward_hook(silence), torch.no_grad():
        return model(model.preprocess(view.image).double(), end_points=())[0][0].numpy()


@pytest.mark.parametrize("replacement", ["zero", "mean"])
def test_each_branch_is_silenced_alone(model: InceptionV3, view: View, replacement: str) -> None:
    result = ablate(model, view, replacement=replacement, batch_size=5)  # type: ignore[arg-type]
    assert result.silenced == branch_names(model)
    assert len(result.silenced) == 42
    for name, logits in zip(result.silenced, result.silenced_logits, strict=True):
        expected = silenced_by_hook(model, view, name, slice(None), replacement == "mean")
        assert logits == pytest.approx(expected, abs=1e-9), name
    whole = model(model.preprocess(view.image).double(), end_points=())[0][0].detach().numpy()
    assert result.logits == pytest.approx(whole, abs=1e-12)
    assert np.abs(result.numpy()).max() > 1e-4


def test_modules_layers_and_channels_can_be_silenced_in_any_order(model: InceptionV3, view: View) -> None:
    names = ["Mixed_7c:3", "Conv2d_1a_3x3", "Mixed_5b", "Mixed_5b/Branch_1:2", "MaxPool_3a_3x3:0"]
    result = ablate(model, view, names)
    parts = [("Mixed_7c", slice(3, 4)), ("Conv2d_1a_3x3", slice(None)), ("Mixed_5b", slice(None))]
    parts += [("Mixed_5b/Branch_1", slice(2, 3)), ("MaxPool_3a_3x3", slice(0, 1))]
    for logits, (layer, channels) in zip(result.silenced_logits, parts, strict=True):
        assert logits == pytest.approx(silenced_by_hook(model, view, layer, channels, mean=False), abs=1e-9)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Mixed_5b/Branch_4", "no end point 'Mixed_5b/Branch_4' in this network; did you mean Mixed_5b/Branch_"),
        ("Mixed_7c:999", "Mixed_7c has the channels 0 to 4"),
        (
            "Mixed_5b/Branch_1/Conv2d_0b_5x5",
            "a layer inside a branch cannot be silenced alone; silence Mixed_5b/B",
        ),
        ("Mixed_7c:x", "Mixed_7c:x: Mixed_7c has the channels 0 to"),
    ],
)
def test_parts_that_do_not_exist_are_refused(model: InceptionV3, view: View, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ablate(model, view, [name])


def test_values_that_are_finite_only_with_a_part_are_an_error(model: InceptionV3, view: View) -> None:
    """Channel 0 of the first layer is 5 everywhere, and keeps channel 0 of the second at 0."""
    broken = copy.deepcopy(model).float()
    with torch.no_grad():
        first, second, third = (broken.get_submodule(name) for name in broken.base_end_points[:3])
        first.weights[0], first.BatchNorm.moving_mean[0], first.BatchNorm.beta[0] = 0, 0, 5
        second.weights[0], second.BatchNorm.moving_mean[0], second.BatchNorm.beta[0] = 0, 0, 4e37
        second.weights[0, 0, 1, 1], second.BatchNorm.moving_variance[0] = -1e37, 1
        third.weights[:, 0] = 10
        third.BatchNorm.moving_variance.fill_(1)
    assert np.isfinite(ablate(broken, view, ["Mixed_7c"]).silenced_logits).all()
    with pytest.raises(NotFiniteError, match="the network's outputs are not finite"):
        ablate(broken, view, ["Conv2d_1a_3x3"])


def test_the_command_prints_the_classes_without_each_part(
    model: InceptionV3, view: View, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    save(model, tmp_path / "model.safetensors")
    view.image.save(tmp_path / "image.png")
    run = partial(command, "ablate", tmp_path / "model.safetensors", tmp_path / "image.png")

    status, out, err = run("--json", "--plot", str(tmp_path / "plot.png"))
    assert status == 0, err
    result, expected = json.loads(out), ablate(model, view)
    assert list(result["silenced"]) == list(expected.silenced)
    order = np.argsort(-expected.probability)
    assert result["probability"] == pytest.approx(expected.probability[order].tolist(), abs=1e-6)
    assert result["silenced"]["Mixed_7a/Branch_2"]["probability"] == pytest.approx(
        expected.silenced_probability[expected.silenced.index("Mixed_7a/Branch_2")][order].tolist(), abs=1e-6
    )
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.height > 500
    status, out, err = run("--silence", "Mixed_5b,Mixed_6e/Branch_0", "--replacement", "mean")
    assert (status, len(out.splitlines())) == (0, 3), err
    assert "    without Mixed_6e/Branch_0:" in out
    status, out, err = run("--silence", " Mixed_5b, Mixed_5b")
    assert (status, len(out.splitlines())) == (0, 2), err
    status, out, err = run("--plot", str(tmp_path / "plot.txt"))
    assert (status, out) == (2, "")
    assert "plot.txt: a plot is saved as .png, .pdf or .svg; change the suffix" in err
    status, _, err = run("--silence", "Mixed_5x")
    assert status == 2
    assert "--silence: no end point 'Mixed_5x' in this network; did you mean Mixed_5" in err
