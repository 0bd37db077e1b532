"""Commands in a confined place: a fresh home, cache and temporary folder, and a record of what they open and connect to.

`COMMANDS` lists every command with the files it writes. test_privacy.py runs them under strace, and test_containers.py
in places like those of a container.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIMIT = 300  # seconds for one command, which takes a tenth of that


@dataclass(frozen=True)
class Command:
    """A command line, in which {inputs} is a folder of inputs, and the names of what it writes into its folder."""

    line: str
    outputs: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


_TRAIN = "train {inputs}/images --out run --recipe digits --epochs 1 --depth-multiplier 0.1 --image-size 75"
_BENCH = "bench {inputs}/model.safetensors --rounds 1 --batch-size 1 --precision fp32"
_IMAGE = "{inputs}/images/val/cat/0.png"
COMMANDS = {
    "train": Command(_TRAIN + " --batch-size 16 --workers 2", ("run",)),
    "train-mlflow": Command(_TRAIN + " --batch-size 16 --workers 0 --track mlflow", ("run",)),
    "train-wandb": Command(
        _TRAIN + " --batch-size 16 --workers 0 --track wandb", ("run",), (("WANDB_MODE", "offline"),)
    ),
    "finetune": Command(
        "finetune {inputs}/model.safetensors {inputs}/images --out run --unfreeze Mixed_7 --epochs 1", ("run",)
    ),
    "evaluate": Command("evaluate {inputs}/model.safetensors {inputs}/images --report page.html", ("page.html",)),
    **{
        f"predict-{engine}": Command(f"predict {{inputs}}/model.safetensors {_IMAGE} --engine {engine}")
        for engine in ("auto", "pytorch", "compile", "onnxruntime", "openvino", "ncnn")
    },
    "predict-onnx": Command(f"predict {{inputs}}/run.onnx {_IMAGE} --out rows.parquet", ("rows.parquet", "rows.parquet.about.json")),
    "predict-xml": Command(f"predict {{inputs}}/run.xml {_IMAGE} --engine openvino --out rows.csv", ("rows.csv", "rows.csv.about.json")),
    "fidelity": Command(
        "fidelity {inputs}/images/val/cat {inputs}/images/val/dog --any-weights "
        "--weights-file {inputs}/fid.pth --scores fid,kid --kid-subset-size 4 --report page.html",
        ("page.html",),
    ),
    "export-onnx": Command("export {inputs}/model.safetensors network.onnx", ("network.onnx",)),
    "export-xml": Command("export {inputs}/model.safetensors network.xml", ("network.xml", "network.bin")),
    "export-pt2": Command("export {inputs}/model.safetensors network.pt2", ("network.pt2",)),
    "export-coreml": Command("export {inputs}/model.safetensors network.mlpackage", ("network.mlpackage",)),
    "export-int8": Command(
        "export {inputs}/model.safetensors network --to triton --precision int8 --min-agreement 0 "
        "--images {inputs}/images/train",
        ("network",),
    ),
    "bench": Command(
        _BENCH + " --engine pytorch,onnxruntime,openvino,ncnn --plot speeds.png --report page.html",
        ("speeds.png", "page.html"),
    ),
    "bench-peers": Command(_BENCH.replace("model", "full") + " --engine pytorch --peers"),
    **{
        f"convert-{name}": Command(
            f"convert {{inputs}}/{source} {file} --to {name} --allow-difference{check}", outputs
        )
        for name, source, file, check, outputs in (
            ("native", "model.safetensors", "copy.safetensors", "", ("copy.safetensors",)),
            ("tf-slim", "model.safetensors", "copy.ckpt", "", ("copy.ckpt.index", "copy.ckpt.data-00000-of-00001")),
            ("keras", "full.safetensors", "copy.h5", " --check", ("copy.h5",)),
            ("timm", "full.safetensors", "copy.safetensors", " --check", ("copy.safetensors",)),
            ("torchvision", "full.safetensors", "copy.pth", " --check", ("copy.pth",)),
        )
    },
    "describe": Command("describe"),
    "cache": Command("cache"),
}


@dataclass(frozen=True)
class Place:
    """A folder with the home, cache and temporary folder of a command, and the folder in which it runs."""

    folder: Path

    @classmethod
    def create(cls, folder: Path) -> "Place":
        for name in ("home", "cache", "tmp", "work"):
            (folder / name).mkdir(parents=True)
        return cls(folder)

    @property
    def environment(self) -> dict[str, str]:
        """All variables of a command: none of the user's own, which could switch something off."""
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",  # Python's own files beside its source
            "OMP_NUM_THREADS": "1",
            "HOME": str(self.folder / "home"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "TMPDIR": str(self.folder / "tmp"),
        }

    def run(
        self, command: Command, inputs: Path, prefix: Sequence[object] = (), **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in this place, started by the program `prefix`. After LIMIT it is killed, and fails."""
        words = [word.format(inputs=inputs) for word in command.line.split()]
        return run(
            [*prefix, sys.executable, "-m", "inception_v3", *words],
            self.folder / "work",
            self.environment | dict(command.environment) | environment,
        )

    def foreign_files(self, command: Command) -> list[str]:
        """Everything in this place that the documentation does not name, as paths in it."""
        return sorted(
            str(path.relative_to(self.folder))
            for folder, known in {
                "home": (),
                "cache": ("inception-v3",),
                "tmp": (),
                "work": command.outputs,
            }.items()
            for path in (self.folder / folder).iterdir()
            if path.name not in known
        )


def run(
    command: Sequence[object], folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command with all its children, which are killed after LIMIT."""
    process = subprocess.Popen(
        [*map(str, command)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


# --------------------------------------------------------------------------------------------- what strace records

_TRACED = "connect,sendto,sendmsg,sendmmsg,open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,symlink,symlinkat"
# glibc opens them to look up the address of a host.
_LOOKUPS = ("/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/gai.conf")
_LOOPBACK = re.compile(r'"(127\.|::1"|::ffff:127\.)')


def strace(log: Path) -> list[object]:
    """The start of a command line whose rest is recorded in `log`. A filter in the kernel keeps the rest quick."""
    program = shutil.which("strace")
    assert program is not None
    return [program, "-f", "-qq", "--seccomp-bpf", "-s", "256", "-e", f"trace={_TRACED}", "-o", log]


def connections(log: Path) -> list[str]:
    """The calls that look up a host, or send to one. Sockets of the file system and of this machine are not counted."""
    calls = log.read_text(errors="replace").splitlines()
    return [call for call in calls if _looks_up(call) or _sends(call)]


def _looks_up(call: str) -> bool:
    return any(f'"{name}"' in call for name in _LOOKUPS)


def _sends(call: str) -> bool:
    return "sa_family=AF_INET" in call and not _LOOPBACK.search(call)


def written_files(log: Path) -> set[str]:
    """The absolute paths that were opened for writing, created, or renamed to, without those that are devices."""
    paths = set()
    for call in log.read_text(errors="replace").splitlines():
        if " = -1 " in call or not re.search(r"O_WRONLY|O_RDWR|O_CREAT|creat\(|mkdir|rename|symlink", call):
            continue
        paths |= {path for path in re.findall(r'"(/[^"]*)"', call)[-1:]}
    return {path for path in paths if not path.startswith(("/dev/", "/proc/"))}
