"""Receptive fields are those of google-research/receptive_field, and the regions from which gradients come."""

from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import inception_v3
from conftest import randomise
from inception_v3.explain import ReceptiveField, all_receptive_fields, receptive_field
from inception_v3.network import architecture
from inception_v3.network.layers import Pool2d
from inception_v3.network.network import InceptionV3Network
from inception_v3.network.settings import Settings

# Size, effective stride and effective padding of both axes, for images of unknown size, of 224 and of 321 pixels:
# https://github.com/google-research/receptive_field/blob/master/receptive_field/RECEPTIVE_FIELD_TABLE.md
PUBLISHED = {
    "Conv2d_1a_3x3": (3, 2, 0),
    "Conv2d_2a_3x3": (7, 2, 0),
    "Conv2d_2b_3x3": (11, 2, 2),
    "MaxPool_3a_3x3": (15, 4, 2),
    "Conv2d_3b_1x1": (15, 4, 2),
    "Conv2d_4a_3x3": (23, 4, 2),
    "MaxPool_5a_3x3": (31, 8, 2),
    "Mixed_5b": (63, 8, 18),
    "Mixed_5c": (95, 8, 34),
    "Mixed_5d": (127, 8, 50),
    "Mixed_6a": (159, 16, 58),
    "Mixed_6b": (351, 16, 154),
    "Mixed_6c": (543, 16, 250),
    "Mixed_6d": (735, 16, 346),
    "Mixed_6e": (927, 16, 442),
    "Mixed_7a": (1055, 32, 490),
    "Mixed_7b": (1183, 32, 554),
    "Mixed_7c": (1311, 32, 618),
}
LONG, SHORT = 1695, 75  # pixels: the largest field, 1535, lies inside a strip of this length


@pytest.mark.parametrize("image_size", [(224, 224), (299, 299), (321, 321), (107, 400)])
def test_end_points_have_the_published_fields_at_every_image_size(image_size: tuple[int, int]) -> None:
    assert tuple(PUBLISHED) == architecture.BASE_END_POINTS
    for name, (size, stride, padding) in PUBLISHED.items():
        field = receptive_field(name, image_size)
        assert (field.size, field.stride, field.padding) == ((size,) * 2, (stride,) * 2, (padding,) * 2)


def test_the_halves_of_a_branch_have_fields_of_unequal_sides() -> None:
    assert receptive_field("Mixed_7b/Branch_1/Conv2d_0b_1x3").size == (1055, 1119)
    assert receptive_field("Mixed_7b/Branch_1/Conv2d_0b_3x1").size == (1119, 1055)
    assert receptive_field("Mixed_7b/Branch_1").size == (1119, 1119)


def test_every_end_point_branch_and_layer_has_a_field() -> None:
    names = list(all_receptive_fields())
    points = architecture.end_points()
    assert [name for name in names if "/" not in name] == [point.name for point in points]
    assert {layer.name for point in points for layer in point.layers} <= set(names)
    assert sum(name.count("/") == 1 and name.startswith("Mixed") for name in names) == 42
    assert names[7:10] == ["Mixed_5b", "Mixed_5b/Branch_0", "Mixed_5b/Branch_0/Conv2d_0a_1x1"]


def test_hidden_layers_and_a_cut_network_have_the_end_points_of_their_settings() -> None:
    hidden = all_receptive_fields(settings=Settings(hidden_units=(8, 8), create_aux_logits=False))
    assert hidden["Hidden_2"].size == hidden["PreLogits"].size
    assert "AuxLogits" not in hidden
    cut = all_receptive_fields(settings=Settings(final_endpoint="Mixed_5b"))
    assert list(cut)[-1] == "Mixed_5b/Branch_3/Conv2d_0b_1x1"


def test_the_fields_of_the_heads_follow_the_image_size() -> None:
    """Their kernels shrink to the map: the last pool is 8x8 on 8x8, 1x1 on 1x1, and the map's size if it is global."""
    assert receptive_field("PreLogits", 299).size == (1311 + 7 * 32,) * 2
    assert receptive_field("PreLogits", (75, 299)).size == (1311, 1311 + 7 * 32)
    assert receptive_field("PreLogits", 400).size == (1311 + 7 * 32,) * 2  # the map is 11x11
    assert receptive_field("PreLogits", 400, Settings(global_pool=True)).size == (1311 + 10 * 32,) * 2
    assert receptive_field("AuxLogits").size == (927 + 4 * 16 + 4 * 48,) * 2


def test_centre_region_and_padding_share_follow_from_size_stride_and_padding() -> None:
    field = receptive_field("Mixed_7b/Branch_1/Conv2d_0b_1x3")
    assert field.centre == ((1055 - 1) // 2 - 490, (1119 - 1) // 2 - 522) == (37, 37)
    assert field.region(0, 0) == (-490, -522, 565, 597)
    assert field.region(4, 5) == (-490 + 4 * 32, -522 + 5 * 32, 565 + 4 * 32, 597 + 5 * 32)
    assert field.padding_share(4, 4, (299, 299)) == pytest.approx(1 - 299**2 / (1055 * 1119))
    assert receptive_field("Conv2d_1a_3x3").padding_share(148, 148, (299, 299)) == 0
    with pytest.raises(FrozenInstanceError):
        field.size = (1, 1)  # type: ignore[misc]


def test_every_field_has_a_pixel_in_its_middle() -> None:
    fields = [field for size in (75, 150, 299, 400, (107, 203)) for field in all_receptive_fields(size).values()]
    assert all(side % 2 for field in fields for side in field.size)


def test_the_package_leads_to_receptive_fields() -> None:
    assert inception_v3.explain.receptive_field("Mixed_5b/Branch_1") == ReceptiveField(
        name="Mixed_5b/Branch_1", size=(63, 63), stride=(8, 8), padding=(18, 18)
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ("Mixed5b/branch_1",),
            ValueError,
            "no end point 'Mixed5b/branch_1' in this network; did you mean Mixed_5b/",
        ),
        (("AuxLogits/Conv2d_2a_5x5", (107, 139)), ValueError, "did you mean AuxLogits/Conv2d_2a_1x1?"),
        (("zzz",), ValueError, "there are Conv2d_1a_3x3, Conv2d_2a_3x3"),
        ((3,), TypeError, "name must be a string, not 3"),
        (("Mixed_5b", 74), ValueError, "images are 74x74: the network needs at least 75x75"),
        (("Mixed_5b", "large"), TypeError, "image_size must be a whole number or 2 whole numbers"),
    ],
)
def test_wrong_arguments_are_refused_with_a_remedy(
    arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as raised:
        receptive_field(*arguments)
    assert message in str(raised.value)


# ------------------------------------------------------------------------------------- the support of gradients


@pytest.fixture(scope="module", autouse=True)
def linear() -> Iterator[None]:
    """Networks without ReLU, whose gradients are not zero by accident."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "relu_", lambda net: net)
        yield


def linear_network(size: tuple[int, int]) -> InceptionV3Network:
    """A network of one channel per layer in float64, every tensor random. Max pools, which read all, are averages."""
    options: dict[str, Any] = {"depth_multiplier": 0.001, "min_depth": 1, "num_classes": 2}
    network = InceptionV3Network(Settings(image_size=size, spatial_squeeze=False, **options)).double().eval()
    network.requires_grad_(False)
    randomise(network)
    for module in network.modules():
        if isinstance(module, Pool2d):
            module.kind = "avg"
    return network


def outputs(network: InceptionV3Network, images: Tensor) -> dict[str, Tensor]:
    """The outputs of all end points, branches and layers."""
    kept: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        kept[name.replace(".", "/")] = output

    hooks = [module.register_forward_hook(partial(keep, name)) for name, module in network.named_modules() if name]
    points = network(images)[1]
    for hook in hooks:
        hook.remove()
    return kept | points


def supports(units: dict[str, tuple[int, int]], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """The pixels on which a unit of each end point depends: bool of shape (H, W)."""
    images = torch.rand(1, 3, *size, dtype=torch.float64, requires_grad=True)
    nets = outputs(linear_network(size), images)
    reached = {}
    for name, (row, column) in units.items():
        values = nets[name][0, :, row, column]
        weighted = values @ torch.linspace(1, 2, len(values), dtype=values.dtype)
        (gradient,) = torch.autograd.grad(weighted, images, retain_graph=True)
        reached[name] = (gradient[0] != 0).any(0).numpy()
    return reached


def map_sizes(size: tuple[int, int]) -> dict[str, tuple[int, int]]:
    points = architecture.end_points(height=size[0], width=size[1])
    return {name: net.size for name, net in architecture.feature_maps(points).items()}


def assert_equal_inside(reached: np.ndarray, region: tuple[int, int, int, int], name: str) -> None:
    """The pixels have every row and every column of a region that are inside the image, and no other."""
    for axis in (0, 1):
        start, end = max(region[axis], 0), min(region[axis + 2], reached.shape[axis])
        assert np.flatnonzero(reached.any(1 - axis)).tolist() == list(range(start, end)), (name, axis)


@pytest.mark.parametrize("size", [(LONG, SHORT), (SHORT, LONG)], ids=["height", "width"])
def test_gradients_come_from_exactly_the_field_of_every_end_point_branch_and_layer(size: tuple[int, int]) -> None:
    """Along the long side of a strip the field of the unit is inside; along the short side the strip cuts it."""
    fields, sizes, long = all_receptive_fields(size), map_sizes(size), size.index(LONG)
    units = {
        name: tuple(min(-(-field.padding[axis] // field.stride[axis]), sizes[name][axis] - 1) for axis in (0, 1))
        for name, field in fields.items()
    }
    for name, reached in supports(units, size).items():
        region = fields[name].region(*units[name])
        assert region[long] >= 0
        assert region[long + 2] <= LONG
        assert_equal_inside(reached, region, name)


@pytest.mark.parametrize("corner", [0, -1], ids=["first", "last"])
def test_at_a_border_gradients_come_from_the_part_of_the_field_inside_the_image(corner: int) -> None:
    sizes = {name: size for name, size in map_sizes((299, 299)).items() if name.count("/") < 2}
    units = {name: (size[0] - 1, size[1] - 1) if corner else (0, 0) for name, size in sizes.items()}
    fields = all_receptive_fields()
    for name, reached in supports(units, (299, 299)).items():
        assert_equal_inside(reached, fields[name].region(*units[name]), name)


def test_halves_joined_in_a_branch_reach_a_cross_and_not_the_corners_of_the_rectangle() -> None:
    name, unit, size = "Mixed_7b/Branch_1", (17, 17), (1151, 1151)
    top, left, bottom, right = receptive_field(name, size).region(*unit)
    expected = np.zeros(size, bool)
    expected[top:bottom, left + 32 : right - 32] = True
    expected[top + 32 : bottom - 32, left:right] = True
    assert np.array_equal(supports({name: unit}, size)[name], expected)
