"""KID, Inception Score, precision and recall, density and coverage, FID-infinity, from features.

Where there is an original implementation, the scores are compared with it.
"""

import cleanfid.fid
import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from inception_v3.fidelity import feature_rows, kernel
from inception_v3.fidelity.conventions import find_convention
from inception_v3.fidelity.conventions.base import InceptionScoreSplits, KidSampling
from inception_v3.fidelity.extrapolation import extrapolate
from inception_v3.fidelity.frechet import Gaussian, frechet_distance
from inception_v3.fidelity.inception_score import inception_score
from inception_v3.fidelity.kernel import kernel_distance
from inception_v3.fidelity.neighbours import compare_neighbours, distance_count, nearest_neighbours


def features(seed: int, count: int, width: int = 30, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(1.0, 1.0, (count, width)) + shift


GENERATED, REFERENCE = features(1, 90, shift=0.3), features(2, 110)
SCALE = float(polynomial_kernel(GENERATED, REFERENCE, 3).mean())  # the mean kernel value


# --- KID ---


@pytest.mark.parametrize("count", [1, 30], ids=["by subset", "from whole"])
@pytest.mark.parametrize(("size", "seed"), [(40, 2020), (90, 7), (2, 0)])
def test_kid_equals_torch_fidelitys(size: int, seed: int, count: int) -> None:
    theirs = kid_features_to_metric(
        torch.from_numpy(GENERATED),
        torch.from_numpy(REFERENCE),
        kid_subsets=count,
        kid_subset_size=size,
        rng_seed=seed,
        verbose=False,
    )
    mean, std = kernel_distance(GENERATED, REFERENCE, KidSampling(count, size, seed))
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], abs=1e-10 * SCALE)
    assert std == pytest.approx(theirs["kernel_inception_distance_std"], abs=1e-10 * SCALE)


@pytest.mark.parametrize("size", [50, 1000])
def test_kid_equals_clean_fids_with_the_same_random_state(size: int) -> None:
    np.random.seed(5)
    theirs = cleanfid.fid.kernel_distance(GENERATED, REFERENCE, num_subsets=20, max_subset_size=size)
    sampling = KidSampling(20, size, 5, reference_first=True)
    assert kernel_distance(GENERATED, REFERENCE, sampling)[0] == pytest.approx(theirs, abs=1e-10 * SCALE)


def test_conventions_sample_like_their_programs() -> None:
    assert find_convention("torch-fidelity").kid == KidSampling(100, 1000, 2020, reference_first=False, shrinks=False)
    assert find_convention("clean-fid").kid == KidSampling(100, 1000, 2020, reference_first=True, shrinks=True)


def test_both_kernel_sums_agree_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_rows, "BLOCK_ROWS", 32)
    rng = np.random.default_rng(0)
    rows, columns = (np.stack([rng.permutation(n)[:25] for _ in range(6)]) for n in (90, 110))
    for first, second, first_rows, second_rows in (
        (GENERATED, REFERENCE, rows, columns),
        (GENERATED, GENERATED, rows, rows),
    ):
        whole = kernel._sums_from_whole(first, second, first_rows, second_rows)
        np.testing.assert_allclose(whole, kernel._sums_by_subset(first, second, first_rows, second_rows), rtol=1e-12)


@pytest.mark.parametrize("size", [91, 1000])
def test_too_few_images_for_a_subset_are_an_error_if_subsets_do_not_shrink(size: int) -> None:
    with pytest.raises(ValueError, match=f"90 images are too few for subsets of {size}; .*--kid-subset-size"):
        kernel_distance(GENERATED, REFERENCE, KidSampling(size=size, shrinks=False))


# --- Inception Score ---


@pytest.mark.parametrize("splits", [1, 7, 10])
def test_the_inception_score_equals_torch_fidelitys(splits: int) -> None:
    weights = np.random.default_rng(3).normal(size=(12, 30))
    theirs = isc_features_to_metric(torch.from_numpy(GENERATED @ weights.T), splits)
    mean, std = inception_score(GENERATED, weights, InceptionScoreSplits(splits))
    assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
    assert std == pytest.approx(theirs["inception_score_std"], rel=1e-9, abs=1e-12)


def test_adms_inception_score_has_parts_of_a_fixed_size_in_order() -> None:
    weights = np.random.default_rng(3).normal(size=(12, 30)) / 4
    logits = torch.from_numpy(GENERATED @ weights.T)
    parts = [isc_features_to_metric(part, 1, shuffle=False)["inception_score_mean"] for part in logits.split(40)]
    mean, std = inception_score(GENERATED, weights, InceptionScoreSplits(images=40, seed=None))
    assert mean == pytest.approx(np.mean(parts), rel=1e-12)
    assert std == pytest.approx(np.std(parts), rel=1e-9)
    assert find_convention("adm").inception_score == InceptionScoreSplits(images=5000, seed=None)


def test_certain_predictions_score_the_number_of_classes_and_uniform_ones_score_1() -> None:
    """Each image certainly belongs to one of four classes. Probabilities that underflow do not become NaN."""
    weights = np.eye(4) * 5000
    assert inception_score(np.eye(4)[np.arange(80) % 4], weights, InceptionScoreSplits(1))[0] == pytest.approx(4)
    assert inception_score(np.ones((20, 4)), weights, InceptionScoreSplits(2)) == pytest.approx((1, 0))


def test_fewer_images_than_parts_are_an_error() -> None:
    with pytest.raises(ValueError, match="9 images cannot be split into 10 parts"):
        inception_score(GENERATED[:9], np.ones((3, 30)), InceptionScoreSplits())


# --- neighbours ---


def neighbour_scores_by_definition(
    generated: np.ndarray, reference: np.ndarray, k: int, density_k: int
) -> tuple[float, ...]:
    def radius(points: np.ndarray, rank: int) -> np.ndarray:
        return NearestNeighbors(n_neighbors=rank + 1).fit(points).kneighbors(points)[0][:, rank]

    distances = np.linalg.norm(generated[:, None] - reference, axis=2)
    balls = distances < radius(reference, density_k)
    return (
        (distances <= radius(reference, k)).any(1).mean(),
        (distances <= radius(generated, k)[:, None]).any(0).mean(),
        balls.sum(1).mean() / density_k,
        (distances.min(0) < radius(reference, density_k)).mean(),
    )


@pytest.mark.parametrize("rows", [2048, 17], ids=["one block", "many blocks"])
@pytest.mark.parametrize("shift", [0.0, 0.1, 9.0])
def test_neighbour_scores_equal_their_definitions(shift: float, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_rows, "BLOCK_ROWS", rows)
    generated = features(4, 80, 6, shift)
    reference = features(5, 101, 6)
    amounts = []
    scores = compare_neighbours(generated, reference, progress=amounts.append)
    expected = neighbour_scores_by_definition(generated, reference, 3, 5)
    assert (scores.precision, scores.recall, scores.density, scores.coverage) == pytest.approx(expected)
    distances = np.linalg.norm(generated[:, None] - reference, axis=2)
    np.testing.assert_allclose(scores.nearest, distances.min(1))
    spacing = NearestNeighbors(n_neighbors=2).fit(reference).kneighbors(reference)[0][:, 1]
    np.testing.assert_allclose(scores.spacing, spacing)
    assert sum(amounts) == distance_count(80, 101)
    radius = NearestNeighbors(n_neighbors=4).fit(reference).kneighbors(reference)[0][:, 3]
    small = radius <= np.median(radius)
    np.testing.assert_allclose(scores.realism, (radius / distances)[:, small].max(1))


def test_precision_and_recall_equal_torch_fidelitys() -> None:
    generated, reference = features(6, 70, 12, 0.2), features(7, 60, 12)
    theirs = prc_features_to_metric(torch.from_numpy(generated), torch.from_numpy(reference), verbose=False)
    scores = compare_neighbours(generated, reference)
    assert 0 < scores.precision < 1
    assert (scores.precision, scores.recall) == pytest.approx((theirs["precision"], theirs["recall"]))


def test_a_set_agrees_completely_with_itself() -> None:
    large = (features(8, 40) * 1e3).astype(np.float32)  # without the tolerance, rounding would separate equal features
    scores = compare_neighbours(large, large.copy())
    assert (scores.precision, scores.recall, scores.coverage) == (1, 1, 1)
    assert scores.nearest.max() == 0
    assert np.isinf(scores.realism).sum() == 20  # images at the centre of a small ball


def test_too_few_images_for_neighbours_are_an_error() -> None:
    with pytest.raises(ValueError, match="5 images are too few for 5 neighbours"):
        compare_neighbours(GENERATED[:5], REFERENCE)


def test_nearest_neighbours_are_sorted_by_distance() -> None:
    indices, distances = nearest_neighbours(GENERATED[:3], REFERENCE, 5)
    expected = NearestNeighbors(n_neighbors=5).fit(REFERENCE).kneighbors(GENERATED[:3])
    np.testing.assert_array_equal(indices, expected[1])
    np.testing.assert_allclose(distances, expected[0])


# --- FID-infinity and intervals ---


def normal(seed: int, count: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(count, 16)) + shift).astype(np.float32)


def test_fid_infinity_is_nearer_to_the_true_distance_than_fid() -> None:
    """Two normal distributions whose means differ by 0.25 in each of 16 dimensions: the squared distance is 1."""
    errors = []
    for seed in range(6):
        generated, reference = normal(seed, 400), normal(100 + seed, 400, 0.25)
        fid = frechet_distance(Gaussian.from_features(generated), Gaussian.from_features(reference))
        extrapolation = extrapolate(generated, reference, fid=fid)
        errors.append((fid - 1, extrapolation.infinity - 1))
        low, high = extrapolation.infinity_interval
        assert low < extrapolation.infinity < high
    biases = np.mean(errors, axis=0)
    assert biases[0] > 0.05
    assert abs(biases[1]) < biases[0] / 2


def test_the_interval_of_fid_is_about_as_wide_as_fid_varies() -> None:
    values, widths = [], []
    for seed in range(30):
        generated, reference = normal(seed, 200), normal(100 + seed, 200, 0.25)
        values.append(frechet_distance(Gaussian.from_features(generated), Gaussian.from_features(reference)))
        if seed < 6:
            low, high = extrapolate(generated, reference, fid=values[-1]).fid_interval
            widths.append(high - low)
    assert 0.8 < np.mean(widths) / (2 * 2.09 * np.std(values)) < 2.2


def test_statistics_stay_complete_while_features_are_divided() -> None:
    generated, reference = normal(2, 300), Gaussian.from_features(normal(1, 4000, 0.25))
    fid = frechet_distance(Gaussian.from_features(generated), reference)
    assert fid > 1.2
    assert extrapolate(generated, reference, fid=fid).infinity == pytest.approx(1, abs=0.2)
    with pytest.raises(ValueError, match="both sets are saved statistics"):
        extrapolate(reference, reference, fid=0.0)
    with pytest.raises(ValueError, match="15 images are too few"):
        extrapolate(normal(2, 15), reference, fid=0.0)
