"""The HTML page: its contents, that it escapes names, and that it loads nothing from the network."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inception_v3.data import LabelledImages
from inception_v3.evaluation import report
from inception_v3.evaluation.evaluate import NO_PREDICTION, PREDICTION_DTYPE, Metrics
from inception_v3.reports import plots

SETTINGS = {
    "models": [{"file": "runs/<i>one</i>/model.safetensors", "sha256": "0123abc"}],
    "weights": "ema",
    "data": "pets & co",
    "crops": 12,
    "precision": "fp32",
    "engine": "onnxruntime",
    "device": "cpu",
    "precisions": [],
}
VOID = {"meta", "img", "input", "source", "br"}


class Page(HTMLParser):
    """The elements of a page as (tag, attributes, texts inside it). Unbalanced tags are an error."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.running: list[list[str]] = []
        self.text = file.read_text("utf-8")
        self.feed(self.text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))
        if tag not in VOID:
            self.open.append(tag)
            self.running.append(self.elements[-1][2])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.running.pop()

    def handle_data(self, data: str) -> None:
        for texts in self.running:
            texts.append(data)

    def find(self, tag: str, **attributes: str) -> list[tuple[dict[str, str], str]]:
        return [
            (element, " ".join("".join(texts).split()))
            for name, element, texts in self.elements
            if name == tag and all(element.get(key.replace("_", "-")) == value for key, value in attributes.items())
        ]

    def mistakes(self) -> list[tuple[dict[str, str], str]]:
        return [(element, text) for element, text in self.find("li") if "data-label" in element]


def evaluated(
    class_names: list[str], count: int, wrong: int, size: tuple[int, int] = (8, 8)
) -> tuple[Metrics, LabelledImages]:
    """Metrics and images. The last `wrong` images are predicted as the next class, with rising confidence."""
    classes = len(class_names)
    rows = np.zeros(count, PREDICTION_DTYPE)
    rows["index"] = np.arange(count)
    rows["label"] = rows["index"] % classes
    is_mistake = rows["index"] >= count - wrong
    rows["rank"] = is_mistake
    rows["predicted"] = (rows["label"] + is_mistake) % classes
    rows["confidence"] = 0.5 + rows["index"] / (2 * count)
    rows["log_likelihood"] = np.log(np.where(is_mistake, 1 - rows["confidence"], rows["confidence"]))
    colours = [Image.new("RGB", size, (n % 256, 0, 0)) for n in range(count)]
    names = [f"{class_names[n % classes]}/{n:04}.jpg" for n in range(count)]
    return Metrics(class_names, rows), LabelledImages(class_names, colours, rows["label"].tolist(), names)


def page(metrics: Metrics, images: LabelledImages, folder: Path) -> Page:
    report.write_html(folder / "report.html", metrics, images, SETTINGS)
    return Page(folder / "report.html")


HOSTILE = ['<script>alert("1")</script>', "a & 'b' \"c\"", "</style><img src=http://example.org/x>", "größe 犬"]


def test_names_are_escaped(tmp_path: Path) -> None:
    metrics, images = evaluated(HOSTILE, 20, 4)
    metrics.bad = [("<img src=x onerror=alert(1)>.png", "<b>cut short</b>")]
    report_page = page(metrics, images, tmp_path)
    assert len(report_page.find("script")) == 1
    assert not [element for element, _ in report_page.find("img") if not element["src"].startswith("data:image/")]
    shown = [text for _, text in report_page.find("b", **{"class": "name"})]
    assert set(shown) == set(HOSTILE)
    assert [text for _, text in report_page.find("td", **{"class": "name"})][-2:] == list(metrics.bad[0])
    assert report_page.find("h1")[0][1] == "runs/<i>one</i>/model.safetensors"


def test_the_page_loads_nothing_from_the_network(tmp_path: Path) -> None:
    report_page = page(*evaluated(["a", "b"], 20, 4), tmp_path)
    for tag, attributes, _ in report_page.elements:
        assert tag not in ("link", "iframe", "object", "base")
        for name in ("src", "srcset", "href", "action"):
            assert attributes.get(name, "#").startswith(("data:image/", "#"))
    assert "url(" not in report_page.text
    assert "@import" not in report_page.text
    policy = report_page.find("meta", http_equiv="Content-Security-Policy")[0][0]["content"]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_mistakes_with_the_highest_confidence_come_first_with_thumbnails(tmp_path: Path) -> None:
    metrics, images = evaluated(["cat", "dog", "owl"], 30, 5, (640, 320))
    rows = page(metrics, images, tmp_path).mistakes()
    assert [re.findall(r"\d{4}", text) for _, text in rows] == [[f"{n:04}"] for n in (29, 28, 27, 26, 25)]
    assert rows[0][1] == "predicted cat (98.3%) true class owl (1.7%) owl/0029.jpg"
    assert (rows[0][0]["data-label"], rows[0][0]["data-predicted"]) == ("2", "0")
    elements = [element for element, _ in Page(tmp_path / "report.html").find("img")]
    thumbnails = [element for element in elements if element["src"].startswith("data:image/jpeg")]
    for index, element in zip((29, 28, 27, 26, 25), thumbnails, strict=True):
        assert element["alt"] == images.names[index]
        thumbnail = Image.open(io.BytesIO(base64.b64decode(element["src"].split(",")[1])))
        assert thumbnail.size == (96, 48)
        assert abs(np.asarray(thumbnail)[..., 0].astype(int) - index).max() <= 3


def test_the_number_of_mistakes_shown_is_limited(tmp_path: Path) -> None:
    report_page = page(*evaluated(["a", "b"], 300, 230), tmp_path)
    assert len(report_page.mistakes()) == 200
    assert "200 of 230, highest confidence first." in " ".join(text for _, text in report_page.find("p"))


def test_images_whose_outputs_are_not_finite_come_first(tmp_path: Path) -> None:
    metrics, images = evaluated(["a", "b"], 20, 4)
    metrics.predictions["predicted"][3] = metrics.predictions["rank"][3] = NO_PREDICTION
    metrics.predictions["confidence"][3] = metrics.predictions["log_likelihood"][3] = np.nan
    report_page = page(metrics, images, tmp_path)
    assert report_page.mistakes()[0][1] == "outputs not finite true class b b/0003.jpg"
    assert len(report_page.mistakes()) == 5
    assert "nan" not in " ".join(text for _, text in report_page.find("div")).lower()


def test_a_perfect_model_has_a_page_too(tmp_path: Path) -> None:
    report_page = page(*evaluated(["a", "b"], 20, 0), tmp_path)
    assert report_page.mistakes() == []
    assert "None: every image was classified correctly." in [text for _, text in report_page.find("p")]


def test_a_deleted_image_has_no_thumbnail(tmp_path: Path) -> None:
    metrics, images = evaluated(["a", "b"], 20, 2)
    images.sources = [*images.sources[:19], tmp_path / "deleted.png"]
    assert page(metrics, images, tmp_path).mistakes()[0][1].startswith("no image predicted")


@pytest.mark.parametrize(("classes", "matrix"), [(2, True), (30, True), (31, False), (1000, False)])
def test_few_classes_are_shown_as_a_matrix_and_many_as_the_most_confused_pairs(
    tmp_path: Path, classes: int, matrix: bool
) -> None:
    metrics, images = evaluated([f"class {n}" for n in range(classes)], 1200, 220, (1, 1))
    report_page = page(metrics, images, tmp_path)
    buttons = report_page.find("button")
    counts = {button["data-pick"]: int(text) for button, text in buttons if "data-pick" in button}
    label, predicted = np.nonzero(metrics.confusion * (1 - np.eye(classes, dtype=int)))
    expected = {f"{i} {j}": int(metrics.confusion[i, j]) for i, j in zip(label, predicted, strict=True)}
    assert bool(report_page.find("table", **{"class": "matrix"})) is matrix
    assert counts == (expected if matrix else {key: expected[key] for key in counts})
    assert len(counts) == min(len(expected), len(expected) if matrix else 200)
    assert list(counts.values()) == sorted(counts.values(), reverse=True) or matrix
    assert len([row for row, _ in report_page.find("tr") if "data-class" in row]) == classes


def test_classes_that_neither_occur_nor_are_predicted_are_left_out(tmp_path: Path) -> None:
    metrics, images = evaluated(["a", "b"], 20, 2)
    metrics.class_names = [*metrics.class_names, *(f"other {n}" for n in range(998))]
    report_page = page(metrics, images, tmp_path)
    assert len([row for row, _ in report_page.find("tr") if "data-class" in row]) == 2
    assert report_page.find("table", **{"class": "matrix short"}), "the two classes that are left have a matrix"


def test_the_settings_are_shown(tmp_path: Path) -> None:
    report_page = page(*evaluated(["a", "b"], 20, 2), tmp_path)
    terms, values = ([text for _, text in report_page.find(tag)] for tag in ("dt", "dd"))
    shown = dict(zip(terms, values, strict=True))
    assert shown["model"] == "runs/<i>one</i>/model.safetensors sha256 0123abc"
    assert (shown["data"], shown["crops"], shown["weights"], shown["images"]) == ("pets & co", "12", "ema", "20")


def test_the_reliability_diagram_has_a_light_and_a_dark_version(tmp_path: Path) -> None:
    report_page = page(*evaluated(["a", "b"], 20, 2), tmp_path)
    dark = report_page.find("source")[0][0]["srcset"]
    sources = [element["src"] for element, _ in report_page.find("img")]
    light = next(source for source in sources if source.startswith("data:image/png"))
    assert dark != light
    assert Image.open(io.BytesIO(base64.b64decode(dark.split(",")[1]))).width > 400
    empty = np.zeros(15, int), np.full(15, np.nan), np.full(15, np.nan)
    png = io.BytesIO()
    plots.reliability_diagram(*empty, float("nan"), png)
    assert min(Image.open(png).size) > 400


def test_file_names_outside_utf_8_are_escaped_in_the_page_and_kept_in_the_table(tmp_path: Path) -> None:
    metrics, images = evaluated(["a", "b"], 20, 1)
    images.names = [*images.names[:19], "b/caf\udce9.jpg"]  # é in Latin-1
    assert "caf\\udce9.jpg" in page(metrics, images, tmp_path).mistakes()[0][1]
    report.write_csv(tmp_path / "predictions.csv", metrics, images)
    assert b"\nb/caf\xe9.jpg,b,a," in (tmp_path / "predictions.csv").read_bytes()
