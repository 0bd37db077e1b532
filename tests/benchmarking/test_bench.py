"""`inception-v3 bench`: its table, wrong and missing engines, other libraries, and what is left behind: nothing."""

import csv
import dataclasses
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import randomise
from inception_v3 import cli
from inception_v3.benchmarking import bench, synthetic
from inception_v3.benchmarking.bench import BenchResult
from inception_v3.benchmarking.matrix_product import MATRIX_PRODUCT
from inception_v3.benchmarking.systems import SYSTEMS, Candidate, Workload, list_candidates
from inception_v3.benchmarking.worker import LOGITS_FILE, Worker, start_worker
from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.engines.base import LOGITS
from inception_v3.inference.engines.registry import ENGINES
from inception_v3.inference.exported.check import reference_network
from inception_v3.network.settings import Settings
from inception_v3.reports.plots import speeds
from inception_v3.support.packages import install_command
from inception_v3.weights.load import save
from inception_v3.weights.model import InceptionV3
from processes import start

Run = Callable[..., tuple[int, str, str]]
ONNX_RUNTIME = {"engines": ["onnxruntime"], "precisions": ["fp32"], "batch_sizes": [1, 2], "rounds": 2}


def thin(seed: int = 0) -> InceptionV3:
    network = InceptionV3(num_classes=7, depth_multiplier=0.1, min_depth=8, image_size=75)
    network.preprocessing = Preprocessing((75, 75))
    randomise(network, seed)
    return network.eval()


@pytest.fixture(scope="module")
def result() -> BenchResult:
    """The result for a thin network in ONNX Runtime."""
    return bench.bench(thin(), **ONNX_RUNTIME)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save(thin(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in this process; return its exit status, stdout and stderr."""

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["inception-v3", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(exited.value.code or 0), out, err

    return command


def one_line(err: str) -> str:
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, err
    return lines[0]


# ------------------------------------------------------------------------------------------------- the result


def test_there_is_a_row_for_each_engine_precision_and_batch_size(result: BenchResult) -> None:
    assert [(row.engine, row.precision, row.batch_size) for row in result.rows] == [
        ("onnxruntime", "fp32", 1),
        ("onnxruntime", "fp32", 2),
    ]
    for row in result.rows:
        assert row.ratio == 1, "it is the baseline"
        assert row.latency_p50_ms <= row.latency_p99_ms
        assert row.images_per_second > 0
        assert row.peak_share is not None
        assert row.peak_share > 0
        assert row.top1_agreement == 1
        assert row.max_difference is not None
        assert row.max_difference < 1e-5


def test_memory_is_that_of_the_engine_without_pytorch(result: BenchResult) -> None:
    """Importing PyTorch would take more than 200 MB."""
    assert all(row.peak_memory_mb is not None and 10 < row.peak_memory_mb < 200 for row in result.rows)


def test_json_holds_the_whole_result(
    result: BenchResult, monkeypatch: pytest.MonkeyPatch, run: Run, model: Path
) -> None:
    requested = {}
    monkeypatch.setattr(bench, "bench", lambda model, **options: requested.update(options) or result)
    status, out, _ = run("bench", model, "--json", "--batch-size", 1, "--batch-size", 2, "--engine", "onnxruntime",
                         "--precision", "fp32,int8", "--rounds", 3, "--peers")  # fmt: skip
    printed = json.loads(out)
    assert status == 0
    assert printed == json.loads(json.dumps(dataclasses.asdict(result)))
    assert set(printed) == {"rows", "baseline", "rounds", "peak", "operations", "pictures", "skipped", "machine"}
    assert set(printed["rows"][0]) == {
        "engine", "precision", "batch_size", "images_per_second", "ratio", "latency_p50_ms", "latency_p99_ms",
        "peak_memory_mb", "peak_share", "top1_agreement", "max_difference", "int8_share",
    }  # fmt: skip
    assert printed["machine"]["versions"]["onnxruntime"]
    assert (requested["engines"], requested["precisions"]) == (("onnxruntime",), ("fp32", "int8"))
    assert (requested["batch_sizes"], requested["rounds"], requested["peers"]) == ([1, 2], 3, True)


def test_stdout_has_only_the_result_and_the_summary_is_on_stderr(
    result: BenchResult, monkeypatch: pytest.MonkeyPatch, run: Run, model: Path
) -> None:
    monkeypatch.setattr(bench, "bench", lambda model, **options: result)
    for arguments in ((), ("--json",), ("--csv", "-")):
        _, out, err = run("bench", model, *arguments)
        assert re.search(r"^2 measurements, 0 left out, \d+ s$", err, re.MULTILINE)
        assert "left out" not in out
    assert isinstance(json.loads(run("bench", model, "--json")[1]), dict)


def test_report_and_csv_write_files_and_the_table_is_printed(
    result: BenchResult, monkeypatch: pytest.MonkeyPatch, run: Run, model: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench, "bench", lambda model, **options: result)
    status, out, _ = run("bench", model, "--report", tmp_path / "page.html", "--csv", tmp_path / "table.csv")
    assert status == 0
    assert "images/s" in out
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "<th>images/s</th>" in page
    assert f"<td>{result.rows[0].images_per_second:,.1f}</td>" in page
    header, *rows = csv.reader((tmp_path / "table.csv").read_text("utf-8").splitlines())
    assert header == [field.name for field in dataclasses.fields(result.rows[0])]
    assert [row[0] for row in rows] == [row.engine for row in result.rows]
    assert [float(row[3]) for row in rows] == [row.images_per_second for row in result.rows]
    assert run("bench", model, "--csv", "-")[1].splitlines()[0] == ",".join(header)


def test_the_table_is_not_cut_in_a_pipe(
    result: BenchResult, monkeypatch: pytest.MonkeyPatch, run: Run, model: Path
) -> None:
    monkeypatch.setattr(bench, "bench", lambda model, **options: result)
    _, out, _ = run("bench", model)
    (header,) = (line for line in out.splitlines() if "images/s" in line)
    assert header.split() == (
        "engine precision batch images/s × p50 ms p99 ms MB of peak same class off by in int8".split()  # noqa: SIM905
    )
    assert sum("100.0%" in line for line in out.splitlines()) == 2


def test_the_plot_is_a_png_file(result: BenchResult, tmp_path: Path) -> None:
    speeds(
        [(row.engine, row.precision, row.batch_size, row.images_per_second) for row in result.rows],
        {"fp32": 20.0},
        tmp_path / "speeds.png",
    )
    assert (tmp_path / "speeds.png").read_bytes().startswith(b"\x89PNG")


def test_the_published_network_takes_11_43_gflop() -> None:
    with torch.device("meta"):
        assert round(bench._operations(InceptionV3()) / 1e9, 2) == 11.43


def test_one_slow_round_does_not_change_the_ratio() -> None:
    """The ratio is computed in each round, so a disturbance that slows both systems cancels out."""
    candidate = Candidate(SYSTEMS["openvino"], "fp32")
    baseline_turns = [{"16": [2.0]}, {"16": [2.0]}, {"16": [20.0]}]
    turns = [{"16": [1.0]}, {"16": [1.0]}, {"16": [10.0]}]
    row = bench._row(candidate, 16, turns, baseline_turns, 32.0, {"16": 100.0}, (1.0, 0.0))
    assert (row.ratio, row.images_per_second, row.peak_share) == (2, 16, 0.5)
    assert row.latency_p50_ms == 1000
    assert row.latency_p99_ms > 9000


# --------------------------------------------------------------------------------------- wrong and missing engines


def test_an_engine_with_other_weights_has_a_low_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    write = bench.write_model_file
    monkeypatch.setattr(
        bench,
        "write_model_file",
        lambda candidate, folder, model, images: write(candidate, folder, thin(seed=1), images),
    )
    rows = bench.bench(thin(), **ONNX_RUNTIME).rows
    assert all(row.top1_agreement is not None and row.top1_agreement < 0.9 for row in rows)
    assert all(row.max_difference is not None and row.max_difference > 0.01 for row in rows)
    assert list(bench.low_agreement(rows)) == ["onnxruntime fp32"]


def test_nan_logits_have_no_agreement() -> None:
    with pytest.warns(UserWarning, match="finite"):
        assert bench._agreement(np.full((2, 3), np.nan), np.eye(2, 3), "openvino bf16") == (0, np.inf)


def test_a_package_that_is_not_installed_is_reported_with_the_command_that_installs_it(
    result: BenchResult, monkeypatch: pytest.MonkeyPatch, run: Run, model: Path
) -> None:
    installed = bench.find_spec
    monkeypatch.setattr(bench, "find_spec", lambda name: None if name in ("openvino", "timm") else installed(name))
    reasons = {
        str(candidate): bench._why_unavailable(candidate, can_calibrate=True)
        for candidate in list_candidates("cpu", ["openvino"], peers=True, compiled=False)
    }
    assert reasons["openvino fp32"] == f"openvino is not installed; {install_command('openvino')}"
    assert reasons["timm, channels_last fp32"] == "timm is not installed; pip install timm"
    assert reasons["torchvision fp32"] is None
    monkeypatch.setattr(bench, "bench", lambda *_, **__: dataclasses.replace(result, skipped=reasons))
    assert "openvino fp32: not measured: openvino is not installed" in run("bench", model)[2]


def test_an_engine_that_cannot_start_or_ends_early_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO has a damaged file, and ONNX Runtime is killed between its turns, for example for lack of memory."""
    write, take_turn, turns = bench.write_model_file, Worker.take_turn, []

    def write_damaged(candidate: Candidate, folder: Path, model: InceptionV3, images: list[object]) -> None:
        write(candidate, folder, model, images)
        if candidate.file.endswith(".xml"):
            (folder / candidate.file).write_text("<net ")

    def kill_in_second_round(worker: Worker) -> dict[str, object]:
        turns.append(worker)
        if len(turns) == 4:
            worker.process.kill()
        return take_turn(worker)

    monkeypatch.setattr(bench, "write_model_file", write_damaged)
    monkeypatch.setattr(Worker, "take_turn", kill_in_second_round)
    with pytest.raises(InputError, match="nothing to measure") as raised:
        bench.bench(thin(), **ONNX_RUNTIME | {"engines": ["onnxruntime", "openvino"]})
    assert "onnxruntime fp32: ended with exit status -9" in str(raised.value)
    assert "openvino fp32" in str(raised.value)


# ------------------------------------------------------------------------------------------------ other libraries


@pytest.mark.parametrize("system", ["torchvision", pytest.param("", marks=pytest.mark.slow)])
def test_other_libraries_run_the_same_network(system: str, tmp_path: Path) -> None:
    """Otherwise a ratio would compare nothing. `system` is one of them; without it they are all tested.

    They run in worker processes, as in a benchmark: some libraries leave their process in a state in which it crashes
    later (a signal stack that is no longer mapped).
    """
    with torch.device("meta"):  # no random weights are drawn, because they are replaced
        network = InceptionV3(5, **synthetic.SETTINGS)
    randomise(network.to_empty(device="cpu"))
    network.preprocessing = Preprocessing((75, 75))
    pixels = synthetic.synthetic_images(3, (75, 75))
    expected = reference_network(network.eval(), (LOGITS,))(pixels)[LOGITS]
    scaling = network.preprocessing
    workload = Workload(tmp_path, "cpu", [3], network.settings, scaling.mean, scaling.std, pixels)
    workload.write()
    candidates = list_candidates("cpu", [], peers=True, compiled=False)
    candidates = [candidate for candidate in candidates if candidate.system.format != "keras"]  # pads differently
    candidates = [candidate for candidate in candidates if system in ("", candidate.system.name)]
    assert candidates
    for candidate in {candidate.file: candidate for candidate in candidates}.values():
        bench.write_model_file(candidate, tmp_path, network, [])
    for candidate in candidates:
        with start_worker(workload, candidate.system.name, candidate.precision):
            logits = np.load(tmp_path / LOGITS_FILE.format(candidate))
        error = np.abs(logits - expected).max() / np.abs(expected).max()
        assert error < (1e-4 if candidate.precision == "fp32" else 0.1), (str(candidate), error)


def test_with_other_libraries_torchvision_in_fp32_is_always_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if fp32 was not requested, so that the ratios of all tables have the same baseline."""
    monkeypatch.setattr(bench, "_why_unavailable", lambda candidate, can_calibrate: "not here")
    with pytest.raises(InputError) as raised:
        bench.bench(thin(), precisions=["int8"], peers=True)
    reasons = str(raised.value).removeprefix("nothing to measure: ").split("; ")
    skipped = [reason.split(":")[0] for reason in reasons]
    assert skipped == ["torchvision fp32", "onnxruntime int8", "openvino int8"]


def test_other_libraries_cannot_run_a_thin_network(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="widths"):
        bench.write_model_file(Candidate(SYSTEMS["torchvision"], "fp32"), tmp_path, thin(), [])


def test_on_a_gpu_there_is_fp16_and_no_engine_for_cpus() -> None:
    names = {str(candidate) for candidate in list_candidates("cuda", tuple(ENGINES), peers=True, compiled=True)}
    assert {"pytorch fp16", "compile bf16", "timm, compiled bf16", "torchvision fp32"} <= names
    assert not any("openvino" in name or "int8" in name for name in names)


def test_the_random_network_predicts_several_classes() -> None:
    """If it predicted the same class for all images, any engine would agree with it."""
    images = synthetic.synthetic_images(12, (75, 75))
    assert len({image.tobytes() for image in images}) == 12
    logits = reference_network(synthetic.random_network(images), (LOGITS,))(images)[LOGITS]
    assert len(set(logits.argmax(1))) > 6
    assert 1 < logits.std() < 10


# ----------------------------------------------------------------------------------------- Ctrl-C, and wrong use


def use_temporary_folder(folder: str) -> None:
    tempfile.tempdir = folder


def read_command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:  # the process has ended
        return b""


def test_ctrl_c_leaves_no_process_and_no_file(model: Path, tmp_path: Path) -> None:
    command = start("bench", model, "--engine", "onnxruntime", "--precision", "fp32", "--rounds", 10_000,
                    log=tmp_path / "log", prepare=use_temporary_folder, given=(str(tmp_path),))  # fmt: skip

    def workers() -> list[Path]:
        command = f"inception_v3.benchmarking.worker\0{tmp_path}".encode()
        return [process for process in Path("/proc").glob("[0-9]*") if command in read_command_line(process)]

    command.wait_for(lambda: len(workers()) == 2)  # ONNX Runtime and the matrix product
    command.kill(signal.SIGINT)
    assert command.wait() == 130
    deadline = time.monotonic() + 30  # a worker that had just been started ends when its standard input is closed
    while workers():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not list(tmp_path.glob("inception-v3-*"))


def test_workers_end_with_the_command_however_it_ends(tmp_path: Path) -> None:
    """A command that is killed cannot end its workers: they end because their standard input is closed."""
    Workload(tmp_path, "cpu", [1], Settings(), (0.5,) * 3, (0.5,) * 3, np.zeros((1, 75, 75, 3), np.uint8)).write()
    command = [sys.executable, "-m", "inception_v3.benchmarking.worker", str(tmp_path), MATRIX_PRODUCT, "fp32"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        assert json.loads(worker.stdout.readline()) == {"ready": {}}
        worker.stdin.close()
        assert worker.wait(30) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--engine", "tensorrt"],
            "--engine: no such value tensorrt; choose from pytorch, compile, onnxruntime, openvino, ncnn",
        ),
        (["--precision", "fp32,int4"], "--precision: no such value int4"),
        (["--plot", "speeds.pdf"], "speeds.pdf: the name must end in .png"),
        (["--images", "nowhere"], "nowhere"),
        (["--engine", "onnxruntime", "--precision", "bf16"], "no engine here has that precision"),
        (["--precision", "int8"], "give some with --images"),
    ],
)
def test_a_wrong_option_is_reported_in_one_line(run: Run, model: Path, options: list[str], message: str) -> None:
    status, _, err = run("bench", model, *options)
    assert status == 2
    assert message in one_line(err)


@pytest.mark.parametrize("option", ["--rounds", "--batch-size"])
def test_there_is_at_least_one_round_and_one_image_per_batch(run: Run, model: Path, option: str) -> None:
    assert run("bench", model, option, 0)[0] == 2


def test_a_network_without_logits_is_not_measured(random_model: Callable[..., InceptionV3]) -> None:
    with pytest.raises(InputError, match="no classes to compare"):
        bench.bench(random_model(final_endpoint="Mixed_6e"))


def test_images_that_cannot_be_read_are_an_error(tmp_path: Path, model: Path, run: Run) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").touch()
    status, _, err = run("bench", model, "--images", tmp_path / "images", "--precision", "fp32")
    assert status == 1
    assert "none of the images drawn from --images can be read" in one_line(err)
