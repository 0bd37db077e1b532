"""curves.png: what the losses contain, units, and the logarithmic axis."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from inception_v3.reports import plots
from inception_v3.training.losses import describe_loss
from inception_v3.training.recipe import Recipe, load_recipe


def draw(monkeypatch: pytest.MonkeyPatch, held_out_losses: list[float], training_loss: str = "cross-entropy") -> Figure:
    """The figure of a training with these losses on the held-out images, and a loss of 1 on the training images."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    epochs = [
        {"epoch": number, "loss": 1.0, "held_out_loss": loss, "accuracy": 0.5, "held_out_top1": 0.25}
        for number, loss in enumerate(held_out_losses, 1)
    ]
    plots.curves(epochs, Path("curves.png"), training_loss)
    return figures[0]


@pytest.mark.parametrize(
    ("held_out_losses", "scale"),
    [
        ([1.5, 1.2, 1.1], "linear"),
        ([19.0, 1.2, 1.1], "linear"),
        ([5200.0, 1.2, 1.1], "log"),
        ([5200.0], "log"),
        ([5200.0, 800.0, 100.0, 1.1], "log"),
        ([1.0, 0.001, 0.001, 0.001], "linear"),
    ],
)
def test_the_loss_axis_is_logarithmic_if_a_value_is_over_20_times_the_median(
    monkeypatch: pytest.MonkeyPatch, held_out_losses: list[float], scale: str
) -> None:
    loss, accuracy = draw(monkeypatch, held_out_losses).axes
    assert loss.get_yscale() == scale
    assert ("logarithmic" in loss.get_ylabel()) is (scale == "log")
    assert accuracy.get_yscale() == "linear"


def test_a_loss_of_zero_has_a_place_on_the_logarithmic_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = draw(monkeypatch, [5200.0, 1.0, 0.0])
    figure.draw_without_rendering()
    assert figure.axes[0].get_ylim()[0] > 0


def test_axes_have_units_and_curves_differ_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    for axes, unit in zip(draw(monkeypatch, [1.5, 1.2]).axes, ("nats per image", "%"), strict=True):
        assert unit in axes.get_ylabel()
        assert axes.get_xlabel() == "epoch"
        first, second = axes.get_lines()
        assert first.get_linestyle() != second.get_linestyle()
        assert first.get_marker() != second.get_marker()
    assert list(second.get_ydata()) == [25, 25]


def test_the_legend_says_what_each_loss_contains(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = draw(monkeypatch, [1.5], "cross-entropy + 0.4 × auxiliary loss, label smoothing 0.1 (L2 not included)")
    training, held_out = (text.get_text().replace("\n", " ") for text in figure.axes[0].get_legend().get_texts())
    assert training == "training: cross-entropy + 0.4 × auxiliary loss, label smoothing 0.1 (L2 not included)"
    assert held_out == "held out: cross-entropy only, of the averaged weights"


def test_an_epoch_without_training_is_drawn_with_its_held_out_figures_only(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    later = {"epoch": 1, "loss": 1.0, "held_out_loss": 1.0, "accuracy": 0.5, "held_out_top1": 0.5}
    plots.curves([{"epoch": 0, "held_out_loss": 2.0, "held_out_top1": 0.25}, later], Path("curves.png"), "")
    training, held_out = figures[0].axes[0].get_lines()
    assert (list(training.get_xdata()), list(held_out.get_xdata())) == ([1], [0, 1])


@pytest.mark.parametrize(
    ("recipe", "aux_head", "description"),
    [
        (Recipe(), True, "cross-entropy + 0.4 × auxiliary loss, label smoothing 0.1 (L2 not included)"),
        (Recipe(), False, "cross-entropy, label smoothing 0.1 (L2 not included)"),
        (Recipe(label_smoothing=0, weight_decay=0), False, "cross-entropy"),
        (
            Recipe(class_weights="balanced", mixup=0.2, cutmix=1.0, optimizer="adamw", label_smoothing=0),
            False,
            "cross-entropy, class weights, mixup, cutmix (weight decay not included)",
        ),
    ],
)
def test_a_recipes_loss_is_described_by_its_parts(recipe: Recipe, aux_head: bool, description: str) -> None:
    assert describe_loss(recipe, aux_head=aux_head) == description


def test_the_loss_of_every_built_in_recipe_is_described() -> None:
    for name in ("paper", "digits", "photos", "finetune"):
        assert describe_loss(load_recipe(name), aux_head=True).startswith("cross-entropy + ")
