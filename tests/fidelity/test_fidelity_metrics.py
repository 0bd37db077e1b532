"""The Metrics: torchmetrics' own numbers from the same features, merged over batches and processes, in one memory."""

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

from conftest import randomise, relative
from fidelity_pictures import picture
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
from inception_v3.fidelity.manifold import compare
from inception_v3.fidelity.network import EngineFeatures
from inception_v3.fidelity.run import fidelity
from inception_v3.fidelity.statistics import gaussian
from inception_v3.inference.engines.pytorch import PyTorchEngine
from inception_v3.network.settings import GRAPH_2015
from inception_v3.weights.load import save
from inception_v3.weights.model import InceptionV3

Set = list[Tensor]


class Means(nn.Module):
    """Features that cost nothing: means of patches, (N, 27)."""

    num_features = 27

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images.float(), 3).flatten(1) / 20


def batches(seed: int, sizes: tuple[int, ...] = (30, 1, 25)) -> Set:
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 100, (27,)).reshape(1, 3, 3, 3).repeat(6, 2).repeat(6, 3)
    return [torch.from_numpy(rng.integers(low, 250, (size, 3, 18, 18), dtype=np.uint8)) for size in sizes]


REAL, FAKE = batches(1), batches(2, (40, 20))


def filled(metric: Any, real: Set = REAL, fake: Set = FAKE) -> Any:
    for images in real:
        metric.update(images, real=True)
    for images in fake:
        metric.update(images, real=False)
    return metric


def test_fid_is_torchmetrics_own() -> None:
    ours = filled(FrechetInceptionDistance(Means())).compute()
    theirs = torchmetrics.image.fid.FrechetInceptionDistance(Means())
    assert ours.dtype == torch.float64
    assert float(ours) == pytest.approx(float(filled(theirs).compute()), rel=1e-5)


def test_kid_over_all_images_is_torchmetrics_own() -> None:
    """A subset of all is the same whatever generator draws it."""
    ours = filled(KernelInceptionDistance(Means(), subsets=2, subset_size=56), fake=batches(2, (40, 16))).compute()
    theirs = torchmetrics.image.kid.KernelInceptionDistance(Means(), subsets=2, subset_size=56)
    expected = filled(theirs, fake=batches(2, (40, 16))).compute()
    assert float(ours[0]) == pytest.approx(float(expected[0]), rel=1e-5)  # theirs is in float32
    assert float(ours[1]) < 1e-9 * float(ours[0])


def test_the_inception_score_of_one_part_is_torchmetrics_own() -> None:
    ours, theirs = InceptionScore(Means(), splits=1), torchmetrics.image.inception.InceptionScore(Means(), splits=1)
    for images in FAKE:
        ours.update(images)
        theirs.update(images)
    assert float(ours.compute()[0]) == pytest.approx(float(theirs.compute()[0]), rel=1e-5)


def test_of_several_parts_an_image_is_in_one() -> None:
    metric = InceptionScore(Means(), splits=3)
    images = torch.cat(FAKE)
    for part in images.split(7):
        metric.update(part)
    alone = []
    for number in range(3):
        one = InceptionScore(Means(), splits=1)
        one.update(images[number::3])
        alone.append(float(one.compute()[0]))
    mean, std = metric.compute()
    assert (float(mean), float(std)) == pytest.approx((np.mean(alone), np.std(alone)))


def test_neighbours_are_those_of_the_command() -> None:
    real, fake = (Means()(torch.cat(images)).numpy() for images in (REAL, FAKE))
    found = compare(fake, real)
    precision, recall = filled(PrecisionRecall(Means())).compute()
    density, coverage = filled(DensityCoverage(Means())).compute()
    assert (found.precision, found.recall, found.density, found.coverage) == (precision, recall, density, coverage)


def test_infinity_and_memorisation_are_those_of_the_command() -> None:
    real, fake = (Means()(torch.cat(images)).numpy() for images in (REAL, FAKE))
    found = extrapolate(fake, real, fid=frechet_distance(gaussian(fake), gaussian(real)))
    infinity, low, high = filled(FrechetInceptionDistanceInfinity(Means())).compute()
    assert (float(infinity), float(low), float(high)) == pytest.approx((found.infinity, *found.infinity_interval))
    near = compare(fake, real)
    mean, least, spacing = (float(value) for value in filled(MemorisationDistance(Means())).compute())
    assert (mean, least, spacing) == pytest.approx((near.nearest.mean(), near.nearest.min(), near.spacing.mean()))


def test_floats_from_0_to_1_become_bytes_as_in_torchmetrics(thin: Path) -> None:
    metric = FrechetInceptionDistance(weights=thin, any_weights=True, normalize=True)
    asked: Set = []
    metric.inception.register_forward_pre_hook(lambda _module, images: asked.extend(images))
    metric.update(torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1), real=True)
    assert asked[0].flatten().tolist() == [0, 127, 255]


# --- as Metrics ---


METRICS: dict[str, Callable[..., Any]] = {
    "fid": lambda **options: FrechetInceptionDistance(Means(), **options),
    "kid": lambda **options: KernelInceptionDistance(Means(), subsets=3, subset_size=56, **options),
    "precision": lambda **options: PrecisionRecall(Means(), **options),
    "density": lambda **options: DensityCoverage(Means(), **options),
    "infinity": lambda **options: FrechetInceptionDistanceInfinity(Means(), **options),
    "memorisation": lambda **options: MemorisationDistance(Means(), **options),
}


def values(metric: Any) -> list[float]:
    found = metric.compute()
    return [float(value) for value in (found if isinstance(found, tuple) else (found,))]


@pytest.mark.parametrize("name", METRICS)
def test_processes_sync_to_what_one_alone_has(name: str) -> None:
    """Two processes, each with a part of the images; what they would send is handed over here."""
    other = filled(METRICS[name](), REAL[1:], FAKE[1:])
    states = iter([getattr(other, key) for key in other._reductions])

    def gather(mine: Tensor, group: object = None) -> list[Tensor]:
        state = next(states)
        return [mine, torch.cat(state) if isinstance(state, list) else state]

    metric = METRICS[name](dist_sync_fn=gather, distributed_available_fn=lambda: True)
    synced = values(filled(metric, REAL[:1], FAKE[:1]))
    assert synced == pytest.approx(values(filled(METRICS[name]())), rel=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_a_process_may_have_no_images_of_a_set(name: str) -> None:
    """All that is sent has one number of dimensions, or the processes would wait for each other for ever."""
    metric = METRICS[name](distributed_available_fn=lambda: True)
    other = filled(METRICS[name](), REAL, FAKE)
    states = iter([getattr(other, key) for key in other._reductions])

    def gather(mine: Tensor, group: object = None) -> list[Tensor]:
        state = next(states)
        theirs = torch.cat(state) if isinstance(state, list) else state
        assert mine.ndim == theirs.ndim
        return [mine, theirs]

    metric.dist_sync_fn = gather
    metric.update(REAL[0][:0], real=True)
    assert values(metric) == pytest.approx(values(other), rel=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_can_be_reset_copied_and_pickled(name: str) -> None:
    metric = filled(METRICS[name]())
    expected = values(metric)
    for other in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), metric.clone()):
        assert values(other) == expected
    metric.reset()
    assert values(filled(metric)) == expected


@pytest.mark.parametrize("name", METRICS)
def test_real_images_may_outlive_a_reset(name: str) -> None:
    metric = METRICS[name]()
    metric.reset_real_features = False
    expected = values(filled(metric))
    metric.reset()
    assert values(filled(metric, real=[])) == expected


def test_before_any_image_it_says_so() -> None:
    with pytest.raises(ValueError, match="two or more"):
        FrechetInceptionDistance(Means()).compute()
    with pytest.raises(ValueError, match="no fake images yet"):
        KernelInceptionDistance(Means()).compute()
    with pytest.raises(ValueError, match="fewer than the 10 parts"):
        InceptionScore(Means()).compute()


@pytest.mark.parametrize("make", [FrechetInceptionDistance, KernelInceptionDistance, InceptionScore])
def test_memory_is_that_of_the_states_however_many_images_come(make: Callable[..., Any]) -> None:
    options = {"max_features": 50} if make is KernelInceptionDistance else {}
    metric = make(Means(), **options)

    def size() -> int:
        states = [getattr(metric, name) for name in metric._defaults]
        tensors = [tensor for state in states for tensor in (state if isinstance(state, list) else [state])]
        return sum(tensor.nelement() * tensor.element_size() for tensor in tensors)

    sizes = []
    for _ in range(4):
        metric.update_from(lambda count: batches(count, (count,))[0], 64, batch_size=32)
        sizes.append(size())
    assert len(set(sizes)) == 1


class Numbers(nn.Module):
    num_features = 1

    def forward(self, images: Tensor) -> Tensor:
        return images


def test_a_sample_that_is_kept_is_a_fair_one() -> None:
    """Of 0..399 each is kept with the same chance: 40 of 400, sixty times over."""
    kept = np.zeros(400)
    for seed in range(60):
        metric = KernelInceptionDistance(Numbers(), max_features=40, seed=seed)
        for part in torch.arange(400.0)[:, None].split(37):
            metric.update(part, real=False)
        (features,) = metric.fake_features
        assert len(features) == 40
        kept[features[:, 0].long().numpy()] += 1
    quarters = kept.reshape(4, 100).sum(1) / 60
    np.testing.assert_allclose(quarters, 10, atol=1.2)


def test_samples_of_uneven_sets_are_a_fair_one_together() -> None:
    """As of two processes of which one saw 40 images and the other 360: a tenth of what stays is the first's."""
    kept = np.zeros(400)
    for seed in range(60):
        metrics = [KernelInceptionDistance(Numbers(), max_features=40, seed=seed) for _ in range(2)]
        for metric, part in zip(metrics, torch.arange(400.0)[:, None].split([40, 360]), strict=True):
            metric.update(part, real=True)
            metric.update(part, real=False)
        metrics[0].merge_state(metrics[1])
        features, _ = metrics[0]._kept()
        assert len(features) == 40
        assert (np.diff(features[:, 0]) > 0).sum() >= 38, "in order"
        kept[features[:, 0].astype(int)] += 1
    np.testing.assert_allclose(kept.reshape(10, 40).sum(1) / 60, 4, atol=1.2)


# --- with the network ---


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = InceptionV3(**dict(GRAPH_2015) | {"depth_multiplier": 0.1, "min_depth": 8})
    randomise(model)
    save(model, tmp_path_factory.mktemp("thin") / "thin.safetensors")
    return tmp_path_factory.mktemp("thin").parent / "thin0" / "thin.safetensors"


def test_they_agree_with_the_command_on_the_same_images(thin: Path, tmp_path: Path) -> None:
    images = [np.stack([picture(seed) for seed in seeds]) for seeds in (range(8), range(50, 60))]
    for name, array in zip("ab", images, strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    for like, scores in ((None, ["fid", "sfid"]), ("torch-fidelity", ["fid"])):
        options = {"weights": thin, "any_weights": True, "like": like}
        told = fidelity(tmp_path / "a.npy", tmp_path / "b.npy", **options, use_cache=False, scores=scores)
        for key in scores:
            make = FrechetInceptionDistance if key == "fid" else SpatialFrechetInceptionDistance
            metric = make(**options)
            fake, real = (torch.from_numpy(array).permute(0, 3, 1, 2) for array in images)
            filled(metric, [real[:3], real[3:]], [fake])
            assert float(metric.compute()) == pytest.approx(told.scores[key], rel=1e-4)


def test_several_share_one_run_of_the_network(thin: Path) -> None:
    options = {"weights": thin, "any_weights": True}
    shared = FeatureShare([FrechetInceptionDistance(**options), KernelInceptionDistance(**options, subset_size=6)])
    calls = []
    (extractor,) = {metric.inception.network for metric in shared.values()}
    engine = extractor.network.features.engine
    run = engine.run
    engine.run = lambda images: calls.append(1) or run(images)
    images = torch.from_numpy(np.stack([picture(seed) for seed in range(6)])).permute(0, 3, 1, 2)
    shared.update(images, real=True)
    assert len(calls) == 1
    shared.update(images.flip(3), real=False)
    assert float(shared.compute()["FrechetInceptionDistance"]) > 0


def test_what_is_not_of_the_same_network_cannot_share_it(thin: Path) -> None:
    options = {"weights": thin, "any_weights": True}
    images = REAL[0]
    for kinds in (
        (FrechetInceptionDistance, SpatialFrechetInceptionDistance),
        (SpatialFrechetInceptionDistance, FrechetInceptionDistance),
    ):
        with pytest.warns(UserWarning, match="network"):
            shared = FeatureShare([kind(**options) for kind in kinds])
        with pytest.raises(ValueError, match="a FeatureShare gave it another's network"):
            shared.update(images, real=True)
    with pytest.warns(UserWarning, match="network"):
        FeatureShare([FrechetInceptionDistance(**options), KernelInceptionDistance(**options, like="pytorch-fid")])


def test_features_that_others_share_are_not_written_to() -> None:
    class Once(nn.Module):
        num_features = 27
        features = Means()(REAL[0])

        def forward(self, images: Tensor) -> Tensor:
            return self.features

    module = Once()
    before = module.features.clone()
    metric = PrecisionRecall(module, max_features=10)
    for _ in range(3):
        metric.update(REAL[0], real=True)
    assert torch.equal(module.features, before)


def test_a_collection_keeps_metrics_of_other_samples_apart() -> None:
    collection = MetricCollection(
        {
            "few": PrecisionRecall(Means(), max_features=40),
            "other": PrecisionRecall(Means(), max_features=40, seed=2021),
            "all": PrecisionRecall(Means()),
            "density": DensityCoverage(Means()),
        }
    )
    for images in REAL:
        collection.update(images, real=True)
    for images in FAKE:
        collection.update(images, real=False)
    assert [sum(map(len, collection[name].real_features)) for name in ("few", "other", "all")] == [40, 40, 56]
    assert collection.compute()["all"] == filled(PrecisionRecall(Means())).compute()
    assert ["all", "density"] in list(collection.compute_groups.values()), "what has the same sample is worked out once"


def test_a_call_adds_images_and_costs_nothing_that_was_there() -> None:
    metric = filled(FrechetInceptionDistance(Means(), reset_real_features=False), fake=[])
    for images in FAKE:
        assert metric(images, real=False) is None
    assert float(metric.compute()) == float(filled(FrechetInceptionDistance(Means())).compute())
    score = InceptionScore(Means(), splits=3)
    for images in FAKE[0].split(1):
        score(imgs=images)
    assert int(score.counts.sum()) == 40


def test_a_training_loops_autocast_does_not_reach_the_scores(thin: Path) -> None:
    options = {"weights": thin, "any_weights": True}
    images = torch.from_numpy(np.stack([picture(seed) for seed in range(6)])).permute(0, 3, 1, 2)
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


def test_a_generator_is_asked_for_its_images_in_batches(thin: Path) -> None:
    asked = []

    def generator(count: int) -> Tensor:
        asked.append(count)
        assert not torch.is_grad_enabled()
        return torch.full((count, 3, 20, 20), len(asked), dtype=torch.uint8)

    metric = FrechetInceptionDistance(weights=thin, any_weights=True)
    metric.update_from(generator, 10, batch_size=4)
    assert asked == [4, 4, 2]
    assert int(metric.fake_moments[0, 0]) == 10
    assert relative(pickle.loads(pickle.dumps(metric)).fake_moments, metric.fake_moments) == 0


def test_the_network_goes_to_the_device_of_its_metric(thin: Path) -> None:
    metric = FrechetInceptionDistance(weights=thin, any_weights=True).to("meta")
    assert metric.inception.network.device == torch.device("meta")
    assert metric.inception.network.features.engine.device == "meta"


def test_wrong_images_and_wrong_networks_are_refused(thin: Path) -> None:
    with pytest.raises(InputError, match="not the network of 2015"):
        FrechetInceptionDistance(weights=thin)
    with pytest.raises(ValueError, match="feature must be 2048 or a module"):
        FrechetInceptionDistance(64)
    metric = FrechetInceptionDistance(weights=thin, any_weights=True)
    for images in (torch.rand(1, 3, 8, 8), torch.zeros(1, 1, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="images must be uint8"):
            metric.update(images, real=True)
