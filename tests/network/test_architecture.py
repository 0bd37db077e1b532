"""The table: what the source document says of shapes, names, parameters and cost follows from it."""

import re
from pathlib import Path

import pytest

from inception_v3.network import architecture
from inception_v3.network.describe import built_as, description

# The source's own table: (height, width, channels) at 299x299.
SHAPES = {
    "Conv2d_1a_3x3": (149, 149, 32),
    "Conv2d_2a_3x3": (147, 147, 32),
    "Conv2d_2b_3x3": (147, 147, 64),
    "MaxPool_3a_3x3": (73, 73, 64),
    "Conv2d_3b_1x1": (73, 73, 80),
    "Conv2d_4a_3x3": (71, 71, 192),
    "MaxPool_5a_3x3": (35, 35, 192),
    "Mixed_5b": (35, 35, 256),
    "Mixed_5c": (35, 35, 288),
    "Mixed_5d": (35, 35, 288),
    "Mixed_6a": (17, 17, 768),
    "Mixed_6b": (17, 17, 768),
    "Mixed_6c": (17, 17, 768),
    "Mixed_6d": (17, 17, 768),
    "Mixed_6e": (17, 17, 768),
    "Mixed_7a": (8, 8, 1280),
    "Mixed_7b": (8, 8, 2048),
    "Mixed_7c": (8, 8, 2048),
}
HEADS = {
    "AuxLogits": (1, 1, 1000),
    "AvgPool_1a": (1, 1, 2048),
    "PreLogits": (1, 1, 2048),
    "Logits": (1, 1, 1000),
    "Predictions": (1, 1, 1000),
}


def test_every_end_point_has_the_shape_of_the_source_table() -> None:
    found = {point.name: (point.height, point.width, point.channels) for point in architecture.end_points()}
    assert found == SHAPES | HEADS
    assert list(found) == [*SHAPES, *HEADS]


def test_the_base_has_21_802_784_parameters_as_tf_slim_counts_them() -> None:
    assert description()["base"]["parameters"] == 21_802_784


def test_the_base_costs_5_711_gmac_at_299_and_the_heads_are_shown_apart() -> None:
    described = description()
    assert round(described["base"]["macs"] / 1e9, 3) == 5.711
    # avg 5x5/3 leaves 5x5: a 1x1 of 768 to 128, one 5x5 of 128 to 768, then the classes
    assert described["heads"]["AuxLogits"]["macs"] == 25 * 768 * 128 + 25 * 128 * 768 + 768 * 1000
    assert described["heads"]["Logits"]["macs"] == 2048 * 1000
    parts = [described["base"], *described["heads"].values()]
    assert described["total"]["macs"] == sum(part["macs"] for part in parts)
    assert described["total"]["parameters"] == sum(part["parameters"] for part in parts)


def test_names_that_look_like_slips_are_the_published_ones() -> None:
    names = {layer.name for point in architecture.end_points() for layer in point.layers}
    assert {
        "Mixed_5c/Branch_1/Conv2d_0b_1x1",
        "Mixed_5c/Branch_1/Conv_1_0c_5x5",
        "Mixed_6a/Branch_0/Conv2d_1a_1x1",
        "Mixed_7b/Branch_1/Conv2d_0b_3x1",
        "Mixed_7c/Branch_1/Conv2d_0c_3x1",
    } <= names


@pytest.mark.parametrize(
    ("size", "name"),
    [((299, 299), "5x5"), ((107, 139), "1x1"), ((107, 203), "1x3"), ((75, 75), "1x1"), ((203, 299), "3x5")],
)
def test_the_auxiliary_convolution_is_named_by_the_size_that_is_left_for_it(size: tuple[int, int], name: str) -> None:
    points = architecture.end_points(height=size[0], width=size[1])
    names = [layer.name for point in points if point.name == "AuxLogits" for layer in point.layers]
    assert f"AuxLogits/Conv2d_2a_{name}" in names


def test_widths_follow_depth_multiplier_and_min_depth_as_tf_slim_rounds() -> None:
    assert [architecture.depth(width, 0.3, 16) for width in (32, 80, 192, 448)] == [16, 24, 57, 134]
    half = {point.name: point.channels for point in architecture.end_points(depth_multiplier=0.5)}
    assert half["Mixed_7c"] == 1024


@pytest.mark.parametrize("options", [{"depth_multiplier": 0}, {"depth_multiplier": -1.0}, {"num_classes": 0},
                                     {"min_depth": 0}, {"final_endpoint": "Mixed_8a"}, {"height": 74}])  # fmt: skip
def test_an_impossible_option_is_an_error_that_names_it(options: dict[str, object]) -> None:
    (name, value), = options.items()  # fmt: skip
    with pytest.raises(ValueError, match=f"{name}|images are {value}x299"):
        architecture.end_points(**options)  # type: ignore[arg-type]


def test_the_smallest_image_is_75_pixels_and_smaller_ones_reach_earlier_layers() -> None:
    assert architecture.minimum_size() == 75
    assert architecture.minimum_size("Conv2d_1a_3x3") == 3
    last = architecture.end_points(height=75, width=75)[17]
    assert (last.name, last.height, last.width) == ("Mixed_7c", 1, 1)


def test_the_receptive_field_grows_as_kernels_and_strides_say() -> None:
    sees = {point.name: point.receptive_field for point in architecture.end_points()}
    assert sees["Conv2d_1a_3x3"] == (3, 3)
    assert sees["Conv2d_2a_3x3"] == (7, 7)  # 3 + 2 * 2
    assert sees["MaxPool_3a_3x3"] == (15, 15)  # 7 + 2 * 2 for 2b, + 2 * 2 for the pool
    assert sees["Mixed_7c"][0] > 299


def test_the_description_speaks_the_notation_of_the_source() -> None:
    assert built_as("Conv2d_1a_3x3") == ["3x3/2 V 32"]
    assert built_as("Mixed_5c") == ["1x1 64", "1x1 48 → 5x5 64", "1x1 64 → 3x3 96 → 3x3 96", "avg 3x3 → 1x1 64"]
    assert built_as("Mixed_7b")[1] == "1x1 384 → (1x3 384 ‖ 3x1 384)"


def test_layers_are_listed_in_one_file_alone() -> None:
    """The network is data, written once: no other module names a layer inside an Inception module."""
    sources = Path(architecture.__file__).parents[1].rglob("*.py")
    listed = {path.name for path in sources if len(re.findall(r"Conv2d_\d\w_\dx\d", path.read_text("utf-8"))) > 4}
    assert listed == {"architecture.py"}
