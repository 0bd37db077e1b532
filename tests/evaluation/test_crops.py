"""The paper's 12 and 144 crops: their positions and their pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as F

from inception_v3.evaluation import crops
from inception_v3.evaluation.crops import Crop, MultiCrop, crop_rectangles
from inception_v3.images.preprocessing import Preprocessing


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(height: int, width: int) -> Image.Image:
    """An image whose colours encode the position of each pixel."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * y / max(height - 1, 1), 255 * x / max(width - 1, 1), np.full_like(y, 128)], 2)
    return Image.fromarray(pixels.round().astype(np.uint8))


@given(
    image=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    network=st.tuples(st.integers(75, 320), st.integers(75, 320)),
    count=st.sampled_from([12, 144]),
)
@settings(max_examples=200, deadline=None)
def test_every_crop_lies_within_the_image_and_is_followed_by_its_mirror_image(
    image: tuple[int, int], network: tuple[int, int], count: int
) -> None:
    rectangles = crop_rectangles(image, network, count)
    assert len(rectangles) == count
    for crop in rectangles:
        assert 0 <= crop.top <= crop.top + crop.height <= crop.resized[0]
        assert 0 <= crop.left <= crop.left + crop.width <= crop.resized[1]
        assert crop.height >= network[0]
        assert crop.width >= network[1]
    for straight, mirrored in zip(rectangles[::2], rectangles[1::2], strict=True):
        assert not straight.mirrored
        assert mirrored == Crop(**vars(straight) | {"mirrored": True})
    network_sized = sum((crop.height, crop.width) == network for crop in rectangles)
    assert network_sized == count * 5 // 6, "the rest are whole squares"


def test_scales_squares_and_corners_are_those_of_the_paper_at_its_image_size() -> None:
    rectangles = crop_rectangles((480, 640), (224, 224), 144)
    assert [crop.resized for crop in rectangles[::36]] == [(256, 341), (288, 384), (320, 427), (352, 469)]
    first = [(crop.top, crop.left, crop.height, crop.width) for crop in rectangles[:36:2]]
    origins = [(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)]  # of the crops in a square
    for number, left in enumerate((0, 42, 85)):  # 341 - 256 = 85
        expected = [(top, left + x, 224, 224) for top, x in origins] + [(0, left, 256, 256)]
        assert first[6 * number : 6 * number + 6] == expected


def test_the_squares_of_a_portrait_are_top_centre_and_bottom() -> None:
    whole = [crop for crop in crop_rectangles((640, 480), (224, 224), 144) if crop.height == 256 and not crop.mirrored]
    assert [(crop.top, crop.left) for crop in whole] == [(0, 0), (42, 0), (85, 0)]


def test_scales_are_proportional_to_the_image_size_of_the_network() -> None:
    assert [crop.resized for crop in crop_rectangles((10, 10), (299, 299), 144)[::36]] == [
        (n, n) for n in (342, 384, 427, 470)
    ]
    tall = crop_rectangles((10, 10), (150, 75), 144)
    assert {(crop.height, crop.width) for crop in tall[:36]} == {(150, 75), (171, 86)}, (
        "squares have the shape of the network's images"
    )


def test_the_twelve_crops_are_those_of_the_centre_square_at_the_first_scale() -> None:
    all_crops = crop_rectangles((100, 333), (299, 299), 144)
    assert crop_rectangles((100, 333), (299, 299), 12) == all_crops[12:24]


def test_the_single_crop_is_one_of_the_twelve() -> None:
    preprocessing = Preprocessing((299, 299))
    image = noise(400, 400)
    twelve = MultiCrop(preprocessing, 12).pixels(image)
    assert torch.equal(twelve[8], preprocessing.pixels(image))


@pytest.mark.parametrize("size", [(200, 300), (300, 200), (150, 150)])
def test_the_pixels_equal_those_of_torchvisions_crops(size: tuple[int, int]) -> None:
    network = 112
    image = noise(*size)
    expected = []
    for scale in (256, 288, 320, 352):
        side = scale // 2
        resized = F.resize(F.pil_to_tensor(image), [side], antialias=True)
        for square in (0.0, 0.5, 1.0):
            top, left = (round((length - side) * square) for length in resized.shape[1:])
            square_pixels = resized[:, top : top + side, left : left + side]
            views = [*F.five_crop(square_pixels, [network]), F.resize(square_pixels, [network], antialias=True)]
            expected += [pixels for view in views for pixels in (view, F.hflip(view))]
    pixels = MultiCrop(Preprocessing((network, network)), 144).pixels(image)
    assert pixels.dtype == torch.uint8
    assert (pixels.int() - torch.stack(expected).int()).abs().max() == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (8, 8), (75, 2)])
@pytest.mark.parametrize("count", [12, 144])
def test_a_tiny_image_has_all_crops(size: tuple[int, int], count: int) -> None:
    assert MultiCrop(Preprocessing((75, 75)), count).pixels(noise(*size)).shape == (count, 3, 75, 75)


@pytest.mark.parametrize("size", [(20, 380), (380, 20)])
def test_cutting_a_long_strip_does_not_change_its_crops(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    image = smooth(*size)
    views = MultiCrop(Preprocessing((75, 75)), 144)
    cut = views.pixels(image).int()
    assert max(crops.cut_unused_parts(image, (75, 75)).size) == 120
    monkeypatch.setattr(crops, "cut_unused_parts", lambda image, network: image)
    assert (cut - views.pixels(image).int()).abs().max() <= 2


def test_a_very_long_strip_does_not_fill_the_memory() -> None:
    strip = Image.new("RGB", (4_000_000, 2))  # 56 GiB if it were resized whole to a height of 100 pixels
    assert MultiCrop(Preprocessing((75, 75)), 144).pixels(strip).shape == (144, 3, 75, 75)


def test_other_numbers_of_crops_are_refused() -> None:
    for count in (0, 1, 10):
        with pytest.raises(ValueError, match="12 or 144"):
            crop_rectangles((100, 100), (75, 75), count)
