"""Recipes: reading and checking them, and the schedules that follow from them."""

import math
from pathlib import Path

import pytest

from inception_v3.errors import InputError
from inception_v3.training.recipe import Recipe, load_recipe
from inception_v3.training.schedules import (
    batch_norm_decay,
    ema_decay,
    image_size,
    learning_rate,
    settling_warnings,
    warmed_up_decay,
)

SHIPPED = ("cats-vs-dogs", "cifar10", "digits", "finetune", "mnist", "paper", "photos")


# ------------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_loads(name: str) -> None:
    assert load_recipe(name).epochs > 0


def test_the_paper_recipe_has_the_numbers_of_the_paper() -> None:
    paper = load_recipe("paper")
    assert (paper.optimizer, paper.rmsprop_decay, paper.rmsprop_epsilon, paper.momentum) == ("rmsprop", 0.9, 1.0, 0.9)
    assert (paper.learning_rate, paper.learning_rate_decay, paper.decay_epochs) == (0.045, 0.94, 2.0)
    assert (paper.clip_norm, paper.label_smoothing, paper.aux_weight, paper.weight_decay) == (2.0, 0.1, 0.4, 4e-5)
    assert (ema_decay(paper), paper.batch_norm_decay, paper.dropout_keep_prob) == (0.9999, 0.9997, 0.8)
    assert (paper.batch_size, paper.epochs, paper.image_size) == (32, 100, 299)


def test_the_paper_recipe_names_the_source_of_every_value() -> None:
    text = (Path(__file__).parents[2] / "src/inception_v3/training/recipes/paper.toml").read_text()
    values = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(values) > 20
    for line in values:
        comment = line.partition("#")[2]
        assert any(source in comment for source in ("paper", "code", "neither", "both")), line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "did you mean epochs"),
        ("lerning_rate = 0.1", "did you mean learning_rate"),
        ("epochs = 'three'", "epochs must be a whole number"),
        ("epochs = 0", "epochs must be at least 1"),
        ("epochs =", "not TOML"),
        ("zzz = 1", "there are image_size"),
        ("preprocessing = 'tf'", "preprocessing must be one of inception, slim, torchvision, timm, keras"),
        ("augment = 'wild'", "augment must be one of"),
        ("optimizer = 'adam'", "optimizer must be one of rmsprop, sgd, adamw"),
        ("schedule = 1", "schedule must be one of stairs, cosine"),
        ("epochs = true", "epochs must be a whole number"),
        ("freeze_batch_norm = 1", "freeze_batch_norm must be True or False"),
        ("dropout_keep_prob = 0.0", "dropout_keep_prob must be"),
        ("learning_rate = inf", "learning_rate must be"),
        ("learning_rate = nan", "learning_rate must be"),
        ("batch_norm_decay = 1.0", "batch_norm_decay must be at least zero and less than 1"),
        ("batch_norm_decay = 'none'", "batch_norm_decay must be a number or one of auto"),
        ("image_sizes = 79", "image_sizes must be a list"),
        ("image_sizes = [299, 79]", "image_sizes must increase"),
        ("image_sizes = [60, 79]", "image_size must be at least 75"),
        ("image_sizes = [[0.5, 79], 299]", "image_sizes must be a list"),
        ("image_sizes = [79, 151]\nimage_size = 299", "end with image_size, 299"),
        ("class_weights = 'some'", "class_weights must be"),
        ("class_weights = { cat = 0 }", "class_weights must be"),
        ("mixup = 1e-300", "mixup must be 0, or 1e-30 or more"),
        ("decay_epochs = 1e-320", "decay_epochs must be 0, or 1e-30 or more"),
        ("learning_rate_decay = 2.0", "learning_rate_decay must be at least zero and at most 1"),
        ("accumulate = 0", "accumulate must be at least 1"),
        ("sync_batch_norm = true\naccumulate = 2", "sync_batch_norm and accumulate cannot be combined"),
    ],
)
def test_an_invalid_recipe_is_refused_and_the_fault_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load_recipe(str(file))
    assert str(file) in str(error.value)
    assert error.value.exit_status == 2


def test_the_message_about_an_unknown_recipe_lists_the_known_recipes() -> None:
    with pytest.raises(InputError, match=f"there are {', '.join(SHIPPED)}"):
        load_recipe("nothing")


def test_every_published_data_set_has_a_recipe() -> None:
    from inception_v3.cli.train import RECIPES
    from inception_v3.data.torchvision_sets import TORCHVISION_SETS

    assert set(TORCHVISION_SETS) <= set(RECIPES)
    assert set(RECIPES.values()) <= set(SHIPPED)


# ------------------------------------------------------------------------------- learning rate and image sizes


def test_the_learning_rate_warms_up_and_falls_in_stairs() -> None:
    recipe = Recipe(epochs=10, learning_rate=1.0, warmup_epochs=1, decay_epochs=2.5, learning_rate_decay=0.5)
    rates = [learning_rate(recipe, epochs) for epochs in (0.0, 0.5, 1.0, 2.499, 2.5, 5.0, 9.9)]
    assert rates == pytest.approx([0, 0.5, 1, 1, 0.5, 0.25, 0.125])


def test_the_papers_learning_rate_falls_every_two_epochs() -> None:
    rates = [learning_rate(load_recipe("paper"), epochs) for epochs in (0, 1.99, 2, 3.99, 4)]
    assert rates == pytest.approx([0.045, 0.045, 0.045 * 0.94, 0.045 * 0.94, 0.045 * 0.94**2])


def test_the_learning_rate_follows_half_a_cosine_to_zero() -> None:
    recipe = Recipe(epochs=9, learning_rate=2.0, warmup_epochs=1, schedule="cosine")
    rates = [learning_rate(recipe, epochs) for epochs in (0.25, 1, 3, 5, 7, 9)]
    assert rates == pytest.approx([0.5, 2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5), 0])


def test_a_warm_up_longer_than_the_training_only_rises() -> None:
    recipe = Recipe(epochs=2, learning_rate=1.0, warmup_epochs=4, schedule="cosine")
    assert [learning_rate(recipe, epochs) for epochs in (0, 1, 2)] == pytest.approx([0, 0.25, 0.5])


def test_image_sizes_have_equal_or_given_fractions_of_the_epochs() -> None:
    equal = Recipe().with_options(image_sizes=[79, 151, 299], epochs=6)
    assert [image_size(equal, epoch) for epoch in range(6)] == [79, 79, 151, 151, 299, 299]
    given = Recipe().with_options(image_sizes=[[3, 79], [1, 107]], epochs=4)
    assert [image_size(given, epoch) for epoch in range(4)] == [79, 79, 79, 107]
    assert given.image_size == 107
    last = Recipe().with_options(image_sizes=[79, 151, 299], epochs=1)
    assert image_size(last, 0) == 299, "the last epoch has the size of the evaluation"


# --------------------------------------------------------------------------------------- moving averages


@pytest.mark.parametrize("steps", [10, 50, 360, 20_000, 4_000_000])
def test_batch_norm_decay_depends_on_the_number_of_steps(steps: int) -> None:
    decay = batch_norm_decay(Recipe(), steps)
    assert decay**steps < 0.01, "the initial statistics have no weight"
    assert decay <= 0.9997
    assert settling_warnings(Recipe(), steps) == []


def test_a_decay_that_cannot_settle_gives_a_warning_with_the_remedy() -> None:
    (warning,) = settling_warnings(Recipe(batch_norm_decay=0.9997), 360)
    assert "batch_norm_decay = 0.9997 cannot settle in 360 steps: 90%" in warning
    assert "cannot settle in 1 step: " in settling_warnings(Recipe(batch_norm_decay=0.9997), 1)[0]
    assert '"auto"' in warning
    assert settling_warnings(Recipe(batch_norm_decay=0.9997), 20_000) == []
    assert settling_warnings(Recipe(batch_norm_decay=0.9997, freeze_batch_norm=True), 360) == []
    assert settling_warnings(Recipe(batch_norm_decay=0.9997, accumulate=50), 360) == [], "updated by every batch"
    (warning,) = settling_warnings(Recipe(ema_decay=0.9999, freeze_batch_norm=True), 2)
    assert "ema_decay" in warning
    for warning in settling_warnings(Recipe(), 2):
        assert warning.endswith("will still be their initial value; train longer"), "no setting helps with 2 steps"


def test_the_running_average_warms_up_as_in_tensorflow() -> None:
    assert [warmed_up_decay(0.9, step) for step in (1, 8, 90, 10_000)] == pytest.approx([2 / 11, 0.5, 0.9, 0.9])
