"""Large images are decoded and resized part by part: in bounded memory, and with the same pixels as in one piece."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inception_v3.errors import InputError
from inception_v3.images import decode, preprocessing
from inception_v3.images.decode import open_image
from inception_v3.images.preprocessing import PREPROCESSINGS, Preprocessing

CHANNELS = {"L": 1, "P": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}
FILES = [
    *(("L", "PNG", 7), ("P", "PNG", 9), ("P", "PNG", b"0" * 256), ("RGB", "PNG", (1, 2, 3)), ("LA", "PNG", None)),
    *(("RGBA", "PNG", None), ("CMYK", "TIFF", None), ("CMYK", "JPEG", None), ("I;16", "PNG", None), ("1", "PNG", None)),
]


def noise(mode: str) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 65536, (211, 157, CHANNELS.get(mode, 1)), dtype=np.uint16)
    if mode == "I;16":
        return Image.fromarray(values[:, :, 0])
    image = Image.frombytes("L" if mode == "1" else mode, (157, 211), (values % 256).astype(np.uint8).tobytes())
    if mode == "P":
        image.putpalette([value * 7 % 256 for value in range(768)])
    return image.convert(mode)


@pytest.mark.parametrize(("mode", "file_format", "transparency"), FILES)
def test_an_image_that_is_converted_in_parts_has_the_same_pixels(
    mode: str, file_format: str, transparency: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {} if transparency is None else {"transparency": transparency}
    noise(mode).save(file := io.BytesIO(), file_format, **options)
    whole = open_image(file.getvalue())
    monkeypatch.setattr(decode, "BAND_PIXELS", 1000)
    given = Image.open(io.BytesIO(file.getvalue()))
    for source in (file.getvalue(), given):
        parts = open_image(source)
        assert (type(parts), parts.mode, parts.info) == (Image.Image, "RGB", {})
        assert parts.tobytes() == whole.tobytes()
    assert given.mode == Image.open(io.BytesIO(file.getvalue())).mode, "the caller's image is not changed"


@pytest.mark.parametrize("options", [*PREPROCESSINGS.values(), Preprocessing(interpolation="bicubic")])
def test_an_image_that_is_resized_in_parts_has_the_same_pixels(
    options: Preprocessing, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in ((640, 480), (97, 1203), (1500, 31), (299, 342)):
        image = noise("RGB").resize(size)
        whole = options.pixels(image)
        with monkeypatch.context() as patch:
            patch.setattr(preprocessing, "BAND_PIXELS", 5000)
            assert bool((options.pixels(image) == whole).all())


@pytest.mark.parametrize("file_format", ["WEBP", "JPEG2000"])
def test_formats_whose_decoders_copy_the_image_have_a_lower_limit(
    file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise("RGB").save(file := io.BytesIO(), file_format)
    monkeypatch.setattr(decode, "MAX_COPIED_PIXELS", 157 * 211)
    assert open_image(file.getvalue()).size == (157, 211)
    monkeypatch.setattr(decode, "MAX_COPIED_PIXELS", 157 * 211 - 1)
    with pytest.raises(InputError, match=r"^image: more than the limit of 33,126 pixels in this format; make it"):
        open_image(file.getvalue())


MEASURE = """
import resource, sys
from pathlib import Path
import numpy as np
from inception_v3.images.find import ImageSource
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.inference.pipeline import image_preparer
prepare = image_preparer(Preprocessing(), resize=sys.argv[2])
if sys.argv[2] == "torchvision":
    import torchvision.transforms.v2
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
prepare(ImageSource("image", Path(sys.argv[1])), np.empty((299, 299, 3), np.uint8))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("resizer", ["pillow", "torchvision"])
@pytest.mark.parametrize(
    ("mode", "bytes_per_pixel"), [("1", 5), ("L", 5), ("P", 5), ("RGB", 4), ("LA", 5), ("RGBA", 7), ("I;16", 5)]
)
def test_an_image_of_144_million_pixels_takes_bounded_memory(
    mode: str, bytes_per_pixel: int, resizer: str, tmp_path: Path
) -> None:
    Image.new(mode, (12_000, 12_000)).save(tmp_path / "image.png")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "image.png", resizer], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) * 1024 < bytes_per_pixel * 144e6 + 250e6
