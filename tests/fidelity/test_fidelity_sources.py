"""Where pictures come from: every form holds the same pictures in the same order, and each kind of damage is told."""

import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fidelity_pictures import folder_of, picture
from inception_v3.errors import InputError
from inception_v3.fidelity.pictures import decode, key_of
from inception_v3.fidelity.sources import open_source
from inception_v3.images.decode import open_image

PICTURES = np.stack([picture(seed, 20, 30) for seed in range(5)])


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def pixels_of(argument: object) -> list[np.ndarray]:
    return [decode(one.read(), one.name)[0] for one in open_source(str(argument)).pictures()]


def names_of(argument: object) -> list[str]:
    return [one.name.rpartition("/")[2] for one in open_source(str(argument)).pictures()]


FILES = {f"ü/{number}.png": png(pixels) for number, pixels in enumerate(PICTURES)}


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
    np.save(folder / "set.npy", PICTURES)
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
    "npz": lambda folder: as_array(folder, PICTURES),
    "npz, channels first": lambda folder: as_array(folder, PICTURES.transpose(0, 3, 1, 2)),
    "npy": as_npy,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_holds_the_same_pictures_in_order_and_twice(form: str, tmp_path: Path) -> None:
    argument = FORMS[form](tmp_path)
    source = open_source(str(argument))
    assert source.count in (5, None)
    for _ in range(2):
        found = [decode(one.read(), one.name)[0] for one in source.pictures()]
        np.testing.assert_array_equal(np.stack(found).transpose(0, 2, 3, 1), PICTURES)


def test_files_are_sorted_as_text_so_that_samples_are_drawn_as_by_the_others(tmp_path: Path) -> None:
    for name in ("a/z.png", "a-b/1.png", "a.png", "b/2.png", "B.png"):
        folder_of((tmp_path / name).parent, 0)
        (tmp_path / name).write_bytes(FILES["ü/0.png"])
    found = [one.name for one in open_source(tmp_path).pictures()]
    assert found == sorted(found)
    assert len(found) == 5


def test_of_a_shards_sample_the_picture_counts_and_not_its_mask(tmp_path: Path) -> None:
    content = FILES["ü/0.png"]
    sample = {"x/1.jpg": content, "x/1.mask.png": content, "x/1.json": b"{}", "x/2.seg.png": content, "x/._3.png": b""}
    assert names_of(write_tar(tmp_path / "s.tar", sample)) == ["1.jpg", "2.seg.png"]
    assert names_of(write_zip(tmp_path / "s.zip", {"a.txt": b"", "__MACOSX/a.png": b"", "b.PNG": content})) == ["b.PNG"]


def test_names_with_dots_are_no_masks_and_are_not_all_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbered = ["cat.png", "cat.1.png", "cat.11.png", "0.png", "0.5.png"]
    assert names_of(write_tar(tmp_path / "n.tar", dict.fromkeys(numbered, FILES["ü/0.png"]))) == numbered
    names = [f"scale.v{number}.png" for number in range(100)]
    path = write_tar(tmp_path / "s.tar", dict.fromkeys(names, FILES["ü/0.png"]))
    assert names_of(path) == names
    read, extract = [], tarfile.TarFile.extractfile
    monkeypatch.setattr(tarfile.TarFile, "extractfile", lambda *given: read.append(1) or extract(*given))
    next(iter(open_source(path).pictures()))
    assert len(read) < 50


def test_a_link_in_a_tar_is_told(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(FILES["ü/0.png"])
    os.link(tmp_path / "1.png", tmp_path / "2.png")
    (tmp_path / "3.png").symlink_to("1.png")
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for number in range(4):
            archive.add(tmp_path / f"{number}.png", f"{number}.png")
    told = [picture.content for picture in open_source(tmp_path / "s.tar").pictures()]
    assert [isinstance(content, InputError) for content in told] == [False, False, True, True]
    assert "2.png: a link to another file; pack it with tar --dereference" in str(told[2])


def test_a_compressed_tar_is_read_once_and_what_is_known_of_its_files_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To go back in it is to read it from its beginning: once for each picture takes hours."""
    backwards, kept = [], []
    seek, extract = gzip.GzipFile.seek, tarfile.TarFile.extractfile

    def counted(file: gzip.GzipFile, offset: int, whence: int = 0) -> int:
        backwards.extend([offset] * (whence == 0 and offset < file.tell()))
        return seek(file, offset, whence)

    def noted(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> object:
        kept.append(len(archive.members))
        return extract(archive, entry)

    rng = np.random.default_rng(0)
    files = {f"{number:03}.png": rng.bytes(20_000) for number in range(50)}
    path = write_tar(tmp_path / "set.tar.gz", files, "w:gz")
    monkeypatch.setattr(gzip.GzipFile, "seek", counted)
    monkeypatch.setattr(tarfile.TarFile, "extractfile", noted)
    assert [one.content for one in open_source(path).pictures()] == list(files.values())
    assert len(backwards) <= 2
    assert max(kept) <= 1


@pytest.mark.parametrize("shape", [(3, 9, 8), (3, 9, 8, 1), (3, 1, 9, 8), (3, 9, 8, 4)])
def test_arrays_may_be_gray_or_have_alpha(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = np.stack(pixels_of(as_array(tmp_path, array)))
    expected = array[..., :3].transpose(0, 3, 1, 2) if shape[-1] == 4 else array.reshape(3, 1, 9, 8).repeat(3, 1)
    np.testing.assert_array_equal(found, expected)


def test_an_archive_of_one_set_may_hold_its_statistics_too(tmp_path: Path) -> None:
    source = open_source(as_array(tmp_path, PICTURES, mu=np.zeros(2), sigma=np.eye(2)))
    assert source.count == 5
    assert source.statistics == tmp_path / "set.npz"
    np.savez(tmp_path / "alone.npz", mu=np.zeros(2), sigma=np.eye(2))
    alone = open_source(tmp_path / "alone.npz")
    assert (alone.count, alone.statistics) == (0, tmp_path / "alone.npz")


def test_the_same_picture_has_the_same_key_and_another_shape_another() -> None:
    assert key_of(b"1") == key_of(b"1") != key_of(b"2")
    flat = np.arange(24, dtype=np.uint8)
    assert key_of(flat.reshape(2, 4, 3)) != key_of(flat.reshape(4, 2, 3))


# --- what is wrong ---


def test_one_bad_member_of_a_zip_does_not_hide_the_others(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "set.zip", FILES)
    content = bytearray(path.read_bytes())
    content[100] ^= 0xFF  # of the first picture
    path.write_bytes(content)
    good, bad = 0, []
    for one in open_source(path).pictures():
        try:
            decode(one.read(), one.name)
            good += 1
        except InputError as error:
            bad.append(str(error))
    assert good == 4
    assert "set.zip/" in bad[0]


def test_what_is_wrong_with_a_picture_is_told_as_everywhere(tmp_path: Path) -> None:
    for content, reason in ((b"", "the file is empty"), (b"words", "not a supported image")):
        file = _written(tmp_path / "a.png", content)
        (picture,) = open_source(str(tmp_path)).pictures()
        with pytest.raises(InputError, match=f"a.png: {reason}") as told:
            decode(picture.read(), picture.name)
        with pytest.raises(InputError) as elsewhere:
            open_image(file)
        assert str(told.value) == str(elsewhere.value)


def arrays(path: Path, **named: np.ndarray) -> Path:
    np.savez(path, **named)
    return path


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda folder: folder / "none", "no such file or folder"),
    "empty folder": (lambda folder: folder, "no pictures in this folder"),
    "missing shard": (lambda folder: as_shards(folder).replace("01", "02"), r"s-02\.tar: there is no such shard"),
    "endless shards": (lambda folder: f"{folder}/{{0..999999999}}.tar", "counts to no number of shards"),
    "text": (lambda folder: _written(folder / "notes.txt", b"no pictures"), "not a set of pictures"),
    "empty zip": (lambda folder: write_zip(folder / "set.zip", {"a.txt": b""}), "no pictures in this archive"),
    "empty tar": (lambda folder: write_tar(folder / "set.tar", {"a.txt": b""}), "no pictures in this archive"),
    "cut tar": (lambda folder: _cut(write_tar(folder / "set.tar", FILES), 3000), "damaged or cut short"),
    "cut tar.gz": (lambda folder: _cut(write_tar(folder / "set.tar.gz", FILES, "w:gz"), 4000), "damaged or cut short"),
    "damaged tar.xz": (
        lambda folder: _damaged(write_tar(folder / "set.tar.xz", FILES, "w:xz")),
        "damaged or cut short",
    ),
    "one picture": (lambda folder: as_array(folder, PICTURES[0]), "is that of one picture; save several as"),
    "cut npz": (lambda folder: _cut(as_array(folder, PICTURES), 4000), "damaged or cut short"),
    "cut npy": (lambda folder: _cut(as_npy(folder), 4000), "cut short"),
    "empty npy": (lambda folder: _written(folder / "set.npy", b""), "damaged or no array"),
    "floats": (lambda folder: as_array(folder, PICTURES / 255), "holds float64 where pictures are uint8"),
    "no pictures": (lambda folder: arrays(folder / "set.npz", a=np.zeros(3)), "no pictures .* and no statistics"),
    "two sets": (lambda folder: arrays(folder / "set.npz", a=PICTURES, b=PICTURES), "holds 2 arrays of pictures"),
    "odd shape": (lambda folder: as_array(folder, PICTURES[..., :2]), "is not that of pictures"),
    "none in array": (lambda folder: as_array(folder, PICTURES[:0]), "no pictures in this array"),
    "by columns": (lambda folder: as_array(folder, np.asfortranarray(PICTURES)), "stored by columns"),
    "password": (lambda folder: _encrypted(as_array(folder, PICTURES)), "encrypted"),
    "bracket in header": (lambda folder: _replaced(as_npy(folder), b"}", b"{"), "damaged or no array"),
    "quote in header": (lambda folder: _replaced(as_npy(folder), b"'descr'", b"'descr "), "damaged or no array"),
    "negative length": (lambda folder: _replaced(as_npy(folder), b"(", b"(-"), "damaged or no array"),
    "objects": (lambda folder: as_array(folder, np.array([{}])), "holds object"),
}


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _cut(path: Path, size: int) -> Path:
    path.write_bytes(path.read_bytes()[:size])
    return path


def _replaced(path: Path, old: bytes, new: bytes) -> Path:
    """Once, in a header that is filled with spaces."""
    before, after = path.read_bytes().split(old, 1)
    return _written(path, before + new + (after.replace(b" \n", b"\n", 1) if len(new) > len(old) else after))


def _encrypted(path: Path) -> Path:
    """As far as the flags say, in each file's own header and in the list at the end."""
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.find(mark)
        while at >= 0:
            content[at + place] |= 1
            at = content.find(mark, at + 4)
    return _written(path, bytes(content))


def _damaged(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 40):
        content[place] ^= 255
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("make", "told"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_told_in_one_line_with_the_name(
    make: Callable[[Path], object], told: str, tmp_path: Path
) -> None:
    argument = make(tmp_path)
    with pytest.raises(InputError, match=rf"^[^\n]*{told}[^\n]*$") as error:
        pixels_of(argument)
    assert str(tmp_path) in str(error.value)


def test_a_huge_declared_array_takes_no_memory(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_2_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": (9, 10**6, 10**6, 3)}
    )
    path = write_zip(tmp_path / "bomb.npz", {"arr_0.npy": stream.getvalue()})
    with pytest.raises(InputError, match="MiB each"):
        open_source(path)
