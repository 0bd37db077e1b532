"""Hugging Face data sets, parquet files, CIFAR and MNIST, in the form that their own libraries write."""

import io
import os
import pickle
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torchvision.datasets
from PIL import Image

from conftest import as_set
from inception_v3.data import duplicates, load_data, load_held_out
from inception_v3.errors import InputError
from processes import run, wait_for_processes
from published_sets import write_cifar, write_mnist

CLASSES = ["cat", "dog"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache" / "huggingface")


def image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8))


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    image(seed).save(stream, "PNG")
    return stream.getvalue()


def table(count: int, seed: int = 0, **more: Any) -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    rows = {
        "image": [{"bytes": png(seed + number), "path": None} for number in range(count)],
        "label": [number % 2 for number in range(count)],
    }
    return datasets.Dataset.from_dict(rows | more, features=features)


def write_folder(root: Path, count: int, seed: int = 0) -> Path:
    for number in range(count):
        file = root / CLASSES[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(seed + number))
    return root


# ------------------------------------------------------------------------------------------------ Hugging Face


def write_splits(root: Path, form: str) -> Path:
    """Write a train split of 10 images and a validation split of 4."""
    splits = datasets.DatasetDict({"train": table(10), "validation": table(4, 100)})
    if form == "save_to_disk":
        splits.save_to_disk(str(root))
    else:
        (root / "data").mkdir(parents=True)
        for name, split in splits.items():
            split.to_parquet(root / "data" / f"{name}-00000-of-00001.parquet")
    return root


@pytest.mark.parametrize("form", ["save_to_disk", "parquet"])
def test_tables_hold_the_same_images_as_folders(form: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "folder" / "train", 10)
    write_folder(tmp_path / "folder" / "val", 4, 100)
    ours = load_data(str(write_splits(tmp_path / "set", form)))
    theirs = load_data(str(tmp_path / "folder"))
    assert [part.class_names for part in ours] == [CLASSES, CLASSES]
    assert [as_set(part) for part in ours] == [as_set(part) for part in theirs]
    assert ours[0].names[3] == ("train/000003" if form == "save_to_disk" else "train-00000-of-00001.parquet/000003")
    pickled = pickle.loads(pickle.dumps(ours[0]))
    assert pickled.subset([7]).open(0).tobytes() == ours[0].open(7).tobytes()


@pytest.mark.parametrize("form", ["save_to_disk", "parquet", "pattern"])
def test_a_table_without_splits_is_split(form: str, tmp_path: Path) -> None:
    if form == "save_to_disk":
        table(10).save_to_disk(str(tmp_path / "one"))
    else:
        table(5).to_parquet(tmp_path / "one.parquet")
        table(5, 50).to_parquet(tmp_path / "onf.parquet")
    address = str(tmp_path / {"save_to_disk": "one", "parquet": "one.parquet", "pattern": "on?.parquet"}[form])
    train, test = load_data(address)
    assert len(train) + len(test) == (5 if form == "parquet" else 10)
    assert load_held_out(address, train.class_names, set(train.names)).names == test.names


def test_parquet_files_need_no_types_of_hugging_face(tmp_path: Path) -> None:
    rows = {"img": [png(number) for number in range(6)], "label": [number % 2 for number in range(6)]}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "x.parquet")
    train, test = load_data(str(tmp_path / "x.parquet"))
    assert (len(train), len(test), train.class_names) == (4, 2, ["0", "1"])
    assert train.open(0).tobytes() == image(int(train.names[0][-6:])).tobytes()
    (tmp_path / "labels.txt").write_text(
        "0:cat\n1:dog\n", "utf-8-sig"
    )  # with a byte order mark, as editors on Windows write it
    assert load_data(str(tmp_path / "x.parquet"))[0].class_names == ["cat", "dog"]


def test_a_table_may_have_the_paths_of_images(tmp_path: Path) -> None:
    files = sorted(write_folder(tmp_path / "files", 6).rglob("*.png"))
    rows = {
        "image": [{"bytes": None, "path": str(file)} for file in files],
        "label": [CLASSES.index(file.parent.name) for file in files],
    }
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "x.parquet")
    train, test = load_data(str(tmp_path / "x.parquet"))
    assert len(as_set(train)) + len(as_set(test)) == 6
    files[2].unlink()
    part = train if "x.parquet/000002" in train.names else test
    with pytest.raises(InputError, match=r"^x.parquet/000002: cannot be read \(.*No such file"):
        part.open(part.names.index("x.parquet/000002"))


def test_duplicates_are_found_in_tables(tmp_path: Path) -> None:
    twice = table(4, image=[{"bytes": png(number % 3), "path": None} for number in range(4)])
    twice.save_to_disk(str(tmp_path / "set"))
    with pytest.warns(UserWarning, match="in two classes"):
        train, test = load_data(str(tmp_path / "set"))
    assert len(duplicates(train, test)) == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [b"x"] * 4, "label": ["cat", "dog"] * 2}, "row 0 has label 'cat', but must have a whole number"),
        ({"image": [b"x"] * 4, "label": [0, 1, None, 1]}, "row 2 has label 'None'"),
        ({"image": [b"x"] * 4, "label": [0, 1, -1, 1]}, "row 2 has label '-1'"),
        ({"image": [b"x"] * 4, "label": [0, 1, 10**12, 1]}, "row 2 has label '1000000000000'"),
        ({"image": [b"x"] * 4, "label": [0.0, 1.0, 0.0, 1.0]}, "row 0 has label '0.0'"),
        ({"picture": [b"x"] * 4, "label": [0, 1, 0, 1]}, "no column of images .*; it has picture, label"),
        ({"image": [b"x"] * 4, "kind": [0, 1, 0, 1]}, "no column of labels .*; it has image, kind"),
        ({"image": [1] * 4, "label": [0, 1, 0, 1]}, "cannot be read"),
    ],
)
def test_unusable_columns_are_reported_in_one_line(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    file = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    with pytest.raises(InputError, match=message) as error:
        load_data(str(file))
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_files_are_reported_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "x.parquet"
    for content in (b"", b"PAR1 and nothing else PAR1"):
        file.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read") as error:
            load_data(str(file))
        assert "\n" not in str(error.value)
    assert not caplog.records, "the library that reads them logs nothing"
    root = write_splits(tmp_path / "set", "save_to_disk")
    (root / "train" / "state.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        load_data(str(root))


def test_a_row_without_an_image_raises_an_error_when_it_is_opened(tmp_path: Path) -> None:
    rows: list[object] = [{"bytes": png(number), "path": None} for number in range(6)]
    rows[0] = rows[1] = None
    table(6, image=rows).save_to_disk(str(tmp_path / "set"))
    for part in load_data(str(tmp_path / "set")):
        for index, name in enumerate(part.names):
            if name in ("set/000000", "set/000001"):
                with pytest.raises(InputError, match=f"^{name}: there is no image in this row$"):
                    part.open(index)
            else:
                part.open(index)


# ------------------------------------------------------------------------------------------- CIFAR and MNIST


@pytest.mark.parametrize(("name", "kind"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_cifar_has_the_published_images_labels_and_splits(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = getattr(torchvision.datasets, kind)
    pixels = write_cifar(tmp_path, published, monkeypatch)
    train, test = load_data(f"{name}:{tmp_path}")
    assert (len(train), len(test)) == (20 * len(published.train_list), 20)
    assert train.class_names[:2] == ["class 0", "class 1"]
    assert np.array_equal(np.asarray(train.open(3)), pixels[3].reshape(3, 32, 32).transpose(1, 2, 0))
    assert (train.labels[3], train.names[3], test.names[0]) == (3, f"{name}/train/00003", f"{name}/test/00000")
    assert load_held_out(f"{name}:{tmp_path}", train.class_names, set(train.names)).names == test.names


@pytest.mark.parametrize(("name", "kind"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_mnist_has_the_published_images_labels_and_splits(name: str, kind: str, tmp_path: Path) -> None:
    raw, pixels = write_mnist(tmp_path, kind)
    train, test = load_data(f"{name}:{tmp_path}")
    assert (len(train), len(test)) == (30, 20)
    assert train.class_names[0] == ("0" if name == "mnist" else "T-shirt/top")
    assert np.array_equal(np.asarray(test.open(7))[..., 1], pixels[7])
    assert pickle.loads(pickle.dumps(test)).open(7).tobytes() == test.open(7).tobytes()
    (raw / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + b"x" * 9)
    with pytest.raises(InputError, match=f"{name}:{tmp_path}: "):
        load_data(f"{name}:{tmp_path}")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion-mnist"])
def test_nothing_is_downloaded_without_the_option_download(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads: list[object] = []
    for module in ("cifar", "mnist"):
        function = f"torchvision.datasets.{module}.download_and_extract_archive"
        monkeypatch.setattr(function, lambda *arguments, **_: downloads.append(arguments))
    with pytest.raises(InputError, match=rf"give {name}\+download:{tmp_path} to download it"):
        load_data(f"{name}:{tmp_path}")
    assert not downloads
    with pytest.raises(InputError, match="check the network"):
        load_data(f"{name}+download:{tmp_path}")
    assert downloads


def test_only_one_of_several_processes_downloads_and_extracts(tmp_path: Path) -> None:
    processes = [run(load_at_once, tmp_path, log=tmp_path / f"log-{number}") for number in range(3)]
    assert [process.wait() for process in processes] == [0] * 3, [process.output for process in processes]
    assert sorted(process.output for process in processes) == ["100 and 20\n"] * 2 + ["downloaded\n100 and 20\n"]


def load_at_once(folder: Path) -> None:
    """Load CIFAR-10 in three processes at once, with a slow local copy instead of the download."""

    def download_and_extract(_: str, root: str, **__: object) -> None:
        print("downloaded", file=sys.stderr)
        time.sleep(0.3)
        shutil.copytree(published, root, dirs_exist_ok=True)

    published = folder / f"published-{os.getpid()}"
    with pytest.MonkeyPatch.context() as patched:
        write_cifar(published, torchvision.datasets.CIFAR10, patched)
        patched.setattr("torchvision.datasets.cifar.download_and_extract_archive", download_and_extract)
        wait_for_processes(folder, 3)
        print(*map(len, load_data(f"cifar10+download:{folder / 'here'}")), sep=" and ")


def test_a_pickle_with_another_checksum_is_never_opened(tmp_path: Path) -> None:
    base = tmp_path / "cifar-10-batches-py"
    base.mkdir()
    opened = tmp_path / "opened"

    class Malicious:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (opened,)

    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (base / name).write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(InputError, match="not found or corrupted"):
        load_data(f"cifar10:{tmp_path}")
    assert not opened.exists()
