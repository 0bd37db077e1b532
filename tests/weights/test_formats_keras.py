"""The files of Keras Applications, compared with Keras 3 itself (on its PyTorch backend, in this process)."""

import os

os.environ["KERAS_BACKEND"] = "torch"  # read once, when Keras is imported

import dataclasses
import io
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
import torch
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

from conftest import randomise, relative
from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.architecture import MODULES
from inception_v3.weights.formats import keras as keras_format
from inception_v3.weights.model import InceptionV3
from inception_v3.weights.read import Origin

MIXED = {module.name: f"mixed{number}" for number, module in enumerate(MODULES)}
FORMS = ("legacy.h5", "keras_2.h5", "whole.h5", "v3.weights.h5", "zip.keras")
CLASSES = 7
pytestmark = pytest.mark.filterwarnings("ignore:.*(images are scaled|softmax is assumed):UserWarning")


def keras_network(seed: int | None = 0, **options: object) -> keras.Model:
    """A network with random variables, BatchNorm's statistics too; `seed=None` keeps Keras's own initial values."""
    top = {"classes": CLASSES, "classifier_activation": None} if options.get("include_top", True) else {}
    model = keras.applications.InceptionV3(weights=None, **top, **options)
    if seed is not None:
        rng = np.random.default_rng(seed)
        for variable in model.variables:
            shape = variable.shape
            if variable.name == "kernel":
                values = rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape)
            elif variable.name == "moving_variance":
                values = rng.uniform(0.5, 1.5, shape)
            else:
                values = rng.normal(0, 0.1, shape)
            variable.assign(values)
    return model


def save_as(model: keras.Model, path: Path) -> Path:
    """Save in the form that the file's name stands for. All but Keras 2's form are written by Keras itself."""
    if path.name == "legacy.h5":
        with h5py.File(path, "w") as file:
            save_weights_to_hdf5_group(file, model)
    elif path.name == "keras_2.h5":
        save_as_keras_2(model, path)
    elif path.name == "v3.weights.h5":
        model.save_weights(path)
    else:
        model.save(path)
    return path


def save_as_keras_2(model: keras.Model, path: Path) -> None:
    """The form of the published files: every layer is listed, and variables are called `conv2d_95/kernel:0`."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        file.attrs["keras_version"] = b"2.0.4"
        file.attrs["backend"] = b"tensorflow"
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{variable.name}:0" for variable in layer.weights]
            group.attrs["weight_names"] = np.array(names, "S")
            for name, variable in zip(names, layer.weights, strict=True):
                group[name] = keras.ops.convert_to_numpy(variable)


def keras_outputs(model: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """The end points under our names, in NCHW, and the logits if there are any."""
    outputs = {ours: model.get_layer(theirs).output for ours, theirs in MIXED.items()}
    if model.layers[-1].name == "predictions":
        outputs["Logits"] = model.output
    values = keras.Model(model.inputs, outputs).predict(images, verbose=0)
    return {name: value.transpose(0, 3, 1, 2) if value.ndim == 4 else value for name, value in values.items()}


def largest_difference(ours: InceptionV3, theirs: keras.Model, height: int, width: int) -> float:
    """The largest of the logits and of mixed0 to mixed10, on two random images."""
    dtype = next(ours.parameters()).dtype
    images = torch.rand(2, 3, height, width, dtype=dtype) * 2 - 1
    expected = keras_outputs(theirs, images.permute(0, 2, 3, 1).numpy())
    with torch.inference_mode():
        _, end_points = ours(images, end_points=list(expected))
    assert set(end_points) == set(expected) >= set(MIXED)
    return max(relative(end_points[name], expected[name]) for name in expected)


def load(path: Path) -> InceptionV3:
    assert keras_format.recognises(path)
    return InceptionV3.from_weights(keras_format.read(path), Origin("", path, "keras"))


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def second_network() -> keras.Model:
    """A network that is not the first of this process, so that its layers' numbers continue those of another."""
    keras.utils.clear_session()  # forget the networks of other tests
    keras_network(None)
    model = keras_network()
    assert "conv2d_94" in {layer.name for layer in model.layers}
    assert "conv2d" not in {layer.name for layer in model.layers}
    return model


@pytest.fixture(scope="module")
def files(second_network: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keras")
    return {name: save_as(second_network, folder / name) for name in FORMS}


@pytest.fixture(scope="module")
def without_top(tmp_path_factory: pytest.TempPathFactory) -> tuple[keras.Model, dict[str, Path]]:
    model = keras_network(3, include_top=False, input_shape=(None, None, 3), pooling="avg")
    folder = tmp_path_factory.mktemp("without_top")
    return model, {name: save_as(model, folder / name) for name in FORMS}


@contextmanager
def float64_throughout(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let Keras compute everything in float64. Its BatchNorm and means cast to float32 whatever the policy is."""
    for module in (keras.src.backend, keras.src.backend.common.dtypes):
        monkeypatch.setattr(module, "result_type", lambda *dtypes: "float64")
    for dtype in ("float64", "float32"):  # Keras reads the policy only once, for the first layer
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)
        if dtype == "float64":
            yield


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with float64_throughout(monkeypatch):
        yield


def full_size_model(seed: int = 1, **options: object) -> InceptionV3:
    settings = {"num_classes": CLASSES, "create_aux_logits": False, "global_pool": True} | options
    model = InceptionV3(**settings)
    randomise(model, seed)
    return model.eval()


class TestFilesSavedByKeras:
    def test_give_equal_outputs_here(self, second_network: keras.Model, files: dict[str, Path]) -> None:
        assert largest_difference(load(files["legacy.h5"]), second_network, 299, 299) <= 1e-4

    @pytest.mark.parametrize("form", FORMS)
    def test_hold_equal_tensors_in_every_form(self, form: str, files: dict[str, Path]) -> None:
        assert same(keras_format.read(files[form]).tensors, keras_format.read(files["legacy.h5"]).tensors)

    @pytest.mark.parametrize(("height", "width"), [(139, 203), (299, 299)])
    def test_without_top_give_equal_outputs_at_any_size(
        self, height: int, width: int, without_top: tuple[keras.Model, dict[str, Path]]
    ) -> None:
        theirs, saved = without_top
        assert largest_difference(load(saved["v3.weights.h5"]), theirs, height, width) <= 1e-4

    @pytest.mark.parametrize("form", FORMS)
    def test_without_top_are_the_network_up_to_its_last_map(
        self, form: str, without_top: tuple[keras.Model, dict[str, Path]]
    ) -> None:
        saved = without_top[1]
        weights = keras_format.read(saved[form])
        assert weights.settings.final_endpoint == "Mixed_7c"
        assert same(weights.tensors, keras_format.read(saved["v3.weights.h5"]).tensors)

    @pytest.mark.usefixtures("in_float64")
    def test_in_float64_give_outputs_equal_to_1e_9(self, tmp_path: Path) -> None:
        theirs = keras_network(5)
        ours = load(save_as(theirs, tmp_path / "v3.weights.h5"))
        assert ours.Conv2d_1a_3x3.weights.dtype == torch.float64
        assert largest_difference(ours, theirs, 299, 299) <= 1e-9

    def test_are_read_with_keras_settings_and_preprocessing(self, files: dict[str, Path]) -> None:
        weights = keras_format.read(files["v3.weights.h5"])
        model = load(files["v3.weights.h5"])
        assert weights.preprocessing == Preprocessing.named("keras")
        assert weights.class_names is None
        assert model.settings.num_classes == CLASSES
        assert model.AuxLogits is None
        assert model.settings.global_pool
        assert not model.settings.count_padding
        assert keras_format.differences(model.to_weights()) == []

    def test_with_1000_classes_have_imagenet_class_names(self, tmp_path: Path) -> None:
        keras_format.write(full_size_model(num_classes=1000).to_weights(), tmp_path / "imagenet.h5")
        names = keras_format.read(tmp_path / "imagenet.h5").class_names
        assert names is not None
        assert (len(names), names[0], names[999]) == (1000, "tench", "toilet tissue")

    def test_in_a_zip_with_a_configuration_that_is_not_json_are_refused(
        self, files: dict[str, Path], tmp_path: Path
    ) -> None:
        with zipfile.ZipFile(files["zip.keras"]) as old, zipfile.ZipFile(tmp_path / "x.keras", "w") as new:
            new.writestr("config.json", '{"class_name": "Lambda", "config": "code that must not run"')
            new.writestr("model.weights.h5", old.read("model.weights.h5"))
        assert "its configuration is not JSON" in refusal(tmp_path / "x.keras")

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
    def test_in_half_precision_become_float32(
        self, dtype: type, files: dict[str, Path], edited: Callable[..., Path]
    ) -> None:
        def halve(file: h5py.File) -> None:
            values = file["layers/conv2d/vars/0"][()].astype(dtype)
            replace(file, "layers/conv2d/vars/0", values)
            if dtype is not np.float16:
                file["layers/conv2d/vars/0"].attrs["dtype"] = "bfloat16"  # Keras stores this attribute

        read = keras_format.read(edited("v3.weights.h5", halve)).tensors
        whole = keras_format.read(files["v3.weights.h5"]).tensors
        name = "Conv2d_1a_3x3.weights"
        assert {tensor.dtype for tensor in read.values()} == {torch.float32}
        expected = whole[name].numpy().astype(dtype).astype(np.float32)
        assert np.array_equal(read[name].numpy(), expected)


class TestFilesWrittenHere:
    @pytest.fixture(scope="class")
    @classmethod
    def model(cls) -> InceptionV3:
        return full_size_model()

    @pytest.mark.parametrize("name", ["ours.h5", "ours.weights.h5"])
    def test_give_equal_outputs_in_keras(self, name: str, model: InceptionV3, tmp_path: Path) -> None:
        keras_format.write(model.to_weights(), tmp_path / name)
        theirs = keras_network(None)  # its layers' numbers continue those of other models
        theirs.load_weights(tmp_path / name)
        assert largest_difference(model, theirs, 299, 299) <= 1e-4

    def test_with_hidden_layers_are_whole_models_that_keras_loads(self, tmp_path: Path) -> None:
        head = {"hidden_units": (6, 4), "hidden_activation": ("silu", "tanh"), "hidden_batch_norm": "before"}
        model = full_size_model(**head, output_activation="sigmoid", image_size=139, batch_norm_scale=True)
        keras_format.write(model.to_weights(), tmp_path / "ours.h5")
        theirs = keras.models.load_model(tmp_path / "ours.h5", compile=False)
        images = torch.rand(2, 3, 139, 139) * 2 - 1
        with torch.inference_mode():
            _, ours = model(images, ["Predictions"])
            _, again = load(tmp_path / "ours.h5")(images, ["Predictions"])
        assert relative(ours["Predictions"], theirs.predict(images.permute(0, 2, 3, 1).numpy(), verbose=0)) <= 1e-4
        assert relative(ours["Predictions"], again["Predictions"]) <= 1e-5
        with pytest.raises(InputError, match=r"let its name end in \.h5"):
            keras_format.write(model.to_weights(), tmp_path / "ours.weights.h5")

    @pytest.mark.parametrize("mean", [(0.0, 0.0, 0.0), (0.485, 0.456, 0.406)])
    def test_of_another_range_of_images_are_whole_models_that_take_pixels(
        self, mean: tuple[float, float, float], tmp_path: Path
    ) -> None:
        model = full_size_model(image_size=139, num_classes=5)
        model.preprocessing = dataclasses.replace(
            Preprocessing.named("keras", 139), mean=mean, std=tuple(1 - m for m in mean)
        )
        assert keras_format.differences(model.to_weights()) == []
        keras_format.write(model.to_weights(), tmp_path / "ours.h5")
        theirs, again = keras.models.load_model(tmp_path / "ours.h5", compile=False), load(tmp_path / "ours.h5")
        pixels = torch.randint(256, (2, 3, 139, 139)).float()
        with torch.inference_mode():
            _, ours = model(model.preprocessing.scale(pixels), ["Predictions"])
        assert relative(ours["Predictions"], theirs.predict(pixels.permute(0, 2, 3, 1).numpy(), verbose=0)) <= 1e-4
        assert again.preprocessing.mean == pytest.approx(mean, abs=1e-6)
        assert again.preprocessing.image_size == (139, 139)
        with pytest.raises(InputError, match=r"cannot hold images in another range than \[-1, 1\]"):
            keras_format.write(model.to_weights(), tmp_path / "ours.weights.h5")

    @pytest.mark.parametrize("name", ["ours.h5", "ours.weights.h5"])
    def test_without_logits_are_loaded_by_keras_without_top(self, name: str, tmp_path: Path) -> None:
        model = full_size_model(final_endpoint="Mixed_7c")
        keras_format.write(model.to_weights(), tmp_path / name)
        theirs = keras_network(None, include_top=False, input_shape=(None, None, 3))
        theirs.load_weights(tmp_path / name)
        assert largest_difference(model, theirs, 139, 203) <= 1e-4

    @pytest.mark.parametrize("name", ["ours.h5", "ours.weights.h5"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_are_read_back_bit_for_bit(self, name: str, dtype: torch.dtype, model: InceptionV3, tmp_path: Path) -> None:
        written = full_size_model().double() if dtype == torch.float64 else model
        keras_format.write(written.to_weights(), tmp_path / name)
        assert same(keras_format.read(tmp_path / name).tensors, written.state_dict())

    @pytest.mark.parametrize(("form", "name"), [("legacy.h5", "ours.h5"), ("v3.weights.h5", "ours.weights.h5")])
    def test_give_keras_its_own_weights_back_bit_for_bit(
        self, form: str, name: str, second_network: keras.Model, files: dict[str, Path], tmp_path: Path
    ) -> None:
        keras_format.write(load(files[form]).to_weights(), tmp_path / name)
        theirs = keras_network(None)
        theirs.load_weights(tmp_path / name)
        pairs = zip(theirs.get_weights(), second_network.get_weights(), strict=True)
        assert all(np.array_equal(left, right) for left, right in pairs)

    def test_list_the_layers_in_the_order_of_keras(
        self, model: InceptionV3, second_network: keras.Model, tmp_path: Path
    ) -> None:
        def first_numbers(names: list[str]) -> list[str]:
            kinds = {name: name.rpartition("_")[0] if name[-1].isdigit() else name for name in names}
            numbers = {name: int(name.rpartition("_")[2]) if name[-1].isdigit() else 0 for name in names}
            lowest = {kind: min(numbers[name] for name in names if kinds[name] == kind) for kind in kinds.values()}
            return [f"{kinds[name]} {numbers[name] - lowest[kinds[name]]}" for name in names]

        keras_format.write(model.to_weights(), tmp_path / "ours.h5")
        with h5py.File(tmp_path / "ours.h5") as file:
            written = [name.decode().replace("conv2d_0", "conv2d") for name in file.attrs["layer_names"]]
        theirs = [layer.name for layer in second_network.layers if layer.weights]
        assert first_numbers(written) == first_numbers(theirs)
        assert {"conv2d", "conv2d_93", "batch_normalization", "predictions"} <= set(written)

    def test_leave_the_auxiliary_head_out(self, tmp_path: Path) -> None:
        model = full_size_model(create_aux_logits=True)
        keras_format.write(model.to_weights(), tmp_path / "ours.h5")
        read = keras_format.read(tmp_path / "ours.h5")
        assert same(read.tensors, {k: v for k, v in model.state_dict().items() if not k.startswith("AuxLogits")})

    def test_have_a_gamma_of_any_sign_folded_into_the_kernels(self, tmp_path: Path) -> None:
        model = full_size_model(batch_norm_scale=True).double()
        with torch.no_grad():
            for name, gamma in model.state_dict().items():
                if name.endswith("gamma"):
                    gamma[:3] = torch.tensor([-1.5, 0.0, 1.0])
        keras_format.write(model.to_weights(), tmp_path / "ours.weights.h5")
        images = torch.rand(1, 3, 139, 203, dtype=torch.float64) * 2 - 1
        with torch.inference_mode():
            folded, _ = load(tmp_path / "ours.weights.h5")(images, end_points=())
            whole, _ = model(images, end_points=())
        assert relative(folded, whole) <= 1e-9

    def test_replace_an_older_file_only_when_they_are_complete(
        self, model: InceptionV3, random_model: Callable[..., InceptionV3], tmp_path: Path
    ) -> None:
        path = tmp_path / "ours.h5"
        path.write_bytes(b"what was there")
        with pytest.raises(InputError, match=r"ours\.h5: Keras has other widths than this model"):
            keras_format.write(random_model().to_weights(), path)
        with pytest.raises(InputError, match=r"Keras needs Mixed_5c.*, which this model lacks"):
            keras_format.write(full_size_model(final_endpoint="Mixed_5b").to_weights(), path)
        assert path.read_bytes() == b"what was there"
        keras_format.write(model.to_weights(), path)
        assert keras_format.recognises(path)
        assert list(tmp_path.iterdir()) == [path]

    def test_are_refused_in_one_line_if_the_path_cannot_be_written(self, model: InceptionV3, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="cannot be written"):
            keras_format.write(model.to_weights(), tmp_path / "file" / "ours.h5")


class TestReasonsWhyKerasWouldComputeOtherOutputs:
    def test_no_reason_for_a_network_that_keras_can_build(self, random_model: Callable[..., InceptionV3]) -> None:
        standard = {"depth_multiplier": 1.0, "min_depth": 16, "image_size": 299}
        model = random_model(**standard, create_aux_logits=True, batch_norm_scale=True)
        assert keras_format.differences(model.to_weights()) == []

    @pytest.mark.parametrize(
        ("option", "reason"),
        [
            ({"count_padding": True}, "padding"),
            ({"mixed_7c_pool": "max"}, "max"),
            ({"batch_norm_epsilon": 1e-5}, "epsilon"),
            ({"depth_multiplier": 0.5}, "widths"),
            ({"min_depth": 48}, "widths"),
            ({"final_endpoint": "Mixed_6e"}, "Mixed_6e"),
        ],
    )
    def test_one_reason_for_each_setting(self, option: dict[str, object], reason: str) -> None:
        with torch.device("meta"):
            model = InceptionV3(**option)
        (message,) = keras_format.differences(model.to_weights())
        assert reason in message
        assert "\n" not in message

    @pytest.mark.parametrize("scaling", [{"mean": (0.485, 0.456, 0.406)}, {"std": (0.229, 0.224, 0.225)}])
    def test_another_scaling_of_the_images_is_no_reason_because_it_is_written_as_a_layer(
        self, scaling: dict[str, tuple[float, float, float]]
    ) -> None:
        with torch.device("meta"):
            model = InceptionV3()
        model.preprocessing = Preprocessing(**scaling)
        assert keras_format.differences(model.to_weights()) == []


def replace(file: h5py.File, name: str, values: np.ndarray) -> None:
    del file[name]
    file[name] = values


@pytest.fixture
def edited(files: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """Copy one of the files and change the copy with a function."""

    def edit(form: str, change: Callable[[h5py.File], None]) -> Path:
        path = tmp_path / form
        shutil.copy(files[form], path)
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    return edit


def refusal(path: Path) -> str:
    """The one-line message with which reading the file fails."""
    with pytest.raises(InputError) as caught:
        keras_format.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    return message.removeprefix(f"{path}: ")


class TestRecognising:
    @pytest.mark.parametrize("form", FORMS)
    def test_uses_the_content_and_not_the_name(self, form: str, files: dict[str, Path], tmp_path: Path) -> None:
        (tmp_path / "model.bin").symlink_to(files[form])
        assert keras_format.recognises(tmp_path / "model.bin")

    def test_returns_false_for_any_other_file(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "measurements.h5", "w") as file:
            file["temperature"] = np.zeros(3)
        torch.save({"weights": torch.zeros(3)}, tmp_path / "state.pth")
        (tmp_path / "text.keras").write_text("layers")
        (tmp_path / "empty.h5").touch()
        for path in (*tmp_path.iterdir(), tmp_path, tmp_path / "absent.h5"):
            assert not keras_format.recognises(path), path

    def test_works_without_h5py_and_reading_and_writing_say_what_to_install(
        self, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "h5py", None)
        assert keras_format.recognises(files["legacy.h5"])
        for attempt in (
            lambda: keras_format.read(files["legacy.h5"]),
            lambda: keras_format.write(full_size_model().to_weights(), tmp_path / "ours.h5"),
        ):
            with pytest.raises(InputError, match=r"pip install .*\[keras\]'") as caught:
                attempt()
            assert caught.value.exit_status == 2


class TestBadFiles:
    """Each is refused in one line that names the file and the variable."""

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("fraction", [0.001, 0.5, 0.999])
    def test_truncated(self, form: str, fraction: float, files: dict[str, Path], tmp_path: Path) -> None:
        content = files[form].read_bytes()
        (tmp_path / form).write_bytes(content[: int(fraction * len(content))])
        assert "cannot be read" in refusal(tmp_path / form)

    @pytest.mark.parametrize("form", ["legacy.h5", "v3.weights.h5"])
    def test_with_flipped_bits(self, form: str, files: dict[str, Path], tmp_path: Path) -> None:
        """HDF5 has no checksum, so a flip in the values may pass unnoticed. Reading raises only InputError."""
        content, refused = bytearray(files[form].read_bytes()), 0
        for position in [*range(8, 96, 8), *range(100, 4000, 250)]:
            content[position] ^= 0x55
            (tmp_path / form).write_bytes(content)
            try:
                keras_format.read(tmp_path / form)
            except InputError:
                refused += 1
            content[position] ^= 0x55
        assert refused >= 5

    def test_of_many_groups(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "x.weights.h5", "w", libver="latest") as file:
            for number in range(10_001):
                file.create_group(f"layers/conv2d_{number}")
        assert "it has more than 10,000 objects in /layers; the file is damaged" in refusal(tmp_path / "x.weights.h5")

    def test_zip_with_flipped_bits(self, files: dict[str, Path], tmp_path: Path) -> None:
        """A zip has checksums, so that a flip in the values is noticed too."""
        content = bytearray(files["zip.keras"].read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "zip.keras").write_bytes(content)
        assert "Bad CRC-32" in refusal(tmp_path / "zip.keras")

    def test_zip_that_declares_more_than_it_holds(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("config.json", "{}")
            archive.writestr("model.weights.h5", bytes(1 << 26))
        assert keras_format.recognises(tmp_path / "bomb.keras")
        assert "model.weights.h5 in it declares 67108864 bytes" in refusal(tmp_path / "bomb.keras")

    def test_huge_declared_head(self, edited: Callable[..., Path]) -> None:
        def declare(file: h5py.File) -> None:
            del file["layers/dense/vars/0"]
            file.create_dataset("layers/dense/vars/0", (2048, 10**9), "f4", chunks=(2048, 1))

        assert "/layers/dense/vars/0 declares 8192000000000 bytes" in refusal(edited("v3.weights.h5", declare))

    def test_huge_declared_kernel(self, edited: Callable[..., Path]) -> None:
        def declare(file: h5py.File) -> None:
            del file["layers/conv2d/vars/0"]
            file.create_dataset("layers/conv2d/vars/0", (3, 3, 3, 10**11), "f4", chunks=(3, 3, 3, 1))

        assert "/layers/conv2d/vars/0 has shape (3, 3, 3, 100000000000)" in refusal(edited("v3.weights.h5", declare))

    def test_huge_declared_chunk(self, edited: Callable[..., Path]) -> None:
        def declare(file: h5py.File) -> None:
            beta = "layers/batch_normalization/vars/0"
            del file[beta]
            file.create_dataset(beta, (32,), "f4", np.ones(32), maxshape=(None,), chunks=(10**7,), compression="gzip")

        assert "/layers/batch_normalization/vars/0 declares" in refusal(edited("v3.weights.h5", declare))

    @pytest.mark.parametrize(
        ("form", "variable", "named"),
        [
            ("v3.weights.h5", "layers/conv2d_17", "layers"),
            ("v3.weights.h5", "layers/conv2d_17/vars/0", "layers/conv2d_17 holds 0 variables"),
            ("v3.weights.h5", "layers/batch_normalization_5/vars/1", "layers/batch_normalization_5 holds 2 variables"),
            ("v3.weights.h5", "layers/dense/vars/1", "layers/dense holds 1 variables"),
            ("keras_2.h5", "conv2d_110/conv2d_110/kernel:0", "it lacks conv2d_110/kernel:0"),
            ("keras_2.h5", "conv2d_110", "it lacks conv2d_110"),
        ],
    )
    def test_missing_variable(self, form: str, variable: str, named: str, edited: Callable[..., Path]) -> None:
        def remove(file: h5py.File) -> None:
            del file[variable]

        message = refusal(edited(form, remove))
        assert named in message
        assert "not Keras's Inception V3, or damaged" in message

    def test_layer_missing_from_the_list(self, edited: Callable[..., Path]) -> None:
        def cut(file: h5py.File) -> None:
            file.attrs["layer_names"] = file.attrs["layer_names"][:-20]

        assert re.search(r"lacks (conv2d|batch_normalization) number \d+", refusal(edited("legacy.h5", cut)))

    def test_extra_layer(self, edited: Callable[..., Path]) -> None:
        def add(file: h5py.File) -> None:
            file["layers/dense_1/vars/0"] = np.zeros((7, 7))

        def append(file: h5py.File) -> None:
            file.copy("predictions", "second")
            file.attrs["layer_names"] = np.array([*file.attrs["layer_names"], "second"], "S")

        assert "it has layers/dense_1" in refusal(edited("v3.weights.h5", add))
        assert "it has second after the last layer" in refusal(edited("legacy.h5", append))

    def test_extra_variable(self, edited: Callable[..., Path]) -> None:
        def add_bias(file: h5py.File) -> None:
            file["layers/conv2d/vars/1"] = np.zeros(32)

        assert "layers/conv2d holds 2 variables" in refusal(edited("v3.weights.h5", add_bias))

    @pytest.mark.parametrize("shape", [(3, 3, 32, 64), (9, 32, 32), ()])
    def test_wrong_shape(self, shape: tuple[int, ...], edited: Callable[..., Path]) -> None:
        message = refusal(
            edited("v3.weights.h5", lambda file: replace(file, "layers/conv2d_1/vars/0", np.ones(shape, "f4")))
        )
        assert "/layers/conv2d_1/vars/0 has shape" in message
        assert "but conv2d number 2 (Conv2d_2a_3x3) has (3, 3, 32, 32)" in message

    def test_head_with_different_numbers_of_classes_in_kernel_and_bias(self, edited: Callable[..., Path]) -> None:
        message = refusal(edited("v3.weights.h5", lambda file: replace(file, "layers/dense/vars/1", np.ones(8))))
        assert "/layers/dense/vars/1 has shape (8,)" in message

    def test_group_instead_of_a_variable(self, edited: Callable[..., Path]) -> None:
        def replace_by_group(file: h5py.File) -> None:
            del file["layers/conv2d/vars/0"]
            file.create_group("layers/conv2d/vars/0")

        assert "/layers/conv2d/vars/0 has shape" in refusal(edited("v3.weights.h5", replace_by_group))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_nan_and_infinity(self, value: float, edited: Callable[..., Path]) -> None:
        def spoil(file: h5py.File) -> None:
            file["layers/batch_normalization_3/vars/2"][5] = value

        message = refusal(edited("v3.weights.h5", spoil))
        assert "/layers/batch_normalization_3/vars/2 holds NaN or infinity" in message

    def test_quantised_values(self, edited: Callable[..., Path]) -> None:
        whole = np.ones((3, 3, 3, 32), np.int8)
        message = refusal(edited("v3.weights.h5", lambda file: replace(file, "layers/conv2d/vars/0", whole)))
        assert "/layers/conv2d/vars/0 holds int8" in message

    def test_names_with_control_characters(self, edited: Callable[..., Path]) -> None:
        def name_badly(file: h5py.File) -> None:
            file.attrs["layer_names"] = [b"conv\n\x1b[2J2d"]

        assert r"conv \x1b[2J2d" in refusal(edited("keras_2.h5", name_badly))

    @pytest.mark.parametrize("form", ["legacy.h5", "v3.weights.h5"])
    def test_of_another_network(self, form: str, tmp_path: Path) -> None:
        resnet = keras.applications.ResNet50(weights=None, classes=CLASSES)
        message = refusal(save_as(resnet, tmp_path / form))
        assert message.startswith("not Keras's Inception V3")

    def test_missing_file(self, tmp_path: Path) -> None:
        assert "check the path" in refusal(tmp_path / "absent.h5")


class TestFilesThatPointElsewhere:
    """HDF5 can refer to other files on this machine for its values; none of them is opened."""

    @pytest.fixture
    def elsewhere(self, tmp_path: Path) -> Path:
        with h5py.File(tmp_path / "elsewhere.h5", "w") as file:
            file["secret"] = np.ones((3, 3, 3, 32), "f4")
            file.create_group("layers")
        return tmp_path / "elsewhere.h5"

    @pytest.mark.parametrize("target_name", ["layers/conv2d/vars/0", "layers/conv2d/vars", "layers/conv2d", "layers"])
    @pytest.mark.parametrize("kind", ["external", "soft"])
    def test_by_a_link(self, target_name: str, kind: str, elsewhere: Path, edited: Callable[..., Path]) -> None:
        def link(file: h5py.File) -> None:
            file.move(target_name, "moved")
            target = h5py.ExternalLink(str(elsewhere), "/secret") if kind == "external" else h5py.SoftLink("/moved")
            file[target_name] = target

        path = edited("v3.weights.h5", link)
        assert keras_format.recognises(path)
        assert f"{target_name.rpartition('/')[2]} in /" in (message := refusal(path))
        assert "is a link, which is not followed" in message

    def test_by_a_link_to_the_layers_of_a_legacy_file(self, elsewhere: Path, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "linked.h5", "w") as file:
            file["model_weights"] = h5py.ExternalLink(str(elsewhere), "/layers")
        assert "model_weights in / is a link" in refusal(tmp_path / "linked.h5")

    def test_by_external_storage(self, edited: Callable[..., Path], tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(bytes(3 * 3 * 3 * 32 * 4))

        def point(file: h5py.File) -> None:
            del file["layers/conv2d/vars/0"]
            secret = [(str(tmp_path / "secret"), 0, 3456)]
            file.create_dataset("layers/conv2d/vars/0", (3, 3, 3, 32), "f4", external=secret)

        assert "/layers/conv2d/vars/0 keeps its values in another file" in refusal(edited("v3.weights.h5", point))

    def test_by_a_virtual_dataset(self, elsewhere: Path, edited: Callable[..., Path]) -> None:
        def point(file: h5py.File) -> None:
            del file["layers/conv2d/vars/0"]
            layout = h5py.VirtualLayout((3, 3, 3, 32), "f4")
            layout[:] = h5py.VirtualSource(str(elsewhere), "secret", (3, 3, 3, 32))
            file.create_virtual_dataset("layers/conv2d/vars/0", layout)

        assert "/layers/conv2d/vars/0 keeps its values in another file" in refusal(edited("v3.weights.h5", point))

    def test_in_a_zip(self, elsewhere: Path, tmp_path: Path, files: dict[str, Path]) -> None:
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            file["layers"] = h5py.ExternalLink(str(elsewhere), "/layers")
        with zipfile.ZipFile(tmp_path / "linked.keras", "w") as archive:
            with zipfile.ZipFile(files["zip.keras"]) as whole:
                archive.writestr("config.json", whole.read("config.json"))
            archive.writestr("model.weights.h5", buffer.getvalue())
        assert "layers in / is a link" in refusal(tmp_path / "linked.keras")
