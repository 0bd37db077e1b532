"""Which engine runs a network: the fastest of those that are installed and proven for it, or the one asked for.

The order was measured (docs/performance.md): on processors OpenVINO in int8 and bf16, ONNX Runtime in int8, in fp32
ncnn with ONNX Runtime, either of ONNX Runtime and OpenVINO alone, then PyTorch; on NVIDIA's GPUs PyTorch with CUDA
graphs. A precision below fp32 is taken on its own only where the check that is stored with the exported network holds
the bound.
"""

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from inception_v3.errors import InputError
from inception_v3.inference.engines import artefact
from inception_v3.inference.exported.description import Description
from inception_v3.inference.engines.base import LOGITS, Answers, Engine, Pixels, Precision
from inception_v3.inference.exported.check import why_not
from inception_v3.support.files import checksum

if TYPE_CHECKING:
    from inception_v3.inference.engines.graph import Graph
    from inception_v3.weights.model import InceptionV3

EngineName = Literal["auto", "pytorch", "compile", "onnxruntime", "openvino", "ncnn"]
MODEL_FILE = "model.safetensors"  # of a run folder
EXPORTED = "exported"  # in a run folder: where `inception-v3 export RUN` writes by default
_SPEED: tuple[tuple[Precision, str], ...] = (  # of exported networks on a processor, fastest first
    ("int8", "openvino"),
    ("bf16", "openvino"),
    ("int8", "onnx"),
    ("fp32", "onnx"),
    ("fp32", "openvino"),
)
_SPEED_OF_ONE = (*_SPEED[:3], *_SPEED[:2:-1])  # one picture at a time: OpenVINO in fp32 too
NEEDS = {  # beside the package of their own name, to run a network that is in memory
    "ncnn": ("onnxruntime", "onnx"),
    "onnxruntime": ("onnx",),
    "openvino": ("onnx",),
}
_RUNS: dict[str, EngineName] = {"onnx": "onnxruntime", "openvino": "openvino"}


@dataclass(frozen=True)
class Opened:
    """An engine, ready; what it runs; the file; and in words why this one."""

    engine: Engine
    description: Description
    file: Path
    reason: str


def exports_in(folder: Path) -> list[Path]:
    """The exported networks in a folder."""
    found = (path for path in sorted(folder.iterdir()) if path.suffix in artefact.SUFFIXES)
    return [path for path in found if artefact.recognise(path)]


def open_engine(
    model: str | Path,
    engine: str = "auto",
    precision: str | None = None,
    device: str | None = None,
    *,
    min_agreement: float | None = None,
    weights_file: str | Path | None = None,
    batch_size: int | None = None,
) -> Opened:
    """The engine for whatever `load` reads, or for an exported network, which needs no PyTorch.

    Of a folder with several exported networks, or a run folder that has them in `exported/`, it is the fastest whose
    check shows at least `min_agreement` (MIN_AGREEMENT of artefact.py by default). `engine` and `precision` pin it.
    `batch_size` is how many pictures will come at once, where that is known. Where PyTorch has a GPU, the network of a
    run folder runs there. Raises InputError, which names the file and the remedy.
    """
    for value, choices, what in (
        (engine, get_args(EngineName), "engine"),
        (precision, get_args(Precision), "precision"),
    ):
        if value is not None and value not in choices:
            raise InputError(f"no {what} {value!r}; there are {', '.join(choices)}", exit_status=2)
    asked: dict[str, Any] = {"engine": engine, "precision": precision, "device": device, "batch_size": batch_size}
    of_files = engine not in ("pytorch", "compile", "ncnn")
    exports = weights_file is None and (of_files or artefact.recognise(Path(model)))
    if (engine, precision, device) == ("auto", None, None) and (Path(model) / MODEL_FILE).exists() and _has_gpu():
        exports = False  # they were made for processors
    if exports:
        try:
            if (exported := find_exported(Path(model))) is not None:
                return open_exported(exported, **asked, min_agreement=min_agreement)
        except InputError as error:
            if not (Path(model) / MODEL_FILE).exists():
                raise
            warnings.warn(f"{error}; going on with {MODEL_FILE} itself", stacklevel=2)
    from inception_v3.support.devices import pick_device
    from inception_v3.weights.load import load

    if engine in ("auto", "pytorch", "compile"):
        asked["device"] = str(pick_device(device))
    return open_model(load(model, weights_file=weights_file), **asked)


def find_exported(path: Path) -> Path | None:
    """The exported network that `predict` should run for this path, or a folder of them; None: the network itself.

    What a run folder has in `EXPORTED` counts as long as it was made of the weights that are there now; a warning says
    where it was not.
    """
    if artefact.recognise(path):
        return path
    if not path.is_dir():
        return None
    model = path / MODEL_FILE
    if not model.exists():
        return path if exports_in(path) else None
    exported = path / EXPORTED
    if not exported.is_dir() or not (files := exports_in(exported)):
        return None
    weights = checksum(model)
    if all(artefact.read(file).weights == weights for file in files):
        return exported
    warnings.warn(f"{exported}: made of other weights than {model.name}; export it anew to use it", stacklevel=2)
    return None


def open_exported(
    path: Path,
    engine: EngineName = "auto",
    precision: Precision | None = None,
    device: str | None = None,
    min_agreement: float | None = None,
    batch_size: int | None = None,
) -> Opened:
    """An exported network, or the best of those in a folder. PyTorch is not needed.

    Raises InputError: damaged, of another version; an engine that is not installed or cannot run it; a precision that
    its check does not allow.
    """
    found, refused = _read(path)
    if precision is not None:
        found = [one for one in found if _can_run(one[1], precision)]
        if not found:
            raise InputError(f"{path}: not exported in {precision}; add it with --precision {precision}", exit_status=2)
    possible: list[tuple[Path, Description, str]] = []
    speed = {pair: place for place, pair in enumerate(_SPEED if batch_size != 1 else _SPEED_OF_ONE)}
    for file, told, kind in sorted(found, key=lambda one: speed.get((one[1].precision, str(one[2])), len(speed))):
        description = told
        if precision is not None and precision != told.precision:  # not what the check in the file is of
            description = replace(told, precision=precision, check=None)
        try:
            runner = _runner(file, kind, description.precision, engine)
        except InputError as error:
            refused.append(str(error))
            continue
        if precision is None and (reason := why_not(description, min_agreement)):
            refused.append(f"{file.name}: {reason}")
            if told.precision != "bf16":
                continue
            # The numbers in the file are float32: in fp32 they are what they were.
            description = replace(told, precision="fp32", check=None)
        possible.append((file, description, runner))
    if not possible:
        raise InputError(f"{path}: {'; '.join(refused)}", exit_status=2 if engine != "auto" else 1)
    while True:
        (file, description, chosen), *possible = possible
        try:
            opened = _open(file, description, chosen, device)
            break
        except InputError as error:
            if not possible:
                raise
            refused.append(str(error))
    if description.precision != "fp32" and (reason := why_not(description, min_agreement)):
        warnings.warn(f"{file}: {reason}", stacklevel=2)
    if possible and engine == "auto" and precision is None:
        opened = WithFallback(opened, lambda: _open(*possible[0], device))
    why = f"{description.precision} as exported" + (f", {description.check}" if description.check else "")
    return Opened(opened, description, file, why + (f"; not: {'; '.join(refused)}" if refused else ""))


def _read(path: Path) -> tuple[list[tuple[Path, Description, artefact.Kind | None]], list[str]]:
    """What a file, or each of a folder, tells of itself; and why others of the folder cannot be read.

    Raises InputError: there is none, or the only one cannot be read.
    """
    files = [path] if artefact.recognise(path) or not path.is_dir() else exports_in(path)
    if not files:
        raise InputError(f"{path}: no exported network in it; make one with `inception-v3 export RUN {path}`")
    refused: list[str] = []
    found: list[tuple[Path, Description, artefact.Kind | None]] = []
    for file in files:
        try:
            found.append((file, artefact.read(file), artefact.recognise(file)))
        except InputError as error:
            if len(files) == 1:
                raise
            refused.append(str(error))
    return found, refused


def _runner(file: Path, kind: artefact.Kind | None, precision: Precision, engine: EngineName) -> str:
    """The engine for a file. Raises InputError: there is none, or not the one asked for, or it is not installed."""
    if kind == "torch-export":
        raise InputError(f"{file.name} is a program for torch.export.load; .onnx and .xml run here")
    if engine == "auto" and kind == "onnx" and precision in ("bf16", "fp16"):
        engine = "openvino"
    runner = _RUNS.get(str(kind)) if engine == "auto" else engine
    if runner is None or kind == "coreml":
        raise InputError(f"{file.name} is for Apple's Core ML; .onnx and .xml run here")
    if runner not in ("onnxruntime", "openvino"):
        raise InputError(f"{file.name} runs in onnxruntime and openvino, not in {runner}")
    if runner == "onnxruntime" and kind == "openvino":
        raise InputError(f"{file.name} runs in openvino alone")
    if runner == "onnxruntime" and precision in ("bf16", "fp16"):
        raise InputError(f"ONNX Runtime does not run {precision} here; openvino does")
    if find_spec(runner) is None:
        raise InputError(_not_installed(runner))
    return runner


def _can_run(description: Description, precision: Precision) -> bool:
    """bf16, fp16 and fp32 are what an engine does with the same numbers; int8 is in the file."""
    return description.precision == precision or {description.precision, precision} <= {"fp32", "bf16", "fp16"}


def _open(file: Path, description: Description, runner: str, device: str | None) -> Engine:
    if description.numbers and artefact.numbers(file) != description.numbers:
        raise InputError(f"{file}: its numbers are not those that were checked; export it anew")
    engine = _build(runner, file, description.precision, device)
    _check_alike(engine, description, file)
    return engine


def _check_alike(engine: Engine, description: Description, file: Path) -> None:
    """Raises InputError for a file whose network is another than its description: put together from two."""
    told = description.preprocessing.image_size
    if engine.image_size is not None and engine.image_size != told:
        held = "x".join(map(str, engine.image_size))
        raise InputError(f"{file}: tells of pictures of {told[0]}x{told[1]}, its network takes {held}; export it anew")
    classes = description.settings.num_classes
    if engine.widths.get(LOGITS, classes) != classes:
        raise InputError(f"{file}: tells of {classes} classes, its network has {engine.widths[LOGITS]}; export it anew")


def _build(runner: str, network: Path | bytes, precision: Precision, device: str | None, callers: int = 1) -> Engine:
    name = network if isinstance(network, Path) else "this network"
    try:
        if runner == "openvino":
            from inception_v3.inference.engines.openvino import OpenvinoEngine

            return OpenvinoEngine(network, precision, _openvino_device(device), callers=callers)
        from inception_v3.inference.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(network, precision, device or "cpu", callers=callers)
    except InputError:
        raise
    except Exception as error:  # each library has errors of its own for files that it cannot read
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{name}: {runner} cannot load it ({reason}); export it anew") from error


def _openvino_device(device: str | None) -> str:
    return "CPU" if device in (None, "cpu") else str(device).upper()


def open_model(
    model: "InceptionV3",
    engine: EngineName = "auto",
    precision: Precision | None = None,
    device: str | None = None,
    batch_size: int | None = None,
) -> Opened:
    """An engine for a network in memory. Without `precision` it is fp32: nothing was checked for a lower one."""
    from inception_v3.inference.engines.graph import build, swap_pools

    wanted: Precision = precision or "fp32"
    if wanted == "int8":
        raise InputError(
            "int8 needs pictures to be made with; use `inception-v3 export --precision int8`", exit_status=2
        )
    try:
        graph = swap_pools(build(model))
    except ValueError as error:
        raise InputError(str(error)) from error
    built, reason = open_graph(graph, engine, wanted, device, batch_size=batch_size)
    description = Description(
        settings=model.settings,
        preprocessing=model.preprocessing,
        class_names=model.class_names,
        outputs=graph.outputs,
        precision=wanted,
        any_size=False,
        weights="",
    )
    return Opened(built, description, model.origin.file if model.origin else Path(), reason)


def open_graph(
    graph: "Graph",
    engine: EngineName = "auto",
    precision: Precision = "fp32",
    device: str | None = None,
    *,
    callers: int = 1,
    batch_size: int | None = None,
) -> tuple[Engine, str]:
    """An engine for a graph, and in words why this one. `callers`: see Engine. Raises InputError as `open_model`."""
    chosen, reason = (engine, "asked for") if engine != "auto" else _fastest(precision, device, batch_size)
    if chosen not in NEEDS:
        return _pytorch(graph, precision, device, compiled=chosen == "compile"), reason
    if find_spec(chosen) is None:
        raise InputError(_not_installed(chosen), exit_status=2)
    if missing := [name for name in NEEDS[chosen] if find_spec(name) is None]:
        needed = " and ".join(missing)
        raise InputError(f"{chosen} needs {needed} to be given this network; {install(chosen)}", exit_status=2)
    if chosen != "openvino" and precision != "fp32":
        raise InputError(f"{chosen} does not run {precision} here; openvino and pytorch do", exit_status=2)
    if chosen == "ncnn":
        if device not in (None, "cpu"):
            raise InputError(f"ncnn runs on the processor here, not on {device}; leave --engine out", exit_status=2)
        from inception_v3.inference.engines.ncnn import NcnnEngine

        built: Engine = NcnnEngine(graph, callers=callers)
    else:
        from inception_v3.inference.engines.onnx_graph import to_onnx

        built = _build(chosen, to_onnx(graph).SerializeToString(), precision, device, callers)
    if engine == "auto":
        built = WithFallback(built, lambda: _pytorch(graph, precision, device))
    return built, reason


def _pytorch(graph: "Graph", precision: Precision, device: str | None, compiled: bool = False) -> Engine:
    from inception_v3.inference.engines.pytorch import PyTorchEngine

    return PyTorchEngine(graph, precision, device or "cpu", compiled=compiled)


def _has_gpu() -> bool:
    """Whether PyTorch runs on one here; it is asked only where there is a driver, for to load it takes seconds."""
    if not Path("/dev/nvidiactl").exists() or find_spec("torch") is None:
        return False
    from inception_v3.support.devices import pick_device

    return pick_device().type == "cuda"


def _fastest(precision: Precision, device: str | None, batch_size: int | None) -> tuple[str, str]:
    if device not in (None, "cpu"):
        return "pytorch", f"runs on {device}"
    order = ["ncnn", "onnxruntime", "openvino"] if precision == "fp32" else ["openvino"]
    one_by_one = " for one picture at a time" if batch_size == 1 and precision == "fp32" else ""
    order = ["openvino", "onnxruntime"] if one_by_one else order
    for name in order:
        if all(map(find_spec, (name, *NEEDS[name]))):
            return name, f"the fastest installed for {precision} on a processor{one_by_one}"
    return "pytorch", f"{' and '.join(order)} are not installed, which are faster"


def _not_installed(engine: str) -> str:
    return f"the engine {engine} is not installed; {install(engine)}"


def install(engine: str) -> str:
    """The command that brings the package of an engine."""
    return f"pip install 'inception-v3[{'onnx' if engine == 'onnxruntime' else engine}]'"


class WithFallback(Engine):
    """An engine, and another that takes over where it fails, with a warning. `name` is that of the one at work."""

    def __init__(self, engine: Engine, other: Callable[[], Engine]) -> None:
        self._use(engine)
        self._other: Callable[[], Engine] | None = other
        self._change = threading.Lock()

    def _use(self, engine: Engine) -> None:
        self._engine, self.precision, self.device = engine, engine.precision, engine.device
        self.image_size, self.widths = engine.image_size, engine.widths
        self.name = engine.name  # type: ignore[misc]

    def run(self, pixels: Pixels) -> Answers:
        engine = self._engine
        try:
            return engine.run(pixels)
        except Exception as error:
            with self._change:
                if engine is self._engine:  # no other thread was here before
                    if self._other is None or isinstance(error, InputError):
                        raise
                    other, self._other = self._other(), None
                    reason = " ".join(str(error).split())[:200]
                    warnings.warn(f"{engine} failed ({reason}); going on with {other}", stacklevel=2)
                    self._use(other)
        return self._engine.run(pixels)
