"""Cross-validation of the last layer: every image is held out once, and equal images are never divided."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from inception_v3 import InceptionV3, Preprocessing, cli
from inception_v3.data import load_data
from inception_v3.errors import InputError
from inception_v3.finetuning.finetune import HeadOptions, evaluate_head, finetune, with_new_head
from inception_v3.finetuning.folds import assign_folds, check_folds, content_groups
from inception_v3.inference.feature_store import FeatureStore
from inception_v3.training.run_folder import RunFolder
from inception_v3.weights.load import load, save

pytestmark = pytest.mark.usefixtures("one_thread")


# ------------------------------------------------------------------------------------------------ the folds


@settings(max_examples=50, deadline=None)
@given(counts=st.lists(st.integers(7, 40), min_size=1, max_size=6), folds=st.integers(2, 7))
def test_folds_have_equal_parts_of_each_class_and_equal_sizes(counts: list[int], folds: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    numbers = assign_folds(labels, np.arange(len(labels)), folds)
    for label, count in enumerate(counts):
        parts = np.bincount(numbers[labels == label], minlength=folds)
        assert parts.sum() == count
        assert np.ptp(parts) <= 1
    assert np.ptp(np.bincount(numbers, minlength=folds)) <= 1


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(2, 5))
def test_a_group_is_never_divided(data: st.DataObject, folds: int) -> None:
    count = data.draw(st.integers(30, 80))
    labels, groups = (np.array(data.draw(st.lists(st.integers(0, top), min_size=count, max_size=count)))
                      for top in (2, 20))  # fmt: skip
    numbers = assign_folds(labels, groups, folds)
    for group in np.unique(groups):
        assert len(np.unique(numbers[groups == group])) == 1


def test_the_folds_of_the_same_images_are_the_same_in_every_run() -> None:
    labels = np.arange(60) % 3
    first, second = (assign_folds(labels, np.arange(60), 4) for _ in range(2))
    assert np.array_equal(first, second)


def test_equal_images_count_once_for_the_smallest_class() -> None:
    labels, groups = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, 3, 4, 5, 6, 7])
    check_folds(labels, groups, 2, ["cat", "dog"])
    with pytest.raises(InputError, match="class cat has 2 different images, and each fold needs one; give --folds 2"):
        check_folds(labels, groups, 3, ["cat", "dog"])
    with pytest.raises(InputError, match="class cat has 1 different image, and each fold needs one; add more"):
        check_folds(labels[3:], groups[3:], 2, ["cat", "dog"])


# ------------------------------------------------------------------------------------- cross-validation


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, and 24 images of noise in two classes: nothing can be learned but which images are equal.

    Eight images are copies of others. The originals and their copies are in different splits.
    """
    workspace = tmp_path_factory.mktemp("folds")
    torch.manual_seed(0)
    model = InceptionV3(num_classes=7, depth_multiplier=0.1, min_depth=8, image_size=75)
    model.preprocessing = Preprocessing((75, 75))
    save(model, workspace / "weights.safetensors")
    rng = np.random.default_rng(0)
    for number in range(16):
        file = workspace / "data" / "train" / "ab"[number % 2] / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (80, 80, 3), dtype=np.uint8)).save(file)
        if number < 8:
            copy = workspace / "data" / "val" / file.parent.name / f"copy-{file.name}"
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    return workspace


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    common = ("finetune", workspace / "weights.safetensors", workspace / "data")

    def run(*options: object) -> tuple[int, str, str]:
        cache = () if "--no-cache" in options else ("--cache", workspace / "cache")
        arguments = map(str, (*common, *cache, "--out", tmp_path / "run", *options))
        monkeypatch.setattr(sys, "argv", ["inception-v3", *arguments])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        return int(exited.value.code or 0), *capsys.readouterr()

    return run


@pytest.mark.filterwarnings("ignore:.* in both the training and the held-out split")
def test_every_image_is_held_out_once_and_copies_of_it_with_it(workspace: Path, tmp_path: Path) -> None:
    """A fold with a copy of a training image would have a perfect score on it."""
    train_set, test_set = load_data(str(workspace / "data"))
    groups = content_groups(train_set, test_set)
    model = with_new_head(load(workspace / "weights.safetensors"), train_set.class_names)
    with RunFolder(tmp_path / "run") as folder, closing(FeatureStore(workspace / "cache")) as store:
        options = HeadOptions(l2=1e-5, folds=4)
        head = finetune(model, train_set, test_set, folder, store, head=options).head
    assert head is not None
    assert head.folds is not None
    assert head.folds.metrics.predictions["index"].tolist() == list(range(24))
    assert sum(fold.count for fold in head.folds.each) == 24
    for fold in head.folds.each:
        inside = groups[fold.predictions["index"]]
        outside = np.delete(groups, fold.predictions["index"])
        assert not set(inside) & set(outside)
    assert head.metrics.top1 == 1, "the held-out images of the data are copies of training images"
    assert head.folds.metrics.top1 < 0.9


def test_the_command_reports_all_images_and_each_fold(run: Run, workspace: Path, tmp_path: Path) -> None:
    status, out, err = run("--folds", 4, "--json")
    assert status == 0, err
    result = json.loads(out)
    folds = result["folds"]
    assert (folds["folds"], folds["count"], len(folds["each"])) == (4, 24, 4)
    assert folds["top1"] == pytest.approx(sum(fold["top1"] * fold["count"] for fold in folds["each"]) / 24)
    assert folds["top1_interval"][0] < folds["top1"] < folds["top1_interval"][1]
    assert all(fold["l2"] > 0 for fold in folds["each"])
    assert sum(row["count"] for row in folds["classes"]) == 24
    assert re.search(r"4 folds: top-1 \d+ % \(95 % interval \d+ to \d+ %\) of 24 images, each held out once", err)
    assert result["held_out"]["count"] == 8
    assert load(tmp_path / "run").origin.training["folds"]["top1"] == folds["top1"]  # type: ignore[union-attr]


def test_the_model_is_the_one_of_a_run_without_folds(run: Run, tmp_path: Path) -> None:
    assert run("--folds", 3)[0] == 0
    with_folds = load(tmp_path / "run").state_dict()
    assert run("--overwrite")[0] == 0
    without = load(tmp_path / "run").state_dict()
    assert all(torch.equal(with_folds[name], without[name]) for name in without)


def test_the_features_are_computed_once(run: Run) -> None:
    status, out, err = run("--folds", 8, "--json", "--no-cache")
    assert status == 0, err
    assert json.loads(out)["head"]["computed"] == 24


@pytest.mark.filterwarnings("ignore:.* in both the training and the held-out split")
def test_a_fold_is_evaluated_by_a_layer_that_was_trained_without_it(workspace: Path, tmp_path: Path) -> None:
    from inception_v3.finetuning.bottlenecks import bottlenecks
    from inception_v3.finetuning.finetune import _cross_validate, _fit

    train_set, _ = load_data(str(workspace / "data"))
    model = with_new_head(load(workspace / "weights.safetensors"), train_set.class_names)
    with closing(FeatureStore(workspace / "cache")) as store:
        features = bottlenecks(model, train_set, store).features
    labels, numbers = torch.tensor(train_set.labels), np.arange(16) // 2 % 4
    folds = _cross_validate(model, features, labels, numbers, HeadOptions())
    for number, fold in enumerate(folds.each):
        inside = torch.from_numpy(numbers == number)
        _fit(model, features[~inside], labels[~inside], HeadOptions())
        expected = evaluate_head(model, features[inside], labels[inside]).predictions["confidence"]
        assert np.array_equal(fold.predictions["confidence"], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--folds", 9), "--folds 9: class a has 8 different images, and each fold needs one; give --folds 8 or fewer"),
        (("--folds", 1), "--folds"),
        (("--folds", 3, "--unfreeze", "Mixed_7c"), "--folds and --unfreeze: only the last layer"),
    ],
)
def test_folds_that_cannot_work_are_refused_and_nothing_is_written(
    run: Run, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    status, out, err = run(*options)
    assert (status, out) == (2, "")
    assert message in err
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_with_fewer_than_200_held_out_images_folds_are_recommended(run: Run) -> None:
    status, _, err = run()
    assert status == 0
    assert "only 8 images are held out: with --folds 5, finetune evaluates the last layer on all 24 images" in err
    assert "only 8 images" not in run("--folds", 2, "--overwrite")[2]
