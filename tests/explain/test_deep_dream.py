"""DeepDream."""

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
from inception_v3.explain import DreamOptions, deep_dream, dream
from inception_v3.explain.targets import end_point_map
from inception_v3.inference.export import export

pytestmark = pytest.mark.usefixtures("one_thread")

Run = Callable[..., tuple[int, str, str]]
FEW = DreamOptions(octaves=2, steps=3)


@pytest.fixture(scope="module")
def model() -> InceptionV3:
    network = InceptionV3(num_classes=3, depth_multiplier=0.2, image_size=107).eval()
    randomise(network)
    network.preprocessing = Preprocessing((107, 107), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return network


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height))


@pytest.mark.parametrize("target", ["Mixed_5b", "Mixed_5b:2", "Mixed_6a/Branch_1"])
def test_the_end_point_is_excited_more_and_the_image_keeps_its_size(model: InceptionV3, target: str) -> None:
    image = noise(150, 117)
    result = dream(model, image, target, DreamOptions(octaves=3, steps=5))
    assert result.numpy().shape == (117, 150, 3)
    assert np.array_equal((result.original * 255).round(), np.asarray(image))
    assert 0 <= result.pixels.min() <= result.pixels.max() <= 1
    assert result.activation > 1.1 * result.start
    assert 2 / 255 < np.abs(result.pixels - result.original).mean() < 60 / 255
    name, _, channel = target.partition(":")
    for pixels, activation in ((result.original, result.start), (result.pixels, result.activation)):
        rgb = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        with torch.no_grad():
            maps = end_point_map(model, model.preprocessing.scale(rgb * 255), name)
        expected = maps[0, int(channel)].mean() if channel else maps.square().mean()
        assert activation == pytest.approx(float(expected), rel=1e-4)


def test_a_step_changes_the_pixels_by_the_step_size_on_average(model: InceptionV3) -> None:
    flat = Image.new("RGB", (120, 107), (128, 128, 128))
    result = dream(model, flat, "Mixed_5b", DreamOptions(octaves=1, steps=1, step_size=4))
    assert np.abs(result.pixels - result.original).mean() * 255 == pytest.approx(4, rel=1e-3)


def test_equal_seeds_give_equal_bits_and_others_do_not(model: InceptionV3) -> None:
    image = noise(120, 107)
    first, again = (dream(model, image, "Mixed_5b", FEW) for _ in range(2))
    assert first.pixels.tobytes() == again.pixels.tobytes()
    other = dream(model, image, "Mixed_5b", DreamOptions(octaves=2, steps=3, seed=1))
    assert np.abs(other.pixels - first.pixels).max() > 0.01


def test_octaves_too_small_for_the_end_point_are_left_out(model: InceptionV3) -> None:
    seen: list[tuple[int, ...]] = []
    dream(model, noise(120, 107), "Mixed_7c", FEW, on_step=lambda step, _, pixels: seen.append((step, *pixels.shape)))
    assert seen == [(1, 76, 86, 3), (2, 76, 86, 3), (3, 76, 86, 3), *[(step, 107, 120, 3) for step in (4, 5, 6)]]
    seen.clear()
    dream(model, noise(80, 80), "Mixed_7c", FEW, on_step=lambda step, _, pixels: seen.append((step, *pixels.shape)))
    assert seen == [(step, 80, 80, 3) for step in (1, 2, 3)]


def test_a_large_image_is_computed_in_tiles_of_bounded_size(
    model: InceptionV3, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []
    model_base = model.base

    def base(images: torch.Tensor, *arguments: object) -> object:
        sizes.append((images.shape[2], images.shape[3]))
        return model_base(images, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "base", base)
    monkeypatch.setattr(deep_dream, "TILE", 110)
    result = dream(model, noise(230, 150), "Mixed_5b", DreamOptions(octaves=1, steps=2))
    assert result.numpy().shape == (150, 230, 3)
    assert {height for height, _ in sizes} == {75}
    assert {width for _, width in sizes} == {76, 77}
    assert len(sizes) == 6 * 4  # two steps, and the activations before and after
    assert result.activation > result.start


def test_tiles_cover_every_pixel_once() -> None:
    for size in ((401, 1203), (400, 399), (3000, 1)):
        count = np.zeros(size, int)
        for rows, columns in deep_dream.tiles(size):
            count[rows, columns] += 1
            assert max(count[rows, columns].shape) <= deep_dream.TILE
        assert (count == 1).all()


def test_the_gradient_of_tiles_has_the_size_of_that_of_the_whole_image(
    model: InceptionV3, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = noise(240, 240)
    options = DreamOptions(octaves=1, steps=4)
    whole = dream(model, image, "Conv2d_2b_3x3:7", options)
    monkeypatch.setattr(deep_dream, "TILE", 120)
    tiled = dream(model, image, "Conv2d_2b_3x3:7", options)
    change, other = whole.pixels - whole.original, tiled.pixels - tiled.original
    assert np.corrcoef(change.ravel(), other.ravel())[0, 1] > 0.5


def test_images_that_no_network_can_take_are_refused(model: InceptionV3, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="an image of 80x60 pixels; this end point needs 75x75; give a larger image"):
        dream(model, noise(80, 60), "Mixed_7c", FEW)
    assert dream(model, noise(80, 60), "Mixed_5b", FEW).numpy().shape == (60, 80, 3)
    monkeypatch.setattr(deep_dream, "MAX_PIXELS", 10_000)
    with pytest.raises(InputError, match="120x107 pixels are more than the limit of 10,000; make the image smaller"):
        dream(model, noise(120, 107), "Mixed_5b", FEW)


@pytest.mark.parametrize("target", ["Logits", "Predictions:1", "AuxLogits", "Mixed_5b:1@centre"])
def test_only_maps_of_the_base_can_be_excited(model: InceptionV3, target: str) -> None:
    with pytest.raises(ValueError, match="a dream excites a whole map of the base; give an end point such as Mixed_7c"):
        dream(model, noise(120, 107), target, FEW)


def test_a_dead_channel_values_that_are_not_finite_and_training_mode_are_reported() -> None:
    model = InceptionV3(num_classes=3, depth_multiplier=0.2, image_size=107).eval()
    with torch.no_grad():
        model.get_parameter("Mixed_5b.Branch_0.Conv2d_0a_1x1.weights")[2] = 0
    with pytest.raises(ValueError, match="Mixed_5b:2: its gradient is zero everywhere in this image; it may be dead"):
        dream(model, noise(120, 107), "Mixed_5b:2", FEW)
    with pytest.raises(ValueError, match="training mode"):
        dream(model.train(), noise(120, 107), "Mixed_5b", FEW)
    with torch.no_grad():
        model.get_parameter("Conv2d_2a_3x3.weights")[0, 0] = torch.nan
    with pytest.raises(ValueError, match="Mixed_5b: the network's outputs are not finite, from Conv2d_2a_3x3 on"):
        dream(model.eval(), noise(120, 107), "Mixed_5b", FEW)


def test_a_dream_is_saved_and_plotted(model: InceptionV3, tmp_path: Path) -> None:
    result = dream(model, noise(120, 107), "Mixed_5b", FEW)
    for suffix in ("png", "webp", "jpg", "gif"):
        result.save(tmp_path / f"a.{suffix}")
        with Image.open(tmp_path / f"a.{suffix}") as image:
            assert (image.size, getattr(image, "n_frames", 1)) == ((120, 107), 6 if suffix == "gif" else 1)
    assert len(result.plot().axes) == 2
    assert result._repr_png_()[:4] == b"\x89PNG"  # type: ignore[index]


@pytest.fixture(scope="module")
def folder(model: InceptionV3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dream")
    save(model, folder / "model.safetensors")
    (folder / "images").mkdir()
    for name in ("one.png", "<b>&\n.png"):
        noise(120, 107).save(folder / "images" / name)
    return folder


@pytest.fixture
def run(folder: Path, command: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `dream` with the model in the folder: exit status, standard output, standard error."""
    monkeypatch.chdir(folder)

    def run(*arguments: object, model: object = "model.safetensors") -> tuple[int, str, str]:
        options = ("--octaves", "2", "--steps", "3", "--end-point", "Mixed_5b")
        return command("dream", model, *options, *arguments)

    return run


def test_the_command_writes_the_dream_of_each_image(run: Run, model: InceptionV3, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("text")
    noise(60, 20).save(tmp_path / "tiny.png")
    given = ("images", tmp_path / "bad.png", tmp_path / "tiny.png")
    status, printed, err = run(*given, "--out", tmp_path / "out", "--json", "--preview", tmp_path / "now.png")
    assert status == 3, err
    assert "2 of 4 images could not be read" in err
    assert "tiny.png: an image of 60x20 pixels; this end point needs " in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0000-_b_.png", "0001-one.png"]
    assert (tmp_path / "now.png").exists()
    result = json.loads(printed.splitlines()[1])
    expected = dream(model, noise(120, 107), "Mixed_5b", FEW)
    assert (result["target"], result["size"]) == ("Mixed_5b", [107, 120])
    assert result["activation"] == pytest.approx(expected.activation)
    with Image.open(result["file"]) as image:
        assert np.array_equal(np.asarray(image), np.asarray(expected.image()))


def test_one_image_is_written_to_the_file_of_out_but_not_over_the_image(run: Run, folder: Path, tmp_path: Path) -> None:
    status, printed, err = run("images/one.png", "--out", tmp_path / "a.webp")
    assert status == 0, err
    assert printed.startswith("images/one.png: activation of Mixed_5b ")
    with Image.open(tmp_path / "a.webp") as image:
        assert image.size == (120, 107)
    before = (folder / "images" / "one.png").read_bytes()
    status, _, err = run("images/one.png", "--out", "images/one.png")
    assert (status, "is an input and would be lost" in err) == (2, True)
    assert (folder / "images" / "one.png").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--end-point", "Mixed_5x"), "--end-point: no end point 'Mixed_5x' in this network; did you mean Mixed_5"),
        (("--end-point", "Logits"), "--end-point: Logits: a dream excites a whole map of the base; give "),
        (("--out", "a.tif"), "a.tif: a picture is saved as .png, "),
        (("--octave-scale", "1"), "--octave-scale"),
    ],
)
def test_wrong_options_are_refused_with_the_remedy(
    run: Run, folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    status, printed, err = run("images/one.png", *arguments)
    assert (status, printed) == (2, "")
    assert message in err
    assert not (folder / "dreams").exists()


def test_an_exported_network_has_no_gradients(run: Run, model: InceptionV3, tmp_path: Path) -> None:
    export(model, tmp_path / "model.onnx")
    status, _, err = run("images/one.png", model=tmp_path / "model.onnx")
    assert status == 2
    assert "an exported network, so it has no gradients; give the weights it was exported from, or use `explain" in err
