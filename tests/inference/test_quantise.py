"""How a network is prepared for int8: channels rescaled, biases corrected, and sensitive convolutions left out."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import relative
from inception_v3.errors import InputError
from inception_v3.inference import sensitivity
from inception_v3.inference.engines.base import FEATURES, LOGITS, Pixels
from inception_v3.inference.engines.graph import Convolution, Graph, build_graph, swap_pools
from inception_v3.inference.engines.graph_module import GraphModule
from inception_v3.inference.engines.openvino import read_graph
from inception_v3.inference.equalise import equalise
from inception_v3.inference.quantise import NOTICEABLE, PAYS, _quantised, kept_layers, quantise
from inception_v3.inference.sensitivity import Sensitivity, channel_maxima, sensitivities
from inception_v3.support import packages
from inception_v3.weights.model import InceptionV3

Build = Callable[..., InceptionV3]


def pixels(count: int = 4, size: int = 107) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def outputs(graph: Graph, images: Pixels, dtype: torch.dtype = torch.float32) -> list[np.ndarray]:
    with torch.inference_mode():
        return [output.numpy() for output in GraphModule(graph, dtype)(torch.from_numpy(images))]


@pytest.mark.parametrize("names", [(LOGITS, FEATURES), ("Mixed_5d", LOGITS), ("Conv2d_2b_3x3", "Mixed_7c")], ids=str)
@pytest.mark.parametrize("swap", [False, True])
def test_rescaled_channels_give_the_same_outputs(random_model: Build, names: tuple[str, ...], swap: bool) -> None:
    """In float64, so that rounding does not hide a wrong factor."""
    graph = build_graph(random_model().double(), outputs=names)
    graph = swap_pools(graph) if swap else graph
    rescaled = equalise(graph, channel_maxima(graph, pixels()))
    for output, expected in zip(
        outputs(rescaled, pixels(), torch.float64), outputs(graph, pixels(), torch.float64), strict=True
    ):
        assert relative(torch.from_numpy(output), torch.from_numpy(expected)) < 1e-12


def test_rescaling_evens_out_the_channels(random_model: Build) -> None:
    graph = build_graph(random_model())
    before = channel_maxima(graph, pixels())
    rescaled = equalise(graph, before)
    after = channel_maxima(rescaled, pixels())

    def spread(maxima: dict[str, np.ndarray], name: str) -> float:
        alive = maxima[name][maxima[name] > 0]
        return float(alive.max() / np.median(alive))

    narrower = [name for name in after if spread(after, name) < spread(before, name)]
    assert len(narrower) > 0.6 * len(after)
    assert np.allclose(after[LOGITS], before[LOGITS], rtol=1e-4, atol=1e-4), "the logits keep their scale"


def with_wide_range(graph: Graph, name: str) -> Graph:
    """Multiply one weight of the first channel that a convolution reads, so that int8 rounds its others away."""
    operations = []
    for operation in graph.operations:
        if operation.output == name and isinstance(operation, Convolution):
            kernel = operation.kernel.copy()
            kernel[:, 0, 0, 0] *= 300
            operation = replace(operation, kernel=kernel)
        operations.append(operation)
    return replace(graph, operations=tuple(operations))


def test_the_sensitivity_finds_the_convolution_that_int8_harms(random_model: Build) -> None:
    graph = with_wide_range(build_graph(random_model()), "Mixed_6a/Branch_0/Conv2d_1a_1x1")
    layers = sensitivities(graph, pixels())
    assert max(layers, key=lambda layer: layer.error).name == "Mixed_6a/Branch_0/Conv2d_1a_1x1"
    assert len(layers) == 95, "94 convolutions and the logits"
    stem = next(layer for layer in layers if layer.name == "Conv2d_1a_3x3")
    kernel = next(each for each in graph.operations if each.output == "Conv2d_1a_3x3").kernel  # type: ignore[union-attr]
    assert stem.multiplications == kernel.size * 53 * 53, "107x107 images give a map of 53x53"


def test_only_convolutions_whose_error_is_large_for_their_work_stay_in_a_higher_precision() -> None:
    layers = [
        Sensitivity("large error, little work", 50.0, 10),
        Sensitivity("error as its work", 30.0, 600),
        Sensitivity("error, too much work", 15.0, 380),
        Sensitivity("hardly noticeable", 0.5, 1),
        Sensitivity("none", 0.0, 9),
    ]
    assert kept_layers(layers, PAYS, NOTICEABLE) == ("large error, little work",)
    assert kept_layers(layers, 0.0, 0.0) == ("large error, little work", "hardly noticeable")
    assert kept_layers([Sensitivity("exact", 0.0, 10)], PAYS, NOTICEABLE) == ()


def test_more_convolutions_stay_only_if_the_first_result_is_refused(random_model: Build) -> None:
    graph = build_graph(random_model())
    seen = []

    def refuse_the_first(network: object) -> str | None:
        seen.append(network)
        return "too inexact" if len(seen) == 1 else None

    result = quantise(graph, read_graph, pixels(32), refuse_the_first)
    first, second = seen
    assert result is second
    assert set(first.kept) < set(second.kept)
    assert first.share > second.share >= 0.9


def test_a_kept_convolution_does_not_keep_others_whose_names_start_with_its_name() -> None:
    rng = np.random.default_rng(0)
    names = ("a.b+", "a.b+c", "axb", "last")
    inputs = ("images", *names[:-1])
    graph = Graph(
        tuple(
            Convolution(name, source, rng.normal(size=(3, 3, 1, 1)).astype(np.float32), np.ones(3, np.float32))
            for name, source in zip(names, inputs, strict=True)
        ),
        (8, 8),
        ("last",),
        "images",
    )
    images = rng.random((32, 3, 8, 8), np.float32)
    model = _quantised(read_graph(graph), images, "images", ("a.b+",))
    exact = [
        each.get_friendly_name()
        for each in model.get_ops()
        if each.get_type_name() == "Convolution" and each.input_value(1).get_node().get_type_name() == "Constant"
    ]
    assert [name.removesuffix("/WithoutBiases").removesuffix("/convolution") for name in exact] == ["a.b+"]


def test_a_missing_package_is_reported_before_the_calibration(
    random_model: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_calibration(*_: object) -> None:
        raise AssertionError("calibrated")

    monkeypatch.setattr(packages, "missing_packages", lambda names: [name for name in names if name == "nncf"])
    monkeypatch.setattr(sensitivity, "channel_maxima", no_calibration)
    with pytest.raises(InputError, match=r"int8 needs nncf; (uv )?pip install .*int8"):
        quantise(build_graph(random_model()), read_graph, pixels(32))


def test_openvino_reads_every_bias_as_a_constant(random_model: Build) -> None:
    """NNCF corrects only such biases for the mean error of int8."""
    graph = swap_pools(build_graph(random_model()))
    with_bias = [each for each in graph.operations if isinstance(each, Convolution) and each.bias is not None]
    sums = [each for each in read_graph(graph).get_ops() if each.get_type_name() == "Add"]
    constant = [each for each in sums if each.input_value(1).get_node().get_type_name() == "Constant"]
    assert len(constant) == len(sums) >= len(with_bias)
