"""What users of the Hugging Face hub and of torch.hub expect of a model."""

import copy
import json
import pickle
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi, ModelCard, PyTorchModelHubMixin

import inception_v3
from inception_v3.errors import InputError
from inception_v3.training.run_folder import RunFolder
from inception_v3.weights import published
from inception_v3.weights.model import InceptionV3
from web_server import WebServer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def model(random_model: Callable[..., InceptionV3]) -> InceptionV3:
    model = random_model(num_classes=2, image_size=75, count_padding=True, global_pool=True)
    model.preprocessing = inception_v3.Preprocessing((75, 75), mean=(0.4, 0.5, 0.6), interpolation="bicubic")
    model.class_names = ["cat", "dog"]
    return model


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    with WebServer().running() as server:
        monkeypatch.setattr(published, "ENDPOINT", server.url)
        yield server


def same(one: InceptionV3, other: InceptionV3) -> bool:
    told = [(m.settings, m.preprocessing, m.class_names, m.state_dict().keys(), m.training) for m in (one, other)]
    left, right = one.state_dict(), other.state_dict()
    return told[0] == told[1] and all(torch.equal(left[name], right[name]) for name in left)


# ------------------------------------------------------------------------------------------------- saved and read


def test_the_layout_is_the_hubs_and_load_reads_it(tmp_path: Path, model: InceptionV3) -> None:
    assert model.save_pretrained(tmp_path / "mine") is None
    assert {file.name for file in (tmp_path / "mine").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert config.items() >= {"num_classes": 2, "count_padding": True, "class_names": ["cat", "dog"]}.items()
    assert config["preprocessing"]["mean"] == [0.4, 0.5, 0.6]
    for again in (
        InceptionV3.from_pretrained(tmp_path / "mine"),
        InceptionV3.from_pretrained(str(tmp_path / "mine")),
        inception_v3.load(tmp_path / "mine"),
        inception_v3.load(tmp_path / "mine" / "model.safetensors"),
    ):
        assert same(again, model)


def test_saving_again_replaces_the_model_and_keeps_a_card_that_was_edited(tmp_path: Path, model: InceptionV3) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save_pretrained(tmp_path)
    assert same(InceptionV3.from_pretrained(tmp_path), model)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_from_pretrained_takes_the_options_of_load(tmp_path: Path, model: InceptionV3) -> None:
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="the final layers are new, for 5 classes"):
        again = InceptionV3.from_pretrained(tmp_path, num_classes=5)
    assert again.settings.num_classes == 5
    assert again.settings.count_padding
    with pytest.warns(UserWarning, match="in the file, but not used: AuxLogits"):
        again = InceptionV3.from_pretrained(tmp_path, strict=False, create_aux_logits=False)
    assert again.AuxLogits is None


def test_from_pretrained_takes_files_and_folders_of_others(tmp_path: Path, random_model: Any) -> None:
    inception_v3.save(random_model(), tmp_path / "slim.ckpt", "tf-slim")
    assert InceptionV3.from_pretrained(tmp_path / "slim.ckpt").origin.format == "tf-slim"  # type: ignore[union-attr]
    with pytest.raises(InputError, match="no such file"):
        InceptionV3.from_pretrained(tmp_path / "nothing")


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, model: InceptionV3) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        model.save_pretrained(tmp_path / "file" / "below")


# ----------------------------------------------------------------------------------------------------------- the hub


def test_from_the_hub_and_back(
    tmp_path: Path, model: InceptionV3, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def create_repo(self: HfApi, repo_id: str, **options: Any) -> Any:
        asked["create_repo"] = {"token": self.token, "repo_id": repo_id, **options}
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self: HfApi, *, repo_id: str, folder_path: Path, **options: Any) -> str:
        asked["upload_folder"] = {"repo_id": repo_id, **options}
        server.publish(repo_id, Path(folder_path), [file.name for file in Path(folder_path).iterdir()])
        return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    address = model.push_to_hub("owner/cats", private=True, token="secret", commit_message="First")
    assert address == "https://huggingface.co/owner/cats/commit/1"
    assert asked["create_repo"].items() >= {"token": "secret", "repo_id": "owner/cats", "private": True}.items()
    assert asked["upload_folder"]["commit_message"] == "First"
    card = server.files["/owner/cats/resolve/main/README.md"].content.decode()
    assert 'inception_v3.load("hf:owner/cats")' in card

    for again in (
        InceptionV3.from_pretrained("owner/cats"),
        InceptionV3.from_pretrained("hf:owner/cats"),
        InceptionV3.from_pretrained("owner/cats", revision="main", cache_dir=tmp_path / "other", token=False),
        inception_v3.load("hf:owner/cats"),
        InceptionV3.from_pretrained("owner/cats", local_files_only=True),
    ):
        assert same(again, model)
        assert again.origin is not None
        assert again.origin.first == "hf:owner/cats (native)"
    assert len(server.ranges) == 2 * 2, "two files, to two caches"
    InceptionV3.from_pretrained("owner/cats", force_download=True)
    assert len(server.ranges) == 3 * 2
    with pytest.raises(InputError, match="owner/dogs: is not in the cache"):
        InceptionV3.from_pretrained("owner/dogs", local_files_only=True)


# ---------------------------------------------------------------------------------------------------------- the card


def test_the_card_tells_what_a_user_must_know(tmp_path: Path, model: InceptionV3) -> None:
    inception_v3.save(model, tmp_path / "first.safetensors")
    loaded = inception_v3.load(tmp_path / "first.safetensors")
    loaded.save_pretrained(
        tmp_path / "mine", model_card_kwargs={"results": {"top-1": 0.75}, "license": "apache-2.0", "datasets": ["pets"]}
    )
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    assert card.data.library_name == "inception-v3"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.license == "apache-2.0"
    assert card.data.datasets == ["pets"]
    assert {"inception-v3", "model_hub_mixin", "pytorch_model_hub_mixin"} <= set(card.data.tags or ())
    for told in (
        "| `count_padding` | `true` |",
        "| `mean` | `[0.4, 0.5, 0.6]` |",
        "| `interpolation` | `bicubic` |",
        "`cat`, `dog`",
        "| `top-1` | `0.75` |",
        "`first.safetensors (native)`",
        "75",
    ):
        assert told in card.text, told
    assert str(tmp_path) not in card.text, "paths are the user's own affair"


def test_the_code_in_the_card_runs(tmp_path: Path, model: InceptionV3, server: WebServer) -> None:
    model.save_pretrained(tmp_path, model_card_kwargs={"repository": "owner/cats"})
    server.publish("owner/cats", tmp_path, ["model.safetensors", "config.json"])
    code = (tmp_path / "README.md").read_text().split("```python\n")[1].split("```")[0]
    found: dict[str, Any] = {}
    exec(code.replace("picture.jpg", str(ROOT / "examples" / "digits" / "7-0081.png")), found)
    assert found["logits"].shape == (1, 2)


def test_the_card_of_a_trained_model_tells_what_was_measured(tmp_path: Path, model: InceptionV3) -> None:
    """Of the epoch that the file holds: one after it may have been measured and not saved."""
    run = RunFolder(tmp_path / "run")
    run.write_metrics([{"epoch": epoch, "loss": 1.0, "held_out_top1": epoch / 10} for epoch in (1, 2, 3)])
    run.close()
    inception_v3.save(model, run.model_file, training={"epochs": 2, "seed": 7})
    text = inception_v3.load(tmp_path / "run").generate_model_card().text
    assert "| `held_out_top1` | `0.2` |" in text
    assert "| `seed` | `7` |" in text
    inception_v3.load(tmp_path / "run").save_pretrained(tmp_path / "copy")
    assert "| `seed` | `7` |" in inception_v3.load(tmp_path / "copy").generate_model_card().text
    assert "held_out" not in model.generate_model_card().text


def test_names_from_files_do_not_break_the_card(model: InceptionV3) -> None:
    model.class_names = ["a\n---\n# b", "`|<script>"]
    card = model.generate_model_card()
    assert "`a --- # b`, `'/<script>`" in card.text
    assert card.data.library_name == "inception-v3"


def test_a_thousand_classes_are_not_all_listed(model: InceptionV3) -> None:
    model.class_names = [f"class {number}" for number in range(1000)]
    text = model.generate_model_card().text
    assert "`class 99` and 900 more, in config.json" in text
    assert "class 100`" not in text


# ------------------------------------------------------------------------------------- the model stays as it was


def test_the_mixin_changes_nothing_else(model: InceptionV3) -> None:
    assert isinstance(model, PyTorchModelHubMixin)
    assert not [name for name in vars(model) if name.startswith("_hub")]
    assert not [name for name in model.state_dict() if "hub" in name]
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert same(again, model)
        assert type(again) is InceptionV3
        assert vars(again).keys() == vars(model).keys()
    with pytest.raises(TypeError, match="unexpected keyword argument 'classes'"):
        InceptionV3(classes=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="dropout_keep_prob"):
        InceptionV3(10, 1.0, 16, 2.0)


def test_it_compiles_as_before(random_model: Callable[..., InceptionV3]) -> None:
    stem = random_model(final_endpoint="Conv2d_2a_3x3", image_size=75)
    images = torch.rand(1, 3, 75, 75)
    compiled = torch.compile(stem, backend="eager", fullgraph=True)
    assert torch.equal(compiled(images)[0], stem(images)[0])


# --------------------------------------------------------------------------------------------------------- torch.hub


def test_torch_hub_lists_explains_and_builds() -> None:
    found = runpy.run_path(str(ROOT / "hubconf.py"))
    names = {name for name, value in found.items() if callable(value) and not name.startswith("_")}
    assert names == {"fid_2015", "inception_v3"}, "as torch.hub.list finds them"
    assert "torchvision:IMAGENET1K_V1" in found["inception_v3"].__doc__, "which torch.hub.help shows"
    model = torch.hub.load(str(ROOT), "inception_v3", source="local", depth_multiplier=0.1, min_depth=8, num_classes=3)
    assert model(torch.rand(2, 3, 299, 299), ())[0].shape == (2, 3)


def test_torch_hub_loads_weights(tmp_path: Path, model: InceptionV3) -> None:
    inception_v3.save(model, tmp_path / "model.safetensors")
    again = torch.hub.load(str(ROOT), "inception_v3", source="local", weights=str(tmp_path / "model.safetensors"))
    assert same(again, model)
    with pytest.raises(InputError, match="no weights are called"):
        torch.hub.load(str(ROOT), "inception_v3", source="local", weights="torchvision:V9")


def test_torch_hub_needs_no_installation(tmp_path: Path) -> None:
    """In a process that does not have the package, nor stands in the clone; torch.hub runs hubconf.py so."""
    code = f"import runpy; print(runpy.run_path({str(ROOT / 'hubconf.py')!r})['_package'].__file__)"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, env={})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(ROOT / "src" / "inception_v3" / "__init__.py")
