"""Advice after fine-tuning: plain lines, and none that the number of images does not support."""

import numpy as np
import pytest

from inception_v3.evaluation.evaluate import PREDICTION_DTYPE, Metrics
from inception_v3.finetuning.advice import advice
from inception_v3.finetuning.finetune import FineTuned, TrainedHead, Unfreezing
from inception_v3.finetuning.folds import CrossValidation

CLASSES = ["ant", "bee", "cat", "dog", "emu", *"fghijkl"]


def evaluated(confusion: list[list[int]]) -> Metrics:
    """Metrics with this confusion matrix, of the first classes of CLASSES."""
    pairs = [(i, j) for i, row in enumerate(confusion) for j, count in enumerate(row) for _ in range(count)]
    rows = np.zeros(len(pairs), PREDICTION_DTYPE)
    rows["index"] = range(len(pairs))
    rows["label"], rows["predicted"] = np.array(pairs).T
    rows["rank"] = rows["label"] != rows["predicted"]
    return Metrics(CLASSES[: len(confusion)], rows)


def advise(
    confusion: list[list[int]], train: int | list[int] = 100, folds: bool = True, unfreezing: Unfreezing | None = None
) -> list[str]:
    metrics = evaluated(confusion)
    folded = CrossValidation(metrics, [], []) if folds else None
    head = TrainedHead(0.1, {}, metrics, metrics, 0, {}, folded)
    held_out = [sum(row) for row in confusion]
    counts = train if isinstance(train, list) else [train] * len(confusion)
    smallest = min(map(sum, zip(counts, held_out, strict=True)))
    return advice(counts, held_out, FineTuned(metrics, head, unfreezing), lambda: smallest)


def diagonal(*counts: int) -> list[list[int]]:
    return np.diag(counts).tolist()


def test_a_good_model_with_enough_images_gets_no_advice() -> None:
    assert advise(diagonal(50, 60, 70, 80, 90), folds=False) == []


def test_classes_with_few_training_images_are_named_the_smallest_first() -> None:
    assert advise(diagonal(50, 50, 50), [19, 20, 3]) == [
        "fewer than 20 training images: cat (3), ant (19); more images of these classes help most"
    ]


def test_a_class_is_never_recognised_only_if_five_images_or_more_show_it() -> None:
    confusion = diagonal(50, 50, 0, 0)
    confusion[2][0], confusion[3][1] = 5, 4
    (line,) = [line for line in advise(confusion) if "recognised" in line]
    assert line == "never recognised: cat (0 of 5); look at the images and labels of these classes"


def test_the_most_confused_pairs_count_mistakes_in_both_directions() -> None:
    confusion = diagonal(40, 40, 40, 40, 40)
    confusion[0][1], confusion[1][0], confusion[3][4] = 6, 3, 1
    (line,) = advise(confusion)
    assert line.startswith("confused most: ant and bee (9 images); ")


@pytest.mark.parametrize("each", [1, 2, 5])
def test_mistakes_that_are_spread_evenly_are_no_pair(each: int) -> None:
    confusion = np.full((5, 5), each)
    np.fill_diagonal(confusion, 50)
    assert advise(confusion.tolist()) == []


def test_two_mistakes_are_noise_and_three_of_one_pair_are_not() -> None:
    confusion = diagonal(*[50] * 12)
    confusion[0][1] = 2
    assert advise(confusion) == []
    confusion[1][0] = 1
    assert "ant and bee (3 images)" in advise(confusion)[0]


def figures(epoch: int, top1: float) -> dict[str, float]:
    return {"epoch": epoch, "held_out_top1": top1, "held_out_count": 100}


@pytest.mark.parametrize(
    ("after", "kept", "expected"),
    [
        (0.8, 3, "unfreezing helped: top-1 50 % before, 80 % after epoch 3; the weights kept are those of epoch 3"),
        (0.3, 0, "unfreezing made it worse: try a smaller --learning-rate, fewer --epochs or fewer layers: top-1 50 % "
                 "before, 30 % after epoch 3; the weights kept are those before unfreezing"),
        (0.55, 3, "100 held-out images show no clear effect of unfreezing: top-1 50 % before, 55 % after epoch 3; the "
                  "weights kept are those of epoch 3"),
    ],
)  # fmt: skip
def test_unfreezing_helped_only_if_the_difference_exceeds_the_interval(after: float, kept: int, expected: str) -> None:
    unfreezing = Unfreezing("best", kept, [figures(0, 0.5), figures(1, 0.4), figures(2, 0.4), figures(3, after)])
    assert advise(diagonal(100, 100), unfreezing=unfreezing) == [expected]


def test_a_run_of_an_earlier_version_has_no_figure_before_unfreezing() -> None:
    assert advise(diagonal(100, 100), unfreezing=Unfreezing("best", 1, [figures(1, 0.5)])) == []


@pytest.mark.parametrize(("classes", "folds"), [((10, 90), 5), ((2, 90), 3), ((1, 90), 2)])
def test_folds_are_recommended_with_a_number_that_the_smallest_class_allows(
    classes: tuple[int, int], folds: int
) -> None:
    line = advise(diagonal(*classes), [1, 100], folds=False)[-1]
    assert f"with --folds {folds}, finetune evaluates the last layer on all" in line


def test_there_are_at_most_six_lines_however_many_classes_are_bad() -> None:
    confusion = np.zeros((5, 5), int)
    confusion[:, 0] = 30
    confusion[1, 2] = confusion[3, 4] = 40
    unfreezing = Unfreezing("best", 0, [figures(0, 0.5), figures(1, 0.4)])
    lines = advise(confusion.tolist(), 3, folds=False, unfreezing=unfreezing)
    assert 4 <= len(lines) <= 6
