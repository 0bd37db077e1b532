"""A model saved by version 0.1 (tests/version_0_1) still loads, and converts to other formats."""

from contextlib import nullcontext
from pathlib import Path

import pytest

import inception_v3
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.weights.convert import convert
from inception_v3.weights.model import InceptionV3

MODEL = Path(__file__).parents[1] / "version_0_1" / "run" / "model.safetensors"


@pytest.fixture(scope="module")
def model() -> InceptionV3:
    return inception_v3.load(MODEL)


def test_settings_classes_preprocessing_and_training_are_as_they_were_saved(model: InceptionV3) -> None:
    assert dict(model.settings) == {
        "num_classes": 10,
        "depth_multiplier": 0.03,
        "min_depth": 16,
        "dropout_keep_prob": 0.8,
        "create_aux_logits": True,
        "spatial_squeeze": True,
        "global_pool": False,
        "batch_norm_decay": pytest.approx(7 / 9),
        "batch_norm_epsilon": 0.001,
        "batch_norm_scale": False,
        "count_padding": False,
        "mixed_7c_pool": "avg",
        "image_size": (75, 75),
        "final_endpoint": None,
        # Not in 0.1: no hidden layers, and a softmax.
        "hidden_units": (),
        "hidden_activation": "relu",
        "hidden_batch_norm": None,
        "hidden_batch_norm_epsilon": 0.001,
        "hidden_dropout_keep_prob": 1.0,
        "output_activation": "softmax",
    }
    assert model.class_names == [str(digit) for digit in range(10)]
    assert model.preprocessing == Preprocessing((75, 75), crop_fraction=1.0)
    assert model.origin is not None
    assert model.origin.training["epochs"] == 2


@pytest.mark.parametrize(
    ("name", "format", "dropped"),
    [
        ("model.safetensors", "native", []),
        (
            "model.ckpt",
            "tf-slim",
            [
                "how images are prepared (crop_fraction 1.0, interpolation bilinear, squash False)",
                "class names",
            ],
        ),
    ],
)
def test_it_converts_with_equal_logits(
    name: str, format: str, dropped: list[str], tmp_path: Path, model: InceptionV3
) -> None:
    with pytest.warns(UserWarning, match="TF-Slim cannot build this head") if dropped else nullcontext():
        conversion = convert(str(MODEL), tmp_path / name)
    assert (conversion.format, conversion.difference, conversion.dropped) == (format, 0, dropped)
    converted = inception_v3.load(tmp_path / name)
    assert converted.settings.num_classes == 10
    assert converted.class_names == (None if dropped else model.class_names)
