"""Images that excite a part of the network."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import randomise
from inception_v3 import InceptionV3, Preprocessing, save
from inception_v3.errors import InputError
from inception_v3.explain import VisualisationOptions, visualise
from inception_v3.explain.targets import end_point_map, find_target
from inception_v3.explain.visualisation import moved, random_affine
from inception_v3.inference.export import export

pytestmark = pytest.mark.usefixtures("one_thread")

Run = Callable[..., tuple[int, str, str]]
FEW = VisualisationOptions(steps=12)
RED_EDGE = np.array([1.0, -0.5, -0.5])[:, None, None] * np.array([[-1.0, 0.0, 1.0]] * 3)  # red on the right, (3, 3, 3)


def network(**options: object) -> InceptionV3:
    model = InceptionV3(num_classes=3, depth_multiplier=0.2, image_size=107, **options).eval()  # type: ignore[arg-type]
    randomise(model)
    model.class_names = ["cat", "dog", "<b>"]
    return model


@pytest.fixture(scope="module")
def model() -> InceptionV3:
    return network()


@pytest.mark.parametrize(
    ("target", "factor"), [("Conv2d_2b_3x3:7", 2), ("Mixed_5b:2", 3), ("Mixed_6b:1@centre", 2), ("Mixed_5c", 1.5)]
)
def test_the_activation_rises_far_above_that_of_the_random_start(
    model: InceptionV3, target: str, factor: float
) -> None:
    result = visualise(model, target, VisualisationOptions(steps=40))
    assert result.activation > factor * result.start
    assert result.activations[-5:].mean() > result.activations[:5].mean()
    rgb = torch.from_numpy(result.numpy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        maps = end_point_map(model, model.preprocessing.scale(rgb * 255), target.split(":")[0])
    expected = {
        "Conv2d_2b_3x3:7": lambda: maps[0, 7].mean(),
        "Mixed_5b:2": lambda: maps[0, 2].mean(),
        "Mixed_6b:1@centre": lambda: maps[0, 1, maps.shape[2] // 2, maps.shape[3] // 2],
        "Mixed_5c": lambda: maps.square().mean(),
    }[target]()
    assert result.activation == pytest.approx(float(expected), rel=1e-4)


def test_a_class_is_excited_by_its_logit(model: InceptionV3) -> None:
    options = VisualisationOptions(steps=15, learning_rate=0.3, transforms=False)
    results = [visualise(model, options=options, class_name=name) for name in ("dog", 1)]
    assert results[0].target == "dog"
    assert np.array_equal(results[0].pixels, results[1].pixels)
    assert results[0].activation > results[0].start
    assert np.array_equal(results[0].pixels, visualise(model, "Logits:1", options).pixels)


def test_the_first_class_of_one_sigmoid_output_is_excited_by_a_lower_logit() -> None:
    model = InceptionV3(1, depth_multiplier=0.2, image_size=107, output_activation="sigmoid").eval()
    randomise(model)
    options = VisualisationOptions(steps=15, learning_rate=0.3, transforms=False)
    first, second = (visualise(model, options=options, class_name=index) for index in (0, 1))
    assert first.start == pytest.approx(-second.start)
    assert first.activation > first.start
    assert second.activation > second.start


def test_a_direction_is_normalised_and_a_channel_is_one_of_them(model: InceptionV3, tmp_path: Path) -> None:
    direction = np.zeros(find_target(model, "Mixed_5b:2").direction.shape)  # type: ignore[union-attr]
    direction[2] = 7
    np.save(tmp_path / "direction.npy", direction)
    expected = visualise(model, "Mixed_5b:2", FEW)
    assert np.array_equal(visualise(model, "Mixed_5b", FEW, direction=direction).pixels, expected.pixels)
    from_file = visualise(model, f"Mixed_5b:{tmp_path}/direction.npy", FEW)
    assert np.array_equal(from_file.pixels, expected.pixels)


def test_equal_seeds_give_equal_bits_and_others_do_not(model: InceptionV3) -> None:
    first, again = (visualise(model, "Mixed_6a:0", FEW) for _ in range(2))
    assert first.pixels.tobytes() == again.pixels.tobytes()
    assert first.activations.tobytes() == again.activations.tobytes()
    other = visualise(model, "Mixed_6a:0", VisualisationOptions(steps=12, seed=1))
    assert np.abs(other.pixels - first.pixels).max() > 0.01


@pytest.mark.parametrize("transforms", [False, True])
def test_a_planted_filter_of_the_first_layer_is_found_again(transforms: bool) -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("Conv2d_1a_3x3.weights")[0] = torch.from_numpy(RED_EDGE)
    options = VisualisationOptions(steps=100, learning_rate=0.5, transforms=transforms, size=75)
    result = visualise(model, "Conv2d_1a_3x3:0", options)
    pixels = torch.from_numpy(result.pixels).permute(2, 0, 1)[None]
    patches = torch.nn.functional.unfold(pixels, 3, stride=2)[0].numpy()  # (27, positions), as the layer reads them
    filter_ = RED_EDGE.ravel()
    most_excited = patches[:, np.argsort(filter_ @ patches)[-100:]].mean(1)
    assert np.corrcoef(most_excited, filter_)[0, 1] > 0.9


def test_the_mean_and_the_standard_deviation_of_the_network_are_those_of_its_preprocessing() -> None:
    model, other = network(), network()
    other.preprocessing = Preprocessing((107, 107), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    with torch.no_grad():  # the first layer turns the other input into that of `model`
        scale = torch.tensor(other.preprocessing.std) / 0.5
        other.Conv2d_1a_3x3.weights *= scale.view(1, 3, 1, 1)  # type: ignore[operator, union-attr]
        shift = (torch.tensor(other.preprocessing.mean) - 0.5) / 0.5
        bias = (model.Conv2d_1a_3x3.weights * shift.view(1, 3, 1, 1)).sum((1, 2, 3))  # type: ignore[operator, union-attr]
        other.Conv2d_1a_3x3.BatchNorm.moving_mean -= bias  # type: ignore[operator, union-attr]
    first, second = (visualise(each.double(), "Mixed_5b:2", FEW) for each in (model, other))
    assert second.activations == pytest.approx(first.activations, rel=1e-4)
    assert np.abs(first.pixels - second.pixels).max() < 1e-3


def test_a_random_transformation_moves_turns_and_scales_in_pixels_of_any_shape() -> None:
    """A bright spot is found where the matrix says, and a turn does not shear an image that is not square."""
    generator = torch.Generator().manual_seed(0)
    height, width = 80, 160
    rows, columns = torch.meshgrid(torch.arange(80.0) - 39.5, torch.arange(160.0) - 79.5, indexing="ij")
    disc = ((rows**2 + columns**2) < 20**2).float().expand(1, 3, -1, -1)
    for _ in range(5):
        out = moved(disc, random_affine((height, width), generator).float())[0, 0]
        spot = (out > 0.75).nonzero().float()
        spans = spot.max(0).values - spot.min(0).values + 1
        assert abs(float(spans[0] - spans[1])) <= 2  # still round
        assert 40 * 0.88 <= float(spans[0]) <= 40 * 1.14
        centre = spot.mean(0) - torch.tensor([39.5, 79.5])
        assert float(centre.abs().max()) <= 12 * 1.15 + 3
        assert (out[0, 0], out[-1, -1]) == pytest.approx((0.0, 0.0), abs=0.5)


def test_a_channel_that_is_off_at_first_is_switched_on(model: InceptionV3) -> None:
    result = visualise(model, "Mixed_5b:1", VisualisationOptions(steps=40))
    assert not result.activations[:3].any()
    assert result.start == 0
    assert result.activation > 0.05


def test_a_dead_channel_is_reported(model: InceptionV3) -> None:
    dead = network()
    with torch.no_grad():
        dead.get_parameter("Mixed_5b.Branch_0.Conv2d_0a_1x1.weights")[2] = 0
    with pytest.raises(ValueError, match=r"Mixed_5b:2: its gradient is zero for 12 images in sequence.*may be dead"):
        visualise(dead, "Mixed_5b:2", FEW)


def test_networks_that_cannot_be_optimised_for_are_refused() -> None:
    model = network()
    with pytest.raises(ValueError, match="training mode"):
        visualise(model.train(), "Mixed_5b:2", FEW)
    model.eval()
    with torch.no_grad():
        model.get_parameter("Conv2d_2a_3x3.weights")[0, 0] = torch.nan
    with pytest.raises(ValueError, match="Mixed_5b:2: the network's outputs are not finite, from Conv2d_2a_3x3 on"):
        visualise(model, "Mixed_5b:2", FEW)


def test_a_network_that_is_cut_has_channels_and_no_classes() -> None:
    model = network(final_endpoint="Mixed_5b")
    assert visualise(model, "Mixed_5b:2", FEW).activation > 0
    with pytest.raises(ValueError, match="this network ends at Mixed_5b and has no classes"):
        visualise(model, options=FEW, class_name="cat")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("Mixed_5x:1", "no end point 'Mixed_5x' in this network; did you mean Mixed_5"),
        ("Mixed_5b:9999", "Mixed_5b:9999: Mixed_5b has the channels 0 to "),
        ("Mixed_5b:-1", "Mixed_5b:-1: is no target; give END_POINT:CHANNEL, such as Mixed_6b:12, "),
        ("Mixed_5b:1@99,0", "Mixed_5b has the rows 0 to 10 and the columns 0 to 10 at this size"),
        ("Mixed_5b:1@middle", "is no target"),
        ("", "no end point '' in this network"),
    ],
)
def test_targets_that_do_not_exist_are_refused(model: InceptionV3, target: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        visualise(model, target, FEW)


def test_directions_that_are_none_are_refused(model: InceptionV3, tmp_path: Path) -> None:
    channels = len(find_target(model, "Mixed_5b:0").direction)  # type: ignore[arg-type]
    for wrong, message in (
        (np.ones(3), f"must be {channels} numbers"),
        (np.zeros(channels), "not all of them zero"),
        (np.full(channels, np.nan), "finite"),
        (["a"] * channels, "must be"),
    ):
        with pytest.raises(ValueError, match=message):
            visualise(model, "Mixed_5b", FEW, direction=wrong)
    (tmp_path / "text.npy").write_text("text")
    for name, cause in (("text", "is no NumPy array"), ("missing", "missing.npy: ")):
        with pytest.raises(InputError, match=cause):
            visualise(model, f"Mixed_5b:{tmp_path}/{name}.npy", FEW)


def test_a_result_is_saved_in_every_format_and_plotted(model: InceptionV3, tmp_path: Path) -> None:
    result = visualise(model, "Mixed_5b:2", VisualisationOptions(steps=90, size=(75, 91)))
    assert result.numpy().shape == (75, 91, 3)
    assert result.numpy().dtype == np.float32
    levels = (result.pixels * 255).round().astype(np.uint8)
    for suffix in ("png", "webp"):
        result.save(tmp_path / f"a.{suffix}")
        with Image.open(tmp_path / f"a.{suffix}") as image:
            assert np.array_equal(np.asarray(image.convert("RGB")), levels)
    result.save(tmp_path / "a.npy")
    assert np.array_equal(np.load(tmp_path / "a.npy"), result.pixels)
    result.save(tmp_path / "a.GIF")
    with Image.open(tmp_path / "a.GIF") as animation:
        assert animation.n_frames == 40  # type: ignore[attr-defined]
        animation.seek(39)
        last = np.asarray(animation.convert("RGB")).astype(int)
    assert np.abs(last - levels).mean() < 12  # of 256 colours
    assert result._repr_png_()[:4] == b"\x89PNG"  # type: ignore[index]
    assert len(result.plot().axes) == 2
    with pytest.raises(InputError, match=r"a\.tif: a picture is saved as \.png, .*; change the suffix"):
        result.save(tmp_path / "a.tif")


@pytest.fixture(scope="module")
def folder(model: InceptionV3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("visualise")
    save(model, folder / "model.safetensors")
    return folder


@pytest.fixture
def run(folder: Path, command: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `visualise` with the model in the folder: exit status, standard output, standard error."""
    monkeypatch.chdir(folder)

    def run(*arguments: object, model: object = "model.safetensors") -> tuple[int, str, str]:
        return command("visualise", model, *arguments)

    return run


def test_the_command_writes_a_picture_for_each_target(run: Run, model: InceptionV3, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, printed, err = run("Mixed_5b:2", "--class", "<b>", "--steps", 12, "--out", out, "--json")
    assert status == 0, err
    first, second = map(json.loads, printed.splitlines())
    assert sorted(path.name for path in out.iterdir()) == ["0000-Mixed_5b_2.png", "0001-_b_.png"]
    assert (first["target"], second["target"]) == ("Mixed_5b:2", "<b>")
    expected = visualise(model, "Mixed_5b:2", FEW)
    assert first["activation"] == pytest.approx(expected.activation)
    with Image.open(first["file"]) as image:
        assert np.array_equal(np.asarray(image), np.asarray(expected.image()))
    status, _, err = run("Mixed_5b:2", "--steps", 12, "--out", out)
    assert (status, "is not empty; give another --out, or --overwrite" in err) == (2, True)


def test_the_suffix_of_out_is_the_format_and_a_preview_is_written(run: Run, tmp_path: Path) -> None:
    options = ("--steps", 12, "--out", tmp_path / "a.gif", "--size", 91, "--preview", tmp_path / "now.png")
    status, printed, err = run("Mixed_5b:2@centre", *options, "--no-augment", "--seed", 3)
    assert status == 0, err
    assert printed.startswith("Mixed_5b:2@centre: activation ")
    with Image.open(tmp_path / "a.gif") as animation, Image.open(tmp_path / "now.png") as preview:
        assert (animation.size, animation.n_frames, preview.size) == ((91, 91), 12, (91, 91))  # type: ignore[attr-defined]
    status, _, err = run("Mixed_5b:2", "Mixed_5b:5", *options)
    assert status == 0, err
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"a.gif", "now.png", "a-0000-Mixed_5b_2.gif", "a-0001-Mixed_5b_5.gif"}


def test_a_dead_channel_does_not_stop_the_others(run: Run, tmp_path: Path) -> None:
    dead = network()
    with torch.no_grad():
        dead.get_parameter("Mixed_5b.Branch_0.Conv2d_0a_1x1.weights")[2] = 0
    save(dead, tmp_path / "dead.safetensors")
    options = ("--steps", 3, "--out", tmp_path / "out")
    status, printed, err = run("Mixed_5b:2", "Mixed_5b:5", *options, model=tmp_path / "dead.safetensors")
    assert (status, len(printed.splitlines())) == (1, 1)
    assert "Mixed_5b:2: its gradient is zero for 3 images in sequence, so no image can be found; it may be dead" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no target; give one such as Mixed_6b:12, or --class NAME"),
        (("Mixed_5x:1",), "no end point 'Mixed_5x' in this network; did you mean Mixed_5"),
        (("--class", "dgo"), "no class dgo; did you mean dog"),
        (("Mixed_5b:1", "--out", "a.tif"), "a.tif: a picture is saved as .png, "),
        (("Mixed_5b:1", "--size", "5000"), "--size"),
        (("Mixed_5b:1", "--learning-rate", "0"), "--learning-rate"),
        (("Mixed_5b:1", "--preview", "visualised/x.png", "--out", "visualised/x.png"), "given for two outputs"),
    ],
)
def test_wrong_arguments_are_refused_with_the_remedy(
    run: Run, folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    status, printed, err = run(*arguments)
    assert (status, printed) == (2, "")
    assert message in err
    assert not (folder / "visualised").exists()


def test_an_exported_network_has_no_gradients(run: Run, model: InceptionV3, tmp_path: Path) -> None:
    export(model, tmp_path / "model.onnx")
    status, _, err = run("Mixed_5b:1", model=tmp_path / "model.onnx")
    assert status == 2
    assert "an exported network, so it has no gradients; give the weights it was exported from, or use `explain" in err
