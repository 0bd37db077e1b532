#!/usr/bin/env python3
"""Record what TensorFlow makes of pictures, as models/research/slim/preprocessing/inception_preprocessing.py asks it.

    .oracle/bin/python tests/oracle/record_slim_preprocessing.py OUT

OUT/pictures.npz receives, for each size of SIZES (height x width, random pixels, uint8, HWC)

  HxW/picture
  HxW/eval           preprocess_for_eval at 299x299, in [-1, 1]
  HxW/METHOD         resize_images of the picture in [0, 1] to 75x107 by bilinear, nearest, bicubic and area
"""

import os
import pathlib
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
import numpy as np
import tensorflow as tf

SIZES = ((1, 1), (2, 3), (7, 5), (75, 400), (299, 299), (300, 298), (341, 257), (500, 375), (601, 900))
METHODS = ("bilinear", "nearest", "bicubic", "area")  # 0 to 3 for resize_images


def preprocess_for_eval(image, height, width, central_fraction=0.875):
    """That of slim, line by line."""
    image = tf.image.convert_image_dtype(image, dtype=tf.float32)
    image = tf.image.central_crop(image, central_fraction=central_fraction)
    image = tf.expand_dims(image, 0)
    image = tf.compat.v1.image.resize_bilinear(image, [height, width], align_corners=False)
    image = tf.squeeze(image, [0])
    image = tf.subtract(image, 0.5)
    return tf.multiply(image, 2.0)


def pictures():
    rng = np.random.default_rng(0)
    for height, width in SIZES:
        picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        name = f"{height}x{width}"
        yield f"{name}/picture", picture
        yield f"{name}/eval", preprocess_for_eval(picture, 299, 299).numpy()
        for number, method in enumerate(METHODS):
            floats = tf.image.convert_image_dtype(picture, tf.float32)
            yield f"{name}/{method}", tf.compat.v1.image.resize_images(floats, [75, 107], number).numpy()


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out / "pictures.npz", **dict(pictures()))


if __name__ == "__main__":
    main()
