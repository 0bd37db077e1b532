"""Bottlenecks: features are computed again only if something has changed, and never found under the wrong key."""

import io
import tarfile
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inception_v3 import InceptionV3, Preprocessing
from inception_v3.data import LabelledImages
from inception_v3.data.labelled_images import LazyImageFile
from inception_v3.data.sequences import concatenate
from inception_v3.data.shards import read_shards
from inception_v3.finetuning import bottlenecks as module
from inception_v3.finetuning.bottlenecks import bottlenecks, feature_space
from inception_v3.inference import feature_store
from inception_v3.inference.feature_store import FeatureStore
from inception_v3.support.cpu import core_count

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model(random_model: Callable[..., InceptionV3]) -> InceptionV3:
    network = random_model(image_size=75, create_aux_logits=False)
    network.preprocessing = Preprocessing((75, 75))
    return network


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "store")


def photo(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (80, 90, 3), dtype=np.uint8)).save(path)
    return path


def photos(folder: Path, count: int = 4) -> list[Path]:
    return [photo(folder / f"{number}.png", number) for number in range(count)]


def data_set(sources: list[Path] | list[Image.Image]) -> LabelledImages:
    return LabelledImages(["a", "b"], sources, [0] * len(sources), [str(number) for number in range(len(sources))])


# --------------------------------------------------------------------------- computed once, and again if changed


def test_features_are_those_of_the_network_and_computed_once(
    model: InceptionV3, store: FeatureStore, tmp_path: Path
) -> None:
    data = data_set(photos(tmp_path / "data"))
    first = bottlenecks(model, data, store, batch_size=3)
    again = bottlenecks(model, data, FeatureStore(tmp_path / "store"), batch_size=3)
    assert (first.computed, again.computed) == (4, 0)
    assert torch.equal(first.features, again.features)
    images = torch.cat([model.preprocess(Image.open(path)) for path in data.sources[:3]])
    with torch.inference_mode():
        _, end_points = model(images.contiguous(memory_format=torch.channels_last), ("PreLogits",))
    torch.testing.assert_close(first.features[:3], end_points["PreLogits"].flatten(1), rtol=1e-4, atol=1e-5)


def test_an_image_is_identified_by_its_content_not_by_its_name(
    model: InceptionV3, store: FeatureStore, tmp_path: Path
) -> None:
    files = photos(tmp_path / "data")
    before = bottlenecks(model, data_set(files), store).features
    moved = files[0].rename(tmp_path / "elsewhere.png")
    files[1].touch()
    photo(files[2], seed=99)
    after = bottlenecks(model, data_set([moved, *files[1:]]), store)
    assert after.computed == 1
    unchanged = [torch.equal(before[index], after.features[index]) for index in range(4)]
    assert unchanged == [True, True, False, True]


def test_an_image_in_memory_is_identified_by_its_pixels(
    model: InceptionV3, store: FeatureStore, tmp_path: Path
) -> None:
    images = [Image.open(path).convert("RGB") for path in photos(tmp_path)]
    bottlenecks(model, data_set(images), store)
    images[1] = images[1].crop((0, 0, 80, 80))
    assert bottlenecks(model, data_set(images), store).computed == 1


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A tar file with the images of `photos`, of which one is replaced by text."""
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "all.tar", "w") as tar:
        for number in range(4):
            content = photo(tmp_path / "data" / f"{number}.bmp", number).read_bytes()
            members = {"bmp": content if number != 1 else b"this is text", "cls": str(number % 2).encode()}
            for suffix, content in members.items():
                info = tarfile.TarInfo(f"{number}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return tmp_path / "shards" / "all.tar"


def test_an_image_in_a_shard_is_identified_by_its_content(
    model: InceptionV3, store: FeatureStore, shard: Path, tmp_path: Path
) -> None:
    """A file and a member of a shard with the same content are the same image."""
    bottlenecks(model, data_set([tmp_path / "data" / "0.bmp"]), store)
    data = read_shards([shard], "place")
    first, second = (bottlenecks(model, data, store) for _ in range(2))
    assert (first.computed, second.computed) == (2, 0)
    assert [[name for name, _ in result.bad] for result in (first, second)] == [["all.tar/1.bmp"]] * 2
    assert torch.equal(first.features, second.features)


def test_encoded_images_are_released(
    model: InceptionV3, store: FeatureStore, shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thread has one in memory, and perhaps the one before it."""
    in_memory: weakref.WeakSet[LazyImageFile] = weakref.WeakSet()
    counts: list[int] = []
    read = LazyImageFile.read

    def counting_read(self: LazyImageFile, size: int | None = -1, /) -> bytes:
        in_memory.add(self)
        counts.append(len(in_memory))
        return read(self, size)

    monkeypatch.setattr(LazyImageFile, "read", counting_read)
    data = read_shards([shard], "place")
    both = LabelledImages(
        ["a", "b"], concatenate(data.sources, data.sources), [0] * 8, concatenate(data.names, data.names)
    )
    assert bottlenecks(model, both, store, batch_size=1).computed == 6
    assert max(counts) <= 2 * core_count()


def test_a_file_is_read_again_only_if_it_has_changed(
    model: InceptionV3, store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "STILL_CHANGING", -1)
    files = photos(tmp_path / "data")
    read: list[str] = []
    content = LabelledImages.content
    monkeypatch.setattr(
        LabelledImages, "content", lambda self, index: (read.append(self.names[index]), content(self, index))[1]
    )
    first = bottlenecks(model, data_set(files), store)
    assert read == ["0", "1", "2", "3"]
    photo(files[3], seed=50)
    second = bottlenecks(model, data_set(files), store)
    assert read[4:] == ["3"]
    unchanged = [torch.equal(*pair) for pair in zip(first.features, second.features, strict=True)]
    assert unchanged == [True, True, True, False]


@pytest.mark.parametrize("change", ["weights", "statistics", "preprocessing", "pool", "precision"])
def test_a_different_network_has_different_features(model: InceptionV3, change: str) -> None:
    before = feature_space(model, "fp32").key
    with torch.no_grad():
        if change == "weights":
            model.get_parameter("Mixed_7c.Branch_3.Conv2d_0b_1x1.weights")[0, 0] += 1e-6
        elif change == "statistics":
            model.get_buffer("Conv2d_1a_3x3.BatchNorm.moving_mean")[0] += 1e-6
        elif change == "preprocessing":
            model.preprocessing = replace(model.preprocessing, crop_fraction=1.0)
        elif change == "pool":
            model.settings = replace(model.settings, count_padding=True)
    assert feature_space(model, "bf16" if change == "precision" else "fp32").key != before


def test_a_different_head_has_the_same_features(random_model: Callable[..., InceptionV3]) -> None:
    model, other = (random_model(num_classes=classes) for classes in (3, 9))
    base = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(module.HEAD_PREFIXES)}
    other.load_state_dict(base, strict=False)
    assert feature_space(model, "fp32").key == feature_space(other, "fp32").key


def test_unreadable_images_are_reported_every_time(model: InceptionV3, store: FeatureStore, tmp_path: Path) -> None:
    files = photos(tmp_path / "data")
    files[1].write_text("text")
    files[2].unlink()
    for computed in (2, 0):
        result = bottlenecks(model, data_set(files), store)
        assert result.computed == computed
        assert result.indices.tolist() == [0, 3]
        assert len(result.features) == 2
        assert [name for name, _ in result.bad] == ["1", "2"]
        assert "no such file" in result.bad[1][1]


def test_features_computed_before_an_interrupt_are_kept(
    model: InceptionV3, store: FeatureStore, tmp_path: Path
) -> None:
    data = data_set(photos(tmp_path / "data", 6))
    calls = []

    def interrupt(count: int) -> None:
        calls.append(count)
        if len(calls) == 3:  # after the cached images and two batches
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bottlenecks(model, data, store, batch_size=2, on_features=interrupt)
    assert bottlenecks(model, data, store).computed == 2


def test_a_file_that_changes_meanwhile_is_not_stored_under_its_old_content(
    model: InceptionV3, store: FeatureStore, tmp_path: Path
) -> None:
    files = photos(tmp_path / "data", 2)
    old = files[0].read_bytes()
    bottlenecks(model, data_set(files), store, on_features=lambda count: photo(files[0], 99) if not count else None)
    files[0].write_bytes(old)
    assert bottlenecks(model, data_set(files), store).computed == 1


def test_a_shard_that_changes_meanwhile_is_not_stored_under_its_old_content(
    model: InceptionV3, store: FeatureStore, shard: Path
) -> None:
    old, data = shard.read_bytes(), read_shards([shard], "place")
    new = bytearray(old)
    new[old.index(b"BM") + 1000] ^= 255  # a pixel of the first image
    bottlenecks(model, data, store, on_features=lambda count: shard.write_bytes(new) if not count else None)
    shard.write_bytes(old)
    assert bottlenecks(model, data, store).computed == 1
