"""A network with random weights and synthetic images, for benchmarks without a trained network or photographs."""

import io
from typing import Any

import numpy as np
import torch
from PIL import Image

from inception_v3.images.find import ImageSource
from inception_v3.inference.engines.base import Pixels
from inception_v3.weights.model import InceptionV3

# The settings of torchvision's network, so that most other libraries can run the same network.
SETTINGS: dict[str, Any] = {"count_padding": True, "batch_norm_scale": True, "global_pool": True}


def synthetic_images(count: int, size: tuple[int, int], seed: int = 0) -> Pixels:
    """Draw images of soft colour patches of random size, contrast and brightness.

    `size` is (height, width). Returns pixels (count, height, width, 3).
    """
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        cells, contrast, base = rng.integers(2, 48), rng.uniform(0.2, 1), rng.uniform(0, 255, 3)
        coarse = base + contrast * (rng.uniform(0, 255, (cells, cells, 3)) - base)
        image = Image.fromarray(coarse.astype(np.uint8))
        images.append(np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC)))
    return np.stack(images)


def random_network(pixels: Pixels) -> InceptionV3:
    """Build a full-width network with random weights that behaves on `pixels` (N, H, W, 3) as if it were trained.

    Its BatchNorm statistics are those of the images, and its last layer spreads its predictions over the classes.
    The result is in evaluation mode and always the same for the same images.
    """
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = InceptionV3(**SETTINGS, batch_norm_decay=0.0, dropout_keep_prob=1.0, image_size=pixels.shape[1:3])
        for name, tensor in model.state_dict().items():
            if name.endswith("gamma"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("beta"):
                tensor.normal_(0, 0.1)
        images = model.preprocessing.scale(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        model.to(memory_format=torch.channels_last).train()
        _, end_points = model(images.contiguous(memory_format=torch.channels_last), ("AvgPool_1a",))
        features = end_points["AvgPool_1a"].flatten(1)
        classifier = model.get_submodule("Logits.Conv2d_1c_1x1")
        weights, biases = classifier.get_parameter("weights"), classifier.get_parameter("biases")
        weights.normal_()
        logits = (features - features.mean(0)) @ weights.flatten(1).T
        weights.mul_(3 / logits.std())
        biases.copy_(-(weights.flatten(1) @ features.mean(0)))
    return model.to(memory_format=torch.contiguous_format).eval()


def png_sources(pixels: Pixels) -> list[ImageSource]:
    """Encode images (N, H, W, 3) as PNG files in memory."""
    sources = []
    for number, image in enumerate(pixels):
        content = io.BytesIO()
        Image.fromarray(image).save(content, "PNG", compress_level=1)
        sources.append(ImageSource(f"synthetic image {number}", content.getvalue()))
    return sources
