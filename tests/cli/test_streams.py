"""Each command prints its results to stdout, and nothing of the libraries that it uses to stderr.

With --quiet only warnings and errors are left on stderr. The commands run in processes of their own, in which Python
shows every warning: also those that it hides by default, and those of imports and of the interpreter's exit.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import inception_v3

pytestmark = pytest.mark.usefixtures("one_thread")

ENGINES = "pytorch,onnxruntime,openvino,ncnn"
CLASS_NAMES = ["cat", "dog"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of noise in each class of train/ and val/."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in CLASS_NAMES:
            (folder / split / name).mkdir(parents=True)
            for number in range(6):
                pixels = rng.integers(0, 256, (80, 90, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


@pytest.fixture
def model(tmp_path: Path, random_model: Callable[..., inception_v3.InceptionV3]) -> Path:
    network = random_model(num_classes=2)
    network.preprocessing = inception_v3.Preprocessing((107, 107))
    network.class_names = CLASS_NAMES
    inception_v3.save(network, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def run(command: str, folder: Path, *options: str) -> tuple[str, str]:
    """The stdout and stderr of a command that succeeds, in `folder`."""
    done = subprocess.run(
        [sys.executable, "-m", "inception_v3", *command.split(), "--quiet", *options],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONWARNINGS": "default", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "train {images} --out run --recipe digits --epochs 1 --depth-multiplier 0.1 --image-size 75 --batch-size 4",
        "finetune {model} {images} --out run --cache features --unfreeze Mixed_7 --epochs 1",
        "evaluate {model} {images} --report report.html",
        "predict {model} {images}/val/cat/0.png",
        "export {model} network.onnx",
        "export {model} network.xml",
        "export {model} network.pt2",
        "bench {model} --rounds 1 --batch-size 1 --precision fp32 --plot speeds.png --engine " + ENGINES,
        "convert {model} network.ckpt --to tf-slim --allow-difference",
        pytest.param("predict {model} {images}/val/cat/0.png --engine compile", marks=pytest.mark.slow),
    ],
)
def test_a_command_prints_only_its_result(command: str, model: Path, images: Path, tmp_path: Path) -> None:
    out, err = run(command.format(model=model, images=images), tmp_path, "--json")
    assert err == ""
    assert json.loads(out)


@pytest.mark.parametrize("command", ["describe", "cache --cache features"])
def test_a_command_without_pytorch_prints_only_its_table(command: str, tmp_path: Path) -> None:
    out, err = run(command, tmp_path)
    assert err == ""
    assert len(out.splitlines()) > 2


def test_fidelity_prints_only_its_scores_and_our_own_warnings(
    images: Path, weights_of_2015: Path, tmp_path: Path
) -> None:
    sets = f"{images}/val/cat {images}/val/dog"
    options = f"--any-weights --weights-file {weights_of_2015} --cache features --report report.html --scores fid,kid"
    out, err = run(f"fidelity {sets} {options} --kid-subset-size 4", tmp_path, "--json")
    assert json.loads(out)
    faults = ("6 of 6 generated images (90x80) are", "6 of 6 reference images (90x80) are", "6 images are few")
    assert len(err.splitlines()) == len(faults), err
    assert all(f"warning: {fault}" in err for fault in faults), err


def test_export_to_core_ml_prints_only_our_own_warning(model: Path, tmp_path: Path) -> None:
    out, err = run(f"export {model} network.mlpackage", tmp_path, "--json")
    assert json.loads(out)
    assert err == (
        "warning: network.mlpackage: not checked, since only Apple's Core ML runs it; compare its outputs there\n"
    )
