"""Run TF-Slim's Inception V3, on TensorFlow."""

from importlib import import_module
from typing import Any

import numpy as np


def run(path: str, images: np.ndarray, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """Run the network on images (N, 3, H, W) and return every end point, also in NCHW."""
    tf, slim = import_module("tensorflow.compat.v1"), import_module("tf_slim.nets.inception_v3")
    arg_scope = import_module("tf_slim.ops.arg_scope").arg_scope
    tf.disable_eager_execution()
    with arg_scope(slim.inception_v3_arg_scope()):
        _, end_points = slim.inception_v3(
            tf.constant(images.transpose(0, 2, 3, 1)),
            is_training=False,
            spatial_squeeze=False,
            num_classes=settings["num_classes"],
            depth_multiplier=settings["depth_multiplier"],
            min_depth=settings["min_depth"],
            create_aux_logits=settings["create_aux_logits"],
        )
    with tf.Session() as session:
        tf.train.Saver().restore(session, path)
        outputs = session.run(end_points)
    return {name: value.transpose(0, 3, 1, 2) for name, value in outputs.items()}
