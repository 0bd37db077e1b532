"""Extraction of features: the network, the cache, rows on disk, and the order of batches."""

import resource
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import relative
from fidelity_inputs import image_folder, thin_model
from inception_v3.errors import InputError
from inception_v3.fidelity import features
from inception_v3.fidelity.conventions import find_convention
from inception_v3.fidelity.feature_rows import FeatureRowWriter
from inception_v3.fidelity.features import extract_features, read_inputs
from inception_v3.fidelity.image_sets import open_image_set
from inception_v3.fidelity.network import EngineFeatures, ExtractFeatures, FeatureNetwork, load_network
from inception_v3.fidelity.options import FidelityOptions
from inception_v3.fidelity.run import fidelity
from inception_v3.inference.feature_store import FeatureStore
from inception_v3.weights.load import load, save
from inception_v3.weights.model import InceptionV3


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights file of a thin network."""
    path = tmp_path_factory.mktemp("thin") / "thin.safetensors"
    save(thin_model(), path)
    return path


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of 18 generated images and one of 20 reference images."""
    folder = tmp_path_factory.mktemp("sets")
    return image_folder(folder / "generated", 18), image_folder(folder / "real", 20, seed=100)


def function_network(extract: ExtractFeatures, width: int, spatial_width: int, callers: int = 1) -> FeatureNetwork:
    logits = np.zeros((3, width), np.float32)
    return FeatureNetwork(extract, width, spatial_width, "0", logits, "fp32", torch.device("cpu"), callers)


# --- the cache ---


def test_a_second_run_reads_all_features_from_the_cache_and_another_convention_none(
    sets: tuple[Path, Path], thin: Path, tmp_path: Path
) -> None:
    options = {"weights": thin, "any_weights": True, "cache": tmp_path, "scores": ["fid"]}
    first, second = (fidelity(*sets, **options) for _ in range(2))
    assert (first.generated.features.from_cache, second.generated.features.from_cache) == (0, 18)
    assert second.reference.features.from_cache == 20
    assert first.scores == second.scores
    assert first.as_dict() == second.as_dict()
    np.testing.assert_array_equal(first.generated.features.rows, second.generated.features.rows)
    other = fidelity(*sets, **options, like="pytorch-fid")
    assert other.generated.features.from_cache == 0
    without = fidelity(*sets, **options, use_cache=False)
    assert without.generated.features.from_cache == 0
    assert without.scores["fid"] == pytest.approx(first.scores["fid"], rel=1e-6)


def test_settings_that_change_the_outputs_change_the_checksum(thin: Path) -> None:
    """Otherwise two networks with the same weights would share a cache."""
    model = load(thin)
    assert load_network(model, any_weights=True).checksum == load_network(thin, any_weights=True).checksum
    for setting in ({"mixed_7c_pool": "avg"}, {"count_padding": True}, {"batch_norm_epsilon": 0.01}):
        changed = InceptionV3(**model.settings | setting)
        changed.load_state_dict(model.state_dict())
        checksums = {load_network(each, any_weights=True).checksum for each in (model, changed.eval())}
        assert len(checksums) == 2


def test_an_interrupted_run_resumes_where_it_stopped(
    sets: tuple[Path, Path], thin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_network(thin, any_weights=True)
    assert isinstance(network.features, EngineFeatures)
    run, batches = network.features.engine.run, iter(range(10))

    def interrupted(images: np.ndarray) -> dict[str, np.ndarray]:
        if next(batches) == 2:
            raise KeyboardInterrupt
        return run(images)

    store = FeatureStore(tmp_path)  # never closed, as if the process had been killed
    images, convention, options = open_image_set(sets[0]), find_convention(), FidelityOptions(batch_size=4)
    with monkeypatch.context() as patched:
        patched.setattr(network.features.engine, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract_features(images, network, convention, options, store=store)
    again = extract_features(images, network, convention, options, store=FeatureStore(tmp_path))
    assert again.from_cache == 8
    assert relative(again.rows, extract_features(images, network, convention).rows) < 1e-5


# --- memory and disk ---


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """The network returns constants at once, so the peak is the memory of the extraction itself."""
    network = function_network(
        lambda images: (torch.ones(len(images), 2048), torch.ones(len(images), 2023)), 2048, 2023
    )
    peaks = []
    for count in (100, 100, 600):
        np.save(tmp_path / "set.npy", np.zeros((count, 8, 8, 3), np.uint8))
        tracemalloc.start()
        feature_set = extract_features(open_image_set(tmp_path / "set.npy"), network, find_convention("pytorch-fid"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert feature_set.count == count
    assert peaks[2] - peaks[1] < 500 * 1000  # a row has 16 kB


def test_rows_on_disk_are_indexed_like_an_array() -> None:
    expected = np.random.default_rng(0).normal(size=(30, 7)).astype(np.float32)
    writer = FeatureRowWriter(7)
    for index in np.random.default_rng(1).permutation(30):
        writer.write(int(index), expected[index])
    rows = writer.rows(30)
    for columns in (slice(0, 7), slice(0, 4), slice(4, 7)):
        part = rows.columns(columns.start, columns.stop)
        assert (len(part), part.shape) == (30, expected[:, columns].shape)
        for chosen in (slice(None), slice(3, 9), slice(25, 99), slice(0, 0), np.array([7, 0, 7, 29])):
            np.testing.assert_array_equal(part[chosen], expected[chosen, columns])
        np.testing.assert_array_equal(np.asarray(part), expected[:, columns])


def test_a_full_disk_is_reported() -> None:
    """Simulated: this process may not write files of more than 100 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = FeatureRowWriter(16)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        writer.write(0, np.zeros(16, np.float32))
        for index in (1, 2):  # a part of the first of these fits, and nothing of the second
            with pytest.raises(InputError, match=r"\(for temporary files\): larger than 100 bytes"):
                writer.write(index, np.zeros(16, np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# --- threads and the network ---


@pytest.mark.parametrize(("callers", "preparing"), [(1, 1), (3, 2)])
def test_batches_keep_their_order_and_threads_share_the_cores(
    sets: tuple[Path, Path], callers: int, preparing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of six cores, each of three threads that run the network has two. Threads that only decode have one each."""
    monkeypatch.setattr(features, "core_count", lambda: 6)
    prepared_with, computed_with, sizes = set(), set(), []
    convention = find_convention("pytorch-fid")

    def resize(images: Tensor) -> Tensor:
        prepared_with.add(torch.get_num_threads())
        return convention.resize(images)

    def extract(images: Tensor) -> tuple[Tensor, Tensor]:
        computed_with.add((threading.current_thread() is threading.main_thread(), torch.get_num_threads()))
        sizes.append(len(images))
        return images.mean((1, 2, 3))[:, None], images[:, :1, 0, 0]

    network, image_set = function_network(extract, 1, 1, callers=callers), open_image_set(sets[1])
    threads_before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        result = extract_features(image_set, network, replace(convention, resize=resize), FidelityOptions(batch_size=3))
        assert torch.get_num_threads() == 5
        (later,) = list(ThreadPoolExecutor(1).map(lambda _: torch.get_num_threads(), [0]))
    finally:
        torch.set_num_threads(threads_before)
    expected = read_inputs(image_set, convention, 100).mean((1, 2, 3))[:, None]
    torch.testing.assert_close(torch.from_numpy(result.pooled[:]), expected)
    assert sorted(sizes) == [2, *[3] * 6]
    assert prepared_with == {preparing}
    assert computed_with == ({(True, 5)} if callers == 1 else {(False, preparing)})
    assert later == 5


def test_loading_does_not_change_a_given_model(thin: Path) -> None:
    model = thin_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network = load_network(model, any_weights=True)
    images = torch.rand(2, 3, 299, 299) * 2 - 1
    with torch.no_grad():
        _, points = model(images, end_points=("AvgPool_1a",))
    torch.testing.assert_close(network.features(images)[0], points["AvgPool_1a"].flatten(1), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert network.checksum == load_network(thin, any_weights=True).checksum


def test_a_missing_weights_file_is_an_input_error() -> None:
    with pytest.raises(InputError):
        load_network("no/such/file.pth")
