"""Run networks of PyTorch programs."""

from typing import Any

import numpy as np


def run_network(network: Any, images: np.ndarray, aux: bool) -> dict[str, np.ndarray]:
    """The logits and, with `aux`, the auxiliary logits, which torchvision's and timm's networks return in training."""
    import torch

    network.eval()
    network.training = aux  # of the outermost module only: dropout and BatchNorm inside stay in evaluation mode
    with torch.inference_mode():
        outputs = network(torch.from_numpy(images))
    heads = outputs if aux else (outputs,)
    return {name: head.numpy() for name, head in zip(("Logits", "AuxLogits"), heads, strict=False)}
