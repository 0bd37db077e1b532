"""The HTML page of a comparison: the scores, and the best and worst generated images with their real neighbours.

report.html is its template. Images are embedded as thumbnails, and there is no script.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inception_v3.errors import NoScoreError
from inception_v3.fidelity.neighbours import nearest_neighbours
from inception_v3.fidelity.result import ComparedSet, FidelityResult, format_scores
from inception_v3.fidelity.score_names import three_digits
from inception_v3.fidelity.scores import neighbour_scores
from inception_v3.fidelity.stored_image import decode_image
from inception_v3.reports.pages import thumbnail, write_page
from inception_v3.support.progress import StartStep, no_progress

SHOWN, NEIGHBOURS, THUMBNAIL = 8, 5, 112


def write(result: FidelityResult, path: Path, progress: StartStep = no_progress) -> None:
    """Write the page. Without nearest neighbours, such as of statistics, it has no images, and a line with the reason.

    Raises InputError: a path that cannot be written.
    """
    tiles, notes = format_scores(result), list(result.notes)
    try:
        groups = _groups(result, neighbour_scores(result, progress).realism)
    except NoScoreError as error:
        groups = []
        notes.append(f"no images on this page, because they are ranked by their nearest neighbours: {error}")
    write_page(
        path,
        "fidelity/report.html",
        {
            "title": title_of(result),
            "tiles": tiles,
            "scores": [score for score, _, _ in tiles],
            "warnings": result.warnings + notes,
            "facts": [
                *result.describe(),
                f"Convention: {result.convention_text}",
                f"Weights: {result.network_text}",
                f"Cite as: {result.cite_as()}",
            ],
            "groups": groups,
            "unreadable": result.unreadable,
            "thumbnail": THUMBNAIL,
        },
    )


def title_of(result: FidelityResult) -> str:
    """A title without the folders of the sets' names, unless only these differ."""
    names = [side.name for side in result.sets.values()]
    short = [Path(name).name or name for name in names]
    return "Scores of " + " against ".join(f"“{name}”" for name in (short if len(set(short)) == len(names) else names))


def _groups(result: FidelityResult, realism: NDArray[np.float64]) -> list[tuple[str, list[list[dict[str, str]]]]]:
    """The rows of the most and of the least realistic generated images."""
    order = np.argsort(-realism, kind="stable")
    best = order[:SHOWN]
    worst = order[::-1][: min(SHOWN, len(order) - len(best))]
    return [("most", _rows(result, best, realism)), ("least", _rows(result, worst, realism))]


def _rows(result: FidelityResult, chosen: NDArray[np.intp], realism: NDArray[np.float64]) -> list[list[dict[str, str]]]:
    """A row of figures for each chosen generated image: the image itself, and its nearest real images."""
    indices, distances = nearest_neighbours(
        result.generated.pooled[chosen], result.required_reference.pooled, NEIGHBOURS
    )
    generated, real = _thumbnails(result.generated, chosen), _thumbnails(result.required_reference, indices.ravel())
    rows = []
    for image, neighbours, away in zip(chosen.tolist(), indices.tolist(), distances.tolist(), strict=True):
        first = generated[image] | {"caption": f"realism {three_digits(realism[image])}"}
        others = (
            real[index] | {"caption": f"distance {three_digits(far)}"}
            for index, far in zip(neighbours, away, strict=True)
        )
        rows.append([first, *others])
    return rows


def _thumbnails(side: ComparedSet, rows: NDArray[np.intp]) -> dict[int, dict[str, str]]:
    """The name and the thumbnail of the image of each feature row. The images are read from the set again."""
    assert side.features is not None
    requested = {int(side.features.indices[row]): int(row) for row in rows}
    thumbnails = {}
    for index, image in enumerate(side.image_set.images()):
        if index in requested:
            pixels, _ = decode_image(image.read(), image.name)
            data = thumbnail(Image.fromarray(pixels.transpose(1, 2, 0)), THUMBNAIL, "PNG")
            thumbnails[requested[index]] = {"name": image.name.removeprefix(f"{side.name}/"), "data": data}
            if len(thumbnails) == len(requested):
                break
    return thumbnails
