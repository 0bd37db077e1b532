"""Heat maps over images."""

import numpy as np
from PIL import Image

from inception_v3.reports.heat_maps import SCALE_HEIGHT, coloured, limits, overlay


def test_a_heat_map_covers_the_box_and_the_rest_is_darkened() -> None:
    image = Image.new("RGB", (200, 100), (200, 200, 200))
    drawn = np.asarray(overlay(image, np.array([[0.0, 1.0], [0.0, 0.0]]), (50, 0, 150, 100)))
    assert drawn.shape == (100 + SCALE_HEIGHT, 200, 3)
    assert (drawn[:100, :50] == 100).all()
    assert (drawn[:100, 150:] == 100).all()
    most, least = drawn[2, 147].astype(int), drawn[97, 52].astype(int)
    assert most[0] > least[0] + 50, "the top right corner is yellow, the others are violet"
    assert most[2] < least[2]


def test_the_scale_is_symmetric_for_signed_values() -> None:
    values = np.array([[-1.0, 3.0]])
    assert limits(values) == (-1, 3)
    assert limits(values, signed=True) == (-3, 3)
    white = coloured(np.zeros((1, 1)), -3, 3, signed=True)[0, 0].astype(int)
    assert white.min() > 235, "zero is nearly white"


def test_values_that_are_not_finite_are_grey_and_a_constant_map_has_one_colour() -> None:
    values = np.array([[0.0, np.nan, np.inf]])
    assert coloured(values, 0, 1)[0, 1:].tolist() == [[128, 128, 128]] * 2
    assert len(np.unique(coloured(np.full((4, 4), 7.0), 7, 7).reshape(-1, 3), axis=0)) == 1
    assert limits(np.full((2, 2), np.nan)) == (0, 0)


def test_a_large_image_is_drawn_smaller() -> None:
    drawn = overlay(Image.new("RGB", (5000, 2500)), np.ones((8, 8)), (1250, 0, 3750, 2500))
    assert drawn.size == (2048, 1024 + SCALE_HEIGHT)
