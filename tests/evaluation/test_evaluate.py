"""Evaluation: figures equal to those of other libraries, whatever the batches, the processes and the outputs."""

import csv
import io
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import scipy.stats
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

import inception_v3
from inception_v3 import cli
from inception_v3.data import LabelledImages, batches
from inception_v3.errors import InputError
from inception_v3.evaluation.calibration import reliability_bins
from inception_v3.evaluation.crops import MultiCrop
from inception_v3.evaluation.evaluate import (
    PREDICTION_DTYPE,
    Metrics,
    evaluate,
    merge,
    wilson_interval,
)
from inception_v3.evaluation.models import evaluate_engines, evaluate_models
from inception_v3.evaluation.report import write_html
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.choose import OpenedModel
from inception_v3.inference.engines.base import LOGITS, Engine, Outputs, Pixels
from inception_v3.inference.export import export
from inception_v3.inference.exported.description import Description
from inception_v3.network.settings import Settings
from inception_v3.training.run_folder import RunFolder
from inception_v3.weights.model import InceptionV3
from processes import command_line, run_distributed

pytestmark = pytest.mark.usefixtures("one_thread")

Models = Callable[..., InceptionV3]


def opened(engine: Engine, preprocessing: Preprocessing) -> OpenedModel:
    settings = Settings(num_classes=engine.widths[LOGITS])
    description = Description(settings, preprocessing, None, (LOGITS,), "fp32", False, "")
    return OpenedModel(engine, description, Path("the model"), "requested")


class Scripted(Engine):
    """A stand-in for the network: an image of gray n gets row n of a table of logits."""

    name, precision, device, callers, image_size = "scripted", "fp32", "cpu", 1, (2, 2)

    def __init__(self, logits: Tensor) -> None:
        self.table, self.widths = logits.numpy(), {LOGITS: logits.shape[1]}

    def run(self, pixels: Pixels) -> Outputs:
        return {LOGITS: self.table[pixels[:, 0, 0, 0]]}


def grays(labels: list[int], classes: int) -> LabelledImages:
    images = [Image.new("RGB", (2, 2), (n, n, n)) for n in range(len(labels))]
    return LabelledImages([f"class {n}" for n in range(classes)], images, labels, [str(n) for n in range(len(labels))])


def scripted(logits: Tensor, labels: list[int], **options: object) -> Metrics:
    model = opened(Scripted(logits), Preprocessing((2, 2), 1.0))
    return evaluate_engines([model], grays(labels, logits.shape[1]), **options)  # type: ignore[arg-type]


def noise(count: int, height: int = 80, width: int = 110) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(count)]


def labelled(count: int, classes: int = 7) -> LabelledImages:
    labels = [n % classes for n in range(count)]
    return LabelledImages([*"abcdefg"[:classes]], noise(count), labels, [str(n) for n in range(count)])


@pytest.fixture
def small(random_model: Models) -> Models:
    """Builds networks for images of 75x75."""

    def build(seed: int = 0, **options: object) -> InceptionV3:
        model = random_model(seed, **{"image_size": 75} | options)
        model.preprocessing = Preprocessing((75, 75))
        return model

    return build


# ---------------------------------------------------------------------------------- equal to other libraries


def test_the_figures_equal_those_of_scikit_learn() -> None:
    classes, labels = 9, [n * n % 7 for n in range(200)]  # two classes have no image
    logits = torch.randn(200, classes) * 3
    metrics = scripted(logits, labels)
    probabilities, all_classes = logits.double().softmax(1).numpy(), range(classes)
    predicted = probabilities.argmax(1)
    confusion = sklearn.metrics.confusion_matrix(labels, predicted, labels=all_classes)
    assert metrics.count == 200
    assert metrics.confusion.tolist() == confusion.tolist()
    assert metrics.top1 == sklearn.metrics.accuracy_score(labels, predicted)
    assert metrics.top5 == sklearn.metrics.top_k_accuracy_score(labels, probabilities, k=5, labels=all_classes)
    assert metrics.loss == pytest.approx(sklearn.metrics.log_loss(labels, probabilities, labels=all_classes), rel=1e-12)
    for name in ("recall", "precision"):
        score = getattr(sklearn.metrics, f"{name}_score")
        expected = score(labels, predicted, labels=all_classes, average=None, zero_division=np.nan)
        rates = [math.nan if row[name] is None else row[name] for row in metrics.per_class()]
        np.testing.assert_allclose(rates, expected, rtol=1e-12)


def test_one_output_with_a_sigmoid_is_evaluated_as_two_classes() -> None:
    logits, labels = torch.tensor([[-2.0], [3.0], [0.5], [-0.5]]), [0, 1, 0, 1]
    model = opened(Scripted(logits), Preprocessing((2, 2), 1.0))
    settings = replace(model.description.settings, output_activation="sigmoid")
    model = replace(model, description=replace(model.description, settings=settings))
    metrics = evaluate_engines([model], grays(labels, 2))
    probability = torch.sigmoid(logits.double()).flatten()
    assert metrics.top1 == 0.5
    assert metrics.loss == pytest.approx(sklearn.metrics.log_loss(labels, probability.numpy()), rel=1e-12)


def test_a_multi_label_network_is_refused_in_one_line(small: Models) -> None:
    model = small(num_classes=3, output_activation="sigmoid")
    for evaluation in (
        lambda: evaluate_models([model], labelled(6, 3)),
        lambda: evaluate(model, batches(labelled(6, 3), model.preprocessing, 4), [*"abc"]),
    ):
        with pytest.raises(InputError, match="a multi-label network, with a probability of its own for each class"):
            evaluation()


def test_during_training_one_output_with_a_sigmoid_is_two_classes_too(small: Models) -> None:
    model, images = small(num_classes=1, output_activation="sigmoid"), labelled(6, 2)
    during_training = evaluate(model, batches(images, model.preprocessing, 4), [*"ab"])
    assert during_training.loss == pytest.approx(evaluate_models([model], images).loss, rel=1e-4)


def test_a_hundred_thousand_classes_need_no_confusion_matrix(tmp_path: Path) -> None:
    """Their matrix would take 75 GiB."""
    names = [f"n{number}" for number in range(100_000)]
    rows = np.zeros(3, PREDICTION_DTYPE)
    rows["index"], rows["label"], rows["predicted"], rows["rank"] = range(3), [0, 99_999, 5], 5, [7, 7, 0]
    metrics = Metrics(names, rows)
    values = metrics.as_dict()
    assert (values["top1"], values["confusion"]) == (1 / 3, None)
    assert values["classes"][5] == {"class": "n5", "count": 1, "recall": 1.0, "precision": 1 / 3}
    settings = {
        "models": [],
        "data": "d",
        "weights": "ema",
        "crops": 1,
        "precision": "fp32",
        "engine": "ncnn",
        "device": "cpu",
        "precisions": [],
    }
    images = LabelledImages(names, [Image.new("RGB", (9, 9))] * 3, [0, 99_999, 5], ["a", "b", "c"])
    write_html(tmp_path / "report.html", metrics, images, settings)
    assert "n99999" in (tmp_path / "report.html").read_text()
    with RunFolder(tmp_path / "run") as run:
        run.draw_plots(metrics, [])
    assert not (tmp_path / "run" / "confusion_matrix.png").exists()


def test_ece_equals_that_of_torchmetrics_and_its_definition() -> None:
    logits, labels = torch.randn(250, 4) * 2, [n % 4 for n in range(250)]
    metrics = scripted(logits, labels)
    expected = multiclass_calibration_error(logits.double().softmax(1), torch.tensor(labels), 4, n_bins=15)
    assert metrics.ece == pytest.approx(expected.item(), abs=1e-6), "torchmetrics computes in float32"
    confidence = metrics.predictions["confidence"]
    correct = metrics.predictions["predicted"] == metrics.predictions["label"]
    by_definition = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            by_definition += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert metrics.ece == pytest.approx(by_definition, rel=1e-12)


def test_a_bin_is_open_below_and_closed_above() -> None:
    bins = reliability_bins(np.array([1 / 5, 1 / 5 + 1e-12, 1.0]), np.array([True, False, True]), bins=5)
    assert [row.count for row in bins] == [1, 1, 0, 0, 1]
    assert [row.accuracy for row in bins] == [1.0, 0.0, None, None, 1.0]


def test_logits_far_apart_lose_no_precision() -> None:
    metrics = scripted(torch.tensor([[0.0, -300.0], [3e38, -3e38]]), [1, 0])
    assert metrics.predictions["log_likelihood"].tolist() == [-300.0, 0.0]
    assert metrics.loss == 150.0


# ------------------------------------------------------------------------ the accuracy with its 95 % interval


@pytest.mark.parametrize(
    ("correct", "count"), [(0, 1), (1, 1), (0, 7), (38, 69), (68, 69), (359, 360), (9_999, 10_000)]
)
def test_the_interval_is_the_wilson_interval_of_scipy(correct: int, count: int) -> None:
    theirs = scipy.stats.binomtest(correct, count).proportion_ci(method="wilson")
    assert wilson_interval(correct / count, count) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_no_images_support_any_accuracy() -> None:
    assert wilson_interval(0.0, 0) == (0.0, 1.0)
    metrics = Metrics(["a", "b"], np.empty(0, PREDICTION_DTYPE))
    assert metrics.summary()["mean_recall"] is None
    assert math.isnan(metrics.mean_recall)


def test_the_mean_of_classes_counts_each_class_that_has_images_once() -> None:
    labels = [0] * 6 + [1] * 2 + [3] * 2
    metrics = scripted(torch.eye(4)[[0] * 6 + [1, 0] + [0, 0]], labels)
    assert metrics.top1 == 0.7
    assert metrics.mean_recall == pytest.approx((1 + 1 / 2 + 0) / 3)
    predicted = metrics.predictions["predicted"]
    assert metrics.mean_recall == pytest.approx(sklearn.metrics.balanced_accuracy_score(labels, predicted))
    values = metrics.as_dict()
    assert values["mean_recall"] == metrics.mean_recall
    assert values["top1_interval"] == wilson_interval(0.7, 10)


def test_one_line_describes_the_accuracy() -> None:
    logits = torch.eye(2)[[0] * 38 + [1] * 31]
    metrics = scripted(logits, [0] * 69)
    assert metrics.describe("photos") == ("top-1 55 % (95 % interval 43 to 66 %) of 69 photos, mean of classes 55 %")


# --------------------------------------------------------------------------------- ties and outputs not finite


def test_of_equal_logits_the_first_class_is_predicted() -> None:
    """A network with constant outputs is not rewarded: of seven classes one is correct, and five are in the top 5."""
    metrics = scripted(torch.zeros(14, 7), [n % 7 for n in range(14)])
    assert metrics.top1 == 2 / 14
    assert metrics.top5 == 10 / 14
    assert metrics.confusion[:, 0].tolist() == [2] * 7


def test_with_fewer_than_five_classes_all_are_in_the_top_five() -> None:
    assert scripted(torch.randn(6, 3), [0, 1, 2] * 2).top5 == 1.0


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_images_with_outputs_that_are_not_finite_are_counted_as_mistakes(broken: float) -> None:
    logits = torch.eye(3)
    logits[0, 0] = broken
    metrics = scripted(logits, [0, 1, 2])
    assert (metrics.count, metrics.unanswered) == (3, 1)
    assert metrics.top1 == metrics.top5 == 2 / 3, (
        "although class 0 would be correct, and all of three classes are in the top 5"
    )
    assert metrics.confusion.sum() == 2
    assert [row["recall"] for row in metrics.per_class()] == [0, 1, 1]
    assert metrics.loss == scripted(torch.eye(3)[1:], [1, 2]).loss
    json.dumps(metrics.as_dict(), allow_nan=False)


def test_the_loss_is_not_defined_without_finite_outputs() -> None:
    metrics = scripted(torch.full((2, 2), math.nan), [0, 1])
    assert math.isnan(metrics.loss)
    assert metrics.top1 == 0
    assert metrics.as_dict()["loss"] is None
    json.dumps(metrics.as_dict(), allow_nan=False)


# -------------------------------------------------------------------- independent of batches and processes


def same(first: Metrics, second: Metrics) -> bool:
    return first.as_dict() == second.as_dict() and first.predictions.tobytes() == second.predictions.tobytes()


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 64])
def test_uneven_batches_give_the_same_figures(batch_size: int) -> None:
    logits, labels = torch.randn(11, 7), [n % 7 for n in range(11)]
    assert same(scripted(logits, labels, batch_size=batch_size), scripted(logits, labels, batch_size=11))


def test_uneven_batches_of_a_real_network_give_the_same_figures(small: Models) -> None:
    model, data = small(), labelled(11)
    with torch.inference_mode():
        logits = torch.cat([model(model.preprocess(image), ())[0] for image in data.sources])
    expected = scripted(logits, list(data.labels))
    for batch_size in (4, 11):
        metrics = evaluate(model, batches(data, model.preprocessing, batch_size), data.class_names)
        assert np.array_equal(metrics.confusion, expected.confusion)
        assert metrics.predictions["rank"].tolist() == expected.predictions["rank"].tolist()
        assert metrics.loss == pytest.approx(expected.loss, rel=1e-5)


@given(owners=st.lists(st.sets(st.integers(0, 2), min_size=1), min_size=42, max_size=42), seed=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_merging_overlapping_parts_counts_no_image_twice(owners: list[set[int]], seed: int) -> None:
    """Parts may come in any order and overlap: a sampler may pad the parts of processes to equal length."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(40, PREDICTION_DTYPE)
    rows["index"] = np.arange(40)
    rows["label"], rows["predicted"], rows["rank"] = rng.integers(0, 4, (3, 40))
    rows["confidence"], rows["log_likelihood"] = rng.uniform(0, 1, 40), -rng.exponential(1, 40)
    expected = Metrics([*"abcd"], rows, [("40", "gone"), ("41", "cut short")])
    parts = []
    for part in range(3):
        indices = [index for index in rng.permutation(42) if part in owners[index]]
        bad = [(name, reason) for name, reason in expected.bad if int(name) in indices]
        parts.append(Metrics(expected.class_names, rows[[index for index in indices if index < 40]], bad))
    assert same(merge(parts), expected)


# ------------------------------------------------------------------------------------- crops and ensembles


class Colours(Engine):
    """A stand-in for the network: logits from the mean colour of the pixels, so that they differ between crops."""

    name, precision, device, callers, widths = "colours", "fp32", "cpu", 1, {LOGITS: 7}

    def __init__(self, seed: int) -> None:
        self.kernel = np.random.default_rng(seed).normal(0, 0.15, (3, 7)).astype(np.float32)

    def run(self, pixels: Pixels) -> Outputs:
        assert len(pixels) <= 32, "at most a batch at once"
        return {LOGITS: pixels.mean((1, 2), dtype=np.float32) @ self.kernel}


def mean_softmax(model: OpenedModel, data: LabelledImages, crops: int) -> Tensor:
    views = MultiCrop(model.description.preprocessing, crops)
    logits = [
        np.concatenate([model.engine.run(crop[None])[LOGITS] for crop in views.array(image)])  # type: ignore[arg-type]
        for image in data.sources
    ]
    return torch.stack([torch.from_numpy(of_crops).double().softmax(1).mean(0) for of_crops in logits])


@pytest.mark.parametrize(("crops", "batch_size"), [(12, 5), (12, 32), (144, 32)])
def test_the_softmax_is_averaged_over_crops_and_models(crops: int, batch_size: int) -> None:
    """The second model gets other pixels than the first; the third gets the same as the first."""
    usual, other = Preprocessing((30, 30)), Preprocessing((41, 37), mean=(0.4, 0.5, 0.6), resize=50)
    models, data = [opened(Colours(seed), (usual, other, usual)[seed]) for seed in range(3)], labelled(5)
    probabilities = torch.stack([mean_softmax(model, data, crops) for model in models]).mean(0)
    metrics = evaluate_engines(models, data, crops=crops, batch_size=batch_size)
    expected = scripted(probabilities.log(), list(data.labels))
    assert np.array_equal(metrics.confusion, expected.confusion)
    assert metrics.loss == pytest.approx(expected.loss, rel=1e-5)
    np.testing.assert_allclose(metrics.predictions["confidence"], probabilities.max(1).values, rtol=1e-4)


def test_a_model_keeps_its_training_mode(small: Models) -> None:
    model, data = small(), labelled(3)
    for training in (True, False):
        model.train(training)
        evaluate_models([model], data)
        assert model.training is training


def test_a_network_with_another_number_of_classes_is_refused() -> None:
    with pytest.raises(InputError, match=r"^the model: num_classes is 3, but the data has 2 classes; give data with"):
        evaluate_engines([opened(Scripted(torch.eye(3)), Preprocessing((2, 2)))], grays([0, 1], 2))


# ------------------------------------------------------------------------------------------ the command


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Runs `inception-v3 evaluate` in this process: exit status, stdout, stderr."""

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["inception-v3", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(exited.value.code or 0), out, err

    return command


Run = Callable[..., tuple[int, str, str]]
CLASSES = ["<b>cat</b>", "[red]dog"]


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Five images of two classes, whose names are markup in HTML and in rich."""
    for number, image in enumerate(noise(5)):
        file = tmp_path / "pets" / CLASSES[number % 2].replace("/", "∕") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
    return tmp_path / "pets"


@pytest.fixture
def saved(small: Models, pets: Path, tmp_path: Path) -> Callable[..., Path]:
    def save(name: str = "model", seed: int = 0, names: list[str] | None = None) -> Path:
        names = names or sorted(folder.name for folder in pets.iterdir())
        model = small(seed, num_classes=len(names))
        model.class_names = names
        inception_v3.save(model, tmp_path / f"{name}.safetensors")
        return tmp_path / f"{name}.safetensors"

    return save


def one_line(err: str) -> str:
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, err
    return lines[0]


def test_all_options_together(run: Run, saved: Callable[..., Path], pets: Path, tmp_path: Path) -> None:
    first, second = saved("first"), saved("second", 1)
    (pets / "[red]dog" / "broken.png").write_text("this is text")
    table, page = tmp_path / "out" / "predictions.csv", tmp_path / "out" / "page"
    arguments = (first, pets, "--with", second, "--crops", 12, "--csv", table, "--report", page, "--json")
    status, out, err = run(*arguments)
    assert status == 0, "an unreadable image is reported, and is not a failure"
    assert "1 of 6 images could not be read" in err
    printed = json.loads(out)
    models = [inception_v3.load(file) for file in (first, second)]
    expected = evaluate_models(models, inception_v3.data.load_held_out(str(pets), models[0].class_names), crops=12)
    assert printed["count"] == 5
    assert printed["confusion"] == expected.confusion.tolist()
    assert printed["loss"] == pytest.approx(expected.loss, rel=1e-6)
    assert [bad["image"] for bad in printed["bad"]] == ["[red]dog/broken.png"]
    assert (printed["crops"], printed["weights"], printed["data"]) == (12, "ema", str(pets))
    sums = subprocess.run(["sha256sum", first, second], capture_output=True, text=True, check=True).stdout.split()
    assert [model["sha256"] for model in printed["models"]] == sums[::2]
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["name"] for row in rows) == sorted(
        str(file.relative_to(pets)) for file in pets.rglob("*.png") if file.name != "broken.png"
    )
    assert sum(int(row["right"]) for row in rows) == printed["top1"] * 5
    for row in rows:
        assert row["class"] == row["name"].split("/")[0]
        assert (row["predicted"] == row["class"]) == (row["right"] == "1")
        assert 0.5 <= float(row["probability"]) <= 1
    assert "broken.png" in (page / "report.html").read_text()


def test_all_precisions_are_evaluated_side_by_side(
    run: Run, saved: Callable[..., Path], pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an export, int8 is calibrated on the evaluated images."""
    for number, image in enumerate(noise(40)):
        image.save(pets / "[red]dog" / f"more-{number}.png")
    model = saved()
    status, out, err = run(model, pets, "--precision", "all", "--json", "--report", tmp_path / "page.html")
    assert status == 0, err
    printed = json.loads(out)
    rows = printed["precisions"]
    assert [row["precision"] for row in rows] == ["fp32", "bf16", "int8"]
    assert rows[2]["reason"] == "calibrated on 45 of the evaluated images"
    assert rows[0]["agreement"] == 1
    assert all(0.5 <= row["agreement"] <= 1 for row in rows)
    assert len({row["loss"] for row in rows}) == 3, "each precision rounds differently"
    assert all(row["loss"] == pytest.approx(printed["loss"], rel=0.05) for row in rows)
    assert all(row["images_per_second"] > 0 for row in rows)
    assert [printed[name] for name in ("precision", "engine", "top1")] == [
        rows[0][name] for name in ("precision", "engine", "top1")
    ]
    page = (tmp_path / "page.html").read_text()
    assert all(row["engine"] in page and row["precision"] in page for row in rows)
    _, out, _ = run(model, pets, "--precision", "bf16,fp32")
    assert re.findall("fp32|bf16", out) == ["bf16", "fp32"]


def test_precisions_that_this_machine_lacks_are_left_out_of_all_and_refused_alone(
    run: Run, saved: Callable[..., Path], pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU without bf16, and too few images to calibrate int8."""
    monkeypatch.setattr("inception_v3.support.devices.has_bf16", lambda device: False)
    model = saved()
    status, out, err = run(model, pets, "--precision", "all", "--json")
    assert status == 0
    assert [row["precision"] for row in json.loads(out)["precisions"]] == ["fp32"]
    assert "bf16 is left out: --precision bf16: this cpu does not support it" in err
    assert "int8 is left out: 5 images are too few" in err
    status, out, err = run(model, pets, "--precision", "bf16")
    assert (status, out) == (2, "")
    assert "--precision bf16: this cpu does not support it" in one_line(err)


def test_without_fp32_there_is_nothing_to_compare_with(
    run: Run, saved: Callable[..., Path], pets: Path, tmp_path: Path
) -> None:
    export(inception_v3.load(saved()), tmp_path / "net.onnx")
    status, out, err = run(tmp_path / "net.onnx", pets, "--precision", "all", "--engine", "ncnn")
    assert (status, out) == (2, "")
    assert "net.onnx runs in" in one_line(err)


def test_exports_of_other_weights_matter_only_for_int8(
    run: Run, saved: Callable[..., Path], pets: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    (folder / "exported").mkdir(parents=True)
    shutil.copy(saved(), folder / "model.safetensors")
    export(inception_v3.load(saved("other", 1)), folder / "exported" / "net.onnx", checksum="another")
    status, _, err = run(folder, pets, "--json")
    assert status == 0
    assert "other weights" not in err
    assert "exported from other weights" in run(folder, pets, "--precision", "int8")[2]


@pytest.mark.parametrize("engine", ["pytorch", "onnxruntime", "openvino", "ncnn"])
def test_every_engine_gives_the_figures_of_the_live_network(
    run: Run, saved: Callable[..., Path], pets: Path, engine: str
) -> None:
    file = saved()
    model = inception_v3.load(file)
    data = inception_v3.data.load_held_out(str(pets), model.class_names)
    expected = evaluate(model, batches(data, model.preprocessing, 4), data.class_names)
    status, out, err = run(file, pets, "--engine", engine, "--json")
    assert status == 0, err
    printed = json.loads(out)
    assert (printed["engine"], printed["precision"]) == (engine, "fp32")
    assert printed["confusion"] == expected.confusion.tolist()
    assert printed["loss"] == pytest.approx(expected.loss, rel=1e-4)


def test_an_exported_network_is_evaluated_as_the_model_is(
    run: Run, saved: Callable[..., Path], pets: Path, tmp_path: Path
) -> None:
    file = saved()
    export(inception_v3.load(file), tmp_path / "net.onnx")
    of_model, of_export = (json.loads(run(each, pets, "--json")[1]) for each in (file, tmp_path / "net.onnx"))
    assert (of_export["engine"], of_export["precision"]) == ("onnxruntime", "fp32")
    assert of_export["confusion"] == of_model["confusion"]
    assert of_export["loss"] == pytest.approx(of_model["loss"], rel=1e-4)
    status, _, err = run(tmp_path / "net.onnx", pets, "--precision", "int8")
    assert status == 2
    assert "not exported in int8" in one_line(err)


def test_class_names_are_printed_without_interpreting_markup(run: Run, saved: Callable[..., Path], pets: Path) -> None:
    status, out, _ = run(saved(), pets)
    assert status == 0
    assert "[red]dog" in out
    assert "ECE" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--crops", 10), "--crops: no such value 10; choose from 1, 12, 144"),
        (("--weights", "cooked"), "--weights: no such value cooked; choose from ema, raw"),
        (("--precision", "fp32,int9"), "--precision: no such value int9; choose from fp32, bf16, fp16, int8, all"),
    ],
)
def test_options_are_checked_before_the_model_is_loaded(run: Run, arguments: tuple[object, ...], message: str) -> None:
    status, out, err = run("no-such-model", "no-such-data", *arguments)
    assert (status, out) == (2, "")
    assert message in one_line(err)


def test_models_with_different_classes_are_not_averaged(run: Run, saved: Callable[..., Path], pets: Path) -> None:
    other = saved("other", 1, ["fox", "owl"])
    status, out, err = run(saved(), pets, "--with", other)
    assert (status, out) == (1, "")
    assert f"{other}: its classes differ from those of" in one_line(err)


def test_output_paths_are_checked_before_the_evaluation(run: Run, saved: Callable[..., Path], pets: Path) -> None:
    file = saved()
    for option, path, expected, message in (
        ("--report", file / "page.html", 1, "cannot be written (Not a directory)"),
        ("--csv", pets, 2, "is a folder; name a file in it"),
        ("--csv", file, 2, "is an input and would be lost"),
        ("--csv", next(pets.rglob("*.png")), 2, "is an input and would be lost"),
    ):
        status, out, err = run(file, pets, option, path)
        assert (status, out) == (expected, "")
        assert f"{path}: {message}" in one_line(err)


def test_the_figures_are_printed_although_the_disk_is_full(
    run: Run, saved: Callable[..., Path], pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise InputError("x.csv: the disk is full")

    monkeypatch.setattr("inception_v3.evaluation.report.write_csv", full)
    status, out, err = run(saved(), pets, "--csv", tmp_path / "x.csv", "--json")
    assert status == 1
    assert json.loads(out)["count"] == 5
    assert "the disk is full" in one_line(err)


def test_it_fails_if_no_image_can_be_read(run: Run, saved: Callable[..., Path], pets: Path) -> None:
    model = saved()
    for file in pets.rglob("*.png"):
        file.write_bytes(b"")
    status, out, err = run(model, pets, "--json")
    assert (status, out) == (1, "")
    assert "none of its 5 images can be read" in one_line(err)
    assert "5 of 5 images could not be read" in err


def test_it_fails_if_no_output_is_finite(run: Run, saved: Callable[..., Path], pets: Path) -> None:
    path = saved()
    model = inception_v3.load(path)
    with torch.no_grad():
        model.get_parameter("Logits.Conv2d_1c_1x1.weights").fill_(3e38)
    inception_v3.save(model, path)
    status, out, err = run(path, pets, "--json")
    assert (status, out) == (1, "")
    assert "its outputs are NaN or infinite for every image" in one_line(err)


def test_raw_weights_are_those_of_the_newest_state_of_the_run(
    run: Run, saved: Callable[..., Path], pets: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(saved("averaged", 0), folder / "model.safetensors")
    status, _, err = run(folder, pets, "--weights", "raw")
    assert status == 1
    assert "holds no training state" in one_line(err)
    for step, seed in ((9, 2), (10, 1)):
        tensors = inception_v3.load(saved("raw", seed)).state_dict()
        state = {f"model.{name}": tensor for name, tensor in tensors.items()} | {"average.x": torch.zeros(1)}
        safetensors.torch.save_file(state, folder / "checkpoints" / f"step-{step:08}.safetensors")
    averaged, raw, separate = (
        json.loads(run(*arguments, "--json")[1])
        for arguments in ((folder, pets), (folder, pets, "--weights", "raw"), (tmp_path / "raw.safetensors", pets))
    )
    assert averaged["loss"] != raw["loss"] == separate["loss"]
    assert raw["weights"] == "raw"
    assert raw["models"][0]["file"].endswith("step-00000010.safetensors")
    (folder / "checkpoints" / "step-00000011.safetensors").write_text("cut short")
    status, _, err = run(folder, pets, "--weights", "raw")
    assert status == 1
    assert "does not hold the raw weights" in one_line(err)


def test_two_processes_give_the_figures_of_one(
    run: Run, saved: Callable[..., Path], pets: Path, tmp_path: Path
) -> None:
    """Five images and an unreadable one: neither the parts of the processes nor their last batches are even."""
    model = saved()
    (pets / "[red]dog" / "broken.png").write_text("this is text")
    arguments = [model, pets, "--json", "--batch-size", "2", "--csv"]
    status, out, _ = run(*arguments, tmp_path / "one.csv")
    assert status == 0
    log = tmp_path / "two.log"
    first, second = run_distributed(
        2, command_line, ["evaluate", *map(str, [*arguments, tmp_path / "two.csv"])], None, (), log=log
    )
    assert (first.wait(), second.wait(), second.output) == (0, 0, ""), "only the first process reports"
    (line,) = (line for line in first.output.splitlines() if line.startswith("{"))
    one, two = json.loads(out), json.loads(line)
    assert (one["count"], len(one["bad"])) == (5, 1)
    for figure in ("loss", "ece"):
        assert two.pop(figure) == pytest.approx(one.pop(figure), abs=1e-6)
    for printed in (one, two):
        printed["calibration"] = [row["count"] for row in printed["calibration"]]
        del printed["images_per_second"], printed["precisions"]
    assert two == one
    tables = [
        [line.split(",")[:3] for line in (tmp_path / f"{name}.csv").read_text().splitlines()] for name in ("one", "two")
    ]
    assert tables[0] == tables[1]


def test_a_killed_process_stops_the_other_at_once(saved: Callable[..., Path], pets: Path) -> None:
    for number, image in enumerate(noise(60)):
        image.save(pets / "[red]dog" / f"more-{number}.png")
    log = pets.parent / "killed.log"
    arguments = ["evaluate", str(saved()), str(pets), "--batch-size", "1", "--workers", "0"]
    first, second = run_distributed(2, command_line, arguments, die_at_the_third_image, (), log=log)
    assert second.wait() == -signal.SIGKILL
    assert first.wait() == 1
    *opened, line = first.output.splitlines()
    assert line.startswith("error: another process has ended or does not ")
    assert line.endswith(", and start all processes again")
    assert opened.count("opened") <= 8, "of at least 32"


def die_at_the_third_image() -> None:
    opened = LabelledImages.open
    count = itertools.count(1)

    def count_opened(self: LabelledImages, index: int, *more: object) -> Image.Image:
        if next(count) == 3 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        print("opened", flush=True)
        return opened(self, index, *more)

    LabelledImages.open = count_opened  # type: ignore[method-assign]


def test_sigterm_from_torchrun_is_reported_as_the_end_of_another_process(
    saved: Callable[..., Path], pets: Path
) -> None:
    arguments = ["evaluate", str(saved()), str(pets), "--workers", "0"]
    first, second = run_distributed(
        2, command_line, arguments, wait_at_the_first_image, (), log=pets.parent / "ended.log"
    )
    first.wait_for(lambda: "opened\n" in first.output)
    first.kill(signal.SIGTERM)
    assert first.wait() == 1
    assert "another process has ended" in one_line(first.output)
    assert second.wait() == 1


def wait_at_the_first_image() -> None:
    def opened(self: LabelledImages, index: int, *_: object) -> Image.Image:
        print("opened", flush=True)
        time.sleep(5)
        return Image.new("RGB", (80, 80))

    LabelledImages.open = opened  # type: ignore[method-assign]


def test_images_without_a_label_are_listed_with_those_that_cannot_be_read(
    run: Run, saved: Callable[..., Path], tmp_path: Path
) -> None:
    """A shard may hold an image without a label, which does not belong to the data set."""
    png = io.BytesIO()
    noise(1)[0].save(png, "PNG")
    members = {"0.png": b"this is text", "0.cls": b"0", "1.png": b"", "2.png": b"", "2.cls": b"1"}
    members |= {"3.png": png.getvalue(), "3.cls": b"1"}
    with tarfile.open(tmp_path / "val.tar", "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    status, out, err = run(saved(names=["a", "b"]), tmp_path / "val.tar", "--json")
    assert status == 0
    assert [bad["image"] for bad in json.loads(out)["bad"]] == ["val.tar/1.png", "val.tar/0.png", "val.tar/2.png"]
    assert "3 of 4 images could not be read" in err
    assert "  val.tar/1.png: no label: add 1.cls or 1.json to the shard" in err.splitlines()


def test_a_prediction_takes_48_bytes() -> None:
    assert PREDICTION_DTYPE.itemsize == 48, "48 MB for a million images"
