"""Judging: figures that others compute too, whatever the batches, the processes and the network's outputs."""

import csv
import io
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
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
from inception_v3.evaluation.calibration import reliability
from inception_v3.evaluation.crops import MultiCrop
from inception_v3.evaluation.evaluate import ANSWER, Metrics, evaluate, evaluate_models, merge
from inception_v3.evaluation.report import write_html
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.network.settings import Settings
from inception_v3.training.run_folder import RunFolder
from inception_v3.weights.model import InceptionV3
from processes import command_line, run_distributed

pytestmark = pytest.mark.usefixtures("one_thread")

Models = Callable[..., InceptionV3]


class Scripted(torch.nn.Module):
    """In the network's place: the picture of gray n gets row n of a table of logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(logits, requires_grad=False)
        self.settings = Settings(num_classes=logits.shape[1])
        self.preprocessing = Preprocessing((2, 2), 1.0, (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))

    def forward(self, images: Tensor, end_points: tuple[str, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.table[images[:, 0, 0, 0].round().long()], {}


def grays(labels: list[int], classes: int) -> LabelledImages:
    pictures = [Image.new("RGB", (2, 2), (n, n, n)) for n in range(len(labels))]
    return LabelledImages([f"class {n}" for n in range(classes)], pictures, labels, [str(n) for n in range(len(labels))])


def scripted(logits: Tensor, labels: list[int], **options: object) -> Metrics:
    return evaluate_models([Scripted(logits)], grays(labels, logits.shape[1]), **options)  # type: ignore[list-item, arg-type]


def noise(count: int, height: int = 80, width: int = 110) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(count)]


def labelled(count: int, classes: int = 7) -> LabelledImages:
    labels = [n % classes for n in range(count)]
    return LabelledImages([*"abcdefg"[:classes]], noise(count), labels, [str(n) for n in range(count)])


@pytest.fixture
def small(random_model: Models) -> Models:
    """Networks for 75x75 pixels."""

    def build(seed: int = 0, **options: object) -> InceptionV3:
        model = random_model(seed, **{"image_size": 75} | options)
        model.preprocessing = Preprocessing((75, 75))
        return model

    return build


# --------------------------------------------------------------------------------- what others compute too


def test_the_figures_are_those_of_scikit_learn() -> None:
    classes, labels = 9, [n * n % 7 for n in range(200)]  # two classes have no picture
    logits = torch.randn(200, classes) * 3
    metrics = scripted(logits, labels)
    shares = logits.double().softmax(1).numpy()
    every = range(classes)
    assert metrics.count == 200
    assert (
        metrics.confusion.tolist() == sklearn.metrics.confusion_matrix(labels, shares.argmax(1), labels=every).tolist()
    )
    assert metrics.top1 == sklearn.metrics.accuracy_score(labels, shares.argmax(1))
    assert metrics.top5 == sklearn.metrics.top_k_accuracy_score(labels, shares, k=5, labels=every)
    assert metrics.loss == pytest.approx(sklearn.metrics.log_loss(labels, shares, labels=every), rel=1e-12)
    for name in ("recall", "precision"):
        score = getattr(sklearn.metrics, f"{name}_score")
        expected = score(labels, shares.argmax(1), labels=every, average=None, zero_division=np.nan)
        found = [math.nan if row[name] is None else row[name] for row in metrics.per_class()]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_hundred_thousand_classes_take_no_square_of_them(tmp_path: Path) -> None:
    """Their matrix would take 75 GiB."""
    names = [f"n{number}" for number in range(100_000)]
    answers = np.zeros(3, ANSWER)
    answers["index"], answers["label"], answers["predicted"], answers["rank"] = range(3), [0, 99_999, 5], 5, [7, 7, 0]
    metrics = Metrics(names, answers)
    told = metrics.as_dict()
    assert (told["top1"], told["confusion"]) == (1 / 3, None)
    assert told["classes"][5] == {"class": "n5", "count": 1, "recall": 1.0, "precision": 1 / 3}
    judged = {"models": [], "data": "d", "weights": "ema", "crops": 1, "precision": "fp32"}
    pictures = LabelledImages(names, [Image.new("RGB", (9, 9))] * 3, [0, 99_999, 5], ["a", "b", "c"])
    write_html(tmp_path / "report.html", metrics, pictures, judged)
    assert "n99999" in (tmp_path / "report.html").read_text()
    with RunFolder(tmp_path / "run") as run:
        run.draw_plots(metrics, [])
    assert not (tmp_path / "run" / "confusion_matrix.png").exists()


def test_ece_is_that_of_torchmetrics_and_of_its_definition() -> None:
    logits, labels = torch.randn(250, 4) * 2, [n % 4 for n in range(250)]
    metrics = scripted(logits, labels)
    theirs = multiclass_calibration_error(logits.double().softmax(1), torch.tensor(labels), 4, n_bins=15)
    assert metrics.ece == pytest.approx(theirs.item(), abs=1e-6), "which computes in float32"
    sure, right = metrics.answers["confidence"], metrics.answers["predicted"] == metrics.answers["label"]
    by_hand = 0.0
    for number in range(15):
        inside = (sure > number / 15) & (sure <= (number + 1) / 15)
        if inside.any():
            by_hand += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    assert metrics.ece == pytest.approx(by_hand, rel=1e-12)


def test_a_bin_is_open_below_and_closed_above() -> None:
    bins = reliability(np.array([1 / 5, 1 / 5 + 1e-12, 1.0]), np.array([True, False, True]), bins=5)
    assert [one.count for one in bins] == [1, 1, 0, 0, 1]
    assert [one.accuracy for one in bins] == [1.0, 0.0, None, None, 1.0]


def test_logits_far_apart_lose_nothing() -> None:
    metrics = scripted(torch.tensor([[0.0, -300.0], [3e38, -3e38]]), [1, 0])
    assert metrics.answers["log_likelihood"].tolist() == [-300.0, 0.0]
    assert metrics.loss == 150.0


# ------------------------------------------------------------------------------------ ties and no numbers


def test_of_equals_the_first_class_is_the_answer() -> None:
    """So a network that always says the same has no luck: of seven classes it knows one, and five in the top 5."""
    metrics = scripted(torch.zeros(14, 7), [n % 7 for n in range(14)])
    assert metrics.top1 == 2 / 14
    assert metrics.top5 == 10 / 14
    assert metrics.confusion[:, 0].tolist() == [2] * 7


def test_with_fewer_than_five_classes_all_are_in_the_top_five() -> None:
    assert scripted(torch.randn(6, 3), [0, 1, 2] * 2).top5 == 1.0


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_outputs_that_are_no_finite_numbers_are_mistakes_and_told(broken: float) -> None:
    logits = torch.eye(3)
    logits[0, 0] = broken
    metrics = scripted(logits, [0, 1, 2])
    assert (metrics.count, metrics.unanswered) == (3, 1)
    assert metrics.top1 == metrics.top5 == 2 / 3, "though class 0 would be right, and of three classes all in five"
    assert metrics.confusion.sum() == 2
    assert [row["recall"] for row in metrics.per_class()] == [0, 1, 1]
    assert metrics.loss == scripted(torch.eye(3)[1:], [1, 2]).loss
    json.dumps(metrics.as_dict(), allow_nan=False)


def test_without_any_answer_there_is_no_loss() -> None:
    metrics = scripted(torch.full((2, 2), math.nan), [0, 1])
    assert math.isnan(metrics.loss)
    assert metrics.top1 == 0
    assert metrics.as_dict()["loss"] is None
    json.dumps(metrics.as_dict(), allow_nan=False)


# ------------------------------------------------------------------------------ exact, however it is spread


def same(one: Metrics, other: Metrics) -> bool:
    return one.as_dict() == other.as_dict() and one.answers.tobytes() == other.answers.tobytes()


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 64])
def test_uneven_batches_give_the_same_figures(batch_size: int) -> None:
    logits, labels = torch.randn(11, 7), [n % 7 for n in range(11)]
    assert same(scripted(logits, labels, batch_size=batch_size), scripted(logits, labels, batch_size=11))


def test_uneven_batches_of_the_network_itself(small: Models) -> None:
    model, data = small(), labelled(11)
    with torch.inference_mode():
        logits = torch.cat([model(model.preprocess(picture), ())[0] for picture in data.sources])
    expected = scripted(logits, list(data.labels))
    for batch_size in (4, 11):
        metrics = evaluate(model, batches(data, model.preprocessing, batch_size), data.class_names)
        assert np.array_equal(metrics.confusion, expected.confusion)
        assert metrics.answers["rank"].tolist() == expected.answers["rank"].tolist()
        assert metrics.loss == pytest.approx(expected.loss, rel=1e-5)


@given(owners=st.lists(st.sets(st.integers(0, 2), min_size=1), min_size=42, max_size=42), seed=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_parts_merge_to_the_whole_and_count_nothing_twice(owners: list[set[int]], seed: int) -> None:
    """Parts in any order that may overlap, as where a sampler pads the shares of processes to one length."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(40, ANSWER)
    rows["index"] = np.arange(40)
    rows["label"], rows["predicted"], rows["rank"] = rng.integers(0, 4, (3, 40))
    rows["confidence"], rows["log_likelihood"] = rng.uniform(0, 1, 40), -rng.exponential(1, 40)
    whole = Metrics([*"abcd"], rows, [("40", "gone"), ("41", "cut short")])
    parts = []
    for part in range(3):
        mine = [place for place in rng.permutation(42) if part in owners[place]]
        bad = [one for one in whole.bad if int(one[0]) in mine]
        parts.append(Metrics(whole.class_names, rows[[place for place in mine if place < 40]], bad))
    assert same(merge(parts), whole)


# ------------------------------------------------------------------------------------- crops and ensembles


class Colours(torch.nn.Module):
    """In the network's place: logits from the mean colour of what it reads, so that another crop gets others."""

    def __init__(self, seed: int, preprocessing: Preprocessing) -> None:
        super().__init__()
        kernel = torch.randn(3, 7, generator=torch.Generator().manual_seed(seed)) * 40
        self.kernel = torch.nn.Parameter(kernel, requires_grad=False)
        self.settings, self.preprocessing = Settings(num_classes=7), preprocessing

    def forward(self, images: Tensor, end_points: tuple[str, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        assert len(images) <= 32, "no more than a batch at once"
        return images.mean((2, 3)) @ self.kernel, {}


def mean_softmax(model: torch.nn.Module, data: LabelledImages, crops: int) -> Tensor:
    views = MultiCrop(model.preprocessing, crops)  # type: ignore[arg-type]
    with torch.inference_mode():
        scaled = [model.preprocessing.scale(views.pixels(picture)) for picture in data.sources]  # type: ignore[operator, arg-type]
        logits = [torch.cat([model(one[None], ())[0] for one in each]) for each in scaled]
    return torch.stack([one.double().softmax(1).mean(0) for one in logits])


@pytest.mark.parametrize(("crops", "batch_size"), [(12, 5), (12, 32), (144, 32)])
def test_the_softmax_is_averaged_over_crops_and_models(crops: int, batch_size: int) -> None:
    """The second model reads other pixels than the first; the third the same as the first."""
    usual, other = Preprocessing((30, 30)), Preprocessing((41, 37), mean=(0.4, 0.5, 0.6), resize=50)
    models, data = [Colours(seed, (usual, other, usual)[seed]) for seed in range(3)], labelled(5)
    shares = torch.stack([mean_softmax(model, data, crops) for model in models]).mean(0)
    metrics = evaluate_models(models, data, crops=crops, batch_size=batch_size)  # type: ignore[arg-type]
    expected = scripted(shares.log(), list(data.labels))
    assert np.array_equal(metrics.confusion, expected.confusion)
    assert metrics.loss == pytest.approx(expected.loss, rel=1e-5)
    np.testing.assert_allclose(metrics.answers["confidence"], shares.max(1).values, rtol=1e-4)


def test_a_training_goes_on_in_the_mode_it_was_in(small: Models) -> None:
    model, data = small(), labelled(3)
    for training in (True, False):
        model.train(training)
        evaluate_models([model], data)
        assert model.training is training


def test_a_network_of_other_classes_is_refused() -> None:
    with pytest.raises(InputError, match="tells 3 classes apart, the data has 2"):
        evaluate_models([Scripted(torch.eye(3))], grays([0, 1], 2))  # type: ignore[list-item]


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
    """Five pictures of two classes whose names mean something elsewhere."""
    for number, picture in enumerate(noise(5)):
        file = tmp_path / "pets" / CLASSES[number % 2].replace("/", "∕") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)
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


def test_everything_at_once(run: Run, saved: Callable[..., Path], pets: Path, tmp_path: Path) -> None:
    first, second = saved("first"), saved("second", 1)
    (pets / "[red]dog" / "broken.png").write_text("this is text")
    table, page = tmp_path / "out" / "answers.csv", tmp_path / "out" / "page"
    arguments = (first, pets, "--with", second, "--crops", 12, "--csv", table, "--report", page, "--json")
    status, out, err = run(*arguments)
    assert status == 0, "a bad picture is told, and no failure"
    assert "1 of 6 images could not be read" in err
    judged = json.loads(out)
    models = [inception_v3.load(file) for file in (first, second)]
    expected = evaluate_models(models, inception_v3.data.load_held_out(str(pets), models[0].class_names), crops=12)
    assert judged["count"] == 5
    assert judged["confusion"] == expected.confusion.tolist()
    assert judged["loss"] == pytest.approx(expected.loss, rel=1e-6)
    assert [one["image"] for one in judged["bad"]] == ["[red]dog/broken.png"]
    assert (judged["crops"], judged["weights"], judged["data"]) == (12, "ema", str(pets))
    sums = subprocess.run(["sha256sum", first, second], capture_output=True, text=True, check=True).stdout.split()
    assert [model["sha256"] for model in judged["models"]] == sums[::2]
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["name"] for row in rows) == sorted(
        str(file.relative_to(pets)) for file in pets.rglob("*.png") if file.name != "broken.png"
    )
    assert sum(int(row["right"]) for row in rows) == judged["top1"] * 5
    for row in rows:
        assert row["class"] == row["name"].split("/")[0]
        assert (row["predicted"] == row["class"]) == (row["right"] == "1")
        assert 0.5 <= float(row["probability"]) <= 1
    assert "broken.png" in (page / "report.html").read_text()


def test_people_see_names_as_they_are(run: Run, saved: Callable[..., Path], pets: Path) -> None:
    status, out, _ = run(saved(), pets)
    assert status == 0
    assert "[red]dog" in out
    assert "ECE" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--crops", 10), "--crops must be 1 or 12 or 144, not 10"),
        (("--weights", "cooked"), "--weights must be ema or raw, not cooked"),
        (("--precision", "int8"), "--precision must be fp32 or bf16"),
    ],
)
def test_wrong_use_is_told_at_once(run: Run, arguments: tuple[object, ...], message: str) -> None:
    status, out, err = run("no-such-model", "no-such-data", *arguments)
    assert (status, out) == (2, "")
    assert message in one_line(err)


def test_models_of_other_classes_are_not_averaged(run: Run, saved: Callable[..., Path], pets: Path) -> None:
    other = saved("other", 1, ["fox", "owl"])
    status, out, err = run(saved(), pets, "--with", other)
    assert (status, out) == (1, "")
    assert f"{other}: its classes are not those of" in one_line(err)


def test_where_nothing_can_be_written_is_told_before_the_work(run: Run, saved: Callable[..., Path], pets: Path) -> None:
    file = saved()
    for option, place in (("--report", file / "page.html"), ("--csv", pets)):
        status, out, err = run("no-such-model", pets, option, place)
        assert (status, out) == (1, "")
        assert f"{place}: cannot be written" in one_line(err)


def test_the_figures_are_told_before_a_disk_is_full(
    run: Run, saved: Callable[..., Path], pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise InputError("x.csv: the disk is full")

    monkeypatch.setattr("inception_v3.evaluation.report.write_csv", full)
    status, out, err = run(saved(), pets, "--csv", tmp_path / "x.csv", "--json")
    assert status == 1
    assert json.loads(out)["count"] == 5
    assert "the disk is full" in one_line(err)


def test_when_no_picture_can_be_read_it_has_failed(run: Run, saved: Callable[..., Path], pets: Path) -> None:
    model = saved()
    for file in pets.rglob("*.png"):
        file.write_bytes(b"")
    status, out, err = run(model, pets, "--json")
    assert (status, out) == (1, "")
    assert "none of its 5 pictures can be read" in one_line(err)
    assert "5 of 5 images could not be read" in err


def test_a_network_whose_outputs_overflow_is_told(run: Run, saved: Callable[..., Path], pets: Path) -> None:
    path = saved()
    model = inception_v3.load(path)
    with torch.no_grad():
        model.get_parameter("Logits.Conv2d_1c_1x1.weights").fill_(3e38)
    inception_v3.save(model, path)
    status, out, err = run(path, pets, "--json")
    assert (status, out) == (1, "")
    assert "its outputs are no finite numbers for any picture" in one_line(err)


def test_raw_weights_are_those_of_the_newest_state_of_the_run(
    run: Run, saved: Callable[..., Path], pets: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(saved("averaged", 0), folder / "model.safetensors")
    status, _, err = run(folder, pets, "--weights", "raw")
    assert status == 1
    assert "no training state in it" in one_line(err)
    for step, seed in ((9, 2), (10, 1)):
        tensors = inception_v3.load(saved("raw", seed)).state_dict()
        state = {f"model.{name}": tensor for name, tensor in tensors.items()} | {"average.x": torch.zeros(1)}
        safetensors.torch.save_file(state, folder / "checkpoints" / f"step-{step:08}.safetensors")
    averaged, raw, alone = (
        json.loads(run(*arguments, "--json")[1])
        for arguments in ((folder, pets), (folder, pets, "--weights", "raw"), (tmp_path / "raw.safetensors", pets))
    )
    assert averaged["loss"] != raw["loss"] == alone["loss"]
    assert raw["weights"] == "raw"
    assert raw["models"][0]["file"].endswith("step-00000010.safetensors")
    (folder / "checkpoints" / "step-00000011.safetensors").write_text("cut short")
    status, _, err = run(folder, pets, "--weights", "raw")
    assert status == 1
    assert "does not hold the raw weights" in one_line(err)


def test_two_processes_give_the_figures_of_one(
    run: Run, saved: Callable[..., Path], pets: Path, tmp_path: Path
) -> None:
    """Five pictures and a broken one: neither the shares nor their last batches are even."""
    model = saved()
    (pets / "[red]dog" / "broken.png").write_text("this is text")
    arguments = [model, pets, "--json", "--batch-size", "2", "--csv"]
    status, out, _ = run(*arguments, tmp_path / "one.csv")
    assert status == 0
    log = tmp_path / "two.log"
    first, second = run_distributed(
        2, command_line, ["evaluate", *map(str, [*arguments, tmp_path / "two.csv"])], None, (), log=log
    )
    assert (first.wait(), second.wait(), second.output) == (0, 0, ""), "the first process tells"
    (told,) = (line for line in first.output.splitlines() if line.startswith("{"))
    one, two = json.loads(out), json.loads(told)
    assert (one["count"], len(one["bad"])) == (5, 1)
    for figure in ("loss", "ece"):
        assert two.pop(figure) == pytest.approx(one.pop(figure), abs=1e-6)
    for judged in (one, two):
        judged["calibration"] = [row["count"] for row in judged["calibration"]]
    assert two == one
    answers = [
        [line.split(",")[:3] for line in (tmp_path / f"{name}.csv").read_text().splitlines()] for name in ("one", "two")
    ]
    assert answers[0] == answers[1]


def test_one_killed_stops_the_other_long_before_its_own_end(saved: Callable[..., Path], pets: Path) -> None:
    for number, picture in enumerate(noise(60)):
        picture.save(pets / "[red]dog" / f"more-{number}.png")
    log = pets.parent / "killed.log"
    arguments = ["evaluate", str(saved()), str(pets), "--batch-size", "1", "--workers", "0"]
    first, second = run_distributed(2, command_line, arguments, die_at_the_third_picture, (), log=log)
    assert second.wait() == -signal.SIGKILL
    assert first.wait() == 1
    *opened, line = first.output.splitlines()
    assert line == "error: another process has ended or does not respond; see its output, and start all processes again"
    assert opened.count("opened") <= 4, "of 32 or more"


def die_at_the_third_picture() -> None:
    opened = LabelledImages.open
    count = itertools.count(1)

    def noted(self: LabelledImages, index: int) -> Image.Image:
        if next(count) == 3 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        print("opened", flush=True)
        return opened(self, index)

    LabelledImages.open = noted  # type: ignore[method-assign]


def test_sigterm_as_torchrun_sends_it_to_the_others_is_told(saved: Callable[..., Path], pets: Path) -> None:
    arguments = ["evaluate", str(saved()), str(pets), "--workers", "0"]
    first, second = run_distributed(2, command_line, arguments, wait_at_the_first_picture, (), log=pets.parent / "ended.log")
    first.wait_for(lambda: first.output == "opened\n")
    first.kill(signal.SIGTERM)
    assert first.wait() == 1
    assert "another process has ended" in one_line(first.output)
    second.kill(signal.SIGKILL)


def wait_at_the_first_picture() -> None:
    def opened(self: LabelledImages, index: int) -> Image.Image:
        print("opened", flush=True)
        signal.pause()
        raise AssertionError

    LabelledImages.open = opened  # type: ignore[method-assign]


def test_what_the_data_set_left_out_is_listed_with_the_pictures_that_cannot_be_read(
    run: Run, saved: Callable[..., Path], tmp_path: Path
) -> None:
    """A shard may have a picture without a label, which is no picture of the data set."""
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
    assert [one["image"] for one in json.loads(out)["bad"]] == ["val.tar/1.png", "val.tar/0.png", "val.tar/2.png"]
    assert "3 of 4 images could not be read" in err
    assert "  val.tar/1.png: no label: add 1.cls or 1.json to the shard" in err.splitlines()


def test_answers_have_one_row_a_picture() -> None:
    assert ANSWER.itemsize == 48, "48 MB for a million pictures"
