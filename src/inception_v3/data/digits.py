"""1,797 handwritten digits of 8x8 pixels in digits.npz, the same as those of scikit-learn."""

from pathlib import Path

import numpy as np
from PIL import Image

from inception_v3.data.labelled_images import LabelledImages
from inception_v3.data.splits import SplitReaders, hold_out


def find_digits_splits() -> SplitReaders:
    """The training and the held-out split. Images are named digits/NUMBER; gray levels 0 to 16 become 0 to 255.

    The split is drawn here, so that every model is evaluated on the same images, whatever it was trained on.
    """
    digits = np.load(Path(__file__).with_suffix(".npz"))
    pixels = np.round(digits["images"] * (255 / 16)).astype(np.uint8)  # (N, 8, 8)
    names = [f"digits/{index:04d}" for index in range(len(pixels))]
    images = [Image.fromarray(image).convert("RGB") for image in pixels]
    everything = LabelledImages([str(digit) for digit in range(10)], images, digits["labels"].tolist(), names)
    train, held_out = hold_out(everything, "digits")
    return SplitReaders(lambda: train, lambda: held_out)
