"""A network in a page: opened from disk in Chromium without a network, it gives the probabilities of `predict`.

onnxruntime-web comes from the cache of `inception-v3 export`. If it is not there, npm fetches it where the environment
variable CI is set, as .ci/run does; elsewhere the tests that run a network are skipped.
"""

import base64
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

import inception_v3
from browser import OpenedPage, open_browser, open_page
from conftest import randomise
from inception_v3.errors import InputError
from inception_v3.images.decode import open_image
from inception_v3.images.preprocessing import PREPROCESSINGS, Preprocessing
from inception_v3.inference.export import export
from inception_v3.inference.exported.offline import runtime as web_runtime
from inception_v3.inference.exported.offline.format import SOURCES
from inception_v3.inference.exported.registry import load_format, read_description, recognise
from inception_v3.network.architecture import OutputActivation
from inception_v3.network.probabilities import probabilities
from inception_v3.support.files import cache_folder
from inception_v3.weights.load import load, save
from inception_v3.weights.model import InceptionV3

Command = Callable[..., tuple[int, str, str]]
NAMES = ["cat", "</script><img src=x onerror=alert(1)>", "\u202ekcab", "狗", "e", "f", "g"]
CARD = """---
license: mit
---
# Our pets

<!-- a note -->
<script>alert(1)</script>

| a | b |
| - | - |
| 1 | 2 |
"""
DONE = "#results:not(:has([aria-busy=true]))"  # no image waits
TEST = """
const bytes = (text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
const text = (values) => btoa(Array.from(values, (value) => String.fromCharCode(value)).join(""));
const prepared = ([width, height, data, options]) => text(prepare({ width, height, data: bytes(data) }, options));
const decoded = async (file) => {
  const { width, height, data } = pixels(await decode(new Blob([bytes(file)])));
  return [height, width, text(data)];
};
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def scripts(browser: Browser) -> Iterator[Page]:
    """An empty page with the scripts that prepare an image."""
    page = browser.new_page()
    content = "\n".join([*(SOURCES.joinpath(name).read_text("utf-8") for name in ("prepare.js", "worker.js")), TEST])
    page.add_script_tag(content=content)
    yield page
    page.close()


@pytest.fixture(scope="module")
def runtime() -> Path:
    """A folder with onnxruntime-web."""
    folder = cache_folder(web_runtime.PACKAGE, web_runtime.VERSION)
    if not (folder / web_runtime.BINARY).exists() and not os.environ.get("CI"):
        pytest.skip(f"{folder} is missing; `inception-v3 export MODEL page.html` or CI=1 lets npm fetch it")
    web_runtime.load_runtime()
    return folder


@pytest.fixture(scope="module")
def package(runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which npm has installed onnxruntime-web."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(runtime, folder / "node_modules" / web_runtime.PACKAGE / "dist")
    return folder


@pytest.fixture(scope="module")
def run(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its page and its .onnx file, and a model card with a script."""
    folder = tmp_path_factory.mktemp("run")
    model = InceptionV3(num_classes=len(NAMES), depth_multiplier=0.2, min_depth=8, image_size=107)
    model.class_names = NAMES
    randomise(model)
    save(model, folder / "model.safetensors")
    (folder / "README.md").write_text(CARD)
    loaded = load(folder / "model.safetensors")
    export(loaded, folder / "pets.onnx")
    export(loaded, folder / "pets.html", runtime=package)
    return folder


@pytest.fixture(scope="module")
def only_page(run: Path, browser: Browser) -> Iterator[OpenedPage]:
    with open_page(browser, run / "pets.html", locale="en-GB") as page:
        page.page.set_default_timeout(60_000)
        page.page.wait_for_selector("body[data-ready]")
        yield page


@pytest.fixture
def opened(only_page: OpenedPage) -> OpenedPage:
    """The page without images."""
    if only_page.page.is_visible("#clear"):
        only_page.page.click("#clear")
    only_page.page.select_option("#language", "0")
    only_page.errors.clear()
    return only_page


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> Image.Image:
    """Waves with noise, so that both a shift and another interpolation change the pixels."""
    rng = np.random.default_rng(seed)
    waves = 128 + 70 * np.sin(np.arange(width * height * channels).reshape(height, width, channels) / 9)
    values = np.clip(waves + rng.normal(0, 30, waves.shape), 0, 255).astype(np.uint8)
    return Image.fromarray(values)


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def prepare(page: Page, image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """The pixels (H, W, 3) that the page prepares."""
    data = base64.b64encode(image.convert("RGBA").tobytes()).decode()
    values = page.evaluate(
        "(input) => prepared(input)", [*image.size, data, json.loads(json.dumps(asdict(preprocessing)))]
    )
    return np.frombuffer(base64.b64decode(values), np.uint8).reshape(*preprocessing.image_size, 3)


SIZES = [(75, 91), (1, 1), (1, 400), (400, 1), (333, 251), (17, 1000), (1001, 13), (300, 500), (45, 44), (100, 90)]
OPTIONS: list[Preprocessing] = [
    *(Preprocessing.named(name, (75, 91)) for name in PREPROCESSINGS),
    *(Preprocessing((75, 91), interpolation=name) for name in ("bicubic", "nearest", "box", "hamming", "lanczos")),
    Preprocessing((75, 91), interpolation="tensorflow"),
    Preprocessing((75, 91), interpolation="tensorflow", resize=60),
    Preprocessing((75, 91), resize=(70, 100), fit="contain", mean=(0.4, 0.5, 0.6)),
    Preprocessing((75, 91), resize=(80, 85), fit="stretch"),
    Preprocessing((75, 91), resize=60),
    Preprocessing((75, 91), resize=(80, 100), interpolation="bicubic"),
    Preprocessing((64, 64), squash=True, crop_fraction=0.8, interpolation="lanczos"),
]


@pytest.mark.parametrize("preprocessing", OPTIONS, ids=lambda each: f"{each.interpolation}-{each.fit}-{each.resize}")
def test_the_page_prepares_images_of_odd_sizes_with_the_same_pixels(
    scripts: Page, preprocessing: Preprocessing
) -> None:
    sines = preprocessing.interpolation in ("hamming", "lanczos")  # Chromium and the C library round them differently
    for size in SIZES:
        image = noise(*size)
        difference = np.abs(prepare(scripts, image, preprocessing).astype(int) - preprocessing.array(image))
        assert difference.max() <= sines, size


def upright(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


TRANSPARENT = noise(61, 43, 4)
FILES = {
    "png": encoded(noise(161, 103), "PNG"),
    "png-larger-than-a-tile": encoded(noise(4500, 3), "PNG"),
    "png-transparent": encoded(TRANSPARENT, "PNG"),
    "png-gray": encoded(noise(61, 43).convert("L"), "PNG"),
    "png-gray-transparent": encoded(TRANSPARENT.convert("LA"), "PNG"),
    "png-palette": encoded(noise(61, 43).convert("P"), "PNG"),
    "gif": encoded(noise(61, 43), "GIF"),
    "bmp": encoded(noise(61, 43), "BMP"),
    "webp": encoded(TRANSPARENT, "WEBP", lossless=True, exact=True),
    **{f"jpeg-exif-{turn}": encoded(noise(61, 43), "JPEG", quality=90, exif=upright(turn)) for turn in range(1, 9)},
    "png-exif-6": encoded(noise(61, 43), "PNG", exif=upright(6)),
    **{f"webp-exif-{turn}": encoded(noise(61, 43), "WEBP", lossless=True, exif=upright(turn)) for turn in range(1, 9)},
}


@pytest.mark.parametrize("name", FILES)
def test_the_page_decodes_images_as_predict_does(scripts: Page, name: str) -> None:
    height, width, values = scripts.evaluate("(file) => decoded(file)", base64.b64encode(FILES[name]).decode())
    pixels = np.frombuffer(base64.b64decode(values), np.uint8).reshape(height, width, 4)[..., :3]
    expected = np.asarray(open_image(FILES[name]))
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= (4 if "jpeg" in name else 1)


@pytest.mark.parametrize(("count", "activation"), [(5, "softmax"), (5, "sigmoid"), (1, "sigmoid"), (5, "none")])
def test_the_page_computes_probabilities_as_predict_does(
    scripts: Page, count: int, activation: OutputActivation
) -> None:
    logits = np.random.default_rng(0).normal(0, 3, count).astype(np.float32)
    got = scripts.evaluate("([logits, activation]) => activate(logits, activation)", [logits.tolist(), activation])
    assert got == pytest.approx(probabilities(logits, activation).tolist(), abs=1e-6)


def scores(opened: OpenedPage) -> list[list[float]]:
    return opened.page.evaluate("[...images.values()].map((image) => image.scores)")  # type: ignore[no-any-return]


def test_a_page_from_disk_gives_the_probabilities_of_predict(run: Path, opened: OpenedPage, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for number, file in enumerate(files):
        noise(90 + 40 * number, 100, seed=number).save(file)
    opened.page.set_input_files("#files", files)
    opened.page.wait_for_selector(f"{DONE} >> .classes >> nth=2")
    predictions = list(inception_v3.Predictor(run / "pets.onnx")(files, top=len(NAMES)))
    names = opened.page.evaluate("facts.class_names")
    for got, prediction in zip(scores(opened), predictions, strict=True):
        expected = dict(prediction.classes)
        assert got == pytest.approx([expected[name] for name in names], abs=1e-2)
    first = opened.page.locator("#results > li").first
    assert first.locator(".classes li").count() == 5
    best = max(zip(scores(opened)[0], names, strict=True))
    assert f"{100 * best[0]:.1f}\u00a0%" in first.locator(".classes li").first.inner_text()
    assert opened.page.inner_text("#status").startswith("3 images classified")
    assert (opened.requests, opened.errors) == ([], [])


def test_nothing_in_a_page_can_connect(opened: OpenedPage) -> None:
    blocked = "fetch('https://a.invalid/').then(() => 'sent', (error) => String(error))"
    assert "TypeError" in opened.page.evaluate(blocked)
    assert any("Content Security Policy" in message for message in opened.errors)
    assert opened.requests == []
    policy = opened.page.get_attribute("meta[http-equiv=Content-Security-Policy]", "content") or ""
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]


def test_names_and_cards_are_shown_as_text(opened: OpenedPage, tmp_path: Path) -> None:
    file = tmp_path / "<b>cat\u202egnp.png"
    noise(80, 60).save(file, "PNG")
    opened.page.set_input_files("#files", file)
    opened.page.wait_for_selector(f"{DONE} >> .classes")
    opened.page.click(".more")
    assert opened.page.inner_text("#results h3") == "<b>cat\\u{202e}gnp.png"
    shown = opened.page.locator(".classes bdi").all_inner_texts()
    assert sorted(shown) == sorted(["cat", NAMES[1], "\\u{202e}kcab", "狗", "e", "f", "g"])
    assert opened.page.locator("img").count() == 0
    opened.page.click("summary")
    assert opened.page.inner_text("#card h1") == "Our pets"
    assert "<script>alert(1)</script>" in opened.page.inner_text("#card")
    assert opened.page.locator("#card td").all_inner_texts() == ["1", "2"]
    assert not {"license", "note"} & set(re.findall(r"\w+", opened.page.inner_text("#card")))


def test_an_unreadable_image_does_not_stop_the_others(opened: OpenedPage, tmp_path: Path) -> None:
    noise(80, 60).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(FILES["png"][:300])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.txt").write_text("text")
    names = ["bad.png", "empty.jpg", "text.txt", "good.png"]
    opened.page.set_input_files("#files", [tmp_path / name for name in names])
    opened.page.wait_for_selector(f"{DONE} >> .classes")
    texts = opened.page.locator("#results > li").all_inner_texts()
    assert len(texts) == 3  # a text file is no image
    assert all(
        "damaged, or of a format that this browser cannot read; save it as PNG or JPEG" in text for text in texts[:2]
    )
    assert "%" in texts[2]
    opened.page.set_input_files("#files", tmp_path / "text.txt")
    expect(opened.page.locator("#status")).to_have_text("There was no image in that.")


def transfer(opened: OpenedPage, event: str, kind: str) -> None:
    """Drop or paste a PNG."""
    opened.page.evaluate(
        """([data, event, kind]) => {
        const transfer = new DataTransfer();
        const bytes = Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0));
        transfer.items.add(new File([bytes], "cat.png", { type: "image/png" }));
        const Event = window[kind];
        const options = kind === "DragEvent" ? { dataTransfer: transfer } : { clipboardData: transfer };
        document.body.dispatchEvent(new Event(event, { ...options, bubbles: true, cancelable: true }));
        }""",
        [base64.b64encode(FILES["png"]).decode(), event, kind],
    )


def test_images_are_dropped_and_pasted(opened: OpenedPage) -> None:
    transfer(opened, "dragenter", "DragEvent")
    assert opened.page.locator("#drop.over").count() == 1
    transfer(opened, "drop", "DragEvent")
    assert opened.page.locator("#drop.over").count() == 0
    transfer(opened, "paste", "ClipboardEvent")
    opened.page.wait_for_selector(f"{DONE} >> .classes >> nth=1")
    first, second = scores(opened)
    assert first == second


def test_a_page_is_used_by_keyboard_and_in_two_languages(opened: OpenedPage, tmp_path: Path) -> None:
    page = opened.page
    noise(80, 60).save(tmp_path / "cat.png")
    page.set_input_files("#files", [tmp_path / "cat.png", tmp_path / "cat.png"])
    page.wait_for_selector(f"{DONE} >> .classes >> nth=1")
    page.locator(".more").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#results > li").first.locator(".classes li").count() == len(NAMES)
    assert page.evaluate("document.activeElement.textContent") == "Show the top 5 only"
    page.get_by_label("Remove cat.png").first.press("Enter")
    assert page.locator("#results > li").count() == 1
    assert page.evaluate("document.activeElement.ariaLabel") == "Remove cat.png"
    page.select_option("#language", "1")
    assert page.evaluate("document.documentElement.lang") == "zh"
    assert page.inner_text("#results-title") == "结果"
    assert page.inner_text("#status").startswith("cat.png：")
    page.click("#clear")
    assert page.locator("#results > li").count() == 0


def test_a_page_fits_every_screen_and_is_accessible(opened: OpenedPage, tmp_path: Path) -> None:
    page, name = opened.page, f"{'long' * 40}.png"
    noise(400, 30).save(tmp_path / name)
    page.set_input_files("#files", tmp_path / name)
    page.wait_for_selector(f"{DONE} >> .classes")
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
    schemes: tuple[Literal["dark", "light"], ...] = ("dark", "light")
    for width, scheme in product((390, 800, 1400), schemes):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.violations() == []


def test_every_text_is_in_both_languages() -> None:
    texts = json.loads(SOURCES.joinpath("texts.json").read_text("utf-8"))
    sources = "".join(SOURCES.joinpath(name).read_text("utf-8") for name in ("page.js", "page.html", "worker.js"))
    assert all(len(each) == 2 and all(each) for each in texts.values())
    assert [key for key in texts if not re.search(rf"\b{key}\b", sources)] == []
    used = {*re.findall(r'(?:\btext\("|data-text="|\bkey: "|\bfault = "|\["(?=facts_))(\w+)"', sources)}
    assert {"choose", "pasted", "no_files", "unreadable", "facts_input"} <= used <= texts.keys()


@pytest.mark.parametrize("damage", ["network", "wasm"])
def test_a_damaged_page_says_so(run: Path, browser: Browser, tmp_path: Path, damage: str) -> None:
    text = (run / "pets.html").read_text("utf-8")
    start = text.index(f'id="{damage}-data">') + 10_000
    (tmp_path / "pets.html").write_text(text[:start] + text[start + 4000 :], "utf-8")
    with open_page(browser, tmp_path / "pets.html", locale="en-GB") as opened:
        opened.page.wait_for_selector("#fault:not([hidden])")
        assert "This file is damaged" in opened.page.inner_text("#fault")


def test_the_description_of_a_page_is_that_of_its_network(run: Path, command: Command) -> None:
    page, onnx = read_description(run / "pets.html"), read_description(run / "pets.onnx")
    assert recognise(run / "pets.html") is load_format("html")
    assert page.class_names == NAMES
    assert (page.check, page.weights, page.speed) == (onnx.check, onnx.weights, None)
    status, _, err = command("predict", run / "pets.html", run / "pets.onnx")
    assert status == 1
    assert "pets.html runs only in a browser; here .onnx and .xml files run" in err


def test_export_writes_a_page_and_prints_its_size(run: Path, package: Path, tmp_path: Path, command: Command) -> None:
    model, out = run / "model.safetensors", tmp_path / "pets.html"
    status, printed, err = command("export", model, out, "--runtime", package, "--quiet")
    assert (status, err) == (0, "")
    assert f"{out.stat().st_size / 1e6:.1f} MB; open it in a browser" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["pets.html"]


def test_wrong_runtimes_and_options_are_refused_before_any_work(
    random_model: Callable[..., InceptionV3], tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(random_model(), model := tmp_path / "model.safetensors")
    (other := tmp_path / "other" / "dist").mkdir(parents=True)
    for name in web_runtime.CHECKSUMS:
        (other / name).write_text("another version")
    install = "npm install --ignore-scripts onnxruntime-web@1.30.0"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    cases = [
        (["--runtime", tmp_path], 2, f"--runtime {tmp_path}: onnxruntime-web is not in it; run there: {install}"),
        (["--runtime", other.parent], 1, f"not the file of onnxruntime-web 1.30.0; install it again: {install}"),
        ([], 1, "npm, which would fetch it, is not installed"),
        (["--end-points", "AvgPool_1a"], 2, "a page shows classes, so it needs the logits; leave out --end-points"),
        (["--precision", "bf16"], 2, "html has fp32, int8; bf16 is for openvino"),
    ]
    for options, expected, message in cases:
        status, _, err = command("export", model, tmp_path / "pets.html", *options)
        assert (status, err.count("\n")) == (expected, 1)
        assert message in err
    status, _, err = command("export", model, tmp_path / "pets.onnx", "--runtime", tmp_path)
    assert (status, "--runtime is only for a page" in err) == (2, True)
    assert not (tmp_path / "pets.html").exists()


def test_npm_fetches_the_runtime_once_and_its_failure_is_one_line(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script in the place of npm packs the files of the cache, and fails the second time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(runtime, tmp_path / "package" / "dist")
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(
        "#!/bin/sh\nif [ -e TRIED ]; then printf 'npm error %s\\n' 'code ENOTFOUND' 'syscall getaddrinfo' \\\n"
        "'network request to https://host failed' 'network behind a proxy?' 'A log is in: x' >&2; exit 1; fi\n"
        'touch TRIED\ntar czf "$5/onnxruntime-web-1.30.0.tgz" -C FOLDER package\n'.replace(
            "TRIED", str(tmp_path / "tried")
        ).replace("FOLDER", str(tmp_path))
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent), prepend=os.pathsep)
    lines: list[str] = []
    fetched = web_runtime.load_runtime(report=lines.append)
    assert fetched == web_runtime.load_runtime(report=lines.append)
    cache = tmp_path / "cache" / "inception-v3" / "onnxruntime-web" / "1.30.0"
    assert lines == [f"npm fetches onnxruntime-web 1.30.0 once (33 MB), into {cache}"]
    (cache / web_runtime.BINARY).write_bytes(b"damaged")
    with pytest.raises(
        InputError,
        match=r"cannot be fetched \(request to https://host failed\); or name a folder with it: --runtime FOLDER",
    ):
        web_runtime.load_runtime()
