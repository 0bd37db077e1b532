"""An image and the part of it that the network sees."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inception_v3 import Preprocessing
from inception_v3.errors import InputError
from inception_v3.explain.views import View, views


@pytest.mark.parametrize(
    ("preprocessing", "box"),
    [
        (Preprocessing(), (81.25, 31.25, 518.75, 468.75)),
        (Preprocessing(squash=True), (37, 31, 563, 469)),
        (Preprocessing(resize=(299, 299), fit="stretch"), (0, 0, 600, 500)),
        (Preprocessing(resize=(299, 299), fit="contain"), (0, -50, 600, 550)),
    ],
)
def test_the_box_is_the_part_of_the_image_that_the_network_sees(
    preprocessing: Preprocessing, box: tuple[float, ...]
) -> None:
    view = View.of("image", Image.new("RGB", (600, 500)), preprocessing)
    assert view.box == pytest.approx(box, abs=2)


def test_a_mark_in_the_image_lies_in_the_box_where_it_lies_in_the_networks_input() -> None:
    pixels = np.zeros((400, 700, 3), np.uint8)
    pixels[100:110, 420:430] = 255
    view = View.of("image", Image.fromarray(pixels), Preprocessing())
    rows, columns = np.nonzero(Preprocessing()(view.image)[0, 0].numpy() > 0)
    left, top, right, bottom = view.box
    assert left + columns.mean() / 299 * (right - left) == pytest.approx(424.5, abs=1.5)
    assert top + rows.mean() / 299 * (bottom - top) == pytest.approx(104.5, abs=1.5)


def test_an_image_that_cannot_be_read_does_not_stop_the_others(tmp_path: Path) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("text")
    Image.new("RGB", (100, 100)).save(tmp_path / "c.png")
    first, second, third = views(tmp_path, Preprocessing())
    assert isinstance(first, View)
    assert isinstance(third, View)
    assert isinstance(second, tuple)
    name, error = second
    assert name.endswith("b.png")
    assert isinstance(error, InputError)
