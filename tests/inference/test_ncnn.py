"""The ncnn engine computes the network's outputs with ncnn for the stem and ONNX Runtime for the rest."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import relative
from inception_v3.errors import InputError
from inception_v3.inference.choose import open_engine, open_exported, open_model
from inception_v3.inference.engines.base import FEATURES, LOGITS, Pixels
from inception_v3.inference.engines.graph import Concat, Pooling, build_graph, split_stem, swap_pools
from inception_v3.inference.engines.graph_module import GraphModule
from inception_v3.inference.engines.ncnn import NcnnEngine
from inception_v3.inference.engines.onnxruntime import OnnxRuntimeEngine
from inception_v3.inference.export import export
from inception_v3.support import packages
from inception_v3.weights.load import save
from inception_v3.weights.model import InceptionV3

BuildModel = Callable[..., InceptionV3]
STEM = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_3a_3x3"]
STEM += ["Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_5a_3x3"]


def pixels(count: int, height: int, width: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


# ------------------------------------------------------------- splitting the network


def test_the_stem_ends_before_the_first_branches(random_model: BuildModel) -> None:
    stem, rest = split_stem(swap_pools(build_graph(random_model())))
    assert [operation.output for operation in stem.operations] == STEM
    assert (stem.outputs, rest.input, rest.outputs) == (("MaxPool_5a_3x3",), "MaxPool_5a_3x3", (LOGITS, FEATURES))
    assert not any(isinstance(operation, Concat) for operation in stem.operations)


@pytest.mark.parametrize("inside", [*STEM, "Mixed_5b", "Mixed_7c"])
def test_the_two_parts_compute_the_network_for_any_output(random_model: BuildModel, inside: str) -> None:
    """An end point inside the stem ends the stem before it, since only the rest returns outputs."""
    built = build_graph(random_model().double(), outputs=(inside, FEATURES))
    stem, rest = split_stem(built)
    images = torch.from_numpy(pixels(2, 107, 107))
    whole = GraphModule(built, torch.float64)(images)
    stem_output = GraphModule(stem, torch.float64)(images)[0] if stem.operations else images
    parts = GraphModule(rest, torch.float64)(stem_output)
    assert all(relative(part, expected) < 1e-12 for part, expected in zip(parts, whole, strict=True))
    assert inside not in stem.outputs


def test_an_average_pool_ends_the_stem(random_model: BuildModel) -> None:
    built = build_graph(random_model(), outputs=("MaxPool_5a_3x3",))
    assert isinstance(built.operations[3], Pooling)
    averaging = [
        Pooling(step.output, step.input, "avg", (3, 3), 2) if isinstance(step, Pooling) else step
        for step in built.operations
    ]
    stem, _ = split_stem(type(built)(tuple(averaging), built.image_size, built.outputs))
    assert [operation.output for operation in stem.operations] == STEM[:3]


# ------------------------------------------------------------- outputs


@pytest.mark.parametrize("size", [(299, 299), (298, 203), (75, 300)], ids=str)
def test_winograd_rounds_no_more_than_other_engines_do(random_model: BuildModel, size: tuple[int, int]) -> None:
    """Against the network in float64. ncnn selects its algorithms by the size of a map, and some round more."""
    model = random_model(image_size=size, global_pool=True)
    images, built = pixels(2, *size), swap_pools(build_graph(model))
    exact = GraphModule(build_graph(model.double()), torch.float64)(torch.from_numpy(images))
    outputs = NcnnEngine(built).run(images)
    others = OnnxRuntimeEngine(built, "fp32").run(images)
    for name, expected in zip((LOGITS, FEATURES), exact, strict=True):
        error, other = (relative(torch.from_numpy(each[name]).double(), expected) for each in (outputs, others))
        assert error < max(4 * other, 2e-6), name


def test_outputs_do_not_depend_on_the_batch_size_or_the_number_of_callers(random_model: BuildModel) -> None:
    built, images = swap_pools(build_graph(random_model())), pixels(5, 107, 107)
    batch, many_callers = NcnnEngine(built).run(images), NcnnEngine(built, callers=64).run(images)
    for index in range(5):
        single = NcnnEngine(built).run(images[index : index + 1])
        for name in (LOGITS, FEATURES):
            assert relative(batch[name][index], single[name][0]) < 1e-6
            assert relative(many_callers[name][index], single[name][0]) < 1e-6


# ------------------------------------------------------------- refusals


def test_it_runs_networks_in_memory_on_request_and_no_exported_files(
    random_model: BuildModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model()
    save(model, tmp_path / "run" / "model.safetensors")
    export(model, tmp_path / "run" / "exported" / "fp32.onnx")
    assert str(open_engine(tmp_path / "run", "ncnn").engine) == "ncnn fp32 on cpu"
    with pytest.raises(InputError, match=r"fp32\.onnx runs in onnxruntime and openvino, not in ncnn"):
        open_exported(tmp_path / "run" / "exported" / "fp32.onnx", "ncnn")
    with pytest.raises(InputError, match="ncnn does not support bf16 here; use pytorch or compile or openvino"):
        open_model(model, "ncnn", "bf16")
    with pytest.raises(InputError, match="ncnn runs on the CPU here, not on cuda; leave out --engine"):
        open_model(model, "ncnn", device="cuda")
    with pytest.raises(InputError, match="ncnn runs only the stem, and this network has none"):
        NcnnEngine(build_graph(model, outputs=("Conv2d_1a_3x3",)))


@pytest.mark.parametrize(
    ("missing", "chosen"), [("ncnn", "onnxruntime"), ("onnxruntime", "openvino"), ("onnx", "pytorch")]
)
def test_without_a_package_the_next_engine_is_chosen_and_the_extra_named(
    random_model: BuildModel, monkeypatch: pytest.MonkeyPatch, missing: str, chosen: str
) -> None:
    find_spec = packages.find_spec
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == missing else find_spec(name))
    assert open_model(random_model()).engine.name == chosen
    with pytest.raises(InputError, match=r"pip install .*\[ncnn\]'") as error:
        open_model(random_model(), "ncnn")
    assert missing in str(error.value)
    assert error.value.exit_status == 2
