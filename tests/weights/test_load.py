"""`save` and `load`: what a file stores, errors for files that cannot be used, and atomic writes."""

import errno
import json
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

import inception_v3
from inception_v3.errors import InputError
from inception_v3.images.preprocessing import Preprocessing
from inception_v3.support.files import atomic_write
from inception_v3.weights.model import InceptionV3

Build = Callable[..., InceptionV3]


@pytest.fixture
def saved(tmp_path: Path, random_model: Build) -> Path:
    inception_v3.save(random_model(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def refused(path: Path, **options: object) -> str:
    """Load the file, which must fail; return the message, one line that names the file."""
    with pytest.raises(InputError) as error:
        inception_v3.load(path, **options)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message


# ------------------------------------------------------------------------------------------- what a file stores


def test_a_file_stores_settings_preprocessing_classes_and_weights(tmp_path: Path, random_model: Build) -> None:
    model = random_model(num_classes=3, image_size=(107, 139), batch_norm_scale=True, global_pool=True)
    model.preprocessing = Preprocessing((107, 139), 0.9, std=(0.25, 0.5, 1.0))
    model.class_names = ["cat", "dog", "ωmega"]
    inception_v3.save(model, tmp_path / "any name")
    loaded = inception_v3.load(tmp_path / "any name")
    assert loaded.settings == model.settings
    assert loaded.preprocessing == model.preprocessing
    assert loaded.class_names == model.class_names
    assert not loaded.training
    images = torch.rand(2, 3, 107, 139)
    with torch.inference_mode():
        assert torch.equal(loaded(images)[0], model(images)[0])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_a_run_folder_can_be_loaded(saved: Path) -> None:
    assert inception_v3.load(saved.parent).settings == inception_v3.load(saved).settings


def test_options_replace_the_stored_ones(saved: Path) -> None:
    assert inception_v3.load(saved, global_pool=True).settings.global_pool is True


def test_a_loaded_model_can_be_trained_further(saved: Path) -> None:
    model = inception_v3.load(saved).train()
    logits, _ = model(torch.rand(4, 3, 107, 107))
    logits.sum().backward()
    assert all(not p.is_meta for p in model.parameters())
    assert model.get_parameter("Conv2d_1a_3x3.weights").grad is not None


# -------------------------------------------------------------------------------- files that cannot be used


def test_no_such_file(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "nothing.safetensors")


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no training has finished an epoch"):
        inception_v3.load(tmp_path)


@pytest.mark.parametrize("fraction", [0, 0.0001, 0.01, 0.5, 0.999])
def test_a_truncated_file(saved: Path, fraction: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(fraction * len(data))])
    assert "be read" in refused(saved)


def test_another_programs_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(3)}, path)
    assert "not an Inception V3" in refused(path)


@pytest.mark.parametrize(
    "content", [b"hello, this is text", b"\x89PNG\r\n\x1a\n" + bytes(99), b"PK\x03\x04" + bytes(99)]
)
def test_files_that_are_not_models(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    refused(path)


def test_code_in_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    path = tmp_path / "model.pth"
    path.write_bytes(pickle.dumps(Bomb()))
    refused(path)
    torch.save(Bomb(), path)
    refused(path)
    assert not (tmp_path / "ran").exists()


def test_options_that_do_not_fit_the_variables(saved: Path) -> None:
    assert "lacks" in refused(saved, batch_norm_scale=True)
    assert "shape" in refused(saved, depth_multiplier=0.5)
    assert "depth_multiplier" in refused(saved, depth_multiplier=0)
    assert "no_such_option" in refused(saved, no_such_option=1)


@pytest.mark.parametrize(
    ("key", "value"),
    [("settings", "{"), ("settings", "{}"), ("preprocessing", '{"x": 1}'), ("class_names", "?"), ("version", "99")],
)
def test_damaged_settings(saved: Path, key: str, value: str) -> None:
    tensors = safetensors.torch.load_file(saved)
    with safetensors.safe_open(saved, "pt") as opened:
        metadata = opened.metadata()
    safetensors.torch.save_file(tensors, saved, metadata | {key: value})
    refused(saved)


def test_one_flipped_bit_of_a_tensor_is_noticed(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-1001] ^= 1  # the lowest bit of one value: still a finite number
    saved.write_bytes(content)
    assert "its tensors are not those that were saved; the file is damaged, copy it again" in refused(saved)


def test_a_tensor_under_another_name_is_noticed(saved: Path) -> None:
    tensors = safetensors.torch.load_file(saved)
    with safetensors.safe_open(saved, "pt") as opened:
        metadata = opened.metadata()
    first, second = "Mixed_6b.Branch_1.Conv2d_0b_1x7.BatchNorm.beta", "Mixed_6b.Branch_2.Conv2d_0b_7x1.BatchNorm.beta"
    tensors[first], tensors[second] = tensors[second], tensors[first]
    safetensors.torch.save_file(tensors, saved, metadata)
    assert "not those that were saved" in refused(saved)


def test_a_header_that_declares_more_than_the_file_holds(saved: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    saved.write_bytes(len(header).to_bytes(8, "little") + header)
    refused(saved)


# --------------------------------------------------------------------------------- atomic writes


def test_an_interrupted_write_keeps_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write(error: BaseException) -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("incomplete")
            raise error

    for error in (KeyboardInterrupt(), RuntimeError("killed")):
        with pytest.raises(type(error)):
            write(error)
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path], "no temporary file remains"


def test_readers_never_see_an_incomplete_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0" * 1000)
    sizes, done = set(), threading.Event()

    def read() -> None:
        while not done.is_set():
            sizes.add(len(path.read_bytes()))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(50):
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            for _ in range(10):
                file.write(b"1" * 100)
                file.flush()
    done.set()
    reader.join()
    assert sizes == {1000}


def test_file_permissions_follow_the_umask(saved: Path) -> None:
    mask = os.umask(0o022)
    os.umask(mask)
    assert saved.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_full_disk_is_an_error_and_keeps_the_previous_file(
    saved: Path, random_model: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="the disk is full"):
        inception_v3.save(random_model(seed=1), saved)
    assert saved.read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a Linux device")
def test_a_full_disk_during_a_write_has_the_same_message(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the disk is full"), atomic_write(tmp_path / "file"):
        Path("/dev/full").write_text("x" * 100_000)


def test_a_folder_that_cannot_be_written(tmp_path: Path, random_model: Build) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        inception_v3.save(random_model(), tmp_path / "file" / "model.safetensors")
