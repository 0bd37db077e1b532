"""TensorFlow.js layers models: written and read back here, and (slow) compared with TensorFlow.js itself in Node."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import inception_v3
from conftest import randomise
from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.weights.formats import tensorflowjs
from inception_v3.weights.model import InceptionV3
from inception_v3.weights.programs import node
from inception_v3.weights.programs.program import MissingProgramError

SIZE = 107
TRAINED = Path(__file__).parents[3] / "shared" / "trained" / "model.json"
PHOTOS = TRAINED.parents[1] / "photos"
OPTIONS: dict[str, Any] = {
    "depth_multiplier": 0.25,
    "image_size": SIZE,
    "create_aux_logits": False,
    "global_pool": True,
    "num_classes": 3,
}


def thin_model(**options: Any) -> InceptionV3:
    model = InceptionV3(**OPTIONS | options).eval()
    randomise(model, 3)
    return model


HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sigmoid": {"num_classes": 1, "output_activation": "sigmoid"},
    "no activation": {"output_activation": "none"},
    "hidden": {"hidden_units": (12, 8), "hidden_activation": ("gelu", "silu"), "hidden_batch_norm": "before"},
    "hidden after": {"hidden_units": (12,), "hidden_batch_norm": "after", "hidden_dropout_keep_prob": 0.5},
    "gamma": {"batch_norm_scale": True},
    "features": {"final_endpoint": "Mixed_6b"},
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = thin_model()
    model.class_names = ["a", "b", "c"]
    model.preprocessing = Preprocessing(image_size=(SIZE, SIZE), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    path = tmp_path_factory.mktemp("original") / "model.json"
    inception_v3.save(model, path, "tensorflowjs", allow_difference=True)
    return path


@pytest.fixture
def written(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original.parent, tmp_path / "copy") / "model.json"


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    model = json.loads(path.read_text())
    change(model)
    path.write_text(json.dumps(model))
    return path


def manifest(model: dict[str, Any]) -> dict[str, Any]:
    group: dict[str, Any] = model["weightsManifest"][0]
    return group


def quantise(path: Path, dtype: str) -> None:
    """Store every tensor of a file quantised, as TensorFlow.js's converter does."""
    model = json.loads(path.read_text())
    group = manifest(model)
    content = b"".join((path.parent / shard).read_bytes() for shard in group["paths"])
    values, offset, stored = np.frombuffer(content, "<f4"), 0, []
    for entry in group["weights"]:
        tensor = values[offset : offset + int(np.prod(entry["shape"]))].astype(np.float64)
        offset += tensor.size
        entry["quantization"] = {"dtype": dtype, "original_dtype": "float32"}
        if dtype == "float16":
            stored.append(tensor.astype("<f2").tobytes())
            continue
        levels = np.iinfo(dtype).max
        scale = float((tensor.max() - tensor.min()) / levels or 1)
        entry["quantization"] |= {"min": float(tensor.min()), "scale": scale}
        stored.append(np.round((tensor - tensor.min()) / scale).astype(f"<u{np.dtype(dtype).itemsize}").tobytes())
    group["paths"] = ["all.bin"]
    (path.parent / "all.bin").write_bytes(b"".join(stored))
    path.write_text(json.dumps(model))


def refusal(path: Path) -> str:
    """The one-line message with which reading the file fails."""
    assert tensorflowjs.recognises(path)
    with pytest.raises(InputError) as caught:
        tensorflowjs.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    return message.removeprefix(f"{path}: ")


class TestFilesWrittenHere:
    @pytest.mark.parametrize("head", HEADS)
    def test_are_read_back_bit_for_bit(self, head: str, tmp_path: Path) -> None:
        model = thin_model(**HEADS[head])
        inception_v3.save(model, tmp_path / "model.json", "tensorflowjs")
        read = inception_v3.load(tmp_path / "model.json")
        assert all(torch.equal(tensor, read.state_dict()[name]) for name, tensor in model.state_dict().items())
        assert dict(read.settings) == dict(model.settings)

    def test_keep_preprocessing_and_class_names(self, written: Path) -> None:
        model = inception_v3.load(written)
        assert model.class_names == ["a", "b", "c"]
        assert model.preprocessing.mean == (0.4, 0.5, 0.6)
        assert model.preprocessing.std == (0.2, 0.3, 0.4)

    def test_can_be_given_as_their_folder(self, written: Path) -> None:
        assert tensorflowjs.recognises(written.parent)
        assert tensorflowjs.read(written.parent).settings.num_classes == 3

    @pytest.mark.parametrize(("dtype", "bound"), [("float16", 1e-3), ("uint16", 1e-4), ("uint8", 1e-2)])
    def test_can_be_quantised(self, dtype: str, bound: float, written: Path) -> None:
        whole = tensorflowjs.read(written).tensors
        quantise(written, dtype)
        read = tensorflowjs.read(written).tensors
        for name, tensor in whole.items():
            assert read[name].dtype == torch.float32
            assert float((read[name] - tensor).abs().max()) <= bound * float(tensor.abs().max()) * 2

    def test_are_refused_if_tensorflowjs_would_compute_other_outputs(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="padding"):
            inception_v3.save(thin_model(count_padding=True), tmp_path / "model.json", "tensorflowjs")
        assert list(tmp_path.iterdir()) == []


class TestBadFiles:
    """Each is refused in one line that names the file."""

    def test_graph_models(self, written: Path) -> None:
        edit(written, lambda model: model.update(format="graph-model"))
        assert "a TensorFlow.js graph model" in refusal(written)
        assert "--output_format=tfjs_layers_model" in refusal(written)
        edit(written, lambda model: model.update(format=None, modelTopology={"node": []}))
        assert "a TensorFlow.js graph model" in refusal(written)

    def test_with_a_missing_or_truncated_shard(self, written: Path) -> None:
        shard = next(written.parent.glob("*.bin"))
        shard.write_bytes(shard.read_bytes()[:-4])
        assert "download the files again" in refusal(written)
        shard.unlink()
        assert f"its shard '{shard.name}' is missing; put it beside model.json" in refusal(written)

    @pytest.mark.parametrize("path", ["../secret.bin", "/etc/passwd", "a/../../b", "C:\\secret", "..\\secret", "a\0b"])
    def test_with_a_shard_outside_of_their_folder(self, path: str, written: Path) -> None:
        edit(written, lambda model: manifest(model).update(paths=[path]))
        assert "is outside of its folder" in refusal(written)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"shape": [3, 3, 3, 9]}, "bytes"),
            ({"shape": [-1]}, "has the shape"),
            ({"shape": [10**30]}, "has the shape"),
            ({"shape": "wide"}, "is a str, not a list"),
            ({"dtype": "string"}, "has the type string"),
            ({"dtype": "int32"}, "without a scale"),
            ({"quantization": 7}, "is a int, not a dict"),
            ({"quantization": {"dtype": "uint8", "scale": "big", "min": 0}}, "bytes"),
            ({"name": 7}, "is a int, not a str"),
            ({"name": "conv2d\x1b[2J\n/kernel"}, "Conv2D 'conv2d' holds 0 variables instead of kernel"),
            ({"name": "conv2d_1/kernel"}, "two of its weights are called 'conv2d_1/kernel'"),
        ],
    )
    def test_with_a_wrong_entry(self, change: dict[str, Any], message: str, written: Path) -> None:
        edit(written, lambda model: manifest(model)["weights"][0].update(change))
        assert message in refusal(written)

    @pytest.mark.parametrize(
        "value", [None, 7, "text", [7], [[]], {"config": 7}, {"class_name": "Model", "config": []}]
    )
    @pytest.mark.parametrize("key", ["modelTopology", "weightsManifest", "userDefinedMetadata"])
    def test_with_another_type(self, key: str, value: Any, written: Path) -> None:
        edit(written, lambda model: model.update({key: {"inception_v3": value} if key.startswith("user") else value}))
        if value is None and key == "userDefinedMetadata":
            return
        assert refusal(written)

    def test_with_nan(self, written: Path) -> None:
        shard = next(written.parent.glob("*-shard1of*.bin"))
        shard.write_bytes(np.array([np.nan], "<f4").tobytes() + shard.read_bytes()[4:])
        assert "conv2d/kernel holds NaN or infinity" in refusal(written)

    def test_truncated(self, written: Path) -> None:
        written.write_bytes(written.read_bytes()[:5000])
        assert "is not JSON" in refusal(written)

    def test_that_are_no_models_are_not_recognised(self, tmp_path: Path) -> None:
        (tmp_path / "other.json").write_text('{"name": "package"}')
        (tmp_path / "text.json").write_text('"modelTopology"')
        for path in (tmp_path, tmp_path / "other.json", tmp_path / "text.json", tmp_path / "absent.json"):
            assert not tensorflowjs.recognises(path)


# --------------------------------------------------------------------------------------------- TensorFlow.js itself


@pytest.fixture(scope="module")
def run_tensorflowjs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, torch.Tensor], np.ndarray]:
    return tensorflowjs_runner(tmp_path_factory.mktemp("node"))


def tensorflowjs_runner(folder: Path) -> Callable[[Path, torch.Tensor], np.ndarray]:
    """A function that lets TensorFlow.js 4.22 run a model on images (N, 3, H, W). `folder` receives its packages."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("Node is not installed")
    packages = [f"@tensorflow/{name}@4.22.0" for name in ("tfjs", "tfjs-backend-wasm")]
    if subprocess.run(["npm", "install", "--no-audit", *packages], cwd=folder, capture_output=True).returncode:
        pytest.skip("npm cannot install TensorFlow.js")

    def run(file: Path, images: torch.Tensor) -> np.ndarray:
        images.permute(0, 2, 3, 1).contiguous().numpy().tofile(folder / "images.bin")
        size = map(str, images.shape[2:])
        script = Path(node.__file__).with_name("tensorflowjs.mjs")
        subprocess.run(
            ["node", script, folder, file, folder / "images.bin", *size, folder / "outputs.json"],
            check=True,
            capture_output=True,
        )
        outputs = json.loads((folder / "outputs.json").read_text())
        return np.array(outputs["values"]).reshape(outputs["shape"])

    return run


@pytest.mark.slow
class TestAgainstTensorFlowJs:
    @pytest.mark.parametrize("head", HEADS)
    def test_files_written_here_give_equal_outputs(
        self, head: str, tmp_path: Path, run_tensorflowjs: Callable[[Path, torch.Tensor], np.ndarray]
    ) -> None:
        model = thin_model(**HEADS[head])
        inception_v3.save(model, tmp_path / "model.json", "tensorflowjs")
        images = torch.rand(2, 3, SIZE, SIZE) * 2 - 1
        last = model.settings.final_endpoint or "Predictions"
        with torch.inference_mode():
            ours = model(images, [last])[1][last].numpy()
        theirs = run_tensorflowjs(tmp_path / "model.json", images)
        ours = ours.transpose(0, 2, 3, 1) if ours.ndim == 4 else ours
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()

    @pytest.mark.parametrize("dtype", ["float16", "uint16", "uint8"])
    def test_quantised_files_give_equal_outputs(
        self, dtype: str, written: Path, run_tensorflowjs: Callable[[Path, torch.Tensor], np.ndarray]
    ) -> None:
        quantise(written, dtype)
        images = torch.rand(2, 3, SIZE, SIZE) * 2 - 1
        with torch.inference_mode():
            _, end_points = inception_v3.load(written)(images, ["Predictions"])
        assert np.abs(end_points["Predictions"].numpy() - run_tensorflowjs(written, images)).max() <= 1e-4

    @pytest.mark.filterwarnings("ignore:.*(different rates|images are scaled):UserWarning")
    @pytest.mark.skipif(not TRAINED.exists(), reason="needs ../shared/trained")
    def test_a_trained_model_gives_equal_probabilities_for_photos(
        self, tmp_path: Path, run_tensorflowjs: Callable[[Path, torch.Tensor], np.ndarray]
    ) -> None:
        model = inception_v3.load(TRAINED)
        photos = sorted(PHOTOS.glob("*/*"))[::60]
        images = torch.cat([model.preprocess(Image.open(photo).convert("RGB")) for photo in photos])
        with torch.inference_mode():
            _, end_points = model(images, ["Predictions"])
        assert (model.settings.hidden_units, model.settings.num_classes) == ((256, 128), 5)
        assert np.abs(end_points["Predictions"].numpy() - run_tensorflowjs(TRAINED, images)).max() <= 1e-4
        inception_v3.save(model, tmp_path / "again.json", "tensorflowjs")
        pixels = images * 255  # the written file scales them itself, as this model's images are in [0, 1]
        again = run_tensorflowjs(tmp_path / "again.json", pixels)
        assert np.abs(end_points["Predictions"].numpy() - again).max() <= 1e-4


@pytest.mark.skipif(not TRAINED.exists(), reason="needs ../shared/trained")
def test_the_range_of_the_images_of_a_trained_model_is_found_in_its_statistics() -> None:
    with (
        pytest.warns(UserWarning, match=r"\[0, 1\] is assumed, because its first BatchNorm"),
        pytest.warns(UserWarning, match="different rates"),
    ):
        model = inception_v3.load(TRAINED)
    assert (model.preprocessing.mean, model.preprocessing.std) == ((0.0,) * 3, (1.0,) * 3)


def test_check_without_node_reads_the_file_back_and_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingProgramError, match=r"^Node is not installed; install it from https://nodejs\.org$"):
        node.NodeProgram("@tensorflow/tfjs", "tensorflowjs.mjs").run(tmp_path, np.zeros((1, 3, 75, 75)), {})
