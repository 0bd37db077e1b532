"""The metrics: equal to torchmetrics' own for equal features, merged over batches and processes, in constant memory."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics.image.fid
import torchmetrics.image.inception
import torchmetrics.image.kid
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.wrappers import FeatureShare

from conftest import relative
from fidelity_inputs import draw_image, thin_model
from inception_v3.errors import InputError
from inception_v3.fidelity import (
    DensityCoverage,
    FrechetInceptionDistance,
    FrechetInceptionDistanceInfinity,
    InceptionScore,
    KernelInceptionDistance,
    MemorisationDistance,
    PrecisionRecall,
    SpatialFrechetInceptionDistance,
)
from inception_v3.fidelity.extrapolation import extrapolate
from inception_v3.fidelity.frechet import frechet_distance
from inception_v3.fidelity.neighbours import compare_neighbours
from inception_v3.fidelity.network import EngineFeatures
from inception_v3.fidelity.run import fidelity
from inception_v3.fidelity.statistics import gaussian
from inception_v3.inference.engines.pytorch import PyTorchEngine
from inception_v3.weights.load import save

Batches = list[Tensor]


class PatchMeans(nn.Module):
    """Features that are fast to compute: means of 9 patches and 3 channels, (N, 27)."""

    num_features = 27

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images.float(), 3).flatten(1) / 20


def random_batches(seed: int, sizes: tuple[int, ...] = (30, 1, 25)) -> Batches:
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 100, (27,)).reshape(1, 3, 3, 3).repeat(6, 2).repeat(6, 3)
    return [torch.from_numpy(rng.integers(low, 250, (size, 3, 18, 18), dtype=np.uint8)) for size in sizes]


REAL, FAKE = random_batches(1), random_batches(2, (40, 20))


def update_all(metric: Any, real: Batches = REAL, fake: Batches = FAKE) -> Any:
    for images in real:
        metric.update(images, real=True)
    for images in fake:
        metric.update(images, real=False)
    return metric


def test_fid_equals_torchmetrics() -> None:
    ours = update_all(FrechetInceptionDistance(PatchMeans())).compute()
    theirs = torchmetrics.image.fid.FrechetInceptionDistance(PatchMeans())
    assert ours.dtype == torch.float64
    assert float(ours) == pytest.approx(float(update_all(theirs).compute()), rel=1e-5)


def test_kid_of_a_subset_of_all_images_equals_torchmetrics() -> None:
    """A subset of all images does not depend on the random generator."""
    ours = update_all(
        KernelInceptionDistance(PatchMeans(), subsets=2, subset_size=56), fake=random_batches(2, (40, 16))
    ).compute()
    theirs = torchmetrics.image.kid.KernelInceptionDistance(PatchMeans(), subsets=2, subset_size=56)
    expected = update_all(theirs, fake=random_batches(2, (40, 16))).compute()
    assert float(ours[0]) == pytest.approx(float(expected[0]), rel=1e-5)  # torchmetrics computes in float32
    assert float(ours[1]) < 1e-9 * float(ours[0])


def test_the_inception_score_of_one_part_equals_torchmetrics() -> None:
    ours, theirs = (
        InceptionScore(PatchMeans(), splits=1),
        torchmetrics.image.inception.InceptionScore(PatchMeans(), splits=1),
    )
    for images in FAKE:
        ours.update(images)
        theirs.update(images)
    assert float(ours.compute()[0]) == pytest.approx(float(theirs.compute()[0]), rel=1e-5)


def test_images_are_dealt_to_the_parts_of_the_inception_score_in_turn() -> None:
    metric = InceptionScore(PatchMeans(), splits=3)
    images = torch.cat(FAKE)
    for part in images.split(7):
        metric.update(part)
    part_scores = []
    for number in range(3):
        part = InceptionScore(PatchMeans(), splits=1)
        part.update(images[number::3])
        part_scores.append(float(part.compute()[0]))
    mean, std = metric.compute()
    assert (float(mean), float(std)) == pytest.approx((np.mean(part_scores), np.std(part_scores)))


def test_neighbour_scores_equal_those_of_compare_neighbours() -> None:
    real, fake = (PatchMeans()(torch.cat(images)).numpy() for images in (REAL, FAKE))
    scores = compare_neighbours(fake, real)
    precision, recall = update_all(PrecisionRecall(PatchMeans())).compute()
    density, coverage = update_all(DensityCoverage(PatchMeans())).compute()
    assert (scores.precision, scores.recall, scores.density, scores.coverage) == (precision, recall, density, coverage)


def test_infinity_and_memorisation_equal_those_of_the_functions() -> None:
    real, fake = (PatchMeans()(torch.cat(images)).numpy() for images in (REAL, FAKE))
    extrapolation = extrapolate(fake, real, fid=frechet_distance(gaussian(fake), gaussian(real)))
    infinity, low, high = update_all(FrechetInceptionDistanceInfinity(PatchMeans())).compute()
    assert (float(infinity), float(low), float(high)) == pytest.approx(
        (extrapolation.infinity, *extrapolation.infinity_interval)
    )
    scores = compare_neighbours(fake, real)
    mean, minimum, spacing = (float(value) for value in update_all(MemorisationDistance(PatchMeans())).compute())
    assert (mean, minimum, spacing) == pytest.approx(
        (scores.nearest.mean(), scores.nearest.min(), scores.spacing.mean())
    )


def test_normalized_images_are_converted_to_uint8_as_in_torchmetrics(thin: Path) -> None:
    metric = FrechetInceptionDistance(weights=thin, any_weights=True, normalize=True)
    received: Batches = []
    metric.inception.register_forward_pre_hook(lambda _module, images: received.extend(images))
    metric.update(torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1), real=True)
    assert received[0].flatten().tolist() == [0, 127, 255]


@pytest.mark.parametrize("metric", [FrechetInceptionDistance, InceptionScore, KernelInceptionDistance])
@pytest.mark.parametrize(
    ("images", "problem"),
    [
        (torch.zeros(2, 3, 9, 9, dtype=torch.uint8), r"floats in \[0, 1\], not torch.uint8"),
        (torch.ones(2, 3, 9, 9, dtype=torch.int64), r"floats in \[0, 1\], not torch.int64"),
        (torch.tensor([0.5, torch.nan, 0.5]), r"floats in \[0, 1\], but have NaN"),
        (torch.tensor([0.5, 256 / 255, 0.5]), r"floats in \[0, 1\], but have values from 0.5 to 1.004"),
        (torch.tensor([0.5, -1 / 255, 0.5]), r"floats in \[0, 1\], but have values from -0.003922 to 0.5"),
        (torch.tensor([-1.0, 0.0, 1.0]), r"values from -1 to 1; .*\(images \+ 1\) / 2"),
        (torch.tensor([0.0, 128.0, torch.inf]), "values from 0 to inf"),
    ],
)
def test_normalized_images_that_would_wrap_around_are_refused_with_the_range(
    thin: Path, metric: Any, images: Tensor, problem: str
) -> None:
    real = {} if metric is InceptionScore else {"real": True}
    with pytest.raises(ValueError, match=problem):
        metric(weights=thin, any_weights=True, normalize=True).update(images.reshape(-1, 3, 1, 1), **real)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rounding_errors_of_normalized_images_are_clipped(thin: Path, dtype: torch.dtype) -> None:
    metric = FrechetInceptionDistance(weights=thin, any_weights=True, normalize=True)
    received: Batches = []
    metric.inception.register_forward_pre_hook(lambda _module, images: received.extend(images))
    metric.update(torch.tensor([-0.0035, 0.5, 1.002], dtype=dtype).view(1, 3, 1, 1), real=True)
    assert received[0].flatten().tolist() == [0, 127, 255]


def test_floats_without_normalize_are_refused_with_the_option_for_them(thin: Path) -> None:
    with pytest.raises(ValueError, match=r"uint8 .* not torch.float32 .*normalize=True"):
        FrechetInceptionDistance(weights=thin, any_weights=True).update(torch.rand(2, 3, 9, 9), real=True)


# --- behaviour of all metrics ---


METRICS: dict[str, Callable[..., Any]] = {
    "fid": lambda **options: FrechetInceptionDistance(PatchMeans(), **options),
    "kid": lambda **options: KernelInceptionDistance(PatchMeans(), subsets=3, subset_size=56, **options),
    "precision": lambda **options: PrecisionRecall(PatchMeans(), **options),
    "density": lambda **options: DensityCoverage(PatchMeans(), **options),
    "infinity": lambda **options: FrechetInceptionDistanceInfinity(PatchMeans(), **options),
    "memorisation": lambda **options: MemorisationDistance(PatchMeans(), **options),
}


def computed_values(metric: Any) -> list[float]:
    values = metric.compute()
    return [float(value) for value in (values if isinstance(values, tuple) else (values,))]


@pytest.mark.parametrize("name", METRICS)
def test_synced_processes_have_the_values_of_a_single_process(name: str) -> None:
    """Two processes with a part of the images each. The function `gather` replaces the communication."""
    other = update_all(METRICS[name](), REAL[1:], FAKE[1:])
    states = iter([getattr(other, key) for key in other._reductions])

    def gather(mine: Tensor, group: object = None) -> list[Tensor]:
        state = next(states)
        return [mine, torch.cat(state) if isinstance(state, list) else state]

    metric = METRICS[name](dist_sync_fn=gather, distributed_available_fn=lambda: True)
    synced = computed_values(update_all(metric, REAL[:1], FAKE[:1]))
    assert synced == pytest.approx(computed_values(update_all(METRICS[name]())), rel=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_a_process_may_have_no_images(name: str) -> None:
    """All processes must send tensors of the same rank, otherwise they would wait for each other forever."""
    metric = METRICS[name](distributed_available_fn=lambda: True)
    other = update_all(METRICS[name](), REAL, FAKE)
    states = iter([getattr(other, key) for key in other._reductions])

    def gather(mine: Tensor, group: object = None) -> list[Tensor]:
        state = next(states)
        theirs = torch.cat(state) if isinstance(state, list) else state
        assert mine.ndim == theirs.ndim
        return [mine, theirs]

    metric.dist_sync_fn = gather
    metric.update(REAL[0][:0], real=True)
    assert computed_values(metric) == pytest.approx(computed_values(other), rel=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_can_be_reset_copied_and_pickled(name: str) -> None:
    metric = update_all(METRICS[name]())
    expected = computed_values(metric)
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), metric.clone()):
        assert computed_values(other) == expected
    metric.reset()
    assert computed_values(update_all(metric)) == expected


@pytest.mark.parametrize("name", METRICS)
def test_reset_can_keep_the_real_images(name: str) -> None:
    metric = METRICS[name]()
    metric.reset_real_features = False
    expected = computed_values(update_all(metric))
    metric.reset()
    assert computed_values(update_all(metric, real=[])) == expected


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")  # TorchMetrics' own warning of the same fault
def test_computing_without_images_is_an_error() -> None:
    with pytest.raises(ValueError, match="two or more"):
        FrechetInceptionDistance(PatchMeans()).compute()
    with pytest.raises(ValueError, match="no fake images yet"):
        KernelInceptionDistance(PatchMeans()).compute()
    with pytest.raises(ValueError, match="fewer than the 10 parts"):
        InceptionScore(PatchMeans()).compute()


@pytest.mark.parametrize("make", [FrechetInceptionDistance, KernelInceptionDistance, InceptionScore])
def test_states_do_not_grow_with_the_number_of_images(make: Callable[..., Any]) -> None:
    options = {"max_features": 50} if make is KernelInceptionDistance else {}
    metric = make(PatchMeans(), **options)

    def size() -> int:
        states = [getattr(metric, name) for name in metric._defaults]
        tensors = [tensor for state in states for tensor in (state if isinstance(state, list) else [state])]
        return sum(tensor.nelement() * tensor.element_size() for tensor in tensors)

    sizes = []
    for _ in range(4):
        metric.update_from(lambda count: random_batches(count, (count,))[0], 64, batch_size=32)
        sizes.append(size())
    assert len(set(sizes)) == 1


class Identity(nn.Module):
    num_features = 1

    def forward(self, images: Tensor) -> Tensor:
        return images


def test_the_kept_sample_is_fair() -> None:
    """Each of the numbers 0 to 399 is kept with the same probability: 40 of 400, repeated sixty times."""
    kept = np.zeros(400)
    for seed in range(60):
        metric = KernelInceptionDistance(Identity(), max_features=40, seed=seed)
        for part in torch.arange(400.0)[:, None].split(37):
            metric.update(part, real=False)
        (features,) = metric.fake_sample
        assert len(features) == 40
        kept[features[:, 0].long().numpy()] += 1
    quarters = kept.reshape(4, 100).sum(1) / 60
    np.testing.assert_allclose(quarters, 10, atol=1.2)


def test_merged_samples_of_unequal_sets_are_fair() -> None:
    """One process processed 40 images and the other 360, so a tenth of the merged sample is from the first."""
    kept = np.zeros(400)
    for seed in range(60):
        metrics = [KernelInceptionDistance(Identity(), max_features=40, seed=seed) for _ in range(2)]
        for metric, part in zip(metrics, torch.arange(400.0)[:, None].split([40, 360]), strict=True):
            metric.update(part, real=True)
            metric.update(part, real=False)
        metrics[0].merge_state(metrics[1])
        features, _ = metrics[0]._samples()
        assert len(features) == 40
        assert (np.diff(features[:, 0]) > 0).sum() >= 38, "the order is kept"
        kept[features[:, 0].astype(int)] += 1
    np.testing.assert_allclose(kept.reshape(10, 40).sum(1) / 60, 4, atol=1.2)


# --- with the network of 2015 ---


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("thin") / "thin.safetensors"
    save(thin_model(), path)
    return path


def test_metrics_agree_with_the_function_fidelity(thin: Path, tmp_path: Path) -> None:
    images = [np.stack([draw_image(seed) for seed in seeds]) for seeds in (range(8), range(50, 60))]
    for name, array in zip("ab", images, strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    for like, scores in ((None, ["fid", "sfid"]), ("torch-fidelity", ["fid"])):
        options = {"weights": thin, "any_weights": True, "like": like}
        result = fidelity(tmp_path / "a.npy", tmp_path / "b.npy", **options, use_cache=False, scores=scores)
        for key in scores:
            make = FrechetInceptionDistance if key == "fid" else SpatialFrechetInceptionDistance
            metric = make(**options)
            fake, real = (torch.from_numpy(array).permute(0, 3, 1, 2) for array in images)
            update_all(metric, [real[:3], real[3:]], [fake])
            assert float(metric.compute()) == pytest.approx(result.scores[key], rel=1e-4)


def test_several_metrics_share_one_run_of_the_network(thin: Path) -> None:
    options = {"weights": thin, "any_weights": True}
    shared = FeatureShare([FrechetInceptionDistance(**options), KernelInceptionDistance(**options, subset_size=6)])
    calls = []
    (extractor,) = {metric.inception.network for metric in shared.values()}
    engine = extractor.network.features.engine
    run = engine.run
    engine.run = lambda images: calls.append(1) or run(images)
    images = torch.from_numpy(np.stack([draw_image(seed) for seed in range(6)])).permute(0, 3, 1, 2)
    shared.update(images, real=True)
    assert len(calls) == 1
    shared.update(images.flip(3), real=False)
    assert float(shared.compute()["FrechetInceptionDistance"]) > 0


def test_metrics_with_different_features_cannot_share_a_network(thin: Path) -> None:
    options = {"weights": thin, "any_weights": True}
    images = REAL[0]
    for kinds in (
        (FrechetInceptionDistance, SpatialFrechetInceptionDistance),
        (SpatialFrechetInceptionDistance, FrechetInceptionDistance),
    ):
        with pytest.warns(UserWarning, match="network"):
            shared = FeatureShare([kind(**options) for kind in kinds])
        with pytest.raises(ValueError, match="FeatureShare replaced its network by another metric's"):
            shared.update(images, real=True)
    with pytest.warns(UserWarning, match="network"):
        FeatureShare([FrechetInceptionDistance(**options), KernelInceptionDistance(**options, like="pytorch-fid")])


def test_shared_features_are_not_modified() -> None:
    class Constant(nn.Module):
        num_features = 27
        features = PatchMeans()(REAL[0])

        def forward(self, images: Tensor) -> Tensor:
            return self.features

    module = Constant()
    before = module.features.clone()
    metric = PrecisionRecall(module, max_features=10)
    for _ in range(3):
        metric.update(REAL[0], real=True)
    assert torch.equal(module.features, before)


def test_a_collection_does_not_merge_metrics_with_different_samples() -> None:
    collection = MetricCollection(
        {
            "few": PrecisionRecall(PatchMeans(), max_features=40),
            "other": PrecisionRecall(PatchMeans(), max_features=40, seed=2021),
            "all": PrecisionRecall(PatchMeans()),
            "density": DensityCoverage(PatchMeans()),
        }
    )
    for images in REAL:
        collection.update(images, real=True)
    for images in FAKE:
        collection.update(images, real=False)
    assert [sum(map(len, collection[name].real_sample)) for name in ("few", "other", "all")] == [40, 40, 56]
    assert collection.compute()["all"] == update_all(PrecisionRecall(PatchMeans())).compute()
    assert ["all", "density"] in list(collection.compute_groups.values()), (
        "metrics with the same sample share their state"
    )


def test_calling_a_metric_adds_images_to_the_existing_ones() -> None:
    metric = update_all(FrechetInceptionDistance(PatchMeans(), reset_real_features=False), fake=[])
    for images in FAKE:
        assert metric(images, real=False) is None
    assert float(metric.compute()) == float(update_all(FrechetInceptionDistance(PatchMeans())).compute())
    score = InceptionScore(PatchMeans(), splits=3)
    for images in FAKE[0].split(1):
        score(imgs=images)
    assert int(score.counts.sum()) == 40


def test_autocast_of_a_training_loop_does_not_change_the_scores(thin: Path) -> None:
    options = {"weights": thin, "any_weights": True}
    images = torch.from_numpy(np.stack([draw_image(seed) for seed in range(6)])).permute(0, 3, 1, 2)
    scores = []
    for enabled in (False, True):
        metric = InceptionScore("logits_unbiased", splits=2, **options)
        network = metric.inception.network
        plain = EngineFeatures(network.features.graph, "fp32", network.device, 1, PyTorchEngine(network.features.graph))
        metric.inception.network = replace(network, features=plain)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            metric.update(images)
        scores.append(float(metric.compute()[0]))
    assert scores[0] == scores[1]


def test_a_generator_is_called_for_batches_of_images(thin: Path) -> None:
    counts = []

    def generator(count: int) -> Tensor:
        counts.append(count)
        assert not torch.is_grad_enabled()
        return torch.full((count, 3, 20, 20), len(counts), dtype=torch.uint8)

    metric = FrechetInceptionDistance(weights=thin, any_weights=True)
    metric.update_from(generator, 10, batch_size=4)
    assert counts == [4, 4, 2]
    assert int(metric.fake_moments[0, 0]) == 10
    assert relative(pickle.loads(pickle.dumps(metric)).fake_moments, metric.fake_moments) == 0


def test_the_network_moves_to_the_device_of_its_metric(thin: Path) -> None:
    metric = FrechetInceptionDistance(weights=thin, any_weights=True).to("meta")
    assert metric.inception.network.device == torch.device("meta")
    assert metric.inception.network.features.engine.device == "meta"


def test_wrong_images_and_networks_are_errors(thin: Path) -> None:
    with pytest.raises(InputError, match="not the network of 2015"):
        FrechetInceptionDistance(weights=thin)
    with pytest.raises(ValueError, match="feature must be 2048 or a module"):
        FrechetInceptionDistance(64)
    metric = FrechetInceptionDistance(weights=thin, any_weights=True)
    for images in (torch.rand(1, 3, 8, 8), torch.zeros(1, 1, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="images must be uint8"):
            metric.update(images, real=True)
