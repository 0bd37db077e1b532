"""A judgement on disk: a page for people (report.html is its template), a table of all pictures for programs.

pages.py fills it. Style, script and thumbnails are inside.
"""

import csv
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from inception_v3.data import LabelledImages
from inception_v3.errors import InputError
from inception_v3.evaluation.calibration import Bin, expected_calibration_error
from inception_v3.evaluation.evaluate import NO_ANSWER, Metrics
from inception_v3.reports.pages import data_uri, write_page
from inception_v3.support.files import atomic_write

MISTAKES = 200  # shown, the surest first
THUMBNAIL = 96  # pixels, of the longer side
TABLE_CLASSES = 30  # a matrix of more cannot be read: then the most confused pairs alone
PAIRS = 200
BAD = 1000


def write_html(file: Path, metrics: Metrics, pictures: LabelledImages, settings: dict[str, Any]) -> None:
    """The page. `settings` say what was judged, and how.

    Raises InputError where it cannot be written.
    """
    shown = [
        row | {"number": i} for i, row in enumerate(metrics.per_class()) if row["count"] or row["precision"] is not None
    ]
    numbers = [row["number"] for row in shown]
    counts = {(int(i), int(j)): int(count) for i, j, count in metrics.confused}
    mistakes = _mistakes(metrics)
    matrix = [[counts.get((i, j), 0) for j in numbers] for i in numbers] if len(numbers) <= TABLE_CLASSES else None
    values = {
        "metrics": metrics,
        "settings": settings,
        "wrong": metrics.count - int((metrics.answered["rank"] == 0).sum()),
        "classes": shown,
        "matrix": matrix,
        "pairs": _pairs(metrics),
        "mistakes": [_mistake(row, pictures) for row in mistakes],
        "no_answer": NO_ANSWER,
        "diagrams": _diagrams(metrics.calibration),
        "bad": metrics.bad[:BAD],
    }
    write_page(
        file, "evaluation/report.html", values, {"share": lambda value: "–" if value is None else f"{value:.1%}"}
    )


def _mistakes(metrics: Metrics) -> np.ndarray:
    """Those without an answer, then the surest."""
    wrong = metrics.answers[metrics.answers["rank"] != 0]
    worst = np.lexsort((wrong["index"], wrong["log_likelihood"], -wrong["confidence"], wrong["predicted"] != NO_ANSWER))
    rows: np.ndarray = wrong[worst[:MISTAKES]]
    return rows


def _mistake(row: np.void, pictures: LabelledImages) -> dict[str, Any]:
    return {
        "name": pictures.names[row["index"]],
        "real": int(row["label"]),
        "predicted": int(row["predicted"]),
        "confidence": float(row["confidence"]),
        "probability": float(np.exp(row["log_likelihood"])),
        "thumbnail": _thumbnail(pictures, int(row["index"])),
    }


def _thumbnail(pictures: LabelledImages, place: int) -> str | None:
    try:
        image = pictures.open(place).copy()  # one in memory is shared
    except InputError:  # it was there a moment ago
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=85, subsampling=0)
    return data_uri("image/jpeg", encoded.getvalue())


def _pairs(metrics: Metrics) -> list[dict[str, Any]]:
    """The most confused pairs of classes."""
    totals = np.bincount(metrics.answered["label"])
    wrong = metrics.confused[metrics.confused[:, 0] != metrics.confused[:, 1]]
    most = wrong[np.argsort(-wrong[:, 2], kind="stable")[:PAIRS]]
    return [
        {"real": int(i), "predicted": int(j), "count": int(count), "share": float(count / totals[i])}
        for i, j, count in most
    ]


def _diagrams(bins: list[Bin]) -> dict[str, str]:
    """The reliability diagram for light and for dark pages; nothing where matplotlib is not installed."""
    try:
        from inception_v3.reports import plots
    except ImportError:
        return {}
    columns = {"counts": [one.count for one in bins], "confidence": [one.confidence for one in bins]}
    columns["accuracy"] = [one.accuracy for one in bins]
    arrays = {name: np.array(column, int if name == "counts" else float) for name, column in columns.items()}
    error = expected_calibration_error(bins)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reliability.png"
        drawn = {}
        for name in ("light", "dark"):
            plots.reliability_diagram(**arrays, error=error, path=file, dark=name == "dark")
            drawn[name] = data_uri("image/png", file.read_bytes())
        return drawn


def write_csv(file: Path, metrics: Metrics, pictures: LabelledImages) -> None:
    """A row for each picture that could be read: name, class, predicted, its probability, and 1 or 0 for right.

    Without an answer of finite numbers, predicted and probability are empty. Raises InputError where it cannot be
    written.
    """
    with (
        atomic_write(file) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as opened,
    ):
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(("name", "class", "predicted", "probability", "right"))
        for row in metrics.answers:
            told = (metrics.class_names[row["predicted"]], float(row["confidence"]))
            answer = ("", "") if row["predicted"] == NO_ANSWER else told
            name, label = pictures.names[row["index"]], metrics.class_names[row["label"]]
            writer.writerow((name, label, *answer, int(row["rank"] == 0)))
