"""`inception-v3 convert`: the same numbers, or a refusal with the reason, or the difference measured."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import inception_v3
from inception_v3 import cli
from inception_v3.network import InceptionV3

Build = Callable[..., InceptionV3]


@pytest.fixture
def convert(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["inception-v3", "convert", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(exited.value.code or 0), out, err

    return command


def saved(tmp_path: Path, model: InceptionV3) -> Path:
    inception_v3.save(model, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_there_and_back_is_exact_and_says_so(tmp_path: Path, random_model: Build, convert: Callable) -> None:  # type: ignore[type-arg]
    source = saved(tmp_path, random_model())
    status, out, _ = convert(source, tmp_path / "model.ckpt", "--json")
    done = json.loads(out)
    assert status == 0
    assert (done["source_format"], done["format"], done["difference"]) == ("native", "tf-slim", 0.0)
    status, out, _ = convert(tmp_path / "model.ckpt", tmp_path / "back.safetensors")
    assert status == 0
    assert "tf-slim to native" in out
    first, last = inception_v3.load(source), inception_v3.load(tmp_path / "back.safetensors")
    assert all(torch.equal(tensor, last.state_dict()[name]) for name, tensor in first.state_dict().items())


def test_other_numbers_are_refused_with_the_reason_and_nothing_is_written(
    tmp_path: Path, random_model: Build, convert: Callable  # type: ignore[type-arg]
) -> None:  # fmt: skip
    source = saved(tmp_path, random_model(count_padding=True))
    status, out, err = convert(source, tmp_path / "model.ckpt")
    assert (status, out) == (1, "")
    assert "average pools leave the padding out" in err
    assert list(tmp_path.iterdir()) == [source]


def test_an_allowed_difference_is_measured(tmp_path: Path, random_model: Build, convert: Callable) -> None:  # type: ignore[type-arg]
    source = saved(tmp_path, random_model(count_padding=True, image_size=139))
    status, out, _ = convert(source, tmp_path / "model.ckpt", "--allow-difference", "--json")
    assert status == 0
    assert json.loads(out)["difference"] > 1e-3
    assert len(json.loads(out)["reasons"]) == 1


def test_a_gamma_is_folded_exactly_and_no_fold_refuses(tmp_path: Path, random_model: Build, convert: Callable) -> None:  # type: ignore[type-arg]
    source = saved(tmp_path, random_model(batch_norm_scale=True))
    status, _, err = convert(source, tmp_path / "model.ckpt", "--no-fold")
    assert status == 1
    assert "no gamma" in err
    status, out, _ = convert(source, tmp_path / "model.ckpt", "--json")
    assert status == 0
    assert json.loads(out)["folded"] == 96
    assert json.loads(out)["difference"] < 1e-5, "float32 rounding of the folded kernels alone"


@pytest.mark.parametrize(
    ("arguments", "message"), [(("x.bin",), "--to"), (("x", "--to", "caffe"), "no format 'caffe'")]
)
def test_wrong_use(tmp_path: Path, random_model: Build, convert: Callable, arguments: tuple[str], message: str) -> None:  # type: ignore[type-arg]
    source = saved(tmp_path, random_model())
    status, _, err = convert(source, tmp_path / arguments[0], *arguments[1:])
    assert status == 2
    assert message in err
