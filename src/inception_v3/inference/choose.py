"""Opens the fastest installed engine for a model or an exported network.

Among exported networks, the speeds are measured on this CPU (exported/speed.py). For a network in memory they are those
of docs/performance.md (`Engine.speed`). On a GPU, PyTorch runs the network. A precision below fp32 is chosen
automatically only if the check stored in the exported file passes.
"""

import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inception_v3.errors import InputError
from inception_v3.inference.engines.base import (
    FEATURES,
    LOGITS,
    VECTORS,
    Engine,
    Inputs,
    Outputs,
    Precision,
    Run,
    parse_precision,
)
from inception_v3.inference.engines.graph import Graph, add_peaks, build_graph, split_stem, swap_pools
from inception_v3.inference.engines.registry import load_engine, load_engines
from inception_v3.inference.exported.check import rejection_reason
from inception_v3.inference.exported.description import Description
from inception_v3.inference.exported.registry import check_weights, exports_in, load_format, read_description, recognise
from inception_v3.inference.exported.speed import speed_here
from inception_v3.network.settings import Settings
from inception_v3.support.arguments import BatchSize, Fraction, Threads, checked
from inception_v3.support.files import checksum
from inception_v3.support.forks import check_not_forked
from inception_v3.support.packages import missing_packages, require_packages
from inception_v3.support.system_errors import file_status, is_folder
from inception_v3.support.text import one_line
from inception_v3.weights import MODEL_FILE

if TYPE_CHECKING:
    from inception_v3.weights.model import InceptionV3

ALMOST_AS_FAST = 0.95  # of the fastest: then the more exact network is chosen
EXPORTED = "exported"  # the folder in a run folder that `inception-v3 export RUN` writes to by default


class FallbackEngine(Engine):
    """Runs an engine. If it fails, a second engine takes over for good, with a warning.

    `build_second` is called only then. The attributes, `name` included, are those of the engine in use.
    """

    def __init__(self, engine: Engine, build_second: Callable[[], Engine]) -> None:
        self._engine = engine
        self._build_second: Callable[[], Engine] | None = build_second
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, inputs: Inputs) -> Outputs:
        engine = self._engine
        try:
            return engine.run(inputs)
        except Exception as error:
            with self._lock:
                if engine is self._engine:  # otherwise another thread has replaced it already
                    if self._build_second is None or isinstance(error, InputError):
                        raise
                    second, self._build_second = self._build_second(), None
                    reason = one_line(error, 200)
                    warnings.warn(f"{engine} failed ({reason}); continuing with {second}", stacklevel=2)
                    self._engine = second
        return self._engine.run(inputs)


@dataclass(frozen=True)
class OpenedModel:
    """An engine that is ready to run, the description of its network, the model's file, and why it was chosen."""

    engine: Engine
    description: Description
    file: Path
    reason: str


@checked
def open_engine(
    model: str | Path,
    engine: str = "auto",
    precision: str | None = None,
    device: str | None = None,
    *,
    min_agreement: Fraction | None = None,
    weights_file: str | Path | None = None,
    batch_size: BatchSize | None = None,
    callers: Threads | None = 1,
    outputs: Sequence[str] | None = None,
    peaks: Sequence[str] = (),
    **facts: Any,
) -> OpenedModel:
    """Open an engine for anything that `load` reads, or for an exported network, which needs no PyTorch.

    In a folder of exported networks, or a run folder with such a folder named `exported`, it opens the fastest network
    whose check shows at least `min_agreement` (by default MIN_AGREEMENT of exported/check.py). If PyTorch has a GPU and
    the choice is not restricted, PyTorch runs the model of a run folder on that GPU.

    Args:
        model: a path or a published name.
        engine: a name in engines.registry.CHOICES.
        precision: fp32, bf16, fp16 or int8; None for the best choice.
        device: such as cpu or cuda:1; None for the engine's default.
        min_agreement: the minimum fraction, 0 to 1, of images with the same top class as in fp32.
        weights_file: a file to use instead of the download of a published name.
        batch_size: the number of images that will be run at once, if known.
        callers: the number of threads that may run the engine at once; None for `Engine.best_callers`.
        outputs: the end points to compute; None for those of a classifier. An exported network must have them.
        peaks: further end points, maps of which only the maximum of each channel and its place are computed: see
            `add_peaks` of engines/graph.py. An engine without that operation returns the maps themselves.
        facts: other options of `load`, such as `state` and `mean`. An exported network states all that they could.

    Raises TypeError and ValueError, which name the argument, and InputError, which names the file or option and the
    remedy. InputError is also raised in a process that was forked after an engine was opened.
    """
    check_not_forked()
    path = Path(model)
    runs_files = engine == "auto" or bool(load_engine(engine).formats)
    requested = parse_precision(precision) if precision is not None else None
    has_model = file_status(path) is not None and file_status(path / MODEL_FILE) is not None
    prefers_gpu = (engine, precision, device) == ("auto", None, None) and has_model and _has_gpu()
    if facts and recognise(path):
        raise stated_in_export(path, facts)
    if weights_file is None and not facts and (runs_files or recognise(path)) and not prefers_gpu:
        try:
            if (exported := find_exported(path)) is not None:
                return open_exported(
                    exported, engine, requested, device, min_agreement, batch_size, callers, outputs, peaks
                )
        except InputError as error:
            if not has_model:
                raise
            warnings.warn(f"{error}; using {MODEL_FILE} instead", stacklevel=2)
    require_packages(("torch",), f"{model}: not an exported network; any other model", "torch")
    _choose_engine(engine, requested or "fp32", device, batch_size)
    device = load_engine("pytorch" if engine == "auto" else engine).resolve_device(device)
    from inception_v3.weights.load import load

    network = load(model, weights_file=weights_file, **facts)
    return open_model(network, engine, requested, device, batch_size, callers, outputs, peaks)


def output_for(end_point: str, outputs: Collection[str]) -> str:
    """Which of a network's outputs has the values of an end point: that of its name, but AvgPool_1a for PreLogits."""
    return FEATURES if end_point == "PreLogits" and end_point not in outputs else end_point


def stated_in_export(path: Path, facts: Mapping[str, Any]) -> InputError:
    """The error for options about a model whose file is an exported network."""
    name = next(iter(facts)).removesuffix("_activation").replace("_", "-")
    fault = f"{path} is an exported network, which states it; leave it out, or export the network again"
    return InputError(f"--{name}: {fault}", exit_status=2)


def check_has_weights(model: str | Path, facts: Mapping[str, Any]) -> None:
    """Raise InputError for an exported network, from which a command that needs a model's weights cannot read them."""
    path = Path(model)
    format = recognise(path)
    if format is None or format.read_description(path) is None:
        return
    if facts:
        raise stated_in_export(path, facts)
    raise InputError(
        f"{path}: an exported network ({format.name}), whose layers were fused, so it cannot be read as a model; give "
        "the model that it was exported from"
    )


def check_classifier(model: str | Path, settings: Settings, outputs: Collection[str] = VECTORS) -> None:
    """Raise InputError, with the remedy, if a network does not return scores of classes. `outputs`: its end points."""
    if settings.final_endpoint:
        raise InputError(
            f"{model}: this network has no classifier, it ends at {settings.final_endpoint}; train one for your "
            "classes with `inception-v3 finetune`, or compute features with `inception-v3 features`",
            exit_status=2,
        )
    if settings.output_activation == "none":
        raise InputError(
            f"{model}: the outputs of this network are not probabilities (its output_activation is none); load it with "
            'inception_v3.load(..., output_activation="softmax") or "sigmoid" if they are logits, and save it',
            exit_status=2,
        )
    if not {*VECTORS} <= {*outputs}:
        raise InputError(
            f"{model}: exported with only {', '.join(outputs)}, so it has no classifier; export it again without "
            "--end-points",
            exit_status=2,
        )


def _has_gpu() -> bool:
    """Whether PyTorch has a GPU. PyTorch takes seconds to import, so it is imported only if a driver is loaded."""
    driver = Path("/dev/nvidiactl").exists() and not missing_packages(("torch",))
    return driver and load_engine("pytorch").resolve_device(None) == "cuda"


# ------------------------------------------------------------- exported networks


def find_exported(path: Path) -> Path | None:
    """The exported network, or the folder of exported networks, that `predict` runs for a path.

    None if `predict` runs the model itself. Exports in a run folder count only if they come from its current weights.
    Otherwise a warning is given.
    """
    if recognise(path):
        return path
    model, exported = path / MODEL_FILE, path / EXPORTED
    if file_status(model) is None:
        return path if is_folder(path) and exports_in(path) else None
    if not is_folder(exported) or not (files := exports_in(exported)):
        return None
    weights = checksum(model)
    others = [file.name for file in files if read_description(file).weights != weights]
    if not others:
        return exported
    warnings.warn(
        f"{exported}: {', '.join(others)} exported from other weights than {model.name}; export it again, or delete it",
        stacklevel=2,
    )
    return None


@dataclass(frozen=True)
class _Candidate:
    """A file, the engine class for it, and its description with the precision to run it in."""

    file: Path
    engine: type[Engine]
    description: Description
    peaks: tuple[str, ...] = ()

    @property
    def difference(self) -> float:
        """The mean difference from the network in fp32."""
        return self.description.check.mean_difference if self.description.check else 0.0

    def images_per_second(self, batch_size: int | None) -> float:
        """The measured speed on this CPU. Raises InputError: as `open`, or the network fails when it runs."""
        with _explain_failure(self.file, self.engine.name, "export it again"):
            speed = speed_here(self.engine, self.description, lambda: self.open(None, 1))
        return speed.single if batch_size == 1 else speed.batches

    def open(self, device: str | None, callers: int | None) -> Engine:
        """Open the engine. Raises InputError: the file is damaged, or its network does not match its description."""
        check_weights(self.file, self.description)
        with _explain_failure(self.file, self.engine.name, "export it again"):
            network = self.engine.with_outputs(self.file, peaks=self.peaks)[0] if self.peaks else self.file
            engine = self.engine.open(network, self.description.precision, device, callers)
        _check_network(engine, self.description, self.file)
        return engine


def open_exported(
    path: Path,
    engine: str = "auto",
    precision: Precision | None = None,
    device: str | None = None,
    min_agreement: float | None = None,
    batch_size: int | None = None,
    callers: int | None = 1,
    outputs: Sequence[str] | None = None,
    peaks: Sequence[str] = (),
) -> OpenedModel:
    """Open an exported network, or the best network in a folder. PyTorch is not needed. Arguments as in `open_engine`.

    Raises InputError: damaged or written by another version; an engine that is not installed or cannot run it; a
    precision that it was not exported in, or whose check fails; it lacks one of the `outputs`.
    """
    candidates, rejected = _candidates(path, engine, precision, min_agreement, outputs or ())
    candidates, comparison, failures = _fastest_first(candidates, device, batch_size)
    candidates = [replace(each, peaks=tuple(peaks)) for each in candidates]
    rejected += failures
    for number, chosen in enumerate(candidates, 1):
        try:
            opened = chosen.open(device, callers)
            break
        except InputError as error:
            if number == len(candidates):
                raise InputError("; ".join([str(error), *rejected]), exit_status=error.exit_status) from error
            rejected.append(str(error))
    description, others = chosen.description, candidates[number:]
    if description.precision != "fp32" and (reason := rejection_reason(description, min_agreement)):
        warnings.warn(f"{chosen.file}: {reason}", stacklevel=2)
    if others and engine == "auto" and precision is None:
        opened = FallbackEngine(opened, lambda: others[0].open(device, callers))
    parts = [f"as exported: {description}"]
    if comparison:
        parts.append(comparison)
    if rejected:
        parts.append(f"not used: {'; '.join(rejected)}")
    return OpenedModel(opened, description, chosen.file, "; ".join(parts))


def open_with_outputs(path: Path, names: Collection[str]) -> tuple[Run, frozenset[str]]:
    """The function that runs an exported file on the CPU with further outputs, and the names of all its outputs.

    `names` are those of layers and end points; the file may lack some of them. It is not changed.
    Raises InputError: damaged or written by another version; a package is missing; nothing here runs it.
    """
    description, format = read_description(path), recognise(path)
    assert format is not None  # read_description refuses such a file
    if not format.runs_here:
        remedy = "give the weights it was exported from, or export them to ONNX"
        raise InputError(f"{path}: only {format.program} runs it; {remedy}", exit_status=2)
    require_packages(format.packages, str(path), format.extra)
    check_weights(path, description)
    with _explain_failure(path, format.engine or format.program, "export it again"):
        model, outputs = format.with_outputs(path, names, description.outputs)
        run = format.run(model, description.precision, outputs)
    return run, frozenset(outputs)


def _fastest_first(
    candidates: list[_Candidate], device: str | None, batch_size: int | None
) -> tuple[list[_Candidate], str, list[str]]:
    """The candidates in the order in which to try them, the reason for it, and why others cannot run.

    On a CPU, the measured speed decides; among those that are almost as fast as the fastest, the more exact comes
    first. A file that would run in another precision than its own comes after the files of that precision, untimed.
    The reason is "" if nothing was compared. Raises InputError if no candidate can run.
    """
    own = {each.description.precision for each in candidates if each.description.check}
    spare = [each for each in candidates if not each.description.check and each.description.precision in own]
    candidates = [each for each in candidates if each not in spare]
    if len(candidates) == 1:
        return [*candidates, *spare], "", []
    if device not in (None, "cpu"):
        candidates.sort(key=lambda each: -each.engine.expected_speed(each.description.precision, 16))
        return [*candidates, *spare], "", []
    speeds: list[tuple[float, _Candidate]] = []
    failures: list[str] = []
    for candidate in candidates:
        try:
            speeds.append((candidate.images_per_second(batch_size), candidate))
        except InputError as error:
            failures.append(str(error))
    if not speeds and not spare:
        raise InputError("; ".join(failures))
    limit = ALMOST_AS_FAST * max((speed for speed, _ in speeds), default=0.0)
    speeds.sort(key=lambda each: (0.0, each[1].difference) if each[0] >= limit else (1.0, -each[0]))
    names = [f"{each.description.precision} {speed:.1f}" for speed, each in speeds]
    comparison = f"measured images/s: {names[0]}, against {', '.join(names[1:])}" if len(names) > 1 else ""
    return [*(each for _, each in speeds), *spare], comparison, failures


def _candidates(
    path: Path, engine: str, precision: Precision | None, min_agreement: float | None, outputs: Sequence[str]
) -> tuple[list[_Candidate], list[str]]:
    """The exported networks that can be used, and the reasons why the others cannot.

    Raises InputError if none can be used.
    """
    files = [path] if recognise(path) or not is_folder(path) else exports_in(path)
    if not files:
        raise InputError(f"{path}: no exported network in it; make one with `inception-v3 export RUN {path}`")
    candidates: list[_Candidate] = []
    errors: list[InputError] = []
    for file in files:
        try:
            description = read_description(file)
            if precision is not None and not _can_run(description, precision):
                continue
            for name in outputs:
                if output_for(name, description.outputs) not in description.outputs:
                    remedy = f"export it again with --end-points {','.join(outputs)}, or give the model itself"
                    raise InputError(f"{file.name}: exported without {name}; {remedy}", exit_status=2)
            engine_class = _engine_for(file, precision or description.precision, engine)
        except InputError as error:
            errors.append(error)
            continue
        runs_in = precision or description.precision
        if precision is None and (reason := rejection_reason(description, min_agreement)):
            errors.append(InputError(f"{file.name}: {reason}", exit_status=2))
            if runs_in != "bf16":
                continue
            runs_in = "fp32"  # without a loss, since the weights in a bf16 file are float32
        if runs_in != description.precision:
            description = replace(description, precision=runs_in, check=None, speed=None)  # those are of another
        if (format := recognise(file)) is not None and format.engine != engine_class.name:
            description = replace(description, speed=None)  # that is of another engine
        candidates.append(_Candidate(file, engine_class, description))
    if not candidates and not errors:
        raise InputError(f"{path}: not exported in {precision}; add it with --precision {precision}", exit_status=2)
    reasons = [str(error).removeprefix(f"{path}: ") for error in errors]
    if not candidates:
        status = 1 if engine == "auto" and not outputs else max(error.exit_status for error in errors)
        raise InputError(f"{path}: {'; '.join(reasons)}", exit_status=status)
    return candidates, reasons


def _can_run(description: Description, precision: Precision) -> bool:
    """Whether an exported file can run in a precision.

    An int8 network must be exported as such. An engine computes fp32, bf16 and fp16 from the same float32 weights.
    """
    return description.precision == precision or {description.precision, precision} <= {"fp32", "bf16", "fp16"}


def _engine_for(file: Path, precision: Precision, requested: str) -> type[Engine]:
    """The engine for an exported file: the requested engine, or the engine whose own format it is.

    Raises InputError: no engine runs the format; the requested engine does not run it, or not in this precision; the
    engine is not installed.
    """
    format = recognise(file)
    assert format is not None
    engines = [engine for engine in load_engines() if format.name in engine.formats]
    if not engines:
        suffixes = {load_format(name).suffix for engine in load_engines() for name in engine.formats}
        runnable = " and ".join(sorted(suffixes))
        raise InputError(f"{file.name} runs only in {format.program}; here {runnable} files run", exit_status=2)
    names = [engine.name for engine in engines]
    if requested not in ("auto", *names):
        raise InputError(f"{file.name} runs in {' and '.join(names)}, not in {requested}", exit_status=2)
    if requested != "auto":
        return _requested_engine(requested, precision, engines, in_memory=False)
    chosen = min(engines, key=lambda engine: (not engine.supports(precision), engine.formats.index(format.name)))
    chosen.check_installed(in_memory=False)
    return chosen


def _check_network(engine: Engine, description: Description, file: Path) -> None:
    """Check that a file's network matches its description. Raises InputError if they come from different exports."""
    size, classes = description.preprocessing.image_size, description.settings.num_classes
    actual_size, actual_classes = engine.image_size or size, engine.widths.get(LOGITS, classes)
    if actual_size != size:
        raise InputError(
            f"{file}: described for images of {size[0]}x{size[1]}, but its network takes "
            f"{actual_size[0]}x{actual_size[1]}; export it again"
        )
    if actual_classes != classes:
        raise InputError(
            f"{file}: described with {classes} classes, but its network has {actual_classes}; export it again"
        )


# ------------------------------------------------------------- networks in memory


def open_model(
    model: "InceptionV3",
    engine: str = "auto",
    precision: Precision | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    callers: int | None = 1,
    outputs: Sequence[str] | None = None,
    peaks: Sequence[str] = (),
) -> OpenedModel:
    """Open an engine for a network in memory, in fp32 unless `precision` is given. Arguments as in `open_engine`.

    Raises InputError: an engine that is not installed or cannot run it; a network that no engine can run; an end point
    that it does not have.
    """
    name = model.origin.file if model.origin else "this model"
    if outputs is None:
        check_classifier(name, model.settings)
    try:
        graph = swap_pools(build_graph(model, outputs=(*(VECTORS if outputs is None else outputs), *peaks)))
    except ValueError as error:
        raise InputError(f"{name}: {error}" if outputs else str(error), exit_status=2 if outputs else 1) from error
    if peaks and _choose_engine(engine, precision or "fp32", device, batch_size)[0].finds_peaks:
        graph = add_peaks(graph, peaks)
    opened, reason = open_graph(graph, engine, precision or "fp32", device, callers=callers, batch_size=batch_size)
    return describe_opened(model, graph, opened, precision or "fp32", reason)


def describe_opened(
    model: "InceptionV3", graph: Graph, engine: Engine, precision: Precision, reason: str
) -> OpenedModel:
    """An engine that runs the graph of a network in memory, with the description of the network."""
    description = Description(
        settings=model.settings,
        preprocessing=model.preprocessing,
        class_names=model.class_names,
        outputs=graph.outputs,
        precision=precision,
        any_size=False,
        weights="",
    )
    return OpenedModel(engine, description, model.origin.file if model.origin else Path(), reason)


def open_graph(
    graph: Graph,
    engine: str = "auto",
    precision: Precision = "fp32",
    device: str | None = None,
    *,
    callers: int | None = 1,
    batch_size: int | None = None,
) -> tuple[Engine, str]:
    """Open an engine for a graph. Returns the engine and the reason for the choice.

    Arguments as in `open_engine`. Raises InputError as `open_model` does.
    """
    chosen, reason = _choose_engine(engine, precision, device, batch_size)
    if engine == "auto":
        device = device or "cpu"
    pytorch = load_engine("pytorch")
    if chosen.name == "ncnn" and engine == "auto" and not split_stem(graph)[0].operations:
        chosen, reason = pytorch, "its first layer is an end point, which ncnn cannot return"
    with _explain_failure("this network", chosen.name, "use another --engine"):
        opened = chosen.open(graph, precision, device, callers)
    if engine == "auto" and chosen is not pytorch:
        opened = FallbackEngine(opened, lambda: pytorch.open(graph, precision, device, callers))
    return opened, reason


def _choose_engine(
    engine: str, precision: Precision, device: str | None, batch_size: int | None
) -> tuple[type[Engine], str]:
    """The engine for a network in memory, and the reason for the choice. Raises InputError as `open_model` does."""
    if precision == "int8":
        raise InputError("int8 is calibrated on images; use `inception-v3 export --precision int8`", exit_status=2)
    if engine == "auto":
        return fastest_engine(precision, device, batch_size)
    return _requested_engine(engine, precision, load_engines(), in_memory=True), "requested"


def _requested_engine(name: str, precision: Precision, engines: list[type[Engine]], *, in_memory: bool) -> type[Engine]:
    """The engine of this name. Raises InputError: it is not installed, or it does not support the precision.

    The message names those of `engines` that support the precision.
    """
    chosen = load_engine(name)
    if not chosen.supports(precision):
        able = " or ".join(engine.name for engine in engines if engine.supports(precision))
        raise InputError(f"{name} does not support {precision} here; use {able}", exit_status=2)
    chosen.check_installed(in_memory=in_memory)
    return chosen


def fastest_engine(precision: Precision, device: str | None, batch_size: int | None = None) -> tuple[type[Engine], str]:
    """The fastest installed engine for a network in memory, and the reason. On a GPU it is PyTorch."""
    if device not in (None, "cpu"):
        return load_engine("pytorch"), f"runs on {device}"
    ranked = sorted(load_engines(), key=lambda engine: engine.expected_speed(precision, batch_size), reverse=True)
    rank, fastest = next(
        (rank, each) for rank, each in enumerate(ranked) if not missing_packages(each.needed_packages(in_memory=True))
    )
    reason = f"the fastest installed for {precision} on a CPU" + " for one image at a time" * (batch_size == 1)
    if rank:
        reason += f"; faster, but not installed: {', '.join(engine.name for engine in ranked[:rank])}"
    return fastest, reason


@contextmanager
def _explain_failure(network: Path | str, engine: str, remedy: str) -> Iterator[None]:
    """Turn the error of a library that cannot load or run a network into an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # every library has its own errors
        reason = one_line(error, 200)
        raise InputError(f"{network}: {engine} cannot run it ({reason}); {remedy}") from error
