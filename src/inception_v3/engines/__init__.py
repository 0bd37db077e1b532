"""What runs the network on prepared pixels."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Engine(Protocol):
    """One way to run one network in one precision."""

    name: str
    precision: str

    def predict(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Pixels (N, H, W, 3), prepared, 0 to 255, to logits (N, classes) and features (N, 2048)."""
        ...
