"""The Fréchet distance, and the moments and statistics it is computed from."""

import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_fid.fid_score import compute_statistics_of_path

from fidelity_peers import pytorch_fid_distance, torch_fidelity_distance
from inception_v3.errors import InputError
from inception_v3.fidelity import frechet
from inception_v3.fidelity.frechet import Gaussian, frechet_distance, reference_rounding, trace_of_sqrt
from inception_v3.fidelity.statistics import Moments, Statistics, gaussian, load_statistics

D = 60
SPECTRA = {"flat": np.ones(D), "steep": 1 / np.arange(1, D + 1) ** 3, "dead": (np.arange(D) < 40).astype(float)}


def draw_features(seed: int, count: int, spectrum: np.ndarray | None = None, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scale = SPECTRA["flat"] if spectrum is None else spectrum
    return (rng.normal(size=(count, len(scale))) * scale + shift).astype(np.float32)


def by_covariance(features: np.ndarray) -> Gaussian:
    """The distribution by mean and covariance, as in saved statistics, for any number of features."""
    return Gaussian(features.mean(0, dtype=np.float64), np.cov(features, rowvar=False, dtype=np.float64))


def by_sqrtm(first: Gaussian, second: Gaussian) -> float:
    root = scipy.linalg.sqrtm(first.covariance @ second.covariance).real
    return float(np.square(first.mean - second.mean).sum() + first.trace + second.trace - 2 * np.trace(root))


# --- the distance ---


@pytest.mark.parametrize("spectrum", ["flat", "steep"])
def test_it_equals_the_distance_by_scipys_sqrtm(spectrum: str) -> None:
    first, second = (
        Gaussian.from_features(draw_features(1, 200, SPECTRA[spectrum])),
        Gaussian.from_features(draw_features(2, 300, SPECTRA[spectrum], 0.2)),
    )
    assert first.cholesky is not None
    assert frechet_distance(first, second) == pytest.approx(by_sqrtm(first, second), rel=1e-7)


def test_it_equals_closed_forms_of_diagonal_covariances() -> None:
    rng = np.random.default_rng(0)
    variances = rng.uniform(0, 2, (2, D))
    first, second = (Gaussian(rng.normal(size=D), np.diag(variance)) for variance in variances)
    shift = np.square(first.mean - second.mean).sum()
    expected = shift + np.square(np.sqrt(variances[0]) - np.sqrt(variances[1])).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(first, Gaussian(second.mean, first.covariance)) == pytest.approx(shift, rel=1e-10)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("count", [2, 5, D, D + 1, D + 5, 400])
def test_scaled_features_have_the_distance_of_the_scale(count: int, spectrum: str) -> None:
    """d² of x and c·x about their means is (1 - c)² tr S for any rank; with c = 1 a set is compared with itself."""
    features = draw_features(3, count, SPECTRA[spectrum])
    for scale in (1.0, 0.5):
        other = ((features - features.mean(0)) * scale).astype(np.float64)
        moved = np.square(features.mean(0, dtype=np.float64) - other.mean(0)).sum()
        for make_first, make_second in itertools.product((Gaussian.from_features, by_covariance), repeat=2):
            first, second = make_first(features), make_second(other)
            expected = (1 - scale) ** 2 * first.trace + moved
            # The error of a covariance is rounding, and that of its root is the square root of rounding.
            tolerance = 1e-6 if Gaussian.from_features is make_first is make_second else 2e-6
            assert frechet_distance(first, second) == pytest.approx(expected, abs=tolerance * first.trace)


def test_small_variances_are_not_lost_in_the_rounding_of_a_large_one() -> None:
    """The covariance is positive definite, but eigenvalues of the product lose more than the promised accuracy."""
    axes = scipy.linalg.qr(np.random.default_rng(0).normal(size=(300, 300)))[0]
    covariance = axes * np.array([1.0, *[1e-9] * 299]) @ axes.T
    both = Gaussian(np.zeros(300), (covariance + covariance.T) / 2)
    assert both.cholesky is not None
    assert trace_of_sqrt(both, both) == pytest.approx(both.trace, rel=5e-7)


@pytest.mark.parametrize("power", [1.0, 1.5])
@pytest.mark.parametrize("count", [210, 600])
def test_steep_spectra_need_no_singular_values(count: int, power: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks have eigenvalues below the rounding of the largest; singular values would be slow."""
    axes = scipy.linalg.qr(np.random.default_rng(0).normal(size=(200, 200)))[0]
    both = [by_covariance(draw_features(seed, count, 1 / np.arange(1, 201) ** power) @ axes) for seed in (1, 2)]
    assert both[0].cholesky is not None
    assert both[1].cholesky is not None
    expected = np.linalg.svd(both[0].cholesky.T @ both[1].cholesky, compute_uv=False).sum()
    monkeypatch.setattr(np.linalg, "svd", None)
    assert trace_of_sqrt(*both) == pytest.approx(expected, abs=1e-10 * both[0].trace)


def test_the_determinant_detects_small_values_that_are_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    svd = np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", lambda *arguments, **options: calls.append(1) or svd(*arguments, **options))
    axes = scipy.linalg.qr(np.random.default_rng(1).normal(size=(900, 900)))[0]
    covariance = axes * np.repeat([1.0, 1e-9], [3, 897]) @ axes.T
    both = Gaussian(np.zeros(900), (covariance + covariance.T) / 2)
    assert both.cholesky is not None
    assert trace_of_sqrt(both, both) == pytest.approx(both.trace, rel=1e-8)
    assert calls


def test_the_distance_of_constant_features_is_that_of_their_means() -> None:
    first, second = np.ones((5, D)), np.full((70, D), 3.0)
    for constant, other in (
        (Gaussian.from_features(first), Gaussian.from_features(second)),
        (by_covariance(first), by_covariance(second)),
    ):
        assert frechet_distance(constant, other) == pytest.approx(4 * D)
        assert frechet_distance(constant, other, "sqrtm") == pytest.approx(4 * D)


def test_a_set_has_no_distance_from_itself_at_full_width() -> None:
    steep = 1 / np.arange(1, 2049) ** 0.7
    few = Gaussian.from_features(draw_features(4, 100, steep))
    assert frechet_distance(few, few) <= 1e-6 * few.trace
    assert frechet_distance(few, few, trace_method=None) >= 0


@given(st.integers(2, 8), st.integers(2, 8), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_it_is_symmetric_and_invariant_to_translation(first_count: int, second_count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (Gaussian.from_features(rng.normal(size=(count, 5))) for count in (first_count, second_count))
    distance, reverse = frechet_distance(first, second), frechet_distance(second, first)
    assert distance == pytest.approx(reverse, rel=1e-6, abs=1e-9)
    assert distance >= np.square(first.mean - second.mean).sum() * (1 - 1e-9)
    moved = [Gaussian(side.mean + 3, side.given_covariance, side.centred) for side in (first, second)]
    assert frechet_distance(*moved) == pytest.approx(distance, rel=1e-6, abs=1e-9)


def test_the_trace_is_the_same_from_features_and_covariances() -> None:
    first, second = draw_features(5, 90), draw_features(6, 95)
    expected = trace_of_sqrt(by_covariance(first), by_covariance(second))
    factored = [Gaussian(by_covariance(x).mean, centred=x - x.mean(0, dtype=np.float64)) for x in (first, second)]
    assert trace_of_sqrt(*factored) == pytest.approx(expected, rel=1e-6)
    assert trace_of_sqrt(factored[0], by_covariance(second)) == pytest.approx(expected, rel=1e-6)


# --- as reference programs compute it ---


@pytest.mark.parametrize("count", [4, 30, D + 40])
@pytest.mark.parametrize("same", [False, True], ids=["apart", "identical"])
def test_with_a_trace_method_it_equals_the_references_distance(count: int, same: bool) -> None:
    """The features are so large that the references' rounding is visible if the covariances are singular."""
    first = draw_features(7, count) * 100
    second = first if same else draw_features(8, count + 3) * 100
    ours = Gaussian.from_features(first), Gaussian.from_features(second)
    for trace_method, theirs in (
        ("sqrtm", pytorch_fid_distance(first.astype(np.float64), second.astype(np.float64))),
        ("eigvals", torch_fidelity_distance(torch.from_numpy(first).double(), torch.from_numpy(second).double())),
    ):
        exact = frechet_distance(*ours)
        distance = frechet_distance(*ours, trace_method)
        assert distance == pytest.approx(theirs, rel=1e-8, abs=0.2 * abs(exact - theirs) + 1e-9 * ours[0].trace)
        if count < D:
            assert abs(exact - theirs) > 10 * abs(distance - theirs)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("count", [16, 200])
def test_small_rounding_is_predicted_without_the_references_method(
    count: int, power: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The distance is within the promised parity, and nearer to the reference than the exact distance."""
    spectrum = 1 / np.arange(1, 513) ** power
    axes = scipy.linalg.qr(np.random.default_rng(0).normal(size=(512, 512)))[0]
    some, others = (draw_features(seed, count, spectrum) @ axes for seed in (1, 2))
    scale = (4e-4 / reference_rounding(Gaussian.from_features(some), Gaussian.from_features(others))) ** 0.5
    some, others = some * scale, (others + 9) * scale
    theirs = torch_fidelity_distance(torch.from_numpy(some), torch.from_numpy(others))
    monkeypatch.setattr(frechet, "_trace_by_eigvals", None)
    first, second = Gaussian.from_features(some), Gaussian.from_features(others)
    exact, ours = frechet_distance(first, second), frechet_distance(first, second, "eigvals")
    assert abs(exact - theirs) > 2e-4
    assert ours == pytest.approx(theirs, abs=1e-3, rel=1e-7)
    assert abs(ours - theirs) < abs(exact - theirs)


def test_the_references_offset_is_applied_if_sqrtm_is_not_finite() -> None:
    """SciPy's sqrtm sometimes fails if a feature is 0 in a whole set, as with dead units of a network."""
    rng = np.random.default_rng(1)
    failed = 0
    for _ in range(80):
        width = rng.integers(5, 40)
        first, second = (np.maximum(rng.normal(size=(rng.integers(2, 6), width)) - 1, 0) for _ in range(2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            root = scipy.linalg.sqrtm(np.cov(first, rowvar=False) @ np.cov(second, rowvar=False))
            ours = frechet_distance(Gaussian.from_features(first), Gaussian.from_features(second), "sqrtm")
        failed += not np.isfinite(root).all()
        assert ours == pytest.approx(pytorch_fid_distance(first, second), rel=1e-6)
    assert failed


@pytest.mark.parametrize("count", [frechet.MIN_IMAGES_FOR_FINITE_SQRTM, 100])
def test_with_more_images_dead_units_need_only_eigenvalues(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(count)
    monkeypatch.setattr(frechet, "_trace_by_sqrtm", None)
    monkeypatch.setattr(frechet, "MAX_DIFFERENCE", 0)
    for _ in range(2):
        dead = rng.uniform(0.5, 2.5, 400)
        first, second = (30 * np.maximum(rng.normal(size=(count, 400)) - dead, 0) for _ in range(2))
        ours = Gaussian.from_features(first), Gaussian.from_features(second)
        assert not (ours[0].variances.all() and ours[1].variances.all())
        theirs = pytorch_fid_distance(first, second)
        exact, distance = frechet_distance(*ours), frechet_distance(*ours, "sqrtm")
        assert abs(exact - theirs) > 1e-5
        assert distance == pytest.approx(theirs, abs=abs(exact - theirs) / 4)


# --- moments ---


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.sampled_from([0.0, 1e6]), st.randoms())
@settings(max_examples=40, deadline=None)
def test_parts_of_any_size_merge_in_any_order_to_the_moments_of_all(
    sizes: list[int], shift: float, random: object
) -> None:
    rng = np.random.default_rng(sum(sizes))
    parts = [torch.from_numpy(rng.normal(size=(size, 4)) + shift) for size in (*sizes, 3)]
    moments = [Moments.empty(4).add(part) for part in parts]
    random.shuffle(moments)
    total = Moments.empty(4)
    for part in moments:
        total = total.merge(Moments.unpack(part.pack()))
    together = torch.cat(parts).numpy()
    assert total.count == len(together)
    np.testing.assert_allclose(total.mean, together.mean(0), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(
        total.gaussian().covariance, np.cov(together, rowvar=False), rtol=0, atol=1e-8 * (shift > 0) + 1e-13
    )


def test_a_single_row_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="two or more"):
        Moments.empty(3).add(torch.zeros(1, 3)).gaussian()


@pytest.mark.parametrize("count", [7, 5000])
def test_features_on_disk_have_the_same_distribution(tmp_path: Path, count: int) -> None:
    features = draw_features(11, count)
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    rows = np.arange(0, count, 2)
    for distribution, expected in ((gaussian(mapped), features), (gaussian(mapped, rows), features[rows])):
        np.testing.assert_allclose(
            distribution.covariance, np.cov(expected, rowvar=False, dtype=np.float64), atol=1e-12
        )
        np.testing.assert_allclose(distribution.mean, expected.mean(0, dtype=np.float64), atol=1e-12)


# --- saved statistics ---


def test_saved_statistics_are_loaded_unchanged_and_by_pytorch_fid(tmp_path: Path) -> None:
    features = draw_features(12, 20)
    saved = Statistics(
        Gaussian.from_features(features),
        Gaussian.from_features(features[:, :7]),
        20,
        "clean-fid",
        "ab" * 32,
        "fp32",
        {"4x5": 19, "7x8": 1},
        {"PNG": 20},
        3,
    )
    saved.save(tmp_path / "ünï.npz")
    loaded = load_statistics(tmp_path / "ünï.npz")
    for name in ("count", "convention", "weights", "dtype", "sizes", "formats", "gray"):
        assert getattr(loaded, name) == getattr(saved, name)
    assert frechet_distance(loaded.pooled, saved.pooled) <= 1e-6 * saved.pooled.trace
    assert loaded.spatial is not None
    np.testing.assert_array_equal(loaded.spatial.mean, saved.spatial.mean)
    mean, covariance = compute_statistics_of_path(str(tmp_path / "ünï.npz"), None, 1, D, "cpu")
    np.testing.assert_array_equal(mean, saved.pooled.mean)
    np.testing.assert_array_equal(covariance, saved.pooled.covariance)


def test_statistics_of_other_programs_have_no_convention_weights_or_count(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "theirs.npz", mu=np.zeros(3, np.float32), sigma=np.eye(3))
    loaded = load_statistics(tmp_path / "theirs.npz")
    assert (loaded.convention, loaded.weights, loaded.count, loaded.spatial) == (None, None, None, None)


BAD = {
    "nan": ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "not finite numbers"),
    "infinite": ({"mu": np.zeros(3), "sigma": np.full((3, 3), np.inf)}, "not finite numbers"),
    "shape": ({"mu": np.zeros(3), "sigma": np.eye(4)}, "not a mean and a covariance"),
    "flat": ({"mu": np.zeros(()), "sigma": np.eye(4)}, "not a mean and a covariance"),
    "half": ({"mu": np.zeros(3), "sigma": np.eye(3), "mu_s": np.zeros(3)}, "without sigma_s"),
    "text": ({"mu": np.array(["a", "b"]), "sigma": np.eye(2)}, "not finite numbers"),
    "skew": ({"mu": np.zeros(2), "sigma": np.array([[1.0, 2.0], [0.0, 1.0]])}, "not symmetric"),
    "negative": ({"mu": np.zeros(2), "sigma": -np.eye(2)}, "negative variances"),
}


@pytest.mark.parametrize(("arrays", "message"), BAD.values(), ids=BAD)
def test_a_bad_file_is_reported_in_one_line(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=rf"bad\.npz: .*{message}.*; "):
        load_statistics(tmp_path / "bad.npz")


def test_a_truncated_file_or_one_with_pickled_code_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", mu=np.ones(300), sigma=np.eye(300))
    content = (tmp_path / "whole.npz").read_bytes()
    np.savez(tmp_path / "code.npz", mu=np.array([{}]), sigma=np.eye(1))
    for name, damaged in {
        "cut": content[:-50],
        "empty": b"",
        "hole": content[:400] + bytes(99) + content[499:],
    }.items():
        (tmp_path / f"{name}.npz").write_bytes(damaged)
    for name in ("cut", "empty", "hole", "code", "missing"):
        with pytest.raises(InputError, match=rf"^\S*{name}\.npz: [^\n]*$"):
            load_statistics(tmp_path / f"{name}.npz")
