"""Text: percentages with the digits that the number of images warrants, and messages about unknown names."""

import math

import pytest

from inception_v3.errors import InputError
from inception_v3.support.text import choose, percent, suggest


@pytest.mark.parametrize(
    ("fraction", "count", "text"),
    [
        (38 / 69, 69, "55 %"),
        (38 / 69, 999, "55 %"),
        (38 / 69, 1_000, "55.1 %"),
        (38 / 69, 9_999, "55.1 %"),
        (38 / 69, 50_000, "55.07 %"),
        (68 / 69, 69, "99 %"),
        (355 / 360, 360, "98.6 %"),
        (359 / 360, 360, "99.7 %"),
        (9_999 / 10_000, 10_000, "99.99 %"),
        (0.0, 69, "0 %"),
        (1.0, 69, "100 %"),
        (1.0, 50_000, "100 %"),
        (0.0, 0, "0 %"),
        (None, 0, "–"),
        (math.nan, 0, "–"),
    ],
)
def test_a_percentage_has_the_digits_that_the_number_of_images_warrants(
    fraction: float | None, count: int, text: str
) -> None:
    assert percent(fraction, count) == text


@pytest.mark.parametrize(
    ("fraction", "count", "text"),
    [
        (498 / 500, 500, "99.6 %"),
        (2 / 500, 500, "0.4 %"),
        (4_998 / 4_999, 4_999, "99.98 %"),
        (0.999, 20, ">99 %"),  # a probability, of which 20 images warrant no more
        (0.001, 20, "<1 %"),
        (1e-9, 50_000, "<0.001 %"),
    ],
)
def test_only_all_images_are_100_percent_and_only_none_are_0_percent(fraction: float, count: int, text: str) -> None:
    assert percent(fraction, count) == text


@pytest.mark.parametrize("count", [1, 2, 10, 69, 360, 1_797, 50_000, 1_000_000])
def test_an_accuracy_with_one_mistake_does_not_read_as_100_percent(count: int) -> None:
    assert float(percent((count - 1) / count, count).split()[0]) < 100


def test_of_many_choices_a_message_names_only_the_most_similar_one() -> None:
    few, many = ["alpha", "beta"], [f"layer_{number:03}" for number in range(100)]
    with pytest.raises(InputError, match=r"--x: no such value alpa; choose from alpha, beta; did you mean alpha\?"):
        choose("--x", "alpa", few)
    with pytest.raises(InputError, match=r"^--x: no such value layr_017; did you mean layer_017\?$"):
        choose("--x", "layr_017", many)
    assert suggest("q", many).endswith("layer_039 ...")
    assert choose("--x", "LAYER-017", many) == "layer_017"
