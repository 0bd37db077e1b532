"""`inception-v3 inspect`: one page about any file, and the reasons why files are refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import ROOT
from inception_v3.cli import main
from inception_v3.weights.damage import find_damage
from inception_v3.weights.formats.torchvision_names import base_shapes
from inception_v3.weights.load import save

EXPORT = ROOT / "tests" / "version_0_1" / "run.onnx"


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Run the command; return its exit status and what it printed to stdout."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["inception-v3", "inspect", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            main()
        return int(exit.value.code or 0), capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A state dict with torchvision's names."""
    torch.manual_seed(0)
    tensors = {name: torch.rand(shape) + 0.5 for name, shape in base_shapes().items()}
    return tensors | {"fc.weight": torch.rand(3, 2048), "fc.bias": torch.rand(3)}


def facts(inspect: Callable[..., tuple[int, str]], *arguments: object) -> dict[str, Any]:
    status, printed = inspect(*arguments, "--json")
    (line,) = printed.splitlines()
    result: dict[str, Any] = json.loads(line)
    assert status == (1 if result["readable"] is False else 0)
    return result


def test_a_state_dict_is_shown_with_its_network_head_and_the_command_that_converts_it(
    inspect: Callable[..., tuple[int, str]],
    state: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    average = {f"module.{name}": value + 0.01 for name, value in state.items()}
    torch.save({"model": state, "model_ema": average, "epoch": 3}, "my model.pth")
    result = facts(inspect, "my model.pth")
    networks = {each["key"]: (each["layers"], each["is_read"]) for each in result["state_dicts"]}
    assert networks == {"model": (94, False), "model_ema.module": (94, True)}
    assert result["format"] == "torchvision"
    assert result["head"]["outputs"] == 3
    assert result["preprocessing"]["resize"] == {"value": 342, "source": "assumed: as usual for torchvision"}
    assert any("the average model_ema.module is read" in line for line in result["assumed"])
    assert result["command"] == ("inception-v3 convert 'my model.pth' 'my model.safetensors' --state model_ema.module")
    status, page = inspect("my model.pth")
    assert status == 0
    assert max(len(line) for line in page.splitlines() if not line.startswith("convert")) <= 80


def test_damaged_values_are_listed_by_tensor(
    inspect: Callable[..., tuple[int, str]], state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    damaged = {name: tensor.clone() for name, tensor in state.items()}
    damaged["Conv2d_1a_3x3.bn.running_var"][:2] = torch.tensor([float("nan"), float("inf")])
    torch.save(damaged, tmp_path / "model.pth")
    result = facts(inspect, tmp_path / "model.pth")
    assert "holds NaN or infinity" in result["refusal"]
    assert result["damage"] == [
        "Conv2d_1a_3x3.bn.running_var: 1 of 32 values are NaN",
        "Conv2d_1a_3x3.bn.running_var: 1 of 32 values are infinite",
    ]


def test_damage_is_told_from_the_small_variances_of_trained_networks() -> None:
    mean, good = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1e-14, 1.0, 4000.0])
    assert find_damage({"a.moving_mean": mean, "a.moving_variance": good, "a.weights": torch.ones(2, 2) * 2e4}) == []
    assert find_damage({"a.moving_variance": torch.tensor([-1.0, 0.0, 1e20]), "b.weights": torch.zeros(2, 2)}) == [
        "a.moving_variance: 1 of 3 variances is negative",
        "a.moving_variance: 1 of 3 variances is 0",
        "a.moving_variance: 1 of 3 variances is larger than 1e+10",
        "b.weights: all values are 0",
    ]
    untrained = find_damage({"a.moving_mean": torch.zeros(3), "a.moving_variance": torch.ones(3)})
    assert "the network was not trained" in untrained[0]


@pytest.mark.parametrize(
    ("format", "name", "kind", "source"),
    [
        ("native", "model.safetensors", "safetensors", "file"),
        ("tf-slim", "model.ckpt", "a TensorFlow checkpoint, V2", "assumed: as usual for tf-slim"),
        ("tensorflowjs", "model.json", "a TensorFlow.js layers model", "file"),
    ],
)
def test_each_family_of_formats_is_examined(
    format: str,
    name: str,
    kind: str,
    source: str,
    inspect: Callable[..., tuple[int, str]],
    random_model: Callable[..., Any],
    tmp_path: Path,
) -> None:
    model = random_model(num_classes=3, depth_multiplier=0.1, create_aux_logits=False)
    model.class_names = ["ant", "bee", "cat"]
    save(model, tmp_path / name, format, allow_difference=True)
    result = facts(inspect, tmp_path / name)
    assert (result["kind"], result["format"], result["readable"]) == (kind, format, True)
    assert result["layers"] == {"total": 95, "matched": 95, "missing": [], "unused": []}
    assert result["head"]["outputs"] == 3
    assert result["preprocessing"]["mean"]["source"] == source
    assert result["damage"] == []
    assert (result["command"] is None) == (format == "native")
    assert result["bytes"] == sum(Path(file).stat().st_size for file in result["files"])


def test_an_exported_network_is_shown_with_its_precision_and_check(inspect: Callable[..., tuple[int, str]]) -> None:
    result = facts(inspect, EXPORT)
    (export,) = result["exports"]
    assert (export["format"], export["precision"]) == ("onnx", "fp32")
    assert "top-1 agreement" in export["check"]
    assert result["preprocessing"]["mean"]["source"] == "file"
    assert result["head"]["outputs"] == len(result["class_names"]["value"])


REFUSED = {
    "lfs.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "`git lfs pull`"),
    "page.pth": (b"<!DOCTYPE html><html></html>", "a web page"),
    "empty.pth": (b"", "an empty file, from which no model can be read; download"),
    "cut.pth": (b"PK\3\4" + b"x" * 999, "the end is missing"),
    "zeros.pth": (bytes(1000), "an interrupted download"),
    "photo.jpg": (b"\xff\xd8\xff\xe0" + b"x" * 99, "a JPEG image; give a model"),
    "model.tflite": (b"\x1c\0\0\0TFL3" + b"\0" * 99, "a TensorFlow Lite model"),
    "model.ckpt-5.meta": (b"\x0a\x10\x08\x01\x80", "without weights; give the checkpoint itself"),
    "checkpoint": (b'model_checkpoint_path: "model.ckpt-5"\n', "model.ckpt-5"),
    "other.pb": (b"\x0a\x08\x0a\x01a\x12\x03Add", "a TensorFlow graph"),
    "model.json": (b'{"format":"graph-model","modelTopology":{"node":[]},"weightsManifest":[]}', "graph model"),
    "data.pkl": (b"\x80\4}.", "not a state dict; write one with torch.save"),
    "joblib.pkl": (
        b"\x80\2cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81}b.",
        "joblib wrote its NumPy arrays between the opcodes; write it with torch.save",
    ),
    "old.pth": (b"sys_info" + bytes(249) + b"ustar" + bytes(300), "torch.save before PyTorch 0.2, a tar archive"),
    "model.tar.gz": (b"\x1f\x8b\x08" + b"x" * 99, "unpack it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_file_is_named_by_what_it_is_in_inspect_and_elsewhere(
    name: str,
    inspect: Callable[..., tuple[int, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content, reason = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    result = facts(inspect, tmp_path / name)
    assert reason in result["refusal"]
    assert result["command"] is None
    monkeypatch.setattr(
        sys, "argv", ["inception-v3", "convert", str(tmp_path / name), str(tmp_path / "out.safetensors")]
    )
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert line.endswith(f"`inception-v3 inspect {tmp_path / name}` shows what it holds")


def test_control_characters_in_the_names_of_tensors_are_escaped(
    inspect: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    torch.save({"evil\x1b[31m\n": torch.zeros(2)}, tmp_path / "model.pth")
    status, page = inspect(tmp_path / "model.pth")
    assert status == 1
    assert "\x1b" not in page
    assert "evil\\x1b[31m" in page


def test_an_unknown_key_is_a_wrong_argument(
    inspect: Callable[..., tuple[int, str]], state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(state, tmp_path / "model.pth")
    assert inspect(tmp_path / "model.pth", "--state", "ema") == (2, "")


def test_a_missing_package_leaves_open_whether_the_file_can_be_read(
    inspect: Callable[..., tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))
    monkeypatch.setitem(sys.modules, "h5py", None)
    result = facts(inspect, tmp_path / "model.h5")
    assert (result["readable"], result["refusal"]) == (None, None)
    assert "a file of Keras needs h5py" in result["not_examined"]


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["safetensors"] = None
sys.argv = ["inception-v3", "inspect", *sys.argv[1:], "--json"]
from inception_v3.cli import main
main()
"""


def test_without_pytorch_names_shapes_and_settings_are_examined(
    random_model: Callable[..., Any], state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save(random_model(num_classes=3, depth_multiplier=0.1), tmp_path / "native.safetensors")
    torch.save(state, tmp_path / "model.pth")

    def run(path: Path) -> dict[str, Any]:
        command = [sys.executable, "-c", WITHOUT_TORCH, str(path)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        result: dict[str, Any] = json.loads(printed)
        return result

    native = run(tmp_path / "native.safetensors")
    assert native["head"]["outputs"] == 3
    assert native["readable"] is None
    assert native["not_examined"].startswith("the values of its tensors were not examined, which needs PyTorch: ")
    assert run(tmp_path / "model.pth")["state_dicts"][0]["layers"] == 94
    assert run(EXPORT)["exports"][0]["precision"] == "fp32"
