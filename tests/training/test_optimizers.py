"""Optimizers: RMSProp and the running average compared with TensorFlow, and the optimizer of each recipe."""

import json
import subprocess

import numpy as np
import pytest
import torch

from conftest import oracle_python, relative
from inception_v3.training.optimizers import RMSProp, build_optimizer, moving_average, set_learning_rate
from inception_v3.training.recipe import Recipe
from inception_v3.training.schedules import warmed_up_decay
from inception_v3.weights.model import InceptionV3

TENSORFLOW = """
import json, sys
import numpy as np, tensorflow.compat.v1 as tf
tf.disable_eager_execution()
out = []
for case in json.load(sys.stdin):
    tf.reset_default_graph()
    w = tf.Variable(np.array(case["start"]), dtype=tf.float64)
    g, lr, step = tf.placeholder(tf.float64, [3]), tf.placeholder(tf.float64, []), tf.placeholder(tf.int64, [])
    optimizer = tf.train.RMSPropOptimizer(lr, case["decay"], case["momentum"], case["epsilon"])
    average = tf.train.ExponentialMovingAverage(case["ema_decay"], num_updates=step)
    with tf.control_dependencies([optimizer.apply_gradients([(g, w)])]):
        train_op = average.apply([w])
    values = [w, optimizer.get_slot(w, "rms"), optimizer.get_slot(w, "momentum"), average.average(w)]
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for number, (gradient, rate) in enumerate(zip(case["gradients"], case["rates"])):
            session.run(train_op, {g: gradient, lr: rate, step: number + 1})
            out.append([value.tolist() for value in session.run(values)])
print(json.dumps(out))
"""


def test_every_step_is_that_of_tensorflow() -> None:
    """Weights, slots and averages, with changing learning rates and gradients from tiny to huge.

    PyTorch's RMSprop differs from the first step on.
    """
    rng = np.random.default_rng(0)
    steps = 100
    cases = [
        {"decay": decay, "momentum": momentum, "epsilon": epsilon, "ema_decay": 0.9, "start": [1.0, -2.0, 3.0],
         "gradients": (rng.normal(size=(steps, 3)) * [1e-3, 1, 1e3]).tolist(),
         "rates": (0.045 * 0.94 ** (np.arange(steps) // 4)).tolist()}
        for decay, momentum, epsilon in [(0.9, 0.9, 1.0), (0.9, 0.0, 1e-10), (0.5, 0.99, 0.001)]
    ]  # fmt: skip
    done = subprocess.run([oracle_python(), "-c", TENSORFLOW], input=json.dumps(cases), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs = iter(json.loads(done.stdout))
    for case in cases:
        model = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor(case["start"], dtype=torch.float64))])
        averaged = moving_average(model, 0.9)
        # TensorFlow converts these to float32 first
        decay, momentum, epsilon = (float(np.float32(case[key])) for key in ("decay", "momentum", "epsilon"))
        optimizer = RMSProp(model.parameters(), 0.045, decay, momentum, epsilon)
        for number in range(steps):
            optimizer.param_groups[0]["lr"] = case["rates"][number]
            model[0].grad = torch.tensor(case["gradients"][number], dtype=torch.float64)
            optimizer.step()
            averaged.update_parameters(model)
            slots = optimizer.state[model[0]]
            weights, rms, momentum_slot, average = map(np.array, next(theirs))
            assert relative(model[0], weights) < 1e-11, number
            assert relative(slots["ms"], rms) < 1e-11, number
            assert relative(slots["mom"], momentum_slot) < 1e-11, number
            assert relative(averaged.module[0], average) < 1e-6, number  # its decay is float32 throughout


def test_the_state_can_be_saved_and_restored() -> None:
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


def test_statistics_are_averaged_like_weights_and_integers_are_copied() -> None:
    """As inception_train.py: ExponentialMovingAverage over trainable_variables + moving_average_variables."""
    model = torch.nn.BatchNorm1d(3)  # has an integer buffer, unlike our BatchNorm
    averaged = moving_average(model, 0.9)
    expected = torch.zeros(3)
    for step in range(1, 30):
        model(torch.randn(8, 3) + step)
        averaged.update_parameters(model)
        decay = warmed_up_decay(0.9, step)
        expected = decay * expected + (1 - decay) * model.running_mean
        torch.testing.assert_close(averaged.module.running_mean, expected)
        assert averaged.module.num_batches_tracked == step


# ------------------------------------------------------------------------------------------------ build_optimizer


@pytest.fixture
def model(random_model) -> InceptionV3:  # type: ignore[no-untyped-def]
    return random_model()


@pytest.mark.parametrize(
    ("recipe", "optimizer_class", "expected"),
    [
        (Recipe(), RMSProp, {"decay": 0.9, "momentum": 0.9, "epsilon": 1.0}),
        (Recipe(optimizer="sgd", momentum=0.8), torch.optim.SGD, {"momentum": 0.8, "weight_decay": 0}),
        (Recipe(optimizer="adamw", adamw_beta2=0.99), torch.optim.AdamW, {"betas": (0.9, 0.99), "eps": 1e-8}),
    ],
)
def test_the_recipe_chooses_the_optimizer(
    model: InceptionV3, recipe: Recipe, optimizer_class: type, expected: dict[str, object]
) -> None:
    optimizer = build_optimizer(recipe, model)
    assert type(optimizer) is optimizer_class
    assert {key: optimizer.param_groups[0][key] for key in expected} == expected
    parameters = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert parameters == {id(weight) for weight in model.parameters()}


def test_adamw_decays_only_kernels(model: InceptionV3) -> None:
    optimizer = build_optimizer(Recipe(optimizer="adamw", weight_decay=0.05), model)
    decays = {id(weight): group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    for name, weight in model.named_parameters():
        assert decays[id(weight)] == (0.05 if name.endswith("weights") else 0), name


def test_parts_of_the_model_can_have_their_own_learning_rates_or_be_frozen(model: InceptionV3) -> None:
    factors = {"": 0.0, "Mixed_7": 0.1, "Mixed_7c": 0.5, "Logits": 1.0}
    optimizer = build_optimizer(Recipe(), model, factors)
    set_learning_rate(optimizer, 2.0)
    rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    for name, weight in model.named_parameters():
        part = name.split(".")[0]
        expected = {"Mixed_7a": 0.2, "Mixed_7b": 0.2, "Mixed_7c": 1.0, "Logits": 2.0}.get(part)
        assert rates.get(id(weight)) == (pytest.approx(expected) if expected else None), name
        assert weight.requires_grad == (expected is not None), name
    with pytest.raises(ValueError, match="'Mixed_9'"):
        build_optimizer(Recipe(), model, {"Mixed_9": 1.0})
