"""The handwritten digits of scikit-learn: 1,797 pictures of 8x8 pixels; nothing is downloaded."""

import numpy as np
from PIL import Image

from inception_v3.data.pictures import Pictures


def read() -> Pictures:
    """Gray levels 0 to 16 become 0 to 255. Named digits/NUMBER."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pictures = [
        Image.fromarray(np.round(picture * (255 / 16)).astype(np.uint8)).convert("RGB") for picture in digits.images
    ]
    names = [f"digits/{number:04d}" for number in range(len(pictures))]
    return Pictures([str(digit) for digit in range(10)], pictures, digits.target.tolist(), names)
