"""Run torchvision's Inception V3, and the networks that other programs derive from it."""

from typing import Any

import numpy as np
import torch
import torchvision


def load_network(path: str, settings: dict[str, Any]) -> Any:
    """Load the network without `transform_input`, which converts from ImageNet's mean and std to [-1, 1]."""
    network = torchvision.models.inception_v3(
        weights=None,
        init_weights=False,
        transform_input=False,
        num_classes=settings["num_classes"],
        aux_logits=settings["create_aux_logits"],
    )
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
    return network


def run(path: str, images: np.ndarray, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    return run_network(load_network(path, settings), images, settings["create_aux_logits"])


def run_network(network: Any, images: np.ndarray, aux: bool) -> dict[str, np.ndarray]:
    """The logits and, with `aux`, the auxiliary logits, which torchvision's and timm's networks return in training."""
    network.eval()
    network.training = aux  # of the outermost module only: dropout and BatchNorm inside stay in evaluation mode
    with torch.inference_mode():
        outputs = network(torch.from_numpy(images))
    heads = outputs if aux else (outputs,)
    return {name: head.numpy() for name, head in zip(("Logits", "AuxLogits"), heads, strict=False)}
