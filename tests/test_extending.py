"""The worked examples of docs/extending.md, added to a copy of the package, do what the page says."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import inception_v3
from conftest import randomise
from inception_v3.network.settings import GRAPH_2015
from inception_v3.weights.model import InceptionV3

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
EXAMPLE = re.compile(r"^`([\w/]+\.py)`:\n|^```(py|diff)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with the new files and the changed lines of the page."""
    root = tmp_path_factory.mktemp("source")
    package = root / "inception_v3"
    shutil.copytree(Path(inception_v3.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    name = ""
    for named, kind, block in EXAMPLE.findall(PAGE.read_text("utf-8")):
        name = named or name
        if kind == "py":
            (package / name).write_text(block)
        elif kind == "diff":
            apply_diff(package / name, block.splitlines())
    return root


def apply_diff(file: Path, lines: list[str]) -> None:
    """Replace the lines with ` ` or `-` by those with ` ` or `+`."""
    before, after = ("\n".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
    text = file.read_text()
    assert text.count(before) == 1, f"{before!r} stands {text.count(before)} times in {file.name}"
    file.write_text(text.replace(before, after))


@pytest.fixture
def run(source: Path, tmp_path: Path) -> Callable[..., str]:
    """Run a command of the changed package; returns what it prints."""

    def command(*arguments: object) -> str:
        environment = os.environ | {"PYTHONPATH": str(source), "COLUMNS": "200", "NO_COLOR": "1"}
        words = [sys.executable, "-m", "inception_v3", *map(str, arguments)]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return command


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of two images of 130x120 pixels."""
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 256, (120, 130, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    return folder


def test_the_weight_format(run: Callable[..., str], tmp_path: Path, random_model: Callable[..., InceptionV3]) -> None:
    model = random_model(create_aux_logits=False)
    inception_v3.save(model, tmp_path / "model.safetensors")
    assert "native, numpy, saved-model" in run("convert", "--help")
    run("convert", "model.safetensors", "model.npz")
    run("convert", "model.npz", "again.safetensors")
    again = inception_v3.load(tmp_path / "again.safetensors")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_the_engine(
    run: Callable[..., str], images: Path, tmp_path: Path, random_model: Callable[..., InceptionV3]
) -> None:
    inception_v3.save(random_model(), tmp_path / "model.safetensors")
    assert "constant" in run("predict", "--help")
    output = run("predict", "model.safetensors", images, "--engine", "constant", "--top", 1, "--json")
    predictions = [json.loads(line)["predictions"] for line in output.splitlines()]
    assert predictions == [[{"class": "0", "probability": 1.0}]] * 2


def test_the_score(run: Callable[..., str], images: Path, tmp_path: Path) -> None:
    model = InceptionV3(**GRAPH_2015 | {"depth_multiplier": 0.1, "min_depth": 8}).eval()
    randomise(model)
    inception_v3.save(model, tmp_path / "model.safetensors")
    options = ("--weights-file", "model.safetensors", "--any-weights", "--scores", "mean-distance", "--no-cache")
    same = json.loads(run("fidelity", images, images, *options, "--json"))
    assert same["mean_distance"] == 0
    other = tmp_path / "other"
    other.mkdir()
    for seed in range(2):
        Image.new("RGB", (130, 120), (seed, 200, 0)).save(other / f"{seed}.png")
    assert json.loads(run("fidelity", images, other, *options, "--json"))["mean_distance"] > 0


def test_the_command(run: Callable[..., str], images: Path) -> None:
    assert "sizes" in run("--help")
    assert run("sizes", images) == f"{images}/0.png  130x120\n{images}/1.png  130x120\n"
