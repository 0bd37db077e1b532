"""The forms in which people have TF-Slim's network: other scopes, training folders, hub modules and frozen graphs.

Most tests write small files themselves. The slow test reads what TensorFlow and TF-Slim wrote (oracle/).
"""

import json
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from slim_graphs import UINT8, SlimWriter

import inception_v3
from conftest import oracle_python, recording, relative
from inception_v3.cli import main
from inception_v3.errors import InputError
from inception_v3.weights.formats import tensorflow_checkpoint, tf_slim
from inception_v3.weights.inspect import inspect_weights
from inception_v3.weights.model import InceptionV3

Builder = Callable[..., InceptionV3]
EMA = "/ExponentialMovingAverage"


@pytest.fixture
def model(random_model: Builder) -> InceptionV3:
    return random_model(create_aux_logits=False)


def variables(model: InceptionV3, scope: str = "InceptionV3/") -> dict[str, np.ndarray]:
    """The variables of slim's checkpoint of a model, by name."""
    return {scope + name.replace(".", "/"): tf_slim.to_tensorflow(each) for name, each in model.state_dict().items()}


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    tensorflow_checkpoint.write(path, arrays)
    return path


def read(path: Path, **options: object) -> tuple[InceptionV3, list[str]]:
    """The model and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = inception_v3.load(path, **options)  # type: ignore[arg-type]
    return model, [str(each.message).removeprefix(f"{path}: ") for each in caught]


def assert_equal(model: InceptionV3, expected: InceptionV3) -> None:
    assert model.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        inception_v3.load(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


# -------------------------------------------------------------------------------------------------------- scopes


@pytest.mark.parametrize("scope", ["my_model/InceptionV3/", "InceptionV3_1/", "a/b c/net/", ""])
def test_the_network_is_found_below_any_scope(tmp_path: Path, model: InceptionV3, scope: str) -> None:
    path = write(tmp_path / "model.ckpt", variables(model, scope) | {"global_step": np.array(500)})
    loaded, notes = read(path)
    assert_equal(loaded, model)
    assert notes == []


def test_a_checkpoint_in_the_current_folder_is_given_by_its_name(
    tmp_path: Path, model: InceptionV3, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "model.ckpt", variables(model))
    monkeypatch.chdir(tmp_path)
    assert_equal(read(Path("model.ckpt"))[0], model)


def test_slots_of_optimizers_are_ignored(tmp_path: Path, model: InceptionV3) -> None:
    slots = ["RMSProp", "RMSProp_1", "Momentum", "Adam", "Adam_1"]
    arrays = variables(model)
    others = {f"{name}/{slot}": each * 0 + 7 for name, each in arrays.items() for slot in slots}
    others |= {f"train/{name}/Ftrl": each * 0 + 7 for name, each in arrays.items()}
    others |= {"beta1_power": np.float32(0.9), "InceptionV3/Conv2d_1a_3x3/BatchNorm/moving_mean/biased": np.zeros(3)}
    loaded, notes = read(write(tmp_path / "model.ckpt", arrays | others))
    assert_equal(loaded, model)
    assert notes == []


def test_moving_averages_are_read_with_a_warning_and_state_chooses(
    tmp_path: Path, random_model: Builder, model: InceptionV3
) -> None:
    """The averages leave out the moving statistics, as those of trainable variables do; the network's own are used."""
    averaged = random_model(1, create_aux_logits=False)
    raw = variables(model, "net/")
    shadows = {f"train/{name}{EMA}": each for name, each in variables(averaged, "net/").items() if "moving" not in name}
    path = write(tmp_path / "model.ckpt", raw | shadows)
    key = f"train/net{EMA}"
    expected = random_model(1, create_aux_logits=False)
    statistics = {name: each for name, each in model.state_dict().items() if "moving" in name}
    expected.load_state_dict(statistics, strict=False)
    loaded, notes = read(path)
    assert_equal(loaded, expected)
    assert notes == [f"has the networks net, {key}; the average {key} is read, --state KEY chooses another"]
    chosen, notes = read(path, state="net")
    assert_equal(chosen, model)
    assert notes == []
    assert_equal(read(path, state=key)[0], expected)
    assert "no network under the key other; it has net, " in refusal(path, state="other")
    inspection = inspect_weights(str(path))
    assert [(each.key, each.is_average, each.is_read) for each in inspection.state_dicts] == [
        ("net", False, False),
        (key, True, True),
    ]
    assert inspection.command is not None
    assert inspection.command.endswith(f"--state {key}")


def test_two_networks_of_equal_rank_are_refused_with_their_keys(tmp_path: Path, random_model: Builder) -> None:
    first, second = (random_model(seed, create_aux_logits=False) for seed in (0, 1))
    path = write(tmp_path / "model.ckpt", variables(first, "tower_0/") | variables(second, "tower_1/"))
    assert "has 2 networks, tower_0, tower_1; choose one with --state KEY" in refusal(path)
    assert_equal(read(path, state="tower_1")[0], second)


def test_without_logits_the_network_is_a_feature_extractor(tmp_path: Path, model: InceptionV3) -> None:
    base = {name: each for name, each in variables(model, "a/InceptionV3/").items() if "Logits/" not in name}
    loaded, notes = read(write(tmp_path / "model.ckpt", base | {"head/kernel": np.zeros((204, 5), "float32")}))
    assert loaded.settings.final_endpoint == "Mixed_7c"
    assert notes == [
        "has no logits; it is read as a feature extractor, without classes",
        "has variables outside the network, which are not used: head/kernel 204x5",
    ]


def test_a_network_that_ends_earlier_keeps_its_end(tmp_path: Path, random_model: Builder) -> None:
    cut = random_model(final_endpoint="Mixed_6c", create_aux_logits=False)
    loaded, _ = read(write(tmp_path / "model.ckpt", variables(cut)))
    assert loaded.settings.final_endpoint == "Mixed_6c"
    assert_equal(loaded, cut)


def test_an_auxiliary_head_that_does_not_fit_is_left_out(tmp_path: Path, random_model: Builder) -> None:
    whole = random_model()
    arrays = variables(whole)
    output = {name: each for name, each in arrays.items() if "AuxLogits/Conv2d_2b" in name}
    other = {name: np.repeat(each, 2, axis=-1) for name, each in output.items()}
    loaded, notes = read(write(tmp_path / "other.ckpt", arrays | other))
    assert notes == ["its auxiliary head has 14 classes and the network 7, so it is left out"]
    assert loaded.settings.num_classes == 7
    assert not loaded.settings.create_aux_logits
    partial = {name: each for name, each in arrays.items() if name not in output}
    _, notes = read(write(tmp_path / "partial.ckpt", partial))
    assert notes == ["its auxiliary head is incomplete, so it is left out"]


# -------------------------------------------------------------------------------------------------------- refused


def test_other_networks_and_damage_are_refused_in_one_line(tmp_path: Path, model: InceptionV3) -> None:
    arrays = variables(model)
    lacking = {name: each for name, each in arrays.items() if "Mixed_6b/Branch_0" not in name}
    assert "lacks 'InceptionV3/Mixed_6b/Branch_0/Conv2d_0a_1x1/weights' and 3 more" in refusal(
        write(tmp_path / "lacking.ckpt", lacking)
    )
    more = arrays | {"InceptionV3/Mixed_6b/SE/\x1b[31m/weights": np.zeros((1, 1, 2, 2), "float32")}
    message = refusal(write(tmp_path / "more.ckpt", more))
    assert "has the unknown" in message
    assert "\x1b" not in message
    other = {name.replace("InceptionV3", "InceptionV1").replace("Mixed_", "Block_"): v for name, v in arrays.items()}
    assert "not TF-Slim's Inception V3" in refusal(write(tmp_path / "other.ckpt", other))
    name = "InceptionV3/Mixed_5b/Branch_0/Conv2d_0a_1x1/weights"
    assert "Mixed_5b.Branch_0.Conv2d_0a_1x1.weights holds NaN" in refusal(
        write(tmp_path / "nan.ckpt", arrays | {name: arrays[name] * np.nan})
    )


# -------------------------------------------------------------------------------------------------------- folders


@pytest.fixture
def training(tmp_path: Path, random_model: Builder) -> Path:
    """The folder of a training with checkpoints after 900 and 1000 steps, which was moved here."""
    folder = tmp_path / "train"
    folder.mkdir()
    for seed, step in enumerate((900, 1000)):
        write(folder / f"model.ckpt-{step}", variables(random_model(seed, create_aux_logits=False)))
        (folder / f"model.ckpt-{step}.meta").write_bytes(b"\x0a\x00")
    (folder / "checkpoint").write_text(
        'model_checkpoint_path: "/gone/train/model.ckpt-1000"\n'
        'all_model_checkpoint_paths: "/gone/train/model.ckpt-900"\n'
    )
    return folder


@pytest.mark.parametrize(
    "given", ["", "checkpoint", "model.ckpt-1000.meta", "model.ckpt-1000", "model.ckpt-1000.index"]
)
def test_a_training_folder_is_its_newest_checkpoint(training: Path, random_model: Builder, given: str) -> None:
    assert_equal(read(training / given)[0], random_model(1, create_aux_logits=False))


def test_without_a_list_the_highest_step_is_the_newest(training: Path, random_model: Builder) -> None:
    (training / "checkpoint").unlink()
    assert_equal(read(training)[0], random_model(1, create_aux_logits=False))
    write(training / "other.ckpt-5", {"x": np.zeros(3)})
    assert f"give {training}/model.ckpt-1000 or {training}/model.ckpt-900" in refusal(training)


def test_a_list_that_names_a_missing_checkpoint_is_refused_with_the_others(training: Path) -> None:
    for file in training.glob("model.ckpt-1000*"):
        file.unlink()
    assert refusal(training).startswith(
        f"{training}/checkpoint: names model.ckpt-1000, which is missing; put its files beside this one; or give "
        f"another checkpoint: {training}/model.ckpt-900"
    )


def test_a_missing_data_file_is_named(training: Path) -> None:
    (training / "model.ckpt-1000.data-00000-of-00001").unlink()
    assert "model.ckpt-1000.data-00000-of-00001 is missing" in refusal(training)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command; return its exit status."""
    monkeypatch.setattr(sys, "argv", ["inception-v3", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        main()
    return int(exit.value.code or 0)


def test_a_training_folder_is_a_model_of_every_command(
    training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "convert", training, tmp_path / "model.safetensors") == 0
    capsys.readouterr()
    assert run(monkeypatch, "inspect", "--json", training) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["format"], report["kind"]) == ("tf-slim", "a TensorFlow checkpoint, V2")
    assert report["head"]["outputs"] == 7


# --------------------------------------------------------------------------------------------------- hub modules


def hub_module(folder: Path, model: InceptionV3, **options: object) -> Path:
    """A TF1 module of TensorFlow Hub, which takes images in [0, 1] and scales them itself."""
    writer = SlimWriter(model, frozen=False)
    doubled = writer.node("hub_input/Mul", "Mul", [writer.input(), writer.constant(2.0)])
    writer.logits(writer.base(writer.node("hub_input/Sub", "Sub", [doubled, writer.constant(1.0)])))
    writer.saved_model(folder)
    (folder / "variables").mkdir(exist_ok=True)
    (folder / "tfhub_module.pb").write_bytes(b"\x08\x03")
    write(folder / "variables" / "variables", variables(model))
    return folder


def test_a_hub_module_is_read_as_a_folder_with_the_scaling_of_its_graph(tmp_path: Path, model: InceptionV3) -> None:
    loaded, notes = read(hub_module(tmp_path / "module", model))
    assert_equal(loaded, model)
    assert notes == []
    assert (loaded.preprocessing.mean, loaded.preprocessing.std) == ((0.5,) * 3, (0.5,) * 3)
    assert loaded.image_size == (107, 107)
    inspection = inspect_weights(str(tmp_path / "module"))
    assert inspection.readable
    assert inspection.preprocessing["mean"].source == "file"
    assert loaded.origin is not None
    assert loaded.origin.first == "module (tf-slim)"


def test_a_hub_module_whose_graph_computes_otherwise_is_refused(tmp_path: Path, random_model: Builder) -> None:
    model = random_model(create_aux_logits=False)
    folder = hub_module(tmp_path / "module", model)
    content = (folder / "saved_model.pb").read_bytes()
    (folder / "saved_model.pb").write_bytes(content.replace(b"Relu", b"Tanh"))
    assert "Tanh (InceptionV3/InceptionV3/" in refusal(folder)
    shutil.rmtree(folder / "variables")
    assert "SavedModel" in refusal(folder)


# -------------------------------------------------------------------------------------------------- frozen graphs


def outputs(model: InceptionV3, images: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.from_numpy(images))[0]


@pytest.mark.parametrize("options", [{}, {"scope": "a/b/"}, {"folded": True}], ids=["plain", "scope", "folded"])
def test_a_frozen_graph_is_read(tmp_path: Path, random_model: Builder, options: dict[str, object]) -> None:
    """optimize_for_inference folds the BatchNorms into kernels and offsets."""
    model = random_model(create_aux_logits=False, batch_norm_epsilon=0.003)
    writer = SlimWriter(model, **options)  # type: ignore[arg-type]
    writer.logits(writer.base(writer.input()))
    loaded, notes = read(writer.save(tmp_path / "frozen.pb"))
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, 107, 107)).astype("float32")
    assert relative(outputs(loaded, images), outputs(model, images)) < 1e-5
    assert notes == [
        "its graph does not scale images, so pixels in [-1, 1] are assumed (--mean and --std replace this)"
    ]
    if not options.get("folded"):
        assert_equal(loaded, model)
        assert loaded.settings.batch_norm_epsilon == pytest.approx(0.003)


def test_the_scaling_of_a_frozen_graph_becomes_the_preprocessing(tmp_path: Path, model: InceptionV3) -> None:
    writer = SlimWriter(model)
    pixels = writer.node("cast", "Cast", [writer.input(dtype=UINT8)], SrcT=UINT8, DstT=1)
    centred = writer.node("sub", "Sub", [pixels, writer.constant([100.0, 110.0, 120.0])])
    writer.logits(writer.base(writer.node("div", "RealDiv", [centred, writer.constant(64.0)])))
    loaded, notes = read(writer.save(tmp_path / "frozen.pb"))
    assert loaded.preprocessing.mean == pytest.approx((100 / 255, 110 / 255, 120 / 255))
    assert loaded.preprocessing.std == pytest.approx((64 / 255,) * 3)
    assert notes == [
        "its graph reads images in [0, 255] and has mean 0.392157 and std 0.25098 (--mean and --std replace them)"
    ]


def test_the_output_of_a_frozen_graph_is_obeyed(tmp_path: Path, model: InceptionV3) -> None:
    for activation, expected in (("Sigmoid", "sigmoid"), ("Softmax", "softmax")):
        writer = SlimWriter(model)
        writer.logits(writer.base(writer.input()), activation)
        assert read(writer.save(tmp_path / "frozen.pb"))[0].settings.output_activation == expected
    writer = SlimWriter(model)
    halved = writer.node("temperature", "Mul", [writer.logits(writer.base(writer.input()), None), writer.constant(0.5)])
    writer.node("Predictions", "Softmax", [halved])
    assert "its logits go into Mul (temperature)" in refusal(writer.save(tmp_path / "frozen.pb"))


def test_a_frozen_graph_without_logits_is_a_feature_extractor(tmp_path: Path, model: InceptionV3) -> None:
    writer = SlimWriter(model)
    writer.base(writer.input())
    loaded, notes = read(writer.save(tmp_path / "frozen.pb"))
    assert loaded.settings.final_endpoint == "Mixed_7c"
    assert notes[0] == "has no logits; it is read as a feature extractor, without classes"


class OtherOrder(SlimWriter):
    """Joins two branches of equal width in the other order."""

    def node(self, name: str, op: str, inputs: Sequence[str] = (), **attributes: object) -> str:
        swapped = "Mixed_6b/concat" in name
        return super().node(name, op, [inputs[1], inputs[0], *inputs[2:]] if swapped else inputs, **attributes)


class OtherPool(SlimWriter):
    def pool(self, net: str, layer: object, path: str, kernel: tuple[int, int] | None = None) -> str:
        other = "Mixed_5c" in path
        return super().pool(net, type(layer)(**vars(layer) | {"kind": "max"}) if other else layer, path, kernel)  # type: ignore[arg-type, call-arg]


@pytest.mark.parametrize(("writer_type", "point"), [(OtherOrder, "Mixed_6b"), (OtherPool, "Mixed_5c")])
def test_a_graph_that_computes_otherwise_is_refused_with_the_first_layer(
    tmp_path: Path, random_model: Builder, writer_type: type[SlimWriter], point: str
) -> None:
    writer = writer_type(random_model(create_aux_logits=False))
    writer.logits(writer.base(writer.input()))
    message = refusal(writer.save(tmp_path / "frozen.pb"))
    assert f"its graph computes other values than TF-Slim's Inception V3, from {point} on" in message


def test_a_graph_with_other_operations_on_images_is_refused_by_name(tmp_path: Path, model: InceptionV3) -> None:
    writer = SlimWriter(model)
    writer.logits(writer.base(writer.node("flip", "ReverseV2", [writer.input(), writer.constant(np.array([3]))])))
    assert "its images go through ReverseV2 (flip)" in refusal(writer.save(tmp_path / "frozen.pb"))


def test_a_graph_of_variables_and_damaged_graphs_are_refused(tmp_path: Path, model: InceptionV3) -> None:
    writer = SlimWriter(model, frozen=False)
    writer.logits(writer.base(writer.input()))
    assert "freeze the graph" in refusal(writer.save(tmp_path / "variables.pb"))
    writer = SlimWriter(model)
    writer.logits(writer.base(writer.input()))
    content = writer.save(tmp_path / "whole.pb").read_bytes()
    (tmp_path / "cut.pb").write_bytes(content[: len(content) // 2])
    assert "truncated" in refusal(tmp_path / "cut.pb")
    (tmp_path / "twice.pb").write_bytes(content * 2)
    assert "two nodes are called" in refusal(tmp_path / "twice.pb")
    model.state_dict()["Conv2d_2a_3x3.BatchNorm.beta"][0] = float("nan")
    writer = SlimWriter(model)
    writer.logits(writer.base(writer.input()))
    assert "Conv2d_2a_3x3/BatchNorm/beta' holds NaN" in refusal(writer.save(tmp_path / "nan.pb"))


# ----------------------------------------------------------------------------------- what TensorFlow itself wrote

READ = {
    "module": "module", "tower": "tower", "replaced": "replaced", "numbered": "numbered", "features": "features",
    "cut": "cut", "sharded": "sharded", "rmsprop": "rmsprop", "adam": "adam", "momentum": "momentum",
    "hub-features": "hub-features", "hub-classes": "hub-classes", "frozen": "frozen.pb",
    "frozen-bytes": "frozen-bytes.pb", "frozen-epsilon": "frozen-epsilon.pb", "frozen-unfused": "frozen-unfused.pb",
    "frozen-features": "frozen-features.pb", "frozen-optimised": "frozen-optimised.pb",
    "frozen-unfused-optimised": "frozen-unfused-optimised.pb",
}  # fmt: skip
REFUSED = {
    "twice": "has 2 networks, InceptionV3, second",
    "frozen-flipped.pb": "its images go through ReverseV2",
    "inception-v1": "not TF-Slim's Inception V3 (it has 'InceptionV1/",
    "resnet": "not TF-Slim's Inception V3 (it has 'resnet_v1_50/",
}


def computed(
    folder: Path, name: str, dtype: torch.dtype = torch.float32
) -> tuple[InceptionV3, torch.Tensor, torch.Tensor, np.ndarray]:
    """The model of a recorded file, its images, and what it and TensorFlow computed: logits, or the last map (NHWC)."""
    model = read(folder / READ[name])[0].to(dtype)
    with np.load(folder / "cases.npz") as cases:
        images, expected = cases[f"{name}/images"], cases[f"{name}/outputs"]
    low = 0 if name.startswith("hub") else -1  # the graphs of modules read [0, 1]
    pixels = images if images.dtype == np.uint8 else (images - low) / (1 - low) * 255
    scaled = model.preprocessing.scale(torch.from_numpy(pixels.astype("float64")).permute(0, 3, 1, 2)).to(dtype)
    with torch.inference_mode():
        net, points = model(scaled)
    last = model.settings.final_endpoint
    return model, scaled, points[last].permute(0, 2, 3, 1) if last else net, expected


def difference(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> float:
    """The largest difference, relative to the largest output, from what TensorFlow computed for a recorded file."""
    _, _, found, expected = computed(folder, name, dtype)
    return relative(found, expected)


@pytest.mark.slow
def test_what_tensorflow_wrote_computes_what_tensorflow_computed() -> None:
    folder = recording("record_tf1_files.py")
    for name in READ:
        assert difference(folder, name) < 1e-4, name
    for name, reason in REFUSED.items():
        assert reason in refusal(folder / name), name


@pytest.mark.slow
def test_a_graph_that_resizes_images_is_read_with_its_resize() -> None:
    folder = recording("record_tf1_files.py")
    model, _ = read(folder / "frozen-resized.pb")
    with np.load(folder / "cases.npz") as cases:
        image, expected = cases["frozen-resized/images"][0], cases["frozen-resized/outputs"]
    with torch.inference_mode():
        logits, _ = model(model.preprocess(Image.fromarray(image.astype("uint8"))))
    assert relative(logits, expected) < 1e-4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*the average")
@pytest.mark.parametrize("name", ["rmsprop", "hub-classes", "frozen-bytes"])
def test_what_tensorflow_wrote_converts_and_tf_slim_computes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source = recording("record_tf1_files.py") / READ[name]
    options = ["--to", "tf-slim", "--check", "--python", oracle_python()]
    assert run(monkeypatch, "convert", source, tmp_path / "model.ckpt", *options) == 0
