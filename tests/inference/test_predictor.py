"""`Predictor`: images of every kind give the bits of their files, and threads may share it."""

import io
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fake_engine import CLASSES, SIZE, FakeEngine
from inception_v3.cli import main
from inception_v3.errors import InputError
from inception_v3.inference.choose import OpenedModel
from inception_v3.inference.engines.base import VECTORS, Outputs, Pixels
from inception_v3.inference.export import export
from inception_v3.inference.exported.description import Description
from inception_v3.inference.predict import Prediction, Predictor
from inception_v3.network.settings import Settings
from inception_v3.weights.load import save
from inception_v3.weights.model import InceptionV3

pytestmark = pytest.mark.usefixtures("one_thread")

Build = Callable[..., InceptionV3]
ENGINES = ["pytorch", "onnxruntime", "openvino"]
EXIF_ORIENTATION, ROTATED = 274, 6


@pytest.fixture
def model(random_model: Build, tmp_path: Path) -> Path:
    save(random_model(image_size=75), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.fixture
def predictor(model: Path) -> Predictor:
    return Predictor(model, "pytorch")


def photo(height: int = 90, width: int = 130, channels: int = 3, seed: int = 0) -> np.ndarray:
    low = np.random.default_rng(seed).integers(0, 256, (height // 10, width // 10, channels), dtype=np.uint8)
    return low.repeat(10, 0).repeat(10, 1)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def rotated_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = ROTATED
    return exif


def palette() -> Image.Image:
    image = Image.fromarray(photo()).quantize(16)
    image.info["transparency"] = 3
    return image


FILES: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: encoded(Image.fromarray(photo())),
    "JPEG": lambda: encoded(Image.fromarray(photo()), "JPEG"),
    "JPEG, rotated": lambda: encoded(Image.fromarray(photo()), "JPEG", exif=rotated_exif()),
    "PNG, rotated": lambda: encoded(Image.fromarray(photo()), exif=rotated_exif()),
    "RGBA": lambda: encoded(Image.fromarray(photo(channels=4))),
    "gray": lambda: encoded(Image.fromarray(photo()).convert("L")),
    "gray with alpha": lambda: encoded(Image.fromarray(photo(channels=4)).convert("LA")),
    "16-bit gray": lambda: encoded(Image.fromarray(photo()[:, :, 0].astype(np.uint16) * 256)),
    "palette with a transparent colour": lambda: encoded(palette(), transparency=3),
    "GIF": lambda: encoded(Image.fromarray(photo()), "GIF"),
    "CMYK": lambda: encoded(Image.fromarray(photo()).convert("CMYK"), "JPEG"),
}


def same(results: list[Prediction], expected: list[Prediction]) -> bool:
    return [result.classes for result in results] == [other.classes for other in expected] and bool(expected)


@pytest.mark.parametrize("kind", FILES)
def test_bytes_and_pillow_images_give_the_bits_of_the_file(predictor: Predictor, tmp_path: Path, kind: str) -> None:
    content = FILES[kind]()
    (tmp_path / "file").write_bytes(content)
    expected = list(predictor(tmp_path / "file"))
    assert expected[0].error is None
    assert same([predictor.predict_bytes(content)], expected)
    assert same(predictor.predict_bytes([content]), expected)
    assert same([predictor.predict_bytes(memoryview(content))], expected)
    opened = Image.open(io.BytesIO(content))
    size = opened.size
    assert same(list(predictor(opened)), expected), "not loaded yet"
    assert same(list(predictor(opened)), expected), "loaded"
    assert opened.size == size


@pytest.mark.parametrize("channels", [0, 1, 3, 4])
def test_arrays_give_the_bits_of_a_png_of_their_pixels(predictor: Predictor, tmp_path: Path, channels: int) -> None:
    pixels = photo(channels=max(channels, 1))
    flat = pixels[:, :, 0] if channels < 2 else pixels
    Image.fromarray(flat).save(tmp_path / "file.png")
    expected = list(predictor(tmp_path / "file.png"))
    assert expected[0].error is None
    for array in (pixels if channels else flat, np.asfortranarray(pixels if channels else flat)):
        assert same(list(predictor(array)), expected)
        assert same(list(predictor([array])), expected)


def test_images_of_all_kinds_are_mixed_in_one_call_and_keep_their_order(predictor: Predictor, tmp_path: Path) -> None:
    images = [Image.fromarray(photo(seed=seed)) for seed in range(4)]
    files = [tmp_path / f"{number}.png" for number in range(4)]
    for file, image in zip(files, images, strict=True):
        image.save(file)
    expected = list(predictor(files))
    mixed = [files[0], str(files[1]), images[2], np.asarray(images[3])]
    results = list(predictor(mixed))
    assert [result.image for result in results] == [str(files[0]), str(files[1]), "images[2]", "images[3]"]
    assert same(results, expected)
    assert same(list(predictor(iter(mixed))), expected), "an iterator"
    assert list(predictor([])) == predictor.predict_bytes([]) == []


def test_an_unreadable_image_does_not_stop_the_others(predictor: Predictor) -> None:
    good, damaged = FILES["JPEG"](), FILES["PNG"]()[:60]
    first, second, third, fourth = predictor.predict_bytes([good, damaged, b"", good])
    assert (first.image, second.image, fourth.image) == ("data[0]", "data[1]", "data[3]")
    assert same([fourth], [first])
    assert second.error is not None
    assert second.error.startswith("data[1]: ")
    assert third.error == "data[2]: the file is empty; download or save it again"
    assert predictor.predict_bytes(b"").error == "data: the file is empty; download or save it again"
    cut = Image.open(io.BytesIO(good[:-400]))
    results = list(predictor([cut, np.asarray(Image.open(io.BytesIO(good))), Image.new("RGB", (0, 5))]))
    assert [bool(result.error) for result in results] == [True, False, True]
    assert results[2].error == "images[2]: cannot be read (an image of 0x5 pixels); download or save it again"


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (photo() / np.float32(255), r"images: float32 of shape \(90, 130, 3\), .*\(H, W, 3\).* 0 to 255; floats in"),
        (photo().astype(np.int64), "int64 .* uint8 .*astype"),
        (photo() > 9, "bool .* uint8"),
        (photo().transpose(2, 0, 1), r"\(3, 90, 130\).*transpose\(1, 2, 0\)"),
        (np.stack([photo()] * 2), r"give several images as a list, such as list\(array\)"),
        (photo()[:, :, :2], "check its shape"),
        (photo()[0, :, 0], "check its shape"),
        (photo()[:0], "check its shape"),
    ],
)
def test_an_array_that_is_no_image_is_refused_at_once(predictor: Predictor, array: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        predictor(array)
    with pytest.raises(ValueError, match=problem.replace("images:", r"images\[1\]:")):
        predictor([photo(), array])


def test_an_array_that_is_no_image_is_refused_when_an_iterator_reaches_it(predictor: Predictor) -> None:
    def frames() -> Iterator[np.ndarray]:
        yield photo()
        yield photo() / 255

    results = predictor(frames())
    assert next(results).error is None
    with pytest.raises(ValueError, match=r"images\[1\]: float64"):
        next(results)


def test_other_types_are_refused_with_the_method_for_them(predictor: Predictor) -> None:
    with pytest.raises(TypeError, match="predict_bytes"):
        predictor([FILES["PNG"]()])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"data\[0\] must be the bytes of an image file, not str"):
        predictor.predict_bytes(["photo.png"])  # type: ignore[list-item]


def test_pillow_images_are_not_changed_by_scaled_decoding(predictor: Predictor) -> None:
    image = Image.open(io.BytesIO(encoded(Image.fromarray(photo(900, 1300)), "JPEG")))
    (result,) = predictor(image, decode="scaled")
    assert result.error is None
    assert image.size == (1300, 900)


# ------------------------------------------------------------------------------------------------ threads


@pytest.mark.parametrize("callers", [1, 3])
@pytest.mark.parametrize("engine", ENGINES)
def test_eight_threads_that_share_a_predictor_get_the_results_of_one_thread(
    model: Path, engine: str, callers: int
) -> None:
    predictor = Predictor(model, engine, callers=callers)
    images = [photo(seed=seed) for seed in range(24)]
    parts = [images[first::8] * 3 for first in range(8)]
    contents = [[encoded(Image.fromarray(image)) for image in part] for part in parts]
    expected = [list(predictor(part, batch_size=4)) for part in parts]
    assert len({str(results[0].classes) for results in expected}) == 8, "each thread has other images"
    together = threading.Barrier(8)

    def run(number: int) -> tuple[list[Prediction], list[Prediction], Prediction]:
        together.wait()
        arrays = list(predictor(parts[number], batch_size=4))
        return (
            arrays,
            predictor.predict_bytes(contents[number], batch_size=4),
            predictor.predict_bytes(contents[number][0]),
        )

    with ThreadPoolExecutor(8) as pool:
        for (arrays, uploads, first), alone in zip(pool.map(run, range(8)), expected, strict=True):
            assert same(arrays, alone)
            assert same(uploads, alone)
            assert same([first], alone[:1])


class CountingEngine(FakeEngine):
    """Records the largest number of threads that ran it at the same time."""

    def __init__(self, callers: int) -> None:
        super().__init__()
        self.callers, self.running, self.most, self.lock = callers, 0, 0, threading.Lock()

    def run(self, inputs: Pixels) -> Outputs:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(0.01)
        with self.lock:
            self.running -= 1
        return super().run(inputs)


@pytest.mark.parametrize("callers", [1, 2])
def test_the_engine_runs_for_as_many_threads_as_it_was_built_for(monkeypatch: pytest.MonkeyPatch, callers: int) -> None:
    engine = CountingEngine(callers)
    description = Description(Settings(num_classes=CLASSES), SIZE, None, VECTORS, "fp32", False, "")
    opened = OpenedModel(engine, description, Path(), "requested")
    monkeypatch.setattr("inception_v3.inference.predict.open_engine", lambda *_, **__: opened)
    predictor = Predictor("a network")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: list(predictor([photo()] * 4, batch_size=1)), range(8)))
    assert engine.most == callers


# --------------------------------------------------------------------------------- networks without a classifier


def network_without_classifier(random_model: Build, folder: Path, kind: str) -> Path:
    """A file with a network up to Mixed_7c: a file of weights, or an exported file, of such a model or of a whole."""
    model = random_model(final_endpoint="Mixed_7c") if kind != "export of a whole model" else random_model()
    if kind == "weights":
        save(model, folder / "base.safetensors")
        return folder / "base.safetensors"
    export(model, folder / "base.onnx", outputs=["Mixed_7c"])
    return folder / "base.onnx"


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        (
            "weights",
            "base.safetensors: .* has no classifier, it ends at Mixed_7c; train one .* `inception-v3 finetune`",
        ),
        ("export", "base.onnx: .* has no classifier, it ends at Mixed_7c; train one .* `inception-v3 finetune`"),
        ("export of a whole model", "exported with only Mixed_7c, so it has no classifier; .*without --end-points"),
    ],
)
def test_a_network_without_a_classifier_is_refused_before_an_image_is_decoded(
    random_model: Build,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    remedy: str,
) -> None:
    file = network_without_classifier(random_model, tmp_path, kind)
    with pytest.raises(InputError, match=remedy):
        Predictor(file)
    (tmp_path / "unreadable.png").write_text("not an image")
    monkeypatch.setattr(sys, "argv", ["inception-v3", "predict", str(file), str(tmp_path / "unreadable.png")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert re.search(remedy, err)
