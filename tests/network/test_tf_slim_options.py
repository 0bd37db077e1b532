"""A TF-Slim checkpoint does not contain its options. They are recovered from names and shapes of the variables."""

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inception_v3.network import architecture
from inception_v3.weights.formats import tf_slim
from inception_v3.weights.formats.tf_slim import recover_options


@pytest.fixture(scope="module", autouse=True)
def _each_kernel_once() -> Iterator[None]:
    """The image size of an auxiliary kernel is found by a search that takes 0.1 s. Five kernels are all there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf_slim, "_image_length", functools.cache(tf_slim._image_length))
        yield


def shapes_of(**options: object) -> dict[str, tuple[int, ...]]:
    points = architecture.end_points(**options)  # type: ignore[arg-type]
    layers = [layer for point in points for layer in point.layers if isinstance(layer.table, architecture.Conv)]
    kernels = {f"{layer.name}/weights": (*layer.kernel, layer.in_channels, layer.out_channels) for layer in layers}
    return kernels | {f"{layer.name}/biases": (layer.out_channels,) for layer in layers if not layer.normalized}


@settings(max_examples=200, deadline=None)
@given(
    depth_multiplier=st.floats(0.01, 4) | st.integers(1, 80).map(lambda n: n / 20),
    min_depth=st.integers(1, 40),
    height=st.integers(107, 330),
    width=st.integers(107, 330),
    num_classes=st.integers(1, 2000),
    create_aux_logits=st.booleans(),
)
def test_the_recovered_options_build_the_same_variables(height: int, width: int, **options: object) -> None:
    shapes = shapes_of(height=height, width=width, **options)
    recovered = recover_options(Path("x.ckpt"), shapes, None)
    size = recovered.pop("image_size", (299, 299))
    assert not recovered.pop("batch_norm_scale")
    assert recovered.pop("final_endpoint") is None
    assert shapes_of(height=size[0], width=size[1], **recovered) == shapes


def test_the_simplest_of_several_possible_options_are_recovered() -> None:
    options = {"num_classes": 11, "depth_multiplier": 0.3, "min_depth": 16, "create_aux_logits": True}
    recovered = recover_options(Path("x.ckpt"), shapes_of(**options), None)
    assert recovered == options | {"image_size": (299, 299), "batch_norm_scale": False, "final_endpoint": None}
