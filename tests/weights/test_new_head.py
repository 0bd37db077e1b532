"""Loading for other classes, or only in part: what is kept, what is new, and that it is said."""

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

import inception_v3
from inception_v3.errors import InputError
from inception_v3.weights.model import InceptionV3

Build = Callable[..., InceptionV3]
FINAL = ("Logits.Conv2d_1c_1x1.", "AuxLogits.Conv2d_2b_1x1.")


@pytest.fixture
def saved(tmp_path: Path, random_model: Build) -> Path:
    inception_v3.save(random_model(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


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


def test_a_partial_load_is_refused_unless_asked_for_and_lists_what_was_left_out(saved: Path) -> None:
    tensors = safetensors.torch.load_file(saved)
    with safetensors.safe_open(saved, "pt") as opened:
        metadata = opened.metadata()
    del tensors["Mixed_5b.Branch_0.Conv2d_0a_1x1.weights"]
    tensors["extra.thing"] = torch.zeros(1)
    safetensors.torch.save_file(tensors, saved, metadata)
    with pytest.raises(InputError, match=r"lacks Mixed_5b\.Branch_0.*partial=True"):
        inception_v3.load(saved)
    with pytest.warns(UserWarning, match="missing from the file") as warned:
        model = inception_v3.load(saved, partial=True)
    said = " ".join(str(one.message) for one in warned)
    assert "Mixed_5b.Branch_0.Conv2d_0a_1x1.weights" in said
    assert "extra.thing" in said
    assert torch.isfinite(model(torch.rand(1, 3, 107, 107))[0]).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused_by_name(saved: Path, value: float) -> None:
    tensors = safetensors.torch.load_file(saved)
    with safetensors.safe_open(saved, "pt") as opened:
        metadata = opened.metadata()
    tensors["Conv2d_2a_3x3.weights"][0, 0, 0, 0] = value
    safetensors.torch.save_file(tensors, saved, metadata)
    with pytest.raises(InputError, match=r"Conv2d_2a_3x3\.weights"):
        inception_v3.load(saved)


def test_mixed_types_become_the_one_that_holds_every_value(saved: Path) -> None:
    tensors = safetensors.torch.load_file(saved)
    with safetensors.safe_open(saved, "pt") as opened:
        metadata = opened.metadata()
    halved = {name: tensor.half() if "Mixed_5b" in name else tensor for name, tensor in tensors.items()}
    halved["Conv2d_2a_3x3.weights"] = halved["Conv2d_2a_3x3.weights"].bfloat16()
    safetensors.torch.save_file(halved, saved, metadata)
    model = inception_v3.load(saved)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert torch.equal(model.Conv2d_2a_3x3.weights, halved["Conv2d_2a_3x3.weights"].float())
    assert torch.isfinite(model(torch.rand(1, 3, 107, 107))[0]).all()
