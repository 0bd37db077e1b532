"""Decoding image files, and finding them in folders, by patterns and on standard input."""

import errno
import gc
import glob
import inspect
import io
import itertools
import os
import pickle
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import tracemalloc
import warnings
import zlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageFile, PngImagePlugin, features

from heic_image import HEIC
from inception_v3.errors import InputError
from inception_v3.images import addresses, decode, find
from inception_v3.images.addresses import expand
from inception_v3.images.decode import MAX_PIXELS, open_image
from inception_v3.images.find import IMAGE_SUFFIXES, ImageSource, list_images
from inception_v3.support import packages
from inception_v3.support.verbosity import verbosity

pytestmark = pytest.mark.filterwarnings("error")  # a warning would appear on the user's terminal
NOISE = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)
IN_FORMATS = {
    "PNG": {},
    "GIF": {},
    "BMP": {},
    "PPM": {},
    "JPEG": {"quality": 95},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "TIFF lzw": {"compression": "tiff_lzw"},
    "TIFF deflate": {"compression": "tiff_adobe_deflate"},
    "TIFF jpeg": {"compression": "jpeg"},
    "TIFF group4": {"compression": "group4"},
    "JPEG2000": {},
    "JPEG2000 codestream": {"no_jp2": True},
} | ({"AVIF": {}} if features.check("avif") else {})


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


@cache
def in_format(name: str) -> bytes:
    image = Image.fromarray(NOISE)
    if name == "GIF":
        image = image.quantize(64)
    if name == "TIFF group4":
        image = image.convert("1")
    return encoded(image, name.split()[0], **IN_FORMATS[name])


def pixels(source: object) -> list[object]:
    """Return the decoded image's pixels, row by row; check that its mode is RGB."""
    image = open_image(source)
    assert (image.mode, type(image)) == ("RGB", Image.Image)
    return [tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()]


def grays(source: object) -> list[int]:
    """Like `pixels` for a gray image: one value for each pixel."""
    image = np.asarray(open_image(source))
    assert (image == image[..., :1]).all()
    return image[..., 0].ravel().tolist()


def refusal(source: object, name: str | None = None) -> str:
    """Return the error message for a file: one line without control characters, with a remedy after a semicolon."""
    with pytest.raises(InputError) as caught:
        open_image(source, name=name)
    message = str(caught.value)
    assert message.isprintable()
    assert "; " in message
    assert caught.value.exit_status == 1
    return message


def outcome(content: bytes) -> Image.Image | str:
    """Return the image, or the error message if it cannot be decoded."""
    try:
        return open_image(content, name="given")
    except InputError as error:
        message = str(error)
    assert message.startswith("given: ")
    assert message.isprintable()
    return message


def save(path: Path, color: object = "red", size: tuple[int, int] = (2, 2)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, "PNG")
    return path


def names(*arguments: str | Path) -> list[str]:
    return [source.name for source in expand(map(str, arguments))]


def wrong_usage(*arguments: str | Path) -> str:
    with pytest.raises(InputError) as caught:
        list(expand(map(str, arguments)))
    assert caught.value.exit_status == 2
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path()


@pytest.fixture
def pipe(monkeypatch):
    return lambda content: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


class TestPixelsAreExact:
    """Every kind of pixel in a file becomes red, green and blue from 0 to 255."""

    @pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF", "WEBP", "TIFF lzw", "TIFF deflate", "JPEG2000"])
    def test_lossless_formats_are_exact(self, kind):
        assert (np.asarray(open_image(in_format(kind))) == NOISE).all()

    @pytest.mark.parametrize("kind", [kind for kind in ("JPEG", "AVIF", "TIFF jpeg") if kind in IN_FORMATS])
    def test_lossy_formats_are_close(self, kind):
        smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
        content = encoded(smooth, kind.split()[0], **IN_FORMATS[kind])
        assert np.abs(np.asarray(open_image(content)).astype(int) - smooth).max() <= 8

    def test_gray(self):
        assert grays(encoded(np.arange(256, dtype=np.uint8)[None])) == list(range(256))

    def test_one_bit_is_black_and_white(self):
        image = Image.new("1", (2, 1))
        image.putpixel((1, 0), 1)
        for kind in ("PNG", "BMP", "PPM", "TIFF"):
            assert grays(encoded(image, kind)) == [0, 255]

    def test_palette(self):
        image = Image.new("P", (3, 1))
        image.putpalette([1, 2, 3, 200, 100, 50, 255, 254, 253])
        image.putdata([2, 0, 1])
        for kind in ("PNG", "GIF", "BMP", "TIFF"):
            assert pixels(encoded(image, kind)) == [(255, 254, 253), (1, 2, 3), (200, 100, 50)]

    @pytest.mark.parametrize(
        ("inks", "color"),
        [
            ((0, 0, 0, 0), WHITE),
            ((0, 255, 255, 0), RED),
            ((255, 0, 255, 0), (0, 255, 0)),
            ((0, 0, 0, 255), BLACK),
            ((0, 0, 0, 128), (127, 127, 127)),
        ],
    )
    def test_cmyk_in_tiff_and_inverted_as_adobe_writes_it_in_jpeg(self, inks, color):
        image = Image.new("CMYK", (16, 16), inks)
        jpeg = encoded(image, "JPEG", quality=100)
        assert b"Adobe" in jpeg
        assert set(pixels(encoded(image, "TIFF"))) == {color}
        assert np.abs(np.array(pixels(jpeg)) - color).max() <= 1

    def test_premultiplied_alpha_and_other_modes_in_memory(self):
        half_red = Image.new("RGBA", (1, 1), (255, 0, 0, 128))
        assert pixels(half_red.convert("RGBa")) == [(255, 127, 127)]
        assert grays(Image.new("LA", (1, 1), (0, 55)).convert("La")) == [200]
        assert pixels(Image.new("RGBX", (1, 1), (1, 2, 3, 0))) == [(1, 2, 3)]
        assert grays(Image.new("YCbCr", (1, 1), (77, 128, 128))) == [77]
        assert pixels(Image.new("HSV", (1, 1), (0, 255, 255))) == [RED]


class TestSixteenBits:
    """16-bit gray becomes the nearest of 256 levels: 257 * k becomes k."""

    EVERY = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    EXPECTED = ((np.arange(65536) * 2 + 257) // 514).tolist()  # round(v / 257) in integer arithmetic

    def test_the_expected_values_follow_the_documented_rule(self):
        assert [self.EXPECTED[257 * k] for k in range(256)] == list(range(256))
        assert [self.EXPECTED[v] for v in (128, 129, 385, 386, 65406, 65407)] == [0, 1, 1, 2, 254, 255]

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_in_files(self, kind):
        assert grays(encoded(self.EVERY, kind)) == self.EXPECTED

    def test_in_pgm(self):
        assert grays(b"P5 256 256 65535\n" + self.EVERY.astype(">u2").tobytes()) == self.EXPECTED

    @pytest.mark.parametrize(("mode", "kind"), [("I;16", "<u2"), ("I;16L", "<u2"), ("I;16B", ">u2"), ("I;16N", "=u2")])
    def test_in_every_byte_order(self, mode, kind):
        assert grays(Image.frombytes(mode, (256, 256), self.EVERY.astype(kind).tobytes())) == self.EXPECTED

    def test_in_pillows_mode_i(self):
        assert grays(Image.fromarray(self.EVERY.astype(np.int32))) == self.EXPECTED
        assert grays(encoded(self.EVERY.astype(np.int32), "TIFF")) == self.EXPECTED

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_tiff_in_either_byte_order(self, order):
        assert grays(tiff([0, 257, 128, 129, 65535], order=order)) == [0, 1, 0, 1, 255]

    def test_tiff_with_white_at_zero_is_not_inverted(self):
        assert grays(tiff([0, 257, 65535], white_is_zero=True)) == [255, 254, 0]

    def test_tiff_of_12_bits_reaches_white(self):
        assert grays(tiff([0, 2048, 4095, 16], bits=12)) == [0, 128, 255, 1]

    def test_a_transparent_gray_value_becomes_white(self):
        assert grays(encoded(np.array([[0, 257, 514]], dtype=np.uint16), transparency=257)) == [0, 255, 2]
        assert grays(encoded(np.array([[2, 514]], dtype=np.uint16), transparency=2)) == [255, 2]

    @pytest.mark.parametrize("values", [[[0, 65536]], [[-1, 5]]])
    def test_wider_integers_are_refused(self, values):
        assert "32-bit pixels" in refusal(encoded(np.array(values, dtype=np.int32), "TIFF"), "wide.tif")

    @pytest.mark.parametrize("kind", ["TIFF", "PPM"])
    def test_floats_are_refused(self, kind):
        message = refusal(encoded(np.array([[0.0, 1.0]], dtype=np.float32), kind), "float.tif")
        assert message == "float.tif: 32-bit pixels have no defined range; save it with 8 or 16 bits"


class TestTransparencyShowsWhite:
    """Transparent pixels are blended with white, rounded to the nearest level."""

    COLOR, ALPHA = np.meshgrid(np.arange(256), np.arange(256))
    EXPECTED = ((2 * (COLOR * ALPHA + 255 * (255 - ALPHA)) + 255) // 510).ravel().tolist()

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_every_gray_at_every_alpha(self, kind):
        la = np.stack([self.COLOR, self.ALPHA], -1).astype(np.uint8)
        rgba = np.stack([self.COLOR] * 3 + [self.ALPHA], -1).astype(np.uint8)
        assert grays(encoded(la, kind)) == self.EXPECTED
        assert grays(encoded(rgba, kind)) == self.EXPECTED

    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
    def test_known_blends(self, kind):
        image = np.array([[(255, 0, 0, 255), (0, 0, 0, 128), (10, 200, 30, 0), (0, 100, 200, 51)]], dtype=np.uint8)
        content = encoded(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
        assert pixels(content) == [RED, (127, 127, 127), WHITE, (204, 224, 244)]

    def test_palettes(self):
        image = Image.new("P", (3, 1))
        image.putpalette([255, 0, 0, 0, 0, 0, 9, 9, 9])
        image.putdata([0, 1, 2])
        assert pixels(encoded(image, "PNG", transparency=1)) == [RED, WHITE, (9, 9, 9)]
        assert pixels(encoded(image, "GIF", transparency=1)) == [RED, WHITE, (9, 9, 9)]
        assert pixels(encoded(image, "PNG", transparency=b"\xff\x80\x00")) == [RED, (127, 127, 127), WHITE]
        image.putpalette([255, 0, 0, 255, 0, 0, 0, 128, 9, 9, 9, 0], "RGBA")
        assert pixels(image) == [RED, (127, 127, 127), WHITE]

    def test_palette_with_an_alpha_channel(self):
        image = Image.new("PA", (2, 1))
        image.putpalette([255, 0, 0])
        image.putpixel((0, 0), (0, 255))
        assert pixels(image) == [RED, WHITE]

    def test_a_transparent_color(self):
        assert grays(encoded(np.array([[3, 7]], dtype=np.uint8), transparency=7)) == [3, 255]
        rgb = np.array([[(1, 2, 3), (4, 5, 6)]], dtype=np.uint8)
        assert pixels(encoded(rgb, transparency=(1, 2, 3))) == [WHITE, (4, 5, 6)]
        assert grays(encoded(Image.new("1", (1, 1)), transparency=0)) == [255]


class TestOrientation:
    """An image is turned upright by its EXIF orientation."""

    STORED = np.array([[(10, 0, 0), (20, 0, 0), (30, 0, 0)], [(40, 0, 0), (50, 0, 0), (60, 0, 0)]], dtype=np.uint8)
    SHOWN = (  # by the EXIF standard, which defines where row 0 and column 0 of the stored image are shown
        None,
        [[10, 20, 30], [40, 50, 60]],
        [[30, 20, 10], [60, 50, 40]],
        [[60, 50, 40], [30, 20, 10]],
        [[40, 50, 60], [10, 20, 30]],
        [[10, 40], [20, 50], [30, 60]],
        [[40, 10], [50, 20], [60, 30]],
        [[60, 30], [50, 20], [40, 10]],
        [[30, 60], [20, 50], [10, 40]],
    )

    @staticmethod
    def exif(orientation: int) -> Image.Exif:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        return exif

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "TIFF lzw"])
    def test_all_eight(self, kind, orientation):
        content = encoded(self.STORED, kind.split()[0], exif=self.exif(orientation), **IN_FORMATS[kind])
        assert np.asarray(open_image(content))[..., 0].tolist() == self.SHOWN[orientation]

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_all_eight_in_jpeg(self, orientation):
        stored = self.STORED[..., 0].repeat(16, 0).repeat(16, 1)
        shown = np.array(self.SHOWN[orientation]).repeat(16, 0).repeat(16, 1)
        opened = np.asarray(open_image(encoded(stored, "JPEG", quality=100, exif=self.exif(orientation))))
        assert np.abs(opened[..., 0].astype(int) - shown).max() <= 3

    def test_with_16_bits_and_with_transparency(self):
        deep = self.STORED[..., 0].astype(np.uint16) * 257
        assert grays(encoded(deep, exif=self.exif(3))) == [60, 50, 40, 30, 20, 10]
        clear = np.dstack([self.STORED, np.full((2, 3), 255, dtype=np.uint8)])
        assert np.asarray(open_image(encoded(clear, exif=self.exif(6))))[..., 0].tolist() == self.SHOWN[6]

    def test_a_decoded_image_is_not_turned_again(self):
        once = open_image(encoded(self.STORED, exif=self.exif(6)))
        assert np.asarray(open_image(once)).tolist() == np.asarray(once).tolist()
        assert np.asarray(open_image(encoded(once))).tolist() == np.asarray(once).tolist()

    @pytest.mark.parametrize("orientation", [0, 9, 65535])
    def test_unknown_values_change_nothing(self, orientation):
        content = encoded(self.STORED, exif=self.exif(orientation))
        assert np.asarray(open_image(content)).tolist() == self.STORED.tolist()

    @pytest.mark.parametrize("damaged", [b"", b"II*\0", b"XX\0\0\0\0\0\0", b"II*\0\xff\xff\xff\xff"])
    def test_damaged_exif_is_ignored(self, damaged, capfd):
        assert np.asarray(open_image(encoded(self.STORED, exif=b"Exif\0\0" + damaged))).tolist() == self.STORED.tolist()
        assert capfd.readouterr() == ("", "")


class TestSeveralFrames:
    """The first frame or page is used."""

    @pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
    def test_animations_and_pages(self, kind):
        frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue", "green")]
        options = {"lossless": True} if kind == "WEBP" else {}
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        with Image.open(io.BytesIO(content)) as animation:
            assert animation.n_frames == 3
        assert set(pixels(content)) == {RED}

    def test_mpo_files_of_cameras(self):
        frames = [Image.new("RGB", (16, 16), color) for color in ("white", "black")]
        assert set(grays(encoded(frames[0], "MPO", save_all=True, append_images=frames[1:]))) == {255}


class TestSources:
    """A path, bytes, an open file, a pipe, or an image in memory."""

    def test_path_string_open_file_bytes_and_pillow_image(self, tmp_path):
        path = save(tmp_path / "a.png")
        with path.open("rb") as file:
            file.seek(7)
            assert pixels(file) == [RED] * 4
            assert not file.closed
        assert pixels(path) == pixels(str(path)) == pixels(path.read_bytes()) == [RED] * 4
        with Image.open(path) as lazy:
            assert pixels(lazy) == [RED] * 4

    def test_a_pipe_which_is_not_seekable(self):
        reading, writing = os.pipe()
        os.write(writing, encoded(NOISE))
        os.close(writing)
        with os.fdopen(reading, "rb") as stream:
            assert (np.asarray(open_image(stream)) == NOISE).all()

    def test_the_format_is_detected_from_the_content(self, tmp_path):
        path = tmp_path / "really-a-png.jpg"
        path.write_bytes(encoded(NOISE))
        assert (np.asarray(open_image(path)) == NOISE).all()

    def test_names_in_any_alphabet(self, tmp_path):
        for name in ("Größe.png", "猫.png", "кот и пёс.png", "🐈.png", " .png"):
            assert pixels(save(tmp_path / name)) == [RED] * 4

    def test_the_result_is_a_copy(self):
        image = Image.new("RGB", (1, 1))
        open_image(image).putpixel((0, 0), RED)
        assert image.getpixel((0, 0)) == BLACK

    def test_files_are_closed(self, tmp_path):
        good, bad = save(tmp_path / "a.png"), tmp_path / "b.png"
        bad.write_bytes(b"\x89PNG\r\n\x1a\n")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ResourceWarning)
            open_image(good)
            refusal(bad)
            gc.collect()
        assert caught == []

    def test_pytorch_is_not_needed(self):
        code = "import sys, inception_v3.images.decode; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestBadFiles:
    """Bad files raise one line with the file and the remedy, and print nothing else."""

    @pytest.fixture(autouse=True)
    def _silence(self, capfd):
        yield
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "the file is empty; download or save it again"),
            (b"these are words, not pixels\n", "not a supported image"),
            (b"<!DOCTYPE html><html>404</html>", "not a supported image"),
            (bytes(1000), "not a supported image"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not a supported image"),
            (b"%PDF-1.4\n", "not a supported image"),
            (b"\xff\xd8\xff", "not a supported image"),
            (b"\0\0\0\x18ftypisom\0\0\0\0mp41isom", "not a supported image"),
            (encoded(NOISE)[:200], "cannot be read"),
        ],
    )
    def test_content(self, tmp_path, content, message):
        path = tmp_path / "photo.jpg"
        path.write_bytes(content)
        assert refusal(path).startswith(f"{path}: ")
        assert message in refusal(path).removeprefix(str(path))
        assert refusal(content).startswith("image: ")
        assert refusal(content, "given.jpg").startswith("given.jpg: ")

    def test_missing(self, tmp_path):
        assert refusal(tmp_path / "no.jpg") == f"{tmp_path}/no.jpg: there is no such file or folder; check the path"

    def test_a_folder(self, tmp_path):
        assert refusal(tmp_path) == f"{tmp_path}: a folder, not a file; give a file in it"

    def test_not_allowed(self, tmp_path, monkeypatch):
        path = save(tmp_path / "mine.png")
        if os.geteuid() == 0:  # root ignores permissions
            monkeypatch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(PermissionError(errno.EACCES, "no")))
        else:
            path.chmod(0)
        assert refusal(path) == f"{path}: no permission to read it; allow it with chmod u+r"

    def test_an_impossible_file_name(self):
        assert "the name is too long" in refusal("x" * 5000)
        assert "null" in refusal("a\0b")

    def test_messages_escape_file_names(self, tmp_path):
        assert "two\\nlines\\x1b[31m.jpg: there is no such file" in refusal(tmp_path / "two\nlines\x1b[31m.jpg")
        assert "\\udcff.jpg: there is no such file" in refusal(tmp_path / os.fsdecode(b"\xff.jpg"))
        assert "Größe 猫.jpg: there is no such file" in refusal(tmp_path / "Größe 猫.jpg")

    @pytest.mark.parametrize("kind", IN_FORMATS)
    def test_a_truncated_file_is_refused_or_decoded_completely(self, kind):
        content = in_format(kind)
        whole = np.asarray(open_image(content))
        lengths = {
            *range(40),
            *range(0, len(content), max(1, len(content) // 150)),
            *range(len(content) - 8, len(content)),
        }
        outcomes = [outcome(content[:length]) for length in sorted(lengths)]
        assert all(isinstance(image, str) or (np.asarray(image) == whole).all() for image in outcomes)
        assert all(isinstance(result, str) for result in outcomes[: len(lengths) * 4 // 5])

    @pytest.mark.parametrize("kind", IN_FORMATS)
    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8))
    def test_a_damaged_file_is_decoded_or_refused_in_one_line(self, kind, changes):
        content = bytearray(in_format(kind))
        for position, value in changes:
            content[int(position**3 * len(content))] = value  # more often near the beginning, where headers are
        result = outcome(bytes(content))
        assert isinstance(result, str) or result.mode == "RGB"

    @given(st.binary(max_size=200))
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_random_bytes_after_any_signature(self, content):
        for start in (b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"II*\0\x08\0\0\0", b"P6 ", b"P3 "):
            result = outcome(start + content)
            assert isinstance(result, str) or result.mode == "RGB"

    def test_warnings_as_errors_do_not_affect_decoding(self):
        with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
            warnings.simplefilter("error")
            patch.setattr(Image, "MAX_IMAGE_PIXELS", NOISE.size // 3 - 1)
            with pytest.raises(Image.DecompressionBombWarning):
                Image.open(io.BytesIO(in_format("PNG")))
            assert open_image(in_format("PNG")).size == (17, 13)

    @pytest.mark.parametrize("part", ["text", "compressed text", "profile"])
    def test_a_png_with_more_than_a_mebibyte_of_text_or_profile(self, part):
        content = os.urandom(2**20).hex()
        if part == "profile":
            image = encoded(NOISE, icc_profile=content.encode())
        else:
            texts = PngImagePlugin.PngInfo()
            texts.add_text("parameters", content, zip=part != "text")
            image = encoded(NOISE, pnginfo=texts)
        assert (np.asarray(open_image(image)) == NOISE).all()
        assert PngImagePlugin.MAX_TEXT_CHUNK == 2**20  # as other code expects it

    def test_a_compressed_text_that_would_fill_the_memory_is_refused(self):
        texts = PngImagePlugin.PngInfo()
        texts.add_text("parameters", "x" * (decode.MAX_PNG_TEXT + 1), zip=True)
        content = encoded(NOISE, pnginfo=texts)
        tracemalloc.start()
        assert "cannot be read" in refusal(content)
        assert tracemalloc.get_traced_memory()[1] < 3 * decode.MAX_PNG_TEXT
        tracemalloc.stop()

    @pytest.mark.skipif(find_spec("pi_heif") is None, reason="pi-heif is not installed")
    def test_heic_is_turned_upright(self, tmp_path):
        image = open_image(HEIC)
        assert image.size == (48, 64)
        assert np.abs(np.subtract(image.getpixel((5, 5)), (200, 30, 40))).max() <= 3
        assert np.abs(np.subtract(image.getpixel((42, 5)), (20, 60, 220))).max() <= 3
        for suffix in (".heic", ".HEIF", ".hif"):
            (tmp_path / f"photo{suffix}").write_bytes(HEIC)
        assert len(list(list_images(tmp_path))) == 3
        for length in range(0, len(HEIC), 25):
            assert refusal(HEIC[:length])

    def test_heic_without_its_package_names_the_command_that_installs_it(self, without_heif, tmp_path):
        (tmp_path / "photo.heic").write_bytes(HEIC)
        assert re.fullmatch(
            r".*/photo\.heic: a HEIC image needs pi_heif; .*install .*\[heif\].*", refusal(tmp_path / "photo.heic")
        )
        assert "[heif]" in wrong_usage(tmp_path)

    def test_no_format_starts_another_program(self):
        assert not {"EPS", "PDF", "WMF", "PSD"} & set(decode.FORMATS)
        Image.init()
        refused = set(Image.OPEN) - set(decode.FORMATS)
        assert "EPS" in refused

    def test_pillows_log_does_not_reach_the_terminal(self):
        logged = tiff([1, 2, 3], samples=99)
        code = "import sys, inception_v3 as i; i.open_image(sys.stdin.buffer, name='logged')"
        done = subprocess.run([sys.executable, "-c", code], input=logged, capture_output=True, check=False)
        assert b"More samples per pixel" not in done.stderr
        assert b"InputError: logged: not a supported image" in done.stderr

    def test_stderr_works_after_errors_of_libtiff(self, capfd):
        refusal(in_format("TIFF jpeg")[:-40])
        broken = in_format("TIFF jpeg").replace(b"\xff\xd8", b"\xff\x00")
        threads = [threading.Thread(target=lambda: [refusal(broken) for _ in range(20)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert capfd.readouterr().err == ""
        os.write(2, b"still here")
        assert capfd.readouterr().err == "still here"


class TestDecompressionBombs:
    """A small file that declares a huge image is refused by its header, before memory is allocated."""

    @pytest.fixture
    def decoded(self, monkeypatch):
        sizes = []
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: sizes.append(image.size))
        return sizes

    @pytest.mark.parametrize("size", [(13378, 13378), (MAX_PIXELS + 1, 1), (20000, 20000), (2**31 - 1, 2**31 - 1)])
    def test_png(self, tmp_path, size, decoded):
        path = tmp_path / "bomb.png"
        path.write_bytes(png_header(*size))
        assert refusal(path).startswith(f"{path}: ")
        assert "178,956,970 pixels; make it smaller" in refusal(path)
        assert decoded == []

    def test_the_limit_holds_if_pillows_own_is_disabled(self, decoded, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        assert "178,956,970 pixels" in refusal(png_header(13378, 13378))
        assert "178,956,970 pixels" in refusal(Image.open(io.BytesIO(png_header(13378, 13378))))
        assert decoded == []

    def test_the_limit_itself_is_allowed(self, decoded, monkeypatch):
        monkeypatch.setattr(Image.Image, "convert", lambda image, _: image)
        open_image(png_header(13377, 13377))
        assert decoded[0] == (13377, 13377)

    @pytest.mark.parametrize(
        "content",
        [
            b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0;",
            b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0),
            b"P6 60000 60000 255\n",
            bytes.fromhex("ffd8ffc0000b08ffffffff01011100ffda0008010100003f00"),
        ],
    )
    def test_other_formats(self, content, decoded):
        assert "pixels; make it smaller" in refusal(content)
        assert decoded == []


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def tiff(row: list[int], *, bits: int = 16, white_is_zero: bool = False, order: str = "<", samples: int = 1) -> bytes:
    """Return a TIFF with one row of gray. Pillow cannot write 12 bits or white at zero."""
    if bits == 16:
        data = struct.pack(f"{order}{len(row)}H", *row)
    else:
        packed = "".join(f"{value:012b}" for value in row)
        data = int(packed, 2).to_bytes(len(packed) // 8, "big")
    tags = [(256, len(row)), (257, 1), (258, bits), (259, 1), (262, 0 if white_is_zero else 1)]
    tags += [(273, 8), (277, samples), (278, 1), (279, len(data))]
    directory = struct.pack(f"{order}H", len(tags))
    directory += b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    start = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(data))
    return start + data + directory + bytes(4)


@pytest.fixture
def without_heif(monkeypatch):
    """A Python in which pi-heif is not installed."""
    missing = packages.missing_packages
    monkeypatch.setattr(packages, "missing_packages", lambda names: [*missing(names), *({"pi_heif"} & {*names})][:1])
    find.suffixes_read.cache_clear()
    for module in (decode, find):
        monkeypatch.setattr(module, "missing_packages", packages.missing_packages)
    yield
    find.suffixes_read.cache_clear()


class TestLeftOut:
    """Every file that is left out is counted, by reason, and --verbose lists it."""

    def test_images_of_kinds_that_are_not_read_are_counted_with_the_remedy(self, without_heif, tmp_path):
        for name in ("a.png", "sub/b.png", "1.heic", "2.HEIC", "sub/3.heif", "4.cr2", "5.svg", "sub/6.psd", "7.jxl"):
            save(tmp_path / name)
        with pytest.warns(UserWarning, match="kinds that are not read") as caught:
            assert names(tmp_path) == [f"{tmp_path}/a.png", f"{tmp_path}/sub/b.png"]
        (line,) = (str(warning.message) for warning in caught)
        assert "1 .cr2, 2 .heic, 1 .heif, 1 .jxl, 1 .psd, 1 .svg" in line
        assert re.search(r"to read HEIC, .*install .*\[heif\].*; save them as PNG or JPEG", line)

    @pytest.mark.parametrize("form", ["zip", "tar"])
    def test_they_are_counted_in_archives(self, without_heif, tmp_path, form):
        for name in ("a.png", "1.heic", "2.cr2", "notes.txt"):
            save(tmp_path / "set" / name)
        archive = shutil.make_archive(str(tmp_path / "set"), form, tmp_path / "set")
        with pytest.warns(UserWarning, match=r"not read: 1 \.cr2, 1 \.heic"):
            assert [Path(name).name for name in names(archive)] == ["a.png"]

    def test_a_folder_with_no_other_images_is_refused_with_the_remedy(self, tmp_path):
        for name in ("1.cr2", "2.cr2", "notes.txt"):
            save(tmp_path / name)
        assert re.search(r"no images in this folder; .*2 \.cr2 .*; save them as PNG or JPEG", wrong_usage(tmp_path))

    def test_verbose_lists_every_file(self, tmp_path, monkeypatch, capsys):
        for name in ("a.png", "notes.txt", ".hidden.png", "__MACOSX/b.png", "sub/c.png", "sub/d.json", "sub/set.zip"):
            save(tmp_path / name)
        assert len(names(tmp_path)) == 2
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(verbosity, "verbose", True)
        names(tmp_path)
        assert sorted(capsys.readouterr().err.splitlines()) == [
            f"left out {tmp_path}/.hidden.png: hidden, or written by a system",
            f"left out {tmp_path}/__MACOSX: hidden, or written by a system",
            f"left out {tmp_path}/notes.txt: not an image",
            f"left out {tmp_path}/sub/d.json: not an image",
            f"left out {tmp_path}/sub/set.zip: not an image",
            "left out 2 files: hidden, or written by a system",
            "left out 3 files: not an image",
        ]

    def test_a_file_of_a_folder_that_is_read_in_several_passes_is_counted_once(self, tmp_path, monkeypatch):
        monkeypatch.setattr(find, "NAMES_AT_ONCE", 2)
        for number in range(9):
            save(tmp_path / f"{number}.png")
            save(tmp_path / f"{number}.cr2")
        left_out = find.LeftOut()
        assert len(list(list_images(tmp_path, left_out))) == 9
        assert left_out.counts == {".cr2": 9}


class TestFolders:
    """All images in a folder and its subfolders, sorted, without hidden files."""

    def test_known_suffixes_in_any_case_and_no_others(self, tmp_path):
        expected = [save(tmp_path / f"a{suffix}") for suffix in IMAGE_SUFFIXES]
        expected += [save(tmp_path / f"A{suffix.upper()}") for suffix in IMAGE_SUFFIXES]
        for other in ("notes.txt", "jpg", "x.jpg.part", "model.safetensors"):
            (tmp_path / other).write_text("")
        assert list(list_images(tmp_path)) == sorted(expected)

    def test_subfolders_in_the_order_of_sorted_paths(self, tmp_path):
        order = ["A/z.png", "a/b/c.png", "a/b.png", "a/c/a.png", "a.png", "a-b.png", "b/a.png", "ä.png"]
        for name in reversed(order):
            save(tmp_path / name)
        paths = list(list_images(str(tmp_path)))
        assert paths == sorted(paths) == sorted(tmp_path / name for name in order)

    def test_hidden_files_and_files_of_macos_are_skipped(self, tmp_path):
        for name in (".a.png", "._b.png", ".git/c.png", "__MACOSX/d.png", "x/.thumbnails/e.png", "x/__MACOSX/._f.png"):
            save(tmp_path / name)
        assert list(list_images(tmp_path)) == []
        assert list(list_images(tmp_path / ".git")) == [tmp_path / ".git/c.png"]  # an explicit name is listed

    def test_folders_and_pipes_with_the_suffix_of_an_image(self, tmp_path):
        inside = save(tmp_path / "folder.png" / "a.png")
        os.mkfifo(tmp_path / "pipe.png")
        (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
        assert list(list_images(tmp_path)) == [inside]

    def test_links_are_followed_but_not_in_circles(self, tmp_path):
        save(tmp_path / "elsewhere" / "e.png")
        save(tmp_path / "top" / "a" / "a.png")
        save(tmp_path / "top" / "b" / "b.png")
        (tmp_path / "top" / "out").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "top" / "up").symlink_to(tmp_path / "top")
        (tmp_path / "top" / "file.png").symlink_to(tmp_path / "top" / "a" / "a.png")
        (tmp_path / "top" / "a" / "to-b").symlink_to("../b")
        (tmp_path / "top" / "b" / "to-a").symlink_to("../a")
        paths = [path.relative_to(tmp_path / "top").as_posix() for path in list_images(tmp_path / "top")]
        assert paths == ["a/a.png", "a/to-b/b.png", "b/b.png", "b/to-a/a.png", "file.png", "out/e.png"]

    def test_the_folder_itself_may_be_a_link(self, tmp_path):
        save(tmp_path / "there" / "a.png")
        (tmp_path / "here").symlink_to("there")
        assert list(list_images(tmp_path / "here")) == [tmp_path / "here" / "a.png"]

    def test_a_broken_link_is_listed_and_reported_when_opened(self, tmp_path):
        (tmp_path / "gone.png").symlink_to("nowhere")
        (tmp_path / "self.png").symlink_to("self.png")
        (tmp_path / "notes").symlink_to("nowhere")
        gone, own_target = list_images(tmp_path)
        assert refusal(gone).endswith(
            "gone.png: is a symbolic link to NOWHERE, which does not exist; correct the link".replace(
                "NOWHERE", str(tmp_path / "nowhere")
            )
        )
        assert "self.png: its symbolic links form a circle" in refusal(own_target)

    def test_folders_are_listed_one_at_a_time(self, tmp_path, monkeypatch):
        for name in ("a", "b", "c"):
            save(tmp_path / name / "1.png")
        listed = []
        scandir = os.scandir
        monkeypatch.setattr(os, "scandir", lambda path: listed.append(Path(path).name) or scandir(path))
        paths = list_images(tmp_path)
        assert listed == []
        next(paths)
        assert listed == [tmp_path.name, "a"]
        next(paths)
        assert listed == [tmp_path.name, "a", "b"]

    def test_nesting_deeper_than_the_recursion_limit(self, tmp_path):
        bottom = save(tmp_path / ("d/" * 300) / "x.png")
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(len(inspect.stack()) + 150)
        try:
            paths = list(list_images(tmp_path))
        finally:
            sys.setrecursionlimit(limit)
        assert paths == [bottom]

    def test_a_folder_that_cannot_be_listed(self, tmp_path, monkeypatch):
        for path, reason in ((tmp_path / "no", "there is no such"), (save(tmp_path / "a.png"), "a file, not a folder")):
            with pytest.raises(InputError, match=rf"^{path}: .*{reason}"):
                next(list_images(path))
        monkeypatch.setattr(os, "scandir", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "bad disk")))
        with pytest.raises(InputError, match=rf"^{tmp_path}: input/output error; check the disk"):
            next(list_images(tmp_path))

    @settings(max_examples=30, deadline=None)
    @given(
        st.sets(st.lists(st.sampled_from(["a", "b.png", ".c", "d-", "é.jpg"]), min_size=1, max_size=4).map("/".join))
    )
    def test_any_tree_gives_the_same_as_rglob(self, paths):
        with tempfile.TemporaryDirectory() as top:
            for path in map(Path(top).joinpath, paths):
                if not any(parent.is_file() for parent in path.parents) and not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
            expected = [
                path
                for path in Path(top).rglob("*")
                if path.is_file() and path.suffix in IMAGE_SUFFIXES and "/." not in str(path)[len(top) :]
            ]
            assert list(list_images(top)) == sorted(expected)


class TestArguments:
    """Files, folders and patterns on a command line, in the given order."""

    def test_files_in_the_given_order_with_any_name(self, folder):
        for name in ("b.png", "a.png", "no suffix", ".hidden.png"):
            save(folder / name)
        assert names("b.png", "no suffix", "a.png", ".hidden.png", "a.png") == [
            "b.png", "no suffix", "a.png", ".hidden.png", "a.png",
        ]  # fmt: skip

    def test_a_source_can_be_pickled_and_opened(self, folder):
        save(folder / "a.png")
        (source,) = expand(["a.png"])
        assert source == ImageSource("a.png", Path("a.png"))
        assert np.asarray(pickle.loads(pickle.dumps(source)).open()).tolist() == [[[255, 0, 0]] * 2] * 2
        with pytest.raises(AttributeError):
            source.name = "b.png"

    def test_a_bad_source_is_reported_when_it_is_opened(self, folder):
        bad = folder / "bad.png"
        bad.write_text("words")
        (source,) = expand(["bad.png"])
        with pytest.raises(InputError, match=r"^bad\.png: not a supported image"):
            source.open()

    def test_a_folder_stands_for_its_images(self, folder):
        for name in ("x/b.png", "x/a/c.jpg", "x/notes.txt", "y/d.png"):
            save(folder / name)
        assert names("y", "x/") == ["y/d.png", "x/a/c.jpg", "x/b.png"]
        assert names(".") == ["x/a/c.jpg", "x/b.png", "y/d.png"]

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("*.png", ["a.png", "b.png"]),
            ("?.png", ["a.png", "b.png"]),
            ("[b-z].png", ["b.png"]),
            ("x/*", ["x/c.jpg", "x/deep/e.png", "x/notes.txt"]),
            ("*/*.jpg", ["x/c.jpg", "y/f.jpg"]),
            ("[xy]", ["x/c.jpg", "x/deep/e.png", "y/f.jpg"]),
            ("**/*.png", ["a.png", "b.png", "x/deep/e.png"]),
            ("x/**", ["x/c.jpg", "x/deep/e.png"]),
            ("x/**/*", ["x/c.jpg", "x/deep/e.png"]),
            ("**/deep", ["x/deep/e.png"]),
            ("**/x/**/*.png", ["x/deep/e.png"]),
            (".h/*.png", [".h/g.png"]),
        ],
    )
    def test_patterns(self, folder, pattern, expected):
        for name in ("b.png", "a.png", "x/c.jpg", "x/notes.txt", "x/deep/e.png", "y/f.jpg", ".h/g.png", ".i.png"):
            save(folder / name)
        assert names(pattern) == expected
        here = Path.cwd()
        assert names(here / pattern) == [f"{here}/{name}" for name in expected]

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(st.sampled_from(["**", "*", "a", "[ab]", "*.png", "?"]), min_size=1, max_size=4),
        st.sets(st.lists(st.sampled_from("abc"), max_size=3).map(lambda parts: "/".join([*parts, "x.png"]))),
    )
    def test_patterns_match_like_pythons_glob(self, parts, files):
        with tempfile.TemporaryDirectory() as top:
            for file in files:
                (Path(top) / file).parent.mkdir(parents=True, exist_ok=True)
                (Path(top) / file).touch()
            matched = {Path(match) for match in glob.glob("/".join([top, *parts]), recursive=True)}  # noqa: PTH207
            expected = {f"{top}/{file}" for file in files if matched & {Path(top, file), *Path(top, file).parents}}
            try:
                assert names(f"{top}/{'/'.join(parts)}") == sorted(expected, key=Path)
            except InputError:
                assert not expected

    def test_patterns_do_not_follow_links_in_circles(self, folder):
        save(folder / "a" / "x.png")
        (folder / "a" / "one").symlink_to(".")
        (folder / "a" / "two").symlink_to(".")
        assert names("**/*.png") == ["a/x.png"]

    def test_an_existing_path_is_not_a_pattern(self, folder):
        for name in ("[a].png", "a.png", "holiday [1]/b.png", "what?.png", "*.png"):
            save(folder / name)
        assert names("[a].png", "holiday [1]", "what?.png", "*.png") == [
            "[a].png", "holiday [1]/b.png", "what?.png", "*.png",
        ]  # fmt: skip

    def test_an_image_has_the_true_name_of_its_file(self, folder):
        for name in ("\udcff.png", "a\nb.png", "猫 \u202f.png"):
            save(folder / name)
            (source,) = expand([name])
            assert source.name == name
            assert source.open().size == (2, 2)

    @pytest.mark.parametrize("argument", ["no.png", "no/", "*.png", "**/*.png", "no/**/*.png", "["])
    def test_a_missing_file_is_wrong_usage(self, folder, argument):
        assert wrong_usage(argument).startswith(f"{argument}: no such file or folder")

    def test_a_path_that_cannot_exist_is_wrong_usage_with_its_reason(self, folder):
        save(folder / "a.png")
        (folder / "circle").symlink_to("circle")
        (folder / "gone").symlink_to("nowhere")
        assert wrong_usage("a\0b") == "a\\x00b: not a path (embedded null byte); correct it"
        assert wrong_usage("x" * 300).endswith("x: the name is too long for this file system; shorten it")
        assert wrong_usage("circle") == "circle: its symbolic links form a circle; correct the links"
        assert wrong_usage("a.png/x") == "a.png/x: a.png is a file, not a folder; check the path"
        assert wrong_usage("gone").startswith(f"gone: is a symbolic link to {folder.resolve()}/nowhere, which does")

    def test_an_empty_argument_is_not_the_current_folder(self, folder):
        save(folder / "a.png")
        assert wrong_usage("").startswith("(empty): no such file")

    def test_a_folder_without_images_is_wrong_usage(self, folder):
        save(folder / "empty" / "notes.txt")
        assert wrong_usage("empty") == "empty: no images in this folder; check the path"

    def test_wrong_usage_is_reported_before_the_first_image(self, folder):
        save(folder / "a.png")
        with pytest.raises(InputError, match=r"^b\.png"):
            expand(["a.png", "b.png"])

    @pytest.mark.usefixtures("unprivileged")
    @pytest.mark.parametrize("argument", ["locked/a.png", "locked/*.png", "locked/**/*.png"])
    def test_a_file_in_a_protected_folder_is_refused_at_once(self, folder, argument):
        save(folder / "locked" / "a.png")
        (folder / "locked").chmod(0)
        with pytest.raises(InputError) as error:
            expand([argument])
        reason = "no permission to enter the folder locked; allow it with chmod u+x locked"
        assert (str(error.value), error.value.exit_status) == (f"{argument}: {reason}", 1)

    @pytest.mark.usefixtures("unprivileged")
    @pytest.mark.parametrize("argument", [".", "*", "*/*", "**/*.png"])
    def test_a_subfolder_without_permission_counts_as_an_image_that_cannot_be_read(self, folder, argument):
        save(folder / "a" / "a.png")
        save(folder / "locked" / "b.png")
        (folder / "locked").chmod(0)
        good, closed = expand([argument])
        assert good.name == "a/a.png"
        with pytest.raises(InputError, match=r"^locked: no permission to list this folder; allow it with chmod u\+rx$"):
            closed.open()

    @pytest.mark.usefixtures("unprivileged")
    def test_every_file_of_a_folder_that_may_be_listed_and_not_entered_counts(self, folder):
        save(folder / "listed" / "a.png")
        save(folder / "listed" / "b" / "b.png")
        (folder / "listed").chmod(0o444)
        sources = list(expand(["."]))
        assert [source.name for source in sources] == ["listed/a.png", "listed/b"]
        for source in sources:
            with pytest.raises(InputError, match="no permission to enter the folder listed"):
                source.open()

    def test_a_subfolder_whose_disk_fails_counts_as_an_image_that_cannot_be_read(self, folder, monkeypatch):
        save(folder / "a.png")
        save(folder / "stale" / "b.png")
        scandir = os.scandir

        def fail(path):
            if Path(path).name == "stale":
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", fail)
        _, stale = expand(["."])
        with pytest.raises(InputError, match=r"^stale: the network file system does not know it any more"):
            stale.open()

    @pytest.mark.usefixtures("unprivileged")
    def test_archives_beside_a_subfolder_without_permission_are_read(self, folder):
        shutil.make_archive("set", "tar", save(folder / "in" / "a.png").parent)
        shutil.rmtree("in")
        save(folder / "locked" / "b.png")
        (folder / "locked").chmod(0)
        assert names(".") == ["set.tar/./a.png", "locked"]

    def test_sources_are_an_iterator_not_a_list(self, folder):
        save(folder / "a.png")
        assert sum(1 for _ in itertools.islice(expand(["a.png"] * 1000), 10)) == 10
        assert not isinstance(expand(["a.png"]), list)


class TestStandardInput:
    """The argument - is the bytes of one image, or a list of paths as ls and find write them."""

    @pytest.mark.parametrize("kind", IN_FORMATS)
    def test_one_image_in_any_format(self, kind, pipe):
        content = in_format(kind)
        pipe(content)
        (source,) = expand(["-"])
        assert source.name == "standard input"
        assert (np.asarray(source.open()) == np.asarray(open_image(content))).all()

    def test_an_image_of_one_pixel(self, pipe):
        for kind in ("PPM", "GIF", "BMP", "PNG"):
            pipe(encoded(Image.new("L", (1, 1), 255), kind))
            assert [pixels(source.open()) for source in expand(["-"])] == [[WHITE]]

    def test_an_image_that_arrives_in_pieces(self, monkeypatch):
        content = in_format("PNG")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Trickle(content))))
        (source,) = expand(["-"])
        assert (np.asarray(source.open()) == NOISE).all()

    @pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\0"])
    def test_paths_with_and_without_a_final_line_end(self, folder, pipe, ending):
        for name in ("a.png", "Größe 猫.png", " b [1].png"):
            save(folder / name)
        lines = [b"a.png", "Größe 猫.png".encode(), b"", b" b [1].png"]
        for content in (ending.join(lines), ending.join(lines) + ending):
            pipe(content)
            assert names("-") == ["a.png", "Größe 猫.png", " b [1].png"]

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
    @pytest.mark.parametrize("ending", ["\n", "\r\n"])
    def test_lists_with_a_byte_order_mark(self, folder, pipe, encoding, ending):
        listed = ["a.png", "mañana 猫.png", "b.png"]
        for name in listed:
            save(folder / name)
        mark = "" if encoding in ("utf-8-sig", "utf-16") else "\ufeff"
        for text in (mark + ending.join(listed), mark + "".join(name + ending for name in listed)):
            pipe(text.encode(encoding))
            assert names("-") == listed
        pipe(mark.encode(encoding))
        assert wrong_usage("-").startswith("standard input: it is empty")

    def test_names_with_line_ends_from_find_print0(self, folder, pipe):
        save(folder / "two\nlines.png")
        save(folder / "b.png\r")
        pipe(b"two\nlines.png\0b.png\r\0")
        assert [source.content for source in expand(["-"])] == [Path("two\nlines.png"), Path("b.png\r")]

    def test_names_that_begin_like_image_signatures(self, folder, pipe):
        for name in ("BMW/1.png", "P6/1.png", "RIFF.png", "MM/1.png", "II.png", "P5", "P1 2.png"):
            save(folder / name)
            pipe(f"{name}\n{name}\n".encode() * 10)
            assert names("-") == [name] * 20

    def test_folders_in_the_list(self, folder, pipe):
        save(folder / "x" / "a.png")
        save(folder / "b.png")
        (folder / "empty").mkdir()
        pipe(b"x\nb.png\nempty\n")
        assert names("-") == ["x/a.png", "b.png", "empty"]

    def test_a_missing_file_does_not_stop_the_others(self, folder, pipe):
        save(folder / "a.png")
        pipe(b"a.png\ngone.png\na.png\n")
        _, gone, last = expand(["-"])
        assert last.open().size == (2, 2)
        with pytest.raises(InputError, match=r"^gone\.png: there is no such file"):
            gone.open()

    def test_lists_longer_than_any_buffer(self, folder, monkeypatch):
        save(folder / "a.png")
        count = 30_000
        monkeypatch.setattr(addresses, "file_mode", lambda _: 1)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"".join(b"%d.png\n" % n for n in range(count)))))
        assert [source.name for source in expand(["-"])] == [f"{n}.png" for n in range(count)]

    def test_the_list_is_read_as_it_arrives(self, folder, monkeypatch):
        save(folder / "a.png")
        endless = Trickle(itertools.cycle(b"a.png\n"), step=1000)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(endless)))
        assert [source.name for source in itertools.islice(expand(["-"]), 5000)] == ["a.png"] * 5000

    @pytest.mark.parametrize("step", [1, 2, 3, 7, 64, 4096])
    def test_pieces_of_any_size(self, folder, monkeypatch, step):
        monkeypatch.setattr(addresses, "file_mode", lambda _: 1)
        expected = [f"{'x' * random.Random(n).randint(1, 30)}{n}.png" for n in range(200)]
        for separator in "\n\0":
            content = separator.join(expected).encode()
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Trickle(content, step))))
            assert names("-") == expected

    def test_between_other_arguments(self, folder, pipe):
        for name in ("a.png", "b.png", "c.png"):
            save(folder / name)
        pipe(b"b.png\n")
        assert names("a.png", "-", "c.png") == ["a.png", "b.png", "c.png"]

    def test_standard_input_is_not_read_before_its_turn(self, folder, monkeypatch):
        save(folder / "a.png")
        monkeypatch.setattr(sys, "stdin", None)
        assert next(expand(["a.png", "-"])).name == "a.png"

    @pytest.mark.parametrize("content", [b"", b"\n \n", b"\n" * 100])
    def test_empty_input_is_wrong_usage(self, pipe, content):
        pipe(content)
        assert wrong_usage("-") == "standard input: it is empty; pipe an image or a list of paths in"

    def test_no_standard_input_is_wrong_usage(self, monkeypatch):
        monkeypatch.setattr(sys, "stdin", None)
        assert wrong_usage("-").startswith("standard input: it is empty")

    def test_a_second_dash_reads_empty_input(self, folder, pipe):
        save(folder / "a.png")
        pipe(b"a.png\n")
        assert wrong_usage("-", "-").startswith("standard input: it is empty")

    @pytest.mark.parametrize(
        "content",
        [
            b"<!DOCTYPE html>\n<title>404</title>\n",
            b"\0\0\0\x18ftypisom\0\0\0\0mp41isom" + bytes(100),
            b"%PDF-1.4\n%\xff\xff",
            b"no.png\nnor.png\n",
            b"\x1b[31mred" * 10,
            b"x" * 100_000,
            b"x" * 1_000_000,
        ],
    )
    def test_neither_image_nor_list_is_reported_once(self, folder, pipe, content):
        pipe(content)
        message = wrong_usage("-")
        assert message.startswith("standard input: not a supported image, and ")
        assert message.endswith("; check what is piped in")
        assert len(message) < 200

    def test_an_endless_line_is_refused_early(self, monkeypatch):
        content = Trickle(itertools.repeat(ord("x"), 2**22), step=4096)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(content)))
        assert "not a list of paths; check" in wrong_usage("-")
        assert content.sent < 2**18

    def test_a_damaged_image_is_reported(self, pipe):
        pipe(in_format("PNG")[:200])
        (source,) = expand(["-"])
        with pytest.raises(InputError, match=r"^standard input: cannot be read"):
            source.open()

    def test_an_image_above_the_limit_is_refused_early(self, monkeypatch):
        monkeypatch.setattr(decode, "MAX_STREAM_BYTES", 5 * 2**20)
        endless = Trickle(itertools.chain(b"\x89PNG\r\n\x1a\n", itertools.repeat(0)), step=2**16)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(endless)))
        with pytest.raises(InputError, match=r"^standard input: more than 5 MiB in a pipe; save it"):
            list(expand(["-"]))
        assert endless.sent <= 6 * 2**20 + 2**17

    def test_an_image_of_exactly_the_limit_is_accepted(self, monkeypatch, pipe):
        content = in_format("PNG")
        monkeypatch.setattr(decode, "MAX_STREAM_BYTES", len(content))
        pipe(content)
        assert len(list(expand(["-"]))) == 1
        monkeypatch.setattr(decode, "MAX_STREAM_BYTES", len(content) - 1)
        pipe(content)
        with pytest.raises(InputError, match="save it and give the file"):
            list(expand(["-"]))


class Trickle(io.RawIOBase):
    """A pipe whose writer sends a few bytes at a time."""

    def __init__(self, content, step: int = 1) -> None:
        self.content, self.step, self.sent = iter(content), step, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        piece = bytes(itertools.islice(self.content, min(self.step, len(buffer))))
        buffer[: len(piece)] = piece
        self.sent += len(piece)
        return len(piece)
