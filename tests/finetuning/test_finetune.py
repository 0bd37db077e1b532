"""Fine-tuning: what it learns, that the saved network has the same outputs, and what it writes."""

import contextlib
import csv
import io
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from sklearn.linear_model import LogisticRegression

from inception_v3 import InceptionV3, Preprocessing, cli
from inception_v3.cli.common import default_run_folder
from inception_v3.data import LabelledImages, batches, load_data
from inception_v3.errors import InputError
from inception_v3.evaluation.evaluate import evaluate
from inception_v3.finetuning.finetune import FineTuned, HeadOptions, finetune, rate_factors, with_new_head
from inception_v3.finetuning.logistic import fit_head
from inception_v3.inference.feature_store import FeatureStore
from inception_v3.network import architecture
from inception_v3.training.recipe import Recipe, load_recipe
from inception_v3.training.run_folder import RunFolder, training_images
from inception_v3.weights.load import load, save

pytestmark = pytest.mark.usefixtures("one_thread")

COLOURS = {"blue": (0, 0, 90), "green": (0, 90, 0), "red": (90, 0, 0)}


def colours(folder: Path, each: int = 15) -> Path:
    """Three classes of tinted noise, easy to distinguish; no two images are equal."""
    rng = np.random.default_rng(0)
    for name, tint in COLOURS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            pixels = rng.integers(0, 160, (80, 90, 3)) + tint
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, weights, and a cache that the tests share."""
    workspace = tmp_path_factory.mktemp("finetune")
    colours(workspace / "data")
    (workspace / "data" / "red" / "broken.png").write_text("this is text")
    torch.manual_seed(0)
    model = InceptionV3(num_classes=7, depth_multiplier=0.1, min_depth=8, image_size=75)
    model.preprocessing = Preprocessing((75, 75))
    save(model, workspace / "weights.safetensors")
    return workspace


def tune(
    workspace: Path,
    out: str,
    data: tuple[LabelledImages, LabelledImages] | None = None,
    *,
    resume: bool = False,
    **options: object,
) -> FineTuned:
    train_set, test_set = data or load_data(str(workspace / "data"))
    model = with_new_head(load(workspace / "weights.safetensors"), train_set.class_names)
    with (
        RunFolder(workspace / out, overwrite=not resume, resume=resume) as run,
        contextlib.closing(FeatureStore(workspace / "cache")) as store,
    ):
        return finetune(
            model,
            train_set,
            test_set,
            run,
            store,
            console=Console(file=io.StringIO()),
            **options,  # type: ignore[arg-type]
        )


@pytest.fixture(scope="module")
def tuned(workspace: Path) -> FineTuned:
    return tune(workspace, "run")


# ------------------------------------------------------------------------------------------- what it learns


def test_features_of_random_weights_are_enough_for_easy_classes(tuned: FineTuned) -> None:
    assert tuned.metrics.count == 9
    assert tuned.metrics.top1 == 1.0


def test_wrong_labels_teach_nothing(workspace: Path, tuned: FineTuned) -> None:
    train_set, test_set = load_data(str(workspace / "data"))
    labels = list(train_set.labels)
    random.Random(1).shuffle(labels)
    wrong = LabelledImages(train_set.class_names, train_set.sources, labels, train_set.names)
    assert tune(workspace, "wrong", (wrong, test_set)).metrics.top1 < 0.7


def test_a_second_run_computes_no_features_and_has_the_same_result(workspace: Path, tuned: FineTuned) -> None:
    again = tune(workspace, "again")
    assert again.head is not None
    assert again.head.computed == 0
    first, second = (load(workspace / run).state_dict() for run in ("run", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


# ------------------------------------------------------------------------- the whole network has the same outputs


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_head_has_the_outputs_of_the_whole_network(workspace: Path, precision: str) -> None:
    """On a CPU without bf16, "bf16" is fp32 in both."""
    from inception_v3.support.devices import autocast

    tune(workspace, precision, head=HeadOptions(precision=precision))  # type: ignore[arg-type]
    model = load(workspace / precision)
    _, test_set = load_data(str(workspace / "data"))
    (batch,) = batches(test_set, model.preprocessing, 32)
    layer = model.get_submodule("Logits.Conv2d_1c_1x1")
    images = model.preprocessing.scale(batch.images).contiguous(memory_format=torch.channels_last)
    with (
        torch.inference_mode(),
        torch.autocast("cpu", enabled=False) if precision == "fp32" else autocast(torch.device("cpu")),
    ):
        logits, end_points = model(images, end_points=("PreLogits",))
        whole = logits.float().softmax(1)
        head = layer(end_points["PreLogits"].float().reshape(len(images), -1, 1, 1)).flatten(1).float().softmax(1)
    assert (whole - head).abs().max() <= 1e-6
    assert torch.equal(whole.argmax(1), head.argmax(1))


def test_the_standardisation_is_folded_into_weights_and_biases() -> None:
    """Features of any scale and offset have the outputs of standardised features."""
    features, labels = random_features(60, 20, 3)
    features = features * torch.logspace(-1, 3, 20) + torch.linspace(-5, 5, 20)
    head = fit_head(features, labels, 3, l2=0.01)
    standardised = (features - features.mean(0)) / features.std(0, correction=0)
    reference = fit_head(standardised, labels, 3, l2=0.01)
    logits = features @ head.weights.T + head.biases
    reference_logits = standardised @ reference.weights.T + reference.biases
    assert torch.allclose(logits.softmax(1), reference_logits.softmax(1), atol=1e-4)


def test_evaluating_the_saved_model_gives_the_same_figures(workspace: Path, tuned: FineTuned) -> None:
    model = load(workspace / "run")
    _, test_set = load_data(str(workspace / "data"))
    again = evaluate(model, batches(test_set, model.preprocessing, 4), test_set.class_names)
    assert np.array_equal(again.confusion, tuned.metrics.confusion)


# ---------------------------------------------------------------------------------------------- what it writes


def test_the_run_folder_is_like_that_of_a_training(workspace: Path, tuned: FineTuned) -> None:
    run = workspace / "run"
    model = load(run)
    assert model.class_names == ["blue", "green", "red"]
    assert model.preprocessing == Preprocessing((75, 75))
    assert not model.settings.create_aux_logits
    train_set, test_set = load_data(str(workspace / "data"))
    assert training_images(run) == set(train_set.names)
    assert not training_images(run) & set(test_set.names)
    (figures,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert figures["held_out_top1"] == 1.0
    with Image.open(run / "confusion_matrix.png") as matrix:
        assert min(matrix.size) > 200
    with (run / "bad_images.csv").open() as file:
        assert [row[0] for row in csv.reader(file)] == ["image", "red/broken.png"]
    assert not list(run.glob(".*.partial"))


# ------------------------------------------------------------------------------------- the optimal last layer


def random_features(count: int, length: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, length, generator=rng)
    return (torch.randn(count, length, generator=rng) + 0.5 * centres[labels]), labels


@pytest.mark.parametrize(("classes", "l2"), [(2, 0.1), (5, 0.01), (5, 0.001)])
def test_the_last_layer_is_that_of_scikit_learn(classes: int, l2: float) -> None:
    features, labels = random_features(200, 30, classes)
    head = fit_head(features, labels, classes, l2=l2)
    standardised = ((features - features.mean(0)) / features.std(0, correction=0)).double().numpy()
    # For two classes, scikit-learn penalises one vector: the difference of ours.
    strength = l2 * len(labels) / (2 if classes == 2 else 1)
    theirs = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=10_000).fit(standardised, labels.numpy())
    ours = (features @ head.weights.T + head.biases).softmax(1).numpy()
    assert np.abs(ours - theirs.predict_proba(standardised)).max() < 5e-4


@settings(max_examples=10, deadline=None)
@given(
    count=st.integers(2, 12),
    classes=st.integers(2, 6),
    constant=st.booleans(),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    seed=st.integers(0, 99),
)
def test_any_features_give_finite_weights(count: int, classes: int, constant: bool, scale: float, seed: int) -> None:
    features, labels = random_features(count, 8, classes, seed)
    features *= scale
    if constant:
        features[:, 3] = 7.7
    head = fit_head(features, labels, classes)
    assert head.weights.shape == (classes, 8)
    assert bool(head.weights.isfinite().all())
    assert bool(head.biases.isfinite().all())
    if constant:
        assert not head.weights[:, 3].any()


def test_noise_gets_a_stronger_penalty_than_signal() -> None:
    features, labels = random_features(200, 50, 2)
    noise = torch.randn(200, 50, generator=torch.Generator().manual_seed(1))
    assert fit_head(noise, labels, 2).l2 > fit_head(features, labels, 2).l2


# -------------------------------------------------------------------------------------- a new head on old weights


def test_a_new_head_keeps_the_base_and_drops_the_old_heads(random_model: Callable[..., InceptionV3]) -> None:
    model = random_model()
    new = with_new_head(model, ["a", "b", "c"])
    assert new.settings.num_classes == 3
    assert new.AuxLogits is None
    old = model.state_dict()
    for name, tensor in new.state_dict().items():
        if not name.startswith("Logits"):
            assert tensor is not None
            assert torch.equal(tensor, old[name])


def test_a_complete_base_is_accepted_and_a_shorter_one_refused(random_model: Callable[..., InceptionV3]) -> None:
    new = with_new_head(random_model(final_endpoint="Mixed_7c"), ["a", "b"])
    logits, _ = new(torch.zeros(1, 3, 107, 107), end_points=())
    assert logits.shape == (1, 2)
    with pytest.raises(InputError, match="ends at Mixed_6e"):
        with_new_head(random_model(final_endpoint="Mixed_6e"), ["a", "b"])


@pytest.mark.parametrize("size", [75, 299, 400])
def test_any_size_gives_one_output_per_image(random_model: Callable[..., InceptionV3], size: int) -> None:
    model = random_model()
    model.preprocessing = Preprocessing((299, 299), resize=342)
    new = with_new_head(model, ["a", "b"], (size, size))
    assert new.preprocessing.image_size == (size, size)
    assert new.preprocessing.resize == round(342 * size / 299)
    assert new(torch.zeros(1, 3, size, size), end_points=())[0].shape == (1, 2)


# --------------------------------------------------------------------------------------- more than the last layer


def test_names_of_layers_become_learning_rate_factors() -> None:
    assert rate_factors("Mixed_7a,Mixed_7c=0.5") == {"": 0.0, "Logits.": 1.0, "Mixed_7a.": 0.1, "Mixed_7c.": 0.5}
    assert set(rate_factors("Mixed_7")) == {"", "Logits.", "Mixed_7a.", "Mixed_7b.", "Mixed_7c."}
    layers = {f"{point.name}." for point in architecture.end_points() if point.name in architecture.BASE_END_POINTS}
    assert set(rate_factors("all=1")) - {"", "Logits."} == {name for name in layers if "Pool" not in name}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("Mixed_7d", "did you mean Mixed_7c"),
        ("MaxPool_3a_3x3", "no such layer"),
        ("Mixed_7a=0", "greater than 0"),
        ("Mixed_7a=x", "greater than 0"),
        ("Mixed_7a=nan", "greater than 0"),
        ("=1", "no such layer"),
        ("", "no layers"),
        (" , ", "no layers"),
    ],
)
def test_wrong_names_and_factors_are_refused(layers: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rate_factors(layers)


@pytest.fixture(scope="module")
def short() -> Recipe:
    return load_recipe("finetune").with_options(image_size=75, epochs=1, batch_size=18, augment="none")


@pytest.fixture(scope="module")
def unfrozen(workspace: Path, tuned: FineTuned, short: Recipe) -> FineTuned:
    return tune(workspace, "unfrozen", unfreeze=rate_factors("Mixed_7c"), keep="last", recipe=short)


def test_only_unfrozen_layers_change(workspace: Path, unfrozen: FineTuned) -> None:
    before, after = (load(workspace / run).state_dict() for run in ("run", "unfrozen"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in changed} == {"Mixed_7c", "Logits"}
    assert not [name for name in changed if "moving" in name], "BatchNorm's statistics do not change"


def test_the_training_starts_with_the_trained_last_layer(unfrozen: FineTuned) -> None:
    assert unfrozen.head is not None
    assert unfrozen.head.metrics.top1 == 1.0
    assert unfrozen.metrics.top1 == 1.0


def test_unfrozen_layers_take_smaller_steps(workspace: Path, unfrozen: FineTuned, short: Recipe) -> None:
    """The size of AdamW's steps is about the learning rate."""
    tune(workspace, "smaller", unfreeze=rate_factors("Mixed_7c=0.01"), keep="last", recipe=short)
    name = "Mixed_7c.Branch_0.Conv2d_0a_1x1.weights"
    start, tenth, hundredth = (load(workspace / run).get_parameter(name) for run in ("run", "unfrozen", "smaller"))
    assert (hundredth - start).norm() < 0.3 * (tenth - start).norm()


def test_a_resumed_training_does_not_train_the_last_layer_again(
    workspace: Path, unfrozen: FineTuned, short: Recipe
) -> None:
    """The run is complete, so that it ends at once with the same weights."""
    before = load(workspace / "unfrozen").state_dict()
    train_set, test_set = load_data(str(workspace / "data"))
    model = with_new_head(load(workspace / "weights.safetensors"), train_set.class_names)
    with (
        RunFolder(workspace / "unfrozen", resume=True) as run,
        contextlib.closing(FeatureStore(workspace / "cache")) as store,
    ):
        result = finetune(
            model,
            train_set,
            test_set,
            run,
            store,
            unfreeze=rate_factors("Mixed_7c"),
            keep="last",
            recipe=short,
            console=Console(file=io.StringIO()),
        )
    assert result.head is None
    assert result.metrics.top1 == unfrozen.metrics.top1
    after = load(workspace / "unfrozen").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("moment", ["before the first state", "before the first model", "in the first step"])
def test_a_run_killed_after_the_last_layer_can_be_resumed(
    workspace: Path, unfrozen: FineTuned, short: Recipe, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inception_v3.training import state, train

    class KilledError(BaseException):
        """An exception that no handler catches, in workspace of kill -9."""

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    name = moment.replace(" ", "-")
    owner, function = {
        "before the first state": (state, "write"),
        "before the first model": (RunFolder, "save_model"),
        "in the first step": (train, "add_gradients"),
    }[moment]
    with monkeypatch.context() as patch:
        patch.setattr(owner, function, killed)
        with pytest.raises(KilledError):
            tune(workspace, name, unfreeze=rate_factors("Mixed_7c"), keep="last", recipe=short)
    tune(workspace, name, resume=True, unfreeze=rate_factors("Mixed_7c"), keep="last", recipe=short)
    before, after = (load(workspace / run).state_dict() for run in ("unfrozen", name))
    assert all(torch.equal(before[name], after[name]) for name in before)


# ------------------------------------------------------------------------- the better weights are kept


def accuracy(workspace: Path, run: str) -> float:
    """The accuracy of the model in a run folder on the held-out images."""
    model = load(workspace / run)
    _, test_set = load_data(str(workspace / "data"))
    return evaluate(model, batches(test_set, model.preprocessing, 32), test_set.class_names).top1


@pytest.fixture(scope="module")
def harmful(short: Recipe) -> Recipe:
    """A recipe that destroys the network."""
    return short.with_options(learning_rate=1.0)


def test_the_last_layer_is_kept_if_more_training_made_it_worse(workspace: Path, harmful: Recipe) -> None:
    result = tune(workspace, "worse", unfreeze=rate_factors("Mixed_7c=1"), recipe=harmful)
    assert result.unfreezing is not None
    assert (result.unfreezing.epoch, result.metrics.top1) == (0, 1.0)
    assert accuracy(workspace, "worse") == 1.0
    values = result.unfreezing.as_dict()
    assert (values["keep"], values["kept"], values["kept_epoch"]) == ("best", "head", 0)
    assert values["head"]["top1"] == 1.0
    assert values["head"]["top1_interval"] == list(result.metrics.top1_interval)
    assert values["unfrozen"]["top1"] < 0.8
    before, after = (load(workspace / run).state_dict() for run in ("run", "worse"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    epochs = [json.loads(line) for line in (workspace / "worse" / "metrics.jsonl").read_text().splitlines()]
    assert [epoch["epoch"] for epoch in epochs] == [0, 1]
    assert epochs[0]["held_out_top1"] == 1.0


def test_the_model_card_describes_the_kept_weights(workspace: Path, harmful: Recipe) -> None:
    tune(workspace, "card", unfreeze=rate_factors("Mixed_7c=1"), recipe=harmful)
    results = "| top-1 accuracy | 100 % |\n| 95 % interval of top-1 | 70 % to 100 % |\n| mean of classes | 100 % |"
    assert results in (workspace / "card" / "README.md").read_text()
    for name in ("model.safetensors", "best.safetensors"):
        origin = load(workspace / "card" / name).origin
        assert origin is not None
        assert (origin.training["results"]["top1"], origin.training["epochs"]) == (1.0, 0)
    tune(workspace, "card", resume=True, keep="last", unfreeze=rate_factors("Mixed_7c=1"), recipe=harmful)
    assert results not in (workspace / "card" / "README.md").read_text()
    tune(workspace, "card", resume=True, unfreeze=rate_factors("Mixed_7c=1"), recipe=harmful)
    assert results in (workspace / "card" / "README.md").read_text()


def test_keep_last_keeps_worse_weights_also_when_a_finished_run_is_resumed(workspace: Path, harmful: Recipe) -> None:
    arguments = {"unfreeze": rate_factors("Mixed_7c=1"), "recipe": harmful}
    worse = tune(workspace, "last", keep="last", **arguments)
    assert worse.unfreezing is not None
    assert worse.unfreezing.as_dict()["kept"] == "unfrozen"
    assert worse.metrics.top1 == accuracy(workspace, "last") < 0.8
    best = tune(workspace, "last", resume=True, **arguments)
    assert best.head is None
    assert best.metrics.top1 == accuracy(workspace, "last") == 1.0
    assert best.unfreezing is not None
    assert best.unfreezing.as_dict()["head"]["top1"] == 1.0, "the state of the run remembers it"
    assert tune(workspace, "last", resume=True, keep="last", **arguments).metrics.top1 < 0.8
    assert accuracy(workspace, "last") < 0.8


def test_the_trained_layers_are_kept_if_they_are_better(workspace: Path, short: Recipe) -> None:
    """An extreme L2 penalty makes the weights of the last layer zero."""
    recipe = short.with_options(learning_rate=0.03, epochs=6)
    result = tune(workspace, "better", head=HeadOptions(l2=1e60), unfreeze=rate_factors("Mixed_7c"), recipe=recipe)
    assert result.head is not None
    assert result.unfreezing is not None
    assert result.unfreezing.epoch > 0
    assert result.metrics.top1 > result.head.metrics.top1
    assert accuracy(workspace, "better") == result.metrics.top1
    assert result.metrics.top1 == max(epoch["held_out_top1"] for epoch in result.unfreezing.epochs)


def test_a_run_killed_before_the_first_model_still_knows_the_last_layer(
    workspace: Path, harmful: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        """An exception that no handler catches, in place of kill -9."""

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    arguments = {"unfreeze": rate_factors("Mixed_7c=1"), "recipe": harmful}
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_model", killed)
        with pytest.raises(KilledError):
            tune(workspace, "killed", **arguments)
    assert tune(workspace, "killed", resume=True, **arguments).metrics.top1 == 1.0
    assert accuracy(workspace, "killed") == 1.0


def test_the_command_reports_both_figures_and_which_weights_are_kept(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (
        *("finetune", workspace / "weights.safetensors", workspace / "data", "--cache", workspace / "cache"),
        *("--unfreeze", "Mixed_7c=1", "--learning-rate", "1", "--epochs", "1", "--workers", "0", "--overwrite"),
        *("--out", tmp_path / "run"),
    )
    status, out, err = command(capsys, monkeypatch, *arguments, "--json")
    assert status == 0, err
    first = "only the last layer trained: top-1 100 % (95 % interval 70 to 100 %) of 9 held-out images"
    assert 0 < err.index(first) < err.index("epoch 1/1: loss")
    result = json.loads(out)
    assert result["unfreeze"]["kept"] == "head"
    assert result["unfreeze"]["head"]["top1"] == result["held_out"]["top1"] == 1.0
    assert result["unfreeze"]["unfrozen"]["top1"] < 0.8
    assert any("the weights kept are those before unfreezing" in line for line in result["advice"])
    status, out, err = command(capsys, monkeypatch, *arguments, "--keep", "last", "--json")
    assert status == 0, err
    assert json.loads(out)["unfreeze"]["kept"] == "unfrozen"
    assert json.loads(out)["held_out"]["top1"] < 0.8


# ------------------------------------------------------------------------------------------- the command line


def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["inception-v3", *map(str, arguments)])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return int(exited.value.code or 0), out, err


def test_the_command_then_predict(
    workspace: Path, tuned: FineTuned, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("finetune", workspace / "weights.safetensors", workspace / "data")
    cache = ("--cache", workspace / "cache")
    status, out, err = command(capsys, monkeypatch, *common, *cache, "--out", workspace / "cli", "--json")
    assert status == 0, err
    result = json.loads(out)
    assert result["held_out"]["top1"] == 1.0
    assert result["head"]["computed"] == 0
    assert result["head"]["cached"] == 45
    assert result["held_out"]["top1_interval"][0] == pytest.approx(0.7009, abs=1e-4)
    assert result["held_out"]["mean_recall"] == result["head"]["held_out"]["mean_recall"] == 1.0
    assert result["folds"] is result["unfreeze"] is None
    assert [line.split(":")[0] for line in result["advice"]] == [
        "fewer than 20 training images",
        "only 9 images are held out",
    ]
    assert [bad["image"] for bad in result["bad"]] == ["red/broken.png"]
    assert re.search(r"1 of 46 \w+ could not be read", err)
    stored = (workspace / "cache").stat().st_mtime_ns, sorted((workspace / "cache").iterdir())
    status, again, err = command(
        capsys, monkeypatch, *common, "--out", workspace / "cli-no-cache", "--no-cache", "--quiet", "--json"
    )
    assert status == 0
    assert err.startswith("1 of 46 images could not be read")
    assert json.loads(again)["head"]["cached"] == 0, "--no-cache neither reads the features nor writes them"
    assert stored == ((workspace / "cache").stat().st_mtime_ns, sorted((workspace / "cache").iterdir()))
    status, out, _ = command(capsys, monkeypatch, "predict", workspace / "cli", workspace / "data" / "blue", "--json")
    assert status == 0
    assert {json.loads(line)["predictions"][0]["class"] for line in out.splitlines()} == {"blue"}
    status, _, err = command(capsys, monkeypatch, *common, "--out", workspace / "cli")
    assert status == 2
    assert "--overwrite" in err


@pytest.mark.parametrize("damage", ["a damaged entry", "truncated", "no folder"])
def test_an_unusable_store_costs_one_line_and_not_the_run(
    damage: str,
    workspace: Path,
    tuned: FineTuned,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "features.sqlite"
    with contextlib.closing(sqlite3.connect(workspace / "cache" / "features.sqlite")) as shared:
        shared.execute("VACUUM INTO ?", (f"{file}",))
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif damage == "a damaged entry":
        with contextlib.closing(sqlite3.connect(file)) as database, database:
            database.execute("UPDATE features SET vector = x'00' WHERE id = 2")
    else:
        file = Path("/dev/null/features.sqlite")
    arguments = (workspace / "weights.safetensors", workspace / "data", "--cache", file.parent)
    status, out, err = command(capsys, monkeypatch, "finetune", *arguments, "--out", tmp_path / "run", "--json")
    assert status == 0, err
    assert json.loads(out)["held_out"]["top1"] == 1.0
    assert len([line for line in err.splitlines() if line.startswith(f"{file}: ")]) == 1


def test_without_out_the_run_is_named_after_the_data(
    workspace: Path,
    tuned: FineTuned,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    colours(tmp_path / "tints", 3)
    status, out, _ = command(capsys, monkeypatch, "finetune", workspace / "weights.safetensors", "tints")
    assert status == 0
    assert out.startswith("runs/tints: top-1")
    assert (tmp_path / "home" / "inception-v3" / "features" / "features.sqlite").exists()


@pytest.mark.parametrize(
    ("data", "run"),
    [("photos", "photos"), ("photos/", "photos"), ("photos/*.tar", "photos"), ("photos/t-{000..009}.tar", "photos")],
)
def test_the_default_run_is_not_named_after_a_pattern(data: str, run: str) -> None:
    assert default_run_folder(data) == Path("runs") / run


def test_an_existing_folder_is_not_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "photos [1]").mkdir()
    assert default_run_folder(str(tmp_path / "photos [1]")) == Path("runs") / "photos [1]"


def test_a_training_resumes_from_the_same_weights_under_any_path(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    more = ("data", "--cache", "cache", "--out", tmp_path / "run", "--unfreeze", "Mixed_7c", "--workers", "0")

    def run(weights: object, *options: str) -> tuple[int, str, str]:
        return command(capsys, monkeypatch, "finetune", weights, *more, *options)

    assert run("weights.safetensors", "--epochs", "1")[0] == 0
    status, _, err = run(workspace / "weights.safetensors", "--epochs", "1", "--resume")
    assert status == 0, err
    torch.manual_seed(1)
    other = InceptionV3(num_classes=7, depth_multiplier=0.1, min_depth=8, image_size=75)
    other.preprocessing = Preprocessing((75, 75))
    save(other, tmp_path / "weights.safetensors")
    status, _, err = run(tmp_path / "weights.safetensors", "--epochs", "1", "--resume")
    assert status == 2
    assert "start was weights.safetensors (sha256 " in err


@pytest.mark.parametrize(
    ("arguments", "message", "expected"),
    [
        (("--image-size", "74"), "at least 75", 2),
        (("--image-size", "0"), "at least 75", 2),
        (("--l2", "-1"), "--l2 must be", 2),
        (("--l2", "nan"), "--l2 must be", 2),
        (("--precision", "fp16"), "--precision: no such value fp16; choose from fp32, bf16", 2),
        (("--unfreeze", "Mixed_9"), "no such layer", 2),
        (("--recipe", "nothing"), "no such recipe", 2),
        (("--resume",), "--unfreeze", 2),
    ],
)
def test_wrong_options_give_one_line_and_nothing_is_written(
    workspace: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
    expected: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    common = ("finetune", workspace / "weights.safetensors", workspace / "data", "--out", tmp_path / "run")
    status, out, err = command(capsys, monkeypatch, *common, *arguments)
    assert (status, out) == (expected, "")
    assert err.startswith("error:")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "run").exists()


def test_the_weights_to_start_from_are_never_replaced(
    workspace: Path, tuned: FineTuned, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for weights in (workspace / "run", workspace / "run" / "model.safetensors"):
        status, _, err = command(
            capsys, monkeypatch, "finetune", weights, workspace / "data", "--out", workspace / "run", "--overwrite"
        )
        assert status == 2
        assert "give another --out" in err
    assert load(workspace / "run").class_names == ["blue", "green", "red"]


@pytest.mark.parametrize("wrong", ["one class", "no class folders", "no folder", "weights", "unreadable class"])
def test_wrong_data_and_weights_are_refused(
    workspace: Path, tmp_path: Path, wrong: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, data = workspace / "weights.safetensors", tmp_path / "data"
    if wrong != "no folder":
        data.mkdir()
    if wrong in ("one class", "unreadable class", "weights"):
        colours(data, 3)
    message = {
        "one class": "one class only",
        "no class folders": "no class folders",
        "no folder": "no such folder",
        "weights": "there is no such file",
        "unreadable class": r"class red: none of its training \w+ can be read",
    }[wrong]
    if wrong == "one class":
        for name in ("green", "red"):
            (data / name).rename(tmp_path / name)
    if wrong == "unreadable class":
        for file in (data / "red").iterdir():
            file.write_text("text")
    if wrong == "weights":
        weights = tmp_path / "none.safetensors"
    status, _, err = command(
        capsys, monkeypatch, "finetune", weights, data, "--out", tmp_path / "run", "--cache", tmp_path / "cache"
    )
    assert status != 0
    assert re.search(message, err)


def test_a_size_that_exceeds_the_memory_is_refused_at_once(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for options in ((), ("--unfreeze", "Mixed_7c")):
        arguments = (
            "finetune",
            workspace / "weights.safetensors",
            workspace / "data",
            "--out",
            tmp_path / "run",
            *options,
        )
        status, _, err = command(capsys, monkeypatch, *arguments, "--image-size", 100_000)
        assert status == 2
        assert "GiB or more" in err


def test_finetune_refuses_to_run_in_several_processes(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    arguments = ("finetune", workspace / "weights.safetensors", workspace / "data", "--out", tmp_path / "run")
    status, _, err = command(capsys, monkeypatch, *arguments)
    assert status == 2
    assert "start it without torchrun" in err


def test_a_class_without_training_images_is_allowed(workspace: Path, tuned: FineTuned) -> None:
    """For example the background class of a data set whose labels start at 1."""
    data = load_data(str(workspace / "data"))
    names = ["background", *data[0].class_names]
    train_set, test_set = (
        LabelledImages(names, part.sources, [label + 1 for label in part.labels], part.names) for part in data
    )
    assert tune(workspace, "background", (train_set, test_set)).metrics.top1 == 1.0


def test_a_later_run_imports_only_what_it_needs(workspace: Path, tuned: FineTuned) -> None:
    """Importing the other packages would take longer than the run itself."""
    for name in ("train", "val"):
        shutil.copytree(workspace / "data", workspace / "split" / name, ignore=shutil.ignore_patterns("broken.png"))
    arguments = [str(workspace / "weights.safetensors"), str(workspace / "split"), "--cache", str(workspace / "cache")]
    code = (
        "import sys\n"
        f"sys.argv = ['inception-v3', 'finetune', *{arguments}, '--out', '{workspace / 'light'}']\n"
        "from inception_v3.cli import main\n"
        "try: main()\n"
        "except SystemExit: print('LOADED', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert "top-1" in done.stdout, done.stderr
    loaded = done.stdout.split("LOADED")[1].split()
    assert not {"torchvision", "torch._dynamo", "sklearn", "tensorboard"} & set(loaded)


def test_ctrl_c_reports_that_the_features_are_kept(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from inception_v3.finetuning import bottlenecks

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start without it
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(bottlenecks, "_compute", interrupt)
    status, _, err = command(
        capsys,
        monkeypatch,
        *("finetune", workspace / "weights.safetensors", workspace / "data", "--out", tmp_path / "run"),
        *("--cache", tmp_path / "cache"),
    )
    assert status == 130
    assert err.endswith("the features computed so far are kept; run the same command again to continue\ninterrupted\n")


def test_unfreezing_with_batches_of_one_image_is_refused_before_the_last_layer_is_trained(workspace: Path) -> None:
    frozen = load_recipe("finetune").with_options(batch_size=1, epochs=1)
    recipe, factors = frozen.with_options(freeze_batch_norm=False), rate_factors("all")
    with pytest.raises(InputError, match="a batch of one image cannot train: at 75x75") as raised:
        tune(workspace, "ones", recipe=recipe, unfreeze=factors)
    assert raised.value.exit_status == 2
    assert not (workspace / "ones" / "metrics.jsonl").exists()
    assert tune(workspace, "ones", recipe=frozen, unfreeze=factors).metrics.count == 9
