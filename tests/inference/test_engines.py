"""Every engine computes the outputs of the network; exported files describe themselves and are checked."""

import copy
import json
import re
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import relative
from inception_v3.errors import InputError
from inception_v3.images.find import ImageSource
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference import choose
from inception_v3.inference import export as export_module
from inception_v3.inference.choose import FallbackEngine, find_exported, open_engine, open_exported, open_model
from inception_v3.inference.engines import graph, registry
from inception_v3.inference.engines.base import FEATURES, LOGITS, Engine, Outputs, Pixels
from inception_v3.inference.engines.graph import Graph, build_graph, swap_pools
from inception_v3.inference.engines.graph_module import GraphModule, RecordedModule
from inception_v3.inference.engines.onnxruntime import OnnxRuntimeEngine
from inception_v3.inference.engines.openvino import OpenvinoEngine, load_core
from inception_v3.inference.engines.pytorch import PyTorchEngine
from inception_v3.inference.export import export
from inception_v3.inference.exported import check as exported_check
from inception_v3.inference.exported import speed as exported_speed
from inception_v3.inference.exported.check import (
    ReferenceOutputs,
    change_in_bf16,
    compare,
    reference_network,
    rejection_reason,
)
from inception_v3.inference.exported.coreml import SPECIFICATION
from inception_v3.inference.exported.description import KEY, AgreementCheck, Description, Speed
from inception_v3.inference.exported.registry import read_description, recognise
from inception_v3.inference.sensitivity import sensitivities
from inception_v3.network.probabilities import softmax
from inception_v3.support import packages
from inception_v3.support.cpu import cpu_name
from inception_v3.weights.load import save
from inception_v3.weights.model import InceptionV3

Build = Callable[..., InceptionV3]


def pixels(count: int = 3, height: int = 107, width: int | None = None) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, height, width or height, 3), dtype=np.uint8)


def with_varied_classes(model: InceptionV3, images: Pixels) -> InceptionV3:
    """Centre the last layer on these images. With random weights alone, all of them would be of one class."""
    assert model.Logits is not None
    *_, classifier = model.Logits
    features = reference_network(model, (FEATURES,))(images)[FEATURES]
    centred = features - features.mean(0)
    with torch.no_grad():
        weights = np.random.default_rng(1).normal(size=(len(classifier.biases), features.shape[1]))  # type: ignore[arg-type]
        weights /= (centred @ weights.T).std()
        classifier.weights.copy_(torch.from_numpy(weights)[:, :, None, None])  # type: ignore[union-attr]
        classifier.biases.copy_(torch.from_numpy(-weights @ features.mean(0)))  # type: ignore[union-attr]
    return model


# ------------------------------------------------------------- the graph

OPTIONS = [
    {},
    {"batch_norm_scale": True},
    {"count_padding": True},
    {"mixed_7c_pool": "max"},
    {"global_pool": True, "image_size": (151, 203)},
    {"image_size": (75, 139)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("rewrite", [lambda graph: graph, swap_pools], ids=["as built", "pools swapped"])
def test_the_graph_computes_the_network_exactly_in_float64(
    random_model: Build, options: dict[str, object], rewrite: Callable[[graph.Graph], graph.Graph]
) -> None:
    model = random_model(**options).double()
    model.preprocessing = replace(model.preprocessing, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    images = pixels(2, *model.image_size)
    expected = reference_network(model, (LOGITS, FEATURES))(images)
    logits, features = GraphModule(rewrite(build_graph(model)), torch.float64)(torch.from_numpy(images))
    assert relative(logits, torch.from_numpy(expected[LOGITS])) < 1e-11
    assert relative(features, torch.from_numpy(expected[FEATURES])) < 1e-11


def test_average_pools_move_behind_their_convolutions(random_model: Build) -> None:
    plain = build_graph(random_model())

    def pooled_channels(network: graph.Graph) -> int:
        channels = network.channels()
        return sum(
            channels[operation.output]
            for operation in network.operations
            if isinstance(operation, graph.Pooling) and operation.kind == "avg"
        )

    convolutions = sum(isinstance(operation, graph.Convolution) for operation in plain.operations)
    assert convolutions == 95, "94 convolutions of the base, and the logits without the auxiliary head"
    assert pooled_channels(swap_pools(plain)) < pooled_channels(plain)
    graph_2015 = swap_pools(build_graph(random_model(mixed_7c_pool="max")))
    names = [operation.output for operation in graph_2015.operations if isinstance(operation, graph.Pooling)]
    assert "Mixed_7c/Branch_3/AvgPool_0a_3x3" in names, "a max pool stays"


def test_the_bias_is_added_after_a_pool_that_counts_its_padding(random_model: Build) -> None:
    for count_padding in (False, True):
        swapped = swap_pools(build_graph(random_model(count_padding=count_padding)))
        after = [step.bias is not None for step in swapped.operations if isinstance(step, graph.Activation)]
        assert after == [count_padding] * 9, "one for each average pool inside a module"


def test_any_end_point_can_be_an_output(random_model: Build) -> None:
    model = random_model()
    names = ("Conv2d_2b_3x3", "Mixed_5d", "Mixed_6e", FEATURES)
    built = swap_pools(build_graph(model, outputs=names))
    expected = reference_network(model, names)(pixels())
    for name, output in zip(names, GraphModule(built)(torch.from_numpy(pixels())), strict=True):
        assert relative(output, torch.from_numpy(expected[name])) < 1e-5, name
    assert not any("Mixed_7" in each.output for each in build_graph(model, outputs=("Mixed_6e",)).operations)
    with pytest.raises(ValueError, match=r"no end point 'Mixed_9z'.*did you mean Mixed_7c"):
        build_graph(model, outputs=("Mixed_9z",))


def test_a_network_whose_logits_are_a_map_is_refused(random_model: Build) -> None:
    model = random_model()
    model.preprocessing = model.preprocessing.at(500)
    with pytest.raises(ValueError, match=r"images of 500x500 .*; build the network with global_pool=True"):
        build_graph(model)
    with pytest.raises(ValueError, match="a network for any size needs global_pool=True"):
        build_graph(random_model(), any_size=True)


def test_a_network_can_take_scaled_floats(random_model: Build) -> None:
    model = random_model(global_pool=True)
    inside = "Mixed_6d/Branch_0/Conv2d_0a_1x1"
    built = swap_pools(build_graph(model, any_size=True, outputs=("Mixed_7c", inside), from_pixels=False))
    images = torch.rand(2, 3, 139, 107) * 2 - 1
    expected, end_points = model.base(images, end_points=("Mixed_6c",))
    branch = model.get_submodule(inside.replace("/", "."))(end_points["Mixed_6c"])
    for engine in engines(built):
        outputs = engine.run(images.numpy())
        assert relative(torch.from_numpy(outputs["Mixed_7c"]), expected) < 2e-5, engine.name
        assert relative(torch.from_numpy(outputs[inside]), branch) < 2e-5, engine.name


# ------------------------------------------------------------- engines agree


def engines(network: graph.Graph) -> list[Engine]:
    """Every engine in float32 on the CPU. `compile` runs PyTorch's graph, and takes minutes."""
    classes = [engine for engine in registry.load_engines() if engine.name != "compile"]
    assert [engine.name for engine in classes] == ["pytorch", "onnxruntime", "openvino", "ncnn"]
    return [engine(network, "fp32", engine.resolve_device("cpu")) for engine in classes]


def engines_of(model: InceptionV3) -> list[Engine]:
    return engines(swap_pools(build_graph(model)))


def test_the_registry_lists_engines_under_their_own_names() -> None:
    assert [engine.name for engine in registry.load_engines()] == list(registry.ENGINES)
    with pytest.raises(InputError, match="unknown engine 'tensorrt'; choose from auto, pytorch, compile, onnxruntime"):
        registry.load_engine("tensorrt")


def test_listing_the_engines_imports_none_of_their_packages() -> None:
    code = (
        "import sys\n"
        "from inception_v3.inference.engines.registry import load_engines\n"
        "assert 'numpy' not in sys.modules\n"
        "load_engines()\n"
        "print(*{'torch', 'onnx', 'onnxruntime', 'openvino', 'ncnn'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_engine_computes_the_logits_and_features_of_the_network(
    random_model: Build, options: dict[str, object]
) -> None:
    model = random_model(**options)
    images = pixels(3, *model.image_size)
    expected = reference_network(model, (LOGITS, FEATURES))(images)
    for engine in engines_of(model):
        for size in (3, 1, 2):
            logits, features = engine.predict(images[:size])
            for output, name in ((logits, LOGITS), (features, FEATURES)):
                assert output.dtype == np.float32
                assert relative(torch.from_numpy(output), torch.from_numpy(expected[name][:size])) < 2e-5, engine.name


def test_the_next_batch_does_not_overwrite_outputs(random_model: Build) -> None:
    for engine in engines_of(random_model()):
        logits, _ = engine.predict(pixels())
        kept = logits.copy()
        engine.predict(255 - pixels())
        assert np.array_equal(logits, kept), engine.name


def test_pixels_need_not_be_contiguous(random_model: Build) -> None:
    images = pixels(4)
    for engine in engines_of(random_model()):
        assert np.array_equal(engine.predict(images[::2])[0], engine.predict(images[::2].copy())[0]), engine.name


def test_a_lower_precision_is_close_to_fp32(random_model: Build) -> None:
    model = random_model()
    expected = reference_network(model, (LOGITS,))(pixels())[LOGITS]
    built = swap_pools(build_graph(model))
    for engine in (PyTorchEngine(built, "bf16"), OpenvinoEngine(built, "bf16")):
        difference = relative(torch.from_numpy(engine.predict(pixels())[0]), torch.from_numpy(expected))
        assert 0 < difference < 0.05, engine.name


def test_an_engine_refuses_what_it_cannot_do(random_model: Build) -> None:
    built = build_graph(random_model(), outputs=("Mixed_6e",))
    with pytest.raises(InputError, match="this network returns only Mixed_6e; export it without --end-points"):
        PyTorchEngine(built).predict(pixels())
    with pytest.raises(InputError, match="fp16 is for GPUs"):
        PyTorchEngine(built, "fp16")
    with pytest.raises(InputError, match="OpenVINO has no NPU here; it has CPU"):
        OpenvinoEngine(built, "fp32", "NPU")
    with pytest.raises(InputError, match="no provider for cuda"):
        OnnxRuntimeEngine(built, "fp32", "cuda")


# ------------------------------------------------------------- GPU code and low-level behaviour, tested on a CPU


def test_a_precision_that_the_cpu_lacks_is_refused(exported: tuple[InceptionV3, Path]) -> None:
    """OpenVINO would silently compute in float32, and a check of it would be recorded as a check of bf16."""
    engine = OpenvinoEngine(exported[1] / "model.xml", "fp32")
    with pytest.raises(InputError, match=r"OpenVINO computes in f32 on this CPU, not in bf16; use --precision fp32"):
        engine._check_precision("bf16")


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_ctrl_c_works_after_engines_were_deleted(exported: tuple[InceptionV3, Path], name: str) -> None:
    """Deleting one of several OpenVINO cores would free the stack that signal handlers run on, and kill the process."""
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


def test_onnx_runtime_on_a_gpu_is_exact_and_does_not_fall_back_to_the_cpu(
    exported: tuple[InceptionV3, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs without a GPU: the test looks at the options that ONNX Runtime gets."""
    import onnxruntime

    options = {}

    def session(network: bytes, config: object, providers: object, **more: object) -> onnxruntime.InferenceSession:
        options.update(providers=providers, **more)
        return real(network, config, providers=["CPUExecutionProvider"])

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(InputError, match="ONNX Runtime cannot start on cuda:1; check its drivers"):
        OnnxRuntimeEngine(exported[1] / "model.onnx", "fp32", "cuda:1")
    assert options["providers"] == [("CUDAExecutionProvider", {"device_id": 1, "use_tf32": 0})]
    assert options["enable_fallback"] == 0


def test_exporting_without_the_package_onnx_names_the_extra(
    random_model: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    steps: list[str] = []
    for name, extra in (("model.onnx", "onnx"), ("model.xml", "openvino")):
        with pytest.raises(InputError, match=rf"exporting to \S+ needs onnx; (uv )?pip install .*\[{extra}\]'"):
            export(random_model(), tmp_path / name, progress=steps.append)
    assert not steps, "refused before any work"


def test_a_batch_that_does_not_fit_in_memory_is_halved_with_a_warning(random_model: Build) -> None:
    engine = PyTorchEngine(build_graph(random_model()))
    whole = engine.predict(pixels(7))[0]
    network, sizes = engine._run, []

    def run_small_batches(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return network(images)

    engine._run = run_small_batches
    with (
        pytest.warns(UserWarning, match="not enough memory for 7 images at once; continuing with 3"),
        pytest.warns(UserWarning, match="not enough memory for 3 images at once; continuing with 1"),
        pytest.warns(UserWarning, match="not enough memory for 4 images at once; continuing with 2"),
    ):
        halved = engine.predict(pixels(7))[0]
    assert relative(torch.from_numpy(halved), torch.from_numpy(whole)) < 1e-5
    sizes.clear()
    engine.predict(pixels(7))
    assert max(sizes) <= 2, "the size that fits is remembered"
    engine._run = lambda images: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(InputError, match="not enough memory for one image"):
        engine.predict(pixels(1))


def test_recordings_are_replayed_by_batch_shape(random_model: Build) -> None:
    network = GraphModule(build_graph(random_model()))
    recorded = []

    def record(
        module: GraphModule, images: torch.Tensor
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], Callable[[], None]]:
        recorded.append(len(images))
        input_buffer, outputs = images.clone(), module(images)

        def replay() -> None:
            for output, new in zip(outputs, module(input_buffer), strict=True):
                output.copy_(new)

        return input_buffer, outputs, replay

    module = RecordedModule(network, record)
    first, second = torch.from_numpy(pixels(2)), torch.from_numpy(255 - pixels(2))
    kept = module(first)[0]
    assert torch.equal(module(second)[0], network(second)[0])
    assert torch.equal(kept, network(first)[0]), "the next batch does not overwrite an output"
    module(first[:1])
    assert recorded == [2, 1]
    for count in range(3, 9):
        assert torch.equal(module(torch.from_numpy(pixels(count)))[0], network(torch.from_numpy(pixels(count)))[0])
    assert len(recorded) == 4, "further shapes run without a recording, which would hold memory"


# ------------------------------------------------------------- an engine that fails


class Failing(Engine):
    name, precision, device = "failing", "fp32", "cpu"
    image_size, widths = None, {}  # type: ignore[var-annotated]

    def __init__(self) -> None:
        pass

    def run(self, pixels: Pixels) -> Outputs:
        raise RuntimeError("the driver\nwent away")


def test_a_second_engine_takes_over_with_a_warning(random_model: Build) -> None:
    second = PyTorchEngine(build_graph(random_model()))
    engine = FallbackEngine(Failing(), lambda: second)
    with pytest.warns(
        UserWarning, match=r"failing fp32 on cpu failed \(the driver went away\); continuing with pytorch"
    ):
        logits = engine.predict(pixels())[0]
    assert np.array_equal(logits, second.predict(pixels())[0])
    assert engine.name == "pytorch"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.predict(pixels())
    second.run = Failing().run  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="went away"):
        engine.predict(pixels())


def test_a_core_ml_package_takes_images_and_holds_its_description(
    random_model: Build, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only Apple's systems run it. Here Apple's own tools read its specification."""
    import coremltools

    model, out = random_model(), tmp_path / "model.mlpackage"
    model.class_names = [f"class {number}" for number in range(7)]
    for _ in range(2):  # the second package replaces the first
        with pytest.warns(UserWarning, match="not checked, since only Apple's Core ML runs it"):
            description = export(model, out)
    assert capfd.readouterr() == ("", ""), "no progress bars of Apple's tools"
    spec = coremltools.models.MLModel(str(out), skip_model_load=True).get_spec().description
    assert (spec.input[0].name, spec.input[0].type.imageType.width) == ("pixels", 107)
    assert [output.name for output in spec.output] == [LOGITS, FEATURES]
    assert recognise(out).name == "coreml"
    assert read_description(out).to_json() == description.to_json()
    assert description.check is None
    assert [path.name for path in tmp_path.iterdir()] == ["model.mlpackage"]
    with pytest.raises(InputError, match=r"runs only in Apple's Core ML; here \.onnx and \.xml files run"):
        open_engine(out)
    with pytest.raises(InputError, match="coreml has fp32; fp16 is for torch-export"):
        export(model, out, precision="fp16")
    (tmp_path / "file.mlpackage").write_text("mine")
    with pytest.raises(InputError, match=r"is a file, but a \.mlpackage is a folder"):
        export(model, tmp_path / "file.mlpackage")
    assert (tmp_path / "file.mlpackage").read_text() == "mine"
    (out / SPECIFICATION).write_bytes(b"\xff" * 20)
    with pytest.raises(InputError, match=r"model\.mlpackage: the file is damaged"):
        open_engine(out)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "ncnn", "pytorch"])
def test_an_engine_for_several_callers_is_thread_safe(random_model: Build, name: str) -> None:
    model = random_model()
    engine, _ = choose.open_graph(swap_pools(build_graph(model)), name, callers=4)
    images = [pixels(2, *model.image_size) // (number + 1) for number in range(16)]
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(engine.run, images))
    for output, expected in zip(outputs, map(reference_network(model, (LOGITS, FEATURES)), images), strict=True):
        assert relative(output[LOGITS], expected[LOGITS]) < 1e-5


def test_an_engine_is_opened_for_the_number_of_threads_that_suits_it(
    random_model: Build, exported: tuple[InceptionV3, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inception_v3.inference.engines.base.core_count", lambda: 6)
    best = {engine.name: engine.best_callers("cpu") for engine in registry.load_engines()}
    assert best == {"pytorch": 4, "compile": 1, "onnxruntime": 4, "openvino": 4, "ncnn": 4}, "at most four batches"
    assert OpenvinoEngine.best_callers("CPU") == 4
    assert PyTorchEngine.best_callers("cuda:1") == 1
    for file in (exported[1] / "model.onnx", exported[1] / "model.xml"):
        assert [open_engine(file, callers=callers).engine.callers for callers in (None, 3)] == [4, 3]
    engine = open_model(random_model(), callers=3).engine
    assert (engine.name, engine.callers, engine.cores) == ("ncnn", 3, 2)
    assert open_model(random_model()).engine.cores == 6, "one caller has all cores"


def test_the_second_engine_is_built_for_as_many_threads_as_the_first(
    random_model: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_model(random_model(), callers=3).engine
    assert isinstance(engine, FallbackEngine)
    monkeypatch.setattr(engine._engine, "run", Failing().run)
    with pytest.warns(UserWarning, match="continuing with pytorch"):
        engine.predict(pixels())
    assert (engine.name, engine.callers) == ("pytorch", 3)


def test_only_one_second_engine_is_built_if_several_threads_fail_at_once(random_model: Build) -> None:
    built = []

    def build_second() -> Engine:
        built.append(PyTorchEngine(build_graph(random_model())))
        return built[-1]

    engine = FallbackEngine(Failing(), build_second)
    with pytest.warns(UserWarning, match="continuing with pytorch") as warned, ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(engine.run, [pixels()] * 8))
    assert (len(built), len(warned), len(outputs)) == (1, 1, 8)


# ------------------------------------------------------------- exported files

PREDICTOR = """
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
    """A model, and a folder with the model in every format that can be checked here."""
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
def test_a_file_holds_the_classes_the_preprocessing_and_the_check(
    exported: tuple[InceptionV3, Path], name: str
) -> None:
    model, folder = exported
    description = read_description(folder / name)
    assert description.class_names == model.class_names
    assert description.preprocessing == model.preprocessing
    assert description.settings.num_classes == 7
    assert (description.precision, description.weights, description.outputs) == ("fp32", "abc", (LOGITS, FEATURES))
    assert description.check is not None
    assert description.check.top_1_agreement == 1
    assert description.check.max_difference < 1e-5
    assert description.check.source == "generated noise"


def test_other_programs_read_the_files(exported: tuple[InceptionV3, Path]) -> None:
    import onnx
    import onnxruntime

    model, folder = exported
    expected = reference_network(model, (LOGITS, FEATURES))(pixels())
    onnx.checker.check_model(folder / "model.onnx", full_check=True)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    assert KEY in session.get_modelmeta().custom_metadata_map
    compiled = load_core().read_model(folder / "model.xml")
    assert compiled.has_rt_info([KEY, "description"])
    extra = {f"{KEY}.json": ""}
    program = torch.export.load(folder / "model.pt2", extra_files=extra).module()
    assert json.loads(extra[f"{KEY}.json"])["class_names"] == model.class_names
    for count in (1, 3):  # the batch size is dynamic in all of them
        results = [
            session.run([LOGITS], {"pixels": pixels(count)})[0],
            load_core().compile_model(compiled, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(pixels(count))[LOGITS],
            program(torch.from_numpy(pixels(count)))[0].numpy(),
        ]
        for logits in results:
            assert relative(torch.from_numpy(logits), torch.from_numpy(expected[LOGITS][:count])) < 1e-5


@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_a_network_for_any_size_runs_on_every_size(random_model: Build, tmp_path: Path, name: str) -> None:
    model = random_model(global_pool=True)
    export(model, tmp_path / name, any_size=True)
    engine = open_exported(tmp_path / name).engine
    for height, width in ((75, 75), (107, 139), (320, 299)):
        images = pixels(2, height, width)
        expected = reference_network(model, (LOGITS,))(images)[LOGITS]
        assert relative(torch.from_numpy(engine.predict(images)[0]), torch.from_numpy(expected)) < 2e-5


def test_exporting_end_points_gives_a_feature_extractor(random_model: Build, tmp_path: Path) -> None:
    model = random_model()
    for name in ("features.onnx", "features.xml"):
        export(model, tmp_path / name, outputs=("Mixed_6e", FEATURES))
        outputs = open_exported(tmp_path / name).engine.run(pixels())
        expected = reference_network(model, ("Mixed_6e", FEATURES))(pixels())
        assert list(outputs) == ["Mixed_6e", FEATURES]
        assert str(read_description(tmp_path / name).check).startswith("end points off by")
        for key in outputs:
            assert relative(torch.from_numpy(outputs[key]), torch.from_numpy(expected[key])) < 1e-5


def test_predict_runs_an_exported_network_without_importing_torch(
    exported: tuple[InceptionV3, Path], tmp_path: Path
) -> None:
    from PIL import Image

    _, folder = exported
    Image.fromarray(pixels(1)[0]).save(tmp_path / "image.png")
    predictions = []
    code = WITHOUT_TORCH.replace("from inception_v3.cli import main\n\nmain()", "import inception_v3\n" + PREDICTOR)
    for name in ("model.onnx", "model.xml"):
        command = [sys.executable, "-c", code, str(folder / name), str(tmp_path / "image.png")]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith(str(tmp_path))
        command = [
            sys.executable,
            "-c",
            WITHOUT_TORCH,
            "predict",
            str(folder / name),
            str(tmp_path / "image.png"),
            "--json",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        predictions.append(json.loads(done.stdout)["predictions"])
    assert predictions[0][0]["class"] == predictions[1][0]["class"]
    assert predictions[0][0]["probability"] == pytest.approx(predictions[1][0]["probability"], abs=1e-5)


# ------------------------------------------------------------- the check and the choice


def wrongly_folded(layer: object, *arguments: object, **options: object) -> graph.Convolution:
    """Fold BatchNorm with a wrong epsilon, a common fault of converters."""
    epsilon = layer.BatchNorm.epsilon if layer.BatchNorm else None  # type: ignore[attr-defined]
    if epsilon is None:
        return convolution(layer, *arguments, **options)  # type: ignore[arg-type]
    layer.BatchNorm.epsilon = 0.1  # type: ignore[attr-defined]
    try:
        return convolution(layer, *arguments, **options)  # type: ignore[arg-type]
    finally:
        layer.BatchNorm.epsilon = epsilon  # type: ignore[attr-defined]


convolution = graph._convolution


@pytest.mark.parametrize("outputs", [(LOGITS, FEATURES), ("Mixed_6e",)], ids=str)
def test_a_wrongly_folded_network_is_refused(
    random_model: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outputs: tuple[str, ...]
) -> None:
    model = with_varied_classes(random_model(), pixels(16))
    export(model, tmp_path / "right.onnx", outputs=outputs)
    monkeypatch.setattr(graph, "_convolution", wrongly_folded)
    with pytest.raises(InputError, match=r"wrong.onnx: fp32 (differs|agrees) .*not written"):
        export(model, tmp_path / "wrong.onnx", outputs=outputs)
    with pytest.raises(InputError, match=r"wrong.onnx: fp32 differs .*not written; check the model$"):
        export(model, tmp_path / "wrong.onnx", outputs=outputs, min_agreement=0)
    assert not (tmp_path / "wrong.onnx").exists()


def test_the_check_counts_images_and_measures_differences() -> None:
    outputs = {LOGITS: np.array([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0], [1.0, 0.0]], np.float32)}
    expected = {LOGITS: np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [1.0, 0.0]], np.float32)}
    reference = ReferenceOutputs(lambda _: expected, pixels(4))
    check = compare(lambda _: outputs, reference, "test", "none", labels=np.array([0, 0, 1, 0]))
    probability = 1 / (1 + np.exp(-2.0))
    assert check.top_1_agreement == 0.75
    assert check.max_difference == pytest.approx(2 * probability - 1)
    assert check.mean_difference == pytest.approx((2 * probability - 1) / 4)
    assert check.pictures == 4
    assert check.mean_kl == pytest.approx((2 * probability - 1) * 2 / 4)
    assert (check.accuracy, check.network_accuracy) == (0.75, 0.5)
    assert (check.ties, check.tie_margin) == (0, 0.0)
    not_finite = {LOGITS: np.full((4, 2), np.nan, np.float32)}
    with pytest.raises(ValueError, match="not finite numbers"):
        compare(lambda _: not_finite, reference, "test", "none")
    with pytest.raises(ValueError, match="no images to compare"):
        compare(lambda _: outputs, [], "test", "none")


def test_a_tie_between_two_classes_is_no_disagreement() -> None:
    """The third image's two classes differ by 0.05, the second's by 0.2; int8 takes the other class for both."""
    logit = {margin: float(np.log((1 + margin) / (1 - margin))) for margin in (0.05, 0.2)}
    expected = {LOGITS: np.array([[2.0, 0.0], [logit[0.2], 0.0], [logit[0.05], 0.0]], np.float32)}
    outputs = {LOGITS: np.array([[2.0, 0.0], [0.0, 0.1], [0.0, 0.1]], np.float32)}
    agreements = {}
    for margin in (0.0, 0.1, 0.3):
        check = compare(lambda _: outputs, [(pixels(3), expected)], "test", "none", tie_margin=margin)
        agreements[margin] = (check.top_1_agreement, check.ties)
    assert agreements == {0.0: (1 / 3, 0), 0.1: (1 / 2, 1), 0.3: (1.0, 2)}
    only_ties = compare(lambda _: outputs, [(pixels(3), expected)], "test", "none", tie_margin=1.0)
    assert "top-1 agreement 33.33% (all are ties)," in str(only_ties)


def kernels_of(graph: Graph) -> list[np.ndarray]:
    return [each.kernel for each in graph.operations if isinstance(getattr(each, "kernel", None), np.ndarray)]


def test_what_bf16_changes_is_measured_on_the_network_itself(random_model: Build) -> None:
    model = with_varied_classes(random_model(), pixels(16))
    graph = swap_pools(build_graph(model))
    reference = ReferenceOutputs(reference_network(model, graph.outputs), pixels(16))
    kernels = [array.copy() for array in kernels_of(graph)]
    change = change_in_bf16(graph, reference)
    assert all(map(np.array_equal, kernels, kernels_of(graph))), "the graph is as it was"
    in_bf16 = GraphModule(graph, torch.bfloat16)(torch.from_numpy(pixels(16)))[0]
    exact = np.concatenate([outputs[LOGITS] for _, outputs in reference])
    other = float(np.abs(softmax(in_bf16.float().numpy()) - softmax(exact)).max())
    assert 0.3 * other < change < 3 * other


def test_the_networks_own_outputs_are_computed_once_unless_they_are_maps() -> None:
    for name, expected in ((LOGITS, [16, 4]), ("Mixed_7c", [16, 4, 16, 4])):
        calls = []

        def run(images: Pixels, name: str = name, calls: list[int] = calls) -> dict[str, np.ndarray]:
            calls.append(len(images))
            return {name: np.zeros((len(images), 2), np.float32)}

        reference = ReferenceOutputs(run, pixels(20))
        first, second = list(reference), list(reference)
        assert calls == expected
        assert [len(images) for images, _ in second] == [len(images) for images, _ in first] == [16, 4]


def described(precision: str, agreement: float | None, share: float = 0.95) -> Description:
    check = None if agreement is None else AgreementCheck(100, "photos", "pillow", agreement, 0.01, 0.001)
    settings = {"num_classes": 7}
    return Description(  # type: ignore[arg-type]
        settings, Preprocessing(), None, (LOGITS,), precision, False, "", check, int8_share=share
    )


def test_each_precision_has_a_minimum_agreement() -> None:
    assert rejection_reason(described("bf16", 0.995)) is None
    assert rejection_reason(described("bf16", 0.994)) == "bf16 agrees with fp32 on 99.40% of images, less than 99.50%"
    assert rejection_reason(described("int8", 0.98)) is None
    assert rejection_reason(described("int8", 0.979)) is not None
    assert rejection_reason(described("int8", 0.979), 0.9) is None
    assert rejection_reason(described("int8", None)) == "int8 was never checked against fp32"


def test_a_network_that_is_int8_in_name_only_is_rejected() -> None:
    assert rejection_reason(described("int8", 1.0, 0.9)) is None
    for minimum in (None, 0.0):
        assert rejection_reason(described("int8", 1.0, 0.893), minimum) == (
            "int8 has only 89.3% of its multiplications in int8, 90% are needed; export it again"
        )
    assert "an unknown fraction" in (rejection_reason(described("int8", 1.0, 0.0)) or "")


def change_description(path: Path, **changes: object) -> None:
    """Change the description in an .xml file."""
    from html import escape

    text, stored = path.read_text(), read_description(path).to_json()
    path.write_text(text.replace(escape(stored), escape(json.dumps(json.loads(stored) | changes))))


def test_openvino_files_that_do_not_fit_on_the_disk_are_reported_in_one_line(tmp_path: Path) -> None:
    """OpenVINO itself says only "iostream error". The weights take 3 MB."""
    model = InceptionV3(num_classes=7, depth_multiplier=0.2, image_size=75, create_aux_logits=False).eval()
    model.preprocessing = Preprocessing((75, 75))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"net\.xml: larger than 1,200,000 bytes, the limit of a file"):
            export(model, tmp_path / "net.xml")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def folder(exported: tuple[InceptionV3, Path], tmp_path: Path) -> Path:
    """A folder with fp32.onnx and bf16.xml."""
    _, source = exported
    (tmp_path / "both").mkdir()
    for name, target in (("model.onnx", "fp32.onnx"), ("model.xml", "bf16.xml"), ("model.bin", "bf16.bin")):
        (tmp_path / "both" / target).write_bytes((source / name).read_bytes())
    change_description(tmp_path / "both" / "bf16.xml", precision="bf16", speed=speed(1e9))
    return tmp_path / "both"


def speed(batches: float, single: float = 1.0, cpu: str | None = None) -> dict[str, object]:
    """The speed of an export in its description."""
    return {"cpu": cpu or cpu_name(), "single": single, "batches": batches}


def test_auto_chooses_the_fastest_network_whose_check_passes_and_gives_the_reason(folder: Path) -> None:
    opened = open_exported(folder)
    assert (opened.engine.name, opened.engine.precision) == ("openvino", "bf16")
    assert "as exported: bf16, top-1 agreement 100.00%" in opened.reason
    assert "measured images/s: bf16 1000000000.0, against fp32 " in opened.reason


def three_precisions(exported: tuple[InceptionV3, Path], folder: Path, **speeds: object) -> Path:
    """A folder with files for fp32, bf16 and int8, whose descriptions have these speeds and differences."""
    differences = {"fp32": 1e-7, "bf16": 1e-3, "int8": 4e-3}
    check = json.loads(read_description(exported[1] / "model.xml").to_json())["check"]
    for name, measured in speeds.items():
        for suffix in (".xml", ".bin"):
            (folder / f"{name}{suffix}").write_bytes((exported[1] / f"model{suffix}").read_bytes())
        change_description(
            folder / f"{name}.xml",
            precision=name,
            speed=measured,
            int8_share=0.95,
            check=check | {"mean_difference": differences[name]},
        )
    return folder


def test_auto_chooses_by_the_speed_that_was_measured_not_by_the_precision(
    exported: tuple[InceptionV3, Path], tmp_path: Path
) -> None:
    folder = three_precisions(exported, tmp_path, fp32=speed(10, 30), bf16=speed(30, 20), int8=speed(20, 10))
    for batch_size, order in ((None, "bf16 30.0, against int8 20.0, fp32 10.0"), (1, "fp32 30.0, against bf16 20.0")):
        opened = open_engine(folder, batch_size=batch_size)
        assert opened.file.name == f"{order[:4]}.xml"
        assert f"measured images/s: {order}" in opened.reason


def test_auto_chooses_the_more_exact_of_two_networks_that_are_almost_equally_fast(
    exported: tuple[InceptionV3, Path], tmp_path: Path
) -> None:
    for int8, chosen in ((104, "bf16"), (106, "int8")):
        folder = three_precisions(exported, tmp_path, fp32=speed(50), bf16=speed(100), int8=speed(int8))
        assert open_exported(folder).file.name == f"{chosen}.xml"


def test_the_networks_are_timed_once_on_another_cpu(
    exported: tuple[InceptionV3, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = three_precisions(
        exported, tmp_path, bf16=speed(30, cpu="another, 64 cores"), int8=speed(20, cpu="another, 64 cores")
    )
    timed = []

    def time_run(run: object, preprocessing: Preprocessing) -> Speed:
        timed.append(run)
        return Speed(cpu_name(), 1.0, 10.0 * len(timed))

    monkeypatch.setattr(exported_speed, "time_run", time_run)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        assert open_exported(folder).file.name == "int8.xml"
        assert len(timed) == 2
    change_description(folder / "int8.xml", numbers="another network")
    opened = open_exported(folder)
    assert opened.file.name == "bf16.xml", "int8 cannot be opened, and so has no speed"
    assert "not used: " in opened.reason
    assert "int8.xml: its weights are not those that were checked" in opened.reason
    open_exported(folder / "bf16.xml")
    assert len(timed) == 2, "no timing for a single file"


def test_a_network_that_fails_while_it_is_timed_is_left_out_and_reported(
    exported: tuple[InceptionV3, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = three_precisions(exported, tmp_path, fp32=None, int8=None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run = OpenvinoEngine.run

    def fail_in_int8(engine: OpenvinoEngine, inputs: Pixels) -> dict[str, np.ndarray]:
        if engine.precision == "int8":
            raise RuntimeError("out of memory")
        return run(engine, inputs)

    monkeypatch.setattr(OpenvinoEngine, "run", fail_in_int8)
    opened = open_exported(folder)
    assert opened.file.name == "fp32.xml"
    assert "int8.xml: openvino cannot run it (out of memory)" in opened.reason
    (folder / "fp32.bin").unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another cache"))
    with pytest.raises(InputError, match=r"fp32\.bin, which holds its weights, is missing.*int8\.xml: .*out of memory"):
        open_exported(folder)


@pytest.mark.parametrize("content", ['{"cpu": "", "single": null, "batches": 3}', '{"cpu": "cut sh'])
def test_a_damaged_timing_in_the_cache_is_made_again(
    exported: tuple[InceptionV3, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    folder = three_precisions(exported, tmp_path, bf16=None, int8=speed(20))
    monkeypatch.setattr(exported_speed, "time_run", lambda *_: Speed(cpu_name(), 30.0, 30.0))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        assert "measured images/s: bf16 30.0, against int8 20.0" in open_exported(folder).reason
        for file in (tmp_path / "cache" / "inception-v3" / "speeds").iterdir():
            file.write_text(content)


def test_networks_are_timed_without_a_home_folder_for_the_cache(
    exported: tuple[InceptionV3, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    folder = three_precisions(exported, tmp_path, bf16=None, int8=speed(20))
    monkeypatch.setattr(exported_speed, "time_run", lambda *_: Speed(cpu_name(), 30.0, 30.0))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with warnings.catch_warnings():  # of cached files that are deleted at the end
        warnings.simplefilter("ignore")
        assert "measured images/s: bf16 30.0, against int8 20.0" in open_exported(folder).reason


def test_a_requested_precision_runs_from_the_file_that_was_checked_in_it(
    exported: tuple[InceptionV3, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other file could run in that precision too, but was never checked in it."""
    folder = three_precisions(exported, tmp_path, bf16=speed(20), fp32=speed(20))
    monkeypatch.setattr(exported_speed, "time_run", lambda *_: Speed(cpu_name(), 1e9, 1e9))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for precision in ("fp32", "bf16"):
        opened = open_exported(folder, precision=precision)  # type: ignore[arg-type]
        assert (opened.file.name, opened.engine.precision) == (f"{precision}.xml", precision)
        assert "measured" not in opened.reason, "nothing to compare"
    (folder / "bf16.bin").unlink()
    with pytest.warns(UserWarning, match=r"fp32\.xml: bf16 was never checked against fp32"):
        assert open_exported(folder, precision="bf16").file.name == "fp32.xml"


def test_the_recorded_speed_is_not_used_for_another_engine(
    exported: tuple[InceptionV3, Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An .onnx file records the speed of ONNX Runtime."""
    monkeypatch.setattr(exported_speed, "time_run", lambda *_: Speed(cpu_name(), 7.0, 7.0))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert open_exported(folder, "openvino").reason.endswith("against fp32 7.0")
    assert not open_exported(folder).reason.endswith("against fp32 7.0")


def test_an_export_records_its_speed_on_this_cpu(exported: tuple[InceptionV3, Path]) -> None:
    for name in ("model.onnx", "model.xml"):
        measured = read_description(exported[1] / name).speed
        assert measured is not None
        assert measured.cpu == cpu_name()
        assert 1 < measured.single < measured.batches * 16


def test_a_network_in_memory_runs_in_the_engine_that_is_fastest_for_the_batch_size(random_model: Build) -> None:
    for batch_size, name in ((None, "ncnn"), (16, "ncnn"), (1, "openvino")):
        opened = open_model(random_model(), batch_size=batch_size)
        assert opened.engine.name == name
        assert ("one image at a time" in opened.reason) == (batch_size == 1)


def test_auto_prefers_a_gpu_to_networks_exported_for_cpus(
    random_model: Build, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs without a GPU: the test looks only at the choice."""
    from inception_v3.support.files import checksum

    run = tmp_path / "run"
    save(random_model(), run / "model.safetensors")
    folder.rename(run / "exported")
    change_description(run / "exported" / "bf16.xml", weights=checksum(run / "model.safetensors"))
    (run / "exported" / "fp32.onnx").unlink()
    assert open_engine(run).file.name == "bf16.xml"
    monkeypatch.setattr(choose, "_has_gpu", lambda: True)
    assert open_engine(run).file.name == "model.safetensors"
    assert open_engine(run, device="cpu").file.name == "bf16.xml"


def test_auto_does_not_use_a_network_whose_check_fails_and_gives_the_reason(folder: Path) -> None:
    check = json.loads(read_description(folder / "bf16.xml").to_json())["check"]
    change_description(folder / "bf16.xml", check=check | {"top_1_agreement": 0.9})
    opened = open_exported(folder)
    assert opened.engine.precision == "fp32"
    assert "bf16.xml: bf16 agrees with fp32 on 90.00% of images, less than 99.50%" in opened.reason
    assert open_exported(folder, min_agreement=0.8).engine.precision == "bf16"
    with pytest.warns(UserWarning, match="90.00%"):
        assert open_exported(folder, precision="bf16").engine.precision == "bf16"


def test_the_engine_and_the_precision_can_be_requested(folder: Path) -> None:
    assert open_exported(folder, precision="fp32").engine.precision == "fp32"
    assert open_exported(folder / "fp32.onnx", engine="openvino").engine.name == "openvino"
    with pytest.raises(InputError, match="not exported in int8; add it with --precision int8"):
        open_exported(folder, precision="int8")
    with pytest.raises(InputError, match=r"bf16\.xml runs in openvino, not in onnxruntime"):
        open_exported(folder / "bf16.xml", engine="onnxruntime")


def test_the_exit_status_is_2_only_if_another_engine_or_precision_must_be_requested(
    exported: tuple[InceptionV3, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cut.onnx").write_bytes((exported[1] / "model.onnx").read_bytes()[:1000])
    cases: list[tuple[Path, dict[str, str], int, str]] = [
        (tmp_path / "cut.onnx", {}, 1, "the file is damaged"),
        (tmp_path / "cut.onnx", {"engine": "onnxruntime"}, 1, "the file is damaged"),
        (exported[1] / "model.xml", {"engine": "onnxruntime"}, 2, "runs in openvino, not in onnxruntime"),
        (exported[1] / "model.onnx", {"engine": "onnxruntime", "precision": "bf16"}, 2, "use openvino"),
        (exported[1] / "model.pt2", {}, 1, "runs only in torch.export.load"),
        (exported[1] / "model.pt2", {"engine": "openvino"}, 2, "runs only in torch.export.load"),
        (exported[1] / "model.onnx", {"precision": "int8"}, 2, "not exported in int8"),
    ]
    for path, options, status, message in cases:
        with pytest.raises(InputError, match=message) as raised:
            open_exported(path, **options)  # type: ignore[arg-type]
        assert raised.value.exit_status == status, (path, options)
        assert str(raised.value).startswith(f"{path}: ")
        assert str(raised.value).count(str(path)) == 1, "the file is named once"
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    for engine, status in (("auto", 1), ("onnxruntime", 2)):
        with pytest.raises(InputError, match=r"needs onnxruntime; .*pip install") as raised:
            open_exported(exported[1] / "model.onnx", engine)
        assert raised.value.exit_status == status


def test_a_missing_engine_is_named_with_its_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == "openvino" else object())
    opened = open_exported(folder)
    assert (opened.engine.name, opened.engine.precision) == ("onnxruntime", "fp32")
    assert f"the engine openvino needs openvino; {packages.install_command('openvino')}" in opened.reason
    with pytest.raises(InputError, match=r"the engine openvino needs openvino; .*pip install"):
        open_exported(folder / "bf16.xml")


def test_a_network_in_memory_runs_in_fp32_unless_requested_otherwise(
    random_model: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model()
    opened = open_model(model)
    assert (opened.engine.name, opened.engine.precision) == ("ncnn", "fp32")
    assert "fastest" in opened.reason
    assert open_model(model, precision="bf16").engine.precision == "bf16"
    with pytest.raises(InputError, match="int8 is calibrated on images; use `inception-v3 export --precision int8`"):
        open_model(model, precision="int8")
    monkeypatch.setattr(packages, "find_spec", lambda name: object() if name == "torch" else None)
    opened = open_model(model)
    assert opened.engine.name == "pytorch"
    assert opened.reason.endswith("faster, but not installed: ncnn, onnxruntime, openvino")
    with pytest.raises(InputError, match=r"onnxruntime needs onnxruntime and onnx; (uv )?pip install .*\[onnx\]'"):
        open_model(model, "onnxruntime")


def test_a_run_folder_uses_only_exports_of_its_current_weights(
    random_model: Build, tmp_path: Path, folder: Path
) -> None:
    from inception_v3.support.files import checksum

    run = tmp_path / "run"
    save(random_model(), run / "model.safetensors")
    assert find_exported(run) is None
    folder.rename(run / "exported")
    with pytest.warns(UserWarning, match="bf16.xml, fp32.onnx exported from other weights than model.safetensors"):
        assert find_exported(run) is None
    change_description(run / "exported" / "bf16.xml", weights=checksum(run / "model.safetensors"))
    with pytest.warns(UserWarning, match=r"exported: fp32.onnx exported from .*; export it again, or delete it"):
        assert find_exported(run) is None
    (run / "exported" / "fp32.onnx").unlink()
    assert find_exported(run) == run / "exported"
    assert open_engine(run).engine.name == "openvino"
    with pytest.warns(UserWarning, match=r"runs in openvino, not in onnxruntime; using model.safetensors instead"):
        assert open_engine(run, "onnxruntime").engine.name == "onnxruntime"
    assert find_exported(run / "exported" / "bf16.xml") is not None
    assert find_exported(run / "model.safetensors") is None


# ------------------------------------------------------------- int8


def resized(sources: list[ImageSource], size: int) -> Pixels:
    return np.stack([np.asarray(source.open().resize((size, size))) for source in sources])


@pytest.mark.parametrize("name", ["model.xml", "model.onnx"])
def test_int8_is_calibrated_on_some_images_and_checked_on_others(
    random_model: Build, tmp_path: Path, name: str
) -> None:
    sources = save_images(tmp_path, 64)
    model = with_varied_classes(random_model(), resized(sources, 107))
    description = export(model, tmp_path / name, precision="int8", images=sources, min_agreement=0.2)
    assert description.check is not None
    assert description.check.pictures == 32, "no image that it was calibrated on"
    assert description.check.preparation == "pillow"
    assert 0 < description.check.mean_difference < 0.1
    opened = open_exported(tmp_path / name, min_agreement=0.2)
    assert opened.engine.precision == "int8"
    assert read_description(tmp_path / name).check == description.check


def test_an_int8_network_that_disagrees_is_not_written_and_the_other_precisions_are_kept(
    random_model: Build, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random network's classes are closer than int8 resolves."""
    from inception_v3.cli import main

    sources = save_images(tmp_path, 64)
    model = with_varied_classes(random_model(image_size=75), resized(sources, 75))
    save(model, tmp_path / "run" / "model.safetensors")
    monkeypatch.setattr(exported_check, "MIN_AGREEMENT", exported_check.MIN_AGREEMENT | {"bf16": 0.5})
    arguments = ["export", str(tmp_path / "run"), "--precision", "bf16,int8", "--images", str(tmp_path / "64 None")]
    monkeypatch.setattr(sys, "argv", ["inception-v3", *arguments])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 1
    out, err = capfd.readouterr()
    assert [path.name for path in sorted((tmp_path / "run" / "exported").iterdir())] == ["bf16.bin", "bf16.xml"]
    assert "bf16.xml: bf16, top-1 agreement" in out
    attempts = [line for line in err.splitlines() if "kept in a higher precision: int8," in line]
    shares = [float(line.split("int8, ")[1].split("%")[0]) for line in attempts]
    assert len(attempts) == 2
    assert shares[0] > shares[1] >= 90
    assert "int8.xml: int8 agrees with fp32 on " in err.splitlines()[-1]
    assert "not written; keep a higher precision, or allow it with --min-agreement" in err.splitlines()[-1]


@pytest.mark.parametrize("suffix", [".xml", ".onnx"])
def test_the_file_has_the_share_of_int8_that_its_description_states(
    random_model: Build, tmp_path: Path, suffix: str
) -> None:
    sources = save_images(tmp_path, 64)
    model = with_varied_classes(random_model(), resized(sources, 107))
    file = tmp_path / f"model{suffix}"
    description = export(model, file, precision="int8", images=sources, min_agreement=0)
    assert description.check is not None
    layers = sensitivities(build_graph(model), pixels(1))
    work = {layer.name.removesuffix("/product"): layer.multiplications for layer in layers}
    in_int8 = convolutions_in_int8(file)
    kept = {name.removesuffix("/product") for name in description.kept_higher}
    assert in_int8 == work.keys() - kept
    assert description.int8_share == pytest.approx(sum(work[name] for name in in_int8) / sum(work.values()), abs=1e-9)
    assert description.int8_share >= 0.9
    assert f"{description.int8_share:.1%} of the multiplications in int8" in str(description)


def convolutions_in_int8(file: Path) -> set[str]:
    """The convolutions of a file whose input and weights are both quantised, as OpenVINO reads it."""
    operations = [op for op in load_core().read_model(file).get_ops() if op.get_type_name() == "Convolution"]
    names = [op.get_friendly_name() for op in operations if quantises(op, 0) and quantises(op, 1)]
    return {re.sub(r"(/convolution|/product|/map|/WithoutBiases)+$", "", name) for name in names}


def quantises(operation: Any, index: int) -> bool:
    """Whether an input of a convolution is quantised, before pools, concatenation and transposition too."""
    source = operation.input_value(index).get_node()
    while source.get_type_name() in ("MaxPool", "Concat", "Reshape", "Transpose"):
        source = source.input_value(0).get_node()
    return source.get_type_name() in ("FakeQuantize", "Multiply")


def save_images(folder: Path, count: int, shade: int | None = None) -> list[ImageSource]:
    """Images of random colours, or of one gray, in a new folder."""
    from PIL import Image

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
        sources.append(ImageSource(path.name, path))
    return sources


def test_a_folder_is_a_class_of_the_check_however_the_file_system_composes_its_accents(
    random_model: Build, tmp_path: Path
) -> None:
    from inception_v3.inference.export import prepare_images

    (folder := tmp_path / "cafe\u0301").mkdir()  # as macOS stores it
    images = [ImageSource(f"{folder.name}/{each.name}", each.content) for each in save_images(folder, 3)]
    model = random_model(num_classes=2)
    model.class_names = ["caf\u00e9", "tea"]
    labels = prepare_images(model, ["fp32"], images).labels
    assert labels is not None
    assert labels.tolist() == [0, 0, 0]
    model.class_names = ["coffee", "tea"]
    assert prepare_images(model, ["fp32"], images).labels is None


def test_int8_needs_enough_different_images(random_model: Build, tmp_path: Path) -> None:
    from inception_v3.inference.quantise import check_calibration_images

    model = random_model()
    cases = [
        (None, "int8 is checked on your own images; give some with --images"),
        (save_images(tmp_path, 62), "62 images are too few to check int8 on; give at least 64 with --images"),
        (save_images(tmp_path, 64, shade=128), "each contain only one colour"),
        (save_images(tmp_path, 64), "images for int8 in one class; give images of all classes"),
    ]
    for images, message in cases:
        with pytest.raises(InputError, match=message):
            export(model, tmp_path / "model.xml", precision="int8", images=images)
    with pytest.raises(ValueError, match="pixels must be uint8"):
        check_calibration_images(pixels(40).astype(np.float32) * 7, reference_network(model, (LOGITS,)))  # type: ignore[arg-type]


def test_a_lower_precision_needs_enough_images_of_several_classes(random_model: Build, tmp_path: Path) -> None:
    model = random_model()
    for images, message in (
        (save_images(tmp_path, 31), "31 images are too few to check bf16 on; give at least 32 with --images"),
        (save_images(tmp_path, 33), "the network puts all 33 images of images in one class, so the check would"),
    ):
        with pytest.raises(InputError, match=message):
            export(model, tmp_path / "model.xml", precision="bf16", images=images)


# ------------------------------------------------------------- damaged and foreign files


@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_a_damaged_file_is_reported(exported: tuple[InceptionV3, Path], tmp_path: Path, name: str) -> None:
    _, source = exported
    content = (source / name).read_bytes()
    for cut in (len(content) // 3, len(content) - 40):
        (tmp_path / name).write_bytes(content[:cut])
        with pytest.raises(InputError, match=f"{name}: .*export"):
            open_exported(tmp_path / name)
    (tmp_path / name).write_bytes(content)
    if name == "model.xml":
        with pytest.raises(InputError, match=r"model\.xml: model\.bin, which holds its weights, is missing; copy both"):
            open_exported(tmp_path / name)


@pytest.mark.parametrize("name", ["model.onnx", "model.bin"])
def test_weights_other_than_the_checked_weights_are_refused(
    exported: tuple[InceptionV3, Path], tmp_path: Path, name: str
) -> None:
    """A flipped bit; or the weights of another export, which a kill between writing two files leaves behind."""
    _, source = exported
    for part in ("model.onnx", "model.xml", "model.bin"):
        (tmp_path / part).write_bytes((source / part).read_bytes())
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="its weights are not those that were checked; export it again"):
        open_exported(tmp_path / name.replace(".bin", ".xml"))


def test_damaged_files_in_a_folder_are_left_out_and_reported(folder: Path) -> None:
    (folder / "bf16.bin").write_bytes((folder / "bf16.bin").read_bytes()[:-1])
    opened = open_exported(folder)
    assert (opened.engine.name, opened.engine.precision) == ("onnxruntime", "fp32")
    assert "bf16.xml: its weights are not those that were checked" in opened.reason
    (folder / "bf16.xml").write_text((folder / "bf16.xml").read_text().replace("inception_v3", "another"))
    assert "bf16.xml: not exported by inception-v3" in open_exported(folder).reason


def test_the_model_of_a_run_folder_runs_although_its_exports_are_damaged(
    random_model: Build, tmp_path: Path, folder: Path
) -> None:
    from inception_v3.support.files import checksum

    run = tmp_path / "run"
    save(random_model(), run / "model.safetensors")
    folder.rename(run / "exported")
    (run / "exported" / "bf16.bin").unlink()
    change_description(run / "exported" / "bf16.xml", weights=checksum(run / "model.safetensors"))
    onnx = (run / "exported" / "fp32.onnx").read_bytes()
    (run / "exported" / "fp32.onnx").write_bytes(onnx[: len(onnx) // 2])
    with pytest.warns(UserWarning, match=r"cut short.*using model\.safetensors instead"):
        assert open_engine(run).file == run / "model.safetensors"


def test_foreign_files_and_other_versions_are_refused(exported: tuple[InceptionV3, Path], tmp_path: Path) -> None:
    import onnx

    _, source = exported
    model = onnx.load(source / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(InputError, match=r"foreign.onnx: not exported by inception-v3; make one with"):
        read_description(tmp_path / "foreign.onnx")
    for changes, message in (
        ({"version": 1}, "another version of inception-v3"),
        ({"class_names": ["one"]}, "1 class names for 7 classes"),
        ({"precision": "fp7"}, "description cannot be read"),
        ({"preprocessing": {"image_size": "x"}}, "description cannot be read"),
    ):
        description = json.loads(read_description(source / "model.onnx").to_json()) | changes
        onnx.helper.set_model_props(model, {KEY: json.dumps(description)})
        onnx.save(model, tmp_path / "other.onnx")
        with pytest.raises(InputError, match=message):
            read_description(tmp_path / "other.onnx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"num_classes": 8}, "class_names": None}, "described with 8 classes, but its network has 7"),
        (
            {"preprocessing": {"image_size": [75, 75]}},
            "described for images of 75x75, but its network takes 107x107",
        ),
    ],
)
def test_a_description_of_another_network_is_refused(
    exported: tuple[InceptionV3, Path], tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    import onnx

    _, source = exported
    model = onnx.load(source / "model.onnx")
    description = json.loads(read_description(source / "model.onnx").to_json())
    for key, value in changes.items():
        description[key] = description[key] | value if isinstance(value, dict) else value
    onnx.helper.set_model_props(model, {KEY: json.dumps(description)})
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(InputError, match=message):
        open_exported(tmp_path / "other.onnx")


def test_impossible_exports_are_refused_before_any_work(random_model: Build, tmp_path: Path) -> None:
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


def test_exporting_does_not_change_the_network(random_model: Build, tmp_path: Path) -> None:
    model = random_model()
    before = copy.deepcopy(model.state_dict())
    export(model, tmp_path / "model.onnx")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# ------------------------------------------------------------- the command


def test_the_command_exports_several_precisions_and_predict_uses_the_fastest(
    random_model: Build, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from inception_v3.cli import main

    run, photos = tmp_path / "run", tmp_path / "32 None"
    model = with_varied_classes(random_model(), resized(save_images(tmp_path, 32), 107))
    save(model, run / "model.safetensors")
    rates = iter((10.0, 20.0))
    monkeypatch.setattr(export_module, "time_run", lambda run, preprocessing: Speed(cpu_name(), 1.0, next(rates)))
    arguments = ["export", str(run), "--precision", "fp32,bf16", "--images", str(photos), "--min-agreement", "0.7"]
    monkeypatch.setattr(sys, "argv", ["inception-v3", *arguments, "--json"])
    with pytest.raises(SystemExit) as exited:
        main()
    assert not exited.value.code
    descriptions = json.loads(capfd.readouterr().out)
    assert list(descriptions) == [str(run / "exported" / "fp32.xml"), str(run / "exported" / "bf16.xml")]
    monkeypatch.setattr(
        sys, "argv", ["inception-v3", "predict", str(run), str(photos / "0.png"), "--min-agreement", "0.7"]
    )
    with pytest.raises(SystemExit):
        main()
    out, err = capfd.readouterr()
    assert out.startswith(str(photos / "0.png"))
    assert "openvino bf16 on CPU: as exported: bf16, top-1 agreement" in err
    assert "measured images/s: bf16 20.0, against fp32 10.0" in err


def test_a_triton_repository_matches_its_network(
    random_model: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    configured = dict(re.findall(r'name: "(\w+)"\n    data_type: TYPE_FP32\n    dims: \[ (\d+) \]', config))
    channels = {output.name: str(output.type.tensor_type.shape.dim[1].dim_value) for output in outputs}
    assert configured == channels, "Triton refuses other sizes"
    for path in (folder / "1" / "model.onnx", folder / "config.pbtxt"):
        path.unlink()
    monkeypatch.setattr(sys, "argv", ["inception-v3", *arguments, "--end-points", "Mixed_6e"])
    with pytest.raises(SystemExit):
        main()
    assert not (folder / "1" / "model.onnx").exists(), "refused before anything is written"


def test_an_exported_network_that_fails_is_replaced_by_the_next_of_its_folder(folder: Path) -> None:
    engine = open_exported(folder).engine
    assert isinstance(engine, FallbackEngine)
    expected = open_exported(folder / "fp32.onnx").engine.predict(pixels())[0]
    engine._engine.run = Failing().run  # type: ignore[method-assign]
    with pytest.warns(UserWarning, match=r"openvino bf16 on CPU failed .*continuing with onnxruntime fp32"):
        assert np.array_equal(engine.predict(pixels())[0], expected)
