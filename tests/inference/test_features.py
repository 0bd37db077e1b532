"""`features`: the values of end points for many images, in .npz and .parquet, also after a killed run."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from test_cli import Run, one_line, run  # noqa: F401 (the fixture)

import inception_v3
from conftest import randomise
from fake_engine import SIZE, FakeEngine, instead_of_a_network, save
from inception_v3.images.addresses import expand
from inception_v3.inference.engines.base import FEATURES, Outputs, Pixels
from inception_v3.inference.engines.graph import build_graph, swap_pools
from inception_v3.inference.engines.registry import load_engine
from inception_v3.inference.exported.check import reference_network
from inception_v3.inference.pipeline import run_end_points
from inception_v3.network.architecture import with_inner
from inception_v3.weights.model import InceptionV3

Build = Callable[..., InceptionV3]
pytestmark = pytest.mark.usefixtures("one_thread")
MAPS = "Mixed_5b/Branch_1,Mixed_7b/Branch_1,AuxLogits/Conv2d_1b_1x1,PreLogits,Predictions"
# Sends itself a signal after some images: SIGNAL COUNT ARGUMENTS...
STOPPED = """
import os, sys
from inception_v3 import cli
from inception_v3.inference.feature_file import FeatureFile

number, count = int(sys.argv.pop(1)), int(sys.argv.pop(1))
write, written = FeatureFile.write, []

def write_and_stop(self, result):
    write(self, result)
    written.append(result)
    if len(written) == count:
        os.kill(os.getpid(), number)

FeatureFile.write = write_and_stop
cli.main()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a thin network for images of 107x107."""
    network = InceptionV3(num_classes=7, depth_multiplier=0.1, min_depth=8, image_size=107)
    randomise(network)
    inception_v3.save(network.eval(), file := tmp_path_factory.mktemp("model") / "model.safetensors")
    return file


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of 12 images, of which 07.png is unreadable."""
    (folder := tmp_path / "images").mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (107, 122, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    (folder / "07.png").write_text("not an image")
    return folder


def expected(model: Path, names: NDArray[np.str_], end_point: str) -> NDArray[np.float32]:
    network = inception_v3.load(model)
    batch = network.preprocess([inception_v3.open_image(str(name)) for name in names])
    with torch.inference_mode():
        values = network(batch, end_point)[1][end_point].numpy()
    return values.reshape(len(values), -1) if end_point == "PreLogits" else values


def relative(values: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    return float(np.abs(values - others).max() / np.abs(others).max())


def test_every_end_point_of_every_engine_has_the_value_of_the_network(random_model: Build) -> None:
    network = random_model(hidden_units=(9,), output_activation="sigmoid")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 107, 107, 3), dtype=np.uint8)
    names = tuple(with_inner(network.settings.end_points()))
    reference = reference_network(network, names)(pixels)
    for engine in ("pytorch", "onnxruntime", "openvino", "ncnn"):
        outputs = [name for name in names if engine != "ncnn" or name != "Conv2d_1a_3x3"]
        graph = swap_pools(build_graph(network, outputs=outputs))
        computed = load_engine(engine).open(graph, "fp32", None).run(pixels)
        assert list(computed) == outputs
        for name in outputs:
            assert computed[name].shape == reference[name].shape, (engine, name)
            assert relative(computed[name], reference[name]) < 2e-5, (engine, name)


def test_the_auxiliary_head_must_fit_the_size_of_the_images(random_model: Build) -> None:
    network = random_model(image_size=299)
    network.preprocessing = network.preprocessing.at(107)
    with pytest.raises(ValueError, match="images of 107x107 do not fit AuxLogits"):
        build_graph(network, outputs=("AuxLogits",))
    network.preprocessing = network.preprocessing.at(395)
    with pytest.raises(ValueError, match=r"images of 395x395 give a map of AuxLogits; .*global_pool=True"):
        build_graph(network, outputs=("AuxLogits/Conv2d_1b_1x1",))


def test_maps_and_vectors_are_written_as_arrays_with_the_names_of_the_images(
    run: Run,  # noqa: F811
    model: Path,
    images: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out.npz"
    status, printed, err = run("features", model, images, "--out", out, "--end-points", MAPS, "--json")
    assert status == 3
    assert "1 of 12 images could not be read" in err
    result = json.loads(printed)
    assert (result["images"], result["failed"], result["end_points"]) == (12, 1, MAPS.split(","))
    arrays = np.load(out)
    assert arrays.files == ["images", "unreadable", "errors", *MAPS.split(",")]
    assert [Path(name).name for name in arrays["images"]] == [f"{n:02}.png" for n in range(12) if n != 7]
    assert arrays["unreadable"].tolist() == [str(images / "07.png")]
    assert "not a supported image" in arrays["errors"][0]
    for name in MAPS.split(","):
        values = expected(model, arrays["images"], name)
        assert arrays[name].dtype == np.float32
        assert arrays[name].shape == values.shape == (11, *result["shapes"][name])
        assert relative(arrays[name], values) < 1e-5, name
    assert json.loads((tmp_path / "out.npz.about.json").read_text())["end_points"] == MAPS.split(",")
    assert {path.name for path in tmp_path.iterdir()} == {"images", "out.npz", "out.npz.about.json"}


def test_vectors_are_written_as_a_table(run: Run, model: Path, images: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out.parquet"
    status, _, err = run("features", model, images, "--out", out, "--end-points", "prelogits,Logits")
    assert status == 3
    table = pyarrow.parquet.read_table(out)
    assert table.schema.names == ["image", "error", "PreLogits", "Logits"]
    assert [index for index, error in enumerate(table["error"].to_pylist()) if error] == [7]
    assert table["PreLogits"][7].as_py() is None
    readable = table.filter(table["error"].is_null())
    values = np.array(readable["Logits"].to_pylist(), np.float32)
    assert relative(values, expected(model, np.array(readable["image"].to_pylist()), "Logits")) < 1e-5
    code = err.splitlines()[-1].partition("list them: python -c ")[2]
    listed = subprocess.run(f"{sys.executable} -c {code}", shell=True, text=True, capture_output=True, check=True)
    assert "07.png: not a supported image" in listed.stdout


def test_pre_logits_are_the_default(run: Run, model: Path, images: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out.npz"
    assert run("features", model, images, "--out", out, "--allow-unreadable")[0] == 0
    arrays = np.load(out)
    assert relative(arrays["PreLogits"], expected(model, arrays["images"], "PreLogits")) < 1e-5


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)], ids=["kill", "Ctrl-C"]
)
def test_a_resumed_file_is_that_of_an_uninterrupted_run(
    run: Run,  # noqa: F811
    model: Path,
    images: Path,
    tmp_path: Path,
    number: int,
) -> None:
    def options(out: Path) -> tuple[object, ...]:
        # With one image in a batch, and one caller, rounding is the same in both runs.
        settings = ("--engine", "pytorch", "--batch-size", "1", "--end-points", MAPS, "--allow-unreadable")
        return ("features", model, images, "--out", out, *settings)

    assert run(*options(tmp_path / "whole.npz"))[0] == 0
    out = tmp_path / "out.npz"
    command = [sys.executable, "-c", STOPPED, str(int(number)), "9", *map(str, options(out))]
    stopped = subprocess.run(command, capture_output=True, text=True, check=False)
    assert stopped.returncode == (130 if number == signal.SIGINT else -number)
    assert not out.exists()
    assert one_line(run(*options(out))[2]).endswith("continue it with --resume, or give --overwrite")
    assert "was written with decode 'exact', not 'scaled'" in run(*options(out), "--resume", "--decode", "scaled")[2]
    unfinished = tmp_path / "out.npz.unfinished"
    with (unfinished / "images.jsonl").open("a") as lines, (unfinished / "0.float32").open("ab") as values:
        lines.write('{"image": "half a li')  # as a kill in the middle of a write leaves them
        values.write(b"123")
    status, _, err = run(*options(out), "--resume")
    assert status == 0
    assert "9 images are done already; continuing" in err
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert not unfinished.exists()


def test_what_cannot_be_written_is_refused_before_the_model_is_loaded(
    run: Run,  # noqa: F811
    images: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "old.npz").write_bytes(b"old")
    for out, end_points, fault in (
        ("out.csv", "PreLogits", "the name must end in .npz or .parquet"),
        ("out.parquet", "PreLogits,Mixed_5b", "a Parquet table holds vectors, and Mixed_5b is a map; write NAME.npz"),
        ("old.npz", "PreLogits", "exists already; a finished file is not extended"),
        ("out.npz", "Mixed_5b/Brunch_1", "no such value Mixed_5b/Brunch_1; did you mean Mixed_5b/Branch_1?"),
        ("out.npz", "Mixed_5b,", "--end-points: no such value (empty); there are Conv2d_1a_3x3, "),
    ):
        status, printed, err = run(
            "features", "no such model", images, "--out", tmp_path / out, "--end-points", end_points
        )
        assert (status, printed) == (2, "")
        assert fault in one_line(err)
    assert (tmp_path / "old.npz").read_bytes() == b"old"


def test_an_end_point_that_only_other_networks_have_is_refused(
    run: Run,  # noqa: F811
    model: Path,
    images: Path,
    tmp_path: Path,
) -> None:
    status, out, err = run("features", model, images, "--out", tmp_path / "out.npz", "--end-points", "Hidden_1")
    assert (status, out) == (2, "")
    assert "model.safetensors: no end point 'Hidden_1' in this network" in one_line(err)
    assert not (tmp_path / "out.npz.unfinished").exists()


def test_features_that_do_not_fit_on_the_disk_are_refused_with_their_size(
    run: Run,  # noqa: F811
    model: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = os.statvfs(tmp_path)
    usage = type("usage", (), {"free": 10_000, "total": free.f_blocks, "used": 0})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    out = tmp_path / "out.npz"
    status, _, err = run("features", model, images, "--out", out, "--end-points", "Mixed_5b", "--engine", "pytorch")
    assert status == 1
    assert "the features of 12 images need 0.0 GB while they are written, and 0.0 GB are free" in err
    assert not out.with_name("out.npz.unfinished").exists(), "the next run needs no --resume"


def test_an_exported_network_has_the_end_points_that_it_was_exported_with(
    run: Run,  # noqa: F811
    model: Path,
    images: Path,
    tmp_path: Path,
) -> None:
    (images / "07.png").unlink()
    names = "Mixed_5b/Branch_1,Mixed_5b/Branch_1/Conv2d_0b_5x5,Mixed_5b/Branch_0,AuxLogits/Conv2d_1b_1x1,Predictions"
    for suffix in (".onnx", ".xml"):
        file, out = tmp_path / f"maps{suffix}", tmp_path / f"maps{suffix}.npz"
        assert run("export", model, file, "--end-points", names)[0] == 0
        assert run("features", file, images, "--out", out, "--end-points", names)[0] == 0
        arrays = np.load(out)
        for name in names.split(","):
            assert relative(arrays[name], expected(model, arrays["images"], name)) < 1e-5, (suffix, name)
        status, printed, err = run("features", file, images, "--out", tmp_path / "x.npz")
        assert "exported without PreLogits; export it again with --end-points" in err
        assert (status, printed) == (2, "")
    assert run("export", model, tmp_path / "plain.onnx")[0] == 0
    assert run("features", tmp_path / "plain.onnx", images, "--out", tmp_path / "plain.npz")[0] == 0
    arrays = np.load(tmp_path / "plain.npz")
    assert relative(arrays["PreLogits"], expected(model, arrays["images"], "PreLogits")) < 1e-5


def test_an_image_whose_features_are_not_finite_is_an_error(tmp_path: Path) -> None:
    class WithNaN(FakeEngine):
        def run(self, pixels: Pixels) -> Outputs:
            outputs = super().run(pixels)
            outputs[FEATURES][pixels[:, 0, 0, 0] == 6, 5] = np.nan
            return outputs

    sources = expand([str(save(tmp_path / f"{number}.png", number)) for number in range(5)])
    results = list(run_end_points(WithNaN(), SIZE, sources, {"PreLogits": FEATURES}))
    assert [result.outputs is None for result in results] == [False, False, False, True, False]
    assert results[3].error == f"{tmp_path / '3.png'}: the network's outputs are not finite; check the model"


def test_after_a_failure_of_the_engine_a_run_is_resumed(
    run: Run,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from inception_v3.inference import choose, results

    for module, name in ((choose, "open_engine"), (results, "ROWS_PER_PART")):
        monkeypatch.setattr(module, name, getattr(module, name))  # restored after the test
    for number in range(20):
        save(tmp_path / "images" / f"{number:02}.png", number)
    for out in (tmp_path / "out.npz", tmp_path / "out.parquet"):
        options = ("features", "model", tmp_path / "images", "--out", out, "--batch-size", "4")
        options += ("--end-points", "AvgPool_1a,Logits")
        instead_of_a_network(0, fails_at=10)
        status, _, err = run(*options)
        assert (status, out.exists()) == (1, False)
        assert "the device is on fire" in one_line(err)
        instead_of_a_network(0)
        assert run(*options)[0] == 2, "neither --resume nor --overwrite"
        assert run(*options, "--resume")[0] == 0
        resumed = out.read_bytes()
        assert run(*options, "--resume")[0] == 2, "a finished file is not extended"
        assert run(*options, "--overwrite")[0] == 0
        assert out.read_bytes() == resumed
