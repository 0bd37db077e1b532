"""Run pytorch-fid's Inception V3."""

from importlib import import_module
from typing import Any

import numpy as np
import torch

from .run_torchvision import run_network


def run(path: str, images: np.ndarray, settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """Run the network that pytorch-fid's own function builds and loads, with `path` in place of its download."""
    inception: Any = import_module("pytorch_fid.inception")
    inception.load_state_dict_from_url = lambda *_, **__: torch.load(path, map_location="cpu", weights_only=True)
    return run_network(inception.fid_inception_v3(), images, aux=False)
