"""The model card of a run folder: results, origin, data, licence, valid YAML, and text of the user that is kept."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image

import inception_v3
from inception_v3.data import LabelledImages
from inception_v3.data.splits import hold_out
from inception_v3.evaluation.evaluate import PREDICTION_DTYPE, Metrics
from inception_v3.finetuning.finetune import with_new_head
from inception_v3.support.files import checksum
from inception_v3.training.run_folder import RunFolder
from inception_v3.weights.model import InceptionV3

HOSTILE = 'a: "b"\n---\n# c | `d` \udce9 <script> ${e}'


@pytest.fixture
def model(random_model: Callable[..., InceptionV3]) -> InceptionV3:
    return random_model(num_classes=2, image_size=75, global_pool=True)


def labelled(count: int, class_names: list[str]) -> LabelledImages:
    labels = [number % 2 for number in range(count)]
    return LabelledImages(class_names, [Image.new("RGB", (8, 8))] * count, labels, [f"{n}.png" for n in range(count)])


def write_run(
    folder: Path,
    model: InceptionV3,
    *,
    data_name: str | None = "pets",
    correct: int | None = 11,
    drawn: bool = True,
    class_names: list[str] | None = None,
) -> str:
    """A run with 80 training images and 20 held out, of which `correct` are predicted correctly. Returns its card."""
    train_set, test_set = hold_out(labelled(100, class_names or ["cat", "dog"]), "pets")
    test_set = replace(test_set, is_drawn=drawn)
    rows = np.zeros(20, PREDICTION_DTYPE)
    rows["index"], rows["confidence"], rows["log_likelihood"] = np.arange(20), 0.5, -0.7
    rows["rank"] = rows["index"] >= (correct or 0)
    metrics = None if correct is None else Metrics(train_set.class_names, rows)
    model.class_names = train_set.class_names
    with RunFolder(folder, overwrite=True, data_name=data_name) as run:
        run.remove_old_run()
        run.save_model(model, {"epochs": 3}, train_set, test_set, metrics)
        run.write_card()
    return (folder / "README.md").read_text("utf-8")


def test_the_card_has_results_origin_data_and_a_licence_hint(tmp_path: Path, model: InceptionV3) -> None:
    base = tmp_path / "base.safetensors"
    inception_v3.save(model, base)
    card = write_run(tmp_path / "run", with_new_head(inception_v3.load(base), ["cat", "dog"]))
    for text in (
        "with 2 classes; ",
        "On 20 images that were held out from the training:",
        "| top-1 accuracy | 55 % |\n| 95 % interval of top-1 | 34 % to 74 % |\n| mean of classes | 55 % |",
        f"Trained from the weights `base.safetensors (native)` (SHA-256 `{checksum(base)}`).",
        "`pets`: 100 images of 2 classes; 80 to train on, 20 held out "
        "(a fifth of each class, drawn at random, the same images at every call).",
        "Not known. The licence of these weights follows those of the weights `base.safetensors (native)` that they "
        "started from and of the data `pets`, which are not recorded here.",
    ):
        assert text in card, text
    assert "up to" not in card
    assert str(tmp_path) not in card, "paths on the user's disk are private"


def test_the_header_of_the_card_is_that_of_the_hugging_face_hub(tmp_path: Path, model: InceptionV3) -> None:
    write_run(tmp_path / "run", model)
    header = ModelCard.load(tmp_path / "run" / "README.md").data
    assert (header.library_name, header.pipeline_tag, header.license) == (
        "inception-v3",
        "image-classification",
        "unknown",
    )
    (result,) = header.eval_results or []
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("pets", "accuracy", 0.55)
    assert "base_model" not in header.to_dict()


def test_a_base_from_the_hub_is_named_in_the_header(tmp_path: Path, model: InceptionV3) -> None:
    inception_v3.save(model, tmp_path / "base.safetensors")
    loaded = inception_v3.load(tmp_path / "base.safetensors")
    assert loaded.origin is not None
    loaded.origin = replace(loaded.origin, name="hf:ada/pets@v1")
    write_run(tmp_path / "run", with_new_head(loaded, ["cat", "dog"]))
    assert ModelCard.load(tmp_path / "run" / "README.md").data.to_dict()["base_model"] == "ada/pets"


def test_names_of_data_and_classes_cannot_break_the_card(tmp_path: Path, model: InceptionV3) -> None:
    card = write_run(tmp_path / "run", model, data_name=HOSTILE, class_names=[HOSTILE, "dog"])
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header)["library_name"] == "inception-v3"
    assert yaml.safe_load(header)["model-index"][0]["results"][0]["dataset"]["name"].startswith('a: "b"\\n---\\n# c')
    assert text.startswith("\n# Inception V3\n")
    assert "`a: \"b\" --- # c / 'd' \\udce9 <script> ${e}`, `dog`" in text


def test_what_is_not_known_is_not_invented(tmp_path: Path, model: InceptionV3) -> None:
    card = write_run(tmp_path / "run", model, data_name=None, correct=None, drawn=False)
    assert "Not evaluated since the last step of the training." in card
    assert "Trained from new weights, not from stored ones." in card
    assert "A data set whose name is not recorded: 100 images" in card
    assert "20 held out (a set of their own)." in card
    assert "eval_results" not in ModelCard(card).data.to_dict()


def test_the_facts_stay_with_the_model_file(tmp_path: Path, model: InceptionV3) -> None:
    """The card of a copy, which `push_to_hub` uploads, has them too; a given licence replaces the hint."""
    write_run(tmp_path / "run", model)
    (tmp_path / "copy.safetensors").write_bytes((tmp_path / "run" / "model.safetensors").read_bytes())
    card = inception_v3.load(tmp_path / "copy.safetensors").generate_model_card(license="cc-by-4.0")
    assert "| top-1 accuracy | 55 % |" in card.text
    assert "`cc-by-4.0`, as given by the publisher of this card." in card.text
    assert card.data.license == "cc-by-4.0"


def test_a_new_run_replaces_its_card_but_not_text_of_the_user(tmp_path: Path, model: InceptionV3) -> None:
    assert "55 %" in write_run(tmp_path / "run", model)
    assert "60 %" in write_run(tmp_path / "run", model, correct=12)
    (tmp_path / "run" / "README.md").write_text("My project")
    assert write_run(tmp_path / "run", model) == "My project"


def test_a_base_whose_file_is_gone_has_no_checksum(tmp_path: Path, model: InceptionV3) -> None:
    inception_v3.save(model, tmp_path / "base.safetensors")
    new = with_new_head(inception_v3.load(tmp_path / "base.safetensors"), ["cat", "dog"])
    (tmp_path / "base.safetensors").unlink()
    assert "`base.safetensors (native)` (its checksum is not known)" in write_run(tmp_path / "run", new)
