"""The paper's 12 and 144 crops: where they lie, and that their pixels are those."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as F

from inception_v3.evaluation import crops
from inception_v3.evaluation.crops import Crop, MultiCrop, crops_of
from inception_v3.images.preprocessing import Preprocessing


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(height: int, width: int) -> Image.Image:
    """A picture that tells where each of its pixels is."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * y / max(height - 1, 1), 255 * x / max(width - 1, 1), np.full_like(y, 128)], 2)
    return Image.fromarray(pixels.round().astype(np.uint8))


@given(
    picture=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    network=st.tuples(st.integers(75, 320), st.integers(75, 320)),
    count=st.sampled_from([12, 144]),
)
@settings(max_examples=200, deadline=None)
def test_any_picture_has_so_many_crops_within_it_each_followed_by_its_mirror_image(
    picture: tuple[int, int], network: tuple[int, int], count: int
) -> None:
    found = crops_of(picture, network, count)
    assert len(found) == count
    for crop in found:
        assert 0 <= crop.top <= crop.top + crop.height <= crop.resized[0]
        assert 0 <= crop.left <= crop.left + crop.width <= crop.resized[1]
        assert crop.height >= network[0]
        assert crop.width >= network[1]
    for straight, mirrored in zip(found[::2], found[1::2], strict=True):
        assert not straight.mirrored
        assert mirrored == Crop(**vars(straight) | {"mirrored": True})
    assert sum((crop.height, crop.width) == network for crop in found) == count * 5 // 6, "the rest are whole squares"


def test_the_papers_scales_squares_and_corners_at_the_papers_size() -> None:
    found = crops_of((480, 640), (224, 224), 144)
    assert [crop.resized for crop in found[::36]] == [(256, 341), (288, 384), (320, 427), (352, 469)]
    first = [(crop.top, crop.left, crop.height, crop.width) for crop in found[:36:2]]
    inside = [(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)]
    for number, left in enumerate((0, 42, 85)):  # 341 - 256 = 85 pixels to spare
        expected = [(top, left + x, 224, 224) for top, x in inside] + [(0, left, 256, 256)]
        assert first[6 * number : 6 * number + 6] == expected


def test_of_a_portrait_the_squares_are_top_centre_and_bottom() -> None:
    whole = [crop for crop in crops_of((640, 480), (224, 224), 144) if crop.height == 256 and not crop.mirrored]
    assert [(crop.top, crop.left) for crop in whole] == [(0, 0), (42, 0), (85, 0)]


def test_another_network_has_the_scales_in_proportion() -> None:
    assert [crop.resized for crop in crops_of((10, 10), (299, 299), 144)[::36]] == [
        (n, n) for n in (342, 384, 427, 470)
    ]
    tall = crops_of((10, 10), (150, 75), 144)
    assert {(crop.height, crop.width) for crop in tall[:36]} == {(150, 75), (171, 86)}, "squares have its shape"


def test_twelve_are_those_of_the_centre_square_at_the_first_scale() -> None:
    every = crops_of((100, 333), (299, 299), 144)
    assert crops_of((100, 333), (299, 299), 12) == every[12:24]


def test_the_single_crop_is_one_of_the_twelve() -> None:
    preprocessing = Preprocessing((299, 299))
    picture = noise(400, 400)
    twelve = MultiCrop(preprocessing, 12).pixels(picture)
    assert torch.equal(twelve[8], preprocessing.pixels(picture))


@pytest.mark.parametrize("size", [(200, 300), (300, 200), (150, 150)])
def test_the_pixels_are_those_of_torchvisions_own_crops(size: tuple[int, int]) -> None:
    network = 112
    picture = noise(*size)
    expected = []
    for scale in (256, 288, 320, 352):
        side = scale // 2
        resized = F.resize(F.pil_to_tensor(picture), [side], antialias=True)
        for square in (0.0, 0.5, 1.0):
            top, left = (round((length - side) * square) for length in resized.shape[1:])
            square_pixels = resized[:, top : top + side, left : left + side]
            inside = [*F.five_crop(square_pixels, [network]), F.resize(square_pixels, [network], antialias=True)]
            expected += [view for one in inside for view in (one, F.hflip(one))]
    found = MultiCrop(Preprocessing((network, network)), 144).pixels(picture)
    assert found.dtype == torch.uint8
    assert (found.int() - torch.stack(expected).int()).abs().max() == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (8, 8), (75, 2)])
@pytest.mark.parametrize("count", [12, 144])
def test_a_tiny_picture_has_them_too(size: tuple[int, int], count: int) -> None:
    assert MultiCrop(Preprocessing((75, 75)), count).pixels(noise(*size)).shape == (count, 3, 75, 75)


@pytest.mark.parametrize("size", [(20, 380), (380, 20)])
def test_a_long_strip_is_cut_before_it_is_resized_and_shows_the_same(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = smooth(*size)
    views = MultiCrop(Preprocessing((75, 75)), 144)
    cut = views.pixels(picture).int()
    assert max(crops.without_the_unseen(picture, (75, 75)).size) == 120
    monkeypatch.setattr(crops, "without_the_unseen", lambda image, network: image)
    assert (cut - views.pixels(picture).int()).abs().max() <= 2


def test_a_picture_that_would_fill_the_memory_does_not() -> None:
    strip = Image.new("RGB", (4_000_000, 2))  # resized whole to 100 pixels in height, 56 GiB
    assert MultiCrop(Preprocessing((75, 75)), 144).pixels(strip).shape == (144, 3, 75, 75)


def test_there_are_no_other_counts() -> None:
    for count in (0, 1, 10):
        with pytest.raises(ValueError, match="12 or 144"):
            crops_of((100, 100), (75, 75), count)
