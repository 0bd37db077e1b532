"""Hidden layers between PreLogits and Logits, and the output activation, from the table to the engines."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import inception_v3
from inception_v3.errors import InputError
from inception_v3.finetuning.finetune import with_new_head
from inception_v3.inference.choose import open_model
from inception_v3.inference.engines.base import LOGITS
from inception_v3.inference.engines.graph import build_graph
from inception_v3.inference.engines.graph_module import GraphModule
from inception_v3.inference.export import export
from inception_v3.network.architecture import ACTIVATIONS
from inception_v3.network.describe import describe_network
from inception_v3.network.probabilities import class_logits, probabilities
from inception_v3.weights.model import InceptionV3

Build = Callable[..., InceptionV3]


def head_of(model: InceptionV3) -> nn.Sequential:
    """The head after PreLogits as people write it in PyTorch, with the weights of the model."""
    assert model.Logits is not None
    _, *hidden, logits = model.Logits
    steps: list[nn.Module] = []
    activations = {"linear": nn.Identity, "relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}
    for layer, table in zip(hidden, model.settings.hidden_layers, strict=True):
        linear = nn.Linear(layer.weights.shape[1], table.width)
        linear.load_state_dict({"weight": layer.weights.flatten(1), "bias": layer.biases})
        steps += [linear, activations[table.activation]()]
        if layer.BatchNorm is not None:
            norm = nn.BatchNorm1d(table.width, eps=model.settings.hidden_batch_norm_epsilon)
            norm.load_state_dict(
                {
                    "weight": layer.BatchNorm.gamma,
                    "bias": layer.BatchNorm.beta,
                    "running_mean": layer.BatchNorm.moving_mean,
                    "running_var": layer.BatchNorm.moving_variance,
                    "num_batches_tracked": torch.tensor(0),
                }
            )
            steps.insert(len(steps) - (table.batch_norm == "before"), norm)
    last = nn.Linear(logits.weights.shape[1], len(logits.weights))
    last.load_state_dict({"weight": logits.weights.flatten(1), "bias": logits.biases})
    return nn.Sequential(*steps, last).eval()


@pytest.mark.parametrize("order", [None, "before", "after"])
def test_hidden_layers_compute_what_linear_activation_and_batch_norm_compute(
    random_model: Build, order: str | None
) -> None:
    model = random_model(
        hidden_units=(24, 16, 12),
        hidden_activation=("relu", "tanh", "gelu"),
        hidden_batch_norm=order,
        hidden_batch_norm_epsilon=1e-5,
    ).double()
    logits, end_points = model(torch.rand(3, 3, 107, 107, dtype=torch.float64) * 2 - 1)
    expected = head_of(model.double()).double()(end_points["PreLogits"].flatten(1))
    assert torch.allclose(logits, expected, rtol=0, atol=1e-12 * float(expected.detach().abs().max()))
    assert list(end_points)[-6:] == ["PreLogits", "Hidden_1", "Hidden_2", "Hidden_3", "Logits", "Predictions"]
    assert [end_points[f"Hidden_{number}"].shape[1] for number in (1, 2, 3)] == [24, 16, 12]


def test_the_table_counts_the_parameters_of_hidden_layers(random_model: Build) -> None:
    for order in (None, "before"):
        model = random_model(hidden_units=(24, 16), hidden_batch_norm=order)
        points = {point.name: point for point in model.settings.end_points()}
        assert sum(tensor.numel() for tensor in model.state_dict().values()) == sum(
            point.parameters for point in points.values()
        )
        assert sum(tensor.numel() for tensor in model.parameters()) == sum(
            point.trainable_parameters for point in points.values()
        )
        assert points["Hidden_2"].macs == 24 * 16


def test_hidden_layers_are_described_in_order() -> None:
    rows = {
        row["name"]: row["built_as"]
        for row in describe_network(hidden_units=(8,), hidden_batch_norm="after")["end_points"]
    }
    assert list(rows)[-4:] == ["PreLogits", "Hidden_1", "Logits", "Predictions"]
    assert rows["Hidden_1"] == ["1x1 8 → relu → BatchNorm"]


def test_dropout_after_hidden_layers_acts_only_in_training(random_model: Build) -> None:
    model = random_model(hidden_units=(400,), hidden_dropout_keep_prob=0.25, dropout_keep_prob=1.0)
    dropped = []
    assert model.Logits is not None
    model.Logits[-1].register_forward_pre_hook(lambda _, inputs: dropped.append(inputs[0]))
    images = torch.rand(1, 3, 107, 107)
    hidden = model(images)[1]["Hidden_1"]
    assert torch.equal(dropped[0], hidden)
    model.train()
    hidden = model(images)[1]["Hidden_1"]
    kept = dropped[1] != 0
    assert 0.15 < kept[hidden != 0].float().mean() < 0.35
    assert torch.allclose(dropped[1][kept], 4 * hidden[kept])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_units": (0,)}, "hidden_units must be at least 1"),
        ({"hidden_units": (8,), "hidden_activation": "mish"}, "hidden_activation must be one of relu, .*, not .mish"),
        ({"hidden_units": (8, 8), "hidden_activation": ("relu",)}, "has 1 names for 2 hidden layers"),
        ({"hidden_units": (8,), "hidden_batch_norm": "both"}, "hidden_batch_norm must be .*before, after"),
        (
            {"hidden_dropout_keep_prob": 0.0},
            "hidden_dropout_keep_prob must be greater than zero and at most 1, not 0.0",
        ),
        ({"output_activation": "relu"}, "output_activation must be one of softmax, sigmoid, none, not .relu"),
    ],
)
def test_impossible_options_are_refused_with_what_is_right(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InceptionV3(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_graph_computes_every_activation_exactly_in_float64(random_model: Build, activation: str) -> None:
    for order in (None, "before", "after"):
        model = random_model(hidden_units=(24, 16), hidden_activation=activation, hidden_batch_norm=order).double()
        pixels = np.random.default_rng(0).integers(0, 256, (2, 107, 107, 3), dtype=np.uint8)
        images = model.preprocessing.scale(torch.from_numpy(pixels).permute(0, 3, 1, 2)).double()
        names = ("Hidden_1", "Hidden_2", LOGITS)
        _, expected = model(images, end_points=names)
        graph = build_graph(model, outputs=names, from_pixels=False)
        outputs = GraphModule(graph, torch.float64)(images)
        for name, output in zip(names, outputs, strict=True):
            assert torch.allclose(output, expected[name].flatten(1), rtol=0, atol=1e-11), (name, order)


@pytest.mark.parametrize("engine", ["pytorch", "onnxruntime", "openvino", "ncnn"])
def test_every_engine_computes_every_activation(random_model: Build, engine: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 107, 107, 3), dtype=np.uint8)
    model = random_model(
        hidden_units=(16,) * len(ACTIVATIONS), hidden_activation=ACTIVATIONS, hidden_batch_norm="after"
    )
    images = model.preprocessing.scale(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    with torch.inference_mode():
        expected = model(images, end_points=())[0].numpy()
    logits = open_model(model, engine).engine.run(pixels)[LOGITS]
    assert np.abs(logits - expected).max() / np.abs(expected).max() < 1e-4


@pytest.mark.parametrize("suffix", [".safetensors", ".onnx", ".xml"])
def test_a_file_keeps_hidden_layers_and_a_sigmoid(random_model: Build, tmp_path: Path, suffix: str) -> None:
    model = random_model(num_classes=1, hidden_units=(16,), hidden_activation="elu", output_activation="sigmoid")
    model.class_names = ["cat", "dog"]
    path = tmp_path / f"model{suffix}"
    if suffix == ".safetensors":
        inception_v3.save(model, path)
        assert inception_v3.load(path).settings == model.settings
    else:
        export(model, path)
    image = np.random.default_rng(0).integers(0, 256, (107, 107, 3), dtype=np.uint8)
    (prediction,) = inception_v3.Predictor(path)(image)
    logit = float(model(model.preprocess(Image.fromarray(image)))[0].detach())
    values = dict(prediction.classes)
    assert values["dog"] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)
    assert values["cat"] == pytest.approx(1 - values["dog"])
    assert [name for name, _ in prediction.classes] == sorted(values, key=lambda name: -values[name])


def test_with_a_sigmoid_each_of_several_classes_has_its_own_probability(random_model: Build) -> None:
    model = random_model(num_classes=3, output_activation="sigmoid")
    logits, end_points = model(torch.rand(2, 3, 107, 107))
    assert torch.equal(end_points["Predictions"], torch.sigmoid(logits))
    expected = torch.sigmoid(logits.double()).detach().numpy()
    assert np.allclose(probabilities(logits.detach().double().numpy(), "sigmoid"), expected, rtol=1e-14)
    extreme = probabilities(np.array([-1e4, -40.0, 0.0, 40.0, 1e4]), "sigmoid")
    assert extreme.tolist() == pytest.approx([0.0, np.exp(-40.0), 0.5, 1.0, 1.0])


def test_one_output_with_a_sigmoid_stands_for_two_classes() -> None:
    logits = np.array([[-3.0], [0.5]])
    assert class_logits(logits, "sigmoid").tolist() == [[0.0, -3.0], [0.0, 0.5]]
    sigmoid = 1 / (1 + np.exp(-logits))
    assert np.allclose(probabilities(logits, "sigmoid"), np.concatenate([1 - sigmoid, sigmoid], 1))
    assert np.array_equal(class_logits(logits, "softmax"), logits)


def test_a_network_without_output_activation_has_no_probabilities_to_predict(
    random_model: Build, tmp_path: Path
) -> None:
    model = random_model(output_activation="none")
    logits, end_points = model(torch.rand(1, 3, 107, 107))
    assert torch.equal(end_points["Predictions"], logits)
    inception_v3.save(model, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"not probabilities \(its output_activation is none\); load it with"):
        inception_v3.Predictor(tmp_path / "model.safetensors")


def test_new_classes_are_learned_from_the_base_without_the_old_hidden_layers(random_model: Build) -> None:
    model = random_model(hidden_units=(16,), num_classes=1, output_activation="sigmoid")
    new = with_new_head(model, ["a", "b"])
    assert (new.settings.hidden_units, new.settings.output_activation) == ((), "softmax")
    assert new(torch.zeros(1, 3, 107, 107), end_points=())[0].shape == (1, 2)


@pytest.mark.parametrize("format", ["tf-slim", "torchvision"])
def test_a_format_without_hidden_layers_refuses_them(random_model: Build, tmp_path: Path, format: str) -> None:
    model = random_model(hidden_units=(16,))
    with pytest.raises(InputError, match="has no hidden layers between PreLogits and Logits"):
        inception_v3.save(model, tmp_path / "model", format)


def test_training_reaches_hidden_layers(random_model: Build) -> None:
    model = random_model(hidden_units=(16, 16), hidden_batch_norm="before").train()
    logits, _ = model(torch.rand(4, 3, 107, 107), end_points=())
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    hidden = {name: each for name, each in model.named_parameters() if name.startswith("Logits.Hidden")}
    assert len(hidden) == 8
    # A bias in front of BatchNorm has no effect, so its gradient is only rounding error.
    assert all(each.grad.abs().max() > 1e-6 for name, each in hidden.items() if not name.endswith("biases"))  # type: ignore[union-attr]
