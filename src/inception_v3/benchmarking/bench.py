"""Measure the engines of this package in every precision, and other libraries that run the same network.

Every system has a process of its own (worker.py), so that its memory can be measured. In a round each system takes one
turn, and the order alternates between rounds. Ratios are medians over the rounds, so that a disturbance of the machine
does not decide the order. Logits are compared with those of the network itself, run layer by layer in float32.
"""

import random
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from inception_v3.benchmarking.matrix_product import MATRIX_PRODUCT
from inception_v3.benchmarking.synthetic import png_sources, random_network, synthetic_images
from inception_v3.benchmarking.systems import Candidate, Workload, list_candidates
from inception_v3.benchmarking.worker import LOGITS_FILE, BatchTimes, MeasurementError, Memory, Worker, start_worker
from inception_v3.errors import InputError
from inception_v3.images.find import ImageSource
from inception_v3.inference.engines.base import LOGITS, Pixels, Precision
from inception_v3.inference.engines.registry import ENGINES, load_engine
from inception_v3.inference.export import export
from inception_v3.inference.exported.check import MIN_AGREEMENT, compare, reference_network
from inception_v3.inference.exported.registry import read_description
from inception_v3.support.cpu import core_count, processor_name
from inception_v3.support.packages import install_command
from inception_v3.support.system_errors import temporary_folder
from inception_v3.weights.formats.registry import find_writer
from inception_v3.weights.load import save
from inception_v3.weights.model import InceptionV3
from inception_v3.weights.programs.peers import load_torchvision

CALIBRATION_IMAGES, COMPARED_IMAGES = 64, 48
PACKAGES = ("torch", "torchvision", "onnxruntime", "openvino", "ncnn", "nncf", "timm", "keras")
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Agreement = tuple[float, float] | tuple[None, None]  # top-1 agreement, largest difference of a probability


@dataclass(frozen=True)
class BenchRow:
    """The medians of one system in one precision with one batch size.

    `ratio` is its speed divided by the baseline's. `peak_memory_mb` is the peak memory of its process, or on a GPU the
    peak that PyTorch allocated there. `peak_share` is its arithmetic throughput divided by that of a large matrix
    product in the product's best round. `top1_agreement` and `max_difference` (of probabilities) compare it with the
    network itself. They are None for a library that cannot run exactly this network. `int8_share` is the fraction of
    the multiplications that an int8 file of this package computes in int8.
    """

    engine: str
    precision: Precision
    batch_size: int
    images_per_second: float
    ratio: float
    latency_p50_ms: float
    latency_p99_ms: float
    peak_memory_mb: float | None
    peak_share: float | None
    top1_agreement: float | None
    max_difference: float | None
    int8_share: float | None = None


@dataclass(frozen=True)
class BenchResult:
    """The result of a benchmark.

    `peak` maps a precision to the operations per second of a large matrix product. `skipped` maps each system that has
    no rows to the reason. `pictures` is the number and kind of images on which outputs were compared.
    """

    rows: list[BenchRow]
    baseline: str
    rounds: int
    peak: dict[str, float]
    operations: int  # for one image; two for each multiply-accumulate
    pictures: str
    skipped: dict[str, str]
    machine: dict[str, Any]


def bench(
    model: InceptionV3 | None = None,
    *,
    images: Sequence[ImageSource] | None = None,
    engines: Sequence[str] = tuple(ENGINES),
    precisions: Sequence[str] = PRECISIONS,
    batch_sizes: Sequence[int] = (1, 16),
    peers: bool = False,
    compiled: bool = False,
    rounds: int = 10,
    device: str = "cpu",
    progress: Callable[[str, int, int], None] = lambda step, done, total: None,
) -> BenchResult:
    """Measure a model, by default the full-width network with random weights.

    Args:
        model: the model to run; it must have logits.
        images: images to calibrate int8 on and to compare outputs on. Without them, images are synthetic, and a given
            model is not measured in int8.
        engines: names of this package's engines.
        precisions: precisions to measure.
        batch_sizes: batch sizes to measure.
        peers: also measure the other libraries that are installed.
        compiled: also measure torch.compile, which takes minutes.
        rounds: turns of each system.
        device: cpu, cuda, cuda:1 ..., or OpenVINO's gpu.
        progress: called at the start of every step with its name, the number of finished steps, and their total number.

    Raises:
        InputError: a model without logits, images that cannot be read, or no system that can run.
    """
    if model is not None and model.settings.final_endpoint:
        end = model.settings.final_endpoint
        raise InputError(f"a network that ends at {end} has no classes to compare; give a whole network", exit_status=2)
    candidates = list_candidates(device, engines, peers, compiled)
    # The first candidate is the baseline. With other libraries it is measured even if its precision is not requested.
    candidates = [c for index, c in enumerate(candidates) if c.precision in precisions or (peers and index == 0)]
    can_calibrate = model is None or images is not None
    skipped = {str(c): reason for c in candidates if (reason := _why_unavailable(c, can_calibrate))}
    candidates = [candidate for candidate in candidates if str(candidate) not in skipped]
    _check_any(candidates, skipped)
    files = {candidate.file: candidate for candidate in candidates}
    counter, total = count(), len(files) + len(candidates) + rounds * (len(candidates) + 1) + 3

    def step(name: str) -> None:
        progress(name, next(counter), total)

    step("preparing the network and the images")
    network, calibration_images, pixels = _network_and_images(model, images)
    with temporary_folder() as folder, ExitStack() as stack:
        scaling = network.preprocessing
        workload = Workload(
            folder, device, sorted(set(batch_sizes)), network.settings, scaling.mean, scaling.std, pixels
        )
        workload.write()
        errors = _write_model_files(files.values(), workload.folder, network, calibration_images, step)
        skipped |= {str(candidate): errors[candidate.file] for candidate in candidates if candidate.file in errors}
        candidates = [candidate for candidate in candidates if candidate.file not in errors]
        workers, matrix_product = _start_workers(candidates, workload, stack, skipped, step)
        peak, turns = _measure(workers, matrix_product, rounds, skipped, step)
        step("comparing outputs")
        rows = _rows(workers, turns, peak, workload, network)
    return BenchResult(
        rows,
        baseline=str(next(iter(workers))),
        rounds=rounds,
        peak=peak,
        operations=_operations(network),
        pictures=f"{len(pixels)} {'generated images' if images is None else 'of the images'}",
        skipped=skipped,
        machine=describe_machine(device),
    )


# ------------------------------------------------------------------------------------------- the steps of bench()


def _why_unavailable(candidate: Candidate, can_calibrate: bool) -> str | None:
    package = candidate.system.package
    if find_spec(package) is None:
        extra = load_engine(candidate.system.name).extra if candidate.system.name in ENGINES else ""
        return f"{package} is not installed; {install_command(extra) if extra else f'pip install {package}'}"
    if candidate.file == "torchvision.onnx" and find_spec("onnxscript") is None:
        return "torch.onnx needs onnxscript to export its network; pip install onnxscript"
    if candidate.precision == "int8" and not can_calibrate:
        return "int8 is calibrated on images like those to be predicted; give some with --images FOLDER"
    return None


def _check_any(candidates: Collection[Candidate], skipped: dict[str, str]) -> None:
    if not candidates:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        reasons = reasons or "no engine here has that precision on this --device; choose another of the two"
        raise InputError(f"nothing to measure: {reasons}", exit_status=2)


def _network_and_images(
    model: InceptionV3 | None, images: Sequence[ImageSource] | None
) -> tuple[InceptionV3, list[ImageSource], Pixels]:
    """Return the network, images to calibrate int8 on, and pixels (N, H, W, 3) of other images to compare on."""
    size = model.preprocessing.image_size if model else (299, 299)
    network = model or random_network(synthetic_images(32, size, seed=1))
    if images is not None:
        return network, *_split(images, network)
    pixels = synthetic_images(CALIBRATION_IMAGES + COMPARED_IMAGES, size)
    return network, png_sources(pixels[:CALIBRATION_IMAGES]), pixels[CALIBRATION_IMAGES:]


def _split(images: Sequence[ImageSource], model: InceptionV3) -> tuple[list[ImageSource], Pixels]:
    """Draw images to calibrate on, and pixels (N, H, W, 3) of other images to compare outputs on."""
    drawn = random.Random(0).sample(list(images), min(len(images), CALIBRATION_IMAGES + COMPARED_IMAGES))
    compared = max(1, min(COMPARED_IMAGES, len(drawn) // 3))
    pixels = []
    for source in drawn[:compared]:
        try:
            pixels.append(model.preprocessing.array(source.open()))
        except InputError as error:
            warnings.warn(str(error), stacklevel=2)
    if not pixels:
        raise InputError("none of the images drawn from --images can be read; give others with --images")
    return drawn[compared:], np.stack(pixels)


def _write_model_files(
    candidates: Collection[Candidate],
    folder: Path,
    network: InceptionV3,
    calibration_images: list[ImageSource],
    step: Callable[[str], None],
) -> dict[str, str]:
    """Write the model file of each candidate. Returns the error for each file that could not be written."""
    errors = {}
    for candidate in candidates:
        step(f"writing {candidate.file}")
        try:
            write_model_file(candidate, folder, network, calibration_images)
        except (InputError, ImportError) as error:
            errors[candidate.file] = str(error).removeprefix(f"{folder / candidate.file}: ")
    return errors


def write_model_file(
    candidate: Candidate, folder: Path, model: InceptionV3, calibration_images: list[ImageSource]
) -> None:
    """Write to `folder` the file that a candidate loads. int8 is calibrated on `calibration_images`.

    Raises InputError if the network cannot be converted, and ImportError if a package is missing.
    """
    file, format = folder / candidate.file, candidate.system.format
    if format and model.settings.depth_multiplier != 1:
        raise InputError(f"{format} only has the published layer widths")
    if file.name == "torchvision.onnx":
        _export_torchvision(file, model)
    elif format:
        save(model, file, format, allow_difference=True)
    elif file.suffix == ".safetensors":
        save(model, file)
    elif candidate.precision == "int8":  # at any agreement, because the table shows the agreement
        export(model, file, precision="int8", images=calibration_images, min_agreement=0)
    else:
        export(model, file, min_agreement=0)


def _export_torchvision(file: Path, model: InceptionV3) -> None:
    """Let PyTorch export torchvision's own network to ONNX."""
    weights = file.with_name("weights.pth")
    save(model, weights, "torchvision", allow_difference=True)
    network = load_torchvision(str(weights), dict(model.settings)).eval()
    with redirect_stdout(sys.stderr), warnings.catch_warnings(action="ignore"):
        example = torch.zeros(2, 3, *model.preprocessing.image_size)
        torch.onnx.export(
            network, (example,), file, dynamic_shapes={"x": {0: torch.export.Dim("batch")}}, verbose=False
        )


def _start_workers(
    candidates: list[Candidate],
    workload: Workload,
    stack: ExitStack,
    skipped: dict[str, str],
    step: Callable[[str], None],
) -> tuple[dict[Candidate, Worker], Worker | None]:
    """Start a worker for each candidate, and one for the matrix product.

    `skipped` receives the reason for each worker that does not start.
    """

    def start(label: str, system: str, precision: str) -> Worker | None:
        step(f"starting {label}")
        try:
            return stack.enter_context(start_worker(workload, system, precision))
        except MeasurementError as error:
            skipped[label] = str(error)
            return None

    started = {each: start(str(each), each.system.name, each.precision) for each in candidates}
    workers = {candidate: worker for candidate, worker in started.items() if worker}
    _check_any(workers, skipped)
    precisions = dict.fromkeys(candidate.precision for candidate in workers)
    return workers, start(MATRIX_PRODUCT, MATRIX_PRODUCT, ",".join(precisions))


def _measure(
    workers: dict[Candidate, Worker],
    matrix_product: Worker | None,
    rounds: int,
    skipped: dict[str, str],
    step: Callable[[str], None],
) -> tuple[dict[str, float], dict[Candidate, list[BatchTimes]]]:
    """Let all workers take turns; those that fail are removed from `workers`.

    Returns the operations per second of a matrix product by precision, and the turns of each candidate.
    """
    peak: dict[str, float] = {}
    turns: dict[Candidate, list[BatchTimes]] = {candidate: [] for candidate in workers}
    for number in range(rounds):
        step(f"round {number + 1}: {MATRIX_PRODUCT}")
        try:
            speeds = matrix_product.take_turn() if matrix_product else {}
        except MeasurementError as error:
            skipped[MATRIX_PRODUCT], matrix_product, speeds = str(error), None, {}
        peak |= {precision: max(speed, peak.get(precision, 0.0)) for precision, speed in speeds.items()}
        for candidate in list(workers)[:: -1 if number % 2 else 1]:
            step(f"round {number + 1}: {candidate}")
            try:
                turns[candidate].append(workers[candidate].take_turn())
            except MeasurementError as error:
                skipped[str(candidate)] = str(error)
                del workers[candidate]
    _check_any(workers, skipped)
    return peak, turns


# --------------------------------------------------------------------------------------------------- the results


def _rows(
    workers: dict[Candidate, Worker],
    turns: dict[Candidate, list[BatchTimes]],
    peak: dict[str, float],
    workload: Workload,
    network: InceptionV3,
) -> list[BenchRow]:
    """Return the rows of every candidate. The first candidate is the baseline."""
    run, pixels = reference_network(network, (LOGITS,)), workload.pixels
    expected = np.concatenate([run(pixels[start : start + 16])[LOGITS] for start in range(0, len(pixels), 16)])
    rows = []
    for candidate, worker in workers.items():
        agreement: Agreement = None, None
        format = candidate.system.format
        if format is None or not find_writer(format).differences(network.to_weights()):
            agreement = _agreement(np.load(workload.folder / LOGITS_FILE.format(candidate)), expected, str(candidate))
        limit = peak[candidate.precision] / _operations(network) if candidate.precision in peak else None
        own_int8 = candidate.precision == "int8" and candidate.system.name in ENGINES
        share = read_description(workload.folder / candidate.file).int8_share if own_int8 else None
        rows += [
            replace(
                _row(candidate, size, turns[candidate], turns[next(iter(workers))], limit, worker.memory, agreement),
                int8_share=share,
            )
            for size in workload.batch_sizes
        ]
    return rows


def _row(
    candidate: Candidate,
    batch_size: int,
    turns: list[BatchTimes],
    baseline_turns: list[BatchTimes],
    limit: float | None,
    memory: Memory,
    agreement: Agreement,
) -> BenchRow:
    """Summarise the turns of a candidate. `limit` is the number of images per second that the arithmetic allows."""
    key = str(batch_size)
    speeds, baseline_speeds = (
        np.array([batch_size / np.median(turn[key]) for turn in part]) for part in (turns, baseline_turns)
    )
    seconds = np.concatenate([turn[key] for turn in turns])
    speed = float(np.median(speeds))
    return BenchRow(
        candidate.system.name,
        candidate.precision,
        batch_size,
        images_per_second=speed,
        ratio=float(np.median(speeds / baseline_speeds)),
        latency_p50_ms=float(np.median(seconds)) * 1000,
        latency_p99_ms=float(np.percentile(seconds, 99)) * 1000,
        peak_memory_mb=memory[key],
        peak_share=speed / limit if limit else None,
        top1_agreement=agreement[0],
        max_difference=agreement[1],
    )


def _agreement(logits: np.ndarray, expected: np.ndarray, name: str) -> Agreement:
    """Return the top-1 agreement of logits and `expected` (N, classes), and the largest difference of a probability."""
    no_pixels = np.empty((len(logits), 0, 0, 3), np.uint8)
    try:
        check = compare(lambda _: {LOGITS: logits}, [(no_pixels, {LOGITS: expected})], "", "")
    except ValueError as error:
        warnings.warn(f"{name}: {error}", stacklevel=2)
        return 0.0, float("inf")
    return check.top_1_agreement, check.max_difference


def low_agreement(rows: Iterable[BenchRow]) -> dict[str, float]:
    """Return the top-1 agreement of this package's engines where it is below the minimum for an export."""
    return {
        f"{row.engine} {row.precision}": row.top1_agreement
        for row in rows
        if row.engine in ENGINES
        and row.top1_agreement is not None
        and row.top1_agreement < MIN_AGREEMENT[row.precision]
    }


def _operations(model: InceptionV3) -> int:
    """Return the number of arithmetic operations for one image: two for each multiply-accumulate."""
    height, width = model.preprocessing.image_size
    points = replace(model.settings, create_aux_logits=False).end_points(height, width)
    return 2 * sum(point.macs for point in points)


def describe_machine(device: str) -> dict[str, Any]:
    """Return the names of the CPU and GPU, the number of cores, and the versions of the packages."""
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") and torch.cuda.is_available() else None
    return {"cpu": processor_name(), "cores": core_count(), "gpu": gpu, "device": device, "versions": versions}
