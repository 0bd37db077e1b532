"""The softmax, without PyTorch or SciPy."""

import numpy as np
from numpy.typing import NDArray


def softmax(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """The probabilities of logits (..., classes), in their dtype. They sum to 1 along the last axis."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(-1, keepdims=True))
