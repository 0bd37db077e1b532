"""Loading with another number of classes or with `partial=True`: which weights are kept, and the warnings."""

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

import inception_v3
from inception_v3.errors import InputError
from inception_v3.weights.formats.native import tensor_checksum
from inception_v3.weights.model import InceptionV3

Build = Callable[..., InceptionV3]
FINAL = ("Logits.Conv2d_1c_1x1.", "AuxLogits.Conv2d_2b_1x1.")


@pytest.fixture
def saved(tmp_path: Path, random_model: Build) -> Path:
    inception_v3.save(random_model(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def change_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> dict[str, torch.Tensor]:
    """Rewrite a saved model after `change(tensors)`, with a new checksum; return the changed tensors."""
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    change(tensors)
    safetensors.torch.save_file(tensors, path, metadata | {"checksum": tensor_checksum(tensors)})
    return tensors


def test_another_number_of_classes_keeps_everything_but_the_final_layers(saved: Path) -> None:
    before = inception_v3.load(saved)
    with pytest.warns(UserWarning, match="the final layers are new, for 3 classes"):
        model = inception_v3.load(saved, num_classes=3)
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 107, 107))[0].shape == (1, 3)
    for name, tensor in model.state_dict().items():
        if name.startswith(FINAL):
            assert torch.isfinite(tensor).all()
        else:
            assert torch.equal(tensor, before.state_dict()[name]), name
    assert model.class_names is None


def test_a_partial_load_must_be_requested_and_lists_the_differences(saved: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["extra.thing"] = tensors.pop("Mixed_5b.Branch_0.Conv2d_0a_1x1.weights")

    change_tensors(saved, change)
    with pytest.raises(InputError, match=r"lacks Mixed_5b\.Branch_0.*partial=True"):
        inception_v3.load(saved)
    with (
        pytest.warns(UserWarning, match=r"missing from the file.*: Mixed_5b\.Branch_0\.Conv2d_0a_1x1\.weights"),
        pytest.warns(UserWarning, match=r"in the file, but not used: extra\.thing"),
    ):
        model = inception_v3.load(saved, partial=True)
    assert torch.isfinite(model(torch.rand(1, 3, 107, 107))[0]).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused_by_name(saved: Path, value: float) -> None:
    change_tensors(saved, lambda tensors: tensors["Conv2d_2a_3x3.weights"][0, 0, 0, 0].fill_(value))
    with pytest.raises(InputError, match=r"Conv2d_2a_3x3\.weights"):
        inception_v3.load(saved)


def test_mixed_dtypes_become_float32(saved: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors |= {name: tensor.half() for name, tensor in tensors.items() if "Mixed_5b" in name}
        tensors["Conv2d_2a_3x3.weights"] = tensors["Conv2d_2a_3x3.weights"].bfloat16()

    mixed = change_tensors(saved, change)
    model = inception_v3.load(saved)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert torch.equal(model.Conv2d_2a_3x3.weights, mixed["Conv2d_2a_3x3.weights"].float())
    assert torch.isfinite(model(torch.rand(1, 3, 107, 107))[0]).all()
