"""Draw the feature maps of docs/walkthrough.md.

    python examples/walkthrough_pictures.py model.json --out docs/pictures/walkthrough

`model.json` is the trained network of docs/trained-weights.md; any other file that `inception_v3.load` reads will do.
The photo is flower.jpg of scikit-learn (sklearn.datasets.load_sample_image), by vultilion on Flickr, under CC BY 2.0.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_image

import inception_v3

TILE, GAP, LABEL = 132, 6, 24  # in pixels
QUALITY = 70  # of the WebP files
# By the name of the picture: the end points of its rows, how many channels are shown, whether the photo is above them.
PICTURES = {
    "stem": (("Conv2d_1a_3x3", "Conv2d_2b_3x3", "Conv2d_4a_3x3", "MaxPool_5a_3x3"), 8, True),
    "mixed_5b": (tuple(f"Mixed_5b/Branch_{number}" for number in range(4)), 6, False),
    "groups": (("Mixed_5d", "Mixed_6e", "Mixed_7c"), 8, False),
}


def tiles(maps: np.ndarray, count: int) -> list[Image.Image]:
    """The channels of (C, H, W) with the largest means, each from black (0) to white (its largest value)."""
    strongest = np.argsort(-maps.mean((1, 2)), kind="stable")[:count]
    scaled = (255 * maps / maps.max((1, 2), keepdims=True).clip(1e-9)).astype(np.uint8)
    return [Image.fromarray(scaled[channel]).resize((TILE, TILE), Image.Resampling.NEAREST) for channel in strongest]


def sheet(rows: list[tuple[str, list[Image.Image]]]) -> Image.Image:
    """Rows of tiles, each with its label above."""
    width = max(len(images) for _, images in rows) * (TILE + GAP) + GAP
    page = Image.new("RGB", (width, len(rows) * (TILE + LABEL + GAP) + GAP), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(15)
    for row, (label, images) in enumerate(rows):
        top = GAP + row * (TILE + LABEL + GAP)
        draw.text((GAP, top + 2), label, "black", font)
        for column, image in enumerate(images):
            page.paste(image, (GAP + column * (TILE + GAP), top + LABEL))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/walkthrough"))
    options = parser.parse_args()
    model = inception_v3.load(options.model).eval()
    flower = Image.fromarray(load_sample_image("flower.jpg"))
    names = [name for rows, _, _ in PICTURES.values() for name in rows]
    with torch.no_grad():
        _, maps = model(model.preprocess(flower), end_points=names)
    photo = Image.fromarray(model.preprocessing.array(flower))  # the part that the network sees, in its size
    for name, (end_points, count, with_photo) in PICTURES.items():
        rows = [(f"flower.jpg, {photo.width}x{photo.height}", [photo.resize((TILE, TILE))])] if with_photo else []
        for each in end_points:
            channels, height, width = maps[each].shape[1:]
            rows.append((f"{each}  {height}x{width}x{channels}", tiles(maps[each][0].numpy(), count)))
        sheet(rows).save(options.out / f"features_{name}.webp", quality=QUALITY)


if __name__ == "__main__":
    main()
