"""Every output follows symbolic links, and is written through devices, FIFOs and descriptors or refused."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import inception_v3
from inception_v3 import cli
from inception_v3.support import files

pytestmark = pytest.mark.usefixtures("one_thread")

OUTPUTS = {
    "convert": ("convert {model} {out}", "x.safetensors"),
    "export": ("export {model} {out}", "x.pt2"),
    "predict": ("predict {model} {data} --overwrite --out {out}", "x.csv"),
    "report": ("evaluate {model} {data} --report {out}", "x.html"),
    "csv": ("evaluate {model} {data} --csv {out}", "x.csv"),
}
FOLDERS = {
    "run folder": ("finetune {model} {data} --no-cache --out {out}", "run", "model.safetensors"),
    "results": ("predict {model} {data} --out {out}", "x.parquet", "part-000000000000.parquet"),
    "exports": ("export {model} {out} --to torch-export", "exports", "fp32.pt2"),
    "repository": ("export {model} {out} --to triton", "triton", "inception_v3/config.pbtxt"),
    "report": ("evaluate {model} {data} --report {out}", "page", "report.html"),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, random_model: Callable[..., inception_v3.InceptionV3]) -> Path:
    folder = tmp_path_factory.mktemp("work")
    network = random_model(num_classes=2, image_size=75)
    network.class_names = ["cat", "dog"]
    inception_v3.save(network, folder / "model.safetensors")
    for name in network.class_names:
        (folder / "data" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (80, 80), (40 * number, len(name), 9)).save(folder / "data" / name / f"{number}.png")
    return folder


@pytest.fixture
def run(work: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], int]:
    def command(line: str, out: Path) -> int:
        arguments = line.format(model=work / "model.safetensors", data=work / "data", out=out).split()
        monkeypatch.setattr(sys, "argv", ["inception-v3", *arguments])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        return int(exited.value.code or 0)

    return command


# Exports take seconds.
KINDS = [pytest.param(kind, marks=pytest.mark.slow if kind == "export" else ()) for kind in OUTPUTS]


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_follows_links_and_keeps_them(kind: str, run: Callable[[str, Path], int], tmp_path: Path) -> None:
    """A relative link to a link to a file that does not exist at first, and is replaced later."""
    line, name = OUTPUTS[kind]
    (tmp_path / "links").mkdir()
    (tmp_path / "files").mkdir()
    (tmp_path / "links" / name).symlink_to(f"../second-{name}")
    (tmp_path / f"second-{name}").symlink_to(f"files/real-{name}")
    for _ in range(2):
        assert run(line, tmp_path / "links" / name) == 0
        assert (tmp_path / "files" / f"real-{name}").stat().st_size > 100
    assert (tmp_path / "links" / name).readlink() == Path(f"../second-{name}")
    assert (tmp_path / f"second-{name}").readlink() == Path(f"files/real-{name}")
    assert [path.name for path in (tmp_path / "files").iterdir()] == [f"real-{name}"]


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if "export" in FOLDERS[kind][0] else ()) for kind in FOLDERS]
)
def test_a_folder_of_outputs_may_be_a_link(kind: str, run: Callable[[str, Path], int], tmp_path: Path) -> None:
    line, name, file = FOLDERS[kind]
    for target in ("existing", "missing"):
        link = tmp_path / f"{target}-{name}"
        link.symlink_to(target)
        (tmp_path / "existing").mkdir(exist_ok=True)
        assert run(line, link) == 0
        assert (link.is_symlink(), (tmp_path / target / file).is_file()) == (True, True)


def test_a_file_in_a_run_folder_may_be_a_link(run: Callable[[str, Path], int], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "large disk").mkdir()
    for name in ("model.safetensors", "README.md"):
        (tmp_path / "run" / name).symlink_to(f"../large disk/{name}")
    for _ in range(2):
        assert run("finetune {model} {data} --no-cache --overwrite --out {out}", tmp_path / "run") == 0
        assert sorted(path.name for path in (tmp_path / "large disk").iterdir()) == ["README.md", "model.safetensors"]
    assert all((tmp_path / "run" / name).is_symlink() for name in ("model.safetensors", "README.md"))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.values != ("predict",)])
def test_an_output_is_written_through_a_fifo(kind: str, run: Callable[[str, Path], int], tmp_path: Path) -> None:
    line, name = OUTPUTS[kind]
    os.mkfifo(fifo := tmp_path / name)
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(fifo.read_bytes()), daemon=True)
    reader.start()
    assert run(line, fifo) == 0
    reader.join(10)
    assert (len(received[0]) > 100, fifo.is_fifo()) == (True, True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fifo_without_a_reader_is_refused_after_a_while(
    kind: str,
    run: Callable[[str, Path], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(files, "READER_TIMEOUT", 0.2)
    line, name = OUTPUTS[kind]
    os.mkfifo(fifo := tmp_path / name)
    assert run(line, fifo) > 0
    error = capsys.readouterr().err.splitlines()[-1]
    reason = (
        "so results cannot be kept in it" if kind == "predict" else "a FIFO that no program reads; start its reader"
    )
    assert (f"error: {fifo}: " in error, reason in error) == (True, True), error
    assert fifo.is_fifo()


@pytest.mark.parametrize("target", ["/dev/null", "/dev/stdout", "/dev/fd/3", "/proc/self/fd/3", "/proc/self/fd/1"])
def test_devices_and_descriptors_are_written_to(target: str, tmp_path: Path) -> None:
    """Descriptor 3 is a file, and it is continued where it stands, also after it was deleted."""
    program = (
        "from pathlib import Path; from inception_v3.support.files import *\n"
        f"check_writable(Path({target!r})); write_text(Path({target!r}), 'text')"
    )
    (tmp_path / "three").write_text("old")
    script = 'exec 3>>"$1"; rm "$1"; "$2" -c "$3"; cat /dev/fd/3 | cat; cat < /proc/self/fd/3'
    done = subprocess.run(
        ["bash", "-c", script, "bash", tmp_path / "three", sys.executable, program], capture_output=True, text=True
    )
    expected = {"/dev/null": "", "/dev/stdout": "text", "/proc/self/fd/1": "text"}.get(target, "oldtext")
    assert expected in done.stdout, done
    assert list(tmp_path.iterdir()) == []
