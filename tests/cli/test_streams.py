"""Each command prints its results to stdout, and nothing of the libraries that it uses to stderr.

With --quiet only warnings and errors are left on stderr. The commands run in processes of their own, in which Python
shows every warning: also those that it hides by default, and those of imports and of the interpreter's exit.
"""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import inception_v3
from inception_v3.inference.export import export

pytestmark = pytest.mark.usefixtures("one_thread")

ENGINES = "pytorch,onnxruntime,openvino,ncnn"
CLASS_NAMES = ["cat", "dog"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of noise in each class of train/ and val/."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in CLASS_NAMES:
            (folder / split / name).mkdir(parents=True)
            for number in range(6):
                pixels = rng.integers(0, 256, (80, 90, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


@pytest.fixture
def model(tmp_path: Path, random_model: Callable[..., inception_v3.InceptionV3]) -> Path:
    network = random_model(num_classes=2)
    network.preprocessing = inception_v3.Preprocessing((107, 107))
    network.class_names = CLASS_NAMES
    inception_v3.save(network, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def run(command: str, folder: Path, *options: str) -> tuple[str, str]:
    """The stdout and stderr of a command that succeeds, in `folder`."""
    done = subprocess.run(
        [sys.executable, "-m", "inception_v3", *command.split(), "--quiet", *options],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONWARNINGS": "default", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "train {images} --out run --recipe digits --epochs 1 --depth-multiplier 0.1 --image-size 75 --batch-size 4",
        "finetune {model} {images} --out run --cache features --unfreeze Mixed_7 --epochs 1",
        "evaluate {model} {images} --report report.html",
        "predict {model} {images}/val/cat/0.png",
        "export {model} network.onnx",
        "export {model} network.xml",
        "export {model} network.pt2",
        "bench {model} --rounds 1 --batch-size 1 --precision fp32 --plot speeds.png --engine onnxruntime",
        pytest.param(
            "bench {model} --rounds 1 --batch-size 1 --precision fp32 --plot speeds.png --engine " + ENGINES,
            marks=pytest.mark.slow,
        ),
        "convert {model} network.ckpt --to tf-slim --allow-difference",
        pytest.param("predict {model} {images}/val/cat/0.png --engine compile", marks=pytest.mark.slow),
    ],
)
def test_a_command_prints_only_its_result(command: str, model: Path, images: Path, tmp_path: Path) -> None:
    out, err = run(command.format(model=model, images=images), tmp_path, "--json")
    assert err == ""
    assert json.loads(out)


@pytest.mark.parametrize("command", ["describe", "cache --cache features"])
def test_a_command_without_pytorch_prints_only_its_table(command: str, tmp_path: Path) -> None:
    out, err = run(command, tmp_path)
    assert err == ""
    assert len(out.splitlines()) > 2


def test_fidelity_prints_only_its_scores_and_our_own_warnings(
    images: Path, weights_of_2015: Path, tmp_path: Path
) -> None:
    sets = f"{images}/val/cat {images}/val/dog"
    options = f"--any-weights --weights-file {weights_of_2015} --cache features --report report.html --scores fid,kid"
    out, err = run(f"fidelity {sets} {options} --kid-subset-size 4", tmp_path, "--json")
    assert json.loads(out)
    faults = ("6 of 6 generated images (90x80) are", "6 of 6 reference images (90x80) are", "6 images are few")
    assert len(err.splitlines()) == len(faults), err
    assert all(f"warning: {fault}" in err for fault in faults), err


def test_export_to_core_ml_prints_only_our_own_warning(model: Path, tmp_path: Path) -> None:
    out, err = run(f"export {model} network.mlpackage", tmp_path, "--json")
    assert json.loads(out)
    assert err == (
        "warning: network.mlpackage: not checked, since only Apple's Core ML runs it; compare its outputs there\n"
    )


# ------------------------------------------------------------------- streams that are closed, full, or without a letter

PROGRAM = f"{sys.executable} -m inception_v3"
UNWRITTEN = "error: standard output: cannot be written ({}); redirect it to another file or disk\n"
CLOSED = UNWRITTEN.format("Bad file descriptor")


def shell(line: str, folder: Path, **environment: str) -> tuple[int, str, str]:
    """The exit status, stdout and stderr of a line of the shell, in which PROGRAM is the command."""
    done = subprocess.run(
        ["bash", "-c", line.replace("PROGRAM", PROGRAM)],
        capture_output=True,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    assert "Traceback" not in err
    return done.returncode, out, err


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three images and a network whose classes are not in ASCII, exported so that it loads quickly."""
    folder = tmp_path_factory.mktemp("pets")
    for number in range(3):
        Image.new("RGB", (80, 80), (90 * number, 0, 0)).save(folder / f"{number}.png")
    network = inception_v3.InceptionV3(num_classes=2, depth_multiplier=0.1, min_depth=8, image_size=75).eval()
    network.preprocessing, network.class_names = inception_v3.Preprocessing((75, 75)), ["猫", "dög"]
    export(network, folder / "model.onnx")
    return folder


@pytest.mark.parametrize("command", ["--version", "--help", "describe", "describe --json", "cache --cache features"])
def test_a_result_for_a_closed_stdout_is_an_error(command: str, tmp_path: Path) -> None:
    assert shell(f"PROGRAM {command} >&-", tmp_path) == (1, "", CLOSED)


def test_a_closed_stdout_does_not_matter_to_results_in_a_file(pets: Path) -> None:
    status, out, err = shell("PROGRAM predict model.onnx *.png --out all.jsonl --quiet >&- 2>&- <&-", pets)
    assert (status, out, err) == (0, "", "")
    assert [json.loads(line)["image"] for line in (pets / "all.jsonl").read_text("utf-8").splitlines()] == [
        "0.png",
        "1.png",
        "2.png",
    ]


@pytest.mark.slow
def test_predict_without_stdout_says_so(pets: Path) -> None:
    status, out, err = shell("PROGRAM predict model.onnx 0.png --quiet >&-", pets)
    assert (status, out, err) == (1, "", CLOSED)


def test_notes_do_not_go_to_stdout_if_stderr_is_closed(pets: Path) -> None:
    status, out, err = shell("PROGRAM predict model.onnx *.png --json --log-every 0.01 2>&-", pets)
    assert (status, err) == (0, "")
    assert [json.loads(line)["image"] for line in out.splitlines()] == ["0.png", "1.png", "2.png"]


def test_messages_for_a_full_disk_do_not_end_a_command(tmp_path: Path) -> None:
    status, out, _ = shell("PROGRAM describe --json --verbose 2>/dev/full", tmp_path)
    assert status == 0
    assert json.loads(out)


def test_no_file_gets_the_descriptor_of_a_closed_stream(tmp_path: Path) -> None:
    program = "from inception_v3.support.streams import *; protect_streams(); import os; print(os.open('/dev/null', 0))"
    (tmp_path / "p.py").write_text(program)
    status, out, _ = shell(f"{sys.executable} p.py <&- 2>&-", tmp_path)
    assert status == 0
    assert int(out) > 2


@pytest.mark.parametrize("command", ["cache --clear all --cache features", "predict model.onnx -"])
def test_a_closed_stdin_is_empty(command: str, pets: Path) -> None:
    status, out, err = shell(f"PROGRAM {command} --quiet <&-", pets)
    assert (status, out, err.count("\n")) == (2, "", 1), err


def test_a_reader_that_has_read_enough_is_no_error(tmp_path: Path) -> None:
    line = "(PROGRAM describe; echo $? >&2) | true; (PROGRAM describe --json; echo $? >&2) | true"
    assert shell(line, tmp_path) == (0, "", "0\n0\n")


@pytest.mark.parametrize(("encoding", "arrow"), [("ascii:strict", r"\u2192"), ("latin-1", r"\u2192"), ("utf-16", "→")])
def test_a_character_that_stdout_lacks_is_escaped(encoding: str, arrow: str, tmp_path: Path) -> None:
    status, _, err = shell("PROGRAM describe > plain.txt", tmp_path, PYTHONIOENCODING=encoding)
    assert (status, err.replace("\0", "")) == (0, "")
    assert arrow in (tmp_path / "plain.txt").read_text(encoding.partition(":")[0])


def test_json_holds_every_character_on_a_stdout_in_ascii(pets: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    status, out, err = shell("PROGRAM predict model.onnx 0.png --json", pets, **ascii_only)
    assert status == 0, err
    assert out.isascii()
    assert {row["class"] for row in json.loads(out)["predictions"]} == {"猫", "dög"}


def test_a_table_is_printed_on_a_terminal_of_one_column(tmp_path: Path) -> None:
    status, out, err = shell("PROGRAM describe", tmp_path, TERM="dumb", COLUMNS="1", NO_COLOR="1")
    assert (status, err) == (0, "")
    assert out


@pytest.mark.parametrize("is_socket", [False, True])
def test_a_non_blocking_stdout_is_waited_for(is_socket: bool, tmp_path: Path) -> None:
    """A pipe holds 64 KiB, and its reader starts late."""
    program = "from inception_v3.support.streams import *; protect_streams(); print('x' * 1_000_000)"
    ends = socket.socketpair() if is_socket else os.pipe()
    reading, writing = (end if isinstance(end, int) else end.detach() for end in ends)
    os.set_blocking(writing, False)
    with subprocess.Popen([sys.executable, "-c", program], stdout=writing, stderr=subprocess.PIPE) as process:
        os.close(writing)
        with os.fdopen(reading, "rb") as reader:
            assert len(reader.read()) == 1_000_001
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.slow
def test_a_predictor_needs_no_streams(pets: Path) -> None:
    """Like a program with windows: pythonw has no streams."""
    program = """if True:
        import sys
        sys.stdin = sys.stdout = sys.stderr = None
        import inception_v3
        (prediction,) = inception_v3.Predictor("model.onnx")("0.png")
        open("classes.txt", "w", encoding="utf-8").write(" ".join(sorted(name for name, _ in prediction.classes)))
    """
    (pets / "windows.py").write_text(program)
    assert shell(f"{sys.executable} windows.py <&- >&- 2>&-", pets) == (0, "", "")
    assert (pets / "classes.txt").read_text("utf-8") == "dög 猫"


def test_only_the_shared_functions_print() -> None:
    """They pass every text to `printable`; rich's tables get their cells from it."""
    package = Path(inception_v3.__file__).parent
    printing = re.compile(r"(?<![\w.])print\(|console\.print\(|Console\(")
    lines = {
        f"{file.relative_to(package)}: {line.strip()}"
        for file in package.rglob("*.py")
        for line in file.read_text("utf-8").splitlines()
        if printing.search(line) and not re.search(r'^\s*(#|\.\.\.|["\']|def )|new_console\(|file=replies', line)
    }
    allowed = ("cli/common.py", "cli/__init__.py", "support/streams.py", "support/progress.py", "images/find.py")
    tables = {line for line in lines if line.endswith("console.print(table)")}
    assert {line for line in lines - tables if not line.startswith(allowed)} == set()
