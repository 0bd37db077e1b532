"""What a notebook shows of results and of the network, and its progress bars."""

import json
import subprocess
import sys
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from inception_v3 import InceptionV3, explain, load, save
from inception_v3.errors import InputError
from inception_v3.explain.attribution.checks import Curves, Randomisation
from inception_v3.explain.views import View
from inception_v3.network.architecture import BASE_END_POINTS
from inception_v3.support import progress

pytestmark = pytest.mark.usefixtures("one_thread")


class Page(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def small_model(**options: object) -> InceptionV3:
    torch.manual_seed(0)
    return InceptionV3(**{"num_classes": 3, "depth_multiplier": 0.2, "image_size": 107, **options}).eval()  # type: ignore[arg-type]


# -------------------------------------------------------------------------------- the network


def test_a_network_is_a_drawing_of_every_layer_and_a_table_of_every_end_point() -> None:
    model = InceptionV3()
    page = Page(model._repr_html_())
    layers = [layer for point in model.settings.end_points() for layer in point.layers]
    drawn = {attributes.get("data-end-point") for _, attributes in page.elements}
    assert {layer.name for layer in layers} <= drawn
    assert page.count("tr") == 1 + len(model.settings.end_points())
    assert "1x1 64 → 3x3 96 → 3x3 96" in page.texts
    assert "InceptionV3" in page.texts
    assert len(model._repr_html_()) < 120_000


def test_hostile_names_are_escaped_and_nothing_is_loaded(tmp_path: Path) -> None:
    model = small_model()
    model.class_names = ["<script>alert(1)</script>", "a\x1b[31m", "b"]
    save(model, tmp_path / "<img src=x>.safetensors")
    page = Page(load(tmp_path / "<img src=x>.safetensors")._repr_html_())
    assert {tag for tag, _ in page.elements} <= {
        *("div", "b", "details", "summary", "table", "tr", "th", "td", "br"),
        *("svg", "title", "desc", "style", "g", "rect", "path", "polygon", "text"),
    }
    assert not any({"src", "href", "onload"} & attributes.keys() for _, attributes in page.elements)
    assert "InceptionV3 <img src=x>.safetensors" in page.texts
    assert "\x1b" not in "".join(page.texts)


def test_a_network_cut_at_an_end_point_shows_its_own_layers() -> None:
    page = Page(small_model(final_endpoint="Mixed_5d", create_aux_logits=False)._repr_html_())
    assert page.count("tr") == 1 + BASE_END_POINTS.index("Mixed_5d") + 1
    assert any("ends at Mixed_5d" in text for text in page.texts)


# -------------------------------------------------------------------------------- results


def view(model: InceptionV3) -> View:
    return View.of("noise", Image.effect_noise((140, 120), 90).convert("RGB"), model.preprocessing)


RESULTS = {
    "attribution": lambda model: explain.attribute(model, view(model)),
    "ablation": lambda model: explain.ablate(model, view(model), ["Mixed_5b", "Mixed_7c"]),
    "effective field": lambda model: explain.effective_field(
        model, model.preprocess(view(model).image), "Mixed_5b/Branch_1"
    ),
    "randomisation": lambda model: Randomisation(("Logits.Conv2d_1c_1x1", "Mixed_7c"), (0.5, float("nan"))),
    "curves": lambda model: Curves(np.linspace(0, 1, 3), np.array([0, 0.5, 1]), np.array([1, 0.2, 0.1])),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results_display_themselves_and_save_what_they_show(name: str, tmp_path: Path) -> None:
    result = RESULTS[name](small_model())
    with Image.open(BytesIO(result._repr_png_())) as shown:
        assert min(shown.size) > 100
    assert result.numpy().size > 0
    result.save(tmp_path / "result.png")
    with Image.open(tmp_path / "result.png") as saved:
        assert saved.format == "PNG"
    with pytest.raises(InputError, match=r"result.txt: .* is saved as .*; change the suffix"):
        result.save(tmp_path / "result.txt")
    values = tmp_path / ("result.npy" if name in ("attribution", "effective field") else "result.json")
    result.save(values)
    assert np.load(values).shape == result.numpy().shape if values.suffix == ".npy" else json.loads(values.read_text())
    with pytest.raises(AttributeError):
        result.image = None  # frozen


def test_a_receptive_field_is_a_table() -> None:
    page = Page(explain.receptive_field("Mixed_7b/Branch_1/Conv2d_0b_1x3")._repr_html_())
    assert page.texts == [
        *("end point", "field", "stride", "padding", "centre"),
        *("Mixed_7b/Branch_1/Conv2d_0b_1x3", "1055x1119", "32x32", "490x522", "37x37"),
    ]


def test_the_public_names_are_imported_on_first_use_and_receptive_fields_need_no_pytorch() -> None:
    assert all(hasattr(explain, name) for name in explain.__all__)
    lines = "from inception_v3 import explain", "explain.receptive_field('Mixed_5b')", "import sys"
    code = "\n".join([*lines, "print('torch' in sys.modules)"])
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_without_matplotlib_a_result_is_shown_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inception_v3.reports.shown.missing_packages", lambda names: names)
    assert RESULTS["curves"](small_model())._repr_png_() is None


# -------------------------------------------------------------------------------- progress


class Displays:
    """Stands for IPython.display: the pages of each display, in order."""

    def __init__(self) -> None:
        self.pages: list[list[str]] = []

    def display(self, page: "SimpleNamespace", display_id: bool) -> SimpleNamespace:
        self.pages.append([page.data])
        number = len(self.pages) - 1
        return SimpleNamespace(update=lambda changed: self.pages[number].append(changed.data))


@pytest.fixture
def displays(monkeypatch: pytest.MonkeyPatch) -> Displays:
    """A notebook with a kernel."""
    displays = Displays()
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type]
    html = SimpleNamespace(display=displays.display, HTML=lambda data: SimpleNamespace(data=data))
    monkeypatch.setitem(sys.modules, "IPython.display", html)  # type: ignore[arg-type]
    return displays


def test_progress_in_a_notebook_is_a_bar_for_each_step_that_changes_in_place(displays: Displays) -> None:
    with progress.show_progress(None) as start_step:
        step = start_step("silencing <b>", 4)
        step(2)
        step(2)
    (pages,) = displays.pages
    assert '<progress max="4" value="0">' in pages[0]
    assert '<progress max="4" value="4">' in pages[-1]
    assert "silencing &lt;b&gt;: 4 of 4 images" in pages[-1]


def test_progress_in_a_notebook_is_silent_with_quiet(displays: Displays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.verbosity, "quiet", True)
    with progress.show_progress(None) as start_step:
        start_step("silencing", 4)(4)
    assert displays.pages == []
