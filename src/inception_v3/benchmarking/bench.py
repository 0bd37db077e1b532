"""The table of this machine: every engine in every precision, and other programs with the same network beside them.

Each contestant (contestants.py) has a process of its own, so that its memory is its own. In a round each takes a turn,
in the next round in the opposite order; ratios are medians over the rounds, so that whatever else the machine does
decides no order. Outputs are held to the network itself, layer by layer in float32.
"""

import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from inception_v3.benchmarking import contestants
from inception_v3.benchmarking.contestants import ANSWERS, PEAK, Contest
from inception_v3.benchmarking.synthetic import as_files, generated, random_network
from inception_v3.errors import InputError
from inception_v3.images.find import ImageSource
from inception_v3.inference.engines.base import LOGITS, Outputs, Pixels, Precision
from inception_v3.inference.engines.registry import load_engine
from inception_v3.inference.exported.check import MIN_AGREEMENT, compare, reference_network
from inception_v3.network import architecture
from inception_v3.support.cpu import core_count
from inception_v3.support.packages import install_command
from inception_v3.weights.formats.registry import find_writer
from inception_v3.weights.model import InceptionV3

FITTED, CHECKED = 64, 48  # pictures that int8 is made with, and others that answers are compared on
PACKAGES = ("torch", "torchvision", "onnxruntime", "openvino", "ncnn", "nncf", "timm", "keras")
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Progress = Callable[[str, int, int], None]  # what is done now, how many steps are done, how many there are
Turn = dict[str, list[float]]  # seconds of each batch, by the size of batches


@dataclass(frozen=True)
class Contestant:
    """Who runs, on which file and package; and the format of another program's weights."""

    engine: str
    precision: Precision
    file: str
    package: str
    program: str | None = None

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"


@dataclass(frozen=True)
class Row:
    """Medians of one contestant with one size of batch; None where it cannot be told.

    `ratio` is its speed over the baseline's. Memory is the process's own at its peak, on a GPU what PyTorch took there.
    `peak_share` is its arithmetic over that of a large matrix product, in the best of the rounds. Agreement and
    difference (of probabilities) are to the network itself; another program has them where it can hold the network.
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


@dataclass(frozen=True)
class Bench:
    """What was measured. `peak` is operations a second by precision; `skipped` says who has no row, and why."""

    rows: list[Row]
    baseline: str
    rounds: int
    peak: dict[str, float]
    operations: int  # of one picture: two for each multiply-accumulate
    pictures: str
    skipped: dict[str, str]
    machine: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def candidates(device: str, engines: Sequence[str], peers: bool, compiled: bool) -> list[Contestant]:
    """Those that there are for a device, the baseline first. What is installed is not asked."""
    on_cpu = device == "cpu"
    by_torch: tuple[Precision, ...] = ("fp32", "bf16") if on_cpu else ("fp32", "bf16", "fp16")
    ways = ("channels_last", "compiled") if compiled else ("channels_last",)
    found: list[Contestant] = []

    def add(engine: str, precisions: Sequence[Precision], file: str, package: str, program: str | None = None) -> None:
        found.extend(Contestant(engine, each, file, package, program) for each in precisions)

    if peers:
        add("torchvision", ("fp32",), "torchvision.pth", "torchvision", "torchvision")
        for way in ways:
            add(f"torchvision, {way}", by_torch, "torchvision.pth", "torchvision", "torchvision")
        add("torchvision on onnxruntime", ("fp32",), "torchvision.onnx", "onnxruntime", "torchvision")
        if on_cpu:
            add("torchvision on openvino", ("fp32", "bf16"), "torchvision.onnx", "openvino", "torchvision")
        for way in ways:
            add(f"timm, {way}", by_torch[:1] if on_cpu else by_torch, "timm.safetensors", "timm", "timm")
        add("keras on pytorch", ("fp32",), "keras.h5", "keras", "keras")
    chosen = [load_engine(name) for name in engines if name != "compile" or compiled]
    for engine in sorted(chosen, key=lambda engine: bool(engine.formats)):  # engines that run the model itself first
        package = engine.packages[0] if engine.packages else "inception_v3"
        for precision in engine.precisions.get(device.split(":")[0].lower(), ()):
            add(engine.name, (precision,), contestants.engine_file(engine.name, precision), package)
    return found


def bench(
    model: InceptionV3 | None = None,
    *,
    images: Sequence[ImageSource] | None = None,
    engines: Sequence[str] = tuple(contestants.ENGINES),
    precisions: Sequence[str] = PRECISIONS,
    batch_sizes: Sequence[int] = (1, 16),
    peers: bool = False,
    compiled: bool = False,
    rounds: int = 10,
    device: str = "cpu",
    progress: Progress = lambda what, done, total: None,
) -> Bench:
    """Measure a network; without one, the network of full width with random weights.

    `images` are what answers are compared on and int8 is made with; without them pictures are generated, and int8 is
    left out unless the network is the random one. `peers` adds other programs that are installed, `compiled` what goes
    through torch.compile, which takes minutes.

    Raises InputError: a network without logits, pictures that cannot be read, nothing that can run.
    """
    if model is not None and model.settings.final_endpoint:
        cut = model.settings.final_endpoint
        raise InputError(f"a network cut at {cut} names no classes to compare; give a whole one", exit_status=2)
    wanted, skipped = [], {}
    for place, one in enumerate(candidates(device, engines, peers, compiled)):
        if one.precision in precisions or (peers and place == 0):  # the baseline is wanted whatever the precisions
            reason = _why_not(one, pictures=model is None or images is not None)
            if reason:
                skipped[str(one)] = reason
            else:
                wanted.append(one)
    _check_any(wanted, skipped)
    files = list(dict.fromkeys(one.file for one in wanted))
    step = _Steps(progress, len(files) + len(wanted) + rounds * (len(wanted) + 1) + 3)

    step("making pictures and a network")
    size = model.preprocessing.image_size if model else (299, 299)
    network = model or random_network(generated(32, size, seed=1))
    if images is not None:
        fit, pixels = _split(images, network)
    else:
        drawn = generated(FITTED + CHECKED, size)
        fit, pixels = as_files(drawn[:FITTED]), drawn[FITTED:]
    with tempfile.TemporaryDirectory(prefix="inception-v3-bench-") as name, ExitStack() as stack:
        scaling, sizes = network.preprocessing, sorted(set(batch_sizes))
        contest = Contest(Path(name), device, sizes, network.settings, scaling.mean, scaling.std)
        contest.write(pixels)
        missing: dict[str, str] = {}
        for file in files:
            step(f"making {file}")
            try:
                contestants.make(contest.folder / file, network, fit)
            except (InputError, ImportError) as error:
                missing[file] = str(error).removeprefix(f"{contest.folder / file}: ")
        racing: dict[Contestant, Worker] = {}
        for one in wanted:
            step(f"starting {one}")
            try:
                if one.file in missing:
                    raise FailedError(missing[one.file])
                racing[one] = stack.enter_context(started(contest, one.engine, one.precision))
            except FailedError as error:
                skipped[str(one)] = str(error)
        _check_any(racing, skipped)
        step(f"starting {PEAK}")
        limit: Worker | None = None
        try:
            limit = stack.enter_context(started(contest, PEAK, ",".join({one.precision: 0 for one in racing})))
        except FailedError as error:
            skipped[PEAK] = str(error)

        peak: dict[str, float] = {}
        turns: dict[Contestant, list[Turn]] = {one: [] for one in racing}
        for number in range(rounds):
            step(f"round {number + 1}: {PEAK}")
            measured = limit.ask() if limit else {}
            peak |= {name: max(speed, peak.get(name, 0.0)) for name, speed in measured.items()}
            for one in list(racing)[:: -1 if number % 2 else 1]:
                step(f"round {number + 1}: {one}")
                try:
                    turns[one].append(racing[one].ask())
                except FailedError as error:
                    skipped[str(one)] = str(error)
                    del racing[one]
        _check_any(racing, skipped)

        step("comparing answers")
        reference = reference_network(network, (LOGITS,))
        expected = np.concatenate([reference(pixels[at : at + 16])[LOGITS] for at in range(0, len(pixels), 16)])
        base = next(iter(racing))
        rows, operations = [], 2 * _macs(network)
        for one, worker in racing.items():
            known: tuple[float, float] | tuple[None, None] = None, None
            if one.program is None or not find_writer(one.program).differences(network):
                found = np.load(contest.folder / ANSWERS.format(one.engine, one.precision))
                known = _agreement(found, expected, str(one))
            allowed = peak[one.precision] / operations if one.precision in peak else None
            rows += [_row(one, size, turns[one], turns[base], allowed, worker.memory, known) for size in sizes]
    told = f"{len(pixels)} {'generated pictures' if images is None else 'of the images'}"
    return Bench(rows, str(base), rounds, peak, operations, told, skipped, machine(device))


def _why_not(one: Contestant, pictures: bool) -> str | None:
    if find_spec(one.package) is None:
        ours = one.program is None
        remedy = install_command(load_engine(one.engine).extra) if ours else f"pip install {one.package}"
        return f"{one.package} is not installed; {remedy}"
    if one.engine.startswith("torchvision on") and find_spec("onnxscript") is None:
        return "its graph is written by torch.onnx, which needs onnxscript; pip install onnxscript"
    if one.precision == "int8" and not pictures:
        return "is made with pictures like those that will come; give some with --images FOLDER"
    return None


def _check_any(left: Collection[Contestant], skipped: dict[str, str]) -> None:
    if not left:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise InputError(f"nothing to measure: {reasons or 'no engine here has that precision'}", exit_status=2)


class _Steps:
    """Tells how far it is."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def __call__(self, what: str) -> None:
        self._progress(what, self._done, self._total)
        self._done += 1


def _row(
    one: Contestant,
    batch_size: int,
    turns: list[Turn],
    base: list[Turn],
    allowed: float | None,
    memory: dict[str, float | None],
    agreement: tuple[float, float] | tuple[None, None],
) -> Row:
    """`allowed` are the images a second that the arithmetic allows."""
    key = str(batch_size)
    rates, theirs = (np.array([batch_size / np.median(turn[key]) for turn in found]) for found in (turns, base))
    seconds = np.concatenate([turn[key] for turn in turns])
    rate = float(np.median(rates))
    return Row(
        one.engine,
        one.precision,
        batch_size,
        images_per_second=rate,
        ratio=float(np.median(rates / theirs)),
        latency_p50_ms=float(np.median(seconds)) * 1000,
        latency_p99_ms=float(np.percentile(seconds, 99)) * 1000,
        peak_memory_mb=memory[key],
        peak_share=rate / allowed if allowed else None,
        top1_agreement=agreement[0],
        max_difference=agreement[1],
    )


def _agreement(found: np.ndarray, expected: np.ndarray, name: str) -> tuple[float, float]:
    """The share of pictures with the same first class, and the largest difference of a probability."""

    def stored(logits: np.ndarray) -> Callable[[Pixels], Outputs]:
        return lambda _: {LOGITS: logits}

    try:
        check = compare(stored(found), stored(expected), [np.empty((len(found), 1, 1, 3), np.uint8)], "", "")
    except ValueError as error:
        warnings.warn(f"{name}: {error}", stacklevel=2)
        return 0.0, float("inf")
    return check.top_1_agreement, check.max_difference


def doubtful(rows: Sequence[Row]) -> dict[str, float]:
    """The engines of this project that agree with the network less than exports must, and how much."""
    ours = (row for row in rows if row.engine in contestants.ENGINES and row.top1_agreement is not None)
    return {
        f"{row.engine} {row.precision}": row.top1_agreement or 0.0
        for row in ours
        if (row.top1_agreement or 0.0) < MIN_AGREEMENT[row.precision]
    }


def _macs(model: InceptionV3) -> int:
    """Of one picture."""
    height, width = model.preprocessing.image_size
    options = {name: model.settings[name] for name in ("num_classes", "depth_multiplier", "min_depth", "global_pool")}
    points = architecture.end_points(height=height, width=width, create_aux_logits=False, **options)
    return sum(point.macs for point in points)


def machine(device: str) -> dict[str, Any]:
    """What it ran on, and with which versions."""
    name = platform.processor() or platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        lines = (line.partition(":") for line in cpu.read_text().splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    cores = core_count()
    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") and torch.cuda.is_available() else None
    return {"cpu": name, "cores": cores, "gpu": gpu, "device": device, "versions": versions}


# ------------------------------------------------------------------------------------------------- the pictures


def _split(images: Sequence[ImageSource], model: InceptionV3) -> tuple[list[ImageSource], Pixels]:
    """Images to make int8 with, and the pixels of others to compare on."""
    chosen = random.Random(0).sample(list(images), min(len(images), FITTED + CHECKED))
    checked = max(1, min(CHECKED, len(chosen) // 3))
    pixels = []
    for source in chosen[:checked]:
        try:
            pixels.append(model.preprocessing.array(source.open()))
        except InputError as error:
            warnings.warn(str(error), stacklevel=2)
    if not pixels:
        raise InputError("none of the images that were chosen can be read; give others with --images")
    return chosen[checked:], np.stack(pixels)


# ------------------------------------------------------------------------------------------------- the processes


class FailedError(Exception):
    """A contestant cannot start, or is gone."""


@dataclass
class Worker:
    """A contestant's process, and its memory in MB at its peak with each size of batch."""

    process: "subprocess.Popen[str]"
    log: Path
    memory: dict[str, float | None]

    def ask(self) -> dict[str, Any]:
        """Let it take a turn."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it is gone: the answer says why
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """What it says next. Raises FailedError where it says that it failed, or nothing more."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            said = self.log.read_text(errors="replace").strip().splitlines()
            raise FailedError(f"ended with exit status {self.process.wait()}" + (f": {said[-1][:200]}" if said else ""))
        told: dict[str, Any] = json.loads(line)
        if "problem" in told:
            raise FailedError(told["problem"])
        return told


@contextmanager
def started(contest: Contest, engine: str, precision: str) -> Iterator[Worker]:
    """A process that is ready. In a session of its own Ctrl-C does not reach it: it ends with this process."""
    command = [sys.executable, "-m", "inception_v3.benchmarking.contestants", str(contest.folder), engine, precision]
    log = contest.folder / f"{engine} {precision}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            env={"OMP_WAIT_POLICY": "passive"} | os.environ,  # who waits for its turn takes nothing from the others
        )
    worker = Worker(process, log, {})
    try:
        worker.memory |= worker.answer()["ready"]
        yield worker
    finally:
        process.kill()
        process.communicate()
