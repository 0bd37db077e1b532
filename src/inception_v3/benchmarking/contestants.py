"""What `bench` races: the engines, and other programs with the same network, each in a process of its own.

As a program, `python -m inception_v3.benchmarking.contestants FOLDER ENGINE PRECISION`, it is one of them. It makes
itself ready from what bench.py has put into the folder, says so, and takes a turn for every line that it is sent. An
engine imports nothing that its users would not have: PyTorch is not in the memory of ONNX Runtime.
"""

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import InputError
from inception_v3.inference.engines import registry
from inception_v3.inference.engines.base import LOGITS, Pixels, Precision
from inception_v3.inference.engines.registry import load_engine
from inception_v3.inference.exported.registry import load_format
from inception_v3.network.settings import Settings

if TYPE_CHECKING:
    from inception_v3.images.find import ImageSource
    from inception_v3.weights.model import InceptionV3

PEAK = "matrix product"  # not a contestant: the arithmetic that all are held to
PIXELS, CONTEST, ANSWERS = "pixels.npy", "contest.json", "answers-{}-{}.npy"
WARM_UP = 2  # batches
PICTURES_A_TURN = 8  # of small batches; of larger ones a turn is one batch
SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices


@dataclass(frozen=True)
class Contest:
    """What all of them are told. `settings` are the network's; `mean` and `std` scale pixels for the other programs."""

    folder: Path
    device: str
    batch_sizes: list[int]  # ascending
    settings: Settings
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def write(self, pixels: Pixels) -> None:
        """Into the folder, with the pictures that answers are compared on, (N, H, W, 3)."""
        np.save(self.folder / PIXELS, pixels)
        told = {name: value for name, value in asdict(self).items() if name != "folder"}
        (self.folder / CONTEST).write_text(json.dumps(told))


@dataclass(frozen=True)
class Ready:
    """`prepare` is not timed; `run` is, and returns the logits (N, classes)."""

    prepare: Callable[[Pixels], Any]
    run: Callable[[Any], NDArray[np.float32]]


Build = Callable[[Contest, str], Ready]


def engine_file(engine: str, precision: str) -> str:
    """The file that an engine runs: exported in its own format, or the model if it runs no exported files."""
    formats = load_engine(engine).formats
    if not formats:
        return "model.safetensors"
    return f"{'int8' if precision == 'int8' else 'fp32'}{load_format(formats[0]).suffix}"


def our_engine(engine: str) -> Build:
    """An engine of this package, on the file of `engine_file`."""

    def build(contest: Contest, precision: str) -> Ready:
        from inception_v3.inference.choose import open_engine

        file = contest.folder / engine_file(engine, precision)
        opened = open_engine(file, engine, precision, contest.device, min_agreement=0)
        return Ready(lambda pixels: pixels, lambda pixels: opened.engine.run(pixels)[LOGITS])

    return build


# ------------------------------------------------------- other programs: pixels are scaled for them, and not timed


def scaled(contest: Contest, pixels: Pixels) -> NDArray[np.float32]:
    """(N, 3, H, W), as the networks read it."""
    mean, std = (np.array(values, np.float32) * 255 for values in (contest.mean, contest.std))
    return np.ascontiguousarray(((pixels - mean) / std).transpose(0, 3, 1, 2), np.float32)


def on_torch(program: str, channels_last: bool = True, compiled: bool = False) -> Build:
    """bf16 is autocast, as their users have it."""

    def build(contest: Contest, precision: str) -> Ready:
        if compiled:
            os.environ["TORCHINDUCTOR_FREEZING"] = "1"  # constants are folded, which is the best it can
        import torch

        layout = torch.channels_last if channels_last else torch.contiguous_format
        network = (_torchvision if program == "torchvision" else _timm)(contest)
        network = network.eval().to(contest.device, memory_format=layout)
        network = torch.compile(network) if compiled else network
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

        def prepare(pixels: Pixels) -> Any:
            return torch.from_numpy(scaled(contest, pixels)).to(contest.device, memory_format=layout)

        def run(images: Any) -> NDArray[np.float32]:
            kind = images.device.type
            with torch.no_grad(), torch.autocast(kind, dtype) if dtype else nullcontext():
                answers: NDArray[np.float32] = network(images).float().cpu().numpy()
            return answers

        return Ready(prepare, run)

    return build


def _torchvision(contest: Contest) -> Any:
    import torch

    network = torchvision_network(contest.settings)
    network.load_state_dict(torch.load(contest.folder / "torchvision.pth", weights_only=True))
    return network


def torchvision_network(settings: Settings) -> Any:
    """Of random weights, for images in [-1, 1]."""
    from torchvision.models import inception_v3

    classes, aux = settings.num_classes, settings.create_aux_logits
    return inception_v3(weights=None, init_weights=False, transform_input=False, num_classes=classes, aux_logits=aux)


def _timm(contest: Contest) -> Any:
    from safetensors.torch import load_file

    classes = contest.settings.num_classes
    network = import_module("timm").create_model("inception_v3", pretrained=False, num_classes=classes)
    tensors = load_file(contest.folder / "timm.safetensors")
    network.load_state_dict({name: tensor for name, tensor in tensors.items() if not name.startswith("AuxLogits")})
    return network


def torchvision_on_onnxruntime(contest: Contest, precision: str) -> Ready:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    provider = "CPUExecutionProvider" if contest.device == "cpu" else "CUDAExecutionProvider"
    session = onnxruntime.InferenceSession(contest.folder / "torchvision.onnx", options, providers=[provider])
    name = session.get_inputs()[0].name
    return Ready(lambda pixels: scaled(contest, pixels), lambda images: session.run(None, {name: images})[0])


def torchvision_on_openvino(contest: Contest, precision: str) -> Ready:
    from inception_v3.inference.engines.openvino import load_core

    hints = {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision], "PERFORMANCE_HINT": "LATENCY"}
    model = load_core().compile_model(contest.folder / "torchvision.onnx", "CPU", hints)
    request = model.create_infer_request()

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.array(request.infer([images], share_inputs=True)[0])

    return Ready(lambda pixels: scaled(contest, pixels), run)


def keras(contest: Contest, precision: str) -> Ready:
    """On PyTorch, which is here; whatever the user's own Keras runs on."""
    os.environ |= {"KERAS_BACKEND": "torch", "KERAS_TORCH_DEVICE": contest.device}
    applications: Any = import_module("keras.applications")
    network = applications.InceptionV3(
        weights=None,
        input_shape=(*contest.settings.image_size, 3),
        classes=contest.settings.num_classes,
        classifier_activation=None,
    )
    network.load_weights(contest.folder / "keras.h5")
    return Ready(
        lambda pixels: np.ascontiguousarray(scaled(contest, pixels).transpose(0, 2, 3, 1)),
        lambda images: np.asarray(network.predict_on_batch(images)),
    )


ENGINES: dict[str, Build] = {name: our_engine(name) for name in registry.ENGINES}
PEERS: dict[str, Build] = {
    "torchvision": on_torch("torchvision", channels_last=False),
    "torchvision, channels_last": on_torch("torchvision"),
    "torchvision, compiled": on_torch("torchvision", compiled=True),
    "torchvision on onnxruntime": torchvision_on_onnxruntime,
    "torchvision on openvino": torchvision_on_openvino,
    "timm, channels_last": on_torch("timm"),
    "timm, compiled": on_torch("timm", compiled=True),
    "keras on pytorch": keras,
}


# ------------------------------------------------------------------------- what they run, made by who starts them


def make(file: Path, model: "InceptionV3", fit: list["ImageSource"]) -> None:
    """Write what a contestant runs. Raises InputError or ImportError."""
    from inception_v3.inference.export import export
    from inception_v3.weights.load import save

    programs = {"torchvision.pth": "torchvision", "timm.safetensors": "timm", "keras.h5": "keras"}
    if (file.name in programs or file.name == "torchvision.onnx") and model.settings.depth_multiplier != 1:
        raise InputError("it has the published widths alone")
    if file.name == "torchvision.onnx":
        _export_torchvision(file, model)
    elif file.suffix in (".onnx", ".xml"):
        precision: Precision = "int8" if file.stem == "int8" else "fp32"
        # Whatever its agreement: that is in the table.
        export(model, file, precision=precision, images=fit if precision == "int8" else None, min_agreement=0)
    elif file.name == "model.safetensors":
        save(model, file)
    else:
        save(model, file, programs[file.name], allow_difference=True)


def _export_torchvision(file: Path, model: "InceptionV3") -> None:
    """torchvision's own graph, as PyTorch exports it."""
    import torch

    from inception_v3.weights.load import save

    network = torchvision_network(model.settings)
    weights = file.with_name("weights.pth")
    save(model, weights, "torchvision", allow_difference=True)
    network.load_state_dict(torch.load(weights, weights_only=True))
    example = torch.zeros(2, 3, *model.preprocessing.image_size)
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), (example,), file, dynamic_shapes={"x": {0: torch.export.Dim("batch")}}, verbose=False
        )


# --------------------------------------------------------------------------------------------- one of them at work


def main() -> None:
    """Every answer is one line of JSON: of the start the peak of memory at each batch size, of a turn the seconds."""
    folder, engine, precision = Path(sys.argv[1]), *sys.argv[2:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer

    def answer(told: dict[str, Any]) -> None:
        print(json.dumps(told), file=answers, flush=True)

    try:
        contest = Contest(folder, **json.loads((folder / CONTEST).read_text()))
        if engine == PEAK:
            take_turn: Callable[[], dict[str, Any]] = _products(contest.device, precision.split(","))
            take_turn()
            answer({"ready": {}})
        else:
            ready = (ENGINES | PEERS)[engine](contest, precision)
            pixels = np.load(folder / PIXELS)
            memory = _warm_up(ready, contest, pixels)
            np.save(folder / ANSWERS.format(engine, precision), _answers(ready, pixels, contest.batch_sizes[-1]))
            answer({"ready": memory})
            inputs = {size: ready.prepare(_batch(pixels, 0, size)) for size in contest.batch_sizes}
            take_turn = partial(_turn, ready, inputs)
        for _ in sys.stdin:
            answer(take_turn())
    except Exception as error:  # whatever another program may raise
        reason = " ".join(str(error).split())[:200]
        answer({"problem": reason if hasattr(error, "exit_status") else f"{type(error).__name__}: {reason}"})


def _batch(pixels: Pixels, start: int, size: int) -> Pixels:
    """So many, from the beginning again where there are no more."""
    return np.ascontiguousarray(pixels[np.arange(start, start + size) % len(pixels)])


def _warm_up(ready: Ready, contest: Contest, pixels: Pixels) -> dict[str, float | None]:
    """The peak of memory, in MB, with each size of batch and all that are smaller."""
    peaks = {}
    for size in contest.batch_sizes:
        images = ready.prepare(_batch(pixels, 0, size))
        for _ in range(WARM_UP):
            ready.run(images)
        peaks[str(size)] = _peak_memory(contest.device)
    return peaks


def _peak_memory(device: str) -> float | None:
    """Resident memory, or on a GPU what PyTorch took of its memory; None where neither is known."""
    if device != "cpu":
        if "torch" not in sys.modules or not device.startswith("cuda"):
            return None
        import torch

        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the memory of the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _answers(ready: Ready, pixels: Pixels, size: int) -> NDArray[np.float32]:
    """The logits of all pictures, in batches of one size: another one would be compiled anew."""
    parts = [ready.run(ready.prepare(_batch(pixels, at, size))) for at in range(0, len(pixels), size)]
    return np.concatenate(parts)[: len(pixels)]


def _turn(ready: Ready, inputs: dict[int, Any]) -> dict[str, list[float]]:
    return {  # the small batches wake up what slept
        str(size): [_seconds(ready.run, images) for _ in range(max(1, PICTURES_A_TURN // size))]
        for size, images in inputs.items()
    }


def _seconds(function: Callable[..., object], *given: Any) -> float:
    started = time.perf_counter()
    function(*given)
    return time.perf_counter() - started


# ------------------------------------------------------------------------------------------- the arithmetic's limit


def _products(device: str, precisions: list[str]) -> Callable[[], dict[str, float]]:
    """A turn: the operations a second of a large matrix product in each precision, the best of a few.

    By PyTorch, and on a processor by OpenVINO and NumPy too: which is the fastest depends on it, and int8 is fast in
    OpenVINO alone.
    """
    side = SIDE["cuda" if device.startswith("cuda") else "cpu"]
    found: dict[str, list[Callable[[], object]]] = {}
    for precision in precisions:
        if precision != "int8":
            found.setdefault(precision, []).append(_product(device, precision, side))
        if device == "cpu" and precision == "fp32":
            matrix = np.random.default_rng(0).random((side, side), np.float32)
            found.setdefault(precision, []).append(lambda matrix=matrix: matrix @ matrix)  # type: ignore[misc]
        if device == "cpu" and find_spec("openvino") is not None:
            found.setdefault(precision, []).append(_product_openvino(precision, side))

    def turn() -> dict[str, float]:
        return {
            name: 2 * side**3 / min(_seconds(function) for function in functions for _ in range(4))
            for name, functions in found.items()
        }

    return turn


def _product(device: str, precision: str, side: int) -> Callable[[], object]:
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    left, right = torch.randn(2, side, side, device=device).to(dtype)

    def product() -> None:
        torch.mm(left, right)
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    return product


def _product_openvino(precision: str, side: int) -> Callable[[], object]:
    from inception_v3.inference.engines.openvino import load_core

    openvino = import_module("openvino")
    operations = import_module("openvino.opset13")
    rng = np.random.default_rng(0)
    given = operations.parameter([side, side], np.float32)
    left, right = given, operations.constant(rng.normal(size=(side, side)).astype(np.float32))
    if precision == "int8":  # as NNCF marks it: levels on one side, whole numbers on the other
        low, high = np.float32(0), np.float32(255)
        left = operations.fake_quantize(given, low, high, low, high, 256)
        whole = operations.constant(rng.integers(-127, 128, (side, side)).astype(np.int8))
        right = operations.multiply(operations.convert(whole, np.float32), np.float32(1 / 127))
    model = openvino.Model([operations.matmul(left, right, False, False)], [given])
    options = {"INFERENCE_PRECISION_HINT": {"bf16": "bf16"}.get(precision, "f32")}
    request = load_core().compile_model(model, "CPU", options).create_infer_request()
    values = rng.integers(0, 256, (side, side)).astype(np.float32)
    return lambda: request.infer([values], share_inputs=True)


if __name__ == "__main__":
    main()
