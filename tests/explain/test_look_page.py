"""The page of `look`, opened from disk in Chromium: every part, keyboard, screen reader, languages, phone, print."""

import re
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Page

from browser import OpenedPage, open_browser, open_page
from conftest import randomise
from inception_v3 import InceptionV3
from inception_v3.explain.look.measure import looker
from inception_v3.explain.look.page import ModelFacts, PageOptions, write_look
from inception_v3.explain.look.result import Look, LookOptions
from inception_v3.explain.receptive_fields import receptive_field
from inception_v3.explain.views import View
from inception_v3.network.architecture import with_inner
from inception_v3.reports.pages import image_uri

NAMES = ["cat", "<b>dog</b></script><script>document.title='taken'</script>", "moth\u202egnp.exe\nline", 'newt & "ant"']
IMAGE = "photos/</script><img src=x onerror=alert(1)>.png"

# Clicks on each part in the drawing, waits for its channels, and returns what the page shows of it.
VISIT = """async names => {
  const all = selector => [...document.querySelectorAll(selector)], shown = {};
  for (const name of names) {
    const group = document.querySelector(`#drawing [data-end-point="${CSS.escape(name)}"]`), start = performance.now();
    group.dispatchEvent(new MouseEvent("click", { bubbles: true }));
    const title = document.getElementById("part-title").textContent, hash = decodeURIComponent(location.hash);
    const figures = Object.fromEntries(
      all("#figures [data-figure]").map(each => [each.dataset.figure, each.firstChild.textContent]));
    const current = all("#drawing [aria-current]").map(each => each.dataset.endPoint);
    const channels = () => all("#maps [data-channel]").map(each => each.dataset.channel).join();
    const expected = look.parts[name].numbers.join();
    while (channels() !== expected && performance.now() - start < 3000) await new Promise(requestAnimationFrame);
    shown[name] = { title, hash, figures, current, channels: channels(), milliseconds: performance.now() - start };
  }
  return shown;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def model() -> InceptionV3:
    network = InceptionV3(num_classes=4, depth_multiplier=0.1, min_depth=8, image_size=107)
    randomise(network)
    network.class_names = NAMES
    return network.eval()


@pytest.fixture(scope="module")
def looks(model: InceptionV3) -> list[Look]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    look_at = looker(model, LookOptions())
    pixels = np.random.default_rng(0).integers(0, 256, (2, 9, 12, 3), np.uint8)
    images = [Image.fromarray(each).resize((160, 120)) for each in pixels]
    found = [
        look_at(View.of(name, image, model.preprocessing)) for name, image in zip((IMAGE, "b.png"), images, strict=True)
    ]
    torch.set_num_threads(threads)
    return found


@pytest.fixture(scope="module")
def file(model: InceptionV3, looks: list[Look], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("look") / "page.html"
    write_look(path, ModelFacts("run", model.settings, NAMES), [look.as_dict() for look in looks], PageOptions())
    return path


@pytest.fixture
def opened(browser: Browser, file: Path) -> Iterator[OpenedPage]:
    with open_page(browser, file, viewport={"width": 1400, "height": 900}) as page:
        yield page
    assert not page.requests
    assert not page.errors


def text(page: Page, selector: str) -> str:
    return page.locator(selector).inner_text()


def test_a_click_on_every_part_shows_its_shape_its_cost_and_its_channels_within_100_milliseconds(
    opened: OpenedPage, model: InceptionV3, looks: list[Look]
) -> None:
    table = with_inner(model.settings.end_points())
    shown = opened.page.evaluate(VISIT, [*table])
    assert {*shown} == {*table, *looks[0].parts}
    for name, point in table.items():
        found = shown[name]
        assert (found["title"], found["hash"], found["current"]) == (name, f"#{name}", [name])
        assert found["figures"] == {
            "shape": f"{point.height}×{point.width}×{point.channels}",
            "parameters": f"{point.parameters:,}",
            "macs": f"{point.macs:,}",
        }
        assert found["channels"] == ",".join(map(str, looks[0].parts[name].numbers))
    assert np.median([each["milliseconds"] for each in shown.values()]) < 100


def test_the_mouse_reaches_layers_branches_and_modules(opened: OpenedPage) -> None:
    for name in ("Mixed_6b/Branch_1/Conv2d_0b_1x7", "Conv2d_2b_3x3", "Mixed_5b", "Mixed_6b/Branch_1"):
        group = opened.page.locator(f'#drawing [data-end-point="{name}"]')
        group.click(position=None if "Conv2d" in name else {"x": 4, "y": 4})
        assert text(opened.page, "#part-title") == name


def test_a_choice_in_the_drawing_is_answered_in_sight_until_its_details_are(
    opened: OpenedPage, looks: list[Look]
) -> None:
    page, name = opened.page, "Mixed_6c/Branch_1/Conv2d_0b_1x7"
    page.locator("#network").evaluate("each => each.scrollIntoView()")
    page.wait_for_timeout(100)
    assert page.locator("#peek").is_hidden()
    page.locator(f'#drawing [data-end-point="{name}"]').click()
    page.wait_for_function("document.querySelectorAll('#peek-maps canvas').length === 6")
    height, width, channels = looks[0].parts[name].shape
    assert text(page, "#peek-title") == name
    assert text(page, "#peek-figures").startswith(f"{height}×{width}×{channels} · ")
    box: Any = page.locator("#peek").bounding_box()
    assert box["y"] + box["height"] <= 900
    page.click("#to-part")
    assert page.evaluate("document.activeElement.id") == "part-title"
    page.wait_for_selector("#peek", state="hidden")
    page.click("#to-drawing")
    assert page.evaluate("document.activeElement.dataset.endPoint") == name
    page.wait_for_selector("#peek")


def test_the_drawing_can_be_enlarged_and_the_module_of_a_part_is_drawn_large_beside_it(opened: OpenedPage) -> None:
    page, name = opened.page, "Mixed_6b/Branch_2/Conv2d_0c_1x7"
    opened.page.evaluate(VISIT, [name])
    width = "document.querySelector('#drawing svg').clientWidth"
    before = page.evaluate(width)
    page.click("#zoom button[value='2']")
    assert page.evaluate(width) == pytest.approx(2 * before, abs=2)
    large, small = (f'{place} [data-end-point="{name}"]' for place in ("#closer", "#drawing"))
    page.click("#zoom button[value='1']")
    boxes: list[Any] = [page.locator(each).bounding_box() for each in (large, small)]
    assert boxes[0]["width"] > 1.3 * boxes[1]["width"]
    assert page.locator("#closer [aria-current]").get_attribute("data-end-point") == name
    page.locator('#closer [data-end-point="Mixed_6b/Branch_0/Conv2d_0a_1x1"]').click()
    assert text(page, "#part-title") == "Mixed_6b/Branch_0/Conv2d_0a_1x1"
    page.evaluate(VISIT, ["Conv2d_2b_3x3"])
    assert page.locator("#closer").is_hidden()


def test_a_map_is_brightest_where_its_channel_is_largest_and_the_scale_of_the_layer_compares_channels(
    opened: OpenedPage, looks: list[Look]
) -> None:
    opened.page.evaluate(VISIT, ["Mixed_5b"])
    channels = looks[0].parts["Mixed_5b"]
    colours = """() => [...document.querySelectorAll("#maps canvas.map")].map((canvas, index) => {
      const [row, column] = look.parts["Mixed_5b"].peaks[index];
      return [...canvas.getContext("2d").getImageData(column, row, 1, 1).data].slice(0, 3);
    })"""
    yellow = [253, 231, 37]
    assert opened.page.evaluate(colours) == [yellow] * len(channels.numbers)
    opened.page.click("#scale button[value=layer]")
    opened.page.wait_for_selector("#scale button[value=layer][aria-pressed=true]")
    opened.page.wait_for_timeout(50)
    strongest = channels.high.index(max(channels.high))
    shown = opened.page.evaluate(colours)
    assert channels.high[strongest] < channels.high_of_all or shown[strongest] == yellow
    assert shown[channels.high.index(min(channels.high))] != yellow


def test_the_part_of_the_input_beside_a_map_lies_around_the_largest_value(
    browser: Browser, looks: list[Look], tmp_path: Path
) -> None:
    rows, columns = np.indices((107, 107))
    pixels = np.stack([2 * columns, 2 * rows, 0 * rows], -1).astype(np.uint8)  # the colour of a pixel is its position
    looks[0].with_results(input=image_uri(Image.fromarray(pixels), "PNG")).save(tmp_path / "page.html")
    middles = """() => [...document.querySelectorAll("#maps canvas:not(.map)")].map(canvas =>
      [...canvas.getContext("2d").getImageData(48, 48, 1, 1).data].slice(0, 2))"""
    with open_page(browser, tmp_path / "page.html") as opened:
        for name in ("Conv2d_2a_3x3", "Mixed_6b/Branch_1"):
            opened.page.evaluate(VISIT, [name])
            field, peaks = receptive_field(name, 107), looks[0].parts[name].peaks
            for (row, column), shown in zip(peaks, opened.page.evaluate(middles), strict=True):
                x, y = field.centre[1] + column * field.stride[1], field.centre[0] + row * field.stride[0]
                assert shown == pytest.approx([2 * x, 2 * y], abs=4)


def test_the_keyboard_alone_reaches_the_parts_and_their_details(opened: OpenedPage) -> None:
    page = opened.page
    page.evaluate("document.activeElement.blur()")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.endPoint"):
            break
    steps = {
        "ArrowRight": "Mixed_5c",
        "ArrowDown": "Mixed_5c/Branch_0",
        "End": "Mixed_5c/Branch_3",
        "ArrowLeft": "Mixed_5c/Branch_2",
        "ArrowUp": "Mixed_5c",
    }
    for key, name in steps.items():
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.dataset.endPoint") == name
        assert text(page, "#part-title") == name
        assert page.evaluate("document.getElementById('status').textContent").startswith(f"{name}: ")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "part-title"


def test_every_control_has_a_name_and_axe_finds_no_violation(browser: Browser, file: Path) -> None:
    for scheme, width, prepare in (
        ("light", 1400, ""),
        ("dark", 390, "button[value=zh]"),
        ("dark", 800, "#guess-mode"),
    ):
        with open_page(browser, file, color_scheme=scheme, viewport={"width": width, "height": 900}) as opened:
            opened.page.wait_for_selector("#maps canvas")
            if prepare:
                opened.page.click(prepare)
            assert not opened.violations(), (scheme, prepare)


def test_dark_mode_has_light_text_on_a_dark_page(browser: Browser, file: Path) -> None:
    with open_page(browser, file, color_scheme="dark") as opened:
        style = "getComputedStyle(document.body)"
        background, colour = (opened.page.evaluate(f"{style}.{name}") for name in ("backgroundColor", "color"))
        assert max(map(int, background[4:-1].split(","))) < 40
        assert min(map(int, colour[4:-1].split(","))) > 200


@pytest.mark.parametrize("width", [320, 390, 800])
def test_a_narrow_page_does_not_scroll_sideways(browser: Browser, file: Path, width: int) -> None:
    with open_page(browser, file, viewport={"width": width, "height": 800}) as opened:
        opened.page.click("#side-load")
        opened.page.wait_for_selector("#cards .stage")
        assert opened.page.evaluate("document.scrollingElement.scrollWidth") == width


def test_both_languages_show_every_text_of_the_table(opened: OpenedPage) -> None:
    page = opened.page
    everywhere = (
        "() => [...document.querySelectorAll('[data-text]')].map(each => [each.dataset.text, each.textContent])"
    )
    texts: dict[str, list[str]] = page.evaluate("data.texts")
    for index, (language, code) in enumerate((("en", "en"), ("zh", "zh-CN"))):
        page.click(f"#languages button[value={language}]")
        assert page.evaluate("document.documentElement.lang") == code
        for key, shown in page.evaluate(everywhere):
            assert shown == texts[key][index]
        assert "{" not in text(page, "body")
        assert "undefined" not in text(page, "body")
    assert "感受野" in text(page, "#part")
    assert page.locator("#drawing svg").get_attribute("lang") == "zh"
    assert all(len(pair) == 2 and {*_places(pair[0])} == {*_places(pair[1])} for pair in texts.values())


def _places(words: str) -> list[str]:
    return [part.split("}")[0] for part in words.split("{")[1:]]


def test_the_fragment_of_the_address_opens_a_part_of_an_image(browser: Browser, file: Path) -> None:
    with open_page(browser, file, "#Mixed_7b/Branch_1@2") as opened:
        assert text(opened.page, "#part-title") == "Mixed_7b/Branch_1"
        assert opened.page.locator("#images button[aria-pressed=true]").inner_text() == "b.png"
    with open_page(browser, file, "#nothing") as opened:
        assert text(opened.page, "#part-title") == "Mixed_5b"


def test_names_are_text_and_never_markup(opened: OpenedPage, looks: list[Look]) -> None:
    page = opened.page
    assert page.evaluate("document.title") == "2 images through run"
    assert page.locator("img[src=x], h1 b, .bars b").count() == 0
    shown = page.locator("#heads div:first-child .name").all_inner_texts()
    assert {*shown} == {each.name for each in looks[0].main}
    assert r"moth\u202egnp.exe\nline" in shown
    assert page.locator("#images button").first.get_attribute("title") == IMAGE


def test_the_classes_are_hidden_until_the_reader_has_guessed(
    browser: Browser, model: InceptionV3, looks: list[Look], tmp_path: Path
) -> None:
    looks[0].save(tmp_path / "guess.html", PageOptions(guess=True))
    with open_page(browser, tmp_path / "guess.html", "#Logits") as opened:
        page = opened.page
        assert not page.locator("#heads, #cam-controls, #branches").filter(visible=True).count()
        assert "Hidden until" in text(page, "#part")
        assert page.locator("#choices button").count() == 4
        page.locator("#choices button", has_text="cat").click()
        assert page.locator("#heads").is_visible()
        verdict, top = text(page, "#verdict"), looks[0].main[0]
        assert top.name in verdict
        assert ("agree" if top.name == "cat" else "You chose cat.") in verdict


def test_the_slider_moves_the_heat_map_through_the_layers(opened: OpenedPage) -> None:
    page = opened.page
    assert text(page, "#cam-name") == "Mixed_7c"
    page.focus("#cam-layer")
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    assert text(page, "#cam-name") == "Mixed_6d"
    page.wait_for_selector("#picture svg[aria-label*='at Mixed_6d']")
    assert page.locator("#picture image").count() == 2
    page.click("#cam-show")
    page.wait_for_function("document.querySelectorAll('#picture image').length === 1")


def test_the_receptive_field_follows_the_unit_that_is_clicked(opened: OpenedPage, looks: list[Look]) -> None:
    page = opened.page
    opened.page.evaluate(VISIT, ["Mixed_5b"])
    assert "63×63 input pixels" in text(page, "#field-key")
    page.wait_for_selector("#field .theory")
    assert page.locator("#field .effective").count() == 1
    page.fill("#unit-row", "0")
    page.keyboard.press("Tab")
    page.wait_for_selector("#field svg[aria-label*='unit 0, ']")
    assert page.locator("#field .effective").count() == 0
    _, width, _ = looks[0].parts["Mixed_5b"].shape
    share = receptive_field("Mixed_5b", 107).padding_share(0, width // 2, (107, 107))
    assert f"{100 * share:.0f} % of it lies outside the input" in text(page, "#field-key")
    box: Any = page.locator("#field svg").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    page.wait_for_selector("#field .effective")


def test_a_chosen_channel_lies_over_the_image_with_the_unit_at_its_largest_value(
    opened: OpenedPage, looks: list[Look]
) -> None:
    page = opened.page
    page.evaluate(VISIT, ["Mixed_6a"])
    row, column = looks[0].parts["Mixed_6a"].peaks[1]
    page.locator("#maps button").nth(1).click()
    page.wait_for_selector(f"#field svg[aria-label*='unit {row}, {column} of Mixed_6a']")
    assert page.input_value("#overlay") == "channel"
    assert page.locator("#maps button[aria-pressed=true]").count() == 1


def test_grad_cam_opens_at_the_last_layer_with_several_positions(
    browser: Browser, looks: list[Look], tmp_path: Path
) -> None:
    model = replace(looks[0].model, settings=looks[0].model.settings | {"image_size": (75, 75)})
    looks[0].with_results(model=model).save(tmp_path / "small.html")
    with open_page(browser, tmp_path / "small.html") as opened:
        assert text(opened.page, "#cam-name") == "Mixed_6e"


def test_a_branch_shows_what_happens_without_it(opened: OpenedPage, looks: list[Look]) -> None:
    page, row, top = opened.page, looks[0].silenced[5], looks[0].main[0]
    assert page.locator("#branch-rows tr[data-branch*=Mixed]").count() == 42
    page.locator("#branch-rows button", has_text=row.name).click()
    assert text(page, "#part-title") == row.name
    assert f"to {100 * row.values[0]:.1f} %" in text(page, "#part-silenced")
    assert page.locator("#branch-rows tr[aria-current]").get_attribute("data-branch") == row.name
    page.click("#sort button[value=effect]")
    strongest = max(looks[0].silenced, key=lambda each: abs(each.values[0] - top.value))
    assert page.locator("#branch-rows tr[data-branch*=Mixed]").first.get_attribute("data-branch") == strongest.name


def test_paper_gets_the_results_without_the_controls(opened: OpenedPage) -> None:
    page = opened.page
    page.wait_for_selector("#maps canvas")
    page.emulate_media(media="print")
    assert page.locator(".controls, #images, .steps, #zoom, #side").filter(visible=True).count() == 0
    assert page.locator("#heads, #field svg, #maps canvas.map").filter(visible=True).count() > 10
    assert page.pdf().startswith(b"%PDF")


def test_several_images_stand_side_by_side(opened: OpenedPage) -> None:
    page = opened.page
    page.click("#side-load")
    page.wait_for_selector("#cards li:nth-child(2) .stage svg")
    page.locator("#cards button", has_text="b.png").click()
    assert page.locator("#images button[aria-pressed=true]").inner_text() == "b.png"
    assert page.evaluate("location.hash") == "#Mixed_5b@2"


def test_the_page_says_where_values_stop_being_finite_and_what_cannot_be_shown(
    browser: Browser, looks: list[Look], tmp_path: Path
) -> None:
    start = "Mixed_5c/Branch_1/Conv2d_0b_1x1"
    absent = {"heads": {}, "cams": [], "silenced": [], "fields": {}, "not_finite_from": start}
    keys = re.findall(
        r'"missing_(?!remedy)(\w+)"', (files("inception_v3") / "reports/look/texts.json").read_text("utf-8")
    )
    causes = {"heads": "not_finite", "cams": "not_finite", "silenced": "not_finite"}
    causes |= {key: key for key in keys if key != "not_finite"}
    parts = {name: each for name, each in looks[0].parts.items() if name != "Mixed_5b/Branch_3/AvgPool_0a_3x3"}
    model = replace(looks[0].model, exported=True, no_cam_reason="hidden")
    looks[0].with_results(**absent, parts=parts, missing=causes, model=model).save(tmp_path / "page.html")
    with open_page(browser, tmp_path / "page.html") as opened:
        page = opened.page
        assert f"start in {start}" in text(page, "#problem")
        page.click("#problem button")
        assert text(page, "#part-title") == start
        lines = page.locator("#missing-list li").all_inner_texts()
        assert len(lines) == len(causes) + 1
        assert not any("undefined" in line or "{" in line for line in lines)
        assert "Heat maps: the outputs of the network are infinite or not a number." in lines
        assert text(page, "#heads-note") == "Classes: the outputs of the network are infinite or not a number."
        assert not page.locator("#cam-controls, #branches, #guess-mode").filter(visible=True).count()
        page.evaluate(VISIT, ["Mixed_5b/Branch_3"])
        page.locator("#inside button", has_text="AvgPool").click()
        assert "cannot be had from this file" in text(page, "#channels-note")
        assert not opened.violations()
        assert not opened.errors
