#!/usr/bin/env python3
"""Record what TensorFlow makes of pictures, as models/research/slim/preprocessing/inception_preprocessing.py asks it.

    .oracle/bin/python tests/oracle/record_slim_preprocessing.py OUT

OUT/pictures.npz receives, for each size of SIZES (height x width, random pixels, uint8, HWC)

  HxW/picture
  HxW/eval           preprocess_for_eval at 299x299, in [-1, 1]
  HxW/METHOD         resize_images of the picture in [0, 1] to 75x107 by bilinear, nearest, bicubic and area

OUT/distortions.npz, what preprocess_for_train does

  boxes/HxW          1000 random boxes (top, left, height, width), as distorted_bounding_box_crop draws them
  picture            in [-0.1, 1.1], as brightness may leave it; float32, HWC
  saturation/F, hue/F, contrast/F    the picture changed by the factor or the angle F

OUT/imagenet, TFRecords as build_imagenet_data.py writes them: train-00000-of-00002 and -00001-, with labels 1 to 3
    (tench, goldfish, great white shark), and validation-00000-of-00001; OUT/imagenet_files the same pictures as
    train/CLASS/NUMBER.jpg and val/...
OUT/flowers, TFRecords as download_and_convert_flowers.py writes them: labels from 0, the names in labels.txt
"""

import os
import pathlib
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
import numpy as np
import tensorflow as tf

SIZES = ((1, 1), (2, 3), (7, 5), (75, 400), (299, 299), (300, 298), (341, 257), (500, 375), (601, 900))
BOX_SIZES = ((375, 500), (40, 20), (3, 2))
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


def distortions():
    box = tf.constant([0.0, 0.0, 1.0, 1.0], shape=[1, 1, 4])
    for height, width in BOX_SIZES:
        boxes = []
        for seed in range(1000):
            begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
                [height, width, 3],
                bounding_boxes=box,
                seed=(seed, 0),
                min_object_covered=0.1,
                aspect_ratio_range=(0.75, 1.33),
                area_range=(0.05, 1.0),
                max_attempts=100,
                use_image_if_no_bounding_boxes=True,
            )
            boxes.append([*begin.numpy()[:2], *size.numpy()[:2]])
        yield f"boxes/{height}x{width}", np.array(boxes)
    picture = np.random.default_rng(0).uniform(-0.1, 1.1, (40, 50, 3)).astype("float32")
    picture[0] = picture[0, :, :1]  # gray
    picture[1:3] = np.round(picture[1:3])  # equal channels
    picture[3, :, :] = -0.05
    yield "picture", picture
    for factor in (0.5, 0.9, 1.0, 1.5):
        yield f"saturation/{factor}", tf.image.adjust_saturation(picture, factor).numpy()
        yield f"contrast/{factor}", tf.image.adjust_contrast(picture, factor).numpy()
    for delta in (-0.2, -0.05, 0.0, 0.1, 0.2):
        yield f"hue/{delta}", tf.image.adjust_hue(picture, delta).numpy()


def feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value] if isinstance(value, int) else value))


def write_records(path, examples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for features in examples:
            example = tf.train.Features(feature={name: feature(value) for name, value in features.items()})
            writer.write(tf.train.Example(features=example).SerializeToString())


def data_sets(out):
    rng = np.random.default_rng(0)

    def jpeg():
        return tf.io.encode_jpeg(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8), quality=90).numpy()

    synsets = ("n01440764", "n01443537", "n01484850")
    texts = (
        "tench, Tinca tinca",
        "goldfish, Carassius auratus",
        "great white shark, white shark, man-eater, man-eating shark, Carcharodon carcharias",
    )
    number = 0
    for file, split, labels in (
        ("train-00000-of-00002", "train", (1, 2, 3, 2)),
        ("train-00001-of-00002", "train", (3, 1, 2)),
        ("validation-00000-of-00001", "val", (2, 3, 1)),
    ):
        examples = []
        for label in labels:
            encoded = jpeg()
            place = out / "imagenet_files" / split / texts[label - 1].split(",")[0] / f"{number}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(encoded)
            examples.append(
                {
                    "image/height": 20,
                    "image/width": 30,
                    "image/colorspace": b"RGB",
                    "image/channels": 3,
                    "image/class/label": label,
                    "image/class/synset": synsets[label - 1].encode(),
                    "image/class/text": texts[label - 1].encode(),
                    "image/object/bbox/label": [label, label],
                    "image/format": b"JPEG",
                    "image/filename": place.name.encode(),
                    "image/encoded": encoded,
                }
            )
            number += 1
        write_records(out / "imagenet" / file, examples)
    for file, labels in (
        ("flowers_train-00000-of-00001.tfrecord", (0, 1, 0, 1)),
        ("flowers_validation-00000-of-00001.tfrecord", (1, 0)),
    ):
        examples = [
            {
                "image/encoded": jpeg(),
                "image/format": b"jpg",
                "image/class/label": label,
                "image/height": 20,
                "image/width": 30,
            }
            for label in labels
        ]
        write_records(out / "flowers" / file, examples)
    (out / "flowers" / "labels.txt").write_text("0:daisy\n1:rose\n")


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    data_sets(out)
    np.savez_compressed(out / "pictures.npz", **dict(pictures()))
    np.savez_compressed(out / "distortions.npz", **dict(distortions()))


if __name__ == "__main__":
    main()
