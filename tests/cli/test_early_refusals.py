"""What is known beforehand is refused before a model is loaded or an image is read, and a refusal leaves nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import inception_v3
from inception_v3 import cli

pytestmark = pytest.mark.usefixtures("one_thread")

REFUSED = [
    # predict
    ("predict {model} {data} --out {work}/old.jsonl", 2, "old.jsonl: exists already; continue it with --resume"),
    ("predict {model} {data} --out {work}/file/x.jsonl", 1, "file/x.jsonl: cannot be written"),
    ("predict {model} {data} --out {work}/folder.csv", 2, "folder.csv: is a folder"),
    ("predict {model} {data} --out {work}/old.parquet", 2, "old.parquet: is not a folder"),
    ("predict {model} {data} --out {work}/fifo.csv", 2, "fifo.csv: not a file, so results cannot be kept"),
    ("predict {model} {data} --out {work}/old.jsonl --shard 2/2 --resume", 2, "holds shard 1/2, and only a folder"),
    ("predict {model} {data}/cat/0.png {work}/missing.png", 2, "missing.png: no such file or folder"),
    ("predict {model} {data} --precision int8", 2, "int8 is calibrated on images; use `inception-v3 export"),
    ("predict {model} {data} --engine ncnn --precision bf16", 2, "ncnn does not support bf16 here"),
    ("predict {model} {data} --device cuda:9", 2, "--device cuda:9"),
    # evaluate
    ("evaluate {model} {work}/others", 1, "others: the model has no class fox; it has cat, dog"),
    ("evaluate {model} {work}/gap", 1, "empty: no images in it; add some or remove the folder"),
    ("evaluate {model} {data} --with {work}/missing", 1, "missing: there is no such file"),
    ("evaluate {model} {data} --with {work}/other.safetensors", 1, "its classes differ from those of"),
    ("evaluate {model} {data} --report {work}/file/x.html", 1, "file/x.html: cannot be written"),
    ("evaluate {model} {data} --report {work}/x.html --csv {work}/x.html", 2, "x.html: given for two outputs"),
    ("evaluate {model} {data} --report {work}/x --csv {work}/x", 2, "x: given for two outputs"),
    ("evaluate {model} {data} --report {work}/x.html --csv {work}/link.html", 2, "link.html: given for two outputs"),
    # train
    ("train {data} --out {work}/run", 2, "run: already holds a model without a saved state"),
    ("train {data} --out {work}/file", 2, "file: is not a folder"),
    ("train {data} --out {work}/file/run", 1, "file/run: cannot be written"),
    ("train {data} --out {data}/cat/run", 2, "inside"),
    ("train {work}/gap --out {work}/new/run", 1, "empty: no images in it"),
    # finetune
    ("finetune {model} {data} --out {work}/run", 2, "run: already holds a model without a saved state"),
    ("finetune {model} {data} --out {work}/file", 2, "file: is not a folder"),
    ("finetune {model} {data} --out {work}/circle", 2, "circle: its symbolic links form a circle"),
    ("finetune {work}/missing {data} --out {work}/new/run", 1, "missing: there is no such file"),
    ("finetune {model} {work}/gap --out {work}/new/run", 1, "empty: no images in it"),
    ("finetune {model} {data} --cache {work}/c --no-cache", 2, "--cache and --no-cache: use only one of them"),
    # export, convert
    ("export {model} {work}/file/x.onnx", 1, "file/x.onnx: cannot be written"),
    ("export {model} {work}/x.pt2 --precision int8 --images {data}", 2, "torch-export has fp32, bf16, fp16"),
    ("export {model} {work}/x.onnx --precision int8", 2, "int8 is checked on your own images"),
    ("export {model} {work}/x.onnx --precision int8 --images {work}/missing", 2, "missing: no such file or folder"),
    ("export {model} {work}/x.onnx --precision int8 --images {data}", 1, "4 images are too few to check int8 on"),
    ("convert {model} {work}/folder.csv --to keras", 2, "folder.csv: is a folder"),
    ("convert {model} {work}/file/x.h5", 1, "file/x.h5: cannot be written"),
    # fidelity, bench
    ("fidelity {data} --scores fid,kid", 2, "--scores fid,kid: needs images to compare with; give REFERENCE too"),
    ("fidelity {data} {data} --report {work}/x.html --save-statistics {work}/x.html", 2, "given for two outputs"),
    ("fidelity {data} {data} --save-statistics {work}/folder.csv", 2, "folder.csv: is a folder"),
    ("fidelity {data} {data} --cache {work}/c --no-cache", 2, "--cache and --no-cache: use only one of them"),
    ("fidelity {data} {work}/missing", 2, "missing: no such file or folder"),
    ("bench {model} --plot {work}/x.png --csv {work}/x.png", 2, "x.png: given for two outputs"),
    ("bench {model} --images {work}/missing", 2, "missing: no such file or folder"),
]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, random_model: Callable[..., inception_v3.InceptionV3]) -> Path:
    """A folder with models of the classes cat and dog, data of them and of others, and files that are in the way.

    All tests share it, because they leave it as it was.
    """
    tmp_path = tmp_path_factory.mktemp("work")
    for name in ("data/cat", "data/dog", "others/cat", "others/fox", "gap/cat", "gap/dog"):
        (tmp_path / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (80, 80), (40 * number, len(name), 9)).save(tmp_path / name / f"{number}.png")
    (tmp_path / "gap" / "empty").mkdir()
    for name, classes in (("model", ["cat", "dog"]), ("other", ["cat", "fox"])):
        network = random_model(num_classes=2, image_size=75)
        network.class_names = classes
        inception_v3.save(network, tmp_path / f"{name}.safetensors")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").write_bytes(b"old")
    for name in ("file", "old.parquet"):
        (tmp_path / name).write_text("old")
    (tmp_path / "old.jsonl").write_text('{"image": "x", "error": "y"}\n')
    (tmp_path / "old.jsonl.about.json").write_text('{"shard": "1/2"}')
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "link.html").symlink_to("x.html")
    (tmp_path / "circle").symlink_to("circle")
    os.mkfifo(tmp_path / "fifo.csv")
    return tmp_path


def tree(folder: Path) -> dict[Path, float]:
    return {path: path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()} | {
        path: 0 for path in folder.rglob("*") if path.is_dir()
    }


@pytest.mark.parametrize(("command", "status", "message"), REFUSED, ids=[command for command, *_ in REFUSED])
def test_it_is_refused_before_a_model_is_loaded_or_an_image_is_read(
    command: str,
    status: int,
    message: str,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def too_late(*_: Any, **__: Any) -> None:
        raise AssertionError("too late")

    monkeypatch.setenv("XDG_CACHE_HOME", str(work / "cache"))
    monkeypatch.setattr("inception_v3.weights.read.read_source", too_late)
    monkeypatch.setattr(Image.Image, "load", too_late)
    monkeypatch.setattr("inception_v3.data.labelled_images.LabelledImages.content", too_late)
    before = tree(work)
    arguments = command.format(work=work, data=work / "data", model=work / "model.safetensors").split()
    monkeypatch.setattr(sys, "argv", ["inception-v3", *arguments])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    err = capsys.readouterr().err
    assert [line for line in err.splitlines() if line.startswith("error:")] == err.splitlines()[-1:], err
    assert (exited.value.code, message in err) == (status, True), err
    assert tree(work) == before, "no file or folder is left"


@pytest.mark.parametrize(
    "command",
    [
        "predict {model} {data} --out {work}/old.jsonl",
        "finetune {model} {data} --cache {work}/c --no-cache",
        "fidelity {data} {data} --cache {work}/c --no-cache",
        "bench {model} --plot {work}/x.png --csv {work}/x.png",
        "bench {model} --images {work}/missing",
    ],
)
def test_it_is_refused_before_pytorch_is_imported(command: str, work: Path) -> None:
    arguments = command.format(work=work, data=work / "data", model=work / "model.safetensors").split()
    program = f"import sys; sys.modules['torch'] = None; from inception_v3 import cli; sys.argv[1:] = {arguments}"
    done = subprocess.run([sys.executable, "-c", f"{program}; cli.main()"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n"), "torch" in done.stderr) == (2, 1, False), done.stderr


# ------------------------------------------------------------------------------------------ what a failure leaves


@pytest.mark.parametrize(
    "command",
    [
        "export {broken} {work}/new/deep/model.onnx",
        "export {broken} {work}/new/deep --to torch-export",
        "export {broken} {work}/new/deep --to triton",
        "convert {broken} {work}/new/deep/model.h5",
        "finetune {broken} {data} --out {work}/new/deep --no-cache",
        "predict {broken} {data} --out {work}/new/deep/results.parquet",
        "evaluate {broken} {data} --report {work}/new/deep --csv {work}/new/table.csv",
    ],
)
def test_a_failed_command_leaves_no_folders(
    command: str, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = inception_v3.load(work / "model.safetensors")
    for parameter in model.parameters():
        parameter.detach().fill_(float("nan"))
    inception_v3.save(model, work / "broken.safetensors")
    if command.startswith(("predict", "finetune")):  # these compute with any weights
        (work / "broken.safetensors").write_bytes(b"damaged")
    before = tree(work)
    arguments = command.format(work=work, data=work / "data", broken=work / "broken.safetensors").split()
    monkeypatch.setattr(sys, "argv", ["inception-v3", *arguments])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert exited.value.code not in (0, None), capsys.readouterr()
    assert tree(work) == before


SLOW_EXPORT = """
import sys, time
from inception_v3 import cli
from inception_v3.inference import export
def wait(*_, **__):
    print("ready", flush=True)
    time.sleep(60)
export.time_run = wait
sys.argv = ["inception-v3", "export", *sys.argv[1:3]]
cli.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_export_leaves_no_folders(number: signal.Signals, status: int, work: Path) -> None:
    before = tree(work)
    arguments = [work / "model.safetensors", work / "new" / "deep" / "model.onnx"]
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_EXPORT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert tree(work) != before
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err.splitlines()[-1]) == (status, "interrupted"), err
    assert tree(work) == before


def test_only_folders_that_the_command_created_are_removed(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "mine" / "empty").mkdir(parents=True)
    (work / "mine" / "run").mkdir()
    for out in (work / "mine" / "run", work / "mine" / "empty" / "new"):
        monkeypatch.setattr(sys, "argv", ["inception-v3", "train", str(work / "gap"), "--out", str(out)])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        assert (exited.value.code, "no images in it" in capsys.readouterr().err) == (1, True)
    assert sorted(path.name for path in (work / "mine").rglob("*")) == ["empty", "run"]
