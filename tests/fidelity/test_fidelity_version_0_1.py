"""Statistics that were saved by version 0.1.0 can still be loaded."""

from pathlib import Path

import numpy as np

from inception_v3.fidelity.statistics import load_statistics

FILE = Path(__file__).parents[1] / "version_0_1" / "statistics.npz"


def test_statistics_of_version_0_1_load_with_all_their_fields() -> None:
    statistics = load_statistics(FILE)
    with np.load(FILE) as file:
        np.testing.assert_array_equal(statistics.pooled.mean, file["mu"])
        np.testing.assert_allclose(statistics.pooled.covariance, file["sigma"], rtol=1e-12, atol=1e-12)
    assert statistics.pooled.mean.shape == (32,)
    assert statistics.spatial is None
    assert (statistics.count, statistics.gray) == (100, 3)
    assert (statistics.convention, statistics.weights, statistics.dtype) == ("inception-v3", "0" * 64, "fp32")
    assert (statistics.sizes, statistics.formats) == ({"32 x 32": 100}, {"PNG": 100})
