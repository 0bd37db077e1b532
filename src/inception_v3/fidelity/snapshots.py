"""A series of snapshots of one generator: find them, and write their scores as one table and one page with a plot.

snapshots.html is the template of the page.
"""

import glob
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from inception_v3.errors import InputError
from inception_v3.fidelity.result import FidelityResult
from inception_v3.fidelity.score_names import ScoreName, names_of, three_digits
from inception_v3.images.addresses import expand_braces, is_url
from inception_v3.images.find import ARRAY_NAME, SHARD_NAME, is_system_name
from inception_v3.reports.pages import data_uri, write_page
from inception_v3.support.system_errors import check_readable, is_folder


@dataclass(frozen=True)
class Snapshot:
    """One generated set of a series: its name in the table, its path, and its position on the x-axis if it has one."""

    name: str
    path: str
    number: float | None = None


@dataclass(frozen=True)
class SnapshotScores:
    """The scores of a snapshot: `values` are those of `FidelityResult.as_dict`, with `snapshot` and `number`."""

    snapshot: Snapshot
    values: dict[str, Any]
    names: list[ScoreName]

    @classmethod
    def of(cls, snapshot: Snapshot, result: FidelityResult) -> "SnapshotScores":
        values = {"snapshot": snapshot.name, "number": snapshot.number} | result.as_dict()
        return cls(snapshot, values, names_of(result.keys))


def find_snapshots(address: str) -> list[Snapshot]:
    """The folders, archives and arrays in a folder, or those that match a pattern, in the natural order of their names.

    If every name has a number that differs from all others at the same position, such as step-1000 and step-2000, it is
    the snapshot's number. Raises InputError: there are none.
    """
    if not is_url(address) and is_folder(address):
        check_readable(address)
        paths = [entry.path for entry in os.scandir(address) if _is_set(entry)]
    else:
        paths = [path for text in expand_braces(address) for path in glob.glob(text) or [text]]  # noqa: PTH207
    if not paths:
        raise InputError(
            f"{address}: no folder and no archive in it; --each scores each of those in GENERATED",
            exit_status=2,
        )
    parent = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])  # noqa: PTH100, PTH120
    named = sorted(
        ((SHARD_NAME.sub("", ARRAY_NAME.sub("", os.path.relpath(path, parent))), path) for path in paths),
        key=lambda pair: _natural_order(pair[0]),
    )
    numbers = _numbers([name for name, _ in named])
    return [Snapshot(name, path, number) for (name, path), number in zip(named, numbers, strict=True)]


def _is_set(entry: "os.DirEntry[str]") -> bool:
    name = entry.name
    return not is_system_name(name) and bool(entry.is_dir() or SHARD_NAME.search(name) or ARRAY_NAME.search(name))


def _natural_order(name: str) -> list[tuple[float, str]]:
    """A key that sorts step-2 before step-10."""
    return [(float(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", name)]


def _numbers(names: Sequence[str]) -> Sequence[float | None]:
    """The first number in the names that all of them have and that differs between all; otherwise None for each."""
    in_names = [
        [float(number) if "." in number else int(number) for number in re.findall(r"\d+(?:\.\d+)?", name)]
        for name in names
    ]
    for column in zip(*in_names, strict=False):
        if len(set(column)) == len(names):
            return column
    return [None] * len(names)


def shown_scores(rows: Sequence[SnapshotScores]) -> list[ScoreName]:
    """The scores that at least one snapshot has."""
    return list(dict.fromkeys(name for row in rows for name in row.names))


def cell(row: SnapshotScores, score: ScoreName) -> str:
    """The score of a snapshot with three significant digits, or a dash."""
    value = row.values[score.key]
    return "-" if value is None else three_digits(value)


def count_images(rows: Sequence[SnapshotScores], kind: Literal["count", "unreadable"]) -> int:
    """The number of images of all snapshots and of the reference; of statistics without a count, 0."""
    return sum(row.values[f"generated_{kind}"] or 0 for row in rows) + (rows[0].values.get(f"reference_{kind}") or 0)


def messages(rows: Sequence[SnapshotScores], kind: str) -> list[str]:
    """The "warnings", "notes" or "unreadable" of all snapshots, each once: "NAMES: MESSAGE", or if all have it, without
    names."""
    names: dict[str, list[str]] = {}
    for row in rows:
        for message in row.values[kind]:
            names.setdefault(message, []).append(row.snapshot.name)
    lines = []
    for message, about in names.items():
        listed = ", ".join(about[:3]) + (f" and {len(about) - 3} others" if len(about) > 3 else "")
        lines.append(message if len(about) == len(rows) else f"{listed}: {message}")
    return lines


def write(rows: Sequence[SnapshotScores], last: FidelityResult, path: Path, failures: Sequence[str] = ()) -> None:
    """Write the page: the plot, the table and how the scores were computed. Raises InputError if it cannot be written.

    `last` is the result of one of the snapshots; they share the reference, the convention and the network. `failures`
    are the reasons why other snapshots have no scores.
    """
    scores = shown_scores(rows)
    write_page(
        path,
        "fidelity/snapshots.html",
        {
            "count": len(rows),
            "scores": scores,
            "rows": [(row.snapshot.name, [cell(row, score) for score in scores]) for row in rows],
            "plots": _plots(rows, [score for score in scores if score.arrow]),
            "facts": facts(rows, last),
            "notes": [*failures, *messages(rows, "warnings"), *messages(rows, "notes"), *messages(rows, "unreadable")],
        },
    )


def facts(rows: Sequence[SnapshotScores], last: FidelityResult) -> list[str]:
    """Lines of text: the reference, and the sentence to cite."""
    counts = sorted({row.values["generated_count"] or 0 for row in rows})
    images = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    lines = [f"Reference images: {last.reference.describe()}"] if last.reference else []
    return [*lines, f"Cite as: {last.cite_as(f'{images} generated images of each snapshot')}"]


def _plots(rows: Sequence[SnapshotScores], scores: Sequence[ScoreName]) -> dict[str, str]:
    """The plot for the light and the dark theme, as data URIs; empty if matplotlib is not installed."""
    try:
        from inception_v3.reports import plots
    except ImportError:
        return {}
    panels = {}
    for score in scores:
        values = [row.values[score.key] for row in rows]
        panels[score.title] = [float("nan") if value is None else value for value in values]
    names = [row.snapshot.name for row in rows]
    numbers = [row.snapshot.number for row in rows if row.snapshot.number is not None]
    drawn = {}
    for theme in ("light", "dark"):
        png = io.BytesIO()
        plots.series(panels, names, numbers, png, dark=theme == "dark")
        drawn[theme] = data_uri("image/png", png.getvalue())
    return drawn
