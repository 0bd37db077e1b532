"""A new format of weights needs one new file and one line in the registry."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import inception_v3
from inception_v3.weights.formats.registry import FORMATS, find_format
from inception_v3.weights.model import InceptionV3

TOY = '''
"""A NumPy archive with the tensors, and the settings and preprocessing as text."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.settings import Settings
from inception_v3.weights.formats.base import WritableFormat
from inception_v3.weights.formats.weights import Weights


def recognises(path):
    try:
        with np.load(path) as archive:
            return "toy" in archive
    except Exception:
        return False


def read(path):
    with np.load(path) as archive:
        tensors = {name: torch.from_numpy(archive[name]) for name in archive if name not in ("toy", "preprocessing")}
        settings = Settings(**json.loads(str(archive["toy"])))
        return Weights(tensors, settings, Preprocessing(**json.loads(str(archive["preprocessing"]))))


def write(weights, path):
    texts = {"toy": json.dumps(dict(weights.settings)), "preprocessing": json.dumps(asdict(weights.preprocessing))}
    with path.open("wb") as file:
        np.savez(file, **texts, **{name: tensor.numpy() for name, tensor in weights.tensors.items()})


FORMAT = WritableFormat(
    name="toy",
    recognises=recognises,
    read=read,
    write=write,
    differences=lambda weights: ["it has no auxiliary head"] if weights.settings.create_aux_logits else [],
    suffixes=(".toy",),
)
'''


@pytest.fixture(scope="module")
def source_with_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with one new file, and one new line in the registry."""
    root = tmp_path_factory.mktemp("source")
    package = Path(inception_v3.__file__).parent
    shutil.copytree(package, root / "inception_v3", ignore=shutil.ignore_patterns("__pycache__"))
    formats = root / "inception_v3" / "weights" / "formats"
    (formats / "toy.py").write_text(TOY)
    registry = (formats / "registry.py").read_text()
    (formats / "registry.py").write_text(registry.replace('    "native",\n', '    "native",\n    "toy",\n'))
    return root


@pytest.fixture
def run(source_with_toy: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def command(*arguments: object) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(source_with_toy), "COLUMNS": "200", "NO_COLOR": "1"}
        command = [sys.executable, "-m", "inception_v3", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return command


def test_a_new_format_is_in_the_help(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = run("convert", "--help")
    assert done.returncode == 0, done.stderr
    assert re.search(r"native, toy,\s", done.stdout)


def test_a_new_format_is_written_and_read_with_equal_logits(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, random_model: Callable[..., InceptionV3]
) -> None:
    model = random_model(create_aux_logits=False)
    inception_v3.save(model, tmp_path / "model.safetensors")
    done = run("convert", "model.safetensors", "model.toy")
    assert done.returncode == 0, done.stderr
    assert "native to toy; the logits differ by 0.0e+00" in done.stdout
    done = run("convert", "model.toy", "again.safetensors", "--check")
    assert done.returncode == 0, done.stderr
    assert "toy to native; the logits differ by 0.0e+00" in done.stdout
    again, images = inception_v3.load(tmp_path / "again.safetensors"), torch.rand(1, 3, 107, 107)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    with torch.inference_mode():
        assert torch.allclose(again(images)[0], model(images)[0])  # the alignment of memory changes the last bit


def test_a_new_format_refuses_what_it_cannot_hold(
    run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, random_model: Callable[..., InceptionV3]
) -> None:
    inception_v3.save(random_model(create_aux_logits=True), tmp_path / "model.safetensors")
    done = run("convert", "model.safetensors", "model.toy")
    assert done.returncode == 1
    assert "it has no auxiliary head" in done.stderr
    assert not (tmp_path / "model.toy").exists()


def test_messages_list_a_new_format(run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no weights")
    unknown, suffix, unrecognised = (
        run("convert", "model.safetensors", "x", "--to", "caffe"),
        run("convert", "model.safetensors", "x.caffe"),
        run("convert", "text", "x.toy"),
    )
    assert (unknown.returncode, suffix.returncode, unrecognised.returncode) == (2, 2, 1)
    assert "choose from native, toy, saved-model" in unknown.stderr
    assert ".toy toy" in suffix.stderr
    assert "one of the formats native, toy, saved-model" in unrecognised.stderr


def test_each_format_has_the_name_of_its_line_in_the_registry() -> None:
    assert [find_format(name).name for name in FORMATS] == list(FORMATS)


def test_listing_and_reading_native_files_imports_no_other_format(
    tmp_path: Path, random_model: Callable[..., InceptionV3]
) -> None:
    inception_v3.save(random_model(), tmp_path / "model.safetensors")
    script = """
import sys
import inception_v3.cli.convert
assert "torch" not in sys.modules
import inception_v3
inception_v3.load("model.safetensors")
formats = {name.rpartition(".")[2] for name in sys.modules if name.startswith("inception_v3.weights.formats.")}
assert formats == {"base", "layer_names", "native", "registry", "weights"}, formats
assert "h5py" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
