"""Generated pictures that several tests learn from."""

from pathlib import Path

import numpy as np
from PIL import Image


def skies(folder: Path, count: int = 16) -> Path:
    """Two classes that anyone can tell apart: day and night."""
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 100, (80, 80, 3)) + (150 if number % 2 else 0)
        path = folder / ("day" if number % 2 else "night") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder
