"""Addresses of images: every form means the same images in prediction, in the scores and in training."""

import io
import shutil
import sys
import tarfile
import threading
import warnings
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from archives import write_tar, write_zip
from inception_v3.data import LabelledImages, load_data
from inception_v3.data.shards import read_shards
from inception_v3.errors import InputError
from inception_v3.fidelity.image_sets import open_image_set
from inception_v3.images import addresses, containers
from inception_v3.images.addresses import collect, expand, expand_braces
from inception_v3.images.find import list_images
from inception_v3.support.files import cache_folder

CLASSES = ("ant", "bee")
LEFT_OUT = "images of samples were left out"
SYSTEM_FILES = (
    ".DS_Store",
    "train/ant/._0.png",
    "train/ant/.hidden.png",
    "__MACOSX/train/ant/0.png",
    "train/@eaDir/0.png",
    "train/ant/@eaDir/0.png",
    "train/.ipynb_checkpoints/0.png",
    "train/ant/Thumbs.db",
    "train/ant/desktop.ini",
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels(seed)).save(stream, "PNG")
    return stream.getvalue()


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)


# 6 training and 4 held-out images, in the order of their paths
FILES = {
    f"{split}/{name}/{number}.png": png(seed + 10 * label + number)
    for split, count, seed in (("train", 3, 0), ("val", 2, 100))
    for label, name in enumerate(CLASSES)
    for number in range(count)
}
SAMPLES = {
    split: {
        f"{split}-{name[len(split) + 1 : -4].replace('/', '-')}.{suffix}": content
        for name, image in FILES.items()
        if name.startswith(split)
        for suffix, content in (
            ("depth.png", png(999)),
            ("png", image),
            ("cls", str(CLASSES.index(name.split("/")[1])).encode()),
        )
    }
    for split in ("train", "val")
}


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def write_shards(folder: Path) -> Path:
    for split, files in SAMPLES.items():
        write_tar(folder / f"{split}-000.tar", dict(list(files.items())[:6]))
        write_tar(folder / f"{split}-001.tar", dict(list(files.items())[6:]))
    return folder


def write_arrays(path: Path, names: str) -> Path:
    """Keras's names (x_train, y_train) or MedMNIST's (train_images, train_labels)."""
    arrays = {}
    for split in ("train", "val"):
        images = [np.asarray(Image.open(io.BytesIO(FILES[name]))) for name in FILES if name.startswith(split)]
        labels = np.array([CLASSES.index(name.split("/")[1]) for name in FILES if name.startswith(split)])
        keys = (f"x_{split}", f"y_{split}") if names == "Keras" else (f"{split}_images", f"{split}_labels")
        arrays |= dict(zip(keys, (np.stack(images), labels if names == "Keras" else labels[:, None]), strict=True))
    np.savez(path, **arrays)
    return path


ALL = FILES | dict.fromkeys(SYSTEM_FILES, b"no image")
BELOW_A_FOLDER = {f"set/{name}": content for name, content in ALL.items()}
FORMS: dict[str, Callable[[Path], object]] = {
    "folder": lambda folder: write_folder(folder / "set", ALL),
    "zip": lambda folder: write_zip(folder / "set.zip", ALL),
    "zip below a folder": lambda folder: write_zip(folder / "set.ZIP", BELOW_A_FOLDER),
    "tar": lambda folder: write_tar(folder / "set.tar", ALL),
    "tar with ./": lambda folder: write_tar(folder / "set.tar", {f"./{name}": ALL[name] for name in ALL}),
    "tar below a folder": lambda folder: write_tar(folder / "set.tar", BELOW_A_FOLDER),
    "tar.gz": lambda folder: write_tar(folder / "set.tar.gz", ALL, "w:gz"),
    "tgz": lambda folder: write_tar(folder / "set.tgz", ALL, "w:gz"),
    "tar.bz2": lambda folder: write_tar(folder / "set.tar.bz2", ALL, "w:bz2"),
    "tar.xz": lambda folder: write_tar(folder / "set.tar.xz", ALL, "w:xz"),
    "folder of shards": write_shards,
    "pattern": lambda folder: write_shards(folder) / "*.tar",
    "pattern of folders": lambda folder: write_shards(folder) / "**/*.tar",
    "range": lambda folder: f"{write_shards(folder)}/{{train,val}}-{{000..001}}.tar",
    "nested braces": lambda folder: f"{write_shards(folder)}/{{train-00{{0,1}},val-{{000..001}}}}.tar",
    "Keras's arrays": lambda folder: write_arrays(folder / "set.npz", "Keras"),
    "MedMNIST's arrays": lambda folder: write_arrays(folder / "set.npz", "MedMNIST"),
}


def decoded(data: LabelledImages) -> set[tuple[str, bytes]]:
    names = {"0": CLASSES[0], "1": CLASSES[1]}
    return {
        (names.get(name := data.class_names[label], name), data.open(index).tobytes())
        for index, label in enumerate(data.labels)
    }


@pytest.mark.filterwarnings(f"ignore:.*{LEFT_OUT}")
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_address_means_the_same_images_in_all_commands(form: str, tmp_path: Path) -> None:
    address = str(FORMS[form](tmp_path))
    expected = [Image.open(io.BytesIO(content)).tobytes() for content in FILES.values()]
    assert [source.open().tobytes() for source in expand([address])] == expected
    if "arrays" not in form:  # scores are computed from one array
        assert [source.open().tobytes() for source in open_image_set(address).images()] == expected
    train, held_out = load_data(address)
    for data, split in ((train, "train"), (held_out, "val")):
        assert not data.bad
        assert decoded(data) == {
            (name.split("/")[1], Image.open(io.BytesIO(content)).tobytes())
            for name, content in FILES.items()
            if name.startswith(split)
        }


@pytest.mark.filterwarnings(f"ignore:.*{LEFT_OUT}")
def test_names_are_those_of_the_archive_and_its_member_or_of_the_array_and_its_index(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "set.zip", FILES)
    assert [source.name for source in expand([str(archive)])] == [f"{archive}/{name}" for name in FILES]
    np.save(tmp_path / "set.npy", np.stack([pixels(0), pixels(1)]))
    assert [source.name for source in expand([f"{tmp_path}/set.npy"])] == [f"{tmp_path}/set.npy[{i}]" for i in (0, 1)]
    keras = write_arrays(tmp_path / "set.npz", "Keras")
    assert next(expand([str(keras)])).name == f"{keras}/x_train[0]"
    assert load_data(str(keras))[0].names[0] == "set.npz/x_train[0]"


# ---------------------------------------------------------------------------------------- samples of WebDataset

RULES: dict[str, tuple[list[str], list[str]]] = {  # members of a tar -> the images that are used
    "a compound extension after the image": (["7.jpg", "7.depth.png", "7.cls"], ["7.jpg"]),
    "a compound extension before the image": (["7.cls", "7.depth.png", "7.jpg"], ["7.jpg"]),
    "without a label": (["7.depth.png", "7.jpg"], ["7.jpg"]),
    "samples whose files do not follow each other": (
        ["1.depth.png", "2.depth.png", "1.png", "2.png", "1.cls", "2.cls"],
        ["1.png", "2.png"],
    ),
    "only a compound extension": (["7.depth.png", "7.cls"], ["7.depth.png"]),
    "two whole extensions": (["7.png", "7.jpg", "7.cls"], ["7.png"]),
    "a rarer format": (["7.bmp", "7.webp", "7.cls"], ["7.webp"]),
    "only a rarer format": (["7.mask.png", "7.bmp", "7.cls"], ["7.bmp"]),
    "the suffix in capitals": (["7.depth.png", "7.JPG", "7.cls"], ["7.JPG"]),
    "the same key in two folders": (["a/7.jpg", "b/7.png", "a/7.cls", "b/7.cls"], ["a/7.jpg", "b/7.png"]),
    "a folder with dots": (["a.b/7.jpg", "a.b/7.depth.png", "a.b/7.cls"], ["a.b/7.jpg"]),
    "numbered parts": (["7.1.jpg", "7.2.jpg", "7.cls"], ["7.1.jpg", "7.2.jpg"]),
    "numbered parts with masks": (["7.1.jpg", "7.1.mask.png", "7.1.cls"], ["7.1.jpg"]),
    "hidden files": (["._7.jpg", "7.jpg", "__MACOSX/7.jpg", "7.cls"], ["7.jpg"]),
    "names with dots in class folders": (["a/photo.v2.jpg", "a/photo.v3.jpg"], ["a/photo.v2.jpg", "a/photo.v3.jpg"]),
    "two formats in class folders": (["a/1.jpg", "a/1.png"], ["a/1.jpg", "a/1.png"]),
}


@pytest.mark.parametrize("case", RULES)
def test_the_image_of_a_sample_is_the_same_in_all_commands_and_the_others_are_reported_in_one_line(
    case: str, tmp_path: Path
) -> None:
    members, used = RULES[case]
    images = [name for name in members if not name.endswith(".cls") and "._" not in name and "__MACOSX" not in name]
    path = write_tar(tmp_path / "s.tar", {name: b"0" if name.endswith(".cls") else png(1) for name in members})
    count = len(images) - len(used)
    readers = [
        lambda: [source.name.removeprefix(f"{path}/") for source in expand([str(path)])],
        lambda: [source.name.removeprefix(f"{path}/") for source in open_image_set(path).images()],
        lambda: [name.removeprefix("s.tar/") for name in read_shards([path], "s.tar").names],
    ]
    for read in readers[: 2 if case == "without a label" else 3]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert read() == used
        lines = [str(warning.message) for warning in caught]
        assert len(lines) == bool(count)
        assert all(line.startswith(f"{count} {LEFT_OUT} (first: ") for line in lines)


def test_images_left_out_of_several_shards_are_reported_in_one_line(tmp_path: Path) -> None:
    write_shards(tmp_path)
    with pytest.warns(UserWarning, match=LEFT_OUT) as caught:
        list(expand([f"{tmp_path}/*.tar"]))
    assert [str(warning.message) for warning in caught] == [
        f"10 {LEFT_OUT} (first: {tmp_path}/train-000.tar/train-ant-0.depth.png): a sample's image is the file whose "
        "whole extension is jpg, jpeg, png or webp"
    ]


# ------------------------------------------------------------------------------------------- what is no image


@pytest.mark.filterwarnings("ignore:.*1 image is in")  # all images are equal
def test_files_and_folders_of_systems_are_neither_images_nor_classes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", {name: png(0) for name in [*FILES, *SYSTEM_FILES] if "." in name})
    paths = {str(folder / name) for name in FILES}
    assert {str(path) for path in list_images(folder)} == paths
    assert {source.name for source in expand([f"{folder}/*/*"])} == paths
    assert {source.name for source in expand([f"{folder}/**/*"])} == paths
    assert load_data(str(folder))[0].class_names == [*CLASSES]


@pytest.mark.parametrize("top", ["__MACOSX", "set/__MACOSX", "__macosx"])
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_the_folder_of_macos_is_never_a_class_whatever_is_in_it(tmp_path: Path, top: str, form: str) -> None:
    others = {f"{top}/{name}": png(9) for name in ("cow/1.png", "train/cow/1.png", "1.png", "train/ant/8.png")}
    folder = write_folder(tmp_path / "all", {f"set/{name}": image for name, image in FILES.items()} | others)
    address = folder / "set" if form == "folder" else shutil.make_archive(str(tmp_path / "all"), "zip", folder)
    train, test = load_data(str(address))
    assert train.class_names == [*CLASSES]
    assert len(train) + len(test) == len(FILES)


def test_a_pattern_does_not_match_files_in_the_folder_of_macos(tmp_path: Path) -> None:
    for name in ("set", "__MACOSX"):
        (tmp_path / name).mkdir()
        write_tar(tmp_path / name / "all.tar", FILES)
    train, test = load_data(f"{tmp_path}/*/*.tar")
    assert len(train) + len(test) == len(FILES)


# ------------------------------------------------------------------------------------------------------ braces


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x", ["x"]),
        ("{a,b}", ["a", "b"]),
        ("x{8..11}", ["x8", "x9", "x10", "x11"]),
        ("x{008..011}", ["x008", "x009", "x010", "x011"]),
        ("{08..9}", ["08", "09"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{-1..1}", ["-1", "0", "1"]),
        ("{0..9..4}", ["0", "4", "8"]),
        ("{a..c}", ["a", "b", "c"]),
        ("{a,{1..2}}{x,y}", ["ax", "ay", "1x", "1y", "2x", "2y"]),
        ("{a,}.tar", ["a.tar", ".tar"]),
        ("{a}{b,c}", ["{a}b", "{a}c"]),
        ("{x", ["{x"]),
        ("{x{1,2}", ["{x1", "{x2"]),
        ("x}", ["x}"]),
        ("{}", ["{}"]),
    ],
)
def test_braces_expand_as_in_the_shell(text: str, expected: list[str]) -> None:
    assert list(expand_braces(text)) == expected


def test_a_million_shards_are_named_one_by_one_and_more_are_refused_before_any_is(tmp_path: Path) -> None:
    assert list(islice(expand_braces("x-{000000..999999}.tar"), 2)) == ["x-000000.tar", "x-000001.tar"]
    for text in ("{0..1000000}", "{0..999}{0..999}{0,1}", "{" * 5000 + "," + "}" * 5000, f"{{0..{'9' * 18}}}"):
        with pytest.raises(InputError, match=r"more than 1,000,000 files|nested too deeply") as error:
            expand_braces(text)
        assert error.value.exit_status == 2


def test_an_existing_path_with_braces_is_itself(tmp_path: Path) -> None:
    write_folder(tmp_path, {"{a,b}.png": png(0)})
    assert [source.name for source in expand([f"{tmp_path}/{{a,b}}.png"])] == [f"{tmp_path}/{{a,b}}.png"]


# ------------------------------------------------------------------------------------------------------- URLs


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str], Path]]:
    requested: list[str] = []
    (tmp_path / "served").mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path / "served"), **options)  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            requested.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", requested, tmp_path / "served"
        running.shutdown()


def test_urls_are_downloaded_once_in_their_turn_for_all_commands(server: tuple[str, list[str], Path]) -> None:
    url, requested, folder = server
    write_zip(folder / "set.zip", FILES)
    write_folder(folder, {"a.png": png(0)})
    sources = expand([f"{url}/{{a.png,set.zip}}"])
    assert requested == []
    assert next(sources).name == f"{url}/a.png"
    assert len(requested) == 1
    assert [source.name for source in sources] == [f"{url}/set.zip/{name}" for name in FILES]
    requested.clear()
    assert len(list(open_image_set(f"{url}/set.zip").images())) == len(FILES)
    assert [len(part) for part in load_data(f"{url}/set.zip")] == [6, 4]
    assert requested == []


def test_a_url_that_cannot_be_downloaded_does_not_stop_the_other_images(server: tuple[str, list[str], Path]) -> None:
    url, _, folder = server
    write_folder(folder, {"a.png": png(0)})
    missing, image = expand([f"{url}/none.zip", f"{url}/a.png"])
    assert image.open().size == (9, 8)
    with pytest.raises(InputError, match=rf"^{url}/none.zip: the server returned 404"):
        missing.open()
    with pytest.raises(InputError, match=rf"^{url}/none.zip: the server returned 404"):
        open_image_set(f"{url}/none.zip")


# -------------------------------------------------------------------------------------- archives with faults


def test_a_damaged_archive_is_an_image_that_cannot_be_read_after_those_before_the_damage(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", FILES)
    with tarfile.open(path) as archive:
        middle = archive.getmember("train/bee/1.png").offset_data
    path.write_bytes(path.read_bytes()[: middle + 10])
    other = write_zip(tmp_path / "b.zip", FILES)
    names = [source.name for source in expand([str(path), str(other)])]
    assert names == [f"{path}/{name}" for name in [*FILES][:4]] + [str(path)] + [f"{other}/{name}" for name in FILES]
    with pytest.raises(InputError, match=rf"^{path}: damaged at byte .*; download or save it again$"):
        list(open_image_set(path).images())


def test_a_file_with_another_suffix_is_an_archive_by_its_content(tmp_path: Path) -> None:
    write_zip(tmp_path / "zip", FILES)
    write_tar(tmp_path / "download", FILES, "w:gz")
    for name in ("zip", "download"):
        assert len(list(expand([str(tmp_path / name)]))) == len(FILES)


def test_standard_input_may_list_archives_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = f"{write_zip(tmp_path / 'a.zip', FILES)}\n{write_folder(tmp_path / 'b', FILES)}\n"
    for read in (lambda: list(expand(["-"])), lambda: list(open_image_set("-").images())):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
        assert [source.name for source in read()] == [
            f"{tmp_path}/{p}/{name}" for p in ("a.zip", "b") for name in FILES
        ]
    with pytest.raises(InputError, match=r"^-: images on standard input have no labels") as error:
        load_data("-")
    assert error.value.exit_status == 2


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_each_image_of_an_archive_is_read_when_it_is_reached(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_tar(tmp_path / "a.tar", FILES, mode)
    read, read_content = [], containers._read_content
    monkeypatch.setattr(containers, "_read_content", lambda *where: read.append(where) or read_content(*where))
    for count, _ in enumerate(expand([str(archive)]), 1):
        assert len(read) == count


# -------------------------------------------------------------------------------------- training on archives


def test_more_images_of_archives_than_fit_in_memory_are_not_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of a folder are not held in memory."""
    files = {f"cat/{number}.png": png(number) for number in range(5)}
    archive, folder = write_zip(tmp_path / "pets.zip", files), write_folder(tmp_path / "pets", files)
    held = sum(len(content) for content in files.values())
    monkeypatch.setattr(addresses, "MAX_HELD_BYTES", held)
    assert len(collect([str(archive)])) == 5
    monkeypatch.setattr(addresses, "MAX_HELD_BYTES", held - 1)
    assert len(collect([str(folder)])) == 5
    with pytest.raises(InputError, match=r"pets\.zip/cat/4\.png: more than 0 MiB .*; unpack them into a folder"):
        collect([str(archive)])


def test_a_compressed_tar_is_decompressed_once_and_its_copy_is_replaced_when_it_changes(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "set.tar.gz", FILES, "w:gz")
    load_data(str(path))
    (copy,) = cache_folder("archives").rglob("*.tar")
    written = copy.stat().st_mtime_ns
    load_data(str(path))
    assert copy.stat().st_mtime_ns == written
    write_tar(path, dict(list(FILES.items())[:8]), "w:gz")
    with pytest.warns(UserWarning, match="no held-out image of bee"):
        assert len(load_data(str(path))[1]) == 2
    assert len(list(cache_folder("archives").rglob("*.tar"))) == 1


def test_a_compressed_tar_that_would_fill_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "set.tar.gz", FILES, "w:gz")
    monkeypatch.setattr("inception_v3.data.shards.MAX_DISK_FRACTION", 1e-12)
    with pytest.raises(InputError, match=rf"^{path}: more than .* MiB when decompressed"):
        load_data(str(path))
    assert not list(cache_folder("archives").rglob("*.tar"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 8, 8), np.uint8)}, "no images with labels in it, but x; save x_train, y_train"),
        ({"x": np.zeros((2, 8, 8)), "y": np.arange(2)}, "x: holds float64 values, but images must be uint8"),
        (
            {"images": np.zeros((2, 8, 8), np.uint8), "labels": np.arange(3)},
            "labels holds int64 of shape",
        ),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.eye(2)}, "labels holds .* a whole number"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.array([0, -1])}, "labels holds -1 to 0"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.array([{}, 1])}, "labels holds object"),
    ],
)
def test_arrays_that_are_not_images_with_labels_are_refused_in_one_line(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(InputError, match=rf"^{tmp_path}/set.npz: [^\n]*{message}[^\n]*$"):
        load_data(f"{tmp_path}/set.npz")
