"""TF-Slim checkpoints that are written here: TensorFlow's own reader and slim's own network take them."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import inception_v3
from conftest import oracle_python, relative
from inception_v3.errors import InputError
from inception_v3.network import InceptionV3

SLIM = """
import sys
import numpy as np, tensorflow.compat.v1 as tf
from tf_slim.nets import inception_v3 as slim
from tf_slim.ops.arg_scope import arg_scope
tf.disable_eager_execution()
prefix, images, out = sys.argv[1:]
with arg_scope(slim.inception_v3_arg_scope()):
    logits, ends = slim.inception_v3(tf.constant(np.load(images)), 7, is_training=False, depth_multiplier=0.1,
                                     min_depth=8)
with tf.Session() as session:
    tf.train.Saver().restore(session, prefix)
    np.savez(out, logits=session.run(logits), aux=session.run(ends["AuxLogits"]))
"""


@pytest.mark.parametrize("scaled", [False, True])
def test_slim_computes_the_same_from_what_is_written_here(
    tmp_path: Path, random_model: Callable[..., InceptionV3], scaled: bool
) -> None:
    """A gamma is folded into kernel and mean: exact, since slim's network has none."""
    model = random_model(image_size=139, batch_norm_scale=scaled)
    inception_v3.save(model, tmp_path / "model.ckpt", "tf-slim")
    images = torch.rand(2, 3, 139, 139) * 2 - 1
    np.save(tmp_path / "images.npy", images.permute(0, 2, 3, 1).numpy())
    command = [oracle_python(), "-c", SLIM, tmp_path / "model.ckpt", tmp_path / "images.npy", tmp_path / "out.npz"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = np.load(tmp_path / "out.npz")
    with torch.inference_mode():
        logits, end_points = model(images)
    assert relative(logits, theirs["logits"]) < 1e-4
    assert relative(end_points["AuxLogits"], theirs["aux"]) < 1e-4


def test_the_round_trip_is_exact_to_the_bit(tmp_path: Path, random_model: Callable[..., InceptionV3]) -> None:
    model = random_model()
    inception_v3.save(model, tmp_path / "model.ckpt", "tf-slim")
    again = inception_v3.load(tmp_path / "model.ckpt")
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_what_slim_would_compute_otherwise_is_refused_with_the_reason(
    tmp_path: Path, random_model: Callable[..., InceptionV3]
) -> None:
    model = random_model(count_padding=True)
    with pytest.raises(InputError, match="average pools leave the padding out"):
        inception_v3.save(model, tmp_path / "model.ckpt", "tf-slim")
    assert not list(tmp_path.iterdir())
    inception_v3.save(model, tmp_path / "model.ckpt", "tf-slim", allow_difference=True)
    assert inception_v3.load(tmp_path / "model.ckpt").settings["count_padding"] is False
    with pytest.raises(InputError, match="there are native, tf-slim"):
        inception_v3.save(model, tmp_path / "x", "caffe")
