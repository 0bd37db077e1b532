"""Writes the page of looked-at images: one HTML file that loads nothing. No PyTorch.

The page's data is one JSON object, from which its script (reports/look/look.js) draws everything:

    model     the network: see ModelFacts
    drawing   the drawing of the network as SVG, by language
    texts     all texts of the page, [English, Chinese] by key
    names     of the images; the images themselves (see result.py) follow one by one, to be parsed when they are shown
    patches   pictures of the images that excite a channel most, by "Mixed_5b:12"
    language, guess, open     how the page opens
    load, loadCam   only on the live page: functions that fetch what a selected part shows, and a heat map
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from inception_v3.explain.look.outline import as_dicts, outline
from inception_v3.network.architecture import BASE_END_POINTS
from inception_v3.network.drawing import plan, svg
from inception_v3.network.drawing.words import LANGUAGES, Language
from inception_v3.network.settings import Settings
from inception_v3.reports.pages import write_page
from inception_v3.support.pages import content_hash
from inception_v3.support.text import printable


@dataclass(frozen=True)
class PageOptions:
    """How the page opens: its language, whether the classes are to be guessed first, and the part that is shown."""

    language: Language = "en"
    guess: bool = False
    open: str = "Mixed_5b"


@dataclass(frozen=True)
class ModelFacts:
    """What the page shows of the network.

    Attributes:
        name: of the model.
        settings: for images of the size that it sees, see `settings_for`.
        classes: the names of the classes; empty for a network without classes.
        named: whether the model has names; if not, they are numbers.
        exported: whether it is an exported file.
        no_cam_reason: why an exported file has no class activation map: the end of a key "reason_..." of the texts.
    """

    name: str
    settings: Settings
    classes: Sequence[str] = field(repr=False, default=())
    named: bool = True
    exported: bool = False
    no_cam_reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The facts as values that JSON can hold."""
        parts = as_dicts(outline(self.settings))
        return {
            "name": printable(self.name),
            "image_size": list(self.settings.image_size),
            "outline": parts,
            "base": [part["name"] for part in parts if part["name"] in BASE_END_POINTS],
            "classes": [printable(name) for name in self.classes],
            "named": self.named,
            "activation": self.settings.output_activation,
            "probabilities": self.settings.output_activation != "none",
            "exported": self.exported,
            "no_cam_reason": self.no_cam_reason,
        }


def write_look(
    file: Path,
    model: ModelFacts,
    looks: Sequence[dict[str, Any]],
    options: PageOptions,
    patches: Mapping[str, str] | None = None,
) -> None:
    """Write the page of one or several images, each as `Look.as_dict` returns it.

    Raises InputError: it cannot be written.
    """
    script = (files("inception_v3") / "reports/look/look.js").read_text("utf-8")
    data = page_data(model, [look["name"] for look in looks], options, patches or {})
    names = data["names"]
    title = f"{Path(names[0]).name if len(names) == 1 else f'{len(names)} images'} through {data['model']['name']}"
    values = {
        "title": title,
        "script": Verbatim(script),
        "script_hash": content_hash(script),
        "data": data,
        "images": looks,
    }
    write_page(file, "reports/look/page.html", values)


class Verbatim(str):
    """Text that the template engine does not escape."""

    def __html__(self) -> str:
        return self


def page_data(
    model: ModelFacts, names: Sequence[str], options: PageOptions, patches: Mapping[str, str]
) -> dict[str, Any]:
    """The page's data without the images."""
    facts = model.as_dict()
    drawing = plan(model.settings)
    parts = [part["name"] for part in facts["outline"]]
    return {
        "model": facts,
        "drawing": {language: svg(drawing, language=language) for language in LANGUAGES},
        "texts": page_texts("texts"),
        "names": list(names),
        "patches": dict(patches),
        "language": options.language,
        "guess": options.guess,
        "open": options.open if options.open in parts else parts[0],
    }


def page_texts(*names: str) -> dict[str, list[str]]:
    """The texts of the page, [English, Chinese] by key, of these files."""
    texts: dict[str, list[str]] = {}
    for name in names:
        texts |= json.loads((files("inception_v3") / f"reports/look/{name}.json").read_text("utf-8"))
    return texts
