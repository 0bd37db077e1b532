"""Text: percentages with the digits that the number of images warrants."""

import pytest

from inception_v3.support.text import percent


@pytest.mark.parametrize(
    ("fraction", "count", "text"),
    [
        (38 / 69, 69, "55 %"),
        (38 / 69, 999, "55 %"),
        (38 / 69, 1_000, "55.1 %"),
        (38 / 69, 9_999, "55.1 %"),
        (38 / 69, 50_000, "55.07 %"),
        (0.0, 69, "0 %"),
        (1.0, 69, "100 %"),
        (1.0, 50_000, "100.00 %"),
        (None, 0, "–"),
    ],
)
def test_a_percentage_has_the_digits_that_the_number_of_images_warrants(
    fraction: float | None, count: int, text: str
) -> None:
    assert percent(fraction, count) == text


@pytest.mark.parametrize(
    ("fraction", "count", "text"),
    [
        (498 / 500, 500, ">99 %"),
        (2 / 500, 500, "<1 %"),
        (4_998 / 4_999, 4_999, ">99.9 %"),
        (1e-9, 50_000, "<0.01 %"),
    ],
)
def test_only_all_images_are_100_percent_and_only_none_are_0_percent(fraction: float, count: int, text: str) -> None:
    assert percent(fraction, count) == text
