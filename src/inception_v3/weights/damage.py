"""Find tensors whose values show that a file is damaged, or that its network was never trained."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inception_v3.support.text import count_of

if TYPE_CHECKING:
    from torch import Tensor

# Trained networks have variances down to 1e-14, and weights of the last layer up to 1e5. A flipped bit of an exponent
# gives far larger values.
LARGEST = 1e10
VARIANCES = ("moving_variance", "running_var")
MEANS = ("moving_mean", "running_mean")
KERNELS = (".weights", "weight")


def find_damage(tensors: "Mapping[str, Tensor]") -> list[str]:
    """A line for each tensor, by name, with values that no trained network has."""
    arrays = {name: tensor.detach().cpu().double().numpy() for name, tensor in tensors.items()}
    faults = [f"{name}: {fault}" for name, array in arrays.items() if array.size for fault in _faults(name, array)]
    means = [array for name, array in arrays.items() if name.endswith(MEANS)]
    variances = [array for name, array in arrays.items() if name.endswith(VARIANCES)]
    if means and all((each == 0).all() for each in means) and all((each == 1).all() for each in variances):
        faults.append("every BatchNorm has mean 0 and variance 1: the network was not trained, or not saved completely")
    return faults


def _faults(name: str, array: NDArray[np.float64]) -> Iterator[str]:
    if not (np.isfinite(array.min()) and np.isfinite(array.max())):
        for kind, count in (("NaN", np.isnan(array).sum()), ("infinite", np.isinf(array).sum())):
            if count:
                yield f"{count:,} of {count_of(array.size, 'value')} {'are' if array.size > 1 else 'is'} {kind}"
    elif name.endswith(VARIANCES):
        yield from _variance_faults(array)
    elif name.endswith(KERNELS) and array.ndim > 1 and not array.any():
        yield "all values are 0"
    elif (largest := max(-array.min(), array.max())) > LARGEST:
        yield f"has values up to {largest:.1e}"


def _variance_faults(variances: NDArray[np.float64]) -> Iterator[str]:
    for fault, count in (
        ("negative", (variances < 0).sum()),
        ("0", (variances == 0).sum()),
        (f"larger than {LARGEST:.0e}", (variances > LARGEST).sum()),
    ):
        if count:
            yield f"{count:,} of {variances.size:,} variances {'is' if count == 1 else 'are'} {fault}"
