"""A new engine is one new file and one line in the registry: a copy of the package with a toy engine shows it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import inception_v3
from inception_v3.weights.load import save
from inception_v3.weights.model import InceptionV3

TOY_ENGINE = '''
"""An engine that puts every image in class 3."""

import numpy as np

from inception_v3.inference.engines.base import FEATURES, LOGITS, Engine


class ToyEngine(Engine):
    name = "toy"

    def __init__(self, graph, precision, device, *, callers=1):
        super().__init__(graph, precision, device)
        self.image_size = graph.image_size
        self.widths = {name: graph.channels()[name] for name in (LOGITS, FEATURES)}

    def run(self, pixels):
        outputs = {name: np.zeros((len(pixels), width), np.float32) for name, width in self.widths.items()}
        outputs[LOGITS][:, 3] = 100
        return outputs
'''
REGISTRY_LINE = '    "toy": "toy.ToyEngine",\n'


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package, to which the file and the line were added."""
    folder = tmp_path_factory.mktemp("package")
    source = Path(inception_v3.__file__).parent
    shutil.copytree(source, folder / "inception_v3", ignore=shutil.ignore_patterns("__pycache__"))
    engines = folder / "inception_v3" / "inference" / "engines"
    (engines / "toy.py").write_text(TOY_ENGINE)
    before, start, after = (engines / "registry.py").read_text().partition("ENGINES = {\n")
    assert start
    (engines / "registry.py").write_text(before + start + REGISTRY_LINE + after)
    return folder


@pytest.fixture
def model(random_model: Callable[..., InceptionV3], tmp_path: Path) -> Path:
    network = random_model()
    network.class_names = ["a", "b", "c", "the fourth", "e", "f", "g"]
    save(network, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(np.zeros((120, 130, 3), np.uint8)).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def run(package: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(package), "COLUMNS": "200"}
    command = [sys.executable, "-m", "inception_v3", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(("command", "choices"), [("predict", "auto, toy, pytorch"), ("bench", "toy, pytorch")])
def test_help_lists_the_new_engine(package: Path, command: str, choices: str) -> None:
    assert choices in run(package, command, "--help").stdout


def test_messages_list_the_new_engine(package: Path, image: Path) -> None:
    assert "choose from auto, toy, pytorch" in run(package, "predict", "model", image, "--engine", "other").stderr
    assert "choose from toy, pytorch" in run(package, "bench", "--engine", "other").stderr


def test_predict_runs_the_new_engine(package: Path, model: Path, image: Path) -> None:
    done = run(package, "predict", model, image, "--engine", "toy", "--top", 1)
    assert done.stdout == f"{image}  the fourth 100.0%\n"
    assert "toy fp32 on cpu: requested" in done.stderr


def test_bench_measures_the_new_engine(package: Path, model: Path) -> None:
    done = run(package, "bench", model, "--engine", "toy", "--batch-size", 1, "--rounds", 1, "--json")
    assert [(row["engine"], row["precision"]) for row in json.loads(done.stdout)["rows"]] == [("toy", "fp32")]


def test_the_new_engine_is_not_chosen_without_a_measured_speed(package: Path, model: Path, image: Path) -> None:
    assert "toy" not in run(package, "predict", model, image).stderr
