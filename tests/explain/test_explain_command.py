"""`inception-v3 explain`."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inception_v3 import InceptionV3, load, save
from inception_v3.explain.attribution.attribute import attribute
from inception_v3.explain.attribution.exported import exported_grad_cam, open_with_map
from inception_v3.explain.attribution.result import KINDS, AttributionOptions
from inception_v3.explain.views import View
from inception_v3.inference.export import export

Run = Callable[..., tuple[int, str, str]]
NO_GRADIENTS = (
    "so it has no gradients; give the weights it was exported from, or use `explain --method grad-cam` on Mixed_7c, "
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with class names, and two images, one of which has a hostile name."""
    folder = tmp_path_factory.mktemp("explain")
    torch.manual_seed(0)
    model = InceptionV3(num_classes=3, depth_multiplier=0.2, image_size=107)
    model.class_names = ["cat", "dog", "<b>"]
    save(model, folder / "model.safetensors")
    generator = np.random.default_rng(0)
    (folder / "images").mkdir()
    for name in ("one.png", "<b>&\n.png"):
        pixels = generator.integers(0, 256, (10, 10, 3), np.uint8)
        Image.fromarray(pixels).resize((200, 150)).save(folder / "images" / name)
    return folder


@pytest.fixture
def run(folder: Path, command: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `explain` in the folder: exit status, standard output, standard error."""
    monkeypatch.chdir(folder)
    return partial(command, "explain")


@pytest.mark.parametrize("method", KINDS)
def test_every_method_writes_a_picture_and_the_values(run: Run, folder: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / "out"
    options = ("--steps", 4, "--samples", 3, "--window", 40, "--class", "dog", "--engine", "auto")
    status, printed, err = run(
        "model.safetensors", "images/one.png", "--method", method, *options, "--out", out, "--json"
    )
    assert status == 0, err
    result = json.loads(printed)
    assert (result["method"], result["class"], result["class_index"]) == (method, "dog", 1)
    picture, values = map(Path, result["files"])
    with Image.open(picture) as drawn:
        assert drawn.size == (200, 194)
    written = np.load(values)
    assert list(written.shape) == result["shape"]
    computed = attribute(
        load(folder / "model.safetensors"),
        folder / "images" / "one.png",
        AttributionOptions(method=method, class_name="dog", steps=4, samples=3, window=40),  # type: ignore[arg-type]
    )
    tolerance = 0.05 if method == "occlusion" else 1e-6  # the engine gets pixels of 8 bits
    assert np.abs(written - computed.numpy()).max() <= tolerance * np.abs(written).max()


def test_images_with_hostile_names_are_explained_too(run: Run, tmp_path: Path) -> None:
    status, printed, err = run("model.safetensors", "images", "--out", tmp_path / "out")
    assert status == 0, err
    assert len(printed.splitlines()) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "0000-_b_.npy",
        "0000-_b_.png",
        "0001-one.npy",
        "0001-one.png",
    ]


def test_a_damaged_image_does_not_stop_the_others(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("text")
    status, printed, err = run("model.safetensors", tmp_path / "bad.png", "images/one.png", "--out", tmp_path / "out")
    assert (status, len(printed.splitlines())) == (3, 1)
    assert "1 of 2 images could not be read" in err


def test_sanity_adds_the_checks(run: Run, tmp_path: Path) -> None:
    options = ("--head", "AuxLogits", "--sanity", "--out", tmp_path / "out")
    status, printed, err = run("model.safetensors", "images/one.png", *options, "--json")
    assert status == 0, err
    result = json.loads(printed)
    assert next(iter(result["randomisation"])) == "AuxLogits.Conv2d_2b_1x1"
    assert 0 <= result["insertion"] <= 1
    assert 0 <= result["deletion"] <= 1
    status, printed, _ = run("model.safetensors", "images/one.png", *options, "--overwrite")
    assert "random down to Conv2d_1a_3x3:" in printed
    assert "better if high" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--class", "dgo"), "no class dgo; did you mean dog"),
        (("--end-point", "Mixed_7d"), "--end-point Mixed_7d: not in model.safetensors; did you mean Mixed_7"),
        (("--end-point", "Mixed_6e", "--method", "occlusion"), "--end-point is for the methods grad-cam, "),
        (("--engine", "pytorch"), "--engine and --precision are for --method occlusion"),
        (("--method", "gradcam"), "did you mean grad-cam"),
        (("--window", "0"), "--window"),
    ],
)
def test_wrong_options_are_refused_with_the_remedy(
    run: Run, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    status, printed, err = run("model.safetensors", "images/one.png", *options, "--out", tmp_path / "out")
    assert (status, printed) == (2, "")
    assert message in err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_only_replaced_if_asked_for(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    status, _, err = run("model.safetensors", "images/one.png", "--out", tmp_path)
    assert (status, f"{tmp_path}: is not empty; give another --out, or --overwrite" in err) == (2, True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--end-point", "AvgPool_1a"), "--end-point AvgPool_1a: has no map; use one such as Mixed_7c"),
        (("--end-point", ""), "--end-point (empty): not in model.safetensors"),
        (("--head", "AuxLogits", "--end-point", "Mixed_7a"), "Mixed_7a: not before the head AuxLogits; use Mixed_6e"),
        (("--seed", "99999999999999999999"), "--seed 99999999999999999999: too large"),
        (("--class", ""), "no class (empty); there are cat, dog, <b>"),
        (("--class", "3"), "no class 3; there are cat"),
        (("--method", "occlusion", "--window", "10", "--stride", "11"), "stride 11: larger than the window, 10, so"),
    ],
)
def test_values_that_do_not_belong_together_are_refused_with_the_remedy(
    run: Run, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    status, printed, err = run("model.safetensors", "images/one.png", *options, "--out", tmp_path / "out")
    assert (status, printed) == (2, "")
    assert message in err


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_an_exported_network_has_grad_cam_on_its_last_map(run: Run, folder: Path, tmp_path: Path, suffix: str) -> None:
    exported = folder / f"cam{suffix}"
    export(load(folder / "model.safetensors"), exported)
    options = ("--class", "<b>", "--json")
    status, printed, err = run(exported.name, "images/one.png", *options, "--out", tmp_path / "exported")
    assert status == 0, err
    theirs = json.loads(printed)
    status, printed, err = run("model.safetensors", "images/one.png", *options, "--out", tmp_path / "model")
    ours = json.loads(printed)
    assert theirs["score"] == pytest.approx(ours["score"], abs=1e-2)  # Pillow resizes instead of torchvision
    assert {key: value for key, value in theirs.items() if key not in ("score", "files")} == {
        key: value for key, value in ours.items() if key not in ("score", "files")
    }
    by_weights, by_gradients = (np.load(result["files"][1]) for result in (theirs, ours))
    assert by_gradients.max() > 0
    assert np.abs(by_weights - by_gradients).max() < 0.02 * by_gradients.max()


def test_an_exported_network_with_one_output_explains_both_classes(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = InceptionV3(1, depth_multiplier=0.2, image_size=107, output_activation="sigmoid").eval()
    export(model, tmp_path / "model.onnx")
    network = open_with_map(tmp_path / "model.onnx")
    image = Image.effect_noise((107, 107), 90).convert("RGB")
    view = View.of("noise", image, model.preprocessing)
    for label in (0, 1):
        options = AttributionOptions(class_name=label)
        ours, expected = exported_grad_cam(network, view, options), attribute(model, view, options)
        assert ours.score == pytest.approx(expected.score, abs=1e-3)  # Pillow resizes instead of torchvision
        assert ours.values == pytest.approx(expected.values, abs=0.02 * expected.values.max())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--end-point", "Mixed_6e"), NO_GRADIENTS),
        (("--method", "deep-lift"), NO_GRADIENTS),
        (("--sanity",), "so it has no gradients for --sanity; give the weights it was exported from"),
        (("--mean", "0.5"), "is an exported network, which states it"),
    ],
)
def test_what_needs_gradients_is_refused_for_an_exported_network(
    run: Run, folder: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    if not (folder / "model.onnx").exists():
        export(load(folder / "model.safetensors"), folder / "model.onnx")
    status, _, err = run("model.onnx", "images/one.png", *options, "--out", tmp_path / "out")
    assert (status, message in err) == (2, True), err
    status, printed, err = run("model.onnx", "images/one.png", "--method", "occlusion", "--out", tmp_path / "out")
    assert status == 0, err
    assert printed.startswith("images/one.png: ")


def test_an_exported_network_with_hidden_layers_has_no_map(run: Run, folder: Path, tmp_path: Path) -> None:
    export(InceptionV3(3, depth_multiplier=0.2, image_size=107, hidden_units=(4,)).eval(), folder / "hidden.onnx")
    status, _, err = run("hidden.onnx", "images/one.png", "--out", tmp_path / "out")
    assert (status, "hidden.onnx: its head has hidden layers" in err, "use --method occlusion" in err) == (
        2,
        True,
        True,
    )


# -------------------------------------------------------------------------------------------- results without a meaning


def test_a_map_of_one_place_names_a_finer_layer(run: Run, folder: Path, tmp_path: Path) -> None:
    save(InceptionV3(3, depth_multiplier=0.2, image_size=75, create_aux_logits=False), folder / "small.safetensors")
    status, printed, err = run("small.safetensors", "images/one.png", "--out", tmp_path / "out", "--json")
    remark = "Mixed_7c is one position for images of this size, so its map says nothing; use Mixed_6e, or occlusion"
    assert (status, json.loads(printed)["remark"]) == (0, remark)
    assert err == f"images/one.png: {remark}\n"
    options = ("--end-point", "Mixed_6e", "--out", tmp_path / "finer", "--json")
    status, printed, err = run("small.safetensors", "images/one.png", *options)
    assert (status, json.loads(printed)["shape"], json.loads(printed)["remark"], err) == (0, [3, 3], None, "")


@pytest.mark.parametrize(
    ("options", "remark"),
    [
        (
            ("--end-point", "Mixed_6e"),
            "the image is of one colour: the positions differ only by the padding at the borders",
        ),
        (("--method", "occlusion"), "the values are the same everywhere, so they say nothing about places"),
    ],
)
def test_an_image_of_one_colour_has_a_remark(run: Run, tmp_path: Path, options: tuple[str, ...], remark: str) -> None:
    Image.new("RGB", (120, 120), (128, 128, 128)).save(tmp_path / "grey.png")
    status, printed, err = run("model.safetensors", tmp_path / "grey.png", *options, "--out", tmp_path / "out")
    assert (status, f"grey.png: {remark}\n" in err) == (0, True), err
    assert "grey.png: " in printed


@pytest.mark.parametrize("line", ["explain {model} {image} --out {out}", "ablate {model} {image}"])
def test_values_that_are_not_finite_name_the_layer_in_which_they_start(
    folder: Path, tmp_path: Path, command: Run, line: str
) -> None:
    model = load(folder / "model.safetensors")
    with torch.no_grad():
        model.Mixed_5c.Branch_0.Conv2d_0a_1x1.BatchNorm.beta.fill_(3e38)  # finite, but not its sum in the next layer
        model.Mixed_5d.Branch_0.Conv2d_0a_1x1.weights.fill_(10)
    save(model, file := tmp_path / "overflows.safetensors")
    image = folder / "images" / "one.png"
    status, _, err = command(*line.format(model=file, image=image, out=tmp_path / "out").split())
    assert status == 3
    assert "not finite, from Mixed_5d/Branch_0/Conv2d_0a_1x1 on; check the model" in err
