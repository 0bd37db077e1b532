"""SavedModel folders and checkpoints of TensorFlow 2: the functions that they hold, and those that Keras 2 writes."""

import os
import struct
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import oracle_python, relative
from inception_v3.errors import InputError
from inception_v3.support.protocol_buffers import encode
from inception_v3.weights.formats import tensorflow_checkpoint
from inception_v3.weights.formats.function_graph import Evaluator, Functions, Layers, Operation
from inception_v3.weights.formats.keras_config import Call, ConfigurationError
from inception_v3.weights.formats.kinds import identify
from inception_v3.weights.formats.registry import recognise
from inception_v3.weights.load import load
from inception_v3.weights.model import InceptionV3
from inception_v3.weights.read import read_weights

VARIABLES = {
    "kernel": np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4),
    "matrix": np.ones((4, 2), np.float32),
    "beta": np.arange(4, dtype=np.float32),
    "mean": np.full(4, 2, np.float32),
    "variance": np.full(4, 3, np.float32),
    "bias": np.array([5, 6], np.float32),
}
FLOAT = encode(6, 1)  # AttrValue: DT_FLOAT


def integers(*values: int) -> bytes:
    """AttrValue: a list of integers."""
    return encode(1, b"".join(encode(3, value) if value else b"\x18\0" for value in values))


def constant(*values: float, dtype: int = 1) -> bytes:
    """AttrValue: a tensor, of rank 0 for one value."""
    shape = encode(2, encode(1, len(values))) if len(values) > 1 else b""
    stored = encode(5, struct.pack(f"<{len(values)}f", *values)) if dtype == 1 else encode(7, bytes(map(int, values)))
    return encode(8, encode(1, dtype) + encode(2, shape) + stored)


def node(name: str, kind: str, *inputs: str, **attributes: bytes) -> bytes:
    pairs = (encode(5, encode(1, key.encode()) + encode(2, value)) for key, value in attributes.items())
    return (
        encode(1, name.encode())
        + encode(2, kind.encode())
        + b"".join(encode(3, i.encode()) for i in inputs)
        + b"".join(pairs)
    )


def function(name: str, inputs: list[str], output: str, nodes: list[bytes]) -> bytes:
    arguments = b"".join(encode(2, encode(1, each.encode())) for each in inputs)
    signature = encode(1, name.encode()) + arguments + encode(3, encode(1, b"out"))
    returned = encode(4, encode(1, b"out") + encode(2, output.encode()))
    return encode(1, encode(1, signature) + b"".join(encode(3, each) for each in nodes) + returned)


NORMALISED = [
    node("epsilon", "Const", value=constant(0.001)),
    node("add", "AddV2", "variance", "epsilon:output:0"),
    node("root", "Rsqrt", "add:z:0"),
    node("product", "Mul", "image", "root:y:0"),
    node("shift", "Mul", "mean", "root:y:0"),
    node("offset", "Sub", "beta", "shift:z:0"),
    node("end", "AddV2", "product:z:0", "offset:z:0"),
]
FUSED = {"epsilon": b"\x25" + struct.pack("<f", 0.01), "is_training": b"\x28\0"}
SIZES = {"ksize": integers(1, 3, 3, 1), "strides": integers(1, 2, 2, 1), "padding": encode(2, b"VALID")}


def call(nodes: list[bytes], output: str = "end:z:0", more: bytes = b"") -> tuple[Call, Layers]:
    """The call of a layer to which the function with these nodes is translated."""
    names = ["image", *VARIABLES]
    inputs = [Operation("Image", "image", value=[None, 5, 5, 3])]
    inputs += [Operation("Variable", name, value=name) for name in VARIABLES]
    functions = Functions(memoryview(function("f", names, output, nodes) + more))
    layers = Layers(Evaluator(VARIABLES.__getitem__))
    return layers.call(functions.expand("f", inputs)[0]), layers


def described(nodes: list[bytes], output: str = "end:z:0") -> tuple[str, dict[str, Any]]:
    layer = call(nodes, output)[0].layer
    return layer.kind, layer.options


class TestOperationsOfAFunction:
    def test_of_batch_normalization_are_one_layer_with_its_variables(self) -> None:
        found, layers = call(NORMALISED)
        assert found.layer.kind == "BatchNormalization"
        assert found.layer.options == {"epsilon": 0.001, "scale": False, "center": True, "axis": -1}
        shapes: dict[str, tuple[int, ...] | None] = {"beta": (4,), "moving_mean": (4,), "moving_variance": (4,)}
        arrays = layers.read(found.layer, shapes)
        assert [array.tolist() for array in arrays] == [VARIABLES[n].tolist() for n in ("beta", "mean", "variance")]

    def test_with_another_scale_in_the_offset_are_not_batch_normalization(self) -> None:
        other = [*NORMALISED[:4], node("shift", "Mul", "mean", "variance"), *NORMALISED[5:]]
        assert described(other)[0] == "Add"

    def test_that_are_fused_have_their_epsilon(self) -> None:
        ones = node("ones", "Const", value=constant(1, 1, 1, 1))
        fused = node("end", "FusedBatchNormV3", "image", "ones:output:0", "beta", "mean", "variance", **FUSED)
        assert described([ones, fused], "end:y:0")[1] == {"epsilon": 0.01, "scale": False, "center": True, "axis": -1}

    def test_of_a_convolution_have_its_stride_and_padding(self) -> None:
        options = {"strides": integers(1, 2, 2, 1), "padding": encode(2, b"VALID"), "dilations": integers(1, 1, 1, 1)}
        kind, found = described([node("end", "Conv2D", "image", "kernel", **options)])
        assert kind == "Conv2D"
        assert (found["filters"], found["kernel_size"], found["strides"], found["padding"]) == (
            4,
            [1, 1],
            [2, 2],
            "valid",
        )

    def test_of_a_pool_have_its_window(self) -> None:
        kind, found = described([node("end", "AvgPool", "image", **SIZES)])
        assert (kind, found["pool_size"], found["strides"]) == ("AveragePooling2D", [3, 3], [2, 2])

    def test_of_a_matrix_and_a_bias_are_a_dense(self) -> None:
        nodes = [node("product", "MatMul", "image", "matrix"), node("end", "BiasAdd", "product:product:0", "bias")]
        found, layers = call(nodes, "end:output:0")
        assert (found.layer.kind, found.layer.options) == ("Dense", {"units": 2, "use_bias": True})
        assert layers.read(found.layer, {"kernel": (4, 2), "bias": (2,)})[1].tolist() == [5, 6]

    @pytest.mark.parametrize(
        ("nodes", "activation"),
        [
            ([node("end", "Elu", "image")], "elu"),
            ([node("s", "Sigmoid", "image"), node("end", "Mul", "image", "s:y:0")], "silu"),
            (
                [
                    node("half", "Const", value=constant(0.5)),
                    node("root", "Const", value=constant(2**0.5)),
                    node("one", "Const", value=constant(1)),
                    node("halved", "Mul", "half:output:0", "image"),
                    node("scaled", "RealDiv", "image", "root:output:0"),
                    node("erf", "Erf", "scaled:z:0"),
                    node("sum", "AddV2", "one:output:0", "erf:y:0"),
                    node("end", "Mul", "halved:z:0", "sum:z:0"),
                ],
                "gelu",
            ),
        ],
    )
    def test_of_an_activation_are_one_layer(self, nodes: list[bytes], activation: str) -> None:
        assert described(nodes) == ("Activation", {"activation": activation})

    def test_of_an_average_over_the_map_and_no_other(self) -> None:
        for axes, kind in (((1, 2), "GlobalAveragePooling2D"), ((1, 3), "TensorFlow's Mean")):
            nodes = [
                node("axes", "Const", value=constant(*axes, dtype=3)),
                node("end", "Mean", "image", "axes:output:0"),
            ]
            assert described(nodes)[0] == kind

    def test_in_a_called_function_are_found(self) -> None:
        inner = function("g", ["x"], "end:activations:0", [node("end", "Relu", "x")])
        calls = node("end", "StatefulPartitionedCall", "image", f=encode(10, encode(1, b"g")))
        assert call([calls], "end:output:0", inner)[0].layer.options == {"activation": "relu"}

    def test_that_no_layer_computes_keep_their_names(self) -> None:
        assert described([node("end", "MatrixSquareRoot", "image")])[0] == "TensorFlow's MatrixSquareRoot"

    def test_of_training_are_refused(self) -> None:
        axes = node("axes", "Const", value=constant(0, 1, dtype=3))
        random = node("end", "RandomUniform", "image")
        fused = node("end", "FusedBatchNormV3", "image", "beta", "beta", "mean", "variance")
        for nodes in ([axes, node("end", "Mean", "image", "axes:output:0")], [random], [fused]):
            with pytest.raises(ConfigurationError, match="computes as in training"):
                described(nodes, "end:y:0")

    @pytest.mark.parametrize(
        ("nodes", "fault"),
        [
            ([node("end", "Relu", "end:y:0")], "cycle"),
            ([node("end", "Relu", "missing:y:0")], "'missing' is missing"),
            ([node("end", "PartitionedCall", "image", *VARIABLES, f=encode(10, encode(1, b"f")))], "20 deep"),
        ],
    )
    def test_that_are_damaged_raise_value_errors(self, nodes: list[bytes], fault: str) -> None:
        with pytest.raises(ValueError, match=fault):
            described(nodes)


def saved_model(folder: Path, content: bytes, *, variables: bool = True) -> Path:
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(content)
    if variables:
        (folder / "variables").mkdir()
        tensorflow_checkpoint.write(folder / "variables" / "variables", {"kernel": VARIABLES["kernel"]})
    return folder


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_weights(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


OBJECTS = encode(7, encode(1, encode(4, b"")))


class TestFoldersThatCannotBeRead:
    def test_are_known_by_their_file(self, tmp_path: Path) -> None:
        folder = saved_model(tmp_path / "m", b"")
        assert recognise(folder).name == "saved-model"
        assert identify(folder).name == "a TensorFlow SavedModel"

    @pytest.mark.parametrize(
        ("content", "fault"),
        [
            (b"", "it holds no graph"),
            (b"\x12\xff", "damaged"),
            (encode(2, encode(2, b"")), "a SavedModel of TensorFlow 1"),
            (encode(2, OBJECTS), "its variables have no list of objects"),
        ],
    )
    def test_are_refused_in_one_line(self, content: bytes, fault: str, tmp_path: Path) -> None:
        message = refusal(saved_model(tmp_path / "m", content))
        assert message.startswith(f"{tmp_path}/m/saved_model.pb: ")
        assert fault in message

    def test_lack_their_variables(self, tmp_path: Path) -> None:
        message = refusal(saved_model(tmp_path / "m", encode(2, OBJECTS), variables=False))
        assert "its folder lacks variables/variables.index; copy the whole folder" in message

    def test_have_too_many_objects(self, tmp_path: Path) -> None:
        content = encode(2, encode(7, encode(1, b"\x12\0") * 300_000))
        assert "more than 100,000 parts" in refusal_with_objects(tmp_path, content)


def test_a_configuration_that_cannot_be_used_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function that serves predictions is read instead."""
    from inception_v3.weights.formats import saved_model as format_module

    read = (object(), ["a note"])
    config = {"layers": [], "input_layers": [["image", 0, 0]], "output_layers": [["missing", 0, 0]]}
    metadata = {0: {"class_name": "Functional", "config": config}}
    monkeypatch.setattr(format_module, "_metadata", lambda *_: metadata)
    monkeypatch.setattr(format_module, "_read_function", lambda *_: read)
    weights, notes = format_module._read_model(Path("saved_model.pb"), None)  # type: ignore[arg-type]
    assert (weights, notes[1:]) == (read[0], ["a note"])
    assert "is read, not the configuration: the configuration lacks the layer" in notes[0]


def refusal_with_objects(tmp_path: Path, content: bytes) -> str:
    """The refusal of a folder whose variables list objects."""
    folder = saved_model(tmp_path / "m", content)
    from inception_v3.weights.formats import saved_model as format_module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(format_module, "read_object_graph", lambda _: memoryview(b""))
        return refusal(folder)


# ------------------------------------------------------------------------------------------------------ Keras 2.12

KERAS_2 = """
import sys
import numpy as np
import tensorflow as tf
from tensorflow import keras
from tensorflow.keras import layers

folder, size = sys.argv[1], 139
application = keras.applications.InceptionV3


def whole():
    return application(weights=None, input_shape=(size, size, 3), classes=7)


def tutorial():
    images = keras.Input((size, size, 3))
    net = keras.applications.inception_v3.preprocess_input(layers.RandomFlip("horizontal")(images))
    net = application(weights=None, include_top=False, input_shape=(size, size, 3))(net, training=False)
    return keras.Model(images, layers.Dense(1)(layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(net))))


def sequential():
    base = application(weights=None, include_top=False, pooling="avg", input_shape=(size, size, 3))
    head = [layers.Dense(24, "relu"), layers.BatchNormalization(), layers.Dense(5)]
    return keras.Sequential([layers.Rescaling(1 / 255, input_shape=(size, size, 3)), base, *head])


rng = np.random.default_rng(0)
for build in (whole, tutorial, sequential):
    model, name = build(), build.__name__
    for variable in model.weights:
        kind = variable.name.split("/")[-1].split(":")[0]
        if "kernel" in kind:
            variable.assign(rng.normal(0, (2 / np.prod(variable.shape[:-1])) ** 0.5, variable.shape))
        elif kind in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif kind in ("beta", "bias", "moving_mean"):
            variable.assign(rng.normal(0, 0.1, variable.shape))
    model.save(f"{folder}/{name}_keras", save_format="tf")
    tf.saved_model.save(model, f"{folder}/{name}_function")
    model.save_weights(f"{folder}/{name}_weights")
    pixels = rng.uniform(0, 255, (2, size, size, 3)).astype("float32")
    outputs = model.predict(pixels / 127.5 - 1 if build is whole else pixels, verbose=0)
    np.savez(f"{folder}/{name}.npz", pixels=pixels, outputs=outputs)
"""


def save_by_keras_2(folder: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([oracle_python(), "-c", KERAS_2, str(folder)], check=True, capture_output=True, env=environment)


@pytest.fixture(scope="module")
def keras_2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keras_2")
    save_by_keras_2(folder)
    return folder


def outputs_of(model: InceptionV3, pixels: np.ndarray) -> np.ndarray:
    """Probabilities of the whole network, and the logits of the others, which end in a linear layer."""
    with torch.inference_mode():
        logits, _ = model(model.preprocessing.scale(torch.from_numpy(pixels.transpose(0, 3, 1, 2))), ())
    return logits.numpy()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*assumed:UserWarning")
class TestModelsSavedByKeras2:
    @pytest.mark.parametrize("form", ["keras", "function"])
    @pytest.mark.parametrize("name", ["whole", "tutorial", "sequential"])
    def test_give_equal_outputs(self, name: str, form: str, keras_2_folder: Path) -> None:
        recorded = np.load(keras_2_folder / f"{name}.npz")
        found = outputs_of(load(keras_2_folder / f"{name}_{form}"), recorded["pixels"])
        expected = np.log(recorded["outputs"]) if name == "whole" else recorded["outputs"]
        if name == "whole":
            found, expected = (each - each.mean(1, keepdims=True) for each in (found, expected))
        assert relative(found, expected) <= 1e-4

    @pytest.mark.parametrize("name", ["whole", "tutorial"])
    def test_hold_the_tensors_of_their_weights(self, name: str, keras_2_folder: Path) -> None:
        whole, weights = load(keras_2_folder / f"{name}_keras"), load(keras_2_folder / f"{name}_weights")
        assert all(torch.equal(tensor, weights.state_dict()[key]) for key, tensor in whole.state_dict().items())

    def test_as_weights_say_what_is_assumed(self, keras_2_folder: Path) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            load(keras_2_folder / "whole_weights")
        text = " ".join(str(each.message) for each in caught)
        assert "it holds weights only; average pooling and softmax outputs are assumed; --output replaces" in text
        assert "299x299 is assumed" in text

    def test_as_weights_with_hidden_layers_are_refused(self, keras_2_folder: Path) -> None:
        with pytest.raises(InputError, match="besides Inception V3 and one Dense layer, and no configuration"):
            load(keras_2_folder / "sequential_weights")
