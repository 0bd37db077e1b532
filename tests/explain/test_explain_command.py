"""`inception-v3 explain`."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inception_v3 import InceptionV3, cli, load, save
from inception_v3.explain.attribution.attribute import attribute
from inception_v3.explain.attribution.result import KINDS, AttributionOptions
from inception_v3.inference.export import export

Run = Callable[..., tuple[int, str, str]]

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
def run(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `explain` in the folder: exit status, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr("sys.argv", ["inception-v3", "explain", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(exited.value.code or 0), out, err

    return run


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


def test_an_exported_network_is_explained_by_occlusion_only(run: Run, folder: Path, tmp_path: Path) -> None:
    export(load(folder / "model.safetensors"), folder / "model.onnx")
    status, _, err = run("model.onnx", "images/one.png", "--out", tmp_path / "out")
    assert status == 2
    assert "an exported network, so it has no gradients; use --method occlusion, or" in err
    status, printed, err = run("model.onnx", "images/one.png", "--method", "occlusion", "--out", tmp_path / "out")
    assert status == 0, err
    assert printed.startswith("images/one.png: ")
