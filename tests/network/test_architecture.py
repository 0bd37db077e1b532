"""The tables of architecture.py give the shapes, names, parameters and costs of the published network."""

import re
from pathlib import Path
from typing import Any

import pytest

from inception_v3.network import architecture
from inception_v3.network.describe import built_as, describe_network, steps

# (height, width, channels) at 299x299, as TF-Slim's source lists them.
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
    shapes = {point.name: (point.height, point.width, point.channels) for point in architecture.end_points()}
    assert shapes == SHAPES | HEADS
    assert list(shapes) == [*SHAPES, *HEADS]


def test_the_base_has_21_802_784_parameters_as_tf_slim_counts_them() -> None:
    assert describe_network()["base"]["parameters"] == 21_802_784


def test_the_base_costs_5_711_gmac_at_299_and_the_heads_are_counted_separately() -> None:
    description = describe_network()
    assert round(description["base"]["macs"] / 1e9, 3) == 5.711
    # On the 5x5 map that avg 5x5/3 leaves: a 1x1 from 768 to 128, a 5x5 from 128 to 768, a 1x1 to the classes.
    assert description["heads"]["AuxLogits"]["macs"] == 25 * 768 * 128 + 25 * 128 * 768 + 768 * 1000
    assert description["heads"]["Logits"]["macs"] == 2048 * 1000
    parts = [description["base"], *description["heads"].values()]
    assert description["total"]["macs"] == sum(part["macs"] for part in parts)
    assert description["total"]["parameters"] == sum(part["parameters"] for part in parts)


def test_names_that_look_like_typing_errors_are_the_published_names() -> None:
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
def test_the_name_of_the_auxiliary_convolution_contains_the_size_of_its_map(size: tuple[int, int], name: str) -> None:
    points = architecture.end_points(height=size[0], width=size[1])
    names = [layer.name for point in points if point.name == "AuxLogits" for layer in point.layers]
    assert f"AuxLogits/Conv2d_2a_{name}" in names


def test_widths_are_multiplied_and_rounded_as_in_tf_slim() -> None:
    assert [architecture.depth(width, 0.3, 16) for width in (32, 80, 192, 448)] == [16, 24, 57, 134]
    half = {point.name: point.channels for point in architecture.end_points(depth_multiplier=0.5)}
    assert half["Mixed_7c"] == 1024


@pytest.mark.parametrize("options", [{"depth_multiplier": 0}, {"depth_multiplier": -1.0}, {"num_classes": 0},
                                     {"min_depth": 0}, {"final_endpoint": "Mixed_8a"}, {"height": 74}])  # fmt: skip
def test_an_impossible_option_is_an_error_that_names_it(options: dict[str, object]) -> None:
    (name, value), = options.items()  # fmt: skip
    with pytest.raises(ValueError, match=f"{name}|images are {value}x299"):
        architecture.end_points(**options)  # type: ignore[arg-type]


def test_the_smallest_image_has_75_pixels_and_earlier_layers_accept_smaller_images() -> None:
    assert architecture.minimum_size() == 75
    assert architecture.minimum_size("Conv2d_1a_3x3") == 3
    last = architecture.end_points(height=75, width=75)[17]
    assert (last.name, last.height, last.width) == ("Mixed_7c", 1, 1)


def test_receptive_fields_follow_from_kernels_and_strides() -> None:
    fields = {point.name: point.receptive_field for point in architecture.end_points()}
    assert fields["Conv2d_1a_3x3"] == (3, 3)
    assert fields["Conv2d_2a_3x3"] == (7, 7)  # 3 + 2 * 2
    assert fields["MaxPool_3a_3x3"] == (15, 15)  # 7 + 2 * 2 for 2b + 2 * 2 for the pool
    assert fields["Mixed_7c"][0] > 299


def test_branches_are_described_in_the_notation_of_the_source() -> None:
    assert built_as("Conv2d_1a_3x3") == ["3x3/2 V 32"]
    assert built_as("Mixed_5c") == ["1x1 64", "1x1 48 → 5x5 64", "1x1 64 → 3x3 96 → 3x3 96", "avg 3x3 → 1x1 64"]
    assert built_as("Mixed_7b")[1] == "1x1 384 → (1x3 384 ‖ 3x1 384)"


def test_layers_are_listed_in_only_one_file() -> None:
    """No other file of the package contains the names of the layers inside an Inception module."""
    sources = Path(architecture.__file__).parents[1].rglob("*.py")
    listed = {path.name for path in sources if len(re.findall(r"Conv2d_\d\w_\dx\d", path.read_text("utf-8"))) > 4}
    assert listed == {"architecture.py"}


# --------------------------------------------------------------------------------------------- the arithmetic


def value(text: str) -> int:
    """The value of an arithmetic text, left of the equals sign, which must be the number right of it."""
    left, _, right = text.partition(" = ")
    python = left.replace("·", "*").replace("−", "-").replace(",", "") if "max(" not in left else left
    python = re.sub(r"⌈(.*?) / (\d+)⌉", r"-(-\1 // \2)", python)
    result = eval(re.sub(r"⌊(.*?) / (\d+)⌋", r"(\1 // \2)", python))
    assert result == int(right.replace(",", "")), text
    return int(result)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"height": 310, "width": 203},
        {"height": 75, "width": 75, "depth_multiplier": 0.25, "num_classes": 3},
        {"hidden_units": (64, 8), "hidden_batch_norm": "after"},
    ],
)
def test_the_arithmetic_of_every_step_is_true_and_gives_its_shape_and_totals(options: dict[str, Any]) -> None:
    for point in architecture.with_inner(architecture.end_points(**options)).values():
        calculated = steps(point)
        assert calculated[-1].output == (point.height, point.width, point.channels)
        if point.layers:
            assert tuple(map(value, calculated[-1].receptive_field)) == point.receptive_field
        for kind in ("parameters", "macs"):
            layers = [step for step in calculated if step.built_as != "join"]
            assert sum(value(getattr(step, kind)) for step in layers if getattr(step, kind)) == getattr(point, kind)
        for step in calculated:
            if step.size[0]:
                assert tuple(map(value, step.size)) == step.output[:2]
            if " = " in step.channels:
                assert value(step.channels) == step.output[2]
        if any(each.inner for each in point.inner):
            assert (value(calculated[-1].parameters), value(calculated[-1].macs)) == (point.parameters, point.macs)


def test_a_step_reads_the_output_of_the_step_before_it_or_of_the_module_before() -> None:
    mixed_5c = steps(architecture.with_inner(architecture.end_points())["Mixed_5c"])
    shapes = {step.name.removeprefix("Mixed_5c/"): (step.input, step.output) for step in mixed_5c}
    assert shapes["Branch_1/Conv2d_0b_1x1"] == ((35, 35, 256), (35, 35, 48))
    assert shapes["Branch_1/Conv_1_0c_5x5"] == ((35, 35, 48), (35, 35, 64))
    assert shapes["Branch_3/AvgPool_0a_3x3"] == ((35, 35, 256), (35, 35, 256))
    assert [step.built_as for step in mixed_5c] == [
        *("1x1 64", "1x1 48", "5x5 64", "1x1 64", "3x3 96", "3x3 96", "avg 3x3", "1x1 64", "join")
    ]


def test_size_arithmetic_shows_the_padding_and_what_is_rounded() -> None:
    points = architecture.with_inner(architecture.end_points(height=300))
    assert steps(points["Conv2d_1a_3x3"])[0].size == ("⌊(300 − 3) / 2⌋ + 1 = 149", "(299 − 3) / 2 + 1 = 149")
    assert steps(points["Conv2d_2b_3x3"])[0].size == ("⌈147 / 1⌉ = 147", "⌈147 / 1⌉ = 147")
    assert steps(points["Logits"])[0].parameters == "1·1·2048·1000 + 1000 = 2,049,000"
    assert steps(points["Conv2d_1a_3x3"])[0].parameters == "3·3·3·32 + 3·32 = 960"


def test_the_branches_of_an_end_point_are_its_steps_in_order() -> None:
    points = {point.name: point for point in architecture.end_points()}
    names = [[[layer.table.name for layer in step] for step in branch] for branch in points["Mixed_7c"].branches]
    assert names == [
        [["Conv2d_0a_1x1"]],
        [["Conv2d_0a_1x1"], ["Conv2d_0b_1x3", "Conv2d_0c_3x1"]],
        [["Conv2d_0a_1x1"], ["Conv2d_0b_3x3"], ["Conv2d_0c_1x3", "Conv2d_0d_3x1"]],
        [["AvgPool_0a_3x3"], ["Conv2d_0b_1x1"]],
    ]
    assert [len(points[name].branches) for name in ("Conv2d_1a_3x3", "AuxLogits", "PreLogits")] == [1, 1, 1]
    assert [len(points[name].branches[0]) for name in ("Conv2d_1a_3x3", "AuxLogits", "PreLogits")] == [1, 4, 0]
