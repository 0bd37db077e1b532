"""Engines give the network's own answers, say what they are, and are not trusted beyond what was checked."""

import copy
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import relative
from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.engines import artefact, choose, graph
from inception_v3.inference.exported.description import Check, Description
from inception_v3.inference.engines.base import FEATURES, LOGITS, Outputs, Engine, Pixels
from inception_v3.inference.exported.check import compare, reference_network, why_not
from inception_v3.inference.choose import WithFallback, find_exported, open_engine, open_exported, open_model
from inception_v3.inference.engines.graph import build_graph, swap_pools
from inception_v3.inference.engines.ncnn import NcnnEngine
from inception_v3.inference.engines.onnx_graph import to_onnx
from inception_v3.inference.engines.onnxruntime import OnnxRuntimeEngine
from inception_v3.inference.engines.openvino import OpenvinoEngine, load_core
from inception_v3.inference.engines.pytorch import Captured, Network, PyTorchEngine
from inception_v3.inference.export import export
from inception_v3.network.architecture import BASE_END_POINTS
from inception_v3.weights.load import save
from inception_v3.weights.model import InceptionV3

Build = Callable[..., InceptionV3]


def pixels(count: int = 3, height: int = 107, width: int | None = None) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, height, width or height, 3), dtype=np.uint8)


def deciding(model: InceptionV3, on: Pixels) -> InceptionV3:
    """Random weights call everything one class; with the last layer centred on these pictures, classes vary."""
    assert model.Logits is not None
    *_, classify = model.Logits
    features = reference_network(model, (FEATURES,))(on)[FEATURES]
    centred = features - features.mean(0)
    with torch.no_grad():
        weights = np.random.default_rng(1).normal(size=(len(classify.biases), features.shape[1]))  # type: ignore[arg-type]
        weights /= (centred @ weights.T).std()
        classify.weights.copy_(torch.from_numpy(weights)[:, :, None, None])  # type: ignore[union-attr]
        classify.biases.copy_(torch.from_numpy(-weights @ features.mean(0)))  # type: ignore[union-attr]
    return model


# ------------------------------------------------------------- rewriting is exact

OPTIONS = [
    {},
    {"batch_norm_scale": True},
    {"count_padding": True},
    {"mixed_7c_pool": "max"},
    {"global_pool": True, "image_size": (151, 203)},
    {"image_size": (75, 139)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("rewrite", [lambda g: g, swap_pools])
def test_rewritten_networks_are_exact_in_float64(
    random_model: Build, options: dict[str, object], rewrite: Callable[[graph.Graph], graph.Graph]
) -> None:
    model = random_model(**options).double()
    model.preprocessing = replace(model.preprocessing, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    given = pixels(2, *model.image_size)
    expected = reference_network(model, (LOGITS, FEATURES))(given)
    logits, features = Network(rewrite(build_graph(model)), torch.float64)(torch.from_numpy(given))
    assert relative(logits, torch.from_numpy(expected[LOGITS])) < 1e-11
    assert relative(features, torch.from_numpy(expected[FEATURES])) < 1e-11


def test_pools_move_behind_their_convolutions(random_model: Build) -> None:
    plain = build_graph(random_model())

    def work_of_pools(one: graph.Graph) -> int:
        width = one.channels()
        return sum(width[o.output] for o in one.operations if isinstance(o, graph.Pool) and o.kind == "avg")

    convolutions = sum(isinstance(operation, graph.Convolution) for operation in plain.operations)
    assert convolutions == 95, "94 convolutions of the base and the logits; the auxiliary head is gone"
    assert work_of_pools(swap_pools(plain)) < work_of_pools(plain)
    of_2015 = swap_pools(build_graph(random_model(mixed_7c_pool="max")))
    assert any(isinstance(o, graph.Pool) and o.output == "Mixed_7c/Branch_3/AvgPool_0a_3x3" for o in of_2015.operations)


def test_a_bias_goes_in_after_a_pool_that_counts_its_padding(random_model: Build) -> None:
    for count_padding in (False, True):
        swapped = swap_pools(build_graph(random_model(count_padding=count_padding)))
        after = [one.bias is not None for one in swapped.operations if isinstance(one, graph.Activation)]
        assert after == [count_padding] * 9, "one for each average pool that a module has"


def test_any_end_point_can_be_the_output(random_model: Build) -> None:
    model = random_model()
    names = ("Conv2d_2b_3x3", "Mixed_5d", "Mixed_6e", FEATURES)
    built = swap_pools(build_graph(model, outputs=names))
    expected = reference_network(model, names)(pixels())
    for name, found in zip(names, Network(built)(torch.from_numpy(pixels())), strict=True):
        assert relative(found, torch.from_numpy(expected[name])) < 1e-5, name
    assert not any("Mixed_7" in o.output for o in build_graph(model, outputs=("Mixed_6e",)).operations)
    with pytest.raises(ValueError, match=r"no end point 'Mixed_9z'.*Mixed_7c"):
        build_graph(model, outputs=("Mixed_9z",))


def test_a_map_of_logits_is_refused_with_the_remedy(random_model: Build) -> None:
    model = random_model()
    model.preprocessing = model.preprocessing.at(500)
    with pytest.raises(ValueError, match="500x500 give a map of logits; build_graph it with global_pool=True"):
        build_graph(model)
    with pytest.raises(ValueError, match="any size needs global_pool=True"):
        build_graph(random_model(), any_size=True)


def test_a_network_can_take_floats_that_are_scaled_already(random_model: Build) -> None:
    model = random_model(global_pool=True)
    inside = "Mixed_6d/Branch_0/Conv2d_0a_1x1"
    built = swap_pools(build_graph(model, any_size=True, outputs=("Mixed_7c", inside), from_pixels=False))
    images = torch.rand(2, 3, 139, 107) * 2 - 1
    expected, found = model.base(images, end_points=("Mixed_6c",))
    branch = model.get_submodule(inside.replace("/", "."))(found["Mixed_6c"])
    content = to_onnx(built).SerializeToString()
    runtimes = OnnxRuntimeEngine(content, "fp32"), OpenvinoEngine(content, "fp32"), NcnnEngine(built)
    for engine in (PyTorchEngine(built), *runtimes):
        answers = engine.run(images.numpy())  # type: ignore[arg-type]
        assert relative(torch.from_numpy(answers["Mixed_7c"]), expected) < 2e-5, engine.name
        assert relative(torch.from_numpy(answers[inside]), branch) < 2e-5, engine.name


# ------------------------------------------------------------- engines agree


def engines(model: InceptionV3) -> list[Engine]:
    built = swap_pools(build_graph(model))
    content = to_onnx(built).SerializeToString()
    return [
        PyTorchEngine(built),
        OnnxRuntimeEngine(content, "fp32"),
        OpenvinoEngine(content, "fp32"),
        NcnnEngine(built),
    ]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_engine_gives_the_networks_logits_and_features(random_model: Build, options: dict[str, object]) -> None:
    model = random_model(**options)
    given = pixels(3, *model.image_size)
    expected = reference_network(model, (LOGITS, FEATURES))(given)
    for engine in engines(model):
        for size in (3, 1, 2):
            logits, features = engine.predict(given[:size])
            for found, name in ((logits, LOGITS), (features, FEATURES)):
                assert found.dtype == np.float32
                assert relative(torch.from_numpy(found), torch.from_numpy(expected[name][:size])) < 2e-5, engine.name


def test_answers_are_the_callers_own(random_model: Build) -> None:
    for engine in engines(random_model()):
        logits, _ = engine.predict(pixels())
        kept = logits.copy()
        engine.predict(255 - pixels())
        assert np.array_equal(logits, kept), engine.name


def test_pixels_need_not_lie_in_a_row(random_model: Build) -> None:
    given = pixels(4)
    for engine in engines(random_model()):
        assert np.array_equal(engine.predict(given[::2])[0], engine.predict(given[::2].copy())[0]), engine.name


def test_lower_precision_is_near(random_model: Build) -> None:
    model = random_model()
    expected = reference_network(model, (LOGITS,))(pixels())[LOGITS]
    built = swap_pools(build_graph(model))
    for engine in (PyTorchEngine(built, "bf16"), OpenvinoEngine(to_onnx(built).SerializeToString(), "bf16")):
        difference = relative(torch.from_numpy(engine.predict(pixels())[0]), torch.from_numpy(expected))
        assert 0 < difference < 0.05, engine.name


def test_what_an_engine_cannot_do_is_said(random_model: Build) -> None:
    built = build_graph(random_model(), outputs=("Mixed_6e",))
    with pytest.raises(InputError, match=r"gives Mixed_6e alone; export it without --end-points"):
        PyTorchEngine(built).predict(pixels())
    with pytest.raises(InputError, match="fp16 is for GPUs"):
        PyTorchEngine(built, "fp16")
    with pytest.raises(InputError, match="OpenVINO has no NPU here; it has CPU"):
        OpenvinoEngine(to_onnx(built).SerializeToString(), "fp32", "NPU")
    with pytest.raises(InputError, match="no provider for cuda"):
        OnnxRuntimeEngine(to_onnx(built).SerializeToString(), "fp32", "cuda")


# ------------------------------------------------------------- on a GPU, its logic tried without one


def test_a_precision_that_the_processor_has_not_is_refused(exported: tuple[InceptionV3, Path]) -> None:
    """OpenVINO computes in float32 there, and the check of that would be taken for one of bf16."""
    engine = OpenvinoEngine(exported[1] / "model.xml", "fp32")
    with pytest.raises(InputError, match=r"OpenVINO computes in f32 on this CPU, not in bf16; take fp32 here"):
        engine._check_precision("bf16")


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_signal_finds_its_stack_when_engines_have_come_and_gone(
    exported: tuple[InceptionV3, Path], name: str
) -> None:
    """In a process of its own, which would die of it."""
    file = exported[1] / {"openvino": "model.xml", "onnxruntime": "model.onnx"}[name]
    code = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from inception_v3.inference.choose import open_exported\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"first, second = [open_exported(Path({str(file)!r}), {name!r}) for _ in range(2)]\n"
        "del first\n"
        "del second\n"
        "try: os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "interrupted\n")


def test_onnx_runtime_on_a_gpu_is_exact_and_never_the_processor_in_its_place(
    exported: tuple[InceptionV3, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no GPU here: the runtime is asked what it was told, and has none either."""
    import onnxruntime

    asked = {}

    def session(network: bytes, options: object, providers: object, **more: object) -> onnxruntime.InferenceSession:
        asked.update(providers=providers, **more)
        return real(network, options, providers=["CPUExecutionProvider"])

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(InputError, match="ONNX Runtime cannot start on cuda:1; check its drivers"):
        OnnxRuntimeEngine(exported[1] / "model.onnx", "fp32", "cuda:1")
    assert asked["providers"] == [("CUDAExecutionProvider", {"device_id": 1, "use_tf32": 0})]
    assert asked["enable_fallback"] == 0


def test_writing_without_the_package_onnx_names_the_extra(
    random_model: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    done: list[str] = []
    for name in ("model.onnx", "model.xml"):
        with pytest.raises(InputError, match=r"needs the package onnx; pip install 'inception-v3\[onnx\]'"):
            export(random_model(), tmp_path / name, progress=done.append)
    assert not done, "told before any work"


def test_a_batch_that_does_not_fit_is_halved_and_told(random_model: Build) -> None:
    engine = PyTorchEngine(build_graph(random_model()))
    whole = engine.predict(pixels(7))[0]
    network, asked = engine._run, []

    def small(given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        asked.append(len(given))
        if len(given) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(given)

    engine._run = small
    with pytest.warns(UserWarning, match="no memory for 7 pictures at once; going on with 3"):
        found = engine.predict(pixels(7))[0]
    assert relative(torch.from_numpy(found), torch.from_numpy(whole)) < 1e-5
    asked.clear()
    engine.predict(pixels(7))
    assert max(asked) <= 2, "the size that fits is remembered"
    engine._run = lambda given: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(InputError, match="not enough memory for one picture"):
        engine.predict(pixels(1))


def test_recorded_batches_are_replayed_by_shape(random_model: Build) -> None:
    network = Network(build_graph(random_model()))
    recorded = []

    def record(
        module: Network, given: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], Callable[[], None]]:
        recorded.append(len(given))
        own, answers = given.clone(), module(given)

        def replay() -> None:
            for answer, new in zip(answers, module(own), strict=True):
                answer.copy_(new)

        return own, answers, replay

    captured = Captured(network, record)
    first, second = torch.from_numpy(pixels(2)), torch.from_numpy(255 - pixels(2))
    kept = captured(first)[0]
    assert torch.equal(captured(second)[0], network(second)[0])
    assert torch.equal(kept, network(first)[0]), "an answer is not overwritten by the next"
    captured(first[:1])
    assert recorded == [2, 1]
    for count in range(3, 9):
        assert torch.equal(captured(torch.from_numpy(pixels(count)))[0], network(torch.from_numpy(pixels(count)))[0])
    assert len(recorded) == 4, "shapes beyond the fourth are run, not recorded: each holds memory"


# ------------------------------------------------------------- an engine that fails


class Failing(Engine):
    name, precision, device = "failing", "fp32", "cpu"
    image_size, widths = None, {}  # type: ignore[var-annotated]

    def run(self, pixels: Pixels) -> Outputs:
        raise RuntimeError("the driver\nwent away")


def test_another_takes_over_with_a_warning(random_model: Build) -> None:
    other = PyTorchEngine(build_graph(random_model()))
    engine = WithFallback(Failing(), lambda: other)
    with pytest.warns(UserWarning, match=r"failing fp32 on cpu failed \(the driver went away\); going on with pytorch"):
        found = engine.predict(pixels())[0]
    assert np.array_equal(found, other.predict(pixels())[0])
    assert engine.name == "pytorch"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.predict(pixels())
    other.run = Failing().run  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="went away"):
        engine.predict(pixels())


def test_a_core_ml_package_takes_images_and_tells_what_it_is(
    random_model: Build, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Apple's systems alone run it: here its specification is read by Apple's own tools."""
    import coremltools

    model, out = random_model(), tmp_path / "model.mlpackage"
    model.class_names = [f"class {number}" for number in range(7)]
    for _ in range(2):  # the second takes the place of the first
        with pytest.warns(UserWarning, match="not checked, as Apple's systems alone run it"):
            told = export(model, out)
    assert capfd.readouterr() == ("", ""), "no progress bars of Apple's tools"
    spec = coremltools.models.MLModel(str(out), skip_model_load=True).get_spec().description
    assert (spec.input[0].name, spec.input[0].type.imageType.width) == ("pixels", 107)
    assert [output.name for output in spec.output] == [LOGITS, FEATURES]
    assert artefact.recognise(out) == "coreml"
    assert artefact.read(out).to_json() == told.to_json()
    assert told.check is None
    assert [path.name for path in tmp_path.iterdir()] == ["model.mlpackage"]
    with pytest.raises(InputError, match=r"is for Apple's Core ML; \.onnx and .xml run here"):
        open_engine(out)
    with pytest.raises(InputError, match="coreml has fp32; fp16 is for torch-export"):
        export(model, out, precision="fp16")
    (tmp_path / "file.mlpackage").write_text("mine")
    with pytest.warns(match="not checked"), pytest.raises(InputError, match="a file is in the place of the package"):
        export(model, tmp_path / "file.mlpackage")
    assert (tmp_path / "file.mlpackage").read_text() == "mine"
    (out / artefact.COREML_SPEC).write_bytes(b"\xff" * 20)
    with pytest.raises(InputError, match=r"model\.mlpackage: the file is damaged"):
        open_engine(out)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "ncnn", "pytorch"])
def test_several_threads_get_their_own_answers_at_once(random_model: Build, name: choose.EngineName) -> None:
    model = random_model()
    engine, _ = choose.open_graph(swap_pools(build_graph(model)), name, callers=4)
    given = [pixels(2, *model.image_size) // (number + 1) for number in range(16)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(engine.run, given))
    for ours, expected in zip(found, map(reference_network(model, (LOGITS, FEATURES)), given), strict=True):
        assert relative(ours[LOGITS], expected[LOGITS]) < 1e-5


def test_where_an_engine_fails_several_threads_at_once_another_takes_over_once(random_model: Build) -> None:
    others = []

    def other() -> Engine:
        others.append(PyTorchEngine(build_graph(random_model())))
        return others[-1]

    engine = WithFallback(Failing(), other)
    with pytest.warns(UserWarning, match="going on with pytorch") as told, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(engine.run, [pixels()] * 8))
    assert (len(others), len(told), len(found)) == (1, 1, 8)


# ------------------------------------------------------------- exported files tell what they are

BY_CLASS = """
for prediction in inception_v3.Predictor(sys.argv[1])(sys.argv[2:]):
    print(prediction.image, prediction.classes[0][1])
"""
WITHOUT_TORCH = """
import sys


class NoTorch:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "torch":
            raise ImportError("no PyTorch here")


sys.meta_path.insert(0, NoTorch())
from inception_v3.cli import main

main()
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[InceptionV3, Path]:
    """A run folder, and beside it the same network in every kind of file."""
    from conftest import randomise

    folder = tmp_path_factory.mktemp("exported")
    model = InceptionV3(num_classes=7, depth_multiplier=0.1, min_depth=8, image_size=107)
    randomise(model)
    model.eval().class_names = ["cat", 'a "dog"', "<é>", "&amp;", "line\nend", "6", "7"]
    model.preprocessing = Preprocessing(image_size=(107, 107), mean=(0.4, 0.5, 0.6), interpolation="bicubic")
    for name in ("model.onnx", "model.xml", "model.pt2"):
        export(model, folder / name, checksum="abc")
    return model, folder


@pytest.mark.parametrize("name", ["model.onnx", "model.xml", "model.pt2"])
def test_classes_preprocessing_and_check_travel_inside(exported: tuple[InceptionV3, Path], name: str) -> None:
    model, folder = exported
    told = artefact.read(folder / name)
    assert told.class_names == model.class_names
    assert told.preprocessing == model.preprocessing
    assert told.settings.num_classes == 7
    assert (told.precision, told.weights, told.outputs) == ("fp32", "abc", (LOGITS, FEATURES))
    assert told.check is not None
    assert told.check.top_1_agreement == 1
    assert told.check.max_difference < 1e-5
    assert told.check.source == "generated noise"


def test_other_readers_understand_the_files(exported: tuple[InceptionV3, Path]) -> None:
    import onnx
    import onnxruntime

    model, folder = exported
    expected = reference_network(model, (LOGITS, FEATURES))(pixels())
    onnx.checker.check_model(folder / "model.onnx", full_check=True)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    assert artefact.KEY in session.get_modelmeta().custom_metadata_map
    compiled = load_core().read_model(folder / "model.xml")
    assert compiled.has_rt_info([artefact.KEY, "description"])
    extra = {f"{artefact.KEY}.json": ""}
    program = torch.export.load(folder / "model.pt2", extra_files=extra).module()
    assert json.loads(extra[f"{artefact.KEY}.json"])["class_names"] == model.class_names
    for count in (1, 3):  # the batch is free in all of them
        found = [
            session.run([LOGITS], {"pixels": pixels(count)})[0],
            load_core().compile_model(compiled, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(pixels(count))[LOGITS],
            program(torch.from_numpy(pixels(count)))[0].numpy(),
        ]
        for logits in found:
            assert relative(torch.from_numpy(logits), torch.from_numpy(expected[LOGITS][:count])) < 1e-5


@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_any_size_is_any_size(random_model: Build, tmp_path: Path, name: str) -> None:
    model = random_model(global_pool=True)
    export(model, tmp_path / name, any_size=True)
    engine = open_exported(tmp_path / name).engine
    for height, width in ((75, 75), (107, 139), (320, 299)):
        given = pixels(2, height, width)
        expected = reference_network(model, (LOGITS,))(given)[LOGITS]
        assert relative(torch.from_numpy(engine.predict(given)[0]), torch.from_numpy(expected)) < 2e-5


def test_a_feature_extractor(random_model: Build, tmp_path: Path) -> None:
    model = random_model()
    for name in ("features.onnx", "features.xml"):
        export(model, tmp_path / name, outputs=("Mixed_6e", FEATURES))
        answers = open_exported(tmp_path / name).engine.run(pixels())
        expected = reference_network(model, ("Mixed_6e", FEATURES))(pixels())
        assert list(answers) == ["Mixed_6e", FEATURES]
        assert str(artefact.read(tmp_path / name).check).startswith("end points off by")
        for key in answers:
            assert relative(torch.from_numpy(answers[key]), torch.from_numpy(expected[key])) < 1e-5


def test_predict_runs_an_exported_network_without_importing_torch(
    exported: tuple[InceptionV3, Path], tmp_path: Path
) -> None:
    from PIL import Image

    _, folder = exported
    Image.fromarray(pixels(1)[0]).save(tmp_path / "one.png")
    answers = []
    by_class = WITHOUT_TORCH.replace("from inception_v3.cli import main\n\nmain()", "import inception_v3\n" + BY_CLASS)
    for name in ("model.onnx", "model.xml"):
        given = [sys.executable, "-c", by_class, str(folder / name), str(tmp_path / "one.png")]
        assert subprocess.run(given, capture_output=True, text=True, check=True).stdout.startswith(str(tmp_path))
        command = [
            sys.executable,
            "-c",
            WITHOUT_TORCH,
            "predict",
            str(folder / name),
            str(tmp_path / "one.png"),
            "--json",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout)["predictions"])
    assert answers[0][0]["class"] == answers[1][0]["class"]
    assert answers[0][0]["probability"] == pytest.approx(answers[1][0]["probability"], abs=1e-5)


# ------------------------------------------------------------- nothing is trusted beyond its check


def wrongly_folded(layer: object, name: str, net: str) -> graph.Convolution:
    """BatchNorm's epsilon forgotten, as in many a converter."""
    before = layer.BatchNorm.epsilon if layer.BatchNorm else None  # type: ignore[attr-defined]
    if before is None:
        return convolution(layer, name, net)  # type: ignore[arg-type]
    layer.BatchNorm.epsilon = 0.1  # type: ignore[attr-defined]
    try:
        return convolution(layer, name, net)  # type: ignore[arg-type]
    finally:
        layer.BatchNorm.epsilon = before  # type: ignore[attr-defined]


convolution = graph._convolution


@pytest.mark.parametrize("outputs", [(LOGITS, FEATURES), ("Mixed_6e",)], ids=str)
def test_a_wrongly_folded_network_is_refused(
    random_model: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outputs: tuple[str, ...]
) -> None:
    model = deciding(random_model(), pixels(16))
    export(model, tmp_path / "right.onnx", outputs=outputs)
    monkeypatch.setattr(graph, "_convolution", wrongly_folded)
    with pytest.raises(InputError, match=r"wrong.onnx: fp32 (differs|agrees) .*not written"):
        export(model, tmp_path / "wrong.onnx", outputs=outputs)
    with pytest.raises(InputError, match=r"wrong.onnx: fp32 differs .*not written"):
        export(model, tmp_path / "wrong.onnx", outputs=outputs, min_agreement=0)
    assert not (tmp_path / "wrong.onnx").exists()


def test_the_check_counts_pictures_and_differences() -> None:
    mine = {LOGITS: np.array([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0], [1.0, 0.0]], np.float32)}
    theirs = {LOGITS: np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [1.0, 0.0]], np.float32)}
    found = compare(lambda _: mine, lambda _: theirs, [pixels(4)], "test", "none")
    share = 1 / (1 + np.exp(-2.0))
    assert found.top_1_agreement == 0.75
    assert found.max_difference == pytest.approx(2 * share - 1)
    assert found.mean_difference == pytest.approx((2 * share - 1) / 4)
    assert found.pictures == 4
    broken = {LOGITS: np.full((4, 2), np.nan, np.float32)}
    with pytest.raises(ValueError, match="no finite numbers"):
        compare(lambda _: broken, lambda _: theirs, [pixels(4)], "test", "none")
    with pytest.raises(ValueError, match="no pictures"):
        compare(lambda _: mine, lambda _: theirs, [], "test", "none")


def described(precision: str, agreement: float | None) -> Description:
    check = None if agreement is None else Check(100, "photos", "pillow", agreement, 0.01, 0.001)
    settings = {"num_classes": 7}
    return Description(settings, Preprocessing(), None, (LOGITS,), precision, False, "", check)  # type: ignore[arg-type]


def test_the_bounds_of_each_precision() -> None:
    assert why_not(described("bf16", 0.995)) is None
    assert why_not(described("bf16", 0.994)) == "bf16 agrees with fp32 on 99.40% of pictures, less than 99.50%"
    assert why_not(described("int8", 0.99)) is None
    assert why_not(described("int8", 0.989)) is not None
    assert why_not(described("int8", 0.989), 0.9) is None
    assert why_not(described("int8", None)) == "int8 was never checked against fp32"


def rewrite(path: Path, **changes: object) -> None:
    """Change what an .xml tells of itself."""
    from html import escape

    text = path.read_text()
    told = artefact.read(path)
    values = json.loads(told.to_json()) | changes
    path.write_text(text.replace(escape(told.to_json()), escape(json.dumps(values))))


@pytest.fixture
def folder(exported: tuple[InceptionV3, Path], tmp_path: Path) -> Path:
    """A folder with fp32.onnx and bf16.xml."""
    _, there = exported
    (tmp_path / "both").mkdir()
    for name, target in (("model.onnx", "fp32.onnx"), ("model.xml", "bf16.xml"), ("model.bin", "bf16.bin")):
        (tmp_path / "both" / target).write_bytes((there / name).read_bytes())
    rewrite(tmp_path / "both" / "bf16.xml", precision="bf16")
    return tmp_path / "both"


def test_auto_takes_the_fastest_that_is_proven_and_says_why(folder: Path) -> None:
    found = open_exported(folder)
    assert (found.engine.name, found.engine.precision) == ("openvino", "bf16")
    assert "bf16 as exported, top-1 agreement 100.00%" in found.reason


def test_auto_looks_at_how_many_pictures_come_at_once(
    exported: tuple[InceptionV3, Path], random_model: Build, tmp_path: Path
) -> None:
    """In fp32 ONNX Runtime starts sooner, and OpenVINO is the faster for one picture at a time."""
    for name in ("model.onnx", "model.xml", "model.bin"):
        (tmp_path / name).write_bytes((exported[1] / name).read_bytes())
    of_files: list[tuple[int | None, str]] = [(None, "onnxruntime"), (16, "onnxruntime"), (1, "openvino")]
    for batch_size, name in of_files:
        assert open_engine(tmp_path, batch_size=batch_size).engine.name == name
        found = open_model(random_model(), batch_size=batch_size)
        assert found.engine.name == ("openvino" if batch_size == 1 else "ncnn")
        assert ("one picture at a time" in found.reason) == (batch_size == 1)


def test_a_gpu_comes_before_what_was_exported_for_a_processor(
    random_model: Build, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is none here: the choice alone is looked at."""
    from inception_v3.support.files import checksum

    run = tmp_path / "run"
    save(random_model(), run / "model.safetensors")
    folder.rename(run / "exported")
    for name in ("fp32.onnx", "bf16.xml"):
        if name.endswith(".xml"):
            rewrite(run / "exported" / name, weights=checksum(run / "model.safetensors"))
        else:
            (run / "exported" / name).unlink()
    assert open_engine(run).file.name == "bf16.xml"
    monkeypatch.setattr(choose, "_has_gpu", lambda: True)
    assert open_engine(run).file.name == "model.safetensors"
    assert open_engine(run, device="cpu").file.name == "bf16.xml"


def test_auto_falls_back_where_the_check_does_not_hold_and_says_so(folder: Path) -> None:
    check = json.loads(artefact.read(folder / "bf16.xml").to_json())["check"]
    rewrite(folder / "bf16.xml", check=check | {"top_1_agreement": 0.9})
    found = open_exported(folder)
    assert found.engine.precision == "fp32"
    assert "bf16.xml: bf16 agrees with fp32 on 90.00% of pictures, less than 99.50%" in found.reason
    assert open_exported(folder, min_agreement=0.8).engine.precision == "bf16"
    with pytest.warns(UserWarning, match="90.00%"):
        assert open_exported(folder, precision="bf16").engine.precision == "bf16"


def test_engines_and_precisions_can_be_pinned(folder: Path) -> None:
    assert open_exported(folder, precision="fp32").engine.precision == "fp32"
    assert open_exported(folder / "fp32.onnx", engine="openvino").engine.name == "openvino"
    with pytest.raises(InputError, match="not exported in int8; add it with --precision int8"):
        open_exported(folder, precision="int8")
    with pytest.raises(InputError, match=r"bf16\.xml runs in openvino alone"):
        open_exported(folder / "bf16.xml", engine="onnxruntime")


def test_a_missing_engine_is_named_with_its_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "find_spec", lambda name: None if name == "openvino" else object())
    found = open_exported(folder)
    assert (found.engine.name, found.engine.precision) == ("onnxruntime", "fp32")
    assert "the engine openvino is not installed; pip install 'inception-v3[openvino]'" in found.reason
    with pytest.raises(InputError, match="openvino is not installed; pip install"):
        open_exported(folder / "bf16.xml")


def test_a_network_in_memory_runs_in_fp32_unless_asked_otherwise(
    random_model: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model()
    found = open_model(model)
    assert (found.engine.name, found.engine.precision) == ("ncnn", "fp32")
    assert "fastest" in found.reason
    assert open_model(model, precision="bf16").engine.precision == "bf16"
    with pytest.raises(InputError, match="int8 needs pictures"):
        open_model(model, precision="int8")
    monkeypatch.setattr(choose, "find_spec", lambda name: None)
    assert open_model(model).engine.name == "pytorch"
    with pytest.raises(InputError, match=r"onnxruntime is not installed; pip install 'inception-v3\[onnx\]'"):
        open_model(model, "onnxruntime")


def test_a_run_folder_uses_what_was_exported_of_its_weights_alone(
    random_model: Build, tmp_path: Path, folder: Path
) -> None:
    from inception_v3.support.files import checksum

    run = tmp_path / "run"
    save(random_model(), run / "model.safetensors")
    assert find_exported(run) is None
    folder.rename(run / "exported")
    with pytest.warns(UserWarning, match="made of other weights than model.safetensors; export it anew"):
        assert find_exported(run) is None
    (run / "exported" / "fp32.onnx").unlink()
    rewrite(run / "exported" / "bf16.xml", weights=checksum(run / "model.safetensors"))
    assert find_exported(run) == run / "exported"
    assert open_engine(run).engine.name == "openvino"
    with pytest.warns(UserWarning, match=r"runs in openvino alone; going on with model.safetensors itself"):
        assert open_engine(run, "onnxruntime").engine.name == "onnxruntime"
    assert find_exported(run / "exported" / "bf16.xml") is not None
    assert find_exported(run / "model.safetensors") is None


# ------------------------------------------------------------- int8


@pytest.mark.parametrize("name", ["model.xml", "model.onnx"])
def test_int8_is_fitted_to_pictures_and_checked_on_others(random_model: Build, tmp_path: Path, name: str) -> None:
    sources = pictures(tmp_path, 64)
    model = deciding(random_model(), np.stack([np.asarray(source.open().resize((107, 107))) for source in sources]))
    told = export(model, tmp_path / name, precision="int8", images=sources, min_agreement=0.2)
    assert told.check is not None
    assert told.check.pictures == 32, "none that it was fitted to"
    assert told.check.preparation == "pillow"
    assert 0 < told.check.mean_difference < 0.1
    found = open_exported(tmp_path / name, min_agreement=0.2)
    assert found.engine.precision == "int8"
    assert artefact.read(tmp_path / name).check == told.check


def test_sensitive_layers_stay_in_float32_until_the_bound_holds(random_model: Build, tmp_path: Path) -> None:
    sources = pictures(tmp_path, 64)
    on = np.stack([np.asarray(source.open().resize((75, 75))) for source in sources])  # type: ignore[attr-defined]
    model = deciding(random_model(image_size=75), on)
    told = export(model, tmp_path / "model.xml", precision="int8", images=sources, min_agreement=0.75)  # type: ignore[arg-type]
    assert told.check is not None
    assert told.check.top_1_agreement >= 0.75
    assert told.kept_higher, "end points whose quantisation added most"
    assert set(told.kept_higher) <= {*BASE_END_POINTS, LOGITS}


def pictures(folder: Path, count: int, shade: int | None = None) -> list[object]:
    from PIL import Image

    from inception_v3.images.find import Source

    rng = np.random.default_rng(0)
    folder = folder / f"{count} {shade}"
    folder.mkdir()
    sources = []
    for number in range(count):
        coarse = (
            rng.integers(0, 256, (5, 5, 3), dtype=np.uint8) if shade is None else np.full((5, 5, 3), shade, np.uint8)
        )
        path = folder / f"{number}.png"
        Image.fromarray(coarse).resize((130, 120), Image.Resampling.BICUBIC).save(path)
        sources.append(Source(path.name, path))
    return sources


def test_int8_needs_pictures_that_tell_something(random_model: Build, tmp_path: Path) -> None:
    from inception_v3.inference.engines.quantise import check_pictures

    model = random_model()
    cases = [
        (None, "int8 is checked on your own pictures; give some with --images"),
        (pictures(tmp_path, 62), "31 pictures are too few to check int8 on; give at least 64 with --images"),
        (pictures(tmp_path, 64, shade=128), "are of one colour each"),
        (pictures(tmp_path, 64), "are of one class to the network; give pictures of all classes"),
    ]
    for images, message in cases:
        with pytest.raises(InputError, match=message):
            export(model, tmp_path / "model.xml", precision="int8", images=images)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pixels must be uint8"):
        check_pictures(pixels(40).astype(np.float32) * 7, reference_network(model, (LOGITS,)))  # type: ignore[arg-type]


def test_a_lower_precision_is_checked_on_pictures_that_show_something(random_model: Build, tmp_path: Path) -> None:
    model = random_model()
    for images, message in (
        (pictures(tmp_path, 31), "31 pictures are too few to check bf16 on; give at least 32 with --images"),
        (pictures(tmp_path, 33), "all 33 pictures of images are of one class to the network, so that agreement shows"),
    ):
        with pytest.raises(InputError, match=message):
            export(model, tmp_path / "model.xml", precision="bf16", images=images)  # type: ignore[arg-type]


# ------------------------------------------------------------- damaged and foreign files


@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_a_damaged_file_is_told(exported: tuple[InceptionV3, Path], tmp_path: Path, name: str) -> None:
    _, there = exported
    content = (there / name).read_bytes()
    for cut in (len(content) // 3, len(content) - 40):
        (tmp_path / name).write_bytes(content[:cut])
        with pytest.raises(InputError, match=f"{name}: .*export"):
            open_exported(tmp_path / name)
    (tmp_path / name).write_bytes(content)
    if name == "model.xml":
        with pytest.raises(InputError, match=r"model\.xml: model\.bin, which holds its numbers, is not there"):
            open_exported(tmp_path / name)


@pytest.mark.parametrize("name", ["model.onnx", "model.bin"])
def test_numbers_that_are_not_those_that_were_checked_are_told(
    exported: tuple[InceptionV3, Path], tmp_path: Path, name: str
) -> None:
    """One bit; or the numbers of another export under this one's classes, as a kill between two files leaves them."""
    _, there = exported
    for part in ("model.onnx", "model.xml", "model.bin"):
        (tmp_path / part).write_bytes((there / part).read_bytes())
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="its numbers are not those that were checked; export it anew"):
        open_exported(tmp_path / name.replace(".bin", ".xml"))


def test_of_a_folder_what_is_damaged_is_left_out_and_told(folder: Path) -> None:
    (folder / "bf16.bin").write_bytes((folder / "bf16.bin").read_bytes()[:-1])
    found = open_exported(folder)
    assert (found.engine.name, found.engine.precision) == ("onnxruntime", "fp32")
    assert "bf16.xml: its numbers are not those that were checked" in found.reason
    (folder / "bf16.xml").write_text((folder / "bf16.xml").read_text().replace("inception_v3", "another"))
    found = open_exported(folder)
    assert "bf16.xml: not exported by inception-v3" in found.reason


def test_a_damaged_export_in_a_run_folder_does_not_keep_the_network_from_running(
    random_model: Build, tmp_path: Path, folder: Path
) -> None:
    from inception_v3.support.files import checksum

    run = tmp_path / "run"
    save(random_model(), run / "model.safetensors")
    folder.rename(run / "exported")
    (run / "exported" / "bf16.bin").unlink()
    rewrite(run / "exported" / "bf16.xml", weights=checksum(run / "model.safetensors"))
    onnx = (run / "exported" / "fp32.onnx").read_bytes()
    (run / "exported" / "fp32.onnx").write_bytes(onnx[: len(onnx) // 2])
    with pytest.warns(UserWarning, match=r"cut short.*going on with model\.safetensors itself"):
        assert open_engine(run).file == run / "model.safetensors"


def test_foreign_files_and_versions_are_told(exported: tuple[InceptionV3, Path], tmp_path: Path) -> None:
    import onnx

    _, there = exported
    model = onnx.load(there / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(InputError, match=r"foreign.onnx: not exported by inception-v3; make one with"):
        artefact.read(tmp_path / "foreign.onnx")
    for changes, message in (
        ({"version": 1}, "another version of inception-v3"),
        ({"class_names": ["one"]}, "1 class names for 7 classes"),
        ({"precision": "fp7"}, "description cannot be read"),
        ({"preprocessing": {"image_size": "x"}}, "description cannot be read"),
    ):
        told = json.loads(artefact.read(there / "model.onnx").to_json()) | changes
        onnx.helper.set_model_props(model, {artefact.KEY: json.dumps(told)})
        onnx.save(model, tmp_path / "other.onnx")
        with pytest.raises(InputError, match=message):
            artefact.read(tmp_path / "other.onnx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"num_classes": 8}, "class_names": None}, "tells of 8 classes, its network has 7"),
        ({"preprocessing": {"image_size": [75, 75]}}, "tells of pictures of 75x75, its network takes 107x107"),
    ],
)
def test_a_file_whose_network_is_another_than_it_tells(
    exported: tuple[InceptionV3, Path], tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    import onnx

    _, there = exported
    model = onnx.load(there / "model.onnx")
    told = json.loads(artefact.read(there / "model.onnx").to_json())
    for key, value in changes.items():
        told[key] = told[key] | value if isinstance(value, dict) else value
    onnx.helper.set_model_props(model, {artefact.KEY: json.dumps(told)})
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(InputError, match=message):
        open_exported(tmp_path / "other.onnx")


def test_what_cannot_be_exported_is_told_before_any_work(random_model: Build, tmp_path: Path) -> None:
    cases: list[tuple[str, dict[str, object], str]] = [
        ("model.h5", {}, "the name must end in .onnx, .xml, .pt2, .mlpackage"),
        ("model.onnx", {"precision": "bf16"}, "onnx has fp32, int8; bf16 is for openvino, torch-export"),
        ("model.onnx", {"outputs": ("Mixed_9z",)}, "no end point 'Mixed_9z'"),
        ("model.xml", {"any_size": True}, "needs global_pool=True"),
        ("model.xml", {"precision": "bf16"}, "give some with --images"),
    ]
    for name, options, message in cases:
        with pytest.raises(InputError, match=message):
            export(random_model(), tmp_path / name, **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_exporting_leaves_the_network_as_it_was(random_model: Build, tmp_path: Path) -> None:
    model = random_model()
    before = copy.deepcopy(model.state_dict())
    export(model, tmp_path / "model.onnx")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# ------------------------------------------------------------- the command


def test_the_command_writes_a_folder_of_precisions_and_predict_takes_the_best(
    random_model: Build, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from inception_v3.cli import main

    run, photos = tmp_path / "run", tmp_path / "photos"
    photos.mkdir()
    sources = pictures(photos, 32)
    photos = photos / "32 None"
    on = np.stack([np.asarray(source.open().resize((107, 107))) for source in sources])  # type: ignore[attr-defined]
    save(deciding(random_model(), on), run / "model.safetensors")
    arguments = ["export", str(run), "--precision", "fp32,bf16", "--images", str(photos), "--min-agreement", "0.7"]
    monkeypatch.setattr(sys, "argv", ["inception-v3", *arguments, "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    told = json.loads(capfd.readouterr().out)
    assert list(told) == [str(run / "exported" / "fp32.xml"), str(run / "exported" / "bf16.xml")]
    monkeypatch.setattr(
        sys, "argv", ["inception-v3", "predict", str(run), str(photos / "0.png"), "--min-agreement", "0.7"]
    )
    with pytest.raises(SystemExit):
        main()
    out, err = capfd.readouterr()
    assert out.startswith(str(photos / "0.png"))
    assert "openvino bf16 on CPU: bf16 as exported" in err


def test_a_triton_repository(random_model: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from inception_v3.cli import main

    model = random_model()
    model.class_names = ["a", "b c", "d\ne", "f", "g", "h", "i"]
    save(model, tmp_path / "model.safetensors")
    arguments = ["export", str(tmp_path / "model.safetensors"), str(tmp_path / "models"), "--to", "triton"]
    monkeypatch.setattr(sys, "argv", ["inception-v3", *arguments])
    with pytest.raises(SystemExit):
        main()
    folder = tmp_path / "models" / "inception_v3"
    assert (folder / "1" / "model.onnx").exists()
    assert (folder / "labels.txt").read_text().splitlines() == ["a", "b c", "d e", "f", "g", "h", "i"]
    config = (folder / "config.pbtxt").read_text()
    assert "dims: [ 107, 107, 3 ]" in config
    assert 'name: "Logits"' in config
    import onnx

    outputs = onnx.load(folder / "1" / "model.onnx").graph.output
    told = dict(re.findall(r'name: "(\w+)"\n    data_type: TYPE_FP32\n    dims: \[ (\d+) \]', config))
    assert told == {one.name: str(one.type.tensor_type.shape.dim[1].dim_value) for one in outputs}, "or Triton refuses"
    for path in (folder / "1" / "model.onnx", folder / "config.pbtxt"):
        path.unlink()
    monkeypatch.setattr(sys, "argv", ["inception-v3", *arguments, "--end-points", "Mixed_6e"])
    with pytest.raises(SystemExit):
        main()
    assert not (folder / "1" / "model.onnx").exists(), "refused before anything is written"


def test_an_exported_network_falls_back_to_the_next_of_its_folder(folder: Path) -> None:
    engine = open_exported(folder).engine
    assert isinstance(engine, WithFallback)
    expected = open_exported(folder / "fp32.onnx").engine.predict(pixels())[0]
    engine._engine.run = Failing().run  # type: ignore[method-assign]
    with pytest.warns(UserWarning, match=r"openvino bf16 on CPU failed .*going on with onnxruntime fp32"):
        assert np.array_equal(engine.predict(pixels())[0], expected)
