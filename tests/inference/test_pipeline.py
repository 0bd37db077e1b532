"""Pictures through an engine: in order, in bounded memory, with mistakes where they belong and nothing left behind."""

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
from inception_v3.inference import pipeline
from inception_v3.inference.pipeline import BATCHES, FIRST_BATCH, Answer, run
from inception_v3.inference.predict import likeliest, predict


def sources(folder: Path, count: int) -> list[ImageSource]:
    return [ImageSource(f"{number}", save(folder / f"{number}.png", number % 128)) for number in range(count)]


def seen(answers: Iterator[Answer]) -> list[int | str | None]:
    return [one.error if one.logits is None else int(one.logits.argmax()) for one in answers]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prepare"]


def assert_no_threads() -> None:
    until = time.monotonic() + 60
    while threads():
        assert time.monotonic() < until
        time.sleep(0.001)


# ------------------------------------------------------------------------------------------------------- order


@pytest.mark.parametrize("count", [0, 1, 2, 5, 6, 64, 100])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_answers_come_in_the_order_of_their_sources(tmp_path: Path, count: int, batch_size: int) -> None:
    engine = FakeEngine()
    given = sources(tmp_path, count)
    answers = list(run(engine, SIZE, given, batch_size=batch_size))
    assert [answer.source for answer in answers] == given
    assert seen(iter(answers)) == list(range(count))
    assert sum(engine.batches) == count
    assert engine.batches[:1] == [FIRST_BATCH] * bool(count), "the first answer waits for no other picture"
    assert set(engine.batches[1:-1]) <= {batch_size}
    assert_no_threads()


def test_whichever_picture_is_ready_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_thread_count", lambda: 8)
    rng = np.random.default_rng(0)
    delays = iter(rng.uniform(0, 0.01, 1000))

    class Slow(ImageSource):
        def open(self, minimum_size: object = None) -> Image.Image:
            time.sleep(next(delays))
            return super().open()

    given = [Slow(source.name, source.content) for source in sources(tmp_path, 100)]
    assert seen(run(FakeEngine(), SIZE, given, batch_size=7)) == list(range(100))


def test_decoding_goes_on_while_the_network_works(tmp_path: Path) -> None:
    opened: list[str] = []

    class Noted(ImageSource):
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
    given = [Noted(source.name, source.content) for source in sources(tmp_path, 20)]
    assert len(list(run(Watching(), SIZE, given, batch_size=4))) == 20
    assert max(ahead) >= 4


# ------------------------------------------------------------------------------------------------------ memory


def test_no_more_is_taken_than_fits_a_few_batches_whatever_comes(tmp_path: Path) -> None:
    taken = itertools.count()
    last = 0

    def endless() -> Iterator[ImageSource]:
        nonlocal last
        path = save(tmp_path / "0.png", 0)
        for last in taken:
            yield ImageSource(str(last), path)

    answers = run(FakeEngine(), SIZE, endless(), batch_size=4)
    for done, _ in zip(range(1, 400), answers, strict=False):
        assert last < done + 4 * (BATCHES + 1)
    answers.close()  # type: ignore[attr-defined]
    assert_no_threads()
    assert last < 400 + 4 * (BATCHES + 1)


def test_large_pictures_are_not_decoded_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_thread_count", lambda: 8)
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
    for size, expected in ((10, 2), (100, 1), (1, 8)):  # 100 pixels: two at once; 10,000: alone; 1: every thread
        most = 0
        Image.new("RGB", (size, size)).save(tmp_path / "one.png")
        given = [ImageSource("", tmp_path / "one.png")] * 40
        assert len(list(run(FakeEngine(), SIZE, given, resize="pillow"))) == 40
        assert 1 <= most <= expected


# ---------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize("bad", [[0], [1], [2, 3], [5, 6, 7, 8, 9], [19], list(range(20))])
def test_a_bad_picture_is_an_answer_and_the_others_do_not_move(tmp_path: Path, bad: list[int]) -> None:
    given = sources(tmp_path, 20)
    for number in bad:
        (tmp_path / f"{number}.png").write_text("no picture")
    engine = FakeEngine()
    found = seen(run(engine, SIZE, given, batch_size=5))
    assert [one for one in found if not isinstance(one, str)] == [n for n in range(20) if n not in bad]
    for number in bad:
        assert str(found[number]).startswith(f"{number}: not a supported image")
    assert sum(engine.batches) == 20 - len(bad), "bad ones are not computed"


def test_an_engine_that_fails_is_told_after_the_answers_before_it(tmp_path: Path) -> None:
    answers = run(FakeEngine(fails_at=9), SIZE, sources(tmp_path, 20), batch_size=4)
    before = list(itertools.islice(answers, 9))
    assert seen(iter(before)) == list(range(9))
    with pytest.raises(InputError, match=r"^fake \(fp32\) failed at 9 and the 3 after it: the device is on fire$"):
        next(answers)
    assert_no_threads()


def test_a_list_that_ends_in_an_error_tells_it_after_the_answers_before_it(tmp_path: Path) -> None:
    def broken() -> Iterator[ImageSource]:
        yield from sources(tmp_path, 7)
        raise InputError("folder: cannot be listed")

    answers = run(FakeEngine(), SIZE, broken(), batch_size=5)
    assert seen(itertools.islice(answers, 7)) == list(range(7))
    with pytest.raises(InputError, match="cannot be listed"):
        next(answers)
    assert_no_threads()


def test_a_mistake_of_ours_is_not_taken_for_a_bad_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Preprocessing, "array", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(run(FakeEngine(), SIZE, sources(tmp_path, 7), resize="pillow"))
    assert_no_threads()


def test_an_answer_without_numbers_is_an_error_and_no_class(tmp_path: Path) -> None:
    class Broken(FakeEngine):
        def predict(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            logits, features = super().predict(pixels)
            logits[pixels[:, 0, 0, 0] == 4] = np.nan
            return logits, features

    names = [str(number) for number in range(128)]
    found = list(predict(Broken(), SIZE, names, sources(tmp_path, 4), top=1))
    assert [one.classes[0][0] if one.classes else one.error for one in found] == [
        "0", "1", "2: the network's outputs are no finite numbers; check the model", "3",
    ]  # fmt: skip


def test_given_up_it_leaves_no_thread(tmp_path: Path) -> None:
    answers = run(FakeEngine(), SIZE, itertools.cycle(sources(tmp_path, 3)))
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert_no_threads()


def test_given_up_it_lets_the_engine_go_though_a_thread_waits_for_a_source(tmp_path: Path) -> None:
    # Freed by such a thread, when the interpreter ends, PyTorch's memory takes the process down.
    waits = threading.Event()

    def endless() -> Iterator[ImageSource]:
        yield from sources(tmp_path, 1)
        waits.wait()

    engine = FakeEngine()
    held = weakref.ref(engine)
    answers = run(engine, SIZE, endless(), batch_size=4)
    next(answers)
    del engine, answers
    gc.collect()
    assert threads()
    assert held() is None
    waits.set()
    assert_no_threads()


def test_the_program_ends_after_the_pictures_in_hand(tmp_path: Path) -> None:
    """A thread that is inside a library when the interpreter goes ends the process with a signal."""
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from fake_engine import SIZE, FakeEngine, save\n"
        "from inception_v3.images.find import ImageSource\n"
        "from inception_v3.inference.pipeline import run\n"
        "class Slow(ImageSource):\n"
        "    def open(self, *more):\n"
        "        if self.name == 'slow':\n"
        "            time.sleep(1); Path(sys.argv[2], 'prepared').touch()\n"
        "        return super().open(*more)\n"
        "file = save(Path(sys.argv[2], '1.png'), 1)\n"
        "kept = run(FakeEngine(), SIZE, [Slow('quick', file)] + [Slow('slow', file)] * 9)\n"
        "next(kept); time.sleep(0.2); sys.exit(7)"
    )
    given = [sys.executable, "-c", code, str(Path(__file__).parents[1]), str(tmp_path)]
    done = subprocess.run(given, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")
    assert (tmp_path / "prepared").exists()


# ----------------------------------------------------------------------------------------------------- answers


def test_the_likeliest_come_first_and_of_equals_the_first() -> None:
    logits = np.array([1, 3, 3, 2, 3, -1000], np.float32)
    names = list("abcdef")
    assert [name for name, _ in likeliest(logits, names, 2)] == ["b", "c"]
    ranked = likeliest(logits, names, 100)
    assert [name for name, _ in ranked] == ["b", "c", "e", "d", "a", "f"]
    assert sum(share for _, share in ranked) == pytest.approx(1)
    assert ranked[0][1] / ranked[3][1] == pytest.approx(np.e)


# ------------------------------------------------------------------------------------------ decoded smaller


def photograph(path: Path, width: int, height: int, orientation: int = 1) -> Path:
    """Smooth colours with edges and grain, as a camera's JPEG."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / max(width, height)
    waves = np.stack([np.sin(20 * x + 9 * y), np.sin(31 * y), np.sign(np.sin(40 * x * y))], -1)
    image = Image.fromarray((128 + 90 * waves + rng.normal(0, 8, waves.shape)).clip(0, 255).astype(np.uint8))
    exif = Image.Exif()
    exif[274] = orientation
    image.save(path, quality=90, exif=exif)
    return path


class Kept(FakeEngine):
    pixels: np.ndarray

    def predict(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.pixels = pixels.copy()
        return np.zeros((len(pixels), 2), np.float32), np.zeros((len(pixels), 2048), np.float32)


def prepared(path: Path, preprocessing: Preprocessing, **options: object) -> np.ndarray:
    engine = Kept()
    (answer,) = run(engine, preprocessing, [ImageSource("one", path)], **options)  # type: ignore[arg-type]
    assert answer.error is None
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
def test_a_jpeg_is_decoded_no_smaller_than_asked_for(
    tmp_path: Path, orientation: int, upright: tuple[int, int]
) -> None:
    path = photograph(tmp_path / "large.jpg", 1600, 1000, orientation)
    for divisor, expected in ((1, 1), (1.9, 1), (2, 2), (3.9, 2), (4, 4), (7, 4), (8, 8), (100, 8)):
        asked = []

        def minimum_size(width: int, height: int) -> tuple[int, int]:
            asked.append((width, height))  # noqa: B023
            return math.ceil(width / divisor), math.ceil(height / divisor)  # noqa: B023

        assert open_image(path, minimum_size=minimum_size).size == (upright[0] // expected, upright[1] // expected)
        assert asked == [upright]


def test_scaled_decoding_is_refused_where_it_would_change_much() -> None:
    with pytest.raises(InputError, match=r"^--decode scaled: .*picks single pixels.*; leave it out$") as caught:
        run(FakeEngine(), Preprocessing.named("slim"), [], decode="scaled")
    assert caught.value.exit_status == 2


def test_scaled_decoding_leaves_alone_what_is_not_large(tmp_path: Path) -> None:
    preprocessing = Preprocessing((107, 107))  # resized to 122 high, so 244 is needed
    for size, same in (((500, 375), True), ((700, 487), True), ((700, 488), False)):
        path = photograph(tmp_path / "one.jpg", *size)
        exact, scaled = prepared(path, preprocessing), prepared(path, preprocessing, decode="scaled")
        assert (exact == scaled).all() == same
    path = photograph(tmp_path / "one.png", 1600, 1000)
    assert (prepared(path, preprocessing) == prepared(path, preprocessing, decode="scaled")).all()


# ----------------------------------------------------------------------------------------------- without torch


def test_no_pytorch_where_pillow_prepares(tmp_path: Path) -> None:
    save(tmp_path / "a.png", 3)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from fake_engine import *; instead_of_a_network(0)\n"
        "from inception_v3.cli import main; sys.argv = ['', 'predict', 'model', sys.argv[2], '--json', *sys.argv[3:]]\n"
        "try: main()\n"
        "finally: print('LOADED', *sys.modules)"
    )
    command = [
        sys.executable,
        "-c",
        code,
        str(Path(__file__).parents[1]),
        str(tmp_path),
        "--out",
        str(tmp_path / "o.csv"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    told, loaded = done.stdout.split("LOADED")
    assert '"resize": "pillow"' in told, done.stderr
    assert not {"torch", "torchvision", "rich", "pyarrow", "safetensors"} & set(loaded.split())
