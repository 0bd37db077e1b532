"""Plots as PNG files: curves, confusion matrix, reliability diagram, series, speeds, latencies. A heat map as a figure.

They need matplotlib (the extra `train`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median_low
from textwrap import fill
from typing import IO, Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from inception_v3.support.text import printable

Speed = tuple[str, str, int, float]  # engine, precision, batch size, images per second

# Okabe and Ito's colours, which people with any kind of colour blindness can distinguish.
_BLUE, _ORANGE, _PURPLE, _GREEN = "#0072B2", "#E69F00", "#CC79A7", "#009E73"
_COLOURS = {"fp32": _BLUE, "bf16": _ORANGE, "fp16": _PURPLE, "int8": _GREEN}
FLATTENED = 20  # an axis is logarithmic if its largest value is more than so many times the median


def curves(epochs: Sequence[Mapping[str, float]], path: Path, training_loss: str) -> None:
    """Plot the losses and the accuracy of every epoch.

    The losses have a logarithmic axis if the largest is more than FLATTENED times their median.

    Args:
        epochs: each has the keys epoch, loss, held_out_loss, accuracy and held_out_top1. The last two are fractions,
            0 to 1. A value that is missing is not drawn.
        path: the PNG file to write.
        training_loss: describes what the training loss is computed from.
    """
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    labels = (f"training: {training_loss}", "held out: cross-entropy only, of the averaged weights")
    losses = _draw_curves(left, epochs, ("loss", "held_out_loss"), labels)
    left.set(title="Loss", ylabel="loss (nats per image)")
    if max(losses) > FLATTENED * median_low(losses):
        left.set(yscale="log", ylabel="loss (nats per image, logarithmic axis)")
    labels = ("training: with dropout and augmentation", "held out: averaged weights")
    _draw_curves(right, epochs, ("accuracy", "held_out_top1"), labels, 100)
    right.set(title="Top-1 accuracy", ylabel="images predicted correctly (%)", ylim=(0, 102))
    figure.savefig(path, dpi=120, format="png")


def _draw_curves(
    axes: Axes, epochs: Sequence[Mapping[str, float]], keys: Sequence[str], labels: Sequence[str], factor: float = 1
) -> list[float]:
    """Draw two values of every epoch, the legend below the axes. Returns all drawn values."""
    drawn: list[float] = []
    styles = ((_BLUE, "o", "-"), (_ORANGE, "s", "--"))  # different also without colours
    for key, label, (colour, marker, line) in zip(keys, labels, styles, strict=True):
        points = {epoch["epoch"]: factor * epoch[key] for epoch in epochs if key in epoch}
        axes.plot(*zip(*points.items(), strict=True), color=colour, marker=marker, ls=line, ms=4, label=fill(label, 72))
        drawn += points.values()
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=9)
    return drawn


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
        names = [printable(name) for name in class_names]
        rotation = 90 if max(map(len, names)) > 2 else 0
        axes.set_xticks(range(classes), names, rotation=rotation, parse_math=False)  # names may hold dollar signs
        axes.set_yticks(range(classes), names, parse_math=False)
        for row, column in zip(*np.nonzero(confusion), strict=True):
            colour = "white" if fractions[row, column] > 0.5 else "black"
            axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(path, dpi=120, format="png")


def bars(names: Sequence[str], values: NDArray[np.floating], usual: float, title: str) -> Figure:
    """A horizontal bar for each of the named fractions, 0 to 1, and a line at the `usual` one."""
    figure = Figure(figsize=(8, 1.2 + 0.2 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(names)), values, color=_BLUE)
    axes.axvline(usual, color=_ORANGE, ls="--", label=f"nothing silenced: {usual:.3f}")
    axes.set_yticks(range(len(names)), [printable(name) for name in names], fontsize=8, parse_math=False)
    axes.set(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6))
    axes.set_xlabel(printable(title), parse_math=False)
    axes.grid(alpha=0.3, axis="x")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=9)
    return figure


def image_row(
    images: Sequence[NDArray[np.generic]],
    titles: Sequence[str],
    title: str = "",
    curve: NDArray[np.floating] | None = None,
    *,
    side: float = 4.8,
) -> Figure:
    """Draw images (H, W, 3) side by side under their titles, then a curve of the activation by step.

    The pixels are uint8, or floats from 0 to 1; `side` is the width of an image in inches.
    """
    columns = len(images) + (curve is not None)
    figure = Figure(figsize=(max(side * columns, 3.6), 1.04 * side + 0.6 * bool(title)), layout="constrained")
    if title:
        figure.suptitle(printable(title), parse_math=False)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for each, image, name in zip(axes, images, titles, strict=False):
        each.imshow(image)
        each.set_axis_off()
        each.set_title(fill(printable(name), 44), fontsize=min(10, 4 + 2 * side), parse_math=False)
    if curve is not None:
        axes[-1].plot(range(1, len(curve) + 1), curve, color=_BLUE)
        axes[-1].set(xlabel="step", ylabel="activation")
        axes[-1].grid(alpha=0.3)
    return figure


def differences(
    names: Sequence[str],
    series: Mapping[str, NDArray[np.floating]],
    limit: float,
    marked: str | None,
    title: str,
) -> Figure:
    """Plot relative differences of named layers on a logarithmic axis, a line at the limit, and a marked layer.

    Values that are not finite are not drawn, and those of 0 are drawn at the left end.
    """
    figure = Figure(figsize=(8, 1.6 + 0.2 * len(names)), layout="constrained")
    axes = figure.subplots()
    drawn = [values[np.isfinite(values) & (values > 0)] for values in series.values()]
    lowest = min([*(values.min() for values in drawn if len(values)), limit]) / 2
    rows = np.arange(len(names))
    for (label, values), colour, marker in zip(series.items(), (_BLUE, _ORANGE), "os", strict=False):
        shown = np.where(np.isfinite(values), np.maximum(values, lowest), np.nan)
        axes.plot(shown, rows, color=colour, marker=marker, ms=5, ls="" if marker == "s" else "-", label=label)
    axes.axvline(limit, color=_PURPLE, ls="--", label=f"tolerance {limit:g}")
    if marked in names:
        label = f"the networks part at {printable(marked)}"
        axes.axhspan(names.index(marked) - 0.5, names.index(marked) + 0.5, color=_ORANGE, alpha=0.25, label=label)
    axes.set_yticks(rows, [printable(name) for name in names], fontsize=8, parse_math=False)
    axes.set(xscale="log", ylim=(len(names) - 0.4, -0.6), xlabel="relative difference (logarithmic axis)")
    axes.set_title(printable(title), fontsize=9, parse_math=False, wrap=True)
    axes.grid(alpha=0.3, axis="x")
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


def lines(
    names: Sequence[str],
    series: Mapping[str, NDArray[np.floating]],
    title: str,
    label: str,
    limits: tuple[float, float],
) -> Figure:
    """Draw named series of values, one value for each of the `names`; NaN is not drawn."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    styles = ((_BLUE, "o", "-"), (_ORANGE, "s", "--"), (_PURPLE, "^", ":"))  # different also without colours
    for (name, values), (colour, marker, line) in zip(series.items(), styles, strict=False):
        axes.plot(range(len(names)), values, color=colour, marker=marker, ls=line, ms=4, label=name)
    shown = [printable(name) for name in names]
    axes.set_xticks(range(len(names)), shown, rotation=90, fontsize=8, parse_math=False)
    axes.set(ylim=(limits[0] - 0.02, limits[1] + 0.02), ylabel=label)
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=9)
    return figure


def reliability_diagram(
    counts: NDArray[np.integer],
    confidence: NDArray[np.floating],
    accuracy: NDArray[np.floating],
    error: float,
    file: IO[bytes],
    *,
    dark: bool = False,
) -> None:
    """Plot accuracy and mean confidence in bins of equal width from 0 to 1, and below them the images in each bin.

    Args:
        counts: images in each bin, of shape (bins,).
        confidence: their mean confidence, of shape (bins,); ignored for an empty bin.
        accuracy: the fraction of them predicted correctly, of shape (bins,); ignored for an empty bin.
        error: the expected calibration error, for the title.
        file: the PNG is written to it.
        dark: draw for a dark page.
    """
    with style.context("dark_background" if dark else "default"):
        figure = Figure(figsize=(5, 6.4), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        filled = counts > 0
        middles, width = ((np.arange(len(counts)) + 0.5) / len(counts))[filled], 0.9 / len(counts)
        accuracy, gap = accuracy[filled], (confidence - accuracy)[filled]
        line = "white" if dark else "black"
        drawn: list[Any] = [
            upper.bar(middles, accuracy, width, color=_BLUE, label="accuracy"),
            upper.hlines(accuracy + gap, middles - width / 2, middles + width / 2, line, lw=2, label="mean confidence"),
        ]
        # The two kinds of gap have different hatches, for readers who cannot distinguish the colours.
        for size, label, colour, hatch in (
            (gap, "too confident: confidence is higher", _ORANGE, "///"),
            (-gap, "too cautious: accuracy is higher", _BLUE, "..."),
        ):
            look: dict[str, Any] = {"color": colour, "edgecolor": "white", "hatch": hatch, "lw": 0, "label": label}
            drawn.append(upper.bar(middles, np.maximum(size, 0), width, np.minimum(accuracy, accuracy + gap), **look))
        drawn += upper.plot((0, 1), (0, 1), color="gray", linestyle="--", label="perfectly calibrated")
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy (fraction of the bin's images)", title=f"ECE {error:.4f}")
        lower.bar(middles, counts[filled], width, color="gray")
        lower.set(xlabel="confidence (probability of the predicted class)", ylabel="images")
        lower.set_ylim(0, max(counts.max() * 1.25, 1))
        lower.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        for middle, count in zip(middles, counts[filled], strict=True):
            lower.annotate(f"{count:,}", (middle, count), (0, 2), textcoords="offset points", ha="center", fontsize=7)
        figure.legend(handles=drawn, loc="outside lower center", fontsize=9)
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
                panel.set_xticks(range(len(names)), map(printable, names), rotation=90, parse_math=False)
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


def latencies(starts: NDArray[np.floating], milliseconds: NDArray[np.floating], title: str, path: Path) -> None:
    """Plot the latency of each request by its intended start in seconds, and the percentiles; nan is a failed request.

    At least one request must have succeeded.
    """
    failed = np.isnan(milliseconds)
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    figure.suptitle(printable(title), fontsize=11, parse_math=False)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.5, 1))
    left.scatter(starts[~failed], milliseconds[~failed], s=9, color=_BLUE, alpha=0.6, lw=0, label="succeeded")
    if failed.any():
        height = np.full(failed.sum(), float(np.nanmin(milliseconds)))
        left.scatter(starts[failed], height, s=22, marker="x", color=_ORANGE, label=f"failed ({failed.sum():,})")
    left.set(yscale="log", title="Each request", xlabel="intended start (s)", ylabel="latency (ms)", xlim=(0, None))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=9)
    ranked = np.sort(milliseconds[~failed])
    beyond = 1 - np.arange(len(ranked)) / len(ranked)  # the fraction of requests that took as long or longer
    right.plot(1 / beyond, ranked, color=_BLUE)
    for percentile in (50, 95, 99):
        value = float(np.percentile(ranked, percentile))
        right.plot(100 / (100 - percentile), value, "o", color=_ORANGE, ms=5)
        right.annotate(f"p{percentile} {value:,.1f} ms", (100 / (100 - percentile), value), (-5, 7), fontsize=9,
                       textcoords="offset points", ha="right")  # fmt: skip
    ticks = {1: "0", 2: "50", 10: "90", 100: "99", 1000: "99.9", 10_000: "99.99"}
    shown = [tick for tick in ticks if tick <= max(len(ranked), 10)]
    right.set(xscale="log", title="Percentiles", xlabel="percentile of the requests that succeeded", xlim=(1, None))
    right.margins(x=0.1)
    right.set_xticks(shown, [ticks[tick] for tick in shown])
    right.minorticks_off()
    for axes in (left, right):
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120, format="png")


def heat_map(values: NDArray[np.floating], title: str, label: str, region: tuple[int, int, int, int]) -> Figure:
    """Draw values of shape (H, W) with their scale, and a region (top, left, bottom, right) as a white rectangle.

    The colours are those of cividis, which people with any kind of colour blindness can read.
    """
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    figure.colorbar(axes.imshow(values, cmap="cividis", vmin=0), label=label)
    top, left, bottom, right = region
    corner = left - 0.5, top - 0.5  # pixel (0, 0) is drawn around the point (0, 0)
    axes.add_patch(Rectangle(corner, right - left, bottom - top, fill=False, edgecolor="white", linewidth=1.5))
    axes.set(xlabel="column (pixels)", ylabel="row (pixels)")
    axes.set_title(title, fontsize=10, parse_math=False)
    return figure
