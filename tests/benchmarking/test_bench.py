"""`inception-v3 bench`: what the table tells, that a wrong engine shows in it, and that nothing is left behind."""

import dataclasses
import json
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
from inception_v3.benchmarking import bench, contestants, synthetic
from inception_v3.benchmarking.bench import Bench, Contestant
from inception_v3.benchmarking.contestants import Contest
from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.engines.base import LOGITS
from inception_v3.inference.exported.check import reference_network
from inception_v3.reports.plots import speeds
from inception_v3.weights.load import save
from inception_v3.weights.model import InceptionV3
from processes import start

Run = Callable[..., tuple[int, str, str]]
ONE = {"engines": ["onnxruntime"], "precisions": ["fp32"], "batch_sizes": [1, 2], "rounds": 2}


def thin(seed: int = 0) -> InceptionV3:
    network = InceptionV3(num_classes=7, depth_multiplier=0.1, min_depth=8, image_size=75)
    network.preprocessing = Preprocessing((75, 75))
    randomise(network, seed)
    return network.eval()


@pytest.fixture(scope="module")
def found() -> Bench:
    """A thin network in ONNX Runtime, measured."""
    return bench.bench(thin(), **ONE)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save(thin(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command in this process: exit status, stdout, stderr."""

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


# ---------------------------------------------------------------------------------------------- what it tells


def test_there_is_a_row_for_each_engine_precision_and_size_of_batch(found: Bench) -> None:
    assert [(row.engine, row.precision, row.batch_size) for row in found.rows] == [
        ("onnxruntime", "fp32", 1),
        ("onnxruntime", "fp32", 2),
    ]
    for row in found.rows:
        assert row.ratio == 1  # it is the baseline
        assert row.latency_p50_ms <= row.latency_p99_ms
        assert row.images_per_second > 0
        assert row.peak_share is not None
        assert row.peak_share > 0
        assert row.top1_agreement == 1
        assert row.max_difference is not None
        assert row.max_difference < 1e-5


def test_memory_is_that_of_the_engine_alone(found: Bench) -> None:
    """PyTorch takes more than 200 MB when it is only imported."""
    assert all(row.peak_memory_mb is not None and 10 < row.peak_memory_mb < 200 for row in found.rows)


def test_programs_read_the_same_as_json(found: Bench, monkeypatch: pytest.MonkeyPatch, run: Run, model: Path) -> None:
    asked = {}
    monkeypatch.setattr(bench, "bench", lambda model, **options: asked.update(options) or found)
    status, out, _ = run("bench", model, "--json", "--batch-size", 1, "--batch-size", 2, "--engines", "onnxruntime",
                         "--precisions", "fp32,int8", "--rounds", 3, "--peers")  # fmt: skip
    told = json.loads(out)
    assert status == 0
    assert told == json.loads(json.dumps(found.as_dict()))
    assert set(told) == {"rows", "baseline", "rounds", "peak", "operations", "pictures", "skipped", "machine"}
    assert set(told["rows"][0]) == {
        "engine", "precision", "batch_size", "images_per_second", "ratio", "latency_p50_ms", "latency_p99_ms",
        "peak_memory_mb", "peak_share", "top1_agreement", "max_difference",
    }  # fmt: skip
    assert told["machine"]["versions"]["onnxruntime"]
    assert (asked["engines"], asked["precisions"]) == (("onnxruntime",), ("fp32", "int8"))
    assert (asked["batch_sizes"], asked["rounds"], asked["peers"]) == ([1, 2], 3, True)


def test_people_get_a_table_that_a_pipe_does_not_cut(
    found: Bench, monkeypatch: pytest.MonkeyPatch, run: Run, model: Path
) -> None:
    monkeypatch.setattr(bench, "bench", lambda model, **options: found)
    _, out, _ = run("bench", model)
    (header,) = (line for line in out.splitlines() if "images/s" in line)
    assert header.split() == (
        "engine precision batch images/s × p50 ms p99 ms MB of peak same class off by".split()  # noqa: SIM905
    )
    assert sum("100.0%" in line for line in out.splitlines()) == 2


def test_the_plot_is_a_picture(found: Bench, tmp_path: Path) -> None:
    speeds(
        [(row.engine, row.precision, row.batch_size, row.images_per_second) for row in found.rows],
        {"fp32": 20.0},
        tmp_path / "speeds.png",
    )
    assert (tmp_path / "speeds.png").read_bytes().startswith(b"\x89PNG")


def test_the_arithmetic_of_the_published_network_is_known() -> None:
    with torch.device("meta"):
        assert round(2 * bench._macs(InceptionV3()) / 1e9, 2) == 11.43


def test_one_noisy_round_decides_nothing() -> None:
    """Ratios are taken in each round: what slows all alike does not show."""
    one = Contestant("openvino", "fp32", "", "")
    base = [{"16": [2.0]}, {"16": [2.0]}, {"16": [20.0]}]
    ours = [{"16": [1.0]}, {"16": [1.0]}, {"16": [10.0]}]
    row = bench._row(one, 16, ours, base, 32.0, {"16": 100.0}, (1.0, 0.0))
    assert (row.ratio, row.images_per_second, row.peak_share) == (2, 16, 0.5)
    assert row.latency_p50_ms == 1000
    assert row.latency_p99_ms > 9000


# --------------------------------------------------------------------------------------- wrong and missing engines


def test_an_engine_that_says_something_else_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    make = contestants.make
    monkeypatch.setattr(contestants, "make", lambda file, model, fit: make(file, thin(seed=1), fit))
    broken = bench.bench(thin(), **ONE)
    assert all(row.top1_agreement is not None and row.top1_agreement < 0.9 for row in broken.rows)
    assert all(row.max_difference is not None and row.max_difference > 0.01 for row in broken.rows)
    assert list(bench.doubtful(broken.rows)) == ["onnxruntime fp32"]


def test_answers_that_are_no_numbers_agree_with_nothing() -> None:
    with pytest.warns(UserWarning, match="not finite numbers"):
        assert bench._agreement(np.full((2, 3), np.nan), np.eye(2, 3), "openvino bf16") == (0, np.inf)


def test_what_is_not_installed_is_left_out_with_a_line(
    found: Bench, monkeypatch: pytest.MonkeyPatch, run: Run, model: Path
) -> None:
    installed = bench.find_spec
    monkeypatch.setattr(bench, "find_spec", lambda name: None if name in ("openvino", "timm") else installed(name))
    lacking = {
        str(one): bench._why_not(one, pictures=True) for one in bench.candidates("cpu", ["openvino"], True, False)
    }
    assert lacking["openvino fp32"] == "openvino is not installed; pip install 'inception-v3[openvino]'"
    assert lacking["timm, channels_last fp32"] == "timm is not installed; pip install timm"
    assert lacking["torchvision fp32"] is None
    monkeypatch.setattr(bench, "bench", lambda *_, **__: dataclasses.replace(found, skipped=lacking))
    assert "openvino fp32: left out: openvino is not installed" in run("bench", model)[2]


def test_an_engine_that_cannot_start_or_goes_away_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One has a damaged file, the other is killed between its turns, say for its memory."""
    make, ask, turns = contestants.make, bench.Worker.ask, []

    def damaged(file: Path, model: InceptionV3, fit: list[object]) -> None:
        make(file, model, fit)
        if file.suffix == ".xml":
            file.write_text("<net ")

    def killed(worker: bench.Worker) -> dict[str, object]:
        turns.append(worker)
        if len(turns) == 4:  # of the second round
            worker.process.kill()
        return ask(worker)

    monkeypatch.setattr(contestants, "make", damaged)
    monkeypatch.setattr(bench.Worker, "ask", killed)
    with pytest.raises(InputError, match="nothing to measure") as raised:
        bench.bench(thin(), **ONE | {"engines": ["onnxruntime", "openvino"]})
    assert "onnxruntime fp32: ended with exit status -9" in str(raised.value)
    assert "openvino fp32" in str(raised.value)


# ------------------------------------------------------------------------------------------------ other programs


def test_other_programs_run_the_same_network(tmp_path: Path) -> None:
    """Otherwise a ratio would compare nothing. In processes of their own, as in a contest: some leave marks on theirs
    (a signal stack that is unmapped) from which it dies later."""
    with torch.device("meta"):  # nothing is drawn to be thrown away
        network = InceptionV3(5, **synthetic.SETTINGS)
    randomise(network.to_empty(device="cpu"))
    network.preprocessing = Preprocessing((75, 75))
    pixels = synthetic.synthetic_images(3, (75, 75))
    expected = reference_network(network.eval(), (LOGITS,))(pixels)[LOGITS]
    scaling = network.preprocessing
    contest = Contest(tmp_path, "cpu", [3], network.settings, scaling.mean, scaling.std)
    contest.write(pixels)
    candidates = [one for one in bench.candidates("cpu", [], True, False) if one.program != "keras"]  # other borders
    for file in {one.file for one in candidates}:
        contestants.make(tmp_path / file, network, [])
    for one in candidates:
        with bench.started(contest, one.engine, one.precision):
            answers = np.load(tmp_path / contestants.ANSWERS.format(one.engine, one.precision))
        error = np.abs(answers - expected).max() / np.abs(expected).max()
        assert error < (1e-4 if one.precision == "fp32" else 0.1), (str(one), error)


def test_with_other_programs_the_baseline_is_torchvision_in_every_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its precision was not asked for: ratios of all tables are to the same."""
    monkeypatch.setattr(bench, "_why_not", lambda one, pictures: "away")
    with pytest.raises(InputError) as raised:
        bench.bench(thin(), precisions=["int8"], peers=True)
    away = [each.split(":")[0] for each in str(raised.value).removeprefix("nothing to measure: ").split("; ")]
    assert away == ["torchvision fp32", "onnxruntime int8", "openvino int8"]


def test_a_thin_network_has_no_peers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="widths"):
        contestants.make(tmp_path / "torchvision.pth", thin(), [])


def test_on_a_gpu_there_are_half_precisions_and_no_processor_s_engine() -> None:
    names = {str(one) for one in bench.candidates("cuda", list(contestants.ENGINES), True, True)}
    assert {"pytorch fp16", "compile bf16", "timm, compiled bf16", "torchvision fp32"} <= names
    assert not any("openvino" in name or "int8" in name for name in names)


def test_the_random_network_tells_pictures_apart() -> None:
    """Were all of one class, agreement would say nothing."""
    pictures = synthetic.synthetic_images(12, (75, 75))
    assert len({one.tobytes() for one in pictures}) == 12
    logits = reference_network(synthetic.random_network(pictures), (LOGITS,))(pictures)[LOGITS]
    assert len(set(logits.argmax(1))) > 6
    assert 1 < logits.std() < 10


# ----------------------------------------------------------------------------------------- Ctrl-C, and wrong use


def keep_files_in(folder: str) -> None:
    tempfile.tempdir = folder


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""


def test_ctrl_c_leaves_no_process_and_no_file(model: Path, tmp_path: Path) -> None:
    command = start("bench", model, "--engines", "onnxruntime", "--precisions", "fp32", "--rounds", 10_000,
                    log=tmp_path / "log", prepare=keep_files_in, given=(str(tmp_path),))  # fmt: skip

    def workers() -> list[Path]:
        asked = f"inception_v3.benchmarking.contestants\0{tmp_path}".encode()
        return [one for one in Path("/proc").glob("[0-9]*") if asked in _bytes(one / "cmdline")]

    command.wait_for(lambda: len(workers()) == 2)  # ONNX Runtime and the matrix product
    command.kill(signal.SIGINT)
    assert command.wait() == 130
    until = time.monotonic() + 30  # one that had just been started sees for itself that nobody is there
    while workers():
        assert time.monotonic() < until
        time.sleep(0.1)
    assert not list(tmp_path.glob("inception-v3-*"))


def test_workers_end_with_the_command_however_it_ends(tmp_path: Path) -> None:
    """Killed itself it can tell them nothing: they see that nobody is there to ask."""
    Contest(tmp_path, "cpu", [1], {}, (0.5,) * 3, (0.5,) * 3).write(np.zeros((1, 75, 75, 3), np.uint8))
    command = [sys.executable, "-m", "inception_v3.benchmarking.contestants", str(tmp_path), contestants.PEAK, "fp32"]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert worker.stdin is not None
    assert worker.stdout is not None
    assert json.loads(worker.stdout.readline()) == {"ready": {}}
    worker.stdin.close()
    assert worker.wait(30) == 0


@pytest.mark.parametrize(
    ("options", "output"),
    [
        (["--engines", "tensorrt"], "--engines: no 'tensorrt'; there are pytorch, compile, onnxruntime, openvino"),
        (["--precisions", "fp32,int4"], "--precisions: no 'int4'"),
        (["--plot", "speeds.pdf"], "speeds.pdf: the name must end in .png"),
        (["--images", "nowhere"], "nowhere"),
        (["--engines", "onnxruntime", "--precisions", "bf16"], "no engine here has that precision"),
        (["--precisions", "int8"], "give some with --images"),
    ],
)
def test_wrong_use_is_told_in_a_line(run: Run, model: Path, options: list[str], output: str) -> None:
    status, _, err = run("bench", model, *options)
    assert status == 2
    assert output in one_line(err)


@pytest.mark.parametrize("option", ["--rounds", "--batch-size"])
def test_there_is_at_least_one_round_and_one_picture(run: Run, model: Path, option: str) -> None:
    assert run("bench", model, option, 0)[0] == 2


def test_a_network_without_logits_is_not_measured(random_model: Callable[..., InceptionV3]) -> None:
    with pytest.raises(InputError, match="names no classes"):
        bench.bench(random_model(final_endpoint="Mixed_6e"))


def test_pictures_that_cannot_be_read_are_told(tmp_path: Path, model: Path, run: Run) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").touch()
    status, _, err = run("bench", model, "--images", tmp_path / "images", "--precisions", "fp32")
    assert status == 1
    assert "none of the images that were chosen can be read" in one_line(err)
