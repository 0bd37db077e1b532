"""Probabilities from logits, without PyTorch or SciPy."""

import numpy as np
from numpy.typing import NDArray

from inception_v3.network.architecture import OutputActivation


def softmax(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """The probabilities of logits (..., classes), in their dtype. They sum to 1 along the last axis."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(-1, keepdims=True))


def class_logits(logits: NDArray[np.floating], activation: OutputActivation) -> NDArray[np.floating]:
    """Logits (..., classes) of all classes. One output with a sigmoid stands for two classes, with the logits 0 and x.

    Their softmax is the sigmoid of -x and x.
    """
    if activation == "sigmoid" and logits.shape[-1] == 1:
        return np.concatenate([np.zeros_like(logits), logits], -1)
    return logits


def probabilities(logits: NDArray[np.floating], activation: OutputActivation = "softmax") -> NDArray[np.floating]:
    """The probabilities of the `class_logits` (..., classes), in their dtype.

    With "sigmoid" each of several classes has a probability of its own. "none" returns the logits.
    """
    if activation == "sigmoid" and logits.shape[-1] > 1:
        return np.asarray(np.exp(-np.logaddexp(0, -logits)))  # does not overflow
    return logits if activation == "none" else softmax(class_logits(logits, activation))
