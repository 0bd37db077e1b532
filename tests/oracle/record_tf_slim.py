#!/usr/bin/env python3
"""Record what TF-Slim's own Inception V3 computes, in float32 and in float64.

Runs in an environment of its own (`make setup`), because TF-Slim needs TensorFlow 2.12 on Python 3.11:

    .oracle/bin/python tests/oracle/record_tf_slim.py OUT '{"name": "odd", "height": 107, "width": 139}'

Each JSON argument is one case; the options and their defaults are in DEFAULTS. OUT/NAME receives

  model.ckpt.{index,data-*}  the variables, checkpoint format V2; model-v1.ckpt the same in format V1
  case.npz                   input (NHWC, in [-1, 1]) and labels; then for each dtype D in (float32, float64)
                             D/eval/NAME, every end point in inference mode
                             D/train/NAME, with batch statistics and dropout off
                             D/loss, softmax CE + 0.4 * auxiliary CE;  D/grad/VARIABLE, its gradients
                             D/l2, slim's regularisation loss at weight_decay 0.00004
                             float32/moved/VARIABLE, moving statistics after one update from the batch
  case.json                  the options

Every statistic and offset is random, and no two variables share values. float64 runs slim's network with
its unfused BatchNorm, since TensorFlow's fused one knows float32 alone.
"""

import json
import os
import pathlib
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
import numpy as np
import tensorflow.compat.v1 as tf
from tf_slim.nets import inception_v3 as slim
from tf_slim.ops.arg_scope import arg_scope

DEFAULTS = {
    "height": 299,
    "width": 299,
    "depth_multiplier": 0.25,
    "min_depth": 16,
    "batch": 2,
    "num_classes": 11,
    "create_aux_logits": True,
    "spatial_squeeze": True,
    "seed": 0,
}
GRADIENTS = (
    "InceptionV3/Conv2d_1a_3x3/weights",
    "InceptionV3/Mixed_5c/Branch_1/Conv_1_0c_5x5/weights",
    "InceptionV3/Mixed_6a/Branch_1/Conv2d_1a_1x1/weights",
    "InceptionV3/Mixed_6b/Branch_2/Conv2d_0c_1x7/BatchNorm/beta",
    "InceptionV3/Mixed_7b/Branch_1/Conv2d_0b_3x1/weights",
    "InceptionV3/Mixed_7c/Branch_3/Conv2d_0b_1x1/weights",
    "InceptionV3/Logits/Conv2d_1c_1x1/biases",
)
MOVED = ("InceptionV3/Conv2d_1a_3x3/BatchNorm", "InceptionV3/Mixed_7c/Branch_0/Conv2d_0a_1x1/BatchNorm")
STATISTICS = ("moving_mean", "moving_variance")


def random_variable(rng, name, shape):
    if name.endswith("moving_variance"):
        return rng.uniform(0.5, 1.5, shape).astype("float32")
    if name.endswith(("moving_mean", "beta", "biases")):
        return rng.normal(0, 0.1, shape).astype("float32")
    return rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape).astype("float32")


def record(out, **options):
    options = DEFAULTS | options
    rng = np.random.default_rng(options["seed"])
    images = rng.uniform(-1, 1, (options["batch"], options["height"], options["width"], 3)).astype("float32")
    labels = rng.integers(0, options["num_classes"], options["batch"])
    recorded = {"input": images, "labels": labels}
    values = None
    for dtype in ("float32", "float64"):
        tf.reset_default_graph()
        inputs = tf.constant(images.astype(dtype))
        keys = ("num_classes", "depth_multiplier", "min_depth", "create_aux_logits", "spatial_squeeze")
        common = {key: options[key] for key in keys}
        with arg_scope(slim.inception_v3_arg_scope(use_fused_batchnorm=dtype == "float32")):
            _, evaluated = slim.inception_v3(inputs, is_training=False, **common)
            _, trained = slim.inception_v3(inputs, is_training=True, dropout_keep_prob=1.0, reuse=True, **common)
        variables = {v.op.name: v for v in tf.global_variables()}
        if values is None:
            values = {n: random_variable(rng, n, v.shape.as_list()) for n, v in variables.items()}
        fetch = {f"eval/{k}": v for k, v in evaluated.items()} | {f"train/{k}": v for k, v in trained.items()}
        fetch["l2"] = tf.add_n(list(set(tf.get_collection(tf.GraphKeys.REGULARIZATION_LOSSES))))
        if options["spatial_squeeze"]:
            heads = [(1.0, "Logits")] + ([(0.4, "AuxLogits")] if options["create_aux_logits"] else [])
            fetch["loss"] = tf.add_n(
                [
                    factor * tf.reduce_mean(
                        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=trained[head])
                    )
                    for factor, head in heads
                ]
            )  # fmt: skip
            gradients = tf.gradients(fetch["loss"], [variables[n] for n in GRADIENTS])
            fetch |= {f"grad/{n}": g for n, g in zip(GRADIENTS, gradients, strict=True)}
        with tf.Session() as session:
            feeds = {variable.initializer.inputs[1]: values[name] for name, variable in variables.items()}
            session.run([v.initializer for v in variables.values()], feeds)
            recorded |= {f"{dtype}/{k}": v for k, v in session.run(fetch).items()}
            if dtype == "float32":
                tf.train.Saver().save(session, str(out / "model.ckpt"), write_meta_graph=False)
                tf.train.Saver(write_version=tf.train.SaverDef.V1).save(
                    session, str(out / "model-v1.ckpt"), write_meta_graph=False
                )
                (out / "checkpoint").unlink()
            if dtype == "float32":  # slim's unfused BatchNorm moves the variance with n, not n - 1
                session.run(tf.get_collection(tf.GraphKeys.UPDATE_OPS))
                moved = {f"moved/{name}/{s}": variables[f"{name}/{s}"] for name in MOVED for s in STATISTICS}
                recorded |= {f"{dtype}/{k}": v for k, v in session.run(moved).items()}
    np.savez(out / "case.npz", **recorded)
    (out / "case.json").write_text(json.dumps(options, indent=1))


def main():
    folder = pathlib.Path(sys.argv[1])
    tf.disable_eager_execution()
    for argument in sys.argv[2:]:
        options = json.loads(argument)
        out = folder / options.pop("name")
        out.mkdir(parents=True, exist_ok=True)
        record(out, **options)
        print(out, flush=True)


if __name__ == "__main__":
    main()
