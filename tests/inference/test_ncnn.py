"""ncnn runs the stem, ONNX Runtime the rest: the answers are the network's own, and what it cannot do is said."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import relative
from inception_v3.errors import InputError
from inception_v3.inference import choose
from inception_v3.inference.engines.base import FEATURES, LOGITS, Pixels
from inception_v3.inference.choose import open_engine, open_exported, open_model
from inception_v3.inference.engines.graph import Concat, Pool, build_graph, split, swap_pools
from inception_v3.inference.engines.ncnn import NcnnEngine
from inception_v3.inference.engines.onnx_graph import to_onnx
from inception_v3.inference.engines.onnxruntime import OnnxRuntimeEngine
from inception_v3.inference.engines.pytorch import Network
from inception_v3.inference.export import export
from inception_v3.weights.load import save
from inception_v3.weights.model import InceptionV3

BuildModel = Callable[..., InceptionV3]
STEM = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_3a_3x3"]
STEM += ["Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_5a_3x3"]


def pixels(count: int, height: int, width: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


# ------------------------------------------------------------- the network in two


def test_the_stem_is_what_comes_before_the_first_branches(random_model: BuildModel) -> None:
    stem, rest = split(swap_pools(build_graph(random_model())))
    assert [operation.output for operation in stem.operations] == STEM
    assert (stem.outputs, rest.input, rest.outputs) == (("MaxPool_5a_3x3",), "MaxPool_5a_3x3", (LOGITS, FEATURES))
    assert not any(isinstance(operation, Concat) for operation in stem.operations)


@pytest.mark.parametrize("inside", [*STEM, "Mixed_5b", "Mixed_7c"])
def test_both_parts_together_are_the_network_whatever_is_asked_for(random_model: BuildModel, inside: str) -> None:
    """An end point inside the stem ends it before: both parts would have to give it."""
    built = build_graph(random_model().double(), outputs=(inside, FEATURES))
    stem, rest = split(built)
    given = torch.from_numpy(pixels(2, 107, 107))
    whole = Network(built, torch.float64)(given)
    parts = Network(rest, torch.float64)(Network(stem, torch.float64)(given)[0] if stem.operations else given)
    assert all(relative(ours, theirs) < 1e-12 for ours, theirs in zip(parts, whole, strict=True))
    assert inside not in stem.outputs


def test_an_average_is_no_part_of_the_stem(random_model: BuildModel) -> None:
    built = build_graph(random_model(), outputs=("MaxPool_5a_3x3",))
    assert isinstance(built.operations[3], Pool)
    averaging = [
        Pool(one.output, one.input, "avg", (3, 3), 2) if isinstance(one, Pool) else one for one in built.operations
    ]
    stem, _ = split(type(built)(tuple(averaging), built.image_size, built.outputs))
    assert [operation.output for operation in stem.operations] == STEM[:3]


# ------------------------------------------------------------- its answers


@pytest.mark.parametrize("size", [(299, 299), (298, 203), (75, 300)], ids=str)
def test_winograd_rounds_no_more_than_other_engines_do(random_model: BuildModel, size: tuple[int, int]) -> None:
    """Against the network in float64: ncnn takes its ways by the size of a map, and the larger round more."""
    model = random_model(image_size=size, global_pool=True)
    given, built = pixels(2, *size), swap_pools(build_graph(model))
    exact = Network(build_graph(model.double()), torch.float64)(torch.from_numpy(given))
    ours = NcnnEngine(built).run(given)
    other = OnnxRuntimeEngine(to_onnx(built).SerializeToString(), "fp32").run(given)
    for name, expected in zip((LOGITS, FEATURES), exact, strict=True):
        error, theirs = (relative(torch.from_numpy(found[name]).double(), expected) for found in (ours, other))
        assert error < max(4 * theirs, 2e-6), name


def test_one_caller_or_many_pictures_one_by_one_or_at_once_give_the_same(random_model: BuildModel) -> None:
    built, given = swap_pools(build_graph(random_model())), pixels(5, 107, 107)
    at_once, shared = NcnnEngine(built).run(given), NcnnEngine(built, callers=64).run(given)
    for place in range(5):
        alone = NcnnEngine(built).run(given[place : place + 1])
        for name in (LOGITS, FEATURES):
            assert relative(at_once[name][place], alone[name][0]) < 1e-6
            assert relative(shared[name][place], alone[name][0]) < 1e-6


# ------------------------------------------------------------- what it cannot do


def test_it_is_asked_for_by_name_and_reads_networks_not_exported_files(
    random_model: BuildModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model()
    save(model, tmp_path / "run" / "model.safetensors")
    export(model, tmp_path / "run" / "exported" / "fp32.onnx")
    assert str(open_engine(tmp_path / "run", "ncnn").engine) == "ncnn fp32 on cpu"
    with pytest.raises(InputError, match=r"fp32\.onnx runs in onnxruntime and openvino, not in ncnn"):
        open_exported(tmp_path / "run" / "exported" / "fp32.onnx", "ncnn")
    with pytest.raises(InputError, match="ncnn does not run bf16 here; openvino and pytorch do"):
        open_model(model, "ncnn", "bf16")
    with pytest.raises(InputError, match="ncnn runs on the processor here, not on cuda; leave --engine out"):
        open_model(model, "ncnn", device="cuda")
    with pytest.raises(InputError, match="ncnn runs the stem alone, which this network has not"):
        NcnnEngine(build_graph(model, outputs=("Conv2d_1a_3x3",)))


@pytest.mark.parametrize(
    ("missing", "taken"), [("ncnn", "onnxruntime"), ("onnxruntime", "openvino"), ("onnx", "pytorch")]
)
def test_without_a_package_the_next_best_is_taken_and_the_extra_named(
    random_model: BuildModel, monkeypatch: pytest.MonkeyPatch, missing: str, taken: str
) -> None:
    found = choose.find_spec
    monkeypatch.setattr(choose, "find_spec", lambda name: None if name == missing else found(name))
    assert open_model(random_model()).engine.name == taken
    with pytest.raises(InputError, match=r"pip install 'inception-v3\[ncnn\]'") as told:
        open_model(random_model(), "ncnn")
    assert missing in str(told.value)
    assert told.value.exit_status == 2
