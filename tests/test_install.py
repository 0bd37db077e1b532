"""The package as its users install it: from a wheel, into an environment without PyTorch."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from inception_v3.cli import COMMANDS
from installation import Environment, build_wheel, install, locked_versions, pythons

MODEL = ROOT / "tests" / "version_0_1" / "run.onnx"
DIGITS = ROOT / "examples" / "digits"
# For each command that needs PyTorch, arguments that are valid otherwise.
NEED_TORCH = {
    "train": ("digits", "--out", "run"),
    "finetune": (MODEL.with_suffix(""), "digits"),
    "evaluate": (MODEL.with_suffix(""), "digits"),
    "predict": (MODEL.with_suffix(""), DIGITS),
    "fidelity": (DIGITS, DIGITS),
    "export": (MODEL.with_suffix(""), "model.onnx"),
    "bench": (),
    "convert": (MODEL.with_suffix(""), "model.ckpt"),
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel without extras."""
    folder = tmp_path_factory.mktemp("light")
    return install(folder / "env", str(wheel), "--constraint", locked_versions(folder / "constraints.txt"))


def test_the_light_installation_is_small_and_complete(light: Environment, wheel: Path, tmp_path: Path) -> None:
    assert light.megabytes < 250
    assert not light.packages & {"torch", "torchvision", "scipy", "scikit-learn", "pydantic"}
    check_light_installation(light, wheel, tmp_path)


def check_light_installation(light: Environment, wheel: Path, folder: Path) -> None:
    """An exported network runs in every form, and whatever needs more is refused with a command that installs it."""
    for command in COMMANDS:
        assert light.run(command, "--help").returncode == 0
    assert "Mixed_7c" in light.run("describe").stdout
    assert "onnx fp32" in light.run("inspect", MODEL).stdout
    check_predictions(light, folder)
    for command, arguments in NEED_TORCH.items():
        check_refusal(light, f"{wheel}[torch]", command, *arguments)
    check_refusal(light, f"{wheel}[parquet]", "predict", MODEL, DIGITS, "--out", "results.parquet")
    check_refusal(light, f"{wheel}[openvino]", "predict", MODEL.with_suffix(".xml"), DIGITS, "--engine", "openvino")


def check_predictions(light: Environment, folder: Path) -> None:
    """An exported network gives the same predictions as here, printed, in files, and in Python."""
    command = ("predict", MODEL, DIGITS, "--json", "--top", 3)
    here = subprocess.run([sys.executable, "-m", "inception_v3", *map(str, command)], capture_output=True, text=True)
    expected, printed = (
        {
            line["image"]: {each["class"]: each["probability"] for each in line["predictions"]}
            for line in map(json.loads, text.splitlines())
        }
        for text in (here.stdout, light.run(*command).stdout)
    )
    assert len(printed) == 10
    for image, classes in expected.items():
        assert printed[image] == pytest.approx(classes, abs=1e-4)
    for name in ("results.csv", "results.jsonl"):
        assert light.run("predict", MODEL, DIGITS, "--out", folder / name).returncode == 0
    lines = (folder / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["image"] for line in lines] == [*printed]
    assert [row["image"] for row in csv.DictReader((folder / "results.csv").read_text().splitlines())] == [*printed]
    predictor = f"inception_v3.Predictor({str(MODEL)!r})({str(DIGITS)!r})"
    assert light.python(f"import inception_v3; print(*(each.image for each in {predictor}))").split() == [*printed]


def check_refusal(environment: Environment, requirement: str, *arguments: object) -> None:
    """The command exits with status 2 and one line, which names the requirement to install."""
    refused = environment.run(*arguments)
    assert refused.returncode == 2, refused.stderr
    assert refused.stdout == ""
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: ")
    assert f"uv pip install '{requirement}' --python {environment.path}" in line


def test_python_names_what_the_network_needs(light: Environment) -> None:
    code = "import inception_v3\ntry: inception_v3.load\nexcept ImportError as error: print(error)"
    assert light.python(code).startswith("inception_v3.load needs torch; uv pip install '")


@pytest.mark.slow
@pytest.mark.parametrize("python", pythons())
def test_every_python_runs_the_light_installation(python: str, wheel: Path, tmp_path: Path) -> None:
    environment = install(tmp_path / "env", str(wheel), python=python)
    check_light_installation(environment, wheel, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("python", pythons())
def test_every_python_runs_the_network(python: str, wheel: Path, tmp_path: Path) -> None:
    environment = install(tmp_path / "env", f"{wheel}[torch]", python=python)
    assert not environment.packages & {"scikit-learn", "onnx", "datasets", "tensorboard"}
    trained = environment.run("train", "digits", "--epochs", 1, "--depth-multiplier", 0.1, "--out", tmp_path / "run")
    assert trained.returncode == 0, trained.stderr
    for arguments in (
        ("evaluate", tmp_path / "run", "digits", "--report", tmp_path / "report.html"),
        ("predict", tmp_path / "run", DIGITS),
        ("predict", MODEL, DIGITS),
        ("convert", tmp_path / "run", tmp_path / "model.ckpt"),
        ("finetune", tmp_path / "run", "digits", "--out", tmp_path / "finetuned"),
        ("export", tmp_path / "run", tmp_path / "model.pt2"),
    ):
        result = environment.run(*arguments)
        assert result.returncode == 0, result.stderr
    check_refusal(environment, f"{wheel}[onnx]", "export", tmp_path / "run", tmp_path / "model.onnx")
