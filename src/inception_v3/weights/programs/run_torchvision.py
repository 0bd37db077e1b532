"""Run torchvision's Inception V3."""

from typing import Any

import numpy as np

from .pytorch_network import run_network


def run(path: str, images: np.ndarray, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """`transform_input` is for images scaled by ImageNet's mean and std; these are in [-1, 1] already."""
    import torch
    import torchvision

    network = torchvision.models.inception_v3(
        weights=None,
        init_weights=False,
        transform_input=False,
        num_classes=settings["num_classes"],
        aux_logits=settings["create_aux_logits"],
    )
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
    return run_network(network, images, settings["create_aux_logits"])
