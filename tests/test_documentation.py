"""The Python examples in README.md and docs/ run: each block separately, with small versions of the files it names."""

import hashlib
import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import torch
import torchvision
from huggingface_hub import HfApi
from safetensors import safe_open

import inception_v3
from conftest import randomise
from generated_images import skies
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.export import export
from inception_v3.training.run_folder import TRAINING_IMAGES
from inception_v3.weights import published
from inception_v3.weights.formats.native import tensor_checksum
from inception_v3.weights.model import InceptionV3
from inception_v3.weights.published import PUBLISHED, Web
from web_server import WebServer

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parent.parent
# test_extending.py runs the examples of docs/extending.md, and test_walkthrough.py those of the walk-through.
ELSEWHERE = ("extending.md", "walkthrough.md", "walkthrough.zh.md")
DOCS = sorted(page.name for page in (ROOT / "docs").glob("*.md") if page.name not in ELSEWHERE)
PAGES = ["README.md", *(f"docs/{page}" for page in DOCS)]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DIGITS = list("0123456789")
SKIES = ["day", "night"]
IMAGES = 12  # in a folder of skies; all but three were used for training
TRAINED_ON = [f"{SKIES[1 - number % 2]}/{number}.png" for number in range(IMAGES - 3)]


def blocks(page: str) -> list[str]:
    return BLOCK.findall((ROOT / page).read_text("utf-8"))


# ---------------------------------------------------------------------------------- the files that blocks use


def thin(size: int, class_names: list[str]) -> InceptionV3:
    model = InceptionV3(num_classes=len(class_names), depth_multiplier=0.1, min_depth=8, image_size=size).eval()
    randomise(model)
    model.preprocessing = Preprocessing((size, size))
    model.class_names = class_names
    return model


def zeros(build: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """A full-width network, for libraries that have no other, without the seconds that random weights take."""
    with torch.device("meta"):
        model = build()
    tensors = {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in model.state_dict().items()}
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def run_folder(folder: Path, class_names: list[str], trained_on: list[str]) -> None:
    folder.mkdir(parents=True)
    inception_v3.save(thin(75, class_names), folder / "model.safetensors")
    (folder / TRAINING_IMAGES).write_text("".join(f"{name}\n" for name in trained_on))


def torchvision_file(path: Path) -> None:
    model = zeros(lambda: torchvision.models.inception_v3(weights=None, init_weights=False))
    torch.save(model.state_dict(), path)


def slim_file(path: Path) -> None:
    inception_v3.save(thin(299, DIGITS), path, "tf-slim")


def full_slim_file(path: Path) -> None:
    model = zeros(lambda: InceptionV3(num_classes=1001))
    assert isinstance(model, InceptionV3)
    inception_v3.save(model, path, "tf-slim")


def old_file(path: Path) -> None:
    """A file whose first variable has a name that the network does not have."""
    inception_v3.save(thin(107, DIGITS), path)
    tensors = safetensors.torch.load_file(path)
    tensors["Old.weights"] = tensors.pop("Conv2d_1a_3x3.weights")
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    safetensors.torch.save_file(tensors, path, metadata | {"checksum": tensor_checksum(tensors)})


FILES: dict[str, Callable[[Path], Any]] = {
    "runs/digits": lambda path: run_folder(path, DIGITS, []),
    "runs/pets": lambda path: run_folder(path, SKIES, TRAINED_ON),
    "digits.onnx": lambda path: export(thin(75, DIGITS), path),
    "photos": lambda path: skies(path, IMAGES),
    "pets": lambda path: skies(path, IMAGES),
    "inception_v3.ckpt": slim_file,
    "model.pth": torchvision_file,
    "old.safetensors": old_file,
    "examples/digits": lambda path: link(path, ROOT / "examples" / "digits"),
    "path/to/clone": lambda path: link(path, ROOT),
}


def link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True)
    path.symlink_to(target)


# --------------------------------------------------------------------------------------------------- downloads


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A local Hugging Face hub, which serves what was pushed. The value holds the options of each new repository."""
    created: dict[str, Any] = {}
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    with WebServer().running() as server:
        monkeypatch.setattr(published, "ENDPOINT", server.url)

        def create_repo(self: HfApi, repo_id: str, **options: Any) -> Any:
            created[repo_id] = options
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self: HfApi, *, repo_id: str, folder_path: Path, **options: Any) -> str:
            server.publish(repo_id, Path(folder_path), [file.name for file in Path(folder_path).iterdir()])
            return f"https://huggingface.co/{repo_id}/commit/1"

        monkeypatch.setattr(HfApi, "create_repo", create_repo)
        monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
        yield created


@pytest.fixture
def cached_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's file in the download cache, with zeros as weights and with the checksum of that file."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    entry = PUBLISHED["torchvision:IMAGENET1K_V1"]
    assert isinstance(entry, Web)
    file = tmp_path / "torch" / "hub" / "checkpoints" / entry.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torchvision_file(file)
    checksum = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    monkeypatch.setitem(PUBLISHED, "torchvision:IMAGENET1K_V1", replace(entry, checksum=checksum))


# -------------------------------------------------------------------------------- what each block must have done


@dataclass
class Ran:
    """A block that has run: its variables, its output, its warnings, and the repositories that it created."""

    names: SimpleNamespace
    printed: str
    warned: list[str]
    created: dict[str, Any]


def a_run_folder_runs(ran: Ran) -> None:
    assert ran.names.images.shape == (1, 3, 75, 75)
    assert -1 <= ran.names.images.min() < ran.names.images.max() <= 1
    assert re.fullmatch(r"\d torch.Size\(\[1, \d+, 1, 1\]\)\n", ran.printed)


def an_exported_network_predicts(ran: Ran) -> None:
    files = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "examples" / "digits").iterdir())
    assert [line.split()[0] for line in ran.printed.splitlines()] == files


def a_published_name_loads_and_is_pushed(ran: Ran) -> None:
    assert ran.names.model.settings.num_classes == 1000
    assert ran.created.keys() == {"owner/name"}


def only_requested_end_points_are_returned(ran: Ran) -> None:
    assert ran.names.logits.shape == (1, 1000)
    assert torch.equal(ran.names.net, ran.names.end_points["Mixed_6e"])
    assert "Mixed_7a" not in ran.names.end_points
    assert not [name for name in ran.names.base.state_dict() if name.startswith(("Mixed_7", "Logits"))]


def held_out_images_are_evaluated(ran: Ran) -> None:
    assert ran.names.metrics.count == IMAGES - len(TRAINED_ON)
    assert ran.printed.startswith(f"{ran.names.metrics.top1} ")
    assert {row["class"] for row in ran.names.metrics.per_class()} == set(SKIES)


def an_image_is_looked_at(ran: Ran) -> None:
    assert re.fullmatch(r"(day|night) \(\d+, \d+, \d+\)\n", ran.printed)
    assert ran.names.result.parts["Mixed_5b/Branch_1"].numbers
    assert '<script type="application/json"' in Path("page.html").read_text()


def an_image_is_explained(ran: Ran) -> None:
    assert re.fullmatch(r"day -?\d+\.\d+ \(3, 3\)\n", ran.printed)
    assert Path("explained.png").read_bytes().startswith(b"\x89PNG")


def branches_are_silenced(ran: Ran) -> None:
    names = [line.split(" ")[0] for line in ran.printed.splitlines()]
    assert names == ["Mixed_7c/Branch_0", "Mixed_7c/Branch_3"]
    assert ran.names.result.numpy().shape == (2, 2)


def every_part_of_the_network_is_named(ran: Ran) -> None:
    assert "Hidden_1" in ran.names.text
    assert int(ran.printed) > 94 + 42 + 18


def a_receptive_field_is_printed(ran: Ran) -> None:
    assert ran.printed == "(1055, 1119) (32, 32) (490, 522) (37, 37)\n(-362, -394, 693, 725)\n"


def an_effective_field_is_measured(ran: Ran) -> None:
    assert re.fullmatch(r"\d+ of 927 pixels; \d\d% of the theoretical field is padding\n", ran.printed)
    assert Path("mixed_6e.png").read_bytes().startswith(b"\x89PNG")


def two_networks_are_compared(ran: Ran) -> None:
    assert ran.printed.startswith("None ")
    assert ran.names.result.parts_at is None


def patches_are_found(_: Ran) -> None:
    assert Path("patches/index.html").exists()
    assert Path("patches/patches.csv").exists()


def a_channel_is_visualised(ran: Ran) -> None:
    assert len(ran.printed.split()) == 2
    assert Path("channel.png").read_bytes().startswith(b"\x89PNG")


def scores_are_logged(ran: Ran) -> None:
    assert math.isfinite(ran.names.logged["fid"])


def new_classes_are_learnt(ran: Ran) -> None:
    assert ran.names.done.head is not None
    assert inception_v3.load("runs/pets").class_names == SKIES
    assert len(ran.names.features) == len(ran.names.test_set)


def two_folders_are_scored(ran: Ran) -> None:
    scores = ran.names.result.scores
    assert scores["fid"] == pytest.approx(0, abs=1e-3), "both folders hold the same images"
    assert scores["kid_mean"] is not None
    assert scores["sfid"] is None, "it was not requested"
    assert float(ran.printed) == scores["fid"]


def a_folder_is_predicted(ran: Ran) -> None:
    lines = re.findall(r"^photos/(?:day|night)/\d+\.png \('(?:day|night)', 0\.\d+\)$", ran.printed, re.MULTILINE)
    assert len(lines) == IMAGES == len(ran.printed.splitlines())


def one_image_in_every_form_has_one_result(ran: Ran) -> None:
    results = [re.sub(r"^\S+ (?=\[)", "", line) for line in ran.printed.splitlines()]
    assert len(results) == 4
    assert len(set(results)) == 1


def a_model_is_pushed_to_the_hub_and_loaded_from_it(ran: Ran) -> None:
    assert {file.name for file in Path("folder").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert ran.created["owner/name"]["private"]
    assert ran.names.model.settings.num_classes == 10


def torch_hub_loads(ran: Ran) -> None:
    assert ran.names.model.origin.first == "torchvision:IMAGENET1K_V1 (torchvision)"


def only_unfrozen_modules_are_trained(ran: Ran) -> None:
    before, after = inception_v3.load("inception_v3.ckpt").state_dict(), inception_v3.load("runs/mine").state_dict()
    changed = {name.split(".")[0] for name in after if not torch.equal(before.get(name, torch.empty(0)), after[name])}
    assert changed == {"Mixed_7a", "Mixed_7b", "Mixed_7c", "Logits"}
    assert ran.names.metrics.count == len(ran.names.test_set)
    assert ran.names.model.preprocessing.image_size == (150, 150)


def weights_are_converted(ran: Ran) -> None:
    assert ran.names.model.settings.num_classes == 1001
    assert Path("model.h5").read_bytes().startswith(b"\x89HDF")


def new_and_missing_variables_are_reported(ran: Ran) -> None:
    assert ran.warned == [
        "model.pth: the final layers are new, for 10 classes",
        "model.pth: pixels in [-1, 1] are assumed (--mean and --std replace this); 299x299 pixels are assumed "
        "(--image-size replaces this)",
        "old.safetensors: missing from the file, so initialised: Conv2d_1a_3x3.weights",
        "old.safetensors: in the file, but not used: Old.weights",
    ]


CHECKS: dict[tuple[str, int], Callable[[Ran], None]] = {
    ("README.md", 1): a_run_folder_runs,
    ("README.md", 2): an_exported_network_predicts,
    ("README.md", 3): only_requested_end_points_are_returned,
    ("docs/drawing.md", 1): every_part_of_the_network_is_named,
    ("docs/evaluation.md", 1): held_out_images_are_evaluated,
    ("docs/explain.md", 1): an_image_is_looked_at,
    ("docs/explain.md", 2): an_image_is_explained,
    ("docs/explain.md", 3): branches_are_silenced,
    ("docs/explain.md", 4): a_receptive_field_is_printed,
    ("docs/explain.md", 5): an_effective_field_is_measured,
    ("docs/explain.md", 6): two_networks_are_compared,
    ("docs/explain.md", 7): patches_are_found,
    ("docs/explain.md", 8): a_channel_is_visualised,
    ("docs/fidelity.md", 1): scores_are_logged,
    ("docs/fidelity.md", 2): two_folders_are_scored,
    ("docs/finetuning.md", 1): new_classes_are_learnt,
    ("docs/prediction.md", 1): a_folder_is_predicted,
    ("docs/prediction.md", 2): one_image_in_every_form_has_one_result,
    ("docs/published.md", 1): a_published_name_loads_and_is_pushed,
    ("docs/published.md", 2): a_model_is_pushed_to_the_hub_and_loaded_from_it,
    ("docs/published.md", 3): torch_hub_loads,
    ("docs/training.md", 1): only_unfrozen_modules_are_trained,
    ("docs/weights.md", 1): weights_are_converted,
    ("docs/weights.md", 2): new_and_missing_variables_are_reported,
}


def a_training_loop() -> dict[str, Any]:
    """The variables of a training loop: two batches of images, a generator, a log."""
    logged: dict[str, Any] = {}

    def draw(count: int) -> torch.Tensor:
        return torch.randint(256, (count, 3, 75, 75), dtype=torch.uint8)

    return {"real_images": [draw(2), draw(1)], "steps": 1, "generate": draw, "log": logged.update, "logged": logged}


VARIABLES: dict[tuple[str, int], Callable[[], dict[str, Any]]] = {("docs/fidelity.md", 1): a_training_loop}
SHORTER = {("docs/fidelity.md", 1): {"10_000": "3"}}  # images for the 2015 network
WRITTEN = {("docs/finetuning.md", 1): {"runs/pets"}}  # files that the block writes itself
OTHER_FILES: dict[tuple[str, int], dict[str, Callable[[Path], Any]]] = {
    ("docs/fidelity.md", 2): {name: lambda path: skies(path, 4) for name in ("generated", "real")},
    ("docs/weights.md", 1): {"inception_v3.ckpt": full_slim_file},  # Keras only has the full width
}


# ---------------------------------------------------------------------------------------------------------- the test


@pytest.mark.parametrize(("page", "number"), CHECKS)
def test_a_block_runs(
    page: str,
    number: int,
    tmp_path: Path,
    hub: dict[str, Any],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    block = (page, number)
    code = blocks(page)[number - 1]
    for long, short in SHORTER.get(block, {}).items():
        assert long in code
        code = code.replace(long, short)
    if "torchvision:" in code:
        request.getfixturevalue("cached_torchvision")
    folder = tmp_path / "current"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, build in (FILES | OTHER_FILES.get(block, {})).items():
        if re.search(f'"{re.escape(name)}["/]', code) and name not in WRITTEN.get(block, ()):
            build(Path(name))
    if (weights := "pt_inception-2015-12-05.pth") in code:
        Path(weights).symlink_to(request.getfixturevalue("weights_of_2015"))
    names: dict[str, Any] = {"__name__": "block"} | VARIABLES.get(block, dict)()
    capsys.readouterr()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        exec(compile(code, f"{page}, block {number}", "exec"), names)
    messages = [str(warning.message) for warning in warned if warning.category is UserWarning]
    CHECKS[block](Ran(SimpleNamespace(**names), capsys.readouterr().out, messages, hub))


def test_every_python_example_is_run() -> None:
    """And there is none with other fences or indentation, which BLOCK would not find."""
    assert [(page, number) for page in PAGES for number, _ in enumerate(blocks(page), 1)] == list(CHECKS)
    for page in PAGES:
        rest = BLOCK.sub("", (ROOT / page).read_text("utf-8"))
        assert not re.search(r"```|~~~|^\s+(from \S+ )?import ", rest, re.MULTILINE), page
