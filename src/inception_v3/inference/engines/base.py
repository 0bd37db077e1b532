"""What every engine is: one function from pixels to named answers, and what is known of it."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from inception_v3.errors import InputError

Precision = Literal["fp32", "bf16", "fp16", "int8"]
Pixels = NDArray[np.uint8]
Answers = dict[str, NDArray[np.float32]]

LOGITS, FEATURES = "Logits", "AvgPool_1a"  # end points, as TF-Slim calls them
PIXELS = "pixels"  # the input of exported networks: uint8 (N, H, W, 3)
IMAGES = "images"  # that of networks built for floats: (N, 3, H, W), scaled already


class Engine(ABC):
    """Runs one network on one device in one precision.

    For one thread at a time; or for `callers` of them, where it was made so: each has its share of the processor, and
    what it does beside the network takes nothing from the others.
    """

    name: ClassVar[str]
    precision: Precision
    device: str
    image_size: tuple[int, int] | None  # (height, width) that it takes; None: any
    widths: dict[str, int]  # channels of each end point that it gives

    @property
    def batch_size(self) -> int:
        """How many pictures at once it is at its best with: more gain little and take memory."""
        return 16 if self.device.lower() == "cpu" else 128

    @abstractmethod
    def run(self, pixels: Pixels) -> Answers:
        """Prepared pictures (N, H, W, 3), 0 to 255, to the end points that this network was built for.

        Maps are (N, C, h, w); Logits (N, num_classes) and AvgPool_1a (N, 2048). The arrays are the caller's own.
        """

    def predict(self, pixels: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits (N, num_classes) and features (N, 2048). Raises InputError where the network has none."""
        answers = self.run(pixels)
        if LOGITS not in answers or FEATURES not in answers:
            raise InputError(f"this network gives {', '.join(answers)} alone; export it without --end-points")
        return answers[LOGITS], answers[FEATURES]

    def __str__(self) -> str:
        return f"{self.name} {self.precision} on {self.device}"
