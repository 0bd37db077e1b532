"""Generated data sets that tests train on: an easy one, a harder one, and one with ten classes."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def skies(folder: Path, count: int = 16) -> Path:
    """Two easy classes: bright "day" and dark "night"."""
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 100, (80, 80, 3)) + (150 if number % 2 else 0)
        _save(Image.fromarray(pixels.astype(np.uint8)), folder / ("day" if number % 2 else "night") / f"{number}.png")
    return folder


def pets(folder: Path, count: int = 200) -> Path:
    """Faces of random colours on a darker background. Only the ears differ: a cat's stand up, a dog's hang down."""
    rng = np.random.default_rng(0)
    for number in range(count):
        kind = ("cat", "dog")[number % 2]
        background, fur = (tuple(map(int, rng.integers(low, low + 80, 3))) for low in (0, 160))
        image = Image.new("RGB", (96, 96), background)
        draw = ImageDraw.Draw(image)
        x, y = 48 + rng.uniform(-8, 8, 2)
        r = 25
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fur)
        for side in (-1, 1):
            if kind == "cat":
                draw.polygon(
                    [(x + side * r, y - 40), (x + side * 2, y - 18), (x + side * r, y - 3)],
                    fill=fur,
                )
            else:
                ear = x + side * 30
                draw.ellipse((ear - 10, y - 15, ear + 10, y + 30), fill=fur)
            draw.ellipse((x + side * 10 - 4, y - 8, x + side * 10 + 4, y), fill="black")
        _save(image, folder / kind / f"{number:03}.png")
    return folder


def stripes(folder: Path, count: int = 200) -> Path:
    """Ten classes of 32x32 images: stripes of five directions and two widths, with random phase and colour."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32] / 32
    for number in range(count):
        kind = number % 10
        angle, frequency = np.pi * (kind % 5) / 5, (2, 5)[kind // 5]
        phase = frequency * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform()
        pixels = 128 + 127 * np.sign(np.sin(2 * np.pi * phase))[..., None] * rng.uniform(0.6, 1, 3)
        _save(Image.fromarray(pixels.astype(np.uint8)), folder / f"{kind}" / f"{number:03}.png")
    return folder


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
