"""Streams: stdout has the result and nothing else; progress, notes, warnings and the summary are on stderr."""

import io
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import inception_v3
from conftest import randomise
from fidelity_inputs import thin_model
from inception_v3 import cli
from inception_v3.images.find import ImageSource

pytestmark = pytest.mark.usefixtures("one_thread")

Run = Callable[[str], tuple[int, str, str]]
IMAGES = 12
ACCURACY = r"top-1 \d+ % \(95 % interval \d+ to \d+ %\) of \d held-out images, mean of classes \d+ %, top-5 \d+ %"
RATE = r"[\d.]+ s, [\d.,]+ images/s"
COUNTS = rf"{IMAGES + 1} images, 1 unreadable, {RATE}, \w+ fp32"


@dataclass(frozen=True)
class Case:
    """A command line, the text on stdout, the summary on stderr, and whether --json prints one object."""

    arguments: str
    output: str
    summary: str = ""
    status: int = 0
    unreadable: bool = True  # whether the unreadable image is named on stderr


CASES = {
    "predict": Case(
        "predict model.safetensors pets", r"(pets/\S+  (cat|dog) [\d.]+%  (cat|dog) [\d.]+%\n){12}", COUNTS, 3
    ),
    "predict --out": Case("predict model.safetensors pets --out results.csv --overwrite", "", COUNTS, 3),
    "evaluate": Case("evaluate model.safetensors pets", r" *12 images *\n┏.*└.*┘\ntop-1 [^\n]*\n", COUNTS),
    "evaluate in two precisions": Case(
        "evaluate model.safetensors pets --precision fp32,bf16 --engine pytorch",
        r" *12 images *\n┏.*└.*┘\nprecision [^\n]*\nfp32 [^\n]*\nbf16 [^\n]*\nfirst row: top-1 [^\n]*\n",
        rf"{COUNTS}\n13 images, 1 unreadable, {RATE}, pytorch bf16",
    ),
    "fidelity": Case(
        "fidelity pets pets --weights-file thin.safetensors --any-weights --no-cache",
        r".*Score .*\nGenerated images: [^\n]*\nReference images: [^\n]*\nCite as: [^\n]*\n",
        COUNTS.replace("13", "26").replace("1 unr", "2 unr"),
    ),
    "finetune": Case(
        "finetune model.safetensors pets --out head --overwrite --no-cache",
        rf"head: {ACCURACY}\n",
        f"features: {COUNTS}",
    ),
    "train": Case(
        "train pets --out run --overwrite --image-size 75 --depth-multiplier 0.1 --epochs 1 --batch-size 4",
        rf"run: {ACCURACY}\n",
        rf"training, with its evaluations: \d+ images, 1 unreadable, {RATE}, pytorch (fp32|bf16)",
    ),
    "compare": Case(
        "compare model.safetensors model.safetensors pets",
        r" +difference [^\n]*\n(\w+ [^\n]*\n){21}model[^\n]* they do not part: [^\n]* 12 images\n",
        status=3,
    ),
    "patches": Case(
        "patches model.safetensors pets --out patches --overwrite --modules Mixed_7c",
        r"patches/index.html: [\d,]+ of [\d,]+ channels are active in 12 images\n",
        COUNTS,
        status=3,
    ),
    "export": Case(
        "export model.safetensors exported --to onnx",
        r"exported/fp32.onnx: fp32, [^\n]*\n  [\d.]+ images/s, [^\n]*\n",
        r"1 file written in \d+ s",
        unreadable=False,
    ),
    "convert": Case(
        "convert model.safetensors copy.safetensors",
        r"copy.safetensors: native to native; the logits differ by \S+ at 75x75\n",
        unreadable=False,
    ),
    "describe": Case("describe", r"Inception V3 at 299x299.*as a drawing\.\n", unreadable=False),
    "draw": Case("draw --out network.svg", r"network.svg: the network at 299x299\n", unreadable=False),
    "cache": Case("cache --cache store", r" *feature store *\n.*feature store in \S*store\n", unreadable=False),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 images and a file that is none, and two networks."""
    folder = tmp_path_factory.mktemp("streams")
    for number in range(IMAGES):
        path = folder / "pets" / ("cat" if number % 2 else "dog") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (80, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    (folder / "pets" / "cat" / "bad.png").write_text("hello")
    network = inception_v3.InceptionV3(num_classes=2, depth_multiplier=0.1, min_depth=8, image_size=75).eval()
    randomise(network)
    network.preprocessing, network.class_names = inception_v3.Preprocessing((75, 75)), ["cat", "dog"]
    inception_v3.save(network, folder / "model.safetensors")
    inception_v3.save(thin_model(), folder / "thin.safetensors")
    return folder


@pytest.fixture
def run(folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line in the folder; returns exit status, stdout and stderr, also of libraries in C."""
    monkeypatch.chdir(folder)

    def run(arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["inception-v3", *arguments.split()])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        out, err = capfd.readouterr()
        return int(exited.value.code or 0), out, err

    return run


@pytest.mark.parametrize("name", CASES)
def test_stdout_has_only_the_result_and_the_summary_is_on_stderr(name: str, run: Run) -> None:
    case = CASES[name]
    status, out, err = run(case.arguments)
    assert status == case.status, err
    assert re.fullmatch(case.output, out, re.DOTALL), out
    assert re.search(f"^{case.summary}$", err, re.MULTILINE), err
    assert ("bad.png: not a supported image" in err) == case.unreadable
    assert "bad.png" not in out

    status, out, err = run(f"{case.arguments} --json")
    assert status == case.status, err
    lines = out.splitlines()
    assert len(lines) == (IMAGES + 1 if name == "predict" else 1)
    assert all(isinstance(json.loads(line), dict) for line in lines)
    assert re.search(f"^{case.summary}$", err, re.MULTILINE), err


def test_a_results_file_that_is_finished_has_a_summary_of_no_images(run: Run) -> None:
    run("predict model.safetensors pets --out finished.csv --overwrite")
    _, out, err = run("predict model.safetensors pets --out finished.csv --resume")
    assert out == ""
    assert re.search(r"^0 images, 0 unreadable, .*, 13 done before$", err, re.MULTILINE), err


def test_features_from_the_store_are_counted_apart(run: Run) -> None:
    command = "fidelity pets pets --weights-file thin.safetensors --any-weights --cache features --scores is"
    run(command)
    _, _, err = run(command)
    assert re.search(r"^2 images, 2 unreadable, .* fp32, 24 more from the store$", err, re.MULTILINE), err


@pytest.fixture
def slow_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image takes a tenth of a second, so that lines of progress are due while images are decoded."""
    decode = ImageSource.open

    def slow(source: ImageSource, *arguments: Any) -> Image.Image:
        time.sleep(0.1)
        return decode(source, *arguments)

    monkeypatch.setattr(ImageSource, "open", slow)


@pytest.mark.usefixtures("slow_images")
@pytest.mark.parametrize(("images", "line"), [("pets", r"\d+ of 13 images, .*"), ("-", r"\d+ images?, .*")])
def test_predict_without_a_terminal_prints_lines_of_progress(
    run: Run, folder: Path, images: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = "\n".join(f"{path}" for path in sorted(folder.glob("pets/*/*.png")))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(paths.encode())))
    status, out, err = run(f"predict model.safetensors {images} --log-every 0.01")
    *before, last, _ = err.splitlines()
    assert status == 3
    assert [each for each in before if re.fullmatch(line, each)], err
    assert re.fullmatch(COUNTS, last)
    assert len(out.splitlines()) == IMAGES


@pytest.mark.usefixtures("slow_images")
def test_the_lines_of_a_shard_count_its_own_images(run: Run) -> None:
    _, out, err = run("predict model.safetensors pets --shard 3/3 --log-every 0.01")
    assert "\nshard 3/3: 5 of 13 images\n" in err
    assert re.search(r"^\d of 5 images, ", err, re.MULTILINE), err
    assert re.search(r"^5 images, 0 unreadable, ", err, re.MULTILINE), err
    assert len(out.splitlines()) == 5


def test_quiet_prints_neither_lines_of_progress_nor_a_summary(run: Run) -> None:
    _, out, err = run("predict model.safetensors pets --log-every 0.01 --quiet")
    assert len(out.splitlines()) == IMAGES
    assert [line.split(":")[0] for line in err.splitlines()] == ["pets/cat/bad.png", "error"]


@pytest.mark.parametrize("value", ["-1", "abc", "nan", "inf", ""])
def test_log_every_refuses_what_is_no_number_of_seconds(run: Run, value: str) -> None:
    status, out, err = run(f"predict model.safetensors pets --log-every={value}")
    assert (status, out) == (2, "")
    assert err == f"error: --log-every {value}: give a number of seconds, or 0 for no lines\n"


def test_every_long_command_has_log_every() -> None:
    import options

    with_option = {name for name, given in options.parameters().items() if "--log-every" in {o.opts[0] for o in given}}
    assert with_option == set(cli.COMMANDS) - {"serve", "load-test", "inspect", "describe", "draw", "cache"}
