"""Labelled pictures: the honest split, and every folder that cannot be learnt from."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inception_v3.data import batches, load_data, load_held_out
from inception_v3.errors import InputError
from inception_v3.images import open_image
from inception_v3.preprocessing import Preprocessing


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (90, 80)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Ten cats and five dogs."""
    for number in range(15):
        picture(tmp_path / "pets" / ("cat" if number < 10 else "dog") / f"{number:02}.png", number)
    return tmp_path / "pets"


# --------------------------------------------------------------------------------------------- the digits


def test_digits_are_split_evenly_by_class_and_the_same_at_every_call() -> None:
    train, test = load_data("digits")
    assert (len(train), len(test)) == (1438, 359)
    assert not set(train.names) & set(test.names)
    share = {label: count / len(test) for label, count in Counter(test.labels).items()}
    whole = Counter(list(train.labels) + list(test.labels))
    assert all(abs(share[label] - count / 1797) < 0.005 for label, count in whole.items())
    assert load_data("digits")[1].names == test.names == load_held_out("digits", train.class_names).names


def test_the_example_digits_were_never_trained_on() -> None:
    _, test = load_data("digits")
    files = sorted((Path(__file__).parent.parent / "examples" / "digits").glob("*.png"))
    assert len(files) == 10
    for file in files:
        label, number = file.stem.split("-")
        at = test.names.index(f"digits/{number}")
        assert test.class_names[test.labels[at]] == label
        assert np.array_equal(open_image(file), test.sources[at])


# ------------------------------------------------------------------------------------------------- folders


def test_a_folder_of_classes_is_split_with_some_of_each_class_held_out(pets: Path) -> None:
    train, test = load_data(str(pets))
    assert train.class_names == ["cat", "dog"]
    assert Counter(test.labels) == {0: 2, 1: 1}
    assert Counter(train.labels) == {0: 8, 1: 4}


@pytest.mark.parametrize(("first", "second"), [("train", "val"), ("train", "test"), ("training", "validation")])
def test_folders_that_are_split_already_stay_so(tmp_path: Path, first: str, second: str) -> None:
    for number in range(4):
        picture(tmp_path / first / f"class {number % 2}" / f"{number}.png")
    picture(tmp_path / second / "class 1" / "x.png")
    train, test = load_data(str(tmp_path))
    assert (len(train), len(test)) == (4, 1)
    assert test.class_names == ["class 0", "class 1"]
    assert list(test.labels) == [1]


def test_train_alone_is_split(tmp_path: Path) -> None:
    for number in range(10):
        picture(tmp_path / "train" / f"class {number % 2}" / f"{number}.png")
    assert [len(part) for part in load_data(str(tmp_path))] == [8, 2]


def test_evaluation_leaves_out_what_the_model_was_trained_on(pets: Path) -> None:
    train, test = load_data(str(pets))
    held_out = load_held_out(str(pets), train.class_names, set(train.names))
    assert held_out.names == test.names


def test_another_folder_is_judged_whole_and_by_the_models_own_class_numbers(tmp_path: Path) -> None:
    picture(tmp_path / "dog" / "a.png")
    held_out = load_held_out(str(tmp_path), ["cat", "dog"], {"dog/other.png"})
    assert list(held_out.labels) == [1]
    with pytest.raises(InputError, match="the model has no class dog; it has cat, cow"):
        load_held_out(str(tmp_path), ["cat", "cow"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "no class folders"),
        (["cat/1.png", "cat/2.png"], "one class only"),
        (["cat/1.png", "dog/1.png"], "has 1 picture"),
        (["1.png", "2.png"], "no class folders"),
        (["cat/1.png", "cat/2.png", "dog/readme.md"], "no pictures in it"),
        (["train/cat/1.png", "train/dog/1.png", "val/cow/1.png"], "no class of that name"),
    ],
)
def test_a_folder_that_cannot_be_learnt_from_is_one_clear_line(tmp_path: Path, files: list[str], message: str) -> None:
    for file in files:
        if file.endswith(".png"):
            picture(tmp_path / file)
        else:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text("not a picture")
    with pytest.raises(InputError, match=message) as error:
        load_data(str(tmp_path))
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_folder_is_wrong_use() -> None:
    with pytest.raises(InputError, match="no such folder") as error:
        load_data("/no/such/folder")
    assert error.value.exit_status == 2


# ------------------------------------------------------------------------------------------------- batches


def test_every_picture_is_in_one_batch_and_a_bad_one_is_told(pets: Path) -> None:
    (pets / "cat" / "03.png").write_bytes(b"")
    train, _ = load_data(str(pets))
    for workers in (0, 2):
        loaded = list(batches(train, Preprocessing((75, 75)), 5, workers=workers))
        indices = torch.cat([batch.indices for batch in loaded]).tolist()
        bad = [int(index) for batch in loaded for index, _ in batch.bad]
        assert sorted(indices + bad) == list(range(len(train)))
        assert [train.names[index] for index in bad] == ["cat/03.png"]
        assert all(batch.images.dtype == torch.uint8 and batch.images.shape[1:] == (3, 75, 75) for batch in loaded)
        labels = {index: label for batch in loaded for index, label in zip(batch.indices, batch.labels, strict=True)}
        assert all(train.labels[index] == label for index, label in labels.items())


def test_shuffling_follows_its_generator_alone(pets: Path) -> None:
    train, _ = load_data(str(pets))

    def order(seed: int) -> list[list[int]]:
        loader = batches(train, Preprocessing((75, 75)), 4, shuffle=True, generator=torch.Generator().manual_seed(seed))
        return [torch.cat([batch.indices for batch in loader]).tolist() for _ in range(2)]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0)[0] != order(0)[1], "a new order every epoch"
