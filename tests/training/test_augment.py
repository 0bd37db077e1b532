"""Augmentation: TF-Slim's distortions compared with TensorFlow, and properties of all augmentations."""

import pickle
import random
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp

from inception_v3.images.preprocessing import Preprocessing
from inception_v3.training import distortion
from inception_v3.training.augment import AUGMENTS
from inception_v3.training.distortion import ORDERINGS, Distortion, distort_colours, distorted_box
from inception_v3.training.recipe import AugmentName


@pytest.fixture(scope="module")
def recorded(slim_preprocessing: Path) -> dict[str, np.ndarray]:
    return dict(np.load(slim_preprocessing / "distortions.npz"))


def photo(height: int = 90, width: int = 120) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


# ------------------------------------------------------------------------------------------ TF-Slim's distortions


@pytest.mark.parametrize("change", ["saturation", "contrast", "hue"])
def test_colours_change_as_tensorflow_changes_them(recorded: dict[str, np.ndarray], change: str) -> None:
    """Also for images with values outside [0, 1], which a change of brightness produces."""
    image = torch.from_numpy(recorded["picture"]).permute(2, 0, 1)
    factors = [name.split("/")[1] for name in recorded if name.startswith(f"{change}/")]
    assert len(factors) >= 4
    for factor in factors:
        ours = getattr(distortion, f"adjust_{change}")(image, float(factor))
        theirs = recorded[f"{change}/{factor}"].transpose(2, 0, 1)
        assert np.abs(ours.numpy() - theirs).max() < 5e-6, factor


@pytest.mark.parametrize("size", ["375x500", "40x20", "3x2"])
def test_crops_have_the_distributions_of_tensorflow(recorded: dict[str, np.ndarray], size: str) -> None:
    """Offset, size, aspect ratio and area of 1000 crops each, by the Kolmogorov-Smirnov test."""
    height, width = map(int, size.split("x"))
    ours = np.array([distorted_box(height, width) for _ in range(1000)])
    theirs = recorded[f"boxes/{size}"]
    for boxes in (ours, theirs):
        assert (boxes[:, :2] + boxes[:, 2:] <= (height, width)).all()
        assert (boxes[:, 2] * boxes[:, 3] >= 0.1 * height * width).all()
    for measure in (lambda box: box[:, 0], lambda box: box[:, 1], lambda box: box[:, 2], lambda box: box[:, 3],
                    lambda box: box[:, 3] / box[:, 2], lambda box: box[:, 2] * box[:, 3]):  # fmt: skip
        assert ks_2samp(measure(ours), measure(theirs)).pvalue > 0.005


def test_the_order_of_colour_changes_matters() -> None:
    assert all(sorted(ordering) == ["brightness", "contrast", "hue", "saturation"] for ordering in ORDERINGS)
    assert len(set(ORDERINGS)) == 4
    image = torch.rand(3, 20, 20)
    results = []
    for ordering in ORDERINGS:
        torch.manual_seed(1)
        results.append(distort_colours(image, ordering))
        assert results[-1].min() >= 0
        assert results[-1].max() <= 1
    assert all(not torch.equal(results[0], result) for result in results[1:])


def test_fast_mode_does_not_change_hue_and_contrast() -> None:
    """A grey image stays grey and keeps its contrast; only its brightness changes."""
    noise = np.random.default_rng(0).integers(100, 141, (64, 64), dtype=np.uint8)
    gray = Image.fromarray(noise).convert("RGB")
    for _ in range(10):
        pixels = Distortion((75, 75), fast=True)(gray).int()
        assert (pixels.amax(0) - pixels.amin(0)).max() <= 1
        assert int(pixels.max() - pixels.min()) <= 42
    changed = [Distortion((75, 75))(gray).int() for _ in range(20)]
    assert max(int(pixels.max() - pixels.min()) for pixels in changed) > 45


# ------------------------------------------------------------------------------------------- all augmentations


def test_every_augmentation_of_recipes_exists() -> None:
    assert set(AUGMENTS) == set(get_args(AugmentName))


@pytest.mark.parametrize("name", [name for name, make in AUGMENTS.items() if make])
def test_the_result_depends_only_on_pytorchs_seed_also_after_pickling(name: str) -> None:
    make = AUGMENTS[name]  # type: ignore[index]
    assert make is not None
    augment = make(Preprocessing((75, 107), crop_fraction=1.0))
    unpickled = pickle.loads(pickle.dumps(augment))
    image = photo()

    def draw(augmentation: object, other_seed: int) -> torch.Tensor:
        random.seed(other_seed)
        np.random.seed(other_seed)
        return augmentation(image)  # type: ignore[operator, no-any-return]

    torch.manual_seed(5)
    first, second = draw(augment, 1), draw(augment, 2)
    torch.manual_seed(5)
    again = draw(unpickled, 3)
    assert (first.dtype, first.shape) == (torch.uint8, (3, 75, 107))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", [name for name, make in AUGMENTS.items() if make])
@pytest.mark.parametrize("size", [(1, 1), (2, 400), (400, 2), (500, 375)])
def test_images_of_any_size_are_accepted(name: str, size: tuple[int, int]) -> None:
    make = AUGMENTS[name]  # type: ignore[index]
    assert make is not None
    for _ in range(3):
        assert make(Preprocessing((75, 75)))(photo(*size)).shape == (3, 75, 75)


def test_crops_shifts_and_flips_but_does_not_scale() -> None:
    pixels = np.zeros((80, 80, 3), np.uint8)
    pixels[30:40, 30:40] = 255
    make = AUGMENTS["crops"]
    assert make is not None
    augment = make(Preprocessing((80, 80), crop_fraction=1.0))
    offsets = set()
    for _ in range(30):
        rows, columns = torch.nonzero(augment(Image.fromarray(pixels))[0], as_tuple=True)
        assert (len(rows), int(rows.max() - rows.min()), int(columns.max() - columns.min())) == (100, 9, 9)
        offsets.add((int(rows.min()), int(columns.min())))
    assert {row for row, _ in offsets} <= set(range(20, 41))
    assert min(column for _, column in offsets) < 41 < max(column for _, column in offsets) + 5
