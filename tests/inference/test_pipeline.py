"""The pipeline: outputs in order, bounded memory, errors at the image that caused them, and no thread left behind."""

import gc
import itertools
import math
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fake_engine import SIZE, FakeEngine, save
from inception_v3.errors import InputError
from inception_v3.images.decode import open_image
from inception_v3.images.find import ImageSource
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference import pipeline, schedule
from inception_v3.inference.pipeline import ImageOutput, run_pipeline
from inception_v3.inference.predict import predict, top_classes
from inception_v3.inference.schedule import BATCHES_AHEAD, FIRST_BATCH


def sources(folder: Path, count: int) -> list[ImageSource]:
    return [ImageSource(f"{number}", save(folder / f"{number}.png", number % 128)) for number in range(count)]


def predicted(outputs: Iterator[ImageOutput]) -> list[int | str | None]:
    """The predicted class of each image, or its error."""
    return [output.error if output.logits is None else int(output.logits.argmax()) for output in outputs]


def pipeline_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prepare"]


def assert_no_threads() -> None:
    until = time.monotonic() + 60
    while pipeline_threads():
        assert time.monotonic() < until
        time.sleep(0.001)


# ------------------------------------------------------------------------------------------------------- order


@pytest.mark.parametrize("count", [0, 1, 2, 5, 6, 64, 100])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_outputs_come_in_the_order_of_the_sources(tmp_path: Path, count: int, batch_size: int) -> None:
    engine = FakeEngine()
    images = sources(tmp_path, count)
    outputs = list(run_pipeline(engine, SIZE, images, batch_size=batch_size))
    assert [output.source for output in outputs] == images
    assert predicted(iter(outputs)) == list(range(count))
    assert sum(engine.batches) == count
    assert engine.batches[:1] == [FIRST_BATCH] * bool(count), "the first output waits for no other image"
    assert set(engine.batches[1:-1]) <= {batch_size}
    assert_no_threads()


def test_the_order_does_not_depend_on_which_image_is_decoded_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "thread_count", lambda: 8)
    rng = np.random.default_rng(0)
    delays = iter(rng.uniform(0, 0.01, 1000))

    class Slow(ImageSource):
        def open(self, minimum_size: object = None) -> Image.Image:
            time.sleep(next(delays))
            return super().open()

    images = [Slow(source.name, source.content) for source in sources(tmp_path, 100)]
    assert predicted(run_pipeline(FakeEngine(), SIZE, images, batch_size=7)) == list(range(100))


def test_images_are_decoded_while_the_engine_computes(tmp_path: Path) -> None:
    opened: list[str] = []

    class Recorded(ImageSource):
        def open(self, minimum_size: object = None) -> Image.Image:
            opened.append(self.name)
            return super().open()

    class Watching(FakeEngine):
        def predict(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            until = time.monotonic() + 10
            while len(opened) < min(20, sum(self.batches) + 2 * 4) and time.monotonic() < until:
                time.sleep(0.001)
            ahead.append(len(opened) - sum(self.batches) - len(pixels))
            return super().predict(pixels)

    ahead: list[int] = []
    images = [Recorded(source.name, source.content) for source in sources(tmp_path, 20)]
    assert len(list(run_pipeline(Watching(), SIZE, images, batch_size=4))) == 20
    assert max(ahead) >= 4


# ------------------------------------------------------------------------------------------------------ memory


def test_only_a_few_batches_of_sources_are_taken_ahead(tmp_path: Path) -> None:
    taken = itertools.count()
    last = 0

    def endless() -> Iterator[ImageSource]:
        nonlocal last
        path = save(tmp_path / "0.png", 0)
        for last in taken:
            yield ImageSource(str(last), path)

    outputs = run_pipeline(FakeEngine(), SIZE, endless(), batch_size=4)
    for done, _ in zip(range(1, 400), outputs, strict=False):
        assert last < done + 4 * (BATCHES_AHEAD + 2)
    outputs.close()  # type: ignore[attr-defined]
    assert_no_threads()
    assert last < 400 + 4 * (BATCHES_AHEAD + 2)


def test_the_pixels_decoded_at_the_same_time_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "thread_count", lambda: 8)
    monkeypatch.setattr(pipeline, "PIXELS_AT_ONCE", 250)
    lock, now, most = threading.Lock(), 0, 0
    array = Preprocessing.array

    def counted(self: Preprocessing, image: Image.Image) -> np.ndarray:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.002)
        with lock:
            now -= 1
        return array(self, image)

    monkeypatch.setattr(Preprocessing, "array", counted)
    # Images of 100 pixels: two at once. Of 10,000, above the limit: one. Of 1: every thread.
    for size, expected in ((10, 2), (100, 1), (1, 8)):
        most = 0
        Image.new("RGB", (size, size)).save(tmp_path / "image.png")
        images = [ImageSource("", tmp_path / "image.png")] * 40
        assert len(list(run_pipeline(FakeEngine(), SIZE, images, resize="pillow"))) == 40
        assert 1 <= most <= expected


# ------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("bad", [[0], [1], [2, 3], [5, 6, 7, 8, 9], [19], list(range(20))])
def test_an_unreadable_image_is_an_error_in_its_place_and_the_others_keep_their_outputs(
    tmp_path: Path, bad: list[int]
) -> None:
    images = sources(tmp_path, 20)
    for number in bad:
        (tmp_path / f"{number}.png").write_text("not an image")
    engine = FakeEngine()
    results = predicted(run_pipeline(engine, SIZE, images, batch_size=5))
    assert [result for result in results if not isinstance(result, str)] == [n for n in range(20) if n not in bad]
    for number in bad:
        with pytest.raises(InputError) as error:
            images[number].open()
        assert results[number] == str(error.value)
    assert sum(engine.batches) == 20 - len(bad), "the engine does not compute unreadable images"


def test_an_engine_failure_is_raised_after_the_outputs_before_it(tmp_path: Path) -> None:
    outputs = run_pipeline(FakeEngine(fails_at=9), SIZE, sources(tmp_path, 20), batch_size=4)
    before = list(itertools.islice(outputs, 9))
    assert predicted(iter(before)) == list(range(9))
    message = (
        r"^fake \(fp32\) failed on 9 and the 3 images after it: the device is on fire; "
        r"try a smaller batch or another engine$"
    )
    with pytest.raises(InputError, match=message):
        next(outputs)
    assert_no_threads()


def test_an_error_while_listing_sources_is_raised_after_the_outputs_before_it(tmp_path: Path) -> None:
    def failing() -> Iterator[ImageSource]:
        yield from sources(tmp_path, 7)
        raise InputError("folder: cannot be listed")

    outputs = run_pipeline(FakeEngine(), SIZE, failing(), batch_size=5)
    assert predicted(itertools.islice(outputs, 7)) == list(range(7))
    with pytest.raises(InputError, match="cannot be listed"):
        next(outputs)
    assert_no_threads()


def test_a_bug_is_not_reported_as_an_unreadable_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Preprocessing, "array", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(run_pipeline(FakeEngine(), SIZE, sources(tmp_path, 7), resize="pillow"))
    assert_no_threads()


def test_outputs_that_are_not_finite_are_an_error_and_not_a_class(tmp_path: Path) -> None:
    class Broken(FakeEngine):
        def predict(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            logits, features = super().predict(pixels)
            logits[pixels[:, 0, 0, 0] == 4] = np.nan
            return logits, features

    names = [str(number) for number in range(128)]
    predictions = list(predict(Broken(), SIZE, names, sources(tmp_path, 4), top=1))
    assert [prediction.classes[0][0] if prediction.classes else prediction.error for prediction in predictions] == [
        "0", "1", "2: the network's outputs are not finite; check the model", "3",
    ]  # fmt: skip


def test_a_closed_pipeline_leaves_no_thread(tmp_path: Path) -> None:
    outputs = run_pipeline(FakeEngine(), SIZE, itertools.cycle(sources(tmp_path, 3)))
    next(outputs)
    outputs.close()  # type: ignore[attr-defined]
    assert_no_threads()


def test_a_deleted_pipeline_releases_the_engine_although_a_thread_waits_for_a_source(tmp_path: Path) -> None:
    # If such a thread freed the engine when the interpreter exits, PyTorch would crash the process.
    waits = threading.Event()

    def endless() -> Iterator[ImageSource]:
        yield from sources(tmp_path, 1)
        waits.wait()

    engine = FakeEngine()
    reference = weakref.ref(engine)
    outputs = run_pipeline(engine, SIZE, endless(), batch_size=4)
    next(outputs)
    del engine, outputs
    gc.collect()
    assert pipeline_threads()
    assert reference() is None
    waits.set()
    assert_no_threads()


def test_the_program_exits_after_the_images_in_flight(tmp_path: Path) -> None:
    """If the interpreter exits while a thread is inside a library, a signal kills the process."""
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from fake_engine import SIZE, FakeEngine, save\n"
        "from inception_v3.images.find import ImageSource\n"
        "from inception_v3.inference.pipeline import run_pipeline\n"
        "class Slow(ImageSource):\n"
        "    def open(self, *more):\n"
        "        if self.name == 'slow':\n"
        "            time.sleep(1); Path(sys.argv[2], 'prepared').touch()\n"
        "        return super().open(*more)\n"
        "file = save(Path(sys.argv[2], '1.png'), 1)\n"
        "kept = run_pipeline(FakeEngine(), SIZE, [Slow('quick', file)] + [Slow('slow', file)] * 9)\n"
        "next(kept); time.sleep(0.2); sys.exit(7)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parents[1]), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
    assert (tmp_path / "prepared").exists()


# ------------------------------------------------------------------------------------------------- top classes


def test_top_classes_are_sorted_and_equal_logits_keep_the_order_of_the_classes() -> None:
    logits = np.array([1, 3, 3, 2, 3, -1000], np.float32)
    names = list("abcdef")
    assert [name for name, _ in top_classes(logits, names, 2)] == ["b", "c"]
    ranked = top_classes(logits, names, 100)
    assert [name for name, _ in ranked] == ["b", "c", "e", "d", "a", "f"]
    assert sum(probability for _, probability in ranked) == pytest.approx(1)
    assert ranked[0][1] / ranked[3][1] == pytest.approx(np.e)


# --------------------------------------------------------------------------------------------- scaled decoding


def photograph(path: Path, width: int, height: int, orientation: int = 1) -> Path:
    """Smooth colours with edges and grain, like a JPEG from a camera."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = np.stack([np.sin(20 * x + 9 * y), np.sin(31 * y), np.sign(np.sin(40 * x * y))], -1)
    image = Image.fromarray((128 + 90 * waves + rng.normal(0, 8, waves.shape)).clip(0, 255).astype(np.uint8))
    exif = Image.Exif()
    exif[274] = orientation
    image.save(path, quality=90, exif=exif)
    return path


class PixelRecorder(FakeEngine):
    pixels: np.ndarray

    def predict(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.pixels = pixels.copy()
        return np.zeros((len(pixels), 2), np.float32), np.zeros((len(pixels), 2048), np.float32)


def prepared(path: Path, preprocessing: Preprocessing, **options: object) -> np.ndarray:
    """The pixels that the engine gets for an image."""
    engine = PixelRecorder()
    (output,) = run_pipeline(engine, preprocessing, [ImageSource("image", path)], **options)  # type: ignore[arg-type]
    assert output.error is None
    return engine.pixels[0].astype(int)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("resize", ["pillow", "torchvision"])
def test_scaled_decoding_changes_pixels_little(tmp_path: Path, orientation: int, resize: str) -> None:
    path = photograph(tmp_path / "large.jpg", 1600, 1000, orientation)
    for name in ("inception", "torchvision", "timm", "keras"):
        preprocessing = Preprocessing.named(name, 107)  # type: ignore[arg-type]
        exact = prepared(path, preprocessing, resize=resize)
        scaled = prepared(path, preprocessing, resize=resize, decode="scaled")
        assert 0 < np.abs(exact - scaled).mean() < 1.0
        assert np.abs(exact - scaled).max() < 40


@pytest.mark.parametrize(("orientation", "upright"), [(1, (1600, 1000)), (3, (1600, 1000)), (6, (1000, 1600))])
def test_a_jpeg_is_not_decoded_smaller_than_requested(
    tmp_path: Path, orientation: int, upright: tuple[int, int]
) -> None:
    path = photograph(tmp_path / "large.jpg", 1600, 1000, orientation)
    for divisor, expected in ((1, 1), (1.9, 1), (2, 2), (3.9, 2), (4, 4), (7, 4), (8, 8), (100, 8)):
        sizes = []

        def decoded_size(width: int, height: int) -> tuple[int, int]:
            sizes.append((width, height))  # noqa: B023
            return math.ceil(width / divisor), math.ceil(height / divisor)  # noqa: B023

        assert open_image(path, minimum_size=decoded_size).size == (upright[0] // expected, upright[1] // expected)
        assert sizes == [upright]


def test_scaled_decoding_is_refused_without_antialiasing() -> None:
    with pytest.raises(
        InputError, match=r"^--decode scaled: .*does not antialias.*; leave out --decode scaled$"
    ) as caught:
        run_pipeline(FakeEngine(), Preprocessing.named("slim"), [], decode="scaled")
    assert caught.value.exit_status == 2


def test_scaled_decoding_does_not_change_images_that_are_not_large(tmp_path: Path) -> None:
    preprocessing = Preprocessing((107, 107))  # resized to a height of 122, so 244 is needed
    for size, same in (((500, 375), True), ((700, 487), True), ((700, 488), False)):
        path = photograph(tmp_path / "image.jpg", *size)
        exact, scaled = prepared(path, preprocessing), prepared(path, preprocessing, decode="scaled")
        assert (exact == scaled).all() == same
    path = photograph(tmp_path / "image.png", 1600, 1000)
    assert (prepared(path, preprocessing) == prepared(path, preprocessing, decode="scaled")).all()


# --------------------------------------------------------------------------------------------- without PyTorch


def test_pytorch_is_not_imported_when_pillow_resizes(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 3)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from fake_engine import *; instead_of_a_network(0)\n"
        "from inception_v3.cli import main; sys.argv = ['', 'predict', 'model', sys.argv[2], '--json', *sys.argv[3:]]\n"
        "try: main()\n"
        "finally: print('LOADED', *sys.modules)"
    )
    arguments = [Path(__file__).parents[1], tmp_path, "--out", tmp_path / "o.csv"]
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    printed, loaded = done.stdout.split("LOADED")
    assert '"resize": "pillow"' in printed, done.stderr
    assert not {"torch", "torchvision", "rich", "pyarrow", "safetensors"} & set(loaded.split())
