"""Fine-tuning: what it learns, that the whole network then says the same, and what it leaves behind."""

import csv
import io
import json
import os
import random
import shutil
import signal
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
from inception_v3.finetuning.bottlenecks import BottleneckCache, features_of
from inception_v3.finetuning.finetune import FineTuned, finetune, rate_factors, with_new_head
from inception_v3.finetuning.logistic import fit_head
from inception_v3.network import architecture
from inception_v3.training.recipe import Recipe, load_recipe
from inception_v3.training.run_folder import RunFolder, training_images
from inception_v3.weights.load import load, save

pytestmark = pytest.mark.usefixtures("one_thread")

COLOURS = {"blue": (0, 0, 90), "green": (0, 90, 0), "red": (90, 0, 0)}


def colours(folder: Path, each: int = 15) -> Path:
    """Noise with a tint: three classes that anyone can tell apart, and that no picture repeats."""
    rng = np.random.default_rng(0)
    for name, tint in COLOURS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            pixels = rng.integers(0, 160, (80, 90, 3)) + tint
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, weights, and a cache that the tests share."""
    place = tmp_path_factory.mktemp("finetune")
    colours(place / "data")
    (place / "data" / "red" / "broken.png").write_text("this is text")
    torch.manual_seed(0)
    model = InceptionV3(num_classes=7, depth_multiplier=0.1, min_depth=8, image_size=75)
    model.preprocessing = Preprocessing((75, 75))
    save(model, place / "weights.safetensors")
    return place


def tune(
    place: Path, out: str, data: tuple[LabelledImages, LabelledImages] | None = None, *, resume: bool = False, **options: object
) -> FineTuned:
    train_set, test_set = data or load_data(str(place / "data"))
    model = with_new_head(load(place / "weights.safetensors"), train_set.class_names)
    cache = BottleneckCache(place / "cache")
    with RunFolder(place / out, overwrite=not resume, resume=resume) as run:
        return finetune(
            model,
            train_set,
            test_set,
            run,
            cache,
            console=Console(file=io.StringIO()),
            **options,  # type: ignore[arg-type]
        )


@pytest.fixture(scope="module")
def tuned(place: Path) -> FineTuned:
    return tune(place, "run")


# ------------------------------------------------------------------------------------------- what it learns


def test_random_features_are_enough_for_easy_classes(tuned: FineTuned) -> None:
    assert tuned.metrics.count == 9
    assert tuned.metrics.top1 == 1.0


def test_wrong_labels_teach_nothing(place: Path, tuned: FineTuned) -> None:
    train_set, test_set = load_data(str(place / "data"))
    labels = list(train_set.labels)
    random.Random(1).shuffle(labels)
    wrong = LabelledImages(train_set.class_names, train_set.sources, labels, train_set.names)
    assert tune(place, "wrong", (wrong, test_set)).metrics.top1 < 0.7


def test_a_second_run_computes_no_features_and_says_the_same(place: Path, tuned: FineTuned) -> None:
    again = tune(place, "again")
    assert again.head is not None
    assert again.head.computed == 0
    first, second = (load(place / run).state_dict() for run in ("run", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


# -------------------------------------------------------------------------- the whole network says the same


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_head_answers_as_the_whole_network_does(place: Path, precision: str) -> None:
    """In bf16 where the processor has it; elsewhere autocast is fp32, and so are both."""
    from inception_v3.support.devices import autocast

    tune(place, precision, precision=precision)
    model = load(place / precision)
    _, test_set = load_data(str(place / "data"))
    (batch,) = batches(test_set, model.preprocessing, 32)
    layer = model.get_submodule("Logits.Conv2d_1c_1x1")
    features = torch.from_numpy(features_of(model, batch.images, precision))  # type: ignore[arg-type]
    images = model.preprocessing.scale(batch.images).contiguous(memory_format=torch.channels_last)
    with (
        torch.inference_mode(),
        torch.autocast("cpu", enabled=False) if precision == "fp32" else autocast(torch.device("cpu")),
    ):
        whole = model(images, end_points=())[0].float().softmax(1)
        alone = layer(features[:, :, None, None]).flatten(1).float().softmax(1)
    assert (whole - alone).abs().max() <= 1e-6
    assert torch.equal(whole.argmax(1), alone.argmax(1))


def test_the_standardisation_is_folded_into_weights_and_biases() -> None:
    """Features of any scale and offset give the answers that standardised ones give."""
    features, labels = random_features(60, 20, 3)
    features = features * torch.logspace(-1, 3, 20) + torch.linspace(-5, 5, 20)
    head = fit_head(features, labels, 3, l2=0.01)
    standard = (features - features.mean(0)) / features.std(0, correction=0)
    plain = fit_head(standard, labels, 3, l2=0.01)
    one, other = (x @ h.weights.T + h.biases for x, h in ((features, head), (standard, plain)))
    assert torch.allclose(one.softmax(1), other.softmax(1), atol=1e-4)


def test_evaluate_repeats_the_judgement(place: Path, tuned: FineTuned) -> None:
    model = load(place / "run")
    _, test_set = load_data(str(place / "data"))
    again = evaluate(model, batches(test_set, model.preprocessing, 4), test_set.class_names)
    assert np.array_equal(again.confusion, tuned.metrics.confusion)


# --------------------------------------------------------------------------------------------- what it leaves


def test_the_run_folder_is_that_of_a_training(place: Path, tuned: FineTuned) -> None:
    run = place / "run"
    model = load(run)
    assert model.class_names == ["blue", "green", "red"]
    assert model.preprocessing == Preprocessing((75, 75))
    assert not model.settings.create_aux_logits
    train_set, test_set = load_data(str(place / "data"))
    assert training_images(run) == set(train_set.names)
    assert not training_images(run) & set(test_set.names)
    (figures,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert figures["held_out_top1"] == 1.0
    assert min(Image.open(run / "confusion_matrix.png").size) > 200
    with (run / "bad_images.csv").open() as file:
        assert [row[0] for row in csv.reader(file)] == ["image", "red/broken.png"]
    assert not list(run.glob(".*.partial"))


# ------------------------------------------------------------------------------------- the last layer's optimum


def random_features(count: int, length: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, length, generator=rng)
    return (torch.randn(count, length, generator=rng) + 0.5 * centres[labels]), labels


@pytest.mark.parametrize(("classes", "l2"), [(2, 0.1), (5, 0.01), (5, 0.001)])
def test_it_is_that_of_scikit_learn(classes: int, l2: float) -> None:
    features, labels = random_features(200, 30, classes)
    head = fit_head(features, labels, classes, l2=l2)
    standard = ((features - features.mean(0)) / features.std(0, correction=0)).double().numpy()
    strength = l2 * len(labels) / (2 if classes == 2 else 1)  # of two classes it penalises one vector, their difference
    theirs = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=10_000).fit(standard, labels.numpy())
    ours = (features @ head.weights.T + head.biases).softmax(1).numpy()
    assert np.abs(ours - theirs.predict_proba(standard)).max() < 5e-4


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


def test_the_base_is_kept_and_the_heads_go(random_model: Callable[..., InceptionV3]) -> None:
    model = random_model()
    new = with_new_head(model, ["a", "b", "c"])
    assert new.settings.num_classes == 3
    assert new.AuxLogits is None
    old = model.state_dict()
    for name, tensor in new.state_dict().items():
        if not name.startswith("Logits"):
            assert tensor is not None
            assert torch.equal(tensor, old[name])


def test_a_network_without_heads_will_do_and_one_cut_short_will_not(random_model: Callable[..., InceptionV3]) -> None:
    new = with_new_head(random_model(final_endpoint="Mixed_7c"), ["a", "b"])
    logits, _ = new(torch.zeros(1, 3, 107, 107), end_points=())
    assert logits.shape == (1, 2)
    with pytest.raises(InputError, match="ends at Mixed_6e"):
        with_new_head(random_model(final_endpoint="Mixed_6e"), ["a", "b"])


@pytest.mark.parametrize("size", [75, 299, 400])
def test_any_size_gives_one_answer_an_image(random_model: Callable[..., InceptionV3], size: int) -> None:
    model = random_model()
    model.preprocessing = Preprocessing((299, 299), resize=342)
    new = with_new_head(model, ["a", "b"], (size, size))
    assert new.preprocessing.image_size == (size, size)
    assert new.preprocessing.resize == round(342 * size / 299)
    assert new(torch.zeros(1, 3, size, size), end_points=())[0].shape == (1, 2)


# --------------------------------------------------------------------------------------- more than the last layer


def test_names_of_layers_become_rates() -> None:
    assert rate_factors("Mixed_7a,Mixed_7c=0.5") == {"": 0.0, "Logits.": 1.0, "Mixed_7a.": 0.1, "Mixed_7c.": 0.5}
    assert set(rate_factors("Mixed_7")) == {"", "Logits.", "Mixed_7a.", "Mixed_7b.", "Mixed_7c."}
    layers = {f"{point.name}." for point in architecture.end_points() if point.name in architecture.BASE_END_POINTS}
    assert set(rate_factors("all=1")) - {"", "Logits."} == {name for name in layers if "Pool" not in name}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("Mixed_7d", "did you mean Mixed_7c"),
        ("MaxPool_3a_3x3", "no such layer"),
        ("Mixed_7a=0", "greater than 0"),
        ("Mixed_7a=x", "greater than 0"),
        ("Mixed_7a=nan", "greater than 0"),
        ("=1", "no such layer"),
        ("", "no layer is named"),
        (" , ", "no layer is named"),
    ],
)
def test_wrong_names_and_rates_are_told(asked: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rate_factors(asked)


@pytest.fixture(scope="module")
def short() -> Recipe:
    return load_recipe("finetune").with_options(image_size=75, epochs=1, batch_size=18, augment="none")


@pytest.fixture(scope="module")
def unfrozen(place: Path, tuned: FineTuned, short: Recipe) -> FineTuned:
    return tune(place, "unfrozen", unfreeze=rate_factors("Mixed_7c"), recipe=short)


def test_only_what_is_unfrozen_changes(place: Path, unfrozen: FineTuned) -> None:
    before, after = (load(place / run).state_dict() for run in ("run", "unfrozen"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in changed} == {"Mixed_7c", "Logits"}
    assert not [name for name in changed if "moving" in name], "BatchNorm's statistics stay"


def test_what_the_last_layer_learned_is_the_start(unfrozen: FineTuned) -> None:
    assert unfrozen.head is not None
    assert unfrozen.head.metrics.top1 == 1.0
    assert unfrozen.metrics.top1 == 1.0


def test_unfrozen_layers_take_smaller_steps(place: Path, unfrozen: FineTuned, short: Recipe) -> None:
    """AdamW's steps are as large as the rate."""
    tune(place, "smaller", unfreeze=rate_factors("Mixed_7c=0.01"), recipe=short)
    name = "Mixed_7c.Branch_0.Conv2d_0a_1x1.weights"
    start, tenth, hundredth = (load(place / run).get_parameter(name) for run in ("run", "unfrozen", "smaller"))
    assert (hundredth - start).norm() < 0.3 * (tenth - start).norm()


def test_a_broken_off_training_goes_on_without_the_last_layer_s_part(
    place: Path, unfrozen: FineTuned, short: Recipe
) -> None:
    """Its state is there: with the same command the run ends at once with the same weights."""
    before = load(place / "unfrozen").state_dict()
    train_set, test_set = load_data(str(place / "data"))
    model = with_new_head(load(place / "weights.safetensors"), train_set.class_names)
    with RunFolder(place / "unfrozen", resume=True) as run:
        done = finetune(
            model,
            train_set,
            test_set,
            run,
            BottleneckCache(place / "cache"),
            unfreeze=rate_factors("Mixed_7c"),
            recipe=short,
            console=Console(file=io.StringIO()),
        )
    assert done.head is None
    assert done.metrics.top1 == unfrozen.metrics.top1
    after = load(place / "unfrozen").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("moment", ["before the first state", "before the first model", "in the first step"])
def test_killed_after_the_last_layer_it_goes_on_with_resume(
    place: Path, unfrozen: FineTuned, short: Recipe, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inception_v3.training import state, train

    class KilledError(BaseException):
        """What nothing catches."""

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    name = moment.replace(" ", "-")
    where, what = {
        "before the first state": (state, "write"),
        "before the first model": (RunFolder, "save_model"),
        "in the first step": (train, "add_gradients"),
    }[moment]
    with monkeypatch.context() as patch:
        patch.setattr(where, what, killed)
        with pytest.raises(KilledError):
            tune(place, name, unfreeze=rate_factors("Mixed_7c"), recipe=short)
    tune(place, name, resume=True, unfreeze=rate_factors("Mixed_7c"), recipe=short)
    before, after = (load(place / run).state_dict() for run in ("unfrozen", name))
    assert all(torch.equal(before[name], after[name]) for name in before)


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
    place: Path, tuned: FineTuned, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("finetune", place / "weights.safetensors", place / "data", "--cache", place / "cache")
    status, out, err = command(capsys, monkeypatch, *common, "--out", place / "cli", "--json")
    assert status == 0, err
    answer = json.loads(out)
    assert answer["held_out"]["top1"] == 1.0
    assert answer["head"]["computed"] == 0
    assert answer["head"]["cached"] == 45
    assert [one["image"] for one in answer["bad"]] == ["red/broken.png"]
    assert "1 of 46 images could not be read" in err
    status, out, _ = command(capsys, monkeypatch, "predict", place / "cli", place / "data" / "blue", "--json")
    assert status == 0
    assert {json.loads(line)["predictions"][0]["class"] for line in out.splitlines()} == {"blue"}
    status, _, err = command(capsys, monkeypatch, *common, "--out", place / "cli")
    assert status == 2
    assert "--overwrite" in err


def test_without_out_the_run_is_named_after_the_data(
    place: Path, tuned: FineTuned, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    colours(tmp_path / "tints", 3)
    status, out, _ = command(capsys, monkeypatch, "finetune", place / "weights.safetensors", "tints")
    assert status == 0
    assert out.startswith("runs/tints: top-1")
    assert (tmp_path / "home" / "inception-v3" / "bottlenecks" / "bottlenecks.sqlite").exists()


@pytest.mark.parametrize(
    ("data", "run"),
    [("photos", "photos"), ("photos/", "photos"), ("photos/*.tar", "photos"), ("photos/t-{000..009}.tar", "photos")],
)
def test_a_run_has_no_name_of_a_pattern(data: str, run: str) -> None:
    assert default_run_folder(data) == Path("runs") / run


def test_a_folder_that_is_there_is_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "photos [1]").mkdir()
    assert default_run_folder(str(tmp_path / "photos [1]")) == Path("runs") / "photos [1]"


def test_a_broken_off_training_goes_on_from_the_same_weights_however_they_are_spelled(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    more = ("data", "--cache", "cache", "--out", tmp_path / "run", "--unfreeze", "Mixed_7c", "--workers", "0")

    def run(weights: object, *options: str) -> tuple[int, str, str]:
        return command(capsys, monkeypatch, "finetune", weights, *more, *options)

    assert run("weights.safetensors", "--epochs", "1")[0] == 0
    status, _, err = run(place / "weights.safetensors", "--epochs", "1", "--resume")
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
        (("--precision", "fp16"), "--precision must be", 2),
        (("--unfreeze", "Mixed_9"), "no such layer", 2),
        (("--recipe", "nothing"), "no such recipe", 2),
        (("--resume",), "--unfreeze", 2),
        (("--cache", "/dev/null"), "another --cache", 1),
    ],
)
def test_wrong_use_is_one_line_and_nothing_is_written(
    place: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
    expected: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    common = ("finetune", place / "weights.safetensors", place / "data", "--out", tmp_path / "run")
    status, out, err = command(capsys, monkeypatch, *common, *arguments)
    assert (status, out) == (expected, "")
    assert err.startswith("error:")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "run").exists()


def test_the_weights_are_never_replaced(
    place: Path, tuned: FineTuned, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for weights in (place / "run", place / "run" / "model.safetensors"):
        status, _, err = command(
            capsys, monkeypatch, "finetune", weights, place / "data", "--out", place / "run", "--overwrite"
        )
        assert status == 2
        assert "give another --out" in err
    assert load(place / "run").class_names == ["blue", "green", "red"]


@pytest.mark.parametrize("wrong", ["one class", "no class folders", "no folder", "weights", "unreadable class"])
def test_wrong_data_and_weights_are_told(
    place: Path, tmp_path: Path, wrong: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, data = place / "weights.safetensors", tmp_path / "data"
    if wrong != "no folder":
        data.mkdir()
    if wrong in ("one class", "unreadable class", "weights"):
        colours(data, 3)
    message = {
        "one class": "one class only",
        "no class folders": "no class folders",
        "no folder": "no such folder",
        "weights": "there is no such file",
        "unreadable class": "class red: none of its training images can be read",
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
    assert message in err


def test_what_no_memory_can_hold_is_told_before_it_is_taken(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for options in ((), ("--unfreeze", "Mixed_7c")):
        asked = ("finetune", place / "weights.safetensors", place / "data", "--out", tmp_path / "run", *options)
        status, _, err = command(capsys, monkeypatch, *asked, "--image-size", 100_000)
        assert status == 2
        assert "GiB or more" in err


def test_it_is_the_work_of_one_process(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    asked = ("finetune", place / "weights.safetensors", place / "data", "--out", tmp_path / "run")
    status, _, err = command(capsys, monkeypatch, *asked)
    assert status == 2
    assert "start it without torchrun" in err


def test_a_class_without_training_pictures_is_no_error(place: Path, tuned: FineTuned) -> None:
    """As the background of a set whose labels start at 1."""
    data = load_data(str(place / "data"))
    names = ["background", *data[0].class_names]
    both = [LabelledImages(names, one.sources, [label + 1 for label in one.labels], one.names) for one in data]
    assert tune(place, "background", (both[0], both[1])).metrics.top1 == 1.0


def test_a_later_run_imports_little(place: Path, tuned: FineTuned) -> None:
    """What a later run does not need, it does not import: that would take longer than all that it does."""
    for name in ("train", "val"):
        shutil.copytree(place / "data", place / "split" / name, ignore=shutil.ignore_patterns("broken.png"))
    arguments = [str(place / "weights.safetensors"), str(place / "split"), "--cache", str(place / "cache")]
    code = (
        "import sys\n"
        f"sys.argv = ['inception-v3', 'finetune', *{arguments}, '--out', '{place / 'light'}']\n"
        "from inception_v3.cli import main\n"
        "try: main()\n"
        "except SystemExit: print('LOADED', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert "top-1" in done.stdout, done.stderr
    loaded = done.stdout.split("LOADED")[1].split()
    assert not {"torchvision", "torch._dynamo", "sklearn", "tensorboard"} & set(loaded)


def test_ctrl_c_says_that_the_features_are_kept(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from inception_v3.finetuning import bottlenecks

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start without it
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(bottlenecks, "features_of", interrupt)
    status, _, err = command(
        capsys,
        monkeypatch,
        *("finetune", place / "weights.safetensors", place / "data", "--out", tmp_path / "run"),
        *("--cache", tmp_path / "cache"),
    )
    assert status == 130
    assert err.endswith("the features so far are kept; the same command goes on from there\ninterrupted\n")
