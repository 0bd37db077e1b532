"""Plots as PNG files: curves, confusion matrix, reliability diagram, series, speeds.

They need matplotlib (the extra `train`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from numpy.typing import NDArray

Speed = tuple[str, str, int, float]  # engine, precision, batch size, images per second

_COLOURS = {"fp32": "#3b82f6", "bf16": "#f97316", "fp16": "#a855f7", "int8": "#22c55e"}


def curves(epochs: Sequence[Mapping[str, float]], path: Path) -> None:
    """Plot the loss and accuracy of every epoch. Training values are measured with dropout and augmentation.

    Each epoch has the keys epoch, loss, held_out_loss, accuracy and held_out_top1. The last two are fractions, 0 to 1.
    """
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


def confusion_matrix(confusion: NDArray[np.integer], class_names: Sequence[str], path: Path) -> None:
    """Plot a confusion matrix of shape (classes, classes): rows are true classes, columns are predicted classes.

    The colour of a cell shows its fraction of the row's images. For up to 60 classes, names and counts are printed.
    """
    classes = len(class_names)
    side = min(4 + 0.35 * classes, 24)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    fractions = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", title="Held-out images")
    if classes <= 60:
        rotation = 90 if max(map(len, class_names)) > 2 else 0
        axes.set_xticks(range(classes), class_names, rotation=rotation, parse_math=False)  # names may hold dollar signs
        axes.set_yticks(range(classes), class_names, parse_math=False)
        for row, column in zip(*np.nonzero(confusion), strict=True):
            colour = "white" if fractions[row, column] > 0.5 else "black"
            axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(path, dpi=120, format="png")


def reliability_diagram(
    counts: NDArray[np.integer],
    confidence: NDArray[np.floating],
    accuracy: NDArray[np.floating],
    error: float,
    file: IO[bytes],
    *,
    dark: bool = False,
) -> None:
    """Plot accuracy against confidence for bins of equal width from 0 to 1, with the gap between them.

    Args:
        counts: images in each bin, of shape (bins,).
        confidence: their mean confidence, of shape (bins,); ignored for an empty bin.
        accuracy: the fraction of them predicted correctly, of shape (bins,); ignored for an empty bin.
        error: the expected calibration error, for the title.
        file: the PNG is written to it.
        dark: draw for a dark page.
    """
    with style.context("dark_background" if dark else "default"):
        figure = Figure(figsize=(5, 5.5), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        filled = counts > 0
        middles = ((np.arange(len(counts)) + 0.5) / len(counts))[filled]
        width = 0.96 / len(counts)
        accuracy, gap = accuracy[filled], (confidence - accuracy)[filled]
        upper.bar(middles, accuracy, width, color="#3b82f6", label="accuracy")
        upper.bar(middles, gap, width, accuracy, color="#f97316", alpha=0.6, label="gap to confidence")
        upper.plot((0, 1), (0, 1), color="gray", linestyle="--", label="perfectly calibrated", zorder=3)
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=f"ECE {error:.4f}")
        upper.legend(loc="upper left")
        lower.bar(middles, counts[filled] / max(counts.sum(), 1), width, color="gray")
        lower.set(xlabel="confidence", ylabel="images", ylim=(0, 1))
        figure.savefig(file, dpi=120, format="png", transparent=True)


def series(
    panels: Mapping[str, Sequence[float]],
    names: Sequence[str],
    numbers: Sequence[float],
    file: IO[bytes],
    *,
    dark: bool = False,
) -> None:
    """Plot the values of a series of snapshots, with one panel for each key of `panels`; nan is not drawn.

    The x-axis shows `numbers`, one for each value, or if it is empty, `names`. The PNG is written to `file`.
    """
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with style.context("dark_background" if dark else "default"):
        figure = Figure(figsize=(1 + 3.2 * columns, 0.4 + 2.6 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel, (title, values) in zip(axes, panels.items(), strict=False):
            panel.plot(numbers or range(len(names)), values, marker="o", markersize=4, color="#3b82f6")
            if not numbers:
                panel.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
            panel.set_title(title, parse_math=False)
            panel.grid(alpha=0.3)
        for panel in axes[len(panels) :]:
            panel.remove()
        figure.supxlabel("snapshot")
        figure.savefig(file, dpi=120, format="png", transparent=True)


def speeds(rows: Sequence[Speed], limits: Mapping[str, float], path: Path) -> None:
    """Plot images per second of each engine and precision, with one panel for each batch size.

    `limits` maps a precision to the maximum images per second that the arithmetic of the machine allows.
    """
    sizes = sorted({size for _, _, size, _ in rows})
    names = list(dict.fromkeys(f"{engine} {precision}" for engine, precision, _, _ in rows))
    figure = Figure(figsize=(5 + 4 * len(sizes), 1.5 + 0.35 * len(names)), layout="constrained")
    for axes, size in zip(figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0], sizes, strict=True):
        shown = [row for row in rows if row[2] == size]
        bars = axes.barh(
            [f"{engine} {precision}" for engine, precision, _, _ in shown],
            [images_per_second for *_, images_per_second in shown],
            color=[_COLOURS[precision] for _, precision, _, _ in shown],
        )
        axes.bar_label(bars, fmt="%.1f", padding=3)
        for precision, limit in limits.items():
            axes.axvline(limit, color=_COLOURS[precision], linestyle="--", linewidth=1)
        axes.set(title=f"batch {size}", xlabel="images/s (dashed: limit of the arithmetic)")
        axes.margins(x=0.12)
    figure.axes[0].invert_yaxis()
    figure.savefig(path, dpi=120, format="png")
