"""The drawing of the network: what it shows, where, and how its renderers show it."""

import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest

from conftest import ROOT
from inception_v3.errors import InputError
from inception_v3.network.architecture import BASE_END_POINTS, EndPoint, OutputActivation, with_inner
from inception_v3.network.drawing import Drawing, plan, svg
from inception_v3.network.drawing.figure import CHINESE_FONTS, draw, find_font, save
from inception_v3.network.drawing.parts import macs_text, parameters_text
from inception_v3.network.drawing.shapes import Box, Group, Label, Line, Shape
from inception_v3.network.drawing.styles import BOXES, COLOURS, LABELS, LAYERS, LINES
from inception_v3.network.drawing.words import LANGUAGES, WORDS, Language, translate
from inception_v3.network.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SVG = "{http://www.w3.org/2000/svg}"
NETWORKS = {
    "of TF-Slim": Settings(),
    "without auxiliary head": Settings(create_aux_logits=False),
    "for small images": Settings(image_size=(75, 91), num_classes=3, depth_multiplier=0.25),
    "for large images": Settings(image_size=(1200, 1600), num_classes=21_841, depth_multiplier=4.0),
    "with hidden layers": Settings(hidden_units=(512, 64), hidden_activation="softplus", num_classes=1),
    "for narrow images": Settings(image_size=(1000, 300)),
    "cut at a module": Settings(final_endpoint="Mixed_6b", create_aux_logits=False),
    "cut in the stem": Settings(final_endpoint="MaxPool_3a_3x3", create_aux_logits=False),
}
MODULES = ("Conv2d_1a_3x3", "Mixed_5b", "Mixed_6a", "Mixed_6e", "Mixed_7c", "AuxLogits", "Logits")
MODULES += ("Mixed_7c/Branch_2", "Mixed_5b/Branch_1/Conv2d_0b_5x5")


@pytest.fixture(params=NETWORKS)
def settings(request: pytest.FixtureRequest) -> Settings:
    return NETWORKS[request.param]


@pytest.fixture(params=[*NETWORKS, *MODULES])
def drawing(request: pytest.FixtureRequest) -> Drawing:
    """Each of NETWORKS, and each of MODULES large."""
    name = request.param
    return plan(NETWORKS[name]) if name in NETWORKS else plan(Settings(), name)


def groups(drawing: Drawing) -> dict[str, Group]:
    """The outermost group of every name."""
    found: dict[str, Group] = {}
    for shape in drawing.walk():
        if isinstance(shape, Group):
            found.setdefault(shape.end_point, shape)
    return found


def inside(group: Group) -> Iterator[Shape]:
    yield from Drawing(0, 0, "", "", group.shapes).walk()


def texts(group: Group) -> list[str]:
    return [shape.text for shape in inside(group) if isinstance(shape, Label)]


# ----------------------------------------------------------------------------------------------- what it shows


def test_every_end_point_branch_and_layer_is_drawn_with_its_output(settings: Settings) -> None:
    drawn = groups(plan(settings))
    points = with_inner(settings.end_points())
    assert set(points) <= set(drawn)
    for name, point in points.items():
        shape = f"{point.height}x{point.width}x{point.channels}"
        assert shape in drawn[name].tooltip, name
        if point.parameters:
            assert f"{{parameters}} {point.parameters:,}, {{macs}} {macs_text(point.macs)}" in drawn[name].tooltip
        if "/" not in name:
            assert shape in texts(drawn[name]), name
            if point.parameters:
                assert {parameters_text(point.parameters), macs_text(point.macs)} <= {*texts(drawn[name])}


def test_the_box_of_a_layer_shows_its_kernel_stride_padding_and_channels() -> None:
    drawn = groups(plan(Settings(depth_multiplier=0.5)))
    assert texts(drawn["Mixed_6a/Branch_1/Conv2d_1a_1x1"]) == ["3x3/2 V", "48"]
    assert texts(drawn["Mixed_6b/Branch_2/Conv2d_0c_1x7"]) == ["1x7", "64"]
    assert texts(drawn["Mixed_6a/Branch_2/MaxPool_1a_3x3"]) == ["3x3/2 V", "{max}"]
    assert "3x3/2 V  16" in texts(drawn["Conv2d_1a_3x3"])
    assert "max  3x3/2 V" in [translate(text, "en") for text in texts(drawn["MaxPool_3a_3x3"])]


def test_the_drawing_shows_what_the_settings_of_a_model_change() -> None:
    drawn = groups(plan(Settings(mixed_7c_pool="max", output_activation="sigmoid")))
    assert texts(drawn["Mixed_7c/Branch_3/AvgPool_0a_3x3"]) == ["3x3", "{max}"]
    assert texts(drawn["Mixed_7b/Branch_3/AvgPool_0a_3x3"]) == ["3x3", "{avg}"]
    assert "{sigmoid}" in texts(drawn["Predictions"])


def test_each_layer_is_drawn_once_in_its_branch_and_each_branch_in_its_module(settings: Settings) -> None:
    drawing = plan(settings)
    drawn = groups(drawing)
    layers = [layer.name for point in settings.end_points() for layer in point.layers]
    boxes = [shape.end_point for shape in drawing.walk() if isinstance(shape, Group) and _own_boxes(shape)]
    assert sorted({*boxes} & {*layers}) == sorted(layers)
    for name in layers:
        for outer in (name.rsplit("/", count)[0] for count in range(1, name.count("/") + 1)):
            if outer in drawn and outer != "Logits":  # the scope of the layers of several end points
                assert name in {each.end_point for each in inside(drawn[outer]) if isinstance(each, Group)}


def _own_boxes(group: Group) -> list[Box]:
    return [shape for shape in group.shapes if isinstance(shape, Box) and shape.kind in LAYERS]


def test_the_colour_of_a_box_is_that_of_the_kind_of_layer() -> None:
    drawn = groups(plan(Settings(hidden_units=(8,))))
    kinds = {
        "Mixed_5b/Branch_1/Conv2d_0a_1x1": "one",
        "Mixed_5b/Branch_1/Conv2d_0b_5x5": "square",
        "Mixed_7b/Branch_1/Conv2d_0b_1x3": "line",
        "Mixed_6a/Branch_2/MaxPool_1a_3x3": "max",
        "Mixed_5b/Branch_3/AvgPool_0a_3x3": "avg",
        "AuxLogits/Conv2d_2b_1x1": "head",
        "Logits/Hidden_1": "head",
    }
    assert {name: _own_boxes(drawn[name])[0].kind for name in kinds} == kinds


def test_parameters_and_macs_are_drawn_to_one_scale(settings: Settings) -> None:
    drawn = groups(plan(settings))
    for kind in ("parameters", "macs"):
        lengths = {}
        for point in settings.end_points():
            count = getattr(point, kind)
            bars = [shape.width for shape in inside(drawn[point.name]) if isinstance(shape, Box) and shape.kind == kind]
            assert len(bars) == (point.parameters > 0), point.name
            if bars and bars[0] > 0.5:  # the shortest bar that is drawn
                lengths[point.name] = bars[0] / count
        assert max(lengths.values()) == pytest.approx(min(lengths.values()))


def test_the_outputs_of_the_branches_are_joined_to_scale() -> None:
    drawing, points = plan(Settings()), {point.name: point for point in Settings().end_points()}
    drawn = groups(drawing)
    for name in ("Mixed_5b", "Mixed_6a", "Mixed_7a", "Mixed_7c"):
        bar = [shape for shape in drawn[name].shapes if isinstance(shape, Box) and shape.kind == "join"]
        channels = [branch.channels for branch in branches(points[name])]
        whole = sum(part.width for part in bar)
        assert [part.width / whole for part in bar] == pytest.approx([each / sum(channels) for each in channels])
        assert all(left.x + left.width == pytest.approx(right.x) for left, right in pairwise(bar))
        for branch, part in zip(branches(points[name]), bar, strict=True):
            ends = [
                line.points[-1] for line in inside(drawn[branch.name]) if isinstance(line, Line) and not line.has_head
            ]
            assert len(ends) == len(branch.branches[0][-1])
            assert all(part.x < x < part.x + part.width and y == part.y for x, y in ends)


def branches(point: EndPoint) -> list[EndPoint]:
    return [each for each in point.inner if each.inner]


def test_two_bars_divide_the_parameters_and_the_macs_among_the_parts_of_the_network() -> None:
    bars = [shape for shape in plan(Settings()).shapes if isinstance(shape, Box) and shape.kind == "join"]
    for kind, y in zip(("parameters", "macs"), sorted({bar.y for bar in bars}), strict=True):
        counts: dict[str, int] = {}
        for point in Settings().end_points():
            in_stem = point.name in BASE_END_POINTS and not point.name.startswith("Mixed")
            part = "stem" if in_stem else point.name[:7] if point.name.startswith(("Mixed", "Aux")) else "head"
            counts[part] = counts.get(part, 0) + getattr(point, kind)
        widths = [bar.width for bar in bars if bar.y == y]
        assert [width / sum(widths) for width in widths] == pytest.approx(
            [count / sum(counts.values()) for count in counts.values()]
        )


@pytest.mark.parametrize("name", [None, "Mixed_5b"])
def test_the_legend_gives_the_values_of_full_bars(name: str | None) -> None:
    points = with_inner(Settings().end_points())
    shown = points[name].layers if name else Settings().end_points()
    labels = [shape.text for shape in plan(Settings(), name).walk() if isinstance(shape, Label)]
    largest = f"{max(each.parameters for each in shown):,}", macs_text(max(each.macs for each in shown))
    for kind, value in zip(("parameters", "macs"), largest, strict=True):
        assert f"{{{kind}}}{{comma}}{{legend_bars}} {value}" in labels


def test_every_word_and_every_style_is_used() -> None:
    activations = [Settings(output_activation=each) for each in get_args(OutputActivation)]
    drawings = [*map(plan, (*NETWORKS.values(), *activations)), *(plan(Settings(), name) for name in MODULES)]
    shapes = [shape for drawing in drawings for shape in drawing.walk()]
    for kind, styles in ((Box, BOXES), (Label, LABELS), (Line, LINES)):
        assert {shape.kind for shape in shapes if isinstance(shape, kind)} == {*styles}
    shown = [shape.text for shape in shapes if isinstance(shape, Label)]
    shown += [text for drawing in drawings for text in (drawing.title, drawing.description)]
    shown += [shape.tooltip for shape in shapes if isinstance(shape, Group)]
    assert {*re.findall(r"\{(\w+)\}", "".join(shown))} == {*WORDS}


def test_the_auxiliary_head_branches_off_mixed_6e_and_the_modules_follow_each_other() -> None:
    drawing = plan(Settings())
    cards = {
        name: next(shape for shape in group.shapes if isinstance(shape, Box))
        for name, group in groups(drawing).items()
        if name.startswith(("Mixed", "AuxLogits")) and "/" not in name
    }
    flows = [shape for shape in drawing.shapes if isinstance(shape, Line)]

    def card_at(x: float, y: float) -> str:
        """The card that has the point at its left or right side."""
        sides = {name: (card.x - 0.5 <= x <= card.x + card.width + 0.5) for name, card in cards.items()}
        return next((name for name, card in cards.items() if sides[name] and card.y < y < card.y + card.height), "")

    modules = [point.name for point in Settings().end_points() if point.name.startswith("Mixed")]
    linked = {(card_at(*line.points[0]), card_at(*line.points[-1])): line.kind for line in flows}
    assert {pair: kind for pair, kind in linked.items() if all(pair)} == {
        **dict.fromkeys(pairwise(modules), "flow"),
        ("Mixed_6e", "AuxLogits"): "auxiliary",
    }


def test_a_drawing_of_one_module_shows_each_layer_with_its_figures() -> None:
    drawing = plan(Settings(), "Mixed_5b")
    drawn = groups(drawing)
    assert {name for name in drawn if name.count("/") == 2} == {
        layer.name for layer in with_inner(Settings().end_points())["Mixed_5b"].layers
    }
    assert texts(drawn["Mixed_5b/Branch_1/Conv2d_0b_5x5"]) == [
        "Conv2d_0b_5x5", "{field_short} 63x63", "5x5  64", "35x35x64", "76,992", "94.1 M",
    ]  # fmt: skip
    assert "{joined}{colon}64 + 64 + 96 + 32 = 256" in texts(drawn["Mixed_5b"])
    assert {"Branch_0", "Branch_1", "Branch_2", "Branch_3"} <= {*texts(drawn["Mixed_5b"])}


def test_a_branch_is_drawn_large_with_the_layers_that_are_joined_at_its_end() -> None:
    drawn = groups(plan(Settings(), "Mixed_7b/Branch_2"))
    assert [name.rpartition("/")[2] for name in drawn] == [
        "Branch_2", "Conv2d_0a_1x1", "Conv2d_0b_3x3", "Conv2d_0c_1x3", "Conv2d_0d_3x1",
    ]  # fmt: skip
    assert "{joined}{colon}384 + 384 = 768" in texts(drawn["Mixed_7b/Branch_2"])


def test_only_end_points_with_layers_can_be_drawn_large() -> None:
    with pytest.raises(ValueError, match="no end point 'Mixed_6bb' in this network; did you mean Mixed_6b"):
        plan(Settings(), "Mixed_6bb")
    with pytest.raises(ValueError, match="no end point 'AuxLogits' in this network"):
        plan(Settings(create_aux_logits=False), "AuxLogits")


# ------------------------------------------------------------------------------------------------------- where


def test_nothing_is_outside_the_page_and_no_layers_overlap(drawing: Drawing) -> None:
    layers = []
    for shape in drawing.walk():
        if isinstance(shape, Box):
            assert shape.x >= 0
            assert shape.x + shape.width <= drawing.width + 0.01
            assert 0 <= shape.y <= shape.y + shape.height <= drawing.height + 0.01
            if shape.kind in LAYERS:
                layers.append(shape)
        elif isinstance(shape, Line):
            assert all(0 < x < drawing.width and 0 < y < drawing.height for x, y in shape.points)
    for number, a in enumerate(layers):
        for b in layers[number + 1 :]:
            apart = a.x + a.width <= b.x or b.x + b.width <= a.x or a.y + a.height <= b.y or b.y + b.height <= a.y
            assert apart, (a, b)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_leaves_the_page_or_runs_into_another(drawing: Drawing, language: Language) -> None:
    lines: dict[float, list[tuple[float, float, str]]] = {}
    maps = [shape for shape in drawing.walk() if isinstance(shape, Box) and shape.kind == "map"]
    for label in (shape for shape in drawing.walk() if isinstance(shape, Label)):
        style, text = LABELS[label.kind], translate(label.text, language)
        width = style.size * sum(_character_width(character, style.bold) for character in text)
        left = label.x - {"start": 0, "middle": 0.5, "end": 1}[label.anchor] * width
        assert left >= 16, text
        for box in maps:
            beside = box.y < label.y < box.y + box.height
            assert not (beside and left < box.x + box.width and box.x < left + width + 3), text
        assert left + width <= drawing.width, text
        lines.setdefault(round(label.y, 1), []).append((left, left + width, text))
    for line in lines.values():
        for a, b in pairwise(sorted(line)):
            assert a[1] <= b[0], (a, b)


@cache
def _character_width(character: str, bold: bool) -> float:
    """The width of a character of DejaVu Sans, which is wide, in units of the size; Chinese characters are square."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    if character >= "\u2e80":
        return 1
    font = get_font(findfont(FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")))
    font.set_size(100, 72)
    return font.load_char(ord(character)).linearHoriAdvance / 65536 / 100


def test_the_network_has_the_proportions_of_an_a3_page_and_letters_of_at_least_six_points() -> None:
    drawing = plan(Settings())
    assert drawing.width / drawing.height == pytest.approx(2**0.5)
    smallest = min(LABELS[shape.kind].size for shape in drawing.walk() if isinstance(shape, Label))
    assert smallest * 420 / drawing.width / 25.4 * 72 >= 6


# --------------------------------------------------------------------------------------------------------- SVG


def test_svg_is_one_image_with_a_title_a_description_and_text() -> None:
    root = ET.fromstring(svg(plan(Settings())))
    assert (root.tag, root.get("role"), root.get("lang")) == (f"{SVG}svg", "img", "en")
    assert [child.tag for child in root[:2]] == [f"{SVG}title", f"{SVG}desc"]
    assert root[0].text == "Architecture of Inception V3"
    shown = [text.text for text in root.iter(f"{SVG}text")]
    assert {"Mixed_5b", "35x35x256", "1x7", "6,080,064", "training only"} <= {*shown}


def test_svg_names_every_end_point_branch_and_layer_inside_one_another(settings: Settings) -> None:
    root = ET.fromstring(svg(plan(settings)))
    names = {group.get("data-end-point") for group in root.iter(f"{SVG}g")}
    assert names == set(with_inner(settings.end_points())) | {
        layer.name for point in settings.end_points() for layer in point.layers
    }
    for group in root.iter(f"{SVG}g"):
        assert group[0].tag == f"{SVG}title"
        outer, inner = (
            group.get("data-end-point", ""),
            [each.get("data-end-point", "") for each in group.iter(f"{SVG}g")],
        )
        assert all(name.startswith(outer) or outer in ("AvgPool_1a", "Logits") or "Hidden" in outer for name in inner)


def test_svg_loads_nothing_and_runs_nothing() -> None:
    text = svg(plan(Settings(hidden_units=(8,))))
    root = ET.fromstring(text)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} == {
        *("svg", "title", "desc", "style", "g", "rect", "path", "polygon", "text")
    }
    assert not re.search(r"href|url\(|@import|\son\w+=", text)


def test_colours_are_light_dark_or_those_of_the_viewer() -> None:
    drawing = plan(Settings(), "Mixed_5b")
    light, dark = (f"--d-paper:{colour}" for colour in COLOURS["paper"])
    assert svg(drawing, dark=True).count(dark) == 1
    assert light not in svg(drawing, dark=True)
    assert dark not in svg(drawing, dark=False)
    either = svg(drawing)
    assert either.index(light) < either.index("@media (prefers-color-scheme: dark)") < either.index(dark)


def test_texts_can_be_read_on_their_backgrounds() -> None:
    """The contrast that WCAG asks for, 4.5, for black text on the fill of each layer, and for the others on a card."""
    for dark in (False, True):
        for fill in (*LAYERS, "join"):
            assert _contrast("ink", BOXES[fill].fill, dark) >= 4.5, (fill, dark)
        for background in ("paper", "card", "band", "join", *LAYERS):
            assert _contrast("muted", background, dark) >= 4.5, (background, dark)
        for line in LINES.values():
            assert _contrast(line.colour, "card", dark) >= 2, (line, dark)


def _contrast(a: str, b: str, dark: bool) -> float:
    def luminance(name: str) -> float:
        channels = np.array([int(COLOURS[name][dark][index : index + 2], 16) / 255 for index in (1, 3, 5)])
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    lower, higher = sorted((luminance(a), luminance(b)))
    return (higher + 0.05) / (lower + 0.05)


def test_every_word_is_in_both_languages_and_names_and_numbers_are_the_same() -> None:
    assert all(english and chinese for english, chinese in WORDS.values())
    english, chinese = (
        [text.text or "" for text in ET.fromstring(svg(plan(Settings()), language=language)).iter(f"{SVG}text")]
        for language in LANGUAGES
    )
    assert any("参数量" in text for text in chinese)
    assert not any(re.search(r"[\u4e00-\u9fff]", text) for text in english)
    for one, other in zip(english, chinese, strict=True):
        assert re.findall(r"Mixed_\w+|\d+x\d+x\d+|[\d,]{4,}", one) == re.findall(
            r"Mixed_\w+|\d+x\d+x\d+|[\d,]{4,}", other
        )


def test_the_picture_of_the_documentation_is_the_drawing() -> None:
    assert (ROOT / "docs" / "pictures" / "inception-v3.svg").read_text("utf-8") == svg(plan(Settings())), (
        "write it again: inception-v3 draw --out docs/pictures/inception-v3.svg"
    )


# ------------------------------------------------------------------------------------------------- PNG and PDF


def test_a_figure_has_the_same_boxes_and_texts_as_the_drawing() -> None:
    drawing = plan(Settings(), "Mixed_7b")
    (axes,) = draw(drawing).axes
    assert [text.get_text() for text in axes.texts] == [
        translate(shape.text, "en") for shape in drawing.walk() if isinstance(shape, Label)
    ]
    in_svg = [[float(text.get(axis, "")) for axis in "xy"] for text in ET.fromstring(svg(drawing)).iter(f"{SVG}text")]
    assert [list(text.get_position()) for text in axes.texts] == [pytest.approx(each, abs=0.01) for each in in_svg]
    assert len(axes.patches) == sum(
        1 if isinstance(shape, Box) else 1 + shape.has_head for shape in drawing.walk() if isinstance(shape, Box | Line)
    )


def test_a_pdf_is_an_a3_page_and_a_png_has_the_proportions_of_the_drawing(tmp_path: Path) -> None:
    from PIL import Image

    save(plan(Settings()), tmp_path / "network.pdf", ".pdf")
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+) ?\]", (tmp_path / "network.pdf").read_bytes())
    assert box is not None
    millimetres = [float(points) / 72 * 25.4 for points in box.groups()]
    assert millimetres == pytest.approx([420, 297], abs=0.1)
    module = plan(Settings(), "Conv2d_1a_3x3")
    save(module, tmp_path / "module.png", ".png", dark=True)
    with Image.open(tmp_path / "module.png") as image:
        assert image.width / image.height == pytest.approx(module.width / module.height, rel=0.01)
        assert image.convert("RGB").getpixel((2, 2)) == tuple(bytes.fromhex(COLOURS["paper"][1][1:]))


@pytest.fixture
def chinese_font() -> str:
    """The name of an installed font with Chinese characters."""
    from matplotlib.font_manager import fontManager

    installed = [name for name in CHINESE_FONTS if name in {font.name for font in fontManager.ttflist}]
    if not installed:
        reason = "no font with Chinese characters is installed: apt-get install fonts-noto-cjk"
        pytest.fail(reason) if "CI" in os.environ else pytest.skip(reason)
    return installed[0]


def pixels(figure: "Figure") -> np.ndarray:
    """A figure in grey, 0 to 255."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(200)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., 0]


def test_chinese_texts_are_drawn_as_characters_not_as_boxes(chinese_font: str) -> None:
    first, second = (draw(Drawing(60, 60, "", "", (Label(30, 30, text, "title"),))) for text in "参数")
    assert (pixels(first) < 128).sum() > 100
    assert not np.array_equal(pixels(first), pixels(second)), "a font without them has the same box for both"
    drawn = pixels(first)
    first.axes[0].texts[0].set_text("\ue123")  # a character of no font
    with pytest.warns(UserWarning, match="missing from font"):
        box = pixels(first)
    assert not np.array_equal(drawn, box)


def test_a_font_is_requested_by_its_name_or_its_file(chinese_font: str) -> None:
    file = str(find_font({"参"}, chinese_font.lower(), bold=False).get_file())
    assert str(find_font({"参"}, file, bold=True).get_file()) == file


def test_a_font_without_the_characters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--font DejaVu Sans: has no glyph for 参; give another font$"):
        find_font({"参", "a"}, "DejaVu Sans", bold=False)
    with pytest.raises(InputError, match=r"^--font DejaVu San: no such file, .*; did you mean DejaVu Sans\?$"):
        find_font({"a"}, "DejaVu San", bold=False)
    (tmp_path / "font.ttf").write_text("hello")
    with pytest.raises(InputError, match=r"^--font .*font.ttf: cannot be read as a font; give a TTF, OTF or TTC file$"):
        find_font({"a"}, str(tmp_path / "font.ttf"), bold=False)


def test_without_a_font_with_chinese_characters_the_message_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inception_v3.network.drawing.figure.CHINESE_FONTS", ())
    with pytest.raises(InputError, match=r"^no installed font .*; install Noto Sans CJK .* with --font$"):
        find_font({"参"}, None, bold=False)
