"""Which pictures are held out, where a data set does not say: of each class its share, by chance.

The same as sklearn.model_selection.train_test_split with `stratify`, whose import takes longer than a whole run on
features that are kept (finetune.py); tests hold it to that.
"""

from collections.abc import Sequence

import numpy as np


def held_out(labels: Sequence[int], count: int, seed: int) -> np.ndarray:
    """A mask (N,) of `count` pictures, each class with its share of them."""
    rng = np.random.RandomState(seed)
    _, classes, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    kept = _shares(counts, len(classes) - count, rng)
    out = _shares(counts - kept, count, rng)
    mask = np.zeros(len(classes), bool)
    places = np.split(np.argsort(classes, kind="stable"), np.cumsum(counts)[:-1])
    for its, first, more in zip(places, kept, out, strict=True):
        mask[rng.permutation(its)[first : first + more]] = True
    return mask


def _shares(counts: np.ndarray, total: int, rng: np.random.RandomState) -> np.ndarray:
    """Of each class's count as much as makes the total: rounded down, and one more where the rest is largest."""
    exact = counts / counts.sum() * total
    shares = np.floor(exact)
    rest = exact - shares
    missing = int(total - shares.sum())
    for value in np.unique(rest)[::-1]:
        if missing == 0:
            break
        (equal,) = np.nonzero(rest == value)
        chosen = rng.choice(equal, size=min(len(equal), missing), replace=False)
        shares[chosen] += 1
        missing -= len(chosen)
    rounded: np.ndarray = shares.astype(int)
    return rounded
