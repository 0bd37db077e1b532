"""Commands in a confined place: an empty home, cache and temporary folder, and a record of their system calls.

`COMMANDS` lists every command with the files that it writes. test_privacy.py runs them under strace, and
test_containers.py in places like those of a container.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pyarrow
import torch
import torchvision
from PIL import Image
from pyarrow import parquet

import inception_v3
from conftest import ROOT, randomise, randomise_2015
from inception_v3.data.digits import find_digits_splits

LIMIT = 300  # seconds for one command, which takes a tenth of that on an idle core
OLD_FILES = ROOT / "tests" / "version_0_1"
CLASS_NAMES = ["cat", "dog"]


@dataclass(frozen=True)
class Command:
    """A command line, in which {inputs} is the folder of `write_inputs`.

    Attributes:
        outputs: the names of what it writes into the folder in which it runs.
        environment: variables, as the user of this command sets them.
        others: what other programs write that the user asked for, as patterns of paths in the place.
        elsewhere: the same outside of the place, as patterns of whole paths.
        script: for a server, which gets an image and then SIGTERM, or for a command that needs one, beside it. {port}
            is that of the server.
    """

    line: str
    outputs: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    others: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    script: str = ""


_TRAIN = "train {inputs}/images --out run --recipe digits --epochs 1 --depth-multiplier 0.1 --image-size 75"
_BENCH = "bench {inputs}/model.safetensors --rounds 1 --batch-size 1 --precision fp32"
_IMAGE = "{inputs}/images/val/cat/0.png"
# Arguments: Python, the port, an image. Waits until a server is ready, and sends it the image.
_USE_SERVER = """
import sys, time, urllib.request
url = f"http://127.0.0.1:{sys.argv[1]}"
for _ in range(600):
    try:
        urllib.request.urlopen(f"{url}/v2/health/ready", timeout=9)
        break
    except OSError:
        time.sleep(0.1)
image, kind = open(sys.argv[2], "rb").read(), {"Content-Type": "image/png"}
urllib.request.urlopen(urllib.request.Request(f"{url}/predict", image, kind), timeout=60)
"""
# Arguments: Python, the code above, the port, an image, a model. The rest is a command, which is the server itself, or
# runs beside one.
_AS_SERVER = """
use=$1 port=$2 image=$3; shift 4
"$@" & server=$!
trap 'kill $server' EXIT
"$0" -c "$use" $port "$image"
trap - EXIT
kill $server
wait $server
"""
_BESIDE_SERVER = """
use=$1 port=$2 image=$3 model=$4; shift 4
"$0" -m inception_v3 serve "$model" --port $port --quiet & server=$!
trap 'kill $server; wait $server' EXIT
"$0" -c "$use" $port "$image"
"$@"
"""
COMMANDS = {
    "train": Command(_TRAIN + " --batch-size 16 --workers 2", ("run",)),
    "train-large": Command(  # a batch of each worker fills 4 MB of shared memory
        _TRAIN.replace("--image-size 75", "--image-size 299") + " --batch-size 16 --workers 2", ("run",)
    ),
    "train-mlflow": Command(_TRAIN + " --batch-size 16 --workers 0 --track mlflow", ("run",)),
    "train-wandb": Command(
        _TRAIN + " --batch-size 16 --workers 0 --track wandb",
        ("run",),
        (("WANDB_MODE", "offline"),),
        ("cache/wandb", "home/.cache", "home/.config"),
        ("/tmp/wandb-*",),
    ),
    "finetune": Command(
        "finetune {inputs}/model.safetensors {inputs}/images --out run --unfreeze Mixed_7 --epochs 1", ("run",)
    ),
    "evaluate": Command("evaluate {inputs}/model.safetensors {inputs}/images --report page.html", ("page.html",)),
    "evaluate-parquet": Command("evaluate {inputs}/model.safetensors {inputs}/rows.parquet"),
    **{
        f"predict-{engine}": Command(f"predict {{inputs}}/model.safetensors {_IMAGE} --engine {engine}")
        for engine in ("auto", "pytorch", "onnxruntime", "openvino", "ncnn")
    },
    "predict-compile": Command(
        f"predict {{inputs}}/model.safetensors {_IMAGE} --engine compile",
        others=("tmp/torchinductor_*",),  # precompiled headers: PyTorch has no option for their folder
    ),
    "predict-onnx": Command(
        f"predict {{inputs}}/run.onnx {_IMAGE} --out rows.parquet", ("rows.parquet", "rows.parquet.about.json")
    ),
    "predict-xml": Command(
        f"predict {{inputs}}/run.xml {_IMAGE} --engine openvino --out rows.csv", ("rows.csv", "rows.csv.about.json")
    ),
    "features": Command(
        f"features {{inputs}}/model.safetensors {_IMAGE} --out maps.npz --end-points Mixed_5b/Branch_1,PreLogits",
        ("maps.npz", "maps.npz.about.json"),
    ),
    "explain": Command(
        f"explain {{inputs}}/model.safetensors {_IMAGE} --method integrated-gradients --steps 2", ("explained",)
    ),
    "look": Command(f"look {{inputs}}/model.safetensors {_IMAGE} --out page.html", ("page.html",)),
    "ablate": Command(f"ablate {{inputs}}/model.safetensors {_IMAGE} --plot ablation.png", ("ablation.png",)),
    "compare": Command(
        f"compare {{inputs}}/run {{inputs}}/run.onnx {_IMAGE} --plot differences.svg",
        ("differences.svg",),
    ),
    "visualise": Command(
        "visualise {inputs}/model.safetensors Mixed_5b Mixed_5c:1 --class cat --steps 2 --preview now.png",
        ("visualised", "now.png"),
    ),
    "dream": Command(f"dream {{inputs}}/model.safetensors {_IMAGE} --steps 1 --out dream.gif", ("dream.gif",)),
    "fidelity": Command(
        "fidelity {inputs}/images/val/cat {inputs}/images/val/dog --any-weights "
        "--weights-file {inputs}/fid.pth --scores fid,kid --kid-subset-size 4 --report page.html",
        ("page.html",),
    ),
    "patches": Command("patches {inputs}/model.safetensors {inputs}/images --out patches", ("patches",)),
    "export-onnx": Command("export {inputs}/model.safetensors network.onnx", ("network.onnx",)),
    "export-xml": Command("export {inputs}/model.safetensors network.xml", ("network.xml", "network.bin")),
    "export-pt2": Command("export {inputs}/model.safetensors network.pt2", ("network.pt2",)),
    "export-coreml": Command("export {inputs}/model.safetensors network.mlpackage", ("network.mlpackage",)),
    "export-int8": Command(
        "export {inputs}/run network --to triton --precision int8 --min-agreement 0 --images {inputs}/digits",
        ("network",),
    ),
    "bench": Command(
        _BENCH + " --engine pytorch,onnxruntime,openvino,ncnn --plot speeds.png --report page.html",
        ("speeds.png", "page.html"),
    ),
    "bench-peers": Command(_BENCH.replace("model", "full") + " --engine pytorch --peers"),
    **{
        f"convert-{name}": Command(f"convert {{inputs}}/{source} {file} --to {name} --allow-difference{check}", outputs)
        for name, source, file, check, outputs in (
            ("native", "model.safetensors", "copy.safetensors", "", ("copy.safetensors",)),
            ("tf-slim", "model.safetensors", "copy.ckpt", "", ("copy.ckpt.index", "copy.ckpt.data-00000-of-00001")),
            ("keras", "full.safetensors", "copy.h5", " --check", ("copy.h5",)),
            ("timm", "full.safetensors", "copy.safetensors", " --check", ("copy.safetensors",)),
            ("torchvision", "full.safetensors", "copy.pth", " --check", ("copy.pth",)),
        )
    },
    "serve": Command("serve {inputs}/run.onnx --port {port}", script=_AS_SERVER),
    "load-test": Command(
        f"load-test http://127.0.0.1:{{port}} {_IMAGE} --concurrency 2 --duration 0.5 --out load.png",
        ("load.png",),
        script=_BESIDE_SERVER,
    ),
    "inspect": Command("inspect {inputs}/model.safetensors"),
    "describe": Command("describe"),
    "draw": Command("draw {inputs}/model.safetensors", ("inception-v3.svg",)),
    "draw-png": Command("draw --module Conv2d_1a_3x3 --out layer.png", ("layer.png",)),
    "cache": Command("cache"),
}


@dataclass(frozen=True)
class Place:
    """A folder with the home, cache and temporary folder of a command, and the folder in which it runs: all empty."""

    folder: Path

    def __post_init__(self) -> None:
        for name in ("home", "cache", "tmp", "work"):
            (self.folder / name).mkdir(parents=True)

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
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        words = [word.format(inputs=inputs, port=port) for word in command.line.split()]
        if command.script:
            given = [_USE_SERVER, port, _IMAGE.format(inputs=inputs), inputs / "run.onnx"]
            prefix = [*prefix, "sh", "-ec", command.script, sys.executable, *given]
        return run(
            [*prefix, sys.executable, "-m", "inception_v3", *words],
            self.folder / "work",
            self.environment | dict(command.environment) | environment,
        )

    def foreign_files(self, command: Command) -> list[str]:
        """Everything in this place that docs/privacy.md does not name, as paths in it."""
        known = ("cache/inception-v3", *(f"work/{name}" for name in command.outputs), *command.others)
        names = (f"{path.parent.name}/{path.name}" for path in self.folder.glob("*/*"))
        return sorted(name for name in names if not any(fnmatch(name, pattern) for pattern in known))


def run(command: Sequence[object], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
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


def write_inputs(folder: Path) -> Path:
    """The inputs of all COMMANDS."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 32), ("val", 6)):
        for name in CLASS_NAMES:
            (folder / "images" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (80, 90, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "images" / split / name / f"{number}.png")
    model = inception_v3.InceptionV3(num_classes=2, depth_multiplier=0.1, min_depth=8, image_size=107)
    randomise(model)
    model.preprocessing, model.class_names = inception_v3.Preprocessing((107, 107)), CLASS_NAMES
    inception_v3.save(model.eval(), folder / "model.safetensors")
    shutil.copytree(OLD_FILES, folder, dirs_exist_ok=True)
    return folder


def write_large_inputs(folder: Path) -> Path:
    """Also those that take seconds: networks of full width, and digits for the network that knows them."""
    write_inputs(folder)
    digits = find_digits_splits().train()
    (folder / "digits").mkdir()
    for number in range(64):
        digits.open(number).save(folder / "digits" / f"{number}.png")
    images = [path.read_bytes() for path in sorted((folder / "images" / "val").rglob("*.png"))]
    parquet.write_table(pyarrow.table({"image": images, "label": [0, 1] * 6}), folder / "rows.parquet")
    model = inception_v3.InceptionV3(num_classes=1000).eval()
    model.preprocessing = inception_v3.Preprocessing((75, 75))
    inception_v3.save(model, folder / "full.safetensors")
    options = {"num_classes": 1008, "aux_logits": False, "weights": None, "init_weights": False}
    state = torchvision.models.inception_v3(**options).state_dict()
    randomise_2015(state)
    torch.save(state, folder / "fid.pth")
    return folder


# --------------------------------------------------------------------------------------------- like a container


def container(
    place: Place,
    *,
    shared_memory: str = "64m",
    read_only: bool = False,
    user: int | None = None,
    address_space: int | None = None,
) -> list[object]:
    """The start of a command line that runs its rest without a network, and with everything else that is given.

    Args:
        shared_memory: the size of /dev/shm.
        read_only: whether home and cache are read-only.
        user: the number of the user and the group.
        address_space: in bytes.
    """
    steps = ["ip link set lo up", f"mount -t tmpfs -o size={shared_memory},mode=1777 tmpfs /dev/shm"]
    for folder in (place.folder / "home", place.folder / "cache") if read_only else ():
        steps += [f"mount --bind {folder} {folder}", f"mount -o remount,ro,bind {folder}"]
    program = "exec"
    if user is not None:
        for name in ("home", "cache", "tmp", "work"):
            os.chown(place.folder / name, user, user)
        program += f" setpriv --reuid {user} --regid {user} --clear-groups"
    if address_space is not None:
        program += f" prlimit --as={address_space}"
    # Without its first process, a namespace of processes ends, so nothing survives LIMIT.
    namespaces = ["-m", "-n", "-p", "-f", "--kill-child", "--mount-proc"]
    return ["unshare", *namespaces, "sh", "-ec", "; ".join([*steps, f'{program} "$@"']), "sh"]


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
        paths |= set(re.findall(r'"(/[^"]*)"', call)[-1:])
    return {path for path in paths if not path.startswith(("/dev/", "/proc/"))}
