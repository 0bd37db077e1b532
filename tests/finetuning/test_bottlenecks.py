"""The cache of features: what is computed again and what is not, and what cannot damage it."""

import io
import multiprocessing
import os
import signal
import sqlite3
import tarfile
import time
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
from inception_v3.errors import InputError
from inception_v3.finetuning import bottlenecks as module
from inception_v3.finetuning.bottlenecks import CACHE_FILE, BottleneckCache, Bottlenecks, bottlenecks, network_key
from inception_v3.support.files import cache_folder

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK, OTHER = b"network", b"another"


@pytest.fixture
def model(random_model: Callable[..., InceptionV3]) -> InceptionV3:
    network = random_model(image_size=75, create_aux_logits=False)
    network.preprocessing = Preprocessing((75, 75))
    return network


@pytest.fixture
def cache(tmp_path: Path) -> BottleneckCache:
    return BottleneckCache(tmp_path / "cache")


def photo(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (80, 90, 3), dtype=np.uint8)).save(path)
    return path


def photos(folder: Path, count: int = 4) -> list[Path]:
    return [photo(folder / f"{number}.png", number) for number in range(count)]


def pictures(sources: list[Path] | list[Image.Image]) -> LabelledImages:
    return LabelledImages(["a", "b"], sources, [0] * len(sources), [str(number) for number in range(len(sources))])


def vectors(count: int, seed: int = 0) -> dict[bytes, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"{seed} {number}".encode(): rng.random(5, np.float32) for number in range(count)}


# ----------------------------------------------------------------------------- what is computed, and how often


def test_features_are_the_networks_own_and_are_computed_once(
    model: InceptionV3, cache: BottleneckCache, tmp_path: Path
) -> None:
    data = pictures(photos(tmp_path / "data"))
    first = bottlenecks(model, data, cache, batch_size=3)
    again = bottlenecks(model, data, BottleneckCache(tmp_path / "cache"), batch_size=3)
    assert (first.computed, again.computed) == (4, 0)
    assert torch.equal(first.features, again.features)
    images = torch.cat([model.preprocess(Image.open(path)) for path in data.sources[:3]])
    with torch.inference_mode():
        _, found = model(images.contiguous(memory_format=torch.channels_last), ("PreLogits",))
    assert torch.equal(first.features[:3], found["PreLogits"].flatten(1))


def test_a_picture_is_known_by_its_content_not_by_its_name(
    model: InceptionV3, cache: BottleneckCache, tmp_path: Path
) -> None:
    files = photos(tmp_path / "data")
    before = bottlenecks(model, pictures(files), cache).features
    moved = files[0].rename(tmp_path / "elsewhere.png")
    files[1].touch()
    photo(files[2], seed=99)
    after = bottlenecks(model, pictures([moved, *files[1:]]), cache)
    assert after.computed == 1
    same = [torch.equal(before[i], after.features[i]) for i in range(4)]
    assert same == [True, True, False, True]


def test_a_picture_in_memory_is_known_by_its_pixels(model: InceptionV3, cache: BottleneckCache, tmp_path: Path) -> None:
    images = [Image.open(path).convert("RGB") for path in photos(tmp_path)]
    bottlenecks(model, pictures(images), cache)
    images[1] = images[1].crop((0, 0, 80, 80))
    assert bottlenecks(model, pictures(images), cache).computed == 1


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """The pictures of `photos`, and a broken one, in a tar."""
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


def test_a_picture_in_a_shard_is_known_by_its_content_too(
    model: InceptionV3, cache: BottleneckCache, shard: Path, tmp_path: Path
) -> None:
    """As a file and in a shard it is the same one."""
    bottlenecks(model, pictures([tmp_path / "data" / "0.bmp"]), cache)
    data = read_shards([shard], "place")
    found = [bottlenecks(model, data, cache) for _ in range(2)]
    assert [one.computed for one in found] == [2, 0]
    assert [[name for name, _ in one.bad] for one in found] == [["all.tar/1.bmp"]] * 2
    assert torch.equal(found[0].features, found[1].features)


def test_encoded_pictures_are_let_go_of(
    model: InceptionV3, cache: BottleneckCache, shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, those of one batch at most are in memory at once."""
    held: weakref.WeakSet[LazyImageFile] = weakref.WeakSet()
    most = 0
    read = LazyImageFile.read

    def noted(self: LazyImageFile, size: int | None = -1, /) -> bytes:
        nonlocal most
        held.add(self)
        most = max(most, len(held))
        return read(self, size)

    monkeypatch.setattr(LazyImageFile, "read", noted)
    data = read_shards([shard], "place")
    both = LabelledImages(["a", "b"], concatenate(data.sources, data.sources), [0] * 8, concatenate(data.names, data.names))
    assert bottlenecks(model, both, cache, batch_size=1).computed == 6
    assert most == 1


def test_a_file_is_read_again_only_when_it_changed(
    cache: BottleneckCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STILL_CHANGING", -1)
    files = photos(tmp_path / "data")
    read: list[str] = []
    digest = module.hashlib.file_digest
    monkeypatch.setattr(
        module.hashlib, "file_digest", lambda file, how: (read.append(Path(file.name).name), digest(file, how))[1]
    )
    first, _ = cache.digests(files)
    assert len(read) == 4
    photo(files[3], seed=50)
    second, _ = cache.digests(files)
    assert read[4:] == ["3.png"]
    assert [one == other for one, other in zip(first, second, strict=True)] == [True, True, True, False]


def test_a_file_that_has_just_been_written_is_not_trusted_to_stay(cache: BottleneckCache, tmp_path: Path) -> None:
    """Written twice in one tick of the clock and with one size, it would look the same."""
    file = tmp_path / "new"
    file.write_text("one")
    (before,), _ = cache.digests([file])
    with sqlite3.connect(cache.file) as database:
        assert database.execute("SELECT count(*) FROM files").fetchone() == (0,)
    file.write_text("two")
    (after,), _ = cache.digests([file])
    assert before is not None
    assert after is not None
    assert before[0] != after[0]


@pytest.mark.parametrize("change", ["weights", "statistics", "preprocessing", "pool", "precision"])
def test_another_network_has_other_features(model: InceptionV3, change: str) -> None:
    before = network_key(model, "fp32")
    with torch.no_grad():
        if change == "weights":
            model.get_parameter("Mixed_7c.Branch_3.Conv2d_0b_1x1.weights")[0, 0] += 1e-6
        elif change == "statistics":
            model.get_buffer("Conv2d_1a_3x3.BatchNorm.moving_mean")[0] += 1e-6
        elif change == "preprocessing":
            model.preprocessing = replace(model.preprocessing, crop_fraction=1.0)
        elif change == "pool":
            model.settings.count_padding = True
    assert network_key(model, "bf16" if change == "precision" else "fp32") != before


def test_another_head_has_the_same_features(random_model: Callable[..., InceptionV3]) -> None:
    one, other = (random_model(num_classes=classes) for classes in (3, 9))
    other.load_state_dict(
        {name: tensor for name, tensor in one.state_dict().items() if not name.startswith(module.HEADS)}, strict=False
    )
    assert network_key(one, "fp32") == network_key(other, "fp32")


def test_what_cannot_be_read_is_told_every_time(model: InceptionV3, cache: BottleneckCache, tmp_path: Path) -> None:
    files = photos(tmp_path / "data")
    files[1].write_text("text")
    files[2].unlink()
    for computed in (2, 0):
        found = bottlenecks(model, pictures(files), cache)
        assert found.computed == computed
        assert found.places.tolist() == [0, 3]
        assert len(found.features) == 2
        assert [name for name, _ in found.bad] == ["1", "2"]
        assert "no such file" in found.bad[1][1]


def test_an_interrupt_keeps_what_was_computed(model: InceptionV3, cache: BottleneckCache, tmp_path: Path) -> None:
    data = pictures(photos(tmp_path / "data", 6))
    calls = []

    def interrupt(done: int) -> None:
        calls.append(done)
        if len(calls) == 3:  # what the cache holds, two pictures, two more
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bottlenecks(model, data, cache, batch_size=2, on_features=interrupt)
    assert bottlenecks(model, data, cache).computed == 2


def test_a_file_that_changes_while_it_is_at_work_is_not_kept_under_its_old_content(
    model: InceptionV3, cache: BottleneckCache, tmp_path: Path
) -> None:
    files = photos(tmp_path / "data", 2)
    old = files[0].read_bytes()
    bottlenecks(model, pictures(files), cache, on_features=lambda done: photo(files[0], 99) if not done else None)
    files[0].write_bytes(old)
    assert bottlenecks(model, pictures(files), cache).computed == 1


def test_a_shard_that_changes_while_it_is_at_work_is_not_kept_under_its_old_content(
    model: InceptionV3, cache: BottleneckCache, shard: Path
) -> None:
    old, data = shard.read_bytes(), read_shards([shard], "place")
    new = bytearray(old)
    new[old.index(b"BM") + 1000] ^= 255  # a pixel of the first picture
    bottlenecks(model, data, cache, on_features=lambda done: shard.write_bytes(new) if not done else None)
    shard.write_bytes(old)
    assert bottlenecks(model, data, cache).computed == 1


# ------------------------------------------------------------------------------------- what cannot damage it


def test_a_damaged_vector_is_as_if_it_were_not_there(cache: BottleneckCache) -> None:
    kept = vectors(3)
    cache.write(NETWORK, kept)
    with sqlite3.connect(cache.file) as database:
        blob = bytearray(kept[b"0 1"].tobytes())
        blob[7] ^= 1
        database.execute("UPDATE features SET vector = ? WHERE picture = ?", (bytes(blob), b"0 1"))
        database.execute("UPDATE features SET vector = substr(vector, 1, 12) WHERE picture = ?", (b"0 2",))
    found = cache.read(NETWORK, list(kept), 5)
    assert list(found) == [b"0 0"]
    assert np.array_equal(found[b"0 0"], kept[b"0 0"])
    assert not cache.read(OTHER, list(kept), 5)
    cache.write(NETWORK, kept)
    assert len(cache.read(NETWORK, list(kept), 5)) == 3


@pytest.mark.parametrize("damage", ["garbage", "cut short", "zeros inside", "other tables"])
def test_a_damaged_file_is_replaced(cache: BottleneckCache, damage: str) -> None:
    kept = vectors(300)
    cache.write(NETWORK, kept)
    content = cache.file.read_bytes()
    if damage == "garbage":
        cache.file.write_bytes(b"this is no database" * 100)
    elif damage == "cut short":
        cache.file.write_bytes(content[: len(content) // 2])
    elif damage == "zeros inside":
        cache.file.write_bytes(content[:4096] + bytes(len(content) - 4096))
    else:
        cache.file.unlink()
        with sqlite3.connect(cache.file) as database:
            database.execute("CREATE TABLE features (something)")
    again = BottleneckCache(cache.file.parent)
    found = again.read(NETWORK, list(kept), 5)
    assert all(np.array_equal(vector, kept[picture]) for picture, vector in found.items())
    again.write(NETWORK, kept)
    assert len(again.read(NETWORK, list(kept), 5)) == 300


def _write_for_long(folder: Path, seed: int, times: int) -> None:
    cache = BottleneckCache(folder)
    for number in range(times):
        cache.write(NETWORK, vectors(20, seed + number))


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=_write_for_long, args=(tmp_path, seed, 10)) for seed in (100, 200)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    for seed in (*range(100, 110), *range(200, 210)):
        kept = vectors(20, seed)
        found = BottleneckCache(tmp_path).read(NETWORK, list(kept), 5)
        assert all(np.array_equal(found[picture], vector) for picture, vector in kept.items())


def test_kill_9_leaves_it_whole(tmp_path: Path) -> None:
    BottleneckCache(tmp_path)
    fork = multiprocessing.get_context("fork")
    for pause in (0.02, 0.05, 0.1):
        writer = fork.Process(target=_write_for_long, args=(tmp_path, 0, 10**6))
        writer.start()
        time.sleep(pause)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join(60)
    cache = BottleneckCache(tmp_path)
    cache.write(NETWORK, vectors(1, 10**7))
    with sqlite3.connect(cache.file) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    kept = vectors(20)
    for count in (len(cache.read(NETWORK, list(vectors(20, seed)), 5)) for seed in range(100)):
        assert count in (0, 20), "a transaction is there or not"
    assert all(np.array_equal(vector, kept[picture]) for picture, vector in cache.read(NETWORK, list(kept), 5).items())


@pytest.mark.parametrize(
    ("limit", "message"), [("max_page_count = 4", "the disk is full"), ("query_only = 1", "readonly database")]
)
def test_a_cache_that_takes_no_more_is_told_and_the_work_done(
    model: InceptionV3,
    cache: BottleneckCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    message: str,
) -> None:
    """It takes neither the features nor, before them, what files are known by when they have lain there for a while."""
    monkeypatch.setattr(module, "STILL_CHANGING", -1)
    connect = sqlite3.connect

    def limited(*arguments: object, **options: object) -> sqlite3.Connection:
        database = connect(*arguments, **options)  # type: ignore[arg-type]
        database.execute(f"PRAGMA {limit}")
        return database

    files = photos(tmp_path / ("long names fill the first page " * 8), 20)
    data = pictures(files)
    with monkeypatch.context() as patched:
        patched.setattr(sqlite3, "connect", limited)
        found = bottlenecks(model, data, cache, batch_size=8)
        assert cache.digests(files)[1] == found.not_kept
        with pytest.raises(InputError, match=message):
            cache.write(NETWORK, vectors(2000))
    assert found.not_kept is not None
    assert message in found.not_kept
    assert len(found.features) == 20
    again: Bottlenecks = bottlenecks(model, data, cache, batch_size=8)
    assert torch.equal(again.features, found.features)
    assert again.not_kept is None


@pytest.mark.parametrize("place", ["a file", "a file/below"])
def test_a_folder_that_cannot_be_is_told_at_once(tmp_path: Path, place: str) -> None:
    (tmp_path / "a file").write_text("")
    with pytest.raises(InputError, match="give another --cache") as raised:
        BottleneckCache(tmp_path / place)
    assert "\n" not in str(raised.value)


def test_the_default_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("bottlenecks") == tmp_path / "inception-v3" / "bottlenecks"
    assert BottleneckCache(cache_folder("bottlenecks")).file.name == CACHE_FILE
