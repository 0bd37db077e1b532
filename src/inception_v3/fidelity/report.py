"""A page to look at: the scores, the best and worst generated pictures, and the real ones nearest to each.

One file of HTML with the pictures inside, small, and no script.
"""

import base64
import io
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inception_v3.errors import InputError, NoScoreError
from inception_v3.fidelity.manifold import nearest_places
from inception_v3.fidelity.pictures import Picture, decode
from inception_v3.fidelity.scores import Fidelity, Progress, Side, neighbours, no_progress
from inception_v3.files import replacing

SHOWN, NEIGHBOURS, THUMBNAIL = 8, 5, 112
STYLE = """
body { font: 15px system-ui, sans-serif; margin: 2em auto; max-width: 62em; color: #222; background: #fff }
table { border-collapse: collapse } td, th { padding: .2em .9em .2em 0; text-align: left; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums } figure { margin: 0 .5em .8em 0; width: 118px }
figcaption { font-size: 11px; overflow-wrap: anywhere; color: #555 } .row { display: flex; align-items: flex-start }
.row figure:first-child { margin-right: 2em } img { max-width: 112px; max-height: 112px } .warning { color: #a40 }
"""


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
    parts = [_scores(result), _rows(result, "Best", best), _rows(result, "Worst", worst)]
    title = f"{escape(result.generated.name)} against {escape(result.against.name)}"
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"</head><body><h1>{title}</h1>\n{''.join(parts)}</body></html>\n"
    )
    with replacing(path) as temporary:
        temporary.write_text(page, "utf-8")


def _scores(result: Fidelity) -> str:
    told = result.as_dict()
    rows = "".join(
        f'<tr><th>{escape(key)}</th><td class="number">{_number(value)}</td></tr>\n'
        for key, value in told.items()
        if value is not None and not isinstance(value, list)
    )
    lines = "".join(f'<p class="warning">{escape(line)}</p>\n' for line in result.warnings + result.notes)
    return f"<table>{rows}</table>\n{lines}"


def _number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else escape(str(value))


def _rows(result: Fidelity, title: str, chosen: NDArray[np.intp]) -> str:
    assert result.neighbours is not None
    places, distances = nearest_places(result.generated.pooled[chosen], result.against.pooled, NEIGHBOURS)
    generated, real = _thumbnails(result.generated, chosen), _thumbnails(result.against, places.ravel())
    rows = []
    for number, near, far in zip(chosen.tolist(), places.tolist(), distances.tolist(), strict=True):
        figures = [_figure(generated[number], f"realism {result.neighbours.realism[number]:.3f}")]
        figures += [_figure(real[place], f"at {away:.3f}") for place, away in zip(near, far, strict=True)]
        rows.append(f'<div class="row">{"".join(figures)}</div>\n')
    return f"<h2>{title} generated, each with its nearest real</h2>\n{''.join(rows)}"


def _figure(thumbnail: tuple[str, str], told: str) -> str:
    name, data = thumbnail
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(name)}"><figcaption>{escape(told)}<br>'
        f"{escape(name)}</figcaption></figure>"
    )


def _thumbnails(side: Side, rows: NDArray[np.intp]) -> dict[int, tuple[str, str]]:
    """Name and PNG of each row's picture, read from the source once more."""
    assert side.features is not None
    wanted = {int(side.features.places[row]): int(row) for row in rows}
    found = {}
    for place, picture in enumerate(side.source.pictures()):
        if place in wanted:
            found[wanted[place]] = (picture.name, _thumbnail(picture))
            if len(found) == len(wanted):
                break
    return found


def _thumbnail(picture: Picture) -> str:
    pixels, _ = decode(picture.read(), picture.name)
    image = Image.fromarray(pixels.transpose(1, 2, 0))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    png = io.BytesIO()
    image.save(png, "PNG")
    return base64.b64encode(png.getvalue()).decode()
