"""The live page in Chromium, and what it asks the server: looks into a network, and /explain."""

import base64
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Page
from serving import GatedEngine, Running, running

from browser import OpenedPage, open_address, open_browser
from inception_v3 import InceptionV3, load, save
from inception_v3.explain.attribution.attribute import attribute
from inception_v3.explain.attribution.result import AttributionOptions
from inception_v3.explain.look.inside_pytorch import PyTorchInside
from inception_v3.explain.look.measure import look_at
from inception_v3.inference.predict import Predictor
from inception_v3.serve.limits import Limits

ONNX = Path(__file__).parents[1] / "version_0_1" / "run.onnx"
NAMES = ["cat", "<b>dog</b>", 'newt & "ant"', "moth"]
TOKEN = "a-token"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def files(random_model: Callable[..., InceptionV3], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks of the same classes, and an image."""
    folder = tmp_path_factory.mktemp("live")
    for name, seed in (("one", 0), ("two", 1)):
        network = random_model(seed, num_classes=4)
        network.class_names = NAMES
        save(network, folder / f"{name}.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    Image.fromarray(pixels).resize((160, 120)).save(folder / "photo.png")
    return folder


@pytest.fixture(scope="module")
def server(files: Path) -> Iterator[Running]:
    models = (f"one={files / 'one.safetensors'}", f"two={files / 'two.safetensors'}", f"old={ONNX}")
    with running(models, GatedEngine(), Limits(), None) as started:
        yield started


@pytest.fixture(scope="module")
def model(files: Path) -> InceptionV3:
    return load(files / "one.safetensors").eval()


@pytest.fixture
def opened(browser: Browser, server: Running) -> Iterator[OpenedPage]:
    with open_address(browser, server.url, viewport={"width": 1400, "height": 900}) as page:
        until(page.page, "live.known")
        yield page
    assert all(url.startswith(server.url) for url in page.requests)
    assert not [each for each in page.errors if "status of 400" not in each]  # Chromium's, of a wrong file


def until(page: Page, expression: str, seconds: float = 20) -> Any:
    """The first true value of an expression. Playwright's own wait needs `eval`, which the page's policy forbids."""
    end = time.monotonic() + seconds
    while not (value := page.evaluate(expression)):
        assert time.monotonic() < end, f"{expression}; the page says: {page.inner_text('#live-fault')}"
        time.sleep(0.02)
    return value


def drop(page: Page, file: Path) -> None:
    """Drop a file on the page."""
    content = base64.b64encode(file.read_bytes()).decode()
    transfer = page.evaluate_handle(
        """([content, name]) => {
          const bytes = Uint8Array.from(atob(content), each => each.charCodeAt(0)), transfer = new DataTransfer();
          transfer.items.add(new File([bytes], name, { type: "image/png" }));
          return transfer;
        }""",
        [content, file.name],
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})


def show(page: Page, file: Path) -> None:
    """Drop a file, and wait until its maps and its heat map are shown."""
    drop(page, file)
    until(page, "look && look.prepared && look.cams[0] && Object.keys(look.cams[0].maps).length")
    until(page, "document.querySelectorAll('#maps [data-channel]').length")


def bars(page: Page, within: str = "#heads > div:first-child") -> list[tuple[str, str]]:
    items = page.locator(f"{within} .bars li")
    return [(each.locator(".name").inner_text(), each.locator("span").nth(1).inner_text()) for each in items.all()]


def classes(files: Path, model: str) -> dict[str, float]:
    """The classes of the image and their probabilities, by `predict`."""
    (prediction,) = Predictor(files / f"{model}.safetensors")(files / "photo.png", top=4)
    return dict(prediction.classes)


def percent(value: float) -> str:
    return "<0.1 %" if 0 < value < 0.001 else f"{100 * value:.1f} %"


def ask(server: Running, path: str, file: Path, **query: Any) -> Any:
    return server.client.post(path, params=query, content=file.read_bytes())


# ------------------------------------------------------------------------------------------------ the page


def test_a_dropped_file_gets_the_classes_of_predict_and_the_maps_of_the_network(
    opened: OpenedPage, files: Path, model: InceptionV3
) -> None:
    show(opened.page, files / "photo.png")
    expected = classes(files, "one")
    assert bars(opened.page) == [(name, percent(value)) for name, value in expected.items()]
    look = look_at(model, files / "photo.png")
    assert opened.page.evaluate("look.parts.Mixed_5b.numbers") == look.parts["Mixed_5b"].numbers
    assert opened.page.inner_text("#title") == "photo.png through one"
    assert "120" in opened.page.inner_text("#picture-note")


def test_a_click_fetches_the_maps_of_that_part_only_and_its_effective_field(
    opened: OpenedPage, files: Path, model: InceptionV3
) -> None:
    page, look = opened.page, look_at(model, files / "photo.png")
    show(page, files / "photo.png")
    assert page.evaluate("Object.keys(look.parts)") == ["Mixed_5b"]
    for name in ("Mixed_6a", "Mixed_6b/Branch_1", "Mixed_6b/Branch_1/Conv2d_0b_1x7"):
        page.evaluate("name => select(name)", name)
        until(page, f"look.parts['{name}'] && document.querySelectorAll('#maps [data-channel]').length")
        assert page.evaluate("name => look.parts[name].numbers", name) == look.parts[name].numbers
    page.evaluate("select('Mixed_6a')")
    assert until(page, "look.fields.Mixed_6a && look.fields.Mixed_6a.size") == look.fields["Mixed_6a"].size
    assert "Solid" in page.inner_text("#field-key")


def test_the_slider_shows_the_heat_map_of_each_end_point(opened: OpenedPage, files: Path, model: InceptionV3) -> None:
    page = opened.page
    show(page, files / "photo.png")
    look = look_at(model, files / "photo.png")
    high = page.evaluate("look.cams[0].high")
    assert high == pytest.approx(look.cams[0].high, rel=1e-3)
    page.fill("#cam-layer", "3")
    assert page.inner_text("#cam-name") == [*look.cams[0].maps][3]
    page.select_option("#cam-class", "1")
    until(page, "Object.keys(look.cams[1].maps).length")
    assert page.evaluate("look.cams[1].high") == pytest.approx(look.cams[1].high, rel=1e-3)


def test_two_models_stand_side_by_side_with_the_classes_that_differ_most_first(opened: OpenedPage, files: Path) -> None:
    page = opened.page
    page.select_option("#model-two", "1")
    show(page, files / "photo.png")
    until(page, "look.versus && look.versus.look && document.querySelectorAll('#versus-cards .stage image').length > 2")
    one, two = classes(files, "one"), classes(files, "two")
    order = sorted(one, key=lambda name: -abs(two[name] - one[name]))
    rows = page.locator("#versus-rows tr")
    assert rows.locator("th").all_inner_texts() == order
    change = f"{100 * (two[order[0]] - one[order[0]]):+.1f}".replace("-", "\u2212")
    assert rows.nth(0).locator("td").all_inner_texts() == [percent(one[order[0]]), percent(two[order[0]]), change]
    assert bars(page, "[data-model=two]")[0] == (max(two, key=lambda name: two[name]), percent(max(two.values())))


def test_another_model_answers_for_the_same_image_and_the_page_lists_what_an_export_lacks(
    opened: OpenedPage, files: Path
) -> None:
    page = opened.page
    show(page, files / "photo.png")
    page.select_option("#model-one", "2")
    until(page, "data.model.name === 'old' && live.shown && look.prepared && look.parts[state.part]")
    assert page.inner_text("#title") == "photo.png through old"
    assert {name for name, _ in bars(page)} <= {str(number) for number in range(10)}
    missing = "\n".join(page.locator("#missing-list li").all_inner_texts())
    assert "an exported file has no gradients" in missing
    assert "undefined" not in missing
    assert page.locator("#drawing svg").count() == 1


def test_several_files_become_tabs_and_an_unreadable_one_says_so(
    opened: OpenedPage, files: Path, tmp_path: Path
) -> None:
    page = opened.page
    show(page, files / "photo.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    drop(page, tmp_path / "broken.png")
    until(page, "!document.getElementById('live-fault').hidden")
    assert "broken.png" in page.inner_text("#live-fault")
    drop(page, files / "photo.png")
    until(page, "data.images.length === 2")
    assert page.locator("#images button").all_inner_texts() == ["photo.png", "photo.png"]
    assert page.locator("#live-fault").is_hidden()


def test_the_sample_the_paste_and_the_camera_give_images_too(browser: Browser, server: Running, files: Path) -> None:
    with open_address(browser, server.url) as opened:
        page = opened.page
        until(page, "live.known")
        page.click("#sample")
        until(page, "data.names[0] === 'sample.png' && !!look.prepared")
        page.evaluate(
            """() => {
              const canvas = Object.assign(document.createElement("canvas"), { width: 50, height: 40 });
              canvas.getContext("2d").fillRect(0, 0, 9, 9);
              return toFile(canvas, "pasted.png").then(file => {
                const clipboardData = new DataTransfer();
                clipboardData.items.add(file);
                document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
              });
            }"""
        )
        until(page, "data.names[1] === 'pasted.png'")
        page.click("#camera")  # which the browser does not allow
        until(page, "!document.getElementById('live-fault').hidden")
        assert "gives no camera" in page.inner_text("#live-fault")
        assert page.locator("#camera-view").is_hidden()
        page.evaluate("run([])")
        assert "no image file" in page.inner_text("#live-fault")


def test_the_camera_starts_on_a_click_gives_a_picture_and_stops(browser: Browser, server: Running) -> None:
    with open_address(browser, server.url, permissions=["camera"]) as opened:
        page = opened.page
        until(page, "live.known")
        assert page.evaluate("live.stream") is None
        page.click("#camera")
        until(page, "document.getElementById('video').videoWidth > 0")
        page.click("#shoot")
        until(page, "data.names[0] === 'camera.png' && !!look.prepared")
        page.evaluate("globalThis.track = live.stream.getTracks()[0]")
        page.click("#camera-stop")
        assert page.evaluate("track.readyState") == "ended"
        assert page.locator("#camera-view").is_hidden()
        assert not opened.errors


def test_the_keyboard_reaches_every_control_and_axe_finds_no_violation(
    browser: Browser, server: Running, files: Path
) -> None:
    for scheme in ("light", "dark"):
        with open_address(browser, server.url, color_scheme=scheme) as opened:
            page = opened.page
            until(page, "live.known && live.figures.length")
            assert not opened.violations()
            page.select_option("#model-two", "1")
            show(page, files / "photo.png")
            until(page, "look.versus && look.versus.look")
            assert not opened.violations()
            page.focus("#model-one")
            reached = []
            for _ in range(6):
                reached.append(page.evaluate("document.activeElement.id"))
                page.keyboard.press("Tab")
            assert reached[:5] == ["model-one", "model-two", "files", "camera", "sample"]


def test_a_phone_needs_no_sideways_scrolling_and_the_page_speaks_chinese(
    browser: Browser, server: Running, files: Path
) -> None:
    with open_address(browser, server.url, viewport={"width": 390, "height": 844}, locale="zh-CN") as opened:
        page = opened.page
        until(page, "live.known")
        assert page.inner_text("#live-title") == "给网络看一张图像"
        page.select_option("#model-two", "1")
        show(page, files / "photo.png")
        until(page, "look.versus && look.versus.look")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert "对比" in page.inner_text("#versus-title")
        page.click("#languages [value=en]")
        assert page.inner_text("#live-title") == "Show the network an image"
        assert "answered after" in page.inner_text("#live-note")
        assert not opened.errors


def test_a_choice_of_two_versions_stays_when_a_model_is_loaded_again(
    browser: Browser, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = (f"pets:1={files / 'one.safetensors'}", f"pets:2={files / 'two.safetensors'}")
    with running(versions, GatedEngine(), Limits(), None) as server, open_address(browser, server.url) as opened:
        page = opened.page
        until(page, "live.known")
        page.select_option("#model-one", "1")
        page.select_option("#model-two", "0")
        first, second = server.server.models.activity()
        monkeypatch.setattr(server.server.models, "activity", lambda: [first | {"engine": "another"}, second])
        until(page, "live.models[0].engine === 'another' && chosen('model-one')")
        assert page.evaluate("['model-one', 'model-two'].map(id => chosen(id).version)") == ["2", "1"]


def test_guessing_hides_the_answers_of_both_models(opened: OpenedPage, files: Path) -> None:
    page = opened.page
    page.select_option("#model-two", "1")
    show(page, files / "photo.png")
    until(page, "look.versus")
    page.click("#guess-mode")
    assert not page.locator("#heads, #versus").filter(visible=True).count()
    page.click("#reveal")
    assert page.locator("#heads, #versus").filter(visible=True).count() == 2


def test_the_page_asks_for_the_token_and_keeps_it_in_memory_only(browser: Browser, files: Path) -> None:
    one = (f"one={files / 'one.safetensors'}",)
    with running(one, GatedEngine(), Limits(), TOKEN) as server, open_address(browser, server.url) as opened:
        page = opened.page
        page.wait_for_selector("#token-form")
        assert page.locator("#drop").is_hidden()
        page.fill("#token", "another")
        page.keyboard.press("Enter")
        until(page, "!document.getElementById('live-fault').hidden")
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        until(page, "live.known")
        assert page.locator("#token-form").is_hidden()
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
        assert TOKEN not in page.url
        assert TOKEN not in page.content()


def test_the_graph_shows_the_speed_and_the_queue(opened: OpenedPage) -> None:
    opened.page.evaluate(
        """() => {
          live.figures = [0, 1].map(second => ({ name: "one", version: "1", now: 1000 * second, queue: 7 * second,
                                                 images: 12 * second, engine_seconds: second / 4 }));
          showActivity();
        }"""
    )
    assert opened.page.locator("#graphs b").all_inner_texts() == ["12.0", "25 %", "7"]


def test_what_the_graph_shows_are_the_counts_of_the_engine(server: Running, files: Path) -> None:
    before = server.client.get("/live/status").json()["models"][0]
    ask(server, "/predict", files / "photo.png")
    after = server.client.get("/live/status").json()["models"][0]
    assert after["images"] == before["images"] + 1
    assert after["batches"] == before["batches"] + 1
    assert before["engine_seconds"] < after["engine_seconds"] < 60
    assert (after["name"], after["queue"], after["in_flight"]) == ("one", 0, 0)


def test_an_error_of_the_inside_leaves_the_answer_and_gives_its_reason(
    browser: Browser, files: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes((files / "one.safetensors").read_bytes())
    with running((f"copy={copy}",), GatedEngine(), Limits(), None) as server:
        copy.write_bytes((files / "two.safetensors").read_bytes())
        answer = ask(server, "/explain", files / "photo.png")
        assert answer.status_code == 400
        with open_address(browser, server.url) as opened:
            page = opened.page
            until(page, "live.known")
            drop(page, files / "photo.png")
            until(page, "!document.getElementById('live-fault').hidden")
            for text in (page.inner_text("#live-fault"), answer.json()["error"]):
                assert "copy: its file has changed since it was opened" in text
            assert len(bars(page)) == 4


# ------------------------------------------------------------------------------------------------ for programs


def test_the_page_and_the_first_answers_have_at_most_300_kilobytes(
    server: Running, files: Path, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(noise).resize((1600, 1200)).save(tmp_path / "photo.jpg", quality=90)
    sizes = []
    for method, path in (("GET", "/"), ("GET", "/live/model"), ("GET", "/live/status"), ("POST", "/live/look")):
        content = (tmp_path / "photo.jpg").read_bytes() if method == "POST" else None
        with server.client.stream(method, path, params={"show": "view,channels"}, content=content) as response:
            assert response.status_code == 200
            sizes.append(sum(len(chunk) for chunk in response.iter_raw()))
    assert sum(sizes) < 300_000


def test_explain_returns_the_values_of_the_command_or_a_picture(
    server: Running, files: Path, model: InceptionV3
) -> None:
    for query in ({}, {"class": "moth", "end_point": "Mixed_6e"}):
        options = AttributionOptions(class_name=query.get("class"), end_point=query.get("end_point"))
        expected = attribute(model, files / "photo.png", options)
        answer = ask(server, "/explain", files / "photo.png", **query).json()
        assert (answer["class"], answer["end_point"], answer["model"]) == (
            expected.class_name,
            expected.end_point,
            "one",
        )
        assert answer["score"] == pytest.approx(expected.score, rel=1e-3, abs=1e-4)
        np.testing.assert_allclose(
            answer["values"], expected.values, rtol=1e-2, atol=1e-3 * max(expected.values.max(), 1e-9)
        )
    picture = ask(server, "/explain", files / "photo.png", format="png")
    assert picture.headers["Content-Type"] == "image/png"
    assert Image.open(io.BytesIO(picture.content)).width >= 160


@pytest.mark.parametrize(
    ("path", "query", "remedy"),
    [
        ("/explain", {"method": "occlusion"}, "use `inception-v3 explain --method`"),
        ("/explain", {"format": "gif"}, "format must be json or png, not gif"),
        ("/explain", {"class": "horse"}, "no class horse"),
        ("/explain", {"end_point": "Mixed_9z"}, "one has Grad-CAM for Conv2d_1a_3x3"),
        ("/explain", {"model": "old", "end_point": "Mixed_6e"}, "serve the weights that it was exported from"),
        ("/live/look", {"show": "view,soul"}, "soul is none of view, channels, field, cam"),
        ("/live/look", {"show": "channels", "part": "Mixed_9z"}, "one has no Mixed_9z"),
        ("/live/look", {"show": "cam", "class": "99"}, "no class 99"),
        ("/live/look", {"prepared": "true"}, "prepared must have 107x107 pixels"),
        ("/live/look", {"prepared": "maybe"}, "prepared must be false or true"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_remedy(
    server: Running, files: Path, path: str, query: dict[str, str], remedy: str
) -> None:
    answer = ask(server, path, files / "photo.png", **query)
    assert answer.status_code == 400
    assert remedy in answer.json()["error"]


def test_looks_take_turns_with_the_engine_and_count_in_the_queue(
    server: Running, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns, asked = server.server.models._turns, []
    maps = PyTorchInside.maps
    monkeypatch.setattr(PyTorchInside, "maps", lambda *given: asked.append(given[2]) or maps(*given))
    with turns:  # as an engine holds it
        late = ask(server, "/live/look", files / "photo.png", show="channels", timeout=1)
        assert late.status_code == 504
    assert ask(server, "/live/look", files / "photo.png", show="channels", part="Mixed_6e").status_code == 200
    assert asked == ["Mixed_6e"]  # what came too late was not computed
    full = Limits(queue=1)
    with running((f"one={files / 'one.safetensors'}",), GatedEngine(), full, None) as small:
        key = small.server.models.names()[0]
        with small.server.models.use(*key) as model, model.queue.hold(1):
            assert ask(small, "/explain", files / "photo.png").status_code == 503


def test_the_name_of_an_image_is_not_taken_for_that_of_a_model(server: Running, files: Path) -> None:
    answer = ask(server, "/predict", files / "photo.png", name="two")
    assert (answer.json()["model"], answer.json()["results"][0]["image"]) == ("one", "two")


def test_only_the_page_may_use_the_camera_and_nothing_may_load_from_elsewhere(server: Running) -> None:
    page, other = server.client.get("/"), server.client.get("/v2")
    assert page.headers["Permissions-Policy"] == "camera=(self), microphone=()"
    assert other.headers["Permissions-Policy"] == "camera=(), microphone=()"
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "connect-src 'self'" in policy
    assert "script-src 'sha256-" in policy
    assert "http" not in policy


@torch.no_grad()
def test_the_input_of_a_look_is_that_of_predict_bit_for_bit(server: Running, files: Path, model: InceptionV3) -> None:
    answer = ask(server, "/live/look", files / "photo.png").json()
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["input"].partition(",")[2]))))
    expected = model.preprocessing.pixels(Image.open(files / "photo.png").convert("RGB"))
    np.testing.assert_array_equal(pixels, expected.permute(1, 2, 0).numpy())
