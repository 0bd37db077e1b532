"""Reports of an evaluation: an HTML page (its template is report.html), and a CSV table with a row for each image.

The page is one file, with style, script and thumbnails inside.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

from inception_v3.data import LabelledImages
from inception_v3.errors import InputError
from inception_v3.evaluation.calibration import CalibrationBin, plotted_bins, reliability_bins
from inception_v3.evaluation.evaluate import NO_PREDICTION, Metrics
from inception_v3.images.addresses import short_name
from inception_v3.reports import tables
from inception_v3.reports.pages import data_uri, thumbnail, write_page
from inception_v3.weights.read import public_name

MAX_MISTAKES = 200  # shown
THUMBNAIL = 96  # length of the longer side in pixels
TABLE_CLASSES = 30  # with more classes the page has no confusion matrix, but lists the most confused pairs
MAX_PAIRS = 200
MAX_BAD = 1000


def write_html(file: Path, metrics: Metrics, images: LabelledImages, settings: dict[str, Any]) -> None:
    """Write the HTML page. `settings` describes what was evaluated, and how.

    Raises InputError if the file cannot be written.
    """
    shown = [
        row | {"number": i} for i, row in enumerate(metrics.per_class()) if row["count"] or row["precision"] is not None
    ]
    numbers = [row["number"] for row in shown]
    counts = {(int(i), int(j)): int(count) for i, j, count in metrics.confused_pairs}
    model_names = [public_name(model["name"]) for model in settings["models"]]
    finite = metrics.finite_predictions
    bins = reliability_bins(finite["confidence"], finite["rank"] == 0, plotted_bins(len(finite)))
    values = {
        "metrics": metrics,
        "settings": settings,
        "title": f"{' + '.join(model_names)} on {short_name(settings['data'])}",
        "mistake_count": metrics.count - metrics.correct_count,
        "classes": shown,
        "matrix": [[counts.get((i, j), 0) for j in numbers] for i in numbers] if len(shown) <= TABLE_CLASSES else None,
        "pairs": _most_confused(metrics),
        "mistakes": _worst_mistakes(metrics, images),
        "no_prediction": NO_PREDICTION,
        "bins": bins,
        "diagrams": _diagrams(bins, metrics.ece),
        "bad": metrics.bad[:MAX_BAD],
    }
    write_page(file, "evaluation/report.html", values)


def _worst_mistakes(metrics: Metrics, images: LabelledImages) -> list[dict[str, Any]]:
    """The mistakes to show: first images whose outputs are not finite, then those with the highest confidence."""
    wrong = metrics.predictions[metrics.predictions["rank"] != 0]
    finite = wrong["predicted"] != NO_PREDICTION
    order = np.lexsort((wrong["index"], wrong["log_likelihood"], -wrong["confidence"], finite))
    return [
        {
            "name": images.names[row["index"]],
            "label": int(row["label"]),
            "predicted": int(row["predicted"]),
            "confidence": float(row["confidence"]),
            "probability": float(np.exp(row["log_likelihood"])),
            "thumbnail": _thumbnail(images, int(row["index"])),
        }
        for row in wrong[order[:MAX_MISTAKES]]
    ]


def _thumbnail(images: LabelledImages, index: int) -> str | None:
    try:
        return thumbnail(images.open(index), THUMBNAIL, "JPEG", quality=85, subsampling=0)
    except InputError:  # the file was deleted during the evaluation
        return None


def _most_confused(metrics: Metrics) -> list[dict[str, Any]]:
    """The pairs of classes that were confused most often."""
    totals = np.bincount(metrics.finite_predictions["label"])
    wrong = metrics.confused_pairs[metrics.confused_pairs[:, 0] != metrics.confused_pairs[:, 1]]
    most = wrong[np.argsort(-wrong[:, 2], kind="stable")[:MAX_PAIRS]]
    return [{"label": int(i), "predicted": int(j), "count": int(count), "of": int(totals[i])} for i, j, count in most]


def _diagrams(bins: list[CalibrationBin], error: float) -> dict[str, str]:
    """The reliability diagram for the light and the dark theme, as data URIs; empty if matplotlib is not installed."""
    try:
        from inception_v3.reports import plots
    except ImportError:
        return {}
    counts = np.array([row.count for row in bins])
    confidence, accuracy = np.array([(row.confidence, row.accuracy) for row in bins], float).T  # None becomes nan
    diagrams = {}
    for theme in ("light", "dark"):
        png = io.BytesIO()
        plots.reliability_diagram(counts, confidence, accuracy, error, png, dark=theme == "dark")
        diagrams[theme] = data_uri("image/png", png.getvalue())
    return diagrams


def write_csv(file: Path, metrics: Metrics, images: LabelledImages) -> None:
    """Write a CSV table with a row for each image that could be read; to standard output if `file` is STDOUT.

    The columns are name, class, predicted, probability (of the predicted class) and right (1 or 0). If the outputs are
    not finite, predicted and probability are empty. Raises InputError if the file cannot be written.
    """
    rows = []
    for row in metrics.predictions:
        name, label = images.names[row["index"]], metrics.class_names[row["label"]]
        predicted = (metrics.class_names[row["predicted"]], float(row["confidence"]))
        shown = ("", "") if row["predicted"] == NO_PREDICTION else predicted
        rows.append((name, label, *shown, int(row["rank"] == 0)))
    tables.write_csv(file, ("name", "class", "predicted", "probability", "right"), rows)
