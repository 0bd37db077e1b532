"""Pictures of every kind that folders hold, drawn anew for each test that asks."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, height: int = 64, width: int = 64, channels: int = 3) -> np.ndarray:
    """Coloured clouds with some noise, (height, width, channels) uint8: smooth enough that a JPEG keeps them."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    clouds = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), float)
    noisy = (clouds + rng.normal(0, 10, clouds.shape)).clip(0, 255).astype(np.uint8)
    alpha = rng.integers(0, 256, (height, width, 1), dtype=np.uint8)
    return np.concatenate([noisy, alpha], 2)[:, :, :channels] if channels != 1 else noisy[:, :, 0]


def odd_pictures(folder: Path) -> list[Path]:
    """One of each kind, in folders, under names of many scripts."""
    image = Image.fromarray
    kinds = {
        "wide.jpg": image(picture(1, 120, 300)),
        "täll/größe.png": image(picture(2, 310, 90)),
        "täll/深い/gray.png": image(picture(3, 70, 80, channels=1)),
        "gray.jpeg": image(picture(4, 70, 80, channels=1)),
        "rgba.png": image(picture(5, 50, 60, channels=4)),
        "palette.png": image(picture(6, 90, 90)).quantize(16),
        "cmyk.jpg": image(picture(7, 60, 60)).convert("CMYK"),
        "sixteen.png": image(picture(8, 40, 50, channels=1).astype(np.uint16) * 257),
        "one.png": image(picture(9, 1, 1)),
        "exact.bmp": image(picture(10, 299, 299)),
        "animation.webp": image(picture(11, 64, 48)),
        "two.tiff": image(picture(12, 33, 77)),
    }
    for name, drawn in kinds.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        drawn.save(folder / name)
    return [folder / name for name in kinds]


def folder_of(folder: Path, count: int, seed: int = 0, size: tuple[int, int] = (64, 64), suffix: str = ".png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(picture(seed + number, *size)).save(folder / f"{number:04}{suffix}")
    return folder
