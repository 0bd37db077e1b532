"""Curves, confusion matrix, reliability, speeds, as PNG. Needs matplotlib: pip install 'inception-v3[train]'."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from inception_v3.evaluation.calibration import Bin, expected_calibration_error

if TYPE_CHECKING:
    from inception_v3.benchmarking.bench import Bench


def curves(epochs: list[dict[str, float]], path: Path) -> None:
    """Loss and accuracy of every epoch; in training those with dropout and augmentation on."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [epoch["epoch"] for epoch in epochs]
    for axes, title, names in (
        (left, "loss", {"loss": "training", "held_out_loss": "held out"}),
        (right, "top-1 accuracy", {"accuracy": "training", "held_out_top1": "held out"}),
    ):
        for name, label in names.items():
            axes.plot(steps, [epoch[name] for epoch in epochs], marker="o", markersize=3, label=label)
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120, format="png")


def confusion_matrix(confusion: np.ndarray, class_names: list[str], path: Path) -> None:
    """Rows are the real classes, each coloured by its own total; numbers where they can be read."""
    classes = len(class_names)
    side = min(4 + 0.35 * classes, 24)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="real", title="Held-out pictures")
    if classes <= 60:
        # a name with two dollars is no formula
        axes.set_xticks(
            range(classes), class_names, rotation=90 if max(map(len, class_names)) > 2 else 0, parse_math=False
        )
        axes.set_yticks(range(classes), class_names, parse_math=False)
        for row, column in zip(*np.nonzero(confusion), strict=True):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(path, dpi=120, format="png")


def reliability_diagram(bins: list[Bin], path: Path, *, dark: bool = False) -> None:
    """Of each bin of confidence the share of right answers, how far it is from the diagonal, and its pictures."""
    with style.context("dark_background" if dark else "default"):
        figure = Figure(figsize=(5, 5.5), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        filled = [one for one in bins if one.accuracy is not None and one.confidence is not None]
        middles = [(one.low + one.high) / 2 for one in filled]
        width = 0.96 / len(bins)
        accuracy = np.array([one.accuracy for one in filled])
        confidence = np.array([one.confidence for one in filled])
        upper.bar(middles, accuracy, width, color="#3b82f6", label="right answers")
        upper.bar(
            middles, confidence - accuracy, width, accuracy, color="#f97316", alpha=0.6, label="gap to confidence"
        )
        upper.plot((0, 1), (0, 1), color="gray", linestyle="--", label="perfectly calibrated", zorder=3)
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=f"ECE {expected_calibration_error(bins):.4f}")
        upper.legend(loc="upper left")
        counts = np.array([one.count for one in filled])
        lower.bar(middles, counts / max(counts.sum(), 1), width, color="gray")
        lower.set(xlabel="confidence", ylabel="pictures", ylim=(0, 1))
        figure.savefig(path, dpi=120, format="png", transparent=True)


def speeds(found: "Bench", path: Path) -> None:
    """Images a second of every contestant, a panel for each size of batch, and the limits of the arithmetic."""
    sizes = sorted({row.batch_size for row in found.rows})
    names = list(dict.fromkeys(f"{row.engine} {row.precision}" for row in found.rows))
    figure = Figure(figsize=(5 + 4 * len(sizes), 1.5 + 0.35 * len(names)), layout="constrained")
    for axes, size in zip(figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0], sizes, strict=True):
        rows = [row for row in found.rows if row.batch_size == size]
        bars = axes.barh(
            [f"{row.engine} {row.precision}" for row in rows],
            [row.images_per_second for row in rows],
            color=[_COLOURS[row.precision] for row in rows],
        )
        axes.bar_label(bars, fmt="%.1f", padding=3)
        for precision, operations in found.peak.items():
            axes.axvline(operations / found.operations, color=_COLOURS[precision], linestyle="--", linewidth=1)
        axes.set(title=f"batch {size}", xlabel="images/s (dashed: limit of the arithmetic)")
        axes.margins(x=0.12)
    figure.axes[0].invert_yaxis()
    figure.savefig(path, dpi=120, format="png")


_COLOURS = {"fp32": "#3b82f6", "bf16": "#f97316", "fp16": "#a855f7", "int8": "#22c55e"}
