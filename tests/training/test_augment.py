"""What training changes in pictures: TF-Slim's distortions against TensorFlow, and one rule for all of them."""

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp

from inception_v3.images.preprocessing import Preprocessing
from inception_v3.training import distortion
from inception_v3.training.augment import AUGMENTS
from inception_v3.training.distortion import ORDERINGS, Distortion, distort_colours, distorted_box
from inception_v3.training.recipe import CHOICES


@pytest.fixture(scope="module")
def recorded(slim_preprocessing: Path) -> dict[str, np.ndarray]:
    return dict(np.load(slim_preprocessing / "distortions.npz"))


def photo(height: int = 90, width: int = 120) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


# ---------------------------------------------------------------------------------------------- TF-Slim's own


@pytest.mark.parametrize("change", ["saturation", "contrast", "hue"])
def test_colours_change_as_tensorflow_changes_them(recorded: dict[str, np.ndarray], change: str) -> None:
    """On pictures that leave [0, 1], as those do that are made brighter first."""
    picture = torch.from_numpy(recorded["picture"]).permute(2, 0, 1)
    amounts = [name.split("/")[1] for name in recorded if name.startswith(f"{change}/")]
    assert len(amounts) >= 4
    for amount in amounts:
        ours = getattr(distortion, f"adjust_{change}")(picture, float(amount))
        theirs = recorded[f"{change}/{amount}"].transpose(2, 0, 1)
        assert np.abs(ours.numpy() - theirs).max() < 5e-6, amount


@pytest.mark.parametrize("size", ["375x500", "40x20", "3x2"])
def test_parts_are_drawn_as_tensorflow_draws_them(recorded: dict[str, np.ndarray], size: str) -> None:
    """1000 of each: place, size and proportions have the same distributions (Kolmogorov-Smirnov)."""
    height, width = map(int, size.split("x"))
    ours = np.array([distorted_box(height, width) for _ in range(1000)])
    theirs = recorded[f"boxes/{size}"]
    for boxes in (ours, theirs):
        assert (boxes[:, :2] + boxes[:, 2:] <= (height, width)).all()
        assert (boxes[:, 2] * boxes[:, 3] >= 0.1 * height * width).all()
    for measure in (lambda box: box[:, 0], lambda box: box[:, 1], lambda box: box[:, 2], lambda box: box[:, 3],
                    lambda box: box[:, 3] / box[:, 2], lambda box: box[:, 2] * box[:, 3]):  # fmt: skip
        assert ks_2samp(measure(ours), measure(theirs)).pvalue > 0.005


def test_the_orders_of_slims_colours() -> None:
    assert all(sorted(one) == ["brightness", "contrast", "hue", "saturation"] for one in ORDERINGS)
    assert len(set(ORDERINGS)) == 4
    picture = torch.rand(3, 20, 20)
    results = []
    for ordering in ORDERINGS:
        torch.manual_seed(1)
        results.append(distort_colours(picture, ordering))
        assert results[-1].min() >= 0
        assert results[-1].max() <= 1
    assert all(not torch.equal(results[0], one) for one in results[1:])


def test_the_fast_mode_leaves_hue_and_contrast_alone() -> None:
    """A gray picture stays gray, and its contrast: only brightness moves it."""
    noise = np.random.default_rng(0).integers(100, 141, (64, 64), dtype=np.uint8)
    gray = Image.fromarray(noise).convert("RGB")
    for _ in range(10):
        pixels = Distortion((75, 75), fast=True)(gray).int()
        assert (pixels.amax(0) - pixels.amin(0)).max() <= 1
        assert int(pixels.max() - pixels.min()) <= 42
    changed = [Distortion((75, 75))(gray).int() for _ in range(20)]
    assert max(int(pixels.max() - pixels.min()) for pixels in changed) > 45


# ------------------------------------------------------------------------------------------------ all of them


def test_every_name_of_a_recipe_is_there() -> None:
    assert set(AUGMENTS) == set(CHOICES["augment"])


@pytest.mark.parametrize("name", [name for name, make in AUGMENTS.items() if make])
def test_pytorchs_seed_alone_decides_and_workers_can_have_it(name: str) -> None:
    make = AUGMENTS[name]  # type: ignore[index]
    assert make is not None
    augment = make(Preprocessing((75, 107), crop_fraction=1.0))
    sent = pickle.loads(pickle.dumps(augment))
    image = photo()

    def draw(change: object, seed: int) -> torch.Tensor:
        random.seed(seed)
        np.random.seed(seed)
        return change(image)  # type: ignore[operator, no-any-return]

    torch.manual_seed(5)
    first, second = draw(augment, 1), draw(augment, 2)
    torch.manual_seed(5)
    again = draw(sent, 3)
    assert (first.dtype, first.shape) == (torch.uint8, (3, 75, 107))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", [name for name, make in AUGMENTS.items() if make])
@pytest.mark.parametrize("size", [(1, 1), (2, 400), (400, 2), (500, 375)])
def test_any_picture_is_taken(name: str, size: tuple[int, int]) -> None:
    make = AUGMENTS[name]  # type: ignore[index]
    assert make is not None
    for _ in range(3):
        assert make(Preprocessing((75, 75)))(photo(*size)).shape == (3, 75, 75)


def test_crops_move_and_mirror_but_do_not_scale() -> None:
    pixels = np.zeros((80, 80, 3), np.uint8)
    pixels[30:40, 30:40] = 255
    make = AUGMENTS["crops"]
    assert make is not None
    augment = make(Preprocessing((80, 80), crop_fraction=1.0))
    places = set()
    for _ in range(30):
        rows, columns = torch.nonzero(augment(Image.fromarray(pixels))[0], as_tuple=True)
        assert (len(rows), int(rows.max() - rows.min()), int(columns.max() - columns.min())) == (100, 9, 9)
        places.add((int(rows.min()), int(columns.min())))
    assert {row for row, _ in places} <= set(range(20, 41))
    assert min(column for _, column in places) < 41 < max(column for _, column in places) + 5
