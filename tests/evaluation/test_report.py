"""The HTML page: its contents, that it escapes names, and that it loads nothing from the network."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from inception_v3.data import LabelledImages
from inception_v3.evaluation import report
from inception_v3.evaluation.calibration import plotted_bins
from inception_v3.evaluation.evaluate import NO_PREDICTION, PREDICTION_DTYPE, Metrics
from inception_v3.reports import plots

SETTINGS = {
    "models": [{"name": "runs/<i>one</i>", "file": "runs/<i>one</i>/model.safetensors", "sha256": "0123abc"}],
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
    assert report_page.find("h1")[0][1] == "i> on pets & co", "the last part of the model's path"


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
    assert rows[0][1] == "predicted cat (98 %) true class owl (2 %) owl/0029.jpg"
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


@pytest.mark.parametrize(
    ("model", "data", "title"),
    [
        ("/home/ada/runs/pets", "/home/ada/photos/", "pets on photos"),
        (
            "/home/ada/pets/best.safetensors",
            "/home/ada/photos/t-{0..9}.tar",
            "pets/best.safetensors on photos",
        ),
        ("/home/ada/pets.onnx", "https://ada:secret@example.org/sets/pets.tar?key=1", "pets.onnx on pets.tar"),
        ("torchvision:IMAGENET1K_V1", "cifar10+download:/home/ada/sets", "torchvision:IMAGENET1K_V1 on cifar10"),
        ("hf:ada/pets@main", "tfrecords:/home/ada/birds", "hf:ada/pets@main on birds"),
    ],
)
def test_the_title_names_the_model_and_the_data_without_their_folders(
    tmp_path: Path, model: str, data: str, title: str
) -> None:
    metrics, images = evaluated(["a", "b"], 69, 31)
    settings = SETTINGS | {"models": [{"name": model, "file": "file", "sha256": "0"}], "data": data}
    report.write_html(tmp_path / "report.html", metrics, images, settings)
    report_page = Page(tmp_path / "report.html")
    assert report_page.find("h1")[0][1] == title
    assert report_page.find("title")[0][1] == f"{title} · 55 % top-1"


def test_the_models_of_an_ensemble_are_all_in_the_title(tmp_path: Path) -> None:
    settings = SETTINGS | {"models": [{"name": name, "file": name, "sha256": "0"} for name in ("runs/a", "runs/b")]}
    report.write_html(tmp_path / "report.html", *evaluated(["a", "b"], 20, 2), settings)
    assert Page(tmp_path / "report.html").find("h1")[0][1] == "a + b on pets & co"


def test_percentages_have_as_many_digits_as_the_number_of_images_warrants(tmp_path: Path) -> None:
    metrics, images = evaluated(["a", "b"], 69, 31)
    tiles = [" ".join(text.split()) for _, text in page(metrics, images, tmp_path).find("div")]
    assert "55 %top-195 % interval 43 % to 66 %" in tiles
    assert "55 %mean of classes" in tiles
    body = page(metrics, images, tmp_path).text.partition("<body>")[2]
    assert not re.search(r"\d\.\d+\s*%", body)
    metrics, images = evaluated(["a", "b"], 1500, 31, (1, 1))
    tiles = [" ".join(text.split()) for _, text in page(metrics, images, tmp_path).find("div")]
    assert any(tile.startswith("97.9 %top-1") for tile in tiles)


def test_all_columns_of_the_class_table_can_be_sorted_by_keyboard(tmp_path: Path) -> None:
    """A heading is a button, with an arrow; a script sets aria-sort."""
    report_page = page(*evaluated(["a", "b"], 20, 2), tmp_path)
    section = report_page.text[report_page.text.index('<section class="wide"') :]
    headings = re.findall(r"<th [^>]*>(.*?)</th>", section[: section.index("</thead>")], re.DOTALL)
    assert headings == [f'<button type="button">{name}</button>' for name in ("class", "images", "recall", "precision")]
    assert 'th button::after { content: "↕"' in report_page.text


# ------------------------------------------------------------------------------------------------- calibration


@pytest.mark.parametrize(
    ("images", "bins"), [(0, 5), (20, 5), (69, 5), (89, 5), (90, 6), (150, 10), (225, 15), (50_000, 15)]
)
def test_the_diagram_has_a_bin_for_15_images_but_5_to_15_bins(images: int, bins: int) -> None:
    assert plotted_bins(images) == bins


def test_the_ece_does_not_depend_on_the_bins_that_are_plotted(tmp_path: Path) -> None:
    metrics, images = evaluated(["a", "b"], 69, 31)
    report_page = page(metrics, images, tmp_path)
    values = report_page.text[report_page.text.index("<summary>Values") : report_page.text.index("</details>")]
    assert values.count("<tr><td>") == 5
    assert len(metrics.as_dict()["calibration"]) == 15
    assert f"is {metrics.ece:.4f} (from 15 bins)" in " ".join(report_page.text.split())


def draw_reliability(monkeypatch: pytest.MonkeyPatch, **bins: list[float]) -> Figure:
    """The figure of a reliability diagram."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    counts, confidence, accuracy = (np.array(bins[name]) for name in ("counts", "confidence", "accuracy"))
    plots.reliability_diagram(counts.astype(int), confidence, accuracy, 0.1, io.BytesIO())
    return figures[0]


def test_the_bars_of_the_reliability_diagram_end_at_accuracy_and_confidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first bin is too confident: the gap stands on the bar. The second is too cautious: it is the bar's end."""
    figure = draw_reliability(monkeypatch, counts=[30, 0, 10], confidence=[0.3, np.nan, 0.7], accuracy=[0.1, np.nan, 1])
    bars = {
        container.get_label(): [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in container]
        for container in figure.axes[0].containers
    }
    assert bars["accuracy"] == [(0, 0.1), (0, 1)]
    assert bars["too confident: confidence is higher"] == [pytest.approx((0.1, 0.3)), pytest.approx((0.7, 0.7))]
    assert bars["too cautious: accuracy is higher"] == [pytest.approx((0.1, 0.1)), pytest.approx((0.7, 1))]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "accuracy",
        "mean confidence",
        "too confident: confidence is higher",
        "too cautious: accuracy is higher",
        "perfectly calibrated",
    ]


def test_the_histogram_of_the_reliability_diagram_has_an_axis_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = draw_reliability(monkeypatch, counts=[30, 0, 10], confidence=[0.3, np.nan, 0.7], accuracy=[0.1, np.nan, 1])
    histogram = figure.axes[1]
    assert [bar.get_height() for bar in histogram.patches] == [30, 10]
    assert histogram.get_ylabel() == "images"
    assert 30 < histogram.get_ylim()[1] < 60, "its own axis, not that of the fractions"


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
    assert b"\nb/caf\\udce9.jpg,b,a," in (tmp_path / "predictions.csv").read_bytes()
