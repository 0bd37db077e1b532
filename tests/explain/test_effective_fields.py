"""The effective receptive field is measured from the gradients of the centre unit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import randomise, relative
from inception_v3.errors import InputError
from inception_v3.explain import EffectiveField, effective_field, receptive_field
from inception_v3.weights.model import InceptionV3

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model() -> InceptionV3:
    model = InceptionV3(num_classes=5, depth_multiplier=0.1, min_depth=4, image_size=107)
    randomise(model)
    return model


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, 107, 139, generator=torch.Generator().manual_seed(0)) * 2 - 1


def measured(gradient: np.ndarray) -> EffectiveField:
    """Unit (0, 0) of the first layer, whose field is 3x3 with pixel (1, 1) in the middle."""
    return EffectiveField(receptive_field("Conv2d_1a_3x3"), (0, 0), gradient, 1)


def test_the_map_is_the_mean_absolute_gradient_of_the_centre_unit(model: InceptionV3, images: torch.Tensor) -> None:
    model.eval()
    inputs = images.clone().requires_grad_()
    net = model(inputs, end_points=["Mixed_5c"])[1]["Mixed_5c"]
    height, width = net.shape[2:]
    net[:, :, height // 2, width // 2].sum().backward()
    assert inputs.grad is not None
    field = effective_field(model, images, "Mixed_5c")
    assert relative(field.numpy(), inputs.grad.double().abs().mean((0, 1))) < 1e-5
    assert (field.unit, field.images, field.gradient.shape) == ((height // 2, width // 2), 2, (107, 139))


def test_no_pixel_outside_the_theoretical_field_has_a_gradient(model: InceptionV3, images: torch.Tensor) -> None:
    field = effective_field(model, images, "Mixed_5b")
    top, left, bottom, right = field.field.region(*field.unit)
    outside = field.gradient.copy()
    outside[max(top, 0) : bottom, max(left, 0) : right] = 0
    assert not outside.any()
    assert 0 < field.size <= 63


@pytest.mark.parametrize(("radius", "size"), [(0, 1), (1, 3), (4, 9), (20, 41)])
def test_the_size_is_the_side_of_the_smallest_square_that_holds_95_percent(radius: int, size: int) -> None:
    """In a uniform square of side 41 even the square of side 39 only holds 90 %."""
    field = EffectiveField(receptive_field("Mixed_5b"), (5, 5), np.zeros((299, 299)), 1)
    middle = 13 + 5 * 8
    field.gradient[middle - radius : middle + radius + 1, middle - radius : middle + radius + 1] = 0.5
    assert field.size == size
    assert field.region == (middle - radius, middle - radius, middle + radius + 1, middle + radius + 1)


def test_a_weak_border_is_outside_the_effective_field() -> None:
    gradient = np.zeros((9, 9))
    gradient[1, 1], gradient[0, 0], gradient[8, 8] = 96, 2, 2
    assert measured(gradient).size == 1
    gradient[1, 1] = 70
    assert measured(gradient).size == 3


def test_a_unit_without_any_gradient_has_no_effective_field() -> None:
    assert measured(np.zeros((9, 9))).size == 0


def test_the_share_of_padding_is_the_part_of_the_theoretical_field_outside_the_image() -> None:
    field = EffectiveField(receptive_field("Mixed_7c"), (4, 4), np.zeros((299, 299)), 1)
    assert field.padding_share == pytest.approx(1 - 299**2 / 1311**2)
    assert measured(np.zeros((299, 299))).padding_share == 0


def test_heads_and_maps_larger_than_the_heads_take_are_measured(model: InceptionV3, images: torch.Tensor) -> None:
    assert effective_field(model, images, "Logits").unit == (0, 0)
    assert effective_field(model, torch.ones(1, 3, 400, 420), "Mixed_7c").field.name == "Mixed_7c"


def test_the_mode_and_the_gradients_of_the_model_are_kept(model: InceptionV3, images: torch.Tensor) -> None:
    model.zero_grad()
    model.train()
    with torch.no_grad():
        first, second = (effective_field(model, images, "Mixed_5b").gradient for _ in range(2))
    assert model.training
    assert np.array_equal(first, second), "batch statistics were used or changed"
    assert all(parameter.grad is None for parameter in model.parameters())
    assert images.grad is None


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "runs/pets"}, TypeError, "model must be an InceptionV3, whose gradients can be computed, not str"),
        ({"images": [1]}, TypeError, "images must be a tensor, not list; use model.preprocess(image)"),
        ({"images": torch.ones(0, 3, 107, 139)}, ValueError, "images must be one or more images, not an empty tensor"),
        ({"images": torch.ones(3, 107, 139)}, ValueError, "use images[None]"),
        ({"images": torch.ones(1, 3, 107, 139, dtype=torch.uint8)}, ValueError, "images must be floats in [-1, 1]"),
        ({"images": torch.full((1, 3, 107, 139), torch.nan)}, ValueError, "outputs are not finite, from the image on"),
        ({"end_point": "Mixed5b"}, ValueError, "no end point 'Mixed5b' in this network; did you mean Mixed_5b?"),
        ({"end_point": "Predictions"}, ValueError, "Predictions: the sum of the probabilities has no gradient"),
    ],
)
def test_wrong_arguments_are_refused_with_a_remedy(
    change: dict[str, Any], error: type[Exception], message: str, model: InceptionV3, images: torch.Tensor
) -> None:
    with pytest.raises(error) as raised:
        effective_field(**({"model": model, "images": images, "end_point": "Mixed_5b"} | change))
    assert message in str(raised.value)


def test_a_field_is_saved_as_an_array_or_a_plot_with_its_scale(tmp_path: Path) -> None:
    gradient = np.random.default_rng(0).random((75, 90))
    field = measured(gradient)
    field.save(tmp_path / "field.npy")
    assert np.array_equal(np.load(tmp_path / "field.npy"), gradient)
    field.save(str(tmp_path / "field.png"))
    assert (tmp_path / "field.png").read_bytes().startswith(b"\x89PNG")
    plot, scale = field.plot().axes
    assert plot.images[0].get_cmap().name == "cividis"
    assert scale.get_ylabel() == "mean absolute gradient"
    assert "Conv2d_1a_3x3: effective field" in plot.get_title()
    with pytest.raises(InputError, match=r"field.jpg: .* is saved as .npy or .png; change the suffix"):
        field.save(tmp_path / "field.jpg")
    assert {path.name for path in tmp_path.iterdir()} == {"field.npy", "field.png"}
