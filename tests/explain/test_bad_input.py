"""Images and networks on which a command of explain/ cannot work: one clear line, and the right exit status."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import randomise
from inception_v3 import InceptionV3, load, save
from inception_v3.explain import comparison
from inception_v3.inference.export import export

Run = Callable[..., tuple[int, str, str]]
LAYER = "Conv2d_2a_3x3"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks; and three images, for the second of which, white, the values of LAYER overflow."""
    folder = tmp_path_factory.mktemp("bad")
    torch.manual_seed(0)
    model = InceptionV3(num_classes=3, depth_multiplier=0.2, image_size=107).eval()
    randomise(model)
    model.class_names = ["cat", "dog", "bird"]
    save(model, folder / "intact.safetensors")
    cut = InceptionV3(num_classes=3, depth_multiplier=0.2, image_size=107, final_endpoint="Mixed_5c").eval()
    save(cut, folder / "cut.safetensors")
    with torch.no_grad():
        first, second = model.get_submodule("Conv2d_1a_3x3"), model.get_submodule(LAYER)
        first.weights[0] = 1
        first.BatchNorm.moving_mean[0], first.BatchNorm.beta[0] = 26.5, 0  # below 27 = 3 * 3 * 3 white pixels
        second.weights[:, 0] = 1e38
        second.BatchNorm.moving_variance.fill_(1)
    save(model, folder / "overflows.safetensors")
    export(model, folder / "overflows.onnx")
    generator = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in (0, 2):
        pixels = generator.integers(0, 140, (10, 10, 3), np.uint8)
        Image.fromarray(pixels).resize((120, 120)).save(folder / "images" / f"{number}.png")
    Image.new("RGB", (120, 120), "white").save(folder / "images" / "1.png")
    return folder


@pytest.mark.parametrize("model", ["overflows.safetensors", "overflows.onnx"])
@pytest.mark.parametrize(
    "line",
    [
        "explain {model} images --out {out}",
        "explain {model} images --out {out} --method occlusion --window 60 --stride 60",
        "ablate {model} images --silence Mixed_7c",
        "compare intact.safetensors {model} images",
        "dream {model} images --end-point Mixed_5b --steps 1 --octaves 1 --out {out}",
        "patches {model} images --modules Mixed_5b --out {out}",
        "features {model} images --out {out}.npz",
    ],
)
def test_an_image_with_values_that_are_not_finite_is_counted_and_the_others_are_done(
    folder: Path, tmp_path: Path, command: Run, monkeypatch: pytest.MonkeyPatch, line: str, model: str
) -> None:
    name = line.split()[0]
    if model.endswith(".onnx") and name in ("ablate", "dream"):
        pytest.skip("refused for exported networks")
    monkeypatch.chdir(folder)
    status, _, err = command(*line.format(model=model, out=tmp_path / "out").split())
    assert status == 3, err
    assert "1 of 3 images could not be read" in err
    (reason,) = (each for each in err.splitlines() if "not finite" in each)
    assert reason.strip().startswith(f"{Path('images', '1.png')}: ")
    assert LAYER in reason or name in ("patches", "features")
    if name in ("explain", "dream", "patches"):
        files = [path.name for path in (tmp_path / "out").iterdir()]
        assert files
        assert not any(file.startswith("0001") for file in files)


def test_an_image_that_overflows_only_where_it_is_covered_is_reported_with_the_remedy(
    folder: Path, tmp_path: Path, command: Run
) -> None:
    model = load(folder / "intact.safetensors")
    with torch.no_grad():
        first, second = model.get_submodule("Conv2d_1a_3x3"), model.get_submodule(LAYER)
        first.weights[0] = -1
        batch_norm = first.BatchNorm  # so that channel 0 is positive for gray, 0, and not for white, 1
        batch_norm.beta[0], batch_norm.moving_mean[0], batch_norm.moving_variance[0] = 5, 0, 1
        second.weights[:, 0] = 1e38
        second.BatchNorm.moving_variance.fill_(1)
    save(model, file := tmp_path / "model.safetensors")
    options = ("--method", "occlusion", "--window", 60, "--stride", 60, "--out", tmp_path / "out")
    status, _, err = command("explain", file, folder / "images" / "1.png", *options)
    assert status == 3, err
    assert "1.png: occlusion gives infinite values or NaN; use --precision fp32, or a CAM" in err


def test_a_comparison_in_batches_names_the_image_with_values_that_are_not_finite(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(comparison, "MEMORY", 1)  # batches of 5 and 4 images
    images = ["images/0.png"] * 6 + ["images/1.png"] + ["images/0.png"] * 2
    result = comparison.compare("intact.safetensors", "overflows.safetensors", images)
    assert result.images == 8
    assert [reason.partition(":")[0] for reason in result.unreadable] == ["images/1.png"]


def test_a_comparison_of_images_none_of_which_has_finite_values_fails(
    folder: Path, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    status, _, err = command("compare", "overflows.safetensors", "intact.safetensors", "images/1.png")
    assert (status, err.count("\n")) == (1, 1)
    assert f"images/1.png: overflows.safetensors: the values of {LAYER} are not finite; check the model" in err


@pytest.mark.parametrize("line", ["explain {} images --out out", "ablate {} images", "visualise {} --class 0"])
def test_a_network_without_classes_is_refused_with_the_command_that_works(
    folder: Path, command: Run, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.chdir(folder)
    status, _, err = command(*line.format("cut.safetensors").split())
    assert (status, err.count("\n")) == (2, 1)
    assert "has no classifier, it ends at Mixed_5c; train one" in err
    assert "or compute features with `inception-v3 features`" in err


def test_patches_of_classes_need_classes(folder: Path, command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    status, _, err = command("patches", "cut.safetensors", "images", "--per-class", "--out", "out")
    assert (status, "has no classifier, it ends at Mixed_5c" in err, err.count("\n")) == (2, True, 1)


def test_a_network_without_classes_is_compared_up_to_its_end_without_a_word_about_classes(
    folder: Path, command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    status, printed, err = command("compare", "cut.safetensors", "intact.safetensors", "images/0.png")
    assert (status, "logits" in err) == (0, False)
    assert "\nMixed_5c " in printed
    assert "\nMixed_5d " not in printed
