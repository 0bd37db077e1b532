"""A page to look at: the scores, the best and worst generated pictures, and the real ones nearest to each.

report.html is its template, pages.py fills it. The pictures inside are small, and there is no script.
"""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inception_v3.errors import InputError, NoScoreError
from inception_v3.fidelity.manifold import nearest_places
from inception_v3.fidelity.pictures import Picture, decode
from inception_v3.fidelity.scores import Fidelity, Progress, Side, neighbours, no_progress, told_scores
from inception_v3.reports.pages import data_uri, write_page

SHOWN, NEIGHBOURS, THUMBNAIL = 8, 5, 112


def write(result: Fidelity, path: Path, progress: Progress = no_progress) -> None:
    """Best and worst are by realism: how deep a picture lies among the real ones, above 1 inside.

    Raises InputError: statistics without pictures, too few of them for neighbours, a place that cannot be written.
    """
    try:
        realism = neighbours(result, progress).realism
    except NoScoreError as error:
        raise InputError(f"{path}: no page without nearest neighbours: {error}") from error
    order = np.argsort(-realism, kind="stable")
    best = order[:SHOWN]
    worst = order[::-1][: min(SHOWN, len(order) - len(best))]
    values = {
        "generated": result.generated.name,
        "reference": result.against.name,
        "scores": told_scores(result.scores),
        "warnings": result.warnings + result.notes,
        "facts": [f"by {result.convention.name}", *result.facts()],
        "groups": [("Best", _rows(result, best)), ("Worst", _rows(result, worst))],
        "unreadable": result.as_dict()["unreadable"],
        "thumbnail": THUMBNAIL,
    }
    write_page(path, "fidelity/report.html", values)


def _rows(result: Fidelity, chosen: NDArray[np.intp]) -> list[list[dict[str, str]]]:
    """For each of the chosen its figure and those of its nearest."""
    assert result.neighbours is not None
    places, distances = nearest_places(result.generated.pooled[chosen], result.against.pooled, NEIGHBOURS)
    generated, real = _thumbnails(result.generated, chosen), _thumbnails(result.against, places.ravel())
    rows = []
    for number, near, far in zip(chosen.tolist(), places.tolist(), distances.tolist(), strict=True):
        figures = [generated[number] | {"told": f"realism {result.neighbours.realism[number]:.3f}"}]
        figures += [real[place] | {"told": f"at {away:.3f}"} for place, away in zip(near, far, strict=True)]
        rows.append(figures)
    return rows


def _thumbnails(side: Side, rows: NDArray[np.intp]) -> dict[int, dict[str, str]]:
    """Name and PNG, as a data URI, of each row's picture, read from the source once more."""
    assert side.features is not None
    wanted = {int(side.features.places[row]): int(row) for row in rows}
    found = {}
    for place, picture in enumerate(side.source.pictures()):
        if place in wanted:
            found[wanted[place]] = {"name": picture.name, "data": _thumbnail(picture)}
            if len(found) == len(wanted):
                break
    return found


def _thumbnail(picture: Picture) -> str:
    pixels, _ = decode(picture.read(), picture.name)
    image = Image.fromarray(pixels.transpose(1, 2, 0))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    png = io.BytesIO()
    image.save(png, "PNG")
    return data_uri("image/png", png.getvalue())
