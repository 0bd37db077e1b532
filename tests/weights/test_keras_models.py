"""Keras models as people save them: a base with augmentation, preprocessing and a head, compared with Keras itself."""

import os

os.environ["KERAS_BACKEND"] = "torch"  # read once, when Keras is imported

import json
import re
import subprocess
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import torch
from keras import layers
from test_formats_keras import keras_network, refusal

from conftest import oracle_python, relative
from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.weights.formats import keras as keras_format
from inception_v3.weights.formats.keras_config import (
    ConfigurationError,
    KerasLayer,
    Shapes,
    find_by_name,
    parse,
    read_graph,
)
from inception_v3.weights.formats.keras_network import read_network
from inception_v3.weights.model import InceptionV3
from inception_v3.weights.read import Origin

SIZE = 139  # the last map is 3x3
preprocess_input = keras.applications.inception_v3.preprocess_input


@pytest.fixture(scope="module")
def base() -> keras.Model:
    """A base with random variables, without pooling. Every model of this file has it, as a model or as layers."""
    keras.utils.clear_session()
    return keras_network(11, include_top=False, input_shape=(SIZE, SIZE, 3))


def randomise_head(model: keras.Model, base: keras.Model) -> keras.Model:
    """Draw the variables of all layers that are not in the base."""
    inside, rng = {id(variable) for variable in base.variables}, np.random.default_rng(5)
    for variable in model.variables:
        if id(variable) not in inside and "seed" not in variable.path:
            low = 0.5 if variable.name in ("gamma", "moving_variance") else -0.5
            if variable.name not in ("mean", "variance", "count"):
                variable.assign(rng.uniform(low, low + 1, variable.shape) / max(1, len(variable.shape) * 10 - 10))
    return model


def fine_tuning_tutorial(base: keras.Model) -> keras.Model:
    """The example of Keras's documentation: augmentation, preprocess_input, the base as a layer, one linear output."""
    images = keras.Input((SIZE, SIZE, 3))
    net = keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.2)])(images)
    net = base(preprocess_input(net), training=False)
    net = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(net))
    return keras.Model(images, layers.Dense(1)(net))


def sequential(base: keras.Model) -> keras.Model:
    """Models inside models; hidden layers with BatchNormalization after the activation."""
    head = keras.Sequential([layers.Dense(24, "relu"), layers.BatchNormalization(), layers.Dropout(0.5)])
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.Sequential([layers.RandomZoom(0.1), layers.GaussianNoise(0.1)], name="augmentation"),
            layers.Rescaling(1 / 255),
            base,
            layers.GlobalAveragePooling2D(),
            head,
            layers.Dense(5, "softmax"),
        ]
    )


def layers_of_the_base(base: keras.Model) -> keras.Model:
    """A head on `base.output`: a pooling window and Flatten, BatchNormalization before activations, a Softmax."""
    net = layers.Flatten()(layers.AveragePooling2D((3, 3))(base.output))
    for width, activation in ((16, "swish"), (8, "gelu")):
        net = layers.BatchNormalization(epsilon=1e-5)(layers.Dense(width)(net))
        net = layers.Activation(activation)(net)
    return keras.Model(base.input, layers.Softmax()(layers.Dense(3)(net)))


def normalised(base: keras.Model) -> keras.Model:
    """Normalization with adapted statistics, more arithmetic, BatchNormalization of the features, sigmoid outputs."""
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).uniform(0, (255, 200, 150), (4, SIZE, SIZE, 3)))
    images = keras.Input((SIZE, SIZE, 3))
    net = base(1.5 - normalization(images) * 0.5)
    net = layers.BatchNormalization()(layers.GlobalAveragePooling2D()(net))
    return keras.Model(images, layers.Dense(2, "sigmoid", use_bias=False)(net))


def mixed_orders(base: keras.Model) -> keras.Model:
    """Hidden layers that only folding can express: BatchNormalization before, after and without an activation."""
    net = layers.GlobalAveragePooling2D()(
        base(layers.Rescaling(1 / 127.5, offset=-1.0)(images := keras.Input((SIZE, SIZE, 3))))
    )
    net = layers.BatchNormalization()(layers.Dense(9, "tanh")(net))
    net = layers.ReLU()(layers.BatchNormalization()(layers.Dense(8)(net)))
    net = layers.BatchNormalization()(layers.Dense(7, "elu")(net))
    return keras.Model(images, layers.Dense(4, "softmax")(net))


MODELS: dict[str, tuple[Callable[[keras.Model], keras.Model], str]] = {
    "fine_tuning_tutorial": (fine_tuning_tutorial, ".keras"),
    "sequential": (sequential, ".h5"),
    "layers_of_the_base": (layers_of_the_base, ".keras"),
    "normalised": (normalised, ".keras"),
    "mixed_orders": (mixed_orders, ".h5"),
}
Saved = dict[str, tuple[Path, keras.Model]]


@pytest.fixture(scope="module")
def saved(base: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saved]:
    folder = tmp_path_factory.mktemp("models")
    models = {}
    for name, (build, suffix) in MODELS.items():
        model = randomise_head(build(base), base)
        model.save(folder / (name + suffix))
        models[name] = (folder / (name + suffix), model)
    yield models
    for path, _ in models.values():
        path.unlink()


def load(path: Path) -> tuple[InceptionV3, list[str]]:
    """The model, and the lines about what was assumed."""
    assert keras_format.recognises(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = InceptionV3.from_weights(keras_format.read(path), Origin("", path, "keras"))
    lines = [str(warning.message).removeprefix(f"{path}: ") for warning in caught]
    return model, lines


def logits_of(model: keras.Model, pixels: torch.Tensor) -> np.ndarray:
    """Keras's outputs for pixels 0 to 255, (N, 3, H, W), before the last activation."""
    dense = [layer for layer in model.layers if isinstance(layer, layers.Dense)][-1]
    activation, dense.activation = dense.activation, keras.activations.linear
    if isinstance(model.layers[-1], layers.Softmax):
        model = keras.Model(model.inputs, dense.output)
    try:
        return model.predict(pixels.permute(0, 2, 3, 1).numpy(), verbose=0)
    finally:
        dense.activation = activation


class TestModelsSavedByKeras:
    @pytest.mark.parametrize("name", MODELS)
    def test_give_equal_logits_for_pixels(self, name: str, saved: Saved) -> None:
        path, theirs = saved[name]
        ours, lines = load(path)
        pixels = torch.rand(2, 3, SIZE, SIZE) * 255
        states_scaling = not any("how images are scaled" in line for line in lines)
        images = ours.preprocessing.scale(pixels) if states_scaling else pixels
        with torch.inference_mode():
            logits, _ = ours(images, ())
        assert relative(logits, logits_of(theirs, pixels)) <= 1e-4

    @pytest.mark.parametrize(
        ("name", "settings"),
        [
            ("fine_tuning_tutorial", {"num_classes": 1, "output_activation": "sigmoid", "dropout_keep_prob": 0.8}),
            (
                "sequential",
                {
                    "hidden_units": (24,),
                    "hidden_batch_norm": "after",
                    "hidden_dropout_keep_prob": 0.5,
                    "output_activation": "softmax",
                },
            ),
            (
                "layers_of_the_base",
                {
                    "hidden_units": (16, 8),
                    "hidden_activation": ("silu", "gelu"),
                    "hidden_batch_norm": "before",
                    "hidden_batch_norm_epsilon": 1e-5,
                },
            ),
            ("normalised", {"num_classes": 2, "output_activation": "sigmoid", "hidden_units": ()}),
            ("mixed_orders", {"hidden_activation": ("tanh", "relu", "elu"), "hidden_batch_norm": None}),
        ],
    )
    def test_have_the_settings_of_their_configuration(self, name: str, settings: dict[str, Any], saved: Saved) -> None:
        ours, _ = load(saved[name][0])
        expected = settings | {"image_size": (SIZE, SIZE), "global_pool": True, "final_endpoint": None}
        assert {option: ours.settings[option] for option in expected} == expected

    @pytest.mark.parametrize(
        ("name", "mean", "std"),
        [("fine_tuning_tutorial", 0.5, 0.5), ("sequential", 0, 1), ("mixed_orders", 0.5, 0.5)],
    )
    def test_have_the_scaling_of_their_layers_as_preprocessing(
        self, name: str, mean: float, std: float, saved: Saved
    ) -> None:
        preprocessing = load(saved[name][0])[0].preprocessing
        assert preprocessing.mean == pytest.approx([mean] * 3, abs=1e-6)
        assert preprocessing.std == pytest.approx([std] * 3, abs=1e-6)
        assert (preprocessing.image_size, preprocessing.squash) == ((SIZE, SIZE), True)

    def test_report_what_was_assumed_or_folded(self, saved: Saved) -> None:
        assert load(saved["sequential"][0])[1] == []
        assert load(saved["fine_tuning_tutorial"][0])[1] == [
            "its output Dense 'dense' has no activation; sigmoid is assumed, as after a loss with from_logits; "
            "--output replaces it"
        ]
        (line,) = load(saved["layers_of_the_base"][0])[1]
        assert line.startswith("it does not state how images are scaled; [-1, 1] is assumed")
        (line,) = load(saved["normalised"][0])[1]
        assert re.fullmatch(r"its BatchNormalization in front of Dense '\w+' is folded into that layer", line)

    def test_as_weights_only_hold_equal_tensors_and_report_it(self, saved: Saved, tmp_path: Path) -> None:
        path, model = saved["fine_tuning_tutorial"]
        model.save_weights(tmp_path / "tutorial.weights.h5")
        whole, (ours, lines) = load(path)[0], load(tmp_path / "tutorial.weights.h5")
        assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in whole.state_dict().items())
        assert any("sigmoid is assumed (--output replaces this)" in line for line in lines)
        assert ours.settings.output_activation == "sigmoid"

    def test_as_weights_only_with_hidden_layers_are_refused(self, saved: Saved, tmp_path: Path) -> None:
        saved["sequential"][1].save_weights(tmp_path / "sequential.weights.h5")
        message = refusal(tmp_path / "sequential.weights.h5")
        assert "no configuration that describes it; give the whole model" in message

    def test_without_a_head_are_feature_extractors(self, base: keras.Model, tmp_path: Path) -> None:
        pooled = keras.Sequential([base, layers.GlobalAveragePooling2D()])
        pooled.save(tmp_path / "pooled.keras")
        ours, _ = load(tmp_path / "pooled.keras")
        assert (ours.settings.final_endpoint, ours.class_names) == ("Mixed_7c", None)
        images = torch.rand(1, 3, SIZE, SIZE) * 2 - 1
        with torch.inference_mode():
            _, end_points = ours(images)
        features = pooled.predict(images.permute(0, 2, 3, 1).numpy(), verbose=0)
        assert relative(end_points["Mixed_7c"].mean((2, 3)), features) <= 1e-4

    @pytest.mark.filterwarnings("ignore:.*sigmoid is assumed:UserWarning")
    def test_in_a_zip_with_any_flipped_byte_raise_only_input_errors(self, saved: Saved, tmp_path: Path) -> None:
        content = bytearray(saved["fine_tuning_tutorial"][0].read_bytes())
        size, rng = len(content), np.random.default_rng(0)
        for position in [*rng.integers(0, 2000, 4), *rng.integers(size - 400, size, 12)]:
            content[position] ^= 0xFF
            (tmp_path / "x.keras").write_bytes(content)
            with suppress(InputError):
                keras_format.read(tmp_path / "x.keras")
            content[position] ^= 0xFF


class TestAdaptedNormalization:
    def test_becomes_mean_and_std_for_each_channel(self, saved: Saved) -> None:
        path, model = saved["normalised"]
        normalization = next(layer for layer in model.layers if isinstance(layer, layers.Normalization))
        mean, deviation = (keras.ops.convert_to_numpy(v).ravel() for v in (normalization.mean, normalization.variance))
        ours = load(path)[0].preprocessing
        pixels = torch.rand(1, 3, 2, 2) * 255
        expected = 1.5 - (pixels.numpy() - mean.reshape(3, 1, 1)) / np.sqrt(deviation).reshape(3, 1, 1) * 0.5
        assert np.abs(ours.scale(pixels).numpy() - expected).max() < 1e-5


# ---------------------------------------------------------------------------------- configurations without a file


def zeros(layer: KerasLayer, shapes: Shapes) -> list[np.ndarray]:
    return [np.zeros(shape, np.float32) for shape in shapes.values() if shape is not None]


def interpret(config: dict[str, Any]) -> tuple[Any, list[str]]:
    return read_network(read_graph(config), zeros)


def config_of(model: keras.Model) -> dict[str, Any]:
    return parse(model.to_json())


def with_head(base: keras.Model, *head: layers.Layer, cut: str = "mixed10") -> dict[str, Any]:
    net = base.get_layer(cut).output
    for layer in head:
        net = layer(net)
    return config_of(keras.Model(base.input, net))


class TestALinearOutput:
    """Its meaning is that of the loss with which the model was compiled."""

    @pytest.mark.parametrize(
        ("units", "loss", "activation"),
        [
            (1, "mse", "none"),
            (1, keras.losses.MeanAbsoluteError(), "none"),
            (2, keras.losses.Huber(), "none"),
            (3, ["log_cosh"], "none"),
            (1, keras.losses.BinaryCrossentropy(from_logits=True), "sigmoid"),
            (3, keras.losses.BinaryFocalCrossentropy(from_logits=True), "sigmoid"),
            (3, keras.losses.CategoricalCrossentropy(from_logits=True), "softmax"),
            (3, keras.losses.SparseCategoricalCrossentropy(from_logits=True), "softmax"),
        ],
    )
    def test_is_stated_by_the_loss(self, units: int, loss: Any, activation: str, base: keras.Model) -> None:
        config = with_head(base, layers.GlobalAveragePooling2D(), layers.Dense(units))
        weights, notes = read_network(read_graph(config), zeros, keras.saving.serialize_keras_object(loss))
        assert weights.settings.output_activation == activation
        assert not any("has no activation" in note for note in notes)

    @pytest.mark.parametrize(
        ("units", "loss", "activation"),
        [(1, "binary_crossentropy", "sigmoid"), (3, None, "softmax"), (3, "my_own_loss", "softmax")],
    )
    def test_is_assumed_without_such_a_loss(self, units: int, loss: Any, activation: str, base: keras.Model) -> None:
        config = with_head(base, layers.GlobalAveragePooling2D(), layers.Dense(units))
        weights, notes = read_network(read_graph(config), zeros, loss)
        assert weights.settings.output_activation == activation
        assert any(f"{activation} is assumed" in note for note in notes)

    def test_of_a_sigmoid_layer_is_a_sigmoid_whatever_the_loss(self, base: keras.Model) -> None:
        config = with_head(base, layers.GlobalAveragePooling2D(), layers.Dense(1, "sigmoid"))
        assert read_network(read_graph(config), zeros, "mse")[0].settings.output_activation == "sigmoid"

    @pytest.mark.parametrize("name", ["regression.keras", "regression.h5"])
    def test_has_the_loss_that_is_stored_in_the_file(self, name: str, base: keras.Model, tmp_path: Path) -> None:
        model = keras.Model(base.input, layers.Dense(1)(layers.GlobalAveragePooling2D()(base.output)))
        model.compile(loss="mse")
        model.save(tmp_path / name)
        ours, lines = load(tmp_path / name)
        assert ours.settings.output_activation == "none"
        assert not any("has no activation" in line for line in lines)


class TestWhatCannotBeComputed:
    """Each is refused by the name of the layer."""

    @pytest.mark.parametrize(
        ("head", "named"),
        [
            ([layers.GlobalMaxPooling2D(), layers.Dense(2)], "GlobalMaxPooling2D"),
            ([layers.Flatten(), layers.Dense(2)], r"Flatten 'flatten\w*' of a map of 3x3"),
            ([layers.Dense(2)], r"Dense 'dense\w*' of a map of 3x3"),
            (
                [layers.AveragePooling2D(2, name="part"), layers.Flatten()],
                r"'part' over windows of \[2, 2\]",
            ),
            ([layers.GlobalAveragePooling2D(), layers.Dense(4, "mish"), layers.Dense(2)], "the activation mish"),
            ([layers.GlobalAveragePooling2D(), layers.Dense(4), layers.LeakyReLU(), layers.Dense(2)], "LeakyReLU"),
            ([layers.GlobalAveragePooling2D(), layers.Dense(4), layers.PReLU(), layers.Dense(2)], "PReLU"),
            ([layers.GlobalAveragePooling2D(), layers.Dense(4, "relu")], "the activation relu as its output"),
            ([layers.GlobalAveragePooling2D(), layers.LayerNormalization(), layers.Dense(2)], "LayerNormalization"),
            ([layers.Conv2D(8, 3, name="extra"), layers.GlobalAveragePooling2D(), layers.Dense(2)], "Conv2D"),
            ([layers.GlobalAveragePooling2D(), layers.Dense(4, "softmax"), layers.Dense(2)], "the activation softmax"),
            ([layers.GlobalAveragePooling2D(), layers.Dense(1, "softmax")], "is 1 for every image"),
            ([layers.GlobalAveragePooling2D(), layers.UnitNormalization(), layers.Dense(2)], "UnitNormalization"),
            (
                [
                    layers.AveragePooling2D(3, strides=1, padding="same", name="smooth"),
                    layers.GlobalAveragePooling2D(),
                    layers.Dense(2),
                ],
                r"AveragePooling2D 'smooth' over windows of \[3, 3\]",
            ),
            (
                [layers.GlobalAveragePooling2D(), layers.Dense(8), layers.Reshape((2, 4)), layers.Softmax()],
                r"Reshape 'reshape\w*' to \[2, 4\]",
            ),
            (
                [layers.GlobalAveragePooling2D(), layers.Lambda(lambda features: features * 2), layers.Dense(2)],
                r"Lambda 'lambda\w*' with Python code",
            ),
        ],
    )
    def test_in_the_head(self, head: list[layers.Layer], named: str, base: keras.Model) -> None:
        with pytest.raises(ConfigurationError, match=named):
            interpret(with_head(base, *head))

    def test_a_class_of_the_users_own_with_the_name_of_a_class_of_keras(self, base: keras.Model) -> None:
        class Dense(layers.Dense):
            pass

        with pytest.raises(ConfigurationError, match="the layer Custom>Dense 'mine'"):
            interpret(with_head(base, layers.GlobalAveragePooling2D(), Dense(2, name="mine")))

    def test_a_quantised_layer(self, base: keras.Model) -> None:
        head = layers.Dense(2, name="small")
        config = with_head(base, layers.GlobalAveragePooling2D(), head)
        head.quantize("int8")
        config["config"]["layers"][-1]["config"]["dtype"] = keras.saving.serialize_keras_object(head.dtype_policy)
        with pytest.raises(ConfigurationError, match="Dense 'small' quantised; save the model before"):
            interpret(config)

    def test_an_approximate_operation(self, base: keras.Model) -> None:
        hidden = layers.Dense(4)(layers.GlobalAveragePooling2D()(base.output))
        model = keras.Model(base.input, layers.Dense(2)(keras.ops.gelu(hidden)))
        with pytest.raises(ConfigurationError, match="the layer Gelu"):
            interpret(config_of(model))

    def test_a_head_in_the_middle_of_the_network(self, base: keras.Model) -> None:
        head = [layers.GlobalAveragePooling2D(), layers.Dense(2)]
        with pytest.raises(ConfigurationError, match="a head after Mixed_6d"):
            interpret(with_head(base, *head, cut="mixed6"))

    def test_two_outputs_two_inputs_and_attention(self, base: keras.Model) -> None:
        features = layers.GlobalAveragePooling2D()(base.output)
        two = keras.Model(base.input, [layers.Dense(2)(features), layers.Dense(3)(features)])
        with pytest.raises(ConfigurationError, match="has 2 outputs"):
            interpret(config_of(two))
        other = keras.Input((4,))
        joined = keras.Model([base.input, other], layers.Dense(2)(layers.Concatenate()([features, other])))
        with pytest.raises(ConfigurationError, match="has 2 inputs"):
            interpret(config_of(joined))
        gate = layers.Multiply(name="attention")([features, layers.Dense(2048, "sigmoid")(features)])
        with pytest.raises(ConfigurationError, match="Multiply 'attention'"):
            interpret(config_of(keras.Model(base.input, layers.Dense(2)(gate))))

    def test_python_code_in_a_lambda(self, base: keras.Model) -> None:
        images = keras.Input((SIZE, SIZE, 3))
        model = keras.Model(images, base(layers.Lambda(lambda image: image / 3, name="mine")(images)))
        with pytest.raises(ConfigurationError, match="Lambda 'mine' with Python code"):
            interpret(config_of(model))

    @pytest.mark.parametrize(
        ("kind", "option", "value"),
        [
            ("Conv2D", "strides", [1, 2]),
            ("Conv2D", "kernel_size", [5, 5]),
            ("Conv2D", "padding", "same"),
            ("Conv2D", "dilation_rate", [2, 2]),
            ("Conv2D", "groups", 2),
            ("Conv2D", "activation", "relu"),
            ("Conv2D", "filters", 33),
            ("MaxPooling2D", "pool_size", [2, 2]),
            ("MaxPooling2D", "padding", "same"),
            ("AveragePooling2D", "strides", [2, 2]),
            ("Activation", "activation", "relu6"),
            ("BatchNormalization", "epsilon", 0.01),
        ],
    )
    def test_a_base_with_one_other_option(self, kind: str, option: str, value: Any, base: keras.Model) -> None:
        config = config_of(base)
        layer = next(each for each in config["config"]["layers"] if each["class_name"] == kind)
        layer["config"][option] = value
        with pytest.raises(ConfigurationError, match=rf"not Inception V3: .*{kind}|different epsilons"):
            interpret(config)

    def test_a_base_with_exchanged_connections(self, base: keras.Model) -> None:
        config = config_of(base)
        mixed = next(each for each in config["config"]["layers"] if each["name"] == "mixed9")
        branches = mixed["inbound_nodes"][0]["args"][0]
        branches[0], branches[3] = branches[3], branches[0]
        with pytest.raises(ConfigurationError, match="not Inception V3"):
            interpret(config)

    @pytest.mark.parametrize("network", ["Xception", "InceptionResNetV2"])
    def test_other_networks(self, network: str) -> None:
        with pytest.raises(ConfigurationError, match="not Inception V3"):
            interpret(config_of(getattr(keras.applications, network)(weights=None)))


class TestOperationsInTheHead:
    def test_are_activations(self, base: keras.Model) -> None:
        net, expected = (
            layers.GlobalAveragePooling2D()(base.output),
            ("relu", "relu6", "elu", "silu", "tanh", "sigmoid"),
        )
        for name in expected:
            net = getattr(keras.ops, name)(layers.Dense(4)(net))
        net = keras.ops.gelu(layers.Dense(4)(net), approximate=False)
        weights, _ = interpret(config_of(keras.Model(base.input, keras.ops.softmax(layers.Dense(2)(net)))))
        assert weights.settings.hidden_activation == (*expected, "gelu")
        assert weights.settings.output_activation == "softmax"

    def test_of_keras_2_have_the_arguments_of_their_calls_as_options(self) -> None:
        layer = {"class_name": "TFOpLambda", "name": "op", "config": {"name": "op", "function": "nn.gelu"}}
        images = {"class_name": "InputLayer", "name": "images", "config": {"name": "images"}, "inbound_nodes": []}
        for named in ({"approximate": True}, {"approximate": False}, {}):
            call = {"inbound_nodes": [["images", 0, 0, named]]}
            ends = {"input_layers": [["images", 0, 0]], "output_layers": [["op", 0, 0]]}
            model: dict[str, Any] = {"name": "net", "layers": [images, layer | call], **ends}
            config = {"class_name": "Functional", "config": model}
            assert read_graph(config).layer.options == {"name": "op", "function": "nn.gelu"} | named


class TestTheSizeOfTheImages:
    def test_is_assumed_with_a_line_if_the_file_does_not_state_it(self) -> None:
        any_size = keras_network(0, include_top=False, input_shape=(None, None, 3))
        weights, notes = interpret(with_head(any_size, layers.GlobalAveragePooling2D(), layers.Dense(2, "softmax")))
        assert weights.settings.image_size == (299, 299)
        line = "it does not state the size of its images; 299x299 is assumed; --image-size replaces it"
        assert line in notes

    def test_is_stated_by_a_layer_around_the_base(self, base: keras.Model) -> None:
        weights, notes = interpret(config_of(keras.Sequential([base, layers.GlobalAveragePooling2D()])))
        assert weights.settings.image_size == (SIZE, SIZE)
        assert not any("the size of its images" in note for note in notes)


class TestNamesOfVariables:
    """In the groups of a model inside a model, and in TensorFlow.js's manifest."""

    def test_may_contain_slashes(self) -> None:
        layer = KerasLayer("Dense", {}, ("net", "top/dense"), "")
        assert find_by_name(layer, ["top/dense/kernel:0", "dense/kernel:0"]) == {"kernel": "top/dense/kernel:0"}

    def test_begin_with_the_models_if_two_models_have_a_layer_of_that_name(self) -> None:
        names = ["first/dense/kernel", "second/dense/kernel"]
        assert find_by_name(KerasLayer("Dense", {}, ("second", "dense"), ""), names) == {"kernel": names[1]}

    def test_have_a_second_number_after_a_model_was_loaded_and_saved_with_tensorflow_1(self) -> None:
        names = ["conv2d_1_1/kernel:0", "conv2d_11_1/kernel:0", "conv2d_2_1/kernel:0"]
        assert find_by_name(KerasLayer("Conv2D", {}, ("net", "conv2d_1"), ""), names) == {"kernel": names[0]}
        assert find_by_name(KerasLayer("Conv2D", {}, ("net", "conv2d"), ""), names) == {}

    def test_of_an_adapted_normalization_lack_its_layer(self) -> None:
        layer = KerasLayer("Normalization", {}, ("normalization",), "")
        names = ["dense/kernel", "mean", "variance", "count"]
        assert find_by_name(layer, names) == {name: name for name in names[1:]}


class TestPreprocessingLayers:
    @pytest.mark.parametrize(
        ("layer", "expected"),
        [
            (lambda net: layers.Rescaling([1.0, 2.0, 4.0], offset=[0.0, 1.0, 2.0])(net), [1.0, 3.0, 6.0]),
            (lambda net: net / 2 + 3, [3.5] * 3),
            (lambda net: 3 - net, [2.0] * 3),
            (lambda net: -(2 * net), [-2.0] * 3),
            (lambda net: layers.Normalization(mean=[1, 0, -1], variance=[4, 1, 1])(net), [0.0, 1.0, 2.0]),
            (lambda net: keras.ops.cast(net, "float32") * 7, [7.0] * 3),
            (lambda net: layers.Resizing(SIZE, SIZE)(net) * 5, [5.0] * 3),
            (lambda net: layers.Lambda(preprocess_input)(net), [1 / 127.5 - 1] * 3),
        ],
    )
    def test_scale_the_pixels(self, layer: Callable[[Any], Any], expected: list[float], base: keras.Model) -> None:
        images = keras.Input((SIZE, SIZE, 3))
        weights, _ = interpret(config_of(keras.Model(images, base(layer(images)))))
        ones = weights.preprocessing.scale(torch.ones(1, 3, 1, 1)).flatten()
        assert ones.tolist() == pytest.approx(expected, abs=1e-6)

    def test_that_enlarge_small_images_are_refused_by_their_name(self, base: keras.Model) -> None:
        images = keras.Input((59, 59, 3))
        with pytest.raises(ConfigurationError, match="the layer ZeroPadding2D 'enlarge'"):
            interpret(config_of(keras.Model(images, base(layers.ZeroPadding2D(40, name="enlarge")(images)))))

    def test_that_cast_to_integers_are_refused(self, base: keras.Model) -> None:
        images = keras.Input((SIZE, SIZE, 3))
        with pytest.raises(ConfigurationError, match=r"the layer Cast 'cast\w*' to int32"):
            interpret(config_of(keras.Model(images, base(keras.ops.cast(images / 2, "int32")))))

    def test_that_crop_or_resize_to_another_size_are_refused(self, base: keras.Model) -> None:
        images = keras.Input((200, 200, 3))
        for layer in (layers.Resizing(SIZE, SIZE), layers.CenterCrop(SIZE, SIZE), layers.RandomCrop(SIZE, SIZE)):
            with pytest.raises(ConfigurationError, match=f"{type(layer).__name__} .* to 139x139 from 200x200"):
                interpret(config_of(keras.Model(images, base(layer(images)))))

    def test_that_resize_images_of_any_size_are_replaced_with_a_line(self, base: keras.Model) -> None:
        images = keras.Input((None, None, 3))
        weights, notes = interpret(config_of(keras.Model(images, base(layers.Resizing(SIZE, SIZE)(images)))))
        assert weights.settings.image_size == (SIZE, SIZE)
        assert any("is replaced by this program's own resizing of images to 139x139" in note for note in notes)
        resizing = layers.Resizing(SIZE, SIZE, interpolation="bicubic", crop_to_aspect_ratio=True)
        weights, _ = interpret(config_of(keras.Model(images, base(resizing(images)))))
        preprocessing = weights.preprocessing
        assert (preprocessing.resize, preprocessing.image_size) == ((SIZE, SIZE), (SIZE, SIZE))
        assert (preprocessing.fit, preprocessing.interpolation, preprocessing.squash) == ("cover", "bicubic", False)
        assert weights.sources["interpolation"] == "file"
        resizing = layers.Resizing(SIZE, SIZE, interpolation="lanczos5")
        with pytest.raises(ConfigurationError, match="with the interpolation lanczos5"):
            interpret(config_of(keras.Model(images, base(resizing(images)))))

    @pytest.mark.parametrize("layer", [layers.RandomFlip(), layers.ELU(), layers.Resizing(SIZE, SIZE)], ids=str)
    def test_whose_settings_are_not_understood_are_reported(self, layer: layers.Layer, base: keras.Model) -> None:
        images = keras.Input((SIZE, SIZE, 3))
        before, after = (layer, None) if not isinstance(layer, layers.ELU) else (None, layer)
        net = layers.GlobalAveragePooling2D()(base(before(images) if before else images))
        net = layers.Dense(3)(after(layers.Dense(4)(net)) if after else net)
        config = config_of(keras.Model(images, net))
        kind = type(layer).__name__
        assert not any("not understood" in note for note in interpret(config)[1])
        next(each for each in config["config"]["layers"] if each["class_name"] == kind)["config"]["gain"] = 3
        assert any("has the setting gain, which is not understood" in note for note in interpret(config)[1])

    @pytest.mark.parametrize(("low", "high", "expected"), [(0, 1, "[0, 1]"), (-1, 1, "[-1, 1]"), (0, 255, "[0, 255]")])
    def test_that_are_missing_are_guessed_from_the_first_batch_norm(
        self, low: float, high: float, expected: str, base: keras.Model
    ) -> None:
        rng = np.random.default_rng(0)
        kernel = rng.normal(size=(3, 3, 3, 32)).astype(np.float32)
        mean = np.array([0.52, 0.48, 0.44]) * (high - low) + low

        def read(layer: KerasLayer, shapes: Shapes) -> list[np.ndarray]:
            values = dict(zip(shapes, zeros(layer, shapes), strict=True))
            if shapes.get("kernel") == kernel.shape:
                values["kernel"] = kernel
            if shapes.get("moving_mean") == (32,):
                values["moving_mean"] = (kernel.sum((0, 1)).T @ mean).astype(np.float32)
            return list(values.values())

        _, notes = read_network(read_graph(config_of(base)), read)
        assert any(f"{expected} is assumed, because its first BatchNorm" in note for note in notes)


def slim(layer: dict[str, Any]) -> dict[str, Any]:
    """A layer without the options that are not looked at."""
    options = {key: value for key, value in layer["config"].items() if not re.search("izer|constraint|dtype", key)}
    return {key: layer[key] for key in ("class_name", "name", "inbound_nodes")} | {"config": options}


def outcome(config: dict[str, Any]) -> str:
    """The message of the refusal, or nothing if the configuration can be read."""
    try:
        interpret(config)
    except ConfigurationError as error:
        return str(error)
    return ""


class TestBadConfigurations:
    """Each is refused in one line, and nothing hangs."""

    def test_with_a_cycle(self, base: keras.Model) -> None:
        config = config_of(base)
        by_name = {layer["name"]: layer for layer in config["config"]["layers"]}
        by_name["mixed0"]["inbound_nodes"] = by_name["mixed1"]["inbound_nodes"]
        with pytest.raises(ConfigurationError, match="its layers form a cycle"):
            interpret(config)

    def test_nested_too_deep(self) -> None:
        config: dict[str, Any] = {"class_name": "Dense", "config": {}}
        for _ in range(100):
            config = {"class_name": "Sequential", "config": {"name": "s", "layers": [config]}}
        with pytest.raises(ConfigurationError, match="nested more than 20 deep"):
            interpret(config)
        with pytest.raises(ConfigurationError, match="not JSON"):
            parse('{"config":' + "[" * 100_000)

    def test_with_a_million_layers(self) -> None:
        layer = {"class_name": "Dense", "config": {}}
        config = {"class_name": "Sequential", "config": {"name": "s", "layers": [layer] * 1_000_000}}
        with pytest.raises(ConfigurationError, match="has 1000000 layers"):
            interpret(config)

    def test_of_a_subclass(self) -> None:
        with pytest.raises(ConfigurationError, match="Mine>Net is a class of its own"):
            interpret({"class_name": "Net", "registered_name": "Mine>Net", "config": {}})

    def test_with_control_characters_in_a_name(self, base: keras.Model) -> None:
        config = json.loads(
            json.dumps(with_head(base, layers.Softmax(name="evil"))).replace("evil", "e\\u001b[2J\\nvil")
        )
        with pytest.raises(ConfigurationError) as caught:
            interpret(config)
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize("value", [None, 7, "text", [], {}, [1, 2], {"a": [None]}, True, -1, 1e308])
    def test_with_values_of_another_type(self, value: Any, base: keras.Model) -> None:
        config = with_head(base, layers.GlobalAveragePooling2D(), layers.Dense(2, "softmax"))
        config["config"]["layers"] = [slim(layer) for layer in config["config"]["layers"]]
        text, rng = json.dumps(config), np.random.default_rng(len(str(value)))
        for _ in range(5):
            changed = json.loads(text)
            index = rng.choice((0, 1, 2, 3, 4, 11, -3, -2, -1))
            layer = changed["config"]["layers"][index]
            holder = (changed["config"], layer, layer["config"], layer["config"])[rng.integers(4)]
            holder[rng.choice(list(holder))] = value
            assert outcome(changed).isprintable()

    def test_that_a_zip_inflates(self, saved: Saved, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "x.keras", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("config.json", b" " * (33 << 20))
            archive.writestr("model.weights.h5", b"")
        assert "config.json in it declares" in refusal(tmp_path / "x.keras")

    def test_of_groups_that_contain_themselves(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "x.weights.h5", "w") as file:
            for name in "abcdef":
                file[f"layers/{name}"] = file["/"]
        assert "not Keras's Inception V3" in refusal(tmp_path / "x.weights.h5")

    def test_whose_weights_have_another_shape(self, saved: Saved, tmp_path: Path) -> None:
        path = tmp_path / "x.h5"
        path.write_bytes(saved["sequential"][0].read_bytes())
        with h5py.File(path, "r+") as file:
            group = file["model_weights"]
            name = next(name for name in group if name.startswith("dense"))
            kernel = next(each for each in group[name].attrs["weight_names"] if "kernel" in str(each))
            del group[name][kernel]
            group[name][kernel] = np.zeros((24, 6), np.float32)
        assert re.search(r"has shape \(24, 6\), but Dense 'dense\w*' has \(24, 5\)", refusal(path))


def test_the_images_of_other_keras_models_are_resized_as_keras_users_do(saved: Saved) -> None:
    assert load(saved["layers_of_the_base"][0])[0].preprocessing == Preprocessing.named("keras", SIZE)


# ------------------------------------------------------------------------------------------------------ Keras 2.12

KERAS_2 = """
import sys
import numpy as np
from tensorflow import keras
from tensorflow.keras import layers

folder = sys.argv[1]
base = keras.applications.InceptionV3(weights=None, include_top=False, input_shape=(139, 139, 3))
for layer in base.layers[:200]:
    layer.trainable = False


def tutorial():
    images = keras.Input((139, 139, 3))
    net = keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.2)])(images)
    net = base(keras.applications.inception_v3.preprocess_input(net), training=False)
    return keras.Model(images, layers.Dense(1)(layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(net))))


def sequential():
    return keras.Sequential([
        layers.RandomZoom(0.1, input_shape=(139, 139, 3)), layers.Rescaling(1 / 255), base,
        layers.GlobalAveragePooling2D(), layers.Dense(24, "relu"), layers.BatchNormalization(), layers.Dense(5),
    ])


def normalised():
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).uniform(0, (255, 200, 150), (4, 139, 139, 3)))
    images = keras.Input((139, 139, 3))
    net = layers.BatchNormalization()(layers.GlobalAveragePooling2D()(base(1.5 - normalization(images) * 0.5)))
    return keras.Model(images, layers.Dense(2)(net))


def layers_of_the_base():
    net = layers.Flatten()(layers.AveragePooling2D(3)(base.output))
    net = layers.Activation("elu")(layers.BatchNormalization()(layers.Dense(16)(net)))
    return keras.Model(base.input, layers.Dense(3)(net))


def preprocessed_by_a_lambda():
    images = keras.Input((139, 139, 3))
    net = base(layers.Lambda(keras.applications.inception_v3.preprocess_input)(images))
    return keras.Model(images, layers.Dense(2)(layers.GlobalAveragePooling2D()(net)))


rng = np.random.default_rng(0)
for build in (tutorial, sequential, normalised, layers_of_the_base, preprocessed_by_a_lambda):
    model = build()
    for variable in model.weights:
        name = variable.name.split("/")[-1].split(":")[0]
        if "kernel" in name:
            variable.assign(rng.normal(0, (2 / np.prod(variable.shape[:-1])) ** 0.5, variable.shape))
        elif name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif name in ("beta", "bias", "moving_mean"):
            variable.assign(rng.normal(0, 0.1, variable.shape))
    model.save(f"{folder}/{build.__name__}.h5")
    model.save(f"{folder}/{build.__name__}.keras", save_format="keras_v3")
    model.save_weights(f"{folder}/{build.__name__}_weights.h5")
    model.save_weights(f"{folder}/{build.__name__}.weights.h5")
    pixels = rng.uniform(0, 255, (2, 139, 139, 3)).astype("float32")
    if build is layers_of_the_base:
        pixels = pixels / 127.5 - 1
    np.savez(f"{folder}/{build.__name__}.npz", pixels=pixels, logits=model.predict(pixels, verbose=0))
"""


def save_by_keras_2(folder: Path) -> Path:
    environment = {"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([oracle_python(), "-c", KERAS_2, str(folder)], check=True, capture_output=True, env=environment)
    return folder


@pytest.fixture(scope="module")
def keras_2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_by_keras_2(tmp_path_factory.mktemp("keras_2"))


KERAS_2_MODELS = ("tutorial", "sequential", "normalised", "layers_of_the_base", "preprocessed_by_a_lambda")


@pytest.mark.slow
class TestModelsSavedByKeras2:
    @pytest.mark.parametrize("suffix", [".h5", ".keras"])
    @pytest.mark.parametrize("name", KERAS_2_MODELS)
    def test_give_equal_logits(self, name: str, suffix: str, keras_2_folder: Path) -> None:
        ours, _ = load(keras_2_folder / f"{name}{suffix}")
        recorded = np.load(keras_2_folder / f"{name}.npz")
        images = torch.from_numpy(recorded["pixels"].transpose(0, 3, 1, 2))
        if name != "layers_of_the_base":
            images = ours.preprocessing.scale(images)
        with torch.inference_mode():
            logits, _ = ours(images, ())
        assert relative(logits, recorded["logits"]) <= 1e-4

    @pytest.mark.parametrize("name", ["tutorial_weights.h5", "tutorial.weights.h5"])
    def test_as_weights_of_a_partly_frozen_base_hold_equal_tensors(self, name: str, keras_2_folder: Path) -> None:
        whole, (ours, lines) = load(keras_2_folder / "tutorial.h5")[0], load(keras_2_folder / name)
        assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in whole.state_dict().items())
        assert any("sigmoid is assumed (--output replaces this)" in line for line in lines)
