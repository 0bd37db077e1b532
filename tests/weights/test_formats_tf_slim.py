"""TF-Slim checkpoints written here: TensorFlow's own reader and slim's own network use them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import inception_v3
from conftest import oracle_python, relative
from inception_v3.errors import InputError
from inception_v3.weights.formats import tf_slim
from inception_v3.weights.model import InceptionV3


def test_slim_computes_equal_outputs_from_a_written_checkpoint(
    tmp_path: Path, random_model: Callable[..., InceptionV3]
) -> None:
    """The model has a gamma, which slim's network lacks, so that it is folded. test_convert.py has one without."""
    model = random_model(image_size=139, batch_norm_scale=True)
    inception_v3.save(model, tmp_path / "model.ckpt", "tf-slim")
    for name, (ours, theirs) in slim_end_points(model, tmp_path / "model.ckpt", (139, 139)).items():
        assert relative(ours, theirs) < 1e-4, name


def slim_end_points(model: InceptionV3, written: Path, size: tuple[int, int]) -> dict[str, tuple[Tensor, Tensor]]:
    """Pairs of our and slim's outputs: of every end point, slim's computed from a written checkpoint."""
    images = torch.rand(2, 3, *size) * 2 - 1
    assert tf_slim.FORMAT.program is not None
    _, theirs = tf_slim.FORMAT.program.run(written, images.numpy(), model.settings, oracle_python())
    with torch.inference_mode():
        _, ours = model(images)
    both = theirs.keys() & ours.keys()
    assert {"Conv2d_1a_3x3", "Mixed_7c", "AuxLogits", "Logits"} <= both
    return {name: (ours[name], torch.from_numpy(theirs[name]).reshape(ours[name].shape)) for name in both}


def test_writing_and_reading_is_bit_exact(tmp_path: Path, random_model: Callable[..., InceptionV3]) -> None:
    model = random_model()
    inception_v3.save(model, tmp_path / "model.ckpt", "tf-slim")
    again = inception_v3.load(tmp_path / "model.ckpt")
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_model_that_slim_would_compute_otherwise_is_refused_with_the_reason(
    tmp_path: Path, random_model: Callable[..., InceptionV3]
) -> None:
    model = random_model(count_padding=True)
    with pytest.raises(InputError, match="average pools leave the padding out"):
        inception_v3.save(model, tmp_path / "model.ckpt", "tf-slim")
    assert not list(tmp_path.iterdir())
    inception_v3.save(model, tmp_path / "model.ckpt", "tf-slim", allow_difference=True)
    assert inception_v3.load(tmp_path / "model.ckpt").settings.count_padding is False
    with pytest.raises(InputError, match="format: no such value caffe; choose from native, saved-model"):
        inception_v3.save(model, tmp_path / "x", "caffe")
