#!/usr/bin/env python3
"""Build the Inception V3 of 2015 in TensorFlow, with random weights, and record what it computes.

Runs in an environment of its own, since TensorFlow 2.12 needs Python 3.11:

    .oracle/bin/python tests/oracle/graph_def_2015.py OUT

OUT receives

  graph.pb     the frozen GraphDef, the weights as Const of float32 in tensor_content, under the names of
               inception-2015-12-05; among them its preprocessing nodes, which are no weights
  variants.pb  the same imported under FID_Inception_Net/, stored in the other ways that TensorFlow reads: beta as
               a list of floats, moving_mean as float64, gamma as one value for all, moving_variance and
               the logits' biases as an Identity of a Const called otherwise
  case.npz     input (NHWC, in [-1, 1]); then for each dtype D in (float32, float64)
               D/mixed, D/mixed_1 ... D/mixed_10, D/pool_3, D/logits, D/softmax

The structure is written out by hand, and TensorFlow itself numbers the scopes: nothing is taken from the
package under test.
"""

import os
import pathlib
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
import numpy as np
import tensorflow.compat.v1 as tf

PREFIX = "FID_Inception_Net"


class Graph:
    """The network of one dtype; the weights are float32 in both, drawn once."""

    def __init__(self, images, dtype, weights):
        self.dtype, self.weights, self.points = dtype, weights, {}
        self.rng = np.random.default_rng(0)
        with tf.name_scope("ExpandDims"):
            tf.constant(0, name="dim")
        tf.constant(np.float32(128), name="Sub/y")
        tf.constant(np.float32(0.0078125), name="Mul/y")
        self.build(tf.constant(images.astype(dtype), name="Mul"))

    def variable(self, name, shape):
        name = tf.get_default_graph().get_name_scope() + f"/{name}"
        if name not in self.weights:
            self.weights[name] = self.draw(name, shape).astype("float32")
        # A name that ends in a slash is taken as it is
        return tf.cast(tf.constant(self.weights[name], name=name + "/"), self.dtype)

    def draw(self, name, shape):
        if name.endswith(("gamma", "moving_variance")):
            return self.rng.uniform(0.5, 1.5, shape)
        if name.endswith(("beta", "moving_mean", "biases")):
            return self.rng.normal(0, 0.1, shape)
        return self.rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape)

    def conv(self, net, width, height_width, stride=1, padding="SAME"):
        with tf.name_scope("conv") as scope:
            params = self.variable("conv2d_params", (*height_width, net.shape[3], width))
            net = tf.nn.conv2d(net, params, stride, padding, name="Conv2D")
            with tf.name_scope("batchnorm"):
                beta, gamma, mean, variance = (
                    self.variable(name, (width,)) for name in ("beta", "gamma", "moving_mean", "moving_variance")
                )
                net = tf.nn.batch_normalization(net, mean, variance, beta, gamma, 0.001)
            return tf.nn.relu(net, name=scope)

    def row(self, net, *convolutions):
        for width, height_width in convolutions:
            net = self.conv(net, width, height_width)
        return net

    def pair(self, net):
        with tf.name_scope("mixed"):
            return tf.concat([self.conv(net, 384, (1, 3)), self.conv(net, 384, (3, 1))], 3, name="join")

    def module(self, net, branches):
        with tf.name_scope("mixed") as scope:
            joined = tf.concat([branch(net) for branch in branches], 3, name="join")
        self.points[scope.rstrip("/")] = joined
        return joined

    def tower(self, *steps):
        def run(net):
            with tf.name_scope("tower"):
                for step in steps:
                    net = step(net)
            return net

        return run

    def build(self, net):
        def c(width, height, length, stride=1, padding="SAME"):
            return lambda net: self.conv(net, width, (height, length), stride, padding)

        def average(net):
            return tf.nn.avg_pool2d(net, 3, 1, "SAME", name="pool")

        def maximum(net):
            return tf.nn.max_pool2d(net, 3, 1, "SAME", name="pool")

        def halve(net):
            return tf.nn.max_pool2d(net, 3, 2, "VALID", name="pool")

        for step in (c(32, 3, 3, 2, "VALID"), c(32, 3, 3, 1, "VALID"), c(64, 3, 3), halve,
                     c(80, 1, 1, 1, "VALID"), c(192, 3, 3, 1, "VALID"), halve):  # fmt: skip
            net = step(net)
        t = self.tower
        for pooled in (32, 64, 64):
            net = self.module(net, (
                c(64, 1, 1),
                t(c(48, 1, 1), c(64, 5, 5)),
                t(c(64, 1, 1), c(96, 3, 3), c(96, 3, 3)),
                t(average, c(pooled, 1, 1)),
            ))  # fmt: skip
        down = c(384, 3, 3, 2, "VALID")
        net = self.module(net, (down, t(c(64, 1, 1), c(96, 3, 3), c(96, 3, 3, 2, "VALID")), halve))
        for n in (128, 160, 160, 192):
            net = self.module(net, (
                c(192, 1, 1),
                t(c(n, 1, 1), c(n, 1, 7), c(192, 7, 1)),
                t(c(n, 1, 1), c(n, 7, 1), c(n, 1, 7), c(n, 7, 1), c(192, 1, 7)),
                t(average, c(192, 1, 1)),
            ))  # fmt: skip
        net = self.module(net, (
            t(c(192, 1, 1), c(320, 3, 3, 2, "VALID")),
            t(c(192, 1, 1), c(192, 1, 7), c(192, 7, 1), c(192, 3, 3, 2, "VALID")),
            halve,
        ))  # fmt: skip
        for pool in (average, maximum):
            net = self.module(net, (
                c(320, 1, 1),
                t(c(384, 1, 1), self.pair),
                t(c(448, 1, 1), c(384, 3, 3), self.pair),
                t(pool, c(192, 1, 1)),
            ))  # fmt: skip
        net = self.points["pool_3"] = tf.nn.avg_pool2d(net, 8, 1, "VALID", name="pool_3")
        with tf.name_scope("softmax") as scope:
            flat = tf.reshape(net, (-1, 2048))
            logits = tf.matmul(flat, self.variable("weights", (2048, 1008))) + self.variable("biases", (1008,))
            self.points |= {"logits": logits, "softmax": tf.nn.softmax(logits, name=scope)}


def variants(graph_def):
    """The same network, imported and stored otherwise; gamma becomes one value, the first, for a whole layer."""
    changed = tf.GraphDef()
    for node in graph_def.node:
        new = changed.node.add()
        new.CopyFrom(node)
        new.name = f"{PREFIX}/{node.name}"
        del new.input[:]
        new.input.extend(f"{PREFIX}/{name}" for name in node.input)
        if node.op != "Const":
            continue
        tensor = new.attr["value"].tensor
        value = tf.make_ndarray(tensor)
        if node.name.endswith("/beta"):
            tensor.ClearField("tensor_content")
            tensor.float_val.extend(value.tolist())
        elif node.name.endswith("/gamma"):
            tensor.ClearField("tensor_content")
            tensor.float_val.append(value[0])
        elif node.name.endswith("/moving_mean"):
            tensor.CopyFrom(tf.make_tensor_proto(value.astype("float64")))
            new.attr["dtype"].type = tf.float64.as_datatype_enum
        elif node.name.endswith(("/moving_variance", "/biases")):
            identity = changed.node.add()
            identity.name, identity.op = new.name, "Identity"
            new.name += "_frozen"
            identity.input.append(new.name)
    return changed


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    tf.disable_eager_execution()
    images = np.random.default_rng(1).uniform(-1, 1, (1, 299, 299, 3)).astype("float32")
    weights, recorded = {}, {"input": images}
    for dtype in ("float32", "float64"):
        tf.reset_default_graph()
        graph = Graph(images, dtype, weights)
        if dtype == "float32":
            graph_def = tf.get_default_graph().as_graph_def()
            (out / "graph.pb").write_bytes(graph_def.SerializeToString())
            (out / "variants.pb").write_bytes(variants(graph_def).SerializeToString())
        with tf.Session() as session:
            recorded |= {f"{dtype}/{name}": value for name, value in session.run(graph.points).items()}
    np.savez(out / "partial.npz", **recorded)
    (out / "partial.npz").rename(out / "case.npz")  # there only when all is


if __name__ == "__main__":
    main()
