"""The Frechet distance and the statistics that it is computed from."""

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
from inception_v3.fidelity.frechet import Gaussian, frechet_distance, reference_roundoff, trace_of_root
from inception_v3.fidelity.statistics import Moments, Statistics, gaussian, load_statistics

D = 60
SPECTRA = {"flat": np.ones(D), "steep": 1 / np.arange(1, D + 1) ** 3, "dead": (np.arange(D) < 40).astype(float)}


def drawn(seed: int, count: int, spectrum: np.ndarray | None = None, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scale = SPECTRA["flat"] if spectrum is None else spectrum
    return (rng.normal(size=(count, len(scale))) * scale + shift).astype(np.float32)


def whole(features: np.ndarray) -> Gaussian:
    """By mean and covariance, as saved statistics are, however few the features."""
    return Gaussian(features.mean(0, dtype=np.float64), full=np.cov(features, rowvar=False, dtype=np.float64))


def by_sqrtm(first: Gaussian, second: Gaussian) -> float:
    root = scipy.linalg.sqrtm(first.covariance @ second.covariance).real
    return float(np.square(first.mean - second.mean).sum() + first.trace + second.trace - 2 * np.trace(root))


# --- the distance ---


@pytest.mark.parametrize("spectrum", ["flat", "steep"])
def test_it_is_what_scipys_matrix_root_gives(spectrum: str) -> None:
    first, second = Gaussian.of(drawn(1, 200, SPECTRA[spectrum])), Gaussian.of(drawn(2, 300, SPECTRA[spectrum], 0.2))
    assert first.root is not None
    assert frechet_distance(first, second) == pytest.approx(by_sqrtm(first, second), rel=1e-7)


def test_closed_forms() -> None:
    rng = np.random.default_rng(0)
    variances = rng.uniform(0, 2, (2, D))
    first, second = (Gaussian(rng.normal(size=D), full=np.diag(variance)) for variance in variances)
    apart = np.square(first.mean - second.mean).sum()
    expected = apart + np.square(np.sqrt(variances[0]) - np.sqrt(variances[1])).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(first, Gaussian(second.mean, full=first.covariance)) == pytest.approx(apart, rel=1e-10)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("count", [2, 5, D, D + 1, D + 5, 400])
def test_scaled_features_are_as_far_as_the_scale_says(count: int, spectrum: str) -> None:
    """d² of x and c·x about their means is (1 - c)² tr S, whatever the rank; c = 1 is a set and itself."""
    features = drawn(3, count, SPECTRA[spectrum])
    for scale in (1.0, 0.5):
        other = ((features - features.mean(0)) * scale).astype(np.float64)
        moved = np.square(features.mean(0, dtype=np.float64) - other.mean(0)).sum()
        for make_first, make_second in itertools.product((Gaussian.of, whole), repeat=2):
            first, second = make_first(features), make_second(other)
            expected = (1 - scale) ** 2 * first.trace + moved
            # a covariance is known to rounding, its root to the square root of that
            tolerance = 1e-6 if Gaussian.of is make_first is make_second else 2e-6
            assert frechet_distance(first, second) == pytest.approx(expected, abs=tolerance * first.trace)


def test_small_variances_beside_a_large_one_are_not_lost_in_its_rounding() -> None:
    """Positive definite, yet eigenvalues of the product would be off by more than the promised share of the trace."""
    axes = scipy.linalg.qr(np.random.default_rng(0).normal(size=(300, 300)))[0]
    covariance = axes * np.array([1.0, *[1e-9] * 299]) @ axes.T
    both = Gaussian(np.zeros(300), full=(covariance + covariance.T) / 2)
    assert both.root is not None
    assert trace_of_root(both, both) == pytest.approx(both.trace, rel=5e-7)


@pytest.mark.parametrize("power", [1.0, 1.5])
@pytest.mark.parametrize("count", [210, 600])
def test_steep_spectra_come_out_as_by_singular_values(
    count: int, power: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eigenvalues below the rounding of the largest, as networks have them, and no time for singular values."""
    axes = scipy.linalg.qr(np.random.default_rng(0).normal(size=(200, 200)))[0]
    both = [whole(drawn(seed, count, 1 / np.arange(1, 201) ** power) @ axes) for seed in (1, 2)]
    assert both[0].root is not None
    assert both[1].root is not None
    expected = np.linalg.svd(both[0].root.T @ both[1].root, compute_uv=False).sum()
    monkeypatch.setattr(np.linalg, "svd", None)
    assert trace_of_root(*both) == pytest.approx(expected, abs=1e-10 * both[0].trace)


def test_small_values_that_are_noise_are_found_by_the_determinant(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    svd = np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", lambda *given, **options: asked.append(1) or svd(*given, **options))
    axes = scipy.linalg.qr(np.random.default_rng(1).normal(size=(900, 900)))[0]
    covariance = axes * np.repeat([1.0, 1e-9], [3, 897]) @ axes.T
    both = Gaussian(np.zeros(900), full=(covariance + covariance.T) / 2)
    assert both.root is not None
    assert trace_of_root(both, both) == pytest.approx(both.trace, rel=1e-8)
    assert asked


def test_images_that_are_all_the_same_are_apart_by_their_means() -> None:
    first, second = np.ones((5, D)), np.full((70, D), 3.0)
    for one, other in ((Gaussian.of(first), Gaussian.of(second)), (whole(first), whole(second))):
        assert frechet_distance(one, other) == pytest.approx(4 * D)
        assert frechet_distance(one, other, "sqrtm") == pytest.approx(4 * D)


def test_a_set_and_itself_are_not_apart_at_full_width() -> None:
    steep = 1 / np.arange(1, 2049) ** 0.7
    few = Gaussian.of(drawn(4, 100, steep))
    assert frechet_distance(few, few) <= 1e-6 * few.trace
    assert frechet_distance(few, few, reference=None) >= 0


@given(st.integers(2, 8), st.integers(2, 8), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_it_is_a_distance(first_count: int, second_count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (Gaussian.of(rng.normal(size=(count, 5))) for count in (first_count, second_count))
    there, back = frechet_distance(first, second), frechet_distance(second, first)
    assert there == pytest.approx(back, rel=1e-6, abs=1e-9)
    assert there >= np.square(first.mean - second.mean).sum() * (1 - 1e-9)
    moved = Gaussian(first.mean + 3, first.full, first.centred), Gaussian(second.mean + 3, second.full, second.centred)
    assert frechet_distance(*moved) == pytest.approx(there, rel=1e-6, abs=1e-9)


def test_the_trace_of_the_root_is_the_same_by_each_way() -> None:
    first, second = drawn(5, 90), drawn(6, 95)
    expected = trace_of_root(whole(first), whole(second))
    factored = [Gaussian(whole(x).mean, centred=x - x.mean(0, dtype=np.float64)) for x in (first, second)]
    assert trace_of_root(*factored) == pytest.approx(expected, rel=1e-6)
    assert trace_of_root(factored[0], whole(second)) == pytest.approx(expected, rel=1e-6)


# --- as a reference gives it ---


@pytest.mark.parametrize("count", [4, 30, D + 40])
@pytest.mark.parametrize("same", [False, True], ids=["apart", "identical"])
def test_by_a_references_way_it_is_the_references_number(count: int, same: bool) -> None:
    """So large that the rounding of the references shows where the covariances are singular."""
    first = drawn(7, count) * 100
    second = first if same else drawn(8, count + 3) * 100
    ours = Gaussian.of(first), Gaussian.of(second)
    for reference, theirs in (
        ("sqrtm", pytorch_fid_distance(first.astype(np.float64), second.astype(np.float64))),
        ("eigvals", torch_fidelity_distance(torch.from_numpy(first).double(), torch.from_numpy(second).double())),
    ):
        exact = frechet_distance(*ours)
        got = frechet_distance(*ours, reference)
        assert got == pytest.approx(theirs, rel=1e-8, abs=0.2 * abs(exact - theirs) + 1e-9 * ours[0].trace)
        if count < D:
            assert abs(exact - theirs) > 10 * abs(got - theirs)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("count", [16, 200])
def test_rounding_that_shows_little_is_foreseen(count: int, power: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most as far from the reference as promised, without its seconds; and nearer than the exact distance."""
    spectrum = 1 / np.arange(1, 513) ** power
    axes = scipy.linalg.qr(np.random.default_rng(0).normal(size=(512, 512)))[0]
    some, others = (drawn(seed, count, spectrum) @ axes for seed in (1, 2))
    scale = (4e-4 / reference_roundoff(Gaussian.of(some), Gaussian.of(others))) ** 0.5
    some, others = some * scale, (others + 9) * scale
    theirs = torch_fidelity_distance(torch.from_numpy(some), torch.from_numpy(others))
    monkeypatch.setattr(frechet, "_trace_by_eigvals", None)
    first, second = Gaussian.of(some), Gaussian.of(others)
    exact, ours = frechet_distance(first, second), frechet_distance(first, second, "eigvals")
    assert abs(exact - theirs) > 2e-4
    assert ours == pytest.approx(theirs, abs=1e-3, rel=1e-7)
    assert abs(ours - theirs) < abs(exact - theirs)


def test_a_root_that_is_not_finite_gets_the_references_offset() -> None:
    """SciPy's fails now and then where features are zero in a whole set: with these, of a network with dead units."""
    rng = np.random.default_rng(1)
    failed = 0
    for _ in range(80):
        width = rng.integers(5, 40)
        first, second = (np.maximum(rng.normal(size=(rng.integers(2, 6), width)) - 1, 0) for _ in range(2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            root = scipy.linalg.sqrtm(np.cov(first, rowvar=False) @ np.cov(second, rowvar=False))
            ours = frechet_distance(Gaussian.of(first), Gaussian.of(second), "sqrtm")
        failed += not np.isfinite(root).all()
        assert ours == pytest.approx(pytorch_fid_distance(first, second), rel=1e-6)
    assert failed


@pytest.mark.parametrize("count", [frechet.SURELY_FINITE, 100])
def test_of_more_images_with_dead_units_the_root_is_finite_and_foreseen_by_eigenvalues(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(count)
    monkeypatch.setattr(frechet, "_trace_by_sqrtm", None)
    monkeypatch.setattr(frechet, "VISIBLE", 0)
    for _ in range(2):
        dead = rng.uniform(0.5, 2.5, 400)
        first, second = (30 * np.maximum(rng.normal(size=(count, 400)) - dead, 0) for _ in range(2))
        ours = Gaussian.of(first), Gaussian.of(second)
        assert not (ours[0].variances.all() and ours[1].variances.all())
        theirs = pytorch_fid_distance(first, second)
        exact, got = frechet_distance(*ours), frechet_distance(*ours, "sqrtm")
        assert abs(exact - theirs) > 1e-5
        assert got == pytest.approx(theirs, abs=abs(exact - theirs) / 4)


# --- moments that merge ---


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.sampled_from([0.0, 1e6]), st.randoms())
@settings(max_examples=40, deadline=None)
def test_parts_of_any_size_in_any_order_merge_to_the_whole(sizes: list[int], shift: float, random: object) -> None:
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


def test_one_feature_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="two or more"):
        Moments.empty(3).add(torch.zeros(1, 3)).gaussian()


@pytest.mark.parametrize("count", [7, 5000])
def test_features_on_disk_give_the_same_in_parts(tmp_path: Path, count: int) -> None:
    features = drawn(11, count)
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    rows = np.arange(0, count, 2)
    for found, expected in ((gaussian(mapped), features), (gaussian(mapped, rows), features[rows])):
        np.testing.assert_allclose(found.covariance, np.cov(expected, rowvar=False, dtype=np.float64), atol=1e-12)
        np.testing.assert_allclose(found.mean, expected.mean(0, dtype=np.float64), atol=1e-12)


# --- saved statistics ---


def test_what_is_saved_comes_back_and_pytorch_fid_reads_it(tmp_path: Path) -> None:
    features = drawn(12, 20)
    saved = Statistics(
        Gaussian.of(features),
        Gaussian.of(features[:, :7]),
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


def test_those_of_other_programs_do_not_say_how_they_were_made(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "theirs.npz", mu=np.zeros(3, np.float32), sigma=np.eye(3))
    loaded = load_statistics(tmp_path / "theirs.npz")
    assert (loaded.convention, loaded.weights, loaded.count, loaded.spatial) == (None, None, None, None)


BAD = {
    "nan": ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "no finite numbers"),
    "infinite": ({"mu": np.zeros(3), "sigma": np.full((3, 3), np.inf)}, "no finite numbers"),
    "shape": ({"mu": np.zeros(3), "sigma": np.eye(4)}, "no mean and covariance"),
    "flat": ({"mu": np.zeros(()), "sigma": np.eye(4)}, "no mean and covariance"),
    "half": ({"mu": np.zeros(3), "sigma": np.eye(3), "mu_s": np.zeros(3)}, "without sigma_s"),
    "text": ({"mu": np.array(["a", "b"]), "sigma": np.eye(2)}, "no finite numbers"),
    "skew": ({"mu": np.zeros(2), "sigma": np.array([[1.0, 2.0], [0.0, 1.0]])}, "not symmetric"),
    "negative": ({"mu": np.zeros(2), "sigma": -np.eye(2)}, "negative variances"),
}


@pytest.mark.parametrize(("arrays", "told"), BAD.values(), ids=BAD)
def test_what_is_wrong_with_a_file_is_told_in_one_line(
    tmp_path: Path, arrays: dict[str, np.ndarray], told: str
) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=rf"bad\.npz: .*{told}.*; "):
        load_statistics(tmp_path / "bad.npz")


def test_a_file_cut_short_or_holding_code_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", mu=np.ones(300), sigma=np.eye(300))
    content = (tmp_path / "whole.npz").read_bytes()
    np.savez(tmp_path / "code.npz", mu=np.array([{}]), sigma=np.eye(1))
    for name, bytes_of in {
        "cut": content[:-50],
        "empty": b"",
        "hole": content[:400] + bytes(99) + content[499:],
    }.items():
        (tmp_path / f"{name}.npz").write_bytes(bytes_of)
    for name in ("cut", "empty", "hole", "code", "missing"):
        with pytest.raises(InputError, match=rf"^\S*{name}\.npz: [^\n]*$"):
            load_statistics(tmp_path / f"{name}.npz")
