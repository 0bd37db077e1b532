"""Wrong types and values of arguments are refused at the call, by every public function; NumPy's scalars are taken."""

import io
from collections.abc import Callable
from enum import IntEnum
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import inception_v3
from inception_v3 import InceptionV3, Preprocessing, open_image
from inception_v3.data import load_data, load_held_out
from inception_v3.data.labelled_images import LabelledImages
from inception_v3.data.loader import batches
from inception_v3.errors import InputError
from inception_v3.evaluation.models import evaluate_models
from inception_v3.fidelity import FrechetInceptionDistance, InceptionScore, KernelInceptionDistance, fidelity
from inception_v3.fidelity.frechet import frechet_distance
from inception_v3.finetuning.finetune import HeadOptions, rate_factors, with_new_head
from inception_v3.images.containers import open_container
from inception_v3.inference.choose import open_engine
from inception_v3.inference.predict import Predictor
from inception_v3.network.settings import Settings
from inception_v3.training.recipe import TrainingOptions, load_recipe
from inception_v3.weights.load import load, save

NAN, INF, HUGE = float("nan"), float("inf"), 10**12
RGB = Image.new("RGB", (80, 80), "red")
PNG = io.BytesIO()
RGB.save(PNG, "PNG")


class Seven(IntEnum):
    SEVEN = 7


class Means(torch.nn.Module):
    """Stands in for the network of 2015."""

    num_features = 3

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean((2, 3))


@cache
def model() -> InceptionV3:
    return InceptionV3(num_classes=3, depth_multiplier=0.1, min_depth=8, image_size=75).eval()


@cache
def images() -> torch.Tensor:
    return torch.zeros(1, 3, 75, 75)


def data() -> LabelledImages:
    return LabelledImages(["a", "b", "c"], [RGB] * 3, [0, 1, 2], ["1", "2", "3"])


def evaluate_one(**options: Any) -> None:
    evaluate_models([model()], data(), **options)


# By kind of argument: wrong values, with the exception and what the message says is right.
WRONG_TYPES = {
    "int": [None, "3", "", 2.5, True, False, NAN, INF, b"3", [3], {}, np.float32(0.5), np.bool_(True)],
    "float": [None, "3", "", True, b"3", [0.5], {}, np.bool_(True)],
    "bool": [None, 1, 0, "True", "", 1.0, NAN, [], np.int64(1)],
    "str": [None, 3, True, 2.5, b"x", ["x"], {}],
    "path": [None, 3, True, 2.5, b"x", ["x"], {}],
    "names": ["abc", b"abc", 3, True, 2.5, [3], [None]],
}
WRONG_VALUES = {
    "positive": [0, -1, HUGE, np.int64(0), torch.tensor(-1)],
    "fraction": [-1, 2, NAN, INF, -INF, HUGE, 10**400, np.float32("nan")],
    "size": [0, -1, 10**6, (0, 299), (299, 10**6), (1, 2, 3), [75]],
}

Entry = tuple[Callable[..., Any], str, str, str, str]  # function, argument, its kinds of wrong types and values, words
ENTRIES: dict[str, Entry] = {
    "InceptionV3, num_classes": (InceptionV3, "num_classes", "int", "positive", "a whole number"),
    "InceptionV3, min_depth": (InceptionV3, "min_depth", "int", "positive", "a whole number"),
    "InceptionV3, depth_multiplier": (InceptionV3, "depth_multiplier", "float", "", "a number"),
    "InceptionV3, dropout_keep_prob": (InceptionV3, "dropout_keep_prob", "float", "fraction", "a number"),
    "InceptionV3, batch_norm_decay": (InceptionV3, "batch_norm_decay", "float", "fraction", "a number"),
    "InceptionV3, batch_norm_epsilon": (InceptionV3, "batch_norm_epsilon", "float", "fraction", "a number"),
    "InceptionV3, image_size": (InceptionV3, "image_size", "", "size", ""),
    **{
        f"InceptionV3, {name}": (InceptionV3, name, "bool", "", "True or False")
        for name in ("create_aux_logits", "spatial_squeeze", "global_pool", "batch_norm_scale", "count_padding")
    },
    "load, path": (load, "path", "path", "", "a string or a path"),
    "load, partial": (partial(load, "none"), "partial", "bool", "", "True or False"),
    "load, num_classes": (partial(load, "none"), "num_classes", "int", "positive", "a whole number"),
    "load, global_pool": (partial(load, "none"), "global_pool", "bool", "", "True or False"),
    "save, path": (lambda path: save(model(), path), "path", "path", "", ""),
    "save, allow_difference": (lambda **options: save(model(), "none", **options), "allow_difference", "bool", "", ""),
    "Preprocessing, crop_fraction": (Preprocessing, "crop_fraction", "float", "fraction", "a number"),
    "Preprocessing, squash": (Preprocessing, "squash", "bool", "", "True or False"),
    "Preprocessing.at, image_size": (Preprocessing().at, "image_size", "", "size", ""),
    "Preprocessing.named, image_size": (partial(Preprocessing.named, "slim"), "image_size", "", "size", ""),
    "Preprocessing.named, name": (Preprocessing.named, "name", "str", "", "one of inception, slim"),
    "open_engine, engine": (partial(open_engine, "none"), "engine", "str", "", "a string"),
    "open_engine, callers": (partial(open_engine, "none"), "callers", "", "positive", ""),
    "Predictor, model": (Predictor, "model", "path", "", "a string or a path"),
    "Predictor, batch_size": (partial(Predictor, "none"), "batch_size", "", "positive", ""),
    "Predictor, min_agreement": (partial(Predictor, "none"), "min_agreement", "", "fraction", ""),
    "fidelity, generated": (fidelity, "generated", "path", "", "a string or a path"),
    "fidelity, any_weights": (partial(fidelity, "none"), "any_weights", "bool", "", "True or False"),
    "fidelity, scores": (partial(fidelity, "none"), "scores", "names", "", "a list of strings or None"),
    "fidelity, batch_size": (partial(fidelity, "none"), "batch_size", "", "positive", ""),
    "FrechetInceptionDistance, normalize": (partial(FrechetInceptionDistance, Means()), "normalize", "bool", "", ""),
    "KernelInceptionDistance, subsets": (partial(KernelInceptionDistance, Means()), "subsets", "int", "positive", ""),
    "InceptionScore, splits": (partial(InceptionScore, Means()), "splits", "int", "positive", "a whole number"),
    "evaluate_models, batch_size": (evaluate_one, "batch_size", "", "positive", ""),
    "evaluate_models, threads": (evaluate_one, "threads", "", "positive", ""),
    "load_data, address": (load_data, "address", "path", "", "a string or a path"),
    "load_held_out, class_names": (partial(load_held_out, "none"), "class_names", "names", "", "a list of strings"),
    "batches, batch_size": (partial(batches, data(), Preprocessing()), "batch_size", "int", "positive", ""),
    "with_new_head, class_names": (lambda **o: with_new_head(model(), **o), "class_names", "names", "", ""),
    "rate_factors, layers": (rate_factors, "layers", "str", "", "a string"),
    "load_recipe, name": (load_recipe, "name", "path", "", "a string or a path"),
    "HeadOptions, batch_size": (HeadOptions, "batch_size", "int", "positive", "a whole number"),
    "TrainingOptions, seed": (TrainingOptions, "seed", "int", "", "a whole number"),
    "TrainingOptions, save_every": (TrainingOptions, "save_every", "", "positive", ""),
}  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_wrong_type_raises_type_error_and_a_wrong_value_value_error(entry: str) -> None:
    function, name, types, values, words = ENTRIES[entry]
    for value in WRONG_TYPES[types] if types else ():
        with pytest.raises(TypeError, match=rf"{name} must be {words}") as error:
            function(**{name: value})
        assert "\n" not in str(error.value)
    for value in WRONG_VALUES[values] if values else ():
        with pytest.raises(ValueError, match=rf"{name} must be .*, not ") as wrong_value:
            function(**{name: value})
        assert "\n" not in str(wrong_value.value)


@pytest.mark.parametrize(
    ("function", "options", "error", "words"),
    [
        (Settings, {"depth_multiplier": NAN}, ValueError, "greater than zero and at most 100, not nan"),
        (Settings, {"depth_multiplier": 10**400}, ValueError, "depth_multiplier must be greater than zero"),
        (Settings, {"depth_multiplier": 10**5000}, ValueError, "at most 100, not a number of 16,610 bits"),
        (Settings, {"batch_norm_epsilon": -0.001}, ValueError, "greater than zero and at most 1, not -0.001"),
        (Settings, {"mixed_7c_pool": "min"}, ValueError, "one of avg, max, not 'min'"),
        (Settings, {"mixed_7c_pool": None}, TypeError, "one of avg, max, not None"),
        (Settings, {"final_endpoint": 3}, TypeError, r"final_endpoint must be a string or None, not 3 \(int\)"),
        (Settings, {"image_size": "299"}, TypeError, r"a whole number or 2 whole numbers, not '299' \(str\)"),
        (Preprocessing, {"image_size": 299}, TypeError, "image_size must be 2 whole numbers, not 299"),
        (Preprocessing, {"mean": (0.5, 0.5, NAN)}, ValueError, "mean must be a finite number"),
        (Preprocessing, {"mean": "abc"}, TypeError, "mean must be 3 numbers, not 'abc'"),
        (Preprocessing, {"resize": 2.5}, TypeError, "resize must be a whole number, 2 whole numbers or None"),
        (TrainingOptions, {"seed": -1}, ValueError, "seed must be at least zero"),
        (TrainingOptions, {"seed": 2**63}, ValueError, "seed must be at least zero and at most 9,223,372,036"),
        (HeadOptions, {"l2": NAN}, ValueError, "l2 must be at least zero, not nan"),
        (partial(fidelity, "none"), {"kid_subset_size": 1}, ValueError, "at least 2"),
        (partial(fidelity, "none"), {"seed": 2**32}, ValueError, "at most 4,294,967,295"),
        (partial(fidelity, "none"), {"device": None}, TypeError, "device must be a string or a device, not None"),
        (partial(fidelity, "none"), {"weights": 3}, TypeError, "weights must be a string, a path or an InceptionV3"),
        (partial(load, "none"), {"device": "foo"}, ValueError, "device must be one that PyTorch can use, not 'foo'"),
        (partial(load, "none"), {"device": 3}, TypeError, "device must be a string or a device, not 3"),
        (partial(load_held_out, "none", None), {"trained_on": "x"}, TypeError, "trained_on"),
    ],
)  # fmt: skip
def test_the_message_says_what_is_right(
    function: Callable[..., Any], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        function(**options)


@pytest.mark.parametrize("crops", [2, 0, -1])
def test_crops_that_no_paper_has_are_refused_before_an_engine_is_opened(crops: int) -> None:
    with pytest.raises(ValueError, match="crops must be one of 1, 12, 144"):
        evaluate_models([model()], data(), crops=crops)
    with pytest.raises(TypeError, match="models must be a list of InceptionV3s"):
        evaluate_models(model(), data())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="models must be one or more models"):
        evaluate_models([], data())


def test_scalars_of_numpy_and_pytorch_become_numbers_that_json_can_hold(tmp_path: Path) -> None:
    built = InceptionV3(
        num_classes=np.int64(3),  # type: ignore[arg-type]
        depth_multiplier=np.float32(0.125),  # type: ignore[arg-type]
        min_depth=Seven.SEVEN,
        global_pool=np.bool_(True),  # type: ignore[arg-type]
        image_size=[np.int32(75), torch.tensor(80)],  # type: ignore[arg-type]
        batch_norm_decay=torch.tensor(0.5),  # type: ignore[arg-type]
    )
    assert built.settings["num_classes"] == 3
    assert type(built.settings["depth_multiplier"]) is float
    assert built.settings["global_pool"] is True
    assert built.image_size == (75, 80)
    save(built, tmp_path / "model.safetensors")
    assert load(str(tmp_path / "model.safetensors")).settings == built.settings
    assert Preprocessing((75, 75), mean=np.zeros(3)).mean == (0.0, 0.0, 0.0)  # type: ignore[arg-type]
    assert load_recipe("finetune").with_options(epochs=np.int64(3), learning_rate=np.float32(0.5)).epochs == 3


@pytest.mark.parametrize(
    ("options", "error"),
    [({"num_classes": "3"}, TypeError), ({"classes": 3}, TypeError), ({"min_depth": 0}, ValueError)],
)
def test_an_option_that_no_model_has_is_also_an_input_error(options: dict[str, Any], error: type[Exception]) -> None:
    for kind in (error, InputError):
        with pytest.raises(kind, match=f"none.*{next(iter(options))}"):
            load("none", **options)


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (None, TypeError, "images must be a tensor, not NoneType; use model.preprocess"),
        (np.zeros((1, 3, 75, 75)), TypeError, "not ndarray"),
        (images()[0], ValueError, r"use images\[None\]"),
        (images().permute(0, 2, 3, 1), ValueError, r"use images.permute\(0, 3, 1, 2\)"),
        (torch.zeros(1, 4, 75, 75), ValueError, r"\(N, 3, H, W\), not \(1, 4, 75, 75\)"),
        (images().byte(), ValueError, "not torch.uint8; use model.preprocess"),
        (images().double(), ValueError, r"use images.to\(torch.float32\)"),
        (images().to("meta"), ValueError, "images are on meta, the network on cpu"),
    ],
)
def test_the_network_refuses_other_images_with_the_remedy(wrong: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        model()(wrong)


def test_the_network_takes_images_in_any_memory_format_and_under_autocast() -> None:
    expected = model()(images(), ())[0]
    assert torch.allclose(model()(images().to(memory_format=torch.channels_last), ())[0], expected, atol=1e-6)
    assert model()(images().clone().requires_grad_(), ())[0].requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert model()(images().bfloat16(), ())[0].shape == (1, 3)


@pytest.mark.parametrize("names", [b"Mixed_7c", 0, 3, True, iter(["Mixed_7c"]), [3]])
def test_end_points_that_are_no_names_are_refused(names: Any) -> None:
    with pytest.raises(TypeError, match="end_points must be names, such as"):
        model()(images(), names)
    assert set(model()(images(), ["Mixed_7c"])[1]) == {"Mixed_7c"}


@pytest.mark.parametrize("source", [None, 3, 2.5, True, [], {}, np.zeros((8, 8, 3), np.uint8), io.StringIO("x")])
def test_open_image_refuses_other_sources(source: Any) -> None:
    with pytest.raises(TypeError, match="source must be a path, bytes, a binary file or a Pillow image, not"):
        open_image(source)


def test_open_image_takes_every_kind_of_bytes() -> None:
    for kind in (bytes, bytearray, memoryview):
        assert open_image(kind(PNG.getvalue())).tobytes() == RGB.tobytes()  # type: ignore[arg-type]


def test_preprocess_refuses_no_images_and_images_without_pixels() -> None:
    with pytest.raises(ValueError, match="images must be one or more images"):
        model().preprocess([])
    for method in (Preprocessing(), Preprocessing().pixels, Preprocessing().array):
        with pytest.raises(ValueError, match="an image must have pixels, not 0x5"):
            method(Image.new("RGB", (0, 5)))
    with pytest.raises(TypeError, match="pixels must be a tensor, not ndarray"):
        Preprocessing().scale(np.zeros((1, 3, 8, 8)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"pixels must have shape \(N, 3, H, W\), not \(8, 8, 3\)"):
        Preprocessing().scale(torch.zeros(8, 8, 3))


@pytest.mark.parametrize("names", [["a", "b"], "abc", ["a", "b", 3]])
def test_class_names_that_do_not_fit_are_not_saved(names: Any, tmp_path: Path) -> None:
    named = InceptionV3(num_classes=3, depth_multiplier=0.1, min_depth=8, image_size=75)
    named.class_names = names
    with pytest.raises((TypeError, ValueError), match="class_names must be"):
        save(named, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_equal_class_names_make_no_new_head() -> None:
    for names in ([], ["a", "a"]):
        with pytest.raises(ValueError, match="class_names must be one or more different names"):
            with_new_head(model(), names)
    assert with_new_head(model(), ("a", "b")).class_names == ["a", "b"]  # type: ignore[arg-type]


def test_metrics_refuse_other_images_and_another_word_for_real() -> None:
    metric = FrechetInceptionDistance(Means())
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    for real in (1, "fake", None):
        with pytest.raises(TypeError, match="real must be True or False"):
            metric.update(pixels, real=real)
    with pytest.raises(TypeError, match="imgs must be a Tensor"):
        metric.update(pixels.numpy(), real=True)
    with pytest.raises(ValueError, match="count must be at least zero"):
        metric.update_from(lambda n: pixels[:n], -1)
    with pytest.raises(TypeError, match="first must be a Gaussian, not array"):
        frechet_distance(np.zeros(3), np.zeros(3))  # type: ignore[arg-type]


def test_an_array_with_channels_first_is_read_with_a_warning(tmp_path: Path) -> None:
    np.save(tmp_path / "set.npy", np.zeros((12, 3, 32, 40), np.uint8))
    with pytest.warns(UserWarning, match=r"read as 12 images of 32x40 pixels with 3 channels; .*\(N, H, W, 3\)"):
        container = open_container(tmp_path / "set.npy", "set.npy")
    assert container is not None
    assert container.count == 12


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 8, 8, 3)),
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((2, 8, 8, 3), np.int64),
        np.zeros((2, 8, 8, 3), bool),
        np.zeros((2, 8, 8, 3), ">u2"),
        np.zeros((2, 8, 8, 3), object),
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((2, 0, 0, 3), np.uint8),
        np.zeros((2, 8, 8, 2), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((8, 8), np.uint8),
        np.asfortranarray(np.zeros((2, 8, 8, 3), np.uint8)),
    ],
)
def test_a_file_with_an_array_that_holds_no_images_is_refused(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "set.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=r"^set.npy: .*; "):
        open_container(tmp_path / "set.npy", "set.npy")


def test_every_public_name_is_documented_with_what_it_raises() -> None:
    for name in ("InceptionV3", "Predictor", "Preprocessing", "load", "open_image", "save"):
        assert "TypeError" in (getattr(inception_v3, name).__doc__ or ""), name
