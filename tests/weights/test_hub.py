"""The conventions of the Hugging Face hub and of torch.hub: save, load, upload, model card, entry points."""

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


def same(left: InceptionV3, right: InceptionV3) -> bool:
    facts = [(m.settings, m.preprocessing, m.class_names, m.state_dict().keys(), m.training) for m in (left, right)]
    tensors = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return facts[0] == facts[1] and all(torch.equal(ours, theirs) for ours, theirs in tensors)


# ------------------------------------------------------------------------------------------------- save and load


def test_a_saved_folder_has_the_hubs_layout_and_can_be_loaded(tmp_path: Path, model: InceptionV3) -> None:
    assert model.save_pretrained(tmp_path / "model") is None
    assert {file.name for file in (tmp_path / "model").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config.items() >= {"num_classes": 2, "count_padding": True, "class_names": ["cat", "dog"]}.items()
    assert config["preprocessing"]["mean"] == [0.4, 0.5, 0.6]
    for loaded in (
        InceptionV3.from_pretrained(tmp_path / "model"),
        InceptionV3.from_pretrained(str(tmp_path / "model")),
        inception_v3.load(tmp_path / "model"),
        inception_v3.load(tmp_path / "model" / "model.safetensors"),
    ):
        assert same(loaded, model)


def test_saving_again_replaces_the_model_and_keeps_an_edited_card(tmp_path: Path, model: InceptionV3) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("model")
    with torch.no_grad():
        next(model.parameters()).add_(1)
    model.save_pretrained(tmp_path)
    assert same(InceptionV3.from_pretrained(tmp_path), model)
    assert (tmp_path / "README.md").read_text() == "model"


def test_from_pretrained_accepts_the_options_of_load(tmp_path: Path, model: InceptionV3) -> None:
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="the final layers are new, for 5 classes"):
        loaded = InceptionV3.from_pretrained(tmp_path, num_classes=5)
    assert loaded.settings.num_classes == 5
    assert loaded.settings.count_padding
    with pytest.warns(UserWarning, match="in the file, but not used: AuxLogits"):
        loaded = InceptionV3.from_pretrained(tmp_path, strict=False, create_aux_logits=False)
    assert loaded.AuxLogits is None


def test_from_pretrained_reads_other_programs_files(tmp_path: Path, random_model: Any) -> None:
    inception_v3.save(random_model(), tmp_path / "slim.ckpt", "tf-slim")
    assert InceptionV3.from_pretrained(tmp_path / "slim.ckpt").origin.format == "tf-slim"  # type: ignore[union-attr]
    with pytest.raises(InputError, match="no such file"):
        InceptionV3.from_pretrained(tmp_path / "nothing")


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path, model: InceptionV3) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        model.save_pretrained(tmp_path / "file" / "below")


# ----------------------------------------------------------------------------------------------------------- the hub


def test_push_to_the_hub_and_load_from_it(
    tmp_path: Path, model: InceptionV3, server: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: dict[str, Any] = {}

    def create_repo(self: HfApi, repo_id: str, **options: Any) -> Any:
        calls["create_repo"] = {"token": self.token, "repo_id": repo_id, **options}
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self: HfApi, *, repo_id: str, folder_path: Path, **options: Any) -> str:
        calls["upload_folder"] = {"repo_id": repo_id, **options}
        server.publish(repo_id, Path(folder_path), [file.name for file in Path(folder_path).iterdir()])
        return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    address = model.push_to_hub("owner/cats", private=True, token="secret", commit_message="First")
    assert address == "https://huggingface.co/owner/cats/commit/1"
    assert calls["create_repo"].items() >= {"token": "secret", "repo_id": "owner/cats", "private": True}.items()
    assert calls["upload_folder"]["commit_message"] == "First"
    card = server.files["/owner/cats/resolve/main/README.md"].content.decode()
    assert 'inception_v3.load("hf:owner/cats")' in card

    for loaded in (
        InceptionV3.from_pretrained("owner/cats"),
        InceptionV3.from_pretrained("hf:owner/cats"),
        InceptionV3.from_pretrained("owner/cats", revision="main", cache_dir=tmp_path / "other", token=False),
        inception_v3.load("hf:owner/cats"),
        InceptionV3.from_pretrained("owner/cats", local_files_only=True),
    ):
        assert same(loaded, model)
        assert loaded.origin is not None
        assert loaded.origin.first == "hf:owner/cats (native)"
    assert len(server.requested_ranges) == 2 * 2, "two files into two caches"
    InceptionV3.from_pretrained("owner/cats", force_download=True)
    assert len(server.requested_ranges) == 3 * 2
    with pytest.raises(InputError, match="owner/dogs: is not in the cache"):
        InceptionV3.from_pretrained("owner/dogs", local_files_only=True)


# ---------------------------------------------------------------------------------------------------------- the card


def test_the_card_describes_the_model(tmp_path: Path, model: InceptionV3) -> None:
    inception_v3.save(model, tmp_path / "first.safetensors")
    loaded = inception_v3.load(tmp_path / "first.safetensors")
    loaded.save_pretrained(
        tmp_path / "saved",
        model_card_kwargs={"results": {"top-1": 0.75}, "license": "apache-2.0", "datasets": ["pets"]},
    )
    card = ModelCard.load(tmp_path / "saved" / "README.md")
    assert card.data.library_name == "inception-v3"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.license == "apache-2.0"
    assert card.data.datasets == ["pets"]
    assert {"inception-v3", "model_hub_mixin", "pytorch_model_hub_mixin"} <= set(card.data.tags or ())
    for text in (
        "| `count_padding` | `true` |",
        "| `mean` | `[0.4, 0.5, 0.6]` |",
        "| `interpolation` | `bicubic` |",
        "`cat`, `dog`",
        "| `top-1` | `0.75` |",
        "`first.safetensors (native)`",
        "75",
    ):
        assert text in card.text, text
    assert str(tmp_path) not in card.text, "paths on the user's disk are private"


def test_the_code_in_the_card_runs(tmp_path: Path, model: InceptionV3, server: WebServer) -> None:
    model.save_pretrained(tmp_path, model_card_kwargs={"repository": "owner/cats"})
    server.publish("owner/cats", tmp_path, ["model.safetensors", "config.json"])
    code = (tmp_path / "README.md").read_text().split("```python\n")[1].split("```")[0]
    variables: dict[str, Any] = {}
    exec(code.replace("image.jpg", str(ROOT / "examples" / "digits" / "7-0081.png")), variables)
    assert variables["logits"].shape == (1, 2)


def test_the_card_of_a_trained_model_contains_its_metrics(tmp_path: Path, model: InceptionV3) -> None:
    """The metrics belong to the epoch that was saved; a later epoch may have been evaluated but not saved."""
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


def test_class_names_cannot_break_the_card(model: InceptionV3) -> None:
    model.class_names = ["a\n---\n# b", "`|<script>"]
    card = model.generate_model_card()
    assert "`a --- # b`, `'/<script>`" in card.text
    assert card.data.library_name == "inception-v3"


def test_a_thousand_classes_are_not_all_listed(model: InceptionV3) -> None:
    model.class_names = [f"class {number}" for number in range(1000)]
    text = model.generate_model_card().text
    assert "`class 99` and 900 more, which model.safetensors holds" in text
    assert "class 100`" not in text


# ------------------------------------------------------------------------------------------------- the mixin


def test_the_mixin_adds_no_state_to_the_model(model: InceptionV3) -> None:
    assert isinstance(model, PyTorchModelHubMixin)
    assert not [name for name in vars(model) if name.startswith("_hub")]
    assert not [name for name in model.state_dict() if "hub" in name]
    for loaded in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert same(loaded, model)
        assert type(loaded) is InceptionV3
        assert vars(loaded).keys() == vars(model).keys()
    with pytest.raises(TypeError, match="unexpected keyword argument 'classes'"):
        InceptionV3(classes=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="dropout_keep_prob"):
        InceptionV3(10, 1.0, 16, 2.0)


def test_a_model_with_the_mixin_compiles_as_one_graph(random_model: Callable[..., InceptionV3]) -> None:
    stem = random_model(final_endpoint="Conv2d_2a_3x3", image_size=75)
    images = torch.rand(1, 3, 75, 75)
    compiled = torch.compile(stem, backend="eager", fullgraph=True)
    assert torch.equal(compiled(images)[0], stem(images)[0])


# --------------------------------------------------------------------------------------------------------- torch.hub


def test_torch_hub_lists_the_entry_points_and_builds_a_model() -> None:
    hubconf = runpy.run_path(str(ROOT / "hubconf.py"))
    names = {name for name, value in hubconf.items() if callable(value) and not name.startswith("_")}
    assert names == {"fid_2015", "inception_v3"}, "torch.hub.list returns these"
    assert "torchvision:IMAGENET1K_V1" in hubconf["inception_v3"].__doc__, "torch.hub.help shows it"
    model = torch.hub.load(str(ROOT), "inception_v3", source="local", depth_multiplier=0.1, min_depth=8, num_classes=3)
    assert model(torch.rand(2, 3, 299, 299), ())[0].shape == (2, 3)


def test_torch_hub_loads_weights(tmp_path: Path, model: InceptionV3) -> None:
    inception_v3.save(model, tmp_path / "model.safetensors")
    loaded = torch.hub.load(str(ROOT), "inception_v3", source="local", weights=str(tmp_path / "model.safetensors"))
    assert same(loaded, model)
    with pytest.raises(InputError, match="no weights are called"):
        torch.hub.load(str(ROOT), "inception_v3", source="local", weights="torchvision:V9")


def test_torch_hub_needs_no_installation(tmp_path: Path) -> None:
    """torch.hub runs hubconf.py in a process that has not installed the package and is in another folder."""
    code = f"import runpy; print(runpy.run_path({str(ROOT / 'hubconf.py')!r})['_package'].__file__)"
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, env={})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(ROOT / "src" / "inception_v3" / "__init__.py")
