"""TFRecords that TensorFlow wrote as TF-Slim's scripts do, read without it: labels, names, and damage."""

import shutil
import struct
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import as_set
from inception_v3.data import load_data, load_held_out, tfrecords
from inception_v3.data.pictures import Pictures
from inception_v3.errors import InputError
from inception_v3.support.crc32c import masked_crc
from inception_v3.weights.formats.weights import imagenet_classes

pytestmark = pytest.mark.filterwarnings("ignore:.*no picture to train on:UserWarning")


@pytest.fixture
def imagenet(slim_preprocessing: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(slim_preprocessing / "imagenet", tmp_path / "imagenet"))


def offsets(file: Path) -> list[int]:
    """Where each record starts."""
    content, found, at = file.read_bytes(), [], 0
    while at < len(content):
        found.append(at)
        at += 16 + struct.unpack_from("<Q", content, at)[0]
    return found


# ------------------------------------------------------------------------------------------------ what is read


def test_the_same_pictures_as_in_folders(slim_preprocessing: Path) -> None:
    ours, theirs = (load_data(str(slim_preprocessing / name)) for name in ("imagenet", "imagenet_files"))
    assert [len(part) for part in ours] == [7, 3]
    assert [as_set(part) for part in ours] == [as_set(part) for part in theirs]


def test_a_network_of_a_thousand_classes_has_them_in_its_own_order(imagenet: Path) -> None:
    train, test = load_data(str(imagenet))
    assert train.class_names == imagenet_classes()
    assert list(train.labels) == [0, 1, 2, 1, 2, 0, 1]
    assert list(test.labels) == [1, 2, 0]
    assert train.names[4:6] == ["train-00001-of-00002/000000", "train-00001-of-00002/000001"]


def test_with_the_background_labels_stay_as_they_are(imagenet: Path) -> None:
    train, _ = load_data(f"tfrecords+background:{imagenet}")
    assert train.class_names == ["background", *imagenet_classes()]
    assert list(train.labels) == [1, 2, 3, 2, 3, 1, 2]


@pytest.mark.parametrize("kept", [False, True])
def test_published_models_are_judged_by_their_own_numbers(imagenet: Path, kept: bool) -> None:
    address = f"tfrecords{'+background' if kept else ''}:{imagenet}"
    assert list(load_held_out(address, imagenet_classes()).labels) == [1, 2, 0]
    assert list(load_held_out(address, ["background", *imagenet_classes()]).labels) == [2, 3, 1]


def test_other_sets_of_slim_have_labels_from_zero_and_say_so(slim_preprocessing: Path) -> None:
    train, test = load_data(str(slim_preprocessing / "flowers"))
    assert (train.class_names, list(train.labels), list(test.labels)) == (["daisy", "rose"], [0, 1, 0, 1], [1, 0])


def test_a_zero_that_nothing_explains_is_refused_with_the_way_round(slim_preprocessing: Path, tmp_path: Path) -> None:
    flowers = shutil.copytree(slim_preprocessing / "flowers", tmp_path / "flowers")
    (flowers / "labels.txt").unlink()
    with pytest.raises(InputError, match=r"has label 0, the background; give tfrecords\+background:"):
        load_data(str(flowers))
    train, _ = load_data(f"tfrecords+background:{flowers}")
    assert (train.class_names, list(train.labels)) == (["background", "1"], [0, 1, 0, 1])


def test_evaluation_holds_out_the_same(imagenet: Path) -> None:
    address = f"{imagenet}/train-*"
    train, test = load_data(address)
    again = load_held_out(address, train.class_names, set(train.names))
    assert again.names == test.names


def test_classes_that_share_a_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = Pictures(["0", "1", "2"], [Path("x")] * 2, [1, 2], ["x", "y"])
    monkeypatch.setattr(tfrecords, "read_files", lambda *_: (pictures, {1: "crane", 2: "crane"}))
    assert tfrecords.read([], "x").class_names == ["crane (1)", "crane (2)"]


# --------------------------------------------------------------------------------------------------- bad input


def test_a_damaged_record_is_left_out_and_told_with_its_place(imagenet: Path) -> None:
    file = imagenet / "train-00000-of-00002"
    at, content = offsets(file)[1], bytearray(file.read_bytes())
    content[at + 500] ^= 1
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=f"left out train-00000-of-00002/000001: damaged at byte {at}: its checksum"):
        train, _ = load_data(str(imagenet))
    assert len(train) == 6
    assert train.names[1] == "train-00000-of-00002/000002"


def test_a_damaged_length_loses_the_rest_of_its_file_alone(imagenet: Path) -> None:
    file = imagenet / "train-00000-of-00002"
    at, content = offsets(file)[2], bytearray(file.read_bytes())
    content[at + 5] ^= 0x40  # an enormous record, were it believed
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=f"left out train-00000-of-00002: damaged at byte {at}: what comes after"):
        train, _ = load_data(str(imagenet))
    assert len(train) == 2 + 3


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_file_cut_or_flipped_anywhere_is_told_or_refused_in_one_line(imagenet: Path, data: st.DataObject) -> None:
    file = imagenet / "train-00001-of-00002"
    whole = file.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    broken = bytearray(whole)
    broken[at] ^= data.draw(st.integers(1, 255))
    file.write_bytes(whole[:at] if data.draw(st.booleans()) else broken)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            train, _ = load_data(str(imagenet))
            assert 4 <= len(train) < 7
        assert any("train-00001-of-00002" in str(one.message) for one in told) or at in offsets(file)
    except InputError as error:
        line = str(error)
        assert str(file) in line
        assert "\n" not in line
    finally:
        file.write_bytes(whole)


def test_what_changes_after_it_was_listed_is_a_bad_picture(imagenet: Path) -> None:
    train, _ = load_data(str(imagenet))
    file = imagenet / "train-00000-of-00002"
    content = bytearray(file.read_bytes())
    content[offsets(file)[1] + 500] ^= 1
    file.write_bytes(content)
    train.open(0)
    with pytest.raises(InputError, match=r"^train-00000-of-00002/000001: damaged at byte \d+"):
        train.open(1)


def write(path: Path, features: dict[str, object]) -> Path:
    """One record, by the same library's protocol buffers; TensorFlow's are tested above."""
    from tfrecord import example_pb2

    example = example_pb2.Example()
    for name, value in features.items():
        if isinstance(value, bytes):
            example.features.feature[name].bytes_list.value.append(value)
        elif isinstance(value, float):
            example.features.feature[name].float_list.value.append(value)
        else:
            example.features.feature[name].int64_list.value.extend(value)
    content = example.SerializeToString()
    length = struct.pack("<Q", len(content))
    path.write_bytes(length + _crc(length) + content + _crc(content))
    return path


def _crc(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc(data))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (b"tench", "its label is '"),
        (1.5, "its label is '1.5'"),
        ([], "its label is"),
        ([1, 2], "its label is"),
        ([-1], "its label is '-1'"),
        ([2**40], "its label is"),
    ],
)
def test_a_label_that_is_no_number_is_one_clear_line(tmp_path: Path, label: object, message: str) -> None:
    path = write(tmp_path / "x.tfrecord", {"image/encoded": b"x", "image/class/label": label})
    with pytest.raises(InputError, match=message) as error:
        load_data(str(path))
    assert str(error.value).startswith(f"{path}: record 000000: ")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"image/encoded": b"x"}, "no image/class/label; write TFRecords as TF-Slim does"),
        ({"image/class/label": [1]}, "no labelled pictures in it; .*no image/encoded at byte 0"),
    ],
)
def test_records_of_another_kind_are_refused(tmp_path: Path, features: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_data(str(write(tmp_path / "x.tfrecord", features)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no labelled pictures"),
        (b"this is text " * 9, "damaged at byte 0: or this is no TFRecord file"),
        (b"\x1f\x8b" + b"x" * 99, "compressed: gunzip it"),
    ],
)
def test_what_is_no_tfrecord_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "train-00000-of-00001").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        load_data(str(tmp_path))
    assert str(tmp_path) in str(error.value)
