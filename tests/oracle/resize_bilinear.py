"""Ask TensorFlow itself: ResizeBilinear of version 1 on images of many sizes.

Usage: resize_bilinear.py OUT; OUT/case.npz receives them.
"""

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf

SIZES = [(1, 1), (1, 7), (2, 2), (32, 32), (33, 500), (256, 256), (298, 300), (299, 299), (480, 640)]

rng = np.random.default_rng(15)
arrays = {}
for height, width in SIZES:
    image = rng.integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    arrays[f"{height}x{width}/image"] = image
    resized = tf.compat.v1.image.resize_bilinear(image, (299, 299), align_corners=False, half_pixel_centers=False)
    arrays[f"{height}x{width}/resized"] = resized.numpy()
np.savez(f"{sys.argv[1]}/case.npz", **arrays)
