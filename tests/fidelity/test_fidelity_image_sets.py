"""Sets of images: all forms hold the same images in the same order, and each kind of damage is reported."""

import gzip
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from archives import write_tar, write_zip
from fidelity_inputs import draw_image, image_folder
from inception_v3.errors import InputError
from inception_v3.fidelity.image_sets import open_image_set
from inception_v3.fidelity.stored_image import decode_image
from inception_v3.images.decode import open_image
from inception_v3.inference.feature_store import content_key

IMAGES = np.stack([draw_image(seed, 20, 30) for seed in range(5)])


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def pixels_of(argument: object) -> list[np.ndarray]:
    return [decode_image(image.read(), image.name)[0] for image in open_image_set(str(argument)).images()]


def names_of(argument: object) -> list[str]:
    return [image.name.rpartition("/")[2] for image in open_image_set(str(argument)).images()]


FILES = {f"ü/{number}.png": png(pixels) for number, pixels in enumerate(IMAGES)}


def as_folder(folder: Path) -> Path:
    for name, content in FILES.items():
        (folder / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "set" / name).write_bytes(content)
    return folder / "set"


def as_shards(folder: Path) -> str:
    files = list(FILES.items())
    write_tar(folder / "s-00.tar", dict(files[:2]))
    write_tar(folder / "s-01.tar", dict(files[2:]))
    return f"{folder}/s-{{00..01}}.tar"


def as_array(folder: Path, array: np.ndarray, **more: np.ndarray) -> Path:
    np.savez(folder / "set.npz", arr_0=array, **more)
    return folder / "set.npz"


def as_npy(folder: Path) -> Path:
    np.save(folder / "set.npy", IMAGES)
    return folder / "set.npy"


def as_folder_of_shards(folder: Path) -> Path:
    as_shards(folder)
    return folder


FORMS: dict[str, Callable[[Path], object]] = {
    "folder": as_folder,
    "zip": lambda folder: write_zip(folder / "set.zip", FILES),
    "tar": lambda folder: write_tar(folder / "set.tar", FILES),
    "tar.gz": lambda folder: write_tar(folder / "set.tar.gz", FILES, "w:gz"),
    "shards": as_shards,
    "shards by pattern": lambda folder: as_shards(folder).replace("{00..01}", "*"),
    "folder of shards": as_folder_of_shards,
    "folder of a shard": lambda folder: write_tar(folder / "s.TAR.gz", FILES, "w:gz").parent,
    "npz": lambda folder: as_array(folder, IMAGES),
    "npz, channels first": lambda folder: as_array(folder, IMAGES.transpose(0, 3, 1, 2)),
    "npy": as_npy,
}


@pytest.mark.filterwarnings("ignore:.*if this is wrong, transpose it")
@pytest.mark.parametrize("form", FORMS)
def test_all_forms_hold_the_same_images_in_order_and_can_be_read_twice(form: str, tmp_path: Path) -> None:
    argument = FORMS[form](tmp_path)
    image_set = open_image_set(str(argument))
    assert image_set.count in (5, None)
    for _ in range(2):
        pixels = [decode_image(image.read(), image.name)[0] for image in image_set.images()]
        np.testing.assert_array_equal(np.stack(pixels).transpose(0, 2, 3, 1), IMAGES)


def test_files_are_sorted_as_text_like_in_the_other_programs(tmp_path: Path) -> None:
    for name in ("a/z.png", "a-b/1.png", "a.png", "b/2.png", "B.png"):
        image_folder((tmp_path / name).parent, 0)
        (tmp_path / name).write_bytes(FILES["ü/0.png"])
    names = [image.name for image in open_image_set(tmp_path).images()]
    assert names == sorted(names)
    assert len(names) == 5


@pytest.mark.filterwarnings("ignore:.* images of samples were left out")
def test_masks_in_a_shard_are_not_images(tmp_path: Path) -> None:
    content = FILES["ü/0.png"]
    sample = {"x/1.jpg": content, "x/1.mask.png": content, "x/1.json": b"{}", "x/2.seg.png": content, "x/._3.png": b""}
    assert names_of(write_tar(tmp_path / "s.tar", sample)) == ["1.jpg", "2.seg.png"]
    assert names_of(write_zip(tmp_path / "s.zip", {"a.txt": b"", "__MACOSX/a.png": b"", "b.PNG": content})) == ["b.PNG"]


def test_names_with_dots_are_not_masks(tmp_path: Path) -> None:
    numbered = ["cat.png", "cat.1.png", "cat.11.png", "0.png", "0.5.png"]
    assert names_of(write_tar(tmp_path / "n.tar", dict.fromkeys(numbered, FILES["ü/0.png"]))) == numbered
    names = [f"scale.v{number}.png" for number in range(100)]
    path = write_tar(tmp_path / "s.tar", dict.fromkeys(names, FILES["ü/0.png"]))
    assert names_of(path) == names


def test_a_link_in_a_tar_file_is_reported(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(FILES["ü/0.png"])
    os.link(tmp_path / "1.png", tmp_path / "2.png")
    (tmp_path / "3.png").symlink_to("1.png")
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for number in range(4):
            archive.add(tmp_path / f"{number}.png", f"{number}.png")
    contents = [image.content for image in open_image_set(tmp_path / "s.tar").images()]
    assert [isinstance(content, InputError) for content in contents] == [False, False, True, True]
    assert "2.png: a link to another file; pack it with tar --dereference" in str(contents[2])


def test_a_compressed_tar_is_read_forwards_and_its_headers_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeking back means reading from the beginning, which would take hours if done for each image."""
    backwards, kept = [], []
    seek, next_member = gzip.GzipFile.seek, tarfile.TarFile.next

    def counted_seek(file: gzip.GzipFile, offset: int, whence: int = 0) -> int:
        backwards.extend([offset] * (whence == 0 and offset < file.tell()))
        return seek(file, offset, whence)

    def counted_next(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
        kept.append(len(archive.members))
        return next_member(archive)

    rng = np.random.default_rng(0)
    files = {f"{number:03}.png": rng.bytes(20_000) for number in range(50)}
    path = write_tar(tmp_path / "set.tar.gz", files, "w:gz")
    monkeypatch.setattr(gzip.GzipFile, "seek", counted_seek)
    monkeypatch.setattr(tarfile.TarFile, "next", counted_next)
    assert [image.content for image in open_image_set(path).images()] == list(files.values())
    assert len(backwards) <= 2
    assert max(kept) <= 1


@pytest.mark.filterwarnings("ignore:.*if this is wrong, transpose it")
@pytest.mark.parametrize("shape", [(3, 9, 8), (3, 9, 8, 1), (3, 1, 9, 8), (3, 9, 8, 4)])
def test_arrays_may_be_gray_or_have_alpha(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pixels = np.stack(pixels_of(as_array(tmp_path, array)))
    expected = array[..., :3].transpose(0, 3, 1, 2) if shape[-1] == 4 else array.reshape(3, 1, 9, 8).repeat(3, 1)
    np.testing.assert_array_equal(pixels, expected)


def test_an_npz_file_may_hold_images_and_statistics(tmp_path: Path) -> None:
    image_set = open_image_set(as_array(tmp_path, IMAGES, mu=np.zeros(2), sigma=np.eye(2)))
    assert image_set.count == 5
    assert image_set.statistics == tmp_path / "set.npz"
    np.savez(tmp_path / "only.npz", mu=np.zeros(2), sigma=np.eye(2))
    only_statistics = open_image_set(tmp_path / "only.npz")
    assert (only_statistics.count, only_statistics.statistics) == (0, tmp_path / "only.npz")


def test_keys_depend_on_the_content_and_on_the_shape() -> None:
    assert content_key(b"1") == content_key(b"1") != content_key(b"2")
    flat = np.arange(24, dtype=np.uint8)
    assert content_key(flat.reshape(2, 4, 3)) != content_key(flat.reshape(4, 2, 3))


# --- damaged and unsupported sets ---


def test_one_damaged_image_in_a_zip_does_not_affect_the_others(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "set.zip", FILES)
    content = bytearray(path.read_bytes())
    content[100] ^= 0xFF  # in the first image
    path.write_bytes(content)
    good, bad = 0, []
    for image in open_image_set(path).images():
        try:
            decode_image(image.read(), image.name)
            good += 1
        except InputError as error:
            bad.append(str(error))
    assert good == 4
    assert "set.zip/" in bad[0]


def test_an_unreadable_image_has_the_same_message_as_with_open_image(tmp_path: Path) -> None:
    for content, message in ((b"", "empty"), (b"words", "JPEG, PNG")):
        file = _written(tmp_path / "a.png", content)
        (image,) = open_image_set(str(tmp_path)).images()
        with pytest.raises(InputError, match=f"a.png: .*{message}.*; ") as error:
            decode_image(image.read(), image.name)
        with pytest.raises(InputError) as expected:
            open_image(file)
        assert str(error.value) == str(expected.value)


def arrays(path: Path, **named: np.ndarray) -> Path:
    np.savez(path, **named)
    return path


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda folder: folder / "none", "no such file or folder"),
    "empty folder": (lambda folder: folder, "no images in this folder"),
    "missing shard": (lambda folder: as_shards(folder).replace("01", "02"), r"s-02\.tar: no such file"),
    "endless shards": (lambda folder: f"{folder}/{{0..999999999}}.tar", "more than 1,000,000 files"),
    "text": (lambda folder: _written(folder / "notes.txt", b"no images"), "not a supported image"),
    "empty zip": (lambda folder: write_zip(folder / "set.zip", {"a.txt": b""}), "no images in this archive"),
    "empty tar": (lambda folder: write_tar(folder / "set.tar", {"a.txt": b""}), "no images in this archive"),
    "cut tar": (lambda folder: _cut(write_tar(folder / "set.tar", FILES), 3000), "damaged at byte .*cut short"),
    "cut tar.gz": (lambda folder: _cut(write_tar(folder / "set.tar.gz", FILES, "w:gz"), 4000), "damaged or truncated"),
    "damaged tar.xz": (
        lambda folder: _damaged(write_tar(folder / "set.tar.xz", FILES, "w:xz")),
        "damaged or truncated",
    ),
    "one image": (lambda folder: as_array(folder, IMAGES[0]), "is that of one image; save several as"),
    "cut npz": (lambda folder: _cut(as_array(folder, IMAGES), 4000), "damaged or truncated"),
    "cut npy": (lambda folder: _cut(as_npy(folder), 4000), "truncated"),
    "empty npy": (lambda folder: _written(folder / "set.npy", b""), "damaged or not a NumPy array"),
    "floats": (lambda folder: as_array(folder, IMAGES / 255), "holds float64 values, but images must be uint8"),
    "no images": (lambda folder: arrays(folder / "set.npz", a=np.zeros(3)), "no images .* and no statistics"),
    "two sets": (lambda folder: arrays(folder / "set.npz", a=IMAGES, b=IMAGES), "holds several arrays of images"),
    "odd shape": (lambda folder: as_array(folder, IMAGES[..., :2]), "is not that of images"),
    "empty array": (lambda folder: as_array(folder, IMAGES[:0]), "no images in this array"),
    "Fortran order": (lambda folder: as_array(folder, np.asfortranarray(IMAGES)), "stored in Fortran order"),
    "password": (lambda folder: _encrypted(as_array(folder, IMAGES)), "encrypted"),
    "bracket in header": (lambda folder: _replaced(as_npy(folder), b"}", b"{"), "damaged or not a NumPy array"),
    "quote in header": (
        lambda folder: _replaced(as_npy(folder), b"'descr'", b"'descr "),
        "damaged or not a NumPy array",
    ),
    "negative length": (lambda folder: _replaced(as_npy(folder), b"(", b"(-"), "damaged or not a NumPy array"),
    "objects": (lambda folder: as_array(folder, np.array([{}])), "holds object"),
}


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _cut(path: Path, size: int) -> Path:
    path.write_bytes(path.read_bytes()[:size])
    return path


def _replaced(path: Path, old: bytes, new: bytes) -> Path:
    """Replace the first occurrence in a header, whose padding keeps its length."""
    before, after = path.read_bytes().split(old, 1)
    return _written(path, before + new + (after.replace(b" \n", b"\n", 1) if len(new) > len(old) else after))


def _encrypted(path: Path) -> Path:
    """Set the flag of encryption in all headers, those of the files and those of the central directory."""
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        position = content.find(mark)
        while position >= 0:
            content[position + offset] |= 1
            position = content.find(mark, position + 4)
    return _written(path, bytes(content))


def _damaged(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    for index in range(len(content) // 2, len(content) // 2 + 40):
        content[index] ^= 255
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_a_bad_set_is_reported_in_one_line_with_its_name(
    make: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    argument = make(tmp_path)
    with pytest.raises(InputError, match=rf"^[^\n]*{message}[^\n]*$") as error:
        pixels_of(argument)
    assert str(tmp_path) in str(error.value)


def test_a_huge_declared_array_allocates_no_memory(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_2_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": (9, 10**6, 10**6, 3)}
    )
    path = write_zip(tmp_path / "bomb.npz", {"arr_0.npy": stream.getvalue()})
    with pytest.raises(InputError, match="MiB each"):
        open_image_set(path)
