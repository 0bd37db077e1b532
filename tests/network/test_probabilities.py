"""The softmax is exact, stable for large logits, and keeps the dtype."""

import numpy as np
import pytest

from inception_v3.network.probabilities import softmax


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_sum_to_one_along_the_last_axis(dtype: type[np.floating]) -> None:
    probabilities = softmax(np.array([[0, np.log(3)], [1000, 1000]], dtype))
    assert probabilities.dtype == dtype
    np.testing.assert_allclose(probabilities, [[0.25, 0.75], [0.5, 0.5]], rtol=1e-6)
