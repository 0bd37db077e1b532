"""The systems that `bench` compares: this package's engines, and other libraries with the same network.

Each system runs in a worker process of its own (worker.py) and imports only what its users would import. ONNX Runtime,
for example, runs in a process without PyTorch.
"""

import os
import pickle
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from inception_v3.inference.engines.base import LOGITS, DevicePrecisions, Engine, Pixels, Precision
from inception_v3.inference.engines.registry import load_engines
from inception_v3.inference.exported.registry import load_format
from inception_v3.network.settings import Settings
from inception_v3.weights.programs import peers

WORKLOAD_FILE = "workload.pickle"


@dataclass(frozen=True)
class Workload:
    """The device, the batch sizes, the network's settings and the images that all workers share.

    Args:
        folder: holds this description, the model files, and the logits that the workers write.
        device: cpu, cuda, cuda:1 ..., or OpenVINO's gpu.
        batch_sizes: in ascending order.
        settings: those of the network.
        mean: per channel, for pixels scaled to [0, 1]. Used for the other libraries, whose networks do not normalise.
        std: standard deviation per channel, for the same purpose.
        pixels: images (N, H, W, 3) to run, and to compare outputs on.
    """

    folder: Path
    device: str
    batch_sizes: list[int]
    settings: Settings
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pixels: Pixels

    def write(self) -> None:
        """Write this object to the folder, for the workers."""
        (self.folder / WORKLOAD_FILE).write_bytes(pickle.dumps(self))

    @staticmethod
    def read(folder: Path) -> "Workload":
        return cast(Workload, pickle.loads((folder / WORKLOAD_FILE).read_bytes()))

    def scale(self, pixels: Pixels) -> NDArray[np.float32]:
        """Scale pixels (N, H, W, 3) to the images (N, 3, H, W) that the other libraries' networks take."""
        mean, std = (np.array(values, np.float32) * 255 for values in (self.mean, self.std))
        return np.ascontiguousarray(((pixels - mean) / std).transpose(0, 3, 1, 2), np.float32)


@dataclass(frozen=True)
class LoadedSystem:
    """A system that is ready to run: `prepare` converts pixels and is not timed; `run` returns logits (N, classes)."""

    prepare: Callable[[Pixels], Any]
    run: Callable[[Any], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)  # hashed by identity, because a dictionary cannot be hashed
class System:
    """A program that can run the network.

    Args:
        name: its name in the table.
        load: loads it in a worker process from its model file.
        file: the model file that it loads; {} stands for fp32 or int8.
        package: the Python package that must be installed.
        precisions_on: precisions that it runs, by kind of device: cpu, cuda, gpu ...
        compiled: whether it goes through torch.compile, which takes minutes.
        format: the weight format of another library; None for an engine of this package.
    """

    name: str
    load: Callable[[Workload, Path, Precision], LoadedSystem]
    file: str
    package: str
    precisions_on: DevicePrecisions
    compiled: bool = False
    format: str | None = None


@dataclass(frozen=True)
class Candidate:
    """A system in one precision."""

    system: System
    precision: Precision

    @property
    def file(self) -> str:
        return self.system.file.format("int8" if self.precision == "int8" else "fp32")

    def __str__(self) -> str:
        return f"{self.system.name} {self.precision}"


def list_candidates(device: str, engines: Sequence[str], peers: bool, compiled: bool) -> list[Candidate]:
    """List the systems and precisions for a device, installed or not. The first candidate is the baseline.

    `engines` are names of this package's engines; `peers` adds the other libraries, `compiled` torch.compile.
    """
    return [
        Candidate(system, precision)
        for system in SYSTEMS.values()
        if (peers if system.format else system.name in engines) and (compiled or not system.compiled)
        for precision in system.precisions_on.get(device.partition(":")[0], ())
    ]


# ------------------------------------------------------------------------------- how each system is loaded


def engine_system(engine: type[Engine]) -> System:
    """The system for an engine of this package. It loads an exported file if the engine runs them, else the model."""
    suffix = load_format(engine.formats[0]).suffix if engine.formats else None
    return System(
        engine.name,
        partial(open_system, engine=engine.name),
        file=f"{{}}{suffix}" if suffix else "model.safetensors",
        package=engine.packages[0] if engine.packages else "inception_v3",
        precisions_on=engine.precisions,
        compiled=engine.name == "compile",
    )


def open_system(workload: Workload, file: Path, precision: Precision, *, engine: str) -> LoadedSystem:
    """Load an engine of this package for a model or an exported file, whatever the agreement stored in the file."""
    from inception_v3.inference.choose import open_engine

    opened = open_engine(file, engine, precision, workload.device, min_agreement=0)
    return LoadedSystem(lambda pixels: pixels, lambda pixels: opened.engine.run(pixels)[LOGITS])


def load_on_pytorch(
    workload: Workload,
    file: Path,
    precision: Precision,
    *,
    load: Callable[[str, dict[str, Any]], Any],
    channels_last: bool = True,
    compiled: bool = False,
) -> LoadedSystem:
    """Load another library's PyTorch network; a lower precision is autocast, as that library's users would run it.

    `load` builds the network from a model file and settings.
    """
    if compiled:
        os.environ["TORCHINDUCTOR_FREEZING"] = "1"  # folds constants: the fastest mode of torch.compile
    import torch

    layout = torch.channels_last if channels_last else torch.contiguous_format
    module = load(str(file), dict(workload.settings))
    module.aux_logits = False  # timm would run the auxiliary head in evaluation too
    module = module.eval().to(workload.device, memory_format=layout)
    if compiled:
        module = torch.compile(module)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def prepare(pixels: Pixels) -> Any:
        return torch.from_numpy(workload.scale(pixels)).to(workload.device, memory_format=layout)

    def run(images: Any) -> Any:
        with torch.no_grad(), torch.autocast(images.device.type, dtype) if dtype else nullcontext():
            return module(images).float().cpu().numpy()

    return LoadedSystem(prepare, run)


def load_torchvision_on_onnxruntime(workload: Workload, file: Path, precision: Precision) -> LoadedSystem:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    provider = "CPUExecutionProvider" if workload.device == "cpu" else "CUDAExecutionProvider"
    session = onnxruntime.InferenceSession(file, options, providers=[provider])
    name = session.get_inputs()[0].name
    return LoadedSystem(workload.scale, lambda images: session.run(None, {name: images})[0])


def load_torchvision_on_openvino(workload: Workload, file: Path, precision: Precision) -> LoadedSystem:
    from inception_v3.inference.engines.openvino import load_core

    hints = {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision], "PERFORMANCE_HINT": "LATENCY"}
    request = load_core().compile_model(file, "CPU", hints).create_infer_request()
    return LoadedSystem(workload.scale, lambda images: np.array(request.infer([images], share_inputs=True)[0]))


def load_keras(workload: Workload, file: Path, precision: Precision) -> LoadedSystem:
    """Load Keras's network, which then computes on PyTorch."""
    os.environ["KERAS_TORCH_DEVICE"] = workload.device
    os.environ["KERAS_HOME"] = str(workload.folder)  # neither read nor create the user's configuration
    network = peers.load_keras(str(file), dict(workload.settings), workload.settings.image_size)
    return LoadedSystem(
        lambda pixels: np.ascontiguousarray(workload.scale(pixels).transpose(0, 2, 3, 1)),
        lambda images: np.asarray(network.predict_on_batch(images)),
    )


# -------------------------------------------------------------------------------- all systems, in table order

_FP32: DevicePrecisions = {"cpu": ("fp32",), "cuda": ("fp32",)}
_AUTOCAST: DevicePrecisions = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "bf16", "fp16")}
_TIMM: DevicePrecisions = {"cpu": ("fp32",), "cuda": ("fp32", "bf16", "fp16")}
_torchvision = partial(System, file="torchvision.pth", package="torchvision", format="torchvision")
_timm = partial(System, file="timm.safetensors", package="timm", format="timm", precisions_on=_TIMM)
SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        _torchvision(
            "torchvision",
            partial(load_on_pytorch, load=peers.load_torchvision, channels_last=False),
            precisions_on=_FP32,
        ),
        _torchvision(
            "torchvision, channels_last", partial(load_on_pytorch, load=peers.load_torchvision), precisions_on=_AUTOCAST
        ),
        _torchvision(
            "torchvision, compiled",
            partial(load_on_pytorch, load=peers.load_torchvision, compiled=True),
            precisions_on=_AUTOCAST,
            compiled=True,
        ),
        System(
            "torchvision on onnxruntime",
            load_torchvision_on_onnxruntime,
            file="torchvision.onnx",
            package="onnxruntime",
            precisions_on=_FP32,
            format="torchvision",
        ),
        System(
            "torchvision on openvino",
            load_torchvision_on_openvino,
            file="torchvision.onnx",
            package="openvino",
            precisions_on={"cpu": ("fp32", "bf16")},
            format="torchvision",
        ),
        _timm("timm, channels_last", partial(load_on_pytorch, load=peers.load_timm)),
        _timm("timm, compiled", partial(load_on_pytorch, load=peers.load_timm, compiled=True), compiled=True),
        System("keras on pytorch", load_keras, "keras.h5", "keras", _FP32, format="keras"),
        *map(engine_system, load_engines()),
    )
}
