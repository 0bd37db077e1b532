"""The first layer whose values are infinite or NaN. Nothing here needs PyTorch."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inception_v3.explain.attribution.result import Head
from inception_v3.inference.choose import open_with_outputs
from inception_v3.inference.exported.registry import read_description
from inception_v3.network.architecture import with_inner
from inception_v3.network.settings import Settings


def names_up_to(settings: Settings, head: Head = "Logits") -> list[str]:
    """The names of the layers, branches and end points on the way to a head, in the order of computation."""
    left_out = ("Predictions", "AuxLogits" if head == "Logits" else "Logits")
    return [name for name in with_inner(settings.end_points()) if name.split("/")[0] not in left_out]


def first_not_finite_in_file(file: Path, pixels: NDArray[np.uint8]) -> str:
    """The first layer of an exported network whose values for pixels (N, H, W, 3) are not finite; "Logits" if none is.

    Raises InputError as `open_with_outputs` does.
    """
    names = names_up_to(read_description(file).settings)
    run, _ = open_with_outputs(file, names)
    values = run(pixels)
    return next((name for name in names if name in values and not np.isfinite(values[name]).all()), "Logits")
