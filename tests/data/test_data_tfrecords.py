"""TFRecords that TensorFlow wrote as TF-Slim's scripts do, read without TensorFlow: labels, names and damage."""

import shutil
import struct
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import as_set
from inception_v3.data import load_data, load_held_out, tfrecords
from inception_v3.data.labelled_images import LabelledImages
from inception_v3.errors import InputError
from inception_v3.support.crc32c import masked_crc
from inception_v3.support.protocol_buffers import encode, encode_varint
from inception_v3.weights.formats.weights import imagenet_classes

pytestmark = pytest.mark.filterwarnings("ignore:.*no training image of:UserWarning")


@pytest.fixture
def imagenet(slim_preprocessing: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(slim_preprocessing / "imagenet", tmp_path / "imagenet"))


def offsets(file: Path) -> list[int]:
    """The offset of each record."""
    content, starts = file.read_bytes(), [0]
    while starts[-1] < len(content):
        starts.append(starts[-1] + 16 + struct.unpack_from("<Q", content, starts[-1])[0])
    return starts[:-1]


# ------------------------------------------------------------------------------------------------ reading


def test_tfrecords_hold_the_same_images_as_folders(slim_preprocessing: Path) -> None:
    ours, theirs = (load_data(str(slim_preprocessing / name)) for name in ("imagenet", "imagenet_files"))
    assert [len(part) for part in ours] == [7, 3]
    assert [as_set(part) for part in ours] == [as_set(part) for part in theirs]


def test_by_default_label_1_is_class_0_of_a_thousand(imagenet: Path) -> None:
    train, test = load_data(str(imagenet))
    assert train.class_names == imagenet_classes()
    assert list(train.labels) == [0, 1, 2, 1, 2, 0, 1]
    assert list(test.labels) == [1, 2, 0]
    assert train.names[4:6] == ["train-00001-of-00002/000000", "train-00001-of-00002/000001"]


def test_with_the_background_labels_are_kept(imagenet: Path) -> None:
    train, _ = load_data(f"tfrecords+background:{imagenet}")
    assert train.class_names == ["background", *imagenet_classes()]
    assert list(train.labels) == [1, 2, 3, 2, 3, 1, 2]


@pytest.mark.parametrize("keep_background", [False, True])
def test_labels_are_those_of_the_evaluated_model(imagenet: Path, keep_background: bool) -> None:
    address = f"tfrecords{'+background' if keep_background else ''}:{imagenet}"
    assert list(load_held_out(address, imagenet_classes()).labels) == [1, 2, 0]
    assert list(load_held_out(address, ["background", *imagenet_classes()]).labels) == [2, 3, 1]


def test_labels_start_at_zero_if_label_zero_has_a_name(slim_preprocessing: Path) -> None:
    train, test = load_data(str(slim_preprocessing / "flowers"))
    assert (train.class_names, list(train.labels), list(test.labels)) == (["daisy", "rose"], [0, 1, 0, 1], [1, 0])


def test_a_label_zero_without_a_name_is_refused_with_a_remedy(slim_preprocessing: Path, tmp_path: Path) -> None:
    flowers = shutil.copytree(slim_preprocessing / "flowers", tmp_path / "flowers")
    (flowers / "labels.txt").unlink()
    with pytest.raises(InputError, match=r"has label 0, the background; give tfrecords\+background:"):
        load_data(str(flowers))
    train, _ = load_data(f"tfrecords+background:{flowers}")
    assert (train.class_names, list(train.labels)) == (["background", "1"], [0, 1, 0, 1])


def test_evaluation_holds_out_the_same_images(imagenet: Path) -> None:
    address = f"{imagenet}/train-*"
    train, test = load_data(address)
    again = load_held_out(address, train.class_names, set(train.names))
    assert again.names == test.names


def test_labels_are_appended_to_equal_class_names(monkeypatch: pytest.MonkeyPatch) -> None:
    images = LabelledImages(["0", "1", "2"], [Path("x")] * 2, [1, 2], ["x", "y"])
    monkeypatch.setattr(tfrecords, "read_records", lambda *_: (images, {1: "crane", 2: "crane"}))
    assert tfrecords.read_tfrecords([], "x").class_names == ["crane (1)", "crane (2)"]


# --------------------------------------------------------------------------------------------------- bad input


def test_a_damaged_record_is_left_out_with_a_warning_of_its_offset(imagenet: Path) -> None:
    file = imagenet / "train-00000-of-00002"
    offset, content = offsets(file)[1], bytearray(file.read_bytes())
    content[offset + 500] ^= 1
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=f"left out train-00000-of-00002/000001: damaged at byte {offset}: wrong"):
        train, _ = load_data(str(imagenet))
    assert len(train) == 6
    assert train.names[1] == "train-00000-of-00002/000002"


def test_after_a_damaged_length_only_the_rest_of_the_file_is_left_out(imagenet: Path) -> None:
    file = imagenet / "train-00000-of-00002"
    offset, content = offsets(file)[2], bytearray(file.read_bytes())
    content[offset + 5] ^= 0x40  # the length of an enormous record
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=f"left out train-00000-of-00002: damaged at byte {offset}: the rest"):
        train, _ = load_data(str(imagenet))
    assert len(train) == 2 + 3


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_file_damaged_anywhere_gives_a_warning_or_an_error_of_one_line(imagenet: Path, data: st.DataObject) -> None:
    file = imagenet / "train-00001-of-00002"
    whole = file.read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    broken = bytearray(whole)
    broken[position] ^= data.draw(st.integers(1, 255))
    file.write_bytes(whole[:position] if data.draw(st.booleans()) else broken)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            train, _ = load_data(str(imagenet))
            assert 4 <= len(train) < 7
        warned = any("train-00001-of-00002" in str(warning.message) for warning in caught)
        assert warned or position in offsets(file)
    except InputError as error:
        line = str(error)
        assert str(file) in line
        assert "\n" not in line
    finally:
        file.write_bytes(whole)


def test_a_record_that_is_damaged_after_indexing_raises_an_error(imagenet: Path) -> None:
    train, _ = load_data(str(imagenet))
    file = imagenet / "train-00000-of-00002"
    content = bytearray(file.read_bytes())
    content[offsets(file)[1] + 500] ^= 1
    file.write_bytes(content)
    train.open(0)
    with pytest.raises(InputError, match=r"^train-00000-of-00002/000001: damaged at byte \d+"):
        train.open(1)


def write(path: Path, features: dict[str, object]) -> Path:
    """Write one record with any features; the tests above read those of TensorFlow."""
    entries = b"".join(
        encode(1, encode(1, name.encode()) + encode(2, _feature(value))) for name, value in features.items()
    )
    content = encode(1, entries)
    length = struct.pack("<Q", len(content))
    path.write_bytes(length + _crc(length) + content + _crc(content))
    return path


def _feature(value: object) -> bytes:
    """A tf.train.Feature: bytes, a float or a list of integers."""
    if isinstance(value, bytes):
        return encode(1, encode(1, value))
    if isinstance(value, float):
        return encode(2, encode(1, struct.pack("<f", value)))
    assert isinstance(value, list)
    return encode(3, encode(1, b"".join(encode_varint(number % 2**64) for number in value)))


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
def test_a_label_that_is_not_a_number_is_reported_in_one_line(tmp_path: Path, label: object, message: str) -> None:
    path = write(tmp_path / "x.tfrecord", {"image/encoded": b"x", "image/class/label": label})
    with pytest.raises(InputError, match=message) as error:
        load_data(str(path))
    assert str(error.value).startswith(f"{path}: record 000000: ")


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"image/encoded": b"x"}, "no image/class/label; write TFRecords as TF-Slim does"),
        ({"image/class/label": [1]}, "no labelled images in it; .*no image/encoded at byte 0"),
    ],
)
def test_records_without_an_image_or_a_label_are_refused(
    tmp_path: Path, features: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_data(str(write(tmp_path / "x.tfrecord", features)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no labelled images"),
        (b"this is text " * 9, "damaged at byte 0: perhaps this is not a TFRecord file"),
        (b"\x1f\x8b" + b"x" * 99, "compressed: gunzip it"),
    ],
)
def test_a_file_that_is_not_a_tfrecord_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "train-00000-of-00001").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        load_data(str(tmp_path))
    assert str(tmp_path) in str(error.value)
