"""The commands and the Python blocks of docs/lessons/ run, in the order of each page, and print what the page shows.

Small generated images take the place of the data sets, and thin networks that of the published weights and of the
trained run folders. So the lines of the output are compared, and any number may stand for a number.
"""

import re
import runpy
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import inception_v3
from conftest import randomise, randomise_2015
from generated_images import pets, skies
from inception_v3.cli import main
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.training.run_folder import RunFolder
from inception_v3.weights.model import InceptionV3
from published_sets import write_cifar, write_mnist

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parent.parent
LESSONS = ROOT / "docs" / "lessons"
PAGES = sorted(page.name for page in LESSONS.glob("*.md"))
NUMBER = r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]\d+)?"
ROUNDING = r"\de-\d\d"


# ------------------------------------------------------------------------------------------------------- the pages


@dataclass
class Step:
    """A command of a shell, or a block of Python, and the lines that the page shows below it; `...` is anything."""

    code: str
    is_python: bool
    shown: list[str] = field(default_factory=list)


def steps(page: str) -> list[Step]:
    found: list[Step] = []
    block: list[str] | None = None  # the lines of an unfinished block of Python
    is_below = False  # only blank and indented lines since the last step
    for line in (LESSONS / page).read_text("utf-8").splitlines():
        if block is not None and line == "```":
            found.append(Step("\n".join(block), True))
            block, is_below = None, True
        elif block is not None:
            block.append(line)
        elif line == "```python":
            block = []
        elif line.startswith("    $ "):
            found.append(Step(line.removeprefix("    $ "), False))
            is_below = True
        elif line.startswith("    ") and is_below:
            found[-1].shown.append(line.removeprefix("    "))
        elif line:
            is_below = False
        elif is_below and found[-1].shown:
            found[-1].shown.append("")  # in the output, or after it
    for step in found:
        while step.shown and not step.shown[-1]:
            step.shown.pop()
    return found


def pattern(shown: list[str], page: str) -> str:
    """A regular expression for the lines that a page shows. A line of only `...` is any number of lines."""
    words = WORDS.get(page, "(?!)")
    number = ROUNDING if page in EXACT else NUMBER

    def varying(text: str) -> str:
        return number if re.fullmatch(number, text) else ".*"

    def one_line(line: str) -> str:
        parts = re.split(rf"(\.\.\.|{words}|{number})", line)
        return "".join(varying(part) if index % 2 else re.escape(part) for index, part in enumerate(parts))

    return "".join(r"(?:.*\n)*" if line == "..." else rf"{one_line(line)}\n" for line in shown)


# --------------------------------------------------------------------------------------------------- the stand-ins


def thin(path: Path, size: int, classes: int) -> None:
    model = InceptionV3(num_classes=classes, depth_multiplier=0.1, min_depth=8, image_size=size).eval()
    randomise(model)
    model.preprocessing = Preprocessing((size, size))
    path.parent.mkdir(parents=True, exist_ok=True)
    inception_v3.save(model, path)


def kaggle_files() -> None:
    """train/cat.100.jpg ..., test1/1.jpg and 2.jpg, and class folders with the same images."""
    pets(Path("pets"), 24)
    for folder in ("train", "test1"):
        Path(folder).mkdir()
    for file in Path("pets").rglob("*.png"):
        image = Image.open(file)
        image.save(f"train/{file.parent.name}.1{file.stem[1:]}.jpg")
        if file.stem in ("000", "001"):
            image.save(f"test1/{int(file.stem) + 1}.jpg")


def photographs() -> None:
    skies(Path("photos"), 20)


def mnist_files() -> None:
    write_mnist(Path("data"))


def torchvision_files() -> None:
    """torchvision's weights with random values, and few photographs, because its network has its full width."""
    with warnings.catch_warnings(action="ignore"):
        state = torchvision.models.inception_v3(weights=None, init_weights=False).state_dict()
    randomise_2015(state)
    torch.save(state, "inception_v3_google-0cc3c7bd.pth")
    skies(Path("photos"), 6)
    Image.effect_noise((320, 240), 64).save("crow.jpg")


def people() -> None:
    for number in range(9):
        known = Path(f"people/person{number // 3:02}/{number % 3}.jpg")
        for path in (known, Path(f"new/person{number:02}/3.jpg")):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((80, 80), 40 + 10 * number).save(path)


def cifar_files() -> None:
    Path("photos").mkdir()
    Image.effect_noise((80, 80), 64).save("photos/ship.png")
    pixels, labels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8), np.arange(20)[:, None] % 10
    np.savez("cifar.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)  # as Keras's arrays


FILES: dict[str, tuple[Callable[[], None], ...]] = {
    "README.md": (photographs,),
    "cats-and-dogs.md": (kaggle_files,),
    "cifar-10.md": (cifar_files,),
    "faces.md": (people,),
    "l2.md": (photographs, mnist_files),
    "linear-regression.md": (mnist_files, lambda: thin(Path("runs/digits/model.safetensors"), 75, 10)),
    "mnist.md": (mnist_files,),
    "torchvision.md": (torchvision_files,),
}
# Texts of a page, and what takes their place: less data, fewer epochs and channels.
SHORTER: dict[str, dict[str, str]] = {
    "cifar-10.md": {"--depth-multiplier 0.25": "--depth-multiplier 0.1"},
    "l2.md": {'load_data("digits")': 'load_data("mnist:data")', "epochs=8": "epochs=1"},
    "linear-regression.md": {'load_data("digits")': 'load_data("mnist:data")', "400": "30", "300": "20"},
    "mnist.md": {
        "train digits": "train mnist:data",
        "runs/digits digits": "runs/digits mnist:data",
        'load_data("digits")': 'load_data("mnist:data")',
        "--depth-multiplier 0.25": "--depth-multiplier 0.1 --epochs 1",
    },
}
EXACT = {"alexnet.md", "convolution-by-hand.md"}  # pages whose numbers are the same everywhere, up to rounding
# Words of the output that depend on the data.
WORDS = {
    "cats-and-dogs.md": r"\bcat\b|\bdog\b",
    "cifar-10.md": "frog",
    "faces.md": r"(?<= )person\d\d|unknown",
    "torchvision.md": "bird",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "lesson"
    folder.mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return folder


# ---------------------------------------------------------------------------------------------------------- the test


def run(step: Step, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a step in this process. Programs other than ours are run by a shell."""
    if step.is_python:
        exec(compile(step.code, page, "exec"), {"__name__": "block"})
        return
    program, *arguments = shlex.split(step.code)
    if program not in ("inception-v3", "python"):
        subprocess.run(step.code, shell=True, check=True)
        return
    monkeypatch.setattr(sys, "argv", [program, *arguments] if program == "inception-v3" else arguments)
    with warnings.catch_warnings(), suppress(SystemExit):
        warnings.simplefilter("always")
        if program == "python":
            runpy.run_path(arguments[0], run_name="__main__")
            return
        with pytest.raises(SystemExit) as exit:
            main()
        assert not exit.value.code, step.code


@pytest.mark.parametrize("page", PAGES)
def test_a_lesson_runs_and_prints_what_it_shows(
    page: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for build in FILES.get(page, ()):
        build()
    if "plots" not in (LESSONS / page).read_text("utf-8"):
        monkeypatch.setattr(RunFolder, "draw_plots", lambda *_: None)  # which take longer than these short trainings
    if page == "cifar-10.md":
        write_cifar(Path("data"), torchvision.datasets.CIFAR10, monkeypatch)
    thin(folder / "published.safetensors", 107, 5)
    monkeypatch.setattr(sys, "stderr", sys.stdout)  # as on a terminal
    lesson = steps(page)
    for text in SHORTER.get(page, {}):
        assert any(text in step.code for step in lesson), text
    for step in lesson:
        step.code = step.code.replace("torchvision:IMAGENET1K_V1", "published.safetensors")
        for long, short in SHORTER.get(page, {}).items():
            step.code = step.code.replace(long, short)
        capsys.readouterr()
        run(step, page, monkeypatch)
        printed = capsys.readouterr().out
        assert not step.shown or re.fullmatch(pattern(step.shown, page), f"{printed.strip(chr(10))}\n"), printed


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_lesson_is_run(page: str) -> None:
    text = (LESSONS / page).read_text("utf-8")
    assert not re.search(r"^ +(inception-v3|python|pip) ", text, re.MULTILINE), "a command without $ is not run"
    assert text.count("```") == 2 * text.count("\n```python\n")


@pytest.mark.parametrize("page", sorted(set(PAGES) - {"README.md"}))
def test_a_lesson_has_its_parts_and_fits_on_a_screen_or_two(page: str) -> None:
    lines = (LESSONS / page).read_text("utf-8").splitlines()
    assert lines[2].startswith("At the end ")
    assert "This takes" in " ".join(lines[2:6]) or "takes about" in " ".join(lines[2:6])
    wrong = lines[lines.index("## What can go wrong") :]
    assert sum(line.startswith("- ") for line in wrong) in range(2, 5)
    assert len(lines) <= 90
    assert f"]({page})" in (LESSONS / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("page", "arguments"),
    [
        ("cats-and-dogs.md", ["finetune", "published.safetensors", "train"]),
        ("cats-and-dogs.md", ["finetune", "published.safetensors", "train", "--labels-from-name", r"^(cat)\."]),
        ("cifar-10.md", ["train", "cifar10:data"]),
        ("l2.md", ["finetune", "published.safetensors", "photos", "--l2", "-1"]),
        ("mnist.md", ["train", "mnist:data"]),
    ],
)
def test_what_can_go_wrong_is_the_message_that_a_command_prints(
    page: str, arguments: list[str], folder: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    if page == "cats-and-dogs.md":
        kaggle_files()
        thin(folder / "published.safetensors", 107, 5)
    status, _, messages = command(*arguments, "--out", "runs/lesson")
    assert status
    text = " ".join((LESSONS / page).read_text("utf-8").split())
    assert f"`{messages.splitlines()[-1]}`" in text
