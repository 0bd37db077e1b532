#!/usr/bin/env python3
"""Write the files that people make of TF-Slim's Inception V3, and record what TensorFlow computes from each.

Runs in an environment of its own (`make setup`), because TF-Slim needs TensorFlow 2.12 on Python 3.11:

    .oracle/bin/python tests/oracle/record_tf1_files.py OUT

OUT receives checkpoints, training folders, hub modules and frozen graphs, of narrow networks with random weights,
statistics and offsets, and cases.npz, which has for each file NAME

  NAME/images   what the graph reads (NHWC)
  NAME/outputs  its logits, or the last map of a network without logits

and for a file with moving averages NAME/raw, the outputs without them.
"""

import os
import pathlib
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.python.framework import graph_util
from tensorflow.python.tools import optimize_for_inference_lib
from tf_slim.layers import layers
from tf_slim.nets import inception_v1, inception_v3, resnet_v1
from tf_slim.ops.arg_scope import arg_scope

SIZE = 139
WIDTHS = {"depth_multiplier": 0.1, "min_depth": 16}


def draw(rng, name, shape):
    if name.endswith("moving_variance"):
        return rng.uniform(0.5, 1.5, shape).astype("float32")
    if len(shape) != 4:
        return rng.normal(0, 0.1, shape).astype("float32")
    return rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape).astype("float32")


def randomise(session, seed=0):
    """Draw the network's variables; all others, such as slots, get values too large to go unnoticed."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for variable in tf.global_variables():
        shape = variable.shape.as_list()
        part = variable.op.name.rpartition("/")[2]
        known = part in ("weights", "beta", "gamma", "moving_mean", "moving_variance", "biases")
        known = known or part == "ExponentialMovingAverage"
        name = variable.op.name.removesuffix("/ExponentialMovingAverage")
        value = draw(rng, name, shape) if known else np.full(shape, 1e3, variable.dtype.base_dtype.as_numpy_dtype)
        feeds[variable.initializer.inputs[1]] = value
    session.run([variable.initializer for variable in tf.global_variables()], feeds)


def network(images, num_classes=7, scope="InceptionV3", training=False, epsilon=0.001, fused=True, **options):
    """The logits and end points of slim's network; without classes, the last map."""
    arguments = inception_v3.inception_v3_arg_scope(batch_norm_epsilon=epsilon, use_fused_batchnorm=fused)
    with arg_scope(arguments), arg_scope([layers.batch_norm], is_training=training):
        if not num_classes:
            return inception_v3.inception_v3_base(images, scope=scope, **WIDTHS, **options)
        return inception_v3.inception_v3(
            images, num_classes, is_training=training, scope=scope, **(WIDTHS | {"create_aux_logits": False} | options)
        )


class Recorder:
    def __init__(self, out):
        self.out, self.cases = out, {}
        self.images = np.random.default_rng(1).uniform(-1, 1, (2, SIZE, SIZE, 3)).astype("float32")

    def record(self, session, name, outputs, inputs, images=None, kind="outputs"):
        images = self.images if images is None else images
        self.cases[f"{name}/images"] = images
        self.cases[f"{name}/{kind}"] = session.run(outputs, {inputs: images})

    def checkpoint(self, name, build, version=2, **saver):
        """A checkpoint of the network that `build` makes from a placeholder."""
        with tf.Graph().as_default(), tf.Session() as session:
            inputs = tf.placeholder(tf.float32, (None, SIZE, SIZE, 3), "input")
            outputs = build(inputs)
            randomise(session)
            self.record(session, name, outputs, inputs)
            (self.out / name).mkdir(exist_ok=True)
            tf.train.Saver(write_version=version, **saver).save(session, str(self.out / name / "model.ckpt"))

    def trained(self, name, optimizer, scope, **options):
        """A checkpoint of training with an optimizer's slots and moving averages, of all variables that slim averages.

        The auxiliary head has another number of classes.
        """
        with tf.Graph().as_default(), tf.Session() as session:
            inputs = tf.placeholder(tf.float32, (None, SIZE, SIZE, 3), "input")
            step = tf.train.get_or_create_global_step()
            with tf.variable_scope(scope) if scope else tf.variable_scope(tf.get_variable_scope()):
                logits, _ = network(inputs, create_aux_logits=True, **options)
            loss = tf.reduce_mean(logits**2)
            average = tf.train.ExponentialMovingAverage(0.99, step)
            averaged = tf.trainable_variables() + tf.moving_average_variables()
            averaged += [v for v in tf.global_variables() if "moving_" in v.op.name]
            with tf.control_dependencies([optimizer.minimize(loss, step)]):
                average.apply(list(dict.fromkeys(averaged)))
            randomise(session)
            self.record(session, name, logits, inputs, kind="raw")
            (self.out / name).mkdir(exist_ok=True)
            saver = tf.train.Saver()
            saver.save(session, str(self.out / name / "model.ckpt"), global_step=500)
            session.run([variable.assign(average.average(variable)) for variable in averaged])
            self.record(session, name, logits, inputs)

    def hub_module(self, name, num_classes, scope="", prefix="InceptionV3"):
        """A SavedModel as TensorFlow Hub's TF1 modules have it: a graph for inference and one for training.

        The module takes images in [0, 1].
        """
        folder = self.out / name
        builder = tf.saved_model.Builder(str(folder))
        for tags in ([], ["train"]):
            with tf.Graph().as_default(), tf.Session() as session:
                with tf.variable_scope(scope) if scope else tf.variable_scope(tf.get_variable_scope()):
                    inputs = tf.placeholder(tf.float32, (None, SIZE, SIZE, 3), "hub_input/images")
                    with tf.name_scope("hub_input/"):
                        scaled = tf.subtract(tf.multiply(inputs, 2.0, name="Mul"), 1.0, name="Sub")
                    outputs, _ = network(scaled, num_classes, prefix, bool(tags))
                    if num_classes:
                        tf.nn.softmax(outputs)
                    else:
                        feature_vector = tf.reduce_mean(outputs, (1, 2), name="feature_vector")
                randomise(session)
                signature = tf.saved_model.predict_signature_def(
                    {"images": inputs}, {"default": outputs if num_classes else feature_vector}
                )
                signatures = {"default": signature}
                if tags:
                    builder.add_meta_graph(tags, signatures)
                else:
                    builder.add_meta_graph_and_variables(session, tags, signatures)
                    self.record(session, name, outputs, inputs, (self.images + 1) / 2)
        builder.save()
        (folder / "tfhub_module.pb").write_bytes(b"\x08\x03")

    def frozen(self, name, build, num_classes=7, images=None, optimise=False, size=SIZE, **options):
        """A frozen graph with its softmax. `build` makes the placeholder, and what the network reads from it."""
        with tf.Graph().as_default(), tf.Session() as session:
            inputs, scaled = build()
            outputs, _ = network(scaled, num_classes, **options)
            last = tf.nn.softmax(outputs, name="probabilities") if num_classes else outputs
            randomise(session)
            self.record(session, name, outputs, inputs, images)
            graph = graph_util.convert_variables_to_constants(
                session, tf.get_default_graph().as_graph_def(), [last.op.name]
            )
        if optimise:
            graph = optimize_for_inference_lib.optimize_for_inference(
                graph, [inputs.op.name], [last.op.name], inputs.dtype.as_datatype_enum
            )
            with tf.Graph().as_default(), tf.Session() as session:
                tf.import_graph_def(graph, name="")
                self.record(session, name, outputs.name, inputs.name, images)
        (self.out / f"{name}.pb").write_bytes(graph.SerializeToString())


def placeholder(dtype=tf.float32, shape=(None, SIZE, SIZE, 3)):
    return tf.placeholder(dtype, shape, "input")


def plain():
    inputs = placeholder()
    return inputs, inputs


def bytes_scaled():
    """Bytes to [-1, 1], as slim's preprocessing does it."""
    inputs = placeholder(tf.uint8)
    return inputs, (tf.image.convert_image_dtype(inputs, tf.float32) - 0.5) * 2.0


def resized():
    """Pixels 0 to 255 of any size, resized and scaled as label_image.py does it."""
    inputs = placeholder(shape=(None, None, None, 3))
    return inputs, (tf.image.resize_bilinear(inputs, (SIZE, SIZE)) - 128.0) / 128.0


def flipped_channels():
    inputs = placeholder()
    return inputs, tf.reverse(inputs, [-1])


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    tf.disable_eager_execution()
    recorder = Recorder(out)
    pixels = np.random.default_rng(2).integers(0, 256, (2, SIZE, SIZE, 3))
    large = np.random.default_rng(3).integers(0, 256, (1, 150, 200, 3)).astype("float32")

    def scoped(scope, **options):
        def build(images):
            with tf.variable_scope(scope):
                return network(images, **options)[0]

        return build

    recorder.checkpoint("module", scoped("module"))
    recorder.checkpoint("tower", scoped("tower_0", create_aux_logits=True))
    recorder.checkpoint("replaced", lambda images: network(images, scope="my/net")[0])
    recorder.checkpoint("numbered", lambda images: network(images, scope="InceptionV3_1")[0], tf.train.SaverDef.V1)
    recorder.checkpoint("features", lambda images: network(images, 0)[0])
    recorder.checkpoint("dense", lambda images: tf.layers.dense(
        tf.reduce_mean(network(images, 0)[0], (1, 2)), 5, name="head"))  # fmt: skip
    recorder.checkpoint("cut", lambda images: network(images, 0, final_endpoint="Mixed_6c")[0])

    def twice(images):
        return network(images)[0] + network(images, scope="second")[0]

    recorder.checkpoint("twice", twice)
    recorder.checkpoint("sharded", scoped("model"), sharded=True)
    recorder.trained("rmsprop", tf.train.RMSPropOptimizer(0.1, momentum=0.9), "")
    recorder.trained("adam", tf.train.AdamOptimizer(), "my_model")
    recorder.trained("momentum", tf.train.MomentumOptimizer(0.1, 0.9), "a/b")
    recorder.hub_module("hub-features", 0)
    recorder.hub_module("hub-classes", 7, scope="module")
    recorder.frozen("frozen", plain)
    recorder.frozen("frozen-bytes", bytes_scaled, images=pixels.astype("uint8"))
    recorder.frozen("frozen-resized", resized, images=large)
    recorder.frozen("frozen-epsilon", plain, epsilon=0.01, scope="a/b/c")
    recorder.frozen("frozen-unfused", plain, fused=False, epsilon=0.002)
    recorder.frozen("frozen-features", plain, num_classes=0)
    recorder.frozen("frozen-optimised", plain, optimise=True)
    recorder.frozen("frozen-unfused-optimised", plain, fused=False, optimise=True)
    recorder.frozen("frozen-flipped", flipped_channels)
    recorder.checkpoint("inception-v1", lambda images: inception_v1.inception_v1(
        tf.image.resize_bilinear(images, (224, 224)), 7)[0])  # fmt: skip
    recorder.checkpoint("resnet", lambda images: resnet_v1.resnet_v1_50(images, 7)[0])
    np.savez(out / "cases.npz", **recorder.cases)


if __name__ == "__main__":
    main()
