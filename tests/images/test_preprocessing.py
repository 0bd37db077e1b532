"""Preprocessing equals that of TensorFlow, torchvision, timm and Keras."""

import os

os.environ["KERAS_BACKEND"] = "torch"  # Keras reads it when it is imported

import tracemalloc
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform
from torchvision.models import Inception_V3_Weights
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import pil_to_tensor, resize

import inception_v3
from inception_v3.images.preprocessing import PREPROCESSINGS, Interpolation, Preprocessing
from inception_v3.images.tensorflow_resize import METHODS, tensorflow_resize

SIZES = ["1x1", "2x3", "7x5", "75x400", "299x299", "300x298", "341x257", "500x375", "601x900"]


@pytest.fixture(scope="module")
def recorded(slim_preprocessing: Path) -> dict[str, np.ndarray]:
    return dict(np.load(slim_preprocessing / "pictures.npz"))


# --------------------------------------------------------------------------------------- the other programs


@pytest.mark.parametrize("size", SIZES)
def test_slim_equals_tensorflow(recorded: dict[str, np.ndarray], size: str) -> None:
    ours = Preprocessing.named("slim")(Image.fromarray(recorded[f"{size}/picture"]))
    theirs = recorded[f"{size}/eval"].transpose(2, 0, 1)[None]
    assert ours.shape == theirs.shape
    assert np.abs(ours.numpy() - theirs).max() < 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", SIZES)
def test_every_resize_method_equals_tensorflow(recorded: dict[str, np.ndarray], size: str, method: str) -> None:
    image = recorded[f"{size}/picture"].transpose(2, 0, 1) / np.float32(255)
    theirs = recorded[f"{size}/{method}"].transpose(2, 0, 1)
    assert np.abs(tensorflow_resize(image, (75, 107), method) - theirs).max() < 1e-5  # type: ignore[arg-type]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", SIZES)
def test_antialiased_resizing_equals_torchvisions_bit_for_bit(
    recorded: dict[str, np.ndarray], size: str, interpolation: Interpolation
) -> None:
    image, preprocessing = Image.fromarray(recorded[f"{size}/picture"]), Preprocessing(interpolation=interpolation)
    plan = preprocessing.plan(*image.size)
    region = pil_to_tensor(image.crop(plan.region))
    resized = resize(region, list(plan.size), InterpolationMode(interpolation), antialias=True)
    left, top, right, bottom = plan.crop
    assert torch.equal(preprocessing.pixels(image), resized[:, top:bottom, left:right])


def test_a_tall_line_is_resized_without_enlarging_all_of_its_rows() -> None:
    """All rows of 299 pixels would take 1.2 GB in float32."""
    image = np.random.default_rng(0).integers(0, 256, (1, 1_000_000, 1), np.uint8)
    tracemalloc.start()
    resized = tensorflow_resize(image, (299, 299))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6
    assert np.array_equal(resized[0, :, 0], tensorflow_resize(image, (299, 1))[0, :, 0])


@pytest.mark.parametrize("method", ["bilinear", "nearest", "bicubic", "area"])
def test_tensorflow_resizes_an_image_to_the_same_size_without_a_change(method: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 33, 41), np.uint8)
    resized = tensorflow_resize(image, (33, 41), method)  # type: ignore[arg-type]
    assert resized.dtype == np.float32
    assert np.array_equal(resized, image)


@pytest.mark.parametrize("size", SIZES)
def test_torchvision_and_timm_equal_their_own_transforms(recorded: dict[str, np.ndarray], size: str) -> None:
    image = Image.fromarray(recorded[f"{size}/picture"])
    preset = Inception_V3_Weights.IMAGENET1K_V1.transforms()
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (preset.mean, preset.std))
    torchvision = (preset(image) * std + mean) * 255
    assert torch.equal(Preprocessing.named("torchvision").pixels(image), torchvision.round().byte())
    scale = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    timm = create_transform((3, 299, 299), interpolation="bicubic", crop_pct=0.875, crop_mode="center", **scale)
    assert torch.allclose(Preprocessing.named("timm")(image)[0], timm(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_keras_equals_its_own_preprocessing(recorded: dict[str, np.ndarray], size: str, tmp_path: Path) -> None:
    image = Image.fromarray(recorded[f"{size}/picture"])
    image.save(tmp_path / "image.png")
    loaded = keras.utils.load_img(tmp_path / "image.png", target_size=(299, 299), interpolation="bilinear")
    theirs = keras.applications.inception_v3.preprocess_input(keras.utils.img_to_array(loaded))
    ours = Preprocessing.named("keras")(image)[0]
    assert np.abs(ours.numpy() - theirs.transpose(2, 0, 1)).max() < 1e-6


def test_a_tf_slim_checkpoint_has_slims_preprocessing(
    tmp_path: Path, random_model, recorded: dict[str, np.ndarray]
) -> None:  # type: ignore[no-untyped-def]
    inception_v3.save(random_model(image_size=299), tmp_path / "model.ckpt", "tf-slim")
    model = inception_v3.load(tmp_path / "model.ckpt")
    prepared = model.preprocess([Image.fromarray(recorded[f"{size}/picture"]) for size in SIZES])
    theirs = np.stack([recorded[f"{size}/eval"].transpose(2, 0, 1) for size in SIZES])
    assert np.abs(prepared.numpy() - theirs).max() < 1e-6


# --------------------------------------------------------------------------------------------- the options


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_preprocessing_is_stored_with_the_model(tmp_path: Path, name: str, random_model) -> None:  # type: ignore[no-untyped-def]
    model = random_model()
    model.preprocessing = Preprocessing.named(name, 107)  # type: ignore[arg-type]
    inception_v3.save(model, tmp_path / "model.safetensors")
    assert inception_v3.load(tmp_path / "model.safetensors").preprocessing == model.preprocessing


def test_a_file_without_newer_options_gets_their_defaults(tmp_path: Path, monkeypatch, random_model) -> None:  # type: ignore[no-untyped-def]
    from inception_v3.weights.formats import native

    model = random_model()
    older = {key: value for key, value in asdict(model.preprocessing).items() if key != "squash"}
    monkeypatch.setattr(native, "asdict", lambda _: older)
    inception_v3.save(model, tmp_path / "model.safetensors")
    assert inception_v3.load(tmp_path / "model.safetensors").preprocessing == Preprocessing((107, 107))


def test_another_image_size_shows_the_same_part_of_the_image() -> None:
    assert Preprocessing.named("torchvision", 75).resize == 86
    assert Preprocessing.named("timm", (598, 598)).resize == 682
    assert Preprocessing.named("slim", (75, 107)) == Preprocessing((75, 107), squash=True, interpolation="tensorflow")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"image_size": (0, 299)}, "image_size"),
        ({"crop_fraction": 0.0}, "crop_fraction"),
        ({"crop_fraction": float("nan")}, "crop_fraction"),
        ({"resize": 0}, "resize"),
        ({"resize": 342, "squash": True}, "squash"),
        ({"interpolation": "cubic"}, "bilinear, bicubic, tensorflow"),
        ({"std": (1.0, 0.0, 1.0)}, "std"),
    ],
)
def test_impossible_options_are_refused(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing(**setting)  # type: ignore[arg-type]


def test_an_unknown_name_is_an_error_that_lists_the_known_names() -> None:
    with pytest.raises(ValueError, match="inception, slim, torchvision, timm, keras"):
        Preprocessing.named("caffe")  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------- any image


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(PREPROCESSINGS)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
)
def test_any_image_gets_the_requested_size_and_keeps_its_colours(
    name: str, size: tuple[int, int], image_size: tuple[int, int]
) -> None:
    preprocessing = Preprocessing.named(name, image_size)  # type: ignore[arg-type]
    image = Image.new("RGB", size, (10, 200, 30))
    pixels = preprocessing.pixels(image)
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, *image_size))
    assert (preprocessing(image) - preprocessing.scale(pixels[None])).abs().max() <= 1 / 255
    if preprocessing.resize is None or image_size[0] == image_size[1]:
        assert [set(channel.flatten().tolist()) for channel in pixels] == [{10}, {200}, {30}]


@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_a_line_of_pixels_does_not_fill_the_memory(name: str) -> None:
    for size in ((1, 3_000_000), (3_000_000, 1)):
        pixels = Preprocessing.named(name).pixels(Image.new("RGB", size, (10, 200, 30)))  # type: ignore[arg-type]
        assert pixels.flatten(1).float().std(1).max() == 0


def test_pixels_are_scaled_to_minus_one_to_one() -> None:
    pixels = torch.tensor([0, 127, 128, 255], dtype=torch.uint8).expand(1, 3, 1, 4)
    scaled = Preprocessing().scale(pixels)
    assert scaled[0, 0, 0].tolist() == pytest.approx([-1, -1 / 255, 1 / 255, 1])
    assert scaled.dtype == torch.float32


@pytest.mark.parametrize("size", [(75, 75), (400, 90), (90, 400), (299, 299), (1, 1), (341, 342)])
def test_the_result_has_no_border_at_any_aspect_ratio(size: tuple[int, int]) -> None:
    image = Image.new("RGB", (size[1], size[0]), (10, 200, 30))
    pixels = Preprocessing((107, 139))(image)
    assert pixels.shape == (1, 3, 107, 139)
    assert pixels.flatten(2).std(2).max() == 0, "no border of another colour"


def test_the_central_crop_removes_the_border() -> None:
    image = np.zeros((400, 400, 3), np.uint8)
    image[20:380, 20:380] = 255
    pixels = Preprocessing((100, 100), crop_fraction=0.875).pixels(Image.fromarray(image))
    assert pixels.min() == 255
    whole = Preprocessing((100, 100), crop_fraction=1.0).pixels(Image.fromarray(image))
    assert whole.min() == 0


# ----------------------------------------------------------------------------------------------- without PyTorch


@pytest.mark.parametrize("name", PREPROCESSINGS)
@pytest.mark.parametrize("size", SIZES)
def test_array_equals_pixels_or_differs_by_two_levels(recorded: dict[str, np.ndarray], size: str, name: str) -> None:
    """Other programs' preprocessings are identical; only this project's own is resized by other kernels."""
    image = Image.fromarray(recorded[f"{size}/picture"])
    preprocessing = Preprocessing.named(name)  # type: ignore[arg-type]
    ours, theirs = preprocessing.array(image), preprocessing.pixels(image).permute(1, 2, 0).numpy()
    assert (ours.dtype, ours.shape) == (np.uint8, (299, 299, 3))
    off = np.abs(ours.astype(int) - theirs)
    assert off.max() <= (2 if name == "inception" else 0)
    assert off.mean() <= 0.6


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(
        [
            *PREPROCESSINGS.values(),
            Preprocessing(interpolation="bicubic"),
            Preprocessing(interpolation="tensorflow"),
            Preprocessing(resize=320, interpolation="tensorflow"),
        ]
    ),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
    st.integers(0, 2**32 - 1),
)
def test_array_at_any_size(
    preprocessing: Preprocessing, size: tuple[int, int], image_size: tuple[int, int], seed: int
) -> None:
    preprocessing = preprocessing.at(image_size)
    bicubic = preprocessing.interpolation == "bicubic"
    # Bicubic can exceed 0 to 255 and is clipped between the two axes, whose order differs in Pillow and torchvision.
    levels = (64, 192) if bicubic else (0, 256)
    noise = np.random.default_rng(seed).integers(*levels, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    off = np.abs(preprocessing.array(image).astype(int) - preprocessing.pixels(image).permute(1, 2, 0).numpy())
    torchvision_resizes = not (
        preprocessing.squash or preprocessing.resize or preprocessing.interpolation == "tensorflow"
    )
    # Both round to 8 bits between the axes, and bicubic's negative weights amplify the rounding errors.
    most = 3 if bicubic else 2
    assert off.max() <= (most if torchvision_resizes else 0)


def test_probabilities_with_array_and_pixels_agree_to_a_thousandth(
    random_model, recorded: dict[str, np.ndarray]
) -> None:  # type: ignore[no-untyped-def]
    model = random_model()
    for size in ("300x298", "341x257", "500x375", "601x900"):
        image = Image.fromarray(recorded[f"{size}/picture"])
        both = np.stack([Preprocessing((107, 107)).array(image), _as_rows(Preprocessing((107, 107)), image)])
        with torch.inference_mode():
            images = Preprocessing().scale(torch.from_numpy(both).permute(0, 3, 1, 2))
            pillow, torchvision = model(images, ())[0].softmax(1)
        assert (pillow - torchvision).abs().max() < 1e-3


def _as_rows(preprocessing: Preprocessing, image: Image.Image) -> np.ndarray:
    return preprocessing.pixels(image).permute(1, 2, 0).numpy()


def test_array_does_not_import_pytorch() -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom PIL import Image\nfrom inception_v3.images.preprocessing import PREPROCESSINGS\n"
        "for preprocessing in PREPROCESSINGS.values(): preprocessing.array(Image.new('RGB', (40, 30)))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_an_image_that_is_not_rgb_is_refused_instead_of_read_as_colours(mode: str) -> None:
    image = Image.new("RGB", (80, 80), "red").convert(mode)
    for prepare in (Preprocessing(), Preprocessing().pixels, Preprocessing().array):
        with pytest.raises(ValueError, match=f"Pillow image of mode RGB, not {mode}; .*open_image"):
            prepare(image)  # type: ignore[operator]


def test_a_tensor_is_refused_instead_of_an_image() -> None:
    with pytest.raises(ValueError, match="Pillow image of mode RGB, not Tensor"):
        inception_v3.InceptionV3(depth_multiplier=0.1).preprocess(torch.zeros(3, 80, 80))  # type: ignore[arg-type]
