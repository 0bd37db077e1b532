"""The page: what it shows, that it shows names as text, and that it asks nothing of the network."""

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
from inception_v3.evaluation.evaluate import ANSWER, NO_ANSWER, Metrics
from inception_v3.reports import plots

SETTINGS = {
    "models": [{"file": "runs/<i>one</i>/model.safetensors", "sha256": "0123abc"}],
    "weights": "ema",
    "data": "pets & co",
    "crops": 12,
    "precision": "fp32",
}
VOID = {"meta", "img", "input", "source", "br"}


class Page(HTMLParser):
    """Elements as (tag, attributes, text), each with the elements inside it; tags that do not match are an error."""

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
            (found, " ".join("".join(texts).split()))
            for name, found, texts in self.elements
            if name == tag and all(found.get(key.replace("_", "-")) == value for key, value in attributes.items())
        ]

    def mistakes(self) -> list[tuple[dict[str, str], str]]:
        return [(found, text) for found, text in self.find("li") if "data-real" in found]


def judged(class_names: list[str], count: int, wrong: int, size: tuple[int, int] = (8, 8)) -> tuple[Metrics, LabelledImages]:
    """The last `wrong` pictures are mistaken for the next class, each surer than the one before."""
    classes = len(class_names)
    rows = np.zeros(count, ANSWER)
    rows["index"] = np.arange(count)
    rows["label"] = rows["index"] % classes
    mistaken = rows["index"] >= count - wrong
    rows["rank"] = mistaken
    rows["predicted"] = (rows["label"] + mistaken) % classes
    rows["confidence"] = 0.5 + rows["index"] / (2 * count)
    rows["log_likelihood"] = np.log(np.where(mistaken, 1 - rows["confidence"], rows["confidence"]))
    colours = [Image.new("RGB", size, (n % 256, 0, 0)) for n in range(count)]
    names = [f"{class_names[n % classes]}/{n:04}.jpg" for n in range(count)]
    return Metrics(class_names, rows), LabelledImages(class_names, colours, rows["label"].tolist(), names)


def page(metrics: Metrics, pictures: LabelledImages, folder: Path) -> Page:
    report.write_html(folder / "report.html", metrics, pictures, SETTINGS)
    return Page(folder / "report.html")


HOSTILE = ['<script>alert("1")</script>', "a & 'b' \"c\"", "</style><img src=http://example.org/x>", "größe 犬"]


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    metrics, pictures = judged(HOSTILE, 20, 4)
    metrics.bad = [("<img src=x onerror=alert(1)>.png", "<b>cut short</b>")]
    found = page(metrics, pictures, tmp_path)
    assert len(found.find("script")) == 1
    assert not [found for found, _ in found.find("img") if not found["src"].startswith("data:image/")]
    shown = [text for _, text in found.find("b", **{"class": "name"})]
    assert set(shown) == set(HOSTILE)
    assert [text for found, text in found.find("td", **{"class": "name"})][-2:] == list(metrics.bad[0])
    assert found.find("h1")[0][1] == "runs/<i>one</i>/model.safetensors"


def test_nothing_is_fetched(tmp_path: Path) -> None:
    found = page(*judged(["a", "b"], 20, 4), tmp_path)
    for tag, attributes, _ in found.elements:
        assert tag not in ("link", "iframe", "object", "base")
        for name in ("src", "srcset", "href", "action"):
            assert attributes.get(name, "#").startswith(("data:image/", "#"))
    assert "url(" not in found.text
    assert "@import" not in found.text
    policy = found.find("meta", http_equiv="Content-Security-Policy")[0][0]["content"]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_worst_mistakes_come_first_with_a_thumbnail_each(tmp_path: Path) -> None:
    metrics, pictures = judged(["cat", "dog", "owl"], 30, 5, (640, 320))
    rows = page(metrics, pictures, tmp_path).mistakes()
    assert [re.findall(r"\d{4}", text) for _, text in rows] == [[f"{n:04}"] for n in (29, 28, 27, 26, 25)]
    assert rows[0][1] == "taken for cat (98.3%) is owl (1.7%) owl/0029.jpg"
    assert (rows[0][0]["data-real"], rows[0][0]["data-predicted"]) == ("2", "0")
    found = [
        found for found, _ in Page(tmp_path / "report.html").find("img") if found["src"].startswith("data:image/jpeg")
    ]
    for place, one in zip((29, 28, 27, 26, 25), found, strict=True):
        assert one["alt"] == pictures.names[place]
        thumbnail = Image.open(io.BytesIO(base64.b64decode(one["src"].split(",")[1])))
        assert thumbnail.size == (96, 48)
        assert abs(np.asarray(thumbnail)[..., 0].astype(int) - place).max() <= 3


def test_the_number_of_mistakes_is_limited_and_told(tmp_path: Path) -> None:
    found = page(*judged(["a", "b"], 300, 230), tmp_path)
    assert len(found.mistakes()) == 200
    assert "The 200 surest of 230" in " ".join(text for _, text in found.find("p"))


def test_pictures_without_an_answer_come_before_all(tmp_path: Path) -> None:
    metrics, pictures = judged(["a", "b"], 20, 4)
    metrics.answers["predicted"][3] = metrics.answers["rank"][3] = NO_ANSWER
    metrics.answers["confidence"][3] = metrics.answers["log_likelihood"][3] = np.nan
    found = page(metrics, pictures, tmp_path)
    assert found.mistakes()[0][1] == "got no finite numbers is b b/0003.jpg"
    assert len(found.mistakes()) == 5
    assert "nan" not in " ".join(text for _, text in found.find("div")).lower()


def test_a_perfect_model_has_a_page_too(tmp_path: Path) -> None:
    found = page(*judged(["a", "b"], 20, 0), tmp_path)
    assert found.mistakes() == []
    assert "None: every picture was recognised." in [text for _, text in found.find("p")]


def test_a_picture_that_has_gone_leaves_its_place_empty(tmp_path: Path) -> None:
    metrics, pictures = judged(["a", "b"], 20, 2)
    pictures.sources = [*pictures.sources[:19], tmp_path / "gone.png"]
    assert page(metrics, pictures, tmp_path).mistakes()[0][1].startswith("no picture taken for")


@pytest.mark.parametrize(("classes", "matrix"), [(2, True), (30, True), (31, False), (1000, False)])
def test_few_classes_have_a_matrix_and_many_the_most_confused_pairs(tmp_path: Path, classes: int, matrix: bool) -> None:
    metrics, pictures = judged([f"class {n}" for n in range(classes)], 1200, 220, (1, 1))
    found = page(metrics, pictures, tmp_path)
    picks = {one["data-pick"]: int(text) for one, text in found.find("button") if "data-pick" in one}
    real, predicted = np.nonzero(metrics.confusion * (1 - np.eye(classes, dtype=int)))
    every = {f"{i} {j}": int(metrics.confusion[i, j]) for i, j in zip(real, predicted, strict=True)}
    assert bool(found.find("table", **{"class": "matrix"})) is matrix
    assert picks == (every if matrix else {key: every[key] for key in picks})
    assert len(picks) == min(len(every), len(every) if matrix else 200)
    assert list(picks.values()) == sorted(picks.values(), reverse=True) or matrix
    assert len([one for one, _ in found.find("tr") if "data-class" in one]) == classes


def test_classes_that_neither_occur_nor_are_predicted_are_left_out(tmp_path: Path) -> None:
    metrics, pictures = judged(["a", "b"], 20, 2)
    metrics.class_names = [*metrics.class_names, *(f"other {n}" for n in range(998))]
    found = page(metrics, pictures, tmp_path)
    assert len([one for one, _ in found.find("tr") if "data-class" in one]) == 2
    assert found.find("table", **{"class": "matrix short"}), "two classes of a thousand have a matrix"


def test_what_was_judged_is_told(tmp_path: Path) -> None:
    found = page(*judged(["a", "b"], 20, 2), tmp_path)
    told = dict(zip((text for _, text in found.find("dt")), (text for _, text in found.find("dd")), strict=True))
    assert told["model"] == "runs/<i>one</i>/model.safetensors sha256 0123abc"
    assert (told["data"], told["crops"], told["weights"], told["pictures"]) == ("pets & co", "12", "ema", "20")


def test_the_reliability_diagram_is_a_picture_for_light_and_for_dark(tmp_path: Path) -> None:
    found = page(*judged(["a", "b"], 20, 2), tmp_path)
    dark = found.find("source")[0][0]["srcset"]
    light = next(one["src"] for one, _ in found.find("img") if one["src"].startswith("data:image/png"))
    assert dark != light
    assert Image.open(io.BytesIO(base64.b64decode(dark.split(",")[1]))).width > 400
    empty = np.zeros(15, int), np.full(15, np.nan), np.full(15, np.nan)
    plots.reliability_diagram(*empty, float("nan"), tmp_path / "empty.png")
    assert min(Image.open(tmp_path / "empty.png").size) > 400


def test_file_names_that_are_no_text_do_not_stop_it(tmp_path: Path) -> None:
    metrics, pictures = judged(["a", "b"], 20, 1)
    pictures.names = [*pictures.names[:19], "b/caf\udce9.jpg"]  # é of an old file system
    assert "caf\\udce9.jpg" in page(metrics, pictures, tmp_path).mistakes()[0][1]
    report.write_csv(tmp_path / "answers.csv", metrics, pictures)
    assert b"\nb/caf\xe9.jpg,b,a," in (tmp_path / "answers.csv").read_bytes()
