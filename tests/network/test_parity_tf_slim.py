"""The network computes the same values as TF-Slim's own network, which tests/oracle/record_tf_slim.py runs.

Every variable is random, including statistics and offsets. TF-Slim runs in float32 and in float64. The float64 runs
show that the mathematics is the same, with a bound of 1e-9. In float32 and inference mode the bound is 1e-4. With batch
statistics, float32 itself is the limit: the random networks of these cases amplify the rounding errors of the first
layers, so that TensorFlow's float32 differs from its float64 by more than 1e-4 in some end points and gradients. There
the bound is 1e-4, or twice the difference between TensorFlow's two precisions if that is larger.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import inception_v3
from conftest import relative, tf_slim_cases
from inception_v3.training.losses import classification_loss
from inception_v3.training.recipe import Recipe
from inception_v3.training.train import add_l2
from inception_v3.weights.model import InceptionV3

CASES: dict[str, dict[str, object]] = {
    "square": {"height": 299, "width": 299, "batch": 1, "seed": 3},
    "odd": {"height": 107, "width": 139, "batch": 3, "seed": 1},
    "tall": {"height": 299, "width": 203, "depth_multiplier": 0.2, "num_classes": 5, "seed": 4},
    "full-width": {"height": 123, "width": 107, "depth_multiplier": 1.0, "num_classes": 1001, "seed": 5},
    "no-aux-75": {
        "height": 75,
        "width": 98,
        "batch": 6,
        "create_aux_logits": False,
        "depth_multiplier": 0.3,
        "seed": 6,
    },
    "wide-min-depth": {"height": 150, "width": 185, "depth_multiplier": 0.05, "min_depth": 24, "seed": 7},
    "map": {"height": 363, "width": 395, "spatial_squeeze": False, "depth_multiplier": 0.15, "batch": 1, "seed": 8},
}

SLOW = ("tall",)  # 20 s of TensorFlow each


class Case:
    """A recorded case and the network loaded from its checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.options = json.loads((folder / "case.json").read_text())
        self.recorded = np.load(folder / "case.npz")  # reads an array when it is asked for

    def load(self, dtype: str, file: str = "model.ckpt") -> InceptionV3:
        model = inception_v3.load(
            self.folder / file,
            spatial_squeeze=self.options["spatial_squeeze"],
            dropout_keep_prob=1.0,
        )
        return model.to(getattr(torch, dtype))

    def images(self, dtype: str) -> Tensor:
        return torch.from_numpy(self.recorded["input"]).permute(0, 3, 1, 2).to(getattr(torch, dtype))

    def tf(self, dtype: str, kind: str) -> dict[str, np.ndarray]:
        prefix = f"{dtype}/{kind}"
        return {name.removeprefix(prefix): self.recorded[name] for name in self.recorded if name.startswith(prefix)}

    def noise(self, name: str) -> float:
        """The difference between TensorFlow's float32 and its float64."""
        return relative(self.recorded[f"float32/{name}"], self.recorded[f"float64/{name}"])


@pytest.fixture(scope="module", autouse=True)
def _two_threads() -> Iterator[None]:
    """Sum a batch in two parts: PyTorch's threads sum sequentially and TensorFlow pairwise, so that with one thread the
    rounding error would be twice as large.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CASES])
def case(request: pytest.FixtureRequest) -> Case:
    """The quick cases are recorded together, because TensorFlow takes seconds to start."""
    name = request.param
    together = {name: CASES[name]} if name in SLOW else {each: CASES[each] for each in CASES if each not in SLOW}
    return Case(tf_slim_cases(together)[name])


def nhwc(tensor: Tensor) -> Tensor:
    return tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor


def state_name(variable: str) -> str:
    return variable.removeprefix("InceptionV3/").replace("/", ".")


def as_tf(name: str, tensor: Tensor) -> Tensor:
    return tensor.permute(2, 3, 1, 0) if name.endswith("weights") else tensor


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-9), ("float32", 1e-4)])
def test_every_end_point_in_inference_mode(case: Case, dtype: str, bound: float) -> None:
    with torch.inference_mode():
        _, ours = case.load(dtype)(case.images(dtype))
    theirs = case.tf(dtype, "eval/")
    assert set(ours) - set(theirs) == {"AvgPool_1a"}, "the only end point that TF-Slim 1.1 does not have"
    assert set(theirs) <= set(ours)
    for name, value in theirs.items():
        assert relative(nhwc(ours[name]), value) <= bound, name


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-9), ("float32", 1e-4)])
def test_every_end_point_with_batch_statistics_and_the_loss_and_its_gradients(
    case: Case, dtype: str, bound: float
) -> None:
    model = case.load(dtype).train()
    logits, ours = model(case.images(dtype))
    values = {f"train/{name}": nhwc(tensor) for name, tensor in ours.items() if name != "AvgPool_1a"}
    if case.options["spatial_squeeze"]:
        labels = torch.from_numpy(case.recorded["labels"])
        loss = classification_loss(logits, labels, ours.get("AuxLogits"))
        loss.backward()
        values["loss"] = loss
        for variable in case.tf(dtype, "grad/"):
            gradient = model.get_parameter(state_name(variable)).grad
            assert gradient is not None
            values[f"grad/{variable}"] = as_tf(variable, gradient)
        assert len(case.tf(dtype, "grad/")) == 7
    for name, tensor in values.items():
        limit = bound if dtype == "float64" else max(bound, 2 * case.noise(name))
        assert relative(tensor, case.recorded[f"{dtype}/{name}"]) <= limit, name


def test_float32_rounding_is_no_larger_than_in_tensorflow(case: Case) -> None:
    """In the median over all end points, which the bounds of the test above do not cover."""
    with torch.no_grad():
        _, ours = case.load("float32").train()(case.images("float32"))
    names = [name for name in ours if name != "AvgPool_1a"]
    truth = {name: case.recorded[f"float64/train/{name}"] for name in names}
    our_noise = np.median([relative(nhwc(ours[name]), truth[name]) for name in names])
    tf_noise = np.median([case.noise(f"train/{name}") for name in names])
    assert our_noise <= 2 * tf_noise


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_l2_term(case: Case, dtype: str) -> None:
    """Training adds only the gradient of the term, so the term is half the sum of gradient times kernel."""
    model = case.load(dtype)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    add_l2(model, Recipe(optimizer="adamw", weight_decay=0.00004))
    assert not any(weight.grad.any() for weight in model.parameters() if weight.grad is not None)
    add_l2(model, Recipe(weight_decay=0.00004))
    with torch.no_grad():
        terms = {name: (weight.grad * weight).sum() for name, weight in model.named_parameters() if weight.grad.any()}
    assert all(name.endswith("weights") for name in terms)
    ours = torch.stack(list(terms.values())).sum() / 2
    assert relative(ours, case.recorded[f"{dtype}/l2"]) <= (1e-12 if dtype == "float64" else 1e-6)


def test_the_moving_statistics_after_one_batch(case: Case) -> None:
    """Compared in float32, because only TensorFlow's fused BatchNorm uses the variance with n - 1; float64 uses n."""
    model = case.load("float32").train()
    with torch.no_grad():
        model(case.images("float32"))
    statistics = model.state_dict()
    moved = case.tf("float32", "moved/")
    assert len(moved) == 4
    for name, value in moved.items():
        assert relative(statistics[state_name(name)], value) <= 1e-6, name


def test_both_checkpoint_formats_hold_the_same_network(case: Case) -> None:
    v1, v2 = case.load("float32", "model-v1.ckpt"), case.load("float32")
    assert v1.settings == v2.settings
    for name, tensor in v1.state_dict().items():
        assert torch.equal(tensor, v2.state_dict()[name]), name


def test_the_options_are_recovered_from_the_checkpoint(case: Case) -> None:
    settings = case.load("float32").settings
    for option in ("num_classes", "create_aux_logits"):
        assert settings[option] == case.options[option]
    asked = {key: case.options[key] for key in ("num_classes", "depth_multiplier", "min_depth", "create_aux_logits")}
    with torch.device("meta"):  # only shapes are compared
        expected = InceptionV3(**asked, image_size=(case.options["height"], case.options["width"]))
        rebuilt = InceptionV3(**settings)
    assert {n: t.shape for n, t in rebuilt.state_dict().items()} == {
        n: t.shape for n, t in expected.state_dict().items()
    }


def test_pre_logits_is_the_mean_of_the_last_map(case: Case) -> None:
    """TF-Slim 1.1 has no AvgPool_1a. On maps that the pool covers, AvgPool_1a and PreLogits are the mean."""
    with torch.inference_mode():
        _, ours = case.load("float64")(case.images("float64"))
    if case.options["spatial_squeeze"]:
        mean = ours["Mixed_7c"].mean((2, 3), keepdim=True)
        assert relative(ours["AvgPool_1a"], mean) <= 1e-12
    assert torch.equal(ours["AvgPool_1a"], ours["PreLogits"])
