"""Labelled images: the held-out split, evaluation on unseen images, and folders that cannot be used."""

import itertools
import os
import pickle
import random
import shutil
import tracemalloc
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from inception_v3 import cli
from inception_v3.data import LabelledImages, batches, duplicates, load_data, load_held_out
from inception_v3.data.sequences import LazySequence, PackedStrings, subset
from inception_v3.data.splits import stratified_mask
from inception_v3.errors import InputError
from inception_v3.images.decode import open_image
from inception_v3.images.preprocessing import Preprocessing


def write_image(path: Path, seed: int | None = None, size: tuple[int, int] = (90, 80)) -> Path:
    """Random pixels, by default different for every path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(str(path).encode()) if seed is None else seed)
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def folder_or_zip(folder: Path, form: str) -> str:
    return str(folder) if form == "folder" else shutil.make_archive(str(folder), "zip", folder.parent, folder.name)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Ten cats and five dogs."""
    for number in range(15):
        write_image(tmp_path / "pets" / ("cat" if number < 10 else "dog") / f"{number:02}.png", number)
    return tmp_path / "pets"


# --------------------------------------------------------------------------------------------- the digits


def test_digits_are_split_evenly_by_class_and_the_same_at_every_call() -> None:
    train, test = load_data("digits")
    assert (len(train), len(test)) == (1438, 359)
    assert not set(train.names) & set(test.names)
    held_out, total = Counter(test.labels), Counter([*train.labels, *test.labels])
    assert all(abs(held_out[label] / len(test) - count / 1797) < 0.005 for label, count in total.items())
    assert load_data("digits")[1].names == test.names == load_held_out("digits", train.class_names).names


@given(counts=st.lists(st.integers(2, 40), min_size=1, max_size=8), seed=st.integers(0, 2**32 - 1), order=st.randoms())
def test_the_split_equals_that_of_scikit_learn(counts: list[int], seed: int, order: random.Random) -> None:
    labels = [3 * label for label, count in enumerate(counts) for _ in range(count)]
    order.shuffle(labels)
    count = max(len(counts), round(0.2 * len(labels)))
    _, expected = train_test_split(np.arange(len(labels)), test_size=count, stratify=labels, random_state=seed)
    assert np.flatnonzero(stratified_mask(labels, count, seed)).tolist() == sorted(expected)


def test_the_example_digits_are_held_out_images() -> None:
    _, test = load_data("digits")
    files = sorted((Path(__file__).parents[2] / "examples" / "digits").glob("*.png"))
    assert len(files) == 10
    for file in files:
        label, number = file.stem.split("-")
        index = test.names.index(f"digits/{number}")
        assert test.class_names[test.labels[index]] == label
        assert np.array_equal(open_image(file), test.sources[index])


# ------------------------------------------------------------------------------------------------- folders


def test_some_images_of_each_class_folder_are_held_out(pets: Path) -> None:
    train, test = load_data(str(pets))
    assert train.class_names == ["cat", "dog"]
    assert Counter(test.labels) == {0: 2, 1: 1}
    assert Counter(train.labels) == {0: 8, 1: 4}


@pytest.mark.filterwarnings("ignore:.*no held-out image of class 0")
@pytest.mark.parametrize(
    ("first", "second"),
    [("train", "val"), ("train", "test"), ("training", "validation"), ("Train", "Val"), ("train_images", "images-val")],
)
def test_folders_named_after_splits_are_the_splits(tmp_path: Path, first: str, second: str) -> None:
    for number in range(4):
        write_image(tmp_path / first / f"class {number % 2}" / f"{number}.png")
    write_image(tmp_path / second / "class 1" / "x.png")
    train, test = load_data(str(tmp_path))
    assert (len(train), len(test)) == (4, 1)
    assert test.class_names == ["class 0", "class 1"]
    assert list(test.labels) == [1]


@pytest.mark.parametrize(
    ("first", "second"), [("TRAIN", "Test"), ("training", "testing"), ("train", "dev"), ("train-set", "VALID data")]
)
def test_split_names_match_as_whole_words_in_any_case(tmp_path: Path, first: str, second: str) -> None:
    for name in (f"{first}/cat/1", f"{first}/dog/1", f"{second}/cat/2", f"{second}/dog/2"):
        write_image(tmp_path / f"{name}.png")
    train, test = load_data(str(tmp_path))
    assert [*train.names, *test.names] == ["cat/1.png", "dog/1.png", "cat/2.png", "dog/2.png"]


def test_a_longer_name_than_that_of_a_split_is_a_class(tmp_path: Path) -> None:
    """Also with folders in it, which made it the training split."""
    names = ["dev board", "test-tube", "testament", "train_station", "value"]
    for name in names:
        for number in range(5):
            write_image(tmp_path / name / ("indoor", "outdoor")[number % 2] / f"{number}.png")
    train, test = load_data(str(tmp_path))
    assert train.class_names == names
    assert (len(train), len(test)) == (20, 5)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["train/cat.1", "train/dog.1", "test/cat.2", "test/dog.2"], "test/ and train/"),
        (["Train/cat.1", "Train/dog.1", "TEST/1", "TEST/2"], "TEST/ and Train/"),
        (["train/cat.1", "train/dog.1", "test1/1", "test1/2"], "test1/ and train/"),
        (["train2017/a", "train2017/b", "val2017/a", "val2017/b", "masks/a"], "train2017/ and val2017/"),
        (["train2017/cat/1", "train2017/dog/1", "val2017/cat/1", "val2017/dog/1"], "train2017/ and val2017/"),
        (["val/1", "val/2", "test/1", "test/2"], "test/ and val/"),
        (["train/1", "train/2"], "train/"),
    ],
)
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_network_is_not_trained_to_distinguish_training_from_test_images(
    tmp_path: Path, files: list[str], names: str, form: str
) -> None:
    for name in files:
        write_image(tmp_path / "set" / f"{name}.png")
    address = folder_or_zip(tmp_path / "set", form)
    with pytest.raises(
        InputError, match="but their names are those of splits; put the images into train/CLASS/"
    ) as error:
        load_data(str(address))
    assert str(error.value).startswith(f"{address}: {names} would be classes")
    assert "--labels-from-name" in str(error.value)
    assert error.value.exit_status == 2


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_training_images_without_class_folders_are_not_left_out_for_test_images_with_them(
    tmp_path: Path, form: str
) -> None:
    for name in ("train/1", "train/2", *(f"test/{pet}/{number}" for pet in ("cat", "dog") for number in range(3))):
        write_image(tmp_path / "set" / f"{name}.png")
    address = folder_or_zip(tmp_path / "set", form)
    with pytest.raises(InputError, match="train/ has no class folders, unlike test/; put the images into train/CLASS/"):
        load_data(str(address))


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_test_images_without_class_folders_are_left_out(tmp_path: Path, form: str) -> None:
    for name in ("test/1", *(f"train/{pet}/{number}" for pet in ("cat", "dog") for number in range(5))):
        write_image(tmp_path / "set" / f"{name}.png")
    with pytest.warns(UserWarning, match="left out test: in neither"):
        train, test = load_data(folder_or_zip(tmp_path / "set", form))
    assert (len(train), len(test)) == (8, 2)


NFC, NFD = "caf\u00e9", "cafe\u0301"  # é as one character, and as macOS writes it


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_both_unicode_forms_of_a_name_are_one_class(tmp_path: Path, form: str) -> None:
    for name in (f"{folder}/{number}" for folder in (NFC, NFD, "bar") for number in range(5)):
        write_image(tmp_path / "set" / f"{name}.png")
    address = folder_or_zip(tmp_path / "set", form)
    train, test = load_data(str(address))
    assert train.class_names == ["bar", NFC]
    assert Counter([*train.labels, *test.labels]) == {0: 5, 1: 10}
    assert len({*train.names, *test.names}) == 15
    assert all(part.open(index).size == (80, 90) for part in (train, test) for index in range(len(part)))


def test_classes_and_training_images_of_a_model_match_in_both_unicode_forms(tmp_path: Path) -> None:
    for name in (f"bar/{NFD}-1", f"{NFD}/1", f"{NFD}/2"):
        write_image(tmp_path / f"{name}.png")
    held_out = load_held_out(str(tmp_path), [NFD, "bar"], {f"bar/{NFC}-1.png", f"{NFC}/1.png"})
    assert held_out.names == [f"{NFD}/2.png"]
    assert held_out.class_names == [NFD, "bar"]
    assert list(held_out.labels) == [0]


def test_folders_of_images_in_neither_split_are_left_out_with_a_warning(tmp_path: Path) -> None:
    for number in range(8):
        write_image(tmp_path / ("train", "val")[number // 4] / f"class {number % 2}" / f"{number}.png")
    (tmp_path / "notes").mkdir()
    load_data(str(tmp_path))
    write_image(tmp_path / "emu" / "x.png")
    write_image(tmp_path / "train_masks" / "class 0" / "0.png")
    with pytest.warns(UserWarning, match="left out emu, train_masks: in neither the training nor the held-out split"):
        train, test = load_data(str(tmp_path))
    assert (len(train), len(test)) == (4, 4)


def test_a_train_folder_without_a_val_folder_is_split(tmp_path: Path) -> None:
    for number in range(10):
        write_image(tmp_path / "train" / f"class {number % 2}" / f"{number}.png")
    assert [len(part) for part in load_data(str(tmp_path))] == [8, 2]


def test_evaluation_leaves_out_the_training_images_of_the_model(pets: Path) -> None:
    train, test = load_data(str(pets))
    held_out = load_held_out(str(pets), train.class_names, set(train.names))
    assert held_out.names == test.names


@pytest.mark.parametrize("change", ["deleted", "renamed"])
def test_a_warning_counts_training_images_that_are_missing_from_the_data(pets: Path, change: str) -> None:
    """A renamed image cannot be distinguished from a new one, so the warning mentions that there may be some."""
    train, test = load_data(str(pets))
    file = pets / train.names[0]
    file.unlink() if change == "deleted" else file.rename(file.with_name("new.png"))
    with pytest.warns(match="training images") as caught:
        held_out = load_held_out(str(pets), train.class_names, set(train.names))
    assert sorted(held_out.names) == sorted([*test.names, *(["cat/new.png"] if change == "renamed" else [])])
    (line,) = (str(warning.message) for warning in caught)
    assert line.startswith(f"{pets}: 11 of the 12 training images are in it")
    assert f"among the {len(held_out)} that are evaluated" in line


def test_evaluation_of_several_models_leaves_out_the_training_images_of_each(pets: Path) -> None:
    """The images of a model that was trained on other data are ignored, without a warning."""
    train, test = load_data(str(pets))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held_out = load_held_out(str(pets), train.class_names, {"cat/elsewhere.png"}, set(train.names))
        assert held_out.names == test.names
        held_out = load_held_out(str(pets), train.class_names, set(train.names), {test.names[0]})
        assert held_out.names == test.names[1:]


def test_evaluation_refuses_data_with_only_training_images(pets: Path) -> None:
    train, _ = load_data(str(pets))
    with pytest.raises(
        InputError, match="every one of the 15 images has the name of a training image; give other images"
    ):
        load_held_out(str(pets), train.class_names, {path.relative_to(pets).as_posix() for path in pets.rglob("*.png")})


@pytest.mark.parametrize(("trained", "evaluated"), [("folder", "zip"), ("zip", "folder")])
def test_training_images_under_another_address_are_evaluated_with_a_warning(
    tmp_path: Path, trained: str, evaluated: str
) -> None:
    for name in (f"{pet}/{number}" for pet in ("cat", "dog") for number in range(5)):
        write_image(tmp_path / "pets" / f"{name}.png")
    addresses = {form: str(folder_or_zip(tmp_path / "pets", form)) for form in ("folder", "zip")}
    train, _ = load_data(addresses[trained])
    with pytest.warns(match="names of training images") as caught:
        held_out = load_held_out(addresses[evaluated], train.class_names, set(train.names))
    assert len(held_out) == 10
    (line,) = [str(each.message) for each in caught]
    assert line.startswith(f"{addresses[evaluated]}: 8 of the 10 images have the names of training images in another")
    assert line.endswith("give the data as you gave it to the training")


def test_images_that_one_model_leaves_out_do_not_count_as_moved_for_another(tmp_path: Path) -> None:
    for name in (f"{pet}/{number}" for pet in ("cat", "dog") for number in range(5)):
        write_image(tmp_path / "pets" / f"{name}.png")
    train, held_out = load_data(str(tmp_path / "pets"))
    in_archive = {f"pets.zip/{name}" for name in train.names}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluated = load_held_out(str(tmp_path / "pets"), train.class_names, set(train.names), in_archive)
    assert evaluated.names == held_out.names


def test_all_images_of_other_data_are_evaluated_with_the_labels_of_the_model(tmp_path: Path) -> None:
    write_image(tmp_path / "dog" / "a.png")
    held_out = load_held_out(str(tmp_path), ["cat", "dog"], {"dog/other.png"})
    assert list(held_out.labels) == [1]
    with pytest.raises(InputError, match="the model has no class dog; it has cat, cow"):
        load_held_out(str(tmp_path), ["cat", "cow"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no class folders"),
        (["cat/1.png", "cat/2.png"], "one class only"),
        (["cat/1.png", "dog/1.png"], "has 1 image"),
        (["1.png", "2.png"], "no class folders"),
        (["cat/1.png", "cat/2.png", "dog/readme.md"], "no images in it"),
        (["train/cat/1.png", "train/dog/1.png", "val/cow/1.png"], "no class of that name"),
    ],
)
def test_a_folder_that_cannot_be_used_is_reported_in_one_line(tmp_path: Path, files: list[str], message: str) -> None:
    for file in files:
        if file.endswith(".png"):
            write_image(tmp_path / file)
        else:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text("not an image")
    with pytest.raises(InputError, match=message) as error:
        load_data(str(tmp_path))
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_folder_is_an_error_of_use() -> None:
    with pytest.raises(InputError, match="no such folder") as error:
        load_data("/no/such/folder")
    assert error.value.exit_status == 2


def test_a_class_may_be_named_train_or_test(tmp_path: Path) -> None:
    for number in range(6):
        write_image(tmp_path / ("train" if number % 2 else "plane") / f"{number}.png")
    assert load_data(str(tmp_path))[0].class_names == ["plane", "train"]


@pytest.mark.usefixtures("unprivileged")
@pytest.mark.parametrize("mode", [0, 0o111, 0o444])
def test_a_folder_without_permission_is_reported_in_one_line(tmp_path: Path, mode: int) -> None:
    write_image(tmp_path / "set" / "cat" / "1.png")
    (tmp_path / "set").chmod(mode)
    for name, reason in (
        ("set", "no permission to list this folder"),
        ("set/cat", "no permission to enter the folder"),
    ):
        if name == "set" or mode != 0o111:
            with pytest.raises(InputError, match=f"^{tmp_path / name}: {reason}") as error:
                load_data(f"{tmp_path / name}")
            assert error.value.exit_status == 1


@pytest.mark.usefixtures("unprivileged")
@pytest.mark.parametrize("closed", ["train/cat/more", "train/cat/5.png", "val/cat/more"])
def test_a_folder_or_file_without_permission_inside_a_class_is_one_bad_image(tmp_path: Path, closed: str) -> None:
    for split, name, number in itertools.product(("train", "val"), ("cat", "dog"), range(3)):
        write_image(tmp_path / split / name / f"{number}.png")
    write_image(tmp_path / (closed if closed.endswith(".png") else f"{closed}/5.png"))
    (tmp_path / closed).chmod(0)
    split, _, name = closed.partition("/")
    data = dict(zip(("train", "val"), load_data(str(tmp_path)), strict=True))[split]
    assert name in data.names
    with pytest.raises(InputError, match=f"^{tmp_path / closed}: no permission to"):
        data.open(list(data.names).index(name))


@pytest.mark.usefixtures("unprivileged")
@pytest.mark.parametrize("suffix", [".tar", ".zip", ".npz", ".parquet", ".tfrecord"])
def test_a_file_without_permission_is_not_called_damaged(tmp_path: Path, suffix: str) -> None:
    (file := tmp_path / f"set{suffix}").write_bytes(b"x" * 100)
    file.chmod(0)
    with pytest.raises(InputError, match=f"^{file}: no permission to read it; allow it with chmod u.r$"):
        load_data(str(file))


def test_a_pattern_does_not_skip_a_folder_without_permission(tmp_path: Path, unprivileged: None) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / name / "1.png")
    (tmp_path / "b").chmod(0)
    with pytest.raises(InputError, match=f"^{tmp_path}/b: no permission to list this folder"):
        load_data(f"{tmp_path}/*/*.tar")


def test_files_with_any_characters_can_be_opened_and_keep_their_names(tmp_path: Path) -> None:
    for number, name in enumerate((b"line\nend", b"\xff\xfe", b"plain")):
        for other in ("cat", "dog"):
            file = write_image(tmp_path / "set" / other / f"{number}.png")
            file.rename(file.with_name(f"{os.fsdecode(name)}.png"))
    train, test = load_data(str(tmp_path / "set"))
    for part in (train, test):
        for index, name in enumerate(part.names):
            assert part.open(index).size == (80, 90)
            assert (tmp_path / "set" / name).is_file()


# ------------------------------------------------------------------------------------------------- batches


def test_every_image_is_in_one_batch_or_reported_as_bad(pets: Path) -> None:
    (pets / "cat" / "03.png").write_bytes(b"")
    train, _ = load_data(str(pets))
    for workers in (0, 2):
        loaded = list(batches(train, Preprocessing((75, 75)), 5, workers=workers))
        indices = torch.cat([batch.indices for batch in loaded]).tolist()
        bad = [name for batch in loaded for name, _ in batch.bad]
        assert sorted([train.names[index] for index in indices] + bad) == sorted(train.names)
        assert bad == ["cat/03.png"]
        assert all(batch.images.dtype == torch.uint8 and batch.images.shape[1:] == (3, 75, 75) for batch in loaded)
        labels = {index: label for batch in loaded for index, label in zip(batch.indices, batch.labels, strict=True)}
        assert all(train.labels[index] == label for index, label in labels.items())


def test_a_pickled_data_set_reads_the_same_images(pets: Path) -> None:
    train, _ = load_data(str(pets))
    pickled = pickle.loads(pickle.dumps(train))
    assert (pickled.names, list(pickled.labels)) == (train.names, list(train.labels))
    assert all(np.array_equal(pickled.open(index), train.open(index)) for index in range(len(train)))


# ----------------------------------------------------------------------------------------- warnings


def test_a_class_without_held_out_images_is_named_in_a_warning(tmp_path: Path) -> None:
    for name in ("train/cat/1", "train/dog/1", "train/emu/1", "train/fox/1", "val/cat/2", "val/fox/2"):
        write_image(tmp_path / f"{name}.png")
    with pytest.warns(UserWarning, match="no held-out image of dog, emu; add some"):
        train, test = load_data(str(tmp_path))
    assert (len(train), len(test)) == (4, 2)


def test_an_image_in_both_splits_or_in_two_classes_is_named_in_a_warning(tmp_path: Path) -> None:
    for number in range(4):
        write_image(tmp_path / "train" / ("cat" if number % 2 else "dog") / f"{number}.png")
        write_image(tmp_path / "val" / ("cat" if number % 2 else "dog") / f"v{number}.png")
    load_data(str(tmp_path))
    (tmp_path / "val" / "cat" / "leak.png").write_bytes((tmp_path / "train" / "cat" / "1.png").read_bytes())
    with pytest.warns(UserWarning, match=r"1 image is in both .* split.*\(cat/1.png and cat/leak.png\)$") as caught:
        load_data(str(tmp_path))
    assert len(caught) == 1
    (tmp_path / "train" / "dog" / "wrong.png").write_bytes((tmp_path / "train" / "cat" / "3.png").read_bytes())
    with (
        pytest.warns(UserWarning, match="1 image is in both"),
        pytest.warns(UserWarning, match=r"1 image is in two classes.*\(cat/3.png and dog/wrong.png\)$"),
    ):
        load_data(str(tmp_path))


def test_duplicates_have_equal_content_and_unreadable_files_are_ignored(tmp_path: Path) -> None:
    contents = [b"a" * 9000, b"a" * 8999 + b"b", b"a" * 9000, b"c" * 10, b"d" * 10, b"", b"", b"c" * 10, b"longer" * 9]
    files = [tmp_path / str(number) for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    files[8].chmod(0)
    images = LabelledImages(["x"], [*files, tmp_path / "missing"], [0] * 10, [str(number) for number in range(10)])
    assert duplicates(images) == [[(0, 0), (0, 2)], [(0, 3), (0, 7)]]
    assert duplicates(images.subset([0]), images.subset([1, 2])) == [[(0, 0), (1, 1)]]


@given(
    st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True),
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8, unique=True),
    st.data(),
)
def test_relabelling_matches_classes_by_name(own: list[str], others: list[str], data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.integers(0, len(own) - 1), max_size=9))
    names = [str(number) for number in range(len(labels))]
    images = LabelledImages(own, [Path(name) for name in names], labels, names)
    unknown = [own[label] for label in sorted(labels) if own[label] not in others]
    if unknown:
        with pytest.raises(InputError, match=f"no class {unknown[0]}"):
            images.relabel(others, lambda name: f"no class {name}")
    else:
        relabelled = images.relabel(others, str)
        assert [relabelled.class_names[label] for label in relabelled.labels] == [own[label] for label in labels]


def test_folders_named_by_numbers_are_indices_into_the_classes_of_the_model(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(12)]
    for numbers in (range(12), (3, 7, 11)):
        for number in numbers:
            write_image(tmp_path / f"{len(numbers)}" / str(number) / f"{number}.png", number)
        images = load_held_out(str(tmp_path / f"{len(numbers)}"), names)
        assert [images.class_names[label] for label in images.labels] == [names[number] for number in numbers]
    unnamed = load_held_out(str(tmp_path / "12"), None)
    assert list(unnamed.labels) == [int(name.split("/")[0]) for name in unnamed.names]
    with pytest.raises(InputError, match="no class 1;"):
        LabelledImages(["1", "01"], [Path("x")], [0], ["x"]).relabel(names, lambda name: f"no class {name};")
    with pytest.raises(InputError, match="no class 11"):
        load_held_out(str(tmp_path / "12"), names[:11])


def test_numbered_classes_are_indices_without_the_background_class() -> None:
    numbered = LabelledImages(["0", "1"], [Path("x"), Path("y")], [0, 1], ["x", "y"])
    from_one = LabelledImages(["background", "1", "2"], [Path("x"), Path("y")], [1, 2], ["x", "y"])
    for images in (numbered, from_one):
        assert list(images.relabel(["tench", "goldfish"], str).labels) == [0, 1]
        assert list(images.relabel(["background", "tench", "goldfish"], str).labels) == [1, 2]
        with pytest.raises(InputError, match="too few"):
            images.relabel(["tench"], lambda name: "too few")


# ------------------------------------------------------------------------------------------------ large data sets


def test_the_names_of_a_million_images_take_little_memory() -> None:
    """They are no Python objects, whose reference counts would make worker processes copy their memory."""
    tracemalloc.start()
    names = PackedStrings(f"n{number % 1000:08}/n{number:012}.JPEG" for number in range(50_000))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 50_000 * 50
    column = LazySequence(names.__getitem__, range(len(names)))
    part = subset(column, [7, 49_999])
    assert list(part) == ["n00000007/n000000000007.JPEG", "n00000999/n000000049999.JPEG"]
    assert (part[-1], part[:1], part.index("n00000007/n000000000007.JPEG")) == (list(part)[1], list(part)[:1], 0)
    assert part == list(part)
    assert part != list(part)[:1]


@given(st.lists(st.text(st.characters(codec=None, exclude_categories=[]), max_size=8)))
def test_packed_strings_keep_any_text_and_any_file_name(texts: list[str]) -> None:
    files = [os.fsdecode(text.encode("utf-8", "ignore")) for text in texts] + [os.fsdecode(b"\xff\xfe")]
    packed = PackedStrings(files)
    assert [packed[index] for index in range(len(packed))] == files


def test_the_command_line_prints_a_warning_as_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(cli, "_run", lambda: warnings.warn("pets: [no] held-out image of dog", stacklevel=1))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with pytest.raises(SystemExit):
            cli.main()
    assert capsys.readouterr().err == "warning: pets: [no] held-out image of dog\n"


def test_the_digits_are_those_of_scikit_learn() -> None:
    theirs = load_digits()
    train, held_out = load_data("digits")
    ours = {
        name: (image, label)
        for part in (train, held_out)
        for name, image, label in zip(part.names, part.sources, part.labels, strict=True)
    }
    assert len(ours) == len(theirs.images) == 1797
    for index, (pixels, label) in enumerate(zip(theirs.images, theirs.target, strict=True)):
        image, our_label = ours[f"digits/{index:04d}"]
        assert our_label == label
        np.testing.assert_array_equal(np.asarray(image)[..., 0], np.round(pixels * (255 / 16)))
