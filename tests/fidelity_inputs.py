"""Images of many kinds, drawn for each test, and a small network."""

from pathlib import Path

import numpy as np
from PIL import Image

from conftest import randomise
from inception_v3.network.settings import GRAPH_2015
from inception_v3.weights.model import InceptionV3


def thin_model(seed: int = 0) -> InceptionV3:
    """The network of 2015 with a tenth of its channels, 203 features, and random weights."""
    model = InceptionV3(**dict(GRAPH_2015) | {"depth_multiplier": 0.1, "min_depth": 8})
    randomise(model, seed)
    return model.eval()


def draw_image(seed: int, height: int = 64, width: int = 64, channels: int = 3) -> np.ndarray:
    """Coloured clouds with some noise, (height, width, channels) uint8; smooth enough to survive JPEG compression."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    clouds = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), float)
    noisy = (clouds + rng.normal(0, 10, clouds.shape)).clip(0, 255).astype(np.uint8)
    alpha = rng.integers(0, 256, (height, width, 1), dtype=np.uint8)
    return np.concatenate([noisy, alpha], 2)[:, :, :channels] if channels != 1 else noisy[:, :, 0]


def unusual_images(folder: Path) -> list[Path]:
    """Save images of many sizes, modes and formats, in nested folders, with names in several scripts."""
    image = Image.fromarray
    kinds = {
        "wide.jpg": image(draw_image(1, 120, 300)),
        "täll/größe.png": image(draw_image(2, 310, 90)),
        "täll/深い/gray.png": image(draw_image(3, 70, 80, channels=1)),
        "gray.jpeg": image(draw_image(4, 70, 80, channels=1)),
        "rgba.png": image(draw_image(5, 50, 60, channels=4)),
        "palette.png": image(draw_image(6, 90, 90)).quantize(16),
        "cmyk.jpg": image(draw_image(7, 60, 60)).convert("CMYK"),
        "sixteen.png": image(draw_image(8, 40, 50, channels=1).astype(np.uint16) * 257),
        "one.png": image(draw_image(9, 1, 1)),
        "exact.bmp": image(draw_image(10, 299, 299)),
        "animation.webp": image(draw_image(11, 64, 48)),
        "two.tiff": image(draw_image(12, 33, 77)),
    }
    for name, drawn in kinds.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        drawn.save(folder / name)
    return [folder / name for name in kinds]


def image_folder(
    folder: Path, count: int, seed: int = 0, size: tuple[int, int] = (64, 64), suffix: str = ".png"
) -> Path:
    """Save `count` images of (height, width) as 0000.png, 0001.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(draw_image(seed + number, *size)).save(folder / f"{number:04}{suffix}")
    return folder
