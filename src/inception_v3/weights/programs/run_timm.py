"""Run timm's Inception V3."""

from importlib import import_module
from typing import Any

import numpy as np

from .run_torchvision import run_network


def load_network(path: str, settings: dict[str, Any]) -> Any:
    timm = import_module("timm")
    network = timm.create_model(
        "inception_v3",
        pretrained=False,
        num_classes=settings["num_classes"],
        aux_logits=settings["create_aux_logits"],
    )
    timm.models.load_checkpoint(network, path, strict=True)
    return network


def run(path: str, images: np.ndarray, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    return run_network(load_network(path, settings), images, settings["create_aux_logits"])
