"""TensorFlow's RMSProp and its running average, step by step against TensorFlow itself."""

import json
import subprocess

import numpy as np
import torch

from conftest import oracle_python, relative
from inception_v3.optimizers import RMSProp, moving_average

TENSORFLOW = """
import json, sys
import numpy as np, tensorflow.compat.v1 as tf
tf.disable_eager_execution()
asked = json.load(sys.stdin)
w = tf.Variable(np.array(asked["start"]), dtype=tf.float64)
g, lr, step = tf.placeholder(tf.float64, [3]), tf.placeholder(tf.float64, []), tf.placeholder(tf.int64, [])
optimizer = tf.train.RMSPropOptimizer(lr, asked["decay"], asked["momentum"], asked["epsilon"])
average = tf.train.ExponentialMovingAverage(asked["ema_decay"], num_updates=step)
with tf.control_dependencies([optimizer.apply_gradients([(g, w)])]):
    moved = average.apply([w])
out = []
with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    for number, (gradient, rate) in enumerate(zip(asked["gradients"], asked["rates"])):
        session.run(moved, {g: gradient, lr: rate, step: number + 1})
        out.append([session.run(w).tolist(), session.run(average.average(w)).tolist()])
print(json.dumps(out))
"""


def test_every_step_is_tensorflows() -> None:
    """Rates that change on the way, and gradients from tiny to huge: where PyTorch's RMSprop goes another way."""
    rng = np.random.default_rng(0)
    gradients = (rng.normal(size=(40, 3)) * [1e-3, 1, 1e3]).tolist()
    asked = {"start": [1.0, -2.0, 3.0], "decay": 0.9, "momentum": 0.9, "epsilon": 1.0, "ema_decay": 0.9,
             "gradients": gradients, "rates": (0.045 * 0.94 ** (np.arange(40) // 4)).tolist()}  # fmt: skip
    done = subprocess.run([oracle_python(), "-c", TENSORFLOW], input=json.dumps(asked), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor(asked["start"], dtype=torch.float64))])
    averaged = moving_average(model, 0.9)
    rounded = float(np.float32(0.9))  # TensorFlow turns decay and momentum into float32 first
    optimizer = RMSProp(model.parameters(), 0.045, decay=rounded, momentum=rounded, epsilon=1.0)
    for number, (weights, average) in enumerate(json.loads(done.stdout)):
        optimizer.param_groups[0]["lr"] = asked["rates"][number]
        model[0].grad = torch.tensor(gradients[number], dtype=torch.float64)
        optimizer.step()
        averaged.update_parameters(model)
        assert relative(model[0], np.array(weights)) < 1e-12, number
        assert relative(averaged.module[0], np.array(average)) < 1e-6, number  # its decay is float32 throughout


def test_the_state_can_be_saved_and_gone_on_with() -> None:
    def run(stop_after: int | None) -> torch.Tensor:
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.ones(5))
        optimizer = RMSProp([weight])
        for step in range(6):
            if step == stop_after:
                state, weight = optimizer.state_dict(), torch.nn.Parameter(weight.detach().clone())
                optimizer = RMSProp([weight])
                optimizer.load_state_dict(state)
            weight.grad = torch.randn(5)
            optimizer.step()
        return weight.detach()

    assert torch.equal(run(None), run(3))
