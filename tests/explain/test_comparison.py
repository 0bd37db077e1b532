"""Two networks compared layer by layer."""

import copy
import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from conftest import randomise
from inception_v3 import InceptionV3, InputError, save
from inception_v3.explain import compare
from inception_v3.explain.compared_networks import Outline, network_input
from inception_v3.explain.comparison import TOLERANCES, own_outputs
from inception_v3.explain.similarity import Similarity, exact, hsic, relative
from inception_v3.inference.engines.graph import build_graph, swap_pools
from inception_v3.inference.equalise import equalise
from inception_v3.inference.export import export
from inception_v3.inference.exported.base import ExportFormat
from inception_v3.inference.exported.description import Description
from inception_v3.inference.exported.registry import load_format
from inception_v3.inference.quantise import quantise
from inception_v3.inference.sensitivity import channel_maxima
from inception_v3.network.layers import Conv2d

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (107, 107)
BROKEN = "Mixed_6b/Branch_1/Conv2d_0b_1x7"
Break = Callable[[Conv2d, Conv2d], None]  # a layer, and another layer


def small_network(**options: object) -> InceptionV3:
    network = InceptionV3(**{"num_classes": 4, "depth_multiplier": 0.2, "image_size": 107} | options).eval()  # type: ignore[arg-type]
    randomise(network)
    return network


@pytest.fixture(scope="module")
def model() -> InceptionV3:
    network = small_network()
    network.class_names = ["a", "b", "c", "d"]
    return network


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (9, 10, 3), np.uint8)).resize((120, 110)) for _ in range(5)]


def layer_of(model: nn.Module, name: str) -> Conv2d:
    layer = model.get_submodule(name.replace("/", "."))
    assert isinstance(layer, Conv2d)
    return layer


def permute(layer: Conv2d, _: Conv2d) -> None:
    """Exchange the filters; those of two logits differ as well."""
    layer.weights.copy_(layer.weights.roll(1, 0))


def scale(layer: Conv2d, _: Conv2d) -> None:
    layer.weights.mul_(1.1)


def take_other_statistics(layer: Conv2d, other: Conv2d) -> None:
    """Take the BatchNorm of another layer; a classifier, which has none, gets other biases."""
    if layer.BatchNorm is None or other.BatchNorm is None:
        assert layer.biases is not None
        layer.biases.copy_(layer.biases.roll(1))
        return
    channels = len(layer.BatchNorm.beta)
    for name in ("moving_mean", "moving_variance"):
        values = other.BatchNorm.state_dict()[name]
        layer.BatchNorm.state_dict()[name].copy_(values.repeat(-(-channels // len(values)))[:channels])


def broken_layers(
    model: InceptionV3, pixels: np.ndarray, break_layer: Break
) -> Iterator[tuple[str, list[str], float, float]]:
    """Break each layer with weights in turn: its name, those found, its difference, and the largest of the others."""
    inputs = Outline.of(model.settings, model.image_size).inputs
    broken = copy.deepcopy(model)
    tensor = network_input(model, pixels)
    values = dict(model(tensor, end_points=[*inputs])[1])
    layers = [name for name in inputs if isinstance(model.get_submodule(name.replace("/", ".")), Conv2d)]
    for name, other in zip(layers, [layers[-5], *layers], strict=False):
        layer, intact = layer_of(broken, name), copy.deepcopy(layer_of(broken, name).state_dict())
        break_layer(layer, layer_of(model, other))
        own = {
            each: relative(
                float((exact(output) - exact(values[each])).square().sum()), float(exact(values[each]).square().sum())
            )
            for each, output in own_outputs(broken, tensor, values, inputs)
            if output is not None
        }
        layer.load_state_dict(intact)
        found = [each for each, difference in own.items() if difference > TOLERANCES["fp32"]]
        yield name, found, own.pop(name), max(own.values())


@pytest.mark.parametrize("break_layer", [permute, scale, take_other_statistics])
def test_each_broken_layer_is_found_and_no_other(break_layer: Break, images: list[Image.Image]) -> None:
    pixels = np.stack([images[0].resize((75, 75))])
    with torch.no_grad():
        results = [*broken_layers(small_network(image_size=75), pixels, break_layer)]
    main = [name for name, *_ in results if not name.startswith("AuxLogits/")]
    assert (len(main), len(results)) == (95, 98)  # and three of the auxiliary head
    assert [found for _, found, *_ in results] == [[name] for name, *_ in results]
    assert min(broken for _, _, broken, _ in results) > 100 * max(intact for *_, intact in results)


def break_one(model: InceptionV3, name: str = BROKEN) -> InceptionV3:
    broken = copy.deepcopy(model)
    with torch.no_grad():
        permute(layer_of(broken, name), layer_of(broken, name))
    return broken


def test_a_comparison_names_the_layer_and_shows_what_later_layers_inherit(
    model: InceptionV3, images: list[Image.Image], tmp_path: Path
) -> None:
    broken = break_one(model)
    result = compare(model, broken, images)
    assert (result.parts_at, result.parted_by, result.differing_layers) == (BROKEN, "own computation", (BROKEN,))
    rows = {row.name: row for row in result.layers}
    assert [name for name in rows if "/" in name] == [name for name in rows if name.startswith("Mixed_6b/")]
    assert "Mixed_6b/Branch_3" in rows
    for name in ("Conv2d_1a_3x3", "Mixed_6a", "Mixed_6b/Branch_0"):
        assert (rows[name].difference, rows[name].own_difference) == (0, 0)
        assert (rows[name].correlation, rows[name].cka) == pytest.approx((1, 1))
    for name in ("Mixed_6c", "Mixed_7c", "AuxLogits", "Logits"):
        assert rows[name].difference > 1e-3 > rows[name].own_difference == 0
    assert rows[BROKEN].own_difference == rows["Mixed_6b"].own_difference > 0.1
    tensor = torch.cat([model.preprocessing.scale(model.preprocessing.pixels(image)[None].float()) for image in images])
    with torch.no_grad():
        (a, b) = (each(tensor, end_points=["Mixed_7a"])[1]["Mixed_7a"].double() for each in (model, broken))
    assert rows["Mixed_7a"].difference == pytest.approx(float((a - b).norm() / a.norm()), rel=1e-4)
    assert rows["Mixed_7a"].correlation == pytest.approx(np.corrcoef(a.flatten(), b.flatten())[0, 1], rel=1e-4)
    assert rows["Mixed_7a"].cka == pytest.approx(cka_by_definition(a, b), rel=1e-4)
    for name in ("plot.png", "plot.svg", "result.json"):
        result.save(tmp_path / name)
    assert json.loads((tmp_path / "result.json").read_text())["parts_at"] == BROKEN
    assert "own difference" in result._repr_html_()
    assert result.numpy().shape == (len(rows), 4)


def cka_by_definition(a: Tensor, b: Tensor) -> float:
    """CKA from U-centred Gram matrices (Székely and Rizzo, 2014), which give the same estimator of HSIC."""

    def centred(values: Tensor) -> Tensor:
        gram, n = values.flatten(1) @ values.flatten(1).T, len(values)
        gram.fill_diagonal_(0)
        rows = gram.sum(0)
        gram = gram - rows[:, None] / (n - 2) - rows[None] / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
        return gram.fill_diagonal_(0)

    k, l = centred(a), centred(b)  # noqa: E741
    return float((k * l).sum() / ((k * k).sum() * (l * l).sum()).sqrt())


def test_the_estimate_of_hsic_is_unbiased() -> None:
    """Of independent values it is 0 on average, where the biased one is not."""
    torch.manual_seed(0)
    estimates = []
    for _ in range(300):
        a, b = torch.randn(2, 5, 20, dtype=torch.float64)
        estimates.append(float(hsic(a @ a.T, b @ b.T)))
    assert abs(np.mean(estimates)) < 3 * np.std(estimates) / math.sqrt(300)


def test_similarity_of_special_values() -> None:
    zeros, ones = torch.zeros(4, 3), torch.ones(4, 3)
    same, dead = Similarity(), Similarity()
    same.add(zeros, zeros)
    dead.add(zeros, ones)
    assert same.difference == 0
    assert dead.difference == math.inf
    assert math.isnan(same.correlation)
    assert math.isnan(same.cka)
    few = Similarity()
    few.add(ones[:3], ones[:3])
    assert math.isnan(few.cka)


def test_networks_that_compute_the_same_do_not_part(model: InceptionV3, images: list[Image.Image]) -> None:
    result = compare(model, copy.deepcopy(model).double(), images[:1])
    assert result.parts_at is None
    assert result.verdict == "they do not part: every layer that both show agrees within 0.0001"
    assert result.notes == ("CKA needs 4 images, so it is left out",)
    assert all(row.difference < 1e-5 and math.isnan(row.cka) for row in result.layers)
    assert result.as_dict()["layers"][0]["cka"] is None


def test_pools_that_count_their_padding_part_at_the_first_of_them(
    model: InceptionV3, images: list[Image.Image]
) -> None:
    other = InceptionV3(**model.settings | {"count_padding": True}).eval()
    other.load_state_dict(model.state_dict())
    assert compare(model, other, images[:1]).parts_at == "Mixed_5b/Branch_3/AvgPool_0a_3x3"


def test_classes_are_matched_by_name_and_missing_ones_are_named(model: InceptionV3, images: list[Image.Image]) -> None:
    other = InceptionV3(**model.settings | {"num_classes": 3, "create_aux_logits": False}).eval()
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("AuxLogits.")}
    order = [2, 0]  # c and a; the third class is new
    for name in ("Logits.Conv2d_1c_1x1.weights", "Logits.Conv2d_1c_1x1.biases"):
        state[name] = torch.cat([state[name][order], state[name][3:] * 2])
    other.load_state_dict(state)
    other.class_names = ["c", "a", "new"]
    result = compare(model, other, images[:1])
    assert result.parts_at is None
    assert (result.only_in_first, result.only_in_second) == (("b", "d"), ("new",))
    assert "left out, because not both have it: AuxLogits" in result.notes
    assert "the logits of the 2 classes that both have are compared, by their names" in result.notes
    other.class_names = None
    result = compare(model, other, images[:1])
    assert "Logits" not in {row.name for row in result.layers}
    assert "the networks have no classes in common, so their logits are left out" in result.notes


def test_both_get_the_pixels_of_the_first_and_the_difference_is_named(
    model: InceptionV3, images: list[Image.Image]
) -> None:
    other = copy.deepcopy(model)
    other.preprocessing = type(model.preprocessing)((107, 107), resize=140, interpolation="bicubic")
    result = compare(model, other, images[:1])
    assert result.parts_at is None
    assert result.notes[0].startswith("the preprocessing differs (resize, interpolation): both got the pixels of first")


def test_another_width_parts_at_the_first_layer_and_a_cut_network_is_compared_so_far(
    model: InceptionV3, images: list[Image.Image]
) -> None:
    result = compare(model, small_network(depth_multiplier=0.6), images)
    rows = {row.name: row for row in result.layers}
    assert result.parts_at == "Conv2d_1a_3x3"
    assert rows["Mixed_7c"].difference == math.inf
    assert -1 <= rows["Mixed_7c"].cka <= 1
    cut = small_network(final_endpoint="Mixed_5c")
    assert compare(cut, cut, images[:1]).layers[-1].name == "Mixed_5c"


def test_values_that_are_not_finite_and_networks_in_training_are_refused(
    model: InceptionV3, images: list[Image.Image]
) -> None:
    damaged = copy.deepcopy(model)
    damaged.Mixed_5c.Branch_0.Conv2d_0a_1x1.BatchNorm.beta.data[0] = math.nan
    with pytest.raises(
        InputError, match=r"second network: the values of Mixed_5c/Branch_0/Conv2d_0a_1x1 are not finite"
    ):
        compare(model, damaged, images[:1])
    with pytest.raises(ValueError, match="second network: the network is in training mode"):
        compare(model, copy.deepcopy(model).train(), images[:1])


@pytest.mark.parametrize("suffix", ["onnx", "xml"])
def test_an_exported_file_shows_its_layers(
    model: InceptionV3, images: list[Image.Image], suffix: str, tmp_path: Path
) -> None:
    file, broken = tmp_path / f"intact.{suffix}", tmp_path / f"broken.{suffix}"
    export(model, file)
    export(break_one(model), broken)
    before = file.read_bytes()
    result = compare(model, file, images)
    assert (result.parts_at, result.parted_by) == (None, "own computation")
    assert "AuxLogits" not in {row.name for row in result.layers}  # which the file lacks
    assert [row.name for row in result.layers if row.name.startswith("Mixed_")][-1] == "Mixed_7c"
    assert max(row.difference for row in result.layers) < 1e-4
    assert file.read_bytes() == before
    assert compare(model, broken, images[:1]).parts_at == BROKEN
    assert compare(broken, model, images[:1]).differing_layers == (BROKEN,)
    assert result.tolerance == 1e-4
    result = compare(file, broken, images[:1])
    assert (result.parts_at, result.parted_by, result.tolerance) == (BROKEN, "jump", 2e-4)


def test_a_file_without_the_names_of_its_layers_is_compared_by_its_outputs(
    model: InceptionV3, images: list[Image.Image], tmp_path: Path
) -> None:
    export(break_one(model), tmp_path / "network.pt2")
    result = compare(model, tmp_path / "network.pt2", images[:1])
    assert [row.name for row in result.layers if "/" not in row.name] == ["AvgPool_1a", "Logits"]
    assert result.parts_at == "Logits/AvgPool_1a_8x8"
    assert any(note.startswith("left out, because not both have it: Conv2d_1a_3x3") for note in result.notes)


def write_int8(model: InceptionV3, images: list[Image.Image], file: Path, *, quantised: bool) -> None:
    """A file in int8, or only with the channels rescaled as they are before int8, which takes less time."""
    pixels = np.stack([np.asarray(image.resize(SIZE)) for image in images])
    graph, format = swap_pools(build_graph(model)), recognised_by_suffix(file)
    if quantised:
        network = quantise(graph, format.convert, np.tile(pixels, (7, 1, 1, 1))).model
    else:
        network = format.convert(equalise(graph, channel_maxima(graph, pixels)))
    description = Description(model.settings, model.preprocessing, model.class_names, graph.outputs, "int8", False, "")
    format.save(network, file, description)
    format.write_description(file, description.to_json())


def recognised_by_suffix(file: Path) -> ExportFormat:
    return load_format({".onnx": "onnx", ".xml": "openvino"}[file.suffix])


@pytest.mark.parametrize(
    ("suffix", "quantised"),
    [
        ("onnx", False),
        pytest.param("onnx", True, marks=pytest.mark.slow),
        pytest.param("xml", True, marks=pytest.mark.slow),
    ],
)
def test_int8_files_are_compared_in_the_scale_of_the_network(
    model: InceptionV3, images: list[Image.Image], suffix: str, quantised: bool, tmp_path: Path
) -> None:
    limit = 0.1 if quantised else 1e-4
    for name, network, parts_at in (("intact", model, None), ("broken", break_one(model), BROKEN)):
        file = tmp_path / f"{name}.{suffix}"
        write_int8(network, images, file, quantised=quantised)
        result = compare(model, file, images, tolerance=limit)
        assert (result.parts_at, result.parted_by) == (parts_at, "own computation")
        assert result.differing_layers == (() if parts_at is None else (BROKEN,))
        assert {row.name: row.difference for row in result.layers}["Mixed_6a"] < limit
        assert any("scales of their own" in note for note in result.notes)


def test_the_command_prints_a_table_or_one_object(
    model: InceptionV3,
    images: list[Image.Image],
    tmp_path: Path,
    command: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    save(model, "a.safetensors")
    save(break_one(model), "b.safetensors")
    Path("images").mkdir()
    images[0].save("images/good.png")

    run = partial(command, "compare")

    status, out, err = run("a.safetensors", "b.safetensors", "images", "--json", "--plot", "plot.png")
    assert status == 0, err
    result = json.loads(out)
    assert result["parts_at"] == BROKEN
    assert {"name", "difference", "correlation", "cka", "own_difference"} == result["layers"][0].keys()
    assert Path("plot.png").stat().st_size > 10_000
    Path("images/bad.png").write_text("hello")
    status, out, err = run("a.safetensors", "b.safetensors", "images")
    assert status == 3
    assert "1 of 2 images could not be read" in err
    assert [line.split()[0] for line in out.splitlines() if "<- part here" in line] == [BROKEN]
    assert out.endswith(f"they part at {BROKEN}, the first layer whose own computation differs; 1 image\n")
    status, _, err = run("a.safetensors", "none.safetensors", "images")
    assert status == 1
    assert "none.safetensors" in err
