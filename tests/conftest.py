"""What several tests share: TF-Slim itself, asked in its own environment, and small models with random statistics."""

import ctypes
import hashlib
import json
import os
import signal
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from filelock import FileLock

from inception_v3 import cli
from inception_v3.data import LabelledImages
from inception_v3.weights.model import InceptionV3

ROOT = Path(__file__).parent.parent
ORACLE = ROOT / ".oracle" / "bin" / "python"
RECORDER = ROOT / "tests" / "oracle" / "record_tf_slim.py"
CACHE = ROOT / ".cache"
pytest_plugins = ["server_fixtures"]


# A shell that runs the tests in the background has them ignore Ctrl-C, and so would every command that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _commands_print_their_own_warnings() -> Iterator[None]:
    """Elsewhere a warning fails the test, and so does a command's warning that comes from another library."""
    main = cli.main

    def main_with_warnings() -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("default", category=UserWarning, module=r"inception_v3\.")
            main()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "main", main_with_warnings)
        yield


@pytest.fixture
def unprivileged(tmp_path: Path) -> Iterator[None]:
    """Root may read and enter everything. In such a test it may not: permissions count, as for any other user.

    Only for this thread, and for threads and processes that it starts without another program. Linux only.
    """
    libc = ctypes.CDLL(None)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    effective = data[0]
    data[0] &= ~(1 << 1 | 1 << 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert libc.capset(header, data) == 0
    yield
    data[0] = effective
    assert libc.capset(header, data) == 0
    for folder, names, _ in os.walk(tmp_path):  # so that pytest can delete them
        for name in names:
            Path(folder, name).chmod(0o700)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Thin networks are quicker so, and many times so where others use the cores: threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def oracle_python() -> Path:
    """The Python that has TF-Slim. A missing one fails the test: parity that is skipped is not shown."""
    assert ORACLE.exists(), "TF-Slim's environment is missing: run `make setup`"
    return ORACLE


def tf_slim_cases(cases: dict[str, dict[str, object]]) -> dict[str, Path]:
    """Folders of recorded cases, by name. What was recorded by the same script with the same options is kept."""
    script = RECORDER.read_bytes()
    folder = CACHE / "tf_slim"
    folder.mkdir(parents=True, exist_ok=True)
    asked = {name: json.dumps(options, sort_keys=True) for name, options in cases.items()}
    keys = {name: f"{name}-{hashlib.sha256(script + text.encode()).hexdigest()[:12]}" for name, text in asked.items()}
    with ExitStack() as locks:
        for key in sorted(keys.values()):  # in one order, so that no two processes wait for each other
            locks.enter_context(alone(folder / key))
        missing = [name for name, key in keys.items() if not (folder / key / "case.json").exists()]
        if missing:  # in one process, because TensorFlow takes seconds to start
            arguments = [json.dumps(cases[name] | {"name": keys[name]}) for name in missing]
            subprocess.run([oracle_python(), RECORDER, folder, *arguments], check=True)
    return {name: folder / key for name, key in keys.items()}


def recording(script: str) -> Path:
    """What a script of tests/oracle wrote into the folder it is given: kept as long as the script stays the same."""
    path = RECORDER.with_name(script)
    folder = CACHE / f"{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    with alone(folder):
        if not folder.exists():
            unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
            unfinished.mkdir()
            subprocess.run([oracle_python(), path, unfinished], check=True)
            unfinished.rename(folder)
    return folder


def alone(folder: Path) -> FileLock:
    """Tests run in several processes, and one records for all."""
    CACHE.mkdir(exist_ok=True)
    return FileLock(f"{folder}.lock")


@pytest.fixture(scope="session")
def slim_preprocessing() -> Path:
    """Pictures as slim prepares them, and its data sets."""
    return recording("record_slim_preprocessing.py")


@pytest.fixture(scope="session")
def random_model() -> Callable[..., InceptionV3]:
    """A thin network in inference mode, every weight, offset and statistic random."""

    def build(seed: int = 0, **options: object) -> InceptionV3:
        model = InceptionV3(**{"num_classes": 7, "depth_multiplier": 0.1, "min_depth": 8, "image_size": 107} | options)
        randomise(model, seed)
        return model.eval()

    return build


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Draw every tensor anew, in TF-Slim's scale, so that no two of them can be taken for each other."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith(("moving_variance", "gamma")):
                values = rng.uniform(0.5, 1.5, tensor.shape)
            elif name.endswith("weights"):
                values = rng.normal(0, (2 / np.prod(tensor.shape[1:])) ** 0.5, tensor.shape)
            else:
                values = rng.normal(0, 0.1, tensor.shape)
            tensor.copy_(torch.from_numpy(np.asarray(values)))


def as_set(pictures: LabelledImages) -> list[tuple[str, bytes]]:
    """Every picture's class and pixels, in a fixed order: the same for the same pictures in whatever form."""
    everything = ((pictures.class_names[label], pictures.open(at)) for at, label in enumerate(pictures.labels))
    return sorted((name, image.tobytes()) for name, image in everything)


def randomise_2015(state: dict[str, torch.Tensor]) -> None:
    """The same for the tensors of the file that pytorch-fid and torch-fidelity fetch for FID."""
    rng = np.random.default_rng(2015)
    for name, tensor in state.items():
        if name.endswith(("running_var", "bn.weight")):
            tensor.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, tensor.shape)))
        elif tensor.is_floating_point():
            scale = (2 / np.prod(tensor.shape[1:])) ** 0.5 if name.endswith("weight") else 0.1
            tensor.copy_(torch.from_numpy(rng.normal(0, scale, tensor.shape)))


@pytest.fixture(scope="session")
def weights_of_2015(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a file, every tensor random."""
    options = {"num_classes": 1008, "aux_logits": False, "weights": None, "init_weights": False}
    state = torchvision.models.inception_v3(**options).state_dict()
    randomise_2015(state)
    path = tmp_path_factory.mktemp("weights") / "pt_inception-2015-12-05.pth"
    torch.save(state, path)
    return path


def relative(ours: torch.Tensor | np.ndarray, theirs: torch.Tensor | np.ndarray) -> float:
    """The largest absolute difference, over the largest absolute value."""
    ours, theirs = (np.asarray(x.detach() if isinstance(x, torch.Tensor) else x, "float64") for x in (ours, theirs))
    assert ours.shape == theirs.shape, f"{ours.shape} is not {theirs.shape}"
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-300))


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Run a command line: exit status, standard output, standard error. A traceback fails the test."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["inception-v3", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(exited.value.code or 0), out, err

    return run
